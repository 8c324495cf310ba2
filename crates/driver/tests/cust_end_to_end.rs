//! cust, from initialisation to a kernel's result, on the device that `FERROWARP_DEVICE` names (softcuda where unset).

mod common;

use std::ffi::CString;
use std::time::Duration;

use cust::event::{Event, EventFlags, EventStatus};
use cust::function::{BlockSize, FunctionAttribute, GridSize};
use cust::launch;
use cust::memory::{AsyncCopyDestination, CopyDestination, DeviceBuffer, LockedBuffer, mem_get_info};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};
use driver::{Backend, calls, sys};

const PTX: &str = include_str!("common/kernels.ptx");
/// The module's variable, added to every sum.
const OFFSET: f32 = 0.5;

fn stream() -> Stream {
    Stream::new(StreamFlags::DEFAULT, None).unwrap()
}

#[test]
fn a_kernel_adds_two_vectors_and_the_calls_are_counted() {
    let _turn = common::turn();
    let mut random = common::Random::new(0x5eed_0001);
    // Not a multiple of the block: the last block's idle threads must write nothing.
    let (n, block) = (1000usize, 128u32);
    let (a, b) = (random.values(n), random.values(n));
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let scaled_add = module.get_function("scaled_add").unwrap();
    let stream = stream();

    let before = calls::counts();
    let a_device = DeviceBuffer::from_slice(&a).unwrap();
    let b_device = DeviceBuffer::from_slice(&b).unwrap();
    let out_device = DeviceBuffer::from_slice(&vec![f32::NAN; n + 24]).unwrap();
    let (scale, count) = (0.25f32, n as u32);
    // SAFETY: the arguments are those that the PTX declares, and each buffer holds `n` values or more.
    unsafe {
        launch!(scaled_add<<<(n as u32).div_ceil(block), block, 0, stream>>>(
            out_device.as_device_ptr(),
            a_device.as_device_ptr(),
            b_device.as_device_ptr(),
            scale,
            count
        ))
        .unwrap();
    }
    stream.synchronize().unwrap();
    let mut out = vec![0.0f32; n + 24];
    out_device.copy_to(&mut out).unwrap();
    drop((a_device, b_device, out_device));
    let counts = calls::counts().since(&before);

    for index in 0..n {
        // A fused multiply-add and an addition, each rounded once: the host's are the same operations.
        assert_eq!(out[index], scale.mul_add(b[index], a[index]) + OFFSET, "element {index}");
    }
    assert!(out[n..].iter().all(|value| value.is_nan()), "a thread past the end wrote");

    let expected = [
        ("cuMemAlloc_v2", 3),
        ("cuMemFree_v2", 3),
        ("cuMemcpyHtoD_v2", 3),
        ("cuMemcpyDtoH_v2", 1),
        ("cuLaunchKernel", 1),
        ("cuStreamSynchronize", 1),
    ];
    for (name, calls) in expected {
        assert_eq!(counts.of(name), calls, "{name} in {counts:?}");
    }
    assert_eq!(counts.total(), expected.iter().map(|(_, calls)| calls).sum::<u64>(), "{counts:?}");
    assert_eq!((counts.allocations(), counts.frees(), counts.launches()), (3, 3, 1));
    // One stream wait, and four copies that the host waits for.
    assert_eq!((counts.copies(), counts.synchronisations(), counts.fills()), (4, 5, 0));
}

#[test]
fn counts_are_those_of_the_calling_thread() {
    let _turn = common::turn();
    let before = calls::counts();
    std::thread::spawn(|| assert!(mem_get_info().is_err(), "a new thread has no current context")).join().unwrap();
    assert_eq!(calls::counts().since(&before).total(), 0);
    mem_get_info().unwrap();
    assert_eq!(calls::counts().since(&before).of("cuMemGetInfo_v2"), 1);
}

#[test]
fn copies_and_fills_bring_back_what_was_sent() {
    let _turn = common::turn();
    let mut random = common::Random::new(0x5eed_0002);
    let sent: Vec<u32> = (0..1021).map(|_| random.next() as u32).collect();
    let stream = stream();

    let device = DeviceBuffer::from_slice(&sent).unwrap();
    let mut copied = DeviceBuffer::<u32>::zeroed(sent.len()).unwrap();
    device.copy_to(&mut copied).unwrap();
    assert_eq!(copied.as_host_vec().unwrap(), sent);

    let mut locked = LockedBuffer::new(&0u32, sent.len()).unwrap();
    // SAFETY: the stream is waited for before either buffer is used.
    unsafe { copied.async_copy_to(&mut locked, &stream) }.unwrap();
    stream.synchronize().unwrap();
    assert_eq!(locked.as_slice(), sent);

    let address = copied.as_device_ptr().as_raw();
    let stream_handle = stream.as_inner().cast();
    // SAFETY: the ranges lie in the buffer, and the stream is live.
    unsafe {
        assert_eq!(sys::cuMemsetD32_v2(address, 0x0102_0304, 10), sys::CUDA_SUCCESS);
        assert_eq!(sys::cuMemsetD16Async(address + 4, 0xbeef, 3, stream_handle), sys::CUDA_SUCCESS);
        assert_eq!(sys::cuMemsetD8Async(address + 12, 0x7f, 5, stream_handle), sys::CUDA_SUCCESS);
    }
    stream.synchronize().unwrap();
    let filled = copied.as_host_vec().unwrap();
    let expected = [0x0102_0304, 0xbeef_beef, 0x0102_beef, 0x7f7f_7f7f, 0x0102_037f, 0x0102_0304];
    assert_eq!(filled[..6], expected);
    assert_eq!(filled[10..], sent[10..]);
}

#[test]
fn free_memory_is_the_same_after_everything_is_dropped() {
    let turn = common::turn();
    let stream = stream();
    let (before, total) = mem_get_info().unwrap();
    assert!(before <= total);
    {
        let buffer = DeviceBuffer::<u8>::zeroed(64 << 20).unwrap();
        // SAFETY: dropped on the stream below, unused.
        let in_order = unsafe { DeviceBuffer::<u32>::uninitialized_async(1 << 20, &stream) }.unwrap();
        let (during, _) = mem_get_info().unwrap();
        assert!(during + (64 << 20) <= before, "{during} free of {before}");
        if turn.backend == Backend::Soft {
            assert_eq!(during, before - (68 << 20));
        }
        in_order.drop_async(&stream).unwrap();
        drop(buffer);
    }
    stream.synchronize().unwrap();
    if turn.backend == Backend::Soft {
        assert_eq!(mem_get_info().unwrap(), (before, total));
    } else {
        // The GPU's driver keeps what was allocated in stream order for the next such allocation.
        assert!(mem_get_info().unwrap().0 + (32 << 20) >= before);
    }

    let refused = DeviceBuffer::<u8>::zeroed(total + 1).map(drop);
    assert_eq!(refused, Err(cust::error::CudaError::OutOfMemory));
}

#[test]
fn events_time_the_work_between_them() {
    let _turn = common::turn();
    let stream = stream();
    let (start, end) = (Event::new(EventFlags::DEFAULT).unwrap(), Event::new(EventFlags::DEFAULT).unwrap());
    start.record(&stream).unwrap();
    stream.add_callback(Box::new(|| std::thread::sleep(Duration::from_millis(20)))).unwrap();
    end.record(&stream).unwrap();
    end.synchronize().unwrap();
    assert_eq!(end.query().unwrap(), EventStatus::Ready);
    let elapsed = end.elapsed_time_f32(&start).unwrap();
    assert!((20.0..5000.0).contains(&elapsed), "{elapsed} ms for a sleep of 20 ms");

    let untimed = Event::new(EventFlags::DISABLE_TIMING).unwrap();
    untimed.record(&stream).unwrap();
    stream.synchronize().unwrap();
    assert!(untimed.elapsed_time_f32(&start).is_err());
}

#[test]
fn module_variables_can_be_read_and_written() {
    let _turn = common::turn();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let mut offset = module.get_global::<f32>(&CString::new("offset").unwrap()).unwrap();
    let mut value = 0.0;
    offset.copy_to(&mut value).unwrap();
    assert_eq!(value, OFFSET);
    offset.copy_from(&-2.0).unwrap();

    let scaled_add = module.get_function("scaled_add").unwrap();
    let stream = stream();
    let ones = DeviceBuffer::from_slice(&[1.0f32; 3]).unwrap();
    let out = DeviceBuffer::from_slice(&[0.0f32; 3]).unwrap();
    let (scale, count) = (3.0f32, 3u32);
    // SAFETY: the arguments are those that the PTX declares, of three values each.
    unsafe {
        launch!(scaled_add<<<1, 32, 0, stream>>>(
            out.as_device_ptr(), ones.as_device_ptr(), ones.as_device_ptr(), scale, count
        ))
        .unwrap();
    }
    stream.synchronize().unwrap();
    assert_eq!(out.as_host_vec().unwrap(), [2.0; 3]);
    assert!(module.get_global::<f32>(&CString::new("absent").unwrap()).is_err());
}

#[test]
fn dynamic_shared_memory_reaches_the_kernel_and_has_a_limit() {
    const MAX_DYNAMIC_SHARED_SIZE_BYTES: u32 = 8;
    let _turn = common::turn();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let reverse_blocks = module.get_function("reverse_blocks").unwrap();
    let stream = stream();
    let (blocks, threads) = (3u32, 96u32);
    let input: Vec<u32> = (0..blocks * threads).map(|value| value * 7).collect();
    let input_device = DeviceBuffer::from_slice(&input).unwrap();
    let output_device = DeviceBuffer::<u32>::zeroed(input.len()).unwrap();
    let run = |shared: u32| {
        // SAFETY: both buffers hold a value for each thread; `shared` is at least 4 bytes for each of a block's.
        unsafe {
            launch!(reverse_blocks<<<blocks, threads, shared, stream>>>(
                output_device.as_device_ptr(), input_device.as_device_ptr()
            ))
        }
    };
    let expected: Vec<u32> = input.chunks(threads as usize).flat_map(|block| block.iter().rev().copied()).collect();
    run(4 * threads).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(output_device.as_host_vec().unwrap(), expected);

    // Past 48 KiB a kernel has to ask.
    assert!(run(100 << 10).is_err());
    let function = reverse_blocks.to_raw().cast();
    // SAFETY: the function's handle is live.
    let raised = unsafe { sys::cuFuncSetAttribute(function, MAX_DYNAMIC_SHARED_SIZE_BYTES, 100 << 10) };
    assert_eq!(raised, sys::CUDA_SUCCESS);
    run(100 << 10).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(output_device.as_host_vec().unwrap(), expected);
}

#[test]
fn occupancy_is_within_the_limits_of_the_device() {
    let _turn = common::turn();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let function = module.get_function("scaled_add").unwrap();
    assert!(function.get_attribute(FunctionAttribute::MaxThreadsPerBlock).unwrap() >= 256);
    assert_eq!(function.get_attribute(FunctionAttribute::SharedMemorySizeBytes).unwrap(), 0);

    let blocks = function.max_active_blocks_per_multiprocessor(BlockSize::x(256), 0).unwrap();
    assert!((1..=8).contains(&blocks), "{blocks} blocks of 256 threads, of 2048 resident threads at most");
    let crowded = function.max_active_blocks_per_multiprocessor(BlockSize::x(256), 40 << 10).unwrap();
    assert!((1..=5).contains(&crowded), "{crowded} blocks of 40 KiB, of 228 KiB at most");
    let shared = function.available_dynamic_shared_memory_per_block(GridSize::x(2), BlockSize::x(256)).unwrap();
    assert!((32 << 10..114 << 10).contains(&shared), "{shared} bytes for each of two blocks");
    let (grid, block) = function.suggested_launch_configuration(0, BlockSize::x(0)).unwrap();
    assert!(grid >= 1 && block >= 32 && block % 32 == 0, "grid {grid}, block {block}");
}

#[test]
fn cooperative_launches_run_and_cannot_exceed_the_device() {
    let turn = common::turn();
    let module = Module::from_ptx(PTX, &[]).unwrap();
    let function = module.get_function("write_at").unwrap();
    let out = DeviceBuffer::from_slice(&[0u32; 4]).unwrap();
    let launch = |blocks: u32| {
        let (mut address, mut index, mut value) = (out.as_device_ptr().as_raw(), 2u64, 77u32);
        let mut parameters: [*mut std::ffi::c_void; 3] =
            [(&raw mut address).cast(), (&raw mut index).cast(), (&raw mut value).cast()];
        // SAFETY: the parameters are those that the PTX declares, and the handle is live.
        unsafe {
            sys::cuLaunchCooperativeKernel(
                function.to_raw().cast(),
                blocks,
                1,
                1,
                32,
                1,
                1,
                0,
                std::ptr::null_mut(),
                parameters.as_mut_ptr(),
            )
        }
    };
    assert_eq!(launch(2), sys::CUDA_SUCCESS);
    cust::context::CurrentContext::synchronize().unwrap();
    assert_eq!(out.as_host_vec().unwrap(), [0, 0, 77, 0]);
    assert_eq!(launch(1 << 20), sys::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
    let text = driver::last_error().unwrap();
    assert!(text.starts_with("cuLaunchCooperativeKernel: CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE"), "{text}");
    if turn.backend == Backend::Soft {
        assert!(text.contains("write_at") && text.contains("1048576 blocks"), "{text}");
    }
}

#[test]
fn bad_ptx_fails_with_the_compilers_words() {
    let turn = common::turn();
    let broken = PTX.replace("fma.rn.f32 %f4", "fma.rn.f32 %frobnicate");
    assert_eq!(Module::from_ptx(&broken, &[]).map(drop), Err(cust::error::CudaError::InvalidPtx));
    let text = driver::last_error().unwrap();
    assert!(text.starts_with("cuModuleLoadDataEx: CUDA_ERROR_INVALID_PTX (218)"), "{text}");
    assert!(text.contains("frobnicate"), "{text}");
    if turn.backend == Backend::Soft {
        let line = 1 + broken.lines().position(|line| line.contains("frobnicate")).unwrap();
        assert!(text.contains(&format!("line {line}")), "{text}");
    }
}

#[test]
fn the_context_answers_for_its_device() {
    let turn = common::turn();
    assert_eq!(driver::backend(), Some(turn.backend));
    let device = cust::context::CurrentContext::get_device().unwrap();
    assert!(!device.name().unwrap().is_empty());
    assert_eq!(device.get_attribute(cust::device::DeviceAttribute::WarpSize).unwrap(), 32);
    let major = device.get_attribute(cust::device::DeviceAttribute::ComputeCapabilityMajor).unwrap();
    assert!(major >= 8, "compute capability {major}");
    assert!(device.total_memory().unwrap() >= 1 << 30);
    assert!(turn.context.get_api_version().is_ok());
    assert!(cust::CudaApiVersion::get().unwrap().major() >= 12);
    assert_eq!(cust::device::Device::num_devices().unwrap() as usize, cust::device::Device::devices().unwrap().count());
}

/// Each thread retains the primary context, works in it and releases it, so that it ends and begins again at any moment.
#[test]
fn threads_share_the_primary_context() {
    let turn = common::turn();
    drop(turn.context);
    let work = |thread: u32| {
        for round in 0..10 {
            let context = cust::quick_init().unwrap();
            let sent: Vec<u32> = (0..5000).map(|index| index ^ (thread << 16) ^ (round << 24)).collect();
            let buffer = DeviceBuffer::from_slice(&sent).unwrap();
            let module = Module::from_ptx(PTX, &[]).unwrap();
            assert!(module.get_function("write_at").is_ok());
            assert_eq!(buffer.as_host_vec().unwrap(), sent);
            drop((buffer, module));
            drop(context);
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|thread| drop(scope.spawn(move || work(thread)))));
}
