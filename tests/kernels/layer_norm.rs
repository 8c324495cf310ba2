//! y = (x − mean(x)) / √(variance(x) + ε) · weight + bias.

use crate::support::*;

fn reference(x: &[f32], weight: &[f32], bias: Option<&[f32]>, epsilon: f32) -> Vec<f64> {
    let n = weight.len();
    let row = |row: &[f32]| {
        let row = as_f64(row);
        let mean = row.iter().sum::<f64>() / n as f64;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (variance + f64::from(epsilon)).sqrt();
        let value = |i: usize| (row[i] - mean) * scale * f64::from(weight[i]) + bias.map_or(0.0, |b| f64::from(b[i]));
        (0..n).map(value).collect::<Vec<f64>>()
    };
    x.chunks(n).flat_map(row).collect()
}

#[test]
fn layer_norm_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, n) in [(2, 1), (3, 31), (2, 256), (5, 257), (2, 896), (3, 2000)] {
        // A mean that is a hundred deviations away loses two of the seven digits, in x itself.
        for (mean, scale, error) in [(0.0, 1e-4, 1e-6), (0.0, 3.0, 1e-6), (5.0, 1.0, 4e-6), (100.0, 1.0, 6e-5)] {
            let x: Vec<f32> = random.values(rows * n, scale).iter().map(|x| x + mean).collect();
            let (weight, bias) = (random.values(n, 2.0), random.values(n, 1.0));
            let device_x = gpu.upload("x", &x).unwrap();
            let (device_weight, device_bias) =
                (gpu.upload("weight", &weight).unwrap(), gpu.upload("bias", &bias).unwrap());
            for with_bias in [false, true] {
                let out = Output::new(&gpu, rows * n);
                let added = with_bias.then_some(&*device_bias);
                gpu.layer_norm(&device_x, &device_weight, added, &out, rows, 1e-5).unwrap();
                let want = reference(&x, &weight, with_bias.then_some(&bias), 1e-5);
                let what = format!("{rows}×{n} around {mean} scale {scale}");
                assert_close(&what, &out.read(&gpu), &want, error, 1e-6);
            }
        }
    }
}

#[test]
fn layer_norm_works_in_place_and_makes_a_constant_its_bias() {
    let gpu = gpu();
    let x = gpu.upload("x", &[5.0f32; 6]).unwrap();
    let weight = gpu.upload("weight", &[3.0f32; 3]).unwrap();
    let bias = gpu.upload("bias", &[1.0f32, -2.0, 0.5]).unwrap();
    gpu.layer_norm(&x, &weight, Some(&bias), &x, 2, 1e-6).unwrap();
    assert_eq!(gpu.read(&x).unwrap(), [1.0, -2.0, 0.5, 1.0, -2.0, 0.5]);
}
