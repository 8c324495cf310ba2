//! An activation of the gate times the up projection.

use ferrowarp::gpu::kernels::Glu;
use half::f16;

use crate::support::*;

fn reference(unit: Glu, gate: f32, up: f32) -> f64 {
    let (gate, up) = (f64::from(gate), f64::from(up));
    match unit {
        Glu::Swiglu => gate / (1.0 + (-gate).exp()) * up,
        Glu::Geglu => {
            let argument = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            // 1 + tanh u, without the cancellation of large negative ones.
            let one_and_tanh = 2.0 / (1.0 + (-2.0 * argument).exp());
            assert!((one_and_tanh - 1.0 - argument.tanh()).abs() < 1e-12);
            0.5 * gate * one_and_tanh * up
        }
        Glu::SwigluClamped => {
            let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
            gate / (1.0 + (-1.702 * gate).exp()) * (up + 1.0)
        }
    }
}

#[test]
fn glu_agrees_with_its_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    for unit in Glu::ALL {
        for n in [257, 300, 4864] {
            for scale in [0.01, 3.0, 10.0, 300.0] {
                let (gate, up) = (random.values(n, scale), random.values(n, scale));
                let want: Vec<f64> = gate.iter().zip(&up).map(|(gate, up)| reference(unit, *gate, *up)).collect();
                let (gate, up) = (gpu.upload("gate", &gate).unwrap(), gpu.upload("up", &up).unwrap());
                let out = Output::new(&gpu, n);
                gpu.glu(unit, &gate, &up, &out, n).unwrap();
                // ex2.approx is within 2 ulp (2.4e-7) and its argument within as much; what the argument was rounded by
                // before (GELU's cubic three times, up to 87 · 2e-7) is a relative error of the power. For arguments below
                // −87 the true value is under 1e-33 and f32 gives subnormals or zero. u + 1 cancels near −1.
                let relative = if unit == Glu::Swiglu { 2e-6 } else { 2e-5 };
                let absolute = if unit == Glu::SwigluClamped { 1e-6 } else { 1e-33 };
                assert_close(&format!("{unit:?} {n} scale {scale}"), &out.read(&gpu), &want, absolute, relative);
            }
        }
    }
}

#[test]
fn glu_has_its_limits_at_large_gates() {
    let gpu = gpu();
    for (unit, want) in [
        (Glu::Swiglu, [0.0, 0.0, 2e4, 2e30, 0.0]),
        (Glu::Geglu, [0.0, 0.0, 2e4, 2e30, 0.0]),
        // 7 · σ(11.914) · 3.
        (Glu::SwigluClamped, [0.0, 0.0, 20.999_859_4, 20.999_859_4, 0.0]),
    ] {
        let gate = gpu.upload("gate", &[-1e4f32, -1e30, 1e4, 1e30, 0.0]).unwrap();
        let up = gpu.upload("up", &[2.0f32; 5]).unwrap();
        gpu.glu(unit, &gate, &up, &gate, 5).unwrap();
        assert_close(&format!("{unit:?}"), &gpu.read(&gate).unwrap(), &want, 0.0, 1e-6);
    }
}

#[test]
fn glu_of_f16_is_rounded_once() {
    let gpu = gpu();
    let mut random = Random::new();
    for unit in Glu::ALL {
        for (n_tokens, n, in_scale, out_scale) in [(1, 8, 1.0, 1.0), (3, 264, 2.0, 0.25), (2, 4864, 0.5, 1.0)] {
            for scale in [0.01, 3.0, 100.0] {
                let gate_up: Vec<f16> =
                    random.values(n_tokens * 2 * n, scale).iter().map(|value| f16::from_f32(*value)).collect();
                let want: Vec<f64> = (0..n_tokens * n)
                    .map(|index| {
                        let row = &gate_up[index / n * 2 * n..][..2 * n];
                        let [gate, up] = [row[index % n], row[n + index % n]].map(|half| half.to_f32() * in_scale);
                        reference(unit, gate, up) * f64::from(out_scale)
                    })
                    .collect();
                let device = gpu.upload("gate and up", &gate_up).unwrap();
                let out = Output::<f16>::new(&gpu, n_tokens * n);
                gpu.glu_f16(unit, &device, &out, n_tokens, n, in_scale, out_scale).unwrap();
                let got: Vec<f32> = out.read(&gpu).iter().map(|half| half.to_f32()).collect();
                // Half a unit of 11 bits, or of a subnormal; the approximations are a hundred times closer.
                let (absolute, relative) = (2f64.powi(-25) * 1.01, 2f64.powi(-11) * 1.01);
                let what = format!("{unit:?} {n_tokens}×{n} scale {scale}");
                assert_close(&what, &got, &want, absolute, relative);
            }
        }
    }
}

#[test]
fn glu_of_f16_has_its_limits_at_large_gates() {
    let gpu = gpu();
    let halves = |values: [f32; 16]| values.map(f16::from_f32);
    let gates = [-6e4, -100.0, -90.0, 6e4, 0.0, 1.0, -0.0, 2.0];
    let mut values = [2.0; 16];
    values[..8].copy_from_slice(&gates);
    let gate_up = gpu.upload("gate and up", &halves(values)).unwrap();
    for (unit, large) in [(Glu::Swiglu, 6e4), (Glu::Geglu, 6e4), (Glu::SwigluClamped, 10.5)] {
        let out = Output::<f16>::new(&gpu, 8);
        gpu.glu_f16(unit, &gate_up, &out, 1, 8, 1.0, 0.5).unwrap();
        let got = out.read(&gpu).iter().map(|half| half.to_f32()).collect::<Vec<_>>();
        assert_eq!(got[..5], [0.0, 0.0, 0.0, large, 0.0].map(|v| f16::from_f32(v).to_f32()), "{unit:?}");
    }
}

#[test]
fn rows_with_factors_get_factors_of_their_own() {
    let gpu = gpu();
    let mut random = Random::new();
    let factors = [0.25f32, 1.0, 8.0, 4096.0];
    for unit in Glu::ALL {
        for (n, in_scale, headroom) in [(8, 1.0, 16.0f32), (264, 2.0, 0.5), (2056, 0.5, 4.0)] {
            let n_tokens = factors.len();
            let gate_up: Vec<f16> =
                random.values(n_tokens * 2 * n, 40.0).iter().map(|value| f16::from_f32(*value)).collect();
            let device = gpu.upload("gate and up", &gate_up).unwrap();
            let device_factors = gpu.upload("factors", &factors).unwrap();
            let (out, of_out) = (Output::<f16>::new(&gpu, n_tokens * n), Output::new(&gpu, n_tokens));
            gpu.glu_rows_f16(unit, &device, &device_factors, &out, &of_out, n_tokens, n, in_scale, headroom).unwrap();
            let (out, of_out) = (out.read(&gpu), of_out.read(&gpu));
            for (token, factor) in factors.into_iter().enumerate() {
                let want_factor = ((factor * factor).max(1.0) / headroom).max(1.0);
                let what = format!("{unit:?} of {n}, factor {factor}, headroom {headroom}");
                assert_eq!(of_out[token], want_factor, "{what}");
                let row = &gate_up[token * 2 * n..][..2 * n];
                let value = |index: usize| row[index].to_f32() * in_scale * factor;
                let want: Vec<f64> = (0..n)
                    .map(|index| reference(unit, value(index), value(n + index)) / f64::from(want_factor))
                    .collect();
                let got: Vec<f32> = out[token * n..][..n].iter().map(|half| half.to_f32()).collect();
                assert_close(&what, &got, &want, 2f64.powi(-25) * 1.01, 2f64.powi(-11) * 1.01);
            }
        }
    }
}
