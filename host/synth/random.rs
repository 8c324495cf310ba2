//! Random weights, packed.
//!
//! Random bits are valid blocks of every type but for their scales: a random half-precision number may be infinite. So a
//! chunk is filled with random bits, and then each block's scales are set such that its values have the standard deviation
//! asked for and no mean to speak of. Nothing is quantised, which makes this as fast as the disk.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{
    gguf::TensorType,
    quant::{Scale, scale},
};

/// SplitMix64 (Steele et al., OOPSLA 2014): a counter through a mixing function.
pub struct Random(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    /// The numbers of one stream among those of `seed`.
    pub fn new(seed: u64, stream: u64) -> Random {
        Random(mix(seed ^ mix(stream.wrapping_add(GOLDEN))))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let mut words = bytes.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// From −1 to 1.
    fn symmetric(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Fills whole blocks with values of mean 0 and the given standard deviation.
pub fn fill_matrix(tensor_type: TensorType, deviation: f64, random: &mut Random, bytes: &mut [u8]) {
    let scale = scale(tensor_type);
    if !matches!(scale, Scale::None) {
        random.fill(bytes);
    }
    let blocks = bytes.chunks_exact_mut(tensor_type.block_bytes() as usize);
    match scale {
        Scale::None => floats(tensor_type, deviation, random, bytes),
        Scale::Half { deviation: of_one, at } => {
            let scales = scales(deviation / of_one);
            for block in blocks {
                let scale = scales[usize::from(block[at])];
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        Scale::Halves { deviation: of_one, at, second, ratio } => {
            let (scales, seconds) = (scales(deviation / of_one), scales(deviation / of_one * ratio));
            for block in blocks {
                let i = usize::from(block[at]);
                block[at..at + 2].copy_from_slice(&scales[i].to_le_bytes());
                block[second..second + 2].copy_from_slice(&seconds[i].to_le_bytes());
            }
        }
        Scale::Pieces { deviation: of_one, at } => {
            let scales = scales(deviation / of_one);
            for block in blocks {
                let bits = scales[usize::from(block[at])].to_bits();
                for piece in 0..4 {
                    let byte = &mut block[at + 2 * piece + 1];
                    *byte = *byte & 15 | ((bits >> (4 * piece) & 15) as u8) << 4;
                }
            }
        }
        Scale::Bytes { deviation: of_one, at, n, nearest } => {
            let byte = nearest(deviation / of_one);
            for block in blocks {
                block[at..at + n].fill(byte);
            }
        }
    }
}

/// F32 values, evenly between `centre − spread` and `centre + spread`.
pub fn fill_vector(centre: f32, spread: f32, random: &mut Random, bytes: &mut [u8]) {
    for value in bytes.chunks_exact_mut(4) {
        value.copy_from_slice(&(centre + spread * random.symmetric()).to_le_bytes());
    }
}

/// Evenly distributed floats, of which the standard deviation is the largest value over √3.
fn floats(tensor_type: TensorType, deviation: f64, random: &mut Random, bytes: &mut [u8]) {
    const STEP: usize = 1024;
    let largest = (deviation * 3f64.sqrt()) as f32;
    let mut integers = [0i16; STEP];
    let mut values = [0f32; STEP];
    let size = tensor_type.block_bytes() as usize;
    for bytes in bytes.chunks_mut(STEP * size) {
        let n = bytes.len() / size;
        random.fill(bytemuck::cast_slice_mut(&mut integers[..n]));
        for (value, integer) in values.iter_mut().zip(&integers[..n]) {
            *value = f32::from(*integer) * (largest / 32768.0);
        }
        match tensor_type {
            TensorType::F16 => {
                let mut halves = [f16::ZERO; STEP];
                halves[..n].convert_from_f32_slice(&values[..n]);
                bytes.copy_from_slice(bytemuck::cast_slice(&halves[..n]));
            }
            TensorType::BF16 => {
                let mut halves = [bf16::ZERO; STEP];
                halves[..n].convert_from_f32_slice(&values[..n]);
                bytes.copy_from_slice(bytemuck::cast_slice(&halves[..n]));
            }
            _ => bytes.copy_from_slice(bytemuck::cast_slice(&values[..n])),
        }
    }
}

/// Scales for the blocks of a chunk, around `d`: a few of different size, half of them negative so that a type whose integers are
/// not centred has no mean over many blocks.
fn scales(d: f64) -> [f16; 256] {
    std::array::from_fn(|i| {
        // The mean square of these factors is 1.
        let size = (0.75 + (i / 2) as f64 / 256.0) / 1.009;
        f16::from_f64(d * size * if i.is_multiple_of(2) { 1.0 } else { -1.0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::dequantise;

    #[test]
    fn every_type_has_the_deviation_asked_for_and_no_mean() {
        for tensor_type in TensorType::ALL.iter().copied() {
            for deviation in [0.008, 0.02, 0.125] {
                let n = 1 << 18;
                let mut bytes = vec![0; tensor_type.row_bytes(n).unwrap() as usize];
                fill_matrix(tensor_type, deviation, &mut Random::new(7, 1), &mut bytes);
                let mut values = vec![0.0; n as usize];
                dequantise(tensor_type, &bytes, &mut values);
                let n = n as f64;
                let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
                let square = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n;
                let ratio = square.sqrt() / deviation;
                // A byte, a power of two or a float of 3 bits with few exponents, is up to √2 away from a scale. The others:
                // sampling, and halves near the smallest.
                let bound = if matches!(scale(tensor_type), Scale::Bytes { .. }) { 1.45 } else { 1.04 };
                assert!(
                    (1.0 / bound..bound).contains(&ratio),
                    "{tensor_type}: {ratio} times the deviation {deviation}"
                );
                assert!(mean.abs() < 0.02 * deviation, "{tensor_type}: mean {mean}, deviation {deviation}");
            }
        }
    }

    #[test]
    fn streams_differ_and_repeat() {
        let bytes = |seed, stream| {
            let mut bytes = [0; 13];
            Random::new(seed, stream).fill(&mut bytes);
            bytes
        };
        assert_eq!(bytes(1, 2), bytes(1, 2));
        assert_ne!(bytes(1, 2), bytes(1, 3));
        assert_ne!(bytes(1, 2), bytes(2, 2));
    }
}
