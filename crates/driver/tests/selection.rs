//! Choosing a device, and what passes through to a driver library.
//!
//! A process has one device and searches once, so each case runs in a process of its own: the ignored tests below are
//! the cases, and each of the others starts one with an environment made for it. Drivers are libraries built from
//! `tests/fake`, found as a real one is: by name on the loader's path.

mod common;

use std::env;
use std::ffi::{CString, c_void};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;

use driver::cublas::{CublasError, Element, Handle, Matrix};
use driver::sys::*;
use driver::{Backend, DeviceChoice, SelectError};

/// Builds a file of `tests/fake` as a library and gives its folder.
fn fake(source: &str, library: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-{source}"));
    fs::create_dir_all(&folder).unwrap();
    // The compiler beside the cargo that runs the tests; on a machine where they lie apart, the one on the path.
    let beside = Path::new(env!("CARGO")).with_file_name("rustc");
    let compiler = if beside.exists() { beside } else { PathBuf::from("rustc") };
    // Another run of the tests may have the library open: it is put in its place in one step.
    let built = folder.join(format!("{library}.{}", std::process::id()));
    let output = Command::new(&compiler)
        .args(["--edition", "2024", "-C", "panic=abort", "-o"])
        .arg(&built)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake").join(format!("{source}.rs")))
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&built, folder.join(library)).unwrap();
    folder
}

/// The folder of the fake driver.
fn fake_driver() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| fake("libcuda", "libcuda.so.1"))
}

/// The fake cuBLAS.
fn fake_cublas() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| fake("libcublas", "libcublas.so.12")).join("libcublas.so.12")
}

/// Runs one of the ignored tests in a new process.
fn case(name: &str, environment: &[(&str, &Path)]) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    for variable in ["FERROWARP_CUBLAS", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "FAKE_DEVICES", "FAKE_INIT"] {
        command.env_remove(variable);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("1 passed"), "{name}: {stdout}\n{stderr}");
}

/// No device for any driver that may be here.
const HIDDEN: (&str, &str) = ("CUDA_VISIBLE_DEVICES", "");

fn hidden() -> (&'static str, &'static Path) {
    (HIDDEN.0, Path::new(HIDDEN.1))
}

#[test]
fn without_a_gpu_cuda_is_an_error_that_lists_the_places() {
    case("case_cuda_without_a_gpu", &[hidden()]);
}

#[test]
#[ignore = "a case of its own process"]
fn case_cuda_without_a_gpu() {
    let error = driver::select(DeviceChoice::Cuda).unwrap_err();
    let SelectError::NoGpu { attempts } = &error else { panic!("{error}") };
    assert!(attempts.len() >= 5 && attempts.iter().all(|attempt| !attempt.usable && !attempt.said.is_empty()));
    let text = error.to_string();
    assert!(text.starts_with("device cuda: no usable NVIDIA GPU on this machine"), "{text}");
    for attempt in attempts {
        assert!(text.contains(&format!("\n  {}: {}", attempt.place, attempt.said)), "{text}");
    }
    assert!(text.contains("libcuda.so.1 on the loader's path") && text.contains("/usr/lib64/libcuda.so.1"), "{text}");
    // A refusal selects nothing: softcuda is still to be had, and after it the other is refused.
    assert_eq!(driver::backend(), None);
    assert_eq!(driver::select(DeviceChoice::Auto), Ok(Backend::Soft));
    assert!(matches!(driver::select(DeviceChoice::Cuda), Err(SelectError::AlreadySelected { .. })));
}

#[test]
fn a_driver_that_does_not_start_or_counts_no_device_is_passed_over() {
    let library_path = ("LD_LIBRARY_PATH", fake_driver());
    case("case_driver_without_devices", &[library_path, hidden(), ("FAKE_DEVICES", Path::new("0"))]);
    case("case_driver_that_does_not_start", &[library_path, hidden(), ("FAKE_INIT", Path::new("803"))]);
}

#[test]
#[ignore = "a case of its own process"]
fn case_driver_without_devices() {
    let probe = driver::probe();
    assert_eq!(probe.libcuda.attempts[0].said, "cuDeviceGetCount counts no device");
    assert!(probe.libcuda.devices.is_empty() && probe.libcuda.driver_version.is_none());
    assert_eq!(driver::select(DeviceChoice::Auto), Ok(Backend::Soft));
}

#[test]
#[ignore = "a case of its own process"]
fn case_driver_that_does_not_start() {
    let text = driver::select(DeviceChoice::Cuda).unwrap_err().to_string();
    assert!(text.contains("cuInit said CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803)"), "{text}");
}

#[test]
fn auto_takes_a_driver_with_a_device() {
    case("case_driver_with_two_devices", &[("LD_LIBRARY_PATH", fake_driver()), ("FAKE_DEVICES", Path::new("2"))]);
}

#[test]
#[ignore = "a case of its own process"]
fn case_driver_with_two_devices() {
    assert_eq!(driver::select(DeviceChoice::Auto), Ok(Backend::Cuda));
    assert_eq!(driver::select(DeviceChoice::Cuda), Ok(Backend::Cuda));
    assert!(matches!(driver::select(DeviceChoice::Soft), Err(SelectError::AlreadySelected { .. })));
    assert!(driver::soft::device().is_none());

    let libcuda = driver::probe().libcuda;
    assert_eq!(libcuda.driver_version, Some((12, 8)));
    assert_eq!(libcuda.attempts.len(), 1);
    assert_eq!(libcuda.attempts[0].to_string(), "libcuda.so.1 on the loader's path: CUDA 12.8, 2 device(s)");
    assert_eq!(libcuda.devices[0].as_ref().unwrap().to_string(), "Fake GPU 40, sm_90, 3.0 GiB, 132 SMs");
    let said = libcuda.devices[1].as_ref().unwrap_err();
    assert!(said.starts_with("cuDeviceTotalMem_v2 said CUDA_ERROR_ECC_UNCORRECTABLE (214)"), "{said}");

    // SAFETY: the fake driver's functions write through these pointers only.
    unsafe {
        // Arguments and results pass through.
        let mut address = 0;
        assert_eq!(cuMemAlloc_v2(&mut address, 0x50), CUDA_SUCCESS);
        assert_eq!(address, 0xab00_0050);
        // An answer is not a failure.
        assert_eq!(cuStreamQuery(ptr::null_mut()), CUDA_ERROR_NOT_READY);
        assert_eq!(driver::last_error(), None);
        // A code that cust cannot hold becomes one that it can; its name is kept.
        assert_eq!(cuCtxSynchronize(), CUDA_ERROR_UNKNOWN);
        assert_eq!(
            driver::last_error().unwrap(),
            "cuCtxSynchronize: CUDA_ERROR_INVALID_CLUSTER_SIZE (912): the fake driver's words"
        );
        // An entry point that this driver does not have.
        assert_eq!(cuMemFree_v2(address), CUDA_ERROR_NOT_SUPPORTED);
        let text = driver::last_error().unwrap();
        assert!(text.starts_with("cuMemFree_v2: CUDA_ERROR_NOT_SUPPORTED") && text.contains("libcuda.so.1"), "{text}");
        // The compiler's log is asked for, beside the caller's options.
        let (mut names, mut values) = ([7u32], [ptr::without_provenance_mut::<c_void>(4)]);
        let image = CString::new("no PTX").unwrap();
        let mut module = ptr::null_mut();
        let result = cuModuleLoadDataEx(&mut module, image.as_ptr().cast(), 1, names.as_mut_ptr(), values.as_mut_ptr());
        assert_eq!(result, CUDA_ERROR_INVALID_PTX);
        assert_eq!(
            driver::last_error().unwrap(),
            "cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (218): the PTX does not compile: ptxas fatal: options [7, 5, 6]"
        );
    }
}

#[test]
fn before_a_device_is_selected_calls_fail_and_errors_can_be_printed() {
    case("case_nothing_selected", &[]);
}

#[test]
#[ignore = "a case of its own process"]
fn case_nothing_selected() {
    // The binary is linked to no driver: none is in the process until one is asked for.
    assert!(!fs::read_to_string("/proc/self/maps").unwrap().contains("libcuda"));
    assert_eq!(driver::backend(), None);
    let error = cust::quick_init().map(drop).unwrap_err();
    assert_eq!(error, cust::error::CudaError::NotInitialized);
    assert_eq!(error.to_string(), "\"initialization error\"");
    let text = driver::last_error().unwrap();
    assert!(text.starts_with("cuInit: CUDA_ERROR_NOT_INITIALIZED") && text.contains("driver::select"), "{text}");
    assert_eq!(
        Handle::new().map(drop).unwrap_err().to_string(),
        "cuBLAS: no device is selected; driver::select comes first"
    );
}

#[test]
fn matmul_gives_cublas_its_column_major_arguments() {
    let cublas = fake_cublas();
    case("case_matmul_by_cublas", &[("LD_LIBRARY_PATH", fake_driver()), ("FERROWARP_CUBLAS", &cublas)]);
}

#[test]
#[ignore = "a case of its own process"]
fn case_matmul_by_cublas() {
    driver::select(DeviceChoice::Cuda).unwrap();
    let handle = Handle::new().unwrap();
    let library = handle.library();
    assert!(library.contains("libcublas.so.12") && library.ends_with("(12.8.4)"), "{library}");
    // SAFETY: the fake compares these numbers.
    unsafe {
        handle.set_stream(ptr::without_provenance_mut(0x77)).unwrap();
        handle.set_workspace(0x100, 512).unwrap();
        let text = handle.set_workspace(0x200, 512).unwrap_err().to_string();
        assert_eq!(text, "cublasSetWorkspace_v2: CUBLAS_STATUS_INVALID_VALUE (7)");
        assert_eq!(driver::last_error().as_deref(), Some(text.as_str()));
    }

    // The fake's device memory is the host's. Extents differ, so that an exchanged pair cannot go unseen.
    let (n_tokens, n_out, n_in) = (3usize, 5usize, 7usize);
    let mut random = common::Random::new(0x5eed_2001);
    let (w, x) = (random.values(n_out * n_in), random.values(n_tokens * n_in));
    let mut out = random.values(n_tokens * n_out);
    let before = out.clone();
    let matrix = |address: *const f32, rows, columns| Matrix {
        address: address.expose_provenance() as u64,
        element: Element::F32,
        rows,
        columns,
    };
    // SAFETY: the vectors hold these extents.
    unsafe {
        handle.matmul(
            matrix(w.as_ptr(), n_out, n_in),
            matrix(x.as_ptr(), n_tokens, n_in),
            matrix(out.as_mut_ptr(), n_tokens, n_out),
            1.0,
            2.0,
        )
    }
    .unwrap();
    for token in 0..n_tokens {
        for row in 0..n_out {
            let product: f64 = (0..n_in).map(|i| f64::from(x[token * n_in + i]) * f64::from(w[row * n_in + i])).sum();
            let want = product + 2.0 * f64::from(before[token * n_out + row]);
            // One rounding to f32 of a value below 16.
            assert!((f64::from(out[token * n_out + row]) - want).abs() <= 2f64.powi(-20), "out[{token}][{row}]");
        }
    }
}

#[test]
fn a_cublas_that_cannot_be_used_is_named() {
    let driver_path = ("LD_LIBRARY_PATH", fake_driver());
    case("case_no_such_cublas", &[driver_path, ("FERROWARP_CUBLAS", Path::new("/no/such/libcublas.so"))]);
    let cublas = fake_cublas();
    case("case_cublas_does_not_start", &[driver_path, ("FERROWARP_CUBLAS", &cublas), ("FAKE_CREATE_FAILS", &cublas)]);
    // A library that is no cuBLAS.
    let driver_library = fake_driver().join("libcuda.so.1");
    case("case_not_a_cublas", &[driver_path, ("FERROWARP_CUBLAS", &driver_library)]);
}

#[test]
fn cublas_is_left_out_where_it_is_turned_off() {
    let cublas = fake_cublas();
    case("case_cublas_is_turned_off", &[("FERROWARP_CUBLAS", Path::new("none"))]);
    // On the loader's path there may be one: it is not looked for.
    let folder = cublas.parent().unwrap();
    case("case_cublas_is_turned_off", &[("LD_LIBRARY_PATH", folder), ("FERROWARP_CUBLAS", Path::new("none"))]);
}

#[test]
#[ignore = "a case of its own process"]
fn case_cublas_is_turned_off() {
    driver::select(DeviceChoice::Soft).unwrap();
    let error = Handle::new().map(drop).unwrap_err();
    assert_eq!(error, CublasError::TurnedOff);
    assert!(error.to_string().contains("FERROWARP_CUBLAS=none"), "{error}");
    let probe = driver::probe().cublas;
    assert_eq!((probe.version, probe.attempts), (None, Vec::new()));
}

/// What nobody named and nothing opens is absent, and no error of a start.
#[test]
fn a_cublas_that_is_nowhere_is_absent() {
    let nowhere =
        ["PATH", "HOME", "VIRTUAL_ENV", "CONDA_PREFIX", "CUDA_PATH"].map(|name| (name, Path::new("/no/such")));
    case("case_cublas_is_nowhere", &[&nowhere[..], &[("LD_LIBRARY_PATH", fake_driver())]].concat());
}

#[test]
#[ignore = "a case of its own process"]
fn case_cublas_is_nowhere() {
    driver::select(DeviceChoice::Cuda).unwrap();
    match (driver::probe().cublas.version, Handle::new().map(drop)) {
        (None, Err(CublasError::Absent { attempts })) => assert!(!attempts.is_empty()),
        // A machine may have one where the loader looks in any case; without a GPU it does not start.
        (Some(_), Err(CublasError::NotFound { .. }) | Ok(())) => {}
        (version, other) => panic!("{version:?}, {other:?}"),
    }
}

fn cublas_error() -> String {
    driver::select(DeviceChoice::Cuda).unwrap();
    Handle::new().map(drop).unwrap_err().to_string()
}

#[test]
#[ignore = "a case of its own process"]
fn case_no_such_cublas() {
    let text = cublas_error();
    assert!(
        text.contains("\n  /no/such/libcublas.so (from FERROWARP_CUBLAS): ") && text.contains("No such file"),
        "{text}"
    );
    // What is named is all that is looked at.
    assert_eq!(text.lines().count(), 2, "{text}");
    assert_eq!(driver::probe().cublas.version, None);
}

#[test]
#[ignore = "a case of its own process"]
fn case_cublas_does_not_start() {
    let text = cublas_error();
    assert!(text.contains("cublasCreate_v2 said CUBLAS_STATUS_NOT_INITIALIZED (1)"), "{text}");
    // It opens all the same, which is what a machine without a GPU can tell.
    assert_eq!(driver::probe().cublas.version.as_deref(), Some("12.8.4"));
}

#[test]
#[ignore = "a case of its own process"]
fn case_not_a_cublas() {
    let text = cublas_error();
    assert!(text.contains("undefined symbol: cublasCreate_v2"), "{text}");
}
