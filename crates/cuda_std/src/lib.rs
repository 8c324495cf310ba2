//! The device API that ferrowarp's kernels are written against, under the names that Rust-CUDA's `cuda_std` uses, over
//! the NVPTX backend that every `rustc` carries.
//!
//! On the device (`target_arch = "nvptx64"`) the modules below wrap PTX instructions; all inline assembly of the project is
//! here. On the host the same functions type-check but abort when called, and [`Kernel`] with its argument traits describes an
//! entry point to whoever launches it.
//!
//! Instructions that only newer GPUs have (`cluster`, `bulk`, `tensor_map`, `wgmma`, parts of `mbarrier` and `fence`: Hopper, `sm_90a`) exist on
//! the device only where the crate is compiled for such a GPU (`cuda_builder::build_kernels_for`): for an older one a kernel that
//! uses them does not compile, and rustc says what the name is gated behind.
//!
//! # A kernel
//!
//! ```
//! use cuda_std::{kernel, thread};
//!
//! /// out[i] = a * x[i] for i < n. One thread per element.
//! ///
//! /// # Safety
//! /// - `x` and `out` hold `n` elements.
//! #[kernel]
//! pub unsafe fn scale(x: *const f32, out: *mut f32, a: f32, n: u32) {
//!     let i = thread::index_1d();
//!     if i < n {
//!         unsafe { *out.add(i as usize) = a * *x.add(i as usize) }
//!     }
//! }
//! # fn main() { assert_eq!(scale.name(), "scale"); }
//! ```
//!
//! # Slices
//!
//! A parameter may be a slice, a pointer with the number of its elements: `&[T]`, of which nobody writes an element while the kernel
//! runs, or `*mut [T]`. The launch passes a buffer, or a part of one, whose length goes along; in the kernel an index past the end is
//! a panic, which arrives on the host with its line.
//!
//! ```
//! use cuda_std::{kernel, thread};
//!
//! /// out[i] = a * x[i]. One thread per element of `out`.
//! ///
//! /// # Safety
//! /// - `x` is as long as `out`.
//! #[kernel]
//! pub unsafe fn scale(x: &[f32], out: *mut [f32], a: f32) {
//!     let i = thread::index_1d() as usize;
//!     if i < out.len() {
//!         unsafe { (*out)[i] = a * x[i] }
//!     }
//! }
//! # fn main() { assert_eq!(scale.parameters(), ["x", "out", "a"]); }
//! ```
//!
//! # What cannot be passed
//!
//! ```compile_fail,E0277
//! # use cuda_std::kernel;
//! #[kernel]
//! pub unsafe fn takes_text(text: String) {}
//! # fn main() {}
//! ```
//! ```compile_fail
//! # use cuda_std::kernel;
//! #[kernel]
//! pub unsafe fn takes_all_for_itself(out: &mut [f32]) {}
//! # fn main() {}
//! ```

#![cfg_attr(target_arch = "nvptx64", no_std)]
#![cfg_attr(
    target_arch = "nvptx64",
    feature(asm_experimental_arch, stdarch_nvptx, f16, link_llvm_intrinsics, abi_unadjusted),
    allow(internal_features)
)]

/// The body of a device function: what it does there; on the host it aborts.
macro_rules! on_device {
    (($($argument:expr),*) $body:block) => {{
        #[cfg(target_arch = "nvptx64")]
        $body
        #[cfg(not(target_arch = "nvptx64"))]
        {
            $(let _ = &$argument;)*
            crate::device_only()
        }
    }};
}

pub mod async_copy;
pub mod atomic;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
pub mod bulk;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
pub mod cluster;
#[cfg(target_arch = "nvptx64")]
mod collective;
pub mod fence;
pub mod float;
pub mod grid;
pub mod halves;
pub mod integer;
pub mod mbarrier;
pub mod memory;
pub mod mma;
pub mod print;
pub mod shared;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
pub mod tensor_map;
pub mod thread;
pub mod types;
pub mod unroll;
pub mod warp;
#[cfg(any(not(target_arch = "nvptx64"), cuda_arch_at_least = "90"))]
pub mod wgmma;

#[cfg(not(target_arch = "nvptx64"))]
mod host;

#[cfg(not(target_arch = "nvptx64"))]
pub use host::{Argument, Arguments, Image, Kernel, Packed, Parameter};

pub use cuda_std_macros::kernel;
pub use types::{BF16, F16};

/// What a device function does when host code calls it: nothing sensible is possible.
#[cfg(not(target_arch = "nvptx64"))]
#[cold]
fn device_only() -> ! {
    unreachable!("this function exists on the device only; on the host a kernel is launched, not called")
}

/// A kernel that panics (an assertion, an index out of bounds) ends the launch with CUDA's own device assertion: the host gets
/// `CUDA_ERROR_ASSERT`, and file, line, block and thread are printed, with the message where it has no arguments.
#[cfg(target_arch = "nvptx64")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    unsafe extern "C" {
        fn __assertfail(message: *const u8, file: *const i8, line: u32, function: *const i8, width: usize);
    }
    // What fits, and a zero behind it.
    let mut message = [0u8; 128];
    let text = info.message().as_str().unwrap_or("panicked");
    for (to, from) in message[..127].iter_mut().zip(text.bytes()) {
        *to = from;
    }
    let (file, line) = info.location().map_or((c"?", 0), |at| (at.file_as_c_str(), at.line()));
    // SAFETY: texts that end with a zero; trap has no operands and ends the launch.
    unsafe {
        __assertfail(message.as_ptr(), file.as_ptr(), line, c"a kernel".as_ptr(), 1);
        core::arch::asm!("trap;", options(noreturn, nostack))
    }
}
