//! The lines of a file of prompts.
//!
//! | a line | asks for |
//! |---|---|
//! | `{"custom_id": …, "method": "POST", "url": "/v1/chat/completions", "body": {"messages": …}}` | what the body says |
//! | the same with `/v1/completions`, `{"prompt": …}` | what the body says |
//! | the same with `/v1/embeddings`, `{"input": …}` | what the body says |
//! | `{"messages": …}`, `{"prompt": …}` and further fields of such a body, `custom_id` too | the same, without a frame |
//! | any other text | an answer to this, said by a user |
//!
//! Empty lines count for nothing.

use std::{
    fs::File,
    io::{BufRead, BufReader, Result, Seek},
    ops::Range,
    path::Path,
    str::FromStr,
};

use serde_json::{Map, Value, json};

use crate::api::{Asked, Defaults, EmbeddingsAsked, FieldError, Fields, Form};

/// A part of a file: the lines of all parts, one after the other, are the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which part, from 1.
    pub number: usize,
    /// Of how many.
    pub of: usize,
}

impl Shard {
    /// The lines of `n` that are this part's.
    pub fn lines(self, n: usize) -> Range<usize> {
        // In 128 bits, where no product is too large.
        let edge = |number: usize| (n as u128 * number as u128 / self.of as u128) as usize;
        edge(self.number - 1)..edge(self.number)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Shard, String> {
        let parsed = text.split_once('/').and_then(|(number, of)| Some((number.parse().ok()?, of.parse().ok()?)));
        match parsed {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Shard { number, of }),
            _ => Err(format!("found {text:?}, expected a part and how many there are, from 1/8 to 8/8")),
        }
    }
}

/// A file's lines that are to be answered.
pub struct Requests {
    lines: BufReader<File>,
    /// The line that is read next, from 1, empty ones among them.
    number: usize,
    /// Lines that are left to give.
    n_left: usize,
}

/// A line of the file, not read yet.
#[derive(Clone, Debug)]
pub struct RequestLine {
    /// Which, from 1.
    pub number: usize,
    /// What it says.
    pub bytes: Vec<u8>,
}

impl Requests {
    /// The lines of a file, or of a part of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: &Path, shard: Option<Shard>) -> Result<Requests> {
        let mut lines = BufReader::new(File::open(path)?);
        let mut n = 0;
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? > 0 {
            n += usize::from(!is_empty(&line));
            line.clear();
        }
        lines.rewind()?;
        let wanted = shard.map_or(0..n, |shard| shard.lines(n));
        let mut requests = Requests { lines, number: 0, n_left: wanted.end };
        for _ in 0..wanted.start {
            requests.next()?;
        }
        Ok(requests)
    }

    /// Lines that are left.
    pub fn n_left(&self) -> usize {
        self.n_left
    }

    /// The next line that is not empty.
    ///
    /// # Errors
    /// The file cannot be read.
    #[allow(clippy::should_implement_trait)] // what may fail is no iterator
    pub fn next(&mut self) -> Result<Option<RequestLine>> {
        while self.n_left > 0 {
            let mut bytes = Vec::new();
            if self.lines.read_until(b'\n', &mut bytes)? == 0 {
                return Err(std::io::Error::other("the file became shorter while it was read"));
            }
            self.number += 1;
            if self.number == 1 && bytes.starts_with("\u{feff}".as_bytes()) {
                bytes.drain(..3);
            }
            if !is_empty(&bytes) {
                self.n_left -= 1;
                let end = bytes.trim_ascii_end().len();
                bytes.truncate(end);
                return Ok(Some(RequestLine { number: self.number, bytes }));
            }
        }
        Ok(None)
    }
}

fn is_empty(line: &[u8]) -> bool {
    line.trim_ascii().is_empty()
}

/// Why a line gets no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// A word for programs.
    pub code: &'static str,
    /// What is wrong, for people.
    pub message: String,
    /// The field.
    pub param: Option<String>,
}

impl LineError {
    /// An error that is about no field.
    pub fn new(code: &'static str, message: impl ToString) -> LineError {
        LineError { code, message: message.to_string(), param: None }
    }
}

impl From<FieldError> for LineError {
    fn from(error: FieldError) -> LineError {
        LineError { code: "invalid_request", message: error.to_string(), param: Some(error.field) }
    }
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Text.
    Answers(Box<Asked>),
    /// Vectors.
    Embeddings(EmbeddingsAsked),
}

impl RequestLine {
    /// The answer's `id`: by it a later run knows that the answer is this line's.
    pub fn id(&self) -> String {
        // FNV-1a: the same on every machine, in every version.
        let sum = self
            .bytes
            .iter()
            .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
        format!("batch_req_{}_{sum:016x}", self.number)
    }

    /// What the line calls itself, or its number; and what it asks for of a model whose embeddings have `n_embd` numbers.
    pub fn read(&self, defaults: &Defaults, n_embd: usize) -> (String, std::result::Result<Request, LineError>) {
        let mut custom_id = format!("line-{}", self.number);
        let asked = self.asked(defaults, n_embd, &mut custom_id).map_err(|mut error| {
            error.message = format!("line {}: {}", self.number, error.message);
            error
        });
        (custom_id, asked)
    }

    fn asked(
        &self,
        defaults: &Defaults,
        n_embd: usize,
        custom_id: &mut String,
    ) -> std::result::Result<Request, LineError> {
        let text = std::str::from_utf8(&self.bytes).map_err(|error| {
            let at = error.valid_up_to();
            LineError::new(
                "invalid_text",
                format!("found bytes that are not UTF-8 at offset {at}, expected UTF-8 text"),
            )
        })?;
        if !text.trim_start().starts_with('{') {
            let body = json!({ "messages": [{ "role": "user", "content": text }] });
            return Ok(Request::Answers(Box::new(Asked::read(Form::Chat, body, defaults)?)));
        }
        let value: Value = serde_json::from_str(text).map_err(|error| {
            LineError::new("invalid_json", format!("found no JSON ({error}), expected a JSON object"))
        })?;
        let mut fields = Fields::new("", value)?;
        let is_framed = fields.has("body") || fields.has("url");
        // What follows may be wrong: the error belongs to the name all the same.
        let named = fields.text("custom_id");
        if let Ok(Some(name)) = &named {
            custom_id.clone_from(name);
        }
        if named?.is_none() && is_framed {
            return Err(FieldError::new("custom_id", &Value::Null, "a string, which the answer will have too").into());
        }
        if !is_framed {
            let form = if fields.has("messages") { Form::Chat } else { Form::Text };
            return Ok(Request::Answers(Box::new(Asked::read(form, fields.into_value(), defaults)?)));
        }
        let method = fields.text("method")?.unwrap_or_else(|| "POST".to_owned());
        if method != "POST" {
            return Err(FieldError::new("method", &method.into(), "POST").into());
        }
        let url = fields.take("url").unwrap_or(Value::Null);
        let form = match url.as_str().map(|url| url.strip_prefix("/v1").unwrap_or(url)) {
            Some("/chat/completions") => Some(Form::Chat),
            Some("/completions") => Some(Form::Text),
            Some("/embeddings") => None,
            _ => {
                let expected = "/v1/chat/completions, /v1/completions or /v1/embeddings";
                return Err(FieldError::new("url", &url, expected).into());
            }
        };
        let body = fields.take("body").unwrap_or_else(|| Value::Object(Map::new()));
        fields.expect_none()?;
        Ok(match form {
            Some(form) => Request::Answers(Box::new(Asked::read(form, body, defaults)?)),
            None => Request::Embeddings(EmbeddingsAsked::read(body, n_embd)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::Prompt, chat::Message, sample::SamplerOptions};

    fn read(text: &str) -> (String, std::result::Result<Request, LineError>) {
        let line = RequestLine { number: 7, bytes: text.as_bytes().to_vec() };
        line.read(&Defaults { sampler: SamplerOptions::default(), n_predict: None }, 4)
    }

    fn prompts(asked: std::result::Result<Request, LineError>) -> Vec<Prompt> {
        match asked.unwrap() {
            Request::Answers(asked) => asked.prompts,
            Request::Embeddings(asked) => asked.inputs,
        }
    }

    #[test]
    fn each_shape_of_a_line_asks_for_the_same() {
        let user = vec![Prompt::Messages(vec![Message::new("user", "Hi {you}")], Map::new())];
        let framed = r#"{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": [{"role": "user", "content": "Hi {you}"}]}}"#;
        let bare = r#" {"messages": [{"role": "user", "content": "Hi {you}"}], "custom_id": "b"}"#;
        for (line, name) in [(framed, "a"), (bare, "b"), ("Hi {you}", "line-7")] {
            let (custom_id, asked) = read(line);
            assert_eq!((custom_id.as_str(), prompts(asked)), (name, user.clone()), "{line}");
        }
        let text = vec![Prompt::Text("Hi".to_owned())];
        let framed = r#"{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "Hi"}}"#;
        let embedded = r#"{"custom_id": "a", "url": "/v1/embeddings", "body": {"input": "Hi"}}"#;
        for line in [framed, r#"{"prompt": "Hi"}"#, embedded] {
            assert_eq!(prompts(read(line).1), text, "{line}");
        }
    }

    #[test]
    fn a_bad_line_says_what_is_wrong_with_it_under_its_name() {
        let cases = [
            ("{\"prompt\": ", "line-7", "invalid_json", "line 7: found no JSON"),
            (
                r#"{"custom_id": "x", "url": "/v1/images", "body": {}}"#,
                "x",
                "invalid_request",
                "line 7: url: found \"/v1/images\"",
            ),
            (r#"{"custom_id": "x", "url": "/v1/completions"}"#, "x", "invalid_request", "line 7: prompt: found null"),
            (
                r#"{"custom_id": "x", "url": "/v1/completions", "body": 3}"#,
                "x",
                "invalid_request",
                "line 7: body: found 3",
            ),
            (
                r#"{"custom_id": 3, "prompt": "a"}"#,
                "line-7",
                "invalid_request",
                "line 7: custom_id: found 3, expected a string",
            ),
            (
                r#"{"url": "/v1/completions", "body": {"prompt": "a"}}"#,
                "line-7",
                "invalid_request",
                "line 7: custom_id: found null",
            ),
            (
                r#"{"custom_id": "x", "url": "/v1/embeddings", "body": {"input": "a", "dimensions": 9}}"#,
                "x",
                "invalid_request",
                "line 7: dimensions: found 9, expected a whole number from 1 to 4",
            ),
            (r#"{"prompt": "a", "temperature": "x"}"#, "line-7", "invalid_request", "line 7: temperature: found \"x\""),
        ];
        for (line, name, code, message) in cases {
            let (custom_id, asked) = read(line);
            let error = asked.unwrap_err();
            assert_eq!((custom_id.as_str(), error.code), (name, code), "{line}");
            assert!(error.message.starts_with(message), "{line}: {}", error.message);
        }
        let line = RequestLine { number: 1, bytes: b"abc\xff".to_vec() };
        let defaults = Defaults { sampler: SamplerOptions::default(), n_predict: None };
        assert_eq!(line.read(&defaults, 4).1.unwrap_err().code, "invalid_text");
    }

    #[test]
    fn shards_are_the_whole_file_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts");
        std::fs::write(&path, "\u{feff}zero\r\n\n one\ntwo\n  \nthree\nfour\nfive\nsix").unwrap();
        let read = |shard: Option<Shard>| {
            let mut requests = Requests::open(&path, shard).unwrap();
            let mut all = Vec::new();
            while let Some(line) = requests.next().unwrap() {
                all.push((line.number, String::from_utf8(line.bytes).unwrap()));
            }
            all
        };
        let whole = read(None);
        let lines: Vec<(usize, &str)> = whole.iter().map(|(number, text)| (*number, text.as_str())).collect();
        assert_eq!(lines, [(1, "zero"), (3, " one"), (4, "two"), (6, "three"), (7, "four"), (8, "five"), (9, "six")]);
        for of in 1..10 {
            let parts: Vec<_> = (1..=of).flat_map(|number| read(Some(Shard { number, of }))).collect();
            assert_eq!(parts, whole, "{of} parts");
        }
        assert_eq!("3/8".parse(), Ok(Shard { number: 3, of: 8 }));
        for text in ["0/8", "9/8", "3", "a/b", "1/0", "-1/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
