//! ferrowarp's device code: one file for each kernel family.
//!
//! Matrices are row-major, tokens are rows: `[n_tokens][n]` means that token `t`'s values are the `n` contiguous ones at
//! `t * n`. Activations are `f32`. A weight matrix is GGUF's: `[n_out][n_in]`, one output's weights contiguous.

#![cfg_attr(target_arch = "nvptx64", no_std)]
// Every access in a kernel rests on the same thing, the kernel's launch contract, which its `# Safety` section states once.
#![allow(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]
// A kernel takes what it needs by name: a struct of parameters would hide the launch from the reader and the checker.
#![allow(clippy::too_many_arguments)]
#![allow(rustdoc::broken_intra_doc_links, reason = "formulas have indices: out[i] is no link")]
#![cfg_attr(target_arch = "nvptx64", feature(abi_ptx, asm_experimental_arch))]

pub mod argmax;
pub mod attention;
pub mod attention_decode;
pub mod bandwidth;
pub mod blocks;
pub mod cache;
pub mod delta_net;
pub mod elementwise;
pub mod embedding;
pub mod experts;
pub mod flash;
pub mod gemv;
pub mod glu;
pub mod latent_attention;
pub mod layer_norm;
pub mod matmul;
pub mod noise;
pub mod qkv;
pub mod range;
pub mod reduce;
pub mod rmsnorm;
pub mod rope;
pub mod top_k;

/// Every kernel, for the build to check against the PTX and for tests to count.
#[cfg(not(target_arch = "nvptx64"))]
pub fn all() -> impl Iterator<Item = cuda_std::KernelInfo> {
    let mixed = blocks::mixed::MIXED.iter().map(|mixed| mixed.kernel.info());
    KERNELS.iter().chain(blocks::KERNELS).chain(attention_decode::KERNELS).copied().chain(mixed)
}

/// The kernels that are listed one by one.
#[cfg(not(target_arch = "nvptx64"))]
const KERNELS: &[cuda_std::KernelInfo] = &[
    argmax::argmax.info(),
    attention::attention_f32.info(),
    attention::attention_f16.info(),
    attention::attention_bf16.info(),
    attention::attention_q8_0.info(),
    bandwidth::bandwidth_read.info(),
    bandwidth::bandwidth_copy.info(),
    cache::cache_store_f32.info(),
    cache::cache_store_f16.info(),
    cache::cache_store_bf16.info(),
    cache::cache_store_q8_0.info(),
    delta_net::delta_net_convolve.info(),
    delta_net::delta_net_normalise.info(),
    delta_net::delta_net_gates.info(),
    delta_net::delta_net.info(),
    delta_net::delta_net_gate.info(),
    elementwise::elementwise_scale.info(),
    elementwise::elementwise_add_scaled.info(),
    elementwise::elementwise_soft_cap.info(),
    elementwise::elementwise_multiply_sigmoid.info(),
    elementwise::elementwise_take_columns.info(),
    elementwise::elementwise_join.info(),
    elementwise::elementwise_temper.info(),
    embedding::embedding_f32.info(),
    embedding::embedding_f16.info(),
    embedding::embedding_bf16.info(),
    experts::experts_route.info(),
    experts::experts_every.info(),
    experts::experts_bias.info(),
    experts::experts_combine.info(),
    flash::flash_f16_64.info(),
    flash::flash_f16_64_wide.info(),
    flash::flash_f16_80.info(),
    flash::flash_f16_96.info(),
    flash::flash_f16_128.info(),
    flash::flash_f16_256.info(),
    flash::flash_bf16_64.info(),
    flash::flash_bf16_80.info(),
    flash::flash_bf16_96.info(),
    flash::flash_bf16_128.info(),
    flash::flash_bf16_256.info(),
    gemv::gemv_f32.info(),
    gemv::gemv_f16.info(),
    gemv::gemv_bf16.info(),
    glu::glu.info(),
    glu::glu_f16.info(),
    latent_attention::latent_attention_f32.info(),
    latent_attention::latent_attention_f16.info(),
    latent_attention::latent_attention_bf16.info(),
    latent_attention::latent_attention_q8_0.info(),
    layer_norm::layer_norm.info(),
    matmul::matmul_input_f16.info(),
    matmul::matmul_input_bf16.info(),
    matmul::matmul_epilogue.info(),
    noise::noise_bits.info(),
    noise::noise_scales.info(),
    noise::noise_exponents.info(),
    noise::noise_f32.info(),
    noise::noise_f16.info(),
    noise::noise_bf16.info(),
    qkv::qkv_f32.info(),
    qkv::qkv_f16.info(),
    qkv::qkv_bf16.info(),
    range::range_rows_f16.info(),
    range::range_rows_bf16.info(),
    range::range_to_f16_f16.info(),
    range::range_to_f16_f32.info(),
    range::range_to_f16_bf16.info(),
    rmsnorm::rmsnorm.info(),
    rmsnorm::rmsnorm_f16.info(),
    rope::rope_halves.info(),
    rope::rope_neighbours.info(),
    top_k::top_k.info(),
];
