//! Parts of the families for which there is no golden model, on the device: against the CPU reference, and each against a
//! case worked by hand. `tests/families.rs` holds the reference to the same cases.

mod support;

use driver::DeviceChoice;
use ferrowarp::{
    forward::{Engine, EngineOptions, Logits},
    gguf::{Gguf, Value},
    gpu::{Activations, Gpu, kernels::CacheType},
    model::Model,
    reference::Reference,
    trace::{Recorder, Trace},
};
use support::tiny::{Shape, TinyModel};

/// The kernels' smallest head.
const SMALL: Shape = Shape {
    n_layers: 2,
    n_embd: 64,
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 64,
    n_ff: 96,
    vocab_size: 32,
    experts: (0, 0),
};

fn open(model: &TinyModel) -> Gguf {
    Gguf::from_bytes(model.bytes(), "tiny.gguf").unwrap_or_else(|error| panic!("{error}"))
}

/// Every tensor of a pass over `ids` on the device, `step` tokens at a time.
fn device_trace(model: &TinyModel, ids: &[u32], step: usize, exact: bool) -> Trace {
    let options = EngineOptions {
        exact,
        cache_type: CacheType::F32,
        activations: Activations::F32,
        n_batch: step,
        all_logits: true,
        ..EngineOptions::default()
    };
    let device = std::env::var("FERROWARP_DEVICE")
        .map_or(DeviceChoice::Auto, |choice| choice.parse().expect("FERROWARP_DEVICE"));
    let gpu = Gpu::open(device).unwrap();
    let mut engine = Engine::load(gpu, &open(model), options, &mut |_, _| {}).unwrap_or_else(|error| panic!("{error}"));
    let mut trace = Trace::new();
    for chunk in ids.chunks(step) {
        let mut sink = |name: &str, shape: &[usize], data: &[f32]| trace.append(name, shape, data);
        engine.forward(chunk, Logits::All, &mut Recorder::new(&mut sink)).unwrap();
    }
    trace
}

/// The same on the CPU.
fn reference_trace(model: &TinyModel, ids: &[u32], step: usize) -> Trace {
    let gguf = open(model);
    let model = Model::open(&gguf).unwrap();
    let mut reference = Reference::new(&model);
    let mut trace = Trace::new();
    for chunk in ids.chunks(step) {
        let mut sink = |name: &str, shape: &[usize], data: &[f32]| trace.append(name, shape, data);
        reference.forward(chunk, &mut Recorder::new(&mut sink)).unwrap();
    }
    trace
}

/// Compares every tensor, token by token, in chunks, and together. All weights are F32, so 1e-4 holds for each way.
fn check(model: &TinyModel) {
    let ids: Vec<u32> = (0..41).map(|i| i * i % 32).collect();
    for step in [1, 16, ids.len()] {
        let reference = reference_trace(model, &ids, step);
        // Every value, by launches of an operation each; and those that generation's launches leave.
        for (exact, least) in [(true, 2 * 10 + 3), (false, 2 * 6 + 2)] {
            let device = device_trace(model, &ids, step, exact);
            let diff = device.diff_common(&reference, 1e-4);
            assert!(diff.first.is_none(), "{step} at a time: {diff}");
            assert!(diff.compared >= least, "{} compared", diff.compared);
            assert!(device.get("result_output").is_some());
        }
    }
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() <= 1e-5 * want.abs().max(1.0), "{got}, expected {want}");
    }
}

#[test]
fn mixtrals_experts_are_the_references() {
    for (experts, normalise) in [((8, 2), true), ((4, 3), false), ((3, 1), true)] {
        let mut model = TinyModel::new("llama", Shape { experts, ..SMALL }, 11);
        model.set("expert_weights_norm", Value::Bool(normalise));
        model.set("expert_weights_scale", Value::F32(1.5));
        check(&model);
    }
}

/// One layer whose attention adds nothing, so that the feed-forward network sees the normalised embedding, all ones.
///
/// The router's logits are ln 1, ln 2, ln 4, ln 1, so the probabilities are 1/8, 2/8, 4/8, 1/8, and experts 2 and 1 are
/// used, with 2/3 and 1/3. Expert 1's gate is ln 3, of which silu is 3/4·ln 3, and it writes that to the first value;
/// expert 2's is −ln 3, of which silu is −1/4·ln 3, and it writes twice that to the second. The other two would write
/// millions everywhere.
#[test]
fn a_mixture_weighs_its_experts() {
    let shape = Shape { n_layers: 1, n_heads: 1, n_kv_heads: 1, n_ff: 4, experts: (4, 2), ..SMALL };
    let mut model = TinyModel::new("llama", shape, 5);
    let ln3 = 3f32.ln();
    model.tensor("token_embd.weight").fill(&[1.0; 32 * 64]);
    model.tensor("blk.0.attn_output.weight").fill(&[0.0; 64 * 64]);
    model.tensor("blk.0.ffn_norm.weight").fill(&[1.0; 64]);
    // Rows whose product with ones is the value.
    let rows = |values: &[f32], times: usize| -> Vec<f32> {
        let row = |value: &f32| [value / 64.0; 64].repeat(times);
        values.iter().flat_map(row).collect()
    };
    let router = rows(&[0.0, 2f32.ln(), 4f32.ln(), 0.0], 1);
    model.tensor("blk.0.ffn_gate_inp.weight").fill(&router);
    let gates = rows(&[1.0, ln3, -ln3, 1.0], 4);
    model.tensor("blk.0.ffn_gate_exps.weight").fill(&gates);
    model.tensor("blk.0.ffn_up_exps.weight").fill(&rows(&[1.0; 4], 4));
    // [experts][64][4]: the four values between are equal, a quarter of each makes one.
    let mut down = vec![1e6; 4 * 64 * 4];
    down[256..3 * 256].fill(0.0);
    down[256..260].fill(0.25);
    down[2 * 256 + 4..2 * 256 + 8].fill(0.5);
    model.tensor("blk.0.ffn_down_exps.weight").fill(&down);

    let ln3 = 3f64.ln();
    let mut want = vec![1.0; 64];
    want[0] += 0.25 * ln3;
    want[1] -= ln3 / 3.0;
    for (ids, step) in [(&[0][..], 1), (&[3, 7, 9], 3)] {
        let trace = device_trace(&model, ids, step, true);
        let weights = &trace.get("ffn_moe_weights_norm-0").unwrap().data;
        assert_close(weights, &[2.0 / 3.0, 1.0 / 3.0].repeat(ids.len()));
        assert_close(&trace.get("l_out-0").unwrap().data, &want.repeat(ids.len()));
    }
}

#[test]
fn linearly_scaled_rope_is_the_references() {
    for (architecture, factor) in [("llama", 4.0), ("qwen2", 2.5), ("qwen3", 8.0)] {
        let mut model = TinyModel::new(architecture, SMALL, 12);
        model.set("rope.scaling.type", Value::String("linear".into()));
        model.set("rope.scaling.factor", Value::F32(factor));
        check(&model);
    }
}

/// 64 rotated values and base 10⁴: pair i turns by 10^(−i/8) per position. Divided by 4, at position 8, pair 0 has turned by 2
/// radians, pair 8 by 0.2, pair 16 by 0.02, pair 24 by 0.002.
#[test]
fn linear_scaling_divides_every_angle() {
    let mut model = TinyModel::new("llama", SMALL, 5);
    model.set("rope.scaling.type", Value::String("linear".into()));
    model.set("rope.scaling.factor", Value::F32(4.0));
    for step in [1, 9] {
        let trace = device_trace(&model, &[3; 9], step, true);
        let heads = 4 * 64;
        let before = &trace.get("Qcur-0.1").unwrap().data[8 * heads..][..64];
        let after = &trace.get("Qcur-0.2").unwrap().data[8 * heads..][..64];
        for (pair, angle) in [(0, 2.0), (8, 0.2), (16, 0.02), (24, 0.002f64)] {
            let (a, b) = (f64::from(before[2 * pair]), f64::from(before[2 * pair + 1]));
            assert_close(
                &after[2 * pair..][..2],
                &[a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()],
            );
        }
    }
}

#[test]
fn windows_are_the_references() {
    // Shorter and longer than a chunk, one token, and longer than the prompt.
    for window in [1, 7, 20, 64] {
        let mut model = TinyModel::new("llama", SMALL, 13);
        model.set("attention.sliding_window", Value::U32(window));
        check(&model);
    }
    // A window and experts, as in early Mixtral files.
    let mut model = TinyModel::new("llama", Shape { experts: (4, 2), ..SMALL }, 14);
    model.set("attention.sliding_window", Value::U32(7));
    check(&model);
}

/// Queries of zero make every score equal, so attention is the mean over the positions seen.
#[test]
fn a_window_hides_what_is_before_it() {
    let mut model = TinyModel::new("llama", Shape { n_layers: 1, ..SMALL }, 5);
    model.tensor("blk.0.attn_q.weight").fill(&[0.0; 256 * 64]);
    model.set("attention.sliding_window", Value::U32(3));
    for step in [1, 6] {
        let trace = device_trace(&model, &[1, 2, 3, 4, 5, 6], step, true);
        let values = &trace.get("Vcur-0").unwrap().data; // [6][2 · 64]
        let result = &trace.get("kqv_out-0").unwrap().data; // [6][4 · 64]
        for token in 0..6usize {
            let seen = token.saturating_sub(2)..token + 1;
            let mean = |head: usize, d: usize| {
                let n = seen.len() as f64;
                let value = |t: usize| f64::from(values[t * 128 + head / 2 * 64 + d]);
                seen.clone().map(value).sum::<f64>() / n
            };
            for head in 0..4 {
                let want: Vec<f64> = (0..64).map(|d| mean(head, d)).collect();
                assert_close(&result[token * 256 + head * 64..][..64], &want);
            }
        }
    }
}
