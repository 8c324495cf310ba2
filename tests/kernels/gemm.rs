//! Products of a few tokens with weights of every type, on tensor cores, against their definition in `f64`.

use std::ops::Range;

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Gpu, Product, Weights,
        kernels::{ExpertLists, ExpertPairs, Gemm, GemmScratch, Order},
    },
};
use half::{bf16, f16};

use crate::{blocks::blocks, support::*};

/// Weights are rounded to f16 twice, by their scale and with it; activations are f16 in the definition too, and sums are f32. What a scale
/// or a minimum is rounded by is the same for all of its values, so of a million outputs some have twice what independent roundings give.
const TOLERANCE: f64 = 4e-3;

/// Floats of 16 bits are f16 or made so exactly: only sums are rounded.
const OF_FLOATS: f64 = 1e-4;

/// Types whose small matrices have kernels of their own.
const WITH_APART: [TensorType; 8] = [
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q6_K,
    TensorType::Q5_0,
    TensorType::Q4_0,
    TensorType::Q5_K,
    TensorType::F16,
    TensorType::BF16,
];

/// Every type that there are such products with.
fn types() -> impl Iterator<Item = TensorType> {
    TensorType::ALL.iter().copied().filter(|tensor_type| Gpu::has_gemm(*tensor_type, 256))
}

/// A random matrix on the device, and its values.
fn matrix(gpu: &Gpu, random: &mut Random, tensor_type: TensorType, n_out: usize, n_in: usize) -> (Weights, Vec<f32>) {
    if tensor_type.is_quantised() {
        return blocks(gpu, random, tensor_type, n_out, n_in);
    }
    let (matrix, values) = weights(gpu, random, tensor_type, n_out, n_in);
    (matrix, values.into_iter().map(|value| value as f32).collect())
}

/// What errors of products are below, of their size.
fn tolerance(tensor_type: TensorType) -> f64 {
    if tensor_type.is_quantised() { TOLERANCE } else { OF_FLOATS }
}

/// Rows and columns around a block's 128 or 256 rows and a unit's 128 or 256 columns; tiles that one block has alone and that several share.
const SHAPES: [(usize, usize); 5] = [(1, 256), (130, 256), (40, 1280), (300, 768), (270, 448)];

/// Around the 8, 16, 32 and 64 tokens of a block of each kernel; more than 64 are two launches, or two blocks of each tile of rows.
const TOKENS: [usize; 13] = [1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 70, 100, 150];

#[test]
fn outputs_are_sums_of_products() {
    let gpu = gpu();
    let mut random = Random::new();
    for (formats, tensor_type) in types().enumerate() {
        for (index, (n_out, n_in)) in SHAPES.into_iter().enumerate() {
            // Each shape with some of the counts, all of them with some shape.
            let some = TOKENS
                .into_iter()
                .enumerate()
                .filter(|(which, _)| which % SHAPES.len() == (index + formats) % SHAPES.len());
            let counts: Vec<usize> = some.map(|(_, n)| n).collect();
            // Rows that end within a unit, of types that can have such.
            let n_in = n_in.next_multiple_of(tensor_type.block_elements() as usize);
            check(&gpu, &mut random, tensor_type, (n_out, n_in), &counts);
        }
    }
}

/// Small matrices, of which groups of warps have a unit each where the image has some: with as many units as groups in a block, and fewer; a tile's
/// blocks alone and together; and some for which there are too many tiles.
#[test]
fn groups_have_a_unit_each() {
    let gpu = gpu();
    let mut random = Random::new();
    for (index, tensor_type) in WITH_APART.into_iter().enumerate() {
        let shapes: [(usize, usize); 4] = [(1800, 896), (130, 4864), (70, 1024), (1100, 512)];
        for (which, (n_out, n_in)) in shapes.into_iter().enumerate() {
            let shape = (n_out, n_in.next_multiple_of(tensor_type.block_elements() as usize));
            let counts = [[3, 64], [16, 70], [8, 20], [9, 33]];
            check(&gpu, &mut random, tensor_type, shape, &counts[(which + index) % counts.len()]);
        }
    }
}

/// Matrices of floats with so many rows, on any device, that two blocks have a tile and half of them come behind another.
#[test]
fn groups_have_a_unit_each_in_two_turns() {
    let gpu = gpu();
    let mut random = Random::new();
    let n_out = 64 * gpu.multiprocessors() - 10;
    check(&gpu, &mut random, TensorType::F16, (n_out, 1280), &[3, 20]);
}

/// The same formats' matrices with so many rows, on any device, that all blocks share one list.
#[test]
fn blocks_share_one_list() {
    let gpu = gpu();
    let mut random = Random::new();
    let n_out = 2 * 64 * gpu.multiprocessors() + 10;
    for tensor_type in WITH_APART {
        assert!(Gpu::has_gemm_apart(tensor_type), "{tensor_type}");
        check(&gpu, &mut random, tensor_type, (n_out, 256), &[3, 16, 20, 40]);
    }
}

/// Products of so many tokens with a matrix, against their definition.
fn check(gpu: &Gpu, random: &mut Random, tensor_type: TensorType, (n_out, n_in): (usize, usize), counts: &[usize]) {
    let (matrix, values) = matrix(gpu, random, tensor_type, n_out, n_in);
    let scratch = scratch(gpu, n_out, n_in);
    for n in counts.iter().copied() {
        let x: Vec<f16> = random.values(n * n_in, 2.0).into_iter().map(f16::from_f32).collect();
        let x_on_device = gpu.upload("x", &x).unwrap();
        let factors = random.values(n, 3.0);
        let factors_on_device = gpu.upload("factors", &factors).unwrap();
        let bias = random.values(n_out, 1.0);
        let bias_on_device = gpu.upload("bias", &bias).unwrap();
        let before = random.values(n * n_out, 1.0);
        let out = gpu.upload("out", &before).unwrap();
        let gemm = Gemm {
            factors: Some(&factors_on_device),
            bias: (n % 2 == 0).then_some(&*bias_on_device),
            alpha: 0.5,
            adds: true,
            ..Gemm::new(matrix.all(), &x_on_device, Product::F32(&out))
        };
        gpu.gemm(&gemm, n, &scratch).unwrap();
        let found = gpu.read(&out).unwrap();
        if gpu.takes_steps(n_in) {
            // Activations in steps make the same bits.
            let steps = gpu.upload("x", &in_steps(&x, n_in)).unwrap();
            let out = gpu.upload("out", &before).unwrap();
            let orders = [Order::Steps, Order::Rows];
            gpu.gemm(&Gemm { x: &steps, out: Product::F32(&out), orders, ..gemm }, n, &scratch).unwrap();
            let same = gpu.read(&out).unwrap().iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{tensor_type} {n_out}×{n_in}, {n} tokens in steps");
        }
        let x: Vec<f64> = x.iter().map(|x| x.to_f64()).collect();
        for token in 0..n {
            for row in 0..n_out {
                let at = token * n_out + row;
                let (weights, x) = (&values[row * n_in..(row + 1) * n_in], &x[token * n_in..(token + 1) * n_in]);
                let (sum, size) = weights.iter().zip(x).fold((0.0, 0.0), |(sum, size), (weight, x)| {
                    let product = f64::from(*weight) * x;
                    (sum + product, size + product * product)
                });
                let factor = 0.5 * f64::from(factors[token]);
                let bias = if n % 2 == 0 { f64::from(bias[row]) } else { 0.0 };
                let want = factor * sum + bias + f64::from(before[at]);
                // Errors are as random as the products: by the root of the sum of their squares. What a scale that is a subnormal f16 is rounded
                // by, 2^-25 at most, multiplies integers below 64.
                let of_scales = 2f64.powi(-19) * x.iter().map(|x| x * x).sum::<f64>().sqrt();
                let limit =
                    factor.abs() * (tolerance(tensor_type) * size.sqrt() + of_scales) + 1e-5 * (1.0 + want.abs());
                let error = (f64::from(found[at]) - want).abs();
                assert!(
                    error <= limit,
                    "{tensor_type} {n_out}×{n_in}, token {token} of {n}, row {row}: {} for {want}, {error:.1e} > {limit:.1e}",
                    found[at]
                );
            }
        }
    }
}

/// A token's outputs are the same bits in any company, and in f16 they are those of f32, rounded; other outputs stay as they are.
#[test]
fn a_token_is_the_same_in_any_company() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_out, n_in, stride) = (200, 1536, 210);
    for tensor_type in [
        TensorType::Q4_K,
        TensorType::Q8_0,
        TensorType::Q2_K,
        TensorType::Q3_K,
        TensorType::IQ3_S,
        TensorType::TQ1_0,
        TensorType::F16,
        TensorType::BF16,
    ] {
        let (matrix, _) = matrix(&gpu, &mut random, tensor_type, n_out, n_in);
        let scratch = scratch(&gpu, n_out, n_in);
        let x: Vec<f16> = random.values(70 * n_in, 2.0).into_iter().map(f16::from_f32).collect();
        let run = |first: usize, n: usize| {
            let x = gpu.upload("x", &x[first * n_in..(first + n) * n_in]).unwrap();
            let out = gpu.upload("out", &vec![7.0_f32; n * stride]).unwrap();
            let halves = gpu.upload("out", &vec![f16::ONE; n * stride]).unwrap();
            let gemm = Gemm {
                weights: matrix.all(),
                x: &x,
                factors: None,
                bias: None,
                out: Product::F32(&out),
                out_stride: stride,
                alpha: 1.0,
                adds: false,
                swiglu: None,
                orders: [Order::Rows; 2],
            };
            gpu.gemm(&gemm, n, &scratch).unwrap();
            gpu.gemm(&Gemm { out: Product::F16(&halves), ..gemm }, n, &scratch).unwrap();
            let (out, halves) = (gpu.read(&out).unwrap(), gpu.read(&halves).unwrap());
            for (index, (single, half)) in out.iter().zip(&halves).enumerate() {
                let want = if index % stride < n_out { f16::from_f32(*single) } else { f16::ONE };
                assert_eq!(half.to_bits(), want.to_bits(), "{tensor_type}: output {index} of {n} tokens in f16");
                assert!(index % stride < n_out || *single == 7.0, "{tensor_type}: output {index} is nobody's");
            }
            out.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        let all = run(0, 70);
        for (first, n) in [(0, 1), (3, 16), (5, 17), (40, 30), (6, 64)] {
            assert!(
                run(first, n) == all[first * stride..(first + n) * stride],
                "{tensor_type}: {n} tokens from {first} on differ from the same among 70"
            );
        }
    }
}

/// Of gates above up projections the outputs are SwiGLU of the two, in f16, the same bits in any company; in tiles that one block has alone and that
/// several share.
#[test]
fn gates_and_up_projections_become_units() {
    let gpu = gpu();
    let mut random = Random::new();
    let (alpha, scale) = (1.0 / 64.0, 0.5);
    for (tensor_type, n_ff, n_in) in [
        (TensorType::Q4_K, 300, 768),
        (TensorType::Q4_K, 384, 768),
        (TensorType::Q8_0, 128, 896),
        (TensorType::Q8_0, 4, 256),
        (TensorType::Q6_K, 1100, 256),
        (TensorType::IQ4_XS, 132, 1280),
        (TensorType::F16, 128, 896),
        (TensorType::F16, 300, 768),
        (TensorType::BF16, 132, 1280),
    ] {
        let (matrix, values) = matrix(&gpu, &mut random, tensor_type, 2 * n_ff, n_in);
        let scratch = scratch(&gpu, 2 * n_ff, n_in);
        let x: Vec<f16> = random.values(70 * n_in, 1.0).into_iter().map(f16::from_f32).collect();
        let run = |first: usize, n: usize| {
            let x = gpu.upload("x", &x[first * n_in..(first + n) * n_in]).unwrap();
            let out = Output::<f16>::new(&gpu, n * n_ff);
            let gemm = Gemm::new(matrix.all(), &x, Product::F16(&out));
            let gemm = Gemm { out_stride: n_ff, alpha, swiglu: Some(scale), ..gemm };
            gpu.gemm(&gemm, n, &scratch).unwrap();
            let units = out.read(&gpu);
            for order in [Order::Rows, Order::Steps]
                .into_iter()
                .filter(|order| gpu.takes_steps(n_in) && (*order == Order::Rows || gpu.takes_steps(n_ff)))
            {
                // Activations in steps, and units as rows or in steps too, are the same bits.
                let x = gpu.upload("x", &in_steps(&gpu.read(&x).unwrap(), n_in)).unwrap();
                let out = Output::<f16>::new(&gpu, n * n_ff);
                let orders = [Order::Steps, order];
                gpu.gemm(&Gemm { x: &x, out: Product::F16(&out), orders, ..gemm }, n, &scratch).unwrap();
                let want = if order == Order::Rows { units.clone() } else { in_steps(&units, n_ff) };
                assert!(out.read(&gpu) == want, "{tensor_type} 2 · {n_ff}×{n_in}, {n} tokens, units in {order:?}");
            }
            units
        };
        let all = run(0, 70);
        for token in 0..70 {
            for row in 0..n_ff {
                let product = |row: usize| {
                    let products = (0..n_in).map(|i| f64::from(values[row * n_in + i]) * x[token * n_in + i].to_f64());
                    products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product * product))
                };
                let ((gate, of_gate), (up, of_up)) = (product(row), product(n_ff + row));
                let alpha = f64::from(alpha);
                let (gate, up) = (alpha * gate, alpha * up);
                let want = gate / (1.0 + (-gate).exp()) * up * f64::from(scale);
                // SiLU's slope is 1.1 at most; f16 rounds what is left.
                let [of_gate, of_up] =
                    [of_gate, of_up].map(|size: f64| tolerance(tensor_type) * alpha * size.sqrt() + 1e-5);
                let limit = f64::from(scale) * (1.1 * of_gate * (up.abs() + of_up) + of_up * gate.abs())
                    + want.abs() / 1024.0
                    + 1e-4;
                let found = all[token * n_ff + row].to_f64();
                assert!(
                    (found - want).abs() <= limit,
                    "{tensor_type} 2 · {n_ff}×{n_in}, token {token}, row {row}: {found} for {want}, more than {limit:.1e}"
                );
            }
        }
        for (first, n) in [(0, 1), (3, 16), (5, 17), (40, 30), (6, 64)] {
            let (alone, among) = (run(first, n), &all[first * n_ff..(first + n) * n_ff]);
            let same = alone.iter().zip(among).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{tensor_type}: {n} tokens from {first} on differ from the same among 70");
        }
    }
}

/// Parts of a matrix of different types run beside each other, behind a kernel that makes what they read: each as it is alone, but for how its tiles
/// are cut into parts.
#[test]
fn parts_of_a_matrix_run_beside_each_other() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_in, stride) = (1536, 700);
    let types = [(TensorType::Q4_K, 300), (TensorType::BF16, 40), (TensorType::Q5_K, 260)];
    let matrices = types.map(|(tensor_type, n_out)| matrix(&gpu, &mut random, tensor_type, n_out, n_in));
    let n_outs: Vec<usize> = types.iter().map(|(_, n_out)| *n_out).collect();
    let elements = GemmScratch::elements([(n_outs, n_in)].into_iter(), Gpu::MOST_GEMM_TOKENS);
    let scratch = GemmScratch::new(&gpu, elements).unwrap();
    for (n_parts, n) in [(2, 5), (3, 70), (3, 16)] {
        let values = random.values(n * n_in, 1.0);
        let (on_device, ones) = (gpu.upload("x", &values).unwrap(), gpu.upload("weight", &vec![1.0; n_in]).unwrap());
        let x = gpu.alloc::<f16>("x", n * n_in).unwrap();
        let out = gpu.upload("out", &vec![7.0_f32; n * stride]).unwrap();
        let mut before = 0;
        let outs: Vec<_> = types[..n_parts]
            .iter()
            .map(|(_, n_out)| {
                before += n_out;
                out.slice(before - n_out..n * stride)
            })
            .collect();
        let gemms: Vec<Gemm> = matrices
            .iter()
            .zip(&outs)
            .map(|((matrix, _), out)| Gemm { out_stride: stride, ..Gemm::new(matrix.all(), &x, Product::F32(out)) })
            .collect();
        gpu.rmsnorm_f16(&on_device, &ones, &x, n, 0.0, 1.0, Order::Rows, false).unwrap();
        gpu.gemm_of_parts(&gemms, n, &scratch).unwrap();
        let (found, x) = (gpu.read(&out).unwrap(), gpu.read(&x).unwrap());
        for (token, found) in found.chunks_exact(stride).enumerate() {
            let mut before = 0;
            for (part, (tensor_type, n_out)) in types[..n_parts].iter().enumerate() {
                for row in 0..*n_out {
                    let weights = &matrices[part].1[row * n_in..(row + 1) * n_in];
                    let products = weights.iter().zip(&x[token * n_in..]).map(|(w, x)| f64::from(*w) * x.to_f64());
                    let (want, size) =
                        products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product * product));
                    let (got, limit) = (
                        f64::from(found[before + row]),
                        tolerance(*tensor_type) * size.sqrt() + 1e-5 * (1.0 + want.abs()),
                    );
                    assert!(
                        (got - want).abs() <= limit,
                        "{tensor_type}, part {part} of {n_parts}, token {token} of {n}, row {row}: {got} for {want}"
                    );
                }
                before += n_out;
            }
            assert!(found[before..].iter().all(|value| *value == 7.0), "token {token} of {n}: an output of nobody's");
        }
    }
}

/// How many tokens weights are multiplied packed for follows from the largest matrix, where the image has groups of warps.
#[test]
fn small_models_unpack_sooner() {
    let gpu = gpu();
    // Four units of 256 columns for each multiprocessor, of 256 rows.
    let of_units = |types: [TensorType; 2], units: usize| {
        gpu.most_gemm_tokens(types.into_iter().zip([[256 * units, 256], [64, 64]])).unwrap()
    };
    let enough = 4 * gpu.multiprocessors();
    let packed = |units| of_units([TensorType::Q8_0, TensorType::F16], units);
    let want = if gpu.image().has_warp_groups() { [128, 192] } else { [96, 96] };
    assert_eq!([packed(enough - 1), packed(enough)], want, "{}", gpu.image());
    // Floats are made f16 in less time, and what is f16 and large is cuBLAS's, where that is there.
    let (of_f16, mixed) = ([TensorType::F16; 2], [TensorType::F16, TensorType::BF16]);
    assert_eq!([of_units(of_f16, enough - 1), of_units(mixed, enough)], [64, 64]);
    let has_cublas = gpu.multiplies_with().unwrap() != gpu_without_cublas().multiplies_with().unwrap();
    assert_eq!(of_units(of_f16, enough), if has_cublas { 16 } else { 64 });
    let large = [[256 * enough, 256], [64, 64]];
    assert_eq!(gpu_without_cublas().most_gemm_tokens(of_f16.into_iter().zip(large)).unwrap(), 64);
}

/// Products with bf16 have the bits of those with the f16 that a whole matrix of them is converted to, also where f16 has fewer bits for a value, or none.
#[test]
fn bf16_is_multiplied_as_the_nearest_f16() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_out, n_in) = (150, 416);
    // Down to where f16 has nothing but zero; a row for itself has what is beyond its range.
    let exponents: Vec<i32> = (0..n_out * n_in).map(|at| if at / n_in == 7 { 17 } else { -(at as i32 % 29) }).collect();
    let values: Vec<bf16> = random
        .values(n_out * n_in, 1.0)
        .into_iter()
        .zip(exponents)
        .map(|(value, exponent)| bf16::from_f32(value * 2f32.powi(exponent)))
        .collect();
    let on_device = gpu.upload("weights", bytemuck::cast_slice::<bf16, u8>(&values)).unwrap();
    let bf16s = Weights::of_one_type(on_device, TensorType::BF16, 1, n_out, n_in);
    let converted = gpu.alloc::<f16>("weights", n_out * n_in).unwrap();
    gpu.range_to_f16_bf16(&bf16s.all().floats().cast(), &converted, 1.0, n_out * n_in).unwrap();
    let converted = gpu.read(&converted).unwrap();
    let is_subnormal = |half: &f16| *half != f16::ZERO && half.to_f32().abs() < f16::MIN_POSITIVE.to_f32();
    assert!(converted.iter().any(|half| half.is_infinite()) && converted.iter().any(is_subnormal));
    let on_device = gpu.upload("weights", bytemuck::cast_slice::<f16, u8>(&converted)).unwrap();
    let f16s = Weights::of_one_type(on_device, TensorType::F16, 1, n_out, n_in);
    let scratch = scratch(&gpu, n_out, n_in);
    for n in [5, 16, 30, 64] {
        let x: Vec<f16> = random.values(n * n_in, 2.0).into_iter().map(f16::from_f32).collect();
        let x = gpu.upload("x", &x).unwrap();
        let [of_bf16, of_f16] = [&bf16s, &f16s].map(|weights| {
            let out = Output::<f32>::new(&gpu, n * n_out);
            gpu.gemm(&Gemm::new(weights.all(), &x, Product::F32(&out)), n, &scratch).unwrap();
            out.read(&gpu)
        });
        let is_same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        assert!(of_bf16.iter().zip(&of_f16).all(is_same), "{n} tokens");
        let finite = of_bf16.iter().enumerate().filter(|(_, value)| value.is_finite());
        assert_eq!(finite.filter(|(at, _)| at % n_out != 7).count(), n * (n_out - 1), "{n} tokens");
    }
}

fn scratch(gpu: &Gpu, n_out: usize, n_in: usize) -> GemmScratch {
    let elements = GemmScratch::elements([(vec![n_out], n_in)].into_iter(), Gpu::MOST_GEMM_TOKENS);
    GemmScratch::new(gpu, elements).unwrap()
}

/// Pairs of tokens and experts are sorted by expert, each expert's as they were, in tiles: with tokens that all want one expert, experts that
/// nobody wants, and more and fewer pairs than threads.
#[test]
fn pairs_are_sorted_by_expert() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_pairs, n_experts) in [(1, 1usize), (7, 5), (40, 3), (300, 3), (64, 8), (1000, 128), (5000, 128), (513, 600)]
    {
        let of_tile = Gpu::pairs_of_tile(n_pairs, n_experts);
        for wanted in [n_experts, n_experts.div_ceil(3), 1] {
            let experts: Vec<u32> =
                random.indices(n_pairs, wanted).iter().map(|of| n_experts as u32 - 1 - of).collect();
            let on_device = gpu.upload("experts", &experts).unwrap();
            let lists = ExpertLists::new(&gpu, ExpertLists::elements(n_pairs, n_experts)).unwrap();
            gpu.experts_group(&on_device, n_experts, &lists).unwrap();
            let [pairs, tiles] = lists.read(&gpu, n_pairs, n_experts).unwrap();
            let mut want: Vec<u32> = (0..n_pairs as u32).collect();
            want.sort_by_key(|pair| experts[*pair as usize]);
            assert_eq!(pairs, want, "{n_pairs} pairs of {wanted} of {n_experts} experts");
            let mut next = 0;
            for tile in tiles.chunks_exact(4) {
                let (expert, first, n) = (tile[0], tile[1], tile[2]);
                if n == 0 {
                    continue;
                }
                let of = |at: u32| experts[pairs[at as usize] as usize];
                assert_eq!(first, next, "tiles follow each other");
                assert!(
                    (first..first + n).all(|at| of(at) == expert) && n <= of_tile as u32,
                    "one expert's, {n} of them"
                );
                next += n;
                assert!(
                    n == of_tile as u32 || next == n_pairs as u32 || of(next) != expert,
                    "full but at an expert's end"
                );
            }
            assert_eq!(next, n_pairs as u32, "every pair is in a tile");
        }
    }
}

/// A pair's outputs are its token's with its expert's matrix, the same bits in any company, for each kernel's tiles.
#[test]
fn experts_multiply_their_own_tokens() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_experts, n_out, n_in) = (5, 140, 512);
    // Both halves of a stack of gates above up projections; pairs of a token that share its x, and such that have their own.
    for (tensor_type, n_tokens, n_used) in [
        (TensorType::Q4_K, 3, 2),
        (TensorType::Q8_0, 40, 3),
        (TensorType::Q6_K, 90, 3),
        (TensorType::MXFP4, 120, 4),
        (TensorType::IQ2_S, 41, 3),
        (TensorType::F16, 3, 2),
        (TensorType::BF16, 40, 3),
        (TensorType::F16, 120, 4),
    ] {
        let (flat, values) = matrix(&gpu, &mut random, tensor_type, 2 * n_experts * n_out, n_in);
        let stacks = Weights::of_one_type(flat.data, tensor_type, n_experts, 2 * n_out, n_in);
        let n_pairs = n_tokens * n_used;
        let experts = random.indices(n_pairs, n_experts);
        let run = |pairs: Range<usize>, share: usize, stack: usize, x: &[f16], factors: &[f32]| {
            let n_pairs = pairs.len();
            let chosen = gpu.upload("experts", &experts[pairs.clone()]).unwrap();
            let lists = ExpertLists::new(&gpu, ExpertLists::elements(n_pairs, n_experts)).unwrap();
            gpu.experts_group(&chosen, n_experts, &lists).unwrap();
            let rows = pairs.start / share..pairs.end / share;
            let x = gpu.upload("x", &x[rows.start * n_in..rows.end * n_in]).unwrap();
            let factors = gpu.upload("factors", &factors[rows]).unwrap();
            let out = Output::<f32>::new(&gpu, n_pairs * n_out);
            let gemm = Gemm {
                weights: stacks.rows(stack * n_out..(stack + 1) * n_out),
                x: &x,
                factors: Some(&factors),
                bias: None,
                out: Product::F32(&out),
                out_stride: n_out,
                alpha: 0.5,
                adds: false,
                swiglu: None,
                orders: [Order::Rows; 2],
            };
            gpu.gemm_experts(&gemm, &ExpertPairs { lists: &lists, n_pairs, n_experts, share }).unwrap();
            out.read(&gpu)
        };
        for (share, stack) in [(n_used, 0), (1, 1)] {
            let x: Vec<f16> = random.values(n_pairs / share * n_in, 2.0).into_iter().map(f16::from_f32).collect();
            let factors = random.values(n_pairs / share, 3.0);
            let found = run(0..n_pairs, share, stack, &x, &factors);
            for pair in 0..n_pairs {
                let (row_of_x, expert) = (pair / share, experts[pair] as usize);
                for row in 0..n_out {
                    let weights = &values[((stack * n_experts + expert) * n_out + row) * n_in..][..n_in];
                    let x = &x[row_of_x * n_in..][..n_in];
                    let products = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x.to_f64());
                    let (sum, size) =
                        products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product * product));
                    let factor = 0.5 * f64::from(factors[row_of_x]);
                    let (got, want) = (f64::from(found[pair * n_out + row]), factor * sum);
                    let limit = tolerance(tensor_type) * factor.abs() * size.sqrt() + 1e-5 * (1.0 + want.abs());
                    assert!(
                        (got - want).abs() <= limit,
                        "{tensor_type}, pair {pair} of {n_pairs}, row {row}: {got} for {want}"
                    );
                }
            }
            let part = n_used..n_pairs / 2 / n_used * n_used + n_used;
            let alone = run(part.clone(), share, stack, &x, &factors);
            let same = alone.iter().zip(&found[part.start * n_out..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{tensor_type}: pairs {part:?} of {n_pairs} differ from the same alone");
        }
    }
}
