//! Device memory that a program never freed: under the sanitizer, told on standard error when its context ends, and for what is
//! left then when the process does. It fails no call: nobody is waiting for one.

use std::io::Write;
use std::sync::Once;

use softcuda::LiveAllocation;

use super::devices;

/// Of what is live on devices whose sanitizer is on, tells what is of interest.
pub(super) fn tell(when: &str, is_leaked: impl Fn(u64) -> bool) {
    let sanitized = devices().iter().filter(|device| device.sanitizer());
    let leaked: Vec<LiveAllocation> =
        sanitized.flat_map(|device| device.live()).filter(|live| is_leaked(live.address)).collect();
    if let Some(text) = words(when, &leaked) {
        // Where nobody reads it, nobody misses it.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

fn words(when: &str, leaked: &[LiveAllocation]) -> Option<String> {
    /// Allocations that are listed one by one.
    const LISTED: usize = 8;
    if leaked.is_empty() {
        return None;
    }
    let all: usize = leaked.iter().map(|live| live.bytes).sum();
    let mut text = format!("softcuda: {} allocations, {all} bytes, were never freed when {when}", leaked.len());
    for LiveAllocation { address, bytes, number } in leaked.iter().take(LISTED) {
        text += &format!("\n  {bytes} bytes at {address:#x}, allocation {number} of its device, counted from 0");
    }
    if leaked.len() > LISTED {
        text += &format!("\n  and {} more", leaked.len() - LISTED);
    }
    Some(text)
}

/// Has what is left told when the process ends.
pub(super) fn tell_at_exit() {
    unsafe extern "C" {
        fn atexit(call: extern "C" fn()) -> i32;
    }
    extern "C" fn at_exit() {
        tell("the process ended", |_| true);
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: C's `atexit`, with a function that does not unwind.
        unsafe { atexit(at_exit) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaks_are_counted_and_the_first_listed() {
        assert_eq!(words("it ended", &[]), None);
        let leaked: Vec<_> =
            (0..10).map(|number| LiveAllocation { address: 0x1000 + number as u64, bytes: 16, number }).collect();
        let text = words("it ended", &leaked).unwrap();
        assert!(
            text.starts_with(
                "softcuda: 10 allocations, 160 bytes, were never freed when it ended\n  16 bytes at 0x1000"
            )
        );
        assert!(text.ends_with("  and 2 more"), "{text}");
    }
}
