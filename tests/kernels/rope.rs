//! Pair i of a head is turned by position · theta^(−2i/n_rot) / factor[i].

use ferrowarp::{forward::turns, gpu::kernels::RopeShape, model::RopePairing};

use crate::support::*;

pub fn reference(shape: RopeShape, x: &[f32], positions: &[u32], radians: &[f64], magnitude: f32) -> Vec<f64> {
    let RopeShape { n_heads, head_dim, n_rot, pairing, .. } = shape;
    let mut out = as_f64(x);
    for (index, head) in out.chunks_mut(head_dim).enumerate() {
        let position = f64::from(positions[index / n_heads]);
        for (pair, radians) in radians.iter().enumerate() {
            let (first, second) = match pairing {
                RopePairing::Halves => (pair, pair + n_rot / 2),
                RopePairing::Neighbours => (2 * pair, 2 * pair + 1),
            };
            let (sin, cos) = (position * radians).sin_cos();
            let (a, b, magnitude) = (head[first], head[second], f64::from(magnitude));
            head[first] = (a * cos - b * sin) * magnitude;
            head[second] = (a * sin + b * cos) * magnitude;
        }
    }
    out
}

#[test]
fn rope_turns_the_right_pairs_by_the_right_angle_at_any_position() {
    let gpu = gpu();
    let mut random = Random::new();
    // head_dim, n_rot, heads, base; with factors every third pair is slowed by 8, as Llama 3.1's files do.
    let cases = [(64, 64, 2, 1e6, false), (80, 80, 3, 1e4, true), (128, 64, 1, 5e5, true), (96, 2, 5, 1e4, false)];
    for pairing in [RopePairing::Halves, RopePairing::Neighbours] {
        for (head_dim, n_rot, n_heads, theta, factors) in cases {
            let frequency = |pair: usize| {
                let divisor = if factors && pair % 3 == 1 { 8.0 } else { 1.0 };
                f64::powf(theta, -2.0 * pair as f64 / n_rot as f64) / divisor
            };
            let radians: Vec<f64> = (0..n_rot / 2).map(frequency).collect();
            // Far positions are where an angle computed in plain f32 has lost its fraction.
            let positions = [0, 1, 77, 4095, 131_071, 1_000_003];
            let shape = RopeShape { n_tokens: positions.len(), n_heads, head_dim, n_rot, pairing };
            let values = random.values(positions.len() * n_heads * head_dim, 1.0);
            let x = Output::new(&gpu, values.len());
            gpu.write(&x, &values).unwrap();
            let device_positions = gpu.upload("positions", &positions).unwrap();
            let frequencies = gpu.upload("frequencies", &turns(&radians)).unwrap();
            gpu.rope(shape, &x, &device_positions, &frequencies, 1.25).unwrap();
            // sin.approx is good to 2^-20.5 (7e-7); the angle, of at most half a turn, is rounded by 2^-22 of π (8e-7).
            // A frequency kept as two f32 is exact to 2^-48: at position 10^6 another 2e-8.
            let want = reference(shape, &values, &positions, &radians, 1.25);
            assert_close(&format!("{shape:?}"), &x.read(&gpu), &want, 4e-6, 0.0);
        }
    }
}
