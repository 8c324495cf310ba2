//! Routing tokens to experts, their products, and adding up.

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Activations, Weights,
        kernels::{Experts as Chosen, Gemv},
    },
    model::Experts,
};

use crate::support::*;

/// The experts with the largest logits, the largest first, and their weights.
fn reference(shape: Experts, logits: &[f32]) -> (Vec<u32>, Vec<f64>) {
    let mut ranked: Vec<usize> = (0..logits.len()).collect();
    ranked.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    ranked.truncate(shape.n_used);
    let exponential = |expert: usize| f64::from(logits[expert]).exp();
    let all: f64 = (0..logits.len()).map(exponential).sum();
    let used: f64 = ranked.iter().map(|expert| exponential(*expert)).sum();
    let divisor = if shape.normalise { used } else { all };
    let weights = ranked.iter().map(|expert| exponential(*expert) / divisor * f64::from(shape.scale)).collect();
    (ranked.iter().map(|expert| *expert as u32).collect(), weights)
}

#[test]
fn tokens_are_routed_to_their_best_experts() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_experts, n_used) in [(1, 1), (8, 2), (8, 8), (33, 4), (128, 8)] {
        for (normalise, scale) in [(true, 1.0), (false, 2.5)] {
            let shape = Experts { n_experts, n_used, normalise, scale };
            let n_tokens = 3;
            let logits = random.values(n_tokens * n_experts, 8.0);
            let experts = Output::<u32>::new(&gpu, n_tokens * n_used);
            let weights = Output::<f32>::new(&gpu, n_tokens * n_used);
            let device_logits = gpu.upload("logits", &logits).unwrap();
            gpu.experts_route(shape, &device_logits, &experts, &weights, n_tokens).unwrap();
            let want: Vec<_> = logits.chunks(n_experts).map(|row| reference(shape, row)).collect();
            let ids: Vec<u32> = want.iter().flat_map(|(ids, _)| ids.clone()).collect();
            let shares: Vec<f64> = want.into_iter().flat_map(|(_, weights)| weights).collect();
            assert_eq!(experts.read(&gpu), ids, "{shape:?}");
            // e^x is good to a few ulp, sums of up to 128 of them in trees.
            assert_close(&format!("{shape:?}"), &weights.read(&gpu), &shares, 0.0, 4e-6);
        }
    }
}

#[test]
fn equal_experts_are_taken_in_order() {
    let gpu = gpu();
    let shape = Experts { n_experts: 40, n_used: 3, normalise: true, scale: 1.0 };
    let mut logits = vec![0.0f32; 80];
    logits[40 + 35] = 1.0;
    let (experts, weights) = (Output::<u32>::new(&gpu, 6), Output::<f32>::new(&gpu, 6));
    gpu.experts_route(shape, &gpu.upload("logits", &logits).unwrap(), &experts, &weights, 2).unwrap();
    assert_eq!(experts.read(&gpu), [0, 1, 2, 35, 0, 1]);
    assert_close("thirds", &weights.read(&gpu)[..3], &[1.0 / 3.0; 3], 0.0, 1e-6);
}

#[test]
fn each_vector_is_multiplied_by_its_own_expert() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_experts, n_out, n_in, n_tokens, n_used) in [(4, 5, 64, 3, 2), (3, 130, 32, 2, 1), (8, 9, 256, 5, 3)] {
        for tensor_type in FLOATS {
            let (stack, exact) = weights(&gpu, &mut random, tensor_type, n_experts * n_out, n_in);
            let stack = Weights::of_one_type(stack.data, tensor_type, n_experts, n_out, n_in);
            let n_vectors = n_tokens * n_used;
            let experts = random.tokens(n_vectors, n_experts);
            let device_experts = gpu.upload("experts", &experts).unwrap();
            for share in [n_used, 1] {
                let x = random.values(n_vectors / share * n_in, 1.0);
                let out = Output::<f32>::new(&gpu, n_vectors * n_out);
                let device_x = gpu.upload("x", &x).unwrap();
                let experts_of = Chosen { chosen: &device_experts, n_vectors, share };
                gpu.gemv(&Gemv { experts: Some(experts_of), ..Gemv::new(stack.all(), &device_x, &out) }).unwrap();
                let want: Vec<f64> = (0..n_vectors * n_out)
                    .map(|index| {
                        let (vector, row) = (index / n_out, index % n_out);
                        let row = &exact[(experts[vector] as usize * n_out + row) * n_in..][..n_in];
                        let x = &x[vector / share * n_in..][..n_in];
                        row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()
                    })
                    .collect();
                assert_close(&format!("{tensor_type} share {share}"), &out.read(&gpu), &want, 2e-5, 1e-6);
            }
        }
    }
}

#[test]
fn quantised_stacks_work_as_float_ones_do() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_experts, n_out, n_in) = (3, 6, 64);
    // Q8_0 with all scales 1: a value is its integer.
    let integers: Vec<i8> = (0..n_experts * n_out * n_in).map(|_| random.bits() as i8).collect();
    let one = half::f16::ONE.to_le_bytes();
    let bytes: Vec<u8> = integers.chunks(32).flat_map(|q| [&one[..], bytemuck::cast_slice(q)].concat()).collect();
    let stack = packed(&gpu, TensorType::Q8_0, &bytes, n_experts, n_out, n_in);
    let experts = [2, 0, 1, 2];
    // 127 in each run of 16 makes the scale of 8-bit activations 1, so that they are these integers too.
    let x: Vec<f32> = (0..4 * n_in).map(|i| if i % 16 == 0 { 127.0 } else { random.below(9) as f32 - 4.0 }).collect();
    let out = Output::<f32>::new(&gpu, experts.len() * n_out);
    let (device_x, device_experts) = (gpu.upload("x", &x).unwrap(), gpu.upload("experts", &experts).unwrap());
    // Integers below 2^24 add up exactly.
    let want: Vec<f32> = (0..experts.len() * n_out)
        .map(|index| {
            let (vector, row) = (index / n_out, index % n_out);
            let row = &integers[(experts[vector] as usize * n_out + row) * n_in..][..n_in];
            row.iter().zip(&x[vector * n_in..]).map(|(q, x)| f32::from(*q) * x).sum()
        })
        .collect();
    for activations in [Activations::F32, Activations::Q8] {
        let experts_of = Chosen { chosen: &device_experts, n_vectors: experts.len(), share: 1 };
        let gemv = Gemv::new(stack.all(), &device_x, &out).activations(activations);
        gpu.gemv(&Gemv { experts: Some(experts_of), ..gemv }).unwrap();
        assert_eq!(out.read(&gpu), want, "{activations:?}");
    }
}

/// Two stacks, the gates' above the up projections', behind RMSNorm.
#[test]
fn each_expert_has_its_gate_and_its_up_projection() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_experts, n_ff, n_in, n_tokens, n_used) = (5, 7, 64, 2, 3);
    let (stacks, exact) = weights(&gpu, &mut random, TensorType::F16, 2 * n_experts * n_ff, n_in);
    let stacks = Weights::of_one_type(stacks.data, TensorType::F16, n_experts, 2 * n_ff, n_in);
    let n_vectors = n_tokens * n_used;
    let experts = random.tokens(n_vectors, n_experts);
    let (x, norm) = (random.values(n_tokens * n_in, 2.0), random.values(n_in, 1.0));
    let out = Output::<f32>::new(&gpu, n_vectors * n_ff);
    let (device_x, device_norm) = (gpu.upload("x", &x).unwrap(), gpu.upload("norm", &norm).unwrap());
    let chosen = gpu.upload("experts", &experts).unwrap();
    gpu.gemv(&Gemv {
        experts: Some(Chosen { chosen: &chosen, n_vectors, share: n_used }),
        norm: Some((&device_norm, 1e-6)),
        swiglu: true,
        ..Gemv::new(stacks.all(), &device_x, &out)
    })
    .unwrap();
    let want: Vec<f64> = (0..n_vectors * n_ff)
        .map(|index| {
            let (vector, row) = (index / n_ff, index % n_ff);
            let x = &x[vector / n_used * n_in..][..n_in];
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n_in as f64;
            let product = |stack: usize| {
                let row = (stack * n_experts + experts[vector] as usize) * n_ff + row;
                let weighted = x.iter().zip(&norm).map(|(x, w)| f64::from(*x) * f64::from(*w));
                exact[row * n_in..][..n_in].iter().zip(weighted).map(|(w, x)| w * x).sum::<f64>() / (mean + 1e-6).sqrt()
            };
            let gate = product(0);
            gate / (1.0 + (-gate).exp()) * product(1)
        })
        .collect();
    assert_close("SwiGLU of experts", &out.read(&gpu), &want, 2e-5, 1e-5);
}

#[test]
fn outputs_are_added_up_by_weight() {
    let gpu = gpu();
    let mut random = Random::new();
    for (n_tokens, n_used, n) in [(2, 1, 1), (3, 2, 257), (2, 8, 300)] {
        let parts = random.values(n_tokens * n_used * n, 3.0);
        let (weights, residual) = (random.values(n_tokens * n_used, 1.0), random.values(n_tokens * n, 3.0));
        let device_parts = gpu.upload("parts", &parts).unwrap();
        let device_weights = gpu.upload("weights", &weights).unwrap();
        let device_residual = gpu.upload("residual", &residual).unwrap();
        for with_residual in [false, true] {
            let out = Output::<f32>::new(&gpu, n_tokens * n);
            let added = with_residual.then_some(&*device_residual);
            gpu.experts_combine(&device_parts, &device_weights, added, &out, n_tokens, n, n_used).unwrap();
            let want: Vec<f64> = (0..n_tokens * n)
                .map(|index| {
                    let (token, column) = (index / n, index % n);
                    let slots = token * n_used..(token + 1) * n_used;
                    let sum: f64 = slots.map(|s| f64::from(weights[s]) * f64::from(parts[s * n + column])).sum();
                    sum + if with_residual { f64::from(residual[index]) } else { 0.0 }
                })
                .collect();
            assert_close(&format!("{n_tokens}×{n_used}×{n}"), &out.read(&gpu), &want, 1e-5, 0.0);
        }
    }
}
