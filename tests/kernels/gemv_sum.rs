//! A token's products with its experts, added up in one launch: by definition, and bit for bit what a product for each expert and their
//! weighted sum behind it are, which `gemv.rs` and `experts.rs` hold to their definitions.

use ferrowarp::{
    gguf::TensorType,
    gpu::{
        Gpu, Slice, Weights,
        kernels::{Experts, Gemv, GemvSum, Input, Output as GemvOutput, quantised_len},
    },
};

use crate::{blocks::blocks, support::*};

/// Experts, of which a token uses some, and the shape of their matrices.
#[derive(Clone, Copy, Debug)]
struct Shape {
    n_experts: usize,
    n_used: usize,
    n_tokens: usize,
    n_out: usize,
    n_in: usize,
}

/// A stack of experts on the device, and its values.
fn stack(
    gpu: &Gpu,
    random: &mut Random,
    tensor_type: TensorType,
    n_experts: usize,
    rows: [usize; 2],
) -> (Weights, Vec<f64>) {
    let [n_out, n_in] = rows;
    let (weights, values) = match tensor_type.is_quantised() {
        true => {
            let (weights, values) = blocks(gpu, random, tensor_type, n_experts * n_out, n_in);
            (weights, as_f64(&values))
        }
        false => weights(gpu, random, tensor_type, n_experts * n_out, n_in),
    };
    (Weights::of_one_type(weights.data, tensor_type, n_experts, n_out, n_in), values)
}

/// Vectors as SwiGLU leaves them in 8 bits: what they are then.
fn dequantised(words: &[u32], n_in: usize) -> Vec<f64> {
    let vector = |words: &[u32]| -> Vec<f64> {
        let (integers, scales) = words.split_at(n_in / 4);
        let bytes = integers.iter().flat_map(|word| word.to_le_bytes()).enumerate();
        bytes.map(|(i, q)| f64::from(q.cast_signed()) * f64::from(f32::from_bits(scales[i / 16 * 2]))).collect()
    };
    words.chunks_exact(quantised_len(n_in)).flat_map(vector).collect()
}

/// The experts' SwiGLU of random tokens, as the sum takes it and in f32: the down projections read what gate and up projections leave.
struct Hidden<'a> {
    quantised: Option<Output<u32>>,
    floats: Output<f32>,
    values: Vec<f64>,
    chosen: &'a Slice<u32>,
}

impl<'a> Hidden<'a> {
    fn new(gpu: &Gpu, random: &mut Random, quantise: bool, shape: Shape, chosen: &'a Slice<u32>) -> Hidden<'a> {
        const N_EMBD: usize = 64;
        let Shape { n_experts, n_used, n_tokens, n_in, .. } = shape;
        let n_pairs = n_tokens * n_used;
        let (gate_up, _) = stack(gpu, random, TensorType::Q8_0, n_experts, [2 * n_in, N_EMBD]);
        let x = gpu.upload("x", &random.values(n_tokens * N_EMBD, 2.0)).unwrap();
        let floats = Output::<f32>::new(gpu, n_pairs * n_in);
        let experts = Some(Experts { chosen, n_vectors: n_pairs, share: n_used });
        let swiglu = Gemv { swiglu: true, experts, ..Gemv::new(gate_up.all(), &x, &floats) };
        gpu.gemv(&swiglu).unwrap();
        let values = as_f64(&floats.read(gpu));
        if !quantise {
            return Hidden { quantised: None, floats, values, chosen };
        }
        let quantised = Output::<u32>::new(gpu, n_pairs * quantised_len(n_in));
        gpu.gemv(&Gemv { out: GemvOutput::Quantised(&quantised), ..swiglu }).unwrap();
        let values = dequantised(&quantised.read(gpu), n_in);
        Hidden { quantised: Some(quantised), floats, values, chosen }
    }

    fn input(&self) -> Input<'_> {
        self.quantised.as_ref().map_or(Input::F32(&self.floats), |words| Input::Quantised(words))
    }
}

/// Every type that mixtures have: one expert, fewer than a block's warps, as many, and more, so that a warp has several; rows that fill neither the last warp nor
/// the last block, and long ones.
#[test]
fn experts_are_added_up_as_their_products_and_the_sum_alone_would_be() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in TensorType::ALL.iter().copied().filter(|tensor_type| Gpu::has_gemv_sum(*tensor_type, 256, 1)) {
        let run = (tensor_type.block_elements() as usize).max(32);
        let shape = |n_experts, n_used, n_tokens, n_out, n_in| Shape { n_experts, n_used, n_tokens, n_out, n_in };
        let shapes = [
            shape(2, 1, 1, 5, run),
            shape(5, 2, 2, 70, 3 * run),
            shape(9, 8, 3, 30, run),
            shape(12, 10, 1, 9, run),
            shape(20, 17, 2, 6, run),
            shape(3, 2, 1, 9, 8448),
        ];
        for shape in shapes {
            let Shape { n_experts, n_used, n_tokens, n_out, n_in } = shape;
            let n_pairs = n_tokens * n_used;
            let experts = random.indices(n_pairs, n_experts);
            let chosen = gpu.upload("experts", &experts).unwrap();
            let hidden = Hidden::new(&gpu, &mut random, tensor_type.is_quantised(), shape, &chosen);
            let (down, exact) = stack(&gpu, &mut random, tensor_type, n_experts, [n_out, n_in]);
            let (shares, stream) = (random.values(n_pairs, 1.0), random.values(n_tokens * n_out, 3.0));
            let weights = gpu.upload("weights", &shares).unwrap();
            for with_residual in [false, true] {
                let what = format!("{tensor_type} {shape:?} residual {with_residual}");
                // The stream in place, as in a pass that has no other room for it.
                let out = Output::<f32>::new(&gpu, n_tokens * n_out);
                if with_residual {
                    gpu.write(&out.slice(0..stream.len()), &stream).unwrap();
                }
                let residual = with_residual.then_some(&**out);
                let (stack, x, experts_of) = (down.all(), hidden.input(), hidden.chosen);
                let sum = GemvSum { stack, x, experts: experts_of, weights: &weights, residual, out: &out, n_used };
                gpu.gemv_sum(&sum, n_tokens).unwrap();
                let got = out.read(&gpu);

                let parts = Output::<f32>::new(&gpu, n_pairs * n_out);
                let each = Experts { chosen: &chosen, n_vectors: n_pairs, share: 1 };
                gpu.gemv(&Gemv { experts: Some(each), ..Gemv::new(stack, &hidden.floats, &parts) }).unwrap();
                let apart = Output::<f32>::new(&gpu, n_tokens * n_out);
                let before = gpu.upload("stream", &stream).unwrap();
                let residual = with_residual.then_some(&*before);
                gpu.experts_combine(&parts, &weights, residual, &apart, n_tokens, n_out, n_used).unwrap();
                let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
                assert!(bits(&got) == bits(&apart.read(&gpu)), "{what}: differs from the launches apart");

                for (index, got) in got.iter().enumerate() {
                    let (token, row) = (index / n_out, index % n_out);
                    let added = if with_residual { f64::from(stream[index]) } else { 0.0 };
                    let (mut want, mut size) = (added, added.abs());
                    for pair in token * n_used..(token + 1) * n_used {
                        let row = &exact[(experts[pair] as usize * n_out + row) * n_in..][..n_in];
                        let products = row.iter().zip(&hidden.values[pair * n_in..]);
                        let (sum, of_sizes) =
                            products.map(|(w, x)| w * x).fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                        want += f64::from(shares[pair]) * sum;
                        size += f64::from(shares[pair]).abs() * of_sizes;
                    }
                    let error = (f64::from(*got) - want).abs();
                    assert!(error <= 8e-6 * size + 1e-6, "{what}: output {index}: got {got}, want {want}");
                }
            }
        }
    }
}
