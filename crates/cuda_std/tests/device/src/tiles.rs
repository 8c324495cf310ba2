//! Kernels that copy tiles by tensor maps.

use cuda_std::mbarrier::Barrier;
use cuda_std::tensor_map::{Coordinates, Descriptor, TensorMap};
use cuda_std::{bulk, cluster, fence, kernel, shared_array, thread};

shared_array! {
    tile_words: [u32; 4096], align = 1024;
    came: [u64; 1];
}

/// What a test wants of a round trip: bytes that the barrier is told of, whether anybody waits for them, and what becomes of the tile in
/// the end.
struct Trip {
    expected: u32,
    waits: bool,
    end: u32,
}

/// The tile is stored; it is added; it stays.
const STORE: u32 = 0;
const ADD: u32 = 1;

/// A tile into shared memory, word for word to `raw`, and on into another tensor.
#[inline(always)]
unsafe fn carry(from: TensorMap, to: TensorMap, at: impl Coordinates, raw: *mut u32, words: u32, trip: Trip) {
    let barrier = unsafe { Barrier::at(came(), 0) };
    let thread = thread::thread_idx_x();
    if thread == 0 {
        from.prefetch();
        from.prefetch_tile(at);
        barrier.init(1);
        fence::barrier_init();
        barrier.arrive_expecting(trip.expected);
        unsafe { from.load(tile_words(), 0, at, barrier) };
    }
    thread::sync_threads();
    if trip.waits {
        barrier.wait(0);
    }
    let mut i = thread;
    while i < words {
        unsafe { *raw.add(i as usize) = tile_words().get(i) };
        i += thread::block_dim_x();
    }
    fence::proxy_async();
    thread::sync_threads();
    if thread == 0 {
        unsafe {
            match trip.end {
                STORE => to.store(at, tile_words(), 0),
                ADD => to.add(at, tile_words(), 0),
                _ => {}
            }
        }
        bulk::commit();
        bulk::wait::<0>();
    }
}

macro_rules! carriers {
    ($($name:ident($($at:ident),*);)*) => {$(
        #[kernel]
        pub unsafe fn $name(
            words: u32, from: TensorMap, raw: *mut u32, to: TensorMap, expected: u32, waits: u32, end: u32, $($at: i32),*
        ) {
            let trip = Trip { expected, waits: waits != 0, end };
            unsafe { carry(from, to, [$($at),*], raw, words, trip) }
        }
    )*};
}

carriers! {
    carry_1(a);
    carry_2(a, b);
    carry_3(a, b, c);
    carry_4(a, b, c, d);
    carry_5(a, b, c, d, e);
}

/// As `carry_2`, with both maps in global memory.
#[kernel]
pub unsafe fn carry_by_pointer(maps: *const Descriptor, raw: *mut u32, words: u32, x: i32, y: i32) {
    let map = |i| unsafe { TensorMap::at(maps.add(i)) };
    let trip = Trip { expected: 4 * words, waits: true, end: STORE };
    unsafe { carry(map(0), map(1), [x, y], raw, words, trip) }
}

/// Block 0 of each cluster brings a tile of 64 words to all of it. `out` is `[blocks][64]`.
#[kernel]
pub unsafe fn spread_tile(from: TensorMap, out: *mut u32, x: i32, y: i32) {
    let i = thread::thread_idx_x();
    let barrier = unsafe { Barrier::at(came(), 0) };
    if i == 0 {
        barrier.init(1);
        fence::barrier_init();
        barrier.arrive_expecting(256);
    }
    cluster::sync();
    if i == 0 && cluster::rank() == 0 {
        unsafe { from.load_to_blocks(tile_words(), 0, [x, y], barrier, (1 << cluster::size()) - 1) };
    }
    barrier.wait(0);
    unsafe { *out.add((64 * thread::block_idx_x() + i) as usize) = tile_words().get(i) };
    cluster::sync();
}
