//! Loops that are written out in full, so that arrays indexed by their counter stay in registers.
//!
//! The compiler unrolls short loops by itself; past a size it keeps the loop, and the array goes to local memory.

/// The most iterations that [`unroll`] has.
pub const MOST: usize = 16;

/// `step(0)`, `step(1)`, … `step(n − 1)`. `n` is a constant after inlining; give `step` `#[inline(always)]`.
///
/// # Panics
/// Where `n` is more than [`MOST`].
#[inline(always)]
pub fn unroll(n: usize, mut step: impl FnMut(usize)) {
    macro_rules! steps {
        ($($index:literal)*) => {$(
            if $index < n {
                step($index);
            }
        )*};
    }
    assert!(n <= MOST);
    steps!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}
