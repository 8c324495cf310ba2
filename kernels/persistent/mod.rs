//! A whole token's step in one launch.
//!
//! A step is some hundred small launches that wait for one another, and each costs microseconds in which nothing is read. Here
//! the launches are *phases* of one kernel whose blocks, all resident, stay from the embedding to the greedy choice. What a
//! phase computes is what the kernel of the same name does, by the same function.
//!
//! # Program
//!
//! The phases are an array of [records](RECORD_WORDS) in global memory, which the host makes by recording the launches of a
//! step. Each block walks over all of it. A record says which of the blocks have a part in the phase; the others go on
//! to the next one. Records are copied to shared memory two phases ahead.
//!
//! # Waiting
//!
//! One counter in global memory counts the parts that are done. Phases that may run beside each other are a *stage*. A part
//! may begin when all parts of the stages before its own are done, which is when the counter has reached the number of these:
//! no later part can have been counted, since none has begun. So there is no barrier of the grid, only of those with work,
//! and whoever is early waits where its work needs it. By the same argument all that a stage reads may be overwritten in the
//! next but one stage, whoever read it.
//!
//! The last part of the last phase sets the counter to zero, for the next launch: nobody waits any more then.
//!
//! # Reading ahead
//!
//! The time between phases is spent with reading weights: a part loads its first ones into registers before it waits. And
//! each record names *spans*, ranges of weights of this phase and later ones, which all blocks together bring into the L2
//! cache while they wait.
//!
//! Each phase is a function that is called and not inlined: registers are given to one at a time.

mod dispatch;

use cuda_std::{
    async_copy, atomic, grid::Block, kernel, memory::prefetch_l2_bytes, shared::Shared, shared_array, thread,
};

use dispatch::run;

#[cfg(not(target_arch = "nvptx64"))]
pub use dispatch::kind_of;

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// Words of a record.
///
/// | words | what |
/// |---|---|
/// | 0 | what the phase computes ([`kind_of`]) |
/// | 1 | the block that has the first part; the following ones have the following parts, round the grid |
/// | 2, 3, 4 | parts along x, y and z |
/// | 5 | parts that are done when this phase may begin |
/// | 6 | spans |
/// | [`SLOTS`].. | the kernel's arguments, two words each |
/// | [`SPANS`].. | spans of four words: address, bytes for each block, bytes in all |
pub const RECORD_WORDS: u32 = 80;

/// Where the arguments begin in a record.
pub const SLOTS: u32 = 8;

/// The most arguments.
pub const MAX_SLOTS: u32 = 20;

/// Where the spans begin.
pub const SPANS: u32 = SLOTS + 2 * MAX_SLOTS;

/// Words of a span.
pub const SPAN_WORDS: u32 = 4;

/// The most spans of a record.
pub const MAX_SPANS: u32 = (RECORD_WORDS - SPANS) / SPAN_WORDS;

/// Records in shared memory: one is in use, the next has arrived, and one or two are on the way.
const KEPT: u32 = 4;

/// Records between the one in use and the one that is fetched.
const AHEAD: u32 = 2;

shared_array! {
    persistent_records: [u32; (KEPT * RECORD_WORDS) as usize];
}

/// A block's part of a phase.
#[derive(Clone, Copy)]
struct Part {
    /// The record, in shared memory.
    record: Shared<u32>,
    /// Which part of the phase, counted along x first.
    index: u32,
    counter: *mut u32,
}

impl Part {
    #[inline(always)]
    fn new(record: u32, index: u32, counter: *mut u32) -> Part {
        // SAFETY: the address of a record.
        Part { record: unsafe { Shared::at(record) }, index, counter }
    }

    /// As a block of a launch.
    #[inline(always)]
    fn block(self) -> Block {
        let (n_x, n_y) = unsafe { (self.record.get(2), self.record.get(3)) };
        // SAFETY: no launch is without blocks; said here so that no division is guarded by a panic.
        unsafe { core::hint::assert_unchecked(n_x > 0 && n_y > 0) }
        Block { x: self.index % n_x, y: self.index / n_x % n_y, z: self.index / n_x / n_y, n_x, n_y }
    }

    /// As a block of a launch along x.
    #[inline(always)]
    fn block_along_x(self) -> Block {
        Block { x: self.index, y: 0, z: 0, n_x: unsafe { self.record.get(2) }, n_y: 1 }
    }

    #[inline(always)]
    fn word(self, slot: u32) -> u32 {
        unsafe { self.record.look_up(SLOTS + 2 * slot) }
    }

    #[inline(always)]
    fn float(self, slot: u32) -> f32 {
        f32::from_bits(self.word(slot))
    }

    #[inline(always)]
    fn pointer<T>(self, slot: u32) -> *mut T {
        let word = |index| unsafe { self.record.look_up(SLOTS + 2 * slot + index) };
        let (low, high) = (word(0), word(1));
        (u64::from(low) | u64::from(high) << 32) as *mut T
    }

    /// Fetches this block's share of the spans, and waits for the stages before. Collective over the block.
    #[inline(always)]
    fn wait(self) {
        unsafe { prefetch(self.record) }
        if thread::thread_idx_x() == 0 {
            let before = unsafe { self.record.get(5) };
            while unsafe { atomic::load_acquire(self.counter) } < before {}
        }
        thread::sync_threads();
    }
}

/// Begins to fetch this block's share of a record's spans: a thread of the last warp each, for the first one is the one that
/// waits.
#[inline(always)]
unsafe fn prefetch(record: Shared<u32>) {
    let index = thread::thread_idx_x().wrapping_sub(BLOCK - 32);
    if index < unsafe { record.get(6) } {
        let [low, high, piece, bytes] = unsafe { record.get_four(SPANS + SPAN_WORDS * index) };
        let first = thread::block_idx_x() * piece;
        if first < bytes {
            let address = (u64::from(low) | u64::from(high) << 32) + u64::from(first);
            unsafe { prefetch_l2_bytes(address, if bytes - first < piece { bytes - first } else { piece }) }
        }
    }
}

/// Begins to copy a record to its place in shared memory.
#[inline(always)]
unsafe fn fetch(program: *const u32, index: u32) {
    let word = 4 * thread::thread_idx_x();
    if word < RECORD_WORDS {
        let source = unsafe { program.add((index * RECORD_WORDS + word) as usize) };
        unsafe { async_copy::copy_16(persistent_records(), index % KEPT * RECORD_WORDS + word, source, true) }
    }
}

#[inline(always)]
unsafe fn walk(program: *const u32, n_phases: u32, counter: *mut u32) {
    let (block, n_blocks) = (thread::block_idx_x(), thread::grid_dim_x());
    let mut index = 0;
    while index < AHEAD {
        if index < n_phases {
            unsafe { fetch(program, index) }
        }
        index += 1;
    }
    async_copy::commit();
    async_copy::wait::<0>();
    thread::sync_threads();

    index = 0;
    while index < n_phases {
        if index + AHEAD < n_phases {
            unsafe { fetch(program, index + AHEAD) }
        }
        async_copy::commit();
        let address = persistent_records().element_address(index % KEPT * RECORD_WORDS);
        let record: Shared<u32> = unsafe { Shared::at(address) };
        let [kind, first, n_x, n_y] = unsafe { record.get_four(0) };
        let part = if block < first { block + n_blocks - first } else { block - first };
        let takes_part = part < n_x * n_y * unsafe { record.get(4) };
        if takes_part {
            unsafe { run(kind, address, part, counter) }
        } else {
            unsafe { prefetch(record) }
        }
        // The next record has arrived, and all threads are done with this one.
        async_copy::wait::<1>();
        thread::sync_threads();
        // The last phase resets the counter instead.
        if takes_part && index + 1 < n_phases && thread::thread_idx_x() == 0 {
            unsafe { atomic::add_release(counter, 1) }
        }
        index += 1;
    }
}

/// Walks over `program`, which ends with the greedy choice.
///
/// Launch: cooperative, grid (as many blocks as the records reckon with), block ([`BLOCK`]), dynamic shared memory as the phase
/// with the most needs.
///
/// # Safety
/// - `program` is `[n_phases][RECORD_WORDS]`, 16-byte aligned, each phase's arguments as its kernel's launch contract says
///   for blocks of [`BLOCK`] threads, its parts at most the grid. Spans are within global memory, at multiples of 16.
/// - `*counter` is 0, which it is again afterwards; a phase begins where all that it must come after are counted.
#[kernel(threads = 256, blocks = 2)]
pub unsafe fn persistent(program: *const u32, n_phases: u32, counter: *mut u32) {
    unsafe { walk(program, n_phases, counter) }
}
