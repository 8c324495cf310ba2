//! ferrowarp's device code: one file for each kernel family.
//!
//! Matrices are row-major, tokens are rows: `[n_tokens][n]` means that token `t`'s values are the `n` contiguous ones at
//! `t * n`. Activations are `f32`. A weight matrix is GGUF's: `[n_out][n_in]`, one output's weights contiguous.

// Every access in a kernel rests on the same thing, the kernel's launch contract, which its `# Safety` section states once.
#![allow(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]
// A kernel takes what it needs by name: a struct of parameters would hide the launch from the reader and the checker.
#![allow(clippy::too_many_arguments)]
#![allow(rustdoc::broken_intra_doc_links, reason = "formulas have indices: out[i] is no link")]

// A file in this folder is a module: build.rs lists them.
include!(concat!(env!("OUT_DIR"), "/modules.rs"));
