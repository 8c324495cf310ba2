//! What the tests that `#[gpu_test]` makes do.

use driver::DeviceChoice;

use crate::Device;
use crate::device::done;

/// Runs a test on a softcuda device of its own, under the sanitizer.
///
/// # Panics
/// The test does, or it did not launch each of the kernels.
#[track_caller]
pub fn run_on_soft(kernels: &[&str], test: impl FnOnce(&Device)) {
    run(&Device::soft(), kernels, test);
}

/// Runs a test on the GPU.
///
/// # Panics
/// As [`run_on_soft`]; or there is no GPU.
#[track_caller]
pub fn run_on_cuda(kernels: &[&str], test: impl FnOnce(&Device)) {
    run(&done(Device::open(DeviceChoice::Cuda)), kernels, test);
}

#[track_caller]
fn run(device: &Device, kernels: &[&str], test: impl FnOnce(&Device)) {
    test(device);
    let launched = device.launched();
    let missing: Vec<_> = kernels.iter().filter(|name| !launched.contains(**name)).collect();
    assert!(
        missing.is_empty(),
        "#[gpu_test] names {missing:?}, which the test did not launch; it launched {launched:?}"
    );
    let leaked = device.leaked();
    assert!(leaked.is_empty(), "the test ended and left memory of its device allocated: {}", leaked.join(", "));
}
