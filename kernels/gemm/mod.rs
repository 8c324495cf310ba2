//! Products of weights with a few tokens, on tensor cores.
//!
//! Up to 64 tokens are one reading of the weights. They stay what they are, packed or floats of 16 bits, until they are in registers, where a lane
//! makes f16 of its own ([`Weights`]). There are two ways, the same to whoever launches them but for their [`Geometry`]: warps by themselves (`mma`, in [`warps`]), and, where the
//! image is Hopper's, groups of four warps that a fifth brings activations to (`wgmma`, in `groups`). An image has one of them, under the
//! same names.
//!
//! # Who has what
//!
//! Of each 16 rows a warp has, a lane has rows `group` and `group + 8` (see [`mma`](cuda_std::mma)).
//! At each *step* a row gives four *chunks* of 32 values, one to each of the four lanes that have the row: a lane loads its chunk
//! in 16 bytes or so, as the products with one token do, or the 64 bytes of floats. A *unit* of a block's work is a step, or two where the image is Hopper's. What is multiplied with what matters to a product, not which of its
//! steps does it, so a lane's chunk is eight products' share of that lane: values 4 m to 4 m + 3 are its four of product m.
//! Nothing has to be exchanged. The tokens' activations are f16 in shared memory, in an order that goes with that.
//!
//! # Who does what
//!
//! Row tiles and their units, one tile after the other, are one long list that the blocks share evenly, whatever the matrix's
//! shape. So a block may begin and end within a tile. Tiles that several blocks have a part of are added up by whichever is there
//! last, from what they all left in memory, in the tile's order. Which parts there are depends on the shape, the device and the kernel
//! alone, and not on how many of its tokens there are.
//!
//! A small matrix would be cut into more parts than there is work in each. In an image for Hopper its tiles are those of a group, and the groups of a block
//! have a unit of the tile each: what they make is added up in the block's memory, and few blocks, if several, have parts of one tile
//! ([`Operands::apart`]).
//!
//! # Experts
//!
//! Of a stack of matrices, one for each expert, a block takes tokens of one expert alone. Which they are, [`experts`](crate::experts) made a
//! list of, cut into tiles of as many tokens as a block has; a block along y has a tile. So an expert's weights are read once for a tile of its
//! tokens, wherever these are, and outputs go where the list says. A tile of rows is then one block's alone.
//!
//! # Beside each other
//!
//! Products with the same activations, of a matrix whose parts are of different types, are launches that share the device: each has as many blocks as it
//! has of the work, and they run at the same time. The first lets the next one start when it has itself waited for what was
//! before, so that this may read the activations at once; it waits in turn before it writes ([`BESIDE_NEXT`], [`BESIDE_LAST`]).
//!
//! # Activations
//!
//! x is f16, a row for each token, or in the order that panels have it ([`steps`]), which kernels for Hopper can take: then it comes by bulk copies, where it else goes through
//! registers on the way. A unit's outputs can be left so for the product after it.
//!
//! # Gated units
//!
//! Of a matrix of gates above as many up projections a block's rows are half gates, and half the up projections of the same outputs: a lane has both of
//! an output, and writes what SwiGLU makes of the two ([`glu`](crate::glu)). Other units are launches of their own.
//!
//! # Precision
//!
//! A packed weight is rounded to f16 twice: its scale, and the product with it; bf16 is once, where it has to be. Sums are `f32`.

pub mod floats;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
pub mod groups;
pub mod steps;
#[cfg(not(all(target_arch = "nvptx64", cuda_arch_at_least = "90")))]
pub mod warps;
mod weights;

pub use weights::Weights;

use cuda_std::{F16, grid, shared::Shared, thread, unroll::unroll};

use crate::{
    experts::ExpertTile,
    glu::{SWIGLU, unit_for_f16},
};

/// How a kernel of a format shares its work: what its launcher must know.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Tokens of a block.
    pub tokens: usize,
    /// Rows of a block.
    pub rows: usize,
    /// Values of each row that a unit of its work takes.
    pub columns: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Blocks that a multiprocessor has room for.
    pub resident: usize,
    /// Counters of a tile of rows: who adds up a part of it by themselves.
    pub counters: usize,
    /// Steps of a panel, of those that say so when they are launched.
    pub panel: u32,
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
}

/// Tokens of a product on tensor cores.
pub const TOKENS: u32 = 8;

/// Values of a lane's chunk.
pub const CHUNK: u32 = 32;

/// Values of a row that a step takes.
pub const STEP: u32 = 4 * CHUNK;

/// Parts of tiles that a block can leave behind: the end of one, the beginning of another.
pub const PARTS: u32 = 2;

/// The most tokens of a block.
const MOST_TOKENS: usize = 64;

/// In `order`: the next launch is a product that runs beside this one.
pub const BESIDE_NEXT: u32 = 1;

/// In `order`: the launch before is a product that this one runs beside.
pub const BESIDE_LAST: u32 = 2;

/// No row of x.
const ABSENT: u32 = u32::MAX;

/// One launch's operands: the kernels' parameters by name.
#[derive(Clone, Copy)]
pub struct Operands {
    /// The planes, or floats.
    pub weights: *const u8,
    /// Blocks of the planes.
    pub n_blocks: u32,
    /// The first output's row.
    pub first_row: u32,
    /// Rows from an expert's matrix to the next one's.
    pub matrix_rows: u32,
    /// The experts' tiles, or null.
    pub tiles: *const ExpertTile,
    /// The list that they are cut from: outputs' rows.
    pub pairs: *const u32,
    /// Neighbouring rows of outputs that are of the same x: without experts 1.
    pub share: u32,
    /// The activations.
    pub x: *const F16,
    /// What each token's outputs are multiplied by, or null.
    pub factors: *const f32,
    /// What is added to each row's outputs, or null.
    pub bias: *const f32,
    /// The outputs, or null.
    pub out: *mut f32,
    /// The outputs where `out` is null.
    pub out_f16: *mut F16,
    /// Values from a token's outputs to the next one's.
    pub out_stride: u32,
    /// What all outputs are multiplied by.
    pub alpha: f32,
    /// Whether they are added to what is there.
    pub adds: u32,
    /// 1 where rows are gates and up projections, and outputs what SwiGLU makes of the two; 0 elsewhere.
    pub unit: u32,
    /// What a unit's outputs are multiplied by.
    pub unit_scale: f32,
    /// Which launches it runs beside.
    pub order: u32,
    /// Where parts of tiles are left.
    pub partial: *mut f32,
    /// How many parts of each tile are there.
    pub arrivals: *mut u32,
    /// What is multiplied where a row in steps ends within a unit: zeros.
    pub zeros: *const F16,
    /// Where x lies in [`steps`]: its rows, of which these may be a part. 0 where it is rows.
    pub x_rows: u32,
    /// The same of a unit's outputs.
    pub unit_rows: u32,
    /// Rows of x.
    pub n_tokens: u32,
    /// Columns.
    pub n_in: u32,
    /// Outputs: the matrix's rows, or half of them where there is a unit.
    pub n_out: u32,
    /// Steps of a panel.
    pub panel: u32,
    /// Units of each block.
    pub least: u32,
    /// Blocks that have one more.
    pub more: u32,
    /// Where groups of warps have a unit each: blocks of a tile of a group's rows. Elsewhere not looked at.
    pub apart: u32,
}

impl Operands {
    /// The output of a lane's upper row of 16, of which the first is row `sixteen` of all tiles' rows.
    #[inline(always)]
    fn output(&self, sixteen: u32, group: u32) -> u32 {
        (sixteen >> self.unit) + group
    }

    /// The matrix's rows that a lane has of such 16, the last ones where it has no more.
    #[inline(always)]
    fn rows(&self, sixteen: u32, group: u32) -> [u32; 2] {
        let output = self.output(sixteen, group);
        let lower = output + if self.unit == 0 { 8 } else { self.n_out };
        [u32::min(output, self.n_out - 1), u32::min(lower, (self.n_out << self.unit) - 1)]
    }

    /// Tiles of so many rows.
    #[inline(always)]
    fn n_tiles(&self, rows: u32) -> u32 {
        (self.n_out << self.unit).div_ceil(rows)
    }

    /// Lets the next launch start, and waits for those before: what this one reads is there.
    #[inline(always)]
    fn begin(&self) {
        if self.order == 0 {
            grid::launch_dependents();
            grid::wait();
        } else {
            // What is before the products that run beside each other is over when the first of them lets the next one start.
            if self.order & BESIDE_LAST == 0 {
                grid::wait();
            }
            grid::launch_dependents();
        }
    }
}

/// A place in the list of all tiles' units.
#[derive(Clone, Copy)]
struct Place {
    tile: u32,
    unit: u32,
}

impl Place {
    #[inline(always)]
    fn next(self, n_units: u32) -> Place {
        if self.unit + 1 == n_units {
            Place { tile: self.tile + 1, unit: 0 }
        } else {
            Place { unit: self.unit + 1, ..self }
        }
    }
}

/// What each block has of the list: `least` units, the first `more` blocks one more.
#[derive(Clone, Copy)]
struct Shares {
    least: u32,
    more: u32,
}

impl Shares {
    /// The first unit of a block, which is that behind the last of the one before it.
    #[inline(always)]
    fn begin(self, block: u32) -> u32 {
        block * self.least + u32::min(block, self.more)
    }

    /// The block that has a unit.
    #[inline(always)]
    fn owner(self, unit: u32) -> u32 {
        // SAFETY: no block has nothing; said here so that no division is guarded by a panic.
        unsafe { core::hint::assert_unchecked(self.least > 0 && self.least < u32::MAX) }
        let of_more = self.more * (self.least + 1);
        if unit < of_more { unit / (self.least + 1) } else { self.more + (unit - of_more) / self.least }
    }
}

/// A chunk of each of the rows that a lane has of 16.
#[derive(Clone, Copy)]
struct Two<B> {
    upper: B,
    lower: B,
}

/// Which tokens and which matrix a block has.
struct Task {
    /// The first token, or pair.
    first_token: u32,
    /// Behind the last one of all, or of the tile.
    end_token: u32,
    /// The matrix's first row.
    first_output: u32,
}

impl Task {
    /// The block's, of so many tokens to a block; none where an expert's tile is empty.
    ///
    /// Waits for the kernels before where there are experts.
    ///
    /// # Safety
    /// - The kernels' launch contract.
    #[inline(always)]
    unsafe fn of_block(o: &Operands, tokens: u32) -> Option<Task> {
        if o.tiles.is_null() {
            return Some(Task::without_experts(o, tokens));
        }
        grid::launch_dependents();
        grid::wait();
        let tile = unsafe { *o.tiles.add(thread::block_idx_y() as usize) };
        let first_output = o.first_row + tile.expert * o.matrix_rows;
        let task = Task { first_token: tile.first, end_token: tile.first + tile.n_pairs, first_output };
        if tile.n_pairs == 0 { None } else { Some(task) }
    }

    /// The block's, where there are no experts.
    #[inline(always)]
    fn without_experts(o: &Operands, tokens: u32) -> Task {
        Task { first_token: thread::block_idx_y() * tokens, end_token: o.n_tokens, first_output: o.first_row }
    }

    /// The row of x and that of the outputs of a token of the block.
    ///
    /// # Safety
    /// - The kernels' launch contract; the kernels before were waited for.
    #[inline(always)]
    unsafe fn rows(&self, o: &Operands, token: u32) -> [u32; 2] {
        let row = self.first_token + token;
        let there = row < self.end_token;
        let target = if o.tiles.is_null() || !there { row } else { unsafe { *o.pairs.add(row as usize) } };
        // SAFETY: by the launch contract; said here so that the division is not guarded by a panic.
        unsafe { core::hint::assert_unchecked(o.share > 0) }
        [if there { target / o.share } else { ABSENT }, target]
    }
}

/// Writes a lane's outputs of a tile of tokens, `sums` of products being those of token `token` and of the one behind it, in output `row` and in
/// every eighth one from there on, or, where there may be `UNITS`, of its gate and its up projection. What is loaded for them takes one trip to the
/// memory.
///
/// # Safety
/// - The kernels' launch contract; `sources` and `targets` are what [`Task::rows`] says of the block's tokens.
#[inline(always)]
unsafe fn write<const UNITS: bool, const N: usize>(
    o: &Operands,
    row: u32,
    token: u32,
    n_tokens: u32,
    [sources, targets]: [Shared<u32>; 2],
    sums: [f32; N],
) {
    let (mut factors, mut firsts) = ([0.0; 2], [0; 2]);
    unroll(
        2,
        #[inline(always)]
        |next| {
            let token = token + next as u32;
            let target = unsafe { targets.get(token) };
            firsts[next] = if UNITS && o.unit_rows != 0 {
                steps::index(target, row, o.unit_rows) as usize
            } else {
                target as usize * o.out_stride as usize + row as usize
            };
            if token < n_tokens {
                let source = unsafe { sources.get(token) };
                let factor = if o.factors.is_null() { 1.0 } else { unsafe { *o.factors.add(source as usize) } };
                factors[next] = o.alpha * factor;
            }
        },
    );
    let mut values = sums;
    unroll(
        const { N / 2 },
        #[inline(always)]
        |eighth| {
            let row = row + 8 * eighth as u32;
            let is_there = !o.bias.is_null() && row < o.n_out;
            let bias = if is_there { unsafe { *o.bias.add(row as usize) } } else { 0.0 };
            values[2 * eighth] = values[2 * eighth] * factors[0] + bias;
            values[2 * eighth + 1] = values[2 * eighth + 1] * factors[1] + bias;
        },
    );
    if UNITS && o.unit != 0 {
        unroll(
            2,
            #[inline(always)]
            |next| {
                if token + (next as u32) < n_tokens && row < o.n_out {
                    let value = unit_for_f16(SWIGLU, values[next], values[2 + next], o.unit_scale);
                    unsafe { *o.out_f16.add(firsts[next]) = F16::from_f32(value) }
                }
            },
        );
        return;
    }
    let there = |output: usize| token + output as u32 % 2 < n_tokens && row + output as u32 / 2 * 8 < o.n_out;
    let at = |output: usize| firsts[output % 2] + output / 2 * 8;
    if o.out.is_null() {
        unroll(
            N,
            #[inline(always)]
            |output| {
                if there(output) {
                    unsafe { *o.out_f16.add(at(output)) = F16::from_f32(values[output]) }
                }
            },
        );
        return;
    }
    if o.adds != 0 {
        unroll(
            N,
            #[inline(always)]
            |output| {
                if there(output) {
                    values[output] += unsafe { *o.out.add(at(output)) }
                }
            },
        );
    }
    unroll(
        N,
        #[inline(always)]
        |output| {
            if there(output) {
                unsafe { *o.out.add(at(output)) = values[output] }
            }
        },
    );
}

/// A chunk of each of two rows, and what its values are multiples of.
#[derive(Clone, Copy)]
struct Sixteen<W: Weights> {
    rows: [W::Bits; 2],
    scales: [[[u32; 2]; 2]; 2],
}

impl<W: Weights> Sixteen<W> {
    #[inline(always)]
    fn new(Two { upper, lower }: Two<W::Bits>, chunk: u32) -> Sixteen<W> {
        Sixteen { rows: [upper, lower], scales: [W::scales(upper, chunk), W::scales(lower, chunk)] }
    }

    /// The A fragment of product `index` of the chunk: four values of each row, which `pairs` gives as two times two f16, to be scaled.
    #[inline(always)]
    fn fragment(&self, index: usize, pairs: impl Fn(W::Bits) -> [u32; 2]) -> [u32; 4] {
        let [[a, b], [c, d]] = [0, 1].map(
            #[inline(always)]
            |row| {
                let [scale, minimum] = self.scales[row][index / 4];
                pairs(self.rows[row]).map(
                    #[inline(always)]
                    |two| if W::IS_SCALED { cuda_std::halves::fma(two, scale, minimum) } else { two },
                )
            },
        );
        [a, c, b, d]
    }
}

/// The parameters of every such product.
#[cfg(not(target_arch = "nvptx64"))]
#[rustfmt::skip]
pub type GemmParameters = (
    *const u8, u32, u32, u32, *const u32, *const u32, u32, *const F16, *const f32, *const f32, *mut f32, *mut F16, u32, f32, u32, u32, f32, u32,
    *mut f32, *mut u32, *const F16, u32, u32, u32, u32, u32, u32, u32, u32, u32,
);

/// Declares the entry points: a name, the format, and for warps by themselves how many products' tokens a block takes and how many times 16
/// rows a warp has; for groups of warps half of a block's tokens, and whether groups have a unit each: such a kernel does nothing in
/// another image than Hopper's, and is not launched there.
macro_rules! gemm_kernels {
    ($(
        $(#[$doc:meta])* $name:ident => $block:ty,
        warps $tiles:literal $sixteens:literal, threads $threads:literal,
        groups $half:literal $apart:literal;
    )*) => {$(
        $(#[$doc])*
        ///
        /// out[token][o] = alpha · factors[token] · Σ_i weights[o][i] · x[token][i] + bias[o] (+ out[token][o] where `adds` is not 0). Where `tiles` is not
        /// null, a token is a pair of one and an expert of its, its weights are that expert's, and x and factors are those of pair ÷ share. Where `unit` is
        /// not 0, the matrix has 2 n_out rows, gates and then up projections, and the outputs are unit_scale times SwiGLU of each two.
        ///
        /// Launch, by the [`Geometry`]($crate::gemm::Geometry) of the kernel in the image: grid (n_blocks_of_grid, ⌈n_tokens ÷ tokens⌉), or
        /// (⌈n_out ÷ rows⌉, the number of `tiles`); block (threads); its dynamic shared memory and its `panel`. `least` and `more` are
        /// ⌈n_out ÷ rows⌉ · ⌈n_in ÷ columns⌉ ÷ grid.x and what is left, with 2 n_out where there is a `unit`: `least ≥ 1`. Of a kernel whose groups have a
        /// unit each, grid.x is ⌈n_out ÷ 64⌉ · `apart`, which is no less than ⌈n_in ÷ columns ÷ counters⌉, and `tiles` are null. `order` is 0, or, of launches one
        /// right behind the other, [`BESIDE_NEXT`]($crate::gemm::BESIDE_NEXT) in all but the last and [`BESIDE_LAST`]($crate::gemm::BESIDE_LAST) in all but
        /// the first.
        ///
        /// # Safety
        /// - `weights` is the planes of `n_blocks` blocks, or floats of 16 bits, 16-byte aligned; outputs are rows of `n_in` values from `first_row` on;
        ///   `n_in` is a whole number of blocks, and of 32; `n_out ≥ 1`.
        /// - `x` is `[n_tokens][n_in]`, or, where `x_rows` is not 0, `n_tokens` tokens of as many that lie in [`steps`]($crate::gemm::steps), beginning with a multiple of
        ///   eight, and `n_in` whole steps, in a kernel for Hopper and without `tiles`, and `zeros` are as many values as tokens of a block have in half a step;
        ///   16-byte aligned, `n_tokens ≥ 1`; `factors` is null or `[n_tokens]`, `bias` null or `[n_out]`. With `tiles`, `n_tokens` are
        ///   pairs, and x has one row, and factors one element, for every `share ≥ 1` of them; without, `share` is 1.
        /// - `tiles` is null or made, 16-byte aligned, by [`experts_group`]($crate::experts::experts_group) for as many tokens as a block takes, of `pairs`, each
        ///   below `n_tokens`; then an expert's rows begin `matrix_rows` behind the last one's.
        /// - One of `out` and `out_f16` is null; the other has a token's `n_out` outputs every `out_stride` values, all below 2^32; `adds` is 0 with
        ///   `out_f16`. With a `unit` it is `out` that is null, and `bias` and `tiles` are too; its outputs are the same part of `unit_rows` tokens in steps, where that
        ///   is not 0.
        /// - `partial` is `[grid.y][grid.x][PARTS][rows · tokens]`, 16-byte aligned; `arrivals` is `[grid.y][⌈n_out ÷ rows⌉][counters]`, or, of groups with a unit
        ///   each and an `apart` of more than 1, `[grid.y][grid.x][64 · tokens]` and `[grid.y][⌈n_out ÷ 64⌉][counters]`; the latter are all zero, which it is again afterwards. No launch that may overlap uses them. Those that run beside each other have one x, and no `tiles`; none
        ///   reads what another of them writes.
        #[cfg_attr(not(cuda_arch_at_least = "90"), cuda_std::kernel(threads = $threads, blocks = 2))]
        #[cfg_attr(cuda_arch_at_least = "90", cuda_std::kernel(threads = 640, blocks = 1))]
        pub unsafe fn $name(
            weights: *const u8,
            n_blocks: u32,
            first_row: u32,
            matrix_rows: u32,
            tiles: *const u32,
            pairs: *const u32,
            share: u32,
            x: *const cuda_std::F16,
            factors: *const f32,
            bias: *const f32,
            out: *mut f32,
            out_f16: *mut cuda_std::F16,
            out_stride: u32,
            alpha: f32,
            adds: u32,
            unit: u32,
            unit_scale: f32,
            order: u32,
            partial: *mut f32,
            arrivals: *mut u32,
            zeros: *const cuda_std::F16,
            x_rows: u32,
            unit_rows: u32,
            n_tokens: u32,
            n_in: u32,
            n_out: u32,
            panel: u32,
            least: u32,
            more: u32,
            apart: u32,
        ) {
            let operands = $crate::gemm::Operands {
                weights, n_blocks, first_row, matrix_rows, tiles: tiles.cast(), pairs, share, x, factors, bias, out, out_f16, out_stride, alpha, adds,
                unit, unit_scale, order, partial, arrivals, zeros, x_rows, unit_rows, n_tokens, n_in, n_out, panel, least, more, apart,
            };
            #[cfg(not(cuda_arch_at_least = "90"))]
            if !$apart {
                unsafe { $crate::gemm::warps::gemm::<$block, $tiles, $sixteens>(&operands) }
            }
            #[cfg(cuda_arch_at_least = "90")]
            unsafe {
                $crate::gemm::groups::gemm::<$block, $half, $apart>(&operands)
            }
        }
    )*};
}

pub(crate) use gemm_kernels;
