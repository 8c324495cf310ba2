//! Valid models with one field replaced.
//!
//! The input says which model, which kind of change, which field, and the new content:
//!
//! ```text
//! model u8 | change u8 | field u8 | number u64 | text…
//! ```
//!
//! Missing bytes are zero.

use std::sync::LazyLock;

use ferrowarp::gguf::{Array, Value, Writer};

use crate::tiny::{Shape, TinyModel};

static MODELS: LazyLock<Vec<TinyModel>> = LazyLock::new(|| {
    let shape = Shape {
        n_layers: 1,
        n_embd: 4,
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 2,
        n_ff: 2,
        vocab_size: 3,
        experts: (0, 0),
    };
    let experts = Shape { experts: (2, 1), ..shape };
    let mut yarn = TinyModel::new("llama", shape, 1);
    yarn.set("rope.scaling.type", Value::String("yarn".into()));
    yarn.set("rope.scaling.factor", Value::F32(4.0));
    yarn.set("rope.scaling.original_context_length", Value::U32(16));
    yarn.set("attention.sliding_window", Value::U32(8));
    yarn.set_full("general.alignment", Value::U32(64));
    yarn.add("rope_freqs.weight", &[1], &[2.0]);
    vec![
        TinyModel::new("qwen2", shape, 1),
        TinyModel::new("qwen3", shape, 1),
        TinyModel::new("qwen3moe", experts, 1),
        TinyModel::new("llama", experts, 1),
        yarn,
    ]
});

/// The file that `input` describes.
pub fn model(input: &[u8]) -> Vec<u8> {
    let byte = |i: usize| input.get(i).copied().unwrap_or(0);
    let model = &MODELS[usize::from(byte(0)) % MODELS.len()];
    let change = byte(1) % 16;
    let number = u64::from_le_bytes(std::array::from_fn(|i| byte(3 + i)));
    let text = input.get(11..).unwrap_or(&[]);
    let pick = |n: usize| usize::from(byte(2)) % n;
    let (pair, tensor) = (pick(model.metadata.len()), pick(model.tensors.len()));

    let mut writer = Writer::default();
    for (i, (key, value)) in model.metadata.iter().enumerate() {
        match change {
            0 if i == pair => writer.metadata(key, &scalar(number, text)),
            1 if i == pair => writer.metadata(key, &array(number, text)),
            2 if i == pair => writer.metadata_raw(key.as_bytes(), number as u32, text),
            3 if i == pair => writer.metadata_raw(text, value.value_type() as u32, &number.to_le_bytes()),
            4 if i == pair => {}
            _ => writer.metadata(key, value),
        }
    }
    if change == 5 {
        // A key that the model may know but does not have.
        let key = format!("{}.{}", model.architecture, String::from_utf8_lossy(text));
        writer.metadata(&key, &scalar(number, &[]));
    }
    // The loader is to refuse a foolish alignment; the writer must not pad to it.
    writer.alignment = writer.alignment.clamp(8, 4096);
    let mut offsets = writer.clone();
    for (i, t) in model.tensors.iter().enumerate() {
        let offset = offsets.tensor(&t.name, &t.dims, t.tensor_type);
        let (mut name, mut dims, mut type_id, mut offset) =
            (t.name.as_bytes(), t.dims.clone(), t.tensor_type.id(), offset);
        if i == tensor {
            match change {
                6 => name = text,
                7 => *dims.last_mut().expect("a tensor has dimensions") = number,
                8 => dims[0] = number,
                9 => dims.resize(number as usize % 7, 1),
                10 => type_id = number as u32,
                11 => offset = number,
                12 => continue,
                _ => {}
            }
        }
        writer.tensor_raw(name, &dims, type_id, offset);
    }
    match change {
        13 if pick(3) == 0 => writer.version = number as u32,
        13 if pick(3) == 1 => writer.tensor_count = number,
        13 => writer.metadata_count = number,
        _ => {}
    }
    let mut bytes = writer.header();
    bytes.resize(bytes.len() + offsets.data_bytes() as usize, 1);
    match change {
        14 => bytes.truncate(number as usize % (bytes.len() + 1)),
        15 => {
            // Some bytes anywhere.
            let at = number as usize % bytes.len();
            for (byte, new) in bytes[at..].iter_mut().zip(text) {
                *byte = *new;
            }
        }
        _ => {}
    }
    bytes
}

/// A value of any type but an array.
fn scalar(number: u64, text: &[u8]) -> Value {
    let string = || Value::String(String::from_utf8_lossy(text).into_owned());
    match text.first().copied().unwrap_or(4) % 13 {
        0 => Value::U8(number as u8),
        1 => Value::I8(number as i8),
        2 => Value::U16(number as u16),
        3 => Value::I16(number as i16),
        4 => Value::U32(number as u32),
        5 => Value::I32(number as i32),
        6 => Value::F32(f32::from_bits(number as u32)),
        7 => Value::Bool(number & 1 == 1),
        8 | 9 => string(),
        10 => Value::U64(number),
        11 => Value::I64(number as i64),
        _ => Value::F64(f64::from_bits(number)),
    }
}

/// An array of one of a few types.
fn array(number: u64, text: &[u8]) -> Value {
    let n = text.len();
    Value::Array(match number % 4 {
        0 => Array::U32(vec![(number >> 2) as u32; n]),
        1 => Array::String(vec![String::from_utf8_lossy(text).into_owned(); n]),
        2 => Array::Bool(vec![true; n]),
        _ => Array::F32(vec![f32::from_bits((number >> 2) as u32); n]),
    })
}
