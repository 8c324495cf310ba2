//! How many blocks are resident at once.
//!
//! The limits per multiprocessor are those of the compute capability that the device reports: threads (whole warps),
//! blocks, and shared memory, of which each block takes what it asks for and a reserved KiB. Registers do not limit:
//! PTX names as many as it likes, and how many the machine code needs is known only after compiling for a GPU. An answer
//! here is therefore an upper bound for a real device, and exact for what softcuda keeps resident.

use std::ffi::{c_int, c_uint};

use softcuda::{Device, Kernel};

use super::{Failure, Outcome, give, module, properties};
use crate::sys::*;

/// Resident blocks per multiprocessor.
fn blocks_per_multiprocessor(kernel: &Kernel, threads: u32, dynamic_bytes: usize) -> u32 {
    if threads == 0 || threads > kernel.max_threads() {
        return 0;
    }
    let warps = threads.div_ceil(properties::WARP);
    let by_threads = properties::THREADS_PER_MULTIPROCESSOR / (warps * properties::WARP);
    let shared = (kernel.static_shared_bytes() as usize).saturating_add(dynamic_bytes);
    if shared > properties::SHARED_PER_BLOCK_OPT_IN as usize {
        return 0;
    }
    let by_shared = properties::SHARED_PER_MULTIPROCESSOR / (shared as u32 + properties::SHARED_RESERVED_PER_BLOCK);
    by_threads.min(by_shared).min(properties::BLOCKS_PER_MULTIPROCESSOR)
}

/// Resident blocks on the whole device: the most that a cooperative launch may have.
pub(crate) fn blocks_on_device(device: &Device, kernel: &Kernel, threads: u32, dynamic_bytes: usize) -> u64 {
    u64::from(blocks_per_multiprocessor(kernel, threads, dynamic_bytes)) * u64::from(device.config().sm_count)
}

fn block_size_of(value: c_int) -> Result<u32, Failure> {
    match u32::try_from(value) {
        Ok(threads) if threads > 0 => Ok(threads),
        _ => Err(Failure::invalid_value(format!("a block of {value} threads; expected at least 1"))),
    }
}

pub(crate) unsafe fn max_active_blocks(
    blocks: *mut c_int,
    function: CUfunction,
    block_size: c_int,
    dynamic_bytes: usize,
) -> Outcome {
    let function = module::function(function)?;
    let threads = block_size_of(block_size)?;
    // SAFETY: the caller's pointer for the number.
    unsafe { give(blocks, blocks_per_multiprocessor(&function.kernel, threads, dynamic_bytes) as c_int) }
}

/// The dynamic shared memory that each of `blocks` blocks on a multiprocessor can have.
pub(crate) unsafe fn available_dynamic_shared_memory(
    bytes: *mut usize,
    function: CUfunction,
    blocks: c_int,
    block_size: c_int,
) -> Outcome {
    let function = module::function(function)?;
    let threads = block_size_of(block_size)?;
    let without = blocks_per_multiprocessor(&function.kernel, threads, 0);
    let blocks = match u32::try_from(blocks) {
        Ok(blocks) if blocks > 0 && blocks <= without => blocks,
        _ => {
            return Err(Failure::invalid_value(format!(
                "{blocks} blocks of {threads} threads on a multiprocessor; expected 1 to {without}"
            )));
        }
    };
    let share = properties::SHARED_PER_MULTIPROCESSOR / blocks - properties::SHARED_RESERVED_PER_BLOCK;
    let most = share.min(properties::SHARED_PER_BLOCK_OPT_IN) - function.kernel.static_shared_bytes();
    // SAFETY: the caller's pointer for the size.
    unsafe { give(bytes, most as usize) }
}

/// The block size, a multiple of the warp, that puts most threads on a multiprocessor (the largest of equals), and the
/// grid that then fills the device.
pub(crate) unsafe fn max_potential_block_size(
    min_grid: *mut c_int,
    block_size: *mut c_int,
    function: CUfunction,
    dynamic_bytes_for: CUoccupancyB2DSize,
    dynamic_bytes: usize,
    block_size_limit: c_int,
) -> Outcome {
    let function = module::function(function)?;
    let kernel = &function.kernel;
    let most = match u32::try_from(block_size_limit) {
        Ok(limit) if limit > 0 => limit.min(kernel.max_threads()),
        // 0 stands for no limit.
        _ => kernel.max_threads(),
    };
    let mut best = (0, 0, 0);
    for threads in (properties::WARP..=most).step_by(properties::WARP as usize) {
        let dynamic = match dynamic_bytes_for {
            // SAFETY: the caller's function takes a block size and has no other demands.
            Some(dynamic_bytes_for) => unsafe { dynamic_bytes_for(threads as c_int) },
            None => dynamic_bytes,
        };
        let blocks = blocks_per_multiprocessor(kernel, threads, dynamic);
        if blocks > 0 && blocks * threads >= best.0 {
            best = (blocks * threads, blocks, threads);
        }
    }
    let (_, blocks, threads) = best;
    if threads == 0 {
        return Err(Failure::new(
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            format!("kernel {}: no block of 32 to {most} threads fits a multiprocessor", kernel.name()),
        ));
    }
    // SAFETY: the caller's pointers for the two sizes.
    unsafe {
        give(min_grid, (blocks * function.device.config().sm_count) as c_int)?;
        give(block_size, threads as c_int)
    }
}

/// Flag 1 turns off that the cache's use limits occupancy, which it does not.
fn check_flags(flags: c_uint) -> Outcome {
    match flags {
        0 | 1 => Ok(()),
        _ => Err(Failure::invalid_value(format!("occupancy flags {flags:#x}; expected 0 or 1"))),
    }
}

pub(crate) unsafe fn max_active_blocks_with_flags(
    blocks: *mut c_int,
    function: CUfunction,
    block_size: c_int,
    dynamic_bytes: usize,
    flags: c_uint,
) -> Outcome {
    check_flags(flags)?;
    // SAFETY: the caller's pointer for the number.
    unsafe { max_active_blocks(blocks, function, block_size, dynamic_bytes) }
}

pub(crate) unsafe fn max_potential_block_size_with_flags(
    min_grid: *mut c_int,
    block_size: *mut c_int,
    function: CUfunction,
    dynamic_bytes_for: CUoccupancyB2DSize,
    dynamic_bytes: usize,
    block_size_limit: c_int,
    flags: c_uint,
) -> Outcome {
    check_flags(flags)?;
    // SAFETY: the caller's pointers for the two sizes.
    unsafe {
        max_potential_block_size(min_grid, block_size, function, dynamic_bytes_for, dynamic_bytes, block_size_limit)
    }
}
