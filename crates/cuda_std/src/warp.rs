//! Communication within a warp of 32 lanes.
//!
//! Every function here is collective: all 32 lanes must call it together.

/// The member mask of a whole warp.
pub const FULL: u32 = 0xffff_ffff;

/// The value that the lane whose number differs by `lane_mask` (exclusive or) holds.
#[inline(always)]
pub fn shuffle_xor(value: f32, lane_mask: u32) -> f32 {
    f32::from_bits(shuffle_xor_bits(value.to_bits(), lane_mask))
}

/// [`shuffle_xor`] for 32 bits of anything.
#[inline(always)]
pub fn shuffle_xor_bits(bits: u32, lane_mask: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let result: u32;
        // SAFETY: shfl.sync with a full member mask; the caller is collective. Not `pure`, so that it is never moved
        // into a branch that part of the warp takes.
        unsafe {
            core::arch::asm!(
                "shfl.sync.bfly.b32 {}, {}, {}, 31, -1;",
                out(reg32) result, in(reg32) bits, in(reg32) lane_mask,
                options(nomem, nostack)
            );
        }
        result
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (bits, lane_mask);
        crate::device_only()
    }
}

/// The value that lane `from` holds.
#[inline(always)]
pub fn shuffle(value: f32, from: u32) -> f32 {
    f32::from_bits(shuffle_bits(value.to_bits(), from))
}

/// [`shuffle`] for 32 bits of anything.
#[inline(always)]
pub fn shuffle_bits(bits: u32, from: u32) -> u32 {
    #[cfg(target_arch = "nvptx64")]
    {
        let result: u32;
        // SAFETY: shfl.sync with a full member mask, as above.
        unsafe {
            core::arch::asm!(
                "shfl.sync.idx.b32 {}, {}, {}, 31, -1;",
                out(reg32) result, in(reg32) bits, in(reg32) from,
                options(nomem, nostack)
            );
        }
        result
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = (bits, from);
        crate::device_only()
    }
}

/// The shuffles by a distance, from the lane below and from the one above.
macro_rules! shuffle_by {
    ($($(#[$doc:meta])* $name:ident, $name_bits:ident => $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(value: f32, by: u32) -> f32 {
            f32::from_bits($name_bits(value.to_bits(), by))
        }

        $(#[$doc])*
        #[inline(always)]
        pub fn $name_bits(bits: u32, by: u32) -> u32 {
            #[cfg(target_arch = "nvptx64")]
            {
                let result: u32;
                // SAFETY: shfl.sync with a full member mask, as above.
                unsafe {
                    core::arch::asm!($instruction, out(reg32) result, in(reg32) bits, in(reg32) by, options(nomem, nostack));
                }
                result
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = (bits, by);
                crate::device_only()
            }
        }
    )*};
}

shuffle_by! {
    /// The value of the lane `by` below; a lane that has none keeps its own.
    shuffle_up, shuffle_up_bits => "shfl.sync.up.b32 {}, {}, {}, 0, -1;";
    /// The value of the lane `by` above; a lane that has none keeps its own.
    shuffle_down, shuffle_down_bits => "shfl.sync.down.b32 {}, {}, {}, 31, -1;";
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
    #[cfg(target_arch = "nvptx64")]
    {
        let result: u32;
        // SAFETY: a vote with a full member mask; the caller is collective. Not `pure`, as for the shuffle.
        unsafe {
            core::arch::asm!(
                "{{ .reg .pred mine, some; setp.ne.u32 mine, {1}, 0; vote.sync.any.pred some, mine, -1; selp.u32 {0}, 1, 0, some; }}",
                out(reg32) result, in(reg32) u32::from(condition),
                options(nomem, nostack)
            );
        }
        result != 0
    }
    #[cfg(not(target_arch = "nvptx64"))]
    {
        let _ = condition;
        crate::device_only()
    }
}

/// Whether `condition` is true in every lane.
#[inline(always)]
pub fn all(condition: bool) -> bool {
    ballot(condition) == FULL
}

/// Instructions that take a word of each lane and give one.
macro_rules! collective {
    ($($(#[$doc:meta])* $name:ident($input:ty) -> $output:ty => $instruction:literal;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(value: $input) -> $output {
            #[cfg(target_arch = "nvptx64")]
            {
                let result: $output;
                // SAFETY: a collective with a full member mask; the caller is collective. Not `pure`, as for the shuffle.
                unsafe {
                    core::arch::asm!($instruction, out(reg32) result, in(reg32) value, options(nomem, nostack));
                }
                result
            }
            #[cfg(not(target_arch = "nvptx64"))]
            {
                let _ = value;
                crate::device_only()
            }
        }
    )*};
}

collective! {
    /// The lanes whose value is not 0, lane `l` as bit `l`.
    ballot_bits(u32) -> u32 =>
        "{{ .reg .pred mine; setp.ne.u32 mine, {1}, 0; vote.sync.ballot.b32 {0}, mine, -1; }}";
    /// The lanes whose value is this lane's, lane `l` as bit `l`.
    match_any(u32) -> u32 => "match.any.sync.b32 {}, {}, -1;";
    /// The sum over the warp.
    sum_u32(u32) -> u32 => "redux.sync.add.u32 {}, {}, -1;";
    /// The smallest value of the warp.
    min_u32(u32) -> u32 => "redux.sync.min.u32 {}, {}, -1;";
    /// The largest value of the warp.
    max_u32(u32) -> u32 => "redux.sync.max.u32 {}, {}, -1;";
    /// The smallest value of the warp.
    min_i32(i32) -> i32 => "redux.sync.min.s32 {}, {}, -1;";
    /// The largest value of the warp.
    max_i32(i32) -> i32 => "redux.sync.max.s32 {}, {}, -1;";
    /// The bits that are set in every lane.
    and_bits(u32) -> u32 => "redux.sync.and.b32 {}, {}, -1;";
    /// The bits that are set in some lane.
    or_bits(u32) -> u32 => "redux.sync.or.b32 {}, {}, -1;";
    /// The bits that are set in an odd number of lanes.
    xor_bits(u32) -> u32 => "redux.sync.xor.b32 {}, {}, -1;";
}

/// The lanes for which `condition` is true, lane `l` as bit `l`.
#[inline(always)]
pub fn ballot(condition: bool) -> u32 {
    ballot_bits(u32::from(condition))
}

/// Whether every lane has the same value.
#[inline(always)]
pub fn same(value: u32) -> bool {
    match_any(value) == FULL
}

/// Waits for all lanes of the warp; memory written before it is seen after it by the warp's other lanes.
#[inline(always)]
pub fn sync() {
    #[cfg(target_arch = "nvptx64")]
    // SAFETY: a warp barrier with a full member mask; the caller is collective.
    unsafe {
        core::arch::asm!("bar.warp.sync -1;", options(nostack));
    }
    #[cfg(not(target_arch = "nvptx64"))]
    crate::device_only()
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

/// The sums over the warp of four values: lane `l` gets that of value `l / 8`. Six shuffles, where four sums would take
/// twenty: in the first two steps a lane hands on the values that it will not finish.
#[inline(always)]
pub fn sum_four(values: [f32; 4]) -> f32 {
    let lane = crate::thread::lane();
    let (upper, upper_pair) = (lane & 16 != 0, lane & 8 != 0);
    let keep = |a: f32, b: f32, second: bool| if second { (b, a) } else { (a, b) };
    let (first, give_first) = keep(values[0], values[2], upper);
    let (second, give_second) = keep(values[1], values[3], upper);
    let first = first + shuffle_xor(give_first, 16);
    let second = second + shuffle_xor(give_second, 16);
    let (kept, give) = keep(first, second, upper_pair);
    sum_over(kept + shuffle_xor(give, 8), 8)
}
