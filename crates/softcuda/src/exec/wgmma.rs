//! `wgmma`: products of a group of four warps, of matrices in shared memory.
//!
//! Each warp computes its own 16 of the 64 rows, when the instruction is executed.
//!
//! A matrix in shared memory is named by a descriptor: where it begins, the distances `leading` and `stride`, and how pieces
//! of 16 bytes are swizzled. Its elements lie (PTX ISA, "Strides"):
//!
//! - contiguous along K, not swizzled: 8 rows of 16 bytes one after another; the next 16 bytes of K `leading` further, the
//!   next 8 rows `stride` further;
//! - contiguous along K, swizzled in spans of S bytes: rows S bytes apart, the next 8 rows `stride` further;
//! - contiguous along M or N, in spans of S bytes, or 16 where they are not swizzled: 8 rows of K one after another; then, if
//!   swizzled, the next span `leading` and the next 8 of K `stride` further, else the other way round.

use super::Context;
use super::matrix::{Bits, Fragment, Kind, product, value_of, whole_warp};
use crate::fault::FaultKind;
use crate::program::{Control, Instruction, Reg};
use crate::sanitizer::Touch;
use crate::space::{Kind as Access, Space};

/// Rows of D that a warp has.
const ROWS: usize = 16;

#[derive(Clone, Debug)]
pub(crate) enum Left {
    Registers(Fragment),
    /// The register with the descriptor, and whether the matrix is contiguous along M.
    Shared(Reg, bool),
}

#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) d: Fragment,
    pub(crate) a: Left,
    pub(crate) a_kind: Kind,
    pub(crate) b: Reg,
    pub(crate) b_kind: Kind,
    /// B is contiguous along N.
    pub(crate) b_transposed: bool,
    /// Predicate, negated or not: D is added to, rather than overwritten.
    pub(crate) accumulates: (u32, bool),
    pub(crate) negate_a: bool,
    pub(crate) negate_b: bool,
    pub(crate) saturates: bool,
}

/// A matrix in shared memory.
struct Descriptor {
    start: u64,
    leading: u64,
    stride: u64,
    base: u64,
    /// Bytes of a swizzled span; 16 for none.
    span: u64,
}

impl Descriptor {
    fn new(bits: u64) -> Descriptor {
        let field = |at: u32| (bits >> at & 0x3fff) << 4;
        let span = [16, 128, 64, 32][(bits >> 62) as usize];
        Descriptor { start: field(0), leading: field(16), stride: field(32), base: bits >> 49 & 7, span }
    }

    /// Where an element lies: `row` along M or N, `k`, in bytes of `size`.
    fn offset(&self, row: u64, k: u64, size: u64, transposed: bool) -> u64 {
        let (span, swizzled) = (self.span, self.span > 16);
        let offset = if transposed {
            let along = row * size;
            let (inner, outer) = (along % span, along / span);
            let (outer_step, k_step) = if swizzled { (self.leading, self.stride) } else { (self.stride, self.leading) };
            inner + outer * outer_step + k % 8 * span + k / 8 * k_step
        } else {
            let along = k * size;
            let (inner, outer) = if swizzled { (along, 0) } else { (along % 16, along / 16) };
            row % 8 * span + row / 8 * self.stride + inner + outer * self.leading
        };
        let address = self.start + offset;
        // Pieces of 16 bytes change places by the number of their 128 bytes.
        let bits = span / 16 - 1;
        address ^ ((address >> 7).wrapping_sub(self.base) & bits) << 4
    }
}

/// Reads rows of a matrix in shared memory to f64, `[row][k]`.
fn fetch(
    ctx: &mut Context,
    ins: &Instruction,
    descriptor: u64,
    rows: std::ops::Range<usize>,
    k: usize,
    kind: Kind,
    transposed: bool,
) -> Result<Vec<f64>, Control> {
    let descriptor = Descriptor::new(descriptor);
    let bits = kind.bits();
    let size = (bits / 8).max(1) as u64;
    let columns = if bits < 8 { k * bits / 8 } else { k };
    let limit = ctx.facts.shared_bytes as u64;
    let start = ctx.block.shared.as_ptr() as *const u8;
    let mut out = Vec::with_capacity(rows.len() * k);
    let mut pieces = Vec::new();
    for row in rows {
        for column in 0..columns {
            let offset = descriptor.offset(row as u64, column as u64, size, transposed);
            if offset + size > limit {
                let message = format!(
                    "wgmma reads {size} bytes at offset {offset:#x} of shared memory, past the {limit} bytes of the block"
                );
                return Err(ctx.fail(ins, u32::MAX, FaultKind::OutOfBounds, message));
            }
            if pieces.last() != Some(&(offset / 16)) {
                pieces.push(offset / 16);
            }
            let mut raw = [0u8; 8];
            // SAFETY: the element lies in the block's shared memory.
            unsafe { std::ptr::copy_nonoverlapping(start.add(offset as usize), raw.as_mut_ptr(), size as usize) };
            let raw = u64::from_le_bytes(raw);
            let ones = u64::MAX >> (64 - bits);
            (0..(8 / bits).max(1)).for_each(|part| out.push(value_of(kind, raw >> (part * bits) & ones)));
        }
    }
    if let Some(mut sanitizer) = ctx.sanitizer.take() {
        pieces.sort_unstable();
        pieces.dedup();
        let site = ctx.site();
        let touch = Touch {
            space: Space::Shared,
            kind: Access::Load,
            strong: false,
            acquire: false,
            release: false,
            block_scope: false,
            asynchronous: false,
            bytes: 16,
            allocation: usize::MAX,
        };
        let verdict = pieces
            .iter()
            .filter(|&&piece| 16 * piece + 16 <= limit)
            .try_for_each(|piece| sanitizer.touch(site, 1, &[16 * piece; 32], touch));
        ctx.sanitizer = Some(sanitizer);
        verdict.or_else(|(lane, fault)| ctx.report(ins, 1 << lane, fault))?;
    }
    Ok(out)
}

pub(super) fn multiply(ctx: &mut Context, ins: &Instruction, mask: u32, group: &Group) -> Control {
    if let Err(control) = whole_warp(ctx, ins, mask, "wgmma") {
        return control;
    }
    let (n, k) = (group.n, group.k);
    let first = ctx.warp.index as usize % 4 * ROWS;
    let left = match &group.a {
        Left::Registers(a) => {
            let mut out = vec![0f64; ROWS * k];
            let packed = 32 / group.a_kind.bits();
            for lane in 0..32 {
                for index in 0..a.count() {
                    let (r, inner) = (index / packed, index % packed);
                    let row = lane / 4 + 8 * (r & 1);
                    let column = lane % 4 * packed + 4 * packed * (r >> 1) + inner;
                    out[row * k + column] = a.value(ctx, lane, index);
                }
            }
            out
        }
        &Left::Shared(reg, transposed) => {
            let descriptor = ctx.lanes::<u64>(reg)[0];
            ctx.counters.shared_load_bytes += (ROWS * k * group.a_kind.bits() / 8) as u64;
            match fetch(ctx, ins, descriptor, first..first + ROWS, k, group.a_kind, transposed) {
                Ok(left) => left,
                Err(control) => return control,
            }
        }
    };
    let descriptor = ctx.lanes::<u64>(group.b)[0];
    // The four warps read it together.
    ctx.counters.shared_load_bytes += (n * k * group.b_kind.bits() / 8 / 4) as u64;
    let right = match fetch(ctx, ins, descriptor, 0..n, k, group.b_kind, group.b_transposed) {
        Ok(right) => right,
        Err(control) => return control,
    };
    let (predicate, negated) = group.accumulates;
    let accumulates = (ctx.predicate(predicate) & 1 != 0) != negated;
    let sign = if group.negate_a != group.negate_b { -1.0 } else { 1.0 };
    for lane in 0..32 {
        for index in 0..group.d.count() {
            let row = lane / 4 + 8 * (index / 2 % 2);
            let column = lane % 4 * 2 + index % 2 + index / 4 * 8;
            let mut sum = if accumulates { group.d.value(ctx, lane, index) } else { 0.0 };
            for at in 0..k {
                sum = product(sum, sign * left[row * k + at], right[column * k + at], group.a_kind, Bits::And);
            }
            group.d.set(ctx, lane, index, sum, group.saturates);
        }
    }
    Control::Next
}
