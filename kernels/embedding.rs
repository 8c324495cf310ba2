//! Token embedding: each token's row of the table becomes the start of its residual stream.

use cuda_std::{BF16, F16, grid, kernel, thread, types::Element};

/// The block's number of threads.
pub const BLOCK: u32 = 256;

/// One block a token; its threads stride over the row.
#[inline(always)]
unsafe fn embed<T: Element>(table: *const T, tokens: *const u32, out: *mut f32, n_embd: u32) {
    grid::launch_dependents();
    grid::wait();
    let token = thread::block_idx_x() as usize;
    let row = unsafe { *tokens.add(token) } as usize * n_embd as usize;
    let mut column = thread::thread_idx_x() as usize;
    while column < n_embd as usize {
        unsafe { *out.add(token * n_embd as usize + column) = (*table.add(row + column)).load() }
        column += thread::block_dim_x() as usize;
    }
}

macro_rules! embedding {
    ($($name:ident: $element:ty;)*) => {$(
        /// out[token][..] = table[tokens[token]][..], exactly.
        ///
        /// Launch: grid (n_tokens), block ([`BLOCK`]).
        ///
        /// # Safety
        /// - `table` is `[n_vocab][n_embd]`, `tokens` is `[n_tokens]` with values below `n_vocab`, `out` is
        ///   `[n_tokens][n_embd]`.
        #[kernel]
        pub unsafe fn $name(table: *const $element, tokens: *const u32, out: *mut f32, n_embd: u32) {
            unsafe { embed(table, tokens, out, n_embd) }
        }
    )*};
}

embedding! {
    embedding_f32: f32;
    embedding_f16: F16;
    embedding_bf16: BF16;
}
