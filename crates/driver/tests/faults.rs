//! A kernel that writes where it must not. In a process of its own: on a GPU such a fault ends the context.

mod common;

use cust::error::CudaError;
use cust::launch;
use cust::memory::DeviceBuffer;
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use driver::Backend;

#[test]
fn an_access_out_of_bounds_names_kernel_line_and_thread() {
    let turn = common::turn();
    let ptx = include_str!("common/kernels.ptx");
    let module = Module::from_ptx(ptx, &[]).unwrap();
    let write_at = module.get_function("write_at").unwrap();
    let stream = Stream::new(StreamFlags::DEFAULT, None).unwrap();
    let out = DeviceBuffer::from_slice(&[0u32; 64]).unwrap();
    // 256 GiB past the buffer: on a GPU too no page is there.
    let (index, value) = (1u64 << 36, 1u32);
    // SAFETY: none. The kernel is meant to fault, and a device that lets it is what the test looks for.
    let launched = unsafe { launch!(write_at<<<2, 32, 0, stream>>>(out.as_device_ptr(), index, value)) };
    let outcome = launched.and_then(|()| stream.synchronize());
    assert_eq!(outcome, Err(CudaError::IllegalAddress));

    let text = driver::last_error().unwrap();
    assert!(text.contains("CUDA_ERROR_ILLEGAL_ADDRESS (700)"), "{text}");
    if turn.backend == Backend::Soft {
        let line = 1 + ptx.lines().position(|line| line.contains("st.global.u32 [%rd4], %r3")).unwrap();
        for part in ["cuLaunchKernel", "write_at", "block (1,0,0)", "thread (5,0,0)", &format!("line {line}")] {
            assert!(text.contains(part), "{part} is missing: {text}");
        }
        let fault = driver::soft::last_fault().unwrap();
        assert_eq!(fault.kind(), softcuda::FaultKind::OutOfBounds);
        let location = fault.location().unwrap();
        assert_eq!((location.kernel.as_str(), location.line as usize), ("write_at", line));

        // The context is whole: the same kernel goes on with a good index.
        let index = 63u64;
        // SAFETY: the index is within the buffer.
        unsafe { launch!(write_at<<<2, 32, 0, stream>>>(out.as_device_ptr(), index, value)) }.unwrap();
        assert_eq!(out.as_host_vec().unwrap()[63], 1);
        assert_eq!(driver::last_error().unwrap(), text, "a call that succeeds leaves the text");
    }
}
