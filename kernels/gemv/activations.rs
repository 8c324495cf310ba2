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
//! | 16-bit | twice the 8-bit form: of the values, then of what that leaves of them |

use cuda_std::{async_copy, float, integer, memory::Vector16, shared, shared::Shared, thread, unroll::unroll, warp};

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

/// Words of a vector in the 8-bit form.
pub const fn words_q8(n_in: u32) -> u32 {
    bytes_q8(n_in) / 4
}

/// Bytes of dynamic shared memory for 16-bit activations.
pub const fn bytes_q16(n_in: u32) -> u32 {
    2 * bytes_q8(n_in)
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

/// Vectors of four values that a thread has under way at a time.
const BATCH: usize = 4;

/// Calls `each(index, x · norm, there)` for the vectors of four that fall to this thread, in turns of which all threads of the
/// block take part: in the last, some are not `there`, and their values mean nothing. Gives this thread's share of Σ x².
///
/// `n_in` is a multiple of four. The loads of a batch are issued together, so that one trip to the memory serves them all.
#[inline(always)]
unsafe fn for_vectors(x: *const f32, norm: *const f32, n_in: u32, mut each: impl FnMut(u32, [f32; 4], bool)) -> f32 {
    let stride = 4 * thread::block_dim_x();
    let mut squares = 0.0;
    let mut first = 0;
    while first < n_in {
        let index = |turn: usize| first + turn as u32 * stride + 4 * thread::thread_idx_x();
        let at = |turn: usize| if index(turn) < n_in { index(turn) as usize } else { 0 };
        // Written out, so that each value stays in a register.
        let x = unsafe { [four(x.add(at(0))), four(x.add(at(1))), four(x.add(at(2))), four(x.add(at(3)))] };
        let weights = if norm.is_null() {
            [[1.0; 4]; BATCH]
        } else {
            unsafe { [four(norm.add(at(0))), four(norm.add(at(1))), four(norm.add(at(2))), four(norm.add(at(3)))] }
        };
        unroll(
            BATCH,
            #[inline(always)]
            |turn| {
                // The same for the block, but for the threads of the last turn.
                if first + turn as u32 * stride < n_in {
                    let there = index(turn) < n_in;
                    let [a, b, c, d] = x[turn];
                    if there {
                        squares = float::fma(a, a, float::fma(b, b, float::fma(c, c, float::fma(d, d, squares))));
                    }
                    let [wa, wb, wc, wd] = weights[turn];
                    each(index(turn), [a * wa, b * wb, c * wc, d * wd], there);
                }
            },
        );
        first += BATCH as u32 * stride;
    }
    squares
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
        if n_in.is_multiple_of(4) {
            squares = unsafe {
                for_vectors(
                    x,
                    norm,
                    n_in,
                    #[inline(always)]
                    |index, values, there| {
                        if there {
                            staged.set_four(index, values.map(f32::to_bits))
                        }
                    },
                )
            };
        } else {
            let mut index = thread::thread_idx_x();
            while index < n_in {
                let mut value = unsafe { *x.add(index as usize) };
                if !norm.is_null() {
                    squares = float::fma(value, value, squares);
                    value *= unsafe { *norm.add(index as usize) };
                }
                unsafe { staged.set(index, value.to_bits()) }
                index += thread::block_dim_x();
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

/// 8-bit integers in runs of 16, wherever they are.
pub trait Runs: Copy {
    /// The integers of run `run`.
    ///
    /// # Safety
    /// - The run is within the staged vector.
    unsafe fn integers(self, run: u32) -> [u32; 4];

    /// The scale and sum of run `run`.
    ///
    /// # Safety
    /// - The run is within the staged vector.
    unsafe fn scale(self, run: u32) -> Scale;

    /// Those of run `run`, which is even, and of the next.
    ///
    /// # Safety
    /// - The runs are within the staged vector.
    unsafe fn two_scales(self, run: u32) -> [Scale; 2];
}

impl Runs for Q8 {
    #[inline(always)]
    unsafe fn integers(self, run: u32) -> [u32; 4] {
        unsafe { self.integers.get_four(4 * run) }
    }

    #[inline(always)]
    unsafe fn scale(self, run: u32) -> Scale {
        let [scale, sum] = unsafe { self.scales.get_two(2 * run) }.map(f32::from_bits);
        Scale { scale, sum }
    }

    #[inline(always)]
    unsafe fn two_scales(self, run: u32) -> [Scale; 2] {
        let [a, b, c, d] = unsafe { self.scales.get_four(2 * run) }.map(f32::from_bits);
        [Scale { scale: a, sum: b }, Scale { scale: c, sum: d }]
    }
}

/// What values of which the largest is this are multiplied by.
#[inline(always)]
fn inverse(largest: f32) -> f32 {
    // Below this all are 0: the inverse would not be finite.
    if largest < 1e-36 { 0.0 } else { 127.0 * float::reciprocal_approx(largest) }
}

/// The integers of a lane and its neighbours, four to a word, and the scale, d · Σ q of the run that sixteen lanes have between
/// them. Collective over these.
#[inline(always)]
pub fn quantise_lanes(value: f32) -> (u32, Scale) {
    let largest = warp::max_over(float::abs(value), RUN);
    let integer = float::nearest_integer(value * inverse(largest));
    let byte = (integer.cast_unsigned() & 0xff) << (thread::lane() % 4 * 8);
    let with = |word: u32, distance| word | warp::shuffle_xor_bits(word, distance);
    let scale = largest * (1.0 / 127.0);
    (with(with(byte, 1), 2), Scale { scale, sum: scale * warp::sum_over(integer as f32, RUN) })
}

/// Writes what [`quantise_lanes`] made of value `index` of `n` to a vector in the form above. A lane's value is that of its place
/// in its run.
///
/// # Safety
/// - `out` has room for `n` values.
#[inline(always)]
pub unsafe fn write_lanes(out: *mut u32, n: u32, index: u32, (word, scale): (u32, Scale)) {
    unsafe {
        if index.is_multiple_of(4) {
            *out.add((index / 4) as usize) = word;
        }
        if index.is_multiple_of(RUN) {
            let scales = out.add((n / 4 + index / RUN * 2) as usize);
            *scales = scale.scale.to_bits();
            *scales.add(1) = scale.sum.to_bits();
        }
    }
}

/// Four integers and their scale, d · Σ q. Collective over each `lanes` neighbouring lanes, whose values share the scale.
#[inline(always)]
pub fn quantise(values: [f32; 4], lanes: u32) -> (u32, Scale) {
    let [a, b, c, d] = values.map(float::abs);
    let largest = warp::max_over(float::max(float::max(a, b), float::max(c, d)), lanes);
    let inverse = inverse(largest);
    let [a, b, c, d] = values.map(|value| float::nearest_integer(value * inverse).cast_unsigned());
    let word = integer::pick_bytes(integer::pick_bytes(a, b, 0x40), integer::pick_bytes(c, d, 0x40), 0x5410);
    let scale = largest * (1.0 / 127.0);
    let sum = warp::sum_over(integer::dot4(word, 0x0101_0101, 0) as f32, lanes);
    (word, Scale { scale, sum: scale * sum })
}

impl Q8 {
    /// Where a vector of `n_in` is in the block's shared memory.
    #[inline(always)]
    fn of(n_in: u32) -> Q8 {
        Q8::behind(0, n_in)
    }

    /// The same from that byte on.
    #[inline(always)]
    fn behind(start: u32, n_in: u32) -> Q8 {
        Q8 { integers: shared::dynamic(start), scales: shared::dynamic(start + n_in) }
    }

    /// Four integers from value `index` on, and, by one of a run's lanes, their scale.
    #[inline(always)]
    unsafe fn set(self, index: u32, word: u32, Scale { scale, sum }: Scale) {
        unsafe {
            self.integers.set(index / 4, word);
            if thread::lane().is_multiple_of(4) {
                self.scales.set_two(index / RUN * 2, [scale.to_bits(), sum.to_bits()]);
            }
        }
    }

    /// Copies a vector that an earlier kernel quantised, in the form above. Collective over the block, which must meet at a
    /// barrier before it is used.
    ///
    /// # Safety
    /// - `x` is `n_in` values in that form, 16-byte aligned; the launch has the dynamic shared memory.
    #[inline(always)]
    pub unsafe fn copy(x: *const u32, n_in: u32) -> Q8 {
        let staged = Q8::of(n_in);
        // A byte for an integer and half a byte of its scale and sum, four to a word. All threads take the same turns: they are to
        // meet at the barrier together.
        let (words, mut first) = (n_in / 8 * 3, 0);
        while first < words {
            let word = first + 4 * thread::thread_idx_x();
            if word < words {
                unsafe { async_copy::copy_16(staged.integers, word, x.add(word as usize), true) }
            }
            first += 4 * thread::block_dim_x();
        }
        async_copy::commit();
        async_copy::wait::<0>();
        staged
    }
}

impl Staged for Q8 {
    const SHARED: bool = true;

    /// A thread takes four values, four lanes a run.
    #[inline(always)]
    unsafe fn stage(x: *const f32, norm: *const f32, n_in: u32) -> (Self, f32) {
        let staged = Q8::of(n_in);
        let squares = unsafe {
            for_vectors(
                x,
                norm,
                n_in,
                #[inline(always)]
                |index, values, there| {
                    // Lengths are multiples of a run, so a run is either all there or not at all.
                    let (word, scale) = quantise(values, 4);
                    if there {
                        staged.set(index, word, scale);
                    }
                },
            )
        };
        (staged, squares)
    }
}

/// Two 8-bit integers for each value, in shared memory: the second of what the first leaves. Together they are as good as 15 bits of
/// the largest value of 16, at twice the integer products and no more reading of weights.
#[derive(Clone, Copy)]
pub struct Q16 {
    /// The values, rounded.
    pub high: Q8,
    /// What that leaves, rounded.
    pub low: Q8,
}

impl Staged for Q16 {
    const SHARED: bool = true;

    /// As [`Q8`]'s.
    #[inline(always)]
    unsafe fn stage(x: *const f32, norm: *const f32, n_in: u32) -> (Self, f32) {
        let staged = Q16 { high: Q8::of(n_in), low: Q8::behind(bytes_q8(n_in), n_in) };
        let squares = unsafe {
            for_vectors(
                x,
                norm,
                n_in,
                #[inline(always)]
                |index, values, there| {
                    let (high, scale) = quantise(values, 4);
                    let left = |byte: u32| {
                        let integer = (high << (24 - 8 * byte)).cast_signed() >> 24;
                        float::fma(integer as f32, -scale.scale, values[byte as usize])
                    };
                    let (low, scale_of_low) = quantise([left(0), left(1), left(2), left(3)], 4);
                    if there {
                        staged.high.set(index, high, scale);
                        staged.low.set(index, low, scale_of_low);
                    }
                },
            )
        };
        (staged, squares)
    }
}
