//! Tests for GPU kernels in Rust, on a machine with a GPU or without one.
//!
//! ```
//! # mod my_kernels {
//! #     pub const scale: cuda_std::Kernel<(*const f32, *mut f32, f32, u32)> =
//! #         cuda_std::Kernel::new("scale", &["x", "out", "a", "n"]).in_image(warp_test::example::IMAGE);
//! # }
//! use my_kernels::scale;
//! use warp_test::{Device, Launch, Random, assert_close, gpu_test};
//!
//! # fn main() { warp_test::run_on_soft(&["scale"], scale_multiplies) }
//! #[gpu_test(scale)]
//! fn scale_multiplies(device: &Device) {
//!     let x = Random::new().values(1000, 10.0);
//!     let (input, out) = (device.upload(&x), device.alloc::<f32>(1000));
//!     // SAFETY: both buffers hold 1000 values.
//!     unsafe { device.launch(scale, Launch::over(1000, 256), (&input, &out, 0.5f32, 1000u32)) };
//!     let want: Vec<f64> = x.iter().map(|x| 0.5 * f64::from(*x)).collect();
//!     assert_close!(out.read(), want, relative = 1e-7);
//! }
//! ```
//!
//! | | |
//! |---|---|
//! | [`gpu_test`] | one function, two tests: `scale_multiplies::soft` and `scale_multiplies::cuda` |
//! | [`Device`] | softcuda with its sanitizer on, or the GPU; it launches kernels by their handles |
//! | [`Buffer`] | memory of a device |
//! | [`Launch`] | grid, block, shared memory, cluster |
//! | [`Tiles`] | a buffer as a tensor, for kernels that copy tiles: [`Buffer::tensor_map`] |
//! | [`Random`] | inputs that `FERROWARP_SEED` draws again |
//! | [`assert_close!`] | names the worst element |
//!
//! On softcuda every test has a device of its own, so what one does, no other sees. On a GPU all share the first one.

mod buffer;
mod close;
mod cuda;
mod device;
#[doc(hidden)]
pub mod example;
mod launch;
mod random;
mod run;
mod soft;
mod tiles;

pub use buffer::{Buffer, Part};
pub use close::{Number, Tolerance, assert_within};
pub use cuda_std_macros::gpu_test;
pub use device::{Device, Error};
pub use launch::{Launch, Launched};
pub use random::Random;
pub use run::{run_on_cuda, run_on_soft};
pub use softcuda::{Class, Counters, Fault, FaultKind};
pub use tiles::{TensorMap, TileElement, Tiles};
