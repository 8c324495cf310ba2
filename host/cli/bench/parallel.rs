//! `ferrowarp bench --parallel`: many sequences at once, in llama-batched-bench's columns.

use anyhow::{Result, bail};
use serde_json::{Map, json};

use super::{Arguments, Candidate, Place, Printer, options_of, table::Column};
use crate::{
    bench::{Served, Together, measure_served, measure_together},
    cli::output::out,
    engine::Device,
    forward::{Engine, EngineOptions},
    gpu::Gpu,
    tokenizer::Tokenizer,
};

const COLUMNS: &[Column] = &[
    Column::text("model", 28),
    Column::number("PP", 6),
    Column::number("TG", 6),
    Column::number("B", 4),
    Column::number("N_KV", 7),
    Column::number("T_PP s", 8),
    Column::number("S_PP t/s", 10),
    Column::number("T_TG s", 8),
    Column::number("S_TG t/s", 10),
    Column::number("T s", 8),
    Column::number("S t/s", 10),
    Column::number("host ms/step", 6),
    Column::number("longest gap ms", 7),
];

const COUNT_COLUMNS: &[Column] = &[
    Column::text("model", 28),
    Column::number("PP", 6),
    Column::number("B", 4),
    Column::number("launches/step", 6),
    Column::number("warp instructions/token", 10),
    Column::number("weights and cache read/step", 12),
];

/// Measures every model for every number of sequences, prompt and generation.
pub fn run(arguments: &Arguments) -> Result<()> {
    let lengths: Vec<(usize, usize)> = arguments
        .n_prompt
        .iter()
        .flat_map(|prompt| arguments.n_gen.iter().map(move |generation| (*prompt, *generation)))
        .collect();
    if lengths.iter().any(|(prompt, generation)| *prompt == 0 || *generation == 0) {
        bail!("sequences have a prompt and generate: expected numbers other than 0 after -p and -n");
    }
    let parallel: Vec<usize> = arguments.parallel.iter().map(|n| *n as usize).collect();
    let most = parallel.iter().copied().max().unwrap_or(1);
    let arriving = arguments.arriving.map(|n| n as usize);
    let positions = lengths.iter().map(|(prompt, generation)| prompt + generation).max().unwrap_or(1);
    let positions = positions.max(arriving.unwrap_or(0) + 1);
    let place = Place::new(&Gpu::open(arguments.device.device)?)?;
    let columns = if place.peaks.is_some() { COLUMNS } else { COUNT_COLUMNS };
    let mut printer = Printer::new(out(), arguments.output, columns, place.heading());
    for candidate in arguments.candidates()? {
        let candidate = candidate()?;
        let options = EngineOptions {
            n_context: Some(positions),
            // And one that arrives.
            n_sequences: most + 1,
            batch_invariant: arguments.batch_invariant,
            ..options_of(arguments, candidate.from_file)
        };
        let Candidate { gguf, name, .. } = &candidate;
        let mut engine = Engine::load(Gpu::open(arguments.device.device)?, gguf, options, &mut |_, _| {})?;
        for &(n_prompt, n_gen) in &lengths {
            for &n in &parallel {
                // Once for graphs and clocks.
                if place.peaks.is_some() {
                    measure_together(&mut engine, n, n_prompt, n_gen.min(8))?;
                }
                let measured = measure_together(&mut engine, n, n_prompt, n_gen)?;
                let mut served = None;
                if place.peaks.is_some() {
                    let tokenizer = Tokenizer::from_gguf(gguf)?;
                    let mut device = Device::new(engine);
                    served =
                        measure_served(&mut device, &tokenizer, n, [n_prompt, n_gen, arriving.unwrap_or(n_prompt)])?;
                    engine = device.into_engine();
                }
                let (cells, mut object) = describe(&measured, served.as_ref());
                place.describe(&mut object);
                object.insert("kind".into(), json!("parallel"));
                object.insert("model".into(), json!(name));
                printer.row(&[vec![name.clone()], cells].concat(), &object)?;
            }
        }
    }
    Ok(printer.finish()?)
}

fn describe(measured: &Together, served: Option<&Served>) -> (Vec<String>, Map<String, serde_json::Value>) {
    let Together { n_sequences, n_prompt, n_gen, prompt_seconds, gen_seconds, counts } = measured;
    let mut object = Map::new();
    object.insert("n_sequences".into(), json!(n_sequences));
    object.insert("n_prompt".into(), json!(n_prompt));
    object.insert("n_gen".into(), json!(n_gen));
    if let Some(counts) = counts {
        object.insert("launches_per_step".into(), json!(counts.launches));
        object.insert("warp_instructions_per_step".into(), json!(counts.warp_instructions));
        object.insert("streamed_bytes_per_step".into(), json!(counts.streamed_bytes));
        let cells = [
            n_prompt.to_string(),
            n_sequences.to_string(),
            counts.launches.to_string(),
            (counts.warp_instructions / *n_sequences as u64).to_string(),
            counts.streamed_bytes.to_string(),
        ];
        return (cells.to_vec(), object);
    }
    let (prompts, generated) = (n_sequences * n_prompt, n_sequences * n_gen);
    let all = prompt_seconds + gen_seconds;
    object.insert("prompt_s".into(), json!(prompt_seconds));
    object.insert("gen_s".into(), json!(gen_seconds));
    object.insert("prompt_tokens_per_s".into(), json!(prompts as f64 / prompt_seconds));
    object.insert("gen_tokens_per_s".into(), json!(generated as f64 / gen_seconds));
    let ms = |of: fn(&Served) -> std::time::Duration| served.map(|served| of(served).as_secs_f64() * 1e3);
    let (host, gap) = (ms(|served| served.host), ms(|served| served.longest_gap));
    object.insert("host_ms_per_step".into(), json!(host));
    object.insert("longest_gap_ms".into(), json!(gap));
    let shown = |ms: Option<f64>| ms.map_or("—".into(), |ms| format!("{ms:.2}"));
    let cells = [
        n_prompt.to_string(),
        n_gen.to_string(),
        n_sequences.to_string(),
        (prompts + generated).to_string(),
        format!("{prompt_seconds:.3}"),
        format!("{:.1}", prompts as f64 / prompt_seconds),
        format!("{gen_seconds:.3}"),
        format!("{:.1}", generated as f64 / gen_seconds),
        format!("{all:.3}"),
        format!("{:.1}", (prompts + generated) as f64 / all),
        shown(host),
        shown(gap),
    ];
    (cells.to_vec(), object)
}
