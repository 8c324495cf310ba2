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
//! The grouping of digits from the right, which the published expressions also leave to look-ahead, is two steps of its
//! own ([`Step::DigitGroups`], [`Step::Thousands`]).
//!
//! The rules themselves are data, in module `rules`. Character classes are Unicode's own (`\p{L}` and so on), as the `regex` crate knows them.
//! Contractions are matched without Unicode case folding: `'ſ` (U+017F) is no `'s`, as in llama.cpp.

mod rules;

use tokenizers::utils::SysRegex;

use super::TokenizerError;
pub(super) use rules::Traits;
use rules::{CASED, CASED_MARK, RULES, Rule, Step, Trailing};

/// A step of a rule, ready to run.
enum Stage {
    Match(SysRegex, Trailing),
    DigitGroups(SysRegex),
    Thousands,
}

/// One of the rules that `tokenizer.ggml.pre` can name.
pub(super) struct PreTokenizer {
    stages: Vec<Stage>,
}

/// Whether a rule of that name is known.
pub(super) fn is_known(pre: &str) -> bool {
    rule(pre).is_some()
}

fn rule(pre: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.names.contains(&pre))
}

impl PreTokenizer {
    /// The rule that `pre` names, and its traits.
    ///
    /// # Errors
    /// [`TokenizerError::UnknownPreTokenizer`] names `pre` and every rule there is.
    pub(super) fn named(pre: &str) -> Result<(PreTokenizer, Traits), TokenizerError> {
        let rule = rule(pre).ok_or_else(|| TokenizerError::UnknownPreTokenizer {
            found: pre.to_owned(),
            supported: supported_names(),
        })?;
        let regex =
            |expression: &str| SysRegex::new(&expression.replace(CASED_MARK, CASED)).map_err(TokenizerError::Model);
        let stages = rule
            .steps
            .iter()
            .map(|step| {
                Ok(match step {
                    Step::Match(expression, trailing) => Stage::Match(regex(expression)?, *trailing),
                    Step::DigitGroups => Stage::DigitGroups(regex(r"\p{N}+")?),
                    Step::Thousands => Stage::Thousands,
                })
            })
            .collect::<Result<_, TokenizerError>>()?;
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
    /// Appends the words that `text` is cut into.
    fn split<'t>(&self, text: &'t str, words: &mut Vec<&'t str>) {
        match self {
            Stage::Match(regex, trailing) => split_at_matches(regex, *trailing, text, words),
            Stage::DigitGroups(digits) => split_digit_groups(digits, text, words),
            Stage::Thousands => split_thousands(text, words),
        }
    }
}

fn split_at_matches<'t>(regex: &SysRegex, trailing: Trailing, text: &'t str, words: &mut Vec<&'t str>) {
    let mut position = 0;
    while let Some((start, end)) = regex.find_iter(&text[position..]).next() {
        let start = position + start;
        let end = start + trailing.kept(&text[start..position + end], position + end == text.len());
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

impl Trailing {
    /// How many bytes of a match stand, once what is handed back is handed back. `is_last`: nothing follows the match.
    fn kept(self, matched: &str, is_last: bool) -> usize {
        let Some((last_at, last)) = matched.char_indices().next_back() else {
            return 0;
        };
        if !last.is_whitespace() || (self != Trailing::HandBack && matches!(last, '\r' | '\n')) {
            return matched.len();
        }
        match self {
            Trailing::Keep => matched.len(),
            Trailing::HandBack | Trailing::HandBackUnlessLineBreak if is_last || last_at == 0 => matched.len(),
            Trailing::HandBack | Trailing::HandBackUnlessLineBreak => last_at,
            Trailing::PowerOfTwo => {
                let free = matched.chars().count() - usize::from(!is_last);
                let kept = (0..=9).rev().map(|power| 1 << power).find(|&length| length <= free).unwrap_or(1);
                matched.char_indices().nth(kept).map_or(matched.len(), |(at, _)| at)
            }
        }
    }
}

/// See [`Step::DigitGroups`].
fn split_digit_groups<'t>(digits: &SysRegex, text: &'t str, words: &mut Vec<&'t str>) {
    let mut position = 0;
    for (start, end) in digits.find_iter(text) {
        let run = &text[start..end];
        let length = run.chars().count();
        // The ends of groups are where a multiple of three digits is left.
        for (index, (at, _)) in run.char_indices().enumerate().skip(1) {
            if (length - index).is_multiple_of(3) {
                words.push(&text[position..start + at]);
                position = start + at;
            }
        }
        words.push(&text[position..end]);
        position = end;
    }
    if position < text.len() {
        words.push(&text[position..]);
    }
}

/// See [`Step::Thousands`].
fn split_thousands<'t>(text: &'t str, words: &mut Vec<&'t str>) {
    let bytes = text.as_bytes();
    let mut position = 0;
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        for start in (at..at + digits).filter(|start| (at + digits - start).is_multiple_of(3)) {
            if start > position {
                words.push(&text[position..start]);
                position = start;
            }
        }
        at += digits.max(1);
    }
    if position < text.len() {
        words.push(&text[position..]);
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
        assert!(texts.len() > 100 && rules.len() > 5);
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
    fn digits_are_grouped_from_the_right() {
        assert_eq!(words("superbpe", "1234567½1234"), ["1", "234", "567½1", "234"]);
        assert_eq!(words("tiny_aya", "12345"), ["12", "345"]);
        assert_eq!(words("afmoe", "  12 345"), [" ", " ", "12", " ", "345"]);
    }

    #[test]
    fn runs_of_blanks_are_powers_of_two_under_jais2() {
        let lengths = |text: &str| words("jais-2", text).iter().map(|word| word.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&" ".repeat(13)), [8, 4, 1]);
        assert_eq!(lengths(&format!("{}x", " ".repeat(13))), [8, 4, 2]);
        assert_eq!(lengths(&format!("{}x", " ".repeat(1026))), [512, 512, 1, 2]);
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
        let Err(error) = PreTokenizer::named("tokyo") else { panic!("there is no such rule") };
        let message = error.to_string();
        assert!(message.contains("tokyo"), "{message}");
        assert!(message.contains("qwen2") && message.contains("llama-bpe"), "{message}");
    }
}
