//! Faults planted in a fused launch alone: the launches that make a user's tokens are those that are compared, and each fault is found at
//! the value where it begins.

mod support;

use driver::DeviceChoice;
use ferrowarp::{
    forward::{Engine, EngineOptions, Launch, Logits},
    gguf::Gguf,
    gpu::{Activations, Gpu, kernels::CacheType},
    model::{Model, RopePairing},
    reference::Reference,
    trace::{Difference, Recorder, Trace},
};
use support::fixtures::own;

fn device() -> DeviceChoice {
    std::env::var("FERROWARP_DEVICE").map_or(DeviceChoice::Auto, |choice| choice.parse().expect("FERROWARP_DEVICE"))
}

/// A fault, the model it is in, and the value that it is found at, a token at a time or several together.
struct Fault {
    what: &'static str,
    model: &'static str,
    one_by_one: bool,
    plant: fn(&mut Launch),
    found_at: &'static str,
}

const FAULTS: &[Fault] = &[
    Fault {
        what: "the biases of queries, keys and values are dropped",
        model: "qwen2-tiny-f32",
        one_by_one: true,
        plant: |launch| {
            if let Launch::GemvStack { bias, .. } = launch {
                *bias = None;
            }
        },
        found_at: "Qcur-0.1",
    },
    Fault {
        what: "scores have another scale",
        model: "qwen2-tiny-f32",
        one_by_one: true,
        plant: |launch| {
            if let Launch::AttentionToken { heads, .. } = launch {
                heads.scale *= 0.5;
            }
        },
        found_at: "kqv_out-0",
    },
    Fault {
        what: "nothing is rotated",
        model: "qwen2-tiny-f32",
        one_by_one: true,
        plant: |launch| {
            if let Launch::AttentionToken { heads, .. } = launch {
                heads.rope = None;
            }
        },
        found_at: "kqv_out-0",
    },
    Fault {
        what: "heads are not normalised",
        model: "qwen3-tiny-q4_k_m",
        one_by_one: true,
        plant: |launch| {
            if let Launch::AttentionToken { parts, .. } = launch {
                (parts.q_norm, parts.k_norm) = (None, None);
            }
        },
        found_at: "kqv_out-0",
    },
    Fault {
        what: "the residual stream is not added",
        model: "qwen2-tiny-f32",
        one_by_one: true,
        plant: |launch| {
            if let Launch::Gemv { residual, swiglu: false, .. } = launch {
                *residual = None;
            }
        },
        found_at: "ffn_inp-0",
    },
    Fault {
        what: "a norm has another ε",
        model: "qwen2-tiny-f32",
        one_by_one: true,
        plant: |launch| {
            if let Launch::Gemv { norm: Some((_, epsilon)), swiglu: true, .. } = launch {
                *epsilon = 10.0;
            }
        },
        found_at: "ffn_swiglu-0",
    },
    Fault {
        what: "the residual stream is not added to a norm",
        model: "gemma3-tiny-f16",
        one_by_one: true,
        plant: |launch| {
            if let Launch::NormAdd { x, residual, .. } = launch {
                *residual = *x;
            }
        },
        found_at: "sa_out-0",
    },
    Fault {
        what: "experts are added up by other weights",
        model: "deepseek2-tiny-f16",
        one_by_one: true,
        plant: |launch| {
            if let Launch::GemvSum { x, weights, .. } = launch {
                *weights = *x;
            }
        },
        found_at: "ffn_moe_out-1",
    },
    Fault {
        what: "what rows of a prompt were divided by is forgotten",
        model: "exaone4-tiny-f16",
        one_by_one: false,
        plant: |launch| {
            if let Launch::Sum { factors, .. } = launch {
                *factors = None;
            }
        },
        // The first layer reads embeddings, whose rows are near 1.
        found_at: "kqv_out-1",
    },
    Fault {
        what: "sinks of a prompt are left out",
        model: "gpt-oss-tiny-f16",
        one_by_one: false,
        plant: |launch| {
            if let Launch::Flash { sinks, .. } = launch {
                *sinks = None;
            }
        },
        found_at: "kqv_out-0",
    },
    Fault {
        what: "queries of a prompt are not rotated",
        model: "qwen2-tiny-f16",
        one_by_one: false,
        plant: |launch| {
            if let Launch::Qkv { heads, .. } = launch {
                heads.rope = None;
            }
        },
        found_at: "kqv_out-0",
    },
    Fault {
        what: "a prompt's down projection replaces the residual stream",
        model: "qwen2-tiny-f16",
        one_by_one: false,
        plant: |launch| {
            if let Launch::Product { adds, .. } = launch {
                *adds = false;
            }
        },
        found_at: "ffn_inp-0",
    },
];

/// What the launches leave, with a fault or without.
fn traced(fault: &Fault, gguf: &Gguf, ids: &[u32], planted: bool) -> Trace {
    let options = EngineOptions {
        cache_type: if fault.one_by_one { CacheType::F32 } else { CacheType::F16 },
        activations: Activations::F32,
        n_batch: 64,
        all_logits: true,
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(Gpu::open(device()).unwrap(), gguf, options, &mut |_, _| {}).unwrap();
    if planted {
        engine.edit_launches(fault.plant);
    }
    engine.trace(ids, if fault.one_by_one { 1 } else { ids.len() }).unwrap()
}

#[test]
fn each_fault_is_found_where_it_begins() {
    for fault in FAULTS {
        let golden = own(fault.model);
        let gguf = Gguf::open(&golden.model).unwrap();
        let ids = &golden.prompts.iter().find(|prompt| prompt.ids.len() > 4).unwrap().ids[..5];
        let model = Model::open(&gguf).unwrap();
        let mut reference = Trace::new();
        let mut sink = |name: &str, shape: &[usize], data: &[f32]| reference.append(name, shape, data);
        Reference::new(&model).forward(ids, &mut Recorder::new(&mut sink)).unwrap();

        let tolerance = if fault.one_by_one { 1e-4 } else { 2e-2 };
        let sound = traced(fault, &gguf, ids, false).diff_common(&reference, tolerance);
        assert!(sound.first.is_none() && sound.compared > 10, "{}: {sound}", fault.what);
        let found = traced(fault, &gguf, ids, true).diff_common(&reference, tolerance);
        let Some(Difference::Values { name, error, .. }) = &found.first else { panic!("{}: {found}", fault.what) };
        println!("{}: {name} ({error:.1e})", fault.what);
        assert_eq!(name, fault.found_at, "{}", fault.what);
    }
}

/// A fault planted in the engine beside its launches, or in the file that it loads while the reference has the right one.
struct EngineFault {
    what: &'static str,
    model: &'static str,
    /// Whether every operation is a launch, which finds it closer.
    exact: bool,
    /// Tokens that are fed before it is planted.
    before: usize,
    /// Given the tokens that were fed.
    plant: fn(&mut Engine, &[u32]),
    /// What the engine loads in place of the file.
    file: fn(Vec<u8>) -> Vec<u8>,
    found_at: &'static str,
}

fn nothing(_: &mut Engine, _: &[u32]) {}

fn as_it_is(file: Vec<u8>) -> Vec<u8> {
    file
}

fn swap_pairing(engine: &mut Engine, _: &[u32]) {
    engine.edit_figure(|figure| {
        for rope in &mut figure.ropes {
            rope.pairing = match rope.pairing {
                RopePairing::Halves => RopePairing::Neighbours,
                RopePairing::Neighbours => RopePairing::Halves,
            };
        }
    });
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Changes the rows of the saved cache of the tokens fed so far: those of the first layer's keys, then of its values, each
/// `[n_kv_heads][tokens][head_dim]`.
fn edit_cache(engine: &mut Engine, ids: &[u32], edit: impl Fn(&mut [f32], usize, usize, usize)) {
    let shape = engine.figure().caches[0];
    let mut rows = floats(&engine.save_cache().unwrap());
    for part in rows.chunks_exact_mut(shape.n_kv_heads * ids.len() * shape.head_dim).take(2) {
        edit(part, shape.n_kv_heads, ids.len(), shape.head_dim);
    }
    engine.restore_cache(bytemuck::cast_slice(&rows), ids.len(), ids).unwrap();
}

const ENGINE_FAULTS: &[EngineFault] = &[
    EngineFault {
        what: "RoPE turns other pairs",
        model: "qwen2-tiny-f32",
        exact: true,
        before: 0,
        plant: swap_pairing,
        file: as_it_is,
        found_at: "Qcur-0.3",
    },
    EngineFault {
        what: "RoPE turns other pairs, in a fused launch",
        model: "qwen2-tiny-f32",
        exact: false,
        before: 0,
        plant: swap_pairing,
        file: as_it_is,
        found_at: "kqv_out-0",
    },
    EngineFault {
        what: "a bias is dropped",
        model: "qwen2-tiny-f32",
        exact: true,
        before: 0,
        plant: |engine, _| {
            engine.edit_launches(|launch| {
                if let Launch::Sum { bias, .. } = launch {
                    *bias = None;
                }
            });
        },
        file: as_it_is,
        found_at: "Qcur-0.1",
    },
    EngineFault {
        what: "keys and values lie one slot further on",
        model: "qwen2-tiny-f32",
        exact: false,
        before: 4,
        plant: |engine, ids| {
            edit_cache(engine, ids, |part, _, n, head_dim| {
                for head in part.chunks_exact_mut(n * head_dim) {
                    head.copy_within(..(n - 1) * head_dim, head_dim);
                }
            });
        },
        file: as_it_is,
        found_at: "kqv_out-0",
    },
    EngineFault {
        what: "query heads read another key/value head",
        model: "qwen2-tiny-f32",
        exact: false,
        before: 4,
        plant: |engine, ids| {
            edit_cache(engine, ids, |part, heads, n, head_dim| part.rotate_left((heads > 1) as usize * n * head_dim))
        },
        file: as_it_is,
        found_at: "kqv_out-0",
    },
    EngineFault {
        what: "scores are not scaled",
        model: "qwen2-tiny-f32",
        exact: false,
        before: 0,
        plant: |engine, _| {
            engine.edit_launches(|launch| {
                if let Launch::AttentionToken { heads, .. } = launch {
                    heads.scale = 1.0;
                }
            });
        },
        file: as_it_is,
        found_at: "kqv_out-0",
    },
    EngineFault {
        what: "a square weight is transposed",
        model: "qwen2-tiny-f32",
        exact: true,
        before: 0,
        plant: |engine, _| {
            let weights = engine.weights().named(engine.figure(), "blk.0.attn_output.weight");
            let n = weights.n_in;
            assert_eq!(weights.n_out, n, "a square matrix");
            let rows = floats(&engine.gpu().read(&weights.data).unwrap());
            let turned: Vec<f32> = (0..n * n).map(|at| rows[at % n * n + at / n]).collect();
            engine.gpu().write(&weights.data, bytemuck::cast_slice::<_, u8>(&turned)).unwrap();
        },
        file: as_it_is,
        found_at: "attn_out-0",
    },
    EngineFault {
        what: "the window is shorter",
        model: "gemma3-tiny-f16",
        exact: false,
        before: 0,
        plant: nothing,
        file: |mut file| {
            // A key, its type (u32) and its value.
            const KEY: &[u8] = b"gemma3.attention.sliding_window";
            let value = file.windows(KEY.len()).position(|part| part == KEY).expect("the key") + KEY.len() + 4;
            file[value..value + 4].copy_from_slice(&2u32.to_le_bytes());
            file
        },
        found_at: "kqv_out-0",
    },
    EngineFault {
        what: "sinks are dropped",
        model: "gpt-oss-tiny-f16",
        exact: true,
        before: 0,
        plant: |engine, _| {
            engine.edit_launches(|launch| {
                if let Launch::Attention { sinks, .. } = launch {
                    *sinks = None;
                }
            });
        },
        file: as_it_is,
        found_at: "kq_soft_max-0",
    },
];

#[test]
fn each_fault_of_the_engine_is_found_at_its_tensor() {
    let folder = tempfile::tempdir().unwrap();
    let mut wrong = Vec::new();
    for fault in ENGINE_FAULTS {
        let golden = own(fault.model);
        let gguf = Gguf::open(&golden.model).unwrap();
        let ids = &golden.prompts.iter().find(|prompt| prompt.ids.len() > 4).unwrap().ids[..5];
        let model = Model::open(&gguf).unwrap();
        let mut reference = Trace::new();
        let mut sink = |name: &str, shape: &[usize], data: &[f32]| reference.append(name, shape, data);
        Reference::new(&model).forward(ids, &mut Recorder::new(&mut sink)).unwrap();

        let traced = |planted: bool| {
            let file = folder.path().join("planted.gguf");
            let bytes = std::fs::read(&golden.model).unwrap();
            std::fs::write(&file, if planted { (fault.file)(bytes) } else { bytes }).unwrap();
            let options = EngineOptions {
                cache_type: CacheType::F32,
                activations: Activations::F32,
                n_batch: 64,
                all_logits: true,
                exact: fault.exact,
                ..EngineOptions::default()
            };
            let gguf = Gguf::open(&file).unwrap();
            let mut engine = Engine::load(Gpu::open(device()).unwrap(), &gguf, options, &mut |_, _| {}).unwrap();
            let mut trace = Trace::new();
            for (at, id) in ids.iter().enumerate() {
                if planted && at == fault.before {
                    (fault.plant)(&mut engine, &ids[..at]);
                }
                let mut sink = |name: &str, shape: &[usize], data: &[f32]| trace.append(name, shape, data);
                engine.forward(&[*id], Logits::All, &mut Recorder::new(&mut sink)).unwrap();
            }
            trace
        };
        // One token at a time and f32 throughout: what `verify` allows then.
        let sound = traced(false).diff_common(&reference, 1e-4);
        assert!(sound.first.is_none() && sound.compared > 10, "{}: {sound}", fault.what);
        match traced(true).diff_common(&reference, 1e-4).first {
            Some(Difference::Values { name, error, .. }) => {
                println!("{}: {name} ({error:.1e})", fault.what);
                if name != fault.found_at {
                    wrong.push(format!("{}: found at {name}, expected {}", fault.what, fault.found_at));
                }
            }
            other => wrong.push(format!("{}: {other:?}", fault.what)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
