//! The kernels' launchers: one file a kernel file, of the same name.
//!
//! A launcher takes shapes and slices, checks that each slice holds what the kernel will touch, chooses grid and block,
//! and is safe to call. A shape that does not fit is a bug in the caller and panics with both numbers.

#![allow(rustdoc::broken_intra_doc_links, reason = "formulas have indices: out[i] is no link")]

// A file in this folder is a module: build.rs lists them.
include!(concat!(env!("OUT_DIR"), "/launchers.rs"));

pub use argmax::{ArgmaxScratch, NO_CHOICE};
pub use attention::{Attention, AttentionShape, HEAD_DIMS, PageTables};
pub use attention_decode::{Attended, AttentionDecode, AttentionScratch, KeySplits};
pub use bandwidth::BANDWIDTH_VECTOR;
pub use blocks::block_format;
pub use cache::{CacheType, OneSequence, PAGE};
pub use delta_net::{DeltaNetShape, KeyHeads};
pub use elementwise::SigmoidGate;
pub use experts::{ExpertGroups, ExpertLists, RouterScore, Routing};
pub use flash::{Chunks, FlashRows, FlashScores};
pub use gemm::{ExpertPairs, Gemm, GemmScratch, Order};
pub use gemv::{Experts, Gemv, Input, Output, quantised_len};
pub use gemv_many::Staging;
pub use gemv_mixed::GemvParts;
pub use gemv_sum::GemvSum;
pub use glu::Glu;
pub use latent_attention::LatentAttention;
pub use noise::{NoiseFloat, Strided};
pub use product::FloatProduct;
pub use qkv::Qkv;
pub use rope::{NormAndRope, RopeShape};
pub use top_k::{MAX_TOP_K, TopKScratch};

use super::{Element, Slice};

/// A number of elements, rows or blocks as the kernels take it.
///
/// # Panics
/// Beyond 2^32 − 1.
fn count(value: usize) -> u32 {
    u32::try_from(value).expect("a kernel's sizes are 32-bit")
}

/// Checks that a slice holds at least `needed` elements.
fn expect_len<T: Element>(name: &str, slice: &Slice<T>, needed: usize) {
    assert!(slice.len() >= needed, "{name}: {} elements, the kernel touches {needed}", slice.len());
}

/// Checks that a slice begins where 16-byte loads may begin.
fn expect_aligned<T: Element>(name: &str, slice: &Slice<T>) {
    assert!(slice.address().is_multiple_of(16), "{name} starts on a 16-byte boundary");
}
