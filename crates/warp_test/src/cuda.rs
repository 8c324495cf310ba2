//! The first NVIDIA GPU, through the driver's functions that `crates/driver` opens at run time.

use std::cell::RefCell;
use std::collections::HashMap;
use std::env;
use std::ffi::{CString, c_void};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::ptr;

use cuda_std::tensor_map::Descriptor;
use cuda_std::{Image, Packed};
use driver::DeviceChoice;
use driver::sys::{
    CU_LAUNCH_ATTRIBUTE_COOPERATIVE, CUDA_SUCCESS, CUcontext, CUdevice, CUevent, CUfunction, CUlaunchAttribute,
    CUlaunchConfig, CUmodule, CUresult, CUtensorMap, cuCtxSetCurrent, cuCtxSynchronize, cuDeviceGet,
    cuDevicePrimaryCtxRelease_v2, cuDevicePrimaryCtxRetain, cuEventCreate, cuEventDestroy_v2, cuEventElapsedTime,
    cuEventRecord, cuFuncSetAttribute, cuInit, cuLaunchKernelEx, cuMemAlloc_v2, cuMemFree_v2, cuMemcpyDtoH_v2,
    cuMemcpyHtoD_v2, cuMemsetD8_v2, cuModuleGetFunction, cuModuleLoadData, cuModuleUnload, cuTensorMapEncodeTiled,
};

use crate::{Error, Launch, Tiles};

/// Bytes behind a buffer that no kernel may touch.
const MARGIN: usize = 256;

/// What a buffer and its margin are filled with: as a float it is a NaN.
const POISON: u8 = 0xff;

/// The shared memory (bytes) that a block may have without asking for more.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// The blocks of a cluster that every GPU with clusters allows.
const PORTABLE_CLUSTER: u32 = 8;

pub struct Cuda {
    device: CUdevice,
    context: CUcontext,
    /// By the address of the image's text.
    modules: RefCell<HashMap<usize, CUmodule>>,
}

impl Cuda {
    pub fn new() -> Result<Cuda, Error> {
        driver::select(DeviceChoice::Cuda)?;
        let (mut device, mut context) = (0, ptr::null_mut());
        // SAFETY: every pointer is to a variable of the type that the call writes.
        unsafe {
            check("starting CUDA", cuInit(0))?;
            check("opening device 0", cuDeviceGet(&mut device, 0))?;
            check("opening its context", cuDevicePrimaryCtxRetain(&mut context, device))?;
        }
        let cuda = Cuda { device, context, modules: RefCell::default() };
        cuda.enter()?;
        Ok(cuda)
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context is retained as long as `self` lives.
        check("entering the context", unsafe { cuCtxSetCurrent(self.context) })
    }

    /// Memory full of poison, and a margin of it behind.
    pub fn alloc(&self, bytes: usize) -> Result<u64, Error> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: `address` is written; then as many bytes as were allocated are.
        unsafe {
            check("allocating memory", cuMemAlloc_v2(&mut address, bytes + MARGIN))?;
            check("filling memory", cuMemsetD8_v2(address, POISON, bytes + MARGIN))?;
        }
        Ok(address)
    }

    pub fn free(&self, address: u64) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: the address is one that `alloc` gave, whose buffer is gone.
        check("freeing memory", unsafe { cuMemFree_v2(address) })
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: the slice is read; where the bytes go the driver checks.
        check("copying to the device", unsafe { cuMemcpyHtoD_v2(address, bytes.as_ptr().cast(), bytes.len()) })
    }

    /// Reads a whole buffer, and checks that the margin behind it is as it was.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Error> {
        self.enter()?;
        let mut margin = [0; MARGIN];
        // SAFETY: both slices are written to their lengths; the allocation holds the buffer and the margin.
        unsafe {
            let copied = cuMemcpyDtoH_v2(bytes.as_mut_ptr().cast(), address, bytes.len());
            check("copying from the device", copied)?;
            let end = address + bytes.len() as u64;
            check("copying from the device", cuMemcpyDtoH_v2(margin.as_mut_ptr().cast(), end, MARGIN))?;
        }
        match margin.iter().position(|byte| *byte != POISON) {
            Some(at) => Err(Error::Driver(format!("a kernel wrote {at} bytes past a buffer of {} bytes", bytes.len()))),
            None => Ok(()),
        }
    }

    /// Describes a tensor at an address; strides in bytes. The lists are as long as the tensor has dimensions, that of strides one
    /// shorter.
    pub fn tensor_map(
        &self,
        element: u32,
        address: u64,
        tiles: &Tiles,
        strides: &[u64],
        steps: &[u32],
    ) -> Result<Descriptor, Error> {
        // What is fetched into L2 besides: 128 bytes.
        const PROMOTION: u32 = 2;
        self.enter()?;
        let mut map = CUtensorMap { opaque: [0; 16] };
        let rank = tiles.sizes.len() as u32;
        let pointer = ptr::with_exposed_provenance_mut(address as usize);
        // SAFETY: the map is written; the lists are as long as the driver reads them.
        let made = unsafe {
            cuTensorMapEncodeTiled(
                &mut map,
                element,
                rank,
                pointer,
                tiles.sizes.as_ptr(),
                strides.as_ptr(),
                tiles.tile.as_ptr(),
                steps.as_ptr(),
                0,
                tiles.swizzle as u32,
                PROMOTION,
                u32::from(tiles.fill_nan),
            )
        };
        check(&format!("describing {tiles:?}"), made)?;
        Ok(Descriptor(map.opaque))
    }

    pub fn launch(&self, image: Image, name: &str, launch: Launch, arguments: &Packed) -> Result<(), Error> {
        self.enter()?;
        let function = self.function(image, name)?;
        if launch.shared_bytes > SHARED_WITHOUT_ASKING {
            const MAX_DYNAMIC_SHARED_SIZE_BYTES: u32 = 8;
            // SAFETY: the function's module is loaded.
            let given = unsafe {
                cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, launch.shared_bytes.cast_signed())
            };
            check("asking for shared memory", given)?;
        }
        if launch.cluster.is_some_and(|cluster| cluster.iter().product::<u32>() > PORTABLE_CLUSTER) {
            const NON_PORTABLE_CLUSTER_SIZE_ALLOWED: u32 = 14;
            // SAFETY: the function's module is loaded.
            let given = unsafe { cuFuncSetAttribute(function, NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1) };
            check("asking for a large cluster", given)?;
        }
        let attributes = [
            CUlaunchAttribute::number(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, u32::from(launch.cooperative)),
            CUlaunchAttribute::cluster(launch.cluster.unwrap_or([1; 3])),
        ];
        let config = CUlaunchConfig {
            gridDimX: launch.grid[0],
            gridDimY: launch.grid[1],
            gridDimZ: launch.grid[2],
            blockDimX: launch.block[0],
            blockDimY: launch.block[1],
            blockDimZ: launch.block[2],
            sharedMemBytes: launch.shared_bytes,
            hStream: ptr::null_mut(),
            attrs: attributes.as_ptr(),
            // Older GPUs know no clusters, not even of one.
            numAttrs: 1 + u32::from(launch.cluster.is_some()),
        };
        let mut arguments = arguments.clone();
        let (mut pointers, _) = arguments.pointers();
        let pointers = pointers.as_mut_ptr().cast::<*mut c_void>();
        // SAFETY: the handle's types made the arguments, alive during the call as the configuration is; what the kernel
        // does with them is the contract of whoever launches.
        unsafe {
            let timer = Timer::start(name)?;
            check(&format!("launching `{name}`"), cuLaunchKernelEx(&config, function, pointers, ptr::null_mut()))?;
            timer.as_ref().map_or(Ok(()), Timer::stop)?;
            check(&format!("the kernel `{name}`"), cuCtxSynchronize())?;
            timer.map_or(Ok(()), Timer::write)
        }
    }

    fn function(&self, image: Image, name: &str) -> Result<CUfunction, Error> {
        let module = self.module(image)?;
        let missing = || Error::NoKernel { kernel: name.into(), image: image.crate_name.into() };
        let c_name = CString::new(name).map_err(|_| missing())?;
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded, the name ends in NUL, and `function` is written.
        match unsafe { cuModuleGetFunction(&mut function, module, c_name.as_ptr()) } {
            CUDA_SUCCESS => Ok(function),
            _ => Err(missing()),
        }
    }

    /// Loads an image when it is first asked for.
    fn module(&self, image: Image) -> Result<CUmodule, Error> {
        let key = image.ptx.as_ptr() as usize;
        if let Some(module) = self.modules.borrow().get(&key) {
            return Ok(*module);
        }
        let failed = |problem: String| Error::Image { image: image.crate_name.into(), problem };
        let text = CString::new(image.ptx).map_err(|error| failed(error.to_string()))?;
        let mut module = ptr::null_mut();
        // SAFETY: the text ends in NUL, and `module` is written.
        let loaded = unsafe { cuModuleLoadData(&mut module, text.as_ptr().cast()) };
        check("compiling it", loaded).map_err(|error| failed(error.to_string()))?;
        self.modules.borrow_mut().insert(key, module);
        Ok(module)
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        for module in self.modules.borrow().values() {
            // SAFETY: nothing of the module is used any more. A failure here has nobody to tell.
            let _ = unsafe { cuModuleUnload(*module) };
        }
        // SAFETY: what `new` retained.
        let _ = unsafe { cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// Measures a launch while a profile is asked for (`SOFTCUDA_PROFILE`, which `cargo warp profile` sets): the folder's
/// `PID.times` gets a line, the kernel's name and microseconds.
struct Timer {
    events: [CUevent; 2],
    file: PathBuf,
    kernel: String,
}

impl Timer {
    fn start(kernel: &str) -> Result<Option<Timer>, Error> {
        let Some(folder) = env::var_os("SOFTCUDA_PROFILE").filter(|folder| !folder.is_empty()) else { return Ok(None) };
        let mut events = [ptr::null_mut(); 2];
        for event in &mut events {
            // SAFETY: the handle is written.
            check("creating an event", unsafe { cuEventCreate(event, 0) })?;
        }
        // SAFETY: the event was made above; the stream is the default one.
        check("recording an event", unsafe { cuEventRecord(events[0], ptr::null_mut()) })?;
        let file = PathBuf::from(folder).join(format!("{}.times", std::process::id()));
        Ok(Some(Timer { events, file, kernel: kernel.to_owned() }))
    }

    /// The launch has been made.
    fn stop(&self) -> Result<(), Error> {
        // SAFETY: the event is live; the stream is the default one.
        check("recording an event", unsafe { cuEventRecord(self.events[1], ptr::null_mut()) })
    }

    /// The launch has ended.
    fn write(self) -> Result<(), Error> {
        let mut milliseconds = 0f32;
        let [start, end] = self.events;
        // SAFETY: both events are live until they are destroyed here; the time is written.
        unsafe {
            check("reading a time", cuEventElapsedTime(&mut milliseconds, start, end))?;
            check("destroying an event", cuEventDestroy_v2(start))?;
            check("destroying an event", cuEventDestroy_v2(end))?;
        }
        let failed = |error: std::io::Error| Error::Driver(format!("{}: {error}", self.file.display()));
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file).map_err(failed)?;
        writeln!(file, "{} {:.3}", self.kernel, milliseconds * 1e3).map_err(failed)
    }
}

fn check(action: &str, result: CUresult) -> Result<(), Error> {
    match result {
        CUDA_SUCCESS => Ok(()),
        failed => {
            Err(Error::Driver(format!("{action}: {}", driver::last_error().unwrap_or_else(|| failed.to_string()))))
        }
    }
}
