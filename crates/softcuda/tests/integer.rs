//! Integer instructions against Rust's own arithmetic, over random and extreme operands, on both CPU paths and with
//! part of the lanes switched off.

#![allow(clippy::needless_range_loop, reason = "a lane number indexes several rows at once")]

mod common;
use common::*;
use proptest::prelude::*;
use softcuda::{Device, Kernel};

/// A row of the table: instruction on `%a %b %c` giving `%y`, register widths of a, b, c and y, and the same in Rust.
struct Row {
    text: &'static str,
    widths: [u32; 4],
    expected: fn(u64, u64, u64) -> u64,
}

const fn row(text: &'static str, widths: [u32; 4], expected: fn(u64, u64, u64) -> u64) -> Row {
    Row { text, widths, expected }
}

const W32: [u32; 4] = [32, 32, 32, 32];
const W64: [u32; 4] = [64, 64, 64, 64];
const W16: [u32; 4] = [16, 16, 16, 16];

fn sign32(x: u64) -> i64 {
    x as i32 as i64
}

/// `bfe` as the ISA's pseudocode says it, bit by bit.
fn bfe(a: u64, pos: u64, len: u64, width: u64, signed: bool) -> u64 {
    let (pos, len, msb) = (pos & 255, len & 255, width - 1);
    let bit = |i: u64| a >> i & 1;
    let fill = if !signed || len == 0 { 0 } else { bit((pos + len - 1).min(msb)) };
    (0..width).map(|i| (if i < len && pos + i <= msb { bit(pos + i) } else { fill }) << i).sum()
}

fn bfi(a: u64, b: u64, pos: u64, len: u64, width: u64) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    let mut out = b;
    for i in 0..len {
        if pos + i < width {
            out = out & !(1 << (pos + i)) | (a >> i & 1) << (pos + i);
        }
    }
    out
}

fn prmt(a: u64, b: u64, selectors: [u64; 4]) -> u64 {
    let bytes = (b & 0xffff_ffff) << 32 | a & 0xffff_ffff;
    selectors
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let byte = bytes >> ((s & 7) * 8) & 255;
            (if s & 8 == 0 {
                byte
            } else if byte & 128 != 0 {
                255
            } else {
                0
            }) << (8 * i)
        })
        .sum()
}

fn dp4a(a: u64, b: u64, c: u64, sa: bool, sb: bool) -> u64 {
    let lane = |x: u64, i: u32, s: bool| {
        let byte = (x >> (8 * i)) as u8;
        if s { byte as i8 as i64 } else { byte as i64 }
    };
    ((0..4).map(|i| lane(a, i, sa) * lane(b, i, sb)).sum::<i64>() + c as i32 as i64) as u32 as u64
}

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("add.s32 %y, %a, %b;", W32, |a, b, _| (a as u32).wrapping_add(b as u32) as u64),
    row("add.u64 %y, %a, %b;", W64, |a, b, _| a.wrapping_add(b)),
    row("add.s16 %y, %a, %b;", W16, |a, b, _| (a as u16).wrapping_add(b as u16) as u64),
    row("add.sat.s32 %y, %a, %b;", W32, |a, b, _| (a as i32).saturating_add(b as i32) as u32 as u64),
    row("sub.s32 %y, %a, %b;", W32, |a, b, _| (a as u32).wrapping_sub(b as u32) as u64),
    row("sub.sat.s32 %y, %a, %b;", W32, |a, b, _| (a as i32).saturating_sub(b as i32) as u32 as u64),
    row("sub.s64 %y, %a, %b;", W64, |a, b, _| a.wrapping_sub(b)),
    row("mul.lo.s32 %y, %a, %b;", W32, |a, b, _| (a as u32).wrapping_mul(b as u32) as u64),
    row("mul.lo.u64 %y, %a, %b;", W64, |a, b, _| a.wrapping_mul(b)),
    row("mul.lo.s16 %y, %a, %b;", W16, |a, b, _| (a as u16).wrapping_mul(b as u16) as u64),
    row("mul.hi.s32 %y, %a, %b;", W32, |a, b, _| ((sign32(a) * sign32(b)) >> 32) as u32 as u64),
    row("mul.hi.u32 %y, %a, %b;", W32, |a, b, _| ((a as u32 as u64) * (b as u32 as u64)) >> 32),
    row("mul.hi.u64 %y, %a, %b;", W64, |a, b, _| ((a as u128 * b as u128) >> 64) as u64),
    row("mul.hi.s64 %y, %a, %b;", W64, |a, b, _| ((a as i64 as i128 * b as i64 as i128) >> 64) as u64),
    row("mul.wide.s32 %y, %a, %b;", [32, 32, 32, 64], |a, b, _| (sign32(a) * sign32(b)) as u64),
    row("mul.wide.u32 %y, %a, %b;", [32, 32, 32, 64], |a, b, _| (a as u32 as u64) * (b as u32 as u64)),
    row("mul.wide.s16 %y, %a, %b;", [16, 16, 16, 32], |a, b, _| (a as i16 as i32 * b as i16 as i32) as u32 as u64),
    row("mul.wide.u16 %y, %a, %b;", [16, 16, 16, 32], |a, b, _| (a as u16 as u64) * (b as u16 as u64)),
    row("mad.lo.s32 %y, %a, %b, %c;", W32, |a, b, c| (a as u32).wrapping_mul(b as u32).wrapping_add(c as u32) as u64),
    row("mad.hi.u32 %y, %a, %b, %c;", W32, |a, b, c| ((((a as u32 as u64) * (b as u32 as u64)) >> 32) as u32).wrapping_add(c as u32) as u64),
    row("mad.wide.u32 %y, %a, %b, %c;", [32, 32, 64, 64], |a, b, c| ((a as u32 as u64) * (b as u32 as u64)).wrapping_add(c)),
    row("mad.wide.s32 %y, %a, %b, %c;", [32, 32, 64, 64], |a, b, c| (sign32(a) * sign32(b)).wrapping_add(c as i64) as u64),
    row("mul24.lo.s32 %y, %a, %b;", W32, |a, b, _| (((a as i32) << 8 >> 8).wrapping_mul((b as i32) << 8 >> 8)) as u32 as u64),
    row("div.s32 %y, %a, %b;", W32, |a, b, _| if b as u32 == 0 { u32::MAX as u64 } else { (a as i32).wrapping_div(b as i32) as u32 as u64 }),
    row("div.u32 %y, %a, %b;", W32, |a, b, _| (a as u32).checked_div(b as u32).unwrap_or(u32::MAX) as u64),
    row("div.u64 %y, %a, %b;", W64, |a, b, _| a.checked_div(b).unwrap_or(u64::MAX)),
    row("rem.s32 %y, %a, %b;", W32, |a, b, _| if b as u32 == 0 { a as u32 as u64 } else { (a as i32).wrapping_rem(b as i32) as u32 as u64 }),
    row("rem.u64 %y, %a, %b;", W64, |a, b, _| a.checked_rem(b).unwrap_or(a)),
    row("min.s32 %y, %a, %b;", W32, |a, b, _| (a as i32).min(b as i32) as u32 as u64),
    row("max.u32 %y, %a, %b;", W32, |a, b, _| (a as u32).max(b as u32) as u64),
    row("min.s64 %y, %a, %b;", W64, |a, b, _| (a as i64).min(b as i64) as u64),
    row("max.s16 %y, %a, %b;", W16, |a, b, _| (a as i16).max(b as i16) as u16 as u64),
    row("abs.s32 %y, %a;", W32, |a, _, _| (a as i32).wrapping_abs() as u32 as u64),
    row("neg.s64 %y, %a;", W64, |a, _, _| a.wrapping_neg()),
    row("sad.s32 %y, %a, %b, %c;", W32, |a, b, c| (a as i32).abs_diff(b as i32).wrapping_add(c as u32) as u64),
    row("and.b32 %y, %a, %b;", W32, |a, b, _| (a & b) as u32 as u64),
    row("or.b64 %y, %a, %b;", W64, |a, b, _| a | b),
    row("xor.b16 %y, %a, %b;", W16, |a, b, _| (a ^ b) as u16 as u64),
    row("not.b32 %y, %a;", W32, |a, _, _| !a as u32 as u64),
    row("cnot.b32 %y, %a;", W32, |a, _, _| (a as u32 == 0) as u64),
    row("shl.b32 %y, %a, %b;", W32, |a, b, _| (a as u32).checked_shl(b as u32).unwrap_or(0) as u64),
    row("shr.u32 %y, %a, %b;", W32, |a, b, _| (a as u32).checked_shr(b as u32).unwrap_or(0) as u64),
    row("shr.s32 %y, %a, %b;", W32, |a, b, _| ((a as i32) >> (b as u32).min(31)) as u32 as u64),
    row("shl.b64 %y, %a, %b;", [64, 32, 32, 64], |a, b, _| a.checked_shl(b as u32).unwrap_or(0)),
    row("shr.s64 %y, %a, %b;", [64, 32, 32, 64], |a, b, _| ((a as i64) >> (b as u32).min(63)) as u64),
    row("shr.s16 %y, %a, %b;", [16, 32, 32, 16], |a, b, _| ((a as i16) >> (b as u32).min(15)) as u16 as u64),
    row("shl.b16 %y, %a, %b;", [16, 32, 32, 16], |a, b, _| (a as u16).checked_shl(b as u32).unwrap_or(0) as u64),
    row("shf.l.wrap.b32 %y, %a, %b, %c;", W32, |a, b, c| ((((b as u32 as u64) << 32 | a as u32 as u64) << (c & 31)) >> 32) as u32 as u64),
    row("shf.r.wrap.b32 %y, %a, %b, %c;", W32, |a, b, c| (((b as u32 as u64) << 32 | a as u32 as u64) >> (c & 31)) as u32 as u64),
    row("shf.l.clamp.b32 %y, %a, %b, %c;", W32, |a, b, c| { let n = (c as u32).min(32); if n == 32 { a as u32 as u64 } else { ((((b as u32 as u64) << 32 | a as u32 as u64) << n) >> 32) as u32 as u64 } }),
    row("shf.r.clamp.b32 %y, %a, %b, %c;", W32, |a, b, c| (((b as u32 as u64) << 32 | a as u32 as u64) >> (c as u32).min(32)) as u32 as u64),
    row("bfe.u32 %y, %a, %b, %c;", W32, |a, b, c| bfe(a as u32 as u64, b, c, 32, false)),
    row("bfe.s32 %y, %a, %b, %c;", W32, |a, b, c| bfe(a as u32 as u64, b, c, 32, true)),
    row("bfe.u64 %y, %a, %b, %c;", [64, 32, 32, 64], |a, b, c| bfe(a, b, c, 64, false)),
    row("bfe.s64 %y, %a, %b, %c;", [64, 32, 32, 64], |a, b, c| bfe(a, b, c, 64, true)),
    row("bfi.b32 %y, %a, %c, %b, 7;", W32, |a, b, c| bfi(a, c as u32 as u64, b, 7, 32)),
    row("bfi.b32 %y, %a, %c, 5, %b;", W32, |a, b, c| bfi(a, c as u32 as u64, 5, b, 32)),
    row("bfi.b64 %y, %a, %c, %b, 40;", [64, 32, 64, 64], |a, b, c| bfi(a, c, b, 40, 64)),
    row("brev.b32 %y, %a;", W32, |a, _, _| (a as u32).reverse_bits() as u64),
    row("brev.b64 %y, %a;", W64, |a, _, _| a.reverse_bits()),
    row("popc.b32 %y, %a;", W32, |a, _, _| (a as u32).count_ones() as u64),
    row("popc.b64 %y, %a;", [64, 64, 64, 32], |a, _, _| a.count_ones() as u64),
    row("clz.b32 %y, %a;", W32, |a, _, _| (a as u32).leading_zeros() as u64),
    row("clz.b64 %y, %a;", [64, 64, 64, 32], |a, _, _| a.leading_zeros() as u64),
    row("bfind.u32 %y, %a;", W32, |a, _, _| (a as u32).checked_ilog2().unwrap_or(u32::MAX) as u64),
    row("bfind.s32 %y, %a;", W32, |a, _, _| { let x = if (a as i32) < 0 { !a as u32 } else { a as u32 }; x.checked_ilog2().unwrap_or(u32::MAX) as u64 }),
    row("bfind.shiftamt.u32 %y, %a;", W32, |a, _, _| (a as u32).checked_ilog2().map_or(u32::MAX, |i| 31 - i) as u64),
    row("prmt.b32 %y, %a, %b, %c;", W32, |a, b, c| prmt(a, b, [c & 15, c >> 4 & 15, c >> 8 & 15, c >> 12 & 15])),
    row("prmt.b32 %y, %a, %b, 0x5410;", W32, |a, b, _| (b & 0xffff) << 16 | a & 0xffff),
    row("prmt.b32.f4e %y, %a, %b, %c;", W32, |a, b, c| (((b & 0xffff_ffff) << 32 | a & 0xffff_ffff) >> (8 * (c & 3))) as u32 as u64),
    row("prmt.b32.b4e %y, %a, %b, %c;", W32, |a, b, c| prmt(a, b, match c & 3 { 0 => [0, 7, 6, 5], 1 => [1, 0, 7, 6], 2 => [2, 1, 0, 7], _ => [3, 2, 1, 0] })),
    row("prmt.b32.rc8 %y, %a, %b, %c;", W32, |a, b, c| prmt(a, b, [c & 3; 4])),
    row("prmt.b32.ecl %y, %a, %b, %c;", W32, |a, b, c| prmt(a, b, match c & 3 { 0 => [0, 1, 2, 3], 1 => [1, 1, 2, 3], 2 => [2, 2, 2, 3], _ => [3, 3, 3, 3] })),
    row("prmt.b32.ecr %y, %a, %b, %c;", W32, |a, b, c| prmt(a, b, match c & 3 { 0 => [0, 0, 0, 0], 1 => [0, 1, 1, 1], 2 => [0, 1, 2, 2], _ => [0, 1, 2, 3] })),
    row("prmt.b32.rc16 %y, %a, %b, %c;", W32, |a, b, c| prmt(a, b, if c & 1 == 0 { [0, 1, 0, 1] } else { [2, 3, 2, 3] })),
    row("lop3.b32 %y, %a, %b, %c, 0x96;", W32, |a, b, c| (a ^ b ^ c) as u32 as u64),
    row("lop3.b32 %y, %a, %b, %c, 0xEA;", W32, |a, b, c| (a & b | c) as u32 as u64),
    row("lop3.b32 %y, %a, %b, %c, 0xCA;", W32, |a, b, c| (a & b | !a & c) as u32 as u64),
    row("szext.clamp.s32 %y, %a, %b;", W32, |a, b, _| { let n = (b as u32).min(32); if n == 0 { 0 } else { ((a as i32) << (32 - n) >> (32 - n)) as u32 as u64 } }),
    row("szext.wrap.u32 %y, %a, %b;", W32, |a, b, _| a as u32 as u64 & ((1 << (b & 31)) - 1)),
    row("bmsk.clamp.b32 %y, %a, %b;", W32, |a, b, _| { let (a, b) = (a as u32 as u64, b as u32 as u64); (0..32).filter(|&i| i >= a && i < a + b).map(|i| 1 << i).sum() }),
    row("dp4a.s32.s32 %y, %a, %b, %c;", W32, |a, b, c| dp4a(a, b, c, true, true)),
    row("dp4a.u32.s32 %y, %a, %b, %c;", W32, |a, b, c| dp4a(a, b, c, false, true)),
    row("dp4a.s32.u32 %y, %a, %b, %c;", W32, |a, b, c| dp4a(a, b, c, true, false)),
    row("dp4a.u32.u32 %y, %a, %b, %c;", W32, |a, b, c| dp4a(a, b, c, false, false)),
    row("dp2a.lo.s32.s32 %y, %a, %b, %c;", W32, |a, b, c| (a as i16 as i64 * b as i8 as i64 + (a >> 16) as i16 as i64 * (b >> 8) as i8 as i64 + c as i32 as i64) as u32 as u64),
    row("dp2a.hi.u32.s32 %y, %a, %b, %c;", W32, |a, b, c| (a as u16 as i64 * (b >> 16) as i8 as i64 + (a >> 16) as u16 as i64 * (b >> 24) as i8 as i64 + c as i32 as i64) as u32 as u64),
    row("{ .reg .b32 t; add.cc.u32 t, %a, %b; addc.u32 %y, %c, 0; }", W32, |a, b, c| (c as u32).wrapping_add((a as u32).overflowing_add(b as u32).1 as u32) as u64),
    row("{ .reg .b32 t; sub.cc.u32 t, %a, %b; subc.u32 %y, %c, 0; }", W32, |a, b, c| (c as u32).wrapping_sub(((a as u32) < b as u32) as u32) as u64),
    row("{ .reg .b32 t; mad.lo.cc.u32 t, %a, %b, %c; madc.hi.u32 %y, %a, %b, 0; }", W32, |a, b, c| ((a as u32 as u64) * (b as u32 as u64) + c as u32 as u64) >> 32),
    row("slct.u32.s32 %y, %a, %b, %c;", W32, |a, b, c| if c as i32 >= 0 { a } else { b } as u32 as u64),
    row("{ .reg .pred p; setp.lt.s32 p, %a, %b; selp.b32 %y, %a, %b, p; }", W32, |a, b, _| (a as i32).min(b as i32) as u32 as u64),
    row("{ .reg .pred p, q; setp.gt.u32 p, %b, %c; setp.ne.xor.u32 q, %a, %b, !p; selp.b32 %y, 1, 0, q; }", W32, |a, b, c| ((a as u32 != b as u32) ^ (b as u32 <= c as u32)) as u64),
    row("{ .reg .pred p, q; setp.hi.u32 p|q, %a, %b; selp.b32 %y, 1, 0, q; }", W32, |a, b, _| (a as u32 <= b as u32) as u64),
    row("set.le.u32.s32 %y, %a, %b;", W32, |a, b, _| if a as i32 <= b as i32 { u32::MAX as u64 } else { 0 }),
    row("cvt.s32.s8 %y, %a;", W32, |a, _, _| a as i8 as i32 as u32 as u64),
    row("cvt.u32.u8 %y, %a;", W32, |a, _, _| a as u8 as u64),
    row("cvt.s64.s16 %y, %a;", [16, 16, 16, 64], |a, _, _| a as i16 as i64 as u64),
    row("cvt.sat.u8.s32 %y, %a;", W32, |a, _, _| (a as i32).clamp(0, 255) as u64),
    row("cvt.sat.s16.s32 %y, %a;", [32, 32, 32, 16], |a, _, _| (a as i32).clamp(-32768, 32767) as u16 as u64),
    row("cvt.sat.s32.u32 %y, %a;", W32, |a, _, _| (a as u32).min(i32::MAX as u32) as u64),
    row("cvt.u16.u64 %y, %a;", [64, 64, 64, 16], |a, _, _| a as u16 as u64),
    row("{ .reg .b16 l, h; mov.b32 {l, h}, %a; mov.b32 %y, {h, l}; }", W32, |a, _, _| (a as u32).rotate_left(16) as u64),
    row("{ .reg .b32 l, h; mov.b64 {l, h}, %a; mov.b64 %y, {h, l}; }", W64, |a, _, _| a.rotate_left(32)),
    row("{ .reg .b16 t0, t1, t2, t3; mov.b64 {t0, t1, t2, t3}, %a; mov.b64 %y, {t3, t2, t1, t0}; }", W64, |a, _, _| (0..4).map(|i| (a >> (16 * i) & 0xffff) << (48 - 16 * i)).sum()),
];

/// Loads the operands into registers of the row's widths, runs it in the lanes whose bit of `%x3` is set.
fn build(device: &Device, row: &Row) -> Kernel {
    let [a, b, c, y] = row.widths;
    let narrow = |name: &str, bits: u32, from: &str| match bits {
        64 => format!("mov.b64 %{name}, {from};\n"),
        bits => format!("cvt.u{bits}.u64 %{name}, {from};\n"),
    };
    let mut body = format!("{{ .reg .b{a} %a; .reg .b{b} %b; .reg .b{c} %c; .reg .b{y} %y; .reg .pred on;\n");
    body += &(narrow("a", a, "%x0") + &narrow("b", b, "%x1") + &narrow("c", c, "%x2"));
    body += &format!("mov.b{y} %y, {};\n", if y == 16 { "0x1234" } else { "0x12345678" });
    body += "setp.ne.u64 on, %x3, 0;\n@!on bra SKIP;\n";
    body += row.text;
    body += "\nSKIP:\n";
    body += &if y == 64 { "mov.b64 %y0, %y;\n".to_owned() } else { format!("cvt.u64.u{y} %y0, %y;\n") };
    kernel(device, &lanes_ptx(&(body + "}"), 4, 1))
}

fn operand() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
        0u64..70,
        prop::sample::select(vec![
            0,
            1,
            2,
            31,
            32,
            33,
            63,
            64,
            127,
            128,
            255,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            i64::MAX as u64,
            i64::MIN as u64,
            u64::MAX,
        ]),
    ]
}

fn rows() -> impl Strategy<Value = Vec<[u64; 3]>> {
    prop::collection::vec([operand(), operand(), operand()], 32)
}

#[test]
fn agree_with_rust() {
    let paths: Vec<(Device, Vec<Kernel>)> = [true, false]
        .map(|wide| {
            let device = device(1, wide);
            let kernels = TABLE.iter().map(|row| build(&device, row)).collect();
            (device, kernels)
        })
        .into();
    let buffers: Vec<[u64; 2]> =
        paths.iter().map(|(d, _)| [d.alloc(4 * 256).unwrap(), d.alloc(256).unwrap()]).collect();
    proptest!(ProptestConfig::with_cases(48), |(operands in rows(), on in any::<u32>(), all in any::<bool>())| {
        let on = if all { u32::MAX } else { on };
        let column = |f: &dyn Fn(usize) -> u64| (0..32).flat_map(|l| f(l).to_le_bytes()).collect::<Vec<u8>>();
        let mut input = Vec::new();
        for i in 0..3 {
            input.extend(column(&|l| operands[l][i]));
        }
        input.extend(column(&|l| (on >> l & 1) as u64));
        for ((device, kernels), [from, to]) in paths.iter().zip(&buffers) {
            device.write(*from, &input).unwrap();
            for (row, kernel) in TABLE.iter().zip(kernels) {
                device.launch(kernel, &launch(1, 32), &pack(&[*from, *to])).unwrap();
                let got = download::<u64>(device, *to, 32);
                for l in 0..32 {
                    let [a, b, c] = operands[l];
                    let untouched = if row.widths[3] == 16 { 0x1234 } else { 0x1234_5678 };
                    let want = if on >> l & 1 != 0 { (row.expected)(a, b, c) } else { untouched };
                    prop_assert_eq!(got[l], want, "{} with {:#x} {:#x} {:#x} in lane {}", row.text, a, b, c, l);
                }
            }
        }
    });
}
