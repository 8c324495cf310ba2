//! Comparison of what a kernel computed with what it should have.

use std::fmt::{Debug, Display};

/// A number that can be compared.
pub trait Number: Copy + Debug {
    /// Its value, exactly.
    fn exact(self) -> f64;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Number for $number {
            fn exact(self) -> f64 {
                f64::from(self)
            }
        }
    )*};
}

numbers! { f32, f64, half::f16, half::bf16, i8, u8, i16, u16, i32, u32 }

/// How far a value may be from what it should be: |got − want| ≤ absolute + relative · |want|.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// In the values' own unit.
    pub absolute: f64,
    /// As a part of the wanted value.
    pub relative: f64,
}

/// Fails where some element is farther from the wanted one than allowed, or is NaN where the other is not, and names the worst.
///
/// ```
/// # use warp_test::assert_close;
/// assert_close!([1.0f32, 2.0], [1.0, 2.0000001], relative = 1e-6);
/// assert_close!(vec![0.1f32], &[0.0f64], absolute = 0.2, relative = 1e-6);
/// assert_close!([3.0f32], [3.0f64], absolute = 0.0; "row {}", 7);
/// ```
/// ```should_panic
/// # use warp_test::assert_close;
/// // element 1 of 2: got 2.5, want 2.0, …
/// assert_close!([1.0f32, 2.5], [1.0f32, 2.0], absolute = 1e-3);
/// ```
///
/// A tolerance deserves a comment that says why it is no smaller.
#[macro_export]
macro_rules! assert_close {
    ($got:expr, $want:expr, $($kind:ident = $bound:expr),+ $(,)?) => {
        $crate::assert_close!($got, $want, $($kind = $bound),+; "{}", ::core::stringify!($got))
    };
    ($got:expr, $want:expr, $($kind:ident = $bound:expr),+; $($what:tt)+) => {{
        #[allow(clippy::needless_update)]
        let tolerance = $crate::Tolerance { $($kind: $bound,)+ ..$crate::Tolerance::default() };
        $crate::assert_within(&$got, &$want, tolerance, ::core::format_args!($($what)+))
    }};
}

/// What [`assert_close!`] does.
///
/// # Panics
/// The lengths differ, or some element is not within the tolerance.
#[track_caller]
pub fn assert_within<G: Number, W: Number>(
    got: &(impl AsRef<[G]> + ?Sized),
    want: &(impl AsRef<[W]> + ?Sized),
    tolerance: Tolerance,
    what: impl Display,
) {
    let (got, want) = (got.as_ref(), want.as_ref());
    assert_eq!(got.len(), want.len(), "{what}: the number of elements");
    let Tolerance { absolute, relative } = tolerance;
    // By how many times its tolerance an element is off: beyond 1 it fails.
    let times = |(got, want): (&G, &W)| {
        let (got, want) = (got.exact(), want.exact());
        let allowed = absolute + relative * want.abs();
        match (got - want).abs() {
            _ if got == want || got.is_nan() && want.is_nan() => 0.0,
            error if error.is_finite() => error / allowed,
            _ => f64::INFINITY,
        }
    };
    let all: Vec<f64> = got.iter().zip(want).map(times).collect();
    let failed = all.iter().filter(|times| **times > 1.0).count();
    let worst = all.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    if let (Some((index, times)), 1..) = (worst, failed) {
        let error = (got[index].exact() - want[index].exact()).abs();
        let allowed = absolute + relative * want[index].exact().abs();
        panic!(
            "{what}: element {index} of {}: got {:?}, want {:?}, apart by {error:.3e} where {allowed:.3e} is allowed \
             ({absolute:e} + {relative:e}·|want|), {times:.1} times as much; {failed} of {} elements fail",
            got.len(),
            got[index],
            want[index],
            got.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn message(got: &[f32], want: &[f64], tolerance: Tolerance) -> Option<String> {
        let check = || assert_within(got, want, tolerance, "out");
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).err()?;
        Some(caught.downcast_ref::<String>().unwrap().clone())
    }

    #[test]
    fn the_worst_element_is_named_with_both_values_and_the_tolerance() {
        let tolerance = Tolerance { absolute: 0.0, relative: 0.5 };
        let text = message(&[1.0, 4.0, 250.0, 1.0], &[1.0, 1.0, 100.0, 1.4], tolerance).unwrap();
        // 3 off where 0.5 is allowed is worse than 150 off where 50 is.
        let want = "out: element 1 of 4: got 4.0, want 1.0, apart by 3.000e0 where 5.000e-1 is allowed (0e0 + 5e-1·|want|), \
                    6.0 times as much; 2 of 4 elements fail";
        assert_eq!(text, want);
    }

    #[test]
    fn infinities_and_nans_are_close_only_to_themselves() {
        let tolerance = Tolerance { absolute: 1e9, relative: 1.0 };
        let special = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1.0];
        for (i, got) in special.iter().enumerate() {
            for (j, want) in special.iter().enumerate() {
                assert_eq!(message(&[*got], &[f64::from(*want)], tolerance).is_none(), i == j, "{got} and {want}");
            }
        }
    }

    #[test]
    fn nothing_allowed_means_equal() {
        assert_eq!(message(&[0.0, 1.5], &[0.0, 1.5], Tolerance::default()), None);
        assert!(message(&[0.0, 1.5], &[0.0, 1.5000001], Tolerance::default()).unwrap().contains("element 1 of 2"));
        assert!(message(&[0.0], &[0.0, 1.0], Tolerance::default()).unwrap().contains("number of elements"));
    }

    #[test]
    fn other_numbers_and_containers_compare() {
        assert_close!(vec![f16::from_f32(0.1)], [0.1f32], relative = 2f64.powi(-11));
        assert_close!([3u32, 4], &[3i32, 4][..], absolute = 0.0);
    }
}
