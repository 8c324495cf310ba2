//! silu(gate) · up.

use crate::support::*;

fn reference(gate: f32, up: f32) -> f64 {
    let gate = f64::from(gate);
    gate / (1.0 + (-gate).exp()) * f64::from(up)
}

#[test]
fn swiglu_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    for n in [257, 300, 4864] {
        for scale in [0.01, 3.0, 30.0, 300.0] {
            let (gate, up) = (random.values(n, scale), random.values(n, scale));
            let want: Vec<f64> = gate.iter().zip(&up).map(|(gate, up)| reference(*gate, *up)).collect();
            let (gate, up) = (gpu.upload("gate", &gate).unwrap(), gpu.upload("up", &up).unwrap());
            let out = Output::new(&gpu, n);
            gpu.swiglu(&gate, &up, &out, n).unwrap();
            // ex2.approx is within 2 ulp (2.4e-7) and its argument within as much; for gates below −87 the true value
            // is under 1e-35 and f32 gives subnormals or zero.
            assert_close(&format!("{n} scale {scale}"), &out.read(&gpu), &want, 1e-33, 2e-6);
        }
    }
}

#[test]
fn swiglu_has_its_limits_at_large_gates() {
    let gpu = gpu();
    let gate = gpu.upload("gate", &[-1e4f32, -1e30, 1e4, 1e30, 0.0]).unwrap();
    let up = gpu.upload("up", &[2.0f32; 5]).unwrap();
    gpu.swiglu(&gate, &up, &gate, 5).unwrap();
    assert_eq!(gpu.read(&gate).unwrap(), [0.0, 0.0, 2e4, 2e30, 0.0]);
}
