//! Several tokens at once: the conversions around cuBLAS, and the whole product against its definition.

use ferrowarp::{
    gguf::TensorType,
    gpu::{Activations, Matmul, kernels::Order},
};
use half::{bf16, f16};

use crate::support::*;

#[test]
fn rows_are_scaled_by_a_power_of_two_into_f16s_range() {
    let gpu = gpu();
    let mut random = Random::new();
    let scales = [1e-38, 1e-6, 1.0, 7e4, 1e12, 3e38];
    for n in [1, 255, 300, 384] {
        let mut x: Vec<f32> = scales.iter().flat_map(|scale| random.values(n, *scale)).collect();
        x.extend(vec![0.0; n]);
        let n_tokens = scales.len() + 1;
        let out = Output::<f16>::new(&gpu, n_tokens * n);
        let inverse_scales = Output::new(&gpu, n_tokens);
        let x_on_device = gpu.upload("x", &x).unwrap();
        gpu.matmul_input_f16(&x_on_device, &out, &inverse_scales, n_tokens, n, Order::Rows).unwrap();
        let got = out.read(&gpu);
        if n % 128 == 0 {
            let steps = Output::<f16>::new(&gpu, n_tokens * n);
            gpu.matmul_input_f16(&x_on_device, &steps, &inverse_scales, n_tokens, n, Order::Steps).unwrap();
            assert!(steps.read(&gpu) == in_steps(&got, n), "in steps");
        }
        let inverse_scales = inverse_scales.read(&gpu);
        for token in 0..n_tokens {
            let (inverse, row) = (f64::from(inverse_scales[token]), &x[token * n..][..n]);
            assert_eq!(inverse_scales[token].to_bits() & 0x007f_ffff, 0, "{inverse} is no power of two");
            let largest = row.iter().fold(0.0, |max: f64, value| max.max(f64::from(value.abs())));
            let scaled = largest / inverse;
            assert!(
                largest == 0.0 || largest < 1e-36 || (8192.0..32768.0).contains(&scaled),
                "row {token}: the largest value {largest} became {scaled}"
            );
            for (half, value) in got[token * n..][..n].iter().zip(row) {
                assert_eq!(half.to_bits(), f16::from_f64(f64::from(*value) / inverse).to_bits(), "{value} / {inverse}");
            }
        }
    }
}

#[test]
fn bf16_inputs_are_split_in_two() {
    let gpu = gpu();
    let mut random = Random::new();
    let mut x = random.values(300, 1e3);
    x.extend([1e38, -f32::MIN_POSITIVE, 1e-40, 0.0, f32::from_bits(0x3f80_8000), f32::from_bits(0x3f81_8000)]);
    let (high, low) = (Output::<bf16>::new(&gpu, x.len()), Output::<bf16>::new(&gpu, x.len()));
    gpu.matmul_input_bf16(&gpu.upload("x", &x).unwrap(), &high, &low, x.len()).unwrap();
    let got = high.read(&gpu).into_iter().zip(low.read(&gpu));
    for (x, (high, low)) in x.iter().zip(got) {
        let rounded = bf16::from_f32(*x);
        let rest = bf16::from_f32(x - rounded.to_f32());
        assert_eq!(high.to_bits(), rounded.to_bits(), "{x}");
        assert_eq!(low.to_bits(), rest.to_bits(), "the rest of {x}");
    }
}

#[test]
fn the_epilogue_scales_and_adds_what_it_is_given() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_tokens, n_out) in [(2, 1), (3, 256), (2, 700)] {
        let product = random.values(n_tokens * n_out, 5.0);
        let scales: Vec<f32> = (0..n_tokens).map(|token| 2f32.powi(token as i32 - 1)).collect();
        let (bias, residual) = (random.values(n_out, 30.0), random.values(n_tokens * n_out, 5.0));
        let device_product = gpu.upload("product", &product).unwrap();
        let device_scales = gpu.upload("scales", &scales).unwrap();
        let device_bias = gpu.upload("bias", &bias).unwrap();
        let device_residual = gpu.upload("residual", &residual).unwrap();
        for parts in 0..8 {
            let [with_scales, with_bias, with_residual] = [1, 2, 4].map(|bit| parts & bit != 0);
            let out = Output::new(&gpu, n_tokens * n_out);
            gpu.matmul_epilogue(
                &device_product,
                with_scales.then_some(&*device_scales),
                with_bias.then_some(&*device_bias),
                with_residual.then_some(&*device_residual),
                &out,
                n_tokens,
                n_out,
            )
            .unwrap();
            let want: Vec<f64> = (0..n_tokens * n_out)
                .map(|index| {
                    let (token, column) = (index / n_out, index % n_out);
                    f64::from(product[index]) * if with_scales { f64::from(scales[token]) } else { 1.0 }
                        + if with_bias { f64::from(bias[column]) } else { 0.0 }
                        + if with_residual { f64::from(residual[index]) } else { 0.0 }
                })
                .collect();
            // Two roundings of sums up to 45.
            assert_close(&format!("{n_tokens}×{n_out} parts {parts}"), &out.read(&gpu), &want, 6e-6, 0.0);
        }
    }
}

#[test]
fn matmuls_of_every_type_agree_with_their_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in FLOATS {
        for (n_tokens, n_out, n_in) in [(2, 3, 5), (7, 33, 64), (3, 128, 256), (17, 40, 129)] {
            let (matrix, exact) = weights(&gpu, &mut random, tensor_type, n_out, n_in);
            // Activations beyond f16's largest number, as some models have.
            let x = random.values(n_tokens * n_in, 2e5);
            let (bias, residual) = (random.values(n_out, 30.0), random.values(n_tokens * n_out, 100.0));
            let scratch = Matmul::new(&gpu, n_tokens, n_in, 0, Activations::F32).unwrap();
            let out = Output::new(&gpu, n_tokens * n_out);
            gpu.matmul(
                &scratch,
                matrix.all(),
                &gpu.upload("x", &x).unwrap(),
                Some(&gpu.upload("bias", &bias).unwrap()),
                Some(&gpu.upload("residual", &residual).unwrap()),
                &out,
                n_tokens,
            )
            .unwrap();
            let got = out.read(&gpu);
            // Inputs are rounded once (2^-11 in f16, 2^-16 as two bf16, not at all in f32), sums in f32.
            let precision = match tensor_type {
                TensorType::F32 => 2f64.powi(-20),
                TensorType::F16 => 2f64.powi(-11) + 2f64.powi(-20),
                TensorType::BF16 => 2f64.powi(-16) + 2f64.powi(-20),
                packed => panic!("{packed} is no float"),
            };
            for (index, got) in got.iter().enumerate() {
                let (token, row) = (index / n_out, index % n_out);
                let products = (0..n_in).map(|i| exact[row * n_in + i] * f64::from(x[token * n_in + i]));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                let want = sum + f64::from(bias[row]) + f64::from(residual[index]);
                let error = (f64::from(*got) - want).abs();
                assert!(
                    error <= precision * size + 1e-4,
                    "{tensor_type:?} {n_tokens}×{n_out}×{n_in} [{token}][{row}]: got {got}, want {want}"
                );
            }
        }
    }
}
