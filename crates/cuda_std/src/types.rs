//! The 16-bit float formats of GGUF weights and caches.
//!
//! On the host these are the `half` crate's types. On the device they are plain bit patterns whose conversions are
//! single PTX instructions (`half` converts in software there).

#[cfg(not(target_arch = "nvptx64"))]
pub use half::{bf16 as BF16, f16 as F16};

/// IEEE 754 binary16.
#[cfg(target_arch = "nvptx64")]
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct F16(u16);

/// bfloat16: the upper half of an IEEE 754 binary32.
#[cfg(target_arch = "nvptx64")]
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct BF16(u16);

#[cfg(target_arch = "nvptx64")]
impl F16 {
    /// The value with these bits.
    #[inline(always)]
    pub fn from_bits(bits: u16) -> Self {
        F16(bits)
    }

    /// The value's bits.
    #[inline(always)]
    pub fn to_bits(self) -> u16 {
        self.0
    }

    /// Exact: every binary16 is a binary32.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f16::from_bits(self.0) as f32
    }

    /// Rounds to nearest, ties to even; beyond the range gives an infinity.
    #[inline(always)]
    pub fn from_f32(value: f32) -> Self {
        F16((value as f16).to_bits())
    }
}

#[cfg(target_arch = "nvptx64")]
impl BF16 {
    /// The value with these bits.
    #[inline(always)]
    pub fn from_bits(bits: u16) -> Self {
        BF16(bits)
    }

    /// The value's bits.
    #[inline(always)]
    pub fn to_bits(self) -> u16 {
        self.0
    }

    /// Exact: every bfloat16 is a binary32.
    #[inline(always)]
    pub fn to_f32(self) -> f32 {
        f32::from_bits((self.0 as u32) << 16)
    }

    /// Rounds to nearest, ties to even.
    #[inline(always)]
    pub fn from_f32(value: f32) -> Self {
        let bits: u16;
        // SAFETY: a register conversion.
        unsafe {
            core::arch::asm!("cvt.rn.bf16.f32 {}, {};", out(reg16) bits, in(reg32) value, options(pure, nomem, nostack));
        }
        BF16(bits)
    }
}

/// Two values rounded to f16, the first in the lower half.
#[inline(always)]
pub fn pack_f16(low: f32, high: f32) -> u32 {
    u32::from(F16::from_f32(low).to_bits()) | u32::from(F16::from_f32(high).to_bits()) << 16
}

/// Two values rounded to bfloat16, the first in the lower half.
#[inline(always)]
pub fn pack_bf16(low: f32, high: f32) -> u32 {
    u32::from(BF16::from_f32(low).to_bits()) | u32::from(BF16::from_f32(high).to_bits()) << 16
}

/// The f16 in the lower and the one in the upper half of a word, as `f32`, exactly. Taken apart by the conversions themselves.
#[inline(always)]
pub fn two_f16(word: u32) -> (f32, f32) {
    #[cfg(target_arch = "nvptx64")]
    {
        let (low, high): (f32, f32);
        // SAFETY: conversions between registers.
        unsafe {
            core::arch::asm!(
                "{{ .reg .b16 low, high; mov.b32 {{low, high}}, {2}; cvt.f32.f16 {0}, low; cvt.f32.f16 {1}, high; }}",
                out(reg32) low, out(reg32) high, in(reg32) word,
                options(pure, nomem, nostack)
            );
        }
        (low, high)
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = word;
        crate::device_only()
    }
}

/// Conversions of two values at a time between `f32` and a format of 8 bits.
macro_rules! eight_bits {
    ($($(#[$doc:meta])* $pack:ident, $two:ident => $to:literal, $from:literal;)*) => {$(
        $(#[$doc])*
        ///
        /// Rounded to nearest, what is too large to the largest; the first in the lower byte. From `sm_89` on.
        #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "89"))]
        #[inline(always)]
        pub fn $pack(low: f32, high: f32) -> u16 {
            #[cfg(target_arch = "nvptx64")]
            {
                let bits: u16;
                // SAFETY: a conversion between registers.
                unsafe {
                    core::arch::asm!($to, out(reg16) bits, in(reg32) high, in(reg32) low, options(pure, nomem, nostack));
                }
                bits
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = (low, high);
                crate::device_only()
            }
        }

        $(#[$doc])*
        ///
        /// As `f32`, exactly; the one in the lower byte first. From `sm_89` on.
        #[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "89"))]
        #[inline(always)]
        pub fn $two(bits: u16) -> (f32, f32) {
            #[cfg(target_arch = "nvptx64")]
            {
                let pair: u32;
                // SAFETY: a conversion between registers.
                unsafe {
                    core::arch::asm!($from, out(reg32) pair, in(reg16) bits, options(pure, nomem, nostack));
                }
                two_f16(pair)
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = bits;
                crate::device_only()
            }
        }
    )*};
}

eight_bits! {
    /// Two numbers with 4 bits of exponent and 3 of fraction, up to 448.
    pack_e4m3, two_e4m3 => "cvt.rn.satfinite.e4m3x2.f32 {}, {}, {};", "cvt.rn.f16x2.e4m3x2 {}, {};";
    /// Two numbers with 5 bits of exponent and 2 of fraction, up to 57344.
    pack_e5m2, two_e5m2 => "cvt.rn.satfinite.e5m2x2.f32 {}, {}, {};", "cvt.rn.f16x2.e5m2x2 {}, {};";
}

/// A type that values are stored in and computed on as `f32`.
pub trait Element: Copy {
    /// How many of them a 16-byte load brings.
    const PER_VECTOR: usize = 16 / size_of::<Self>();

    /// The value as `f32`, exactly.
    fn load(self) -> f32;

    /// The nearest value of this type, ties to even.
    fn store(value: f32) -> Self;

    /// Element `index` of a 16-byte vector of them, as `f32`. The index must be a constant after unrolling.
    fn of_vector(vector: [u32; 4], index: usize) -> f32;

    /// The elements of a 16-byte vector, as `f32`; the last four are 0 where it holds four only.
    #[inline(always)]
    fn all_of_vector(vector: [u32; 4]) -> [f32; 8] {
        let (mut values, mut index) = ([0.0; 8], 0);
        while index < Self::PER_VECTOR {
            values[index] = Self::of_vector(vector, index);
            index += 1;
        }
        values
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn of_vector(vector: [u32; 4], index: usize) -> f32 {
        f32::from_bits(vector[index])
    }
}

/// The 16 bits at `index` of eight, little-endian within each word.
#[inline(always)]
fn half_of(vector: [u32; 4], index: usize) -> u16 {
    (vector[index / 2] >> (16 * (index % 2))) as u16
}

impl Element for F16 {
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        F16::from_f32(value)
    }

    #[inline(always)]
    fn of_vector(vector: [u32; 4], index: usize) -> f32 {
        F16::from_bits(half_of(vector, index)).to_f32()
    }

    #[inline(always)]
    fn all_of_vector(vector: [u32; 4]) -> [f32; 8] {
        let [a, b, c, d] = vector.map(two_f16);
        [a.0, a.1, b.0, b.1, c.0, c.1, d.0, d.1]
    }
}

impl Element for BF16 {
    #[inline(always)]
    fn load(self) -> f32 {
        self.to_f32()
    }

    #[inline(always)]
    fn store(value: f32) -> Self {
        BF16::from_f32(value)
    }

    #[inline(always)]
    fn of_vector(vector: [u32; 4], index: usize) -> f32 {
        BF16::from_bits(half_of(vector, index)).to_f32()
    }
}
