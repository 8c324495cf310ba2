//! Floating-point instructions and conversions: against Rust's arithmetic, the `half` crate, and, for directed rounding,
//! exact integers.

#![allow(clippy::needless_range_loop, reason = "a lane number indexes several rows at once")]

mod common;
use common::*;
use half::{bf16, f16};
use proptest::prelude::*;
use softcuda::{Device, Kernel};

struct Row {
    text: &'static str,
    widths: [u32; 4],
    expected: fn(u64, u64, u64) -> u64,
}

const fn row(text: &'static str, widths: [u32; 4], expected: fn(u64, u64, u64) -> u64) -> Row {
    Row { text, widths, expected }
}

const F32: [u32; 4] = [32; 4];
const F64: [u32; 4] = [64; 4];
const F16: [u32; 4] = [16; 4];

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

fn h(x: u64) -> f64 {
    f16::from_bits(x as u16).to_f64()
}

fn b(x: u64) -> f64 {
    bf16::from_bits(x as u16).to_f64()
}

/// PTX's f32 NaN is always this one.
fn r32(x: f32) -> u64 {
    if x.is_nan() { 0x7fff_ffff } else { x.to_bits() as u64 }
}

fn r64(x: f64) -> u64 {
    if x.is_nan() { 0x7ff8_0000_0000_0000 } else { x.to_bits() }
}

/// `half` converts from the upper 32 bits of an f64 alone; what the lower ones hold is folded into the last of those.
fn sticky(x: f64) -> f64 {
    let bits = x.to_bits();
    f64::from_bits(bits & !0xffff_ffff | ((bits as u32 != 0) as u64) << 32)
}

fn r16(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { f16::from_f64(sticky(x)).to_bits() as u64 }
}

fn rb16(x: f64) -> u64 {
    if x.is_nan() { 0x7fff } else { bf16::from_f64(sticky(x)).to_bits() as u64 }
}

fn ftz(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn sat(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 }
}

/// IEEE 754-2019 minimumNumber, which `min` is.
fn min_number(a: f32, b: f32) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a == b => {
            if a.is_sign_negative() {
                a
            } else {
                b
            }
        }
        _ => {
            if a < b {
                a
            } else {
                b
            }
        }
    }
}

fn max_number(a: f32, b: f32) -> f32 {
    -min_number(-a, -b)
}

fn mask(x: bool) -> u64 {
    if x { 1 } else { 0 }
}

/// A float to an integer type: truncated, saturated, 0 for NaN.
fn int(x: f64, low: i128, high: i128) -> i128 {
    if x.is_nan() { 0 } else { (x as i128).clamp(low, high) }
}

macro_rules! compare {
    ($name:literal, $e:expr) => {
        row(concat!("{ .reg .pred p; setp.", $name, ".f32 p, %a, %b; selp.b32 %y, 1, 0, p; }"), F32, |x, y, _| {
            let test: fn(f32, f32) -> bool = $e;
            mask(test(f(x), f(y)))
        })
    };
}

#[rustfmt::skip]
const TABLE: &[Row] = &[
    row("add.rn.f32 %y, %a, %b;", F32, |a, b, _| r32(f(a) + f(b))),
    row("add.f32 %y, %a, %b;", F32, |a, b, _| r32(f(a) + f(b))),
    row("add.rn.ftz.f32 %y, %a, %b;", F32, |a, b, _| r32(ftz(ftz(f(a)) + ftz(f(b))))),
    row("add.sat.f32 %y, %a, %b;", F32, |a, b, _| r32(sat(f(a) + f(b)))),
    row("sub.rn.f32 %y, %a, %b;", F32, |a, b, _| r32(f(a) - f(b))),
    row("mul.rn.f32 %y, %a, %b;", F32, |a, b, _| r32(f(a) * f(b))),
    row("mul.ftz.f32 %y, %a, %b;", F32, |a, b, _| r32(ftz(ftz(f(a)) * ftz(f(b))))),
    row("fma.rn.f32 %y, %a, %b, %c;", F32, |a, b, c| r32(f(a).mul_add(f(b), f(c)))),
    row("fma.rn.ftz.f32 %y, %a, %b, %c;", F32, |a, b, c| r32(ftz(ftz(f(a)).mul_add(ftz(f(b)), ftz(f(c)))))),
    row("fma.rn.sat.f32 %y, %a, %b, %c;", F32, |a, b, c| r32(sat(f(a).mul_add(f(b), f(c))))),
    row("div.rn.f32 %y, %a, %b;", F32, |a, b, _| r32(f(a) / f(b))),
    row("rcp.rn.f32 %y, %a;", F32, |a, _, _| r32(1.0 / f(a))),
    row("sqrt.rn.f32 %y, %a;", F32, |a, _, _| r32(f(a).sqrt())),
    row("min.f32 %y, %a, %b;", F32, |a, b, _| r32(min_number(f(a), f(b)))),
    row("max.f32 %y, %a, %b;", F32, |a, b, _| r32(max_number(f(a), f(b)))),
    row("min.NaN.f32 %y, %a, %b;", F32, |a, b, _| r32(if f(a).is_nan() || f(b).is_nan() { f32::NAN } else { min_number(f(a), f(b)) })),
    row("max.NaN.f32 %y, %a, %b;", F32, |a, b, _| r32(if f(a).is_nan() || f(b).is_nan() { f32::NAN } else { max_number(f(a), f(b)) })),
    row("abs.f32 %y, %a;", F32, |a, _, _| a & 0x7fff_ffff),
    row("neg.f32 %y, %a;", F32, |a, _, _| (a ^ 0x8000_0000) & 0xffff_ffff),
    row("copysign.f32 %y, %a, %b;", F32, |a, b, _| a & 0x8000_0000 | b & 0x7fff_ffff),
    row("add.rn.f64 %y, %a, %b;", F64, |a, b, _| r64(d(a) + d(b))),
    row("sub.f64 %y, %a, %b;", F64, |a, b, _| r64(d(a) - d(b))),
    row("mul.rn.f64 %y, %a, %b;", F64, |a, b, _| r64(d(a) * d(b))),
    row("fma.rn.f64 %y, %a, %b, %c;", F64, |a, b, c| r64(d(a).mul_add(d(b), d(c)))),
    row("div.rn.f64 %y, %a, %b;", F64, |a, b, _| r64(d(a) / d(b))),
    row("sqrt.rn.f64 %y, %a;", F64, |a, _, _| r64(d(a).sqrt())),
    row("add.rn.f16 %y, %a, %b;", F16, |x, y, _| r16(h(x) + h(y))),
    row("sub.rn.f16 %y, %a, %b;", F16, |x, y, _| r16(h(x) - h(y))),
    row("mul.rn.f16 %y, %a, %b;", F16, |x, y, _| r16(h(x) * h(y))),
    row("fma.rn.f16 %y, %a, %b, %c;", F16, |x, y, z| r16(h(x).mul_add(h(y), h(z)))),
    row("neg.f16 %y, %a;", F16, |x, _, _| (x ^ 0x8000) & 0xffff),
    row("add.rn.f16x2 %y, %a, %b;", F32, |x, y, _| r16(h(x) + h(y)) | r16(h(x >> 16) + h(y >> 16)) << 16),
    row("mul.rn.f16x2 %y, %a, %b;", F32, |x, y, _| r16(h(x) * h(y)) | r16(h(x >> 16) * h(y >> 16)) << 16),
    row("fma.rn.f16x2 %y, %a, %b, %c;", F32, |x, y, z| r16(h(x).mul_add(h(y), h(z))) | r16(h(x >> 16).mul_add(h(y >> 16), h(z >> 16))) << 16),
    row("max.f16 %y, %a, %b;", F16, |x, y, _| r16(max_number(h(x) as f32, h(y) as f32) as f64)),
    row("abs.bf16 %y, %a;", F16, |x, _, _| x & 0x7fff),
    row("min.bf16 %y, %a, %b;", F16, |x, y, _| rb16(min_number(b(x) as f32, b(y) as f32) as f64)),
    row("cvt.f32.f16 %y, %a;", [16, 16, 16, 32], |x, _, _| r32(h(x) as f32)),
    row("cvt.f64.f16 %y, %a;", [16, 16, 16, 64], |x, _, _| r64(h(x))),
    row("cvt.f32.bf16 %y, %a;", [16, 16, 16, 32], |x, _, _| r32(b(x) as f32)),
    row("cvt.rn.f16.f32 %y, %a;", [32, 32, 32, 16], |x, _, _| r16(f(x) as f64)),
    row("cvt.rn.bf16.f32 %y, %a;", [32, 32, 32, 16], |x, _, _| if f(x).is_nan() { 0x7fff } else { bf16::from_f32(f(x)).to_bits() as u64 }),
    row("cvt.rn.f16.f64 %y, %a;", [64, 64, 64, 16], |x, _, _| r16(d(x))),
    row("cvt.rn.f16x2.f32 %y, %a, %b;", F32, |x, y, _| r16(f(x) as f64) << 16 | r16(f(y) as f64)),
    row("cvt.rn.bf16x2.f32 %y, %a, %b;", F32, |x, y, _| {
        let one = |v: u64| if f(v).is_nan() { 0x7fff } else { bf16::from_f32(f(v)).to_bits() as u64 };
        one(x) << 16 | one(y)
    }),
    row("cvt.f64.f32 %y, %a;", [32, 32, 32, 64], |x, _, _| r64(f(x) as f64)),
    row("cvt.rn.f32.f64 %y, %a;", [64, 64, 64, 32], |x, _, _| r32(d(x) as f32)),
    row("cvt.rni.f32.f32 %y, %a;", F32, |x, _, _| r32(f(x).round_ties_even())),
    row("cvt.rzi.f32.f32 %y, %a;", F32, |x, _, _| r32(f(x).trunc())),
    row("cvt.rmi.f32.f32 %y, %a;", F32, |x, _, _| r32(f(x).floor())),
    row("cvt.rpi.f32.f32 %y, %a;", F32, |x, _, _| r32(f(x).ceil())),
    row("cvt.sat.f32.f32 %y, %a;", F32, |x, _, _| r32(sat(f(x)))),
    row("cvt.rzi.s32.f32 %y, %a;", F32, |x, _, _| int(f(x) as f64, i32::MIN as i128, i32::MAX as i128) as u32 as u64),
    row("cvt.rzi.u32.f32 %y, %a;", F32, |x, _, _| int(f(x) as f64, 0, u32::MAX as i128) as u64),
    row("cvt.rni.s32.f32 %y, %a;", F32, |x, _, _| int(f(x).round_ties_even() as f64, i32::MIN as i128, i32::MAX as i128) as u32 as u64),
    row("cvt.rmi.s32.f32 %y, %a;", F32, |x, _, _| int(f(x).floor() as f64, i32::MIN as i128, i32::MAX as i128) as u32 as u64),
    row("cvt.rpi.s32.f32 %y, %a;", F32, |x, _, _| int(f(x).ceil() as f64, i32::MIN as i128, i32::MAX as i128) as u32 as u64),
    row("cvt.rzi.s16.f32 %y, %a;", [32, 32, 32, 16], |x, _, _| int(f(x) as f64, -32768, 32767) as u16 as u64),
    row("cvt.rzi.s64.f32 %y, %a;", [32, 32, 32, 64], |x, _, _| if f(x).is_nan() { 1 << 63 } else { f(x) as i64 as u64 }),
    row("cvt.rzi.u64.f64 %y, %a;", F64, |x, _, _| if d(x).is_nan() { 1 << 63 } else { d(x) as u64 }),
    row("cvt.rzi.s32.f64 %y, %a;", [64, 64, 64, 32], |x, _, _| (d(x) as i32) as u32 as u64),
    row("cvt.rn.f32.s32 %y, %a;", F32, |x, _, _| r32(x as i32 as f32)),
    row("cvt.rn.f32.u32 %y, %a;", F32, |x, _, _| r32(x as u32 as f32)),
    row("cvt.rn.f32.s64 %y, %a;", [64, 64, 64, 32], |x, _, _| r32(x as i64 as f32)),
    row("cvt.rn.f32.u64 %y, %a;", [64, 64, 64, 32], |x, _, _| r32(x as f32)),
    row("cvt.rn.f64.s64 %y, %a;", F64, |x, _, _| r64(x as i64 as f64)),
    row("cvt.rn.f64.u32 %y, %a;", [32, 32, 32, 64], |x, _, _| r64(x as u32 as f64)),
    row("cvt.rn.f32.u16 %y, %a;", [16, 16, 16, 32], |x, _, _| r32(x as u16 as f32)),
    row("cvt.rn.f32.s8 %y, %a;", [16, 16, 16, 32], |x, _, _| r32(x as i8 as f32)),
    row("cvt.rn.f16.s32 %y, %a;", [32, 32, 32, 16], |x, _, _| r16(x as i32 as f64)),
    row("cvt.rn.f16.u16 %y, %a;", F16, |x, _, _| r16(x as u16 as f64)),
    row("cvt.rzi.s32.f16 %y, %a;", [16, 16, 16, 32], |x, _, _| int(h(x), i32::MIN as i128, i32::MAX as i128) as u32 as u64),
    compare!("eq", |a, b| a == b),
    compare!("ne", |a, b| a != b && !a.is_nan() && !b.is_nan()),
    compare!("lt", |a, b| a < b),
    compare!("le", |a, b| a <= b),
    compare!("gt", |a, b| a > b),
    compare!("ge", |a, b| a >= b),
    compare!("equ", |a, b| a == b || a.is_nan() || b.is_nan()),
    compare!("neu", |a, b| a != b),
    compare!("ltu", |a, b| a < b || a.is_nan() || b.is_nan()),
    compare!("leu", |a, b| a <= b || a.is_nan() || b.is_nan()),
    compare!("gtu", |a, b| a > b || a.is_nan() || b.is_nan()),
    compare!("geu", |a, b| a >= b || a.is_nan() || b.is_nan()),
    compare!("num", |a, b| !a.is_nan() && !b.is_nan()),
    compare!("nan", |a, b| a.is_nan() || b.is_nan()),
    row("{ .reg .pred p; testp.subnormal.f32 p, %a; selp.b32 %y, 1, 0, p; }", F32, |x, _, _| mask(f(x).is_subnormal())),
    row("{ .reg .pred p; testp.finite.f64 p, %a; selp.b32 %y, 1, 0, p; }", [64, 64, 64, 32], |x, _, _| mask(d(x).is_finite())),
];

fn build(device: &Device, text: &str, [a, b, c, y]: [u32; 4]) -> Kernel {
    let narrow = |name: &str, bits: u32, from: &str| match bits {
        64 => format!("mov.b64 %{name}, {from};\n"),
        bits => format!("cvt.u{bits}.u64 %{name}, {from};\n"),
    };
    let mut body = format!("{{ .reg .b{a} %a; .reg .b{b} %b; .reg .b{c} %c; .reg .b{y} %y;\n");
    body += &(narrow("a", a, "%x0") + &narrow("b", b, "%x1") + &narrow("c", c, "%x2") + text);
    body += &if y == 64 { "mov.b64 %y0, %y;\n".to_owned() } else { format!("cvt.u64.u{y} %y0, %y;\n") };
    kernel(device, &lanes_ptx(&(body + "}"), 3, 1))
}

/// Bits that make interesting numbers in every format.
fn operand() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        any::<f32>().prop_map(|x| x.to_bits() as u64),
        (-70000f32..70000.0).prop_map(|x| x.to_bits() as u64),
        any::<f64>().prop_map(f64::to_bits),
        (-1e10f64..1e10).prop_map(f64::to_bits),
        any::<u16>().prop_map(u64::from),
        prop::sample::select(vec![
            0,
            1,
            0x8000,
            0x3c00,
            0x3c01,
            0x7bff,
            0x7c00,
            0x7c01,
            0xfc00,
            0x7fff,
            0x0400,
            0x03ff,
            0x3f80,
            0x7f80,
            0x3f80_0000,
            0x8000_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7f7f_ffff,
            0x0080_0000,
            0x007f_ffff,
            0x7fc0_0000,
            0xffc1_2345,
            0x477f_f000,
            0x477f_efff,
            0x3380_0000,
            0x3300_0001,
            0x3f00_0000,
            0x3fc0_0000,
            0x4020_0000,
            0x4f00_0000,
            0xcf00_0000,
            0x4f80_0000,
            0x3f80_8000,
            0x3ff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0xfff8_0000_0000_0001,
            0x8000_0000_0000_0000,
            0x7fff_ffff,
            u64::MAX,
            i64::MAX as u64,
        ]),
    ]
}

#[test]
fn agree_with_rust() {
    let paths: Vec<(Device, Vec<Kernel>)> = [true, false]
        .map(|wide| {
            let device = device(1, wide);
            let kernels = TABLE.iter().map(|row| build(&device, row.text, row.widths)).collect();
            (device, kernels)
        })
        .into();
    let buffers: Vec<[u64; 2]> =
        paths.iter().map(|(d, _)| [d.alloc(3 * 256).unwrap(), d.alloc(256).unwrap()]).collect();
    let rows = prop::collection::vec([operand(), operand(), operand()], 32);
    proptest!(ProptestConfig::with_cases(96), |(operands in rows)| {
        let input: Vec<u8> = (0..3).flat_map(|i| operands.iter().flat_map(move |o| o[i].to_le_bytes())).collect();
        for ((device, kernels), [from, to]) in paths.iter().zip(&buffers) {
            device.write(*from, &input).unwrap();
            for (row, kernel) in TABLE.iter().zip(kernels) {
                device.launch(kernel, &launch(1, 32), &pack(&[*from, *to])).unwrap();
                let got = download::<u64>(device, *to, 32);
                for l in 0..32 {
                    let [a, b, c] = operands[l];
                    let want = (row.expected)(a, b, c);
                    prop_assert_eq!(got[l], want, "{}: {:#x}, expected {:#x}, with {:#x} {:#x} {:#x}", row.text, got[l], want, a, b, c);
                }
            }
        }
    });
}

/// `value * 2^scale`, rounded to f32 in a direction by integer arithmetic alone. Magnitudes stay in the normal range.
fn round_exact(value: i128, scale: i32, mode: &str) -> f32 {
    if value == 0 {
        return 0.0;
    }
    let size = value.unsigned_abs();
    let spare = (128 - size.leading_zeros()).saturating_sub(24);
    let (kept, lost) = (size >> spare, size & ((1 << spare) - 1));
    let half = if spare == 0 { 1 } else { 1u128 << (spare - 1) };
    let up = match mode {
        "rn" => lost > half || (lost == half && kept & 1 == 1 && spare > 0),
        "rz" => false,
        "rm" => value < 0 && lost != 0,
        _ => value > 0 && lost != 0,
    };
    let magnitude = (kept + up as u128) as f64 * ((spare as i32 + scale) as f64).exp2();
    (if value < 0 { -magnitude } else { magnitude }) as f32
}

#[test]
fn directed_rounding_is_exact() {
    let device = device(1, true);
    let modes = ["rn", "rz", "rm", "rp"];
    let kernels: Vec<[Kernel; 4]> = modes
        .iter()
        .map(|m| {
            [
                build(&device, &format!("add.{m}.f32 %y, %a, %b;"), F32),
                build(&device, &format!("mul.{m}.f32 %y, %a, %b;"), F32),
                build(&device, &format!("fma.{m}.f32 %y, %a, %b, %c;"), F32),
                build(&device, &format!("cvt.{m}.f32.s64 %y, %a;"), [64, 64, 64, 32]),
            ]
        })
        .collect();
    let (from, to) = (device.alloc(3 * 256).unwrap(), device.alloc(256).unwrap());
    // Mantissa and exponent; the sum of exponents keeps every exact result within 128 bits.
    let number = || (-(1i32 << 24) + 1..1i32 << 24, 0i32..16);
    let rows = prop::collection::vec((number(), number(), number()), 32);
    proptest!(ProptestConfig::with_cases(64), |(operands in rows, wide in any::<i64>())| {
        let bits = |(m, e): (i32, i32)| ((m as f32) * (e as f32).exp2()).to_bits() as u64;
        let exact = |(m, e): (i32, i32)| (m as i128) << e;
        let columns: Vec<u64> = operands.iter().map(|o| bits(o.0)).chain(operands.iter().map(|o| bits(o.1))).chain(operands.iter().map(|o| bits(o.2))).collect();
        let input: Vec<u8> = columns.iter().flat_map(|c| c.to_le_bytes()).collect();
        for (mode, [add, mul, fma, cvt]) in modes.iter().zip(&kernels) {
            device.write(from, &input).unwrap();
            let run = |k: &Kernel| { device.launch(k, &launch(1, 32), &pack(&[from, to])).unwrap(); download::<u64>(&device, to, 32) };
            let (sums, products, fused) = (run(add), run(mul), run(fma));
            for (l, &(a, b, c)) in operands.iter().enumerate() {
                let want = round_exact(exact(a) + exact(b), 0, mode);
                prop_assert_eq!(f(sums[l]).abs().to_bits(), want.abs().to_bits(), "add.{} of {:?} {:?}", mode, a, b);
                prop_assert_eq!(f(sums[l]) < 0.0, want < 0.0);
                let want = round_exact(exact(a) * exact(b), 0, mode);
                prop_assert_eq!(f(products[l]), want, "mul.{} of {:?} {:?}", mode, a, b);
                let want = round_exact(exact(a) * exact(b) + exact(c), 0, mode);
                prop_assert_eq!(f(fused[l]), want, "fma.{} of {:?} {:?} {:?}", mode, a, b, c);
            }
            device.write(from, &wide.to_le_bytes()).unwrap();
            let got = run(cvt);
            prop_assert_eq!(f(got[0]), round_exact(wide as i128, 0, mode), "cvt.{} of {}", mode, wide);
        }
    });
}

/// Division and square root in each direction bracket the true value: the next number towards it would be past it.
#[test]
fn directed_division_brackets() {
    let device = device(1, true);
    let [down, up, near, root_down, root_up] = [
        "div.rm.f32 %y, %a, %b;",
        "div.rp.f32 %y, %a, %b;",
        "div.rn.f32 %y, %a, %b;",
        "sqrt.rm.f32 %y, %a;",
        "sqrt.rp.f32 %y, %a;",
    ]
    .map(|t| build(&device, t, F32));
    let (from, to) = (device.alloc(3 * 256).unwrap(), device.alloc(256).unwrap());
    proptest!(ProptestConfig::with_cases(256), |(a in 1e-10f32..1e10, b in 1e-10f32..1e10, negative in any::<bool>())| {
        let b = if negative { -b } else { b };
        let input: Vec<u8> = [a, b].iter().flat_map(|x| [x.to_bits() as u64; 32]).flat_map(u64::to_le_bytes).collect();
        device.write(from, &input).unwrap();
        let run = |k: &Kernel| { device.launch(k, &launch(1, 32), &pack(&[from, to])).unwrap(); f(download::<u64>(&device, to, 32)[7]) };
        // a - q b is exact in f64 for f32 q near a / b (24 + 24 bits), and its sign tells the side of q.
        let side = |q: f32| ((a as f64) - q as f64 * b as f64) * (b as f64).signum();
        let (d, u, n) = (run(&down), run(&up), run(&near));
        prop_assert!(side(d) >= 0.0 && side(d.next_up()) < 0.0, "{a} / {b} down is {d}");
        prop_assert!(side(u) <= 0.0 && side(u.next_down()) > 0.0, "{a} / {b} up is {u}");
        prop_assert_eq!(n, a / b);
        let (d, u) = (run(&root_down), run(&root_up));
        prop_assert!((d as f64).powi(2) <= a as f64 && (d.next_up() as f64).powi(2) > a as f64);
        prop_assert!((u as f64).powi(2) >= a as f64 && (u.next_down() as f64).powi(2) < a as f64);
    });
}

/// A product that ends halfway between two bf16 values, and an addend far below f64's last bit of it: rounding twice would
/// lose the addend.
#[test]
fn bf16_fma_rounds_once() {
    // 1.0078125 * 1.5 = 1.51171875, halfway between 1.5078125 and 1.515625.
    let (a, b) = (bf16::from_f32(1.0078125), bf16::from_f32(1.5));
    let cases = [(1e-30f32, 1.515625f32), (-1e-30, 1.5078125), (0.0, 1.515625)];
    for (c, want) in cases {
        let row = |x: bf16| [x.to_bits() as u64; 32];
        let body = "{ .reg .b16 a, b, c; cvt.u16.u64 a, %x0; cvt.u16.u64 b, %x1; cvt.u16.u64 c, %x2;
            fma.rn.bf16 a, a, b, c; cvt.u64.u16 %y0, a; }";
        let got = lanes(body, &[row(a), row(b), row(bf16::from_f32(c))], 1);
        assert_eq!(bf16::from_bits(got[0][0] as u16).to_f32(), want, "with addend {c}");
    }
}

/// Approximate functions are within two units in the last place, and right at the ends.
#[test]
fn approximate_functions() {
    type Function = fn(f64) -> f64;
    let functions: [(&str, Function); 9] = [
        ("rcp.approx.ftz.f32", |x| 1.0 / x),
        ("sqrt.approx.f32", f64::sqrt),
        ("rsqrt.approx.f32", |x| 1.0 / x.sqrt()),
        ("ex2.approx.f32", f64::exp2),
        ("ex2.approx.ftz.f32", f64::exp2),
        ("lg2.approx.f32", f64::log2),
        ("sin.approx.f32", f64::sin),
        ("cos.approx.ftz.f32", f64::cos),
        ("tanh.approx.f32", f64::tanh),
    ];
    let input: [u64; 32] = std::array::from_fn(|l| (0.37f32 * l as f32 + 0.01).to_bits() as u64);
    let ends: [u64; 32] =
        std::array::from_fn(|l| [f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::NAN][l % 4].to_bits() as u64);
    for (name, expected) in functions {
        let body = format!(
            "{{ .reg .f32 a; cvt.u32.u64 %r1, %x0; mov.b32 a, %r1; {name} a, a; mov.b32 %r1, a; cvt.u64.u32 %y0, %r1; }}"
        );
        for inputs in [input, ends] {
            let got = lanes(&body, &[inputs], 1);
            for l in 0..32 {
                let want = expected(f(inputs[l]) as f64) as f32;
                let got = f(got[0][l]);
                assert!(
                    got == want
                        || (got.is_nan() && want.is_nan())
                        || (got - want).abs() <= 2.0 * want.abs() * f32::EPSILON,
                    "{name} of {}: {got}, expected {want}",
                    f(inputs[l])
                );
            }
        }
    }
}

#[test]
fn approximate_functions_of_16_bits() {
    use half::{bf16, f16};
    let values: [[f32; 2]; 32] = std::array::from_fn(|l| [0.37 * l as f32 - 8.0, 3.0 - 0.21 * l as f32]);
    type Function = fn(f64) -> f64;
    for (function, expected) in [("ex2", f64::exp2 as Function), ("tanh", f64::tanh)] {
        for (kind, brain) in [("f16x2", false), ("bf16x2", true), ("f16", false), ("bf16", true)] {
            let encode = |v: f32| if brain { bf16::from_f32(v).to_bits() } else { f16::from_f32(v).to_bits() };
            let decode = |v: u16| if brain { bf16::from_bits(v).to_f64() } else { f16::from_bits(v).to_f64() };
            // bf16's exponential is flushing by name.
            let ftz = if brain && function == "ex2" { ".ftz" } else { "" };
            let instruction = format!("{function}.approx{ftz}.{kind}");
            let body = if kind.ends_with("x2") {
                format!("cvt.u32.u64 %r1, %x0; {instruction} %r1, %r1; cvt.u64.u32 %y0, %r1;")
            } else {
                format!("cvt.u16.u64 %h1, %x0; {instruction} %h1, %h1; cvt.u64.u16 %y0, %h1;")
            };
            let packed = values.map(|[low, high]| encode(low) as u64 | (encode(high) as u64) << 16);
            let got = lanes(&body, &[packed], 1);
            for l in 0..32 {
                let halves = if kind.ends_with("x2") { 2 } else { 1 };
                for half in 0..halves {
                    let want = expected(decode(encode(values[l][half])));
                    let got = decode((got[0][l] >> (16 * half)) as u16);
                    // Half a unit of the format.
                    let unit = if brain { 1.0 / 256.0 } else { 1.0 / 2048.0 };
                    assert!((got - want).abs() <= unit * want.abs(), "{instruction}: {got}, expected {want}");
                }
            }
        }
    }
}

#[test]
fn conversion_to_tensor_float_rounds_ties_away() {
    // 13 bits go: below half, half, above half; of either sign.
    let input: [u64; 32] = std::array::from_fn(|l| {
        let fraction = [0x0fff, 0x1000, 0x1001, 0x3000][l % 4];
        (if l < 16 { 0x3f80_0000u32 } else { 0xc120_0000 } | fraction) as u64
    });
    let body = "cvt.u32.u64 %r1, %x0; { .reg .f32 a; mov.b32 a, %r1; cvt.rna.tf32.f32 %r2, a; } cvt.u64.u32 %y0, %r2;";
    let got = lanes(body, &[input], 1);
    for l in 0..32 {
        assert_eq!(got[0][l] & !0x1fff, (input[l] + 0x1000) & !0x1fff, "{:#x}", input[l]);
    }
}
