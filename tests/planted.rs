//! Faults planted in a fused launch alone: the launches that make a user's tokens are those that are compared, and each fault is found at
//! the value where it begins.

mod support;

use driver::DeviceChoice;
use ferrowarp::{
    forward::{Engine, EngineOptions, Launch},
    gguf::Gguf,
    gpu::{Activations, Gpu, kernels::CacheType},
    model::Model,
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
