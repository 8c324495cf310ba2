//! What a token cannot avoid reading: every weight that it uses, once, and the keys and values before it.
//!
//! Divided by the memory's bandwidth this is the least time a token of decoding can take. Bytes are the file's: a layout on
//! the device that needs more of them is further from the floor.

use crate::{
    gguf::Gguf,
    gpu::kernels::CacheType,
    model::{
        Figure,
        figure::{Op, StackId, TensorId},
    },
};

/// How much of each tensor a token reads: rows of the embedding and experts are not all used.
fn share(figure: &Figure, tensor: TensorId) -> f64 {
    let holds = |stack: StackId| figure.stack(stack).pieces.iter().any(|piece| piece.tensor == tensor);
    let shares = figure.nodes.iter().map(|node| match &node.op {
        Op::Embed { table } if holds(table.stack) => 1.0 / figure.stack(table.stack).n_out as f64,
        Op::Product { weight, .. } if holds(weight.stack) => 1.0,
        Op::ExpertProduct { weight, experts, .. } if holds(weight.stack) => {
            figure.value(*experts).width() as f64 / figure.stack(weight.stack).n_matrices as f64
        }
        _ => 0.0,
    });
    let is_vector = figure.vectors.iter().any(|vector| vector.pieces.iter().any(|(_, of)| *of == Some(tensor)));
    shares.fold(if is_vector { 1.0 } else { 0.0 }, f64::max)
}

/// Bytes of the weights that one token reads: of the embedding its own row alone, unless that is the output matrix too, and
/// of experts those that are used.
pub fn weight_bytes(gguf: &Gguf, figure: &Figure) -> u64 {
    let of_tensor = |(index, tensor): (usize, &crate::model::figure::Tensor)| {
        let bytes = gguf.tensor(&tensor.name).map_or(0, |tensor| tensor.bytes);
        (bytes as f64 * share(figure, TensorId(index))).round() as u64
    };
    figure.tensors.iter().enumerate().map(of_tensor).sum()
}

/// Bytes of the keys and values that a token reads which sees `n_positions`, itself included.
pub fn cache_bytes(figure: &Figure, cache_type: CacheType, n_positions: usize) -> u64 {
    let of_node = |node: &crate::model::figure::Node| {
        let Op::Attention { cache, .. } = node.op else { return 0 };
        let cache = figure.caches[cache.0];
        let seen = cache.window.map_or(n_positions, |window| window.min(n_positions));
        let kinds = if cache.value_dim.is_some() { 1 } else { 2 };
        kinds * cache_type.bytes(cache.n_kv_heads * seen, cache.head_dim) as u64
    };
    figure.nodes.iter().map(of_node).sum()
}

/// Floating-point operations of `n` tokens after `depth` others: two for each weight of a layer's matrix and token, and two for each
/// value of a key, and of a value, that a token's heads see. A prompt's logits are its last token's, and count for nothing.
pub fn operations(figure: &Figure, depth: usize, n: usize) -> f64 {
    let of_node = |node: &crate::model::figure::Node| match &node.op {
        Op::Product { weight, .. } => 2.0 * (n * weight.rows.len() * figure.stack(weight.stack).n_in) as f64,
        Op::ExpertProduct { weight, experts, .. } => {
            let used = figure.value(*experts).width();
            2.0 * (n * used * weight.rows.len() * figure.stack(weight.stack).n_in) as f64
        }
        Op::Attention { q, cache, .. } => {
            let window = figure.caches[cache.0].window;
            let seen = |index: usize| window.map_or(depth + index + 1, |window| window.min(depth + index + 1));
            4.0 * (0..n).map(|index| seen(index) as f64).sum::<f64>() * figure.value(*q).width() as f64
        }
        _ => 0.0,
    };
    figure.nodes[..figure.head].iter().map(of_node).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Model,
        synth::{FileType, Shape, Synth},
    };

    fn model(shape: &str) -> (Gguf, Figure) {
        let gguf = Synth::new(Shape::find(shape).unwrap(), FileType::F16, 0).without_matrices().unwrap();
        let figure = Model::open(&gguf).unwrap().figure;
        (gguf, figure)
    }

    #[test]
    fn a_token_reads_the_weights_it_uses() {
        // 24 layers of 14 912 384 values in matrices (29 824 768 bytes) and 2944 in vectors, the tied embedding, one norm.
        let (gguf, figure) = model("qwen2.5-0.5b");
        let layer = 2 * (896 * (896 + 128 + 128) + 896 * 896 + 3 * 896 * 4864) + 4 * (2 * 896 + 896 + 128 + 128);
        assert_eq!(weight_bytes(&gguf, &figure), 24 * layer + 2 * 151_936 * 896 + 4 * 896);
        // Untied: of the embedding one row of 3584.
        let (gguf, figure) = model("qwen2.5-7b");
        let all: u64 = gguf.tensors().map(|tensor| tensor.bytes).sum();
        assert_eq!(weight_bytes(&gguf, &figure), all - 2 * (152_064 - 1) * 3584);
        // Two of eight experts.
        let (gguf, figure) = model("tiny-qwen3moe");
        let all: u64 = gguf.tensors().map(|tensor| tensor.bytes).sum();
        let experts: u64 = gguf.tensors().filter(|t| t.name.contains("_exps.")).map(|t| t.bytes).sum();
        assert_eq!(weight_bytes(&gguf, &figure), all - experts / 8 * 6);
    }

    #[test]
    fn a_token_reads_the_cache_before_it_within_the_window() {
        let (_, mut figure) = model("qwen2.5-0.5b");
        assert_eq!(cache_bytes(&figure, CacheType::F16, 100), 2 * 24 * 2 * 100 * 64 * 2);
        figure.caches.iter_mut().for_each(|cache| cache.window = Some(10));
        assert_eq!(cache_bytes(&figure, CacheType::F16, 100), 2 * 24 * 2 * 10 * 64 * 2);
    }

    #[test]
    fn operations_are_two_for_each_weight_and_token() {
        let (_, figure) = model("qwen2.5-0.5b");
        let matrices = 24.0 * (896.0 * 1152.0 + 896.0 * 896.0 + 3.0 * 896.0 * 4864.0);
        let attention = 4.0 * (11.0 + 12.0) * 24.0 * 896.0;
        assert_eq!(operations(&figure, 10, 2), 2.0 * 2.0 * matrices + attention);
    }
}
