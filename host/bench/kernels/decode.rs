//! One token's kernels: the memory is the limit.

use super::{DOWN, GATE_UP, OUTPUT, QKV, Row, Widths, filled, matrix, matrix_bytes, room, values};
use crate::{
    gguf::TensorType,
    gpu::{
        Activations, Gpu, Product, Weights,
        kernels::{
            ArgmaxScratch, Attended, AttentionDecode, AttentionScratch, AttentionShape, CacheType, Gemm, GemmScratch,
            Gemv, GemvParts, Glu, Input, KeySplits, NormAndRope, OneSequence, Output, PAGE, RopeShape, Staging,
            TopKScratch, quantised_len,
        },
        parts,
    },
    model::RopePairing,
};

/// The output matrix, over the whole vocabulary.
const HEAD: &str = "head";

/// The types of the published files whose speed is measured.
const PUBLISHED: [TensorType; 5] =
    [TensorType::F16, TensorType::Q8_0, TensorType::Q5_0, TensorType::Q4_K, TensorType::Q6_K];

/// The types with codebooks, with digits of base three and with scales that are floats of eight bits.
const TO_UNPACK: [TensorType; 10] = [
    TensorType::IQ1_S,
    TensorType::IQ1_M,
    TensorType::IQ2_XXS,
    TensorType::IQ2_XS,
    TensorType::IQ2_S,
    TensorType::IQ3_XXS,
    TensorType::IQ3_S,
    TensorType::TQ1_0,
    TensorType::TQ2_0,
    TensorType::NVFP4,
];

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for widths in Widths::all() {
        for (what, n_out, n_in) in widths.matrices() {
            rows.extend(PUBLISHED.into_iter().filter(|t| fits(*t, n_in)).map(|t| gemv(&widths, what, t, n_out, n_in)));
        }
        let head =
            [TensorType::F16, TensorType::Q8_0, TensorType::Q6_K].into_iter().filter(|t| fits(*t, widths.n_embd));
        // The logits are made of wider activations.
        let head = head.map(|t| product(&widths, HEAD, t, (widths.n_vocab, widths.n_embd), Activations::Q16));
        rows.extend(head);
        // As Q4_K_M has them.
        if fits(TensorType::Q4_K, widths.n_embd) {
            rows.push(mixed(&widths, "k", [TensorType::Q4_K, TensorType::Q6_K], widths.n_embd));
        }
        for n_positions in [512, 4096] {
            rows.push(attention(&widths, CacheType::F16, widths.head_dim, n_positions));
            rows.push(attention(&widths, CacheType::Q8_0, widths.head_dim, n_positions));
        }
        rows.extend(around(&widths));
    }
    // Every type at one shape, whose rows are whole blocks of all of them; every cache with every size of a head.
    let small = Widths::small();
    for tensor_type in TensorType::ALL.iter().copied() {
        rows.push(gemv(&small, DOWN, tensor_type, small.n_embd, small.n_ff).small());
        if tensor_type.is_quantised() {
            let shape = (small.n_embd, small.n_ff);
            rows.push(product(&small, DOWN, tensor_type, shape, Activations::F32).small());
            rows.push(product(&small, HEAD, tensor_type, shape, Activations::Q16).small());
        }
        rows.push(embedding(&small, tensor_type, 512).small());
        if Gpu::has_gemm(tensor_type, small.n_ff) {
            let shape = (small.n_embd, small.n_ff);
            rows.extend([8, 16, 32, 64].into_iter().map(|n| few(&small, "", tensor_type, shape, n).small()));
        }
        if Gpu::has_gemm_apart(tensor_type) {
            // As small as it must be for each group of warps to have a unit, on any device.
            let of = |n| few(&small, "small ", tensor_type, (128, 1024), n).small();
            rows.extend([8, 16, 32, 64].into_iter().map(of));
        }
        if !TO_UNPACK.contains(&tensor_type) || Gpu::multiplied_at_once(tensor_type, small.n_ff).is_some() {
            rows.push(together(&small, tensor_type, Activations::Q8));
            rows.extend(tensor_type.is_quantised().then(|| together(&small, tensor_type, Activations::Q16)));
        }
    }
    // Those that unpack the most to a byte, at a shape of Q4_K's above.
    let large = Widths::of("7B", "qwen2.5-7b");
    for (what, n_out, n_in) in large.matrices() {
        for tensor_type in [TensorType::Q4_K, TensorType::Q8_0, TensorType::F16, TensorType::BF16] {
            let of = |n| few(&large, &format!("{what} "), tensor_type, (n_out, n_in), n);
            rows.extend([2, 8, 16, 32, 64, 96].into_iter().map(of));
        }
    }
    rows.extend(TO_UNPACK.into_iter().map(|t| gemv(&large, DOWN, t, large.n_embd, large.n_ff)));
    // As Q4_K_M has them where 256 does not divide the columns, and the others with the columns of the down projection.
    rows.push(mixed(&small, "32", [TensorType::Q5_0, TensorType::Q8_0], small.n_embd).small());
    rows.push(mixed(&small, "k", [TensorType::Q4_K, TensorType::Q6_K], small.n_ff).small());
    rows.push(mixed(&small, "q3_k", [TensorType::Q3_K, TensorType::Q5_K], small.n_ff).small());
    for cache_type in CacheType::ALL {
        // Fewer keys than a block takes alone, and more.
        rows.extend(cache_type.head_dims().map(|head_dim| attention(&small, cache_type, head_dim, 200).small()));
        rows.extend(cache_type.head_dims().map(|head_dim| attention(&small, cache_type, head_dim, 600).small()));
        rows.push(cache_store(&small, cache_type).small());
    }
    rows
}

/// Products with the vectors of eight sequences, behind RMSNorm.
fn together(widths: &Widths, tensor_type: TensorType, activations: Activations) -> Row {
    const N: usize = 8;
    let (n_out, n_in) = (widths.n_embd, widths.n_ff);
    let matrix_bytes = matrix_bytes(tensor_type, n_out, n_in);
    let wide = if activations == Activations::Q16 { "wide_" } else { "" };
    let way = if Gpu::multiplied_at_once(tensor_type, n_in).is_some() { "few" } else { "many" };
    let kernel = format!("gemv_{way}_{wide}{}", tensor_type.name().to_lowercase());
    let bytes = (matrix_bytes + 4 * (N * (n_in + n_out) + n_in), matrix_bytes);
    let row = Row::streaming(kernel, format!("{} {N} vectors {n_out}×{n_in}", widths.name), bytes, move |gpu| {
        let (weights, x, norm) = (matrix(gpu, tensor_type, n_out, n_in)?, values(gpu, N * n_in)?, values(gpu, n_in)?);
        let (out, staging) = (room(gpu, N * n_out)?, Staging::new(gpu, N, n_in)?);
        let streamed = vec![weights.data.address()];
        let launch = move |gpu: &Gpu| {
            let gemv = Gemv::new(weights.all(), &x, &out).activations(activations);
            gpu.gemv_many(&Gemv { norm: Some((&*norm, 1e-6)), ..gemv }, N, &staging)
        };
        Ok((launch, streamed))
    });
    row.small()
}

/// A product of `n` tokens on tensor cores, of weights as they are.
fn few(widths: &Widths, what: &str, tensor_type: TensorType, (n_out, n_in): (usize, usize), n: usize) -> Row {
    let matrix_bytes = matrix_bytes(tensor_type, n_out, n_in);
    let of_block = n.next_power_of_two().clamp(8, 64);
    let kernel = format!("gemm_{}_{of_block}", tensor_type.name().to_lowercase());
    let bytes = (matrix_bytes + n * (2 * n_in + 4 * n_out), matrix_bytes);
    Row::streaming(kernel, format!("{} {what}{n} tokens {n_out}×{n_in}", widths.name), bytes, move |gpu| {
        let (weights, x, out) =
            (matrix(gpu, tensor_type, n_out, n_in)?, gpu.alloc("x", n * n_in)?, room(gpu, n * n_out)?);
        gpu.fill(&x, 0)?;
        let scratch = GemmScratch::new(gpu, GemmScratch::elements([(vec![n_out], n_in)].into_iter(), n))?;
        let streamed = vec![weights.data.address()];
        let launch = move |gpu: &Gpu| gpu.gemm(&Gemm::new(weights.all(), &x, Product::F32(&out)), n, &scratch);
        Ok((launch, streamed))
    })
}

fn fits(tensor_type: TensorType, n_in: usize) -> bool {
    (n_in as u64).is_multiple_of(tensor_type.block_elements())
}

/// A product with what stands around it in a layer: RMSNorm before, SwiGLU or the residual after.
fn gemv(widths: &Widths, what: &'static str, tensor_type: TensorType, n_out: usize, n_in: usize) -> Row {
    product(widths, what, tensor_type, (n_out, n_in), Activations::Q8)
}

fn product(
    widths: &Widths,
    what: &'static str,
    tensor_type: TensorType,
    (n_out, n_in): (usize, usize),
    activations: Activations,
) -> Row {
    let swiglu = what == GATE_UP;
    let before = [QKV, GATE_UP, HEAD].contains(&what);
    let after = [OUTPUT, DOWN].contains(&what);
    let out_len = if swiglu { n_out / 2 } else { n_out };
    let vectors = n_in * if before { 2 } else { 1 } + out_len * if after { 2 } else { 1 };
    let matrix_bytes = matrix_bytes(tensor_type, n_out, n_in);
    let bytes = (matrix_bytes + 4 * vectors, matrix_bytes);
    let quantised = tensor_type.is_quantised() && activations == Activations::Q8;
    let way = match activations {
        Activations::F32 if tensor_type.is_quantised() => "exact_",
        Activations::Q16 if tensor_type.is_quantised() => "wide_",
        _ => "",
    };
    let kernel = format!("gemv_{way}{}", tensor_type.name().to_lowercase());
    Row::streaming(kernel, format!("{} {what} {n_out}×{n_in}", widths.name), bytes, move |gpu| {
        let (weights, x, norm) = (matrix(gpu, tensor_type, n_out, n_in)?, values(gpu, n_in)?, values(gpu, n_in)?);
        let (residual, out) = (values(gpu, out_len)?, room(gpu, out_len)?);
        // Between attention and its output, and between gate and down, activations are 8-bit integers.
        let between = room(gpu, quantised_len(n_in.max(out_len)))?;
        gpu.fill(&between, 0)?;
        let streamed = vec![weights.data.address()];
        let launch = move |gpu: &Gpu| {
            let mut product = Gemv::new(weights.all(), &x, &out).activations(activations);
            if quantised && swiglu {
                product.out = Output::Quantised(&between);
            } else if quantised && after {
                product.x = Input::Quantised(&between);
            }
            let norm = before.then_some((&*norm, 1e-6));
            gpu.gemv(&Gemv { norm, residual: after.then_some(&*residual), swiglu, ..product })
        };
        Ok((launch, streamed))
    })
}

/// Queries and keys of one type, and values of another.
fn mixed(widths: &Widths, kernel: &str, types: [TensorType; 2], n_in: usize) -> Row {
    let n_second = widths.n_kv_heads * widths.head_dim;
    let n_first = widths.n_heads * widths.head_dim + n_second;
    let n_out = n_first + n_second;
    let (parts, data_len) = parts(&[(types[0], n_first), (types[1], n_second)], n_in, 1);
    let matrix_bytes = parts.iter().map(|part| part.bytes).sum();
    let bytes = (matrix_bytes + 4 * (2 * n_in + n_out), matrix_bytes);
    let [first, second] = types.map(TensorType::name);
    let name = format!("{} {QKV} {n_out}×{n_in} {first} {second}", widths.name);
    Row::streaming(format!("gemv_mixed_{kernel}"), name, bytes, move |gpu| {
        let data = room(gpu, data_len)?;
        let weights = filled(gpu, Weights { data, parts: parts.clone(), n_matrices: 1, n_out, n_in })?;
        let (x, norm, out) = (values(gpu, n_in)?, values(gpu, n_in)?, room(gpu, n_out)?);
        let streamed = vec![weights.data.address()];
        let activations = Activations::Q8;
        let launch = move |gpu: &Gpu| {
            let norm = Some((&*norm, 1e-6));
            gpu.gemv_parts(&GemvParts { weights: &weights, x: &x, norm, bias: None, out: &out, activations })
        };
        Ok((launch, streamed))
    })
}

fn embedding(widths: &Widths, tensor_type: TensorType, n_vocab: usize) -> Row {
    // The down projection's width, which all types' blocks divide.
    let n = widths.n_ff;
    let kernel = format!("embedding_{}", tensor_type.name().to_lowercase());
    let bytes = matrix_bytes(tensor_type, 1, n) + 4 * n;
    Row::new(kernel, format!("{} one token of {n}", widths.name), bytes, move |gpu| {
        let (table, tokens, out) = (matrix(gpu, tensor_type, n_vocab, n)?, gpu.upload("tokens", &[7])?, room(gpu, n)?);
        Ok(move |gpu: &Gpu| gpu.embedding(table.all(), &tokens, &out, 1))
    })
}

/// A token's attention, from its projections on, over a cache that has room for `n_positions`, all of them seen.
fn attention(widths: &Widths, cache_type: CacheType, head_dim: usize, n_positions: usize) -> Row {
    let (n_heads, n_kv_heads) = (widths.n_heads, widths.n_kv_heads);
    let n_pages = n_positions.div_ceil(PAGE);
    let shape = AttentionShape { n_tokens: 1, n_heads, n_kv_heads, head_dim, n_pages, window: None };
    let (n_qkv, n) = ((n_heads + 2 * n_kv_heads) * head_dim, n_heads * head_dim);
    let cache_len = shape.cache_bytes(cache_type);
    let name = format!("{} heads, {n_positions} positions", widths.name);
    let bytes = (2 * cache_len + 4 * (n_qkv + n), 2 * cache_len);
    Row::streaming(format!("attention_decode_{cache_type}_{head_dim}"), name, bytes, move |gpu| {
        let (keys, cached) = (room::<u8>(gpu, cache_len)?, room::<u8>(gpu, cache_len)?);
        // Zero is a valid key in every type.
        gpu.fill(&keys, 0)?;
        gpu.fill(&cached, 0)?;
        let (qkv, frequencies, out) = (values(gpu, n_qkv)?, values(gpu, head_dim)?, room(gpu, n)?);
        let positions = gpu.upload("positions", &[n_positions as u32 - 1])?;
        let pages = OneSequence::new(gpu, n_positions, 1)?;
        let splits = KeySplits::new(n_positions, n_heads, n_kv_heads, gpu.multiprocessors());
        let scratch = AttentionScratch::new(1, n_heads, n_kv_heads, head_dim, splits.n_splits);
        let (parts, arrivals) = (room(gpu, scratch.parts)?, room(gpu, scratch.arrivals)?);
        gpu.fill(&arrivals, 0)?;
        let streamed = vec![keys.address(), cached.address()];
        let launch = move |gpu: &Gpu| {
            gpu.attention_decode(&AttentionDecode {
                shape,
                qkv: &qkv,
                qkv_stride: n_qkv,
                positions: &positions,
                pages: pages.get(),
                norm_and_rope: NormAndRope {
                    q_norm: None,
                    k_norm: None,
                    epsilon: 1e-6,
                    frequencies: &frequencies,
                    n_rot: head_dim,
                    pairing: RopePairing::Halves,
                    magnitude: 1.0,
                    growth: None,
                },
                scale: 0.125,
                keys: &keys,
                values: &cached,
                cache_type,
                splits,
                parts: &parts,
                arrivals: &arrivals,
                out: Attended::F32(&out),
                shares_sequences: false,
            })
        };
        Ok((launch, streamed))
    })
}

fn cache_store(widths: &Widths, cache_type: CacheType) -> Row {
    let shape = AttentionShape {
        n_tokens: 1,
        n_heads: widths.n_heads,
        n_kv_heads: widths.n_kv_heads,
        head_dim: widths.head_dim,
        n_pages: 2,
        window: None,
    };
    let (n_kv_heads, head_dim) = (shape.n_kv_heads, shape.head_dim);
    let n = n_kv_heads * head_dim;
    let bytes = 4 * n + cache_type.bytes(n_kv_heads, head_dim);
    Row::new(format!("cache_store_{cache_type}"), format!("{} one token", widths.name), bytes, move |gpu| {
        let (x, positions) = (values(gpu, n)?, gpu.upload("positions", &[9])?);
        let (cache, pages) = (room::<u8>(gpu, shape.cache_bytes(cache_type))?, OneSequence::new(gpu, 64, 1)?);
        Ok(move |gpu: &Gpu| gpu.cache_store(shape, &x, &positions, pages.get(), &cache, cache_type, 1.0))
    })
}

/// What is between the products.
fn around(widths: &Widths) -> Vec<Row> {
    let Widths { name, n_embd, n_heads, head_dim, n_ff, n_vocab, .. } = *widths;
    let rmsnorm = Row::new("rmsnorm", format!("{name} one token of {n_embd}"), 12 * n_embd, move |gpu| {
        let (x, weight, out) = (values(gpu, n_embd)?, values(gpu, n_embd)?, room(gpu, n_embd)?);
        Ok(move |gpu: &Gpu| gpu.rmsnorm(&x, &weight, &out, 1, 1e-6))
    });
    let rope = |pairing, kernel: &str| {
        let shape = RopeShape { n_tokens: 1, n_heads, head_dim, n_rot: head_dim, pairing };
        let n = n_heads * head_dim;
        Row::new(kernel, format!("{name} one token's queries"), 8 * n, move |gpu| {
            let (x, positions, frequencies) =
                (values(gpu, n)?, gpu.upload("positions", &[300])?, values(gpu, head_dim)?);
            Ok(move |gpu: &Gpu| gpu.rope(shape, &x, &positions, &frequencies, 1.0))
        })
    };
    let glu = Row::new("glu", format!("{name} one token of {n_ff}"), 12 * n_ff, move |gpu| {
        let (gate, up, out) = (values(gpu, n_ff)?, values(gpu, n_ff)?, room(gpu, n_ff)?);
        Ok(move |gpu: &Gpu| gpu.glu(Glu::Swiglu, &gate, &up, &out, n_ff))
    });
    let argmax = Row::new("argmax", format!("{name} vocabulary of {n_vocab}"), 4 * n_vocab, move |gpu| {
        let (logits, out, scratch) = (values(gpu, n_vocab)?, room(gpu, 1)?, ArgmaxScratch::new(gpu, 1)?);
        Ok(move |gpu: &Gpu| gpu.argmax(&scratch, &logits, &out, 1, n_vocab, n_vocab))
    });
    // As sampling at the usual settings asks for: 40 and one more.
    let top_k = Row::new("top_k", format!("{name} 41 of a vocabulary of {n_vocab}"), 4 * n_vocab, move |gpu| {
        let (logits, out, scratch) = (values(gpu, n_vocab)?, room(gpu, 82)?, TopKScratch::new(gpu, 1, n_vocab)?);
        Ok(move |gpu: &Gpu| gpu.top_k(&scratch, &logits, &out, 1, n_vocab, n_vocab, 41))
    });
    let next_step = Row::new("next_step", format!("{name} 64 rows of a step"), 32 * 64, move |gpu| {
        let (best, input, choices) =
            (gpu.upload("best", &[0; 64])?, gpu.upload("input", &[0; 3 * 64])?, room(gpu, 64)?);
        Ok(move |gpu: &Gpu| gpu.next_step(&best, None, &input, &choices, n_vocab, [64; 3]))
    });
    let rows = vec![
        rmsnorm,
        rope(RopePairing::Halves, "rope_halves"),
        rope(RopePairing::Neighbours, "rope_neighbours"),
        glu,
        argmax,
        next_step,
        top_k,
    ];
    match name == Widths::small().name {
        true => rows.into_iter().map(Row::small).collect(),
        false => rows,
    }
}
