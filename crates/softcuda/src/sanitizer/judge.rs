//! Whether an access conflicts with those before it.
//!
//! Lanes next to each other that access memory one behind the other mostly meet the traces of one earlier instruction, or
//! none: [`Judge::none_races`] and [`Judge::remember_reads`] take such a run as a whole, and leave what is not so to the
//! question for each cell.

use super::order::Order;
use super::shadow::{Cells, Trace};

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
const WRITE: usize = 0;
const READ: usize = 1;
const READ_OTHER: usize = 2;

/// What is known of an earlier instruction towards the one being checked.
#[derive(Clone, Copy)]
struct Earlier {
    /// Index of its record.
    index: u32,
    same_warp: bool,
    /// Its lanes whose accesses came before, or do not matter because both are strong.
    ordered: u32,
}

impl Earlier {
    const NOBODY: Earlier = Earlier { index: u32::MAX, same_warp: false, ordered: 0 };
}

/// Accesses of lanes next to each other: all to one place, or each where the one before ends.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// The first lane.
    pub(super) lane: u32,
    pub(super) count: u32,
    pub(super) same: bool,
}

impl Run {
    /// The lanes from the first of `lanes` on that access memory one behind the other, at most `room` of them, or all one place.
    pub(super) fn of(lanes: u32, addresses: &[u64; 32], bytes: u64, room: u64) -> Run {
        let lane = lanes.trailing_zeros();
        let together = &addresses[lane as usize..][..(lanes >> lane).trailing_ones() as usize];
        let first = together[0];
        let steps =
            |step: u64| together.iter().zip(0u64..).take_while(|&(&address, l)| address == first + l * step).count();
        match steps(bytes).min(room as usize) {
            ..=1 => Run { lane, count: steps(0) as u32, same: true },
            count => Run { lane, count: count as u32, same: false },
        }
    }

    /// The mask of its lanes.
    pub(super) fn lanes(self) -> u32 {
        u32::MAX >> (32 - self.count) << self.lane
    }
}

/// Cells that one lane accesses, as a power of two.
fn width(cells: usize, run: Run) -> u32 {
    (cells as u32 / if run.same { 1 } else { run.count }).trailing_zeros()
}

/// The instruction that all these traces are of, where it is one.
#[inline]
fn one_instruction(traces: &[Trace]) -> Option<u32> {
    let index = traces[0].checked_sub(1)? / 32;
    let base = 1 + index * 32;
    let apart = traces.iter().fold(0, |apart, &trace| apart | trace.wrapping_sub(base) & !31);
    (apart == 0).then_some(index)
}

/// Whether the traces of the instruction at `index` are each of the lane that accesses the cell now.
#[inline]
fn same_lanes(traces: &[Trace], index: u32, run: Run) -> bool {
    let (width, base) = (width(traces.len(), run), 1 + index * 32 + run.lane);
    let apart = traces.iter().enumerate().fold(0, |apart, (at, &trace)| apart | trace ^ (base + (at as u32 >> width)));
    apart == 0
}

#[inline]
fn none(traces: &[Trace]) -> bool {
    traces.iter().fold(0, |any, &trace| any | trace) == 0
}

/// Says whether an access conflicts with those before it.
pub(super) struct Judge<'s> {
    records: &'s [Record],
    order: &'s Order,
    /// Of the access's own record, which is `now`.
    index: u32,
    now: Record,
    /// The last answers.
    known: [Earlier; 3],
}

impl<'s> Judge<'s> {
    /// For the access whose record is the one at `index`.
    pub(super) fn new(records: &'s [Record], order: &'s Order, index: u32) -> Self {
        Judge { records, order, index, now: records[index as usize], known: [Earlier::NOBODY; 3] }
    }

    #[inline]
    fn earlier(&mut self, which: usize, index: u32) -> Earlier {
        if self.known[which].index != index {
            self.known[which] = self.compare(index);
        }
        self.known[which]
    }

    fn compare(&self, index: u32) -> Earlier {
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

    fn is_of_this_warp(&self, index: u32) -> bool {
        let before = self.records[index as usize];
        before.block == self.now.block && before.warp == self.now.warp
    }

    /// The trace of a lane's access.
    #[inline]
    fn trace(&self, lane: u32) -> Trace {
        1 + self.index * 32 + lane
    }

    /// Whether the earlier access `other` and that of `lane` are unordered ones of different threads.
    #[inline]
    fn races(&mut self, which: usize, other: Trace, lane: u32) -> bool {
        if other == 0 || (other - 1) / 32 == self.index {
            return false;
        }
        let earlier = self.earlier(which, (other - 1) / 32);
        let other = (other - 1) % 32;
        !(earlier.ordered >> other & 1 != 0 || earlier.same_warp && other == lane)
    }

    #[inline]
    fn same_thread(&self, other: Trace, lane: u32) -> bool {
        (other - 1) % 32 == lane && self.is_of_this_warp((other - 1) / 32)
    }

    /// Whether certainly none of the earlier accesses races with those of a run of lanes to the same cells.
    #[inline]
    fn none_races(&mut self, which: usize, others: &[Trace], run: Run) -> bool {
        if none(others) {
            return true;
        }
        let Some(index) = one_instruction(others) else { return false };
        if index == self.index {
            return true;
        }
        let earlier = self.earlier(which, index);
        earlier.ordered == u32::MAX || !run.same && earlier.same_warp && same_lanes(others, index, run)
    }

    /// The first cell whose earlier accesses race with those of a run of lanes: the lane, which of its cells, the other access
    /// and what that did.
    #[inline]
    pub(super) fn first_race(
        &mut self,
        cells: &Cells,
        run: Run,
        reads_only: bool,
    ) -> Option<(u32, u64, Trace, &'static str)> {
        let fine = self.none_races(WRITE, cells.write, run)
            && (reads_only
                || self.none_races(READ, cells.read, run) && self.none_races(READ_OTHER, cells.read_other, run));
        if fine { None } else { self.search(cells, run, reads_only) }
    }

    fn search(&mut self, cells: &Cells, run: Run, reads_only: bool) -> Option<(u32, u64, Trace, &'static str)> {
        let per_lane = 1usize << width(cells.write.len(), run);
        // Of lanes that write one place, all but the first meet the one before.
        let lanes = if run.same && !reads_only { 1 } else { run.count };
        for lane in 0..lanes {
            let start = if run.same { 0 } else { lane as usize * per_lane };
            for at in 0..per_lane {
                let (write, read, other) =
                    (cells.write[start + at], cells.read[start + at], cells.read_other[start + at]);
                let lane = run.lane + lane;
                let conflict = if self.races(WRITE, write, lane) {
                    (write, "wrote")
                } else if reads_only {
                    continue;
                } else if self.races(READ, read, lane) {
                    (read, "read")
                } else if self.races(READ_OTHER, other, lane) {
                    (other, "read")
                } else {
                    continue;
                };
                return Some((lane, at as u64, conflict.0, conflict.1));
            }
        }
        None
    }

    /// Makes cells remember the reads of a run of lanes.
    #[inline]
    pub(super) fn remember_reads(&self, cells: &mut Cells, run: Run) {
        if run.same {
            let last = run.lane + run.count - 1;
            for (read, other) in cells.read.iter_mut().zip(cells.read_other.iter_mut()) {
                // One lane after the other: that whose thread is remembered, or the first, and of the others the last.
                let mine = if *read == 0 {
                    Some(run.lane)
                } else {
                    let lane = (*read - 1) % 32;
                    (lane.wrapping_sub(run.lane) < run.count && self.same_thread(*read, lane)).then_some(lane)
                };
                if let Some(lane) = mine {
                    *read = self.trace(lane);
                }
                let rest = if mine == Some(last) { last.wrapping_sub(1) } else { last };
                if mine.is_none() || run.count > 1 {
                    *other = self.trace(rest);
                }
            }
            return;
        }
        let (width, first) = (width(cells.read.len(), run), self.trace(run.lane));
        let remember = |traces: &mut [Trace]| {
            traces.iter_mut().enumerate().for_each(|(at, trace)| *trace = first + (at as u32 >> width));
        };
        if none(cells.read) {
            return remember(cells.read);
        }
        match one_instruction(cells.read) {
            Some(index) if !self.is_of_this_warp(index) => return remember(cells.read_other),
            Some(index) if same_lanes(cells.read, index, run) => return remember(cells.read),
            _ => {}
        }
        for (at, (read, other)) in cells.read.iter_mut().zip(cells.read_other.iter_mut()).enumerate() {
            let lane = run.lane + (at as u32 >> width);
            if *read == 0 || self.same_thread(*read, lane) {
                *read = self.trace(lane);
            } else {
                *other = self.trace(lane);
            }
        }
    }

    /// Makes cells remember the writes of a run of lanes, and nothing before them.
    #[inline]
    pub(super) fn remember_writes(&self, cells: &mut Cells, run: Run) {
        if run.same {
            cells.write.fill(self.trace(run.lane + run.count - 1));
        } else {
            let (width, first) = (width(cells.write.len(), run), self.trace(run.lane));
            cells.write.iter_mut().enumerate().for_each(|(at, trace)| *trace = first + (at as u32 >> width));
        }
        cells.read.fill(0);
        cells.read_other.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::shadow::{PAGE, Pages};
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        /// Of lanes from `lane` on: at one place, or at places one behind the other, each of `1 << width` bytes.
        Access {
            warp: u16,
            lane: u32,
            count: u32,
            same: bool,
            width: u32,
            place: u64,
            writes: bool,
        },
        Barrier,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let access = (0..3u16, 0..32u32, 1..33u32, any::<bool>(), 0..5u32, 0..8u64, any::<bool>());
        let access = access.prop_map(|(warp, lane, count, same, width, place, writes)| {
            let count = count.min(32 - lane);
            Step::Access { warp, lane, count, same, width, place, writes }
        });
        proptest::collection::vec(prop_oneof![9 => access, 1 => Just(Step::Barrier)], 1..24)
    }

    /// What races, step by step, and what is remembered in the end; each run whole, or lane by lane.
    fn play(steps: &[Step], by_lane: bool) -> (Vec<Option<(u32, u64)>>, Vec<Trace>) {
        let (mut order, mut pages, mut records, mut races) =
            (Order::new(0, 3), Pages::default(), Vec::new(), Vec::new());
        for step in steps {
            let &Step::Access { warp, lane, count, same, width, place, writes } = step else {
                order.barrier(0, 0b111);
                continue;
            };
            let clock = order.clock(warp.into());
            records.push(Record { block: 0, clock, line: 1, warp, strong: false, block_scope: false });
            let mut judge = Judge::new(&records, &order, records.len() as u32 - 1);
            let (bytes, mut first) = (1 << width, None);
            let runs = match by_lane {
                true => (0..count).map(|l| Run { lane: lane + l, count: 1, same: true }).collect(),
                false => vec![Run { lane, count, same }],
            };
            for run in runs {
                let at = if same { place } else { place + u64::from(run.lane - lane) };
                let cells = if run.same { 1 } else { run.count };
                let mut cells = pages.cells(at * bytes, bytes, cells, writes);
                let race = judge.first_race(&cells, run, !writes);
                first = first.or(race.map(|(lane, at, ..)| (lane, at << cells.shift)));
                match writes {
                    true => judge.remember_writes(&mut cells, run),
                    false => judge.remember_reads(&mut cells, run),
                }
            }
            races.push(first);
        }
        let cells = pages.cells(0, 1, PAGE as u32, false);
        (races, [&*cells.write, &*cells.read, &*cells.read_other].concat())
    }

    proptest! {
        #[test]
        fn a_run_is_what_its_lanes_are_one_after_the_other(steps in steps()) {
            prop_assert_eq!(play(&steps, false), play(&steps, true));
        }
    }
}
