//! What a phase computes: from its kind to a function, and from its record to that function's operands.

use core::ptr::{null, null_mut};

use cuda_std::{BF16, F16, grid, thread, types::Element};

use super::{BLOCK, Part};
use crate::{
    argmax::{self, argmax_part},
    attention_decode::{
        self, Attend, CacheWords, LANES_HEADS, TENSOR_HEADS, attention_decode_part, lanes::Lanes, tensor::Tensor,
    },
    blocks::{self, Block, Integers},
    embedding::embed,
    gemv::{
        Dot, Ends, Operands, Turns,
        floats::{FromGlobal, FromShared, Scalars, Vectors},
        gemv_part,
    },
    swiglu::silu,
};

impl Part {
    /// As a block of those that take turns over a product's outputs.
    #[inline(always)]
    fn turns(self) -> Turns {
        let grid::Block { x, n_x, .. } = self.block_along_x();
        Turns { block: x, n_blocks: n_x, first: 0 }
    }

    /// A product's operands, in the order of its kernel's parameters.
    #[inline(always)]
    fn product(self) -> Operands {
        Operands {
            weights: self.pointer(0),
            n_blocks: self.word(1),
            first_row: self.word(2),
            x: self.pointer(3),
            quantised_x: self.pointer(4),
            norm: self.pointer(5),
            epsilon: self.float(6),
            // As they are wanted: below.
            bias: null(),
            residual: null(),
            out: null_mut(),
            quantised_out: null_mut(),
            // Of one matrix and one vector.
            experts: null(),
            n_in: self.word(12),
            n_out: self.word(13),
            to_up: self.word(14),
            share: 1,
            split: self.word(16),
        }
    }
}

impl Ends for Part {
    #[inline(always)]
    fn bias(self) -> *const f32 {
        self.pointer(7)
    }

    #[inline(always)]
    fn residual(self) -> *const f32 {
        self.pointer(8)
    }

    #[inline(always)]
    fn out(self) -> *mut f32 {
        self.pointer(9)
    }

    #[inline(always)]
    fn quantised_out(self) -> *mut u32 {
        self.pointer(10)
    }

    #[inline(always)]
    fn split(self) -> u32 {
        self.word(16)
    }
}

/// A product that loads a step's weights when it is done with the step before, for formats whose chunks are so many registers that
/// two steps' do not fit: what it loads was brought into the L2 cache before.
#[derive(Clone, Copy)]
struct InTurn<D>(D);

impl<D: Dot> Dot for InTurn<D> {
    const CHUNK: u32 = D::CHUNK;
    const AHEAD: bool = false;
    type Bits = D::Bits;
    type X = D::X;
    type Activations = D::Activations;

    #[inline(always)]
    unsafe fn new(operands: &Operands) -> Self {
        InTurn(unsafe { D::new(operands) })
    }

    #[inline(always)]
    unsafe fn load(self, chunk: u32) -> D::Bits {
        unsafe { self.0.load(chunk) }
    }

    #[inline(always)]
    unsafe fn prefetch(self, chunk: u32) {
        unsafe { self.0.prefetch(chunk) }
    }

    #[inline(always)]
    unsafe fn stage(operands: &Operands, x: *const f32) -> (D::Activations, f32) {
        unsafe { D::stage(operands, x) }
    }

    #[inline(always)]
    unsafe fn x(activations: D::Activations, chunk: u32) -> D::X {
        unsafe { D::x(activations, chunk) }
    }

    #[inline(always)]
    fn dot(bits: D::Bits, x: &D::X, sum: f32) -> f32 {
        D::dot(bits, x, sum)
    }
}

#[inline(never)]
unsafe fn product<D: Dot>(record: u32, index: u32, counter: *mut u32) {
    let part = Part::new(record, index, counter);
    unsafe { gemv_part::<D>(&part.product(), part, part.turns(), 0, || part.wait()) }
}

#[inline(never)]
unsafe fn product_of_floats<T: Element>(record: u32, index: u32, counter: *mut u32) {
    let part = Part::new(record, index, counter);
    let (operands, turns) = (part.product(), part.turns());
    unsafe {
        if !operands.n_in.is_multiple_of(T::PER_VECTOR as u32) {
            gemv_part::<Scalars<T>>(&operands, part, turns, 0, || part.wait())
        } else if operands.norm.is_null() {
            gemv_part::<Vectors<T, FromGlobal>>(&operands, part, turns, 0, || part.wait())
        } else {
            gemv_part::<Vectors<T, FromShared>>(&operands, part, turns, 0, || part.wait())
        }
    }
}

#[inline(never)]
unsafe fn row_of_floats<T: Element>(record: u32, index: u32, counter: *mut u32) {
    let part = Part::new(record, index, counter);
    part.wait();
    unsafe { embed::<T>(part.pointer(0), part.pointer(1), part.pointer(2), part.word(3), index) }
}

#[inline(never)]
unsafe fn row_of_blocks<B: Block>(record: u32, index: u32, counter: *mut u32) {
    let part = Part::new(record, index, counter);
    part.wait();
    let (table, tokens, out) = (part.pointer(0), part.pointer(2), part.pointer(3));
    unsafe { blocks::embedding::<B>(table, part.word(1), tokens, out, part.word(4), index) }
}

#[inline(never)]
unsafe fn swiglu(record: u32, index: u32, counter: *mut u32) {
    let part = Part::new(record, index, counter);
    part.wait();
    let (gate, up, out) = (part.pointer::<f32>(0), part.pointer::<f32>(1), part.pointer::<f32>(2));
    let (at, n) = (index * BLOCK + thread::thread_idx_x(), part.word(3));
    if at < n {
        let at = at as usize;
        unsafe { *out.add(at) = silu(*gate.add(at)) * *up.add(at) }
    }
}

#[inline(never)]
unsafe fn greedy(record: u32, index: u32, counter: *mut u32) {
    let part = Part::new(record, index, counter);
    let operands = argmax::Operands {
        logits: part.pointer(0),
        out: part.pointer(1),
        parts: part.pointer(2),
        arrivals: part.pointer(3),
        position: part.pointer(4),
        n: part.word(5),
        stride: part.word(6),
    };
    let last = unsafe { argmax_part(operands, part.block_along_x(), || part.wait()) };
    if last && thread::thread_idx_x() == 0 {
        unsafe { cuda_std::atomic::store_relaxed(counter, 0) }
    }
}

#[inline(never)]
unsafe fn attention<T: CacheWords, A: Attend<T>, const HEAD_DIM: usize, const HEADS: usize>(
    record: u32,
    index: u32,
    counter: *mut u32,
) {
    let part = Part::new(record, index, counter);
    let operands = || attention_decode::Operands {
        qkv: part.pointer(0),
        position: part.pointer(1),
        frequencies: part.pointer(2),
        q_norm: part.pointer(3),
        k_norm: part.pointer(4),
        keys: part.pointer(5),
        values: part.pointer(6),
        out: part.pointer(7),
        quantised_out: part.pointer(8),
        parts: part.pointer(9),
        arrivals: part.pointer(10),
        epsilon: part.float(11),
        scale: part.float(12),
        magnitude: part.float(13),
        n_kv_heads: part.word(14),
        group: part.word(15),
        n_context: part.word(16),
        window: part.word(17),
        n_rot: part.word(18),
        neighbours: part.word(19),
    };
    unsafe { attention_decode_part::<T, A, HEAD_DIM, HEADS>(operands, part.block(), || part.wait()) }
}

macro_rules! kinds {
    (
        $($kernel:literal => $kind:literal: $function:expr;)*
    ) => {
        /// Runs a part of a phase of this kind.
        #[inline(always)]
        pub unsafe fn run(kind: u32, record: u32, index: u32, counter: *mut u32) {
            unsafe {
                match kind {
                    $($kind => $function(record, index, counter),)*
                    // The host knows no others.
                    _ => {}
                }
            }
        }

        /// What stands in a record for the phase that this kernel computes; none for one that cannot be a phase.
        #[cfg(not(target_arch = "nvptx64"))]
        pub fn kind_of(kernel: &str) -> Option<u32> {
            match kernel {
                $($kernel => Some($kind),)*
                _ => None,
            }
        }

        #[cfg(test)]
        const NAMES: &[(&str, u32)] = &[$(($kernel, $kind)),*];
    };
}

kinds! {
    "argmax" => 1: greedy;
    "swiglu" => 2: swiglu;
    "embedding_f32" => 3: row_of_floats::<f32>;
    "embedding_f16" => 4: row_of_floats::<F16>;
    "embedding_bf16" => 5: row_of_floats::<BF16>;
    "gemv_f32" => 6: product_of_floats::<f32>;
    "gemv_f16" => 7: product_of_floats::<F16>;
    "gemv_bf16" => 8: product_of_floats::<BF16>;
    "embedding_q4_0" => 9: row_of_blocks::<blocks::q4::Q4_0>;
    "embedding_q4_1" => 10: row_of_blocks::<blocks::q4::Q4_1>;
    "embedding_q5_0" => 11: row_of_blocks::<blocks::q5::Q5_0>;
    "embedding_q5_1" => 12: row_of_blocks::<blocks::q5::Q5_1>;
    "embedding_q8_0" => 13: row_of_blocks::<blocks::q8::Q8_0>;
    "embedding_q2_k" => 14: row_of_blocks::<blocks::q2_k::Q2K>;
    "embedding_q3_k" => 15: row_of_blocks::<blocks::q3_k::Q3K>;
    "embedding_q4_k" => 16: row_of_blocks::<blocks::q4_k::Q4K>;
    "embedding_q5_k" => 17: row_of_blocks::<blocks::q5_k::Q5K>;
    "embedding_q6_k" => 18: row_of_blocks::<blocks::q6_k::Q6K>;
    "embedding_iq4_nl" => 19: row_of_blocks::<blocks::iq4::Iq4Nl>;
    "embedding_iq4_xs" => 20: row_of_blocks::<blocks::iq4::Iq4Xs>;
    "embedding_mxfp4" => 21: row_of_blocks::<blocks::mxfp4::Mxfp4>;
    "gemv_q4_0" => 22: product::<Integers<blocks::q4::Q4_0>>;
    "gemv_q4_1" => 23: product::<Integers<blocks::q4::Q4_1>>;
    "gemv_q5_0" => 24: product::<Integers<blocks::q5::Q5_0>>;
    "gemv_q5_1" => 25: product::<Integers<blocks::q5::Q5_1>>;
    "gemv_q8_0" => 26: product::<Integers<blocks::q8::Q8_0>>;
    "gemv_q2_k" => 27: product::<Integers<blocks::q2_k::Q2K>>;
    "gemv_q3_k" => 28: product::<Integers<blocks::q3_k::Q3K>>;
    "gemv_q4_k" => 29: product::<InTurn<Integers<blocks::q4_k::Q4K>>>;
    "gemv_q5_k" => 30: product::<Integers<blocks::q5_k::Q5K>>;
    "gemv_q6_k" => 31: product::<Integers<blocks::q6_k::Q6K>>;
    "gemv_iq4_nl" => 32: product::<Integers<blocks::iq4::Iq4Nl>>;
    "gemv_iq4_xs" => 33: product::<Integers<blocks::iq4::Iq4Xs>>;
    "gemv_mxfp4" => 34: product::<Integers<blocks::mxfp4::Mxfp4>>;
    "attention_decode_f16_64" => 35: attention::<F16, Tensor<F16, 64>, 64, TENSOR_HEADS>;
    "attention_decode_f16_80" => 36: attention::<F16, Tensor<F16, 80>, 80, TENSOR_HEADS>;
    "attention_decode_f16_96" => 37: attention::<F16, Tensor<F16, 96>, 96, TENSOR_HEADS>;
    "attention_decode_f16_128" => 38: attention::<F16, Tensor<F16, 128>, 128, TENSOR_HEADS>;
    "attention_decode_f16_256" => 39: attention::<F16, Lanes<F16, 256, 4>, 256, LANES_HEADS>;
    "attention_decode_bf16_64" => 40: attention::<BF16, Tensor<BF16, 64>, 64, TENSOR_HEADS>;
    "attention_decode_bf16_80" => 41: attention::<BF16, Tensor<BF16, 80>, 80, TENSOR_HEADS>;
    "attention_decode_bf16_96" => 42: attention::<BF16, Tensor<BF16, 96>, 96, TENSOR_HEADS>;
    "attention_decode_bf16_128" => 43: attention::<BF16, Tensor<BF16, 128>, 128, TENSOR_HEADS>;
    "attention_decode_bf16_256" => 44: attention::<BF16, Lanes<BF16, 256, 4>, 256, LANES_HEADS>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_its_phases() {
        let kernels: Vec<&str> = crate::all().map(|kernel| kernel.name).collect();
        for (name, kind) in NAMES {
            assert!(kernels.contains(name), "{name} is no kernel");
            assert_eq!(NAMES.iter().filter(|(_, other)| other == kind).count(), 1, "kind {kind} is there twice");
        }
        for format in blocks::FORMATS {
            for name in [format.gemv.name(), format.embedding.name()] {
                assert!(kind_of(name).is_some(), "{name} is no phase");
            }
        }
    }
}
