//! Whether an access conflicts with those before it.

use super::order::Order;

/// Who accessed, when, and where in the program.
#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) block: u64,
    /// The warp's clock.
    pub(super) clock: u32,
    pub(super) line: u32,
    pub(super) warp: u16,
    pub(super) strong: bool,
    pub(super) block_scope: bool,
}

/// Which of a cell's three accesses is judged.
pub(super) const WRITE: usize = 0;
pub(super) const READ: usize = 1;
pub(super) const READ_OTHER: usize = 2;

/// What is known of an earlier instruction towards the one being checked.
#[derive(Clone, Copy)]
struct Earlier {
    /// Index of its record.
    index: u64,
    same_warp: bool,
    /// Its lanes whose accesses came before, or do not matter because both are strong.
    ordered: u32,
}

impl Earlier {
    const NOBODY: Earlier = Earlier { index: u64::MAX, same_warp: false, ordered: 0 };
}

/// Says whether an access conflicts with those before it.
pub(super) struct Judge<'s> {
    records: &'s [Record],
    order: &'s Order,
    /// Of the access's own record, which is `now`.
    index: u64,
    now: Record,
    /// The last answers.
    known: [Earlier; 3],
}

impl<'s> Judge<'s> {
    /// For the access whose record is the one at `index`.
    pub(super) fn new(records: &'s [Record], order: &'s Order, index: u64) -> Self {
        Judge { records, order, index, now: records[index as usize], known: [Earlier::NOBODY; 3] }
    }

    #[inline]
    fn earlier(&mut self, which: usize, index: u64) -> Earlier {
        if self.known[which].index != index {
            self.known[which] = self.compare(index);
        }
        self.known[which]
    }

    fn compare(&self, index: u64) -> Earlier {
        let (before, now) = (self.records[index as usize], self.now);
        let same_block = before.block == now.block;
        let reaches = same_block || !(before.block_scope || now.block_scope);
        let ordered = if before.strong && now.strong && reaches {
            u32::MAX
        } else {
            let access = (before.block, before.warp as usize, before.clock);
            self.order.lanes_before(now.warp as usize, access)
        };
        Earlier { index, same_warp: same_block && before.warp == now.warp, ordered }
    }

    /// Whether the earlier access `other` and that of `lane` are unordered ones of different threads.
    #[inline]
    pub(super) fn races(&mut self, which: usize, other: u64, lane: u64) -> bool {
        if other == 0 || (other - 1) / 32 == self.index {
            return false;
        }
        let earlier = self.earlier(which, (other - 1) / 32);
        let other = (other - 1) % 32;
        !(earlier.ordered >> other & 1 != 0 || earlier.same_warp && other == lane)
    }

    #[inline]
    pub(super) fn same_thread(&mut self, which: usize, other: u64, lane: u64) -> bool {
        (other - 1) % 32 == lane && self.earlier(which, (other - 1) / 32).same_warp
    }
}
