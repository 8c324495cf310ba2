//! A warp's way through the rows of a product, four at a time, and through their chunks.

use cuda_std::thread;

use super::ROWS;

/// Where a launch's rows are, and how a warp goes through them, and through the chunks of each four.
#[derive(Clone, Copy)]
pub struct Walk {
    /// The row of this vector's output 0: of its matrix the first, modulo 2^32.
    pub matrix: u32,
    /// Chunks of a row.
    pub chunks: u32,
    /// Outputs of a vector.
    pub n_out: u32,
    /// Rows from a gate's to its up projection's, or 0.
    pub to_up: u32,
    /// The lane's first chunk of a row.
    pub first: u32,
    /// How far it is from a lane's chunk to its next.
    pub stride: u32,
    /// Outputs of the warps before this one in the block.
    pub before: u32,
    /// Outputs that all blocks make at a time.
    pub all_outputs: u32,
}

impl Walk {
    /// Outputs that a warp makes of its four rows: with SwiGLU, two of them are the gate's and two the up projection's.
    #[inline(always)]
    pub fn outputs(to_up: u32) -> u32 {
        if to_up == 0 { ROWS } else { ROWS / 2 }
    }

    /// Each row's first chunk, counted over the matrix, for outputs `first` and following. Outputs past the end are the last one
    /// once more, and are not written.
    #[inline(always)]
    pub fn rows(&self, first: u32) -> [u32; ROWS as usize] {
        [0, 1, 2, 3].map(|index| {
            let (output, up) =
                if self.to_up == 0 { (first + index, 0) } else { (first + index % 2, index / 2 * self.to_up) };
            let row = self.matrix.wrapping_add(if output < self.n_out { output } else { self.n_out - 1 } + up);
            row * self.chunks
        })
    }

    /// The lane's chunk; in a row's last step, where some lanes have none, the row's last.
    #[inline(always)]
    pub fn within(&self, chunk: u32) -> u32 {
        if chunk < self.chunks { chunk } else { self.chunks - 1 }
    }
}

/// A step on a warp's way. Whether it is past the end is the same for a block's warps, so that all of them reach the barriers behind rows.
pub trait Place: Copy {
    /// The lane's chunk.
    fn chunk(self) -> u32;

    /// Goes on, and says whether to the next rows.
    fn advance(&mut self, walk: &Walk) -> bool;

    /// Whether the way ends before it.
    fn is_past_end(self, walk: &Walk) -> bool;

    /// The first chunks of the rows there.
    ///
    /// # Safety
    /// - The kernels' launch contract.
    unsafe fn rows(self, walk: &Walk) -> [u32; ROWS as usize];
}

/// A step on the way through one matrix.
#[derive(Clone, Copy)]
pub struct Step {
    /// The block's first output.
    pub output: u32,
    /// The lane's chunk.
    pub chunk: u32,
}

impl Place for Step {
    #[inline(always)]
    fn chunk(self) -> u32 {
        self.chunk
    }

    #[inline(always)]
    fn advance(&mut self, walk: &Walk) -> bool {
        self.chunk += walk.stride;
        let through = self.chunk - thread::lane() >= walk.chunks;
        if through {
            self.chunk = walk.first;
            self.output += walk.all_outputs;
        }
        through
    }

    #[inline(always)]
    fn is_past_end(self, walk: &Walk) -> bool {
        self.output >= walk.n_out
    }

    #[inline(always)]
    unsafe fn rows(self, walk: &Walk) -> [u32; ROWS as usize] {
        walk.rows(self.output + walk.before)
    }
}
