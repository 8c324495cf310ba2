//! A software CUDA device: reads PTX text and executes it on the CPU.
//!
//! The device runs what a GPU would be given, the PTX that a compiler emitted, and watches it while it runs. It is
//! made for finding mistakes in kernels on a machine without a GPU, and for counting what a kernel does.
//!
//! ```
//! use softcuda::{Device, DeviceConfig, Launch, Module};
//!
//! let ptx = "
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry double(.param .u64 data) {
//!     .reg .b32 %r<4>;
//!     .reg .b64 %rd<4>;
//!     ld.param.u64 %rd1, [data];
//!     mov.u32 %r1, %tid.x;
//!     mul.wide.u32 %rd2, %r1, 4;
//!     add.s64 %rd3, %rd1, %rd2;
//!     ld.global.b32 %r2, [%rd3];
//!     shl.b32 %r3, %r2, 1;
//!     st.global.b32 [%rd3], %r3;
//!     ret;
//! }";
//! let device = Device::new(DeviceConfig::default());
//! let kernel = device.load(&Module::from_ptx(ptx)?)?.kernel("double").unwrap();
//! let data = device.alloc(4 * 32)?;
//! device.write(data, &[3u32; 32].map(u32::to_le_bytes).concat())?;
//! let launch = Launch { grid: [1, 1, 1], block: [32, 1, 1], dynamic_shared: 0, cooperative: false, early: false };
//! let counters = device.launch(&kernel, &launch, &data.to_le_bytes())?;
//! let mut out = [0; 4 * 32];
//! device.read(data, &mut out)?;
//! assert_eq!(out[..4], 6u32.to_le_bytes());
//! assert_eq!(counters.global_load_sectors, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a kernel gets to run
//!
//! `ptx` turns text into a syntax tree. `decode` turns a function into a dense vector of instructions: registers and
//! literals become rows of 32 values at fixed places, opcodes become pointers to functions that act on a whole warp.
//! `exec` runs warps; `launch` gives blocks to host threads.
//!
//! # What is always checked
//!
//! Bounds, alignment and lifetime of every access; barriers that part of a block cannot reach; collectives that name or
//! read lanes that are not there; traps; the limits of a launch. Each is a [`Fault`] that names the kernel, the source
//! line where the PTX has line tables, the PTX line, the block and the thread. Wrong text is a [`PtxError`] when the module is
//! read; an instruction that softcuda does not know is a fault of whoever executes it: nothing is skipped.
//!
//! With [`Device::set_sanitizer`], also reads of memory that nobody wrote, the host's included, accesses that leave the
//! variable whose address they were computed from, and pairs of accesses that nothing orders, those of kernels launched to
//! overlap included. A launch then goes on after a fault and reports the first of each place ([`Fault::others`]).
//! [`Device::live`] says what was never freed.
//!
//! # Where it differs from a GPU
//!
//! - Approximate functions are computed in f64 and rounded once; tensor-core products are summed in f64 and rounded once.
//! - The lanes of a warp that diverge run lowest address first. Lanes that spin for others of their own warp, by strong loads,
//!   atomics, `mbarrier` waits or `nanosleep`, let these go on after a while; by weak loads they wait for ever, and the launch
//!   ends with [`FaultKind::Timeout`].
//! - A load is never stale and a store is visible at once, so a missing fence shows only under the sanitizer.
//! - Calls are expanded in place, except those of functions that reach themselves or are called through a register.
//! - What kernels print comes when the launch has ended, block by block.

mod counters;
mod decode;
mod device;
mod exec;
mod fault;
mod format;
mod heap;
mod launch;
mod memory;
mod minifloat;
mod module;
mod numeric;
mod output;
mod pool;
mod profile;
mod program;
mod ptx;
mod sanitizer;
mod space;
mod tensor_map;

pub use counters::{AllocationReads, Class, Counters, LaunchRecord};
pub use device::{Device, DeviceConfig, Launch, LiveAllocation};
pub use fault::{Fault, FaultKind, Location, PtxError, SourceLine};
pub use module::{Kernel, LoadedModule, Module};
pub use profile::{set_profile, write_profile};
pub use program::{Param, RegisterCounts};
pub use tensor_map::{Element, TensorMap};
