//! What an access is, to whoever carries it out and to whoever judges it.

use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};

/// The part of `Instruction::flags` that is a [`Space`].
const SPACE: u8 = 7;

/// The state space of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Space {
    Global = 0,
    Shared = 1,
    Local = 2,
    Param = 3,
    Generic = 4,
}

impl Space {
    #[inline(always)]
    pub(crate) fn of(flags: u8) -> Space {
        match flags & SPACE {
            0 => Space::Global,
            1 => Space::Shared,
            2 => Space::Local,
            3 => Space::Param,
            _ => Space::Generic,
        }
    }

    /// The window that a generic address lies in, with the address within it.
    pub(crate) fn classify(address: u64) -> (Space, u64) {
        match address {
            a if a.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES => (Space::Shared, a - SHARED_WINDOW),
            a if a.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES => (Space::Local, a - LOCAL_WINDOW),
            a if a.wrapping_sub(PARAM_WINDOW) < WINDOW_BYTES => (Space::Param, a - PARAM_WINDOW),
            a => (Space::Global, a),
        }
    }
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Load,
    Store,
    Atomic,
}

/// The lanes of a mask, lowest first.
pub(crate) fn lanes_of(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
