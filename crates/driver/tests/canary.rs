//! Two kernels that are wrong on purpose, for whatever looks for such mistakes to find.
//!
//! softcuda's sanitizer must report both; a GPU runs them without a word, and NVIDIA's compute-sanitizer must then report
//! them (`benches/gpu-bundle`): a tool that finds nothing here would find nothing anywhere. Neither is a kernel of the
//! program.

mod common;

use cust::launch;
use cust::memory::{CopyDestination, DeviceBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use driver::{Backend, soft};

/// Threads of the one block: two warps.
const THREADS: u32 = 64;

/// `racy`: each thread writes a word of shared memory and, after a barrier, once more, and then reads the one that the other
/// warp writes, with no barrier between.
/// `overrun`: each thread writes a word, and the last one a word behind the buffer.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64

.visible .entry racy(.param .u64 out) {
    .shared .align 4 .b8 tile[256];
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, tile;
    shl.b32 %r3, %r1, 2;
    add.u32 %r4, %r2, %r3;
    st.shared.u32 [%r4], 0;
    bar.sync 0;
    st.shared.u32 [%r4], %r1;
    xor.b32 %r3, %r3, 128;
    add.u32 %r4, %r2, %r3;
    ld.shared.u32 %r5, [%r4];
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r5;
    ret;
}

.visible .entry overrun(.param .u64 out) {
    .reg .b32 %r<2>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [out];
    cvta.to.global.u64 %rd1, %rd1;
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3+4], %r1;
    ret;
}
";

/// Runs a kernel on a buffer of as many words as there are threads; what the launch says, by the time it is over.
fn run(kernel: &str) -> Result<(), String> {
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let out = DeviceBuffer::from_slice(&[0u32; THREADS as usize]).unwrap();
    let function = module.get_function(kernel).unwrap();
    // SAFETY: the kernels take the one address; what they do wrong is what this test is about, and the word behind the
    // buffer belongs to nobody.
    let launched = unsafe { launch!(function<<<1, THREADS, 0, stream>>>(out.as_device_ptr())) };
    let ended = launched.and_then(|()| stream.synchronize());
    ended.map_err(|error| driver::last_error().unwrap_or_else(|| error.to_string()))?;
    let mut words = [0u32; THREADS as usize];
    out.copy_to(&mut words).map_err(|error| error.to_string())
}

/// softcuda must refuse the kernel with these words; a GPU must not notice.
fn check(kernel: &str, words: &[&str]) {
    let turn = common::turn();
    if turn.backend == Backend::Cuda {
        run(kernel).unwrap_or_else(|error| panic!("{kernel}: {error}"));
        return;
    }
    let device = soft::device().unwrap();
    device.set_sanitizer(true);
    let error = run(kernel);
    device.set_sanitizer(false);
    let error = error.expect_err(kernel);
    for word in words {
        assert!(error.contains(word), "{kernel}: {word:?} is not in: {error}");
    }
}

#[test]
fn racy_kernel() {
    check("racy", &["racy", "shared memory", "nothing orders the two"]);
}

/// A program of its own, whose end is what matters: memory that is freed, or is not.
fn ends(program: &str) -> String {
    let this = std::env::current_exe().unwrap();
    let run = std::process::Command::new(this)
        .args(["--ignored", "--exact", program, "--nocapture"])
        .env("FERROWARP_SANITIZER", "1")
        .output()
        .unwrap();
    assert!(run.status.success(), "{program}: {run:?}");
    String::from_utf8(run.stderr).unwrap()
}

#[test]
#[ignore = "a program that leaks; leaks_are_told_when_a_program_ends runs it"]
fn leaking_program() {
    let _turn = common::turn();
    std::mem::forget(DeviceBuffer::from_slice(&[0u32; THREADS as usize]).unwrap());
}

#[test]
#[ignore = "its twin, which frees what it has"]
fn tidy_program() {
    let _turn = common::turn();
    drop(DeviceBuffer::from_slice(&[0u32; THREADS as usize]).unwrap());
}

#[test]
fn leaks_are_told_when_a_program_ends() {
    let backend = common::turn().backend;
    let (leaks, tidy) = (ends("leaking_program"), ends("tidy_program"));
    if backend == Backend::Soft {
        assert!(leaks.contains("1 allocations, 256 bytes, were never freed"), "{leaks}");
    }
    assert!(!tidy.contains("never freed"), "{tidy}");
}

/// A buffer of which the last word was never written, read back: by the host, as a copy.
#[test]
fn host_reads_of_unwritten_bytes() {
    let turn = common::turn();
    if turn.backend == Backend::Cuda {
        return;
    }
    let device = soft::device().unwrap();
    device.set_sanitizer(true);
    // SAFETY: plain words; that the last one holds nothing is what the test is about.
    let buffer = unsafe { DeviceBuffer::<u32>::uninitialized(4) }.unwrap();
    let mut part = buffer.index(..3);
    part.copy_from(&[1, 2, 3]).unwrap();
    let read = buffer.copy_to(&mut [0; 4]);
    let text = driver::last_error().unwrap_or_default();
    let part_read = buffer.index(..3).copy_to(&mut [0; 3]);
    device.set_sanitizer(false);
    assert!(read.is_err() && text.contains("was never written"), "{read:?}: {text}");
    assert_eq!(part_read, Ok(()));
}

#[test]
fn overrunning_kernel() {
    check("overrun", &["overrun", "past the end of the 256-byte allocation"]);
}
