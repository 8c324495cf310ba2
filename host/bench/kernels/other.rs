//! Kernels of mixtures of experts, and those that measurements themselves use.

use half::{bf16, f16};

use super::{Row, matrices, matrix, matrix_bytes, room, values};
use crate::{
    gguf::TensorType,
    gpu::{
        Gpu, Product,
        kernels::{
            ExpertGroups, ExpertLists, ExpertPairs, Experts as Chosen, Gemm, Gemv, GemvSum, Input, NoiseFloat,
            RouterScore, Routing, Strided, quantised_len,
        },
    },
};

/// Words of a buffer that is measured.
const LARGE: usize = 64 << 20;
/// Words of one that is counted on every test run.
const SMALL: usize = 64 << 10;

pub fn rows() -> Vec<Row> {
    let mut rows: Vec<Row> = experts();
    rows.extend([read(LARGE), copy(LARGE), read(SMALL).small(), copy(SMALL).small()]);
    rows.push(arrange().small());
    rows.extend([bits(LARGE), bits(SMALL).small(), scales().small(), exponents().small()]);
    rows.extend([floats::<f32>("f32").small(), floats::<f16>("f16").small(), floats::<bf16>("bf16").small()]);
    rows
}

/// Qwen3-30B-A3B's: 8 of 128, of 768 values.
fn experts() -> Vec<Row> {
    const N_EMBD: usize = 2048;
    const N_FF: usize = 768;
    let (n_experts, n_used) = (128, 8);
    let route = Row::new("experts_route", format!("{n_used} of {n_experts}"), 4 * n_experts + 8 * n_used, move |gpu| {
        let (logits, experts, weights) = (values(gpu, n_experts)?, room(gpu, n_used)?, room(gpu, n_used)?);
        let routing = Routing { normalise: true, ..Routing::softmax(n_experts, n_used) };
        Ok(move |gpu: &Gpu| gpu.experts_route(&routing, &logits, &experts, &weights, 1))
    });
    // GLM-4.5's: sigmoids and a bias.
    let name = format!("{n_used} of {n_experts} by sigmoids and a bias");
    let biased = Row::new("experts_route", name, 8 * n_experts + 8 * n_used, move |gpu| {
        let (logits, experts, weights) = (values(gpu, n_experts)?, room(gpu, n_used)?, room(gpu, n_used)?);
        let bias = values(gpu, n_experts)?;
        Ok(move |gpu: &Gpu| {
            let score = RouterScore::Sigmoid;
            let routing = Routing { score, normalise: true, ..Routing::softmax(n_experts, n_used) };
            let routing = Routing { selection_bias: Some(&bias), ..routing };
            gpu.experts_route(&routing, &logits, &experts, &weights, 1)
        })
    });
    // DeepSeek V3's: of 4 of 8 groups.
    let grouped = Row::new("experts_route", "8 of 256 in 4 of 8 groups", 8 * 256 + 8 * n_used, move |gpu| {
        let (logits, experts, weights) = (values(gpu, 256)?, room(gpu, n_used)?, room(gpu, n_used)?);
        let bias = values(gpu, 256)?;
        Ok(move |gpu: &Gpu| {
            let groups = Some(ExpertGroups { n_groups: 8, n_used: 4 });
            let routing = Routing { score: RouterScore::Sigmoid, groups, ..Routing::softmax(256, n_used) };
            let routing = Routing { selection_bias: Some(&bias), normalise: true, ..routing };
            gpu.experts_route(&routing, &logits, &experts, &weights, 1)
        })
    });
    let name = format!("{n_used} of {n_experts}, by {n_experts}×{N_EMBD}");
    let matrix_bytes_of_router = 4 * n_experts * N_EMBD;
    let bytes = (matrix_bytes_of_router + 8 * N_EMBD, matrix_bytes_of_router);
    let router = Row::streaming("experts_router", name, bytes, move |gpu| {
        let weights = matrix(gpu, TensorType::F32, n_experts, N_EMBD)?;
        let (x, norm, logits) = (values(gpu, N_EMBD)?, values(gpu, N_EMBD)?, room(gpu, n_experts)?);
        let (experts, shares, arrivals) = (room(gpu, n_used)?, room(gpu, n_used)?, gpu.upload("arrivals", &[0])?);
        let streamed = vec![weights.data.address()];
        let launch = move |gpu: &Gpu| {
            let routing = Routing { normalise: true, ..Routing::softmax(n_experts, n_used) };
            let gemv = Gemv { norm: Some((&*norm, 1e-6)), ..Gemv::new(weights.all(), &x, &logits) };
            gpu.experts_router(&gemv, &routing, &experts, &shares, &arrivals)
        };
        Ok((launch, streamed))
    });
    let every = Row::new("experts_every", "128 of one token", 4 * 128, move |gpu| {
        let experts = room(gpu, 128)?;
        Ok(move |gpu: &Gpu| gpu.experts_every(&experts, 1, 128))
    });
    let name = format!("{n_used} of {n_experts} experts, {N_EMBD} values");
    let add_bias = Row::new("experts_bias", name, 12 * N_EMBD * n_used, move |gpu| {
        let (bias, out) = (values(gpu, n_experts * N_EMBD)?, values(gpu, n_used * N_EMBD)?);
        let chosen: Vec<u32> = (0..n_used as u32).map(|slot| slot * 13 % 128).collect();
        let chosen = gpu.upload("experts", &chosen)?;
        Ok(move |gpu: &Gpu| gpu.experts_bias(&chosen, &bias, &out, n_used, N_EMBD))
    });
    let combine =
        Row::new("experts_combine", format!("{n_used} of {N_EMBD} values"), 4 * N_EMBD * (n_used + 2), move |gpu| {
            let (parts, weights) = (values(gpu, n_used * N_EMBD)?, values(gpu, n_used)?);
            let (residual, out) = (values(gpu, N_EMBD)?, room(gpu, N_EMBD)?);
            Ok(move |gpu: &Gpu| gpu.experts_combine(&parts, &weights, Some(&residual), &out, 1, N_EMBD, n_used))
        });
    let tensor_type = TensorType::Q4_K;
    let bytes = matrix_bytes(tensor_type, n_used * N_FF, N_EMBD) + 4 * (N_EMBD + n_used * N_FF);
    let up = Row::new("gemv_q4_k", format!("{n_used} of {n_experts} experts {N_FF}×{N_EMBD}"), bytes, move |gpu| {
        let weights = matrices(gpu, tensor_type, n_experts, N_FF, N_EMBD)?;
        let chosen: Vec<u32> = (0..n_used as u32).map(|slot| slot * 13 % 128).collect();
        let (chosen, x, out) = (gpu.upload("experts", &chosen)?, values(gpu, N_EMBD)?, room(gpu, n_used * N_FF)?);
        Ok(move |gpu: &Gpu| {
            let experts = Some(Chosen { chosen: &chosen, n_vectors: n_used, share: n_used });
            gpu.gemv(&Gemv { experts, ..Gemv::new(weights.all(), &x, &out) })
        })
    });
    let downs = [TensorType::Q4_K, TensorType::Q6_K].map(|t| sum(t, n_used, n_experts, (N_EMBD, N_FF)));
    let sort = |n_tokens: usize| {
        let n_pairs = n_tokens * n_used;
        let name = format!("{n_tokens} tokens with {n_used} of {n_experts}");
        Row::new("experts_group", name, 8 * n_pairs, move |gpu| {
            let chosen = gpu.upload("experts", &spread(n_pairs, n_experts))?;
            let lists = ExpertLists::new(gpu, ExpertLists::elements(n_pairs, n_experts))?;
            Ok(move |gpu: &Gpu| gpu.experts_group(&chosen, n_experts, &lists))
        })
    };
    let mut rows = vec![
        route.small(),
        biased.small(),
        grouped.small(),
        router.small(),
        every.small(),
        add_bias.small(),
        combine.small(),
        up,
    ];
    rows.extend(downs);
    let with_sums = TensorType::ALL.iter().filter(|tensor_type| Gpu::has_gemv_sum(**tensor_type, 256, 2));
    rows.extend(with_sums.map(|tensor_type| sum(*tensor_type, 2, 8, (128, 256)).small()));
    rows.extend([sort(512).small(), sort(2048)]);
    rows.extend([16, 64, 512, 2048].map(|n_tokens| together(n_tokens, n_used, n_experts, (N_FF, N_EMBD))));
    rows.push(together(32, 2, 8, (128, 256)).small());
    rows
}

/// The down projections of a token's experts, added up with the residual stream.
fn sum(tensor_type: TensorType, n_used: usize, n_experts: usize, (n_out, n_in): (usize, usize)) -> Row {
    let kernel = format!("gemv_sum_{}", tensor_type.name().to_lowercase());
    let words = n_used * if tensor_type.is_quantised() { quantised_len(n_in) } else { n_in };
    let bytes = matrix_bytes(tensor_type, n_used * n_out, n_in) + 4 * (words + 2 * n_out);
    Row::new(kernel, format!("{n_used} of {n_experts} experts {n_out}×{n_in}"), bytes, move |gpu| {
        let stack = matrices(gpu, tensor_type, n_experts, n_out, n_in)?;
        let chosen: Vec<u32> = (0..n_used as u32).map(|slot| slot * 13 % n_experts as u32).collect();
        let (chosen, x) = (gpu.upload("experts", &chosen)?, values(gpu, words)?);
        let (weights, residual, out) = (values(gpu, n_used)?, values(gpu, n_out)?, room(gpu, n_out)?);
        Ok(move |gpu: &Gpu| {
            let quantised = x.cast::<u32>();
            let x = if tensor_type.is_quantised() { Input::Quantised(&quantised) } else { Input::F32(&x) };
            let (stack, residual) = (stack.all(), Some(&*residual));
            let sum = GemvSum { stack, x, experts: &chosen, weights: &weights, residual, out: &out, n_used };
            gpu.gemv_sum(&sum, 1)
        })
    })
}

/// Experts of pairs of a token and an expert of its: every expert with as many, one or none more.
fn spread(n_pairs: usize, n_experts: usize) -> Vec<u32> {
    (0..n_pairs as u32).map(|pair| pair * 13 % n_experts as u32).collect()
}

/// The products of many tokens with their experts, in tiles.
fn together(n_tokens: usize, n_used: usize, n_experts: usize, (n_out, n_in): (usize, usize)) -> Row {
    let (tensor_type, n_pairs) = (TensorType::Q4_K, n_tokens * n_used);
    let of_tile = Gpu::pairs_of_tile(n_pairs, n_experts);
    let n_chosen = n_experts.min(n_pairs);
    let bytes = matrix_bytes(tensor_type, n_chosen * n_out, n_in) + 2 * n_tokens * n_in + 4 * n_pairs * n_out;
    let name = format!("{n_tokens} tokens with {n_used} of {n_experts} experts {n_out}×{n_in}");
    Row::new(format!("gemm_q4_k_{of_tile}"), name, bytes, move |gpu| {
        let weights = matrices(gpu, tensor_type, n_experts, n_out, n_in)?;
        let (x, out) = (gpu.alloc::<f16>("x", n_tokens * n_in)?, room(gpu, n_pairs * n_out)?);
        gpu.fill(&x, 0)?;
        let chosen = gpu.upload("experts", &spread(n_pairs, n_experts))?;
        let lists = ExpertLists::new(gpu, ExpertLists::elements(n_pairs, n_experts))?;
        gpu.experts_group(&chosen, n_experts, &lists)?;
        Ok(move |gpu: &Gpu| {
            let gemm = Gemm::new(weights.all(), &x, Product::F32(&out));
            gpu.gemm_experts(&gemm, &ExpertPairs { lists: &lists, n_pairs, n_experts, share: n_used })
        })
    })
}

/// Blocks of Q4_K from a file's order into planes.
fn arrange() -> Row {
    let (tensor_type, n) = (TensorType::Q4_K, 64 * 1024);
    let len = matrix_bytes(tensor_type, 1, n);
    Row::new("arrange", format!("{n} values of {}", tensor_type.name()), 2 * len, move |gpu| {
        let (blocks, part) = (room::<u8>(gpu, len)?, room::<u8>(gpu, len)?);
        gpu.fill(&blocks, 0)?;
        Ok(move |gpu: &Gpu| gpu.arrange(tensor_type, &blocks, &part, 0))
    })
}

fn size(words: usize) -> String {
    format!("{} KiB", (words * size_of::<u32>()) >> 10)
}

fn read(words: usize) -> Row {
    Row::new("bandwidth_read", size(words), 4 * words, move |gpu| {
        let (data, parts) = (room(gpu, words)?, room(gpu, gpu.bandwidth_parts())?);
        gpu.fill(&data, 1)?;
        Ok(move |gpu: &Gpu| gpu.bandwidth_read(&data, &parts))
    })
}

fn copy(words: usize) -> Row {
    Row::new("bandwidth_copy", size(words), 8 * words, move |gpu| {
        let (data, out) = (room(gpu, words)?, room(gpu, words)?);
        gpu.fill(&data, 1)?;
        Ok(move |gpu: &Gpu| gpu.bandwidth_copy(&data, &out))
    })
}

fn bits(words: usize) -> Row {
    Row::new("noise_bits", size(words), 4 * words, move |gpu| {
        let out = room::<u8>(gpu, 4 * words)?;
        Ok(move |gpu: &Gpu| gpu.noise_bits(&out, 1))
    })
}

/// Blocks of Q8_0.
fn places(n: usize) -> Strided {
    Strided { first: 0, stride: 34, n }
}

fn scales() -> Row {
    let n = SMALL / 34;
    Row::new("noise_scales", format!("{n} blocks"), 2 * n, move |gpu| {
        let blocks = room::<u8>(gpu, n * 34)?;
        Ok(move |gpu: &Gpu| gpu.noise_scales(&blocks, places(n), 1.0, 1))
    })
}

fn exponents() -> Row {
    let n = SMALL / 34;
    Row::new("noise_exponents", format!("{n} blocks"), n, move |gpu| {
        let blocks = room::<u8>(gpu, n * 34)?;
        Ok(move |gpu: &Gpu| gpu.noise_exponents(&blocks, places(n), 120))
    })
}

fn floats<T: NoiseFloat>(name: &str) -> Row {
    Row::new(format!("noise_{name}"), format!("{SMALL} values"), size_of::<T>() * SMALL, move |gpu| {
        let out = room::<T>(gpu, SMALL)?;
        Ok(move |gpu: &Gpu| gpu.noise_floats(&out, 0.0, 1.0, 1))
    })
}
