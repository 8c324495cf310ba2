//! `ferrowarp bench --guesses-right`: what several tokens a step are worth.

use anyhow::{Result, bail};
use serde_json::{Map, json};

use super::{Arguments, Candidate, Place, Printer, options_of, table::Column};
use crate::{
    bench::{Sample, measure_guessed},
    cli::output::out,
    forward::{Engine, EngineOptions},
    gpu::Gpu,
};

/// Guesses at a time, at most: what `--draft-max` is where nothing is said.
const N_MOST: usize = 8;

const COLUMNS: &[Column] = &[
    Column::text("model", 28),
    Column::text("test", 10),
    Column::number("right", 6),
    Column::number("steps", 6),
    Column::number("guessed", 8),
    Column::number("kept", 8),
    Column::number("t/s without", 10),
    Column::number("t/s", 10),
    Column::number("ratio", 6),
];

/// Measures every model for every prompt and generation.
pub fn run(arguments: &Arguments, percent: u8) -> Result<()> {
    let pairs = arguments.n_prompt.iter().flat_map(|prompt| arguments.n_gen.iter().map(move |n| [*prompt, *n]));
    let lengths: Vec<[usize; 2]> = pairs.filter(|[_, n]| *n > 0).collect();
    if lengths.is_empty() {
        bail!("nothing to generate: expected a number other than 0 after -n");
    }
    let positions = lengths.iter().map(|[prompt, n]| prompt + n + N_MOST + 1).max().unwrap_or(1);
    let place = Place::new(&Gpu::open(arguments.device.device)?)?;
    let mut printer = Printer::new(out(), arguments.output, COLUMNS, place.heading());
    for candidate in arguments.candidates()? {
        let Candidate { gguf, name, from_file } = candidate()?;
        let options =
            EngineOptions { n_context: Some(positions), n_drafted: N_MOST, ..options_of(arguments, from_file) };
        let mut engine = Engine::load(Gpu::open(arguments.device.device)?, &gguf, options, &mut |_, _| {})?;
        for &[n_prompt, n] in &lengths {
            let repetitions = arguments.repetitions as usize;
            let measured = measure_guessed(&mut engine, [n_prompt, n], percent, N_MOST, repetitions)?;
            let (counts, mean) = (measured.counts, |sample: &Sample| (!sample.0.is_empty()).then(|| sample.mean()));
            let (alone, rate) = (mean(&measured.alone), mean(&measured.rates));
            let ratio = rate.zip(alone).map(|(rate, alone)| rate / alone);
            let mut object = Map::new();
            object.insert("kind".into(), json!("guessed"));
            object.insert("model".into(), json!(name));
            place.describe(&mut object);
            object.insert("n_prompt".into(), json!(n_prompt));
            object.insert("n_gen".into(), json!(n));
            object.insert("percent_right".into(), json!(percent));
            object.insert("n_steps".into(), json!(counts.n_steps));
            object.insert("n_guessed".into(), json!(counts.n_drafted));
            object.insert("n_kept".into(), json!(counts.n_kept));
            object.insert("tokens_per_s_without".into(), json!(alone));
            object.insert("tokens_per_s".into(), json!(rate));
            let shown = |value: Option<f64>, digits| value.map_or("—".into(), |value| format!("{value:.digits$}"));
            let cells = [
                name.clone(),
                format!("tg{n}"),
                format!("{percent} %"),
                counts.n_steps.to_string(),
                counts.n_drafted.to_string(),
                counts.n_kept.to_string(),
                shown(alone, 1),
                shown(rate, 1),
                shown(ratio, 2),
            ];
            printer.row(&cells, &object)?;
        }
    }
    Ok(printer.finish()?)
}
