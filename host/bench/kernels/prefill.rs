//! Kernels between a prompt's products on tensor cores: f16 in and out, and flash attention.

use half::{bf16, f16};

use super::{Row, Widths, room, values};
use crate::{
    gpu::{
        Buffer, Gpu, GpuError,
        kernels::{AttentionShape, CacheType, HEAD_DIMS, Qkv},
    },
    model::RopePairing,
};

/// Tokens of a chunk.
const N: usize = 512;
/// Tokens of a chunk that is counted on every test run.
const FEW: usize = 16;

pub fn rows() -> Vec<Row> {
    let small = Widths::small();
    let mut rows = Vec::new();
    for element in [CacheType::F16, CacheType::BF16] {
        rows.extend(HEAD_DIMS.into_iter().map(|head_dim| flash(&small, element, head_dim, FEW, 48).small()));
    }
    for element in [CacheType::F32, CacheType::F16, CacheType::BF16] {
        rows.push(qkv(&small, element, FEW).small());
    }
    rows.extend(around(&small, FEW).into_iter().map(Row::small));
    for widths in Widths::all() {
        rows.extend([0, 3584].map(|depth| flash(&widths, CacheType::F16, widths.head_dim, N, depth)));
        rows.push(qkv(&widths, CacheType::F16, N));
        rows.extend(around(&widths, N));
    }
    rows
}

/// Bytes that are all zero: numbers of any type that change nothing of what is measured.
fn zeros(gpu: &Gpu, len: usize) -> Result<Buffer<u8>, GpuError> {
    let buffer = room(gpu, len)?;
    gpu.fill(&buffer, 0)?;
    Ok(buffer)
}

/// `n` tokens after `depth` others.
fn flash(widths: &Widths, element: CacheType, head_dim: usize, n: usize, depth: usize) -> Row {
    let (n_heads, n_kv_heads, n_context) = (widths.n_heads, widths.n_kv_heads, depth + n);
    let shape = AttentionShape { n_tokens: n, n_heads, n_kv_heads, head_dim, n_context, window: None };
    let cache_len = element.bytes(n_kv_heads * n_context, head_dim);
    let n_values = n * n_heads * head_dim;
    let seen: f64 = (depth..n_context).map(|position| (position + 1) as f64).sum();
    let name = format!("{} heads, {n} tokens after {depth}", widths.name);
    Row::new(format!("flash_{element}_{head_dim}"), name, 2 * cache_len + 4 * n_values, move |gpu| {
        let (keys, cached) = (zeros(gpu, cache_len)?, zeros(gpu, cache_len)?);
        let (q, out) = (zeros(gpu, 2 * n_values)?, room::<f16>(gpu, n_values)?);
        let positions: Vec<u32> = (depth as u32..n_context as u32).collect();
        let positions = gpu.upload("positions", &positions)?;
        Ok(move |gpu: &Gpu| gpu.flash(shape, &q.cast(), &keys, &cached, element, &positions, &out, 1.0))
    })
    .operations(4.0 * seen * (n_heads * head_dim) as f64)
}

fn qkv(widths: &Widths, element: CacheType, n: usize) -> Row {
    let Widths { n_heads, n_kv_heads, head_dim, .. } = *widths;
    let shape = AttentionShape { n_tokens: n, n_heads, n_kv_heads, head_dim, n_context: n, window: None };
    let len = n * (n_heads + 2 * n_kv_heads) * head_dim;
    let bytes = 4 * len + element.bytes(n * (n_heads + 2 * n_kv_heads), head_dim);
    Row::new(format!("qkv_{element}"), format!("{} heads, {n} tokens", widths.name), bytes, move |gpu| {
        let (product, frequencies) = (values(gpu, len)?, values(gpu, head_dim)?);
        let positions: Vec<u32> = (0..n as u32).collect();
        let positions = gpu.upload("positions", &positions)?;
        let q = zeros(gpu, element.bytes(n * n_heads, head_dim))?;
        let (keys, cached) = (
            zeros(gpu, element.bytes(n_kv_heads * n, head_dim))?,
            zeros(gpu, element.bytes(n_kv_heads * n, head_dim))?,
        );
        Ok(move |gpu: &Gpu| {
            gpu.qkv(&Qkv {
                shape,
                product: &product,
                bias: None,
                q_norm: None,
                k_norm: None,
                epsilon: 1e-6,
                frequencies: &frequencies,
                n_rot: head_dim,
                pairing: RopePairing::Halves,
                magnitude: 1.0,
                q_scale: 0.125,
                positions: &positions,
                q: &q,
                keys: &keys,
                values: &cached,
                element,
            })
        })
    })
}

/// Norms, SwiGLU, and what is asked of the weights' range at load.
fn around(widths: &Widths, n: usize) -> Vec<Row> {
    let (n_embd, n_ff) = (widths.n_embd, widths.n_ff);
    let (len, ff_len) = (n * n_embd, n * n_ff);
    let name = format!("{} {n} rows of {n_embd}", widths.name);
    let norm = Row::new("rmsnorm_f16", &*name, 6 * len, move |gpu| {
        let (x, weight, out) = (values(gpu, len)?, values(gpu, n_embd)?, room::<f16>(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.rmsnorm_f16(&x, &weight, &out, n, 1e-6, 1.0))
    });
    let swiglu = Row::new("swiglu_f16", format!("{} {n} rows of {n_ff}", widths.name), 6 * ff_len, move |gpu| {
        let (gate_up, out) = (zeros(gpu, 4 * ff_len)?, room::<f16>(gpu, ff_len)?);
        Ok(move |gpu: &Gpu| gpu.swiglu_f16(&gate_up.cast(), &out, n, n_ff, 1.0, 1.0))
    });
    let rows_f16 = Row::new("range_rows_f16", &*name, 2 * len, move |gpu| {
        let (matrix, out) = (zeros(gpu, 2 * len)?, room(gpu, 2 * n)?);
        Ok(move |gpu: &Gpu| gpu.range_rows_f16(&matrix.cast::<f16>(), None, &out, n, n_embd))
    });
    let rows_bf16 = Row::new("range_rows_bf16", &*name, 2 * len, move |gpu| {
        let (matrix, out) = (zeros(gpu, 2 * len)?, room(gpu, 2 * n)?);
        Ok(move |gpu: &Gpu| gpu.range_rows_bf16(&matrix.cast::<bf16>(), None, &out, n, n_embd))
    });
    let from_f16 = Row::new("range_to_f16_f16", &*name, 4 * len, move |gpu| {
        let (x, out) = (zeros(gpu, 2 * len)?, room::<f16>(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.range_to_f16_f16(&x.cast(), &out, 1.0, len))
    });
    let from_bf16 = Row::new("range_to_f16_bf16", &*name, 4 * len, move |gpu| {
        let (x, out) = (zeros(gpu, 2 * len)?, room::<f16>(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.range_to_f16_bf16(&x.cast(), &out, 1.0, len))
    });
    let from_f32 = Row::new("range_to_f16_f32", &*name, 6 * len, move |gpu| {
        let (x, out) = (values(gpu, len)?, room::<f16>(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.range_to_f16_f32(&x, &out, 1.0, len))
    });
    vec![norm, swiglu, rows_f16, rows_bf16, from_f16, from_bf16, from_f32]
}
