//! The shapes: hyperparameters of published models.
//!
//! The numbers are those of each model's `config.json`; tensors are those of its figure. The `tiny` shapes
//! are for tests: small, and together with every part that a family can have.

use super::{
    gemma4,
    shape::{Divisors, Key, Shape, ShapeExperts},
};

/// The defaults of all, which are this family's.
pub(super) const QWEN2: Shape = Shape {
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
    divisors: Divisors::None,
    rms_epsilon: 1e-6,
    tied_output: true,
    experts: None,
    keys: &[],
    optional: &[],
    values_in: None,
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

/// Three layers of gated delta net to each of attention.
const QWEN35: Shape = Shape {
    n_heads: 16,
    head_dim: 256,
    n_ff: 512,
    vocab_size: 248_320,
    context_length: 262_144,
    rope_theta: 1e7,
    tied_output: false,
    keys: &[
        ("rope.dimension_count", Key::U32(64)),
        ("ssm.conv_kernel", Key::U32(4)),
        ("ssm.inner_size", Key::U32(4096)),
        ("ssm.state_size", Key::U32(128)),
        ("ssm.time_step_rank", Key::U32(32)),
        ("ssm.group_count", Key::U32(16)),
        ("full_attention_interval", Key::U32(4)),
        ("expert_shared_feed_forward_length", Key::U32(512)),
    ],
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
        divisors: Divisors::Stretching(32.0),
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
    Shape {
        name: "command-r7b",
        architecture: "cohere2",
        n_layers: 32,
        n_embd: 4096,
        n_ff: 14_336,
        vocab_size: 256_000,
        context_length: 132_096,
        rope_theta: 5e4,
        tied_output: true,
        keys: &[
            ("attention.layer_norm_epsilon", Key::F32(1e-5)),
            ("attention.sliding_window", Key::U32(4096)),
            ("logit_scale", Key::F32(0.25)),
        ],
        ..LLAMA
    },
    Shape {
        name: "deepseek-v2-lite",
        architecture: "deepseek2",
        n_layers: 27,
        n_embd: 2048,
        n_heads: 16,
        n_kv_heads: 1,
        head_dim: 192,
        n_ff: 10_944,
        vocab_size: 102_400,
        context_length: 163_840,
        rope_theta: 1e4,
        tied_output: false,
        experts: Some(ShapeExperts { n_experts: 64, n_used: 6, n_ff: 1408 }),
        keys: &[
            ("attention.key_length", Key::U32(576)),
            ("attention.value_length", Key::U32(512)),
            ("attention.key_length_mla", Key::U32(192)),
            ("attention.value_length_mla", Key::U32(128)),
            ("attention.kv_lora_rank", Key::U32(512)),
            ("rope.dimension_count", Key::U32(64)),
            ("rope.scaling.type", Key::Text("yarn")),
            ("rope.scaling.factor", Key::F32(40.0)),
            ("rope.scaling.original_context_length", Key::U32(4096)),
            ("rope.scaling.yarn_log_multiplier", Key::F32(0.0707)),
            ("expert_shared_count", Key::U32(2)),
            ("leading_dense_block_count", Key::U32(1)),
            ("expert_weights_norm", Key::Bool(false)),
            ("expert_gating_func", Key::U32(1)),
        ],
        ..QWEN2
    },
    Shape {
        name: "ernie4.5-0.3b",
        architecture: "ernie4_5",
        n_layers: 18,
        n_embd: 1024,
        n_heads: 16,
        n_kv_heads: 2,
        n_ff: 3072,
        vocab_size: 103_424,
        context_length: 131_072,
        tied_output: true,
        ..LLAMA
    },
    Shape {
        name: "ernie4.5-21b-a3b",
        architecture: "ernie4_5-moe",
        n_layers: 28,
        n_embd: 2560,
        n_heads: 20,
        n_kv_heads: 4,
        n_ff: 12_288,
        vocab_size: 103_424,
        context_length: 131_072,
        tied_output: true,
        experts: Some(ShapeExperts { n_experts: 64, n_used: 6, n_ff: 1536 }),
        keys: &[
            ("expert_shared_feed_forward_length", Key::U32(3072)),
            ("leading_dense_block_count", Key::U32(1)),
            ("interleave_moe_layer_step", Key::U32(1)),
        ],
        optional: &["exp_probs_b.bias"],
        ..LLAMA
    },
    Shape {
        name: "exaone4-32b",
        architecture: "exaone4",
        n_layers: 64,
        n_embd: 5120,
        n_heads: 40,
        n_ff: 27_392,
        vocab_size: 102_400,
        context_length: 131_072,
        rope_theta: 1e6,
        divisors: Divisors::Stretching(16.0),
        keys: &[("attention.sliding_window", Key::U32(4096))],
        ..LLAMA
    },
    Shape {
        name: "gemma2-9b",
        architecture: "gemma2",
        n_layers: 42,
        n_embd: 3584,
        n_heads: 16,
        head_dim: 256,
        n_ff: 14_336,
        vocab_size: 256_000,
        context_length: 8192,
        rope_theta: 1e4,
        keys: &[("attention.sliding_window", Key::U32(4096))],
        ..QWEN3
    },
    // The language model alone, without the encoder of images.
    Shape {
        name: "gemma3-27b",
        architecture: "gemma3",
        n_layers: 62,
        n_embd: 5376,
        n_heads: 32,
        n_kv_heads: 16,
        n_ff: 21_504,
        vocab_size: 262_208,
        context_length: 131_072,
        keys: &[
            ("attention.sliding_window", Key::U32(1024)),
            ("rope.scaling.type", Key::Text("linear")),
            ("rope.scaling.factor", Key::F32(8.0)),
        ],
        ..QWEN3
    },
    gemma4::A4B,
    gemma4::LARGE,
    gemma4::E2B,
    Shape {
        name: "glm4-9b",
        architecture: "glm4",
        n_layers: 40,
        n_embd: 4096,
        n_heads: 32,
        n_kv_heads: 2,
        n_ff: 13_696,
        vocab_size: 151_552,
        rope_theta: 1e4,
        rms_epsilon: 1e-5,
        tied_output: false,
        keys: &[("rope.dimension_count", Key::U32(64))],
        optional: &["attn_q.bias", "attn_k.bias", "attn_v.bias"],
        ..QWEN2
    },
    // Without the block that predicts tokens further on.
    Shape {
        name: "glm4.5-air",
        architecture: "glm4moe",
        n_layers: 46,
        n_embd: 4096,
        n_heads: 96,
        n_ff: 10_944,
        vocab_size: 151_552,
        context_length: 131_072,
        rms_epsilon: 1e-5,
        tied_output: false,
        experts: Some(ShapeExperts { n_experts: 128, n_used: 8, n_ff: 1408 }),
        keys: &[
            ("rope.dimension_count", Key::U32(64)),
            ("expert_shared_count", Key::U32(1)),
            ("leading_dense_block_count", Key::U32(1)),
            ("expert_weights_norm", Key::Bool(true)),
            ("expert_gating_func", Key::U32(2)),
        ],
        optional: &["attn_q.bias", "attn_k.bias", "attn_v.bias", "exp_probs_b.bias"],
        ..QWEN3
    },
    Shape {
        name: "gpt-oss-20b",
        architecture: "gpt-oss",
        n_layers: 24,
        n_embd: 2880,
        n_heads: 64,
        head_dim: 64,
        n_ff: 2880,
        vocab_size: 201_088,
        context_length: 131_072,
        rope_theta: 150_000.0,
        experts: Some(ShapeExperts { n_experts: 32, n_used: 4, n_ff: 2880 }),
        keys: &[
            ("attention.sliding_window", Key::U32(128)),
            ("rope.scaling.type", Key::Text("yarn")),
            ("rope.scaling.factor", Key::F32(32.0)),
            ("rope.scaling.original_context_length", Key::U32(4096)),
        ],
        ..LLAMA
    },
    Shape {
        name: "granite3.3-8b",
        architecture: "granite",
        n_layers: 40,
        n_embd: 4096,
        n_ff: 12_800,
        vocab_size: 49_159,
        context_length: 131_072,
        rope_theta: 1e7,
        tied_output: true,
        keys: &[
            ("embedding_scale", Key::F32(12.0)),
            ("residual_scale", Key::F32(0.22)),
            ("attention.scale", Key::F32(0.007_812_5)),
            ("logit_scale", Key::F32(16.0)),
        ],
        ..LLAMA
    },
    Shape {
        name: "granite3.1-3b-a800m",
        architecture: "granitemoe",
        n_layers: 32,
        n_embd: 1536,
        n_heads: 24,
        head_dim: 64,
        n_ff: 512,
        vocab_size: 49_155,
        context_length: 131_072,
        rope_theta: 1e7,
        tied_output: true,
        experts: Some(ShapeExperts { n_experts: 40, n_used: 8, n_ff: 512 }),
        keys: &[
            ("embedding_scale", Key::F32(12.0)),
            ("residual_scale", Key::F32(0.22)),
            ("attention.scale", Key::F32(0.015_625)),
            ("logit_scale", Key::F32(6.0)),
        ],
        ..LLAMA
    },
    // The language model alone.
    Shape {
        name: "ministral3-8b",
        architecture: "mistral3",
        n_layers: 34,
        n_embd: 4096,
        n_ff: 14_336,
        vocab_size: 131_072,
        context_length: 262_144,
        rope_theta: 1e6,
        keys: &[
            ("rope.scaling.type", Key::Text("yarn")),
            ("rope.scaling.factor", Key::F32(16.0)),
            ("rope.scaling.original_context_length", Key::U32(16_384)),
            ("rope.scaling.yarn_log_multiplier", Key::F32(1.0)),
            ("attention.temperature_scale", Key::F32(0.1)),
        ],
        ..LLAMA
    },
    Shape {
        name: "olmo3-7b",
        architecture: "olmo2",
        n_layers: 32,
        n_embd: 4096,
        n_heads: 32,
        n_kv_heads: 32,
        n_ff: 11_008,
        vocab_size: 100_278,
        context_length: 65_536,
        rope_theta: 5e5,
        tied_output: false,
        keys: &[
            ("attention.sliding_window", Key::U32(4096)),
            ("rope.scaling.type", Key::Text("yarn")),
            ("rope.scaling.factor", Key::F32(8.0)),
            ("rope.scaling.original_context_length", Key::U32(8192)),
        ],
        ..QWEN2
    },
    Shape {
        name: "phi4-14b",
        architecture: "phi3",
        n_layers: 40,
        n_embd: 5120,
        n_heads: 40,
        n_kv_heads: 10,
        n_ff: 17_920,
        vocab_size: 100_352,
        context_length: 16_384,
        rope_theta: 250_000.0,
        ..LLAMA
    },
    Shape {
        name: "qwen1.5-moe-a2.7b",
        architecture: "qwen2moe",
        n_layers: 24,
        n_embd: 2048,
        n_heads: 16,
        n_kv_heads: 16,
        n_ff: 5632,
        context_length: 8192,
        tied_output: false,
        experts: Some(ShapeExperts { n_experts: 60, n_used: 4, n_ff: 1408 }),
        keys: &[("expert_shared_feed_forward_length", Key::U32(5632))],
        ..QWEN2
    },
    // Without the encoder of images, and without the block that predicts tokens further on; so the two below.
    Shape {
        name: "qwen3.5-9b",
        architecture: "qwen35",
        n_layers: 32,
        n_embd: 4096,
        n_kv_heads: 4,
        n_ff: 12_288,
        ..QWEN35
    },
    Shape {
        name: "qwen3.5-35b-a3b",
        architecture: "qwen35moe",
        n_layers: 40,
        n_embd: 2048,
        n_kv_heads: 2,
        experts: Some(ShapeExperts { n_experts: 256, n_used: 8, n_ff: 512 }),
        ..QWEN35
    },
    Shape {
        name: "qwen3-next-80b-a3b",
        architecture: "qwen3next",
        n_layers: 48,
        n_embd: 2048,
        n_kv_heads: 2,
        vocab_size: 151_936,
        experts: Some(ShapeExperts { n_experts: 512, n_used: 10, n_ff: 512 }),
        optional: &["ssm_ba.weight"],
        ..QWEN35
    },
    Shape {
        name: "seed-oss-36b",
        architecture: "seed_oss",
        n_layers: 64,
        n_embd: 5120,
        n_heads: 80,
        n_kv_heads: 8,
        n_ff: 27_648,
        vocab_size: 155_136,
        context_length: 524_288,
        rope_theta: 1e7,
        tied_output: false,
        ..QWEN2
    },
    Shape {
        name: "smollm3-3b",
        architecture: "smollm3",
        n_layers: 36,
        n_embd: 2048,
        n_heads: 16,
        n_kv_heads: 4,
        n_ff: 11_008,
        context_length: 65_536,
        rope_theta: 5e6,
        rms_epsilon: 1e-6,
        tied_output: true,
        ..LLAMA
    },
    // A feed-forward length that no K block divides, as in real models of awkward widths.
    Shape { name: "tiny-qwen2", n_ff: 288, tied_output: false, ..TINY },
    Shape { name: "tiny-llama", architecture: "llama", divisors: Divisors::Stretching(8.0), ..TINY },
    // Heads together are longer than the embedding, which no K block divides.
    Shape { name: "tiny-qwen3", architecture: "qwen3", n_embd: 128, n_heads: 2, n_kv_heads: 1, head_dim: 128, ..TINY },
    Shape {
        name: "tiny-qwen3moe",
        architecture: "qwen3moe",
        experts: Some(ShapeExperts { n_experts: 8, n_used: 2, n_ff: 256 }),
        ..TINY
    },
];
