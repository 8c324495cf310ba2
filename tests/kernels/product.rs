//! Products of many tokens with matrices of 16-bit floats, by the kernels that are used where there is no cuBLAS, against their
//! definition in `f64`.

use ferrowarp::{
    gguf::TensorType,
    gpu::{Activations, Factors, Gpu, Matmul, Product, Weights, kernels::FloatProduct},
};
use half::{bf16, f16};

use crate::support::*;

/// Rows and columns around a block's 128 rows and a panel's 64 columns; rings of panels that are not filled, filled, and gone round.
const SHAPES: [(usize, usize); 5] = [(1, 64), (130, 40), (128, 128), (70, 768), (300, 328)];

/// Around the 64, 128 and 256 tokens of a block of each kernel.
const TOKENS: [usize; 9] = [1, 7, 64, 65, 128, 129, 200, 256, 300];

/// Products of 16-bit floats are exact in f32, in which they are summed: errors are as random as the products.
const TOLERANCE: f64 = 1e-6;

fn halves(random: &mut Random, n: usize) -> Vec<f16> {
    random.values(n, 2.0).into_iter().map(f16::from_f32).collect()
}

/// Whether an output is what it should be, from its definition's products.
fn check(found: f64, factor: f64, products: impl Iterator<Item = f64>, more: f64, rounding: f64, what: &str) {
    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product * product));
    let want = factor * sum + more;
    let limit = 30.0 * TOLERANCE * factor.abs() * f64::sqrt(size) + (1e-6 + rounding) * (0.01 + want.abs());
    assert!((found - want).abs() <= limit, "{what}: {found} for {want}, {:.1e} > {limit:.1e}", (found - want).abs());
}

#[test]
fn outputs_are_sums_of_products() {
    let gpu = gpu_without_cublas();
    let mut random = Random::new();
    for (index, (n_out, n_in)) in SHAPES.into_iter().enumerate() {
        let matrix = halves(&mut random, n_out * n_in);
        let on_device = gpu.upload("matrix", &matrix).unwrap();
        for (which, n) in TOKENS.into_iter().enumerate() {
            // Each shape with some of the counts, all of them with some shape.
            if (which + index) % 3 > 0 {
                continue;
            }
            let x = halves(&mut random, n * n_in);
            let x_on_device = gpu.upload("x", &x).unwrap();
            let before = random.values(n * n_out, 1.0);
            let added = gpu.upload("out", &before).unwrap();
            let (exact, rounded) = (Output::<f32>::new(&gpu, n * n_out), Output::<f16>::new(&gpu, n * n_out));
            let run = |out: Product, adds| {
                let factors = Factors::F16([&on_device, &x_on_device]);
                let product = FloatProduct { factors, n_out, n_in, out, alpha: 0.5, adds };
                gpu.product_in_tiles(&product, n, (which + 2 * index) / 3 % Gpu::PRODUCT_TILES).unwrap()
            };
            run(Product::F32(&added), true);
            run(Product::F32(&exact), false);
            run(Product::F16(&rounded), false);
            let (added, exact, rounded) = (gpu.read(&added).unwrap(), exact.read(&gpu), rounded.read(&gpu));
            for at in 0..n * n_out {
                let (token, row) = (at / n_out, at % n_out);
                let products = || (0..n_in).map(|i| matrix[row * n_in + i].to_f64() * x[token * n_in + i].to_f64());
                let what = format!("{n_out}×{n_in}, token {token} of {n}, row {row}");
                check(f64::from(exact[at]), 0.5, products(), 0.0, 0.0, &what);
                check(f64::from(added[at]), 0.5, products(), f64::from(before[at]), 0.0, &what);
                assert_eq!(rounded[at].to_bits(), f16::from_f32(exact[at]).to_bits(), "{what} in f16");
            }
        }
    }
}

/// A token's outputs are the same bits in any company, whichever kernel that goes to.
#[test]
fn a_token_is_the_same_in_any_company() {
    let gpu = gpu_without_cublas();
    let mut random = Random::new();
    let (n_out, n_in, n) = (150, 776, 300);
    let matrix = gpu.upload("matrix", &halves(&mut random, n_out * n_in)).unwrap();
    let x = halves(&mut random, n * n_in);
    let run = |first: usize, n: usize, tile: usize| {
        let x = gpu.upload("x", &x[first * n_in..(first + n) * n_in]).unwrap();
        let out = Output::<f32>::new(&gpu, n * n_out);
        let factors = Factors::F16([&matrix, &x]);
        let product = FloatProduct { factors, n_out, n_in, out: Product::F32(&out), alpha: 1.0, adds: false };
        gpu.product_in_tiles(&product, n, tile).unwrap();
        out.read(&gpu).into_iter().map(f32::to_bits).collect::<Vec<u32>>()
    };
    let all = run(0, n, 0);
    for (index, (first, n)) in [(0, 1), (3, 16), (40, 70), (100, 200), (0, 300)].into_iter().enumerate() {
        let tile = (index + 1) % Gpu::PRODUCT_TILES;
        assert!(
            run(first, n, tile) == all[first * n_out..(first + n) * n_out],
            "{n} tokens from {first} on, kernel {tile}"
        );
    }
}

/// Matrices of every type of floats, with activations of f32 that take two parts for bf16, and rows that are no whole 16 bytes.
#[test]
fn matrices_of_all_floats_are_multiplied() {
    let gpu = gpu_without_cublas();
    let mut random = Random::new();
    let n = 9;
    for (tensor_type, n_out, n_in, epsilon) in [
        (TensorType::F32, 20, 72, 1e-6),
        // Activations are rounded to f16; to two bf16.
        (TensorType::F16, 140, 72, 1e-3),
        (TensorType::BF16, 140, 72, 3e-5),
        (TensorType::F16, 20, 68, 1e-6),
        (TensorType::BF16, 20, 68, 1e-6),
    ] {
        let values = random.values(n_out * n_in, 2.0);
        let (bytes, values): (Vec<u8>, Vec<f64>) = match tensor_type {
            TensorType::F32 => {
                (bytemuck::cast_slice(&values).to_vec(), values.iter().map(|value| f64::from(*value)).collect())
            }
            TensorType::F16 => {
                let halves: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
                (bytemuck::cast_slice(&halves).to_vec(), halves.iter().map(|value| value.to_f64()).collect())
            }
            _ => {
                let halves: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
                (bytemuck::cast_slice(&halves).to_vec(), halves.iter().map(|value| value.to_f64()).collect())
            }
        };
        let weights = Weights::of_one_type(gpu.upload("matrix", &bytes).unwrap(), tensor_type, 1, n_out, n_in);
        let (x, bias, residual) =
            (random.values(n * n_in, 3.0), random.values(n_out, 1.0), random.values(n * n_out, 1.0));
        let on_device = |values: &[f32]| gpu.upload("values", values).unwrap();
        let out = Output::<f32>::new(&gpu, n * n_out);
        let scratch = Matmul::new(&gpu, n, n_in, 0, Activations::F32).unwrap();
        let (x_on_device, bias_on_device, residual_on_device) = (on_device(&x), on_device(&bias), on_device(&residual));
        let (bias_of, residual_of) = (Some(&*bias_on_device), Some(&*residual_on_device));
        gpu.matmul(&scratch, weights.all(), &x_on_device, bias_of, residual_of, &out, n).unwrap();
        for (at, found) in out.read(&gpu).into_iter().enumerate() {
            let (token, row) = (at / n_out, at % n_out);
            let products = (0..n_in).map(|i| values[row * n_in + i] * f64::from(x[token * n_in + i]));
            let size: f64 = products.clone().map(|product| product * product).sum();
            let want = products.sum::<f64>() + f64::from(bias[row]) + f64::from(residual[at]);
            let limit = 5.0 * epsilon * size.sqrt() + 1e-6 * (1.0 + want.abs());
            let error = (f64::from(found) - want).abs();
            assert!(
                error <= limit,
                "{tensor_type} {n_out}×{n_in}, output {at}: {found} for {want}, {error:.1e} > {limit:.1e}"
            );
        }
    }
}

/// Rows that no kernel copies are an error that says what to do.
#[test]
fn rows_that_cannot_be_copied_are_refused() {
    let gpu = gpu_without_cublas();
    let (matrix, x) = (gpu.upload("matrix", &[f16::ONE; 12]).unwrap(), gpu.upload("x", &[f16::ONE; 12]).unwrap());
    let out = gpu.alloc::<f32>("out", 1).unwrap();
    let refused = gpu.product(&matrix, 1, 12, &x, Product::F32(&out), 1.0, false, 1).unwrap_err().to_string();
    assert!(refused.contains("rows of 12 values") && refused.contains("install cuBLAS"), "{refused}");
    assert_eq!(gpu.multiplies_with().unwrap(), "this program's kernels");
}
