//! Matrices for products on tensor cores: those that are not f16 in the file are unpacked into rooms ahead of their product, but where
//! a few sequences' tokens are decoded: those multiply weights as they are, packed or floats of 16 bits.

use half::f16;

use super::{
    DeviceWeights,
    lower::{Launch, Pass, Step},
    memory::Uses,
};
use crate::{
    gguf::TensorType,
    gpu::{
        Buffer, Event, Gpu, GpuError, Product, Slice, SubSlice, Weights,
        kernels::{Gemm, GemmScratch, Glu, Order},
    },
    model::{Model, figure::StackId},
};

/// The rooms, and in which order they are used.
pub struct Rooms {
    rooms: Vec<Room>,
    /// The stacks of each room's products, in the order of the pass.
    stacks: Vec<Vec<StackId>>,
    /// The most tokens that are multiplied with weights as they are.
    pub most_packed: usize,
}

/// Room for one matrix in f16, and where the streams are with it.
struct Room {
    /// The largest of those that are not f16 in the file.
    values: Buffer<f16>,
    /// The side stream has filled it.
    filled: Event,
    /// The main stream has multiplied it.
    done: Event,
}

/// The stacks of each room's products, in order.
fn stacks(pass: &Pass) -> Vec<Vec<StackId>> {
    let mut stacks: Vec<Vec<StackId>> = Vec::new();
    for step in &pass.steps {
        if let Launch::Product { stack, room, .. } = step.launch {
            stacks.resize_with(stacks.len().max(room + 1), Vec::new);
            stacks[room].push(stack);
        }
    }
    stacks
}

/// Elements of a room: the largest stack that is not f16.
fn elements(model: &Model, stacks: &[StackId]) -> usize {
    let is_packed = |stack: &&StackId| {
        let types = model.types(model.figure.stack(**stack));
        types.iter().any(|(tensor_type, _)| *tensor_type != types[0].0 || *tensor_type != TensorType::F16)
    };
    let elements = stacks.iter().filter(is_packed).map(|stack| {
        let stack = model.figure.stack(*stack);
        stack.n_out * stack.n_in
    });
    elements.max().unwrap_or(0)
}

impl Rooms {
    /// Every allocation that [`Rooms::new`] makes, in its order.
    pub fn uses(model: &Model, pass: &Pass, uses: &mut Uses) {
        for stacks in stacks(pass) {
            uses.add("unpacked weights", size_of::<f16>() * elements(model, &stacks));
        }
    }

    /// Allocates them.
    pub fn new(gpu: &Gpu, model: &Model, pass: &Pass) -> Result<Rooms, GpuError> {
        let stacks = stacks(pass);
        let rooms = stacks.iter().map(|stacks| {
            let values = gpu.alloc("an unpacked matrix", elements(model, stacks))?;
            Ok(Room { values, filled: gpu.event()?, done: gpu.event()? })
        });
        let rooms = rooms.collect::<Result<_, GpuError>>()?;
        let matrices: Vec<_> = stacks
            .iter()
            .flatten()
            .map(|stack| model.figure.stack(*stack))
            .flat_map(|stack| {
                let types = model.types(stack).into_iter();
                types.map(|(tensor_type, _)| (tensor_type, [stack.n_out, stack.n_in]))
            })
            .collect();
        let most_packed = gpu.most_gemm_tokens(matrices.into_iter())?;
        Ok(Rooms { rooms, stacks, most_packed })
    }

    /// All stacks that are multiplied in f16.
    pub fn all_stacks(&self) -> impl Iterator<Item = StackId> + Clone {
        self.stacks.iter().flatten().copied()
    }

    /// The largest room.
    pub fn largest(&self) -> &Slice<f16> {
        let rooms = self.rooms.iter().map(|room| &*room.values);
        rooms.max_by_key(|values| values.len()).expect("a pass for many tokens has products")
    }

    /// Begins to fill each room with the first matrix that it is for behind these steps of the pass.
    pub fn begin(&self, gpu: &Gpu, weights: &DeviceWeights, packed: bool, before: &[Step]) -> Result<(), GpuError> {
        (0..self.rooms.len()).try_for_each(|room| {
            let is_done = |step: &&Step| matches!(step.launch, Launch::Product { room: of, .. } if of == room);
            self.fill(gpu, weights, room, before.iter().filter(is_done).count(), packed)
        })
    }

    /// Whether few tokens need none of the rooms.
    pub fn multiplies_packed(&self, weights: &DeviceWeights) -> bool {
        self.all_stacks().all(|stack| {
            let stack = weights.stack(stack);
            in_f16(stack).is_some() || is_packed(stack)
        })
    }

    /// Begins to unpack a room's next matrix, where there is one and that is needed.
    fn fill(&self, gpu: &Gpu, weights: &DeviceWeights, room: usize, next: usize, packed: bool) -> Result<(), GpuError> {
        let Some(stack) = self.stacks[room].get(next).map(|stack| weights.stack(*stack)) else { return Ok(()) };
        if in_f16(stack).is_some() || packed && is_packed(stack) {
            return Ok(());
        }
        let room = &self.rooms[room];
        gpu.on_side_stream(|| {
            gpu.wait(&room.done)?;
            let mut before = 0;
            for rows in stack.rows_of_parts() {
                let n = rows.n_out * rows.n_in();
                let out = room.values.slice(before..before + n);
                match rows.tensor_type() {
                    TensorType::F16 => gpu.range_to_f16_f16(&rows.floats().cast(), &out, 1.0, n)?,
                    TensorType::BF16 => gpu.range_to_f16_bf16(&rows.floats().cast(), &out, 1.0, n)?,
                    _ => gpu.dequantise(rows, &out)?,
                }
                before += n;
            }
            gpu.record(&room.filled)
        })
    }

    /// Enqueues the product for `n` tokens, with weights as they are where there is scratch for that and they can be; then the room is filled with its next
    /// matrix.
    pub fn multiply(
        &self,
        gpu: &Gpu,
        weights: &DeviceWeights,
        product: &RoomProduct,
        n: usize,
        packed: Option<&GemmScratch>,
    ) -> Result<(), GpuError> {
        let RoomProduct { stack, room, x, bias, out, adds, .. } = *product;
        let matrix = weights.stack(stack);
        match packed {
            Some(scratch) if is_packed(matrix) => product.multiply_packed(gpu, matrix, n, scratch)?,
            _ => {
                let alpha = product.out_scale / product.x_scale;
                if let Some(values) = in_f16(matrix) {
                    gpu.product(&values, matrix.n_out, matrix.n_in, x, out, alpha, adds, n)?;
                } else {
                    let room = &self.rooms[room];
                    gpu.wait(&room.filled)?;
                    gpu.product(&room.values, matrix.n_out, matrix.n_in, x, out, alpha, adds, n)?;
                    gpu.record(&room.done)?;
                }
                if let (Some(bias), Product::F32(out)) = (bias, out) {
                    gpu.matmul_epilogue(out, None, Some(bias), None, out, n, matrix.n_out)?;
                }
                product.make_unit(gpu, matrix, n)?;
            }
        }
        let present = self.stacks[room].iter().position(|of| *of == stack).expect("a product of the pass");
        self.fill(gpu, weights, room, present + 1, packed.is_some())
    }
}

/// A product of a pass: out = out_scale ÷ x_scale · stack · x + bias (+ out).
#[derive(Clone, Copy)]
pub struct RoomProduct<'a> {
    /// The matrix.
    pub stack: StackId,
    /// The room that it is unpacked into.
    pub room: usize,
    /// `[n][n_in]`.
    pub x: &'a Slice<f16>,
    /// What x was multiplied by.
    pub x_scale: f32,
    /// What is added to each row's outputs, which are f32.
    pub bias: Option<&'a Slice<f32>>,
    /// `[n][n_out]`.
    pub out: Product<'a>,
    /// What outputs are multiplied by.
    pub out_scale: f32,
    /// Whether they are added to what is there.
    pub adds: bool,
    /// Where SwiGLU of gates and up projections goes, `[n][n_out / 2]`, and what it is multiplied by: then only this is wanted, and the product in f16.
    pub swiglu: Option<(&'a Slice<f16>, f32)>,
    /// How x lies, and how what SwiGLU makes will: in rows where weights are unpacked.
    pub orders: [Order; 2],
}

impl RoomProduct<'_> {
    /// Enqueues it with weights as they are.
    fn multiply_packed(&self, gpu: &Gpu, matrix: &Weights, n: usize, scratch: &GemmScratch) -> Result<(), GpuError> {
        let orders = [self.orders[0], Order::Rows];
        let of = |rows, out, alpha| Gemm { out_stride: matrix.n_out, alpha, orders, ..Gemm::new(rows, self.x, out) };
        if let (Some((unit, scale)), [_]) = (self.swiglu, matrix.parts.as_slice()) {
            let gemm = of(matrix.all(), Product::F16(unit), self.x_scale.recip());
            let gemm = Gemm { out_stride: matrix.n_out / 2, swiglu: Some(scale), orders: self.orders, ..gemm };
            return gpu.gemm(&gemm, n, scratch);
        }
        let mut before = 0;
        let parts: Vec<_> = matrix
            .rows_of_parts()
            .map(|rows| {
                let (out_f32, out_f16) = match self.out {
                    Product::F32(out) => (Some(out.slice(before..out.len())), None),
                    Product::F16(out) => (None, Some(out.slice(before..out.len()))),
                };
                let bias = self.bias.map(|bias| bias.slice(before..before + rows.n_out));
                before += rows.n_out;
                (rows, out_f32, out_f16, bias)
            })
            .collect();
        let gemms = parts.iter().map(|(rows, out_f32, out_f16, bias)| {
            let out = match (out_f32, out_f16) {
                (Some(out), _) => Product::F32(out),
                (_, out) => Product::F16(out.as_ref().expect("one of the two")),
            };
            let gemm = of(*rows, out, self.out_scale / self.x_scale);
            Gemm { bias: bias.as_deref(), adds: self.adds, ..gemm }
        });
        gpu.gemm_of_parts(&gemms.collect::<Vec<_>>(), n, scratch)?;
        self.make_unit(gpu, matrix, n)
    }

    /// Enqueues the unit of gates and up projections that are there, where it is wanted.
    fn make_unit(&self, gpu: &Gpu, matrix: &Weights, n: usize) -> Result<(), GpuError> {
        let (Some((unit, scale)), Product::F16(gate_up)) = (self.swiglu, self.out) else { return Ok(()) };
        gpu.glu_f16(Glu::Swiglu, gate_up, unit, n, matrix.n_out / 2, self.out_scale.recip(), scale)
    }
}

/// Whether a few tokens can be multiplied with the matrix as it is.
pub(super) fn is_packed(weights: &Weights) -> bool {
    weights.parts.iter().all(|part| Gpu::has_gemm(part.tensor_type, weights.n_in))
}

/// The matrix where the file has it as f16.
fn in_f16(weights: &Weights) -> Option<SubSlice<'_, f16>> {
    match weights.parts.as_slice() {
        [part] if part.tensor_type == TensorType::F16 => Some(weights.all().floats().into_cast()),
        _ => None,
    }
}
