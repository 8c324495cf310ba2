//! Turns at the panels of a ring in shared memory, of which each is full, and empty, by a barrier of its own.

use cuda_std::{mbarrier::Barrier, shared::Shared};

/// Whose turn it is: one of `PANELS`, and which phase of its barriers is waited for.
#[derive(Clone, Copy)]
pub struct Ring<const PANELS: u32> {
    /// The panel.
    pub panel: u32,
    parity: u32,
}

impl<const PANELS: u32> Ring<PANELS> {
    /// The first turn of who waits for full panels.
    pub const FULL: Self = Ring { panel: 0, parity: 0 };
    /// The first turn of who fills them: they are empty in the beginning.
    pub const EMPTY: Self = Ring { panel: 0, parity: 1 };

    /// Sets up a panel's barriers: how many threads say that it is full, and how many that it is empty.
    ///
    /// # Safety
    /// - The arrays have a barrier for each panel; called once, by one thread, and all others come behind a barrier of the block.
    #[inline(always)]
    pub unsafe fn set_up(full: Shared<u64>, n_full: u32, empty: Shared<u64>, n_empty: u32) {
        let mut panel = 0;
        while panel < PANELS {
            // SAFETY: passed on to the caller.
            unsafe {
                Barrier::at(full, panel).init(n_full);
                Barrier::at(empty, panel).init(n_empty);
            }
            panel += 1;
        }
    }

    /// Waits for the panel by these barriers.
    ///
    /// # Safety
    /// - They are set up, one for each panel.
    #[inline(always)]
    pub unsafe fn wait(self, barriers: Shared<u64>) {
        // SAFETY: passed on to the caller.
        unsafe { Barrier::at(barriers, self.panel) }.wait(self.parity);
    }

    /// Says by these barriers that the panel is full, or empty.
    ///
    /// # Safety
    /// - They are set up, one for each panel.
    #[inline(always)]
    pub unsafe fn arrive(self, barriers: Shared<u64>) {
        // SAFETY: passed on to the caller.
        unsafe { Barrier::at(barriers, self.panel) }.arrive();
    }

    /// The next turn.
    #[inline(always)]
    pub fn next(self) -> Self {
        let last = self.panel + 1 == PANELS;
        Ring { panel: if last { 0 } else { self.panel + 1 }, parity: self.parity ^ u32::from(last) }
    }

    /// The turn that is so many further, which does not begin a new round.
    #[inline(always)]
    pub fn further(self, turns: u32) -> Self {
        Ring { panel: self.panel + turns, ..self }
    }

    /// The panel of the turn before, to say something of it.
    #[inline(always)]
    pub fn before(self) -> Self {
        Ring { panel: if self.panel == 0 { PANELS - 1 } else { self.panel - 1 }, ..self }
    }
}
