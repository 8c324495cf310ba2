//! Constraints: whatever the logits, what comes out parses; and a source that is none says so in one line.

use ferrowarp::sample::{Constraint, ConstraintVocabulary, DryBreakers, Mt19937, Sampler, SamplerOptions};
use proptest::prelude::*;
use serde_json::Value;

const SEEDS: u32 = 50;
/// Ends the text; its bytes must not matter.
const END: u32 = 256;
/// A control token without bytes.
const CONTROL: u32 = 257;

/// Every byte, two ways to end, a control token, and some longer tokens, one of them twice.
fn vocabulary() -> (Vec<Vec<u8>>, ConstraintVocabulary) {
    let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    tokens.push(b"<end>".to_vec());
    tokens.push(Vec::new());
    tokens.push(b"\"".to_vec());
    let longer = [r#"{""#, r#"":"#, r#"", ""#, "true", "false", "12", "é", "日本", "}]", "name", " ", "end of turn"];
    tokens.extend(longer.map(|text| text.as_bytes().to_vec()));
    let last = tokens.len() as u32 - 1;
    let vocabulary = ConstraintVocabulary::new(&tokens, &[END, last]).unwrap();
    (tokens, vocabulary)
}

/// Follows a constraint with random logits until an end token comes; the text.
fn random_text(constraint: &mut Constraint, tokens: &[Vec<u8>], seed: u32) -> Vec<u8> {
    // Flat enough that every allowed token comes up, whole enough that structure does not outgrow the step limit.
    let options = SamplerOptions { seed: Some(seed), top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerOptions::default() };
    let mut sampler = Sampler::new(options, tokens.len(), DryBreakers::default()).unwrap();
    let mut random = Mt19937::new(seed ^ 0x5eed);
    constraint.reset();
    let mut text = Vec::new();
    for _ in 0..5000 {
        let logits: Vec<f32> = tokens.iter().map(|_| 4.0 * random.uniform_f32()).collect();
        let mask = constraint.mask().unwrap();
        assert!(!mask.allows(CONTROL), "seed {seed}: a control token is allowed");
        let id = sampler.sample_allowed(&logits, &mask).unwrap().id;
        assert!(mask.allows(id), "seed {seed}: token {id}");
        sampler.accept(id);
        constraint.accept(id).unwrap();
        if constraint.is_finished() {
            return text;
        }
        text.extend(&tokens[id as usize]);
    }
    panic!("seed {seed}: no end after 5000 tokens: {}", String::from_utf8_lossy(&text));
}

#[test]
fn random_logits_give_json_of_the_schema() {
    let schema = r##"{
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 130},
            "tags": {"type": "array", "items": {"enum": ["red", "grün", "blue \"sky\""]}, "maxItems": 3},
            "odds": {"type": "number", "minimum": -2.5, "maximum": 1e6},
            "next": {"$ref": "#/$defs/link"}
        },
        "required": ["name", "age"],
        "additionalProperties": false,
        "$defs": {"link": {"type": "object", "properties": {"next": {"$ref": "#/$defs/link"}, "on": {"type": "boolean"}},
            "required": ["on"], "additionalProperties": false}}
    }"##;
    let (tokens, vocabulary) = vocabulary();
    let mut constraint = Constraint::from_json_schema("person.json", schema, &vocabulary).unwrap();
    let mut with_next = 0;
    for seed in 0..SEEDS {
        let text = random_text(&mut constraint, &tokens, seed);
        let shown = String::from_utf8_lossy(&text);
        let value: Value = serde_json::from_slice(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}: {shown}"));
        let fields = value.as_object().unwrap();
        assert!(fields["name"].as_str().unwrap().chars().count() <= 12, "seed {seed}: {shown}");
        assert!((0..=130).contains(&fields["age"].as_i64().unwrap()), "seed {seed}: {shown}");
        for (key, value) in fields {
            match key.as_str() {
                "name" | "age" => {}
                "tags" => {
                    let tags = value.as_array().unwrap();
                    assert!(tags.len() <= 3, "seed {seed}: {shown}");
                    for tag in tags {
                        assert!(
                            ["red", "grün", "blue \"sky\""].contains(&tag.as_str().unwrap()),
                            "seed {seed}: {shown}"
                        );
                    }
                }
                "odds" => assert!((-2.5..=1e6).contains(&value.as_f64().unwrap()), "seed {seed}: {shown}"),
                "next" => {
                    with_next += 1;
                    let mut link = Some(value);
                    while let Some(fields) = link.map(|link| link.as_object().unwrap()) {
                        assert!(fields["on"].is_boolean(), "seed {seed}: {shown}");
                        assert!(fields.keys().all(|key| key == "on" || key == "next"), "seed {seed}: {shown}");
                        link = fields.get("next");
                    }
                }
                other => panic!("seed {seed}: {other} in {shown}"),
            }
        }
    }
    assert!(with_next > 0, "no text in {SEEDS} had the optional recursive part");
}

/// Accepts `text` byte by byte, if the masks allow it, and says whether it may end there.
fn matches(constraint: &mut Constraint, text: &str) -> bool {
    constraint.reset();
    for byte in text.bytes() {
        if !constraint.mask().unwrap().allows(u32::from(byte)) {
            return false;
        }
        constraint.accept(u32::from(byte)).unwrap();
    }
    let end = constraint.mask().unwrap().allows(END);
    assert_eq!(constraint.can_end().unwrap(), end);
    end
}

/// `a` texts of the grammar and `b` texts that are not.
fn check_grammar(name: &str, grammar: &str, a: &[&str], b: &[&str]) {
    let (tokens, vocabulary) = vocabulary();
    let mut constraint = Constraint::from_grammar(name, grammar, &vocabulary).unwrap();
    for text in a {
        assert!(matches(&mut constraint, text), "{name}: {text:?} should match");
    }
    for text in b {
        assert!(!matches(&mut constraint, text), "{name}: {text:?} should not match");
    }
    for seed in 0..SEEDS {
        let text = String::from_utf8(random_text(&mut constraint, &tokens, seed)).unwrap();
        assert!(matches(&mut constraint, &text), "{name}, seed {seed}: {text:?}");
    }
}

#[test]
fn gbnf_means_what_it_says() {
    // A keyword beside a class that begins like it: a lexer of longest matches would lose `tree`.
    let words = "root ::= (\"true\" | [a-z]+) \"!\"\n";
    check_grammar("words.gbnf", words, &["true!", "tree!", "trues!", "t!"], &["!", "true", "T!", "true!!"]);
    let sums = "# sums with nesting\nroot ::= sum\nsum  ::= term (\" \"? [+-] \" \"? term){0,3}\n\
                term ::= [0-9]{1,2} | \"(\" sum \")\"\n";
    check_grammar("sums.gbnf", sums, &["1", "12+3", "(1 - 2)+((3))"], &["", "123", "1+", "(1", "1  + 2"]);
    let nested = "root ::= (\"true\" | ([a-z]{1,2})+ | \"(\" root{0,2} \")\") \"!\"\n";
    check_grammar(
        "nested.gbnf",
        nested,
        &["true!", "tree!", "(t!)!", "()!", "(a!(b!)!)!"],
        &["true", "(a!b!c!)!", "!"],
    );
    let text = "root ::= [^\\n\"]{0,3} \"\\u00e9\\x21\" .? \"\"\n";
    check_grammar("text.gbnf", text, &["é!", "日本語é!\n", "ééé!", "a/é!/"], &["", "é", "\né!", "abcdé!"]);
    let deep = format!("root ::= {}\"x\" root?{}\n", "(\"a\"? | ".repeat(40), ")".repeat(40));
    check_grammar("deep.gbnf", &deep, &["x", "xx", "a", "xa", ""], &["b", "xb", "aa"]);
    let empty = "root ::= \"\" | \"ab\"* [0-9]?\n";
    check_grammar("empty.gbnf", empty, &["", "ab", "abab7", "3"], &["a", "33", "aba"]);
    let left = "root ::= root \",\" \"x\" |\n  \"x\"\n";
    check_grammar("left.gbnf", left, &["x", "x,x,x"], &["", "x,", ",x"]);
}

#[test]
fn lark_is_read_as_it_is() {
    let lark = "start: greeting (\", \" NAME)? \"!\"\ngreeting: \"hello\" | \"good day\"\nNAME: /[A-Z][a-z]{0,8}/\n";
    check_grammar("hello.lark", lark, &["hello!", "good day, Ada!"], &["hello", "hello, ada!", "Hello!"]);
}

#[test]
fn bad_sources_name_the_file_and_the_fault() {
    let (_, vocabulary) = vocabulary();
    let schema = |text: &str| Constraint::from_json_schema("s.json", text, &vocabulary).err().unwrap().to_string();
    assert_eq!(
        schema("{\"type\": }"),
        "s.json: not a usable JSON schema: not JSON: expected value at line 1 column 10"
    );
    assert!(schema("7").ends_with("a schema is a JSON object, true or false; this is a number"));
    for (text, part) in [
        (r#"{"type": "strnig"}"#, "strnig"),
        (r#"{"type": "string", "minLength": "long"}"#, "minLength"),
        (r##"{"$ref": "#/$defs/nowhere"}"##, "nowhere"),
        (r#"{"type": "integer", "minimum": 5, "maximum": 3}"#, "5"),
        ("false", "nsatisfiable"),
        (r#"{"type": "string", "pattern": "("}"#, "unclosed group"),
    ] {
        let error = schema(text);
        assert!(error.starts_with("s.json: not a usable JSON schema: "), "{error}");
        assert!(error.contains(part) && !error.contains('\n'), "{text}: {error}");
    }

    let grammar = |text: &str| Constraint::from_grammar("g", text, &vocabulary).err().unwrap().to_string();
    assert_eq!(
        grammar("root ::= word"),
        "g: not a usable GBNF grammar: line 1, column 10: there is no rule named word"
    );
    for text in ["", "start: \"a", "start: undefined_rule", "a: \"b\"", "start: /(/", "\u{0}"] {
        let error = grammar(text);
        assert!(error.starts_with("g: not a usable Lark grammar: ") && !error.contains('\n'), "{text:?}: {error}");
    }
}

/// A GBNF expression without recursion.
fn any_expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "\"[ab]{1,3}\"",
        Just("[a-c]".to_owned()),
        // Few characters, so that a repetition comes to its end.
        Just(r"[^\x00-bd-\U0010FFFF]".to_owned()),
        Just("\"é\"".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            3 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| format!("({})", parts.join(" "))),
            2 => proptest::collection::vec(inner.clone(), 1..4).prop_map(|parts| format!("({})", parts.join(" | "))),
            2 => (inner, prop_oneof![Just("?"), Just("*"), Just("+"), Just("{2}"), Just("{1,3}")])
                .prop_map(|(part, often)| format!("({part}){often}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// An alternative that calls the rule itself forces the translation character by character. What one translation
    /// writes, the other reads.
    #[test]
    fn both_translations_of_gbnf_mean_the_same(expression in any_expression(), seed in any::<u32>()) {
        let (tokens, vocabulary) = vocabulary();
        let make = |grammar: &str| Constraint::from_grammar("g", grammar, &vocabulary).unwrap();
        let mut as_regex = make(&format!("root ::= {expression}\n"));
        let mut by_character = make(&format!("root ::= {expression} | \"!!\" root\n"));
        let text = String::from_utf8(random_text(&mut as_regex, &tokens, seed)).unwrap();
        prop_assert!(matches(&mut by_character, &text), "{:?} by character", text);
        let text = String::from_utf8(random_text(&mut by_character, &tokens, seed)).unwrap();
        let mut rest = text.as_str();
        while !matches(&mut as_regex, rest) {
            let shorter = rest.strip_prefix("!!");
            prop_assert!(shorter.is_some(), "{:?} of {:?} as a regular expression", rest, text);
            rest = shorter.unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Grammar-like text either is a grammar, whose first mask can be computed, or gives one line of error.
    #[test]
    fn no_text_panics(
        rules in proptest::collection::vec(
            "(a|root) ?::= ?(a|root|\\(|\\)|\\||\\.|[*+?]|\"[x-z]{0,2}\"|\\[\\^?[x-z]-?[x-z]\\]|\\{[0-3],?[0-3]?\\}| |\n|\\\\|[\"'#<]){0,9}",
            1..4,
        ),
        schema in "\\{(\"(type|enum|items|minLength|\\$ref|anyOf)\": ?(\"(string|object|#|x)\"|[0-9-]|\\[\\]|null|\\{\\}),?){0,3}\\}",
    ) {
        let (_, vocabulary) = vocabulary();
        let grammar = rules.join("\n");
        for made in [
            Constraint::from_grammar("g", &grammar, &vocabulary),
            Constraint::from_grammar("g", &grammar.replace("::=", ":"), &vocabulary),
            Constraint::from_json_schema("g", &schema, &vocabulary),
        ] {
            match made {
                Ok(mut constraint) => match constraint.mask() {
                    Ok(mask) => prop_assert!(mask.count() > 0, "{}", grammar),
                    Err(error) => prop_assert!(error.to_string().starts_with("g: the "), "{}", error),
                },
                Err(error) => {
                    let error = error.to_string();
                    prop_assert!(error.starts_with("g: not a usable ") && !error.contains('\n'), "{}", error);
                    prop_assert!(!error.contains("panic"), "{}: {}", grammar, error);
                }
            }
        }
    }
}

#[test]
fn vocabulary_must_be_able_to_end() {
    let tokens = [b"a".to_vec()];
    let error = |ends: &[u32]| ConstraintVocabulary::new(&tokens, ends).err().unwrap().to_string();
    assert_eq!(error(&[]), "the vocabulary cannot be used with a grammar: it has no end-of-generation token");
    assert!(error(&[0, 5]).ends_with("end-of-generation token 5 is not among its 1 tokens"));
}

#[test]
fn a_token_out_of_turn_is_an_error() {
    let (_, vocabulary) = vocabulary();
    let mut constraint = Constraint::from_grammar("ab.gbnf", "root ::= \"ab\"", &vocabulary).unwrap();
    let error = constraint.accept(END).unwrap_err().to_string();
    assert!(error.starts_with("ab.gbnf: the GBNF grammar cannot be followed any further: token 256 ends"), "{error}");
    let error = constraint.accept(u32::from(b'b')).unwrap_err().to_string();
    assert!(error.starts_with("ab.gbnf: the GBNF grammar cannot be followed any further: "), "{error}");
    // Errors last until a reset.
    assert!(constraint.mask().is_err() && constraint.can_end().is_err());
    constraint.reset();
    assert!(matches(&mut constraint, "ab"));
    // Complete: nothing but the ends may follow, and they do not fall together with the text of one.
    assert_eq!(constraint.mask().unwrap().count(), 2);
    assert!(constraint.accept(u32::from(b'c')).is_err());
}

/// What leads too deep, in each notation: a message, and no end of the stack.
#[test]
fn nesting_has_a_limit() {
    let (_, vocabulary) = vocabulary();
    let rules = |n: usize, first: &str, rule: &dyn Fn(usize) -> String, last: String| {
        format!("{first}\n{}{last}\n", (0..n).map(|i| rule(i) + "\n").collect::<String>())
    };
    let gbnf = |n: usize| rules(n, "root ::= r0", &|i| format!("r{i} ::= r{}", i + 1), format!("r{n} ::= \"z\""));
    let looping = |n: usize| {
        rules(n, "root ::= r0 root | \"x\"", &|i| format!("r{i} ::= \"a\" r{} \"b\"", i + 1), format!("r{n} ::= \"z\""))
    };
    let circle =
        |n: usize| rules(n, "root ::= r0", &|i| format!("r{i} ::= r{} | \"y\"", i + 1), format!("r{n} ::= root"));
    let lark = |n: usize| rules(n, "start: r0", &|i| format!("r{i}: r{}", i + 1), format!("r{n}: \"z\""));
    let terminals = |n: usize| rules(n, "start: T0", &|i| format!("T{i}: \"a\" T{}", i + 1), format!("T{n}: \"z\""));
    let groups = |n: usize| format!("start: {}\"a\"{}\n", "(".repeat(n), ")".repeat(n));
    let expression = |n: usize| format!("start: /{}a{}/\n", "(".repeat(n), ")".repeat(n));
    let notations: [&dyn Fn(usize) -> String; 7] = [&gbnf, &looping, &circle, &lark, &terminals, &groups, &expression];
    for (index, source) in notations.iter().enumerate() {
        for n in [5_000, 100_000] {
            let error =
                Constraint::from_grammar("deep.txt", &source(n), &vocabulary).err().expect("a limit").to_string();
            assert!(error.contains("deep.txt") && error.contains("at most 4000"), "{index}: {error}");
        }
    }
    // What stays below leads nowhere near the end of the stack.
    for source in [gbnf(3_900), looping(1_900), circle(1_900), lark(3_900), terminals(1_000)] {
        Constraint::from_grammar("deep.txt", &source, &vocabulary).map(drop).unwrap();
    }

    let schema = |n: usize, definition: &dyn Fn(Value) -> Value| {
        let definitions: serde_json::Map<String, Value> = (0..n)
            .map(|i| (format!("d{i}"), definition(serde_json::json!({"$ref": format!("#/$defs/d{}", i + 1)}))))
            .chain([(format!("d{n}"), serde_json::json!({"type": "string"}))])
            .collect();
        serde_json::json!({"$ref": "#/$defs/d0", "$defs": definitions}).to_string()
    };
    let definitions: [&dyn Fn(Value) -> Value; 4] = [
        &|next| next,
        &|next| serde_json::json!({"allOf": [next, {"type": "string"}]}),
        &|next| serde_json::json!({"type": "object", "properties": {"a": next}, "required": ["a"]}),
        &|next| serde_json::json!({"anyOf": [{"type": "null"}, {"type": "array", "items": next}]}),
    ];
    for definition in definitions {
        let error = Constraint::from_json_schema("deep.json", &schema(5_000, definition), &vocabulary).err();
        let error = error.expect("a limit").to_string();
        assert!(error.contains("deep.json") && error.contains("at most 4000"), "{error}");
        Constraint::from_json_schema("deep.json", &schema(900, definition), &vocabulary).map(drop).unwrap();
    }
    let inside = format!("start: %json {}\n", schema(5_000, definitions[1]));
    assert!(Constraint::from_grammar("deep.lark", &inside, &vocabulary).is_err());
    let nested = format!("{}{{}}{}", "{\"allOf\":[".repeat(5_000), "]}".repeat(5_000));
    let error = Constraint::from_json_schema("deep.json", &nested, &vocabulary).err().expect("a limit").to_string();
    assert!(error.contains("recursion limit"), "{error}");
}

/// Many words, as a list of names has them.
#[test]
fn thousands_of_alternatives_are_followed() {
    let words: Vec<String> = (0..20_000).map(|i| format!("\"w{i}\"")).collect();
    let (_, vocabulary) = vocabulary();
    for source in [format!("root ::= {}\n", words.join(" | ")), format!("start: {}\n", words.join(" | "))] {
        let mut constraint = Constraint::from_grammar("words.txt", &source, &vocabulary).unwrap();
        assert!(matches(&mut constraint, "w19999"));
        assert!(!matches(&mut constraint, "w20000"));
    }
}

/// The engine's inside stays inside.
#[test]
fn errors_are_in_words_of_ours() {
    let (_, vocabulary) = vocabulary();
    let grammars = [
        format!("root ::= \"{}\"\n", "a-".repeat(100_000)),
        "root ::= root\n".to_owned(),
        "root ::= a\na ::= b\nb ::= a\n".to_owned(),
        format!("start: {}\"a\"{}\n", "(".repeat(300), ")".repeat(300)),
        format!("start: /{}a{}/\n", "(".repeat(300), ")".repeat(300)),
    ];
    let schemas =
        [r##"{"allOf": [{"$ref": "#"}]}"##, r##"{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}"##];
    let constraints = grammars.iter().map(|text| Constraint::from_grammar("g.txt", text, &vocabulary));
    for constraint in constraints.chain(schemas.map(|text| Constraint::from_json_schema("g.txt", text, &vocabulary))) {
        let error = constraint.and_then(|mut constraint| constraint.mask().map(drop)).unwrap_err().to_string();
        for inside in ["panic", "assert", "NoExtension", "Error", "symbols.len"] {
            assert!(!error.contains(inside), "{error}");
        }
        assert!(error.starts_with("g.txt: ") && error.lines().count() == 1 && error.len() < 500, "{error}");
    }
}
