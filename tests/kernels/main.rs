//! Every kernel against its definition in `f64`, on the device that `FERROWARP_DEVICE` names (softcuda where it is not
//! set and there is no GPU), on softcuda under the sanitizer.
//!
//! The inputs are random; a failure prints the seed, and `FERROWARP_SEED` runs it again. Outputs are poisoned first, with
//! a margin behind them that must stay poisoned: a value that is not written, or written where it should not be, fails.
//!
//! With `FERROWARP_LAUNCHED` naming a file the tests write there which kernels they launched; the ignored test, run
//! afterwards, fails where one of the registered kernels is not among them.

mod argmax;
mod attention;
mod attention_decode;
mod bandwidth;
mod blocks;
mod cache;
mod delta_net;
mod elementwise;
mod embedding;
mod experts;
mod flash;
mod gemv;
mod glu;
mod graph;
mod latent_attention;
mod launched;
mod layer_norm;
mod matmul;
mod noise;
mod qkv;
mod range;
mod rmsnorm;
mod rope;
mod support;
mod top_k;
