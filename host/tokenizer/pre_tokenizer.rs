//! Cutting text into words before byte-pair encoding.
//!
//! A byte-level BPE model never merges across the edge of a word, and what a word is was fixed when the model
//! was trained: `tokenizer.ggml.pre` names the rule. A rule is a list of stages. A stage is a regular expression;
//! every match becomes a word, and so does every stretch between two matches; the next stage then cuts the words
//! of the one before, and sees nothing but one word at a time.
//!
//! # White space
//!
//! The published expressions end in `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word
//! that follows. Look-ahead would put the whole expression on a backtracking engine, which takes quadratic time on
//! a long run of blanks and gives up at a limit. So the expressions here end in plain `\s+` and [`Trailing`] says
//! that a match which that branch made hands one character back. No other branch of any rule ends in white space,
//! except that `\s*[\r\n]+` ends in a line break; so the last character of a match tells which branch made it.
//!
//! Character classes are Unicode's own (`\p{L}` and so on), as the `regex` crate knows them.
//! Contractions are matched without Unicode case folding: `'ſ` (U+017F) is no `'s`, as in llama.cpp.

use tokenizers::utils::SysRegex;

use super::TokenizerError;

/// What a stage does with a run of white space before a visible character.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trailing {
    /// The match stands.
    Keep,
    /// The last character of the run goes to the next word.
    HandBack,
    /// As `HandBack`, but a run that ends in a line break stands.
    HandBackUnlessLineBreak,
}

struct Stage {
    regex: SysRegex,
    trailing: Trailing,
}

/// One of the rules that `tokenizer.ggml.pre` can name.
pub(super) struct PreTokenizer {
    stages: Vec<Stage>,
}

/// What the name of a rule settles beside its expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    /// A word that is a token as it stands is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// A begin-of-text token is put first unless the file says otherwise.
    pub add_bos: bool,
}

/// A rule: its names, its traits and its stages.
struct Rule {
    names: &'static [&'static str],
    traits: Traits,
    stages: &'static [(&'static str, Trailing)],
}

const PLAIN: Traits = Traits { ignore_merges: false, add_bos: false };

/// GPT-2's words: contractions, letters, digits and the rest, each with at most one blank in front.
const GPT2: (&str, Trailing) =
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+", Trailing::HandBack);

/// Llama 3's words: any sign may lead a word of letters, and digits come in threes.
const LLAMA3: (&str, Trailing) = (
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    Trailing::HandBackUnlessLineBreak,
);

/// Letters that have case, as DeepSeek LLM's own file lists them (no mathematical alphabets, for one).
const CASED: &str = concat!(
    r"\x{41}-\x{5A}\x{61}-\x{7A}\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}",
    r"\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}",
    r"\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}",
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}",
    r"\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}",
    r"\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}",
    r"\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}",
    r"\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}",
    r"\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}",
);

/// Stands for [`CASED`] in an expression.
const CASED_MARK: &str = "{CASED}";

/// Every rule, with the names under which llama.cpp's converter writes it.
const RULES: &[Rule] = &[
    Rule {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "kormo", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        traits: PLAIN,
        stages: &[(
            r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["qwen35"],
        traits: PLAIN,
        stages: &[(
            r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
            Trailing::HandBackUnlessLineBreak,
        )],
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        traits: Traits { ignore_merges: true, add_bos: true },
        stages: &[LLAMA3],
    },
    Rule { names: &["glm4", "glm5"], traits: Traits { ignore_merges: true, add_bos: false }, stages: &[LLAMA3] },
    Rule { names: &["smaug-bpe", "dbrx", "chatglm-bpe"], traits: PLAIN, stages: &[LLAMA3] },
    Rule {
        names: &["gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "mpt", "olmo", "jais", "trillion", "exaone4"],
        traits: PLAIN,
        stages: &[GPT2],
    },
    Rule {
        names: &["starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"],
        traits: PLAIN,
        stages: &[(r"\p{N}", Trailing::Keep), GPT2],
    },
    Rule {
        names: &["deepseek-llm"],
        traits: PLAIN,
        stages: &[
            (r"[\r\n]", Trailing::Keep),
            (r"\s?[{CASED}]+", Trailing::Keep),
            // U+3000 counts as white space here, not as a sign: llama.cpp reads it so.
            (r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3001}\x{3002}]+", Trailing::Keep),
            (r"\s+$", Trailing::Keep),
            (r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+", Trailing::Keep),
            (r"\p{N}+", Trailing::Keep),
        ],
    },
    Rule {
        names: &["default"],
        traits: PLAIN,
        stages: &[
            (r"[\p{P}$+<=>^~|]+", Trailing::Keep),
            GPT2,
            (r"\p{N}+", Trailing::Keep),
            (r"[0-9]{3}", Trailing::Keep),
        ],
    },
];

impl PreTokenizer {
    /// The rule that `pre` names, and its traits.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownPreTokenizer`] names `pre` and every rule there is.
    pub(super) fn named(pre: &str) -> Result<(PreTokenizer, Traits), TokenizerError> {
        let rule = RULES.iter().find(|rule| rule.names.contains(&pre)).ok_or_else(|| {
            TokenizerError::UnknownPreTokenizer { found: pre.to_owned(), supported: supported_names() }
        })?;
        let stages = rule
            .stages
            .iter()
            .map(|&(expression, trailing)| {
                let expression = expression.replace(CASED_MARK, CASED);
                SysRegex::new(&expression).map(|regex| Stage { regex, trailing }).map_err(TokenizerError::Model)
            })
            .collect::<Result<_, _>>()?;
        Ok((PreTokenizer { stages }, rule.traits))
    }

    /// The words of `text`, in order; joined they are `text` again.
    pub(super) fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for stage in &self.stages {
            let mut cut = Vec::with_capacity(words.len() + text.len() / 4);
            for word in words {
                stage.split(word, &mut cut);
            }
            words = cut;
        }
        words.retain(|word| !word.is_empty());
        words
    }
}

impl Stage {
    fn split<'t>(&self, text: &'t str, words: &mut Vec<&'t str>) {
        let mut position = 0;
        while let Some((start, end)) = self.regex.find_iter(&text[position..]).next() {
            let start = position + start;
            let end = self.end_of_match(text, start, position + end);
            if start > position {
                words.push(&text[position..start]);
            }
            words.push(&text[start..end]);
            position = end;
        }
        if position < text.len() {
            words.push(&text[position..]);
        }
    }

    /// Where the match `text[start..end]` ends once its last blank is handed back, if it is to be.
    fn end_of_match(&self, text: &str, start: usize, end: usize) -> usize {
        if self.trailing == Trailing::Keep || end == text.len() {
            return end;
        }
        let matched = &text[start..end];
        let Some((last_at, last)) = matched.char_indices().next_back() else {
            return end;
        };
        let stands = !last.is_whitespace()
            || last_at == 0
            || (self.trailing == Trailing::HandBackUnlessLineBreak && matches!(last, '\r' | '\n'));
        if stands { end } else { start + last_at }
    }
}

/// Every name that [`PreTokenizer::named`] accepts, as one line.
fn supported_names() -> String {
    RULES.iter().flat_map(|rule| rule.names).copied().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pre: &str, text: &str) -> Vec<String> {
        let (rule, _) = PreTokenizer::named(pre).unwrap();
        rule.words(text).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn every_rule_compiles_and_loses_nothing() {
        let text = "  It's 12345 o'clock,\r\n\n\tÉté 漢字 नमस्ते\u{3000}„x“ \u{85} ";
        for name in RULES.iter().flat_map(|rule| rule.names) {
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    /// The published expressions, look-ahead and all, ran elsewhere; the words have to be the same.
    #[test]
    fn words_equal_those_of_the_published_expressions() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/vocab/words.json");
        let fixture: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let texts = fixture["texts"].as_array().unwrap();
        let rules = fixture["rules"].as_object().unwrap();
        assert!(texts.len() > 100 && rules.len() > 6);
        for (name, expected) in rules {
            for (text, expected) in texts.iter().zip(expected.as_array().unwrap()) {
                let found = words(name, text.as_str().unwrap());
                assert_eq!(serde_json::json!(found), *expected, "{name}: {text}");
            }
        }
    }

    #[test]
    fn digits_are_grouped_as_each_rule_says() {
        assert_eq!(words("qwen2", "1234"), ["1", "2", "3", "4"]);
        assert_eq!(words("llama-bpe", "1234567"), ["123", "456", "7"]);
        assert_eq!(words("gpt-2", "1234"), ["1234"]);
        assert_eq!(words("starcoder", "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(words("default", "12345"), ["123", "45"]);
        assert_eq!(words("deepseek-llm", "a12345"), ["a", "12345"]);
    }

    #[test]
    fn a_run_of_blanks_leaves_one_to_the_next_word() {
        assert_eq!(words("qwen2", "a   b"), ["a", "  ", " b"]);
        assert_eq!(words("qwen2", "a  "), ["a", "  "]);
        assert_eq!(words("qwen2", "a \n\n  b"), ["a", " \n\n", " ", " b"]);
        assert_eq!(words("gpt-2", "a \n\nb"), ["a", " \n", "\n", "b"]);
        assert_eq!(words("gpt-2", "a\tb"), ["a", "\t", "b"]);
        assert_eq!(words("qwen2", "a\tb"), ["a", "\tb"]);
    }

    #[test]
    fn combining_marks_stay_with_their_letters_under_qwen35_only() {
        // DEVANAGARI LETTER KA with VOWEL SIGN I, which is a mark (category Mc).
        assert_eq!(words("qwen35", "कि"), ["कि"]);
        assert_eq!(words("qwen2", "कि"), ["क", "ि"]);
    }

    #[test]
    fn contractions_keep_to_ascii() {
        assert_eq!(words("qwen2", "it'S"), ["it", "'S"]);
        assert_eq!(words("qwen2", "it'ſ"), ["it", "'ſ"]);
        assert_eq!(words("gpt-2", "it'S"), ["it", "'", "S"]);
    }

    #[test]
    fn a_megabyte_of_blanks_takes_linear_time() {
        let blanks = " ".repeat(1 << 20);
        assert_eq!(words("qwen2", &blanks).len(), 1);
        assert_eq!(words("qwen2", &format!("{blanks}x")).len(), 2);
    }

    #[test]
    fn an_unknown_rule_is_named() {
        let Err(error) = PreTokenizer::named("tekken") else { panic!("tekken is not supported") };
        let message = error.to_string();
        assert!(message.contains("tekken"), "{message}");
        assert!(message.contains("qwen2") && message.contains("llama-bpe"), "{message}");
    }
}
