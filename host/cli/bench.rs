//! `ferrowarp bench`: how fast models and kernels run, with llama-bench's habits.

mod guessed;
mod parallel;
mod profile;
mod table;

use std::{path::PathBuf, time::Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, builder::PossibleValuesParser};
use driver::Backend;
use serde_json::{Map, Value, json};

use self::{
    profile::Profiling,
    table::{Column, Format, Printer},
};
use super::{
    Outcome,
    model::{DeviceArgument, ModelArgument},
    output::{note, out},
};
use crate::{
    bench::{
        Measured, Peaks, Sample, Test, Work,
        kernels::{Row, Timer, rows},
        measure, positions, tests,
    },
    forward::{Engine, EngineOptions, MatrixSource, Then},
    gguf::Gguf,
    gpu::{Activations, Gpu, GpuError, kernels::CacheType},
    synth::{FileType, SHAPES, Shape, Synth, random_matrices},
};

/// The arguments of `bench`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    ferrowarp bench -m model.gguf\n  \
    ferrowarp bench --shape qwen2.5-0.5b,qwen2.5-7b --type f16,q4_k_m -p 512,2048 -n 128 -d 0,4096 -o jsonl\n  \
    ferrowarp bench --shape qwen2.5-7b --type q4_k_m -p 256 -n 128 --parallel 1,8,64\n  \
    ferrowarp bench --shape qwen2.5-7b --type q4_k_m -p 256 -n 256 --guesses-right 70\n  \
    ferrowarp bench --kernels\n  \
    ferrowarp bench --kernels gemv_q4_k\n  \
    ferrowarp bench --kernels rmsnorm --profile rmsnorm.html --device soft\n\n\
    A percentage is of what this device's memory allows, measured in the same run. Without a GPU there are no times: \
    softcuda counts what would be done.")]
pub struct Arguments {
    /// GGUF files [default: the embedded model].
    #[arg(short, long, value_name = "FILE", num_args = 1.., env = "FERROWARP_MODEL", conflicts_with = "shape")]
    model: Vec<PathBuf>,
    /// Published shapes to fill with random weights, made on the device.
    #[arg(long, value_name = "SHAPE,…", value_delimiter = ',', requires = "types",
          value_parser = PossibleValuesParser::new(SHAPES.iter().map(|shape| shape.name)))]
    shape: Vec<String>,
    /// The shapes' mixes of types, each with each.
    #[arg(id = "types", long = "type", value_name = "TYPE,…", value_delimiter = ',', ignore_case = true, requires = "shape",
          value_parser = PossibleValuesParser::new(FileType::ALL.iter().map(|file_type| file_type.name())))]
    types: Vec<String>,
    /// Lengths of prompts; 0 for none.
    #[arg(short = 'p', long, value_name = "N,…", value_delimiter = ',', default_value = "512")]
    n_prompt: Vec<usize>,
    /// Numbers of tokens to generate; 0 for none.
    #[arg(short = 'n', long, value_name = "N,…", value_delimiter = ',', default_value = "128")]
    n_gen: Vec<usize>,
    /// Numbers of tokens that are there before.
    #[arg(short = 'd', long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    n_depth: Vec<usize>,
    /// Numbers of sequences that generate at once, each behind a prompt of its own: llama-batched-bench's table.
    #[arg(long, value_name = "N,…", value_delimiter = ',', conflicts_with = "kernels",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    parallel: Vec<u32>,
    /// With --parallel, tokens of the prompt that arrives while all sequences generate: the longest time between two of their tokens is
    /// measured [default: a sequence's].
    #[arg(long, value_name = "N", requires = "parallel", value_parser = clap::value_parser!(u32).range(1..))]
    arriving: Option<u32>,
    /// With --parallel, decode sequences together as each would be alone, to the last bit.
    #[arg(long, requires = "parallel")]
    batch_invariant: bool,
    /// Generate with guesses too, so many of a hundred of which are right, several checked in one step: what --speculate and --draft-model
    /// are worth here.
    #[arg(long, value_name = "PERCENT", conflicts_with_all = ["kernels", "parallel"],
          value_parser = clap::value_parser!(u8).range(0..=100))]
    guesses_right: Option<u8>,
    /// Repetitions of each test.
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// The most tokens that go through the layers together [default: as elsewhere].
    #[arg(short, long, value_name = "N")]
    batch_size: Option<usize>,
    /// Type of the KV cache: f16, bf16, f32 or q8_0.
    #[arg(long, default_value = "f16", env = "FERROWARP_CACHE_TYPE")]
    cache_type: CacheType,
    /// Measure each kernel alone at real shapes, or those whose name or shape holds FILTER.
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "", conflicts_with_all = ["model", "shape"])]
    kernels: Option<String>,
    /// With --kernels, count on softcuda what the kernels do by source line, and write it as a page, or as JSON where the name ends so.
    #[arg(long, value_name = "FILE", requires = "kernels")]
    profile: Option<PathBuf>,
    /// The GPU that a profile is compared with.
    #[arg(long, value_name = "CARD", default_value = "h200", requires = "profile",
          value_parser = PossibleValuesParser::new(warp_profile::CARDS.iter().map(|card| card.id)))]
    card: String,
    /// What quantised weights are multiplied with when a token goes through the model alone: q8 or f32.
    #[arg(long, default_value = "q8", env = "FERROWARP_ACTIVATIONS")]
    activations: Activations,
    /// How to print.
    #[arg(short, long, value_enum, default_value = "md")]
    output: Format,
    #[command(flatten)]
    device: DeviceArgument,
}

/// What results are compared with, and where they were measured.
struct Place {
    backend: Backend,
    device: String,
    driver: Option<String>,
    /// On a GPU.
    peaks: Option<Peaks>,
}

impl Place {
    fn new(gpu: &Gpu) -> Result<Place> {
        let backend = gpu.backend();
        let on_gpu = backend == Backend::Cuda;
        let version = driver::probe().libcuda.driver_version;
        Ok(Place {
            backend,
            device: gpu.name()?,
            driver: version.filter(|_| on_gpu).map(|(major, minor)| format!("{major}.{minor}")),
            peaks: if on_gpu { Some(Peaks::measure(gpu)?) } else { None },
        })
    }

    /// For people, above a table.
    fn heading(&self) -> String {
        match (&self.peaks, &self.driver) {
            (Some(peaks), driver) => format!(
                "{}, driver for CUDA {}: reads {:.0} GB/s, copies {:.0} GB/s, multiplies {:.0} TFLOP/s",
                self.device,
                driver.as_deref().unwrap_or("of an unknown version"),
                peaks.read / 1e9,
                peaks.copy / 1e9,
                peaks.matmul / 1e12
            ),
            _ => format!("{}: counted, not timed; a time here says nothing about a GPU", self.device),
        }
    }

    /// For programs, in each object.
    fn describe(&self, object: &mut Map<String, Value>) {
        object.insert("device".into(), json!(self.device));
        object.insert("backend".into(), json!(self.backend.to_string()));
        object.insert("driver".into(), json!(self.driver));
        let peak = |of: fn(&Peaks) -> f64, unit: f64| json!(self.peaks.as_ref().map(|peaks| of(peaks) / unit));
        object.insert("read_gb_per_s".into(), peak(|peaks| peaks.read, 1e9));
        object.insert("copy_gb_per_s".into(), peak(|peaks| peaks.copy, 1e9));
        object.insert("matmul_tflop_per_s".into(), peak(|peaks| peaks.matmul, 1e12));
    }
}

const MODEL_COLUMNS: &[Column] = &[
    Column::text("model", 28),
    Column::number("size", 10),
    Column::text("test", 16),
    Column::number("t/s", 20),
    Column::number("of floor", 8),
    Column::number("launches/token", 6),
    Column::number("first token", 9),
    Column::number("load", 9),
];

const MODEL_COUNT_COLUMNS: &[Column] = &[
    Column::text("model", 28),
    Column::number("size", 10),
    Column::text("test", 16),
    Column::number("launches/token", 6),
    Column::number("warp instructions/token", 6),
    Column::number("weights and cache read/token", 12),
    Column::number("needed", 12),
    Column::number("read/needed", 6),
    Column::number("all global bytes/token", 12),
    Column::number("shared conflicts", 6),
];

const KERNEL_COLUMNS: &[Column] = &[
    Column::text("kernel", 20),
    Column::text("shape", 36),
    Column::number("µs", 16),
    Column::number("GB/s", 7),
    Column::number("TFLOP/s", 7),
    Column::number("of peak", 7),
];

const KERNEL_COUNT_COLUMNS: &[Column] = &[
    Column::text("kernel", 20),
    Column::text("shape", 36),
    Column::number("warp instructions", 10),
    Column::number("global bytes", 10),
    Column::number("needed", 10),
    Column::number("shared conflicts", 6),
    Column::number("ways", 4),
];

/// A model to be measured.
struct Candidate {
    gguf: Gguf,
    name: String,
    /// Whether its weights come from a file.
    from_file: bool,
}

impl Arguments {
    /// Runs the command.
    pub fn run(self) -> Result<Outcome> {
        match self.kernels.as_deref() {
            Some(filter) => self.bench_kernels(filter)?,
            None if !self.parallel.is_empty() => parallel::run(&self)?,
            None => match self.guesses_right {
                Some(percent) => guessed::run(&self, percent)?,
                None => self.bench_models()?,
            },
        }
        Ok(Outcome::Done)
    }

    fn bench_models(&self) -> Result<()> {
        let tests = tests(&self.n_prompt, &self.n_gen, &self.n_depth);
        if tests.is_empty() {
            bail!("nothing to measure: expected a number other than 0 after -p or -n");
        }
        let candidates = self.candidates()?;
        let place = Place::new(&Gpu::open(self.device.device)?)?;
        let columns = if place.peaks.is_some() { MODEL_COLUMNS } else { MODEL_COUNT_COLUMNS };
        let mut printer = Printer::new(out(), self.output, columns, place.heading());
        for candidate in candidates {
            let candidate = candidate()?;
            for (cells, object) in self.bench_model(&candidate, &tests, &place)? {
                printer.row(&cells, &object)?;
            }
        }
        Ok(printer.finish()?)
    }

    /// The models in the order in which they were named, each opened when its turn comes.
    #[allow(clippy::type_complexity)] // said in words above
    fn candidates(&self) -> Result<Vec<Box<dyn Fn() -> Result<Candidate> + '_>>> {
        let mut candidates: Vec<Box<dyn Fn() -> Result<Candidate>>> = Vec::new();
        for shape in &self.shape {
            for file_type in &self.types {
                let shape = Shape::find(shape).context("the shape that was just parsed")?;
                let file_type = FileType::find(&file_type.to_lowercase()).context("the type that was just parsed")?;
                candidates.push(Box::new(move || {
                    let gguf = Synth::new(shape, file_type, 0).without_matrices()?;
                    Ok(Candidate { name: gguf.name().to_owned(), gguf, from_file: false })
                }));
            }
        }
        let files = self.model.iter().map(|path| Some(path.clone()));
        let embedded = (self.model.is_empty() && self.shape.is_empty()).then_some(None);
        for model in files.chain(embedded) {
            candidates.push(Box::new(move || {
                let gguf = ModelArgument { model: model.clone() }.open_to_run()?;
                let stem = model.as_ref().and_then(|path| path.file_stem());
                let name = stem.map_or(gguf.name().to_owned(), |stem| stem.to_string_lossy().into_owned());
                Ok(Candidate { gguf, name, from_file: true })
            }));
        }
        Ok(candidates)
    }

    #[allow(clippy::type_complexity)] // rows as the printer takes them
    fn bench_model(
        &self,
        candidate: &Candidate,
        tests: &[Test],
        place: &Place,
    ) -> Result<Vec<(Vec<String>, Map<String, Value>)>> {
        let Candidate { gguf, name, from_file } = candidate;
        let options = EngineOptions { n_context: Some(positions(tests)), ..options_of(self, *from_file) };
        let start = Instant::now();
        let gpu = Gpu::open(self.device.device)?;
        let opened = start.elapsed().as_secs_f64();
        let mut engine = Engine::load(gpu, gguf, options, &mut |_, _| {})?;
        let loaded = start.elapsed().as_secs_f64();
        engine.decode(0)?;
        engine.greedy(engine.config().vocab_size, Then::Anything)?;
        let first_token = start.elapsed().as_secs_f64();

        let size: u64 = gguf.tensors().map(|tensor| tensor.bytes).sum();
        let parameters: u64 = gguf.tensors().map(|tensor| tensor.dims.iter().product::<u64>()).sum();
        let times = Times { open: opened, load: loaded - opened, first_token, from_file: *from_file };
        let mut rows = Vec::new();
        for &test in tests {
            let measured = measure(&mut engine, gguf, test, self.repetitions as usize)?;
            let mut object = Map::new();
            object.insert("kind".into(), json!("model"));
            object.insert("model".into(), json!(name));
            object.insert("size".into(), json!(size));
            object.insert("parameters".into(), json!(parameters));
            place.describe(&mut object);
            object.insert("cache_type".into(), json!(self.cache_type.to_string()));
            object.insert("activations".into(), json!(self.activations.to_string()));
            object.insert("n_batch".into(), json!(engine.n_batch()));
            let mut cells = vec![name.clone(), gibibytes(size), test.to_string()];
            describe_test(&measured, place, size, &times, &mut cells, &mut object);
            rows.push((cells, object));
        }
        Ok(rows)
    }

    fn bench_kernels(&self, filter: &str) -> Result<()> {
        let gpu = Gpu::open(self.device.device)?;
        let profiling = match &self.profile {
            Some(_) if gpu.backend() == Backend::Cuda => {
                bail!("--profile counts, which softcuda does: add --device soft");
            }
            Some(file) => Some(Profiling::start(file, &self.card)?),
            None => None,
        };
        let place = Place::new(&gpu)?;
        let columns = if place.peaks.is_some() { KERNEL_COLUMNS } else { KERNEL_COUNT_COLUMNS };
        // What is large is counted in software only where it is asked for.
        let wanted = |row: &Row| match (&place.peaks, filter) {
            (None, "") => row.small,
            (_, filter) => row.name().contains(filter),
        };
        let rows: Vec<Row> = rows().into_iter().filter(wanted).collect();
        if rows.is_empty() {
            bail!("no kernel or shape has {filter:?} in its name: --kernels without it shows all");
        }
        let mut printer = Printer::new(out(), self.output, columns, place.heading());
        let timer = place.peaks.map(|_| Timer::new(&gpu)).transpose()?;
        for row in rows {
            let mut object = Map::new();
            object.insert("kind".into(), json!("kernel"));
            object.insert("kernel".into(), json!(row.kernel));
            object.insert("shape".into(), json!(row.shape));
            place.describe(&mut object);
            object.insert("bytes".into(), json!(row.bytes));
            object.insert("operations".into(), json!(row.operations));
            let mut cells = vec![row.kernel.clone(), row.shape.clone()];
            match (&timer, &place.peaks) {
                (Some(timer), Some(peaks)) => match timer.time(&row, peaks, self.repetitions as usize) {
                    Ok(timed) => {
                        let micros = timed.seconds.map(|seconds| seconds * 1e6);
                        let tera = timed.operations.map(|operations| operations / 1e12);
                        cells.push(plus_minus(&micros, 2));
                        cells.push(format!("{:.0}", timed.bandwidth / 1e9));
                        cells.push(tera.map_or("—".into(), |tera| format!("{tera:.1}")));
                        cells.push(percent(timed.of_peak));
                        object.insert("seconds".into(), json!(timed.seconds.mean()));
                        object.insert("deviation".into(), json!(timed.seconds.deviation()));
                        object.insert("samples".into(), json!(timed.seconds));
                        object.insert("gb_per_s".into(), json!(timed.bandwidth / 1e9));
                        object.insert("tflop_per_s".into(), json!(tera));
                        object.insert("percent_of_peak".into(), json!(100.0 * timed.of_peak));
                    }
                    Err(error @ GpuError::OutOfMemory { .. }) => {
                        note(&format!("left out: {}: {error}", row.name()));
                        continue;
                    }
                    Err(error) => return Err(error).with_context(|| row.name()),
                },
                _ => {
                    let (counts, _) = row.count(&gpu).with_context(|| row.name())?;
                    cells.extend([
                        counts.warp_instructions.to_string(),
                        counts.global_bytes.to_string(),
                        row.bytes.to_string(),
                        counts.shared_conflicts.to_string(),
                        counts.shared_ways.to_string(),
                    ]);
                    object.insert("launches".into(), json!(counts.launches));
                    object.insert("warp_instructions".into(), json!(counts.warp_instructions));
                    object.insert("global_bytes".into(), json!(counts.global_bytes));
                    object.insert("streamed_bytes".into(), json!(counts.streamed_bytes));
                    object.insert("shared_conflicts".into(), json!(counts.shared_conflicts));
                    object.insert("shared_ways".into(), json!(counts.shared_ways));
                }
            }
            printer.row(&cells, &object)?;
        }
        printer.finish()?;
        profiling.map_or(Ok(()), Profiling::finish)
    }
}

/// How a model's engine is set up.
fn options_of(arguments: &Arguments, from_file: bool) -> EngineOptions {
    let defaults = EngineOptions::default();
    EngineOptions {
        cache_type: arguments.cache_type,
        activations: arguments.activations,
        n_batch: arguments.batch_size.unwrap_or(defaults.n_batch),
        matrices: if from_file { MatrixSource::File } else { MatrixSource::Made(random_matrices) },
        ..defaults
    }
}

/// What it took to get a model going, in seconds.
struct Times {
    open: f64,
    load: f64,
    /// From before the device was opened to the first token's id on the host.
    first_token: f64,
    from_file: bool,
}

/// A test's result: cells of the table and entries of the object.
fn describe_test(
    measured: &Measured,
    place: &Place,
    size: u64,
    times: &Times,
    cells: &mut Vec<String>,
    object: &mut Map<String, Value>,
) {
    let Measured { test, rates, launches_per_token, floor_bytes, operations, counts } = measured;
    let generates = matches!(test.work, Work::Generate(_));
    let of = |work: Work, yes: bool| json!(if yes { work.tokens() } else { 0 });
    object.insert("test".into(), json!(test.to_string()));
    object.insert("n_prompt".into(), of(test.work, !generates));
    object.insert("n_gen".into(), of(test.work, generates));
    object.insert("depth".into(), json!(test.depth));
    object.insert("launches_per_token".into(), json!(launches_per_token));
    let floor_bytes = generates.then_some(*floor_bytes);
    object.insert("floor_bytes_per_token".into(), json!(floor_bytes));
    if let Some(counts) = counts {
        let ratio = floor_bytes.map(|floor| counts.streamed_bytes as f64 / floor as f64);
        object.insert("warp_instructions_per_token".into(), json!(counts.warp_instructions));
        object.insert("streamed_bytes_per_token".into(), json!(counts.streamed_bytes));
        object.insert("streamed_over_floor".into(), json!(ratio));
        object.insert("global_bytes_per_token".into(), json!(counts.global_bytes));
        object.insert("shared_conflicts_per_token".into(), json!(counts.shared_conflicts));
        object.insert("shared_ways".into(), json!(counts.shared_ways));
        cells.extend([
            format!("{launches_per_token:.1}"),
            counts.warp_instructions.to_string(),
            counts.streamed_bytes.to_string(),
            floor_bytes.map_or("—".into(), |bytes| bytes.to_string()),
            ratio.map_or("—".into(), |ratio| format!("{ratio:.3}")),
            counts.global_bytes.to_string(),
            counts.shared_conflicts.to_string(),
        ]);
        return;
    }
    let floor = floor_bytes.zip(place.peaks).map(|(bytes, peaks)| peaks.read / bytes as f64);
    let of_floor = floor.map(|floor| rates.mean() / floor);
    let load_rate = times.from_file.then(|| size as f64 / times.load / 1e9);
    object.insert("tokens_per_s".into(), json!(rates.mean()));
    object.insert("deviation".into(), json!(rates.deviation()));
    object.insert("samples".into(), json!(rates));
    object.insert("floor_tokens_per_s".into(), json!(floor));
    object.insert("percent_of_floor".into(), json!(of_floor.map(|part| 100.0 * part)));
    let per_token = operations / test.work.tokens() as f64;
    object.insert("tflop_per_s".into(), json!(per_token * rates.mean() / 1e12));
    object.insert("open_s".into(), json!(times.open));
    object.insert("load_s".into(), json!(times.load));
    object.insert("load_gb_per_s".into(), json!(load_rate));
    object.insert("first_token_s".into(), json!(times.first_token));
    cells.extend([
        plus_minus(rates, 2),
        of_floor.map_or("—".into(), percent),
        if generates { format!("{launches_per_token:.1}") } else { "—".into() },
        format!("{:.3} s", times.first_token),
        load_rate.map_or("—".into(), |rate| format!("{rate:.1} GB/s")),
    ]);
}

fn plus_minus(sample: &Sample, decimals: usize) -> String {
    format!("{:.decimals$} ± {:.decimals$}", sample.mean(), sample.deviation())
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1u64 << 30) as f64)
}
