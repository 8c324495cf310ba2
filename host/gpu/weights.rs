//! Weights on the device.

use std::ops::Range;

use ::kernels::blocks::Plane;

use super::{Buffer, Slice, SubSlice, kernels::block_format};
use crate::gguf::TensorType;

/// Where the parts of a buffer begin: a multiple of this.
const ALIGNMENT: usize = 256;

/// Matrices over the same input, one above the other: `[n_out][n_in]`, one output's weights contiguous; or stacks of such, a whole
/// stack above the other.
///
/// Neighbours of one type are one [`Part`]; a file may mix types, so there can be several. Floats lie as in the file.
/// Quantised blocks lie in planes, as `kernels/blocks/mod.rs` says, those of a whole part together.
pub struct Weights {
    /// All parts' bytes.
    pub data: Buffer<u8>,
    /// The parts, the first outputs first.
    pub parts: Vec<Part>,
    /// Matrices in the stack: 1, or the number of experts.
    pub n_matrices: usize,
    /// Rows of a matrix.
    pub n_out: usize,
    /// Columns.
    pub n_in: usize,
}

/// Rows of one type.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// How the values are stored.
    pub tensor_type: TensorType,
    /// The part's outputs.
    pub n_out: usize,
    /// Where its bytes begin.
    pub start: usize,
    /// How many there are.
    pub bytes: usize,
}

/// The parts of matrices of these types and numbers of outputs, and the bytes of all.
pub fn parts(matrices: &[(TensorType, usize)], n_in: usize, n_matrices: usize) -> (Vec<Part>, usize) {
    let mut parts: Vec<Part> = Vec::new();
    for &(tensor_type, n_out) in matrices {
        match parts.last_mut() {
            Some(part) if part.tensor_type == tensor_type => part.n_out += n_out,
            _ => parts.push(Part { tensor_type, n_out, start: 0, bytes: 0 }),
        }
    }
    let mut end = 0usize;
    for part in &mut parts {
        let blocks = n_matrices * part.n_out * n_in / part.tensor_type.block_elements() as usize;
        part.start = end.next_multiple_of(ALIGNMENT);
        part.bytes = blocks * part.tensor_type.block_bytes() as usize;
        end = part.start + part.bytes;
    }
    (parts, end)
}

impl Weights {
    /// One matrix, or a stack, of one type, over bytes that are already as this module says.
    pub fn of_one_type(
        data: Buffer<u8>,
        tensor_type: TensorType,
        n_matrices: usize,
        n_out: usize,
        n_in: usize,
    ) -> Weights {
        let (parts, bytes) = parts(&[(tensor_type, n_out)], n_in, n_matrices);
        assert_eq!(data.len(), bytes, "bytes of {n_matrices} matrices of {n_out}×{n_in} in {tensor_type}");
        Weights { data, parts, n_matrices, n_out, n_in }
    }

    /// All rows.
    ///
    /// # Panics
    /// Where they are of several types.
    pub fn all(&self) -> Rows<'_> {
        self.rows(0..self.n_out)
    }

    /// Outputs `range`.
    ///
    /// Of stacks, these are the outputs of one or more whole stacks.
    ///
    /// # Panics
    /// Where they are of several types, or not all there.
    pub fn rows(&self, range: Range<usize>) -> Rows<'_> {
        let mut before = 0;
        for part in &self.parts {
            if range.start >= before && range.end <= before + part.n_out {
                let first = self.n_matrices * (range.start - before);
                return Rows { weights: self, part, first, n_out: range.len() };
            }
            before += part.n_out;
        }
        panic!("outputs {range:?} of {} in {} parts", self.n_out, self.parts.len());
    }

    /// The rows of each part.
    pub fn rows_of_parts(&self) -> impl Iterator<Item = Rows<'_>> {
        self.parts.iter().map(|part| Rows { weights: self, part, first: 0, n_out: part.n_out })
    }
}

/// Neighbouring rows of one type: a matrix on the device.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    weights: &'a Weights,
    part: &'a Part,
    /// The first row, counted from the part's first.
    first: usize,
    /// Rows.
    pub n_out: usize,
}

impl<'a> Rows<'a> {
    /// Columns.
    pub fn n_in(&self) -> usize {
        self.weights.n_in
    }

    /// Matrices in the stack.
    pub fn n_matrices(&self) -> usize {
        self.weights.n_matrices
    }

    /// How the values are stored.
    pub fn tensor_type(&self) -> TensorType {
        self.part.tensor_type
    }

    /// The first row, counted from that of the part.
    pub fn first(&self) -> usize {
        self.first
    }

    /// The rows of the whole part, of all matrices together.
    pub fn rows_of_part(&self) -> usize {
        self.weights.n_matrices * self.part.n_out
    }

    /// The part's bytes, which hold these rows.
    pub fn part(&self) -> SubSlice<'a, u8> {
        let Part { start, bytes, .. } = *self.part;
        self.weights.data.slice(start..start + bytes)
    }

    /// Blocks of the part.
    pub fn blocks_of_part(&self) -> usize {
        self.rows_of_part() * self.blocks_of_row()
    }

    /// Blocks of a row.
    pub fn blocks_of_row(&self) -> usize {
        self.n_in() / self.tensor_type().block_elements() as usize
    }

    /// Bytes of a row in the file.
    pub fn bytes_of_row(&self) -> usize {
        self.blocks_of_row() * self.tensor_type().block_bytes() as usize
    }

    /// The bytes of these rows where the type is a float: `[n_out][n_in]`.
    ///
    /// # Panics
    /// Where it is not.
    pub fn floats(&self) -> SubSlice<'a, u8> {
        assert!(!self.tensor_type().is_quantised(), "rows of {} are not contiguous", self.tensor_type());
        let row = self.bytes_of_row();
        let start = self.part.start + self.first * row;
        self.weights.data.slice(start..start + self.n_out * row)
    }
}

/// A field's place within a part on the device, and where it is in the file's blocks.
struct PlaneOf {
    plane: Plane,
    /// Where the plane begins in the part, in bytes.
    start: usize,
}

fn planes(tensor_type: TensorType, n_blocks: usize) -> impl Iterator<Item = PlaneOf> {
    let mut start = 0;
    block_format(tensor_type).planes.iter().map(move |&plane| {
        let here = start;
        start += n_blocks * plane.size;
        PlaneOf { plane, start: here }
    })
}

/// A file's blocks as the device has them, where they are all of a part.
pub fn arrange(tensor_type: TensorType, blocks: &[u8]) -> Vec<u8> {
    if !tensor_type.is_quantised() {
        return blocks.to_vec();
    }
    let block_bytes = tensor_type.block_bytes() as usize;
    let n_blocks = blocks.len() / block_bytes;
    let mut arranged = vec![0; blocks.len()];
    for PlaneOf { plane: Plane { offset, size, order }, start } in planes(tensor_type, n_blocks) {
        let fields = arranged[start..start + n_blocks * size].chunks_exact_mut(size);
        for (arranged, block) in fields.zip(blocks.chunks_exact(block_bytes)) {
            let field = &block[offset..offset + size];
            for (byte, arranged) in arranged.iter_mut().enumerate() {
                // SAFETY: the field has `size` bytes, of which this is one.
                *arranged = unsafe { order.byte(field.as_ptr(), byte) };
            }
        }
    }
    arranged
}

/// Where a piece of a file's blocks goes: for each field the plane, from the piece's first block on, and the field.
pub fn targets(
    tensor_type: TensorType,
    part: &Slice<u8>,
    blocks: Range<usize>,
) -> impl Iterator<Item = (SubSlice<'_, u8>, Plane)> {
    let n_blocks = part.len() / tensor_type.block_bytes() as usize;
    planes(tensor_type, n_blocks).map(move |PlaneOf { plane, start }| {
        (part.slice(start + blocks.start * plane.size..start + blocks.end * plane.size), plane)
    })
}
