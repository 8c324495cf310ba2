//! Loading: how a model's bytes come to the device, and what the host spends on it.

mod support;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use driver::DeviceChoice;
use ferrowarp::{
    forward::{Engine, EngineOptions},
    gguf::{Gguf, TensorInfo, Value, Writer},
    gpu::{Gpu, arrange, kernels::CacheType},
    model::{Model, WeightView, figure::Op},
    synth::{FileType, Shape, Synth, create},
};
use support::fixtures::own;

/// The process's memory is measured here: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gpu() -> Gpu {
    Gpu::open(DeviceChoice::Soft).unwrap()
}

fn load(gpu: Gpu, gguf: &Gguf, progress: &mut dyn FnMut(u64, u64)) -> Engine {
    let options =
        EngineOptions { n_context: Some(64), n_batch: 16, cache_type: CacheType::F32, ..EngineOptions::default() };
    Engine::load(gpu, gguf, options, progress).unwrap_or_else(|error| panic!("{error}"))
}

/// Memory of the process that no file stands behind, in bytes (proc(5)).
fn anonymous_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let kilobytes = line.expect("RssAnon").split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}

/// A file of 350 MB goes through a ring of 32 MiB. softcuda's device memory is the process's own, so what was uploaded is
/// taken off: its bytes, and the bit for each that says it was written.
#[test]
fn loading_a_large_file_takes_little_of_the_host() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let shape = Shape::find("qwen2.5-0.5b").unwrap();
    let synth = Synth::new(shape, FileType::Q4_0, 1);
    let before = anonymous_memory();
    let mut largest = 0;
    create(&path, &synth, false, &mut |_| {
        largest = largest.max(anonymous_memory());
    })
    .unwrap();
    println!("writing: {} MiB", largest.saturating_sub(before) >> 20);
    assert!(largest.saturating_sub(before) < 128 << 20, "writing a file takes {largest} bytes");

    let (gguf, gpu) = (Gguf::open(&path).unwrap(), gpu());
    let before = anonymous_memory();
    let (mut peak, mut last, mut calls) = (0, 0, 0);
    let engine = load(gpu, &gguf, &mut |done, total| {
        assert!(last < done && done <= total, "{done} of {total} after {last}");
        let device = done + done / 8;
        peak = peak.max(anonymous_memory().saturating_sub(before + device));
        (last, calls) = (done, calls + 1);
    });
    println!("loading: {} MiB beside the page cache", peak >> 20);
    assert!(calls > 40, "progress was told {calls} times");
    let uploaded: u64 = gguf.tensors().map(|tensor| tensor.bytes).sum();
    assert_eq!(last, uploaded);
    assert!(uploaded > 300 << 20);
    assert!(peak < 64 << 20, "{peak} bytes of the host");

    // Tensors longer than the ring, and those that share a slot, are the file's bytes.
    let model = Model::open(&gguf).unwrap();
    let (weights, figure) = (engine.weights(), &model.figure);
    let read = |buffer| engine.gpu().read(buffer).unwrap();
    let arranged = |view: &WeightView| arrange(view.tensor_type, view.data);
    let embedding = "token_embd.weight";
    assert!(model.named(embedding).data.len() > 64 << 20);
    assert!(read(&weights.named(figure, embedding).data) == arranged(&model.named(embedding)));
    for layer in 0..figure.layers.len() {
        let down = format!("blk.{layer}.ffn_down.weight");
        assert!(read(&weights.named(figure, &down).data) == arranged(&model.named(&down)));
    }
    for node in &figure.nodes {
        let Op::Bias { bias, .. } = &node.op else { continue };
        let span = engine.gpu().read(&weights.span(bias)).unwrap();
        let piece = figure.vector(bias.vector).pieces.iter().scan(0, |start, (len, tensor)| {
            *start += len;
            Some((*start - len, tensor.unwrap()))
        });
        let (_, tensor) = piece.into_iter().find(|(start, _)| *start == bias.range.start).unwrap();
        assert_eq!(bytemuck::cast_slice::<f32, u8>(&span), model.view(tensor).data);
    }
}

/// Writes `gguf` as `n_parts` files, the metadata in the first, as llama.cpp's `gguf-split` does.
fn split(gguf: &Gguf, folder: &Path, n_parts: usize) -> PathBuf {
    let tensors: Vec<&TensorInfo> = gguf.tensors().collect();
    let name = |no: usize| folder.join(format!("model-{:05}-of-{n_parts:05}.gguf", no + 1));
    for (no, part) in tensors.chunks(tensors.len().div_ceil(n_parts)).enumerate() {
        let mut writer = Writer::default();
        if no == 0 {
            for (key, value) in gguf.metadata().iter() {
                writer.metadata(key, value);
            }
        }
        writer.metadata("split.no", &Value::U16(no as u16));
        writer.metadata("split.count", &Value::U16(n_parts as u16));
        writer.metadata("split.tensors.count", &Value::I32(tensors.len() as i32));
        let places: Vec<u64> =
            part.iter().map(|tensor| writer.tensor(&tensor.name, &tensor.dims, tensor.tensor_type)).collect();
        let mut bytes = writer.header();
        let start = bytes.len();
        for (tensor, place) in part.iter().zip(places) {
            bytes.resize(start + place as usize, 0);
            bytes.extend_from_slice(gguf.data(tensor));
        }
        std::fs::write(name(no), bytes).unwrap();
    }
    name(0)
}

fn logits(gguf: &Gguf) -> Vec<f32> {
    let mut engine = load(gpu(), gguf, &mut |_, _| {});
    for id in [1, 77, 300, 5] {
        engine.decode(id).unwrap();
    }
    engine.logits().unwrap()
}

#[test]
fn a_split_model_is_the_whole_one() {
    let _alone = alone();
    for name in ["qwen2-tiny-q4_k_m", "llama-tiny-q4_k_m"] {
        let whole = Gguf::open(&own(name).model).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let parts = Gguf::open(&split(&whole, folder.path(), 3)).unwrap();
        assert_eq!(parts.n_parts(), 3);
        assert_eq!(logits(&parts), logits(&whole), "{name}");

        // A part that is not there is named.
        let missing = folder.path().join("model-00002-of-00003.gguf");
        std::fs::remove_file(&missing).unwrap();
        let first = folder.path().join("model-00001-of-00003.gguf");
        let error = Gguf::open(&first).unwrap_err().to_string();
        assert!(error.contains("model-00002-of-00003.gguf"), "{error}");
    }
}

#[test]
fn progress_ends_at_the_whole_of_a_small_model() {
    let _alone = alone();
    let gguf = Gguf::open(&own("llama-tiny-q4_k_m").model).unwrap();
    let mut told = Vec::new();
    let engine = load(gpu(), &gguf, &mut |done, total| told.push((done, total)));
    let (done, total) = *told.last().unwrap();
    assert_eq!(done, total);
    // All but RoPE's frequencies, which are computed.
    let frequencies = 4 * engine.config().rope.n_rot as u64;
    assert_eq!(total, engine.plan().weights - frequencies);
}

/// A weight of bf16 that is beyond f16's range is refused where it would be multiplied in f16: in a layer, in an expert, and in the head where many sequences
/// are; nowhere else.
#[test]
fn weights_beyond_f16_are_refused_where_they_would_be_f16() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let rejects = |shape: &str, tensor: &str, n_sequences: usize| -> Option<String> {
        create(&path, &Synth::new(Shape::find(shape).unwrap(), FileType::BF16, 1), true, &mut |_| {}).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let gguf = Gguf::from_bytes(bytes.clone(), "model.gguf").unwrap();
        let data = gguf.data(gguf.tensor(tensor).expect(tensor)).to_vec();
        let start = bytes.windows(data.len()).position(|window| window == data).unwrap();
        // The last value: 2^17 in bf16.
        bytes[start + data.len() - 2..start + data.len()].copy_from_slice(&0x4800_u16.to_le_bytes());
        let gguf = Gguf::from_bytes(bytes, "model.gguf").unwrap();
        let options = EngineOptions { n_context: Some(64), n_batch: 16, n_sequences, ..EngineOptions::default() };
        Engine::load(gpu(), &gguf, options, &mut |_, _| {}).err().map(|error| error.to_string())
    };
    for (shape, tensor, n_sequences, place) in [
        ("tiny-qwen2", "blk.1.ffn_down.weight", 1, "layer 1"),
        ("tiny-qwen3moe", "blk.1.ffn_down_exps.weight", 1, "layer 1"),
        ("tiny-qwen2", "output.weight", 3, "the head"),
    ] {
        let error = rejects(shape, tensor, n_sequences).unwrap_or_else(|| panic!("{tensor} of {shape} is accepted"));
        support::check_message(&error, &[place, "BF16", "found a magnitude of 131072", "expected at most 65504"]);
    }
    assert_eq!(rejects("tiny-qwen2", "output.weight", 1), None);
}
