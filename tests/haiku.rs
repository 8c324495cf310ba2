//! The mission's acceptance test: a haiku that includes a word chosen at run time.
//!
//! The word and the nonce are made when the test runs, so a stored answer cannot pass; the word must be there once as a
//! whole word, the nonce not at all.

mod support;

use std::process::Command;

use serde_json::Value;
use support::places::{program, root};

/// A repeatable source of random values (SplitMix64); prints its seed.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let seed = std::env::var("FERROWARP_SEED").ok().map(|seed| seed.parse().expect("FERROWARP_SEED is a number"));
        let seed = seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
        println!("FERROWARP_SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }

    /// A number word up to fifty-nine or a made-up word of one to three syllables: what the model was trained to copy.
    fn word(&mut self) -> String {
        if self.below(2) == 0 {
            return number(self.below(60));
        }
        let onsets = ["b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "z"];
        let (vowels, codas) = (["a", "e", "i", "o", "u"], ["", "n", "r", "l", "m"]);
        // Open syllables and at the most one consonant at the end: a lone vowel or "ba" is hardly a word.
        let syllables = 2 + self.below(2);
        let open: String = (0..syllables).map(|_| [self.one_of(&onsets), self.one_of(&vowels)].concat()).collect();
        open + self.one_of(&codas)
    }

    fn nonce(&mut self) -> String {
        let letters = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
        (0..8).map(|_| letters[self.below(letters.len())] as char).collect()
    }
}

/// The English word for a number below sixty.
fn number(n: usize) -> String {
    const SMALL: [&str; 20] = [
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
    ];
    const TENS: [&str; 6] = ["", "", "twenty", "thirty", "forty", "fifty"];
    match (n / 10, n % 10) {
        (0 | 1, _) => SMALL[n].to_owned(),
        (tens, 0) => TENS[tens].to_owned(),
        (tens, ones) => format!("{}-{}", TENS[tens], SMALL[ones]),
    }
}

/// How often `word` stands in `text` with no letter, digit or hyphen beside it.
fn whole_words(text: &str, word: &str) -> usize {
    let inside = |c: char| c.is_alphanumeric() || c == '-';
    text.split(|c: char| !inside(c)).filter(|part| part.eq_ignore_ascii_case(word)).count()
}

fn ask(arguments: &[&str]) -> Value {
    let output = Command::new(program())
        .args(["generate", "--format", "json"])
        .args(arguments)
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn nineteen_of_twenty_haiku_hold_a_word_made_up_just_now() {
    const TOPICS: [&str; 6] = ["GPU computing", "autumn", "the sea", "winter", "coffee", "rain"];
    let mut random = Random::new();
    let mut failures = Vec::new();
    for _ in 0..20 {
        let (topic, word, nonce) = (random.one_of(&TOPICS), random.word(), random.nonce());
        let prompt = format!("Write a haiku about {topic} that includes the word \"{word}\" (nonce: {nonce})");
        let answer = ask(&["-p", &prompt, "--temp", "0"]);
        let text = answer["text"].as_str().expect("text");
        println!("{prompt}\n{text}\n");
        let good = whole_words(text, &word) == 1
            && !text.contains(&nonce)
            && text.lines().filter(|line| !line.trim().is_empty()).count() == 3
            && answer["stop"] == "eos";
        if !good {
            failures.push(format!("{prompt}\n{text}"));
        }
    }
    assert!(failures.len() <= 1, "{} of 20 failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

#[test]
fn poems_are_llama_cpps_token_for_token() {
    let golden = std::fs::read(root().join("tests/fixtures/haiku/golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    for prompt in golden["prompts"].as_array().expect("prompts") {
        let ids: Vec<String> = prompt["ids"].as_array().unwrap().iter().map(Value::to_string).collect();
        let by_text = ask(&["-p", prompt["user"].as_str().unwrap(), "--temp", "0"]);
        assert_eq!(by_text["prompt_ids"], prompt["ids"], "{}", prompt["user"]);
        let by_ids = ask(&["--prompt-ids", &ids.join(","), "--temp", "0"]);
        for answer in [by_text, by_ids] {
            assert_eq!(answer["ids"], prompt["greedy"], "{}", prompt["user"]);
            assert_eq!(answer["text"], prompt["text"]);
        }
    }
}
