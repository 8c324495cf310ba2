//! The facts that the device's model code must get right: each was a real bug somewhere.
//!
//! What a kernel alone can get wrong is tested with the kernel (`tests/kernels`), what the file's reader must refuse in
//! `tests/gguf_rejects.rs`. Here is what shows only in the whole, and files broken on purpose: a guard that does not see
//! the fault it is there for guards nothing.

mod support;

use driver::{DeviceChoice, calls};
use ferrowarp::{
    forward::{Engine, EngineOptions, Logits, Then},
    gguf::{Gguf, TensorType},
    gpu::{Activations, Gpu, Weights, arrange, kernels::CacheType},
    model::{
        Model,
        figure::{Stack, TensorId, VectorId},
    },
    reference::Reference,
    trace::{Recorder, Trace, relative_error},
};
use half::f16;
use support::fixtures::{Golden, Prompt, goldens, own};

fn device() -> DeviceChoice {
    std::env::var("FERROWARP_DEVICE").map_or(DeviceChoice::Auto, |choice| choice.parse().expect("FERROWARP_DEVICE"))
}

fn engine(gguf: &Gguf, cache_type: CacheType) -> Engine {
    let options = EngineOptions {
        cache_type,
        activations: Activations::F32,
        n_batch: 64,
        all_logits: true,
        ..EngineOptions::default()
    };
    let gpu = Gpu::open(device()).expect("the device asked for");
    Engine::load(gpu, gguf, options, &mut |_, _| {}).unwrap()
}

fn prompt<'a>(golden: &'a Golden, name: &str) -> &'a Prompt {
    golden.prompts.iter().find(|prompt| prompt.name == name).unwrap_or_else(|| panic!("no prompt {name}"))
}

/// The relative error of the prompt's golden logits, fed to the device a token at a time.
fn error(gguf: &Gguf, prompt: &Prompt) -> f64 {
    let mut engine = engine(gguf, CacheType::F32);
    let want = prompt.logits.as_ref().expect("golden logits");
    let vocab_size = want.shape[1];
    let mut got = Vec::new();
    for id in &prompt.ids {
        engine.decode(*id).unwrap();
        got.extend(engine.logits().unwrap());
    }
    let got = &got[got.len() - want.data.len()..];
    let rows = got.chunks(vocab_size).zip(want.data.chunks(vocab_size));
    rows.map(|(got, want)| relative_error(got, want)).fold(0.0, f64::max)
}

/// The fixture with the bytes of some tensors changed.
fn edited(golden: &Golden, edit: impl Fn(&str, &mut [u8])) -> Gguf {
    let gguf = Gguf::open(&golden.model).unwrap();
    let mut bytes = std::fs::read(&golden.model).unwrap();
    for tensor in gguf.tensors() {
        edit(&tensor.name, &mut bytes[tensor.offset as usize..][..tensor.bytes as usize]);
    }
    Gguf::from_bytes(bytes, &format!("{} edited", golden.name)).unwrap()
}

/// The fixture with one metadata value replaced by another of the same length, both given as their bytes after the key.
fn with_metadata(golden: &Golden, key: &str, value: [u8; 4]) -> Gguf {
    let mut bytes = std::fs::read(&golden.model).unwrap();
    let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).expect(key);
    // The key is followed by its value's type (4 bytes) and the value.
    bytes[at + key.len() + 4..][..4].copy_from_slice(&value);
    Gguf::from_bytes(bytes, &format!("{} with another {key}", golden.name)).unwrap()
}

fn scale_f32(bytes: &mut [u8], factor: f32) {
    for value in bytes.chunks_exact_mut(4) {
        let scaled = f32::from_le_bytes([value[0], value[1], value[2], value[3]]) * factor;
        value.copy_from_slice(&scaled.to_le_bytes());
    }
}

#[test]
fn the_golden_logits_catch_each_fault() {
    let golden = own("qwen2-tiny-f32");
    let prompt = prompt(&golden, "short");
    let sound = edited(&golden, |_, _| {});
    assert!(error(&sound, prompt) < 1e-4);

    let faults: [(&str, Gguf); 6] = [
        // "They look like corruption": values like −34 in a bias are data.
        (
            "q, k and v biases zeroed",
            edited(&golden, |name, bytes| {
                if name.ends_with(".bias") {
                    bytes.fill(0);
                }
            }),
        ),
        (
            "one key bias dropped",
            edited(&golden, |name, bytes| {
                if name == "blk.0.attn_k.bias" {
                    bytes.fill(0);
                }
            }),
        ),
        ("another RoPE base", with_metadata(&golden, "qwen2.rope.freq_base", 5e5f32.to_le_bytes())),
        ("another epsilon", with_metadata(&golden, "qwen2.attention.layer_norm_rms_epsilon", 1e-2f32.to_le_bytes())),
        // A matrix read as its transpose: here the square output projection, which no shape check can tell.
        (
            "the output projection transposed",
            edited(&golden, |name, bytes| {
                if name == "blk.0.attn_output.weight" {
                    let n = (bytes.len() / 4).isqrt();
                    assert_eq!(n * n * 4, bytes.len(), "a square matrix");
                    let old = bytes.to_vec();
                    for (row, column) in (0..n).flat_map(|row| (0..n).map(move |column| (row, column))) {
                        bytes[(row * n + column) * 4..][..4].copy_from_slice(&old[(column * n + row) * 4..][..4]);
                    }
                }
            }),
        ),
        (
            "keys scaled as if by another head size",
            edited(&golden, |name, bytes| {
                if name.contains("attn_k.") {
                    scale_f32(bytes, std::f32::consts::SQRT_2);
                }
            }),
        ),
    ];
    for (fault, gguf) in faults {
        let error = error(&gguf, prompt);
        println!("{fault}: {error:.1e}");
        // At least ten times the tolerance: the guard does not bite by luck.
        assert!(error > 1e-3, "{fault}: the golden logits differ by {error:.1e} only");
    }
}

#[test]
fn an_embedding_row_is_the_files_row() {
    let golden = own("qwen2-tiny-f32");
    let gguf = Gguf::open(&golden.model).unwrap();
    let table = gguf.data(gguf.tensor("token_embd.weight").unwrap());
    let mut engine = engine(&gguf, CacheType::F32);
    let n_embd = engine.config().n_embd;
    let ids = [0, 1, 77, 300, 511];
    let mut trace = Trace::new();
    let mut sink = |name: &str, shape: &[usize], data: &[f32]| trace.append(name, shape, data);
    engine.forward(&ids, Logits::None, &mut Recorder::new(&mut sink)).unwrap();
    let got = &trace.get("inp_embd").expect("the embedding is traced").data;
    for (row, id) in got.chunks(n_embd).zip(ids) {
        let want = &table[id as usize * n_embd * 4..][..n_embd * 4];
        assert_eq!(bytemuck::cast_slice::<f32, u8>(row), want, "row {id}");
    }
}

/// The bytes of each part of a stack on the device.
fn on_device(engine: &Engine, weights: &Weights) -> Vec<Vec<u8>> {
    weights.rows_of_parts().map(|rows| engine.gpu().read(&rows.part()).unwrap()).collect()
}

/// The same from the file: pieces one above the other, neighbours of one type together, their fields apart.
fn of_file(model: &Model, stack: &Stack) -> Vec<Vec<u8>> {
    let mut parts: Vec<(TensorType, Vec<u8>)> = Vec::new();
    for piece in &stack.pieces {
        let view = model.view(piece.tensor);
        let of_matrix = |matrix: usize| {
            let view = view.matrix(matrix);
            (0..piece.n_rows()).flat_map(move |row| view.row(piece.row(row)).to_vec())
        };
        let bytes = (0..stack.n_matrices).flat_map(of_matrix);
        match parts.last_mut() {
            Some((tensor_type, all)) if *tensor_type == view.tensor_type => all.extend(bytes),
            _ => parts.push((view.tensor_type, bytes.collect())),
        }
    }
    parts.iter().map(|(tensor_type, bytes)| arrange(*tensor_type, bytes)).collect()
}

#[test]
fn weights_on_the_device_are_the_files_bytes() {
    for golden in goldens() {
        let gguf = Gguf::open(&golden.model).unwrap();
        let model = Model::open(&gguf).unwrap();
        let engine = engine(&gguf, CacheType::F16);
        for (stack, device) in model.figure.stacks.iter().zip(engine.weights().stacks()) {
            let name = model.view(stack.pieces[0].tensor).name;
            assert_eq!((device.n_out, device.n_in), (stack.n_out, stack.n_in), "{} {name}", golden.name);
            assert_eq!(on_device(&engine, device), of_file(&model, stack), "{} {name}", golden.name);
        }
        for (index, vector) in model.figure.vectors.iter().enumerate() {
            let of_piece = |(len, tensor): &(usize, Option<TensorId>)| match tensor {
                Some(tensor) => model.view(*tensor).data.to_vec(),
                None => vec![0; 4 * len],
            };
            let want: Vec<u8> = vector.pieces.iter().flat_map(of_piece).collect();
            let device = engine.weights().vector(VectorId(index));
            let got = engine.gpu().read(&device.cast::<u8>()).unwrap();
            assert_eq!(got, want, "{} vector {index}", golden.name);
        }
    }
}

#[test]
fn activations_beyond_f16_stay_finite_and_right_in_prefill() {
    // A bf16 or f16 model whose feed-forward activations pass 65504: `up` sixteen thousand times larger, `down` as much smaller.
    let golden = own("qwen2-tiny-f16");
    let gguf = edited(&golden, |name, bytes| {
        let factor = match name {
            name if name.contains("ffn_up") => 16384.0,
            name if name.contains("ffn_down") => 1.0 / 16384.0,
            _ => return,
        };
        for value in bytes.chunks_exact_mut(2) {
            let scaled = f16::from_f32(f16::from_le_bytes([value[0], value[1]]).to_f32() * factor);
            value.copy_from_slice(&scaled.to_le_bytes());
        }
    });
    assert_eq!(gguf.tensor("blk.0.ffn_up.weight").unwrap().tensor_type, TensorType::F16);
    let model = Model::open(&gguf).unwrap();
    let ids = &prompt(&golden, "short").ids;
    let mut largest = 0f32;
    let mut sink = |name: &str, _: &[usize], data: &[f32]| {
        if name.starts_with("ffn_swiglu") {
            largest = data.iter().fold(largest, |largest, value| largest.max(value.abs()));
        }
    };
    let mut reference = Reference::new(&model);
    let want = reference.forward(ids, &mut Recorder::new(&mut sink)).unwrap();
    assert!(largest > 65504.0, "the activations reach {largest} only: the test tests nothing");

    let mut engine = engine(&gguf, CacheType::F32);
    engine.forward(ids, Logits::All, &mut Recorder::off()).unwrap();
    let got = engine.logit_rows(ids.len()).unwrap();
    assert!(got.iter().all(|logit| logit.is_finite()));
    let error = relative_error(&got, &want);
    assert!(error < 1e-2, "prefill differs by {error:.1e}");
}

#[test]
fn a_token_step_allocates_and_frees_nothing() {
    let golden = own("qwen2-tiny-f32");
    let gguf = Gguf::open(&golden.model).unwrap();
    let mut engine = engine(&gguf, CacheType::F16);
    engine.forward(&prompt(&golden, "short").ids, Logits::Last, &mut Recorder::off()).unwrap();
    // As generation does: the prompt's last logits give the first token, and reading it waits for the prompt.
    engine.greedy(512, Then::Anything).unwrap();
    for step in 0..20 {
        let before = calls::counts();
        engine.decode(7).unwrap();
        let pass = calls::counts().since(&before);
        // The position and the token go in; nothing waits.
        assert_eq!(pass.allocations() + pass.frees() + pass.synchronisations(), 0, "step {step}: {pass:?}");
        let token = engine.greedy(512, Then::Anything).unwrap();
        let whole = calls::counts().since(&before);
        assert_eq!(whole.allocations() + whole.frees(), 0, "step {step}: {whole:?}");
        assert!(token < 512);
    }
}

#[test]
fn a_hundred_generations_leave_the_memory_as_it_was() {
    let golden = own("qwen2-tiny-f32");
    let gguf = Gguf::open(&golden.model).unwrap();
    let mut engine = engine(&gguf, CacheType::F16);
    let before = calls::counts();
    let mut first = None;
    for generation in 0..100 {
        engine.reset();
        engine.forward(&prompt(&golden, "one").ids, Logits::Last, &mut Recorder::off()).unwrap();
        let mut ids = vec![engine.greedy(512, Then::Anything).unwrap()];
        for _ in 0..3 {
            engine.decode(ids[ids.len() - 1]).unwrap();
            ids.push(engine.greedy(512, Then::Anything).unwrap());
        }
        assert_eq!(*first.get_or_insert_with(|| ids.clone()), ids, "generation {generation}");
    }
    let all = calls::counts().since(&before);
    assert_eq!(all.allocations() + all.frees(), 0, "{all:?}");
}

#[test]
fn loading_and_dropping_a_model_gives_its_memory_back() {
    // Counted by this thread's calls: other tests use the same device at the same time.
    let golden = own("qwen2-tiny-f32");
    let gguf = Gguf::open(&golden.model).unwrap();
    let before = calls::counts();
    drop(engine(&gguf, CacheType::F16));
    let all = calls::counts().since(&before);
    assert!(all.allocations() > 20, "{all:?}");
    assert_eq!(all.allocations(), all.frees(), "{all:?}");
}
