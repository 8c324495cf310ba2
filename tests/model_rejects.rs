//! One test for each rule that a model must keep: a well-formed file whose content is wrong in one place is refused, by a message of
//! one line that names the file, the field, what was found and what was expected.

mod support;

use ferrowarp::gguf::{Array, Gguf, TensorType, Value};
use ferrowarp::model::{Config, Model, ModelError, ModelRule, Pooling};
use support::check_message;
use support::fixtures::goldens;
use support::tiny::{Shape, TinyModel};

fn open(model: &TinyModel) -> Result<Config, ModelError> {
    Ok(Model::open(&Gguf::from_bytes(model.bytes(), "model.gguf").unwrap())?.config)
}

#[track_caller]
fn rejects_model(rule: ModelRule, parts: &[&str], model: &TinyModel) {
    let error = open(model).expect_err("the model is accepted");
    assert_eq!(error.rule(), Some(rule), "{error}");
    check_message(&error.to_string(), &[parts, &["found ", "expected "]].concat());
}

fn tiny(edit: impl FnOnce(&mut TinyModel)) -> TinyModel {
    let mut model = TinyModel::new("qwen2", Shape::default(), 1);
    edit(&mut model);
    model
}

fn tiny_experts(edit: impl FnOnce(&mut TinyModel)) -> TinyModel {
    let mut model = TinyModel::new("qwen3moe", Shape { experts: (4, 2), ..Shape::default() }, 1);
    edit(&mut model);
    model
}

#[track_caller]
fn rejects_numbers(rule: ModelRule, key: &str, values: &[u32]) {
    for value in values {
        let model = tiny(|m| m.set(key, Value::U32(*value)));
        rejects_model(rule, &[&format!("metadata key qwen2.{key}"), &format!("found {value}")], &model);
    }
}

#[track_caller]
fn rejects_floats(rule: ModelRule, key: &str, values: &[f32]) {
    for value in values {
        let model = tiny(|m| m.set(key, Value::F32(*value)));
        rejects_model(rule, &[&format!("metadata key qwen2.{key}"), &format!("found {value}")], &model);
    }
}

#[test]
fn accepts_the_models_that_the_others_break() {
    let config = open(&tiny(|_| {})).unwrap();
    assert_eq!((config.n_layers, config.n_heads, config.n_kv_heads, config.vocab_size), (2, 4, 2, 16));
    let experts = open(&tiny_experts(|_| {})).unwrap().experts.unwrap();
    assert_eq!((experts.n_experts, experts.n_used, experts.normalise), (4, 2, true));
}

#[test]
fn rejects_unknown_architectures() {
    let model = tiny(|m| m.set_full("general.architecture", Value::String("mamba".into())));
    let parts = [
        "general.architecture",
        "\"mamba\"",
        "one of cohere2, deepseek2, ernie4_5, ernie4_5-moe, exaone4, gemma2, gemma3",
    ];
    rejects_model(ModelRule::Architecture, &parts, &model);
}

#[test]
fn rejects_missing_keys() {
    for key in ["block_count", "embedding_length", "attention.head_count", "context_length", "feed_forward_length"] {
        let error = open(&tiny(|m| m.unset(key))).expect_err(key);
        assert!(matches!(error, ModelError::Metadata(_)), "{error}");
        check_message(&error.to_string(), &[&format!("metadata key qwen2.{key}"), "missing", "expected an integer"]);
    }
    let error = open(&tiny(|m| m.unset("attention.layer_norm_rms_epsilon"))).unwrap_err();
    check_message(&error.to_string(), &["missing", "expected a floating-point number"]);
    let error = open(&tiny(|m| m.metadata.retain(|(k, _)| k != "general.architecture"))).unwrap_err();
    check_message(&error.to_string(), &["general.architecture", "missing"]);
}

#[test]
fn rejects_keys_of_another_type() {
    let model = tiny(|m| m.set("block_count", Value::String("two".into())));
    check_message(&open(&model).unwrap_err().to_string(), &["qwen2.block_count", "found string \"two\"", "an integer"]);
    let model = tiny(|m| m.set("rope.freq_base", Value::U32(10_000)));
    check_message(&open(&model).unwrap_err().to_string(), &["qwen2.rope.freq_base", "found u32 10000"]);
    let model = tiny(|m| m.set("block_count", Value::I32(-1)));
    check_message(&open(&model).unwrap_err().to_string(), &["qwen2.block_count", "found i32 -1"]);
    let layers = Value::Array(Array::U32(vec![2, 1]));
    let model = tiny(|m| m.set("attention.head_count_kv", layers));
    check_message(&open(&model).unwrap_err().to_string(), &["head_count_kv", "for all layers"]);
}

#[test]
fn rejects_layer_counts() {
    rejects_numbers(ModelRule::LayerCount, "block_count", &[0, 513, u32::MAX]);
}

#[test]
fn rejects_embedding_lengths() {
    rejects_numbers(ModelRule::EmbeddingLength, "embedding_length", &[0, 1 << 21]);
}

#[test]
fn rejects_head_counts() {
    rejects_numbers(ModelRule::HeadCount, "attention.head_count", &[0, 1 << 17]);
}

#[test]
fn rejects_kv_heads_that_do_not_divide_the_heads() {
    rejects_numbers(ModelRule::KvHeadCount, "attention.head_count_kv", &[0, 3, 8]);
}

#[test]
fn rejects_head_lengths() {
    rejects_numbers(ModelRule::HeadDim, "attention.key_length", &[0, 1, 7, 1026]);
    rejects_numbers(ModelRule::HeadDim, "attention.value_length", &[0, 4]);
}

#[test]
fn rejects_feed_forward_lengths() {
    rejects_numbers(ModelRule::FeedForwardLength, "feed_forward_length", &[0, 1 << 25]);
}

#[test]
fn rejects_context_lengths() {
    rejects_numbers(ModelRule::ContextLength, "context_length", &[0, u32::MAX]);
}

#[test]
fn rejects_epsilons() {
    let bad = [0.0, -1e-6, f32::NAN, f32::INFINITY];
    rejects_floats(ModelRule::RmsEpsilon, "attention.layer_norm_rms_epsilon", &bad);
}

#[test]
fn rejects_rope_bases() {
    rejects_floats(ModelRule::RopeTheta, "rope.freq_base", &[0.0, -10_000.0, f32::NAN, f32::INFINITY]);
    let model = tiny(|m| {
        m.set("rope.freq_base", Value::F32(1.0));
        m.set("rope.scaling.type", Value::String("yarn".into()));
        m.set("rope.scaling.factor", Value::F32(2.0));
    });
    rejects_model(ModelRule::RopeTheta, &["more than 1"], &model);
}

#[test]
fn rejects_rope_dimensions() {
    rejects_numbers(ModelRule::RopeDimension, "rope.dimension_count", &[0, 3, 10]);
}

#[test]
fn rejects_rope_scalings() {
    rejects_floats(ModelRule::RopeScaling, "rope.scaling.factor", &[-1.0, f32::NAN, f32::INFINITY]);
    rejects_floats(ModelRule::RopeScaling, "rope.scaling.attn_factor", &[0.0, f32::NAN]);
    let model = tiny(|m| m.set("rope.scaling.type", Value::String("longrope".into())));
    rejects_model(ModelRule::RopeScaling, &["\"longrope\"", "none, linear or yarn"], &model);
    for (key, value) in [
        ("rope.scaling.attn_factor", Value::F32(3e38)),
        ("rope.scaling.original_context_length", Value::U32(0)),
        ("rope.scaling.yarn_beta_fast", Value::F32(0.0)),
        ("rope.scaling.yarn_beta_slow", Value::F32(f32::NAN)),
    ] {
        let model = tiny(|m| {
            m.set("rope.scaling.type", Value::String("yarn".into()));
            m.set("rope.scaling.factor", Value::F32(4.0));
            m.set("rope.scaling.yarn_attn_factor", Value::F32(3.0));
            m.set(key, value);
        });
        rejects_model(ModelRule::RopeScaling, &[key], &model);
    }
}

#[test]
fn rejects_rope_factors() {
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let mut model = TinyModel::new("llama", Shape::default(), 1);
        model.add("rope_freqs.weight", &[4], &[1.0, 2.0, bad, 4.0]);
        rejects_model(ModelRule::RopeFactors, &["rope_freqs.weight"], &model);
    }
}

#[test]
fn rejects_expert_counts() {
    for (key, value) in
        [("expert_count", 0), ("expert_count", 5000), ("expert_used_count", 0), ("expert_used_count", 5)]
    {
        rejects_model(ModelRule::ExpertCount, &[key], &tiny_experts(|m| m.set(key, Value::U32(value))));
    }
    rejects_numbers(ModelRule::ExpertCount, "expert_count", &[2]);
}

#[test]
fn rejects_expert_routings() {
    for (key, value) in [
        ("expert_gating_func", 2),
        ("expert_shared_count", 1),
        ("expert_group_count", 2),
        ("leading_dense_block_count", 1),
    ] {
        rejects_model(ModelRule::ExpertRouting, &[key], &tiny_experts(|m| m.set(key, Value::U32(value))));
    }
    let model = tiny_experts(|m| m.set("expert_weights_scale", Value::F32(f32::NAN)));
    rejects_model(ModelRule::ExpertRouting, &["expert_weights_scale"], &model);
}

#[test]
fn rejects_attention_scales() {
    rejects_floats(ModelRule::AttentionScale, "attention.scale", &[-1.0, f32::NAN, f32::INFINITY]);
}

#[test]
fn rejects_windows_that_differ_between_layers() {
    rejects_numbers(ModelRule::SlidingWindow, "attention.sliding_window", &[u32::MAX]);
    for pattern in [Value::Array(Array::Bool(vec![true])), Value::U32(513)] {
        let model = tiny(|m| {
            m.set("attention.sliding_window", Value::U32(4));
            m.set("attention.sliding_window_pattern", pattern);
        });
        rejects_model(ModelRule::SlidingWindow, &["qwen2.attention.sliding_window_pattern"], &model);
    }
}

#[test]
fn rejects_keys_that_change_the_arithmetic() {
    rejects_floats(ModelRule::Arithmetic, "attn_logit_softcapping", &[50.0]);
    rejects_floats(ModelRule::Arithmetic, "logit_scale", &[0.5, f32::NAN]);
    let neutral = tiny(|m| {
        m.set("logit_scale", Value::F32(1.0));
        m.set("invented_key", Value::U8(1));
    });
    assert_eq!(open(&neutral).unwrap().unused_keys, ["qwen2.invented_key"]);
}

#[test]
fn rejects_attention_that_looks_both_ways() {
    let model = tiny(|m| m.set("attention.causal", Value::Bool(false)));
    rejects_model(ModelRule::Arithmetic, &["metadata key qwen2.attention.causal", "found false"], &model);
    assert!(open(&tiny(|m| m.set("attention.causal", Value::Bool(true)))).is_ok());
}

#[test]
fn rejects_poolings() {
    rejects_numbers(ModelRule::Pooling, "pooling_type", &[4, u32::MAX]);
    for (number, pooling) in [(0, None), (1, Some(Pooling::Mean)), (2, Some(Pooling::Cls)), (3, Some(Pooling::Last))] {
        let model = tiny(|m| m.set("pooling_type", Value::U32(number)));
        assert_eq!(open(&model).unwrap().pooling, pooling, "{number}");
    }
}

#[test]
fn rejects_vocabularies_larger_than_the_embedding() {
    rejects_numbers(ModelRule::VocabularySize, "vocab_size", &[0, 17]);
    for n in [0, 17] {
        let tokens = Value::Array(Array::String(vec!["t".into(); n]));
        let model = tiny(|m| m.set_full("tokenizer.ggml.tokens", tokens));
        let found = format!("found {n} tokens");
        rejects_model(ModelRule::VocabularySize, &["tokenizer.ggml.tokens", &found, "1 to 16"], &model);
    }
    let padded = Value::Array(Array::String(vec!["t".into(); 12]));
    open(&tiny(|m| m.set_full("tokenizer.ggml.tokens", padded))).unwrap();
}

#[test]
fn special_tokens_outside_the_vocabulary_do_not_matter() {
    for (key, value) in [("eos", Value::U32(16)), ("bos", Value::I32(-1)), ("padding", Value::U32(u32::MAX))] {
        open(&tiny(|m| m.set_full(&format!("tokenizer.ggml.{key}_token_id"), value))).unwrap();
    }
}

#[test]
fn rejects_missing_tensors() {
    let whole = tiny(|_| {});
    for i in 0..whole.tensors.len() {
        let mut model = whole.clone();
        let name = model.tensors.remove(i).name;
        if name == "output.weight" {
            assert!(open(&model).unwrap().tied_output, "without it the embedding is used");
        } else {
            rejects_model(ModelRule::MissingTensor, &[&format!("tensor {name}"), "found nothing"], &model);
        }
    }
    for missing in ["blk.1.ffn_gate_inp.weight", "blk.0.attn_q_norm.weight", "blk.1.ffn_down_exps.weight"] {
        let model = tiny_experts(|m| m.tensors.retain(|t| t.name != missing));
        rejects_model(ModelRule::MissingTensor, &[missing], &model);
    }
}

#[test]
fn rejects_tensors_of_another_shape() {
    for model in [tiny(|_| {}), tiny_experts(|_| {})] {
        for i in 0..model.tensors.len() {
            let mut model = model.clone();
            let tensor = &mut model.tensors[i];
            let name = tensor.name.clone();
            // One output more; of the embedding, which gives the vocabulary its size, one input more.
            if name == "token_embd.weight" {
                tensor.dims[0] += 1
            } else {
                *tensor.dims.last_mut().unwrap() += 1
            };
            tensor.fill(&vec![1.0; tensor.dims.iter().product::<u64>() as usize]);
            rejects_model(ModelRule::TensorShape, &[&format!("tensor {name}"), "by the metadata"], &model);
        }
    }
    let transposed = tiny(|m| m.tensor("blk.0.ffn_up.weight").dims.reverse());
    rejects_model(ModelRule::TensorShape, &["blk.0.ffn_up.weight", "[48, 32]", "[32, 48]"], &transposed);
}

#[test]
fn rejects_packed_norms_and_biases() {
    for name in ["output_norm.weight", "blk.1.attn_norm.weight", "blk.0.attn_q.bias"] {
        let model = tiny(|m| {
            let tensor = m.tensor(name);
            tensor.tensor_type = TensorType::F16;
            tensor.data.truncate(tensor.data.len() / 2);
        });
        rejects_model(ModelRule::VectorType, &[name, "found F16", "expected F32"], &model);
    }
}

#[test]
fn rejects_tensors_that_nothing_uses() {
    for name in ["blk.2.attn_norm.weight", "blk.0.attn_q_norm.weight", "rope_freqs.weight", "surprise"] {
        let model = tiny(|m| m.add(name, &[4], &[1.0; 4]));
        rejects_model(ModelRule::UnknownTensor, &[&format!("tensor {name}")], &model);
    }
    // A name from a stranger does not reach the terminal as it is.
    let model = tiny(|m| m.add("a\n\u{1b}[2J", &[4], &[1.0; 4]));
    rejects_model(ModelRule::UnknownTensor, &["tensor a\\n\\u{1b}[2J"], &model);
}

#[test]
fn rejects_recurrences_that_do_not_fit() {
    let sizes =
        [("state_size", 32), ("group_count", 2), ("time_step_rank", 4), ("inner_size", 128), ("conv_kernel", 4)];
    for (key, value) in
        [("state_size", 33), ("group_count", 3), ("inner_size", 96), ("conv_kernel", 1), ("conv_kernel", 17)]
    {
        let mut model = TinyModel::new("qwen35", Shape::default(), 1);
        for (name, size) in sizes {
            model.set(&format!("ssm.{name}"), Value::U32(if name == key { value } else { size }));
        }
        rejects_model(ModelRule::Recurrence, &["metadata key qwen35.ssm."], &model);
    }
    let mut model = TinyModel::new("qwen35", Shape::default(), 1);
    for (name, size) in sizes {
        model.set(&format!("ssm.{name}"), Value::U32(size));
    }
    model.set("attention.recurrent_layers", Value::Array(Array::Bool(vec![true])));
    rejects_model(ModelRule::Recurrence, &["qwen35.attention.recurrent_layers", "each of 2 layers"], &model);
}

// ModelRule::TensorType is broken in `gguf_rejects`, where a file can have such a tensor.

/// Each rule is broken by a test in this file, or in the one that a comment names.
#[test]
fn every_rule_has_a_test() {
    let source = include_str!("model_rejects.rs");
    for rule in ModelRule::ALL {
        assert!(source.contains(&format!("ModelRule::{rule:?}")), "no test breaks ModelRule::{rule:?}");
    }
}

/// The models of the fixtures, one of each family.
fn of_each_family() -> Vec<TinyModel> {
    let mut models: Vec<TinyModel> = Vec::new();
    for golden in goldens() {
        let model = TinyModel::of(&Gguf::open(&golden.model).unwrap());
        if models.iter().all(|other| other.architecture != model.architecture) {
            models.push(model);
        }
    }
    assert!(models.len() >= 14, "{} families", models.len());
    models
}

/// The message of a model that is refused; it is one line that names the file, what was found and what was expected.
fn refusal(model: &TinyModel, what: &str) -> Option<String> {
    let message = open(model).err()?.to_string();
    let says = message.contains("expected ") && (message.contains("found ") || message.contains("missing"));
    assert!(says && !message.contains('\n') && message.starts_with("model.gguf: "), "{what}: {message}");
    Some(message)
}

/// Every tensor of every family: without it, or in another shape, the file is refused by a message that names it. Optional tensors may be
/// missing.
#[test]
fn rejects_a_tensor_of_any_family_that_is_missing_or_of_another_shape() {
    for model in of_each_family() {
        let gguf = Gguf::from_bytes(model.bytes(), "model.gguf").unwrap();
        let figure = Model::open(&gguf).unwrap_or_else(|error| panic!("{error}")).figure;
        let n_layers = figure.layers.len();
        // The first layer and the last are unlike in families whose layers differ; those between are like one of them.
        let is_seen = |name: &str| match name.split('.').nth(1).and_then(|layer| layer.parse::<usize>().ok()) {
            Some(layer) => layer == 0 || layer + 1 == n_layers,
            None => true,
        };
        for tensor in figure.tensors.iter().filter(|tensor| is_seen(&tensor.name)) {
            let what = format!("{}: {}", model.architecture, tensor.name);
            let index = model.tensors.iter().position(|of| of.name == tensor.name).expect(&what);
            let mut without = model.clone();
            without.tensors.remove(index);
            match refusal(&without, &what) {
                Some(message) => {
                    // A file may have one tensor in place of two, which are missed where it has neither.
                    let of_two =
                        ["ssm_ba.weight", "ffn_gate_up_exps.weight"].iter().any(|end| tensor.name.ends_with(end));
                    assert!(message.contains(&tensor.name) || of_two, "{what}: {message}");
                }
                // Tied to the embedding; and Gemma 4's values may be the keys.
                None => {
                    let stands_in = ["output.weight", "attn_v.weight"].iter().any(|end| tensor.name.ends_with(end));
                    assert!(!tensor.required || stands_in, "{what}: not missed");
                }
            }
            let mut narrow = model.clone();
            let of = &mut narrow.tensors[index];
            let rows = of.dims.last_mut().expect("a dimension");
            // A row less, or one more where there is only one.
            let n_rows = if *rows > 1 { *rows - 1 } else { 2 };
            of.data.resize(of.data.len() / *rows as usize * n_rows as usize, 0);
            *rows = n_rows;
            let message = refusal(&narrow, &what).unwrap_or_else(|| panic!("{what}: its shape is not looked at"));
            // The vocabulary's size is the embedding's; what disagrees with it may be another.
            assert!(message.contains(&tensor.name) || tensor.name == "token_embd.weight", "{what}: {message}");
        }
    }
}

/// Every key of every family: without it, or with a number that cannot be, a file is refused in one line or is a model; nothing panics.
#[test]
fn keys_of_any_family_may_be_missing_or_wild() {
    let wild = [
        Value::U32(0),
        Value::U32(u32::MAX),
        Value::F32(f32::NAN),
        Value::F32(-1.0),
        Value::Array(Array::Bool(vec![true])),
        Value::Array(Array::U32(vec![7; 3])),
        Value::String("wild".into()),
    ];
    for model in of_each_family() {
        let prefix = format!("{}.", model.architecture);
        let keys: Vec<&str> = model.metadata.iter().filter_map(|(key, _)| key.strip_prefix(&prefix)).collect();
        // Small: keys are read before weights are.
        let mut small = model.clone();
        small.tensors.retain(|tensor| tensor.dims.len() == 1 || tensor.name == "token_embd.weight");
        let config = |model: &TinyModel| Config::from_gguf(&Gguf::from_bytes(model.bytes(), "model.gguf").unwrap());
        let mut n_refused = 0;
        for key in keys {
            let mut changed = vec![small.clone()];
            changed[0].unset(key);
            changed.extend(wild.iter().map(|value| {
                let mut model = small.clone();
                model.set(key, value.clone());
                model
            }));
            for model in changed {
                if let Err(error) = config(&model) {
                    let message = error.to_string();
                    let says = message.contains("expected ") && !message.contains('\n');
                    assert!(says && message.starts_with("model.gguf: "), "{prefix}{key}: {message}");
                    n_refused += 1;
                }
            }
        }
        assert!(n_refused > 20, "{prefix}: {n_refused} refused");
    }
}
