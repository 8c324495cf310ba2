//! Products with, rows of and conversions from quantised weights.
//!
//! A quantised row is a sequence of blocks; a block holds small integers and their scales. In a file a block's fields lie
//! together, 18 or 210 bytes long, so that no load is aligned. On the device each field of all blocks lies apart, in a *plane*:
//! first field 0 of block 0, 1, 2, …, then field 1 of all blocks, and so on. The bytes are the same and as many; every plane
//! is aligned to what is read of it at a time, since the wider fields come first. `arrange` makes planes of a file's blocks.
//!
//! A [`Block`] says where a format's fields are and how a thread gets eight neighbouring values of a block; [`Packed`] how a
//! lane multiplies a chunk with 8-bit activations. The kernels below are written once over these. A new type is a file
//! here and a row in the table at the end.
//!
//! [`Block`]'s values are computed in `f32` in the order in which ggml does it, without fused operations: they have the same
//! bits. [`Packed`] multiplies integers (`dp4a`) and scales the sums.

pub mod codebooks;
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

use crate::{
    gemm::gemm_kernels,
    gemv::{
        Dot, Operands,
        activations::{Q8, Q16, Staged, bytes_q8},
        floats::{FromGlobal, FromShared, Source},
        gemv, gemv_kernels,
        many::{DotMany, gemv_many_kernels},
    },
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

/// The kernels of one block format, and what their launcher must know.
#[cfg(not(target_arch = "nvptx64"))]
pub struct BlockKernels {
    /// The number of the format's type, ggml's.
    pub tensor_type: u32,
    /// Values of a block.
    pub elements: usize,
    /// The fields.
    pub planes: &'static [Plane],
    /// Values that a lane takes at a time in the product with 8-bit activations.
    pub chunk: u32,
    /// Blocks of eight warps of that product that a multiprocessor has room for, by their registers.
    pub resident: usize,
    /// The product with 8-bit activations.
    pub gemv: cuda_std::Kernel<crate::gemv::Parameters>,
    /// The product with 16-bit activations.
    pub gemv_wide: cuda_std::Kernel<crate::gemv::Parameters>,
    /// The products of several vectors with 8-bit activations and with 16-bit ones; formats that unpack by tables have none.
    pub gemv_many: Option<[cuda_std::Kernel<crate::gemv::many::ManyParameters>; 2]>,
    /// The products of a few tokens on tensor cores, for up to 8, 16, 32 and 64 of them in a block; not every format has them.
    pub gemm: Option<[cuda_std::Kernel<crate::gemm::GemmParameters>; 4]>,
    /// The product with `f32` activations.
    pub gemv_exact: cuda_std::Kernel<crate::gemv::Parameters>,
    /// The embedding row.
    pub embedding: cuda_std::Kernel<(*const u8, u32, *const u32, *mut f32, u32)>,
    /// The conversion to f16.
    pub dequantise: cuda_std::Kernel<(*const u8, u32, u32, *mut F16, u64)>,
}

macro_rules! formats {
    ($(
        $block:ty: $gemv:ident[$resident:literal] $gemv_wide:ident $gemv_exact:ident $embedding:ident $dequantise:ident
        $(many $gemv_many:ident $gemv_many_wide:ident)?
        $(gemm $gemm_8:ident $gemm_16:ident $gemm_32:ident $gemm_64:ident)?;
    )*) => {
        $(
            $(gemv_many_kernels! {
                /// A product of several vectors with packed blocks and 8-bit activations.
                $gemv_many => Integers<$block>;
                /// A product of several vectors with packed blocks and 16-bit activations.
                $gemv_many_wide => WideIntegers<$block>;
            })?

            $(gemm_kernels! {
                /// A product of a few tokens with packed blocks, 8 to a block.
                $gemm_8 => $block, warps 1 1, threads 256, groups 4;
                /// A product of a few tokens with packed blocks, 16 to a block.
                $gemm_16 => $block, warps 2 1, threads 256, groups 8;
                /// A product of a few tokens with packed blocks, 32 to a block.
                $gemm_32 => $block, warps 4 2, threads 128, groups 16;
                /// A product of a few tokens with packed blocks, 64 to a block.
                $gemm_64 => $block, warps 8 2, threads 128, groups 32;
            })?

            gemv_kernels! {
                /// A product with packed blocks and 8-bit activations.
                $gemv[$resident] => gemv::<Integers<$block>>;
                /// A product with packed blocks and 16-bit activations.
                $gemv_wide[$resident] => gemv::<WideIntegers<$block>>;
                /// A product with packed blocks and `f32` activations.
                $gemv_exact[1] => exact::<$block>;
            }

            /// out[token][..] = table[tokens[token]][..] from planes, with ggml's bits.
            ///
            /// Launch: grid (n_tokens), block ([`BLOCK`]).
            ///
            /// # Safety
            /// - `table` is the planes of `n_blocks` blocks, rows of `n_embd` values, `n_embd` a whole number of blocks; `tokens` is
            ///   `[n_tokens]` below the number of rows; `out` is `[n_tokens][n_embd]`, 16-byte aligned.
            #[kernel]
            pub unsafe fn $embedding(table: *const u8, n_blocks: u32, tokens: *const u32, out: *mut f32, n_embd: u32) {
                unsafe { embedding::<$block>(table, n_blocks, tokens, out, n_embd) }
            }

            /// out[i] = value i of block `first_block` and those behind it, rounded to f16.
            ///
            /// A thread takes eight values. Launch: grid (⌈n ÷ (GROUP · BLOCK)⌉), block ([`BLOCK`]).
            ///
            /// # Safety
            /// - `weights` is the planes of `n_blocks` blocks; `n` is the values of a whole number of blocks, at most those from
            ///   `first_block` on; `out` is `[n]`, 16-byte aligned.
            #[kernel]
            pub unsafe fn $dequantise(weights: *const u8, n_blocks: u32, first_block: u32, out: *mut F16, n: u64) {
                unsafe { dequantise::<$block>(weights, n_blocks, first_block, out, n) }
            }
        )*

        /// Every format's kernels.
        #[cfg(not(target_arch = "nvptx64"))]
        pub const FORMATS: &[BlockKernels] = &[
            $(BlockKernels {
                tensor_type: <$block as Block>::TYPE,
                elements: <$block as Block>::ELEMENTS,
                planes: <$block as Block>::PLANES,
                chunk: <$block as Packed>::CHUNK,
                resident: $resident,
                gemv: $gemv,
                gemv_wide: $gemv_wide,
                gemv_many: {
                    let kernels: &[cuda_std::Kernel<crate::gemv::many::ManyParameters>] = &[$($gemv_many, $gemv_many_wide)?];
                    if let [many, wide] = kernels { Some([*many, *wide]) } else { None }
                },
                gemm: {
                    let kernels: &[cuda_std::Kernel<crate::gemm::GemmParameters>] = &[$($gemm_8, $gemm_16, $gemm_32, $gemm_64)?];
                    if let [least, few, more, most] = kernels { Some([*least, *few, *more, *most]) } else { None }
                },
                gemv_exact: $gemv_exact,
                embedding: $embedding,
                dequantise: $dequantise,
            },)*
        ];
    };
}

formats! {
    q4::Q4_0: gemv_q4_0[2] gemv_wide_q4_0 gemv_exact_q4_0 embedding_q4_0 dequantise_q4_0
        many gemv_many_q4_0 gemv_many_wide_q4_0
        gemm gemm_q4_0_8 gemm_q4_0_16 gemm_q4_0_32 gemm_q4_0_64;
    q4::Q4_1: gemv_q4_1[2] gemv_wide_q4_1 gemv_exact_q4_1 embedding_q4_1 dequantise_q4_1
        many gemv_many_q4_1 gemv_many_wide_q4_1
        gemm gemm_q4_1_8 gemm_q4_1_16 gemm_q4_1_32 gemm_q4_1_64;
    q5::Q5_0: gemv_q5_0[2] gemv_wide_q5_0 gemv_exact_q5_0 embedding_q5_0 dequantise_q5_0
        many gemv_many_q5_0 gemv_many_wide_q5_0
        gemm gemm_q5_0_8 gemm_q5_0_16 gemm_q5_0_32 gemm_q5_0_64;
    q5::Q5_1: gemv_q5_1[2] gemv_wide_q5_1 gemv_exact_q5_1 embedding_q5_1 dequantise_q5_1
        many gemv_many_q5_1 gemv_many_wide_q5_1
        gemm gemm_q5_1_8 gemm_q5_1_16 gemm_q5_1_32 gemm_q5_1_64;
    q8::Q8_0: gemv_q8_0[2] gemv_wide_q8_0 gemv_exact_q8_0 embedding_q8_0 dequantise_q8_0
        many gemv_many_q8_0 gemv_many_wide_q8_0
        gemm gemm_q8_0_8 gemm_q8_0_16 gemm_q8_0_32 gemm_q8_0_64;
    q2_k::Q2K: gemv_q2_k[2] gemv_wide_q2_k gemv_exact_q2_k embedding_q2_k dequantise_q2_k
        many gemv_many_q2_k gemv_many_wide_q2_k
        gemm gemm_q2_k_8 gemm_q2_k_16 gemm_q2_k_32 gemm_q2_k_64;
    q3_k::Q3K: gemv_q3_k[1] gemv_wide_q3_k gemv_exact_q3_k embedding_q3_k dequantise_q3_k
        many gemv_many_q3_k gemv_many_wide_q3_k
        gemm gemm_q3_k_8 gemm_q3_k_16 gemm_q3_k_32 gemm_q3_k_64;
    q4_k::Q4K: gemv_q4_k[2] gemv_wide_q4_k gemv_exact_q4_k embedding_q4_k dequantise_q4_k
        many gemv_many_q4_k gemv_many_wide_q4_k
        gemm gemm_q4_k_8 gemm_q4_k_16 gemm_q4_k_32 gemm_q4_k_64;
    q5_k::Q5K: gemv_q5_k[2] gemv_wide_q5_k gemv_exact_q5_k embedding_q5_k dequantise_q5_k
        many gemv_many_q5_k gemv_many_wide_q5_k
        gemm gemm_q5_k_8 gemm_q5_k_16 gemm_q5_k_32 gemm_q5_k_64;
    q6_k::Q6K: gemv_q6_k[2] gemv_wide_q6_k gemv_exact_q6_k embedding_q6_k dequantise_q6_k
        many gemv_many_q6_k gemv_many_wide_q6_k
        gemm gemm_q6_k_8 gemm_q6_k_16 gemm_q6_k_32 gemm_q6_k_64;
    iq4::Iq4Nl: gemv_iq4_nl[2] gemv_wide_iq4_nl gemv_exact_iq4_nl embedding_iq4_nl dequantise_iq4_nl
        many gemv_many_iq4_nl gemv_many_wide_iq4_nl
        gemm gemm_iq4_nl_8 gemm_iq4_nl_16 gemm_iq4_nl_32 gemm_iq4_nl_64;
    iq4::Iq4Xs: gemv_iq4_xs[2] gemv_wide_iq4_xs gemv_exact_iq4_xs embedding_iq4_xs dequantise_iq4_xs
        many gemv_many_iq4_xs gemv_many_wide_iq4_xs
        gemm gemm_iq4_xs_8 gemm_iq4_xs_16 gemm_iq4_xs_32 gemm_iq4_xs_64;
    mxfp4::Mxfp4: gemv_mxfp4[2] gemv_wide_mxfp4 gemv_exact_mxfp4 embedding_mxfp4 dequantise_mxfp4
        many gemv_many_mxfp4 gemv_many_wide_mxfp4
        gemm gemm_mxfp4_8 gemm_mxfp4_16 gemm_mxfp4_32 gemm_mxfp4_64;
    iq1::Iq1S: gemv_iq1_s[2] gemv_wide_iq1_s gemv_exact_iq1_s embedding_iq1_s dequantise_iq1_s;
    iq1::Iq1M: gemv_iq1_m[2] gemv_wide_iq1_m gemv_exact_iq1_m embedding_iq1_m dequantise_iq1_m;
    iq2::Iq2Xxs: gemv_iq2_xxs[2] gemv_wide_iq2_xxs gemv_exact_iq2_xxs embedding_iq2_xxs dequantise_iq2_xxs;
    iq2::Iq2Xs: gemv_iq2_xs[2] gemv_wide_iq2_xs gemv_exact_iq2_xs embedding_iq2_xs dequantise_iq2_xs;
    iq2::Iq2S: gemv_iq2_s[2] gemv_wide_iq2_s gemv_exact_iq2_s embedding_iq2_s dequantise_iq2_s;
    iq3::Iq3Xxs: gemv_iq3_xxs[2] gemv_wide_iq3_xxs gemv_exact_iq3_xxs embedding_iq3_xxs dequantise_iq3_xxs;
    iq3::Iq3S: gemv_iq3_s[1] gemv_wide_iq3_s gemv_exact_iq3_s embedding_iq3_s dequantise_iq3_s;
    tq::Tq1_0: gemv_tq1_0[2] gemv_wide_tq1_0 gemv_exact_tq1_0 embedding_tq1_0 dequantise_tq1_0;
    tq::Tq2_0: gemv_tq2_0[2] gemv_wide_tq2_0 gemv_exact_tq2_0 embedding_tq2_0 dequantise_tq2_0
        gemm gemm_tq2_0_8 gemm_tq2_0_16 gemm_tq2_0_32 gemm_tq2_0_64;
    nvfp4::Nvfp4: gemv_nvfp4[2] gemv_wide_nvfp4 gemv_exact_nvfp4 embedding_nvfp4 dequantise_nvfp4
        gemm gemm_nvfp4_8 gemm_nvfp4_16 gemm_nvfp4_32 gemm_nvfp4_64;
}
