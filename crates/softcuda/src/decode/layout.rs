//! The order of a kernel's blocks, such that lanes which part meet again where they would on hardware.
//!
//! The executor runs the group of lanes whose program counter is lowest (`exec`). Groups then meet at the first place that
//! both reach, if every block stands behind those that lead to it and a loop's blocks stand together, what follows the loop
//! behind them. A compiler mostly emits code so, but not always: LLVM may put a loop's end before its beginning. Lanes that get
//! there first would go round the loop again while the others are still behind them in the text, and everything in the loop would be
//! issued twice; an assembler for hardware makes them wait for each other.
//!
//! So where a kernel's text is not in such an order its blocks are moved: reverse postorder of a depth-first walk that leaves a
//! loop before it goes on within it. Where a block no longer stands before the one that followed it, a jump is added, which is
//! not counted as an instruction. Loops with several entries are left as they are.

use crate::counters::Class;
use crate::exec::control as run;
use crate::exec::lanes::plain;
use crate::program::{Handlers, Instruction, UNGUARDED};

/// No block.
const NONE: usize = usize::MAX;

/// Instructions from one target or branch to the next.
struct Block {
    start: usize,
    end: usize,
    /// The block behind it in the text, where control may run on to it.
    next: Option<usize>,
    /// Targets of the branch at its end.
    targets: Vec<usize>,
}

impl Block {
    fn successors(&self) -> impl Iterator<Item = usize> + '_ {
        self.next.into_iter().chain(self.targets.iter().copied())
    }
}

/// Moves the blocks of a kernel, if that is needed. `lists` are those of `brx.idx`.
pub(super) fn order(code: &mut Vec<Instruction>, handlers: &mut Vec<Handlers>, lists: &mut [Vec<u32>]) {
    let blocks = blocks(code, lists);
    let graph = Graph::new(&blocks);
    if graph.in_order(&blocks) {
        return;
    }
    let order = graph.order(&blocks);
    let mut place = vec![0u32; blocks.len()];
    let (mut new_code, mut new_handlers) = (Vec::new(), Vec::new());
    // Where an added jump is, and the block that it goes to.
    let mut jumps = Vec::new();
    for (index, &at) in order.iter().enumerate() {
        let block = &blocks[at];
        place[at] = new_code.len() as u32;
        new_code.extend_from_slice(&code[block.start..block.end]);
        new_handlers.extend_from_slice(&handlers[block.start..block.end]);
        if let Some(next) = block.next
            && order.get(index + 1) != Some(&next)
        {
            jumps.push((new_code.len(), next));
            let jump = plain(run::branch);
            let line = code[block.end - 1].line;
            new_handlers.push(jump);
            new_code.push(Instruction {
                handler: jump.portable,
                guard: UNGUARDED,
                guard_flip: 0,
                ops: [0; 8],
                imm: 0,
                line,
                class: Class::Control,
                flags: run::FLOW_JUMP | run::ADDED,
                site: 0,
            });
        }
    }
    let block_of = |target: u32| blocks.partition_point(|block| block.start <= target as usize) - 1;
    for ins in &mut new_code {
        if is_branch(ins) && ins.flags & run::ADDED == 0 {
            ins.imm = u64::from(place[block_of(ins.imm as u32)]);
        }
    }
    for (at, block) in jumps {
        new_code[at].imm = u64::from(place[block]);
    }
    for target in lists_of_targets(code, lists) {
        for target in &mut lists[target] {
            *target = place[block_of(*target)];
        }
    }
    (*code, *handlers) = (new_code, new_handlers);
}

fn is_branch(ins: &Instruction) -> bool {
    ins.class == Class::Control && ins.flags & run::FLOW == run::FLOW_JUMP
}

fn is_indexed(ins: &Instruction) -> bool {
    ins.class == Class::Control && ins.flags & run::FLOW == run::FLOW_INDEXED
}

fn is_exit(ins: &Instruction) -> bool {
    ins.class == Class::Control && ins.flags & run::FLOW == run::FLOW_EXIT
}

/// Makes the targets of code that begins at `base`, rather than at 0, right.
pub(super) fn shift(code: &mut [Instruction], lists: &mut [Vec<u32>], base: u32) {
    for target in lists_of_targets(code, lists) {
        lists[target].iter_mut().for_each(|target| *target += base);
    }
    for ins in code.iter_mut().filter(|ins| is_branch(ins)) {
        ins.imm += u64::from(base);
    }
}

/// Which of the lists are targets of branches.
fn lists_of_targets(code: &[Instruction], lists: &[Vec<u32>]) -> Vec<usize> {
    let mut used = vec![false; lists.len()];
    for ins in code.iter().filter(|ins| is_indexed(ins)) {
        used[ins.imm as usize] = true;
    }
    (0..lists.len()).filter(|list| used[*list]).collect()
}

/// Cuts the code where control comes in or parts.
fn blocks(code: &[Instruction], lists: &[Vec<u32>]) -> Vec<Block> {
    let targets = |ins: &Instruction| match ins {
        ins if is_branch(ins) => vec![ins.imm as usize],
        ins if is_indexed(ins) => lists[ins.imm as usize].iter().map(|target| *target as usize).collect(),
        _ => Vec::new(),
    };
    let mut starts = vec![0];
    for (at, ins) in code.iter().enumerate() {
        starts.extend(targets(ins));
        if is_branch(ins) || is_indexed(ins) || is_exit(ins) {
            starts.push(at + 1);
        }
    }
    starts.retain(|start| *start < code.len());
    starts.sort_unstable();
    starts.dedup();
    let block_of = |at: usize| starts.partition_point(|start| *start <= at) - 1;
    let block = |(index, &start): (usize, &usize)| {
        let end = starts.get(index + 1).copied().unwrap_or(code.len());
        let last = &code[end - 1];
        let leaves = (is_branch(last) || is_indexed(last) || is_exit(last)) && last.guard == UNGUARDED;
        let next = (!leaves && end < code.len()).then_some(index + 1);
        let mut targets: Vec<usize> = targets(last).into_iter().map(block_of).collect();
        targets.sort_unstable();
        targets.dedup();
        Block { start, end, next, targets }
    };
    starts.iter().enumerate().map(block).collect()
}

/// What the walk has to know of the blocks.
struct Graph {
    /// The block that every way to a block goes through last; itself for the first, [`NONE`] for one that no way leads to.
    dominators: Vec<usize>,
    /// A block's loops, by their headers, the outermost first.
    loops: Vec<Vec<usize>>,
    /// Every loop's first block.
    headers: Vec<usize>,
    /// Whether every loop has one entry.
    reducible: bool,
}

impl Graph {
    fn new(blocks: &[Block]) -> Graph {
        let postorder = walk(blocks, |_, successors| successors.reverse());
        let mut number = vec![NONE; blocks.len()];
        for (index, at) in postorder.iter().enumerate() {
            number[*at] = index;
        }
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); blocks.len()];
        for at in &postorder {
            for next in blocks[*at].successors() {
                before[next].push(*at);
            }
        }
        // Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm", 2001.
        let mut dominators = vec![NONE; blocks.len()];
        dominators[0] = 0;
        let mut changed = true;
        while changed {
            changed = false;
            for &at in postorder.iter().rev().filter(|at| **at != 0) {
                let known = before[at].iter().copied().filter(|from| dominators[*from] != NONE);
                let meet = |mut a: usize, mut b: usize| {
                    while a != b {
                        while number[a] < number[b] {
                            a = dominators[a];
                        }
                        while number[b] < number[a] {
                            b = dominators[b];
                        }
                    }
                    a
                };
                let found = known.reduce(meet).unwrap_or(NONE);
                changed |= dominators[at] != found;
                dominators[at] = found;
            }
        }
        let mut graph =
            Graph { dominators, loops: vec![Vec::new(); blocks.len()], headers: Vec::new(), reducible: true };
        // Headers before the blocks that they dominate, so that outer loops come first.
        for &header in postorder.iter().rev() {
            let ends: Vec<usize> = before[header].iter().copied().filter(|end| graph.dominates(header, *end)).collect();
            graph.reducible &= before[header].iter().all(|from| ends.contains(from) || number[*from] > number[header]);
            if ends.is_empty() {
                continue;
            }
            graph.headers.push(header);
            let mut body = ends;
            let mut inside = vec![false; blocks.len()];
            inside[header] = true;
            while let Some(at) = body.pop() {
                if !std::mem::replace(&mut inside[at], true) {
                    body.extend(&before[at]);
                }
            }
            for (loops, inside) in graph.loops.iter_mut().zip(inside) {
                if inside {
                    loops.push(header);
                }
            }
        }
        graph
    }

    fn dominates(&self, above: usize, below: usize) -> bool {
        let mut at = below;
        while at != above && at != 0 {
            at = self.dominators[at];
        }
        at == above
    }

    /// Whether the text is in an order that needs no change, or cannot be brought in one.
    fn in_order(&self, blocks: &[Block]) -> bool {
        if !self.reducible {
            return true;
        }
        let reached = |at: &usize| self.dominators[*at] != NONE;
        let forward = (0..blocks.len()).filter(reached).all(|at| {
            let ahead = |next: usize| next > at || self.dominates(next, at);
            blocks[at].successors().all(ahead)
        });
        // A loop's blocks are all those from its first to its last.
        let whole = |header: &usize| {
            let in_loop = |at: usize| self.loops[at].contains(header);
            let last = (0..blocks.len()).rev().find(|at| in_loop(*at)).unwrap_or(*header);
            (*header..=last).filter(reached).all(in_loop)
        };
        forward && self.headers.iter().all(whole)
    }

    /// The blocks in their new order; those that no way leads to are last.
    fn order(&self, blocks: &[Block]) -> Vec<usize> {
        // What is walked first ends up last: first whatever leaves the most loops, then what stands further on in the text.
        let mut order = walk(blocks, |at, successors| {
            let stays = |next: usize| {
                let (here, there) = (&self.loops[at], &self.loops[next]);
                here.iter().filter(|header| there.contains(header)).count()
            };
            successors.sort_unstable_by_key(|next| (stays(*next), usize::MAX - *next));
        });
        order.reverse();
        let reached = |at: &usize| self.dominators[*at] != NONE;
        order.extend((0..blocks.len()).filter(|at| !reached(at)));
        order
    }
}

/// The blocks that the first leads to, each behind its successors; `sort` says in which order these are walked.
fn walk(blocks: &[Block], sort: impl Fn(usize, &mut Vec<usize>)) -> Vec<usize> {
    let successors = |at: usize| {
        let mut successors: Vec<usize> = blocks[at].successors().collect();
        sort(at, &mut successors);
        successors.into_iter()
    };
    let mut seen = vec![false; blocks.len()];
    seen[0] = true;
    let (mut stack, mut postorder) = (vec![(0, successors(0))], Vec::new());
    while let Some((at, rest)) = stack.last_mut() {
        match rest.next() {
            Some(next) if seen[next] => {}
            Some(next) => {
                seen[next] = true;
                stack.push((next, successors(next)));
            }
            None => {
                postorder.push(*at);
                stack.pop();
            }
        }
    }
    postorder
}
