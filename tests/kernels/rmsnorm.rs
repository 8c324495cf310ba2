//! y = x / √(mean(x²) + ε) · weight.

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
    for (rows, n, out_scale) in [(2, 4, 1.0), (3, 36, 0.125), (2, 896, 1.0), (1, 1028, 4.0), (3, 3584, 1.0)] {
        for scale in [1e-4, 1.0, 1e6] {
            let (x, weight) = (random.values(rows * n, scale), random.values(n, 2.0));
            let out = Output::<f16>::new(&gpu, rows * n);
            let device_x = gpu.upload("x", &x).unwrap();
            let device_weight = gpu.upload("weight", &weight).unwrap();
            gpu.rmsnorm_f16(&device_x, &device_weight, &out, rows, 1e-6, out_scale).unwrap();
            let want: Vec<f64> =
                reference(&x, &weight, 1e-6).iter().map(|value| value * f64::from(out_scale)).collect();
            let got: Vec<f32> = out.read(&gpu).iter().map(|half| half.to_f32()).collect();
            // Half a unit of 11 bits, or of a subnormal.
            let (absolute, relative) = (2f64.powi(-25) * 1.01, 2f64.powi(-11) * 1.01);
            assert_close(&format!("{rows}×{n} scale {scale}"), &got, &want, absolute, relative);
        }
    }
}
