//! Products with, rows of and conversions from quantised weights.
//!
//! A quantised row is a sequence of blocks; a block holds small integers and their scales. In a file a block's fields lie
//! together, 18 or 210 bytes long, so that no load is aligned. On the device each field of all blocks lies apart, in a *plane*:
//! first field 0 of block 0, 1, 2, …, then field 1 of all blocks, and so on. The bytes are the same and as many; every plane
//! is aligned to what is read of it at a time, since the wider fields come first. `arrange` makes planes of a file's blocks.
//!
//! A [`Block`] says where a format's fields are and how a thread gets eight neighbouring values of a block; [`Packed`] how a
//! lane multiplies a chunk with 8-bit activations. The kernels below are written once over these. A new type is a file
//! here and a row in the table in `formats.rs`.
//!
//! [`Block`]'s values are computed in `f32` in the order in which ggml does it, without fused operations: they have the same
//! bits. [`Packed`] multiplies integers (`dp4a`) and scales the sums.

mod bytes;
pub mod codebooks;
mod formats;
mod halves;
mod iq1;
mod iq2;
mod iq3;
mod iq4;
mod k_scales;
mod look_up;
pub mod mixed;
mod mxfp4;
mod nvfp4;
mod order;
mod q2_k;
mod q3_k;
mod q4;
mod q4_k;
mod q5;
mod q5_k;
mod q6_k;
mod q8;
mod run;
mod tq;

use core::marker::PhantomData;

pub use bytes::Bytes;
#[cfg(not(target_arch = "nvptx64"))]
pub use formats::{BlockKernels, FORMATS};
pub use halves::{Halves, Masks};
pub use order::Order;

use cuda_std::{
    F16, float, grid, kernel,
    memory::{
        Vector16, global, load_constant_1, load_constant_2, load_constant_4, load_constant_8, load_constant_16,
        load_streaming_8, load_streaming_16, prefetch_l2,
    },
    thread,
    types::pack_f16,
};

use crate::gemv::{
    Dot, Operands,
    activations::{Q8, Q16, Staged, bytes_q8},
    floats::{FromGlobal, FromShared, Source},
    gemv,
    many::DotMany,
};

/// The number of threads of a block in the kernels other than products.
pub const BLOCK: u32 = 128;

/// Values that a thread takes at a time.
pub const GROUP: usize = 8;

/// A field of a format's blocks.
#[derive(Clone, Copy, Debug)]
pub struct Plane {
    /// Where the field begins in a block of a file, in bytes.
    pub offset: usize,
    /// Its bytes.
    pub size: usize,
    /// How its bits lie on the device.
    pub order: Order,
}

impl Plane {
    /// A field whose bytes are as in the file.
    const fn new(offset: usize, size: usize) -> Plane {
        Plane::ordered(offset, size, Order::File)
    }

    const fn ordered(offset: usize, size: usize, order: Order) -> Plane {
        Plane { offset, size, order }
    }
}

/// Bytes of a block with these fields.
pub const fn block_bytes(planes: &[Plane]) -> usize {
    let (mut bytes, mut index) = (0, 0);
    while index < planes.len() {
        bytes += planes[index].size;
        index += 1;
    }
    bytes
}

/// A block's fields, in the order of the planes.
#[derive(Clone, Copy)]
pub struct Fields(pub [*const u8; 4]);

/// Where a matrix's planes begin.
#[derive(Clone, Copy)]
pub struct Planes([*const u8; 4]);

/// A block format. Layouts within a field are those of ggml-common.h.
pub trait Block: Copy {
    /// The number of its type: `ggml_type` in ggml.h.
    const TYPE: u32;
    /// Values in a block.
    const ELEMENTS: usize;
    /// The fields, at most four. All but the last few bytes of a block are in fields whose size is a multiple of 16, and these
    /// come first.
    const PLANES: &'static [Plane];

    /// Values `8 · group` to `8 · group + 7` of a block.
    ///
    /// # Safety
    /// - `fields` are a block's, `group < ELEMENTS / 8`.
    unsafe fn values(fields: Fields, group: usize) -> [f32; GROUP];
}

/// A format's product with 8-bit activations.
pub trait Packed: Block {
    /// Values that a lane takes at a time.
    const CHUNK: u32;
    /// As [`Dot::AHEAD`].
    const AHEAD: bool = true;
    /// A chunk's weights, as loaded.
    type Bits: Copy;
    /// The activations beside a chunk.
    type X;

    /// Puts what the products look up into shared memory. Collective over the block, which meets at a barrier before the first
    /// product.
    ///
    /// # Safety
    /// - Called once in a launch.
    #[inline(always)]
    unsafe fn prepare() {}

    /// Loads a chunk, counted over all rows.
    ///
    /// # Safety
    /// - The chunk is within the planes, which are global addresses.
    unsafe fn load(planes: Planes, chunk: u32) -> Self::Bits;

    /// The activations beside chunk `chunk` of a row.
    ///
    /// # Safety
    /// - The chunk is within the row, the activations are staged.
    unsafe fn x(staged: Q8, chunk: u32) -> Self::X;

    /// sum + the products of a chunk, behind [`prepare`](Packed::prepare) and its barrier.
    fn dot(bits: Self::Bits, x: &Self::X, sum: f32) -> f32;
}

impl Planes {
    /// The planes of `n_blocks` blocks from `weights` on.
    #[inline(always)]
    pub(crate) fn of<B: Block>(weights: *const u8, n_blocks: u32) -> Planes {
        let (mut starts, mut bytes, mut plane) = ([weights; 4], 0, 0);
        while plane < B::PLANES.len() {
            starts[plane] = weights.wrapping_add(n_blocks as usize * bytes);
            bytes += B::PLANES[plane].size;
            plane += 1;
        }
        Planes(starts)
    }

    /// The fields of block `block`.
    #[inline(always)]
    fn fields<B: Block>(self, block: usize) -> Fields {
        let (mut fields, mut plane) = (self.0, 0);
        while plane < B::PLANES.len() {
            fields[plane] = fields[plane].wrapping_add(block * B::PLANES[plane].size);
            plane += 1;
        }
        Fields(fields)
    }

    /// The 16 bytes `index` of a plane, which no other lane reads.
    #[inline(always)]
    unsafe fn stream(self, plane: usize, index: u32) -> [u32; 4] {
        unsafe { load_streaming_16(self.0[plane].cast::<[u8; 16]>().add(index as usize)) }
    }

    /// The 8 bytes `index` of a plane, which no other lane reads.
    #[inline(always)]
    unsafe fn stream_eight(self, plane: usize, index: u32) -> [u32; 2] {
        unsafe { load_streaming_8(self.0[plane].cast::<[u8; 8]>().add(index as usize)) }
    }

    /// The 16 bytes `index` of a plane.
    #[inline(always)]
    unsafe fn sixteen(self, plane: usize, index: u32) -> [u32; 4] {
        unsafe { load_constant_16(self.0[plane].cast::<[u8; 16]>().add(index as usize)) }
    }

    /// The 8 bytes `index` of a plane.
    #[inline(always)]
    unsafe fn eight(self, plane: usize, index: u32) -> [u32; 2] {
        unsafe { load_constant_8(self.0[plane].cast::<u64>().add(index as usize)) }
    }

    /// The 4 bytes `index` of a plane.
    #[inline(always)]
    unsafe fn word(self, plane: usize, index: u32) -> u32 {
        unsafe { load_constant_4(self.0[plane].cast::<u32>().add(index as usize))[0] }
    }

    /// The 2 bytes `index` of a plane.
    #[inline(always)]
    unsafe fn half(self, plane: usize, index: u32) -> u32 {
        unsafe { load_constant_2(self.0[plane].cast::<u16>().add(index as usize))[0] }
    }

    /// The half-precision number `index` of a plane.
    #[inline(always)]
    unsafe fn f16(self, plane: usize, index: u32) -> f32 {
        F16::from_bits(unsafe { self.half(plane, index) } as u16).to_f32()
    }

    /// Byte `index` of a plane.
    #[inline(always)]
    unsafe fn byte(self, plane: usize, index: u32) -> u32 {
        unsafe { load_constant_1(self.0[plane].add(index as usize))[0] }
    }
}

/// The two bytes at `address`, little-endian, wherever it lies.
///
/// # Safety
/// - `address` leads to two bytes.
#[inline(always)]
unsafe fn load_u16(address: *const u8) -> u16 {
    unsafe { u16::from(*address) | u16::from(*address.add(1)) << 8 }
}

/// The half-precision number at `address`.
///
/// # Safety
/// - `address` leads to two bytes.
#[inline(always)]
unsafe fn load_f16(address: *const u8) -> f32 {
    F16::from_bits(unsafe { load_u16(address) }).to_f32()
}

/// Eight values from a function of their index, unrolled.
#[inline(always)]
fn eight(value: impl Fn(usize) -> f32) -> [f32; GROUP] {
    let mut values = [0.0; GROUP];
    let mut index = 0;
    while index < GROUP {
        values[index] = value(index);
        index += 1;
    }
    values
}

/// The values of group `group`, counted from the first block.
#[inline(always)]
unsafe fn values_of_group<B: Block>(planes: Planes, group: usize) -> [f32; GROUP] {
    let groups = const { B::ELEMENTS / GROUP };
    unsafe { B::values(planes.fields::<B>(group / groups), group % groups) }
}

/// Products of a format's values, unpacked, with `f32` activations: exact, and slow.
#[derive(Clone, Copy)]
struct Exact<B, S> {
    planes: Planes,
    format: PhantomData<(B, S)>,
}

impl<B: Block, S: Source> Dot for Exact<B, S> {
    const CHUNK: u32 = GROUP as u32;
    const AHEAD: bool = false;
    type Bits = [f32; GROUP];
    type X = [[f32; 4]; 2];
    type Activations = S::Staged;

    #[inline(always)]
    unsafe fn new(operands: &Operands) -> Self {
        Exact { planes: Planes::of::<B>(operands.weights, operands.n_blocks), format: PhantomData }
    }

    #[inline(always)]
    unsafe fn load(self, chunk: u32) -> [f32; GROUP] {
        unsafe { values_of_group::<B>(self.planes, chunk as usize) }
    }

    #[inline(always)]
    unsafe fn prefetch(self, _chunk: u32) {}

    #[inline(always)]
    unsafe fn x(activations: S::Staged, chunk: u32) -> [[f32; 4]; 2] {
        let index = chunk * Self::CHUNK;
        unsafe { [S::four(activations, index), S::four(activations, index + 4)] }
    }

    #[inline(always)]
    fn dot(bits: [f32; GROUP], x: &[[f32; 4]; 2], sum: f32) -> f32 {
        let (mut sum, mut index) = (sum, 0);
        while index < GROUP {
            sum = float::fma(bits[index], x[index / 4][index % 4], sum);
            index += 1;
        }
        sum
    }
}

#[inline(always)]
unsafe fn exact<B: Block>(operands: &Operands) {
    unsafe {
        if operands.norm.is_null() {
            gemv::<Exact<B, FromGlobal>>(operands)
        } else {
            gemv::<Exact<B, FromShared>>(operands)
        }
    }
}

/// Products of a format's integers with 8-bit activations.
#[derive(Clone, Copy)]
struct Integers<B> {
    planes: Planes,
    format: PhantomData<B>,
}

impl<B: Packed> Dot for Integers<B> {
    const CHUNK: u32 = B::CHUNK;
    const AHEAD: bool = B::AHEAD;
    type Bits = B::Bits;
    type X = B::X;
    type Activations = Q8;

    #[inline(always)]
    unsafe fn new(operands: &Operands) -> Self {
        unsafe { B::prepare() }
        Integers { planes: Planes::of::<B>(global(operands.weights), operands.n_blocks), format: PhantomData }
    }

    #[inline(always)]
    unsafe fn load(self, chunk: u32) -> B::Bits {
        unsafe { B::load(self.planes, chunk) }
    }

    #[inline(always)]
    unsafe fn prefetch(self, chunk: u32) {
        let bytes = const { B::PLANES[0].size * B::CHUNK as usize / B::ELEMENTS };
        unsafe { prefetch_l2(self.planes.0[0].add(bytes * chunk as usize)) }
    }

    #[inline(always)]
    unsafe fn stage(operands: &Operands, x: *const f32) -> (Q8, f32) {
        unsafe {
            if operands.quantised_x.is_null() {
                Q8::stage(x, operands.norm, operands.n_in)
            } else {
                (Q8::copy(operands.quantised_x, operands.n_in), 0.0)
            }
        }
    }

    #[inline(always)]
    unsafe fn x(activations: Q8, chunk: u32) -> B::X {
        unsafe { B::x(activations, chunk) }
    }

    #[inline(always)]
    fn dot(bits: B::Bits, x: &B::X, sum: f32) -> f32 {
        B::dot(bits, x, sum)
    }
}

/// Products of a format's integers with 16-bit activations: those with their two parts.
#[derive(Clone, Copy)]
struct WideIntegers<B>(Integers<B>);

impl<B: Packed> Dot for WideIntegers<B> {
    const CHUNK: u32 = B::CHUNK;
    const AHEAD: bool = false;
    type Bits = B::Bits;
    type X = [B::X; 2];
    type Activations = Q16;

    #[inline(always)]
    unsafe fn new(operands: &Operands) -> Self {
        WideIntegers(unsafe { Integers::new(operands) })
    }

    #[inline(always)]
    unsafe fn load(self, chunk: u32) -> B::Bits {
        unsafe { self.0.load(chunk) }
    }

    #[inline(always)]
    unsafe fn prefetch(self, chunk: u32) {
        unsafe { self.0.prefetch(chunk) }
    }

    #[inline(always)]
    unsafe fn stage(operands: &Operands, x: *const f32) -> (Q16, f32) {
        unsafe { Q16::stage(x, operands.norm, operands.n_in) }
    }

    #[inline(always)]
    unsafe fn x(activations: Q16, chunk: u32) -> [B::X; 2] {
        unsafe { [B::x(activations.high, chunk), B::x(activations.low, chunk)] }
    }

    #[inline(always)]
    fn dot(bits: B::Bits, [high, low]: &[B::X; 2], sum: f32) -> f32 {
        B::dot(bits, low, B::dot(bits, high, sum))
    }
}

impl<B: Packed> DotMany for Integers<B> {
    const SHARED: bool = true;
    const LOADS_AHEAD: bool = true;

    #[inline(always)]
    unsafe fn x_of(_: *const u32, start: u32, n_in: u32, chunk: u32) -> B::X {
        unsafe { B::x(Q8::behind(start, n_in), chunk) }
    }
}

impl<B: Packed> DotMany for WideIntegers<B> {
    const SHARED: bool = true;
    const LOADS_AHEAD: bool = false;

    #[inline(always)]
    unsafe fn x_of(_: *const u32, start: u32, n_in: u32, chunk: u32) -> [B::X; 2] {
        let (high, low) = (Q8::behind(start, n_in), Q8::behind(start + bytes_q8(n_in), n_in));
        unsafe { [B::x(high, chunk), B::x(low, chunk)] }
    }
}

#[inline(always)]
unsafe fn embedding<B: Block>(table: *const u8, n_blocks: u32, tokens: *const u32, out: *mut f32, n_embd: u32) {
    grid::launch_dependents();
    grid::wait();
    let token = thread::block_idx_x() as usize;
    let (planes, groups) = (Planes::of::<B>(table, n_blocks), n_embd as usize / GROUP);
    let row = unsafe { *tokens.add(token) } as usize;
    let mut group = thread::thread_idx_x() as usize;
    while group < groups {
        let values = unsafe { values_of_group::<B>(planes, row * groups + group) };
        let target = unsafe { out.add(token * n_embd as usize + group * GROUP).cast::<Vector16>() };
        let four = |first: usize| Vector16([0, 1, 2, 3].map(|index| values[first + index].to_bits()));
        unsafe {
            *target = four(0);
            *target.add(1) = four(4);
        }
        group += thread::block_dim_x() as usize;
    }
}

#[inline(always)]
unsafe fn dequantise<B: Block>(weights: *const u8, n_blocks: u32, first_block: u32, out: *mut F16, n: u64) {
    let group = u64::from(thread::block_idx_x()) * u64::from(BLOCK) + u64::from(thread::thread_idx_x());
    if group * GROUP as u64 >= n {
        return;
    }
    let before = first_block as usize * const { B::ELEMENTS / GROUP };
    let values = unsafe { values_of_group::<B>(Planes::of::<B>(weights, n_blocks), before + group as usize) };
    let halves = Vector16([0, 2, 4, 6].map(|index| pack_f16(values[index], values[index + 1])));
    unsafe { *out.add(group as usize * GROUP).cast::<Vector16>() = halves }
}

/// Takes one field out of a file's blocks: plane[b · size + i] = byte i of the field at blocks[b · block_bytes + offset] in the
/// order of number `order`, for each of `n_blocks` blocks and `size` bytes.
///
/// One thread a byte. Launch: grid (⌈n_blocks · size ÷ BLOCK⌉), block ([`BLOCK`]).
///
/// # Safety
/// - `blocks` is `n_blocks` blocks of `block_bytes`, `plane` has room for as many fields; `size ≥ 1`, `offset + size ≤ block_bytes`;
///   the order is that of a field of this size.
#[kernel]
pub unsafe fn arrange(
    blocks: *const u8,
    plane: *mut u8,
    n_blocks: u32,
    block_bytes: u32,
    offset: u32,
    size: u32,
    order: u32,
) {
    let index = thread::index_1d();
    if index >= n_blocks * size {
        return;
    }
    // SAFETY: by the launch contract; said here so that no division is guarded by a panic.
    unsafe { core::hint::assert_unchecked(size > 0) }
    let (block, byte) = (index / size, index % size);
    let order = Order::of(order);
    unsafe {
        *plane.add(index as usize) = order.byte(blocks.add((block * block_bytes + offset) as usize), byte as usize)
    }
}
