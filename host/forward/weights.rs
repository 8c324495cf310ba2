//! A model's weights on the device: the figure's stacks and vectors, in the file's own types.

use crate::{
    gpu::{Buffer, Gpu, GpuError, Rows, SubSlice, Transfer, Weights, parts},
    model::{
        Figure, Model,
        figure::{Matrix, RopeId, Span, Stack, StackId, VectorId},
    },
};

use super::{EngineError, memory::Uses};

/// A model's weights, uploaded once.
pub struct DeviceWeights {
    stacks: Vec<Weights>,
    vectors: Vec<Buffer<f32>>,
    ropes: Vec<DeviceRope>,
}

/// A kind of rotation.
pub struct DeviceRope {
    /// Frequencies `[n_rot/2][2]`, in turns per position, as a high and a low part.
    pub frequencies: Buffer<f32>,
    /// What the rotated values are multiplied by.
    pub magnitude: f32,
}

/// Where matrices come from.
#[derive(Clone, Copy, Debug, Default)]
pub enum MatrixSource {
    /// The file.
    #[default]
    File,
    /// Made on the device, stack by stack, for measurements.
    Made(fn(&Gpu, &Weights) -> Result<(), GpuError>),
}

/// Every allocation that [`DeviceWeights::upload`] makes, in its order.
pub fn uses(model: &Model, uses: &mut Uses) {
    for stack in &model.figure.stacks {
        uses.add("weights", parts(&model.types(stack), stack.n_in, stack.n_matrices).1);
    }
    for vector in &model.figure.vectors {
        uses.add("weights", vector.len() * size_of::<f32>());
    }
    for rope in &model.figure.ropes {
        uses.add("weights", rope.n_rot * size_of::<f32>());
    }
}

impl DeviceWeights {
    /// Allocates and uploads a model; `progress` is told bytes done and bytes in all.
    pub fn upload(
        gpu: &Gpu,
        model: &Model,
        n_context: usize,
        source: MatrixSource,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<DeviceWeights, EngineError> {
        let figure = &model.figure;
        let stacks: Vec<Weights> =
            figure.stacks.iter().map(|stack| allocate(gpu, model, stack)).collect::<Result<_, _>>()?;
        let mut transfers = Vec::new();
        for (stack, weights) in figure.stacks.iter().zip(&stacks) {
            match source {
                MatrixSource::File => transfers.extend(transfers_of(model, stack, weights)),
                MatrixSource::Made(make) => make(gpu, weights)?,
            }
        }
        let mut vectors = Vec::new();
        for vector in &figure.vectors {
            let what = vector.pieces.iter().find_map(|(_, tensor)| *tensor).map_or("zeros", |t| model.view(t).name);
            let buffer: Buffer<f32> = gpu.alloc(what, vector.len())?;
            if vector.pieces.iter().any(|(_, tensor)| tensor.is_none()) {
                gpu.fill(&buffer, 0)?;
            }
            let mut start = 0;
            for &(len, tensor) in &vector.pieces {
                if let Some(tensor) = tensor {
                    // The file's bytes are the device's, both little-endian.
                    transfers.push(Transfer::new(&buffer.slice(start..start + len), model.view(tensor).data));
                }
                start += len;
            }
            vectors.push(buffer);
        }
        let ropes = figure.ropes.iter().map(|rope| {
            let table = rope.table(n_context);
            let frequencies = gpu.upload("RoPE frequencies", &turns(&table.frequencies))?;
            Ok(DeviceRope { frequencies, magnitude: table.magnitude as f32 })
        });
        let ropes = ropes.collect::<Result<_, EngineError>>()?;
        let on_device = DeviceWeights { stacks, vectors, ropes };
        // SAFETY: everything that the transfers go to is in `on_device`.
        unsafe { gpu.upload_all(&transfers, progress)? };
        Ok(on_device)
    }

    /// A stack.
    pub fn stack(&self, stack: StackId) -> &Weights {
        &self.stacks[stack.0]
    }

    /// A matrix's rows.
    pub fn rows(&self, matrix: &Matrix) -> Rows<'_> {
        self.stacks[matrix.stack.0].rows(matrix.rows.clone())
    }

    /// A vector.
    pub fn vector(&self, vector: VectorId) -> &Buffer<f32> {
        &self.vectors[vector.0]
    }

    /// A part of a vector.
    pub fn span(&self, span: &Span) -> SubSlice<'_, f32> {
        self.vectors[span.vector.0].slice(span.range.clone())
    }

    /// A rotation.
    pub fn rope(&self, rope: RopeId) -> &DeviceRope {
        &self.ropes[rope.0]
    }

    /// Every matrix.
    pub fn stacks(&self) -> &[Weights] {
        &self.stacks
    }

    /// The stack that holds the tensor of that name, as the figure has it.
    ///
    /// # Panics
    /// Where there is none.
    pub fn named(&self, figure: &Figure, name: &str) -> &Weights {
        let holds = |stack: &Stack| stack.pieces.iter().any(|piece| figure.tensors[piece.tensor.0].name == name);
        let index = figure.stacks.iter().position(holds).unwrap_or_else(|| panic!("no stack holds {name}"));
        &self.stacks[index]
    }
}

fn allocate(gpu: &Gpu, model: &Model, stack: &Stack) -> Result<Weights, EngineError> {
    let (parts, bytes) = parts(&model.types(stack), stack.n_in, stack.n_matrices);
    let data = gpu.alloc(model.view(stack.pieces[0].tensor).name, bytes)?;
    Ok(Weights { data, parts, n_matrices: stack.n_matrices, n_out: stack.n_out, n_in: stack.n_in })
}

/// From the file's rows to the stack's: whole tensors where a piece is one, else a group of rows at a time.
fn transfers_of<'v>(model: &Model<'v>, stack: &Stack, weights: &Weights) -> Vec<Transfer<'v>> {
    let mut transfers = Vec::new();
    let mut before = 0;
    for piece in &stack.pieces {
        let view = model.view(piece.tensor);
        let rows = weights.rows(before..before + piece.n_rows());
        if piece.n_rows() == view.rows {
            transfers.push(Transfer::of_rows(rows, view.data));
        } else {
            let bytes = view.row_bytes();
            for (matrix, group) in (0..stack.n_matrices).flat_map(|m| (0..piece.n_groups).map(move |group| (m, group)))
            {
                let first = matrix * view.rows + piece.first + group * piece.stride;
                let source = &view.data[first * bytes..][..piece.group * bytes];
                let start = group * piece.group;
                transfers.push(Transfer::of_matrix(rows, matrix, start..start + piece.group, source));
            }
        }
        before += piece.n_rows();
    }
    transfers
}

/// Frequencies in radians per position as turns per position, each the sum of a high and a low `f32`: `[n][2]`.
pub fn turns(radians: &[f64]) -> Vec<f32> {
    let split = |frequency: &f64| {
        let turns = frequency / std::f64::consts::TAU;
        let high = turns as f32;
        [high, (turns - f64::from(high)) as f32]
    };
    radians.iter().flat_map(split).collect()
}
