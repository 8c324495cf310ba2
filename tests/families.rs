//! Parts of the families for which there is no golden model, each against a case worked by hand.

mod support;

use driver::DeviceChoice;
use ferrowarp::forward::{Engine, EngineOptions, Logits};
use ferrowarp::gguf::{Gguf, TensorType, Value};
use ferrowarp::gpu::{Activations, Gpu, kernels::CacheType};
use ferrowarp::model::{Config, Model, RopePairing, RopeScaling};
use ferrowarp::quant::dequantise;
use ferrowarp::reference::Reference;
use ferrowarp::trace::{Recorder, Trace, relative_error};
use half::f16;
use support::fixtures::goldens;
use support::tiny::{Shape, TinyModel, TinyTensor};

/// Every tensor of a pass over `ids`.
fn trace(model: &TinyModel, ids: &[u32]) -> Trace {
    let gguf = Gguf::from_bytes(model.bytes(), "tiny.gguf").unwrap();
    let model = Model::open(&gguf).unwrap_or_else(|e| panic!("{e}"));
    let mut trace = Trace::new();
    let mut sink = |name: &str, shape: &[usize], data: &[f32]| trace.append(name, shape, data);
    Reference::new(&model).forward(ids, &mut Recorder::new(&mut sink)).unwrap();
    trace
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        assert!((f64::from(*got) - want).abs() <= 1e-5 * want.abs().max(0.1), "{got}, expected {want}");
    }
}

fn config(model: &TinyModel) -> Config {
    Config::from_gguf(&Gguf::from_bytes(model.bytes(), "tiny.gguf").unwrap()).unwrap_or_else(|e| panic!("{e}"))
}

/// One layer whose attention adds nothing, so that the feed-forward network sees the normalised embedding, `[1, 1]`.
///
/// The router's logits are ln 1, ln 2, ln 4, ln 1, so the probabilities are 1/8, 2/8, 4/8, 1/8, and experts 2 and 1 are used.
/// Expert 1's gate is ln 3, of which silu is 3/4·ln 3, and it writes to the first value; expert 2's is −ln 3, of which silu is
/// −1/4·ln 3, and it writes twice that to the second. The other two would write a million.
fn mixture() -> TinyModel {
    let shape = Shape {
        n_layers: 1,
        n_embd: 2,
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 2,
        n_ff: 1,
        vocab_size: 1,
        experts: (4, 2),
    };
    let mut model = TinyModel::new("llama", shape, 5);
    model.set_full("tokenizer.ggml.eos_token_id", Value::U32(0));
    let ln3 = 3f32.ln();
    model.tensor("token_embd.weight").fill(&[1.0, 1.0]);
    model.tensor("blk.0.attn_output.weight").fill(&[0.0; 4]);
    model.tensor("blk.0.ffn_norm.weight").fill(&[1.0, 1.0]);
    let row = |value: f32| [value / 2.0, value / 2.0]; // its product with [1, 1] is `value`
    let rows = |values: [f32; 4]| values.map(row).concat();
    model.tensor("blk.0.ffn_gate_inp.weight").fill(&rows([0.0, 2f32.ln(), 4f32.ln(), 0.0]));
    model.tensor("blk.0.ffn_gate_exps.weight").fill(&rows([1.0, ln3, -ln3, 1.0]));
    model.tensor("blk.0.ffn_up_exps.weight").fill(&rows([1.0, 1.0, 1.0, 1.0]));
    model.tensor("blk.0.ffn_down_exps.weight").fill(&[1e6, 1e6, 1.0, 0.0, 0.0, 2.0, 1e6, 1e6]);
    model
}

#[test]
fn a_mixture_weighs_its_experts() {
    let ln3 = 3f64.ln();
    let trace = trace(&mixture(), &[0]);
    assert_close(&trace.get("ffn_norm-0").unwrap().data, &[1.0, 1.0]);
    assert_eq!(trace.get("ffn_moe_topk-0").unwrap().data, [2.0, 1.0]);
    assert_close(&trace.get("ffn_moe_weights_norm-0").unwrap().data, &[2.0 / 3.0, 1.0 / 3.0]);
    assert_close(&trace.get("ffn_moe_out-0").unwrap().data, &[0.25 * ln3, -ln3 / 3.0]);
    assert_close(&trace.get("l_out-0").unwrap().data, &[1.0 + 0.25 * ln3, 1.0 - ln3 / 3.0]);
}

#[test]
fn a_mixture_follows_the_files_normalisation_and_scale() {
    let ln3 = 3f64.ln();
    let mut model = mixture();
    model.set("expert_weights_norm", Value::Bool(false));
    assert_close(&trace(&model, &[0]).get("ffn_moe_out-0").unwrap().data, &[0.1875 * ln3, -0.25 * ln3]);
    model.set("expert_weights_scale", Value::F32(2.0));
    assert_close(&trace(&model, &[0]).get("ffn_moe_out-0").unwrap().data, &[0.375 * ln3, -0.5 * ln3]);
}

/// Frequencies of 4 rotated values and base 10000 are 1 and 0.01; a factor of 4 makes them 0.25 and 0.0025.
#[test]
fn linear_scaling_divides_every_angle() {
    let shape = Shape { head_dim: 4, ..Shape::default() };
    let mut model = TinyModel::new("llama", shape, 5);
    let unscaled = trace(&model, &[3; 9]);
    model.set("rope.scaling.type", Value::String("linear".into()));
    model.set("rope.scaling.factor", Value::F32(4.0));
    let table = config(&model).rope.table(64);
    assert_eq!((table.frequencies.as_slice(), table.magnitude), ([0.25, 0.0025].as_slice(), 1.0));

    let scaled = trace(&model, &[3; 9]);
    let query = |trace: &Trace, position: usize| trace.get("Qcur-0.2").unwrap().data[position * 16..][..4].to_vec();
    let unrotated = unscaled.get("Qcur-0.1").unwrap().data[..4].iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    // Neighbours turn together: at position 8 the first pair by 2 radians, the second by 0.02.
    let turned = |i: usize, angle: f64| {
        let (a, b) = (unrotated[i], unrotated[i + 1]);
        [a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()]
    };
    assert_close(&query(&scaled, 8), &[turned(0, 2.0), turned(2, 0.02)].concat());
    assert_close(&query(&unscaled, 2), &[turned(0, 2.0), turned(2, 0.02)].concat());
    // The older key means the same.
    model.unset("rope.scaling.type");
    model.unset("rope.scaling.factor");
    model.set("rope.scale_linear", Value::F32(4.0));
    assert_eq!(config(&model).rope.scaling, RopeScaling::Linear { factor: 4.0 });
}

/// Eight rotated values, base 10⁴, original context 64, factor 4. The pair that turns n times over 64 positions has the index
/// 8·ln(64/2πn) / 2·ln(10⁴): −0.50 for 32 turns and 1.008 for one, so the ramp falls from pair 0 to pair 2. Pair 0 keeps its
/// frequency 1, pair 1 takes half of 0.1 and half of 0.025, and pairs 2 and 3 are divided by 4.
#[test]
fn yarn_interpolates_slow_pairs() {
    let mut model = TinyModel::new("qwen2", Shape::default(), 5);
    model.set("rope.scaling.type", Value::String("yarn".into()));
    model.set("rope.scaling.factor", Value::F32(4.0));
    model.set("rope.scaling.original_context_length", Value::U32(64));
    let config = config(&model);
    assert_eq!((config.rope.pairing, config.rope.n_rot), (RopePairing::Halves, 8));
    let table = config.rope.table(64);
    let want = [1.0, 0.5 * 0.1 + 0.5 * 0.025, 0.01 / 4.0, 0.001 / 4.0];
    for (got, want) in table.frequencies.iter().zip(want) {
        assert!((got - want).abs() < 1e-12, "{:?}, expected {want:?}", table.frequencies);
    }
    assert!((table.magnitude - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
}

/// Queries of zero make every score equal, so attention is the mean over the positions seen.
#[test]
fn a_window_hides_what_is_before_it() {
    let mut model = TinyModel::new("llama", Shape { n_layers: 1, ..Shape::default() }, 5);
    let zeros = vec![0.0; model.tensor("blk.0.attn_q.weight").values().len()];
    model.tensor("blk.0.attn_q.weight").fill(&zeros);
    model.set("attention.sliding_window", Value::U32(3));
    assert_eq!(config(&model).sliding_window, Some(3));
    let trace = trace(&model, &[1, 2, 3, 4, 5, 6]);

    let probabilities = trace.get("kq_soft_max-0").unwrap();
    assert_eq!(probabilities.shape, [4, 6, 256]);
    let third = 1.0 / 3.0;
    let rows = [
        [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0, 0.0, 0.0],
        [third, third, third, 0.0, 0.0, 0.0],
        [0.0, third, third, third, 0.0, 0.0],
        [0.0, 0.0, third, third, third, 0.0],
        [0.0, 0.0, 0.0, third, third, third],
    ];
    for (row, want) in probabilities.data.chunks_exact(256).zip(rows.iter().cycle()) {
        assert_close(&row[..6], want);
        assert!(row[6..].iter().all(|p| *p == 0.0));
    }
    // Query heads 0 and 1 read key/value head 0; the last token's result is the mean of the last three values.
    let (values, result) = (&trace.get("Vcur-0").unwrap().data, &trace.get("kqv_out-0").unwrap().data);
    for h in 0..4 {
        let mean = |d: usize| (3..6).map(|t| f64::from(values[t * 16 + h / 2 * 8 + d])).sum::<f64>() / 3.0;
        assert_close(&result[5 * 32 + h * 8..][..8], &(0..8).map(mean).collect::<Vec<_>>());
    }
}

/// A matrix with dims `[in, out]` is `out` rows of `in` values: row 2 of the embedding is token 2, and output row r is the sum over
/// row r. All matrices of the tiny models are rectangular.
#[test]
fn rows_are_outputs() {
    let mut model = TinyModel::new("llama", Shape { n_layers: 1, ..Shape::default() }, 5);
    let trace = trace(&model, &[2]);
    let embedding = model.tensor("token_embd.weight").values();
    assert_eq!(trace.get("inp_embd").unwrap().data, embedding[2 * 32..3 * 32]);
    let h: Vec<f64> = trace.get("ffn_norm-0").unwrap().data.iter().map(|v| f64::from(*v)).collect();
    let up = model.tensor("blk.0.ffn_up.weight").values(); // 48 rows of 32
    let dot = |row: &[f32]| row.iter().zip(&h).map(|(w, h)| f64::from(*w) * h).sum::<f64>();
    assert_close(&trace.get("ffn_up-0").unwrap().data, &up.chunks_exact(32).map(dot).collect::<Vec<_>>());
}

/// Mistral Nemo's heads are longer than its embedding divided by their number; seven query heads share a key/value head in Qwen2.
#[test]
fn heads_need_not_divide_the_embedding() {
    let shape = Shape { n_embd: 24, n_heads: 14, n_kv_heads: 2, head_dim: 6, ..Shape::default() };
    for architecture in ["qwen2", "llama", "qwen3"] {
        let model = TinyModel::new(architecture, shape, 7);
        let config = config(&model);
        assert_eq!((config.head_dim, config.n_embd / config.n_heads), (6, 1));
        let trace = trace(&model, &[1, 2, 3]);
        assert_eq!(trace.get("kqv_out-1").unwrap().shape, [3, 84]);
        let last_v = if architecture == "qwen2" { "Vcur-0.2" } else { "Vcur-0.1" };
        // The first token sees only itself, so each head's result is its key/value head's value.
        let (values, result) = (&trace.get(last_v).unwrap().data, &trace.get("kqv_out-0").unwrap().data);
        for h in 0..14 {
            assert_eq!(result[h * 6..][..6], values[h / 7 * 6..][..6], "{architecture}, head {h}");
        }
    }
}

#[test]
fn optional_biases_are_added() {
    let mut model = TinyModel::new("llama", Shape { n_layers: 1, ..Shape::default() }, 5);
    model.add("blk.0.attn_k.bias", &[16], &[3.0; 16]);
    model.add("blk.0.attn_output.bias", &[32], &[-14.0; 32]);
    let trace = trace(&model, &[2]);
    let difference = |a: &str, b: &str| -> Vec<f32> {
        let (a, b) = (&trace.get(a).unwrap().data, &trace.get(b).unwrap().data);
        a.iter().zip(b).map(|(a, b)| a - b).collect()
    };
    assert_close(&difference("Kcur-0.1", "Kcur-0"), &[3.0; 16]);
    let product: Vec<f64> = {
        let a = &trace.get("kqv_out-0").unwrap().data;
        let w = model.tensor("blk.0.attn_output.weight").values();
        w.chunks_exact(32).map(|row| row.iter().zip(a).map(|(w, a)| f64::from(*w) * f64::from(*a)).sum()).collect()
    };
    assert_close(&trace.get("attn_out-0").unwrap().data, &product.iter().map(|p| p - 14.0).collect::<Vec<_>>());
}

/// 32 values as a block of a type, its scales rounded first: the nearest of what the block can hold.
fn block(tensor_type: TensorType, values: &[f32], out: &mut Vec<u8>) {
    let (low, high) = values.iter().fold((0f32, 0f32), |(low, high), v| (low.min(*v), high.max(*v)));
    let largest = high.max(-low);
    let rounded = |scale: f32| f16::from_f32(scale);
    let part = |value: f32, scale: f16| if scale.to_f32() == 0.0 { 0.0 } else { value / scale.to_f32() };
    match tensor_type {
        TensorType::Q8_0 => {
            let scale = rounded(largest / 127.0);
            out.extend(scale.to_le_bytes());
            out.extend(values.iter().map(|v| (part(*v, scale).round().clamp(-127.0, 127.0) as i8).cast_unsigned()));
        }
        TensorType::Q4_0 => {
            let scale = rounded(largest / 7.0);
            let codes: Vec<u8> =
                values.iter().map(|v| (part(*v, scale).round() + 8.0).clamp(0.0, 15.0) as u8).collect();
            out.extend(scale.to_le_bytes());
            out.extend((0..16).map(|i| codes[i] | codes[i + 16] << 4));
        }
        TensorType::Q5_1 => {
            let (scale, least) = (rounded((high - low) / 31.0), rounded(low));
            let code = |v: &f32| part(v - least.to_f32(), scale).round().clamp(0.0, 31.0) as u8;
            let codes: Vec<u8> = values.iter().map(code).collect();
            let fifth = codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | u32::from(code >> 4) << i);
            out.extend(scale.to_le_bytes());
            out.extend(least.to_le_bytes());
            out.extend(fifth.to_le_bytes());
            out.extend((0..16).map(|i| codes[i] & 15 | (codes[i + 16] & 15) << 4));
        }
        other => panic!("no blocks of {other:?} are made here"),
    }
}

/// The matrix in another type, if its rows are whole blocks.
fn requantise(tensor: &mut TinyTensor, tensor_type: TensorType) {
    if tensor.dims.len() < 2 || !tensor.dims[0].is_multiple_of(32) || tensor.tensor_type == TensorType::F32 {
        return;
    }
    let mut values = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
    dequantise(tensor.tensor_type, &tensor.data, &mut values);
    tensor.data.clear();
    values.chunks_exact(32).for_each(|values| block(tensor_type, values, &mut tensor.data));
    tensor.tensor_type = tensor_type;
}

#[test]
fn blocks_that_are_made_here_hold_about_what_they_were_made_of() {
    let values: Vec<f32> = (0..32).map(|i| ((i * 37 + 11) % 64) as f32 / 32.0 - 1.0).collect();
    for (tensor_type, error) in [(TensorType::Q8_0, 0.01), (TensorType::Q5_1, 0.05), (TensorType::Q4_0, 0.1)] {
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; 32]);
        block(tensor_type, &values, &mut bytes);
        dequantise(tensor_type, &bytes, &mut back);
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < error), "{tensor_type:?}: {back:?}");
    }
}

/// Every family with quantised weights, of which the fixtures have few: the device's passes against the reference on the same weights, by the
/// goldens' tolerances (`tests/golden.rs`). Families in turn get another type.
#[test]
fn quantised_weights_of_every_family_are_used_as_they_are() {
    let device: DeviceChoice = std::env::var("FERROWARP_DEVICE")
        .map_or(DeviceChoice::Auto, |choice| choice.parse().expect("FERROWARP_DEVICE"));
    let types = [TensorType::Q4_0, TensorType::Q8_0, TensorType::Q5_1];
    let mut seen: Vec<&str> = Vec::new();
    for golden in goldens() {
        let mut model = TinyModel::of(&Gguf::open(&golden.model).unwrap());
        if seen.contains(&model.architecture) {
            continue;
        }
        let tensor_type = types[seen.len() % types.len()];
        seen.push(model.architecture);
        model.tensors.iter_mut().for_each(|tensor| requantise(tensor, tensor_type));
        assert!(model.tensors.iter().filter(|tensor| tensor.tensor_type == tensor_type).count() > 5, "{}", golden.name);
        let gguf = Gguf::from_bytes(model.bytes(), "quantised.gguf").unwrap();
        let opened = Model::open(&gguf).unwrap_or_else(|error| panic!("{}: {error}", golden.name));
        let ids: Vec<u32> = golden.prompts.iter().flat_map(|prompt| &prompt.ids).copied().take(7).collect();
        let want = Reference::new(&opened).forward(&ids, &mut Recorder::off()).unwrap();
        // Between experts that are nearly equal the passes' rounding may choose: only a token at a time is exact enough to compare.
        let steps = if opened.config.experts.is_some() { vec![1] } else { vec![1, ids.len()] };
        for step in steps {
            let options = EngineOptions {
                n_batch: 16,
                all_logits: true,
                cache_type: CacheType::F32,
                activations: Activations::F32,
                ..EngineOptions::default()
            };
            let mut engine = Engine::load(Gpu::open(device).unwrap(), &gguf, options, &mut |_, _| {}).unwrap();
            let mut got = Vec::new();
            for chunk in ids.chunks(step) {
                engine.forward(chunk, Logits::All, &mut Recorder::off()).unwrap();
                got.extend(engine.logit_rows(chunk.len()).unwrap());
            }
            let n = opened.config.vocab_size;
            let errors = got.chunks_exact(n).zip(want.chunks_exact(n)).map(|(got, want)| relative_error(got, want));
            let (error, tolerance) = (errors.fold(0.0, f64::max), if step == 1 { 1e-4 } else { 1e-2 });
            println!("{} in {tensor_type:?}, {step} at a time: {error:.1e}", golden.name);
            assert!(error < tolerance, "{} in {tensor_type:?}, {step} at a time: {error}", golden.name);
        }
    }
    assert!(seen.len() >= 14, "{seen:?}");
}
