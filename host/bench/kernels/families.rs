//! Kernels that only some families of models have, one token's and a chunk's.

use super::{Row, Widths, room, values};
use crate::gpu::{
    Gpu,
    kernels::{CacheType, DeltaNetShape, Glu, KeyHeads, LatentAttention, OneSequence, PAGE, SigmoidGate},
};

/// Tokens of a chunk that is measured.
const CHUNK: usize = 512;
/// Tokens of a chunk that is counted on every test run.
const FEW: usize = 16;

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let (small, large) = (Widths::small(), Widths::all()[1]);
    rows.extend(elementwise(&small, 1).into_iter().map(Row::small));
    rows.extend(elementwise(&large, CHUNK));
    rows.extend([layer_norm(&small, 1).small(), layer_norm(&large, CHUNK)]);
    rows.extend([Glu::Geglu, Glu::SwigluClamped].map(|unit| glu(&small, unit).small()));
    // A small one of qwen3.5's layers, and qwen3-next-80b's.
    let shape = |n_tokens, n_k_heads, n_v_heads| {
        let key_heads = KeyHeads::Tiled;
        DeltaNetShape { n_tokens, n_k_heads, n_v_heads, head_dim: 128, key_heads }
    };
    rows.extend([1, FEW].into_iter().flat_map(|n| delta_net(shape(n, 2, 4))).map(Row::small));
    rows.extend([1, CHUNK].into_iter().flat_map(|n| delta_net(shape(n, 16, 32))));
    rows.extend(CacheType::ALL.into_iter().map(|cache_type| latent_attention(cache_type, 64, 2).small()));
    // DeepSeek V2 Lite's, and V3's.
    rows.extend([16, 128].map(|n_heads| latent_attention(CacheType::F16, 4096, n_heads)));
    rows
}

fn tokens(n: usize) -> String {
    if n == 1 { "one token".to_owned() } else { format!("{n} tokens") }
}

fn elementwise(widths: &Widths, n: usize) -> Vec<Row> {
    let (width, len) = (widths.n_embd, n * widths.n_embd);
    let name = format!("{} {} of {width}", widths.name, tokens(n));
    let scale = Row::new("elementwise_scale", &*name, 8 * len, move |gpu| {
        let (x, out) = (values(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.scale(&x, &out, 0.5, len))
    });
    let add_scaled = Row::new("elementwise_add_scaled", &*name, 12 * len, move |gpu| {
        let (a, b, out) = (values(gpu, len)?, values(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.add_scaled(&a, &b, 0.5, &out, len))
    });
    let soft_cap = Row::new("elementwise_soft_cap", &*name, 8 * len, move |gpu| {
        let (x, out) = (values(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.soft_cap(&x, &out, 30.0, len))
    });
    let multiply_sigmoid = Row::new("elementwise_multiply_sigmoid", &*name, 12 * len, move |gpu| {
        let (x, gate, out) = (values(gpu, len)?, values(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| {
            gpu.multiply_sigmoid(&x, SigmoidGate::PerValue { gate: &gate, stride: width }, &out, n, width)
        })
    });
    let take_columns = Row::new("elementwise_take_columns", &*name, 8 * len, move |gpu| {
        let (x, out) = (values(gpu, 2 * len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.take_columns(&x, 2 * width, &out, n, width))
    });
    let join = Row::new("elementwise_join", &*name, 16 * len, move |gpu| {
        let (a, b, out) = (values(gpu, len)?, values(gpu, len)?, room(gpu, 2 * len)?);
        Ok(move |gpu: &Gpu| gpu.join(&a, &b, &out, n, [width; 2]))
    });
    let temper = Row::new("elementwise_temper", &*name, 8 * len, move |gpu| {
        let (x, out) = (values(gpu, len)?, room(gpu, len)?);
        let positions = gpu.upload("positions", &(0..n as u32).collect::<Vec<_>>())?;
        Ok(move |gpu: &Gpu| gpu.temper(&x, &positions, &out, n, width, 0.1, 8192))
    });
    vec![scale, add_scaled, soft_cap, multiply_sigmoid, take_columns, join, temper]
}

/// One token over `n_keys` vectors of DeepSeek's: 512 values and a shared key of 64.
fn latent_attention(cache_type: CacheType, n_keys: usize, n_heads: usize) -> Row {
    const DIM: usize = 576;
    const VALUE_DIM: usize = 512;
    let bytes = cache_type.bytes(n_keys, DIM) + 4 * n_heads * (DIM + VALUE_DIM);
    let name = format!("{n_heads} heads over {n_keys} of {DIM}");
    Row::new(format!("latent_attention_{cache_type}"), name, bytes, move |gpu| {
        let cache = gpu.alloc::<u8>("cache", cache_type.bytes(n_keys.next_multiple_of(PAGE), DIM))?;
        let pages = OneSequence::new(gpu, n_keys, 1)?;
        gpu.fill(&cache, 0)?;
        let (q, out) = (values(gpu, n_heads * DIM)?, room(gpu, n_heads * VALUE_DIM)?);
        let positions = gpu.upload("positions", &[n_keys as u32 - 1])?;
        Ok(move |gpu: &Gpu| {
            gpu.latent_attention(&LatentAttention {
                n_tokens: 1,
                n_heads,
                dim: DIM,
                value_dim: VALUE_DIM,
                n_pages: n_keys.div_ceil(PAGE),
                pages: pages.get(),
                q: &q,
                cache: &cache,
                cache_type,
                positions: &positions,
                out: &out,
                probabilities: None,
                scale: 0.1,
            })
        })
    })
}

fn layer_norm(widths: &Widths, n: usize) -> Row {
    let (width, len) = (widths.n_embd, n * widths.n_embd);
    Row::new("layer_norm", format!("{} {} of {width}", widths.name, tokens(n)), 8 * len + 4 * width, move |gpu| {
        let (x, weight, out) = (values(gpu, len)?, values(gpu, width)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.layer_norm(&x, &weight, None, &out, n, 1e-5))
    })
}

fn glu(widths: &Widths, unit: Glu) -> Row {
    let n_ff = widths.n_ff;
    Row::new("glu", format!("{} {unit:?} of one token of {n_ff}", widths.name), 12 * n_ff, move |gpu| {
        let (gate, up, out) = (values(gpu, n_ff)?, values(gpu, n_ff)?, room(gpu, n_ff)?);
        Ok(move |gpu: &Gpu| gpu.glu(unit, &gate, &up, &out, n_ff))
    })
}

/// The steps of a layer.
fn delta_net(shape: DeltaNetShape) -> Vec<Row> {
    const TAPS: usize = 4;
    let DeltaNetShape { n_tokens: n, n_k_heads, n_v_heads, head_dim, .. } = shape;
    let (n_channels, n_out, n_gates) = (shape.n_channels(), n * n_v_heads * head_dim, n * n_v_heads);
    let len = n * n_channels;
    let name = format!("{n_v_heads} heads of {head_dim}, {}", tokens(n));
    let bytes = 4 * (2 * len + (2 * (TAPS - 1) + TAPS) * n_channels);
    let convolve = Row::new("delta_net_convolve", &*name, bytes, move |gpu| {
        let (x, weight, out) = (values(gpu, len)?, values(gpu, n_channels * TAPS)?, room(gpu, len)?);
        let state = values(gpu, (TAPS - 1) * n_channels)?;
        Ok(move |gpu: &Gpu| gpu.delta_net_convolve(&x, &weight, &state, &out, n, n_channels, TAPS))
    });
    let bytes = 8 * n * 2 * n_k_heads * head_dim;
    let normalise = Row::new("delta_net_normalise", &*name, bytes, move |gpu| {
        let qkv = values(gpu, len)?;
        Ok(move |gpu: &Gpu| gpu.delta_net_normalise(shape, &qkv, 1e-6))
    });
    let gates = Row::new("delta_net_gates", &*name, 16 * n_gates, move |gpu| {
        let (beta, alpha, decay) = (values(gpu, n_gates)?, values(gpu, n_gates)?, room(gpu, n_gates)?);
        let (a, bias) = (values(gpu, n_v_heads)?, values(gpu, n_v_heads)?);
        Ok(move |gpu: &Gpu| gpu.delta_net_gates(&beta, &alpha, &a, &bias, &decay, n, n_v_heads))
    });
    let bytes = 4 * (len + 2 * n_gates + n_out + 2 * shape.state_len());
    let recurrence = Row::new("delta_net", &*name, bytes, move |gpu| {
        let (qkv, beta, decay) = (values(gpu, len)?, values(gpu, n_gates)?, room(gpu, n_gates)?);
        // Decays of 0: values that nothing normalised would grow without end.
        gpu.fill(&decay, 0)?;
        let (state, out) = (values(gpu, shape.state_len())?, room(gpu, n_out)?);
        Ok(move |gpu: &Gpu| gpu.delta_net(shape, &qkv, &beta, &decay, &state, &out))
    });
    let gate = Row::new("delta_net_gate", &*name, 12 * n_out, move |gpu| {
        let (x, z, out) = (values(gpu, n_out)?, values(gpu, n_out)?, room(gpu, n_out)?);
        let weight = values(gpu, head_dim)?;
        Ok(move |gpu: &Gpu| gpu.delta_net_gate(&x, &weight, &z, &out, n_gates, 1e-6))
    });
    vec![convolve, normalise, gates, recurrence, gate]
}
