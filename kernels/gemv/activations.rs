//! The activations of a product in shared memory: as `f32`, or as 8-bit integers in blocks.
//!
//! Every block of threads stages the whole vector for itself, multiplied by RMSNorm's weights where there are any. The 8-bit
//! form is like ggml's Q8_1, but for each 16 values and not each 32, which costs nothing here and is closer: the scale
//! d = max|x| / 127 and the integers q = round(x / d); and, since formats with an offset or a minimum need Σ x, d · Σ q.
//!
//! | form | bytes of dynamic shared memory, in this order |
//! |---|---|
//! | `f32` | 4 · n_in |
//! | 8-bit | n_in integers, then 8 for the scale and the sum of each 16 |

use cuda_std::{float, integer, memory::Vector16, shared, shared::Shared, thread, warp};

/// Values that share a scale.
pub const RUN: u32 = 16;

/// Bytes of dynamic shared memory for `f32` activations.
pub const fn bytes_f32(n_in: u32) -> u32 {
    4 * n_in
}

/// Bytes of dynamic shared memory for 8-bit activations.
pub const fn bytes_q8(n_in: u32) -> u32 {
    n_in + n_in / RUN * 8
}

/// Activations on their way to a product.
pub trait Staged: Copy {
    /// Whether they lie in shared memory, behind a barrier.
    const SHARED: bool;

    /// Stages `x · norm`, or `x` where `norm` is null, and gives this thread's share of Σ x². Collective over the block, which
    /// must meet at a barrier before the activations are used.
    ///
    /// # Safety
    /// - `x` is `[n_in]`, 16-byte aligned, `norm` null or such; the launch has the dynamic shared memory.
    unsafe fn stage(x: *const f32, norm: *const f32, n_in: u32) -> (Self, f32);
}

/// Four values from a 16-byte aligned address.
#[inline(always)]
pub unsafe fn four(address: *const f32) -> [f32; 4] {
    let Vector16(words) = unsafe { *address.cast::<Vector16>() };
    words.map(f32::from_bits)
}

/// x · norm at four places, and the sum of the squares of x there, added to `squares`.
#[inline(always)]
unsafe fn normed(x: *const f32, norm: *const f32, index: u32, squares: f32) -> ([f32; 4], f32) {
    let (mut values, mut squares) = (unsafe { four(x.add(index as usize)) }, squares);
    if !norm.is_null() {
        let weights = unsafe { four(norm.add(index as usize)) };
        let mut i = 0;
        while i < 4 {
            squares = float::fma(values[i], values[i], squares);
            values[i] *= weights[i];
            i += 1;
        }
    }
    (values, squares)
}

/// As they are, in global memory.
#[derive(Clone, Copy)]
pub struct InGlobal(pub *const f32);

impl Staged for InGlobal {
    const SHARED: bool = false;

    #[inline(always)]
    unsafe fn stage(x: *const f32, _norm: *const f32, _n_in: u32) -> (Self, f32) {
        (InGlobal(x), 0.0)
    }
}

/// `f32` in shared memory.
#[derive(Clone, Copy)]
pub struct F32(pub Shared<u32>);

impl Staged for F32 {
    const SHARED: bool = true;

    #[inline(always)]
    unsafe fn stage(x: *const f32, norm: *const f32, n_in: u32) -> (Self, f32) {
        let staged = shared::dynamic::<u32>(0);
        let mut squares = 0.0;
        let mut index = 4 * thread::thread_idx_x();
        while index + 3 < n_in {
            let values;
            (values, squares) = unsafe { normed(x, norm, index, squares) };
            unsafe { staged.set_four(index, values.map(f32::to_bits)) }
            index += 4 * thread::block_dim_x();
        }
        // The last values of a length that is no multiple of four.
        while index < n_in {
            let mut value = unsafe { *x.add(index as usize) };
            if !norm.is_null() {
                squares = float::fma(value, value, squares);
                value *= unsafe { *norm.add(index as usize) };
            }
            unsafe { staged.set(index, value.to_bits()) }
            index += 1;
            if index.is_multiple_of(4) {
                break;
            }
        }
        (F32(staged), squares)
    }
}

/// 8-bit integers in runs of 16, in shared memory.
#[derive(Clone, Copy)]
pub struct Q8 {
    /// Four integers to a word.
    integers: Shared<u32>,
    /// The scale and the sum of each run.
    scales: Shared<u32>,
}

/// A run's scale d and d · Σ q.
#[derive(Clone, Copy)]
pub struct Scale {
    /// d.
    pub scale: f32,
    /// d · Σ q.
    pub sum: f32,
}

impl Q8 {
    /// The integers of run `run`.
    ///
    /// # Safety
    /// - The run is within the staged vector.
    #[inline(always)]
    pub unsafe fn integers(self, run: u32) -> [u32; 4] {
        unsafe { self.integers.get_four(4 * run) }
    }

    /// The scale and sum of run `run`.
    ///
    /// # Safety
    /// - The run is within the staged vector.
    #[inline(always)]
    pub unsafe fn scale(self, run: u32) -> Scale {
        let [scale, sum] = unsafe { self.scales.get_two(2 * run) }.map(f32::from_bits);
        Scale { scale, sum }
    }

    /// Those of run `run`, which is even, and of the next.
    ///
    /// # Safety
    /// - The runs are within the staged vector.
    #[inline(always)]
    pub unsafe fn two_scales(self, run: u32) -> [Scale; 2] {
        let [a, b, c, d] = unsafe { self.scales.get_four(2 * run) }.map(f32::from_bits);
        [Scale { scale: a, sum: b }, Scale { scale: c, sum: d }]
    }
}

impl Staged for Q8 {
    const SHARED: bool = true;

    /// A thread takes four values, four lanes a run.
    #[inline(always)]
    unsafe fn stage(x: *const f32, norm: *const f32, n_in: u32) -> (Self, f32) {
        let staged = Q8 { integers: shared::dynamic(0), scales: shared::dynamic(n_in) };
        let lane = thread::lane();
        let mut squares = 0.0;
        let mut first_of_warp = thread::warp() * 128;
        while first_of_warp < n_in {
            let index = first_of_warp + 4 * lane;
            // Lengths are multiples of a run, so a run is either all there or not at all.
            let mut values = [0.0; 4];
            if index < n_in {
                (values, squares) = unsafe { normed(x, norm, index, squares) };
            }
            let largest = float::max(
                float::max(float::abs(values[0]), float::abs(values[1])),
                float::max(float::abs(values[2]), float::abs(values[3])),
            );
            let largest = warp::max_over(largest, 4);
            let scale = largest / 127.0;
            let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
            let packed = values.map(|value| float::round(value * inverse) as i32 as u32 & 0xff);
            let word = packed[0] | packed[1] << 8 | packed[2] << 16 | packed[3] << 24;
            let sum = warp::sum_over(integer::dot4(word, 0x0101_0101, 0) as f32, 4);
            if index < n_in {
                unsafe {
                    staged.integers.set(index / 4, word);
                    if lane.is_multiple_of(4) {
                        staged.scales.set_two(index / RUN * 2, [scale.to_bits(), (scale * sum).to_bits()]);
                    }
                }
            }
            first_of_warp += 4 * thread::block_dim_x();
        }
        (staged, squares)
    }
}
