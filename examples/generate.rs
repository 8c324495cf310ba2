//! Generates text from a model file.
//!
//! ```console
//! $ cargo run --release --example generate [MODEL.gguf [PROMPT]]
//! ```

use std::{env, io::Write, path::Path};

use anyhow::Result;
use driver::DeviceChoice;
use ferrowarp::{
    chat::{ChatTemplate, Message, RenderOptions},
    forward::{Engine, EngineOptions},
    generate::{Limits, Request, generate},
    gguf::Gguf,
    gpu::Gpu,
    sample::{DryBreakers, Sampler, SamplerOptions},
    session::Session,
    tokenizer::{Ends, Tokenizer},
};

fn main() -> Result<()> {
    let model = env::args().nth(1).unwrap_or_else(|| "models/haiku/haiku.gguf".to_owned());
    let prompt = env::args()
        .nth(2)
        .unwrap_or_else(|| r#"Write a haiku about GPU computing that includes the word "forty-six""#.to_owned());
    let mut out = std::io::stdout();
    run(DeviceChoice::Auto, Path::new(&model), &prompt, &mut out)?;
    writeln!(out)?;
    Ok(())
}

/// Writes the model's greedy answer to `out` as it comes.
pub fn run(device: DeviceChoice, model: &Path, prompt: &str, out: &mut dyn Write) -> Result<()> {
    // The file is read and checked once; it stays mapped, so its weights are not copied on the host.
    let gguf = Gguf::open(model)?;
    let tokenizer = Tokenizer::from_gguf(&gguf)?;
    let template = ChatTemplate::from_gguf(&gguf, &tokenizer)?;
    let pieces = template.render(&[Message::new("user", prompt)], &RenderOptions::default())?;
    let prompt = tokenizer.encode_pieces(&pieces, Ends::AsFileSays)?;

    // A session is a sequence of tokens with their keys and values on the device: the next prompt costs only what is new in it.
    let engine = Engine::load(Gpu::open(device)?, &gguf, EngineOptions::default(), &mut |_done, _total| {})?;
    let mut session = Session::new(engine);
    let greedy = SamplerOptions { temp: 0.0, ..SamplerOptions::default() };
    let mut sampler = Sampler::new(greedy, tokenizer.vocab_size(), DryBreakers::default())?;

    let request = Request {
        model: gguf.name(),
        prompt: &prompt,
        sampler: &mut sampler,
        constraint: None,
        stop: &[],
        limits: Limits { n_predict: Some(128), ignore_eos: false, shift_keeping: None },
        logprobs: None,
        interrupt: None,
        speculation: None,
    };
    let mut written = Ok(());
    generate(&mut session, &tokenizer, request, &mut |text| {
        written = out.write_all(text.as_bytes());
        written.is_ok()
    })?;
    Ok(written?)
}
