//! A prompt's chunk through a layer: products of f16 on cuBLAS, flash attention, and what is between them.

use half::{bf16, f16};

use super::{Row, Widths, room, values};
use crate::{
    gpu::{
        Buffer, Factors, Gpu, GpuError, Product,
        kernels::{
            AttentionShape, CacheType, Chunks, FlashRows, FlashScores, FloatProduct, Glu, NormAndRope, OneSequence,
            Order, PAGE, Qkv,
        },
    },
    model::RopePairing,
};

/// Tokens of the chunks that are measured.
const CHUNKS: [usize; 2] = [512, 2048];
/// Tokens of a chunk that is counted on every test run.
const FEW: usize = 16;

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for widths in Widths::all() {
        for n in CHUNKS {
            let matrices = widths.matrices();
            rows.extend(matrices.map(|(what, n_out, n_in)| product(&widths, what, n_out, n_in, n)));
            for tile in 0..Gpu::PRODUCT_TILES {
                let of = |(what, n_out, n_in)| by_kernel(&widths, what, n_out, n_in, n, Some(tile));
                rows.extend(widths.matrices().map(of));
            }
            for depth in [0, 14_336] {
                rows.extend(
                    tiles(widths.head_dim).map(|tile| flash(&widths, CacheType::F16, widths.head_dim, n, depth, tile)),
                );
            }
            rows.extend([qkv(&widths, CacheType::F16, n), rmsnorm(&widths, n, false), glu(&widths, n)]);
            rows.extend(unbounded(&widths, n));
        }
    }
    let small = Widths::small();
    for cache_type in [CacheType::F16, CacheType::BF16] {
        rows.extend(cache_type.head_dims().map(|dim| flash(&small, cache_type, dim, FEW, 48, FlashRows::One).small()));
    }
    rows.push(flash(&small, CacheType::F16, 64, FEW, 48, FlashRows::Two).small());
    let (n_out, n_in) = (2 * small.n_embd, small.n_embd);
    let kernels = (0..Gpu::PRODUCT_TILES).map(Some).chain([None]);
    rows.extend(kernels.map(|tile| by_kernel(&small, "product", n_out, n_in, FEW, tile).small()));
    let types = [CacheType::F32, CacheType::F16, CacheType::BF16];
    rows.extend(types.map(|element| qkv(&small, element, FEW).small()));
    rows.extend([false, true].map(|decodes| rmsnorm(&small, FEW, decodes).small()));
    rows.push(glu(&small, FEW).small());
    rows.extend(unbounded(&small, FEW).into_iter().map(Row::small));
    rows.extend(ranges(&small).into_iter().map(Row::small));
    rows
}

/// How flash attention over heads of this size can be laid out.
fn tiles(head_dim: usize) -> impl Iterator<Item = FlashRows> {
    [FlashRows::One, FlashRows::Two].into_iter().filter(move |tile| head_dim == 64 || *tile == FlashRows::One)
}

/// Random values in f16.
fn halves(gpu: &Gpu, n: usize) -> Result<Buffer<f16>, GpuError> {
    let (exact, halves) = (values(gpu, n)?, room(gpu, n)?);
    gpu.range_to_f16_f32(&exact, &halves, 1.0, n)?;
    Ok(halves)
}

/// Gate and up projection end in f16, the others in f32; what is added to the residual stream is read first.
fn product(widths: &Widths, what: &'static str, n_out: usize, n_in: usize, n: usize) -> Row {
    let (to_f16, adds) = (what == super::GATE_UP, what == super::OUTPUT || what == super::DOWN);
    let out_bytes = if to_f16 {
        2
    } else if adds {
        8
    } else {
        4
    };
    let bytes = 2 * (n_out * n_in + n * n_in) + out_bytes * n * n_out;
    let name = format!("{} {what} {n_out}×{n_in}, {n} tokens", widths.name);
    Row::new("product f16", name, bytes, move |gpu| {
        let (matrix, x) = (halves(gpu, n_out * n_in)?, halves(gpu, n * n_in)?);
        let (exact, rounded) =
            (room(gpu, if to_f16 { 0 } else { n * n_out })?, room(gpu, if to_f16 { n * n_out } else { 0 })?);
        gpu.fill(&exact, 0)?;
        Ok(move |gpu: &Gpu| {
            let out = if to_f16 { Product::F16(&rounded) } else { Product::F32(&exact) };
            gpu.product(&matrix, n_out, n_in, &x, out, 1.0, adds, n)
        })
    })
    .operations(2.0 * (n * n_out * n_in) as f64)
}

/// The same by one of the kernels that there are where there is no cuBLAS: of f16 the one with these tiles, or that of bf16.
fn by_kernel(widths: &Widths, what: &'static str, n_out: usize, n_in: usize, n: usize, tile: Option<usize>) -> Row {
    let kernel = tile.map_or("product_bf16_128", |tile| ["product_f16_64", "product_f16_128", "product_f16_256"][tile]);
    let name = format!("{} {what} {n_out}×{n_in}, {n} tokens", widths.name);
    Row::new(kernel, name, 2 * (n_out * n_in + n * n_in) + 4 * n * n_out, move |gpu| {
        let (matrix, x, out) = (halves(gpu, n_out * n_in)?, halves(gpu, n * n_in)?, room(gpu, n * n_out)?);
        Ok(move |gpu: &Gpu| {
            let (brains, x_brains) = (matrix.cast(), x.cast());
            let factors = match tile {
                Some(_) => Factors::F16([&matrix, &x]),
                None => Factors::Bf16([&brains, &x_brains]),
            };
            let product = FloatProduct { factors, n_out, n_in, out: Product::F32(&out), alpha: 1.0, adds: false };
            gpu.product_in_tiles(&product, n, tile.unwrap_or(1))
        })
    })
    .operations(2.0 * (n * n_out * n_in) as f64)
}

/// `n` tokens after `depth` others.
fn flash(widths: &Widths, cache_type: CacheType, head_dim: usize, n: usize, depth: usize, tile: FlashRows) -> Row {
    let (n_heads, n_kv_heads, n_context) = (widths.n_heads, widths.n_kv_heads, depth + n);
    let n_pages = n_context.div_ceil(PAGE);
    let shape = AttentionShape { n_tokens: n, n_heads, n_kv_heads, head_dim, n_pages, window: None };
    let (n_values, n_cached) = (n * n_heads * head_dim, n_kv_heads * n_pages * PAGE * head_dim);
    let seen: f64 = (depth..n_context).map(|position| position as f64 + 1.0).sum();
    let wide = if tile == FlashRows::Two { "_wide" } else { "" };
    let name = format!("{} heads, {n} tokens after {depth}", widths.name);
    Row::new(format!("flash_{cache_type}_{head_dim}{wide}"), name, 4 * n_cached + 4 * n_values, move |gpu| {
        // Numbers of one 16-bit type are numbers of the other.
        let (keys, cached, q) = (halves(gpu, n_cached)?, halves(gpu, n_cached)?, halves(gpu, n_values)?);
        let positions: Vec<u32> = (depth..n_context).map(|position| position as u32).collect();
        let (out, positions) = (room(gpu, n_values)?, gpu.upload("positions", &positions)?);
        let (pages, starts) = (OneSequence::new(gpu, n_context, n)?, gpu.upload("chunks", &[0, n as u32])?);
        Ok(move |gpu: &Gpu| {
            let (keys, cached, pages) = (keys.cast(), cached.cast(), pages.get());
            gpu.flash(
                shape,
                &q.cast(),
                &keys,
                &cached,
                cache_type,
                &positions,
                pages,
                Chunks { starts: &starts, longest: n },
                &out,
                1.0,
                FlashScores::default(),
                tile,
            )
        })
    })
    .operations(4.0 * seen * (n_heads * head_dim) as f64)
}

fn qkv(widths: &Widths, element: CacheType, n: usize) -> Row {
    let Widths { n_heads, n_kv_heads, head_dim, .. } = *widths;
    let heads = n_heads + 2 * n_kv_heads;
    let shape = AttentionShape { n_tokens: n, n_heads, n_kv_heads, head_dim, n_pages: n.div_ceil(PAGE), window: None };
    let bytes = n * (4 * heads * head_dim + element.bytes(heads, head_dim));
    let name = format!("{} heads, {n} tokens", widths.name);
    Row::new(format!("qkv_{element}"), name, bytes, move |gpu| {
        let (product, bias) = (values(gpu, n * heads * head_dim)?, values(gpu, heads * head_dim)?);
        let (frequencies, norm) = (values(gpu, head_dim)?, values(gpu, head_dim)?);
        let positions: Vec<u32> = (0..n as u32).collect();
        let positions = gpu.upload("positions", &positions)?;
        let q = room::<u8>(gpu, element.bytes(n * n_heads, head_dim))?;
        let cache = || room::<u8>(gpu, shape.cache_bytes(element));
        let pages = OneSequence::new(gpu, n, n)?;
        let (keys, cached) = (cache()?, cache()?);
        Ok(move |gpu: &Gpu| {
            gpu.qkv(&Qkv {
                shape,
                product: &product,
                bias: Some(&bias),
                norm_and_rope: NormAndRope {
                    q_norm: Some(&norm),
                    k_norm: Some(&norm),
                    epsilon: 1e-6,
                    frequencies: &frequencies,
                    n_rot: head_dim,
                    pairing: RopePairing::Halves,
                    magnitude: 1.0,
                    growth: None,
                },
                q_scale: 0.125,
                positions: &positions,
                pages: Some(pages.get()),
                q: &q,
                keys: &keys,
                values: &cached,
                element,
            })
        })
    })
}

fn rmsnorm(widths: &Widths, n: usize, decodes: bool) -> Row {
    let n_embd = widths.n_embd;
    let kernel = if decodes { "rmsnorm_f16_few" } else { "rmsnorm_f16" };
    Row::new(kernel, format!("{} {n} tokens of {n_embd}", widths.name), 6 * n * n_embd, move |gpu| {
        let (x, weight, out) = (values(gpu, n * n_embd)?, values(gpu, n_embd)?, room(gpu, n * n_embd)?);
        Ok(move |gpu: &Gpu| gpu.rmsnorm_f16(&x, &weight, &out, n, 1e-6, 1.0, Order::Rows, decodes))
    })
}

fn glu(widths: &Widths, n: usize) -> Row {
    let n_ff = widths.n_ff;
    Row::new("glu_f16", format!("{} {n} tokens of {n_ff}", widths.name), 6 * n * n_ff, move |gpu| {
        let (gate_up, out) = (halves(gpu, n * 2 * n_ff)?, room(gpu, n * n_ff)?);
        Ok(move |gpu: &Gpu| gpu.glu_f16(Glu::Swiglu, &gate_up, &out, n, n_ff, 1.0, 1.0))
    })
}

/// What families have around products of values that no norm bounds.
fn unbounded(widths: &Widths, n: usize) -> Vec<Row> {
    let Widths { n_embd, n_ff, n_heads, n_kv_heads, head_dim, .. } = *widths;
    let of = |width: usize| format!("{} {n} tokens of {width}", widths.name);
    let to_f16 = Row::new("rmsnorm_power_f16", of(n_embd), 6 * n * n_embd, move |gpu| {
        let (x, out, factors) = (values(gpu, n * n_embd)?, room(gpu, n * n_embd)?, room(gpu, n)?);
        Ok(move |gpu: &Gpu| gpu.rmsnorm_power_f16(&x, &out, &factors, n, n_embd))
    });
    let added = Row::new("rmsnorm_add", of(n_embd), 12 * n * n_embd, move |gpu| {
        let (x, weight, factors) = (values(gpu, n * n_embd)?, values(gpu, n_embd)?, values(gpu, n)?);
        let (residual, out) = (values(gpu, n * n_embd)?, room(gpu, n * n_embd)?);
        Ok(move |gpu: &Gpu| gpu.rmsnorm_add(&x, Some(&factors), &weight, &residual, &out, n, 1e-6))
    });
    let [n_q, n_k] = [n_heads, n_kv_heads].map(|heads| heads * head_dim);
    let stride = n_q + 2 * n_k;
    let heads = Row::new("rmsnorm_qk", of(stride), 8 * n * stride, move |gpu| {
        let (x, factors) = (values(gpu, n * stride)?, values(gpu, n)?);
        let (q, k) = (values(gpu, n_q)?, values(gpu, n_k)?);
        Ok(move |gpu: &Gpu| gpu.rmsnorm_qk(&x, Some(&factors), [Some(&q), Some(&k)], [n_q, n_k], stride, n, 1e-6))
    });
    let unit = Row::new("glu_rows_f16", of(n_ff), 6 * n * n_ff, move |gpu| {
        let (gate_up, out) = (halves(gpu, n * 2 * n_ff)?, room(gpu, n * n_ff)?);
        let (factors, of_out) = (values(gpu, n)?, room(gpu, n)?);
        Ok(move |gpu: &Gpu| gpu.glu_rows_f16(Glu::Swiglu, &gate_up, &factors, &out, &of_out, n, n_ff, 1.0, 1.0))
    });
    vec![to_f16, added, heads, unit]
}

/// What measures weights when a model is loaded, and conversions to f16.
fn ranges(widths: &Widths) -> Vec<Row> {
    let (rows, n) = (64, widths.n_embd);
    let len = rows * n;
    let name = format!("{rows}×{n}");
    let measure_f16 = Row::new("range_rows_f16", &*name, 2 * len, move |gpu| {
        let (matrix, norm, out) = (halves(gpu, len)?, values(gpu, n)?, room(gpu, 2 * rows)?);
        Ok(move |gpu: &Gpu| gpu.range_rows_f16(&matrix, Some(&norm), &out, rows, n))
    });
    let measure_bf16 = Row::new("range_rows_bf16", &*name, 2 * len, move |gpu| {
        let (matrix, norm, out) = (halves(gpu, len)?, values(gpu, n)?, room(gpu, 2 * rows)?);
        Ok(move |gpu: &Gpu| gpu.range_rows_bf16(&matrix.cast(), Some(&norm), &out, rows, n))
    });
    let of_f16 = Row::new("range_to_f16_f16", &*name, 4 * len, move |gpu| {
        let (x, out) = (halves(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.range_to_f16_f16(&x, &out, 1.0, len))
    });
    let of_f32 = Row::new("range_to_f16_f32", &*name, 6 * len, move |gpu| {
        let (x, out) = (values(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.range_to_f16_f32(&x, &out, 1.0, len))
    });
    let of_bf16 = Row::new("range_to_f16_bf16", &*name, 4 * len, move |gpu| {
        let (x, out) = (halves(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.range_to_f16_bf16(&x.cast::<bf16>(), &out, 1.0, len))
    });
    let from_f16 = Row::new("range_from_f16", &*name, 6 * len, move |gpu| {
        let (x, out) = (halves(gpu, len)?, room(gpu, len)?);
        Ok(move |gpu: &Gpu| gpu.range_from_f16(&x, &out, 1.0, len))
    });
    vec![measure_f16, measure_bf16, of_f16, of_f32, of_bf16, from_f16]
}
