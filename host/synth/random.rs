//! Random weights, packed.
//!
//! Random bits are valid blocks of every type but for their scales: a random half-precision number may be infinite. So a
//! chunk is filled with random bits, and then each block's scales are set such that its values have the standard deviation
//! asked for and no mean to speak of. Nothing is quantised, which makes this as fast as the disk.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::{
    gguf::TensorType,
    quant::{
        Block, BlockIq4Nl, BlockIq4Xs, BlockMxfp4, BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0,
        BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0,
    },
};

/// SplitMix64 (Steele et al., OOPSLA 2014): a counter through a mixing function.
pub struct Random(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    /// The numbers of one stream among those of `seed`.
    pub fn new(seed: u64, stream: u64) -> Random {
        Random(mix(seed ^ mix(stream.wrapping_add(GOLDEN))))
    }

    fn next(&mut self) -> u64 {
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
    match tensor_type {
        TensorType::F32 | TensorType::F16 | TensorType::BF16 => {
            floats(tensor_type, deviation, random, bytes);
        }
        TensorType::Q8_0 => blocks::<BlockQ8_0>(deviation, random, bytes),
        TensorType::Q4_0 => blocks::<BlockQ4_0>(deviation, random, bytes),
        TensorType::Q4_1 => blocks::<BlockQ4_1>(deviation, random, bytes),
        TensorType::Q5_0 => blocks::<BlockQ5_0>(deviation, random, bytes),
        TensorType::Q5_1 => blocks::<BlockQ5_1>(deviation, random, bytes),
        TensorType::Q2_K => blocks::<BlockQ2K>(deviation, random, bytes),
        TensorType::Q3_K => blocks::<BlockQ3K>(deviation, random, bytes),
        TensorType::Q4_K => blocks::<BlockQ4K>(deviation, random, bytes),
        TensorType::Q5_K => blocks::<BlockQ5K>(deviation, random, bytes),
        TensorType::Q6_K => blocks::<BlockQ6K>(deviation, random, bytes),
        TensorType::IQ4_NL => blocks::<BlockIq4Nl>(deviation, random, bytes),
        TensorType::IQ4_XS => blocks::<BlockIq4Xs>(deviation, random, bytes),
        TensorType::MXFP4 => {
            random.fill(bytes);
            let exponent = mxfp4_exponent(deviation);
            for block in bytemuck::cast_slice_mut::<u8, BlockMxfp4>(bytes) {
                block.e = exponent;
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

/// Scales for the blocks of a chunk: a few of different size, half of them negative so that a type whose integers are not
/// centred has no mean over many blocks.
struct Scales {
    d: [[u8; 2]; 256],
    m: [[u8; 2]; 256],
}

impl Scales {
    /// Scales around `d`, and `offset` times each for the blocks' second number.
    fn new(d: f64, offset: f64) -> Scales {
        let scale = |i: usize| {
            // The mean square of these factors is 1.
            let size = (0.75 + (i / 2) as f64 / 256.0) / 1.009;
            d * size * if i.is_multiple_of(2) { 1.0 } else { -1.0 }
        };
        let half = |value: f64| f16::from_f64(value).to_le_bytes();
        Scales { d: std::array::from_fn(|i| half(scale(i))), m: std::array::from_fn(|i| half(scale(i) * offset)) }
    }
}

/// A block type of which all bits but the scales may be anything.
trait RandomBlock: Block {
    /// The standard deviation of the block's values where the scale is 1 and the bits are random.
    const DEVIATION: f64;
    /// What the block's second number, a minimum or an offset, is to the scale: as much as centres its values.
    const OFFSET: f64;

    /// Sets the scale, and the second number where there is one, by the random bits in the scale's place.
    fn set(&mut self, scales: &Scales);
}

fn blocks<B: RandomBlock>(deviation: f64, random: &mut Random, bytes: &mut [u8]) {
    random.fill(bytes);
    let scales = Scales::new(deviation / B::DEVIATION, B::OFFSET);
    for block in bytemuck::cast_slice_mut::<u8, B>(bytes) {
        block.set(&scales);
    }
}

/// Where a type's blocks have their scales, and what these are to the block's values.
#[derive(Clone, Copy, Debug)]
pub struct ScaleFacts {
    /// The standard deviation of the block's values where the scale is 1 and the bits are random.
    pub deviation: f64,
    /// The byte at which the scale begins.
    pub at: usize,
    /// The byte at which the second number begins, where there is one, and what it is to the scale.
    pub second: Option<(usize, f64)>,
}

macro_rules! random_blocks {
    ($($block:ident $deviation:literal $($second:ident $offset:literal)?;)+) => {
        /// The half-precision scales of a type's blocks; `None` for floats and for a type whose scale is a power of two.
        pub fn scale_facts(tensor_type: TensorType) -> Option<ScaleFacts> {
            $(if tensor_type == $block::TYPE {
                let second: &[(usize, f64)] = &[$((std::mem::offset_of!($block, $second), $offset))?];
                return Some(ScaleFacts {
                    deviation: $deviation,
                    at: std::mem::offset_of!($block, d),
                    second: second.first().copied(),
                });
            })+
            None
        }

        $(impl RandomBlock for $block {
            const DEVIATION: f64 = $deviation;
            const OFFSET: f64 = 0.0 $(+ $offset)?;

            fn set(&mut self, scales: &Scales) {
                let i = usize::from(self.d[0]);
                self.d = scales.d[i];
                $(self.$second = scales.m[i];)?
            }
        })+
    };
}

// Standard deviations of evenly distributed integers, times that of the evenly distributed scales within the block.
random_blocks! {
    BlockQ8_0 73.9;
    BlockQ4_0 4.64;
    BlockQ4_1 4.61 m -7.5;
    BlockQ5_0 9.25;
    BlockQ5_1 9.23 m -15.5;
    BlockQ2K 13.87 dmin 1.5;
    BlockQ3K 43.3;
    BlockQ4K 258.3 dmin 7.5;
    BlockQ5K 526.9 dmin 15.5;
    BlockQ6K 1365.7;
    BlockIq4Nl 67.4;
    BlockIq4Xs 1246.0;
}

const MXFP4_DEVIATION: f64 = 5.85;

/// The exponent of MXFP4 blocks with about that standard deviation: the nearest power of two.
pub fn mxfp4_exponent(deviation: f64) -> u8 {
    (128.0 + (deviation / MXFP4_DEVIATION).log2()).round() as u8
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
                // A power of two is up to √2 away from a scale. The others: sampling, and halves near the smallest.
                let bound = if tensor_type == TensorType::MXFP4 { 1.45 } else { 1.04 };
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
