//! Runs over the embedded model's tokens and a runner without a model, ended in every way and begun again.

use std::{fs, path::Path};

use super::*;
use crate::{
    batch::Shard,
    cache::Group,
    engine::{Limits as RunnerLimits, fake::Fake},
    gguf::Gguf,
    sample::SamplerOptions,
};

struct Model {
    tokenizer: Tokenizer,
    gguf: Gguf,
}

impl Model {
    fn new() -> Model {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/haiku/haiku.gguf");
        let gguf = Gguf::open(path.as_ref()).unwrap();
        Model { tokenizer: Tokenizer::from_gguf(&gguf).unwrap(), gguf }
    }

    /// Answers the prompts until `n_most` are written; with pages for a few sequences of ordinary length.
    fn run(&self, prompts: &Path, answers: &Path, n_slots: usize, n_most: usize, shard: Option<Shard>) -> Progress {
        let n_tokens = self.tokenizer.vocab_size();
        let batch = Batch {
            model: "haiku",
            tokenizer: &self.tokenizer,
            template: ChatTemplate::from_gguf(&self.gguf, &self.tokenizer),
            variables: Map::new(),
            system: None,
            defaults: Defaults {
                sampler: SamplerOptions { seed: Some(1), ..SamplerOptions::default() },
                n_predict: Some(20),
            },
            n_tokens,
            n_embd: 2,
            pooling: Pooling::Mean,
        };
        let limits = RunnerLimits { n_slots, n_context: 400, n_batch: 64, max_rows: n_slots, n_chunks: 4 };
        let mut runner = Fake::new(&[Group { window: None, n_pages: 14 }], limits);
        let mut requests = Requests::open(prompts, shard).unwrap();
        let mut file = AnswersFile::open(answers, &mut requests, prompts).unwrap();
        let interrupt = AtomicBool::new(n_most == 0);
        let progress = batch.run(&mut requests, &mut file, &mut runner, &interrupt, &mut |progress| {
            interrupt.store(progress.n_written >= n_most, Ordering::Relaxed);
        });
        assert_eq!(runner.pages.free(0), 14, "pages lost");
        progress.unwrap()
    }
}

fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &mut lines {
        if let Some(body) = line["response"]["body"].as_object_mut() {
            body.remove("created").expect("a time");
            // How much of a prompt was in the cache is the company's.
            body["usage"].as_object_mut().unwrap().remove("prompt_tokens_details").expect("what was cached");
        }
    }
    lines
}

fn prompts() -> String {
    let mut text = String::new();
    for index in 0..24 {
        let words = "the rain on a tin roof ".repeat(1 + index * 7 % 5);
        text += &match index % 8 {
            0 => format!("{words}{index}\n"),
            1 => format!("{{\"prompt\": \"{words}\", \"n\": 3, \"max_tokens\": {}}}\n", index % 5),
            2 => "{\"prompt\": \n".to_owned(),
            3 => format!(
                "{{\"prompt\": [\"a\", \"{words}\"], \"temperature\": 0, \"logprobs\": 2, \"max_tokens\": 5}}\n"
            ),
            4 => format!("{{\"prompt\": \"{}\"}}\n\n", words.repeat(200)),
            5 => format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{words}\"}}], \"seed\": {index}}}\n"),
            6 => "{\"prompt\": [1, 999999999]}\n".to_owned(),
            _ => format!(
                "{{\"prompt\": \"x\", \"grammar\": \"root ::= \\\"yes\\\" | \\\"no\\\"\", \"seed\": {index}}}\n"
            ),
        };
    }
    text
}

#[test]
fn however_a_run_ends_the_answers_are_those_of_one_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("prompts"), prompts()).unwrap();
    let model = Model::new();
    let progress = model.run(&at("prompts"), &at("whole"), 6, usize::MAX, None);
    assert_eq!((progress.n_written, progress.n_errors, progress.interrupted), (24, 9, false));
    let whole = read(&at("whole"));

    // Each in its place, and as many answers as asked for.
    for (index, line) in whole.iter().enumerate() {
        let choices = line["response"]["body"]["choices"].as_array().map_or(0, Vec::len);
        assert_eq!(choices, [1, 3, 0, 2, 0, 1, 0, 1][index % 8], "{line}");
        assert_eq!(line["error"].is_null(), choices > 0, "{line}");
        let code = line["error"]["code"].as_str().unwrap_or_default();
        assert_eq!(
            code,
            ["", "", "invalid_json", "", "prompt_too_long", "", "invalid_request", ""][index % 8],
            "{line}"
        );
        if index % 8 == 7 {
            let text = line["response"]["body"]["choices"][0]["text"].as_str().unwrap();
            assert!(["yes", "no"].contains(&text), "{line}");
        }
    }

    // Alone, in another company, in parts.
    for n_slots in [1, 3] {
        model.run(&at("prompts"), &at("other"), n_slots, usize::MAX, None);
        assert_eq!(read(&at("other")), whole, "{n_slots} at a time");
        fs::remove_file(at("other")).unwrap();
    }
    let mut parts = Vec::new();
    for number in 1..=5 {
        model.run(&at("prompts"), &at("part"), 6, usize::MAX, Some(Shard { number, of: 5 }));
        parts.extend(read(&at("part")));
        fs::remove_file(at("part")).unwrap();
    }
    assert_eq!(parts, whole);

    // Stopped after every answer or two, and torn.
    for n_most in [1, 5] {
        let path = at("again");
        let mut n_runs = 0;
        while model.run(&at("prompts"), &path, 6, n_most, None).interrupted {
            let mut bytes = fs::read(&path).unwrap();
            bytes.extend_from_slice(b"{\"id\": \"batch_req_1");
            fs::write(&path, bytes).unwrap();
            n_runs += 1;
            assert!(n_runs <= 24, "no run comes further");
        }
        assert!(n_runs > 1 && read(&path) == whole, "{n_runs} runs of {n_most} answers");
        fs::remove_file(&path).unwrap();
    }
    // Cut anywhere.
    let bytes = fs::read(at("whole")).unwrap();
    for part in 0..12 {
        fs::write(at("cut"), &bytes[..bytes.len() * part / 12 + part]).unwrap();
        model.run(&at("prompts"), &at("cut"), 6, usize::MAX, None);
        assert_eq!(read(&at("cut")), whole, "cut at {part} twelfths");
    }
}
