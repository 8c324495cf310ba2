//! Products of any number of tokens, as a pass takes them: one token's kernel, those of a few, and from some number on a product of f16, of the weights
//! unpacked where they are something else. From one count to the next time should neither fall nor jump.

use half::f16;

use super::{Row, Widths, matrix, matrix_bytes, room, values};
use crate::{
    gguf::TensorType,
    gpu::{
        Gpu, Product,
        kernels::{Gemm, GemmScratch, Gemv},
    },
};

/// Counts around those where another kernel, or another number of launches, begins.
const TOKENS: [usize; 35] = [
    1, 2, 3, 4, 6, 8, 9, 12, 16, 17, 20, 24, 28, 32, 33, 40, 48, 56, 64, 65, 72, 73, 80, 81, 96, 97, 112, 128, 129,
    160, 192, 256, 320, 384, 512,
];

pub fn rows() -> Vec<Row> {
    let widths = Widths::of("7B", "qwen2.5-7b");
    let mut rows = Vec::new();
    for tensor_type in [TensorType::Q4_K, TensorType::Q8_0, TensorType::F16, TensorType::BF16] {
        for (what, n_out, n_in) in widths.matrices() {
            rows.extend(TOKENS.into_iter().map(|n| of_count(&widths, what, tensor_type, (n_out, n_in), n)));
        }
    }
    rows
}

fn of_count(widths: &Widths, what: &str, tensor_type: TensorType, (n_out, n_in): (usize, usize), n: usize) -> Row {
    let matrix_bytes = matrix_bytes(tensor_type, n_out, n_in);
    // The model's largest decides for all.
    let matrices = widths.matrices().map(|(_, n_out, n_in)| (tensor_type, [n_out, n_in]));
    let name = format!("{} {what} {tensor_type} {n_out}×{n_in}, {n} tokens", widths.name);
    let bytes = (matrix_bytes + 4 * n * (n_in + n_out), matrix_bytes);
    Row::streaming("any count", name, bytes, move |gpu| {
        let (weights, x, out) = (matrix(gpu, tensor_type, n_out, n_in)?, values(gpu, n * n_in)?, room(gpu, n * n_out)?);
        let halves = gpu.alloc::<f16>("x", n * n_in)?;
        gpu.range_to_f16_f32(&x, &halves, 1.0, n * n_in)?;
        let most = gpu.most_gemm_tokens(matrices.into_iter())?;
        let scratch = GemmScratch::new(gpu, GemmScratch::elements([(vec![n_out], n_in)].into_iter(), n.min(most)))?;
        let is_unpacked = n > most && tensor_type != TensorType::F16;
        let unpacked = gpu.alloc::<f16>("an unpacked matrix", if is_unpacked { n_out * n_in } else { 0 })?;
        let streamed = vec![weights.data.address()];
        let launch = move |gpu: &Gpu| {
            let weights = weights.all();
            if n == 1 {
                return gpu.gemv(&Gemv::new(weights, &x, &out));
            }
            let out = Product::F32(&out);
            if n > most {
                let floats = (!tensor_type.is_quantised()).then(|| weights.floats());
                match &floats {
                    Some(floats) if is_unpacked => {
                        gpu.range_to_f16_bf16(&floats.cast(), &unpacked, 1.0, n_out * n_in)?;
                    }
                    Some(floats) => return gpu.product(&floats.cast(), n_out, n_in, &halves, out, 1.0, false, n),
                    None => gpu.dequantise(weights, &unpacked)?,
                }
                return gpu.product(&unpacked, n_out, n_in, &halves, out, 1.0, false, n);
            }
            gpu.gemm(&Gemm::new(weights, &halves, out), n, &scratch)
        };
        Ok((launch, streamed))
    })
    .operations(2.0 * (n * n_out * n_in) as f64)
}
