//! Kernels of many tokens where prefill has no fused ones: models of F32, logits of every token, caches of F32 and Q8_0; and
//! unpacking.

use half::{bf16, f16};

use super::{Row, Widths, matrix, matrix_bytes, room, values};
use crate::{
    gguf::TensorType,
    gpu::{
        Activations, Gpu, Matmul,
        kernels::{Attention, AttentionShape, CacheType, OneSequence, Order, PAGE},
    },
};

/// Tokens of a chunk.
const N: usize = 512;
/// Tokens of a chunk that is counted on every test run.
const FEW: usize = 16;

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for widths in Widths::all() {
        let Widths { n_embd, n_vocab, .. } = widths;
        for tensor_type in [TensorType::F16, TensorType::Q8_0] {
            rows.push(matmul(&widths, "output", tensor_type, n_vocab, n_embd));
        }
        for cache_type in [CacheType::F32, CacheType::Q8_0] {
            rows.push(attention(&widths, cache_type, widths.head_dim, N, 0));
        }
    }
    for tensor_type in [TensorType::Q8_0, TensorType::Q4_K, TensorType::Q5_K, TensorType::Q6_K] {
        let [_, _, (_, n_out, n_in), _] = Widths::all()[1].matrices();
        rows.push(dequantise(tensor_type, n_out, n_in));
    }
    let small = Widths::small();
    // The down projection's width, which all types' blocks divide.
    let quantised = TensorType::ALL.iter().copied().filter(|tensor_type| tensor_type.is_quantised());
    rows.extend(quantised.map(|tensor_type| dequantise(tensor_type, 64, small.n_ff).small()));
    for cache_type in CacheType::ALL {
        // A size for each number of lanes that hold a key, and one that is not a multiple of eight.
        let sizes = [64, 128, 256, 100].into_iter().filter(|head_dim| cache_type.check_head_dim(*head_dim).is_ok());
        rows.extend(sizes.map(|head_dim| attention(&small, cache_type, head_dim, FEW, 48).small()));
    }
    rows.extend(conversions(&small, FEW).into_iter().map(Row::small));
    rows.extend(conversions(&Widths::all()[1], N));
    rows
}

fn matmul(widths: &Widths, what: &str, tensor_type: TensorType, n_out: usize, n_in: usize) -> Row {
    let bytes = matrix_bytes(tensor_type, n_out, n_in) + 4 * N * (n_in + n_out);
    let name = format!("{} {what} {n_out}×{n_in}, {N} tokens", widths.name);
    Row::new(format!("matmul {}", tensor_type.name()), name, bytes, move |gpu| {
        let weights = matrix(gpu, tensor_type, n_out, n_in)?;
        let (x, out) = (values(gpu, N * n_in)?, room(gpu, N * n_out)?);
        let scratch = Matmul::new(gpu, N, n_in, n_out * n_in, Activations::default())?;
        Ok(move |gpu: &Gpu| gpu.matmul(&scratch, weights.all(), &x, None, None, &out, N))
    })
    .operations(2.0 * (N * n_out * n_in) as f64)
}

/// `n` tokens after `depth` others.
fn attention(widths: &Widths, cache_type: CacheType, head_dim: usize, n: usize, depth: usize) -> Row {
    let n_context = depth + n;
    let shape = AttentionShape {
        n_tokens: n,
        n_heads: widths.n_heads,
        n_kv_heads: widths.n_kv_heads,
        head_dim,
        n_pages: n_context.div_ceil(PAGE),
        window: None,
    };
    let n_values = n * widths.n_heads * head_dim;
    let cache_len = shape.cache_bytes(cache_type);
    let positions: Vec<u32> = (depth as u32..n_context as u32).collect();
    let seen: f64 = positions.iter().map(|position| f64::from(*position + 1)).sum();
    let name = format!("{} heads of {head_dim}, {n} tokens after {depth}", widths.name);
    Row::new(format!("attention_{cache_type}"), name, 2 * cache_len + 8 * n_values, move |gpu| {
        let (keys, cached) = (room::<u8>(gpu, cache_len)?, room::<u8>(gpu, cache_len)?);
        gpu.fill(&keys, 0)?;
        gpu.fill(&cached, 0)?;
        let (q, out) = (values(gpu, n_values)?, room(gpu, n_values)?);
        let positions = gpu.upload("positions", &positions)?;
        let pages = OneSequence::new(gpu, n_context, n)?;
        Ok(move |gpu: &Gpu| {
            gpu.attention(&Attention {
                shape,
                q: &q,
                keys: &keys,
                values: &cached,
                cache_type,
                positions: &positions,
                pages: pages.get(),
                out: &out,
                probabilities: None,
                scale: 0.125,
                soft_cap: None,
                sinks: None,
            })
        })
    })
    .operations(4.0 * seen * (widths.n_heads * head_dim) as f64)
}

fn dequantise(tensor_type: TensorType, n_out: usize, n_in: usize) -> Row {
    let kernel = format!("dequantise_{}", tensor_type.name().to_lowercase());
    let bytes = matrix_bytes(tensor_type, n_out, n_in) + 2 * n_out * n_in;
    Row::new(kernel, format!("{n_out}×{n_in}"), bytes, move |gpu| {
        let (weights, out) = (matrix(gpu, tensor_type, n_out, n_in)?, room::<f16>(gpu, n_out * n_in)?);
        Ok(move |gpu: &Gpu| gpu.dequantise(weights.all(), &out))
    })
}

/// What is done to activations around cuBLAS.
fn conversions(widths: &Widths, n_tokens: usize) -> Vec<Row> {
    let n = widths.n_ff;
    let name = format!("{} {n_tokens} tokens of {n}", widths.name);
    let len = n_tokens * n;
    let to_f16 = Row::new("matmul_input_f16", &*name, 6 * len, move |gpu| {
        let (x, out, scales) = (values(gpu, len)?, room::<f16>(gpu, len)?, room(gpu, n_tokens)?);
        Ok(move |gpu: &Gpu| gpu.matmul_input_f16(&x, &out, &scales, n_tokens, n, Order::Rows))
    });
    let to_bf16 = Row::new("matmul_input_bf16", &*name, 8 * len, move |gpu| {
        let (x, high, low) = (values(gpu, len)?, room::<bf16>(gpu, len)?, room::<bf16>(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.matmul_input_bf16(&x, &high, &low, len))
    });
    let epilogue = Row::new("matmul_epilogue", &*name, 12 * len, move |gpu| {
        let (product, residual, out) = (values(gpu, len)?, values(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.matmul_epilogue(&product, None, None, Some(&residual), &out, n_tokens, n))
    });
    vec![to_f16, to_bf16, epilogue]
}
