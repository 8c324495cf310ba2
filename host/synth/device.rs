//! Random matrices made on the device, as those of the files are: random bits, and scales that give the values their size.

use half::{bf16, f16};

use super::matrix_deviation;
use crate::{
    gguf::TensorType,
    gpu::{
        Gpu, GpuError, Slice, Weights,
        kernels::{Strided, block_format},
    },
    quant::{Scale, scale},
};

/// Gives the matrices random values of mean 0 and the given standard deviation.
///
/// # Errors
/// The device failed.
pub fn fill_on_device(gpu: &Gpu, weights: &Weights, deviation: f64, stream: u32) -> Result<(), GpuError> {
    for (rows, stream) in weights.rows_of_parts().zip(stream..) {
        fill_part(gpu, &rows.part(), rows.tensor_type(), deviation, stream)?;
    }
    Ok(())
}

/// What an engine makes matrices of that no file has: each stack by a random stream of its own, by where it lies.
///
/// # Errors
/// The device failed.
pub fn random_matrices(gpu: &Gpu, weights: &Weights) -> Result<(), GpuError> {
    let stream = (weights.data.address() >> 8) as u32;
    fill_on_device(gpu, weights, matrix_deviation(weights.n_in as u64), stream)
}

fn fill_part(
    gpu: &Gpu,
    part: &Slice<u8>,
    tensor_type: TensorType,
    deviation: f64,
    stream: u32,
) -> Result<(), GpuError> {
    // Evenly distributed values reach √3 deviations.
    let spread = (deviation * 3f64.sqrt()) as f32;
    match tensor_type {
        TensorType::F32 => return gpu.noise_floats(&part.cast::<f32>(), 0.0, spread, stream),
        TensorType::F16 => return gpu.noise_floats(&part.cast::<f16>(), 0.0, spread, stream),
        TensorType::BF16 => return gpu.noise_floats(&part.cast::<bf16>(), 0.0, spread, stream),
        _ => {}
    }
    gpu.noise_bits(part, stream)?;
    let half = |at, scale: f64| gpu.noise_scales(part, places(part, tensor_type, at), scale as f32, stream);
    match scale(tensor_type) {
        Scale::None => unreachable!("floats are above"),
        // The device has the pieces of a half together, where the first of them is in a file.
        Scale::Half { deviation: of_one, at } | Scale::Pieces { deviation: of_one, at } => half(at, deviation / of_one),
        Scale::Halves { deviation: of_one, at, second, ratio } => {
            half(at, deviation / of_one)?;
            half(second, deviation / of_one * ratio)
        }
        Scale::Bytes { deviation: of_one, at, n, nearest } => (at..at + n)
            .try_for_each(|at| gpu.noise_exponents(part, places(part, tensor_type, at), nearest(deviation / of_one))),
    }
}

/// Where what a file's blocks have at byte `at` is in a part: the same place in each field of one plane.
fn places(part: &Slice<u8>, tensor_type: TensorType, at: usize) -> Strided {
    let n = part.len() / tensor_type.block_bytes() as usize;
    let mut start = 0;
    for plane in block_format(tensor_type).planes {
        if (plane.offset..plane.offset + plane.size).contains(&at) {
            return Strided { first: start + at - plane.offset, stride: plane.size, n };
        }
        start += n * plane.size;
    }
    panic!("no field of {tensor_type} has byte {at}")
}
