//! Random weights, made where they are used: for measurements, which depend on a model's shape and types and not on what
//! its weights say.
//!
//! Word `i` of a stream is a mixing function of `i` and the stream's number, so any thread makes any part. Random bits are
//! valid blocks of every quantised type but for their scales (a random half-precision number may be infinite): those are set
//! in a second pass, so that the values have a size that keeps a model's activations finite.

use cuda_std::{BF16, F16, kernel, memory::Vector16, thread, types::Element};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Bytes that a thread of [`noise_bits`] writes.
pub const BITS_BYTES: u64 = 16;

/// Values that a thread of the float kernels writes.
pub const FLOATS: u64 = 8;

/// The word at `index` of a stream (Wellons, "Prospecting for hash functions", 2018: lowbias32).
#[inline(always)]
pub const fn word(index: u32, stream: u32) -> u32 {
    let mut x = index.wrapping_add(stream);
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ x >> 16
}

/// The thread's index within a grid of any size.
#[inline(always)]
fn index() -> u64 {
    u64::from(thread::block_idx_x()) * u64::from(BLOCK) + u64::from(thread::thread_idx_x())
}

/// The factor of a block's scale, and its sign: 0.75 to 1.25 with a mean square of 1, half of them negative, so that a type
/// whose integers are not centred has no mean over many blocks.
#[inline(always)]
pub fn factor(block: u32, stream: u32) -> f32 {
    let bits = word(block, stream);
    let size = (0.75 + (bits >> 8) as f32 * (0.5 / 16_777_216.0)) * 0.989_743;
    if bits & 1 == 0 { size } else { -size }
}

/// out = random bytes.
///
/// A thread writes 16. Launch: grid (⌈n ÷ (BITS_BYTES · BLOCK)⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `out` is `[n]`, 16-byte aligned.
#[kernel]
pub unsafe fn noise_bits(out: *mut u8, n: u64, stream: u32) {
    let vector = index();
    let first = vector * BITS_BYTES;
    if first >= n {
        return;
    }
    let words = [0, 1, 2, 3].map(|k| word(vector as u32 * 4 + k, stream));
    let target = unsafe { out.add(first as usize) };
    if first + BITS_BYTES <= n {
        unsafe { *target.cast::<Vector16>() = Vector16(words) }
        return;
    }
    // The last thread's bytes, of which there are fewer.
    let mut byte = 0;
    while first + byte < n {
        unsafe { *target.add(byte as usize) = word(vector as u32 * 4 + byte as u32 / 4, stream) as u8 }
        byte += 1;
    }
}

/// The half-precision number at each block's start = `scale` times a factor of the block's own ([`factor`]).
///
/// One thread a block. Launch: grid (⌈n_blocks ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `blocks` leads to the first block's number, 2-byte aligned; the next is `stride` bytes on, an even number, `n_blocks` in
///   all.
#[kernel]
pub unsafe fn noise_scales(blocks: *mut u8, n_blocks: u32, stride: u32, scale: f32, stream: u32) {
    let block = index();
    if block >= u64::from(n_blocks) {
        return;
    }
    let target = unsafe { blocks.add(block as usize * stride as usize).cast::<F16>() };
    unsafe { *target = F16::from_f32(scale * factor(block as u32, stream)) }
}

/// The byte at each block's start = `exponent`: the scales of blocks whose scale is a power of two.
///
/// One thread a block. Launch: grid (⌈n_blocks ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `blocks` leads to the first block's byte; the next is `stride` bytes on, `n_blocks` in all.
#[kernel]
pub unsafe fn noise_exponents(blocks: *mut u8, n_blocks: u32, stride: u32, exponent: u32) {
    let block = index();
    if block < u64::from(n_blocks) {
        unsafe { *blocks.add(block as usize * stride as usize) = exponent as u8 }
    }
}

/// A thread's [`FLOATS`] values, a block apart so that neighbouring threads write neighbours.
#[inline(always)]
unsafe fn floats<T: Element>(out: *mut T, n: u64, centre: f32, spread: f32, stream: u32) {
    let first = u64::from(thread::block_idx_x()) * u64::from(BLOCK) * FLOATS + u64::from(thread::thread_idx_x());
    let mut step = 0;
    while step < FLOATS {
        let at = first + step * u64::from(BLOCK);
        if at < n {
            let bits = word(at as u32, stream).cast_signed();
            unsafe { *out.add(at as usize) = T::store(centre + bits as f32 * (spread / 2_147_483_648.0)) }
        }
        step += 1;
    }
}

macro_rules! variants {
    ($($name:ident: $element:ty;)*) => {$(
        /// out[i] = evenly from `centre − spread` to `centre + spread`.
        ///
        /// A thread writes eight. Launch: grid (⌈n ÷ (FLOATS · BLOCK)⌉), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `out` is `[n]`.
        #[kernel]
        pub unsafe fn $name(out: *mut $element, n: u64, centre: f32, spread: f32, stream: u32) {
            unsafe { floats(out, n, centre, spread, stream) }
        }
    )*};
}

variants! {
    noise_f32: f32;
    noise_f16: F16;
    noise_bf16: BF16;
}
