//! Norms and largest magnitudes of rows, and conversions to f16.

use half::{bf16, f16};

use crate::support::*;

#[test]
fn rows_are_measured() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_rows, n) in [(1, 8), (9, 32), (17, 96), (8, 904)] {
        let values = random.values(n_rows * n, 3.0);
        let norm = random.values(n, 2.0);
        let device_norm = gpu.upload("norm", &norm).unwrap();
        for with_norm in [false, true] {
            let device_norm = with_norm.then_some(&*device_norm);
            let want = |exact: &[f64]| -> Vec<f64> {
                let row = |row: &[f64]| {
                    let normed = |(value, norm): (&f64, &f32)| value * if with_norm { f64::from(*norm) } else { 1.0 };
                    let squares: f64 = row.iter().zip(&norm).map(|pair| normed(pair).powi(2)).sum();
                    [squares.sqrt(), row.iter().fold(0.0, |largest, value| largest.max(value.abs()))]
                };
                exact.chunks(n).flat_map(row).collect()
            };
            let what = format!("{n_rows}×{n}, norm {with_norm}");
            let out = Output::new(&gpu, 2 * n_rows);
            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            gpu.range_rows_f16(&gpu.upload("matrix", &halves).unwrap(), device_norm, &out, n_rows, n).unwrap();
            let exact: Vec<f64> = halves.iter().map(|half| half.to_f64()).collect();
            assert_close(&format!("f16 {what}"), &out.read(&gpu), &want(&exact), 0.0, 1e-6);

            let out = Output::new(&gpu, 2 * n_rows);
            let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
            gpu.range_rows_bf16(&gpu.upload("matrix", &halves).unwrap(), device_norm, &out, n_rows, n).unwrap();
            let exact: Vec<f64> = halves.iter().map(|half| half.to_f64()).collect();
            assert_close(&format!("bf16 {what}"), &out.read(&gpu), &want(&exact), 0.0, 1e-6);
        }
    }
}

#[test]
fn values_are_scaled_and_rounded_to_f16() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n, size, scale) in [(1, 1.0, 1.0), (7, 10.0, 2.0), (8, 1e5, 0.25), (2055, 3e4, 1.0), (4099, 1e-5, 1.0)] {
        let values = random.values(n, size);
        let bits = |values: &[f16]| values.iter().map(|half| half.to_bits()).collect::<Vec<u16>>();
        let out = Output::<f16>::new(&gpu, n);
        gpu.range_to_f16_f32(&gpu.upload("x", &values).unwrap(), &out, scale, n).unwrap();
        let want: Vec<f16> = values.iter().map(|value| f16::from_f32(value * scale)).collect();
        assert_eq!(bits(&out.read(&gpu)), bits(&want), "{n} values of f32");

        let out = Output::<f16>::new(&gpu, n);
        let same = gpu.upload("x", &want).unwrap();
        gpu.range_to_f16_f16(&same, &out, 1.0, n).unwrap();
        assert_eq!(bits(&out.read(&gpu)), bits(&want), "{n} values of f16");

        let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
        let out = Output::<f16>::new(&gpu, n);
        gpu.range_to_f16_bf16(&gpu.upload("x", &halves).unwrap(), &out, scale, n).unwrap();
        let want: Vec<f16> = halves.iter().map(|value| f16::from_f32(value.to_f32() * scale)).collect();
        assert_eq!(bits(&out.read(&gpu)), bits(&want), "{n} values of bf16");
    }
}

#[test]
fn values_come_back_from_f16() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n, scale) in [(1, 1.0f32), (255, 1024.0), (2055, 0.25)] {
        let halves: Vec<f16> = random.values(n, 100.0).iter().map(|value| f16::from_f32(*value)).collect();
        let out = Output::new(&gpu, n);
        gpu.range_from_f16(&gpu.upload("x", &halves).unwrap(), &out, scale, n).unwrap();
        let want: Vec<f32> = halves.iter().map(|half| half.to_f32() * scale).collect();
        assert_eq!(out.read(&gpu), want);
    }
}
