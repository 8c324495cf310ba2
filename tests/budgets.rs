//! What kernels and tokens cost, held to `benches/budgets.toml`.
//!
//! softcuda's counts are exact and the same on every machine, and so are the registers that `ptxas` gives a kernel. Whoever
//! changes one by more than 2 % is told the old number and the new one; `./x budgets` writes the new ones down, which makes
//! a raise a line of the diff.
//!
//! Some costs have a limit besides. One that is not kept yet is listed in the file under `not_met_yet`, with what it
//! is: the list is complete, so it only becomes shorter on purpose, and longer visibly.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use driver::DeviceChoice;
use ferrowarp::{
    bench::{Measured, Test, Work, kernels::rows, measure_from, recorded},
    forward::{Engine, EngineOptions, Logits, MatrixSource},
    gguf::Gguf,
    gpu::{Gpu, image::KERNELS},
    synth::{FileType, Shape, Synth, random_matrices},
    trace::Recorder,
};

/// Numbers by what they measure, by what has them.
type Table = BTreeMap<String, BTreeMap<String, f64>>;

/// The part of a number that it may change by.
const TOLERANCE: f64 = 0.02;

const HEADER: &str = "\
# What kernels and tokens cost, as softcuda counts it and ptxas says. tests/budgets.rs holds these numbers, to 2 %;
# `./x budgets` writes them anew.
";

const SECTIONS: [(&str, &str); 4] = [
    ("registers", "Registers of a thread, by the GPU that ptxas compiles for. No kernel spills any."),
    (
        "kernels",
        "One launch. warp_instructions: without moves between registers. global_bytes: in the sectors that warp\n\
         # instructions touch, the same sector as often as they do. streamed_over_needed: bytes read of weights or cache, over\n\
         # those there are. shared_ways: the worst conflict over a bank of shared memory.",
    ),
    (
        "tokens",
        "One token of decoding. streamed_over_needed: bytes read of weights and cache, over those that a token needs;\n\
         # global_over_needed: all global memory, activations that every block reads again included.",
    ),
    ("not_met_yet", "Limits that are not kept yet: what they are, and what it is instead."),
];

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/budgets.toml")
}

fn updating() -> bool {
    std::env::var_os("FERROWARP_UPDATE_BUDGETS").is_some()
}

/// One test at a time: the device records all launches of the process, and the file is rewritten as a whole.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read() -> BTreeMap<String, Table> {
    let file = file();
    let text = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && updating() => String::new(),
        text => text.unwrap_or_else(|error| panic!("{}: {error}", file.display())),
    };
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn write(budgets: &BTreeMap<String, Table>) {
    let mut text = HEADER.to_owned();
    for (section, comment) in SECTIONS {
        writeln!(text, "\n# {comment}\n[{section}]").unwrap();
        for (row, numbers) in budgets.get(section).into_iter().flatten() {
            let numbers: Vec<String> = numbers.iter().map(|(name, number)| format!("{name} = {number}")).collect();
            writeln!(text, "{row:?} = {{ {} }}", numbers.join(", ")).unwrap();
        }
    }
    std::fs::write(file(), text).unwrap();
}

/// What differs between a table of the file and what was measured, a line each.
fn differences(section: &str, old: &Table, new: &Table) -> Vec<String> {
    let mut lines = Vec::new();
    let rows: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for row in rows {
        let (old, new) = match (old.get(row), new.get(row)) {
            (Some(old), Some(new)) => (old, new),
            (None, _) => {
                lines.push(format!("{section}: {row}: not in the file, found {:?}", new[row]));
                continue;
            }
            (_, None) => {
                lines.push(format!("{section}: {row}: in the file, but not found any more"));
                continue;
            }
        };
        let metrics: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for metric in metrics {
            match (old.get(metric), new.get(metric)) {
                (Some(old), Some(new)) if (new - old).abs() <= TOLERANCE * old.abs() => {}
                (Some(old), Some(new)) => {
                    let percent = 100.0 * (new - old) / old;
                    lines.push(format!("{section}: {row}: {metric}: was {old}, is {new} ({percent:+.1} %)"));
                }
                (old, new) => lines.push(format!("{section}: {row}: {metric}: was {old:?}, is {new:?}")),
            }
        }
    }
    lines
}

/// Compares tables with the file's, or writes them there. Of `not_met_yet` only the rows that `owns` says.
fn hold(section: &str, measured: Table, not_met_yet: Table, owns: impl Fn(&str) -> bool) {
    let mut budgets = read();
    let all_exceptions = budgets.remove("not_met_yet").unwrap_or_default();
    let (own, mut others): (Table, Table) = all_exceptions.into_iter().partition(|(row, _)| owns(row));
    if updating() {
        others.extend(not_met_yet);
        budgets.insert(section.to_owned(), measured);
        budgets.insert("not_met_yet".to_owned(), others);
        write(&budgets);
        return;
    }
    let mut lines = differences(section, &budgets.remove(section).unwrap_or_default(), &measured);
    lines.extend(differences("not_met_yet", &own, &not_met_yet));
    assert!(
        lines.is_empty(),
        "{} of the costs in benches/budgets.toml changed; where that is meant, ./x budgets writes them down:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

/// A row of numbers.
fn numbers<const N: usize>(numbers: [(&str, f64); N]) -> BTreeMap<String, f64> {
    numbers.into_iter().map(|(name, number)| (name.to_owned(), number)).collect()
}

/// Three decimals: as much as means anything.
fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// Notes a limit that is exceeded.
fn limit(not_met_yet: &mut Table, what: String, at_most: f64, found: f64) {
    if found > at_most {
        not_met_yet.insert(what, numbers([("at_most", at_most), ("found", rounded(found))]));
    }
}

/// Matrix–vector products may take so many warp instructions for 256 weights: an H200 issues about 110 in the time it reads
/// 256 weights of F16, and 31 in that for Q4_K. The formats from IQ1_S on, which unpack more to a byte, may be as slow as 60 % of
/// Q4_K's bytes a second: so many as it issues in that time.
const INSTRUCTIONS: [(&str, f64); 14] = [
    ("gemv_f16", 20.0),
    ("gemv_q8_0", 14.0),
    ("gemv_q4_k", 18.0),
    ("gemv_q6_k", 26.0),
    ("gemv_iq1_s", at_60_percent(50.0)),
    ("gemv_iq1_m", at_60_percent(56.0)),
    ("gemv_iq2_xxs", at_60_percent(66.0)),
    ("gemv_iq2_xs", at_60_percent(74.0)),
    ("gemv_iq2_s", at_60_percent(82.0)),
    ("gemv_iq3_xxs", at_60_percent(98.0)),
    ("gemv_iq3_s", at_60_percent(110.0)),
    ("gemv_tq1_0", at_60_percent(54.0)),
    ("gemv_tq2_0", at_60_percent(66.0)),
    ("gemv_nvfp4", at_60_percent(144.0)),
];

/// Warp instructions in the time that `bytes` take at 60 % of the rate at which Q4_K's 144 are read.
const fn at_60_percent(bytes: f64) -> f64 {
    31.0 * bytes / 144.0 / 0.6
}

/// The shapes that they are counted at, both of Qwen2.5-7B, and their weights.
const PRODUCTS: [(&str, f64); 2] =
    [("7B attention output 3584×3584", 3584.0 * 3584.0), ("7B down 3584×18944", 3584.0 * 18944.0)];
/// The worst conflict over a bank.
const WAYS: f64 = 2.0;

#[test]
fn kernels_cost_what_they_did() {
    let _alone = alone();
    let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
    let (mut table, mut not_met_yet) = (Table::new(), Table::new());
    let mut launched = BTreeSet::new();
    for row in rows() {
        let product = PRODUCTS.iter().find(|(shape, _)| row.shape == *shape);
        let instructions = INSTRUCTIONS.iter().find(|(kernel, _)| row.kernel == *kernel);
        if !(row.small || product.is_some() && instructions.is_some()) {
            continue;
        }
        let (counts, kernels) = row.count(&gpu).unwrap_or_else(|error| panic!("{}: {error}", row.name()));
        launched.extend(kernels);
        let mut numbers = numbers([
            ("warp_instructions", counts.warp_instructions as f64),
            ("global_bytes", counts.global_bytes as f64),
            ("shared_ways", counts.shared_ways as f64),
        ]);
        let streamed = counts.streamed_bytes as f64 / row.streamed_bytes as f64;
        if row.streamed_bytes > 0 {
            numbers.insert("streamed_over_needed".to_owned(), rounded(streamed));
        }
        assert!(table.insert(row.name(), numbers).is_none(), "{} is in the table twice", row.name());
        limit(&mut not_met_yet, format!("{}: shared_ways", row.name()), WAYS, counts.shared_ways as f64);
        if let (Some((_, weights)), Some((_, at_most))) = (product, instructions) {
            let found = counts.warp_instructions as f64 / (weights / 256.0);
            limit(&mut not_met_yet, format!("{}: warp instructions for 256 weights", row.name()), *at_most, found);
            limit(&mut not_met_yet, format!("{}: streamed_over_needed", row.name()), STREAMED, streamed);
        }
    }
    let launchers = launchers();
    let has_launcher = |name: &str| launchers.iter().any(|stem| name.starts_with(stem.as_str()));
    let used = |name: &&str| has_launcher(name) && !gpu.image().is_empty(name);
    let missing: Vec<&str> = KERNELS.iter().copied().filter(|name| !launched.contains(*name)).filter(used).collect();
    assert!(missing.is_empty(), "kernels without a row in host/bench/kernels that is counted here: {missing:?}");
    hold("kernels", table, not_met_yet, |row| !row.starts_with("token: "));
}

/// The stems of the launchers' files, with which their kernels' names begin: what has no launcher the engine does not use, and
/// its cost is nobody's.
fn launchers() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("host/gpu/kernels");
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

/// Bytes read of weights and cache over those needed, at most, with the layers of real models.
const STREAMED: f64 = 1.03;

/// Launches of a token at most.
fn most_launches(n_layers: u64) -> f64 {
    (5 * n_layers + 3) as f64
}

/// Positions in the cache before the token that is counted, in the real models' layers.
const DEPTH: usize = 512;

/// One layer of a published shape with a vocabulary that does not matter.
fn layer_of(name: &'static str) -> &'static Shape {
    Box::leak(Box::new(Shape { n_layers: 1, vocab_size: 512, ..*Shape::find(name).unwrap() }))
}

fn count_token(gguf: &Gguf, depth: usize) -> Measured {
    let matrices = MatrixSource::Made(random_matrices);
    let options = EngineOptions { n_context: Some(depth + 2), n_batch: 1, matrices, ..EngineOptions::default() };
    let mut engine = Engine::load(Gpu::open(DeviceChoice::Soft).unwrap(), gguf, options, &mut |_, _| {}).unwrap();
    // What is in the cache does not change what is counted.
    let cache = vec![0; engine.saved_bytes(depth)];
    engine.restore_cache(&cache, depth, &vec![0; depth]).unwrap();
    measure_from(&mut engine, gguf, Test { work: Work::Generate(1), depth }, 1).unwrap()
}

#[test]
fn tokens_cost_what_they_did() {
    let _alone = alone();
    let (mut table, mut not_met_yet) = (Table::new(), Table::new());
    let tiny = ["tiny-qwen2", "tiny-llama", "tiny-qwen3", "tiny-qwen3moe"].map(|name| Shape::find(name).unwrap());
    let layers = ["qwen2.5-0.5b", "qwen2.5-7b"].map(layer_of);
    let types = [FileType::F16, FileType::Q8_0, FileType::Q4_K_S, FileType::Q6_K];
    for (shape, depth) in tiny.iter().map(|shape| (*shape, 4)).chain(layers.iter().map(|shape| (*shape, DEPTH))) {
        for file_type in types {
            let gguf = Synth::new(shape, file_type, 0).without_matrices().unwrap();
            let measured = count_token(&gguf, depth);
            let counts = measured.counts.expect("softcuda counts");
            let needed = measured.floor_bytes as f64;
            let streamed = counts.streamed_bytes as f64 / needed;
            let real = shape.n_layers == 1;
            let name = format!("{}{} {}", if real { "a layer of " } else { "" }, shape.name, file_type.name());
            let numbers = numbers([
                ("launches", measured.launches_per_token),
                ("warp_instructions", counts.warp_instructions as f64),
                ("streamed_over_needed", rounded(streamed)),
                ("global_over_needed", rounded(counts.global_bytes as f64 / needed)),
            ]);
            table.insert(name.clone(), numbers);
            let most = most_launches(shape.n_layers);
            limit(&mut not_met_yet, format!("token: {name}: launches"), most, measured.launches_per_token);
            if real {
                limit(&mut not_met_yet, format!("token: {name}: streamed_over_needed"), STREAMED, streamed);
            }
        }
    }
    hold("tokens", table, not_met_yet, |row| row.starts_with("token: "));
}

/// A prompt multiplies an expert's packed weights with all of its tokens together: pairs are sorted once a layer, and gate, up and down are a
/// launch each. A token alone has products of its own.
#[test]
fn a_prompt_takes_the_tokens_of_an_expert_together() {
    let _alone = alone();
    let shape = Shape::find("tiny-qwen3moe").unwrap();
    let gguf = Synth::new(shape, FileType::Q4_K_S, 0).without_matrices().unwrap();
    let matrices = MatrixSource::Made(random_matrices);
    let options = EngineOptions { n_context: Some(65), n_batch: 64, matrices, ..EngineOptions::default() };
    let mut engine = Engine::load(Gpu::open(DeviceChoice::Soft).unwrap(), &gguf, options, &mut |_, _| {}).unwrap();
    let mut launches = |n_tokens: usize| {
        let tokens: Vec<u32> = (0..n_tokens as u32).collect();
        let (result, records) = recorded(|| engine.forward(&tokens, Logits::Last, &mut Recorder::off()));
        result.unwrap();
        let records = records.expect("softcuda records");
        move |prefix: &str| records.iter().filter(|record| record.kernel.starts_with(prefix)).count()
    };
    let n_layers = shape.n_layers as usize;
    let prompt = launches(64);
    assert_eq!([prompt("experts_group"), prompt("gemm_q4_k")], [n_layers, 3 * n_layers]);
    let token = launches(1);
    assert_eq!([token("experts_group"), token("gemm_")], [0, 0]);
}

/// The registers in a report of `ptxas -v`, by kernel.
fn registers(report: &str) -> BTreeMap<String, f64> {
    let mut registers = BTreeMap::new();
    let mut kernel = None;
    for line in report.lines() {
        if let Some((_, after)) = line.split_once("Compiling entry function '") {
            kernel = after.split('\'').next().map(str::to_owned);
        }
        if let Some((_, after)) = line.split_once("Used ") {
            let number = after.split(' ').next().and_then(|number| number.parse().ok()).expect("a number of registers");
            registers.insert(kernel.take().expect("a kernel's name before its registers"), number);
        }
    }
    registers
}

#[test]
#[ignore = "`./x lint-ptx` runs it on what ptxas reported"]
fn registers_are_what_they_were() {
    let _alone = alone();
    let folder = std::env::var_os("FERROWARP_PTXAS_REPORTS").expect("FERROWARP_PTXAS_REPORTS names a folder");
    let mut table = Table::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let gpu = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let registers = registers(&std::fs::read_to_string(&path).unwrap());
        assert!(!registers.is_empty(), "{} names no kernel", path.display());
        for (kernel, n) in registers {
            table.entry(kernel).or_default().insert(gpu.clone(), n);
        }
    }
    let missing: Vec<&str> = KERNELS.iter().copied().filter(|name| !table.contains_key(*name)).collect();
    assert!(missing.is_empty(), "ptxas says nothing of {missing:?}");
    hold("registers", table, Table::new(), |_| false);
}

#[test]
fn a_change_is_told_with_both_numbers() {
    let table = |number: f64| Table::from([("gemv".to_owned(), numbers([("warp_instructions", number)]))]);
    assert!(differences("kernels", &table(100.0), &table(102.0)).is_empty());
    let lines = differences("kernels", &table(100.0), &table(103.0));
    assert_eq!(lines, ["kernels: gemv: warp_instructions: was 100, is 103 (+3.0 %)"]);
    assert_eq!(differences("kernels", &table(100.0), &table(97.0)).len(), 1);
    assert_eq!(differences("kernels", &table(1.0), &table(2.0)).len(), 1);
    let none = Table::new();
    assert_eq!(differences("kernels", &table(1.0), &none), ["kernels: gemv: in the file, but not found any more"]);
    assert!(differences("kernels", &none, &table(1.0))[0].contains("not in the file"));
}

#[test]
fn registers_are_read_from_what_ptxas_says() {
    let report = "ptxas info    : 0 bytes gmem\nptxas info    : Compiling entry function 'argmax' for 'sm_80'\n\
                  ptxas info    : Function properties for argmax\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill \
                  loads\nptxas info    : Used 20 registers, used 1 barriers, 128 bytes smem, 376 bytes cmem[0]\n";
    assert_eq!(registers(report), numbers([("argmax", 20.0)]));
}
