//! Products with several vectors give each what it gets alone, bit for bit: `gemv.rs` holds that to its definition.

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Activations, Gpu, Slice, Weights,
        kernels::{Gemv, GemvParts, Input, Output as GemvOutput, Staging, quantised_len},
        parts,
    },
};

use crate::{
    blocks::{blocks, quantised},
    support::*,
};

fn matrix(gpu: &Gpu, random: &mut Random, tensor_type: TensorType, n_out: usize, n_in: usize) -> Weights {
    match tensor_type.is_quantised() {
        true => blocks(gpu, random, tensor_type, n_out, n_in).0,
        false => weights(gpu, random, tensor_type, n_out, n_in).0,
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

const ALL: [Activations; 3] = [Activations::Q8, Activations::Q16, Activations::F32];

/// Every type, with every form of activations: numbers of vectors around a group of eight; norm, bias and residual.
#[test]
fn vectors_together_are_what_each_is_alone() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in quantised().chain(FLOATS) {
        let elements = tensor_type.block_elements() as usize;
        // Rows that fill neither the last warp nor the last block; long ones that several warps share, and longer ones that these go through twice;
        // and rows of floats that are no whole vectors.
        let odd = if tensor_type.is_quantised() { elements.max(32) } else { 12 };
        for (n_out, n_in) in [(70, 3 * elements.max(32)), (9, 2048), (19, 33 * 256), (5, odd)] {
            let matrix = matrix(&gpu, &mut random, tensor_type, n_out, n_in);
            let norm = gpu.upload("norm", &random.values(n_in, 2.0)).unwrap();
            let bias = gpu.upload("bias", &random.values(n_out, 3.0)).unwrap();
            let staging = Staging::new(&gpu, 17, n_in).unwrap();
            for (index, activations) in ALL.into_iter().enumerate() {
                if !tensor_type.is_quantised() && activations != Activations::Q8 {
                    continue;
                }
                for (n, with_norm) in [(2, index % 2 == 0), (9, index % 2 == 1), (17, true)] {
                    if n == 17 && (n_out > 9 || activations == Activations::F32) {
                        continue;
                    }
                    let x = gpu.upload("x", &random.values(n * n_in, 3.0)).unwrap();
                    let residual = gpu.upload("residual", &random.values(n * n_out, 9.0)).unwrap();
                    let gemv = |x: &Slice<f32>, residual: &Slice<f32>, out: &Slice<f32>, many: Option<usize>| {
                        let gemv = Gemv {
                            norm: with_norm.then_some((&*norm, 1e-5)),
                            bias: Some(&bias),
                            residual: (!with_norm).then_some(residual),
                            ..Gemv::new(matrix.all(), x, out).activations(activations)
                        };
                        match many {
                            Some(n) => gpu.gemv_many(&gemv, n, &staging).unwrap(),
                            None => gpu.gemv(&gemv).unwrap(),
                        }
                    };
                    let out = Output::new(&gpu, n * n_out);
                    gemv(&x, &residual, &out, Some(n));
                    for (vector, together) in out.read(&gpu).chunks(n_out).enumerate() {
                        let outputs = vector * n_out..(vector + 1) * n_out;
                        let alone = Output::new(&gpu, n_out);
                        let one = x.slice(vector * n_in..(vector + 1) * n_in);
                        gemv(&one, &residual.slice(outputs), &alone, None);
                        let what = format!("{tensor_type} {n_out}×{n_in} {activations:?}: vector {vector} of {n}");
                        assert!(bits(together) == bits(&alone.read(&gpu)), "{what} differs from itself alone");
                    }
                }
            }
        }
    }
}

/// SwiGLU, whose outputs the next product takes as 8-bit integers.
#[test]
fn swiglu_and_quantised_vectors_together() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_embd, n_ff, n) = (256, 512, 3);
    for tensor_type in [TensorType::Q4_K, TensorType::Q8_0, TensorType::F16] {
        let gate_up = matrix(&gpu, &mut random, tensor_type, 2 * n_ff, n_embd);
        let down = matrix(&gpu, &mut random, tensor_type, n_embd, n_ff);
        let x = gpu.upload("x", &random.values(n * n_embd, 2.0)).unwrap();
        let norm = gpu.upload("norm", &random.values(n_embd, 1.0)).unwrap();
        let staging = Staging::new(&gpu, n, n_ff).unwrap();
        let passes = |x: &Slice<f32>, n: usize, many: bool| -> Vec<f32> {
            let products = |gemv: &Gemv| match many {
                true => gpu.gemv_many(gemv, n, &staging).unwrap(),
                false => gpu.gemv(gemv).unwrap(),
            };
            let out = Output::<f32>::new(&gpu, n * n_embd);
            let unused = gpu.alloc::<f32>("nothing", 4).unwrap();
            let norm = Some((&*norm, 1e-5));
            if tensor_type.is_quantised() {
                let hidden = Output::<u32>::new(&gpu, n * quantised_len(n_ff));
                let gemv = Gemv::new(gate_up.all(), x, &unused);
                products(&Gemv { norm, swiglu: true, out: GemvOutput::Quantised(&hidden), ..gemv });
                products(&Gemv { x: Input::Quantised(&hidden), ..Gemv::new(down.all(), x, &out) });
                hidden.read(&gpu);
            } else {
                let hidden = Output::<f32>::new(&gpu, n * n_ff);
                products(&Gemv { norm, swiglu: true, ..Gemv::new(gate_up.all(), x, &hidden) });
                products(&Gemv::new(down.all(), &hidden, &out));
                hidden.read(&gpu);
            }
            out.read(&gpu)
        };
        for (vector, together) in passes(&x, n, true).chunks(n_embd).enumerate() {
            let alone = passes(&x.slice(vector * n_embd..(vector + 1) * n_embd), 1, false);
            assert!(bits(together) == bits(&alone), "{tensor_type}: vector {vector} differs from itself alone");
        }
    }
}

/// Queries, keys and values of one, two and three formats, which one launch takes together with a vector alone, or does not.
#[test]
fn parts_of_several_formats_together() {
    let gpu = gpu();
    let mut random = Random::new();
    let (n_in, n) = (1024, 4);
    let mixes: [&[(TensorType, usize)]; 5] = [
        &[(TensorType::Q4_K, 96)],
        &[(TensorType::Q4_K, 64), (TensorType::Q6_K, 32)],
        &[(TensorType::Q5_0, 64), (TensorType::Q8_0, 32)],
        &[(TensorType::Q4_K, 64), (TensorType::F16, 32)],
        &[(TensorType::F16, 20), (TensorType::Q4_0, 30), (TensorType::F32, 10)],
    ];
    for mix in mixes {
        let (layout, bytes) = parts(mix, n_in, 1);
        let n_out = mix.iter().map(|(_, rows)| rows).sum();
        let data = gpu.alloc::<u8>("weights", bytes).unwrap();
        gpu.fill(&data, 0).unwrap();
        let matrices: Vec<Weights> =
            mix.iter().map(|(tensor_type, rows)| matrix(&gpu, &mut random, *tensor_type, *rows, n_in)).collect();
        let weights = Weights { data, parts: layout, n_matrices: 1, n_out, n_in };
        for (part, matrix) in weights.rows_of_parts().zip(&matrices) {
            let bytes = gpu.read(&matrix.data).unwrap();
            gpu.write(&part.part(), &bytes).unwrap();
        }
        let staging = Staging::new(&gpu, n, n_in).unwrap();
        let x = gpu.upload("x", &random.values(n * n_in, 2.0)).unwrap();
        let (norm, bias) = (random.values(n_in, 1.0), random.values(n_out, 1.0));
        let (norm, bias) = (gpu.upload("norm", &norm).unwrap(), gpu.upload("bias", &bias).unwrap());
        for activations in ALL {
            let run = |x: &Slice<f32>, n: usize| {
                let out = Output::new(&gpu, n * n_out);
                let (norm, bias) = (Some((&*norm, 1e-5)), Some(&*bias));
                let parts = GemvParts { weights: &weights, x, norm, bias, out: &out, activations };
                gpu.gemv_parts_many(&parts, n, &staging).unwrap();
                out.read(&gpu)
            };
            for (vector, together) in run(&x, n).chunks(n_out).enumerate() {
                let alone = run(&x.slice(vector * n_in..(vector + 1) * n_in), 1);
                assert!(bits(together) == bits(&alone), "{mix:?} {activations:?}: vector {vector} differs");
            }
        }
    }
}
