//! Communication within a warp of 32 lanes.
//!
//! Every function here is collective: all 32 lanes must call it together.

#[cfg(target_arch = "nvptx64")]
use crate::collective;

/// The member mask of a whole warp.
pub const FULL: u32 = 0xffff_ffff;

/// The value that the lane whose number differs by `lane_mask` (exclusive or) holds.
#[inline(always)]
pub fn shuffle_xor(value: f32, lane_mask: u32) -> f32 {
    f32::from_bits(shuffle_xor_bits(value.to_bits(), lane_mask))
}

/// The value that lane `from` holds.
#[inline(always)]
pub fn shuffle(value: f32, from: u32) -> f32 {
    f32::from_bits(shuffle_bits(value.to_bits(), from))
}

macro_rules! shuffles {
    ($($(#[$doc:meta])* $name:ident($by:ident) => $intrinsic:ident, $clamp:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(bits: u32, $by: u32) -> u32 {
            on_device!((bits, $by) {
                // SAFETY: a shuffle with a full member mask; the caller is collective.
                unsafe { collective::$intrinsic(FULL, bits, $by, $clamp) }
            })
        }
    )*};
}

shuffles! {
    /// [`shuffle_xor`] for 32 bits of anything.
    shuffle_xor_bits(lane_mask) => shuffle_butterfly, 31;
    /// [`shuffle`] for 32 bits of anything.
    shuffle_bits(from) => shuffle_index, 31;
    /// The 32 bits of the lane `by` below; a lane that has none keeps its own.
    shuffle_up_bits(by) => shuffle_up, 0;
    /// The 32 bits of the lane `by` above; a lane that has none keeps its own.
    shuffle_down_bits(by) => shuffle_down, 31;
}

/// The value of the lane `by` below; a lane that has none keeps its own.
#[inline(always)]
pub fn shuffle_up(value: f32, by: u32) -> f32 {
    f32::from_bits(shuffle_up_bits(value.to_bits(), by))
}

/// The value of the lane `by` above; a lane that has none keeps its own.
#[inline(always)]
pub fn shuffle_down(value: f32, by: u32) -> f32 {
    f32::from_bits(shuffle_down_bits(value.to_bits(), by))
}

/// A shuffle of 64 bits: `shuffle` is done for the lower and for the upper half.
#[inline(always)]
pub fn wide(value: u64, shuffle: impl Fn(u32) -> u32) -> u64 {
    u64::from(shuffle(value as u32)) | u64::from(shuffle((value >> 32) as u32)) << 32
}

/// A value that is the same in every lane: lane 0's. The compiler then knows that what depends on it is the same too, a branch
/// for one.
#[inline(always)]
pub fn uniform(value: u32) -> u32 {
    shuffle_bits(value, 0)
}

/// Whether `condition` is true in some lane.
#[inline(always)]
pub fn any(condition: bool) -> bool {
    on_device!((condition) {
        // SAFETY: a vote with a full member mask; the caller is collective.
        unsafe { collective::any(FULL, condition) }
    })
}

/// Whether `condition` is true in every lane.
#[inline(always)]
pub fn all(condition: bool) -> bool {
    ballot(condition) == FULL
}

/// The lanes for which `condition` is true, lane `l` as bit `l`.
#[inline(always)]
pub fn ballot(condition: bool) -> u32 {
    on_device!((condition) {
        // SAFETY: as for `any`.
        unsafe { collective::ballot(FULL, condition) }
    })
}

/// The lanes whose value is this lane's, lane `l` as bit `l`.
#[inline(always)]
pub fn match_any(value: u32) -> u32 {
    on_device!((value) {
        // SAFETY: as for `any`.
        unsafe { collective::match_any(FULL, value) }
    })
}

/// Instructions that take a word of each lane and give all of them one.
macro_rules! reductions {
    ($($(#[$doc:meta])* $name:ident($word:ty) => $intrinsic:ident;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(value: $word) -> $word {
            on_device!((value) {
                // SAFETY: as for `any`.
                unsafe { collective::$intrinsic(value, FULL) }
            })
        }
    )*};
}

reductions! {
    /// The sum over the warp.
    sum_u32(u32) => sum;
    /// The smallest value of the warp.
    min_u32(u32) => min_unsigned;
    /// The largest value of the warp.
    max_u32(u32) => max_unsigned;
    /// The smallest value of the warp.
    min_i32(i32) => min_signed;
    /// The largest value of the warp.
    max_i32(i32) => max_signed;
    /// The bits that are set in every lane.
    and_bits(u32) => and;
    /// The bits that are set in some lane.
    or_bits(u32) => or;
    /// The bits that are set in an odd number of lanes.
    xor_bits(u32) => xor;
}

/// Whether every lane has the same value.
#[inline(always)]
pub fn same(value: u32) -> bool {
    match_any(value) == FULL
}

/// Waits for all lanes of the warp; memory written before it is seen after it by the warp's other lanes.
#[inline(always)]
pub fn sync() {
    on_device!(() {
        // SAFETY: a warp barrier with a full member mask; the caller is collective.
        unsafe { collective::warp_barrier(FULL) }
    })
}

/// Combines `value` over groups of `lanes` neighbouring lanes (a power of two up to 32), in the same order in every
/// lane, so that all lanes of a group get the same result.
#[inline(always)]
fn reduce(value: f32, lanes: u32, combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut value = value;
    let mut distance = lanes / 2;
    while distance > 0 {
        value = combine(value, shuffle_xor(value, distance));
        distance /= 2;
    }
    value
}

/// The sum over each group of `lanes` neighbouring lanes, known to all of them.
#[inline(always)]
pub fn sum_over(value: f32, lanes: u32) -> f32 {
    reduce(value, lanes, |a, b| a + b)
}

/// The sum over the warp, known to every lane.
#[inline(always)]
pub fn sum(value: f32) -> f32 {
    sum_over(value, 32)
}

/// The largest value of the warp, known to every lane.
#[inline(always)]
pub fn max(value: f32) -> f32 {
    max_over(value, 32)
}

/// The largest value of each group of `lanes` neighbouring lanes, known to all of them.
#[inline(always)]
pub fn max_over(value: f32, lanes: u32) -> f32 {
    reduce(value, lanes, crate::float::max)
}

/// The sums over the warp of four values: lane `l` gets that of value `l % 4`. Six shuffles, where four sums would take
/// twenty: in the first two steps a lane hands on the values that it will not finish. Lanes 2 apart are added first, then neighbours, then those
/// 4, 8 and 16 apart.
#[inline(always)]
pub fn sum_four(values: [f32; 4]) -> f32 {
    let lane = crate::thread::lane();
    let (upper, odd) = (lane & 2 != 0, lane & 1 != 0);
    let keep = |a: f32, b: f32, second: bool| if second { (b, a) } else { (a, b) };
    let (first, give_first) = keep(values[0], values[2], upper);
    let (second, give_second) = keep(values[1], values[3], upper);
    let first = first + shuffle_xor(give_first, 2);
    let second = second + shuffle_xor(give_second, 2);
    let (kept, give) = keep(first, second, odd);
    let mut sum = kept + shuffle_xor(give, 1);
    let mut distance = 4;
    while distance < 32 {
        sum += shuffle_xor(sum, distance);
        distance *= 2;
    }
    sum
}
