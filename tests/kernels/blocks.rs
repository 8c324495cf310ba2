//! Every quantised type: rows, conversions and products against the host's dequantiser, whose bits are ggml's.

use ferrowarp::{
    gguf::TensorType,
    gpu::{Activations, Gpu, Matmul, Weights, arrange, kernels::block_format},
    quant::{Scale, dequantise, scale},
};
use half::f16;

use crate::support::*;

pub fn quantised() -> impl Iterator<Item = TensorType> {
    TensorType::ALL.iter().copied().filter(|tensor_type| tensor_type.is_quantised())
}

/// Blocks of random bits on the device, and their values. The scales are made ordinary numbers (random bits would hold
/// infinities and NaN); everything else of a block is as random as it can be.
pub fn blocks(
    gpu: &Gpu,
    random: &mut Random,
    tensor_type: TensorType,
    n_out: usize,
    n_in: usize,
) -> (Weights, Vec<f32>) {
    let block_bytes = tensor_type.block_bytes() as usize;
    let n_blocks = n_out * n_in / tensor_type.block_elements() as usize;
    let mut bytes: Vec<u8> = (0..n_blocks * block_bytes).map(|_| random.bits() as u8).collect();
    for block in bytes.chunks_mut(block_bytes) {
        let mut half = || f16::from_f32(0.01 + 0.01 * random.value()).to_bits();
        let mut set = |at: usize| block[at..at + 2].copy_from_slice(&half().to_le_bytes());
        match scale(tensor_type) {
            Scale::None => panic!("{tensor_type} has no blocks"),
            Scale::Half { at, .. } => set(at),
            Scale::Halves { at, second, .. } => [at, second].into_iter().for_each(set),
            Scale::Pieces { at, .. } => {
                let bits = half();
                for piece in 0..4 {
                    let byte = &mut block[at + 2 * piece + 1];
                    *byte = *byte & 15 | ((bits >> (4 * piece) & 15) as u8) << 4;
                }
            }
            Scale::Bytes { at, n, nearest, .. } => {
                let byte = nearest(0.03);
                block[at..at + n].iter_mut().for_each(|scale| *scale = byte + random.below(5) as u8);
            }
        }
    }
    let mut values = vec![0.0; n_out * n_in];
    dequantise(tensor_type, &bytes, &mut values);
    (packed(gpu, tensor_type, &bytes, 1, n_out, n_in), values)
}

#[test]
fn every_quantised_type_has_its_kernels_and_no_others_have() {
    let mut with_kernels: Vec<u32> = kernels::blocks::FORMATS.iter().map(|format| format.tensor_type).collect();
    let mut types: Vec<u32> = quantised().map(TensorType::id).collect();
    with_kernels.sort_unstable();
    types.sort_unstable();
    assert_eq!(with_kernels, types);
}

#[test]
fn fields_are_taken_out_of_a_files_blocks_and_no_byte_is_lost() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in quantised() {
        let block = tensor_type.block_bytes() as usize;
        let mut fields: Vec<usize> =
            block_format(tensor_type).planes.iter().flat_map(|plane| plane.offset..plane.offset + plane.size).collect();
        fields.sort_unstable();
        assert_eq!(fields, (0..block).collect::<Vec<_>>(), "{tensor_type}: each byte of a block is in one field");

        // In two pieces, as loading does it.
        let bytes: Vec<u8> = (0..7 * block).map(|_| random.bits() as u8).collect();
        let part = Output::<u8>::new(&gpu, bytes.len());
        let place = part.slice(0..bytes.len());
        for (first, piece) in [(0, &bytes[..3 * block]), (3, &bytes[3 * block..])] {
            gpu.arrange(tensor_type, &gpu.upload("blocks", piece).unwrap(), &place, first).unwrap();
        }
        assert_eq!(part.read(&gpu), arrange(tensor_type, &bytes), "{tensor_type}");
    }
}

#[test]
fn a_range_of_rows_is_unpacked_alone() {
    let gpu = gpu();
    let mut random = Random::new();
    let (weights, values) = blocks(&gpu, &mut random, TensorType::Q6_K, 6, 512);
    let out = Output::<f16>::new(&gpu, 3 * 512);
    gpu.dequantise(weights.rows(2..5), &out).unwrap();
    let want: Vec<f16> = values[2 * 512..5 * 512].iter().map(|value| f16::from_f32(*value)).collect();
    assert_eq!(out.read(&gpu), want);
}

#[test]
fn embedding_rows_of_blocks_have_ggmls_bits() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in quantised() {
        let (n_vocab, n_embd) = (5, 3 * tensor_type.block_elements() as usize);
        let (table, values) = blocks(&gpu, &mut random, tensor_type, n_vocab, n_embd);
        let tokens = [4, 0, 2];
        let out = Output::<f32>::new(&gpu, tokens.len() * n_embd);
        gpu.embedding(table.all(), &gpu.upload("tokens", &tokens).unwrap(), &out, tokens.len()).unwrap();
        let want = tokens.iter().flat_map(|token| &values[*token as usize * n_embd..][..n_embd]);
        for (index, (got, want)) in out.read(&gpu).iter().zip(want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "{tensor_type} value {index}: got {got}, want {want}");
        }
    }
}

#[test]
fn blocks_are_unpacked_to_the_nearest_f16() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in quantised() {
        // Enough for a second thread block, which is then not full.
        let (n_out, n_in) =
            (5, tensor_type.block_elements() as usize * if tensor_type.block_elements() > 32 { 1 } else { 9 });
        let (weights, values) = blocks(&gpu, &mut random, tensor_type, n_out, n_in);
        let out = Output::<f16>::new(&gpu, n_out * n_in);
        gpu.dequantise(weights.all(), &out).unwrap();
        for (index, (got, want)) in out.read(&gpu).iter().zip(&values).enumerate() {
            assert_eq!(
                got.to_bits(),
                f16::from_f32(*want).to_bits(),
                "{tensor_type} value {index}: got {got}, want {want}"
            );
        }
    }
}

#[test]
fn products_with_blocks_agree_with_their_definition() {
    let gpu = gpu();
    let mut random = Random::new();
    for tensor_type in quantised() {
        let elements = tensor_type.block_elements() as usize;
        for (n_out, n_in) in [(5, elements), (6, 896usize.next_multiple_of(elements)), (9, 7 * elements)] {
            let (matrix, values) = blocks(&gpu, &mut random, tensor_type, n_out, n_in);
            let n_tokens = 3;
            let x = random.values(n_tokens * n_in, 2.0);
            let (bias, residual) = (random.values(n_out, 30.0), random.values(n_tokens * n_out, 100.0));
            let device_x = gpu.upload("x", &x).unwrap();
            let device_bias = gpu.upload("bias", &bias).unwrap();
            let device_residual = gpu.upload("residual", &residual).unwrap();
            let scratch = Matmul::new(&gpu, n_tokens, n_in, n_out * n_in, Activations::F32).unwrap();
            for n_tokens in [1, n_tokens] {
                let out = Output::new(&gpu, n_tokens * n_out);
                gpu.matmul(
                    &scratch,
                    matrix.all(),
                    &device_x,
                    Some(&device_bias),
                    Some(&device_residual),
                    &out,
                    n_tokens,
                )
                .unwrap();
                // One token: f32 throughout. Several: weights and activations rounded to 11 bits each.
                let precision = if n_tokens == 1 { 2f64.powi(-19) } else { 2f64.powi(-10) };
                for (index, got) in out.read(&gpu).iter().enumerate() {
                    let (token, row) = (index / n_out, index % n_out);
                    let products =
                        (0..n_in).map(|i| f64::from(values[row * n_in + i]) * f64::from(x[token * n_in + i]));
                    let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                    let want = sum + f64::from(bias[row]) + f64::from(residual[index]);
                    let error = (f64::from(*got) - want).abs();
                    assert!(
                        error <= precision * size + 3e-5,
                        "{tensor_type} {n_tokens}×{n_out}×{n_in} [{token}][{row}]: got {got}, want {want}"
                    );
                }
            }
        }
    }
}
