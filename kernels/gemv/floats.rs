//! Products with weights in f32, f16 and bf16: each value converted, multiplied and added in `f32`.

use core::marker::PhantomData;

use cuda_std::{
    float,
    memory::{global, load_streaming_16, prefetch_l2},
    types::Element,
};

use super::{
    Dot, Operands,
    activations::{F32, InGlobal, Staged, four},
};

/// Where four activations come from.
pub trait Source: Copy {
    /// The activations.
    type Staged: Staged;

    /// Activations `index` to `index + 3`, a multiple of four.
    unsafe fn four(staged: Self::Staged, index: u32) -> [f32; 4];
}

/// From global memory: those that need no norm are read as they are, from the L1 cache.
#[derive(Clone, Copy)]
pub struct FromGlobal;

/// From shared memory.
#[derive(Clone, Copy)]
pub struct FromShared;

impl Source for FromGlobal {
    type Staged = InGlobal;

    #[inline(always)]
    unsafe fn four(staged: InGlobal, index: u32) -> [f32; 4] {
        unsafe { four(staged.0.add(index as usize)) }
    }
}

impl Source for FromShared {
    type Staged = F32;

    #[inline(always)]
    unsafe fn four(staged: F32, index: u32) -> [f32; 4] {
        unsafe { staged.0.get_four(index) }.map(f32::from_bits)
    }
}

/// Rows of whole 16-byte vectors; a chunk is one.
#[derive(Clone, Copy)]
pub struct Vectors<T, S> {
    rows: *const T,
    source: PhantomData<S>,
}

impl<T: Element, S: Source> Dot for Vectors<T, S> {
    const CHUNK: u32 = T::PER_VECTOR as u32;
    const AHEAD: bool = true;
    type Bits = [u32; 4];
    type X = [[f32; 4]; 2];
    type Activations = S::Staged;

    #[inline(always)]
    unsafe fn new(operands: &Operands) -> Self {
        Vectors { rows: global(operands.weights.cast()), source: PhantomData }
    }

    #[inline(always)]
    unsafe fn load(self, chunk: u32) -> [u32; 4] {
        unsafe { load_streaming_16(self.rows.cast::<[u8; 16]>().add(chunk as usize)) }
    }

    #[inline(always)]
    unsafe fn prefetch(self, chunk: u32) {
        unsafe { prefetch_l2(self.rows.cast::<[u8; 16]>().add(chunk as usize)) }
    }

    #[inline(always)]
    unsafe fn x(activations: S::Staged, chunk: u32) -> [[f32; 4]; 2] {
        let index = chunk * Self::CHUNK;
        let first = unsafe { S::four(activations, index) };
        [first, if Self::CHUNK > 4 { unsafe { S::four(activations, index + 4) } } else { first }]
    }

    #[inline(always)]
    fn dot(bits: [u32; 4], x: &[[f32; 4]; 2], sum: f32) -> f32 {
        let values = T::all_of_vector(bits);
        let (mut sum, mut index) = (sum, 0);
        while index < T::PER_VECTOR {
            sum = float::fma(values[index], x[index / 4][index % 4], sum);
            index += 1;
        }
        sum
    }
}

/// Rows of any length, whose starts may not be aligned; a chunk is one value.
#[derive(Clone, Copy)]
pub struct Scalars<T>(*const T);

impl<T: Element> Dot for Scalars<T> {
    const CHUNK: u32 = 1;
    const AHEAD: bool = false;
    type Bits = f32;
    type X = f32;
    type Activations = F32;

    #[inline(always)]
    unsafe fn new(operands: &Operands) -> Self {
        Scalars(operands.weights.cast())
    }

    #[inline(always)]
    unsafe fn load(self, chunk: u32) -> f32 {
        unsafe { (*self.0.add(chunk as usize)).load() }
    }

    #[inline(always)]
    unsafe fn prefetch(self, _chunk: u32) {}

    #[inline(always)]
    unsafe fn x(activations: F32, chunk: u32) -> f32 {
        f32::from_bits(unsafe { activations.0.get(chunk) })
    }

    #[inline(always)]
    fn dot(bits: f32, x: &f32, sum: f32) -> f32 {
        float::fma(bits, *x, sum)
    }
}
