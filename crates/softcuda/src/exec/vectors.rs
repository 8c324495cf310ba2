//! Loops over lanes in AVX2's own terms, where the compiler makes something else of the plain loop: it tests 32 equalities by 32 branches, and
//! puts together from halves in memory what it then loads as a whole, which waits for both. On other CPUs the plain loops are used.
//!
//! `WIDE` says, as in [`super::lanes::Operation`], that the CPU has AVX2 if there is such a thing.

use crate::numeric::{from_half, to_half};

/// Whether the values go up by equal steps: each lane's is `first + lane * step`.
#[inline(always)]
pub(super) fn is_row_64<const WIDE: bool>(values: &[u64; 32], step: u64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2.
        return unsafe { wide::is_row_64(values, step) };
    }
    (0..32).fold(0, |apart, l| apart | (values[l] ^ values[0].wrapping_add(step.wrapping_mul(l as u64)))) == 0
}

/// [`is_row_64`] of 32-bit values.
#[inline(always)]
pub(super) fn is_row_32<const WIDE: bool>(values: &[u32; 32], step: u32) -> bool {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2.
        return unsafe { wide::is_row_32(values, step) };
    }
    (0..32).fold(0, |apart, l| apart | (values[l] ^ values[0].wrapping_add(step.wrapping_mul(l as u32)))) == 0
}

/// `offset` added to each value, with the lanes outside the mask given what the first inside has.
#[inline(always)]
pub(super) fn add_64<const WIDE: bool>(values: &[u64; 32], offset: u64, mask: u32) -> [u64; 32] {
    let mut out = [0; 32];
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2.
        unsafe { wide::add_64(values, offset, mask, &mut out) };
        return out;
    }
    let first = values[mask.trailing_zeros() as usize & 31].wrapping_add(offset);
    for l in 0..32 {
        out[l] = if mask >> l & 1 != 0 { values[l].wrapping_add(offset) } else { first };
    }
    out
}

/// [`add_64`] of 32-bit values, whose sums have 32 bits.
#[inline(always)]
pub(super) fn add_32<const WIDE: bool>(values: &[u32; 32], offset: u32, mask: u32) -> [u64; 32] {
    let mut out = [0; 32];
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2.
        unsafe { wide::add_32(values, offset, mask, &mut out) };
        return out;
    }
    let first = values[mask.trailing_zeros() as usize & 31].wrapping_add(offset);
    for l in 0..32 {
        out[l] = u64::from(if mask >> l & 1 != 0 { values[l].wrapping_add(offset) } else { first });
    }
    out
}

/// What [`place`] says of addresses.
pub(super) struct Placed {
    /// Not one lies below `base` or above `base + limit`.
    pub(super) inside: bool,
    /// All their bits.
    pub(super) any: u64,
    /// Each continues where the one before ends.
    pub(super) contiguous: bool,
}

/// Compares addresses of `bytes` bytes with the range of `limit`, which is below 2^63, from `base`, and adds `delta` to each.
#[inline(always)]
pub(super) fn place<const WIDE: bool>(
    addresses: &[u64; 32],
    base: u64,
    limit: u64,
    delta: u64,
    bytes: u64,
    at: &mut [u64; 32],
) -> Placed {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2.
        return unsafe { wide::place(addresses, base, limit, delta, bytes, at) };
    }
    let (mut beyond, mut any, mut apart) = (0, 0, 0);
    for l in 0..32 {
        let offset = addresses[l].wrapping_sub(base);
        beyond |= offset | limit.wrapping_sub(offset);
        any |= addresses[l];
        apart |= addresses[l] ^ addresses[0].wrapping_add(l as u64 * bytes);
        at[l] = addresses[l].wrapping_add(delta);
    }
    Placed { inside: beyond >> 63 == 0, any, contiguous: apart == 0 }
}

/// Reads four words in each lane, the lane's place being what `at` says, into four rows.
///
/// # Safety
/// 16 bytes can be read at each place, and each row has room for 32 words.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn load_four_words(at: impl Fn(usize) -> *const u8, rows: [*mut u32; 4]) {
    use std::arch::x86_64::*;
    for start in (0..32).step_by(8) {
        // SAFETY: the caller's promise.
        unsafe {
            // Each with the one four lanes further on.
            let pair = |l: usize| {
                let low = _mm256_castsi128_si256(_mm_loadu_si128(at(start + l).cast()));
                _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(at(start + l + 4).cast()))
            };
            let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3));
            let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
            let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
            _mm256_storeu_si256(rows[0].add(start).cast(), _mm256_unpacklo_epi64(ab, cd));
            _mm256_storeu_si256(rows[1].add(start).cast(), _mm256_unpackhi_epi64(ab, cd));
            _mm256_storeu_si256(rows[2].add(start).cast(), _mm256_unpacklo_epi64(ab_high, cd_high));
            _mm256_storeu_si256(rows[3].add(start).cast(), _mm256_unpackhi_epi64(ab_high, cd_high));
        }
    }
}

/// `c` and the sum of the products of four bytes of `a` and of `b` in each lane; bytes have signs where it is said.
#[inline(always)]
pub(super) fn dot4<const WIDE: bool, const SIGNED_A: bool, const SIGNED_B: bool>(
    a: &[u32; 32],
    b: &[u32; 32],
    c: &[u32; 32],
) -> [u32; 32] {
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2.
        return unsafe { wide::dot4::<SIGNED_A, SIGNED_B>(a, b, c) };
    }
    let byte = |x: u32, k: usize, signed: bool| {
        let byte = x.to_le_bytes()[k];
        if signed { byte as i8 as i32 } else { byte as i32 }
    };
    let mut out = *c;
    for l in 0..32 {
        for k in 0..4 {
            out[l] = out[l].wrapping_add((byte(a[l], k, SIGNED_A) * byte(b[l], k, SIGNED_B)) as u32);
        }
    }
    out
}

/// [`from_half`] in each lane.
#[inline(always)]
pub(super) fn singles<const WIDE: bool>(halves: &[u16; 32]) -> [f32; 32] {
    let mut out = [0.0; 32];
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2 and F16C.
        unsafe { wide::singles(halves, &mut out) };
        return out;
    }
    for l in 0..32 {
        out[l] = from_half(halves[l]);
    }
    out
}

/// [`to_half`] in each lane.
#[inline(always)]
pub(super) fn halves<const WIDE: bool>(singles: &[f32; 32]) -> [u16; 32] {
    let mut out = [0; 32];
    #[cfg(target_arch = "x86_64")]
    if WIDE {
        // SAFETY: the CPU has AVX2 and F16C.
        unsafe { wide::halves(singles, &mut out) };
        return out;
    }
    for l in 0..32 {
        out[l] = to_half(singles[l]);
    }
    out
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::Placed;
    use crate::numeric::{NAN16, NAN32};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load64(values: &[u64; 32], part: usize) -> __m256i {
        // SAFETY: there are eight parts of four values.
        unsafe { _mm256_loadu_si256(values.as_ptr().add(4 * part).cast()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load32(values: &[u32; 32], part: usize) -> __m256i {
        // SAFETY: there are four parts of eight values.
        unsafe { _mm256_loadu_si256(values.as_ptr().add(8 * part).cast()) }
    }

    /// The first four of a row.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn row64(first: u64, step: u64) -> __m256i {
        let third = step.wrapping_mul(3);
        let steps = _mm256_set_epi64x(third as i64, step.wrapping_mul(2) as i64, step as i64, 0);
        _mm256_add_epi64(_mm256_set1_epi64x(first as i64), steps)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn is_row_64(values: &[u64; 32], step: u64) -> bool {
        let (mut row, four) = (row64(values[0], step), _mm256_set1_epi64x((step << 2) as i64));
        let mut apart = _mm256_setzero_si256();
        for part in 0..8 {
            apart = _mm256_or_si256(apart, _mm256_xor_si256(load64(values, part), row));
            row = _mm256_add_epi64(row, four);
        }
        _mm256_testz_si256(apart, apart) != 0
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn is_row_32(values: &[u32; 32], step: u32) -> bool {
        let steps = _mm256_mullo_epi32(_mm256_set1_epi32(step as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let mut row = _mm256_add_epi32(_mm256_set1_epi32(values[0] as i32), steps);
        let eight = _mm256_set1_epi32((step << 3) as i32);
        let mut apart = _mm256_setzero_si256();
        for part in 0..4 {
            apart = _mm256_or_si256(apart, _mm256_xor_si256(load32(values, part), row));
            row = _mm256_add_epi32(row, eight);
        }
        _mm256_testz_si256(apart, apart) != 0
    }

    /// Ones in the lanes of a part of four that `mask` has.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn lanes64(mask: u32, part: usize) -> __m256i {
        let bits = _mm256_setr_epi64x(1, 2, 4, 8);
        let mask = _mm256_set1_epi64x((mask >> (4 * part)) as i64);
        _mm256_cmpeq_epi64(_mm256_and_si256(mask, bits), bits)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn add_64(values: &[u64; 32], offset: u64, mask: u32, out: &mut [u64; 32]) {
        let first = values[mask.trailing_zeros() as usize & 31].wrapping_add(offset);
        let (first, offset) = (_mm256_set1_epi64x(first as i64), _mm256_set1_epi64x(offset as i64));
        for part in 0..8 {
            let mut sum = _mm256_add_epi64(load64(values, part), offset);
            if mask != u32::MAX {
                sum = _mm256_blendv_epi8(first, sum, lanes64(mask, part));
            }
            // SAFETY: there are eight parts of four values.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(4 * part).cast(), sum) };
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn add_32(values: &[u32; 32], offset: u32, mask: u32, out: &mut [u64; 32]) {
        let first = values[mask.trailing_zeros() as usize & 31].wrapping_add(offset);
        let (first, offset) = (_mm256_set1_epi64x(first as i64), _mm_set1_epi32(offset as i32));
        for part in 0..8 {
            // SAFETY: there are eight parts of four values.
            let four = unsafe { _mm_loadu_si128(values.as_ptr().add(4 * part).cast()) };
            let mut sum = _mm256_cvtepu32_epi64(_mm_add_epi32(four, offset));
            if mask != u32::MAX {
                sum = _mm256_blendv_epi8(first, sum, lanes64(mask, part));
            }
            // SAFETY: there are eight parts of four values.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(4 * part).cast(), sum) };
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn place(
        addresses: &[u64; 32],
        base: u64,
        limit: u64,
        delta: u64,
        bytes: u64,
        at: &mut [u64; 32],
    ) -> Placed {
        let all = |value: u64| _mm256_set1_epi64x(value as i64);
        let (base, limit, delta) = (all(base), all(limit), all(delta));
        let (mut row, four) = (row64(addresses[0], bytes), all(bytes << 2));
        let zero = _mm256_setzero_si256();
        let (mut beyond, mut any, mut apart) = (zero, zero, zero);
        for part in 0..8 {
            let address = load64(addresses, part);
            let offset = _mm256_sub_epi64(address, base);
            beyond = _mm256_or_si256(beyond, _mm256_or_si256(offset, _mm256_sub_epi64(limit, offset)));
            any = _mm256_or_si256(any, address);
            apart = _mm256_or_si256(apart, _mm256_xor_si256(address, row));
            row = _mm256_add_epi64(row, four);
            // SAFETY: there are eight parts of four values.
            unsafe { _mm256_storeu_si256(at.as_mut_ptr().add(4 * part).cast(), _mm256_add_epi64(address, delta)) };
        }
        let half = _mm_or_si128(_mm256_castsi256_si128(any), _mm256_extracti128_si256::<1>(any));
        Placed {
            inside: _mm256_movemask_pd(_mm256_castsi256_pd(beyond)) == 0,
            any: (_mm_cvtsi128_si64(half) | _mm_extract_epi64::<1>(half)) as u64,
            contiguous: _mm256_testz_si256(apart, apart) != 0,
        }
    }

    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    pub(super) fn singles(halves: &[u16; 32], out: &mut [f32; 32]) {
        for part in 0..4 {
            // SAFETY: there are four parts of eight values.
            let single = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(halves.as_ptr().add(8 * part).cast())) };
            let nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(single, single);
            let single = _mm256_blendv_ps(single, _mm256_set1_ps(f32::from_bits(NAN32)), nan);
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * part), single) };
        }
    }

    #[target_feature(enable = "avx2,f16c")]
    #[inline]
    pub(super) fn halves(singles: &[f32; 32], out: &mut [u16; 32]) {
        for part in 0..4 {
            // SAFETY: there are four parts of eight values.
            let single = unsafe { _mm256_loadu_ps(singles.as_ptr().add(8 * part)) };
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(single, single));
            let nan = _mm_packs_epi32(_mm256_castsi256_si128(nan), _mm256_extracti128_si256::<1>(nan));
            let half = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(single);
            let half = _mm_blendv_epi8(half, _mm_set1_epi16(NAN16 as i16), nan);
            // SAFETY: as above.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().add(8 * part).cast(), half) };
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn dot4<const SIGNED_A: bool, const SIGNED_B: bool>(
        a: &[u32; 32],
        b: &[u32; 32],
        c: &[u32; 32],
    ) -> [u32; 32] {
        let mut out = [0; 32];
        for part in 0..4 {
            let (a, b, c) = (load32(a, part), load32(b, part), load32(c, part));
            // Bytes as 16-bit numbers, whose products are added in pairs without loss.
            let even = |x: __m256i, signed: bool| match signed {
                true => _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)),
                false => _mm256_and_si256(x, _mm256_set1_epi16(0xff)),
            };
            let odd = |x: __m256i, signed: bool| match signed {
                true => _mm256_srai_epi16::<8>(x),
                false => _mm256_srli_epi16::<8>(x),
            };
            let even = _mm256_madd_epi16(even(a, SIGNED_A), even(b, SIGNED_B));
            let odd = _mm256_madd_epi16(odd(a, SIGNED_A), odd(b, SIGNED_B));
            let sum = _mm256_add_epi32(c, _mm256_add_epi32(even, odd));
            // SAFETY: there are four parts of eight values.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(8 * part).cast(), sum) };
        }
        out
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::exec::lanes::wide_is_supported;

    struct Random(u64);

    impl Random {
        fn below(&mut self, end: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 31) % end
        }

        fn word(&mut self) -> u32 {
            self.below(1 << 32) as u32
        }
    }

    #[test]
    fn wide_and_plain_loops_agree() {
        if !wide_is_supported() {
            return;
        }
        let mut random = Random(7);
        let (mut rows, mut inside, mut contiguous) = (0, 0, 0);
        for round in 0..20_000 {
            let (first, step) = (u64::from(random.word()) << (round % 3), [0, 4, 16, 1 << 20, u64::MAX][round % 5]);
            let mut addresses: [u64; 32] = std::array::from_fn(|l| first.wrapping_add(step.wrapping_mul(l as u64)));
            if round % 2 == 0 {
                addresses[random.below(32) as usize] ^= 1 << random.below(64);
            }
            let narrow = addresses.map(|address| address as u32);
            let row = is_row_64::<false>(&addresses, step);
            assert_eq!(is_row_64::<true>(&addresses, step), row, "{step} {addresses:x?}");
            let narrow_row = is_row_32::<false>(&narrow, step as u32);
            assert_eq!(is_row_32::<true>(&narrow, step as u32), narrow_row, "{step} {narrow:x?}");
            rows += u32::from(row);

            let (offset, mask) =
                (random.below(1 << 40), if round % 3 == 0 { u32::MAX } else { random.word() | 1 << 9 });
            assert_eq!(add_64::<true>(&addresses, offset, mask), add_64::<false>(&addresses, offset, mask));
            let offset = offset as u32;
            assert_eq!(add_32::<true>(&narrow, offset, mask), add_32::<false>(&narrow, offset, mask));

            let (base, bytes) = (first.wrapping_sub(random.below(64)), 1 << random.below(5));
            let limit = [31 * bytes, 1 << 30, random.below(1 << 20)][round % 3];
            let (mut at, mut wide_at) = ([0; 32], [0; 32]);
            let plain = place::<false>(&addresses, base, limit, 12345, bytes, &mut at);
            let wide = place::<true>(&addresses, base, limit, 12345, bytes, &mut wide_at);
            assert_eq!((wide.inside, wide.any, wide.contiguous), (plain.inside, plain.any, plain.contiguous));
            assert_eq!(wide_at, at);
            assert_eq!(plain.inside, addresses.iter().all(|address| address.wrapping_sub(base) <= limit));
            inside += u32::from(plain.inside);
            contiguous += u32::from(plain.contiguous);

            let [a, b, c] = [(); 3].map(|()| std::array::from_fn(|_| random.word()));
            assert_eq!(dot4::<true, false, false>(&a, &b, &c), dot4::<false, false, false>(&a, &b, &c));
            assert_eq!(dot4::<true, false, true>(&a, &b, &c), dot4::<false, false, true>(&a, &b, &c));
            assert_eq!(dot4::<true, true, false>(&a, &b, &c), dot4::<false, true, false>(&a, &b, &c));
            assert_eq!(dot4::<true, true, true>(&a, &b, &c), dot4::<false, true, true>(&a, &b, &c));
            let all_ones = [u32::MAX; 32];
            assert_eq!(
                dot4::<true, false, true>(&all_ones, &[0x8080_8080; 32], &c)[0],
                c[0].wrapping_sub(4 * 255 * 128)
            );

            // Near what f16 can hold, so that many round and some do not fit.
            let singles: [f32; 32] = std::array::from_fn(|l| {
                let exponent = if l % 4 == 0 { random.below(256) } else { 100 + random.below(48) } as u32;
                f32::from_bits(random.word() & 0x807f_ffff | exponent << 23)
            });
            assert_eq!(halves::<true>(&singles), halves::<false>(&singles), "{singles:?}");
        }
        assert!(rows > 1000 && inside > 1000 && contiguous > 500, "{rows} {inside} {contiguous}");
        for start in (0..=u16::MAX).step_by(32) {
            let halves: [u16; 32] = std::array::from_fn(|l| start + l as u16);
            let bits = |singles: [f32; 32]| singles.map(f32::to_bits);
            assert_eq!(bits(super::singles::<true>(&halves)), bits(super::singles::<false>(&halves)));
        }
    }
}
