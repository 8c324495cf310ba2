//! What the formats with blocks of 32 share: the 8-bit activations beside one, and the two ways of scaling a product; and the
//! products of integers that all formats use.

use cuda_std::{float, integer, types::two_f16};

use crate::gemv::activations::{Runs, Scale};

/// The activations beside a block of 32: two runs.
pub struct Pair {
    /// Values 0 to 15, four to a word, and 16 to 31.
    integers: [[u32; 4]; 2],
    scales: [Scale; 2],
}

impl Pair {
    /// Beside block `block` of the row.
    #[inline(always)]
    pub unsafe fn of(staged: impl Runs, block: u32) -> Pair {
        unsafe {
            Pair {
                integers: [staged.integers(2 * block), staged.integers(2 * block + 1)],
                scales: staged.two_scales(2 * block),
            }
        }
    }

    /// Σ q · x of each run's integers, without the activations' scale. The weights' are without sign.
    #[inline(always)]
    pub fn products(&self, low: [u32; 4], high: [u32; 4]) -> [f32; 2] {
        [dot_unsigned(low, self.integers[0]) as f32, dot_unsigned(high, self.integers[1]) as f32]
    }

    /// The activations' scale of a run.
    #[inline(always)]
    pub fn scale(&self, run: usize) -> f32 {
        self.scales[run].scale
    }

    /// Σ x of each run.
    #[inline(always)]
    pub fn sums(&self) -> [f32; 2] {
        self.scales.map(|scale| scale.sum)
    }

    /// Σ q · x, the integers being the halves of sixteen bytes: the low ones of the first run, the high ones of the second.
    #[inline(always)]
    pub fn dot_nibbles(&self, qs: [u32; 4]) -> f32 {
        let low = dot_unsigned(qs.map(|word| word & 0x0f0f_0f0f), self.integers[0]) as f32;
        // Sixteen times as large, for want of a shift.
        let high = dot_unsigned(qs.map(|word| word & 0xf0f0_f0f0), self.integers[1]) as f32;
        float::fma(high, self.scales[1].scale * 0.0625, low * self.scales[0].scale)
    }

    /// Σ q · x, the integers being without sign.
    #[inline(always)]
    pub fn dot(&self, low: [u32; 4], high: [u32; 4]) -> f32 {
        self.scaled(dot_unsigned(low, self.integers[0]), dot_unsigned(high, self.integers[1]))
    }

    /// Σ q · x, the integers being with sign.
    #[inline(always)]
    pub fn dot_signed(&self, low: [u32; 4], high: [u32; 4]) -> f32 {
        self.scaled(dot_signed(low, self.integers[0]), dot_signed(high, self.integers[1]))
    }

    #[inline(always)]
    fn scaled(&self, low: i32, high: i32) -> f32 {
        float::fma(high as f32, self.scales[1].scale, low as f32 * self.scales[0].scale)
    }

    /// Σ x.
    #[inline(always)]
    pub fn sum(&self) -> f32 {
        self.scales[0].sum + self.scales[1].sum
    }

    /// sum + d · Σ (q + offset) · x, `product` being Σ q · x.
    #[inline(always)]
    pub fn with_offset(&self, d: f32, product: f32, offset: f32, sum: f32) -> f32 {
        float::fma(d, float::fma(offset, self.sum(), product), sum)
    }

    /// sum + Σ (d · q + m) · x, `dm` being `d` and `m` in f16, the first in the lower half.
    #[inline(always)]
    pub fn with_minimum(&self, dm: u32, product: f32, sum: f32) -> f32 {
        let (d, m) = two_f16(dm);
        float::fma(m, self.sum(), float::fma(d, product, sum))
    }
}

/// The low halves of sixteen bytes, with `more` bits added.
#[inline(always)]
pub fn low_halves(bytes: [u32; 4], more: [u32; 4]) -> [u32; 4] {
    [0, 1, 2, 3].map(|word| bytes[word] & 0x0f0f_0f0f | more[word])
}

/// The high halves of sixteen bytes, with `more` bits added.
#[inline(always)]
pub fn high_halves(bytes: [u32; 4], more: [u32; 4]) -> [u32; 4] {
    [0, 1, 2, 3].map(|word| bytes[word] >> 4 & 0x0f0f_0f0f | more[word])
}

/// Σ q · x over sixteen integers without sign.
#[inline(always)]
pub fn dot_unsigned(q: [u32; 4], x: [u32; 4]) -> i32 {
    let (mut sum, mut word) = (0, 0);
    while word < 4 {
        sum = integer::dot4_unsigned(q[word], x[word], sum);
        word += 1;
    }
    sum
}

/// Σ q · x over sixteen integers with sign.
#[inline(always)]
pub fn dot_signed(q: [u32; 4], x: [u32; 4]) -> i32 {
    let (mut sum, mut word) = (0, 0);
    while word < 4 {
        sum = integer::dot4(q[word], x[word], sum);
        word += 1;
    }
    sum
}
