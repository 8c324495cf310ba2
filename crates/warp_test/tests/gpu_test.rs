//! What `#[gpu_test]` makes of a function, and when its tests fail.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cuda_std::Kernel;
use warp_test::{Device, FaultKind, Launch, Random, assert_close, example, gpu_test, run_on_soft};

#[allow(non_upper_case_globals)]
const scale: Kernel<(*const f32, *mut f32, f32, u32)> =
    Kernel::new("scale", &["x", "out", "a", "n"]).in_image(example::IMAGE);

#[gpu_test(scale)]
fn scale_multiplies(device: &Device) {
    let x = Random::new().values(1000, 10.0);
    let (input, out) = (device.upload(&x), device.alloc::<f32>(1000));
    // SAFETY: both buffers hold 1000 values.
    let launched = unsafe { device.launch(scale, Launch::over(1000, 256), (&input, &out, 0.5f32, 1000u32)) };
    let want: Vec<f64> = x.iter().map(|x| 0.5 * f64::from(*x)).collect();
    assert_close!(out.read(), want, absolute = 0.0);
    if let Some(counters) = launched.counters() {
        assert_eq!(counters.global_load_sectors, 1000 * 4 / 32);
    }
}

#[gpu_test(scale)]
fn a_test_may_return_an_error(device: &Device) -> Result<(), warp_test::Error> {
    let values = device.upload(&[1.0f32; 32]);
    // SAFETY: the buffer holds 32 values.
    unsafe { device.try_launch(scale, Launch::new(1, 32), (&values, &values, 2.0f32, 32u32))? };
    assert_eq!(values.read(), [2.0; 32]);
    Ok(())
}

#[gpu_test(scale)]
#[should_panic(expected = "which the test did not launch; it launched {}")]
fn a_test_that_launches_nothing_fails(_device: &Device) {}

/// What a panic says.
fn message(test: impl FnOnce(&Device)) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| run_on_soft(&["scale"], test))).unwrap_err();
    panic.downcast_ref::<String>().unwrap().clone()
}

#[test]
fn both_tests_are_there_by_name() {
    let list = std::process::Command::new(std::env::current_exe().unwrap()).args(["--list"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    for name in ["scale_multiplies::soft: test", "scale_multiplies::cuda: test"] {
        assert!(list.contains(name), "{name} is not in {list}");
    }
}

#[test]
fn a_buffer_that_is_never_dropped_fails_the_test() {
    let run = |forgets: bool| {
        move |device: &Device| {
            let values = device.upload(&[1.0f32; 32]);
            // SAFETY: the buffer holds 32 values.
            unsafe { device.launch(scale, Launch::new(1, 32), (&values, &values, 2.0f32, 32u32)) };
            if forgets {
                std::mem::forget(values);
            }
        }
    };
    let text = message(run(true));
    assert!(text.contains("left memory of its device allocated: 128 bytes, buffer 0"), "{text}");
    run_on_soft(&["scale"], run(false));
}

#[test]
fn the_sanitizer_is_on() {
    let text = message(|device| {
        let (input, out) = (device.alloc::<f32>(32), device.alloc::<f32>(32));
        // SAFETY: softcuda checks what the kernel does.
        unsafe { device.launch(scale, Launch::new(1, 32), (&input, &out, 2.0f32, 32u32)) };
    });
    assert!(text.contains("never written") && text.contains("scale"), "{text}");
}

#[test]
fn an_output_that_no_kernel_wrote_cannot_be_read() {
    let text = message(|device| {
        let (input, out) = (device.upload(&[1.0f32; 32]), device.alloc::<f32>(32));
        // SAFETY: both buffers hold 31 values and more.
        unsafe { device.launch(scale, Launch::new(1, 32), (&input, &out, 2.0f32, 31u32)) };
        out.read();
    });
    assert!(text.contains("never written"), "{text}");
}

#[test]
fn a_fault_is_given_to_who_asks_for_it() {
    run_on_soft(&["scale"], |device| {
        let short = device.upload(&[1.0f32; 31]);
        // SAFETY: softcuda checks what the kernel does; that it goes too far is the point.
        let result = unsafe { device.try_launch(scale, Launch::new(1, 32), (&short, &short, 2.0f32, 32u32)) };
        let error = result.unwrap_err();
        assert_eq!(error.fault().unwrap().kind(), FaultKind::OutOfBounds, "{error}");
        assert_eq!(error.fault().unwrap().location().unwrap().thread, [31, 0, 0]);
    });
}

#[test]
fn a_kernel_without_an_image_or_not_in_it_says_what_to_do() {
    const LONELY: Kernel<()> = Kernel::new("lonely", &[]);
    for (kernel, words) in [(LONELY, "build.rs"), (LONELY.in_image(example::IMAGE), "has no kernel `lonely`")] {
        // SAFETY: there is no such kernel.
        let text = message(|device| _ = unsafe { device.launch(kernel, Launch::new(1, 1), ()) });
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn a_fault_is_reported_at_the_line_of_the_test() {
    thread_local! {
        static FILE: std::cell::RefCell<String> = const { std::cell::RefCell::new(String::new()) };
    }
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        FILE.set(info.location().map(|location| location.file().to_owned()).unwrap_or_default());
        usual(info);
    }));
    let short = |device: &Device| device.upload(&[1.0f32; 31]);
    // SAFETY: softcuda checks what the kernel does; that it goes too far is the point.
    let launch = |device: &Device| unsafe {
        device.launch(scale, Launch::new(1, 32), (&short(device), &short(device), 2.0f32, 32u32))
    };
    message(|device| _ = launch(device));
    assert!(FILE.take().ends_with("gpu_test.rs"));
    message(|device| _ = device.alloc::<f32>(32).read());
    assert!(FILE.take().ends_with("gpu_test.rs"));
}

/// For each of the slice's elements: its cluster's blocks times 100, and its block's number there.
const RANKS_PTX: &str = "
.version 8.0
.target sm_90
.address_size 64
.visible .entry ranks(.param .u64 out, .param .u64 out_length) {
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %rd<6>;
    ld.param.u64 %rd1, [out];
    ld.param.u64 %rd2, [out_length];
    mov.u32 %r1, %cluster_ctarank;
    mov.u32 %r2, %cluster_nctarank;
    mad.lo.u32 %r1, %r2, 100, %r1;
    mov.u32 %r3, %ctaid.x;
    cvt.u64.u32 %rd3, %r3;
    setp.ge.u64 %p1, %rd3, %rd2;
    @%p1 ret;
    shl.b64 %rd4, %rd3, 2;
    add.s64 %rd5, %rd1, %rd4;
    st.global.u32 [%rd5], %r1;
    ret;
}";

#[allow(non_upper_case_globals)]
const ranks: Kernel<(*mut [u32],)> =
    Kernel::new("ranks", &["out"]).in_image(cuda_std::Image { crate_name: "ranks", ptx: RANKS_PTX });

#[test]
fn a_launch_is_in_clusters_and_takes_parts_of_buffers() {
    run_on_soft(&["ranks"], |device| {
        let out = device.upload(&[0u32; 16]);
        let launch = Launch::new(16, 1);
        // SAFETY: the kernel writes to the slice only.
        unsafe { device.launch(ranks, launch.cluster([4, 1, 1]), (&out,)) };
        assert_eq!(out.read(), (0..16).map(|i| 400 + i % 4).collect::<Vec<u32>>());
        // SAFETY: as above.
        unsafe { device.launch(ranks, launch, (out.part(5..8),)) };
        let want = |i: u32| if (5..8).contains(&i) { 100 } else { 400 + i % 4 };
        assert_eq!(out.read(), (0..16).map(want).collect::<Vec<u32>>());
        // SAFETY: as above.
        let error = unsafe { device.try_launch(ranks, launch.cluster([3, 1, 1]), (&out,)) }.unwrap_err();
        assert!(error.to_string().contains("whole clusters"), "{error}");
    });
    let text = message(|device| _ = device.alloc::<f32>(4).part(2..5).len());
    assert!(text.contains("elements 2 to 5 of a buffer of 4"), "{text}");
}
