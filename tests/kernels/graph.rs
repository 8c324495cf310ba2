//! Work that is captured once and launched often.

use std::{sync::mpsc, thread, time::Duration};

use driver::calls;
use ferrowarp::gpu::{GpuError, Graph, kernels::Glu};

use crate::support::{self, *};

#[test]
fn a_captured_chain_gives_what_its_launches_would_each_time() {
    let gpu = gpu();
    let mut random = Random::new();
    let n = 700;
    let weight = gpu.upload("weight", &random.values(n, 1.0)).unwrap();
    let (gate, up) = (gpu.alloc::<f32>("gate", n).unwrap(), gpu.alloc::<f32>("up", n).unwrap());
    let hidden = gpu.alloc::<f32>("hidden", n).unwrap();
    let captured = Output::new(&gpu, n);
    let chain = |out: &ferrowarp::gpu::Slice<f32>| {
        gpu.glu(Glu::Swiglu, &gate, &up, &hidden, n)?;
        gpu.rmsnorm(&hidden, &weight, out, 1, 1e-6)
    };
    let graph = gpu.capture(|| chain(&captured)).unwrap();
    assert_eq!(graph.n_kernels(), 2);

    for _ in 0..3 {
        gpu.write(&gate, &random.values(n, 3.0)).unwrap();
        gpu.write(&up, &random.values(n, 3.0)).unwrap();
        let before = calls::counts();
        // SAFETY: the buffers that the chain uses are alive.
        unsafe { graph.launch(&gpu).unwrap() };
        let counts = calls::counts().since(&before);
        assert_eq!((counts.total(), counts.graph_launches()), (1, 1), "{counts:?}");
        let got = captured.read(&gpu);
        let direct = Output::new(&gpu, n);
        chain(&direct).unwrap();
        assert_eq!(got, direct.read(&gpu));
    }
}

/// Another thread that opens and closes the device would wait for all of it in the middle of the capture.
#[test]
fn a_capture_is_not_spoilt_by_another_threads_device() {
    let gpu = gpu();
    let n = 300;
    let values = gpu.upload("values", &vec![1.0f32; n]).unwrap();
    let out = Output::new(&gpu, n);
    let (done, is_done) = mpsc::channel();
    let mut other = None;
    let captured = gpu.capture(|| {
        gpu.glu(Glu::Swiglu, &values, &values, &out, n)?;
        other = Some(thread::spawn(move || {
            drop(support::gpu());
            done.send(()).unwrap();
        }));
        // Long enough for the other thread to come to its end, if it does not wait for this one's.
        assert_eq!(is_done.recv_timeout(Duration::from_secs(2)), Err(mpsc::RecvTimeoutError::Timeout));
        gpu.glu(Glu::Swiglu, &out, &values, &out, n)
    });
    assert_eq!(captured.unwrap().n_kernels(), 2);
    other.unwrap().join().unwrap();
}

#[test]
fn a_capture_that_fails_leaves_the_device_as_it_was() {
    let gpu = gpu();
    let n = 300;
    let values = gpu.upload("values", &vec![1.0f32; n]).unwrap();
    let out = Output::new(&gpu, n);

    let own = gpu.capture(|| {
        gpu.glu(Glu::Swiglu, &values, &values, &out, n)?;
        Err(GpuError::Driver { action: "a test".into(), detail: "fails".into() })
    });
    assert_eq!(own.unwrap_err().to_string(), "a test: fails");

    let waiting = gpu.capture(|| {
        gpu.glu(Glu::Swiglu, &values, &values, &out, n)?;
        gpu.synchronise()
    });
    assert!(waiting.unwrap_err().to_string().starts_with("running the kernels: "));

    // The driver's refusal comes back at the end where the one who got it kept it to himself.
    let hidden: Result<Graph, GpuError> = gpu.capture(|| {
        let _ = gpu.synchronise();
        Ok(())
    });
    assert!(hidden.unwrap_err().to_string().starts_with("capturing a graph: "));

    let capture = || gpu.capture(|| -> Result<(), GpuError> { panic!("in a capture") });
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(capture));
    assert!(panicked.is_err());

    gpu.glu(Glu::Swiglu, &values, &values, &out, n).unwrap();
    let silu = 1.0 / (1.0 + (-1.0f64).exp());
    assert_close("after the captures", &out.read(&gpu), &vec![silu; n], 0.0, 1e-6);
}
