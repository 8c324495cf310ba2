//! What `ferrowarp inspect` shows of a model.

mod support;

use ferrowarp::gguf::{Gguf, Value};
use ferrowarp::model::Inspection;
use serde_json::json;
use support::tiny::{Shape, TinyModel};

fn inspect(model: &TinyModel) -> Inspection {
    Inspection::new(&Gguf::from_bytes(model.bytes(), "tiny.gguf").unwrap())
}

#[test]
fn json_holds_everything() {
    let mut model = TinyModel::new("llama", Shape { experts: (4, 2), ..Shape::default() }, 1);
    model.set("rope.scaling.factor", Value::F32(4.0));
    let json = serde_json::to_value(inspect(&model)).unwrap();
    assert_eq!(json["architecture"], "llama");
    assert_eq!(json["gguf_version"], 3);
    assert!(json["foreign_tensors"].as_array().unwrap().is_empty());
    assert_eq!(json["config"]["architecture"], "llama");
    assert_eq!(json["config"]["n_kv_heads"], 2);
    assert_eq!(json["config"]["rope"]["pairing"], "neighbours");
    assert_eq!(json["config"]["rope"]["scaling"], json!({ "type": "linear", "factor": 4.0 }));
    assert_eq!(json["config"]["experts"]["n_used"], 2);
    assert_eq!(json["problem"], json!(null));
    let tokens = json["metadata"].as_array().unwrap().iter().find(|m| m["key"] == "tokenizer.ggml.tokens").unwrap();
    assert_eq!(tokens["value"], json!({ "type": "string", "length": 16, "first": ["t0", "t1", "t2", "t3"] }));
    assert_eq!(tokens["value_type"], "string[16]");

    let key = "llama.attention.layer_norm_rms_epsilon";
    let metadata = json["metadata"].as_array().unwrap();
    assert_eq!(metadata.iter().find(|m| m["key"] == key).unwrap()["value"], json!(1e-6));

    let parameters: u64 = model.tensors.iter().map(|t| t.dims.iter().product::<u64>()).sum();
    assert_eq!(json["parameters"], parameters);
    assert_eq!(json["tensor_bytes"], 4 * parameters);
    assert_eq!(json["types"][0]["tensor_type"], "F32");
    assert_eq!(json["types"][0]["tensors"], model.tensors.len());
    let tensors = json["tensors"].as_array().unwrap();
    let experts = tensors.iter().find(|t| t["name"] == "blk.1.ffn_down_exps.weight").unwrap();
    assert_eq!(experts["dims"], json!([48, 32, 4]));
}

#[test]
fn text_is_aligned() {
    let text = inspect(&TinyModel::new("qwen2", Shape::default(), 1)).to_string();
    for line in [
        "  architecture  qwen2",
        "  n_kv_heads       2",
        "  rms_epsilon      1e-6",
        "  rope             pairing halves, theta 10000.0, n_rot 8, scaling type none, attention_factor 1.0",
        "  tokenizer.ggml.tokens                   string[16]  [\"t0\", \"t1\", \"t2\", …] (16 × string)",
        "  blk.0.ffn_down.weight     F32  48 × 32  6 144",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not a line of:\n{text}");
    }
}

#[test]
fn a_model_that_cannot_run_is_shown_with_the_reason() {
    let mut model = TinyModel::new("qwen2", Shape::default(), 1);
    model.set_full("general.architecture", Value::String("mamba".into()));
    let inspection = inspect(&model);
    assert!(inspection.config.is_none());
    let text = inspection.to_string();
    assert!(text.contains("not runnable: tiny.gguf: metadata key general.architecture: found \"mamba\""), "{text}");
    assert!(text.contains("blk.1.ffn_up.weight"), "{text}");
}
