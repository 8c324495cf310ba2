//! Small models, made in memory, to be changed in one place by a test.

use ferrowarp::{
    gguf::{Array, Gguf, TensorInfo, TensorType, Value, Writer},
    model::Family,
};

/// A model as its metadata and tensors; [`TinyModel::bytes`] writes the file.
#[derive(Clone)]
pub struct TinyModel {
    pub architecture: &'static str,
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<TinyTensor>,
}

/// A tensor of a tiny model.
#[derive(Clone)]
pub struct TinyTensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub tensor_type: TensorType,
    pub data: Vec<u8>,
}

/// The sizes of a tiny model.
#[derive(Clone, Copy)]
pub struct Shape {
    pub n_layers: u64,
    pub n_embd: u64,
    pub n_heads: u64,
    pub n_kv_heads: u64,
    pub head_dim: u64,
    pub n_ff: u64,
    pub vocab_size: u64,
    /// Experts and how many of them are used; 0 for none.
    pub experts: (u64, u64),
}

impl Default for Shape {
    fn default() -> Shape {
        Shape {
            n_layers: 2,
            n_embd: 32,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 8,
            n_ff: 48,
            vocab_size: 16,
            experts: (0, 0),
        }
    }
}

impl TinyModel {
    /// A model of `architecture` (`qwen2`, `qwen3`, `qwen3moe` or `llama`) with random F32 weights.
    pub fn new(architecture: &'static str, shape: Shape, seed: u64) -> TinyModel {
        let mut model = TinyModel { architecture, metadata: Vec::new(), tensors: Vec::new() };
        model.metadata.push(("general.architecture".into(), Value::String(architecture.into())));
        let numbers = [
            ("context_length", 64),
            ("embedding_length", shape.n_embd),
            ("block_count", shape.n_layers),
            ("feed_forward_length", shape.n_ff),
            ("attention.head_count", shape.n_heads),
            ("attention.head_count_kv", shape.n_kv_heads),
            ("attention.key_length", shape.head_dim),
            ("attention.value_length", shape.head_dim),
            ("rope.dimension_count", shape.head_dim),
        ];
        for (key, value) in numbers {
            model.set(key, Value::U32(value as u32));
        }
        model.set("rope.freq_base", Value::F32(10_000.0));
        model.set("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
        if shape.experts.0 > 0 {
            model.set("expert_count", Value::U32(shape.experts.0 as u32));
            model.set("expert_used_count", Value::U32(shape.experts.1 as u32));
        }
        let tokens = (0..shape.vocab_size).map(|i| format!("t{i}")).collect();
        model.metadata.push(("tokenizer.ggml.tokens".into(), Value::Array(Array::String(tokens))));
        model.metadata.push(("tokenizer.ggml.eos_token_id".into(), Value::U32(1)));

        let mut random = Random(seed);
        let (e, f) = (shape.n_embd, shape.n_ff);
        let (q, kv) = (shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim);
        let mut add = |name: String, dims: &[u64]| model.tensors.push(TinyTensor::random(name, dims, &mut random));
        add("token_embd.weight".into(), &[e, shape.vocab_size]);
        add("output_norm.weight".into(), &[e]);
        add("output.weight".into(), &[e, shape.vocab_size]);
        for il in 0..shape.n_layers {
            let name = |part: &str| format!("blk.{il}.{part}");
            add(name("attn_norm.weight"), &[e]);
            add(name("attn_q.weight"), &[e, q]);
            add(name("attn_k.weight"), &[e, kv]);
            add(name("attn_v.weight"), &[e, kv]);
            add(name("attn_output.weight"), &[q, e]);
            if architecture == "qwen2" {
                add(name("attn_q.bias"), &[q]);
                add(name("attn_k.bias"), &[kv]);
                add(name("attn_v.bias"), &[kv]);
            }
            if architecture.starts_with("qwen3") {
                add(name("attn_q_norm.weight"), &[shape.head_dim]);
                add(name("attn_k_norm.weight"), &[shape.head_dim]);
            }
            add(name("ffn_norm.weight"), &[e]);
            match shape.experts.0 {
                0 => {
                    add(name("ffn_gate.weight"), &[e, f]);
                    add(name("ffn_up.weight"), &[e, f]);
                    add(name("ffn_down.weight"), &[f, e]);
                }
                n => {
                    add(name("ffn_gate_inp.weight"), &[e, n]);
                    add(name("ffn_gate_exps.weight"), &[e, f, n]);
                    add(name("ffn_up_exps.weight"), &[e, f, n]);
                    add(name("ffn_down_exps.weight"), &[f, e, n]);
                }
            }
        }
        model
    }

    /// The model of a file.
    pub fn of(gguf: &Gguf) -> TinyModel {
        let tensor = |tensor: &TensorInfo| TinyTensor {
            name: tensor.name.clone(),
            dims: tensor.dims.clone(),
            tensor_type: tensor.tensor_type,
            data: gguf.data(tensor).to_vec(),
        };
        TinyModel {
            architecture: Family::of_model(gguf).unwrap().architecture,
            metadata: gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
            tensors: gguf.tensors().map(tensor).collect(),
        }
    }

    /// Sets a metadata key under the architecture's name.
    pub fn set(&mut self, key: &str, value: Value) {
        self.set_full(&format!("{}.{key}", self.architecture), value);
    }

    /// Sets a metadata key.
    pub fn set_full(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_string(), value));
    }

    /// Removes a metadata key under the architecture's name.
    pub fn unset(&mut self, key: &str) {
        let key = format!("{}.{key}", self.architecture);
        let before = self.metadata.len();
        self.metadata.retain(|(k, _)| *k != key);
        assert_eq!(self.metadata.len() + 1, before, "{key} was there");
    }

    /// The tensor of that name.
    pub fn tensor(&mut self, name: &str) -> &mut TinyTensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    /// Adds a tensor of F32 values.
    pub fn add(&mut self, name: &str, dims: &[u64], values: &[f32]) {
        let mut tensor =
            TinyTensor { name: name.into(), dims: dims.to_vec(), tensor_type: TensorType::F32, data: vec![] };
        tensor.fill(values);
        self.tensors.push(tensor);
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        for (key, value) in &self.metadata {
            writer.metadata(key, value);
        }
        let offsets: Vec<u64> = self.tensors.iter().map(|t| writer.tensor(&t.name, &t.dims, t.tensor_type)).collect();
        let mut bytes = writer.header();
        let start = bytes.len();
        for (tensor, offset) in self.tensors.iter().zip(offsets) {
            bytes.resize(start + offset as usize, 0);
            bytes.extend_from_slice(&tensor.data);
        }
        bytes
    }
}

impl TinyTensor {
    fn random(name: String, dims: &[u64], random: &mut Random) -> TinyTensor {
        let n: u64 = dims.iter().product();
        // Norms near 1; matrices so that a product keeps the size of its input.
        let norm = name.contains("norm");
        let scale = if norm { 0.2 } else { 2.0 / (dims[0] as f32).sqrt() };
        let values: Vec<f32> = (0..n).map(|_| if norm { 1.0 } else { 0.0 } + scale * random.symmetric()).collect();
        let mut tensor = TinyTensor { name, dims: dims.to_vec(), tensor_type: TensorType::F32, data: vec![] };
        tensor.fill(&values);
        tensor
    }

    /// Replaces the values.
    pub fn fill(&mut self, values: &[f32]) {
        assert_eq!(values.len() as u64, self.dims.iter().product::<u64>(), "{}", self.name);
        self.data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    }

    /// The values.
    pub fn values(&self) -> Vec<f32> {
        self.data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

/// xorshift64* (Vigna, arXiv 1402.6246): numbers that are the same everywhere.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From −1 to 1.
    fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
