//! Kernel launches.
//!
//! The caller gives one pointer per parameter. The kernel's PTX says how long each parameter is and where it lies in the
//! parameter space, so the values are copied from behind the pointers into a packed buffer, which is what softcuda takes.

use std::ffi::{c_uint, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use softcuda::{Device, Kernel, Launch};

use super::work::Work;
use super::{Failure, Outcome, capture, module, occupancy, properties, stream};
use crate::sys::*;

pub(crate) unsafe fn kernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    let launch = Launch {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared: shared_bytes,
        cooperative: false,
        early: false,
    };
    // SAFETY: the caller promises a pointer to a value for each parameter.
    unsafe { run(function, launch, None, stream, Arguments { parameters, extra }) }
}

pub(crate) unsafe fn cooperative_kernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    parameters: *mut *mut c_void,
) -> Outcome {
    let launch = Launch {
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        dynamic_shared: shared_bytes,
        cooperative: true,
        early: false,
    };
    // SAFETY: the caller promises a pointer to a value for each parameter.
    unsafe { run(function, launch, None, stream, Arguments { parameters, extra: ptr::null_mut() }) }
}

/// `cuLaunchKernelEx`: the launch's attributes are a list.
pub(crate) unsafe fn kernel_with_attributes(
    config: *const CUlaunchConfig,
    function: CUfunction,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Outcome {
    if config.is_null() {
        return Err(Failure::invalid_value("the pointer to the launch's configuration is null"));
    }
    // SAFETY: not null; the caller promises a configuration behind it.
    let config = unsafe { config.read_unaligned() };
    let mut launch = Launch {
        grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
        block: [config.blockDimX, config.blockDimY, config.blockDimZ],
        dynamic_shared: config.sharedMemBytes,
        cooperative: false,
        early: false,
    };
    if config.attrs.is_null() && config.numAttrs > 0 {
        let text = format!("{} launch attributes, in a null array", config.numAttrs);
        return Err(capture::spoil(config.hStream, Failure::invalid_value(text)));
    }
    let mut cluster = None;
    for index in 0..config.numAttrs as usize {
        // SAFETY: not null; the caller promises so many attributes.
        let attribute = unsafe { config.attrs.add(index).read_unaligned() };
        set(&mut launch, &mut cluster, &attribute).map_err(|failure| capture::spoil(config.hStream, failure))?;
    }
    // SAFETY: the caller promises a pointer to a value for each parameter.
    unsafe { run(function, launch, cluster, config.hStream, Arguments { parameters, extra }) }
}

/// Does as an attribute says, or refuses it.
fn set(launch: &mut Launch, cluster: &mut Option<[u32; 3]>, attribute: &CUlaunchAttribute) -> Outcome {
    let [x, y, z, ..] = attribute.value.words;
    match attribute.id {
        // Streams and launches have one priority.
        CU_LAUNCH_ATTRIBUTE_IGNORE | CU_LAUNCH_ATTRIBUTE_PRIORITY => {}
        CU_LAUNCH_ATTRIBUTE_COOPERATIVE => launch.cooperative = x != 0,
        CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION => launch.early = x != 0,
        CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION => *cluster = Some([x, y, z]),
        other => {
            let text = format!("launch attribute {other} is none that softcuda knows");
            return Err(Failure::new(CUDA_ERROR_NOT_SUPPORTED, text));
        }
    }
    Ok(())
}

/// What a kernel is given: a pointer for each parameter, or a buffer in the kernel's layout.
#[derive(Clone, Copy)]
struct Arguments {
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
}

/// Launches, or leaves it to the graph where the stream captures: the arguments are then those of this call.
///
/// # Safety
/// - `arguments.parameters` holds, for each parameter of the kernel, a pointer to a value of the parameter's size; or
///   `arguments.extra` says where a buffer with all of them is.
unsafe fn run(
    function: CUfunction,
    launch: Launch,
    cluster: Option<[u32; 3]>,
    stream: CUstream,
    arguments: Arguments,
) -> Outcome {
    let device = stream::device(stream)?;
    // SAFETY: the caller's promise.
    let work = unsafe { prepare(device, function, launch, cluster, arguments) };
    let work = work.map_err(|failure| capture::spoil(stream, failure))?;
    // SAFETY: a kernel's work has no host pointers.
    unsafe { stream::submit(stream, work) }
}

/// # Safety
/// - As for `run`.
unsafe fn prepare(
    device: &'static Device,
    function: CUfunction,
    launch: Launch,
    cluster: Option<[u32; 3]>,
    arguments: Arguments,
) -> Result<Work, Failure> {
    let function = module::function(function)?;
    let kernel = &function.kernel;
    if !ptr::eq(device, function.device) {
        let (of, stream) = (function.device.config().ordinal, device.config().ordinal);
        let text = format!("kernel {} is loaded on device {of}, the stream is device {stream}'s", kernel.name());
        return Err(Failure::new(CUDA_ERROR_INVALID_HANDLE, text));
    }

    let limit = function.max_dynamic_shared.load(Ordering::Relaxed);
    check_sizes(kernel, &launch, limit)?;
    if let Some(cluster) = cluster {
        check_cluster(device, function.non_portable_clusters.load(Ordering::Relaxed), kernel, &launch, cluster)?;
    }
    if launch.cooperative {
        let threads = launch.block.iter().product();
        let resident = occupancy::blocks_on_device(device, kernel, threads, launch.dynamic_shared as usize);
        let blocks = launch.grid.iter().map(|&extent| u64::from(extent)).product::<u64>();
        if blocks > resident {
            return Err(Failure::new(
                CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
                format!("kernel {}: {blocks} blocks, of which {resident} fit on the device at once", kernel.name()),
            ));
        }
    }
    // SAFETY: the caller's promise.
    let parameters = unsafe {
        match arguments.extra.is_null() {
            true => pack(kernel, arguments.parameters),
            false => packed(kernel, arguments.extra),
        }
    }?;
    Ok(Work::Kernel { device, kernel: kernel.clone(), launch, cluster, parameters })
}

/// The limits that a GPU checks before it runs anything.
fn check_sizes(kernel: &Kernel, launch: &Launch, dynamic_limit: u32) -> Outcome {
    let refuse = |what: String| Err(Failure::invalid_value(format!("kernel {}: {what}", kernel.name())));
    let axes = ["x", "y", "z"];
    for (axis, name) in axes.iter().enumerate() {
        let (grid, most) = (launch.grid[axis], properties::GRID[axis]);
        if grid == 0 || grid > most {
            return refuse(format!("grid {name} is {grid}; expected 1 to {most}"));
        }
        let (block, most) = (launch.block[axis], properties::BLOCK[axis]);
        if block == 0 || block > most {
            return refuse(format!("block {name} is {block}; expected 1 to {most}"));
        }
    }
    let threads: u32 = launch.block.iter().product();
    let most = kernel.max_threads();
    if threads > most {
        return refuse(format!("a block of {threads} threads; expected at most {most}"));
    }
    if launch.dynamic_shared > dynamic_limit {
        return refuse(format!(
            "{} bytes of dynamic shared memory; expected at most {dynamic_limit} (cuFuncSetAttribute raises it)",
            launch.dynamic_shared
        ));
    }
    Ok(())
}

/// The blocks of a cluster that every GPU with clusters allows, and those that a kernel may ask for where it says so.
const PORTABLE_CLUSTER: u64 = 8;
const LARGEST_CLUSTER: u64 = 16;

/// What a GPU checks of a launch in clusters.
fn check_cluster(device: &Device, non_portable: bool, kernel: &Kernel, launch: &Launch, cluster: [u32; 3]) -> Outcome {
    let [x, y, z] = cluster;
    let refuse = |what: String| Err(Failure::invalid_value(format!("kernel {}: {what}", kernel.name())));
    let blocks = cluster.iter().map(|&extent| u64::from(extent)).product::<u64>();
    let most = if non_portable { LARGEST_CLUSTER } else { PORTABLE_CLUSTER };
    if properties::clusters(device.config()) == 0 && blocks > 1 {
        let text = format!("kernel {}: clusters of {x} by {y} by {z} blocks on a device without them", kernel.name());
        return Err(Failure::new(CUDA_ERROR_NOT_SUPPORTED, text));
    }
    if blocks == 0 || blocks > most {
        return refuse(format!(
            "clusters of {x} by {y} by {z} blocks; expected 1 to {most} (function attribute \
             CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED raises it to {LARGEST_CLUSTER})"
        ));
    }
    if let Some(axis) = (0..3).find(|&axis| !launch.grid[axis].is_multiple_of(cluster[axis])) {
        return refuse(format!(
            "grid {} is {}; expected a multiple of the cluster's {}",
            ["x", "y", "z"][axis],
            launch.grid[axis],
            cluster[axis]
        ));
    }
    Ok(())
}

/// The parameters in the kernel's layout.
///
/// # Safety
/// - As for `run`.
unsafe fn pack(kernel: &Kernel, parameters: *mut *mut c_void) -> Result<Vec<u8>, Failure> {
    let layout = kernel.param_layout();
    if parameters.is_null() && !layout.is_empty() {
        return Err(Failure::invalid_value(format!(
            "kernel {} takes {} parameters; the array of them is null",
            kernel.name(),
            layout.len()
        )));
    }
    let mut packed = vec![0u8; kernel.param_bytes()];
    for (index, parameter) in layout.iter().enumerate() {
        // SAFETY: the caller promises a pointer for each parameter.
        let from: *const u8 = unsafe { *parameters.add(index) }.cast();
        if from.is_null() {
            return Err(Failure::invalid_value(format!(
                "kernel {}: the pointer to parameter {index} is null",
                kernel.name()
            )));
        }
        let to = &mut packed[parameter.offset..parameter.offset + parameter.size];
        // SAFETY: not null; the caller promises a value of the parameter's size behind it.
        unsafe { ptr::copy_nonoverlapping(from, to.as_mut_ptr(), parameter.size) };
    }
    Ok(packed)
}

/// The parameters from a buffer in the kernel's layout: `extra` is a list of names and values that ends with 0.
///
/// # Safety
/// - `extra` is such a list, and its buffer as long as it says.
unsafe fn packed(kernel: &Kernel, extra: *mut *mut c_void) -> Result<Vec<u8>, Failure> {
    const END: usize = 0;
    const BUFFER: usize = 1;
    const BYTES: usize = 2;
    let (mut buffer, mut bytes) = (ptr::null::<u8>(), None);
    let mut at = 0;
    loop {
        // SAFETY: the caller promises a list that ends, of which nothing behind the end is read.
        match unsafe { *extra.add(at) }.addr() {
            END => break,
            // SAFETY: a value follows each name; a size stands behind a pointer.
            BUFFER => buffer = unsafe { *extra.add(at + 1) }.cast_const().cast(),
            BYTES => {
                // SAFETY: as above.
                let size: *const usize = unsafe { *extra.add(at + 1) }.cast_const().cast();
                if size.is_null() {
                    return Err(Failure::invalid_value("the pointer to the buffer's size is null"));
                }
                // SAFETY: not null; the caller promises a size behind it.
                bytes = Some(unsafe { size.read_unaligned() });
            }
            other => return Err(Failure::invalid_value(format!("launch parameter {other}; expected 0, 1 or 2"))),
        }
        at += 2;
    }
    // What the layout ends with is not needed: a caller may leave out the padding behind the last parameter.
    let needed = kernel.param_layout().last().map_or(0, |last| last.offset + last.size);
    let given = bytes.unwrap_or(0);
    if given < needed || (buffer.is_null() && needed > 0) {
        return Err(Failure::invalid_value(format!(
            "kernel {}: {given} bytes of parameters at {buffer:p}; expected {needed}",
            kernel.name()
        )));
    }
    let mut packed = vec![0u8; kernel.param_bytes()];
    let count = given.min(packed.len());
    // SAFETY: the caller promises `given` bytes.
    unsafe { ptr::copy_nonoverlapping(buffer, packed.as_mut_ptr(), count) };
    Ok(packed)
}
