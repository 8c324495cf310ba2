//! What a token cannot avoid reading: every weight that it uses, once, and the keys and values before it.
//!
//! Divided by the memory's bandwidth this is the least time a token of decoding can take. Bytes are the file's: a layout on
//! the device that needs more of them is further from the floor.

use crate::{gguf::Gguf, gpu::kernels::CacheType, model::Config};

/// Bytes of the weights that one token reads: of the embedding its own row alone, unless that is the output matrix too, and
/// of experts those that are used.
pub fn weight_bytes(gguf: &Gguf, config: &Config) -> u64 {
    let of_tensor = |tensor: &crate::gguf::TensorInfo| match tensor.name.as_str() {
        "token_embd.weight" if !config.tied_output => tensor.bytes / config.vocab_size as u64,
        // Its divisors are part of the rotation's frequencies.
        "rope_freqs.weight" => 0,
        name => match &config.experts {
            Some(experts) if name.contains("_exps.") => tensor.bytes / experts.n_experts as u64 * experts.n_used as u64,
            _ => tensor.bytes,
        },
    };
    gguf.tensors().map(of_tensor).sum()
}

/// Bytes of the keys and values that a token reads which sees `n_positions`, itself included.
pub fn cache_bytes(config: &Config, cache_type: CacheType, n_positions: usize) -> u64 {
    let seen = config.sliding_window.map_or(n_positions, |window| window.min(n_positions));
    2 * (config.n_layers * cache_type.bytes(config.n_kv_heads * seen, config.head_dim)) as u64
}

/// Floating-point operations of `n` tokens after `depth` others: two for each weight of a matrix and token, and two for each
/// value of a key, and of a value, that a token's heads see.
pub fn operations(gguf: &Gguf, config: &Config, depth: usize, n: usize) -> f64 {
    // A prompt's logits are its last token's.
    let of_tensor = |tensor: &crate::gguf::TensorInfo| match tensor.name.as_str() {
        "token_embd.weight" | "output.weight" => 0.0,
        name if tensor.dims.len() < 2 || name == "rope_freqs.weight" => 0.0,
        name => {
            let values = tensor.dims.iter().product::<u64>() as f64;
            match &config.experts {
                Some(experts) if name.contains("_exps.") => values / experts.n_experts as f64 * experts.n_used as f64,
                _ => values,
            }
        }
    };
    let weights: f64 = gguf.tensors().map(of_tensor).sum();
    let seen = |index: usize| config.sliding_window.map_or(depth + index + 1, |window| window.min(depth + index + 1));
    let positions: f64 = (0..n).map(|index| seen(index) as f64).sum();
    let attention = 4.0 * positions * (config.n_layers * config.n_heads * config.head_dim) as f64;
    2.0 * weights * n as f64 + attention
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth::{FileType, Shape, Synth};

    fn model(shape: &str) -> (Gguf, Config) {
        let gguf = Synth::new(Shape::find(shape).unwrap(), FileType::F16, 0).without_matrices().unwrap();
        let config = Config::from_gguf(&gguf).unwrap();
        (gguf, config)
    }

    #[test]
    fn a_token_reads_the_weights_it_uses() {
        // 24 layers of 14 912 384 values in matrices (29 824 768 bytes) and 2944 in vectors, the tied embedding, one norm.
        let (gguf, config) = model("qwen2.5-0.5b");
        let layer = 2 * (896 * (896 + 128 + 128) + 896 * 896 + 3 * 896 * 4864) + 4 * (2 * 896 + 896 + 128 + 128);
        assert_eq!(weight_bytes(&gguf, &config), 24 * layer + 2 * 151_936 * 896 + 4 * 896);
        // Untied: of the embedding one row of 3584.
        let (gguf, config) = model("qwen2.5-7b");
        let all: u64 = gguf.tensors().map(|tensor| tensor.bytes).sum();
        assert_eq!(weight_bytes(&gguf, &config), all - 2 * (152_064 - 1) * 3584);
        // Two of eight experts.
        let (gguf, config) = model("tiny-qwen3moe");
        let all: u64 = gguf.tensors().map(|tensor| tensor.bytes).sum();
        let experts: u64 = gguf.tensors().filter(|t| t.name.contains("_exps.")).map(|t| t.bytes).sum();
        assert_eq!(weight_bytes(&gguf, &config), all - experts / 8 * 6);
    }

    #[test]
    fn a_token_reads_the_cache_before_it_within_the_window() {
        let (_, mut config) = model("qwen2.5-0.5b");
        assert_eq!(cache_bytes(&config, CacheType::F16, 100), 2 * 24 * 2 * 100 * 64 * 2);
        config.sliding_window = Some(10);
        assert_eq!(cache_bytes(&config, CacheType::F16, 100), 2 * 24 * 2 * 10 * 64 * 2);
    }

    #[test]
    fn operations_are_two_for_each_weight_and_token() {
        let (gguf, config) = model("qwen2.5-0.5b");
        let matrices = 24.0 * (896.0 * 1152.0 + 896.0 * 896.0 + 3.0 * 896.0 * 4864.0);
        let attention = 4.0 * (11.0 + 12.0) * 24.0 * 896.0;
        assert_eq!(operations(&gguf, &config, 10, 2), 2.0 * 2.0 * matrices + attention);
    }
}
