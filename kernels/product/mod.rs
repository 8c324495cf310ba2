//! Products of many tokens with matrices of 16-bit floats, on tensor cores: where there is no cuBLAS, prompts go through these.
//!
//! A block has a tile of 128 rows of the matrix and of some tokens. Of both, 64 columns at a time are a *panel* in shared memory, where panels take
//! turns in a ring; copies into it (`cp.async`) run ahead of the products. There are two ways, the same to whoever launches them but for
//! their [`Geometry`]: warps by themselves (`mma`, in [`warps`]), and, where the image is Hopper's, groups of four warps that a last one
//! copies for (`wgmma`, in `groups`). An image has one of them, under the same names.
//!
//! | in shared memory | layout |
//! |---|---|
//! | a panel | the matrix's 128 rows, then the tokens' |
//! | a row of it | 64 columns, 128 bytes, whose eight pieces of 16 bytes change places ([`Swizzle::Bytes128`](cuda_std::wgmma::Swizzle)): so eight rows' same piece touches all banks |
//!
//! Blocks that are next to each other have the same rows of the matrix and other tokens, so the matrix is read from memory once, and by the
//! others from the cache.
//!
//! Each output is one block's sum, over columns from the first to the last. It does not depend on how many tokens there are.

#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
pub mod groups;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
pub mod ring;
#[cfg(not(all(target_arch = "nvptx64", cuda_arch_at_least = "90")))]
pub mod warps;

use cuda_std::{
    BF16, F16, async_copy,
    shared::{self, Shared},
    unroll::unroll,
};

/// How a kernel shares its work: what its launcher must know.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Tokens of a block.
    pub tokens: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
}

/// Rows of the matrix of a block.
pub const ROWS: u32 = 128;

/// Columns of a panel.
pub const COLUMNS: u32 = 64;

/// Pieces of 16 bytes of a panel's row.
const PIECES: u32 = 8;

/// Elements of a piece.
const PIECE: u32 = COLUMNS / PIECES;

/// Elements of a panel with so many tokens.
const fn panel(tokens: u32) -> u32 {
    (ROWS + tokens) * COLUMNS
}

/// Bytes of a ring of panels. What comes before the first multiple of 1024 bytes is not used.
const fn ring_bytes(panels: u32, tokens: u32) -> u32 {
    panels * panel(tokens) * size_of::<F16>() as u32 + 1024
}

/// One launch's operands: the kernels' parameters by name.
#[derive(Clone, Copy)]
pub struct Operands<T> {
    /// The matrix.
    pub matrix: *const T,
    /// The activations.
    pub x: *const T,
    /// The outputs, or null.
    pub out: *mut f32,
    /// The outputs where `out` is null.
    pub out_f16: *mut F16,
    /// What all outputs are multiplied by.
    pub alpha: f32,
    /// Whether they are added to what is there.
    pub adds: u32,
    /// Rows of x.
    pub n_tokens: u32,
    /// Columns.
    pub n_in: u32,
    /// Outputs.
    pub n_out: u32,
}

/// Where the panels begin: they are swizzled, so at a multiple of 1024 bytes.
#[inline(always)]
fn panels<T>() -> Shared<T> {
    let memory: Shared<u8> = shared::dynamic(0);
    shared::dynamic(memory.address().wrapping_neg() % 1024)
}

/// Copies a panel's rows of one matrix, `THREADS` threads together.
struct Copying<T> {
    /// Of the thread's first row and piece.
    from: *const T,
    /// Any address, of what is not copied.
    nothing: *const T,
    /// The matrix's rows from the thread's first one on.
    rows: u32,
    /// Its first column.
    column: u32,
    n_in: u32,
    /// Where they go in the matrix's part of a panel, in elements.
    to: u32,
}

impl<T> Copying<T> {
    /// What `thread` copies of the rows from `first` to `end`.
    ///
    /// # Safety
    /// - `matrix` has `end` rows of `n_in` columns.
    #[inline(always)]
    unsafe fn new(matrix: *const T, first: u32, end: u32, n_in: u32, thread: u32) -> Copying<T> {
        let (row, piece) = (thread / PIECES, thread % PIECES);
        let column = piece * PIECE;
        Copying {
            from: matrix.wrapping_add((first + row) as usize * n_in as usize + column as usize),
            nothing: matrix,
            rows: end.saturating_sub(first + row),
            column,
            n_in,
            // All of a thread's rows are as far from the one that is a multiple of eight.
            to: row * COLUMNS + (piece ^ (row % PIECES)) * PIECE,
        }
    }

    /// Starts to copy columns from `column` on of `ROWS` rows to a panel; those that are not there become zeros.
    ///
    /// # Safety
    /// - The panel's part has room for them, and nobody reads or writes it.
    #[inline(always)]
    unsafe fn start<const THREADS: u32, const ROWS: usize>(&self, panel: Shared<T>, at: u32, column: u32) {
        let apart = const { THREADS / PIECES };
        let is_column = self.column + column < self.n_in;
        let from = self.from.wrapping_add(column as usize);
        unroll(
            const { ROWS / (THREADS / PIECES) as usize },
            #[inline(always)]
            |index| {
                let row = index as u32 * apart;
                let present = is_column && row < self.rows;
                let from = if present { from.wrapping_add(row as usize * self.n_in as usize) } else { self.nothing };
                unsafe { async_copy::copy_16(panel, at + self.to + row * COLUMNS, from, present) }
            },
        );
    }
}

/// Writes four outputs: of two rows eight apart, each of two tokens that are next to each other.
///
/// # Safety
/// - The kernels' launch contract.
#[inline(always)]
unsafe fn write<T>(o: &Operands<T>, row: u32, token: u32, sums: [f32; 4]) {
    unroll(
        4,
        #[inline(always)]
        |index| {
            let (row, token) = (row + index as u32 / 2 * 8, token + index as u32 % 2);
            if row >= o.n_out || token >= o.n_tokens {
                return;
            }
            let at = token as usize * o.n_out as usize + row as usize;
            let value = o.alpha * sums[index];
            match (o.out.is_null(), o.adds) {
                (true, _) => unsafe { *o.out_f16.add(at) = F16::from_f32(value) },
                (false, 0) => unsafe { *o.out.add(at) = value },
                (false, _) => unsafe { *o.out.add(at) += value },
            }
        },
    );
}

/// The parameters of every such product.
#[cfg(not(target_arch = "nvptx64"))]
pub type ProductParameters = (*const u16, *const u16, *mut f32, *mut F16, f32, u32, u32, u32, u32);

/// Declares the entry points: a name, the elements' type, for warps by themselves how many times eight tokens each has, for groups of
/// warps half of a product's tokens and how many times those.
macro_rules! product_kernels {
    ($(
        $(#[$doc:meta])* $name:ident => $element:ty, warps $tiles:literal, groups $half:literal $parts:literal;
    )*) => {$(
        $(#[$doc])*
        ///
        /// out[token][o] = alpha · Σ_i matrix[o][i] · x[token][i] (+ out[token][o] where `adds` is not 0), rounded once where the outputs are f16.
        ///
        /// Launch, by the [`Geometry`] of the kernel in the image: grid (⌈n_tokens ÷ tokens⌉, ⌈n_out ÷ ROWS⌉); block (threads); its dynamic
        /// shared memory.
        ///
        /// # Safety
        /// - `matrix` is `[n_out][n_in]`, `x` is `[n_tokens][n_in]`, of this type's bits, both 16-byte aligned, `n_in` a multiple of 8; none of the
        ///   three is 0.
        /// - One of `out` and `out_f16` is null; the other is `[n_tokens][n_out]`; `adds` is 0 with `out_f16`.
        #[cfg_attr(not(cuda_arch_at_least = "90"), cuda_std::kernel(threads = 256, blocks = 1))]
        #[cfg_attr(cuda_arch_at_least = "90", cuda_std::kernel(threads = 384, blocks = 1))]
        pub unsafe fn $name(
            matrix: *const u16,
            x: *const u16,
            out: *mut f32,
            out_f16: *mut cuda_std::F16,
            alpha: f32,
            adds: u32,
            n_tokens: u32,
            n_in: u32,
            n_out: u32,
        ) {
            let (matrix, x): (*const $element, *const $element) = (matrix.cast(), x.cast());
            let operands = Operands { matrix, x, out, out_f16, alpha, adds, n_tokens, n_in, n_out };
            #[cfg(not(cuda_arch_at_least = "90"))]
            unsafe {
                warps::product::<$element, $tiles>(&operands)
            }
            #[cfg(cuda_arch_at_least = "90")]
            unsafe {
                groups::product::<$element, $half, $parts>(&operands)
            }
        }
    )*};
}

product_kernels! {
    /// A product with f16, for few tokens.
    product_f16_64 => F16, warps 4, groups 32 1;
    /// A product with f16, for some more tokens.
    product_f16_128 => F16, warps 8, groups 64 1;
    /// A product with f16, for many tokens.
    product_f16_256 => F16, warps 8, groups 64 2;
    /// A product with bf16.
    product_bf16_128 => BF16, warps 8, groups 64 1;
}
