//! `mma.sync` and `ldmatrix`.
//!
//! A warp holds a matrix in fragments, laid out as the PTX ISA says (section "Matrix fragments for mma"). With
//! `group = lane / 4` and `member = lane % 4`, a 32-bit register of the A fragment holds elements next to each other in
//! a row, B's next to each other in a column:
//!
//! - 16-bit elements: A register r is row `group + 8 (r & 1)`, columns `2 member + 8 (r >> 1)` and the next; B
//!   register r is rows `2 member + 8 r` and the next, column `group`.
//! - 8-bit elements: the same with four elements from `4 member` and a step of 16.
//! - tf32: A register r is row `group + 8 (r & 1)`, column `member + 4 (r >> 1)`; B likewise.
//! - C and D: rows `group` and `group + 8`, columns `2 member` and the next.
//!
//! Products of 16-bit and tf32 elements are exact in f64, where they and C are summed; the sum is rounded once. Hardware
//! rounds inside, in an order of its own, so its last bits may differ.

use super::Context;
use super::lanes::{Operation, handlers};
use super::memory::{addresses, resolve};
use crate::fault::FaultKind;
use crate::numeric::{from_bfloat, from_half, to_half};
use crate::program::{Control, Handlers, Instruction};
use crate::space::Kind;
use std::marker::PhantomData;

/// How a fragment's 32-bit register becomes elements.
pub(crate) trait Element {
    /// Elements in a register.
    const PACKED: usize;
    type Value: Copy + Default;
    fn unpack(register: u32, index: usize) -> Self::Value;
}

pub(crate) struct Half;
pub(crate) struct Bfloat;
pub(crate) struct Tensor32;
pub(crate) struct Signed8;
pub(crate) struct Unsigned8;

macro_rules! element {
    ($name:ident, $packed:expr, $value:ty, |$r:ident, $i:ident| $e:expr) => {
        impl Element for $name {
            const PACKED: usize = $packed;
            type Value = $value;
            #[inline(always)]
            fn unpack($r: u32, $i: usize) -> $value {
                $e
            }
        }
    };
}
element!(Half, 2, f64, |r, i| from_half((r >> (16 * i)) as u16) as f64);
element!(Bfloat, 2, f64, |r, i| from_bfloat((r >> (16 * i)) as u16) as f64);
// The hardware looks at the upper 19 bits only.
element!(Tensor32, 1, f64, |r, _i| f32::from_bits(r & 0xffff_e000) as f64);
element!(Signed8, 4, i32, |r, i| (r >> (8 * i)) as i8 as i32);
element!(Unsigned8, 4, i32, |r, i| (r >> (8 * i)) as u8 as i32);

/// What C and D are made of.
pub(crate) trait Accumulator<V> {
    /// Registers of C and D.
    const REGISTERS: usize;
    type Sum: Copy + Default;
    fn load(registers: &[u32], index: usize) -> Self::Sum;
    fn step(sum: Self::Sum, a: V, b: V) -> Self::Sum;
    fn store(sum: Self::Sum, registers: &mut [u32], index: usize);
}

pub(crate) struct Single;
pub(crate) struct HalfPair;
pub(crate) struct Integer32;
pub(crate) struct Saturated32;

impl Accumulator<f64> for Single {
    const REGISTERS: usize = 4;
    type Sum = f64;
    #[inline(always)]
    fn load(registers: &[u32], index: usize) -> f64 {
        f32::from_bits(registers[index]) as f64
    }
    #[inline(always)]
    fn step(sum: f64, a: f64, b: f64) -> f64 {
        sum + a * b
    }
    #[inline(always)]
    fn store(sum: f64, registers: &mut [u32], index: usize) {
        registers[index] = crate::numeric::canonical(sum as f32).to_bits();
    }
}

impl Accumulator<f64> for HalfPair {
    const REGISTERS: usize = 2;
    type Sum = f64;
    #[inline(always)]
    fn load(registers: &[u32], index: usize) -> f64 {
        from_half((registers[index / 2] >> (16 * (index % 2))) as u16) as f64
    }
    #[inline(always)]
    fn step(sum: f64, a: f64, b: f64) -> f64 {
        sum + a * b
    }
    #[inline(always)]
    fn store(sum: f64, registers: &mut [u32], index: usize) {
        let shift = 16 * (index % 2);
        let slot = &mut registers[index / 2];
        *slot = *slot & !(0xffff << shift) | (to_half(sum as f32) as u32) << shift;
    }
}

impl Accumulator<i32> for Integer32 {
    const REGISTERS: usize = 4;
    type Sum = i32;
    #[inline(always)]
    fn load(registers: &[u32], index: usize) -> i32 {
        registers[index] as i32
    }
    #[inline(always)]
    fn step(sum: i32, a: i32, b: i32) -> i32 {
        sum.wrapping_add(a * b)
    }
    #[inline(always)]
    fn store(sum: i32, registers: &mut [u32], index: usize) {
        registers[index] = sum as u32;
    }
}

impl Accumulator<i32> for Saturated32 {
    const REGISTERS: usize = 4;
    type Sum = i64;
    #[inline(always)]
    fn load(registers: &[u32], index: usize) -> i64 {
        registers[index] as i32 as i64
    }
    #[inline(always)]
    fn step(sum: i64, a: i32, b: i32) -> i64 {
        sum + (a * b) as i64
    }
    #[inline(always)]
    fn store(sum: i64, registers: &mut [u32], index: usize) {
        registers[index] = sum.clamp(i32::MIN as i64, i32::MAX as i64) as i32 as u32;
    }
}

/// Element `i` of a register in every lane; a loop of its own, for the compiler to vectorise.
#[inline(always)]
fn unpack_row<E: Element>(register: &[u32; 32], i: usize) -> [E::Value; 32] {
    let mut row = [E::Value::default(); 32];
    for l in 0..32 {
        row[l] = E::unpack(register[l], i);
    }
    row
}

struct Multiply<A, B, C, const K: usize>(PhantomData<(A, B, C)>);

impl<A, B, C, const K: usize> Operation for Multiply<A, B, C, K>
where
    A: Element,
    B: Element<Value = A::Value>,
    C: Accumulator<A::Value>,
{
    #[inline(always)]
    fn run(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        if mask != u32::MAX {
            let at = ctx.where_is((!mask).trailing_zeros());
            let message = format!("mma needs all 32 lanes, but {at}");
            return ctx.fail(ins, mask, FaultKind::InactiveShuffle, message);
        }
        let program = ctx.program;
        let list = &program.lists[ins.imm as usize];
        let (a_count, b_count) = (16 * K / A::PACKED / 32, 8 * K / B::PACKED / 32);
        let (d, rest) = list.split_at(C::REGISTERS);
        let (a, rest) = rest.split_at(a_count);
        let (b, c) = rest.split_at(b_count);
        let mut left = [[A::Value::default(); K]; 16];
        let mut right = [[A::Value::default(); 8]; K];
        for (r, &reg) in a.iter().enumerate() {
            for i in 0..A::PACKED {
                let elements = unpack_row::<A>(ctx.lanes::<u32>(reg), i);
                for (lane, element) in elements.into_iter().enumerate() {
                    let (group, member) = (lane / 4, lane % 4);
                    left[group + 8 * (r & 1)][member * A::PACKED + 4 * A::PACKED * (r >> 1) + i] = element;
                }
            }
        }
        for (r, &reg) in b.iter().enumerate() {
            for i in 0..B::PACKED {
                let elements = unpack_row::<B>(ctx.lanes::<u32>(reg), i);
                for (lane, element) in elements.into_iter().enumerate() {
                    let (group, member) = (lane / 4, lane % 4);
                    right[member * B::PACKED + 4 * B::PACKED * r + i][group] = element;
                }
            }
        }
        let mut sums = [[C::Sum::default(); 8]; 16];
        let mut registers = [[0u32; 4]; 32];
        for (r, &reg) in c.iter().enumerate() {
            let lanes = ctx.lanes::<u32>(reg);
            for lane in 0..32 {
                registers[lane][r] = lanes[lane];
            }
        }
        for lane in 0..32 {
            for i in 0..4 {
                sums[lane / 4 + 8 * (i >> 1)][lane % 4 * 2 + (i & 1)] = C::load(&registers[lane], i);
            }
        }
        for row in 0..16 {
            let mut line = sums[row];
            for k in 0..K {
                for column in 0..8 {
                    line[column] = C::step(line[column], left[row][k], right[k][column]);
                }
            }
            sums[row] = line;
        }
        for lane in 0..32 {
            for i in 0..4 {
                let sum = sums[lane / 4 + 8 * (i >> 1)][lane % 4 * 2 + (i & 1)];
                C::store(sum, &mut registers[lane], i);
            }
        }
        for (r, &reg) in d.iter().enumerate() {
            let out: [u32; 32] = std::array::from_fn(|lane| registers[lane][r]);
            ctx.put(reg, &out, mask);
        }
        Control::Next
    }
}

/// `mma.sync.m16n8kK`; the list at `imm`: registers of D, A, B and C.
pub(crate) fn multiply<A, B, C, const K: usize>() -> Handlers
where
    A: Element + 'static,
    B: Element<Value = A::Value> + 'static,
    C: Accumulator<A::Value> + 'static,
{
    handlers::<Multiply<A, B, C, K>>()
}

/// `ldmatrix.m8n8`: `COUNT` matrices of 8 rows of 16 bytes, lane `8 m + r` giving the address of row r of matrix m.
/// Operands: address, then the destinations.
pub(crate) fn load_matrix<const COUNT: usize, const TRANSPOSED: bool>(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
) -> Control {
    if mask != u32::MAX {
        let at = ctx.where_is((!mask).trailing_zeros());
        return ctx.fail(ins, mask, FaultKind::InactiveShuffle, format!("ldmatrix needs all 32 lanes, but {at}"));
    }
    let rows = if COUNT == 4 { u32::MAX } else { (1 << (8 * COUNT)) - 1 };
    let from = addresses(ctx, ins, rows);
    let hosts = match resolve(ctx, ins, rows, &from, 16, Kind::Load) {
        Ok(hosts) => hosts,
        Err(control) => return control,
    };
    for m in 0..COUNT {
        let matrix: [[u16; 8]; 8] = std::array::from_fn(|r| {
            // SAFETY: `resolve` found 16 readable bytes at each row's address.
            unsafe { (hosts.at[8 * m + r] as *const [u16; 8]).read_unaligned() }
        });
        let out: [u32; 32] = std::array::from_fn(|lane| {
            let (row, column) = (lane / 4, lane % 4 * 2);
            let (low, high) = match TRANSPOSED {
                false => (matrix[row][column], matrix[row][column + 1]),
                true => (matrix[column][row], matrix[column + 1][row]),
            };
            low as u32 | (high as u32) << 16
        });
        ctx.put(ins.ops[1 + m], &out, mask);
    }
    Control::Next
}

/// `stmatrix.m8n8`: the other way; operands: address, then the sources.
pub(crate) fn store_matrix<const COUNT: usize, const TRANSPOSED: bool>(
    ctx: &mut Context,
    ins: &Instruction,
    mask: u32,
) -> Control {
    if let Err(control) = super::matrix::whole_warp(ctx, ins, mask, "stmatrix") {
        return control;
    }
    let rows = if COUNT == 4 { u32::MAX } else { (1 << (8 * COUNT)) - 1 };
    let to = addresses(ctx, ins, rows);
    let hosts = match resolve(ctx, ins, rows, &to, 16, Kind::Store) {
        Ok(hosts) => hosts,
        Err(control) => return control,
    };
    for m in 0..COUNT {
        let values = *ctx.lanes::<u32>(ins.ops[1 + m]);
        let mut matrix = [[0u16; 8]; 8];
        for (lane, value) in values.into_iter().enumerate() {
            for (column, half) in [(lane % 4 * 2, value as u16), (lane % 4 * 2 + 1, (value >> 16) as u16)] {
                match TRANSPOSED {
                    false => matrix[lane / 4][column] = half,
                    true => matrix[column][lane / 4] = half,
                }
            }
        }
        for (r, row) in matrix.into_iter().enumerate() {
            // SAFETY: `resolve` found 16 writable bytes at each row's address.
            unsafe { (hosts.at[8 * m + r] as *mut [u16; 8]).write_unaligned(row) };
        }
    }
    Control::Next
}

/// `movmatrix.m8n8.trans`; operands: d, a.
pub(crate) fn transpose_matrix(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    if let Err(control) = super::matrix::whole_warp(ctx, ins, mask, "movmatrix") {
        return control;
    }
    let values = *ctx.lanes::<u32>(ins.ops[1]);
    let element = |row: usize, column: usize| (values[row * 4 + column / 2] >> (16 * (column % 2))) & 0xffff;
    let out: [u32; 32] = std::array::from_fn(|lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    });
    ctx.put(ins.ops[0], &out, mask);
    Control::Next
}
