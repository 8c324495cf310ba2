//! Shapes of Gemma 4, the language models alone, whose layers differ from each other: by lists.

use super::{
    shape::{Divisors, Key, Shape, ShapeExperts},
    shapes::QWEN2,
};

/// Every so manyth layer sees all positions, the others have a window.
const fn windowed<const N: usize>(group: usize) -> [bool; N] {
    let mut layers = [true; N];
    let mut layer = group - 1;
    while layer < N {
        layers[layer] = false;
        layer += group;
    }
    layers
}

/// A number for each layer, by whether it has a window.
const fn by_window<const N: usize>(windowed: &[bool; N], [with, without]: [u32; 2]) -> [u32; N] {
    let mut numbers = [with; N];
    let mut layer = 0;
    while layer < N {
        if !windowed[layer] {
            numbers[layer] = without;
        }
        layer += 1;
    }
    numbers
}

/// A number for the first layers, and another for the rest.
const fn by_half<const N: usize>(first: usize, [low, high]: [u32; 2]) -> [u32; N] {
    let mut numbers = [high; N];
    let mut layer = 0;
    while layer < first {
        numbers[layer] = low;
        layer += 1;
    }
    numbers
}

const OF_30: &[bool; 30] = &windowed(6);
const OF_60: &[bool; 60] = &windowed(6);
const OF_35: &[bool; 35] = &windowed(5);

/// Heads of 512 values where a layer sees all, of 256 where it has a window; of those of 512 a quarter turns.
const GEMMA4: Shape = Shape {
    architecture: "gemma4",
    head_dim: 512,
    vocab_size: 262_144,
    context_length: 262_144,
    divisors: Divisors::Turning(64),
    ..QWEN2
};

macro_rules! keys {
    ($window:literal $windowed:ident $(, $more:expr)*) => {
        &[
            ("attention.sliding_window", Key::U32($window)),
            ("attention.sliding_window_pattern", Key::Flags($windowed)),
            ("attention.key_length_swa", Key::U32(256)),
            ("attention.value_length_swa", Key::U32(256)),
            ("rope.dimension_count_swa", Key::U32(256)),
            ("rope.freq_base_swa", Key::F32(1e4)),
            ("final_logit_softcapping", Key::F32(30.0)),
            $($more,)*
        ]
    };
}

/// Experts beside the dense network; where a layer sees all, its values are its keys.
pub const A4B: Shape = Shape {
    name: "gemma4-26b-a4b",
    n_layers: 30,
    n_embd: 2816,
    n_heads: 16,
    n_kv_heads: 8,
    n_ff: 2112,
    experts: Some(ShapeExperts { n_experts: 128, n_used: 8, n_ff: 704 }),
    values_in: Some(OF_30),
    keys: keys!(1024 OF_30, ("attention.head_count_kv", Key::Numbers(&by_window(OF_30, [8, 2])))),
    optional: &["layer_output_scale.weight", "ffn_gate_up_exps.weight", "ffn_down_exps.scale"],
    ..GEMMA4
};

/// The largest dense one.
pub const LARGE: Shape = Shape {
    name: "gemma4-31b",
    n_layers: 60,
    n_embd: 5376,
    n_heads: 32,
    n_kv_heads: 16,
    n_ff: 21_504,
    values_in: Some(OF_60),
    keys: keys!(1024 OF_60, ("attention.head_count_kv", Key::Numbers(&by_window(OF_60, [16, 4])))),
    optional: &["layer_output_scale.weight"],
    ..GEMMA4
};

/// For telephones: embeddings of layers, most of the layers' caches shared, and these layers' networks twice as wide.
pub const E2B: Shape = Shape {
    name: "gemma4-e2b",
    n_layers: 35,
    n_embd: 1536,
    n_heads: 8,
    n_kv_heads: 1,
    n_ff: 6144,
    context_length: 131_072,
    keys: keys!(
        512 OF_35,
        ("attention.shared_kv_layers", Key::U32(20)),
        ("embedding_length_per_layer_input", Key::U32(256)),
        ("feed_forward_length", Key::Numbers(&by_half::<35>(15, [6144, 12_288])))
    ),
    optional: &["layer_output_scale.weight", "attn_v.weight"],
    ..GEMMA4
};
