//! Scaling, adding, soft caps, sigmoid gates, growth by position, taking columns out and joining.

use ferrowarp::gpu::kernels::SigmoidGate;

use crate::support::*;

const LENGTHS: [usize; 4] = [1, 255, 257, 3001];

#[test]
fn values_are_scaled_in_place_or_not() {
    let gpu = gpu();
    let mut random = Random::new();
    for n in LENGTHS {
        let x = random.values(n, 3.0);
        let want: Vec<f32> = x.iter().map(|x| 0.37 * x).collect();
        let (device, out) = (gpu.upload("x", &x).unwrap(), Output::new(&gpu, n));
        gpu.scale(&device, &out, 0.37, n).unwrap();
        assert_eq!(out.read(&gpu), want);
        gpu.scale(&device, &device, 0.37, n).unwrap();
        assert_eq!(gpu.read(&device).unwrap(), want);
    }
}

#[test]
fn scaled_values_are_added_into_any_of_the_three() {
    let gpu = gpu();
    let mut random = Random::new();
    for n in LENGTHS {
        let (a, b) = (random.values(n, 3.0), random.values(n, 5.0));
        let want: Vec<f64> = a.iter().zip(&b).map(|(a, b)| f64::from(*a) - 0.22 * f64::from(*b)).collect();
        let upload = || (gpu.upload("a", &a).unwrap(), gpu.upload("b", &b).unwrap());
        let ((x, y), out) = (upload(), Output::new(&gpu, n));
        gpu.add_scaled(&x, &y, -0.22, &out, n).unwrap();
        assert_close("apart", &out.read(&gpu), &want, 2e-7, 1e-6);
        gpu.add_scaled(&x, &y, -0.22, &x, n).unwrap();
        assert_close("into a", &gpu.read(&x).unwrap(), &want, 2e-7, 1e-6);
        let (x, y) = upload();
        gpu.add_scaled(&x, &y, -0.22, &y, n).unwrap();
        assert_close("into b", &gpu.read(&y).unwrap(), &want, 2e-7, 1e-6);
    }
}

#[test]
fn soft_caps_are_close_to_a_hyperbolic_tangent_everywhere() {
    let gpu = gpu();
    let mut random = Random::new();
    for n in LENGTHS {
        for (cap, scale) in [(30.0f32, 100.0), (50.0, 3.0), (1.0, 0.6), (30.0, 1e-3), (2.0, 1e30)] {
            let x = random.values(n, scale);
            let want: Vec<f64> = x.iter().map(|x| f64::from(cap) * (f64::from(*x) / f64::from(cap)).tanh()).collect();
            let (device, out) = (gpu.upload("x", &x).unwrap(), Output::new(&gpu, n));
            gpu.soft_cap(&device, &out, cap, n).unwrap();
            // `float::tanh` is within 8e-7, also relatively.
            assert_close(&format!("cap {cap} scale {scale}"), &out.read(&gpu), &want, 0.0, 1e-6);
        }
    }
}

#[test]
fn rows_are_gated_by_value_and_by_row() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, width) in [(1, 1), (3, 64), (2, 257), (7, 300)] {
        let x = random.values(rows * width, 3.0);
        let device = gpu.upload("x", &x).unwrap();
        // By value: the gates lie behind as many other values, as query and gate of a head do.
        let gates = random.values(rows * 2 * width, 100.0);
        let device_gates = gpu.upload("gates", &gates).unwrap();
        let sigma = |gate: f32| 1.0 / (1.0 + (-f64::from(gate)).exp());
        let want: Vec<f64> = (0..rows * width)
            .map(|index| f64::from(x[index]) * sigma(gates[index / width * 2 * width + width + index % width]))
            .collect();
        let out = Output::new(&gpu, rows * width);
        let gate = device_gates.slice(width..rows * 2 * width);
        let gate = SigmoidGate::PerValue { gate: &gate, stride: 2 * width };
        gpu.multiply_sigmoid(&device, gate, &out, rows, width).unwrap();
        assert_close("by value", &out.read(&gpu), &want, 1e-30, 2e-6);
        // By row, in place.
        let gates = random.values(rows, 4.0);
        let gate = gpu.upload("gates", &gates).unwrap();
        let want: Vec<f64> = (0..rows * width).map(|i| f64::from(x[i]) * sigma(gates[i / width])).collect();
        gpu.multiply_sigmoid(&device, SigmoidGate::PerRow(&gate), &device, rows, width).unwrap();
        assert_close("by row", &gpu.read(&device).unwrap(), &want, 1e-30, 2e-6);
    }
}

#[test]
fn columns_are_taken_out_of_rows() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, width, stride, first) in [(1, 1, 1, 0), (5, 3, 7, 4), (4, 257, 600, 300)] {
        let x = random.values(rows * stride, 3.0);
        let device = gpu.upload("x", &x).unwrap();
        let out = Output::new(&gpu, rows * width);
        gpu.take_columns(&device.slice(first..rows * stride), stride, &out, rows, width).unwrap();
        let want: Vec<f32> = x.chunks(stride).flat_map(|row| row[first..first + width].to_vec()).collect();
        assert_eq!(out.read(&gpu), want);
    }
}

#[test]
fn rows_are_joined() {
    let gpu = gpu();
    let mut random = Random::new();
    for (rows, a_width, b_width) in [(1, 1, 1), (5, 64, 32), (3, 300, 257)] {
        let (a, b) = (random.values(rows * a_width, 3.0), random.values(rows * b_width, 3.0));
        let out = Output::new(&gpu, rows * (a_width + b_width));
        let (device_a, device_b) = (gpu.upload("a", &a).unwrap(), gpu.upload("b", &b).unwrap());
        gpu.join(&device_a, &device_b, &out, rows, [a_width, b_width]).unwrap();
        let pairs = a.chunks(a_width).zip(b.chunks(b_width));
        assert_eq!(out.read(&gpu), pairs.flat_map(|(a, b)| [a, b].concat()).collect::<Vec<f32>>());
    }
}

#[test]
fn values_grow_with_their_position() {
    let gpu = gpu();
    let mut random = Random::new();
    for (width, scale, length) in [(1, 0.3f32, 64), (300, 0.1, 7), (64, 1.0, 8192)] {
        let positions = [0, length - 1, length, 5 * length + 1, 131_071];
        let x = random.values(positions.len() * width, 3.0);
        let grown = x.iter().enumerate().map(|(index, x)| {
            let turns = f64::from(positions[index / width] / length + 1);
            f64::from(*x) * (1.0 + f64::from(scale) * turns.ln())
        });
        let want: Vec<f64> = grown.collect();
        let (device, out) = (gpu.upload("x", &x).unwrap(), Output::new(&gpu, x.len()));
        let device_positions = gpu.upload("positions", &positions).unwrap();
        gpu.temper(&device, &device_positions, &out, positions.len(), width, scale, length as usize).unwrap();
        // The logarithm is within 2^-22.
        assert_close(&format!("{scale} over {length}"), &out.read(&gpu), &want, 0.0, 1e-6);
        assert_eq!(out.read(&gpu)[..2 * width], x[..2 * width], "nothing grows over the first positions");
    }
}
