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
use super::matrix::whole_warp;
use super::memory::{addresses, resolve};
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
    /// From the registers of all lanes to 16 rows of 8 columns.
    fn load(registers: &[[u32; 32]; 4], sums: &mut [[Self::Sum; 8]; 16]);
    fn step(sum: Self::Sum, a: V, b: V) -> Self::Sum;
    fn store(sums: &[[Self::Sum; 8]; 16], registers: &mut [[u32; 32]; 4]);
}

pub(crate) struct Single;
pub(crate) struct HalfPair;
pub(crate) struct Integer32;
pub(crate) struct Saturated32;

/// An accumulator of 32-bit elements, four registers of them.
macro_rules! whole_registers {
    ($name:ident, $value:ty, $sum:ty, |$r:ident| $load:expr, |$s:ident, $a:ident, $b:ident| $step:expr, |$t:ident| $store:expr) => {
        impl Accumulator<$value> for $name {
            const REGISTERS: usize = 4;
            type Sum = $sum;
            #[inline(always)]
            fn load(registers: &[[u32; 32]; 4], sums: &mut [[$sum; 8]; 16]) {
                for row in 0..16 {
                    for column in 0..8 {
                        let $r = registers[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2];
                        sums[row][column] = $load;
                    }
                }
            }
            #[inline(always)]
            fn step($s: $sum, $a: $value, $b: $value) -> $sum {
                $step
            }
            #[inline(always)]
            fn store(sums: &[[$sum; 8]; 16], registers: &mut [[u32; 32]; 4]) {
                for row in 0..16 {
                    for column in 0..8 {
                        let $t = sums[row][column];
                        registers[row / 8 * 2 + column % 2][row % 8 * 4 + column / 2] = $store;
                    }
                }
            }
        }
    };
}
// A product is exact in f64, so that fusing it with the addition changes nothing.
whole_registers!(Single, f64, f64, |r| f32::from_bits(r) as f64, |sum, a, b| a.mul_add(b, sum), |sum| {
    crate::numeric::canonical(sum as f32).to_bits()
});
whole_registers!(Integer32, i32, i32, |r| r as i32, |sum, a, b| sum.wrapping_add(a * b), |sum| sum as u32);
whole_registers!(Saturated32, i32, i64, |r| r as i32 as i64, |sum, a, b| sum + (a * b) as i64, |sum| {
    sum.clamp(i32::MIN as i64, i32::MAX as i64) as i32 as u32
});

impl Accumulator<f64> for HalfPair {
    const REGISTERS: usize = 2;
    type Sum = f64;
    #[inline(always)]
    fn load(registers: &[[u32; 32]; 4], sums: &mut [[f64; 8]; 16]) {
        for row in 0..16 {
            for column in 0..8 {
                let register = registers[row / 8][row % 8 * 4 + column / 2];
                sums[row][column] = from_half((register >> (16 * (column % 2))) as u16) as f64;
            }
        }
    }
    #[inline(always)]
    fn step(sum: f64, a: f64, b: f64) -> f64 {
        a.mul_add(b, sum)
    }
    #[inline(always)]
    fn store(sums: &[[f64; 8]; 16], registers: &mut [[u32; 32]; 4]) {
        for row in 0..16 {
            for pair in 0..4 {
                let half = |column: usize| to_half(sums[row][column] as f32) as u32;
                registers[row / 8][row % 8 * 4 + pair] = half(2 * pair) | half(2 * pair + 1) << 16;
            }
        }
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
    fn run<const WIDE: bool>(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
        if let Err(control) = whole_warp(ctx, ins, mask, "mma") {
            return control;
        }
        let program = ctx.program;
        let list = &program.lists[ins.imm as usize];
        let (a_count, b_count) = (16 * K / A::PACKED / 32, 8 * K / B::PACKED / 32);
        let (d, rest) = list.split_at(C::REGISTERS);
        let (a, rest) = rest.split_at(a_count);
        let (b, c) = rest.split_at(b_count);
        // An element of a register in every lane: `A::PACKED` of these for each register of A.
        let mut left = [[A::Value::default(); 32]; 16];
        for (r, &reg) in a.iter().enumerate() {
            for i in 0..A::PACKED {
                left[r * A::PACKED + i] = unpack_row::<A>(ctx.lanes::<u32>(reg), i);
            }
        }
        let mut right = [[A::Value::default(); 8]; K];
        for (r, &reg) in b.iter().enumerate() {
            let register = ctx.lanes::<u32>(reg);
            for member in 0..4 {
                let mut column = [0u32; 8];
                for group in 0..8 {
                    column[group] = register[4 * group + member];
                }
                for i in 0..B::PACKED {
                    let row = &mut right[(4 * r + member) * B::PACKED + i];
                    for group in 0..8 {
                        row[group] = B::unpack(column[group], i);
                    }
                }
            }
        }
        let mut sums = [[C::Sum::default(); 8]; 16];
        let mut registers = [[0u32; 32]; 4];
        for (r, &reg) in c.iter().enumerate() {
            registers[r] = *ctx.lanes::<u32>(reg);
        }
        C::load(&registers, &mut sums);
        // Four rows at a time, so that no sum waits for the one before.
        for rows in 0..4 {
            let mut lines: [[C::Sum; 8]; 4] = std::array::from_fn(|row| sums[4 * rows + row]);
            for k in 0..K {
                let (step, member, i) = (k / (4 * A::PACKED), k / A::PACKED % 4, k % A::PACKED);
                let elements = &left[(rows / 2 + 2 * step) * A::PACKED + i];
                for row in 0..4 {
                    let element = elements[(4 * rows + row) % 8 * 4 + member];
                    for column in 0..8 {
                        lines[row][column] = C::step(lines[row][column], element, right[k][column]);
                    }
                }
            }
            sums[4 * rows..4 * rows + 4].copy_from_slice(&lines);
        }
        C::store(&sums, &mut registers);
        for (&reg, out) in d.iter().zip(&registers) {
            *ctx.lanes_mut::<u32>(reg) = *out;
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
    if let Err(control) = whole_warp(ctx, ins, mask, "ldmatrix") {
        return control;
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
