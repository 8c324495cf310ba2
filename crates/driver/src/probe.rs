//! What there is on this machine: for `ferrowarp devices`, and for error reports.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;

use crate::cublas::library;
use crate::error::Attempt;
use crate::libcuda::{self, Libcuda};
use crate::sys::{CUDA_SUCCESS, CUdevice, CUresult};

/// Everything that was found, and every place looked at.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The NVIDIA driver and its devices.
    pub libcuda: LibcudaProbe,
    /// The software device, which is always there.
    pub softcuda: softcuda::DeviceConfig,
    /// cuBLAS, which the GPU's matrix products need.
    pub cublas: CublasProbe,
}

/// The NVIDIA driver.
#[derive(Clone, Debug)]
pub struct LibcudaProbe {
    /// The places tried, up to the first usable one.
    pub attempts: Vec<Attempt>,
    /// The CUDA version that the driver serves, as (major, minor).
    pub driver_version: Option<(u32, u32)>,
    /// The GPUs, by ordinal; an error is what the driver said when asked about one.
    pub devices: Vec<Result<GpuInfo, String>>,
}

/// One GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuInfo {
    /// The product name.
    pub name: String,
    /// The compute capability, as (major, minor).
    pub compute_capability: (u32, u32),
    /// Device memory in bytes.
    pub total_memory: u64,
    /// The number of streaming multiprocessors.
    pub multiprocessors: u32,
}

/// `NVIDIA H200, sm_90, 139.8 GiB, 132 SMs`.
impl fmt::Display for GpuInfo {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (major, minor) = self.compute_capability;
        let gibibytes = self.total_memory as f64 / (1u64 << 30) as f64;
        write!(f, "{}, sm_{major}{minor}, {gibibytes:.1} GiB, {} SMs", self.name, self.multiprocessors)
    }
}

/// cuBLAS.
#[derive(Clone, Debug)]
pub struct CublasProbe {
    /// The places tried, up to the first that opened.
    pub attempts: Vec<Attempt>,
    /// The version of the library that opened, as `major.minor.patch`.
    pub version: Option<String>,
}

/// Looks at this machine. It neither selects a backend nor creates a context, and counts no calls.
pub fn probe() -> Probe {
    let search = libcuda::search();
    let library = search.usable.as_ref();
    let (cublas_attempts, cublas) = library::first_that_opens();
    Probe {
        libcuda: LibcudaProbe {
            attempts: search.attempts.clone(),
            driver_version: library.map(|library| (library.version as u32 / 1000, library.version as u32 % 1000 / 10)),
            devices: library
                .map(|library| (0..library.devices).map(|ordinal| describe(library, ordinal)).collect())
                .unwrap_or_default(),
        },
        softcuda: softcuda::DeviceConfig::default(),
        cublas: CublasProbe { attempts: cublas_attempts, version: cublas.map(|library| library.version().to_owned()) },
    }
}

/// One GPU's properties, or what the driver said instead.
fn describe(library: &Libcuda, ordinal: c_int) -> Result<GpuInfo, String> {
    const MULTIPROCESSOR_COUNT: u32 = 16;
    const COMPUTE_CAPABILITY_MAJOR: u32 = 75;
    const COMPUTE_CAPABILITY_MINOR: u32 = 76;

    let table = &library.table;
    let device: CUdevice = ask(table.cuDeviceGet, "cuDeviceGet", |get, device| {
        // SAFETY: `device` is a live integer.
        unsafe { get(device, ordinal) }
    })?;
    let attribute = |number: u32| {
        ask(table.cuDeviceGetAttribute, "cuDeviceGetAttribute", |get, value: &mut c_int| {
            // SAFETY: `value` is a live integer.
            unsafe { get(value, number, device) }
        })
        .map(|value| value as u32)
    };
    let name: [c_char; 256] = ask(table.cuDeviceGetName, "cuDeviceGetName", |get, name: &mut Name| {
        // SAFETY: the name's capacity is its length, less one for a NUL that is there already.
        unsafe { get(name.0.as_mut_ptr(), name.0.len() as c_int - 1, device) }
    })?
    .0;
    let total_memory: usize = ask(table.cuDeviceTotalMem_v2, "cuDeviceTotalMem_v2", |get, bytes| {
        // SAFETY: `bytes` is a live integer.
        unsafe { get(bytes, device) }
    })?;
    Ok(GpuInfo {
        // SAFETY: the last element was never written, so a NUL ends the text.
        name: unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned(),
        compute_capability: (attribute(COMPUTE_CAPABILITY_MAJOR)?, attribute(COMPUTE_CAPABILITY_MINOR)?),
        total_memory: total_memory as u64,
        multiprocessors: attribute(MULTIPROCESSOR_COUNT)?,
    })
}

/// A device name's text, NULs to begin with.
struct Name([c_char; 256]);

impl Default for Name {
    fn default() -> Self {
        Name([0; 256])
    }
}

/// One question to the driver: the value that `call` lets it write, or what it said instead.
fn ask<F, T: Default>(function: Option<F>, name: &str, call: impl FnOnce(F, &mut T) -> CUresult) -> Result<T, String> {
    let function = function.ok_or_else(|| format!("the library has no {name}"))?;
    let mut value = T::default();
    match call(function, &mut value) {
        CUDA_SUCCESS => Ok(value),
        result => Err(format!("{name} said {result}")),
    }
}
