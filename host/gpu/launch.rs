//! Launching a kernel: its shape, and when it may start.

use std::{cell::Cell, ffi::c_void, ptr};

use driver::sys::{
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, CUfunction, CUlaunchAttribute, CUlaunchConfig,
    cuFuncSetAttribute, cuLaunchKernelEx,
};

use cust::function::FunctionAttribute;

use super::{Gpu, GpuError, check_call, driver_call, launched};

/// The shared memory (bytes), its own and dynamic, that a kernel may have without asking for more.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// A kernel of the loaded image.
pub(super) struct Function {
    handle: CUfunction,
    /// The dynamic shared memory (bytes) that its launches may have.
    shared_limit: Cell<u32>,
}

impl Function {
    pub(super) fn new(function: &cust::function::Function) -> Result<Self, GpuError> {
        let declared = function.get_attribute(FunctionAttribute::SharedMemorySizeBytes);
        let declared = driver_call(|| "reading a kernel's shared memory".into(), declared)?.unsigned_abs();
        let shared_limit = Cell::new(SHARED_WITHOUT_ASKING.saturating_sub(declared));
        Ok(Function { handle: function.to_raw().cast(), shared_limit })
    }

    /// Lets launches have `bytes` of dynamic shared memory.
    fn raise_shared_limit(&self, name: &str, bytes: u32) -> Result<(), GpuError> {
        const MAX_DYNAMIC_SHARED_SIZE_BYTES: u32 = 8;
        if bytes <= self.shared_limit.get() {
            return Ok(());
        }
        // SAFETY: the function's module is loaded.
        let result = unsafe { cuFuncSetAttribute(self.handle, MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes.cast_signed()) };
        check_call(|| format!("giving the kernel `{name}` {bytes} bytes of shared memory a block"), result)?;
        self.shared_limit.set(bytes);
        Ok(())
    }
}

/// How a kernel is launched: one-dimensional blocks in a grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch {
    grid: [u32; 3],
    block: u32,
    shared_bytes: u32,
    early: bool,
}

impl Launch {
    /// After all that was enqueued before, without dynamic shared memory.
    pub(super) fn new(grid: [u32; 3], block: u32) -> Self {
        Launch { grid, block, shared_bytes: 0, early: false }
    }

    /// With dynamic shared memory in every block; a Hopper has 227 KiB, less what the kernel declares.
    pub(super) fn shared_bytes(self, shared_bytes: u32) -> Self {
        Launch { shared_bytes, ..self }
    }

    /// It may start before the kernel before it has ended; see [`Gpu::launch_early`].
    pub(super) fn early(self) -> Self {
        Launch { early: true, ..self }
    }
}

impl Gpu {
    /// Enqueues a kernel of the crate `kernels`, by its handle.
    ///
    /// # Errors
    /// The driver refuses the launch, or softcuda found a fault in it.
    ///
    /// # Safety
    /// - The launch contract in the kernel's documentation holds for this grid, block and these arguments: every
    ///   pointer leads to as much memory as the kernel touches.
    pub unsafe fn launch<P, A: cuda_std::Arguments<P>>(
        &self,
        kernel: cuda_std::Kernel<P>,
        grid: [u32; 3],
        block: u32,
        arguments: A,
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's contract.
        unsafe { self.launch_as(kernel, Launch::new(grid, block), arguments) }
    }

    /// Enqueues a kernel that may start before the kernel enqueued before it has ended (programmatic dependent launch).
    /// On a device whose image has no such instructions it is an ordinary launch.
    ///
    /// # Safety
    /// - The contract of [`Gpu::launch`] holds.
    /// - A thread reads what earlier kernels write, and writes to global memory at all, only after `cuda_std::grid::wait`:
    ///   its own, or another thread's and then a barrier. Some thread of the grid calls it in any case.
    pub(super) unsafe fn launch_early<P, A: cuda_std::Arguments<P>>(
        &self,
        kernel: cuda_std::Kernel<P>,
        grid: [u32; 3],
        block: u32,
        arguments: A,
    ) -> Result<(), GpuError> {
        // SAFETY: the caller's contract.
        unsafe { self.launch_as(kernel, Launch::new(grid, block).early(), arguments) }
    }

    /// Enqueues a kernel as the launch says.
    ///
    /// # Safety
    /// - The launch contract in the kernel's documentation holds for this launch and these arguments; if it is early, that
    ///   of [`Gpu::launch_early`] does too.
    pub(super) unsafe fn launch_as<P, A: cuda_std::Arguments<P>>(
        &self,
        kernel: cuda_std::Kernel<P>,
        launch: Launch,
        arguments: A,
    ) -> Result<(), GpuError> {
        let function = self.function(kernel.name())?;
        launched::note(kernel.name());
        function.raise_shared_limit(kernel.name(), launch.shared_bytes)?;
        let mut packed = kernel.pack(arguments);
        let (mut pointers, _) = packed.pointers();
        let [x, y, z] = launch.grid;
        let pointers = pointers.as_mut_ptr().cast::<*mut c_void>();
        let action = || format!("launching the kernel `{}`", kernel.name());
        // Without grid dependencies in its code, a kernel that started early would not wait.
        let early = launch.early && self.image.has_grid_dependencies();
        if !early {
            // SAFETY: the function belongs to the loaded module; `pointers` leads to as many arguments as the kernel has
            // parameters, of their types, alive during the call; the rest is the caller's contract.
            let result = unsafe {
                driver::sys::cuLaunchKernel(
                    function.handle,
                    x,
                    y,
                    z,
                    launch.block,
                    1,
                    1,
                    launch.shared_bytes,
                    self.current_stream().as_inner().cast(),
                    pointers,
                    ptr::null_mut(),
                )
            };
            return check_call(action, result);
        }
        let attributes = [CUlaunchAttribute::number(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 1)];
        let config = CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: launch.block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: launch.shared_bytes,
            hStream: self.current_stream().as_inner().cast(),
            attrs: attributes.as_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: as above; the configuration and its attributes are alive during the call.
        let result = unsafe { cuLaunchKernelEx(&config, function.handle, pointers, ptr::null_mut()) };
        check_call(action, result)
    }
}

#[cfg(test)]
mod tests {
    use driver::DeviceChoice;
    use kernels::glu::{SWIGLU, glu};

    use super::*;

    /// softcuda's word on each launch: (early, dynamic shared memory).
    #[test]
    fn launches_reach_the_driver_as_they_are_asked_for() {
        let gpu = Gpu::open(DeviceChoice::Soft).unwrap();
        let values = gpu.upload("values", &[1.0f32; 256]).unwrap();
        let device = driver::soft::device().unwrap();
        let records = || {
            let all = device.records();
            let mine = all.iter().filter(|record| record.kernel == "glu" && record.grid == [1, 1, 7]);
            mine.map(|record| (record.early, record.dynamic_shared)).collect::<Vec<_>>()
        };
        let launch = Launch::new([1, 1, 7], 256);
        let shared = 200 << 10;
        device.set_recording(true);
        for launch in [launch, launch.early(), launch.shared_bytes(shared)] {
            // SAFETY: the kernel reads and writes 256 values, whatever z is.
            unsafe { gpu.launch_as(glu, launch, (&*values, &*values, &*values, 256, SWIGLU)).unwrap() };
        }
        let early = gpu.image().has_grid_dependencies();
        assert_eq!(records(), [(false, 0), (early, 0), (false, shared)]);
        // SAFETY: as above.
        let error = unsafe {
            gpu.launch_as(glu, launch.shared_bytes(228 << 10), (&*values, &*values, &*values, 256, SWIGLU)).unwrap_err()
        };
        let words = "giving the kernel `glu` 233472 bytes of shared memory a block: ";
        assert!(error.to_string().starts_with(words), "{error}");
    }
}
