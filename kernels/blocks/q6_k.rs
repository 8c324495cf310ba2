//! Q6_K: 256 integers of 6 bits, in 16 runs of 16 with an 8-bit scale each.

use cuda_std::float;

use super::{
    Block, Fields, GROUP, Packed, Plane, Planes, eight, load_f16,
    run::{dot_unsigned, high_halves, low_halves},
};
use crate::gemv::activations::{Q8, Scale};

/// 128 bytes of low halves, 64 bytes of upper bits, 16 `i8` scales, `d` (f16): value = d · scale · (q − 32).
///
/// The block is two halves of 128 values. In a half, byte `l` of its 64 low bytes holds values `l` and, above, `64 + l`;
/// value `32·s + l` has bits `2s` and `2s + 1` of byte `l` of its 32 upper bytes.
#[derive(Clone, Copy)]
pub struct Q6K;

impl Block for Q6K {
    const ELEMENTS: usize = 256;
    const PLANES: &'static [Plane] = &[
        Plane { offset: 0, size: 128 },
        Plane { offset: 128, size: 64 },
        Plane { offset: 192, size: 16 },
        Plane { offset: 208, size: 2 },
    ];

    #[inline(always)]
    unsafe fn values(Fields([ql, qh, scales, d]): Fields, group: usize) -> [f32; GROUP] {
        let d = unsafe { load_f16(d) };
        let scale = d * f32::from(unsafe { *scales.add(group / 2) } as i8);
        let (half, first) = (group / 16, group % 16 * GROUP);
        let ql = unsafe { ql.add(half * 64 + first % 64) };
        let qh = unsafe { qh.add(half * 32 + first % 32) };
        eight(|index| {
            let low = unsafe { *ql.add(index) } >> (first / 64 * 4) & 15;
            let high = unsafe { *qh.add(index) } >> (first / 32 * 2) & 3;
            scale * (i32::from(low | high << 4) - 32) as f32
        })
    }
}

/// The activations beside the 16 low bytes of a chunk: two runs of 16 that lie 64 values apart.
pub struct X {
    low: [u32; 4],
    high: [u32; 4],
    scales: [Scale; 2],
    /// Where the upper bits of the first run are in their bytes; the second's are four further up.
    shift: u32,
}

/// A chunk is 16 of the low bytes, with the 16 bytes of upper bits that belong to them.
impl Packed for Q6K {
    const CHUNK: u32 = 32;
    const AHEAD: bool = false;
    type Bits = ([u32; 4], [u32; 4], [u32; 2], f32);
    type X = X;

    #[inline(always)]
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits {
        let block = chunk / 8;
        // The chunk's place: which half of the block, which 32 of the half's 64 low bytes, which 16 of these.
        let (half, sixteen) = (chunk / 4 % 2, chunk % 2);
        // Scales 8·half + 2·(chunk / 2 % 2) + sixteen and the one four further on.
        let scale = 16 * block + 8 * half + chunk % 4;
        unsafe {
            (
                planes.stream(0, chunk),
                planes.sixteen(1, 4 * block + 2 * half + sixteen),
                [planes.byte(2, scale), planes.byte(2, scale + 4)],
                planes.f16(3, block),
            )
        }
    }

    #[inline(always)]
    unsafe fn x(staged: Q8, chunk: u32) -> X {
        // A half of 128 values takes four chunks: values 32·(chunk / 2 % 2) + 16·(chunk % 2) of it, and 64 further.
        let run = 8 * (chunk / 4) + chunk % 4;
        unsafe {
            X {
                low: staged.integers(run),
                high: staged.integers(run + 4),
                scales: [staged.scale(run), staged.scale(run + 4)],
                shift: chunk / 2 % 2 * 2,
            }
        }
    }

    #[inline(always)]
    fn dot((ql, qh, scales, d): Self::Bits, x: &X, sum: f32) -> f32 {
        let low = low_halves(ql, qh.map(|word| word >> x.shift << 4 & 0x3030_3030));
        let high = high_halves(ql, qh.map(|word| word >> x.shift & 0x3030_3030));
        let part = |q: [u32; 4], integers: [u32; 4], of: usize| {
            // Σ (q − 32) · x
            float::fma(dot_unsigned(q, integers) as f32, x.scales[of].scale, -32.0 * x.scales[of].sum)
        };
        let scale = |of: usize| f32::from(scales[of] as u8 as i8);
        let both = float::fma(scale(1), part(high, x.high, 1), scale(0) * part(low, x.low, 0));
        float::fma(d, both, sum)
    }
}
