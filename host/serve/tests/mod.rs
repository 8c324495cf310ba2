//! The server over real HTTP, with the embedded model's tokens and a runner without a model.

mod answers;
mod bodies;
mod bounds;
mod calls;
#[path = "../../../tests/support/random.rs"]
#[allow(dead_code, reason = "tests elsewhere draw other things too")]
mod random;
mod soak;
mod tools;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tokio::sync::mpsc::UnboundedSender;

use super::{Model, ModelParts, Options, ServeError, Stopper};
use crate::{
    api::Defaults,
    cache::Group,
    chat::ChatTemplate,
    engine::{
        Limits,
        fake::{Fake, Guesses},
    },
    gguf::Gguf,
    model::Pooling,
    sample::SamplerOptions,
    tokenizer::Tokenizer,
};

/// Numbers of the runner's hidden states.
const N_EMBD: usize = 2;

/// How a test's server differs from others.
struct Setting {
    options: Options,
    n_slots: usize,
    n_context: usize,
    n_pages: usize,
    max_tokens: Option<usize>,
    template: Option<&'static str>,
    guesses: Option<Guesses>,
}

impl Default for Setting {
    fn default() -> Setting {
        let options = Options { grace: Duration::from_secs(20), ..Options::default() };
        Setting {
            options,
            n_slots: 4,
            n_context: 2048,
            n_pages: 256,
            max_tokens: Some(400),
            template: None,
            guesses: None,
        }
    }
}

impl Setting {
    /// Room for an answer that takes minutes.
    fn long() -> Setting {
        Setting { n_context: 200_000, n_pages: 4 * 6250, max_tokens: None, ..Setting::default() }
    }

    fn model(&self) -> Model {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/haiku/haiku.gguf");
        let gguf = Gguf::open(path.as_ref()).unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        let template = match self.template {
            Some(source) => ChatTemplate::new("the test's template", source, &tokenizer),
            None => ChatTemplate::from_gguf(&gguf, &tokenizer),
        };
        Model::new(ModelParts {
            id: "haiku".to_owned(),
            name: "haiku.gguf".to_owned(),
            template,
            variables: Map::new(),
            system: None,
            defaults: Defaults {
                sampler: SamplerOptions { seed: Some(1), ..SamplerOptions::default() },
                n_predict: Some(20),
            },
            max_tokens: self.max_tokens,
            n_vocab: tokenizer.vocab_size(),
            n_context: self.n_context,
            n_slots: self.n_slots,
            is_speculative: self.guesses.is_some(),
            n_embd: N_EMBD,
            pooling: Pooling::Mean,
            tokenizer,
        })
    }

    fn runner(&self) -> Fake {
        let Setting { n_slots, n_context, n_pages, guesses, .. } = *self;
        let max_rows = n_slots + guesses.map_or(0, |guesses| guesses.costs.n_most);
        let mut runner = Fake::new(
            &[Group { window: None, n_pages }],
            Limits { n_slots, n_context, n_batch: 64, max_rows, n_chunks: 4 },
        );
        runner.guesses = guesses;
        runner
    }
}

/// A server on a free port. Dropped, it is stopped at once, and must have no page in use then.
struct Server {
    address: SocketAddr,
    stops: UnboundedSender<()>,
    thread: Option<thread::JoinHandle<(Result<(), ServeError>, usize)>>,
}

/// What came back.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Got {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }

    /// The data of a stream's events.
    fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// The code of an error's object, which must be whole.
    fn error(&self) -> (u16, Option<String>, String) {
        let error = &self.json()["error"];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{self:?}");
        assert!(error["type"].is_string() && error.get("param").is_some(), "{self:?}");
        let param = error["param"].as_str().map(str::to_owned);
        (self.status, param, error["code"].as_str().unwrap().to_owned())
    }
}

impl Server {
    fn start(setting: Setting) -> Server {
        let (loaded, load) = std::sync::mpsc::channel();
        let server = Server::start_after(setting, || (), move || drop(loaded));
        let _: Result<(), _> = load.recv();
        server
    }

    /// The model is there when `load` returns; then `loaded` is called.
    fn start_after(
        setting: Setting,
        load: impl FnOnce() + Send + 'static,
        loaded: impl FnOnce() + Send + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stops, messages) = tokio::sync::mpsc::unbounded_channel();
        let server = super::Server::open(listener, setting.options.clone()).unwrap();
        let thread = thread::spawn(move || {
            load();
            let mut runner = setting.runner();
            let serving = server.serve(setting.model(), Stopper::Messages(messages)).unwrap();
            loaded();
            let ended = serving.run(&mut runner);
            let (used, _) = runner.pages.n_taken();
            (ended, used)
        });
        Server { address, stops, thread: Some(thread) }
    }

    fn agent() -> ureq::Agent {
        let config =
            ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(60)));
        config.build().into()
    }

    fn got(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Got {
        let mut response = response.unwrap();
        let headers = response.headers().iter();
        let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
        Got { status: response.status().as_u16(), headers, body: response.body_mut().read_to_string().unwrap() }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn get(&self, path: &str) -> Got {
        Server::got(Server::agent().get(self.url(path)).call())
    }

    fn post(&self, path: &str, body: &Value) -> Got {
        Server::got(Server::agent().post(self.url(path)).send_json(body))
    }

    /// What a post gives that must go well.
    fn answer(&self, path: &str, body: &Value) -> Value {
        let got = self.post(path, body);
        assert_eq!(got.status, 200, "{body}: {got:?}");
        got.json()
    }

    /// Begins a post, and reads as much of the answer as `until` is in.
    fn begin(&self, path: &str, body: &Value, until: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut read = String::new();
        let mut bytes = [0; 512];
        while !read.contains(until) {
            let n = stream.read(&mut bytes).unwrap();
            assert!(n > 0, "the answer ended: {read}");
            read += &String::from_utf8_lossy(&bytes[..n]);
        }
        stream
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}: {text}")).parse().unwrap()
    }

    /// Waits until it is so; no time is asserted but that it comes.
    fn wait_for(&self, what: &str, mut is_so: impl FnMut(&Server) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it and returns how that went.
    fn stop(mut self) -> Result<(), ServeError> {
        let _ = self.stops.send(());
        self.join()
    }

    fn join(&mut self) -> Result<(), ServeError> {
        let (ended, used) = self.thread.take().unwrap().join().unwrap();
        assert_eq!(used, 0, "pages in use at the end");
        ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.thread.is_some() && !thread::panicking() {
            let _ = self.stops.send(());
            let _ = self.stops.send(());
            self.join().unwrap();
        }
    }
}

/// A conversation of one message.
fn hello(more: Value) -> Value {
    let mut body = json!({ "model": "any", "messages": [{ "role": "user", "content": "Hello" }] });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// An answer that goes on for minutes.
fn endless(more: Value) -> Value {
    let mut body = hello(json!({ "ignore_eos": true, "max_tokens": 190_000, "stream": true }));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}
