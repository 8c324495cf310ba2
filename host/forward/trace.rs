//! Handing the forward pass's intermediates, which are on the device, to a [`Recorder`] on the host.

use crate::{
    gpu::{Buffer, Gpu, GpuError, Slice},
    trace::{POSITION_PADDING, Recorder},
};

/// Records the first values of `slice`, as many as the shape has, under the name `stem` of a layer or of the model.
pub fn record(
    recorder: &mut Recorder,
    gpu: &Gpu,
    stem: &str,
    layer: Option<usize>,
    slice: &Slice<f32>,
    shape: &[usize],
) -> Result<(), GpuError> {
    if !recorder.is_on() {
        return Ok(());
    }
    let values = gpu.read(&slice.slice(0..shape.iter().product()))?;
    match layer {
        Some(layer) => recorder.layer(stem, layer, shape, &values),
        None => recorder.model(stem, shape, &values),
    }
    Ok(())
}

/// A zeroed buffer for a layer's attention probabilities, `[n_heads][n_tokens][stride]`, and its stride, when recording.
pub fn probabilities(
    recorder: &Recorder,
    gpu: &Gpu,
    n_heads: usize,
    n_tokens: usize,
    n_positions: usize,
) -> Result<Option<(Buffer<f32>, usize)>, GpuError> {
    if !recorder.is_on() {
        return Ok(None);
    }
    let stride = n_positions.next_multiple_of(POSITION_PADDING);
    let buffer = gpu.alloc("attention probabilities", n_heads * n_tokens * stride)?;
    gpu.fill(&buffer, 0)?;
    Ok(Some((buffer, stride)))
}
