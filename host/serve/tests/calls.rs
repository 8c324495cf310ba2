//! What a call may be: every form that models write calls in, with tools whose names and arguments are alike.

use std::collections::BTreeSet;

use super::{random::Random, *};
use crate::{
    sample::{Constraint, ConstraintVocabulary},
    serve::tools::{Begins, Calls, Choice, Delta, Dialect, Grammar, Splitter, Tool, Tools, Triggers},
};

/// Control tokens of all forms.
const CONTROL: [&str; 12] = [
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<|start|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
    "<|python_tag|>",
];

/// Tokens of several bytes, some of which go past the beginning of a call.
const WORDS: [&str; 18] = [
    ">\n",
    ">{\"",
    "]f",
    "{\"",
    "{\"name\":\"",
    "\":\"",
    "\": \"",
    "\", \"",
    "}}",
    "name",
    "f2",
    "functions",
    ".f",
    "arguments",
    "parameters",
    "json",
    "commentary",
    "\n\n",
];

const FORMS: [Calls; 5] = [Calls::Hermes, Calls::Llama, Calls::Mistral, Calls::MistralArgs, Calls::Harmony];

/// A vocabulary of all bytes, the words, an end, and behind it control tokens, or their texts as further words.
struct Vocabulary {
    tokens: Vec<Vec<u8>>,
    end: u32,
    has_control: bool,
    constraints: ConstraintVocabulary,
}

impl Vocabulary {
    fn new(has_control: bool) -> Vocabulary {
        let mut tokens: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
        tokens.extend(WORDS.map(|word| word.as_bytes().to_vec()));
        let end = tokens.len() as u32;
        tokens.push(Vec::new());
        tokens.extend(CONTROL.map(|text| text.as_bytes().to_vec()));
        let shown = |(id, token): (usize, &Vec<u8>)| {
            let is_control = has_control && id > end as usize;
            if is_control { Vec::new() } else { token.clone() }
        };
        let words: Vec<Vec<u8>> = tokens.iter().enumerate().map(shown).collect();
        let constraints = ConstraintVocabulary::new(&words, &[end]).unwrap();
        Vocabulary { tokens, end, has_control, constraints }
    }

    fn control(&self, text: &str) -> Option<u32> {
        let at = CONTROL.iter().position(|known| *known == text).filter(|_| self.has_control)?;
        Some(self.end + 1 + at as u32)
    }

    fn constraint(&self, Grammar { rules, schemas }: &Grammar) -> Constraint {
        Constraint::from_rules("tools", rules, schemas, &self.constraints).unwrap_or_else(|e| panic!("{e}\n{rules}"))
    }

    /// The tokens of a text: control tokens, and bytes.
    fn ids(&self, mut text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        while let Some(byte) = text.bytes().next() {
            match CONTROL.iter().find(|tag| self.has_control && text.starts_with(**tag)) {
                Some(tag) => {
                    ids.extend(self.control(tag));
                    text = &text[tag.len()..];
                }
                None => {
                    ids.push(u32::from(byte));
                    text = &text[1..];
                }
            }
        }
        ids
    }

    /// Whether the constraint lets a text by, and may end behind it.
    fn takes(&self, constraint: &Constraint, text: &str) -> bool {
        let mut constraint = constraint.again();
        self.ids(text).into_iter().all(|id| constraint.mask().unwrap().allows(id) && constraint.accept(id).is_ok())
            && constraint.can_end().unwrap()
    }
}

/// Tools, one's name the beginning of another's, each with arguments that no other takes.
fn tools(choice: Choice, are_parallel: bool) -> Tools {
    let tool = |name: &str, key: &str, schema: Value| Tool {
        name: name.to_owned(),
        description: None,
        parameters: json!({ "type": "object", "properties": { key: schema }, "required": [key] }),
    };
    let all = vec![
        tool("f", "a", json!({ "enum": [1, 12, { "x": ["}"] }] })),
        tool("f2", "b", json!({ "type": "boolean" })),
        tool("get.rain/now", "place", json!({ "enum": ["Kyoto", "a \"}\\", "é{"] })),
    ];
    Tools::new(all, Some(choice), are_parallel).unwrap()
}

/// The arguments are this tool's.
fn check(name: &str, arguments: &str) {
    let value: Value = serde_json::from_str(arguments).unwrap_or_else(|error| panic!("{name} {arguments}: {error}"));
    let fields = value.as_object().unwrap();
    let fits = fields.len() == 1
        && match name {
            "f" => fields["a"] == 1 || fields["a"] == 12 || fields["a"] == json!({ "x": ["}"] }),
            "f2" => fields["b"].is_boolean(),
            "get.rain/now" => ["Kyoto", "a \"}\\", "é{"].iter().any(|place| fields["place"] == *place),
            _ => false,
        };
    assert!(fits, "{name} {arguments}");
}

fn dialect(calls: Calls) -> Dialect {
    Dialect { calls, knows_tools: true, thinks: false }
}

/// What a splitter makes of a text in these pieces, parts of one thing joined.
fn split(calls: Calls, begun: &str, pieces: &[&str]) -> Vec<Delta> {
    let mut splitter = Splitter::new(dialect(calls), tools(Choice::Auto, true).names());
    assert_eq!(splitter.push(begun), []);
    let mut deltas = Vec::new();
    pieces.iter().for_each(|piece| deltas.extend(splitter.push(piece)));
    deltas.extend(splitter.finish());
    super::tools::merged(deltas)
}

/// The text in pieces, cut at these places.
fn pieces<'a>(text: &'a str, cuts: &BTreeSet<usize>) -> Vec<&'a str> {
    let mut at = 0;
    let ends = cuts.iter().copied().chain([text.len()]);
    ends.map(|end| &text[std::mem::replace(&mut at, end)..end]).collect()
}

/// The text's parts, which are the same however it is cut.
fn split_anyhow(calls: Calls, begun: &str, text: &str, random: &mut Random) -> Vec<Delta> {
    let whole = split(calls, begun, &[text]);
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).filter(|at| *at > 0).collect();
    let mut cuts: Vec<BTreeSet<usize>> = places.iter().map(|at| BTreeSet::from([*at])).collect();
    cuts.push(places.iter().copied().collect());
    for n in [2, 5, 20] {
        cuts.push((0..n).filter_map(|_| places.get(random.below(places.len().max(1))).copied()).collect());
    }
    for cuts in &cuts {
        assert_eq!(split(calls, begun, &pieces(text, cuts)), whole, "{calls:?} {text:?} cut at {cuts:?}");
    }
    whole
}

/// The calls among an answer's parts.
fn calls_of(deltas: &[Delta]) -> Vec<(String, String)> {
    let mut calls: Vec<(String, String)> = Vec::new();
    for delta in deltas {
        match delta {
            Delta::Call(name) => calls.push((name.clone(), String::new())),
            Delta::Arguments(text) => calls.last_mut().unwrap().1 += text,
            Delta::Content(_) | Delta::Reasoning(_) => {}
        }
    }
    calls
}

#[test]
fn a_name_stands_with_its_own_arguments_and_no_other() {
    // A call of each form, behind the prompt's part of it.
    let one = |calls: Calls, name: &str, arguments: &str| match calls {
        Calls::Hermes => format!("{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>"),
        Calls::Llama => format!("{{\"name\": \"{name}\", \"parameters\": {arguments}}}"),
        Calls::Mistral => format!("[{{\"name\": \"{name}\", \"arguments\": {arguments}}}]"),
        Calls::MistralArgs => format!("{name}[ARGS]{arguments}"),
        Calls::Harmony => format!(" to=functions.{name} <|constrain|>json<|message|>{arguments}"),
    };
    let join = |calls: Calls, a: &str, b: &str| match calls {
        Calls::Hermes => Some(format!("{a}\n<tool_call>\n{b}")),
        Calls::Llama => Some(format!("{a}; {b}")),
        Calls::Mistral => Some(format!("{}, {}", a.strip_suffix(']').unwrap(), b.strip_prefix('[').unwrap())),
        Calls::MistralArgs => Some(format!("{a}[TOOL_CALLS]{b}")),
        Calls::Harmony => None,
    };
    let right = [("f", "{\"a\": 12}"), ("f2", "{\"b\": true}"), ("get.rain/now", "{\"place\": \"Kyoto\"}")];
    for vocabulary in [Vocabulary::new(false), Vocabulary::new(true)] {
        for calls in FORMS {
            let of = |tools: Tools| {
                let grammar = tools.grammar(dialect(calls), Begins::Opened, None, &|text| vocabulary.control(text));
                vocabulary.constraint(&grammar)
            };
            let any = of(tools(Choice::Required, true));
            let single = of(tools(Choice::Required, false));
            for (index, (name, arguments)) in right.into_iter().enumerate() {
                let call = one(calls, name, arguments);
                assert!(vocabulary.takes(&any, &call) && vocabulary.takes(&single, &call), "{calls:?} {call}");
                let named = of(tools(Choice::Named(name.to_owned()), true));
                for (other, (wrong, foreign)) in right.into_iter().enumerate() {
                    let crossed = one(calls, name, foreign);
                    assert_eq!(vocabulary.takes(&any, &crossed), index == other, "{calls:?} {crossed}");
                    let call = one(calls, wrong, foreign);
                    assert_eq!(vocabulary.takes(&named, &call), index == other, "{calls:?} {call}");
                    // Another may follow where several are allowed and none is named.
                    if let Some(two) = join(calls, &one(calls, name, arguments), &call) {
                        assert!(vocabulary.takes(&any, &two), "{calls:?} {two}");
                        assert!(!vocabulary.takes(&single, &two) && !vocabulary.takes(&named, &two), "{calls:?} {two}");
                    }
                }
                for unknown in ["", "g", "f3", "f2x", "get.rain", "F"] {
                    let call = one(calls, unknown, arguments);
                    assert!(!vocabulary.takes(&any, &call), "{calls:?} {call}");
                }
            }
            for text in ["", "Hello", "{}", "<|message|>"] {
                assert!(!vocabulary.takes(&any, text), "{calls:?} {text}");
            }
        }
    }
}

/// What a model without a thought writes under a constraint, to the end that it allows.
fn drawn(constraint: &mut Constraint, vocabulary: &Vocabulary, random: &mut Random) -> String {
    let mut bytes = Vec::new();
    for _ in 0..5000 {
        let mask = constraint.mask().unwrap();
        let allowed: Vec<u32> = (0..vocabulary.tokens.len() as u32).filter(|id| mask.allows(*id)).collect();
        assert!(!allowed.is_empty(), "{}", String::from_utf8_lossy(&bytes));
        let id = if mask.allows(vocabulary.end) && random.below(2) == 0 {
            vocabulary.end
        } else {
            allowed[random.below(allowed.len())]
        };
        constraint.accept(id).unwrap();
        if id == vocabulary.end {
            return String::from_utf8(bytes).unwrap();
        }
        bytes.extend_from_slice(&vocabulary.tokens[id as usize]);
    }
    panic!("no end: {}", String::from_utf8_lossy(&bytes));
}

#[test]
fn whatever_is_drawn_is_calls_of_these_tools() {
    let mut random = Random::new();
    for has_control in [false, true] {
        let vocabulary = Vocabulary::new(has_control);
        let control = |text: &str| vocabulary.control(text);
        for calls in FORMS {
            let mut names = BTreeSet::new();
            let mut most = 0;
            for (choice, are_parallel) in
                [(Choice::Required, true), (Choice::Required, false), (Choice::Named("f2".to_owned()), true)]
            {
                let tools = tools(choice.clone(), are_parallel);
                let begun = tools.opening(dialect(calls), &crate::api::Format::Free).unwrap();
                let mut constraint =
                    vocabulary.constraint(&tools.grammar(dialect(calls), Begins::Opened, None, &control));
                let goes_on = choice == Choice::Required && are_parallel && calls != Calls::Harmony;
                // Twenty answers, and as many more as it takes until one has several calls, where that may be: an answer that may end does half of the
                // time, and in some forms blanks may come before the next call, so perhaps one of six goes on; none of 400 does once in 10³⁰.
                for answer in 0..400 {
                    if answer >= 20 && (most > 1 || !goes_on) {
                        break;
                    }
                    constraint.reset();
                    let text = drawn(&mut constraint, &vocabulary, &mut random);
                    let deltas = split_anyhow(calls, begun, &text, &mut random);
                    let found = calls_of(&deltas);
                    assert!(
                        !found.is_empty() && deltas.iter().all(|delta| !matches!(delta, Delta::Content(_))),
                        "{calls:?} {text:?}: {deltas:?}"
                    );
                    found.iter().for_each(|(name, arguments)| check(name, arguments));
                    assert!(found.len() == 1 || (are_parallel && choice == Choice::Required), "{calls:?} {text:?}");
                    if choice == Choice::Required {
                        most = most.max(found.len());
                        names.extend(found.into_iter().map(|(name, _)| name));
                    } else {
                        assert_eq!(found[0].0, "f2");
                    }
                }
            }
            // Sixty times at least one of three: a tool is missing less often than once in 10⁹.
            assert_eq!(names.len(), 3, "{calls:?}");
            assert_eq!(most > 1, calls != Calls::Harmony, "{calls:?}");
        }
    }
}

/// What an answer becomes whose model writes these tokens where it is free, and anything at all where a call is to follow.
fn answered(
    triggers: &Triggers,
    begun: &str,
    free: &[&str],
    vocabulary: &Vocabulary,
    random: &mut Random,
) -> (String, bool) {
    let mut trigger = triggers.watch(begun);
    let mut text = String::new();
    for token in free {
        text += token;
        let Some(mut part) = trigger(&text) else { continue };
        if !part.constraint.accept_text(&text[part.at..]) {
            continue;
        }
        while !part.constraint.is_at_end().unwrap() {
            let mask = part.constraint.mask().unwrap();
            let allowed: Vec<u32> = (0..vocabulary.tokens.len() as u32).filter(|id| mask.allows(*id)).collect();
            // Not the end, as long as anything else is there.
            let allowed: Vec<u32> = allowed.into_iter().filter(|id| *id != vocabulary.end).collect();
            let id = allowed[random.below(allowed.len())];
            part.constraint.accept(id).unwrap();
            let bytes = &vocabulary.tokens[id as usize];
            // Characters of several bytes come whole by a constraint of whole characters; here a byte is a token.
            text.extend(bytes.iter().map(|byte| char::from(*byte)));
        }
        if part.is_last {
            return (text, true);
        }
    }
    (text, false)
}

#[test]
fn where_a_model_begins_a_call_its_name_and_arguments_are_held_to_their_tool() {
    let mut random = Random::new();
    // Only what is ASCII, since tokens are bytes here.
    let schema = |key: &str, schema: Value| json!({ "properties": { key: schema }, "required": [key] });
    let tool = |name: &str, parameters: Value| Tool { name: name.to_owned(), description: None, parameters };
    let all = vec![
        tool("f", schema("a", json!({ "enum": [1, 12] }))),
        tool("f2", schema("b", json!({ "type": "boolean" }))),
        tool("get.rain/now", schema("place", json!({ "enum": ["Kyoto", "a \"}\\"] }))),
    ];
    // What is said, how many calls follow, and what is said besides.
    let cases: [(Calls, &[&str], usize, &str); 15] = [
        (Calls::Hermes, &["So: ", "<tool_call>"], 1, "So:"),
        (Calls::Hermes, &["<tool_call>", "\n", "<tool_call>"], 2, ""),
        (Calls::Hermes, &["<tool_call", ">{\""], 1, ""),
        (Calls::Hermes, &["<tool_call", ">\n"], 1, ""),
        (Calls::Hermes, &["<tool_call", "x> {"], 0, "<tool_callx> {"),
        (Calls::Llama, &["{\"", "name", "\":\""], 1, ""),
        (Calls::Llama, &[" {", "\"name\"", ";", " {\"name", "\": \""], 2, ""),
        (Calls::Llama, &["{\"type\": \"function\", \"", "name", "\":"], 1, ""),
        (Calls::Llama, &["{\"", "a", "\": 1}"], 0, "{\"a\": 1}"),
        (Calls::Mistral, &["Well. ", "[TOOL_CALLS]"], 1, "Well."),
        (Calls::MistralArgs, &["[TOOL_CALLS]", "[TOOL_CALLS]"], 2, ""),
        (
            Calls::Harmony,
            &[
                "<|channel|>",
                "analysis",
                "<|message|>",
                "Hm to=x",
                "<|end|>",
                "<|start|>",
                "assistant",
                "<|channel|>",
                "commentary",
                " to=",
            ],
            1,
            "",
        ),
        (
            Calls::Harmony,
            &["<|channel|>", "commentary", " to=", "<|call|>", "<|start|>", "assistant to=functions", ".f"],
            2,
            "",
        ),
        (Calls::Harmony, &[" to", "=functions"], 1, ""),
        (Calls::Harmony, &["<|channel|>", "final", "<|message|>", "go to=functions", "."], 0, "go to=functions."),
    ];
    for has_control in [false, true] {
        let vocabulary = Vocabulary::new(has_control);
        for (calls, free, n, said) in cases {
            for are_parallel in [true, false] {
                let tools = Tools::new(all.clone(), Some(Choice::Auto), are_parallel).unwrap();
                let triggers =
                    Triggers::new(&tools, dialect(calls), &vocabulary.constraints, &|text| vocabulary.control(text));
                let triggers = triggers.unwrap();
                for _ in 0..10 {
                    let (text, ended) = answered(&triggers, "", free, &vocabulary, &mut random);
                    let deltas = split_anyhow(calls, "", &text, &mut random);
                    let found = calls_of(&deltas);
                    found.iter().for_each(|(name, arguments)| check(name, arguments));
                    let content: String = deltas
                        .iter()
                        .filter_map(|delta| if let Delta::Content(text) = delta { Some(text.as_str()) } else { None })
                        .collect();
                    let wanted = if are_parallel { n } else { n.min(1) };
                    // A list is one part of the text, and has as many calls as it likes.
                    let enough =
                        if calls == Calls::Mistral && are_parallel { found.len() >= n } else { found.len() == wanted };
                    assert!(enough && ended == (!are_parallel && n > 0), "{calls:?} {text:?}: {deltas:?}");
                    assert_eq!(content, said, "{calls:?} {text:?}");
                }
            }
        }
    }
}

#[test]
fn an_answer_has_a_format_or_is_a_call() {
    let answer = json!({ "type": "object", "properties": { "name": { "enum": ["f", "g"] } }, "required": ["name"], "additionalProperties": false });
    for vocabulary in [Vocabulary::new(false), Vocabulary::new(true)] {
        for (calls, said, called, wrong) in [
            (
                Calls::Hermes,
                "{\"name\": \"g\"}",
                "<tool_call>\n{\"name\": \"f2\", \"arguments\": {\"b\": true}}\n</tool_call>",
                "Hi",
            ),
            (
                Calls::Mistral,
                "{\"name\": \"f\"}",
                "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}]",
                "[{\"name\": \"f\"}]",
            ),
            (Calls::MistralArgs, "{\"name\": \"f\"}", "[TOOL_CALLS]f[ARGS]{\"a\": 1}", "f[ARGS]{\"a\": 1}"),
            (
                Calls::Harmony,
                "<|channel|>final<|message|>{\"name\": \"f\"}",
                "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}",
                "<|channel|>final<|message|>{\"a\": 1}",
            ),
        ] {
            let tools = tools(Choice::Auto, true);
            let grammar =
                tools.grammar(dialect(calls), Begins::Answer, Some(&answer), &|text| vocabulary.control(text));
            let constraint = vocabulary.constraint(&grammar);
            for (text, n_calls) in [(said, 0), (called, 1)] {
                assert!(vocabulary.takes(&constraint, text), "{calls:?} {text}");
                assert_eq!(calls_of(&split(calls, "", &[text])).len(), n_calls, "{calls:?} {text}");
            }
            assert!(!vocabulary.takes(&constraint, wrong), "{calls:?} {wrong}");
        }
    }
}
