//! Device memory: the plan is what the device gives away, and a model that is too large is refused before anything happens.

mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use assert_cmd::Command;
use driver::{Backend, DeviceChoice, calls};
use ferrowarp::{
    forward::{Engine, EngineError, EngineOptions, MemoryPlan},
    gguf::Gguf,
    gpu::{Gpu, kernels::CacheType},
    model::Model,
    synth::{FileType, Shape, Synth},
};
use support::fixtures::{goldens, own};

/// Free memory is the device's, which all tests of a process share.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// softcuda counts every byte; the NVIDIA driver counts pages.
fn gpu() -> Gpu {
    Gpu::open(DeviceChoice::Soft).unwrap()
}

fn plan(gguf: &Gguf, options: &EngineOptions) -> MemoryPlan {
    MemoryPlan::new(gguf, &Model::open(gguf).unwrap(), options).unwrap()
}

/// Loads the model and gives what the device then holds more than before, and the engine's plan.
fn held(gguf: &Gguf, options: EngineOptions) -> (u64, MemoryPlan) {
    let gpu = gpu();
    let (before, _) = gpu.memory().unwrap();
    let engine = Engine::load(gpu, gguf, options, &mut |_, _| {}).unwrap();
    let (after, _) = engine.gpu().memory().unwrap();
    ((before - after) as u64, engine.plan().clone())
}

#[test]
fn the_plan_is_what_the_device_gives_away() {
    let _alone = alone();
    let mut models: Vec<Gguf> = goldens().iter().map(|golden| Gguf::open(&golden.model).unwrap()).collect();
    for shape in ["tiny-qwen2", "tiny-llama", "tiny-qwen3", "tiny-qwen3moe"] {
        let synth = Synth::new(Shape::find(shape).unwrap(), FileType::Q6_K, 1);
        let mut bytes = Vec::new();
        synth.write(&mut bytes, &mut |_| {}).unwrap();
        models.push(Gguf::from_bytes(bytes, shape).unwrap());
    }
    let options = EngineOptions::default();
    let ways = [
        options,
        EngineOptions { n_context: Some(100), n_batch: 7, all_logits: true, cache_type: CacheType::F32, ..options },
        EngineOptions { n_batch: 1, all_logits: true, cache_type: CacheType::BF16, ..options },
        EngineOptions { n_context: Some(33), n_batch: 64, cache_type: CacheType::Q8_0, ..options },
    ];
    for gguf in &models {
        for options in ways {
            let planned = plan(gguf, &options);
            let (held, of_engine) = held(gguf, options);
            assert_eq!(planned.total, held, "{}, {options:?}", gguf.name());
            assert_eq!(of_engine.total, held, "{}", gguf.name());
            // No second copy of the model: beside cache and scratch the device holds the file.
            let file: u64 = gguf.tensors().map(|tensor| tensor.bytes).sum();
            let rest = held - planned.cache - planned.scratch_bytes();
            assert!(
                rest as f64 <= file as f64 * 1.05,
                "{}: {rest} bytes of weights on the device, {file} in the file",
                gguf.name()
            );
            assert_eq!(rest, planned.weights);
            let unpacks = planned.scratch["unpacked weights"] > 0;
            assert!(!unpacks || options.n_batch > 1, "one token at a time is multiplied packed");
        }
    }
}

fn refusal(gguf: &Gguf, options: EngineOptions) -> String {
    let gpu = gpu();
    let (before, calls) = (gpu.memory().unwrap(), calls::counts());
    match Engine::load(gpu, gguf, options, &mut |_, _| panic!("it was loading")) {
        Err(error @ EngineError::Memory { .. }) => {
            assert_eq!(
                calls::counts().since(&calls).allocations(),
                0,
                "nothing is allocated for a model that does not fit"
            );
            assert_eq!(Gpu::open(DeviceChoice::Soft).unwrap().memory().unwrap(), before);
            error.to_string()
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("{options:?} was loaded"),
    }
}

#[test]
fn a_model_that_is_too_large_is_refused_with_what_would_fit() {
    let _alone = alone();
    let gguf = Gguf::open(&own("qwen2-tiny-q4_k_m").model).unwrap();
    let options = EngineOptions { n_context: Some(2048), n_batch: 64, ..EngineOptions::default() };
    let whole = plan(&gguf, &options);
    let limited = |limit| EngineOptions { memory_limit: Some(limit), ..options };

    // To the byte.
    assert_eq!(held(&gguf, limited(whole.total)).0, whole.total);
    let message = refusal(&gguf, limited(whole.total - 1));
    for part in [
        "qwen2-tiny-q4_k_m.gguf: device memory: found ",
        "1 bytes are missing",
        "KV cache 2.00 MiB",
        "use -c 1984, or --cache-type q8_0",
    ] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    // The advice is good.
    let shorter = EngineOptions { n_context: Some(1984), ..limited(whole.total - 1) };
    held(&gguf, shorter);
    let smaller = EngineOptions { cache_type: CacheType::Q8_0, ..limited(whole.total - 1) };
    held(&gguf, smaller);

    // Where a smaller type alone does not do, it allows a longer context.
    let tight = limited(whole.total - whole.cache * 3 / 4);
    let message = refusal(&gguf, tight);
    let advice = message.rsplit("use ").next().unwrap();
    let contexts: Vec<usize> =
        advice.split("-c ").skip(1).map(|text| text.split([',', ' ']).next().unwrap().parse().unwrap()).collect();
    assert_eq!(contexts.len(), 2, "{message}");
    assert!(contexts[0] < contexts[1] && advice.contains("--cache-type q8_0"), "{message}");
    let with = |n_context, cache_type| EngineOptions { n_context: Some(n_context), cache_type, ..tight };
    held(&gguf, with(contexts[0], CacheType::F16));
    refusal(&gguf, with(contexts[0] + 64, CacheType::F16));
    held(&gguf, with(contexts[1], CacheType::Q8_0));
    refusal(&gguf, with(contexts[1] + 64, CacheType::Q8_0));

    // From F32 there are several smaller types: the largest that fits, else the one with the longest context.
    let wide = EngineOptions { cache_type: CacheType::F32, ..options };
    let total = |cache_type| plan(&gguf, &EngineOptions { cache_type, ..options }).total;
    let advised = |limit: u64| {
        let message = refusal(&gguf, EngineOptions { memory_limit: Some(limit), ..wide });
        message.rsplit(", or ").next().unwrap().to_owned()
    };
    assert_eq!(advised(total(CacheType::F16)), "--cache-type f16");
    assert_eq!(advised(total(CacheType::F16) - 1), "--cache-type q8_0");
    let advice = advised(total(CacheType::Q8_0) - (256 << 10));
    assert!(advice.ends_with("--cache-type q8_0") && advice.starts_with("-c "), "{advice}");

    let message = refusal(&gguf, limited(whole.weights));
    assert!(message.contains("no -c or --cache-type would fit"), "{message}");
}

#[test]
fn the_nvidia_driver_needs_room_for_its_pages_and_cublas() {
    let gguf = Gguf::open(&own("qwen2-tiny-q4_k_m").model).unwrap();
    let model = Model::open(&gguf).unwrap();
    let options = EngineOptions::default();
    let mut plan = plan(&gguf, &options);
    let mut fits = |backend, free| plan.expect_room(&gguf, &model, &options, backend, free).is_ok();
    let total = MemoryPlan::new(&gguf, &model, &options).unwrap().total;
    assert!(fits(Backend::Soft, total));
    assert!(!fits(Backend::Cuda, total + (64 << 20)));
    // Each of its allocations grows by less than a page.
    let n_allocations = gguf.tensors().len() as u64 + 30;
    assert!(fits(Backend::Cuda, total + (64 << 20) + n_allocations * (1 << 20)));
}

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> (bool, String, String) {
    let output = Command::cargo_bin("ferrowarp")
        .unwrap()
        .args(arguments)
        .env("FERROWARP_DEVICE", "soft")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn inspect_shows_the_plan() {
    let golden = own("qwen3moe-tiny-q4_k_m");
    let (file, gguf) = (golden.model.to_str().unwrap(), Gguf::open(&golden.model).unwrap());
    let options = EngineOptions { n_context: Some(1000), cache_type: CacheType::Q8_0, ..EngineOptions::default() };
    let planned = plan(&gguf, &options);
    let arguments = ["inspect", file, "-c", "1000", "--cache-type", "q8_0", "--format", "json"];
    let (success, stdout, stderr) = run(&arguments, &[]);
    assert!(success, "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let memory = &json["memory"];
    assert_eq!(memory["total"], planned.total);
    assert_eq!(memory["cache"], planned.cache);
    assert_eq!(memory["weights"], planned.weights);
    assert_eq!(memory["scratch"]["activations"], planned.scratch["activations"]);
    assert_eq!(memory["cache_type"], "q8_0");
    assert_eq!(memory["free"], 8u64 << 30);
    assert_eq!(json["memory_problem"], serde_json::Value::Null);
    assert_eq!(json["architecture"], "qwen3moe");

    let (_, stdout, _) = run(&arguments[..6], &[]);
    let line = |name: &str| {
        let found = stdout.lines().find(|line| line.starts_with(&format!("  {name}  ")));
        found.unwrap_or_else(|| panic!("no {name} in:\n{stdout}"))
    };
    assert!(line("KV cache").ends_with("1024 positions, q8_0"), "{stdout}");
    assert!(line("free").ends_with("8.00 GiB"), "{stdout}");
    for name in ["weights", "activations", "logits", "unpacked weights", "in all"] {
        line(name);
    }

    let (success, stdout, _) = run(&arguments, &[("FERROWARP_MEMORY_LIMIT", "1M")]);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let problem = json["memory_problem"].as_str().unwrap();
    assert!(success && problem.contains("found 1.00 MiB free"), "{problem}");

    // A file is shown whether or not it can be loaded so.
    let (success, stdout, _) = run(&["inspect", file, "-c", "99999999"], &[]);
    assert!(success && stdout.contains("cannot be loaded: "), "{stdout}");
    assert!(stdout.contains("blk.1.attn_q.weight"), "{stdout}");
}

#[test]
fn generate_refuses_what_does_not_fit() {
    let golden = own("qwen2-tiny-q4_k_m");
    let file = golden.model.to_str().unwrap();
    let arguments = ["generate", "-m", file, "--raw", "-p", "a", "-n", "1", "--temp", "0"];
    let (success, _, stderr) = run(&arguments, &[]);
    assert!(success, "{stderr}");
    let (success, stdout, stderr) = run(&arguments, &[("FERROWARP_MEMORY_LIMIT", "6M")]);
    assert!(!success && stdout.is_empty(), "{stdout}");
    assert!(stderr.contains("are missing: use -c "), "{stderr}");
    let (success, _, stderr) = run(&arguments, &[("FERROWARP_MEMORY_LIMIT", "lots")]);
    assert!(!success && stderr.contains("such as 800M or 6G"), "{stderr}");
}
