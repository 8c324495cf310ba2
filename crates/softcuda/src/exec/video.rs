//! Video instructions: see [`crate::decode`], where they are taken apart.

use super::Context;
use crate::program::{Control, Instruction};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Add,
    Subtract,
    Distance,
    Minimum,
    Maximum,
    Average,
    /// By the count modulo 32, rather than by at most 32.
    ShiftLeft(bool),
    ShiftRight(bool),
    /// The two letters of the relation.
    Compare(u8, u8),
}

/// What is done with the third operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Second {
    Merge,
    Add,
    Minimum,
    Maximum,
}

/// Part of a register.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Selector {
    pub(crate) shift: u32,
    pub(crate) bits: u32,
}

impl Selector {
    fn cut(self, value: u32, signed: bool) -> i64 {
        let part = (value >> self.shift) as u64 & ((1u64 << self.bits) - 1);
        if signed { (part << (64 - self.bits)) as i64 >> (64 - self.bits) } else { part as i64 }
    }

    fn merge(self, value: i64, into: u32) -> u32 {
        let ones = ((1u64 << self.bits) - 1) as u32;
        into & !(ones << self.shift) | (value as u32 & ones) << self.shift
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Video {
    pub(crate) operation: Operation,
    pub(crate) second: Option<Second>,
    /// Halves or bytes, or 1.
    pub(crate) parts: u32,
    pub(crate) saturates: bool,
    pub(crate) d_signed: bool,
    pub(crate) a_signed: bool,
    pub(crate) b_signed: bool,
    pub(crate) a: Selector,
    pub(crate) b: Selector,
    pub(crate) d: Selector,
}

impl Video {
    fn step(&self, x: i64, y: i64) -> i64 {
        let count = |wraps: bool| if wraps { y & 31 } else { y.min(32) };
        match self.operation {
            Operation::Add => x + y,
            Operation::Subtract => x - y,
            Operation::Distance => (x - y).abs(),
            Operation::Minimum => x.min(y),
            Operation::Maximum => x.max(y),
            // Rounded away from zero.
            Operation::Average => (x + y + if x + y >= 0 { 1 } else { 0 }) >> 1,
            Operation::ShiftLeft(wraps) => x << count(wraps),
            Operation::ShiftRight(wraps) => x >> count(wraps),
            Operation::Compare(a, b) => match (a, b) {
                (b'e', _) => (x == y) as i64,
                (b'n', _) => (x != y) as i64,
                (b'l', b't') => (x < y) as i64,
                (b'l', _) => (x <= y) as i64,
                (_, b't') => (x > y) as i64,
                _ => (x >= y) as i64,
            },
        }
    }

    /// Brings a result to the range of its type.
    fn fit(&self, value: i64, bits: u32) -> i64 {
        if !self.saturates {
            return value;
        }
        match self.d_signed {
            true => value.clamp(-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
            false => value.clamp(0, (1 << bits) - 1),
        }
    }

    fn combine(&self, value: i64, c: u32) -> u32 {
        let third = if self.d_signed { c as i32 as i64 } else { c as i64 };
        // The second operation sees the result as its type has it.
        let value = if self.d_signed { value as i32 as i64 } else { value as u32 as i64 };
        match self.second {
            Some(Second::Add) => value.wrapping_add(third) as u32,
            Some(Second::Minimum) => value.min(third) as u32,
            Some(Second::Maximum) => value.max(third) as u32,
            _ => value as u32,
        }
    }

    fn result(&self, a: u32, b: u32, c: Option<u32>) -> u32 {
        if self.parts == 1 {
            let value = self.step(self.a.cut(a, self.a_signed), self.b.cut(b, self.b_signed));
            let value = self.fit(value, self.d.bits);
            return match (self.second, c) {
                (Some(Second::Merge), Some(c)) => self.d.merge(value, c),
                (_, Some(c)) => self.combine(value, c),
                _ => value as u32,
            };
        }
        let bits = 32 / self.parts;
        let mut out = c.unwrap_or(0);
        for part in 0..self.parts {
            let at = Selector { shift: part * bits, bits };
            let value = self.step(at.cut(a, self.a_signed), at.cut(b, self.b_signed));
            let value = self.fit(value, bits);
            match self.second {
                Some(Second::Add) => out = out.wrapping_add(value as u32),
                _ => out = at.merge(value, out),
            }
        }
        out
    }
}

/// A video instruction; operands: d, a, b, c and whether there is one. `imm`: the index of its [`Video`].
pub(crate) fn run(ctx: &mut Context, ins: &Instruction, mask: u32) -> Control {
    let video = ctx.program.videos[ins.imm as usize];
    let (a, b) = (*ctx.lanes::<u32>(ins.ops[1]), *ctx.lanes::<u32>(ins.ops[2]));
    let c = (ins.ops[4] != 0).then(|| *ctx.lanes::<u32>(ins.ops[3]));
    let out: [u32; 32] = std::array::from_fn(|l| video.result(a[l], b[l], c.map(|c| c[l])));
    ctx.put(ins.ops[0], &out, mask);
    Control::Next
}
