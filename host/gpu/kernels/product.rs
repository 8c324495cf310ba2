//! Launches the products with matrices of 16-bit floats in `kernels/product/`.

use kernels::product::{
    Geometry, ProductParameters, ROWS, groups, product_bf16_128, product_f16_64, product_f16_128, product_f16_256,
    warps,
};

use super::{count, expect_aligned, expect_len};
use crate::gpu::{Factors, Gpu, GpuError, Product, Slice, launch::Launch};

/// How the kernels for few, for more and for many tokens share their work, in either kind of image.
const GEOMETRIES: [[Geometry; Gpu::PRODUCT_TILES]; 2] = [warps::GEOMETRIES, groups::GEOMETRIES];

/// The kernels of f16.
const OF_F16: [cuda_std::Kernel<ProductParameters>; Gpu::PRODUCT_TILES] =
    [product_f16_64, product_f16_128, product_f16_256];

/// One launch.
#[derive(Clone, Copy)]
pub struct FloatProduct<'a> {
    /// The matrix, `[n_out][n_in]`, and x, `[n_tokens][n_in]`; of 16 bits.
    pub factors: Factors<'a>,
    /// The matrix's rows.
    pub n_out: usize,
    /// Its columns.
    pub n_in: usize,
    /// `[n_tokens][n_out]`.
    pub out: Product<'a>,
    /// What all are multiplied by.
    pub alpha: f32,
    /// Whether they are added to what is there, which is f32.
    pub adds: bool,
}

impl Gpu {
    /// Values that a row of what a kernel multiplies has a multiple of: what is copied at a time is 16 bytes.
    pub const PRODUCT_COLUMNS: usize = 8;

    /// Kernels of a product of f16, for few, for more and for many tokens.
    pub const PRODUCT_TILES: usize = 3;

    /// Enqueues out[token] = alpha · matrix · x[token] (+ out[token]) by the kernel that takes least time. A token's outputs are the same bits
    /// whatever others there are.
    ///
    /// # Errors
    /// Rows are no multiples of [`Gpu::PRODUCT_COLUMNS`] values; besides, a launch's.
    pub fn product_by_kernel(&self, product: &FloatProduct, n_tokens: usize) -> Result<(), GpuError> {
        let tile = match product.factors {
            Factors::Bf16(_) => 1,
            _ => self.product_tile(n_tokens, product.n_out),
        };
        self.product_in_tiles(product, n_tokens, tile)
    }

    /// As [`Gpu::product_by_kernel`], by the kernel of this number below [`Gpu::PRODUCT_TILES`]; of bf16 there is one, number 1.
    ///
    /// # Errors
    /// As there.
    pub fn product_in_tiles(&self, product: &FloatProduct, n_tokens: usize, tile: usize) -> Result<(), GpuError> {
        let FloatProduct { factors, n_out, n_in, out, alpha, adds } = *product;
        assert!(n_tokens > 0 && n_out > 0 && n_in > 0, "{n_tokens} tokens, {n_out}×{n_in}");
        let (kernel, [matrix, x]) = match factors {
            Factors::F16(factors) => (OF_F16[tile], factors.map(Slice::cast::<u16>)),
            Factors::Bf16(factors) if tile == 1 => (product_bf16_128, factors.map(Slice::cast::<u16>)),
            Factors::Bf16(_) => unreachable!("bf16 has one kernel"),
            Factors::F32(_) => unreachable!("a product of f32 without cuBLAS is one for each token"),
        };
        if !n_in.is_multiple_of(Gpu::PRODUCT_COLUMNS) {
            return Err(GpuError::Driver {
                action: format!("multiplying rows of {n_in} values without cuBLAS"),
                detail: format!("rows have to be multiples of {} values: install cuBLAS", Gpu::PRODUCT_COLUMNS),
            });
        }
        for (name, slice, rows) in [("matrix", &matrix, n_out), ("x", &x, n_tokens)] {
            expect_len(name, slice, rows * n_in);
            expect_aligned(name, slice);
        }
        let (out_f32, out_f16) = match out {
            Product::F32(out) => (Some(out), None),
            Product::F16(out) => (None, Some(out)),
        };
        assert!(!adds || out_f16.is_none(), "sums are f32");
        out_f32.inspect(|out| expect_len("out", out, n_tokens * n_out));
        out_f16.inspect(|out| expect_len("out", out, n_tokens * n_out));
        let geometry = self.product_geometries()[tile];
        let grid = [count(n_tokens.div_ceil(geometry.tokens)), count(n_out.div_ceil(ROWS as usize)), 1];
        let launch = Launch::new(grid, geometry.threads).shared_bytes(geometry.shared_bytes);
        let (n_tokens, n_in, n_out) = (count(n_tokens), count(n_in), count(n_out));
        let arguments = (&*matrix, &*x, out_f32, out_f16, alpha, u32::from(adds), n_tokens, n_in, n_out);
        // SAFETY: the slices hold what the contract asks for.
        unsafe { self.launch_as(kernel, launch, arguments) }
    }

    /// How the kernels in the loaded image share their work.
    fn product_geometries(&self) -> &'static [Geometry; Gpu::PRODUCT_TILES] {
        &GEOMETRIES[usize::from(self.image().has_warp_groups())]
    }

    /// The kernel that takes least time: multiprocessors have one block at a time, and all wait for the last of them.
    fn product_tile(&self, n_tokens: usize, n_out: usize) -> usize {
        let time = |geometry: &Geometry| {
            // Copying a panel's rows of the matrix counts too, as much as some tokens'.
            const TOKENS_OF_A_PANEL: usize = 64;
            let blocks = n_tokens.div_ceil(geometry.tokens) * n_out.div_ceil(ROWS as usize);
            blocks.div_ceil(self.multiprocessors()) * (geometry.tokens + TOKENS_OF_A_PANEL)
        };
        let geometries = self.product_geometries();
        (0..Gpu::PRODUCT_TILES).min_by_key(|tile| time(&geometries[*tile])).expect("there are three")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driver::DeviceChoice;

    /// A small tile where a larger one would be mostly empty or leave multiprocessors idle, the largest where there is work for all.
    #[test]
    fn tiles_are_as_large_as_there_is_work_for() {
        let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
        let all = ROWS as usize * gpu.multiprocessors();
        // Blocks of 64 tokens: all of one wave, whatever the tile.
        assert_eq!(gpu.product_tile(16, 128), 0);
        assert_eq!(gpu.product_tile(64, all), 0);
        // Two tiles of 64 would be two waves, one of 128 is one.
        assert_eq!(gpu.product_tile(128, all), 1);
        let largest = if gpu.image().has_warp_groups() { 2 } else { 1 };
        assert_eq!(gpu.product_tile(2048, 10 * all), largest);
    }
}
