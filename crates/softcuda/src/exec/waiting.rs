//! Lanes that wait for somebody by asking again and again.
//!
//! The lanes of a warp that diverged run lowest address first, which is where hardware lets them meet again. Followed to the letter it
//! would keep lanes that spin for others of their own warp, further on, from ever seeing them come, where hardware since Volta lets
//! every lane go on at last. So a group that spins while others of its warp could run is set aside, and these run; once all that can run
//! have, those that were set aside are asked again.
//!
//! What a warp spins for comes from elsewhere as a rule, from another warp, another block or an asynchronous copy, and then its lanes had
//! better wait for one another. So a warp has patience first, until it has set lanes aside once.

use super::{Context, NOWHERE, Stop, Warp};
use crate::program::{Control, Instruction};

/// Turns that a group spins while others of its warp wait behind it.
pub(super) const PATIENCE: u32 = 256;
/// What a whole time slice takes of it, in which the group loaded strongly or changed something atomically and did not seem to spin.
const PATIENCE_OF_SLICE: u32 = 64;

impl Context<'_> {
    /// After a strong load or an atomic: gives others a turn when the warp seems to wait for one of them.
    pub(crate) fn after_strong(&mut self, digest: u64) -> Control {
        let seen = (self.warp.pc, digest);
        if self.warp.last_strong != seen {
            self.warp.last_strong = seen;
            self.warp.asked = true;
            return Control::Next;
        }
        self.warp.last_strong = (NOWHERE, 0);
        self.give_way()
    }

    /// Behind an instruction that has been carried out and waits for others: they get a turn.
    pub(crate) fn give_way(&mut self) -> Control {
        self.warp.pc += 1;
        self.warp.set_aside(1);
        self.stop = Stop::Yield;
        Control::Stop
    }

    /// An instruction of a whole warp that not all lanes have come to: if some of them were set aside, those are asked once more whether
    /// they come, and this group waits.
    #[cold]
    pub(crate) fn ask_again(&mut self, ins: &Instruction) -> Option<Control> {
        if self.warp.aside.is_empty() {
            return None;
        }
        self.uncount();
        let warp = &mut self.warp;
        let (pc, lanes) = (warp.pc, std::mem::take(&mut warp.active));
        warp.insert(pc, lanes);
        warp.bring_back();
        Some(self.next_group(ins))
    }
}

impl Warp {
    /// Whether lanes were set aside at some time.
    pub(super) fn is_impatient(&self) -> bool {
        self.patience == 0
    }

    /// The time slice is over.
    #[inline]
    pub(super) fn end_slice(&mut self) {
        if std::mem::take(&mut self.asked) {
            self.set_aside(PATIENCE_OF_SLICE);
        } else if !self.aside.is_empty() {
            self.bring_back();
        }
    }

    /// The active group spins: another runs if there is one and the warp's patience, of which this takes some, is over.
    fn set_aside(&mut self, impatience: u32) {
        if self.others.is_empty() && self.aside.is_empty() {
            return;
        }
        self.patience = self.patience.saturating_sub(impatience);
        if self.patience > 0 {
            return;
        }
        // Whoever was set aside before all others had their turn has it now.
        if self.others.is_empty() {
            self.bring_back();
        }
        self.aside.push((self.pc, self.active));
        self.active = 0;
        self.run_lowest();
    }

    /// Those that were set aside could run again.
    pub(super) fn bring_back(&mut self) {
        while let Some((pc, lanes)) = self.aside.pop() {
            self.insert(pc, lanes);
        }
    }

    /// Makes the lowest of the groups that could run the active one, which there is none of now.
    pub(super) fn run_lowest(&mut self) -> bool {
        if self.others.is_empty() {
            self.bring_back();
        }
        let Some((pc, lanes)) = self.others.pop() else { return false };
        (self.pc, self.active) = (pc, lanes);
        self.meet = self.others.last().map_or(NOWHERE, |g| g.0);
        true
    }
}
