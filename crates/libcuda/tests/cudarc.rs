//! cudarc, a crate that opens libcuda at run time, on softcuda. It is not changed, and neither is how it is used.
//!
//! The loader reads its path when a process starts, so the test runs again in a process of its own that has the library there.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

const PTX: &str = include_str!("saxpy.ptx");
const HAS_LIBRARY: &str = "LIBCUDA_TEST_HAS_LIBRARY";

/// The library, which cargo has built beside this program.
fn library() -> PathBuf {
    let program = env::current_exe().expect("the program's path");
    program.with_file_name("libsoftcuda_driver.so")
}

/// Runs a test of this file again, with the library on the loader's path.
fn run_with_library(test: &str, devices: &str) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["libcuda.so.1", "libcuda.so"] {
        symlink(fs::canonicalize(library()).expect("the built library"), folder.path().join(name)).expect("a link");
    }
    let output = Command::new(env::current_exe().expect("the program's path"))
        .args(["--exact", test, "--nocapture"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env("SOFTCUDA_DEVICES", devices)
        .env(HAS_LIBRARY, "1")
        .output()
        .expect("the program runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success() && text.contains("1 passed"), text)
}

fn has_library() -> bool {
    env::var_os(HAS_LIBRARY).is_some()
}

/// A saxpy on a device, checked.
fn saxpy(context: &Arc<CudaContext>) {
    const N: usize = 1000;
    let stream = context.new_stream().expect("a stream");
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    let kernel = module.load_function("saxpy").expect("a kernel");
    let x: Vec<f32> = (0..N).map(|i| i as f32 * 0.25 - 100.0).collect();
    let y: Vec<f32> = (0..N).map(|i| 7.0 - i as f32).collect();
    let (device_x, mut device_y) = (stream.clone_htod(&x).expect("x"), stream.clone_htod(&y).expect("y"));
    let (a, n) = (1.5f32, N as u32);
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&a).arg(&device_x).arg(&mut device_y).arg(&n);
    // SAFETY: the kernel takes these parameters and stays within `n` values.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n)) }.expect("a launch");
    // The values are multiples of 1/8 and small: exact.
    let expected: Vec<f32> = x.iter().zip(&y).map(|(x, y)| a * x + y).collect();
    assert_eq!(stream.clone_dtoh(&device_y).expect("the result"), expected);
}

#[test]
fn cudarc_runs_a_kernel() {
    if !has_library() {
        let (passed, text) = run_with_library("cudarc_runs_a_kernel", "1");
        assert!(passed, "{text}");
        return;
    }
    let context = CudaContext::new(0).expect("a context");
    assert_eq!(context.name().expect("a name"), "softcuda");
    assert_eq!(context.compute_capability().expect("a capability"), (9, 0));
    assert!(context.has_async_alloc());
    saxpy(&context);
}

#[test]
fn cudarc_has_two_devices() {
    if !has_library() {
        let (passed, text) = run_with_library("cudarc_has_two_devices", "2");
        assert!(passed, "{text}");
        return;
    }
    assert_eq!(CudaContext::device_count().expect("a count"), 2);
    let contexts = [0, 1].map(|ordinal| CudaContext::new(ordinal).expect("a context"));
    contexts.iter().for_each(saxpy);
    // From one device to the other.
    let streams = [&contexts[0], &contexts[1]].map(|context| context.new_stream().expect("a stream"));
    let from = streams[0].clone_htod(&[1u32, 2, 3]).expect("values");
    let to = streams[1].clone_dtod(&from).expect("a copy");
    assert_eq!(to.ordinal(), 1);
    assert_eq!(streams[1].clone_dtoh(&to).expect("values"), [1, 2, 3]);
}

#[test]
fn what_cannot_run_is_said_on_standard_error() {
    if !has_library() {
        let (passed, text) = run_with_library("what_cannot_run_is_said_on_standard_error", "1");
        assert!(passed, "{text}");
        for words in [
            "softcuda: cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU",
            "machine code for a GPU (a cubin); softcuda runs PTX",
            "softcuda: cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS",
            "kernel `saxpy`",
        ] {
            assert!(text.contains(words), "{words:?} is missing: {text}");
        }
        return;
    }
    let context = CudaContext::new(0).expect("a context");
    let cubin = context.load_module(Ptx::from_binary(b"\x7fELF\x02\x01\x01\0".to_vec()));
    assert!(cubin.is_err());
    let stream = context.new_stream().expect("a stream");
    let kernel = context.load_module(Ptx::from_src(PTX)).expect("a module").load_function("saxpy").expect("a kernel");
    let (x, mut y) = (stream.clone_htod(&[1f32; 40]).expect("x"), stream.clone_htod(&[1f32; 40]).expect("y"));
    let (a, n) = (1f32, 41u32);
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&a).arg(&x).arg(&mut y).arg(&n);
    // SAFETY: none: the kernel goes past the end, which softcuda sees.
    let launched = unsafe { launch.launch(LaunchConfig::for_num_elems(n)) };
    assert!(launched.is_err());
}

/// A tensor map, which a kernel takes by value.
#[repr(C, align(64))]
struct Map(cudarc::driver::sys::CUtensorMap);

// SAFETY: 128 bytes, as the parameter is.
unsafe impl cudarc::driver::DeviceRepr for Map {}

#[test]
fn cudarc_passes_tensor_maps() {
    if !has_library() {
        let (passed, text) = run_with_library("cudarc_passes_tensor_maps", "1");
        assert!(passed, "{text}");
        return;
    }
    use cudarc::driver::{DevicePtr, sys};
    const ROWS: u64 = 10;
    const COLUMNS: u64 = 24;
    let context = CudaContext::new(0).expect("a context");
    let stream = context.new_stream().expect("a stream");
    let module = context.load_module(Ptx::from_src(include_str!("tile.ptx"))).expect("a module");
    let kernel = module.load_function("carry").expect("a kernel");
    let values: Vec<f32> = (0..ROWS * COLUMNS).map(|i| i as f32).collect();
    let from = stream.clone_htod(&values).expect("values");
    let to = stream.clone_htod(&vec![-1f32; values.len()]).expect("room");
    let map = |buffer: &cudarc::driver::CudaSlice<f32>, tile: [u32; 2]| {
        let (address, _guard) = buffer.device_ptr(&stream);
        let mut map = Map(sys::CUtensorMap { opaque: [0; 16] });
        let pointer = std::ptr::without_provenance_mut(address as usize);
        let (sizes, strides, steps) = ([COLUMNS, ROWS], [4 * COLUMNS], [1, 1]);
        // SAFETY: the map is written, the lists are of two dimensions.
        let result = unsafe {
            sys::cuTensorMapEncodeTiled(
                &mut map.0,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                2,
                pointer,
                sizes.as_ptr(),
                strides.as_ptr(),
                tile.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        (result, map)
    };
    let ((made, mut source), (made_too, target)) = (map(&to, [16, 4]), map(&to, [16, 4]));
    assert_eq!((made, made_too), (sys::CUresult::CUDA_SUCCESS, sys::CUresult::CUDA_SUCCESS));
    assert_eq!(map(&from, [15, 4]).0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
    let address = from.device_ptr(&stream).0;
    // SAFETY: the map is one.
    let moved =
        unsafe { sys::cuTensorMapReplaceAddress(&mut source.0, std::ptr::without_provenance_mut(address as usize)) };
    assert_eq!(moved, sys::CUresult::CUDA_SUCCESS);
    let (bytes, x, y) = (16 * 4 * 4u32, 16i32, ROWS as i32 - 2);
    let mut launch = stream.launch_builder(&kernel);
    launch.arg(&source).arg(&bytes).arg(&target).arg(&x).arg(&y);
    // SAFETY: the maps are of matrices that are there, their tiles of so many bytes.
    unsafe { launch.launch(LaunchConfig { grid_dim: (1, 1, 1), block_dim: (1, 1, 1), shared_mem_bytes: 0 }) }
        .expect("a launch");
    for (i, found) in stream.clone_dtoh(&to).expect("the result").into_iter().enumerate() {
        let inside = i as u64 / COLUMNS >= ROWS - 2 && i as u64 % COLUMNS >= 16;
        assert_eq!(found, if inside { i as f32 } else { -1.0 }, "value {i}");
    }
}
