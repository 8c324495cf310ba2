//! Launches the kernels in `kernels/cache.rs`.

use std::{fmt, str::FromStr};

use half::{bf16, f16};
use kernels::{
    attention::MAX_HEAD_DIM,
    cache::{self, BLOCK, cache_store_bf16, cache_store_f16, cache_store_f32, cache_store_q8_0},
};

use super::{AttentionShape, HEAD_DIMS, PageTables, count, expect_len};
use crate::gpu::{Buffer, Gpu, GpuError, Slice};

/// Positions of a page.
pub const PAGE: usize = cache::PAGE as usize;

/// The type that keys and values are kept in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheType {
    /// 16-bit floats: half the memory and half the reading of F32.
    #[default]
    F16,
    /// bfloat16: F32's range in 16 bits, with less precision than F16.
    BF16,
    /// 32-bit floats.
    F32,
    /// 8-bit integers with an f16 scale for each 32: about half of F16.
    Q8_0,
}

impl CacheType {
    /// Every type.
    pub const ALL: [CacheType; 4] = [CacheType::F16, CacheType::BF16, CacheType::F32, CacheType::Q8_0];

    /// Bytes of `n_rows` rows of `head_dim` values.
    pub fn bytes(self, n_rows: usize, head_dim: usize) -> usize {
        let values = n_rows * head_dim;
        match self {
            CacheType::F16 | CacheType::BF16 => 2 * values,
            CacheType::F32 => 4 * values,
            CacheType::Q8_0 => values + 2 * (values / 32),
        }
    }

    /// The head sizes that there are fast kernels for.
    pub fn head_dims(self) -> impl Iterator<Item = usize> {
        HEAD_DIMS.into_iter().filter(move |head_dim| self != CacheType::Q8_0 || head_dim.is_multiple_of(32))
    }

    /// Whether a head of `head_dim` values can be kept, and attended to by [`Gpu::attention`].
    ///
    /// # Errors
    /// It cannot; the words say what heads can.
    pub fn check_head_dim(self, head_dim: usize) -> Result<(), String> {
        let multiple = match self {
            CacheType::Q8_0 => 32,
            CacheType::F16 | CacheType::BF16 | CacheType::F32 => 4,
        };
        if head_dim > 0 && head_dim <= MAX_HEAD_DIM && head_dim.is_multiple_of(multiple) {
            return Ok(());
        }
        Err(format!(
            "a {self} cache has heads of a multiple of {multiple} values up to {MAX_HEAD_DIM}, found {head_dim}"
        ))
    }

    fn name(self) -> &'static str {
        match self {
            CacheType::F16 => "f16",
            CacheType::BF16 => "bf16",
            CacheType::F32 => "f32",
            CacheType::Q8_0 => "q8_0",
        }
    }
}

impl fmt::Display for CacheType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for CacheType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = CacheType::ALL.into_iter().find(|cache_type| cache_type.name() == text);
        found.ok_or_else(|| format!("unknown cache type `{text}`: expected f16, bf16, f32 or q8_0"))
    }
}

/// Page tables of one sequence, whose pages follow one another: for a cache that is nobody else's.
pub struct OneSequence {
    tables: Buffer<u32>,
    slots: Buffer<u32>,
}

impl OneSequence {
    /// For `n_positions`, and launches of up to `n_tokens`.
    ///
    /// # Errors
    /// The device has no memory for them.
    pub fn new(gpu: &Gpu, n_positions: usize, n_tokens: usize) -> Result<OneSequence, GpuError> {
        let pages: Vec<u32> = (0..count(n_positions.div_ceil(PAGE))).collect();
        Ok(OneSequence { tables: gpu.upload("page tables", &pages)?, slots: gpu.upload("slots", &vec![0; n_tokens])? })
    }

    /// As the launchers take them.
    pub fn get(&self) -> PageTables<'_> {
        PageTables { tables: &self.tables, stride: self.tables.len(), slots: &self.slots }
    }
}

impl Gpu {
    /// The row of positions[token] and of each head = factor · x[token][head], for keys or values `x` of
    /// `[n_tokens][n_kv_heads][head_dim]`. No two tokens have the same row.
    #[allow(clippy::too_many_arguments)]
    pub fn cache_store(
        &self,
        shape: AttentionShape,
        x: &Slice<f32>,
        positions: &Slice<u32>,
        pages: PageTables,
        cache: &Slice<u8>,
        cache_type: CacheType,
        factor: f32,
    ) -> Result<(), GpuError> {
        let AttentionShape { n_tokens, n_kv_heads, head_dim, n_pages, .. } = shape;
        // A vector of latent attention may be longer than a head.
        let fits = cache_type.check_head_dim(head_dim).or_else(|error| match n_kv_heads {
            1 => cache_type.check_latent(head_dim, head_dim),
            _ => Err(error),
        });
        fits.unwrap_or_else(|error| panic!("{error}"));
        pages.expect(n_tokens);
        expect_len("x", x, n_tokens * n_kv_heads * head_dim);
        expect_len("positions", positions, n_tokens);
        expect_len("cache", cache, shape.cache_bytes(cache_type));
        let grid = [count(n_kv_heads), count(n_tokens), 1];
        let (head_dim, stride, n_pages) = (count(head_dim), count(pages.stride), count(n_pages));
        let PageTables { tables, slots, .. } = pages;
        macro_rules! launch {
            ($kernel:ident, $element:ty) => {{
                let cache = cache.cast::<$element>();
                let arguments = (x, positions, tables, slots, &*cache, factor, head_dim, stride, n_pages);
                // SAFETY: the slices hold what the contract asks for; positions, slots and tables are the caller's promise. The
                // kernel waits before it reads.
                unsafe { self.launch_early($kernel, grid, BLOCK, arguments) }
            }};
        }
        match cache_type {
            CacheType::F16 => launch!(cache_store_f16, f16),
            CacheType::BF16 => launch!(cache_store_bf16, bf16),
            CacheType::F32 => launch!(cache_store_f32, f32),
            CacheType::Q8_0 => launch!(cache_store_q8_0, i8),
        }
    }
}
