//! Products of a few tokens with packed weights, on tensor cores, against their definition in `f64`.

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Gpu, Product,
        kernels::{Gemm, GemmScratch},
    },
};
use half::f16;

use crate::{
    blocks::{blocks, quantised},
    support::*,
};

/// Weights are rounded to f16 twice, by their scale and with it; activations are f16 in the definition too, and sums are f32. What a scale
/// or a minimum is rounded by is the same for all of its values, so of a million outputs some have twice what independent roundings give.
const TOLERANCE: f64 = 4e-3;

/// Rows and columns around a block's 128 rows and a step's 128 columns; tiles that one block has alone and that several share.
const SHAPES: [(usize, usize); 4] = [(1, 256), (130, 256), (40, 1280), (300, 768)];

/// Around 8 tokens of a product on tensor cores, and the 16, 32 and 64 of a block of each kernel.
const TOKENS: [usize; 10] = [1, 2, 7, 9, 16, 17, 32, 33, 64, 70];

#[test]
fn outputs_are_sums_of_products() {
    let gpu = gpu();
    let mut random = Random::new();
    let mut formats = 0;
    for tensor_type in quantised().filter(|tensor_type| Gpu::has_gemm(*tensor_type)) {
        formats += 1;
        for (index, (n_out, n_in)) in SHAPES.into_iter().enumerate() {
            let (matrix, values) = blocks(&gpu, &mut random, tensor_type, n_out, n_in);
            let scratch = scratch(&gpu, n_out, n_in);
            // Each shape with some of the counts, all of them with some shape.
            for (which, n) in TOKENS.into_iter().enumerate() {
                if which % SHAPES.len() != (index + formats) % SHAPES.len() {
                    continue;
                }
                let x: Vec<f16> = random.values(n * n_in, 2.0).into_iter().map(f16::from_f32).collect();
                let x_on_device = gpu.upload("x", &x).unwrap();
                let factors = random.values(n, 3.0);
                let factors_on_device = gpu.upload("factors", &factors).unwrap();
                let before = random.values(n * n_out, 1.0);
                let out = gpu.upload("out", &before).unwrap();
                let gemm = Gemm {
                    weights: matrix.all(),
                    x: &x_on_device,
                    factors: Some(&factors_on_device),
                    out: Product::F32(&out),
                    out_stride: n_out,
                    alpha: 0.5,
                    adds: true,
                };
                gpu.gemm(&gemm, n, &scratch).unwrap();
                let found = gpu.read(&out).unwrap();
                for token in 0..n {
                    for row in 0..n_out {
                        let at = token * n_out + row;
                        let products =
                            (0..n_in).map(|i| f64::from(values[row * n_in + i]) * x[token * n_in + i].to_f64());
                        let (sum, size) =
                            products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product * product));
                        let factor = 0.5 * f64::from(factors[token]);
                        let want = factor * sum + f64::from(before[at]);
                        // Errors are as random as the products: by the root of the sum of their squares.
                        let limit = TOLERANCE * factor.abs() * size.sqrt() + 1e-5 * (1.0 + want.abs());
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
    }
    assert!(formats >= 12, "{formats} formats have such a product");
}

/// A token's outputs are the same bits in any company, and in f16 they are those of f32, rounded; other outputs stay as they are.
#[test]
fn a_token_is_the_same_in_any_company() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_out, n_in, stride) = (200, 1536, 210);
    for tensor_type in [TensorType::Q4_K, TensorType::Q8_0] {
        let (matrix, _) = blocks(&gpu, &mut random, tensor_type, n_out, n_in);
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
                out: Product::F32(&out),
                out_stride: stride,
                alpha: 1.0,
                adds: false,
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

fn scratch(gpu: &Gpu, n_out: usize, n_in: usize) -> GemmScratch {
    let elements = GemmScratch::elements([[n_out, n_in]].into_iter(), Gpu::MOST_GEMM_TOKENS);
    GemmScratch::new(gpu, elements).unwrap()
}
