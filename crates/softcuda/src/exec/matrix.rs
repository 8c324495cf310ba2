//! Matrix products whose fragments are read by a table of positions: `wmma`, `wgmma`, and the shapes of `mma` that
//! [`super::tensor`] has no loop for.
//!
//! Values are taken to f64, where products and sums of every type here are exact or rounded far below the result's last bit;
//! the sum is rounded once. Products of f64 are fused with their additions.

use super::memory::resolve;
use super::{Context, FULL};
use crate::fault::FaultKind;
use crate::minifloat::{E2M1, E2M3, E3M2, E4M3, E5M2};
use crate::numeric::{canonical, canonical64, from_bfloat, from_half, to_half};
use crate::program::{Control, Instruction, Reg};
use crate::space::Kind as Access;

/// The type of a matrix' elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    F16,
    Bf16,
    Tf32,
    F32,
    F64,
    E4m3,
    E5m2,
    E2m3,
    E3m2,
    E2m1,
    S8,
    U8,
    S4,
    U4,
    B1,
    S32,
}

impl Kind {
    pub(crate) fn parse(word: &str) -> Option<Kind> {
        Some(match word {
            "f16" => Kind::F16,
            "bf16" => Kind::Bf16,
            "tf32" => Kind::Tf32,
            "f32" => Kind::F32,
            "f64" => Kind::F64,
            "e4m3" => Kind::E4m3,
            "e5m2" => Kind::E5m2,
            "e2m3" => Kind::E2m3,
            "e3m2" => Kind::E3m2,
            "e2m1" => Kind::E2m1,
            "s8" => Kind::S8,
            "u8" => Kind::U8,
            "s4" => Kind::S4,
            "u4" => Kind::U4,
            "b1" => Kind::B1,
            "s32" => Kind::S32,
            _ => return None,
        })
    }

    /// Bits that an element has in a fragment and in memory.
    pub(crate) fn bits(self) -> usize {
        match self {
            Kind::F64 => 64,
            Kind::F32 | Kind::S32 | Kind::Tf32 => 32,
            Kind::F16 | Kind::Bf16 => 16,
            Kind::S4 | Kind::U4 => 4,
            Kind::B1 => 1,
            _ => 8,
        }
    }

    fn value(self, raw: u64) -> f64 {
        match self {
            Kind::F16 => from_half(raw as u16) as f64,
            Kind::Bf16 => from_bfloat(raw as u16) as f64,
            // The hardware looks at the upper 19 bits only.
            Kind::Tf32 => f32::from_bits(raw as u32 & 0xffff_e000) as f64,
            Kind::F32 => f32::from_bits(raw as u32) as f64,
            Kind::F64 => f64::from_bits(raw),
            Kind::E4m3 => E4M3.decode(raw as u32),
            Kind::E5m2 => E5M2.decode(raw as u32),
            // The formats of 6 and 4 bits have a byte each.
            Kind::E2m3 => E2M3.decode(raw as u32 & 0x3f),
            Kind::E3m2 => E3M2.decode(raw as u32 & 0x3f),
            Kind::E2m1 => E2M1.decode(raw as u32 >> 2 & 0xf),
            Kind::S8 => raw as u8 as i8 as f64,
            Kind::U8 => raw as u8 as f64,
            Kind::S4 => ((raw as i8) << 4 >> 4) as f64,
            Kind::U4 => (raw & 15) as f64,
            Kind::B1 => (raw & 1) as f64,
            Kind::S32 => raw as u32 as i32 as f64,
        }
    }

    fn raw(self, sum: f64, saturates: bool) -> u64 {
        match self {
            Kind::F16 => to_half(sum as f32) as u64,
            Kind::F64 => canonical64(sum).to_bits(),
            Kind::S32 if saturates => (sum as i32) as u32 as u64,
            Kind::S32 => (sum as i64) as u32 as u64,
            _ => canonical(sum as f32).to_bits() as u64,
        }
    }
}

/// A matrix in the registers of a warp.
#[derive(Clone, Debug)]
pub(crate) struct Fragment {
    pub(crate) regs: Vec<Reg>,
    pub(crate) kind: Kind,
}

impl Fragment {
    /// Elements in a register, which has 64 bits for f64 and 32 else.
    fn packed(&self) -> usize {
        self.kind.bits().max(32) / self.kind.bits()
    }

    fn elements(&self) -> usize {
        self.regs.len() * self.packed()
    }

    fn raw(&self, ctx: &Context, lane: usize, index: usize) -> u64 {
        let (reg, bits) = (self.regs[index / self.packed()], self.kind.bits());
        match self.kind {
            Kind::F64 => ctx.lanes::<u64>(reg)[lane],
            _ => (ctx.lanes::<u32>(reg)[lane] >> (index % self.packed() * bits)) as u64 & ((1u64 << bits) - 1),
        }
    }

    fn set_raw(&self, ctx: &mut Context, lane: usize, index: usize, raw: u64) {
        let (reg, bits) = (self.regs[index / self.packed()], self.kind.bits());
        match self.kind {
            Kind::F64 => ctx.lanes_mut::<u64>(reg)[lane] = raw,
            _ => {
                let (shift, ones) = (index % self.packed() * bits, ((1u64 << bits) - 1) as u32);
                let slot = &mut ctx.lanes_mut::<u32>(reg)[lane];
                *slot = *slot & !(ones << shift) | (raw as u32 & ones) << shift;
            }
        }
    }
}

/// Which matrix of D = A B + C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    A,
    B,
    /// C and D.
    Sum,
}

/// How lanes share a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As the PTX ISA says for `mma`.
    Mma,
    /// Unspecified by the ISA. Here: as in `mma` for 16 by 16 of f16 and for 16 by 16 sums, else row by row.
    Wmma,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// Row and column of an element of a lane.
fn position(
    layout: Layout,
    role: Role,
    shape: Shape,
    fragment: &Fragment,
    lane: usize,
    index: usize,
) -> (usize, usize) {
    let (group, member) = (lane / 4, lane % 4);
    let Shape { m, n, k } = shape;
    let packed = fragment.packed();
    // The place within a register, and the register.
    let (inner, r) = (index % packed, index / packed);
    if layout == Layout::Wmma {
        let (rows, columns) = match role {
            Role::A => (m, k),
            Role::B => (k, n),
            Role::Sum => (m, n),
        };
        if role == Role::Sum && (m, n) == (16, 16) {
            return (group + 8 * (index / 2 % 2), 2 * member + index % 2 + 8 * (index / 4));
        }
        if (m, n, k) == (16, 16, 16) && packed == 2 {
            let (inner, r) = (index % 2, index / 2 % 4);
            return match role {
                Role::A => (group + 8 * (r % 2), 2 * member + inner + 8 * (r / 2)),
                // Two products of 8 columns.
                _ => (2 * member + inner + 8 * (r % 2), group + 8 * (r / 2)),
            };
        }
        let at = (lane * fragment.elements() + index) % (rows * columns);
        return (at / columns, at % columns);
    }
    match role {
        Role::A if m == 8 => (group, member * packed + inner),
        Role::A => (group + 8 * (r & 1), member * packed + 4 * packed * (r >> 1) + inner),
        Role::B => (member * packed + 4 * packed * r + inner, group),
        Role::Sum => (group + 8 * (index / 2), 2 * member + index % 2),
    }
}

/// What `b1` products are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    And,
    Xor,
}

/// A matrix instruction.
#[derive(Clone, Debug)]
pub(crate) enum Matrix {
    Multiply {
        layout: Layout,
        shape: Shape,
        d: Fragment,
        a: Fragment,
        b: Fragment,
        c: Fragment,
        bits: Bits,
        saturates: bool,
    },
    /// `wmma.load` and `wmma.store`; the instruction's address is that of the first element.
    Move { role: Role, shape: Shape, fragment: Fragment, by_rows: bool, stride: Option<Reg>, store: bool },
    /// `wgmma.mma_async`.
    Group(super::wgmma::Group),
}

/// Fails unless all lanes are here, or may come.
#[inline]
pub(super) fn whole_warp(ctx: &mut Context, ins: &Instruction, mask: u32, name: &str) -> Result<(), Control> {
    if mask == FULL { Ok(()) } else { part_of_warp(ctx, ins, mask, name) }
}

#[cold]
fn part_of_warp(ctx: &mut Context, ins: &Instruction, mask: u32, name: &str) -> Result<(), Control> {
    if let Some(control) = ctx.ask_again(ins) {
        return Err(control);
    }
    let at = ctx.where_is((!mask).trailing_zeros());
    Err(ctx.fail(ins, mask, FaultKind::InactiveShuffle, format!("{name} needs all 32 lanes, but {at}")))
}

/// Any matrix instruction: `imm` is the index of its [`Matrix`].
pub(crate) fn run(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let program = ctx.program;
    match &program.matrices[ins.imm as usize] {
        Matrix::Multiply { layout, shape, d, a, b, c, bits, saturates } => {
            if let Err(control) = whole_warp(ctx, ins, mask, "a matrix product") {
                return control;
            }
            let Shape { m, n, k } = *shape;
            let read = |role: Role, fragment: &Fragment, rows: usize, columns: usize| {
                let mut out = vec![0f64; rows * columns];
                for lane in 0..32 {
                    for index in 0..fragment.elements() {
                        let (row, column) = position(*layout, role, *shape, fragment, lane, index);
                        out[row * columns + column] = fragment.kind.value(fragment.raw(ctx, lane, index));
                    }
                }
                out
            };
            let (left, right) = (read(Role::A, a, m, k), read(Role::B, b, k, n));
            let mut sums = read(Role::Sum, c, m, n);
            for row in 0..m {
                for at in 0..k {
                    for column in 0..n {
                        let sum = &mut sums[row * n + column];
                        *sum = product(*sum, left[row * k + at], right[at * n + column], a.kind, *bits);
                    }
                }
            }
            for lane in 0..32 {
                for index in 0..d.elements() {
                    let (row, column) = position(*layout, Role::Sum, *shape, d, lane, index);
                    d.set_raw(ctx, lane, index, d.kind.raw(sums[row * n + column], *saturates));
                }
            }
            Control::Next
        }
        Matrix::Move { role, shape, fragment, by_rows, stride, store } => {
            if let Err(control) = whole_warp(ctx, ins, mask, "wmma") {
                return control;
            }
            transfer(ctx, ins, *role, *shape, fragment, *by_rows, *stride, *store)
        }
        Matrix::Group(group) => super::wgmma::multiply(ctx, ins, mask, group),
    }
}

/// One step of a sum.
#[inline(always)]
pub(super) fn product(sum: f64, a: f64, b: f64, kind: Kind, bits: Bits) -> f64 {
    match (kind, bits) {
        (Kind::F64, _) => a.mul_add(b, sum),
        (Kind::B1, Bits::Xor) => sum + (a != b) as u8 as f64,
        _ => sum + a * b,
    }
}

/// Elements between registers and memory, one of each lane at a time; elements of less than a byte go by bytes.
#[expect(clippy::too_many_arguments, reason = "the facts of one instruction")]
fn transfer(
    ctx: &mut Context,
    ins: &Instruction,
    role: Role,
    shape: Shape,
    fragment: &Fragment,
    by_rows: bool,
    stride: Option<Reg>,
    store: bool,
) -> Control {
    let (rows, columns) = match role {
        Role::A => (shape.m, shape.k),
        Role::B => (shape.k, shape.n),
        Role::Sum => (shape.m, shape.n),
    };
    let bits = fragment.kind.bits();
    let together = (8 / bits).max(1);
    let bytes = bits.max(8) / 8;
    // The address is the same in all lanes.
    let address = Instruction { imm: ins.ops[6] as i32 as i64 as u64, ..*ins };
    let base = super::memory::addresses(ctx, &address, FULL)[0];
    let leading = match stride {
        Some(reg) => ctx.lanes::<u32>(reg)[0] as usize,
        None if by_rows => columns,
        None => rows,
    };
    for index in (0..fragment.elements()).step_by(together) {
        let addresses: [u64; 32] = std::array::from_fn(|lane| {
            let (row, column) = position(Layout::Wmma, role, shape, fragment, lane, index);
            let at = if by_rows { row * leading + column } else { column * leading + row };
            base.wrapping_add((at * bits / 8) as u64)
        });
        let kind = if store { Access::Store } else { Access::Load };
        let hosts = match resolve(ctx, ins, FULL, &addresses, bytes as u64, kind) {
            Ok(hosts) => hosts,
            Err(control) => return control,
        };
        for lane in 0..32 {
            let mut raw = [0u8; 8];
            if store {
                raw = fragment.raw(ctx, lane, index).to_le_bytes();
                // SAFETY: `resolve` found so many writable bytes.
                unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr(), hosts.at[lane] as *mut u8, bytes) };
            } else {
                // SAFETY: `resolve` found so many readable bytes.
                unsafe { std::ptr::copy_nonoverlapping(hosts.at[lane] as *const u8, raw.as_mut_ptr(), bytes) };
                let value = u64::from_le_bytes(raw);
                for part in 0..together {
                    fragment.set_raw(ctx, lane, index + part, value >> (part * bits));
                }
            }
        }
    }
    Control::Next
}

impl Fragment {
    pub(super) fn value(&self, ctx: &Context, lane: usize, index: usize) -> f64 {
        self.kind.value(self.raw(ctx, lane, index))
    }

    pub(super) fn set(&self, ctx: &mut Context, lane: usize, index: usize, sum: f64, saturates: bool) {
        self.set_raw(ctx, lane, index, self.kind.raw(sum, saturates));
    }

    pub(super) fn count(&self) -> usize {
        self.elements()
    }
}

pub(super) fn value_of(kind: Kind, raw: u64) -> f64 {
    kind.value(raw)
}
