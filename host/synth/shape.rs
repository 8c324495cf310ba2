//! The shapes: hyperparameters of published models, and the metadata that a file of each holds.
//!
//! The numbers are those of each model's `config.json`; tensors are those of its figure. The `tiny` shapes
//! are for tests: small, and together with every part that a family can have.

use crate::gguf::Value;

/// The hyperparameters of a model.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // named and explained as in `model::Config`
pub struct Shape {
    /// What `--shape` calls it.
    pub name: &'static str,
    pub architecture: &'static str,
    pub n_layers: u64,
    pub n_embd: u64,
    pub n_heads: u64,
    pub n_kv_heads: u64,
    pub head_dim: u64,
    pub n_ff: u64,
    pub vocab_size: u64,
    pub context_length: u64,
    pub rope_theta: f32,
    /// Llama 3.1's stretching of low frequencies, by this factor at most.
    pub rope_stretch: Option<f64>,
    pub rms_epsilon: f32,
    pub tied_output: bool,
    pub experts: Option<ShapeExperts>,
}

/// The experts of a shape.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)] // as above
pub struct ShapeExperts {
    pub n_experts: u64,
    pub n_used: u64,
    /// Values between the matrices of one expert.
    pub n_ff: u64,
}

const QWEN2: Shape = Shape {
    name: "",
    architecture: "qwen2",
    n_layers: 0,
    n_embd: 0,
    n_heads: 0,
    n_kv_heads: 2,
    head_dim: 128,
    n_ff: 0,
    vocab_size: 151_936,
    context_length: 32_768,
    rope_theta: 1e6,
    rope_stretch: None,
    rms_epsilon: 1e-6,
    tied_output: true,
    experts: None,
};

const QWEN3: Shape = Shape { architecture: "qwen3", n_kv_heads: 8, context_length: 40_960, ..QWEN2 };

const LLAMA: Shape = Shape {
    architecture: "llama",
    n_heads: 32,
    n_kv_heads: 8,
    vocab_size: 128_256,
    rope_theta: 5e5,
    rms_epsilon: 1e-5,
    tied_output: false,
    ..QWEN2
};

const TINY: Shape = Shape {
    n_layers: 2,
    n_embd: 256,
    n_heads: 4,
    head_dim: 64,
    n_ff: 512,
    vocab_size: 320,
    context_length: 512,
    ..QWEN2
};

/// Every shape.
pub const SHAPES: &[Shape] = &[
    Shape { name: "qwen2.5-0.5b", n_layers: 24, n_embd: 896, n_heads: 14, head_dim: 64, n_ff: 4864, ..QWEN2 },
    Shape { name: "qwen2.5-1.5b", n_layers: 28, n_embd: 1536, n_heads: 12, n_ff: 8960, ..QWEN2 },
    Shape { name: "qwen2.5-3b", n_layers: 36, n_embd: 2048, n_heads: 16, n_ff: 11_008, ..QWEN2 },
    Shape {
        name: "qwen2.5-7b",
        n_layers: 28,
        n_embd: 3584,
        n_heads: 28,
        n_kv_heads: 4,
        n_ff: 18_944,
        vocab_size: 152_064,
        tied_output: false,
        ..QWEN2
    },
    Shape { name: "qwen3-0.6b", n_layers: 28, n_embd: 1024, n_heads: 16, n_ff: 3072, ..QWEN3 },
    Shape { name: "qwen3-8b", n_layers: 36, n_embd: 4096, n_heads: 32, n_ff: 12_288, tied_output: false, ..QWEN3 },
    Shape {
        name: "qwen3-30b-a3b",
        architecture: "qwen3moe",
        n_layers: 48,
        n_embd: 2048,
        n_heads: 32,
        n_kv_heads: 4,
        n_ff: 6144,
        tied_output: false,
        experts: Some(ShapeExperts { n_experts: 128, n_used: 8, n_ff: 768 }),
        ..QWEN3
    },
    Shape { name: "llama3-8b", n_layers: 32, n_embd: 4096, n_ff: 14_336, context_length: 8192, ..LLAMA },
    Shape {
        name: "llama3.2-1b",
        n_layers: 16,
        n_embd: 2048,
        head_dim: 64,
        n_ff: 8192,
        context_length: 131_072,
        rope_stretch: Some(32.0),
        tied_output: true,
        ..LLAMA
    },
    // Version 0.3: no sliding window.
    Shape {
        name: "mistral-7b",
        n_layers: 32,
        n_embd: 4096,
        n_ff: 14_336,
        vocab_size: 32_768,
        rope_theta: 1e6,
        ..LLAMA
    },
    // A feed-forward length that no K block divides, as in real models of awkward widths.
    Shape { name: "tiny-qwen2", n_ff: 288, tied_output: false, ..TINY },
    Shape { name: "tiny-llama", architecture: "llama", rope_stretch: Some(8.0), ..TINY },
    // Heads together are longer than the embedding, which no K block divides.
    Shape { name: "tiny-qwen3", architecture: "qwen3", n_embd: 128, n_heads: 2, n_kv_heads: 1, head_dim: 128, ..TINY },
    Shape {
        name: "tiny-qwen3moe",
        architecture: "qwen3moe",
        experts: Some(ShapeExperts { n_experts: 8, n_used: 2, n_ff: 256 }),
        ..TINY
    },
];

impl Shape {
    /// The shape of that name.
    pub fn find(name: &str) -> Option<&'static Shape> {
        SHAPES.iter().find(|shape| shape.name == name)
    }

    /// Metadata under the architecture's name.
    pub(super) fn metadata(&self) -> Vec<(String, Value)> {
        let numbers = [
            ("context_length", self.context_length),
            ("embedding_length", self.n_embd),
            ("block_count", self.n_layers),
            ("feed_forward_length", self.n_ff),
            ("attention.head_count", self.n_heads),
            ("attention.head_count_kv", self.n_kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", self.vocab_size),
        ];
        let experts = self.experts.map(|experts| {
            [
                ("expert_count", experts.n_experts),
                ("expert_used_count", experts.n_used),
                ("expert_feed_forward_length", experts.n_ff),
            ]
        });
        let numbers = numbers.into_iter().chain(experts.into_iter().flatten());
        let numbers = numbers.map(|(key, number)| (key, Value::U32(number as u32)));
        let floats = [("rope.freq_base", self.rope_theta), ("attention.layer_norm_rms_epsilon", self.rms_epsilon)];
        let floats = floats.map(|(key, number)| (key, Value::F32(number)));
        let prefixed = |(key, value)| (format!("{}.{key}", self.architecture), value);
        numbers.chain(floats).map(prefixed).collect()
    }

    /// Whether a file of this shape has a tensor that the figure may be without.
    pub(super) fn has(&self, name: &str) -> bool {
        match name {
            "rope_freqs.weight" => self.rope_stretch.is_some(),
            "output.weight" => !self.tied_output,
            _ => false,
        }
    }

    /// The content of `rope_freqs.weight`, `[head_dim/2]`: Llama 3.1's divisors. Wavelengths below a quarter of the first
    /// training's 8192 positions stay, those above all of it are stretched by the whole factor, and a ramp joins them.
    pub(super) fn rope_factors(&self) -> Vec<f32> {
        let factor = self.rope_stretch.unwrap_or(1.0);
        let divisor = |pair: u64| {
            let exponent = 2.0 * pair as f64 / self.head_dim as f64;
            let wavelength = std::f64::consts::TAU * f64::from(self.rope_theta).powf(exponent);
            let turns = 8192.0 / wavelength;
            let keep = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
            (1.0 / ((1.0 - keep) / factor + keep)) as f32
        };
        (0..self.head_dim / 2).map(divisor).collect()
    }
}
