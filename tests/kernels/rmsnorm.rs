//! y = x / √(mean(x²) + ε) · weight.

use ferrowarp::gpu::kernels::Order;
use half::f16;

use crate::support::*;

pub fn reference(x: &[f32], weight: &[f32], epsilon: f32) -> Vec<f64> {
    let n = weight.len();
    let row = |row: &[f32]| {
        let mean = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
        row.iter().zip(weight).map(|(x, w)| f64::from(*x) * scale * f64::from(*w)).collect::<Vec<_>>()
    };
    x.chunks(n).flat_map(row).collect()
}

#[test]
fn rmsnorm_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n) in [(2, 1), (3, 31), (2, 256), (5, 257), (2, 896), (3, 2000)] {
        // 1e-4 lets ε matter; 1e4 is a residual stream far beyond f16's comfort.
        for scale in [1e-4, 1.0, 1e4] {
            let (x, weight) = (random.values(rows * n, scale), random.values(n, 2.0));
            let out = Output::new(&gpu, rows * n);
            let device_x = gpu.upload("x", &x).unwrap();
            let device_weight = gpu.upload("weight", &weight).unwrap();
            gpu.rmsnorm(&device_x, &device_weight, &out, rows, 1e-6).unwrap();
            // The mean's error is a few roundings (sums of ≤ 8 a thread, then trees), halved by the root.
            let want = reference(&x, &weight, 1e-6);
            assert_close(&format!("{rows}×{n} scale {scale}"), &out.read(&gpu), &want, 0.0, 1e-6);
        }
    }
}

#[test]
fn rmsnorm_without_weights_has_weights_of_one() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n) in [(1, 1), (5, 257)] {
        let x = random.values(rows * n, 3.0);
        let (device, out) = (gpu.upload("x", &x).unwrap(), Output::new(&gpu, rows * n));
        gpu.rmsnorm_without_weight(&device, &out, rows, n, 1e-6).unwrap();
        assert_close(&format!("{rows}×{n}"), &out.read(&gpu), &reference(&x, &vec![1.0; n], 1e-6), 0.0, 1e-6);
    }
}

#[test]
fn rmsnorm_works_in_place_and_leaves_zero_alone() {
    let gpu = gpu();
    let x = gpu.upload("x", &[0.0f32; 6]).unwrap();
    let weight = gpu.upload("weight", &[3.0f32; 3]).unwrap();
    gpu.rmsnorm(&x, &weight, &x, 2, 1e-6).unwrap();
    assert_eq!(gpu.read(&x).unwrap(), [0.0; 6]);
}

#[test]
fn rmsnorm_to_f16_is_the_same_rounded() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n, out_scale) in
        [(2, 4, 1.0), (3, 36, 0.125), (2, 896, 1.0), (1, 1028, 4.0), (3, 3584, 1.0), (1, 9220, 1.0)]
    {
        for (scale, decodes) in [(1e-4, false), (1e-4, true), (1.0, false), (1.0, true), (1e6, false), (1e6, true)] {
            let (x, weight) = (random.values(rows * n, scale), random.values(n, 2.0));
            let out = Output::<f16>::new(&gpu, rows * n);
            let device_x = gpu.upload("x", &x).unwrap();
            let device_weight = gpu.upload("weight", &weight).unwrap();
            let norm = |out: &Output<f16>, order| {
                gpu.rmsnorm_f16(&device_x, &device_weight, out, rows, 1e-6, out_scale, order, decodes).unwrap();
                out.read(&gpu)
            };
            let rounded = norm(&out, Order::Rows);
            if n % 128 == 0 {
                // In steps they are the same numbers.
                let steps = Output::<f16>::new(&gpu, rows * n);
                assert_eq!(norm(&steps, Order::Steps), in_steps(&rounded, n), "{rows}×{n} scale {scale}");
            }
            let want: Vec<f64> =
                reference(&x, &weight, 1e-6).iter().map(|value| value * f64::from(out_scale)).collect();
            let got: Vec<f32> = rounded.iter().map(|half| half.to_f32()).collect();
            // Half a unit of 11 bits, or of a subnormal.
            let (absolute, relative) = (2f64.powi(-25) * 1.01, 2f64.powi(-11) * 1.01);
            assert_close(&format!("{rows}×{n} scale {scale}"), &got, &want, absolute, relative);
        }
    }
}

#[test]
fn rmsnorm_is_added_to_what_is_there() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n) in [(2, 4), (3, 36), (1, 1028), (2, 3584)] {
        for with_factors in [false, true] {
            let (x, weight) = (random.values(rows * n, 3.0), random.values(n, 2.0));
            let residual = random.values(rows * n, 10.0);
            let factors: Vec<f32> = (0..rows).map(|row| 0.125 * (1 << (2 * row)) as f32).collect();
            let factor = |row: usize| if with_factors { factors[row] } else { 1.0 };
            let multiplied: Vec<f32> = x.iter().enumerate().map(|(index, x)| x * factor(index / n)).collect();
            // An ε that matters, and so the factors do.
            let normed = reference(&multiplied, &weight, 0.5);
            let want: Vec<f64> =
                normed.iter().zip(&residual).map(|(normed, there)| normed + f64::from(*there)).collect();
            let device = |values: &[f32]| gpu.upload("values", values).unwrap();
            let (x, weight, residual, factors) = (device(&x), device(&weight), device(&residual), device(&factors));
            let factors = with_factors.then_some(&*factors);
            let out = Output::new(&gpu, rows * n);
            gpu.rmsnorm_add(&x, factors, &weight, &residual, &out, rows, 0.5).unwrap();
            let got = out.read(&gpu);
            // A norm makes values of up to 2 · √n, with a few roundings.
            let absolute = 2.0 * (n as f64).sqrt() * 1e-6;
            assert_close(&format!("{rows}×{n}, factors {with_factors}"), &got, &want, absolute, 1e-6);
            // In place of the residual stream, to the same bits.
            gpu.rmsnorm_add(&x, factors, &weight, &residual, &residual, rows, 0.5).unwrap();
            assert_eq!(gpu.read(&residual).unwrap(), got);
        }
    }
}

#[test]
fn queries_and_keys_are_normalised_over_all_heads() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n_q, n_k, behind) in [(1, 64, 64, 0), (3, 256, 64, 0), (2, 1028, 36, 8)] {
        for (with_factors, with_q) in [(false, true), (true, true), (true, false)] {
            let stride = n_q + 2 * n_k + behind;
            let x = random.values(rows * stride, 3.0);
            let weights = [random.values(n_q, 2.0), random.values(n_k, 2.0)];
            let factors: Vec<f32> = (0..rows).map(|row| 0.25 * (1 << row) as f32).collect();
            let mut want = Vec::new();
            for (row, values) in x.chunks(stride).enumerate() {
                let factor = if with_factors { factors[row] } else { 1.0 };
                let multiplied: Vec<f32> = values.iter().map(|value| value * factor).collect();
                want.extend(match with_q {
                    true => reference(&multiplied[..n_q], &weights[0], 0.5),
                    false => as_f64(&multiplied[..n_q]),
                });
                want.extend(reference(&multiplied[n_q..n_q + n_k], &weights[1], 0.5));
                want.extend(as_f64(&multiplied[n_q + n_k..n_q + 2 * n_k]));
                want.extend(as_f64(&values[n_q + 2 * n_k..]));
            }
            let device = gpu.upload("x", &x).unwrap();
            let [q, k] = weights.map(|weight| gpu.upload("weight", &weight).unwrap());
            let factors = gpu.upload("factors", &factors).unwrap();
            let factors = with_factors.then_some(&*factors);
            let weights = [with_q.then_some(&*q), Some(&*k)];
            gpu.rmsnorm_qk(&device, factors, weights, [n_q, n_k], stride, rows, 0.5).unwrap();
            let what = format!("{rows} of {n_q} and {n_k}, factors {with_factors}, weights of queries {with_q}");
            assert_close(&what, &gpu.read(&device).unwrap(), &want, 0.0, 1e-6);
        }
    }
}

#[test]
fn rows_of_any_size_are_brought_to_f16() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n) in [(2, 4), (3, 36), (2, 3584)] {
        for scale in [1e-30, 1e-3, 1.0, 1e6, 1e15] {
            let mut x = random.values(rows * n, scale);
            // One row has a value that is larger than all others together; another is zero.
            x[1] = 100.0 * scale;
            x[(rows - 1) * n..].fill(0.0);
            let (out, factors) = (Output::<f16>::new(&gpu, rows * n), Output::new(&gpu, rows));
            gpu.rmsnorm_power_f16(&gpu.upload("x", &x).unwrap(), &out, &factors, rows, n).unwrap();
            let (out, factors) = (out.read(&gpu), factors.read(&gpu));
            for (row, (got, want)) in out.chunks(n).zip(x.chunks(n)).enumerate() {
                let what = format!("row {row} of {rows}×{n} scale {scale}");
                let factor = f64::from(factors[row]);
                let root = (want.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / n as f64).sqrt();
                assert!(factor >= 2f64.powi(-60), "{what}: {factor}");
                if root > 2f64.powi(-60) {
                    assert!(root < factor * 1.000_001 && factor <= 2.000_001 * root, "{what}: {root} by {factor}");
                }
                assert!(factor.log2().fract() == 0.0, "{what}: {factor} is no power of two");
                let want: Vec<f64> = want.iter().map(|value| f64::from(*value) / factor).collect();
                let got: Vec<f32> = got.iter().map(|half| half.to_f32()).collect();
                assert_close(&what, &got, &want, 2f64.powi(-25) * 1.01, 2f64.powi(-11) * 1.01);
            }
        }
    }
}
