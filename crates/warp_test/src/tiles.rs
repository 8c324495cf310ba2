//! Tensor maps over buffers, for kernels that copy tiles.

use std::marker::PhantomData;

use bytemuck::Pod;
use cuda_std::tensor_map::{self, Descriptor, Swizzle};
use cuda_std::{Argument, Packed};
use half::{bf16, f16};

use crate::Buffer;

/// How a tensor lies in a buffer, and the tiles of it that one copy moves: what `cuTensorMapEncodeTiled` is told. Of everything the
/// innermost dimension is the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tiles {
    pub(crate) sizes: Vec<u64>,
    pub(crate) strides: Option<Vec<u64>>,
    pub(crate) tile: Vec<u32>,
    pub(crate) steps: Option<Vec<u32>>,
    pub(crate) swizzle: Swizzle,
    pub(crate) fill_nan: bool,
}

impl Tiles {
    /// A tensor of `sizes` elements along each of its one to five dimensions, its rows one behind the other, in tiles of `tile`
    /// elements (1 to 256 along a dimension, a row of a multiple of 16 bytes).
    pub fn new(sizes: &[u64], tile: &[u32]) -> Tiles {
        Tiles {
            sizes: sizes.to_vec(),
            strides: None,
            tile: tile.to_vec(),
            steps: None,
            swizzle: Swizzle::None,
            fill_nan: false,
        }
    }

    /// With so many elements from one index to the next along each dimension but the innermost, where each is next to the one before:
    /// multiples of 16 bytes.
    pub fn strides(self, elements: &[u64]) -> Tiles {
        Tiles { strides: Some(elements.to_vec()), ..self }
    }

    /// Of a tile's elements every how many is taken along each dimension, 1 to 8: of `tile` elements with a step of 2 there are half as
    /// many. Along the innermost dimension each is.
    pub fn steps(self, steps: &[u32]) -> Tiles {
        Tiles { steps: Some(steps.to_vec()), ..self }
    }

    /// With pieces of 16 bytes that change places in shared memory; a row of a tile has at most the span's bytes.
    pub fn swizzle(self, swizzle: Swizzle) -> Tiles {
        Tiles { swizzle, ..self }
    }

    /// With NaN for floats that lie outside of the tensor, rather than 0.
    pub fn fill_nan(self) -> Tiles {
        Tiles { fill_nan: true, ..self }
    }

    /// Elements from one index to the next along each dimension but the innermost.
    fn distances(&self) -> Vec<u64> {
        self.strides.clone().unwrap_or_else(|| {
            let products = self.sizes.iter().scan(1u64, |product, size| {
                *product = product.saturating_mul(*size);
                Some(*product)
            });
            products.take(self.sizes.len().saturating_sub(1)).collect()
        })
    }

    /// Bytes from one index to the next along each dimension but the innermost.
    pub(crate) fn byte_strides(&self, element: usize) -> Vec<u64> {
        self.distances().into_iter().map(|stride| stride.saturating_mul(element as u64)).collect()
    }

    /// Elements from the tensor's first to behind its last.
    fn extent(&self) -> u64 {
        let distances = [1].into_iter().chain(self.distances());
        let last = self.sizes.iter().zip(distances).map(|(size, stride)| size.saturating_sub(1).saturating_mul(stride));
        last.fold(1, u64::saturating_add)
    }

    pub(crate) fn all_steps(&self) -> Vec<u32> {
        self.steps.clone().unwrap_or_else(|| vec![1; self.tile.len()])
    }
}

/// A type of a tensor's elements.
pub trait TileElement: Pod {
    /// Its number in CUDA's `CUtensorMapDataType`.
    const NUMBER: u32;
}

macro_rules! elements {
    ($($element:ty: $number:literal;)*) => {$(
        impl TileElement for $element {
            const NUMBER: u32 = $number;
        }
    )*};
}

elements! {
    u8: 0;
    u16: 1;
    u32: 2;
    i32: 3;
    u64: 4;
    i64: 5;
    f16: 6;
    f32: 7;
    f64: 8;
    bf16: 9;
}

/// A tensor in a buffer, described for a kernel's copies: an argument for a parameter `TensorMap`. The buffer outlives it.
#[derive(Clone, Copy, Debug)]
pub struct TensorMap<'b> {
    descriptor: Descriptor,
    buffer: PhantomData<&'b ()>,
}

impl<T: TileElement> Buffer<T> {
    /// Describes the buffer's first elements as a tensor.
    ///
    /// # Panics
    /// The tensor does not fit the buffer, or the driver refuses the tiles.
    #[track_caller]
    pub fn tensor_map(&self, tiles: &Tiles) -> TensorMap<'_> {
        let (extent, len) = (tiles.extent(), self.len());
        assert!(extent <= len as u64, "a tensor of {extent} elements, from first to last, in a buffer of {len}");
        TensorMap { descriptor: self.describe(tiles, T::NUMBER), buffer: PhantomData }
    }
}

impl TensorMap<'_> {
    /// The 128 bytes, for a kernel that takes maps from a buffer: `device.upload(&[a.descriptor(), b.descriptor()])`. They hold the
    /// tensor's address, so its buffer must be there when the kernel runs.
    pub fn descriptor(&self) -> Descriptor {
        self.descriptor
    }
}

impl Argument<tensor_map::TensorMap> for &TensorMap<'_> {
    fn write(self, packed: &mut Packed) {
        packed.push_map(self.descriptor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_and_extents_follow_from_sizes() {
        let tiles = Tiles::new(&[12, 5, 3], &[4, 1, 1]);
        assert_eq!((tiles.byte_strides(4), tiles.extent()), (vec![48, 240], 180));
        let spaced = tiles.strides(&[16, 100]);
        assert_eq!((spaced.byte_strides(2), spaced.extent()), (vec![32, 200], 200 + 64 + 12));
        assert_eq!((Tiles::new(&[7], &[4]).byte_strides(8), Tiles::new(&[7], &[4]).extent()), (vec![], 7));
    }
}
