//! Noise is what the host computes from the same stream, and blocks of it are finite and as large as asked for.

use ferrowarp::{
    gguf::TensorType,
    gpu::{Weights, kernels::Strided},
    quant::{Scale, scale},
    synth::fill_on_device,
};
use half::{bf16, f16};
use kernels::noise::{factor, word};

use crate::support::*;

#[test]
fn noise_bits_are_the_streams_words() {
    let gpu = gpu();
    for len in [1, 16, 4096, 4101] {
        let out = Output::<u8>::new(&gpu, len);
        gpu.noise_bits(&out.slice(0..len), 7).unwrap();
        let words = (0..len as u32).map(|byte| word(byte / 4, 7).to_le_bytes());
        let whole = len / 16 * 16;
        for (index, (got, want)) in out.read(&gpu).into_iter().zip(words).enumerate() {
            // The bytes of the last, incomplete vector are the lowest of their word.
            let want = want[if index < whole { index % 4 } else { 0 }];
            assert_eq!(got, want, "byte {index} of {len}");
        }
    }
}

#[test]
fn noise_scales_and_exponents_touch_nothing_else() {
    let gpu = gpu();
    let (n, stride) = (300, 34);
    let out = Output::<u8>::new(&gpu, n * stride);
    let bytes = out.slice(0..n * stride);
    gpu.noise_scales(&bytes, Strided { first: 2, stride, n }, 0.5, 3).unwrap();
    gpu.noise_exponents(&bytes, Strided { first: 5, stride, n: n - 1 }, 120).unwrap();
    for (index, block) in out.read(&gpu).chunks(stride).enumerate() {
        let scale = f16::from_le_bytes([block[2], block[3]]);
        assert_eq!(scale, f16::from_f32(0.5 * factor(index as u32, 3)), "block {index}");
        assert_eq!(block[5], if index < n - 1 { 120 } else { 0xff }, "block {index}");
        let rest = block.iter().enumerate().filter(|(at, _)| ![2, 3, 5].contains(at));
        assert!(rest.into_iter().all(|(_, byte)| *byte == 0xff), "block {index}");
    }
}

#[test]
fn noise_floats_are_even_around_their_centre() {
    let gpu = gpu();
    let n = 5001;
    let value = |index: usize| 1.0 + word(index as u32, 9).cast_signed() as f32 * (0.25 / 2_147_483_648.0);
    let f32s = Output::<f32>::new(&gpu, n);
    gpu.noise_floats(&f32s.slice(0..n), 1.0, 0.25, 9).unwrap();
    let want: Vec<f64> = (0..n).map(|index| f64::from(value(index))).collect();
    assert_close("f32", &f32s.read(&gpu), &want, 0.0, 1e-7);
    let f16s = Output::<f16>::new(&gpu, n);
    gpu.noise_floats(&f16s.slice(0..n), 1.0, 0.25, 9).unwrap();
    let got: Vec<f32> = f16s.read(&gpu).into_iter().map(f16::to_f32).collect();
    assert_close("f16", &got, &want, 0.0, 2f64.powi(-10));
    let bf16s = Output::<bf16>::new(&gpu, n);
    gpu.noise_floats(&bf16s.slice(0..n), 1.0, 0.25, 9).unwrap();
    let got: Vec<f32> = bf16s.read(&gpu).into_iter().map(bf16::to_f32).collect();
    assert_close("bf16", &got, &want, 0.0, 2f64.powi(-7));
}

#[test]
fn every_type_has_the_deviation_asked_for_and_no_mean() {
    let gpu = gpu();
    let (n_out, n_in, deviation) = (64, 1024, 0.02);
    for tensor_type in TensorType::ALL.iter().copied() {
        let data = gpu.alloc("weights", tensor_type.row_bytes((n_out * n_in) as u64).unwrap() as usize).unwrap();
        let weights = Weights::of_one_type(data, tensor_type, 1, n_out, n_in);
        fill_on_device(&gpu, &weights, deviation, 5).unwrap();
        let values: Vec<f32> = match tensor_type {
            TensorType::F32 => gpu.read(&weights.data.cast::<f32>()).unwrap(),
            TensorType::F16 => gpu.read(&weights.data.cast::<f16>()).unwrap().into_iter().map(f16::to_f32).collect(),
            TensorType::BF16 => gpu.read(&weights.data.cast::<bf16>()).unwrap().into_iter().map(bf16::to_f32).collect(),
            _ => {
                let out = Output::<f16>::new(&gpu, n_out * n_in);
                gpu.dequantise(weights.all(), &out).unwrap();
                out.read(&gpu).into_iter().map(f16::to_f32).collect()
            }
        };
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
        let ratio = square.sqrt() / deviation;
        // A byte, a power of two or a float of 3 bits with few exponents, is up to √2 away from a scale. The others: sampling.
        let bound = if matches!(scale(tensor_type), Scale::Bytes { .. }) { 1.45 } else { 1.05 };
        assert!((1.0 / bound..bound).contains(&ratio), "{tensor_type}: {ratio} times the deviation {deviation}");
        assert!(mean.abs() < 0.05 * deviation, "{tensor_type}: mean {mean}, deviation {deviation}");
    }
}
