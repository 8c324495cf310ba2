//! `ferrowarp serve`: a model by HTTP.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum, builder::RangedU64ValueParser};
use serde_json::{Map, Value};
use tracing::{Event, Level, Subscriber, field::Visit};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::{
    Outcome, chat_template::TemplateArguments, many::ManyArguments, model::EngineArguments, output::note,
    pooling::PoolingArgument, sampling::SamplerArguments, speculation::SpeculationArguments, text::read_source,
    tokenizer::TokenizerArguments,
};
use crate::{
    api::Defaults,
    engine::{Device, Runner},
    serve::{Model, ModelParts, Options, Server, Stopper, limit},
};

/// The arguments of `serve`.
#[derive(Args)]
#[command(after_help = "Example:\n  \
    ferrowarp serve -m model.gguf --port 8080\n  \
    curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\\n    \
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"stream\": true}'\n\n\
    SIGTERM and Ctrl-C let running answers come to their end; a second one ends the program at once.")]
pub struct Arguments {
    #[command(flatten)]
    engine: EngineArguments,
    /// The address to listen on; 0.0.0.0 for every network, and then an --api-key is wise.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// The port; 0 for any that is free.
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,
    /// The model's name in answers [default: its file's].
    #[arg(short, long, value_name = "NAME")]
    alias: Option<String>,
    #[command(flatten)]
    many: ManyArguments,
    #[command(flatten)]
    speculation: SpeculationArguments,
    #[command(flatten)]
    pooling: PoolingArgument,
    #[command(flatten)]
    server: ServerArguments,
    #[command(flatten)]
    template: TemplateArguments,
    #[command(flatten)]
    tokenizer: TokenizerArguments,
    #[command(flatten)]
    sampler: SamplerArguments,
}

/// Who may ask, and how much.
#[derive(Args)]
#[command(next_help_heading = "Server")]
struct ServerArguments {
    /// A key that clients must show, as Authorization: Bearer KEY; may be given more than once. Others on this machine see it here: prefer a
    /// file.
    #[arg(long, value_name = "KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// A file of such keys, one a line.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// A name under which the server may be asked besides localhost, or * for any; may be given more than once. Holds where it listens on this
    /// machine alone and asks for no key, so that no page of another name reads its answers.
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,
    /// Connections at a time at most; more wait.
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1_000_000))]
    max_connections: usize,
    /// Bytes of a request's body at most.
    #[arg(long, value_name = "N", default_value_t = 8 << 20)]
    max_body: usize,
    /// Messages of a conversation at most.
    #[arg(long, value_name = "N", default_value_t = 2048)]
    max_messages: usize,
    /// Tokens of an answer at most, whatever a request says [default: what the context has room for].
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Answers that wait for others to end at most; more are told to come again later.
    #[arg(long, value_name = "N", default_value_t = 256)]
    max_waiting: usize,
    /// Seconds that a request may take; 0 for no limit.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
    /// Seconds that running answers may go on once the server is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace: u64,
    /// An origin whose pages may ask, or * for all; may be given more than once [default: none].
    #[arg(long, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// How log lines are written: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Let the log have the messages of errors, which may hold what users wrote.
    #[arg(long)]
    log_text: bool,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A time, a level, a word and fields.
    Text,
    /// An object a line.
    Json,
}

impl ServerArguments {
    fn options(&self, host: IpAddr) -> Result<Options> {
        let mut api_keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = read_source(path, "the API keys")?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            api_keys.extend(lines.map(str::to_owned));
            if api_keys.is_empty() {
                bail!("{}: found no key, expected one a line", path.display());
            }
        }
        if api_keys.iter().any(String::is_empty) {
            bail!("--api-key: found an empty key, expected some characters");
        }
        Ok(Options {
            hosts: Options::hosts_of(host, &api_keys, &self.allowed_host),
            api_keys,
            max_connections: self.max_connections,
            max_body: self.max_body,
            max_messages: self.max_messages,
            max_waiting: self.max_waiting,
            timeout: limit(self.timeout),
            grace: std::time::Duration::from_secs(self.grace),
            cors: self.cors.clone(),
            log_text: self.log_text,
            ..Options::default()
        })
    }
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        log(self.server.log_format);
        let options = self.server.options(self.host)?;
        let n_predict = self.many.n_predict()?;
        // A port that is taken is told before a model is loaded.
        let address = SocketAddr::new(self.host, self.port);
        let listener = TcpListener::bind(address).with_context(|| format!("{address}: cannot listen there"))?;
        let address = listener.local_addr().context("the address that is listened on")?;
        let server = Server::open(listener, options)?;

        let gguf = self.engine.model.open_to_run()?;
        let (device, tokenizer, _) = self.engine.open_with(&gguf, &self.tokenizer)?;
        let sampler = self.sampler.options(&gguf)?;
        let (template, variables) = self.template.parts(&gguf, &tokenizer)?;
        let guessing = self.speculation.load(&self.engine, &gguf, self.many.n_sequences())?;
        let set = |options| guessing.options(self.many.options(options));
        let (engine, _) = self.engine.load_with(device, &gguf, set)?;
        let stem =
            self.engine.model.model.as_ref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy());
        let id =
            self.alias.clone().or_else(|| stem.map(|stem| stem.into_owned())).unwrap_or_else(|| "haiku".to_owned());
        let n_vocab = engine.config().vocab_size;
        let (n_embd, pooling) = (engine.config().n_embd, self.pooling.of(engine.config()));
        let drafting = guessing.drafting(&engine);
        let mut runner = Device::drafting(engine, drafting);
        let model = Model::new(ModelParts {
            id,
            name: gguf.name().to_owned(),
            tokenizer,
            template,
            variables,
            system: self.template.system.clone(),
            defaults: Defaults { sampler, n_predict },
            max_tokens: self.server.max_tokens,
            n_vocab,
            n_context: runner.limits().n_context,
            n_slots: runner.limits().n_slots,
            is_speculative: runner.drafts().is_some(),
            n_embd,
            pooling,
        });
        let id = model.id.clone();
        let serving = server.serve(model, Stopper::Signals)?;
        note(&format!("{id} at http://{address}"));
        serving.run(&mut runner)?;
        Ok(Outcome::Done)
    }
}

/// From here on events are log lines on standard error.
fn log(format: LogFormat) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::INFO)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .event_format(Line { format })
        .finish();
    // Another one is there only if this is called twice.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

struct Line {
    format: LogFormat,
}

/// The fields of an event, in order.
#[derive(Default)]
struct Collected(Map<String, Value>);

impl Visit for Collected {
    fn record_u64(&mut self, field: &tracing::field::Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &tracing::field::Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &tracing::field::Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Collected::default();
        event.record(&mut fields);
        let Collected(mut fields) = fields;
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = event.metadata().level().as_str().to_lowercase();
        let message = fields.shift_remove("message").unwrap_or_default();
        let message = message.as_str().unwrap_or_default();
        match self.format {
            LogFormat::Json => {
                let mut line = Map::new();
                line.insert("time".to_owned(), time.into());
                line.insert("level".to_owned(), level.into());
                line.insert("message".to_owned(), message.into());
                line.extend(fields);
                writeln!(out, "{}", Value::Object(line))
            }
            LogFormat::Text => {
                write!(out, "{time} {level} {message}")?;
                for (name, value) in &fields {
                    match value.as_str() {
                        Some(word)
                            if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') =>
                        {
                            write!(out, " {name}={word}")?;
                        }
                        _ => write!(out, " {name}={value}")?,
                    }
                }
                writeln!(out)
            }
        }
    }
}
