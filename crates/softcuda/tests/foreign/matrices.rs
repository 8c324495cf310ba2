//! Tensor cores, and the formats of 8 bits.

use crate::{Foreign, Random, grid};
use half::f16;
use softcuda::Launch;

#[test]
fn mma() {
    let f = Foreign::load("mma");
    let mut random = Random(11);
    let mut small = || (random.next() % 33) as f32 / 8.0 - 2.0;
    let a: Vec<f32> = (0..16 * 16).map(|_| small()).collect();
    let b: Vec<f32> = (0..16 * 8).map(|_| small()).collect();
    let pair = |low: f32, high: f32| f16::from_f32(low).to_bits() as u32 | (f16::from_f32(high).to_bits() as u32) << 16;
    let (mut fa, mut fb) = (vec![0u32; 128], vec![0u32; 64]);
    for l in 0..32 {
        for r in 0..4 {
            let at = (l / 4 + 8 * (r % 2)) * 16 + l % 4 * 2 + 8 * (r / 2);
            fa[32 * r + l] = pair(a[at], a[at + 1]);
        }
        for r in 0..2 {
            let k = l % 4 * 2 + 8 * r;
            fb[32 * r + l] = pair(b[k * 8 + l / 4], b[(k + 1) * 8 + l / 4]);
        }
    }
    let (da, db, dc) = (f.put(&fa), f.put(&fb), f.put(&[0f32; 128]));
    f.run(grid(1, 32), &[da, db, dc]);
    let out = f.get::<f32>(dc, 128);
    for l in 0..32 {
        for i in 0..4 {
            let (row, column) = (l / 4 + 8 * (i / 2), l % 4 * 2 + i % 2);
            let sum: f32 = (0..16).map(|k| a[row * 16 + k] * b[k * 8 + column]).sum();
            assert_eq!(out[4 * l + i], sum, "{row} {column}");
        }
    }
}

#[test]
fn wmma() {
    let f = Foreign::load("wmma");
    let n = 80usize;
    let mut random = Random(12);
    let mut small = || (random.next() % 17) as f32 / 8.0 - 1.0;
    let a: Vec<f32> = (0..n * n).map(|_| small()).collect();
    let b: Vec<f32> = (0..n * n).map(|_| small()).collect();
    let bits = |m: &[f32]| m.iter().map(|&v| f16::from_f32(v).to_bits()).collect::<Vec<u16>>();
    let (da, db, dc) = (f.put(&bits(&a)), f.put(&bits(&b)), f.put(&vec![0f32; n * n]));
    let launch = Launch { grid: [5, 5, 1], block: [32, 1, 1], ..grid(1, 1) };
    f.run(launch, &[da, db, dc, n as u64]);
    let out = f.get::<f32>(dc, n * n);
    for row in 0..n {
        for column in 0..n {
            let sum: f32 = (0..n).map(|k| a[row * n + k] * b[column * n + k]).sum();
            assert_eq!(out[row * n + column], sum, "{row} {column}");
        }
    }
}

#[test]
fn warpgroup_instructions_without_a_product() {
    Foreign::load("wgmma").run(grid(1, 128), &[]);
}

/// Right by the definition of e4m3: 4 bits of exponent with bias 7, 3 of fraction, nothing above 448.
#[test]
fn eight_bit_floats() {
    let f = Foreign::load("fp8");
    let values: Vec<f32> = (0..256u32)
        .map(|i| match i {
            0 => 0.0,
            1 => -0.0,
            2 => 448.0,
            3 => 1e9,
            4 => f32::NAN,
            5 => -f32::INFINITY,
            i => (i as f32 - 128.0) * 1.37 / (1 << (i % 13)) as f32,
        })
        .collect();
    let finite: Vec<f64> = (0..=126u32)
        .map(|code| {
            let (exponent, fraction) = ((code >> 3) as i32, (code & 7) as f64);
            if exponent == 0 { fraction / 512.0 } else { (1.0 + fraction / 8.0) * 2f64.powi(exponent - 7) }
        })
        .collect();
    let (a, b, c) = (f.put(&values), f.put(&[0u8; 256]), f.put(&[0f32; 256]));
    f.run(grid(1, 256), &[a, b, c]);
    let (codes, back) = (f.get::<u8>(b, 256), f.get::<f32>(c, 256));
    for (i, &v) in values.iter().enumerate() {
        if v.is_nan() {
            assert_eq!((codes[i] & 0x7f, back[i].is_nan()), (0x7f, true));
            continue;
        }
        let nearest = (0..127usize)
            .min_by(|&x, &y| {
                let distance = |code: usize| (finite[code] - (v.abs() as f64).min(448.0)).abs();
                distance(x).total_cmp(&distance(y)).then((x % 2).cmp(&(y % 2)))
            })
            .unwrap();
        let sign = if v.is_sign_negative() { 0x80 } else { 0 };
        assert_eq!(codes[i], nearest as u8 | sign, "{v}");
        assert_eq!(back[i].abs() as f64, finite[nearest], "{v}");
    }
}

fn number(kind: &str, raw: u32) -> f64 {
    match kind {
        "f16" => f16::from_bits(raw as u16).to_f64(),
        "bf16" => half::bf16::from_bits(raw as u16).to_f64(),
        "tf32" => f32::from_bits(raw & 0xffff_e000) as f64,
        "s8" => raw as u8 as i8 as f64,
        "u8" => raw as u8 as f64,
        "s4" => ((raw as i8) << 4 >> 4) as f64,
        "u4" => (raw & 15) as f64,
        "b1" => (raw & 1) as f64,
        "e4m3" | "e5m2" => {
            let (fraction, bias) = if kind == "e4m3" { (3, 7) } else { (2, 15) };
            let (exponent, part) =
                ((raw & 0x7f) >> fraction, (raw & ((1 << fraction) - 1)) as f64 / (1 << fraction) as f64);
            let value = if exponent == 0 {
                part * 2f64.powi(1 - bias)
            } else {
                (1.0 + part) * 2f64.powi(exponent as i32 - bias)
            };
            if raw & 0x80 != 0 { -value } else { value }
        }
        _ => unreachable!("{kind}"),
    }
}

fn bits_of(kind: &str) -> usize {
    match kind {
        "f16" | "bf16" => 16,
        "tf32" => 32,
        "s4" | "u4" => 4,
        "b1" => 1,
        _ => 8,
    }
}

/// Each shape against the definition, with the fragments as the ISA's figures have them: 32 bits of a row of A, or of a column
/// of B, in each lane.
#[test]
fn products_of_every_shape() {
    let shapes: [(&str, usize, usize, &str, &str, &str); 14] = [
        ("m16n8k8_f32_f16_f16", 16, 8, "f32", "f16", "f16"),
        ("m16n8k16_f32_bf16_bf16", 16, 16, "f32", "bf16", "bf16"),
        ("m16n8k16_f16_f16_f16", 16, 16, "f16", "f16", "f16"),
        ("m16n8k8_f32_tf32_tf32", 16, 8, "f32", "tf32", "tf32"),
        ("m16n8k4_f32_tf32_tf32", 16, 4, "f32", "tf32", "tf32"),
        ("m16n8k32_s32_s8_u8", 16, 32, "s32", "s8", "u8"),
        ("m16n8k16_s32_u8_s8", 16, 16, "s32", "u8", "s8"),
        ("m8n8k16_s32_s8_s8", 8, 16, "s32", "s8", "s8"),
        ("m16n8k64_s32_s4_u4", 16, 64, "s32", "s4", "u4"),
        ("m16n8k32_s32_u4_s4", 16, 32, "s32", "u4", "s4"),
        ("m8n8k32_s32_s4_s4", 8, 32, "s32", "s4", "s4"),
        ("m16n8k256_s32_b1_b1", 16, 256, "s32", "b1", "b1"),
        ("m16n8k32_f32_e4m3_e5m2", 16, 32, "f32", "e4m3", "e5m2"),
        ("m16n8k32_f32_e5m2_e5m2", 16, 32, "f32", "e5m2", "e5m2"),
    ];
    let mut random = Random(41);
    for (name, m, k, sum, left, right) in shapes {
        let f = Foreign::load("products").choose(name);
        let mut word = |kind: &str| match kind {
            // Values whose products and sums are exact.
            "f16" | "bf16" => {
                let mut half = || {
                    let v = (random.next() % 17) as f32 / 4.0 - 2.0;
                    let bits =
                        if kind == "f16" { f16::from_f32(v).to_bits() } else { half::bf16::from_f32(v).to_bits() };
                    bits as u32
                };
                half() | half() << 16
            }
            "tf32" => ((random.next() % 17) as f32 / 4.0 - 2.0).to_bits(),
            "e4m3" | "e5m2" => {
                (0..4).fold(0, |w, _| w << 8 | (0x30 + random.next() as u32 % 16) | (random.next() as u32 & 1) << 7)
            }
            _ => random.next() as u32 ^ (random.next() as u32) << 9,
        };
        let (na, nb) = (m * k * bits_of(left) / 1024, 8 * k * bits_of(right) / 1024);
        let a: Vec<u32> = (0..32 * na).map(|_| word(left)).collect();
        let b: Vec<u32> = (0..32 * nb).map(|_| word(right)).collect();
        // Row, or column, and first k of a register.
        let at = |lane: usize, r: usize, kind: &str, rows: usize| {
            let packed = 32 / bits_of(kind);
            match rows {
                16 => (lane / 4 + 8 * (r % 2), lane % 4 * packed + 4 * packed * (r / 2)),
                _ => (lane / 4, lane % 4 * packed + 4 * packed * r),
            }
        };
        let unpack = |words: &[u32], count: usize, kind: &str, rows: usize| {
            let (bits, mut out) = (bits_of(kind), vec![0f64; rows * k]);
            for (lane, r) in (0..32).flat_map(|lane| (0..count).map(move |r| (lane, r))) {
                let (row, first) = at(lane, r, kind, rows);
                for i in 0..32 / bits {
                    let raw = words[32 * r + lane] >> (i * bits) & ((1u64 << bits) - 1) as u32;
                    out[row * k + first + i] = number(kind, raw);
                }
            }
            out
        };
        let (rows, columns) = (unpack(&a, na, left, m), unpack(&b, nb, right, 8));
        let (da, db, dc) = (f.put(&a), f.put(&b), f.put(&[0u32; 128]));
        f.run(grid(1, 32), &[da, db, dc]);
        let out = f.get::<u32>(dc, 128);
        for lane in 0..32 {
            for i in 0..m / 4 {
                let (row, column) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
                let expected: f64 = (0..k).map(|k2| rows[row * k + k2] * columns[column * k + k2]).sum();
                let got = match sum {
                    "f32" => f32::from_bits(out[32 * i + lane]) as f64,
                    "f16" => f16::from_bits((out[32 * (i / 2) + lane] >> (16 * (i % 2))) as u16).to_f64(),
                    _ => out[32 * i + lane] as i32 as f64,
                };
                let tolerance = if sum == "f16" { expected.abs() / 1024.0 } else { expected.abs() * 1e-6 };
                assert!((got - expected).abs() <= tolerance, "{name} {row} {column}: {got} instead of {expected}");
            }
        }
    }
}

#[test]
fn products_of_doubles() {
    let mut random = Random(42);
    for (name, m, k) in [("m8n8k4_f64", 8, 4), ("m16n8k8_f64", 16, 8)] {
        let f = Foreign::load("products").choose(name);
        let a: Vec<f64> = (0..m * k).map(|_| random.float() as f64).collect();
        let b: Vec<f64> = (0..8 * k).map(|_| random.float() as f64).collect();
        let (da, db, dc) = (f.put(&a), f.put(&b), f.put(&vec![0f64; m * 8]));
        f.run(grid(1, 32), &[da, db, dc]);
        let out = f.get::<f64>(dc, m * 8);
        for lane in 0..32 {
            for i in 0..m / 4 {
                let (row, column) = (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2);
                let expected: f64 = (0..k)
                    .map(|at| {
                        // Register r of lane 4 row + k holds row `row + 8 (r % 2)`, k `k % 4 + 4 (r / 2)`.
                        let r = if m == 16 { row / 8 + 2 * (at / 4) } else { 0 };
                        a[32 * r + row % 8 * 4 + at % 4] * b[32 * (at / 4) + column * 4 + at % 4]
                    })
                    .sum();
                assert!((out[32 * i + lane] - expected).abs() < 1e-14, "{name} {row} {column}");
            }
        }
    }
}

#[test]
fn matrices_are_stored_and_transposed() {
    let f = Foreign::load("products").choose("moves");
    let x: Vec<u32> = (0..128).map(|i| i * 0x0203 + 7).collect();
    let (dx, dy) = (f.put(&x), f.put(&[0u32; 224]));
    f.run(grid(1, 32), &[dx, dy]);
    let y = f.get::<u32>(dy, 224);
    // Element `row`, `column` of the matrix in register r.
    let element =
        |r: usize, row: usize, column: usize| x[32 * r + 4 * row + column / 2] >> (16 * (column % 2)) & 0xffff;
    for i in 0..128 {
        assert_eq!(y[i], x[i], "{i}");
    }
    for i in 0..64 {
        let (r, row, pair) = (2 + i / 32, i % 32 / 4, i % 4);
        assert_eq!(y[128 + i], element(r, 2 * pair, row) | element(r, 2 * pair + 1, row) << 16);
    }
    for lane in 0..32 {
        let (row, column) = (lane / 4, lane % 4 * 2);
        assert_eq!(y[192 + lane], element(0, column, row) | element(0, column + 1, row) << 16);
    }
}

#[test]
fn fragments_of_every_shape() {
    let mut random = Random(43);
    let mut small = |scale: f64| (random.next() % 9) as f64 * scale - 4.0 * scale;
    for (name, m, n, k, by_rows_a, by_rows_b, kind) in [
        ("f16_32_8_16", 32, 8, 16, true, true, "f16"),
        ("f16_8_32_16", 8, 32, 16, false, false, "half sums"),
        ("bf16_16", 16, 16, 16, true, false, "bf16"),
        ("tf32_16", 16, 16, 8, true, true, "tf32"),
        ("s8_16", 16, 16, 16, true, false, "s8"),
        ("u8_32", 32, 8, 16, false, true, "u8"),
        ("f64_8", 8, 8, 4, true, false, "f64"),
    ] {
        let f = Foreign::load("fragments").choose(name);
        let lift = if kind == "u8" { 4.0 } else { 0.0 };
        let a: Vec<f64> = (0..m * k).map(|_| small(1.0) + lift).collect();
        let b: Vec<f64> = (0..k * n).map(|_| small(1.0) + lift).collect();
        let c: Vec<f64> = (0..m * n).map(|_| small(2.0)).collect();
        let put = |values: &[f64], kind: &str| -> u64 {
            match kind {
                "f16" | "half sums" => f.put(&values.iter().map(|&v| f16::from_f64(v).to_bits()).collect::<Vec<_>>()),
                "bf16" => f.put(&values.iter().map(|&v| half::bf16::from_f64(v).to_bits()).collect::<Vec<_>>()),
                "f64" => f.put(values),
                "s8" | "u8" => f.put(&values.iter().map(|&v| v as i32 as u8).collect::<Vec<_>>()),
                "s32" => f.put(&values.iter().map(|&v| v as i32).collect::<Vec<_>>()),
                _ => f.put(&values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
            }
        };
        let sums = match kind {
            "half sums" | "f64" => kind,
            "s8" | "u8" => "s32",
            _ => "f32",
        };
        let (da, db, dc) = (put(&a, kind), put(&b, kind), put(&c, sums));
        f.run(grid(1, 32), &[da, db, dc]);
        let count = m * n;
        let out: Vec<f64> = match sums {
            "half sums" => f.get::<u16>(dc, count).into_iter().map(|v| f16::from_bits(v).to_f64()).collect(),
            "f64" => f.get(dc, count),
            "s32" => f.get::<i32>(dc, count).into_iter().map(f64::from).collect(),
            _ => f.get::<f32>(dc, count).into_iter().map(f64::from).collect(),
        };
        for row in 0..m {
            for column in 0..n {
                let sum: f64 = (0..k)
                    .map(|at| {
                        let x = if by_rows_a { a[row * k + at] } else { a[at * m + row] };
                        x * if by_rows_b { b[at * n + column] } else { b[column * k + at] }
                    })
                    .sum();
                assert_eq!(out[row * n + column], 2.0 * (sum + c[row * n + column]), "{name} {row} {column}");
            }
        }
    }
}

/// A matrix in shared memory as the descriptor says; `span` is that of the swizzle, 16 for none.
struct Laid {
    span: usize,
    leading: usize,
    stride: usize,
    transposed: bool,
    size: usize,
}

impl Laid {
    /// Where an element lies: the layouts of the ISA's section on `wgmma`'s shared memory, written out here again.
    fn offset(&self, row: usize, k: usize) -> usize {
        let offset = match (self.transposed, self.span) {
            (false, 16) => {
                row % 8 * 16 + row / 8 * self.stride + k * self.size / 16 * self.leading + k * self.size % 16
            }
            (false, span) => row % 8 * span + row / 8 * self.stride + k * self.size,
            (true, 16) => row % 8 * 2 + row / 8 * self.stride + k % 8 * 16 + k / 8 * self.leading,
            (true, span) => row * 2 % span + row * 2 / span * self.leading + k % 8 * span + k / 8 * self.stride,
        };
        let piece = match self.span {
            128 => offset >> 7 & 7,
            64 => offset >> 7 & 3,
            32 => offset >> 7 & 1,
            _ => 0,
        };
        offset ^ piece << 4
    }

    fn lay(&self, rows: usize, depth: usize, element: impl Fn(usize, usize) -> u32) -> Vec<u32> {
        let mut bytes = vec![0u8; 1024];
        for (row, k) in (0..rows).flat_map(|row| (0..depth).map(move |k| (row, k))) {
            let at = self.offset(row, k);
            if bytes.len() < at + 4 {
                bytes.resize((at + 4).next_multiple_of(1024), 0);
            }
            bytes[at..at + self.size].copy_from_slice(&element(row, k).to_le_bytes()[..self.size]);
        }
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }
}

#[test]
fn products_of_warpgroups() {
    let laid = |span, leading, stride, transposed, size| Laid { span, leading, stride, transposed, size };
    let cases = [
        ("f16_64x16", 16, 16, "f16", "f16", laid(16, 128, 256, false, 2), laid(16, 128, 256, false, 2), 1.0),
        ("f16_64x16", 16, 16, "f16", "f16", laid(128, 16, 1024, false, 2), laid(128, 16, 1024, false, 2), 1.0),
        ("f16_64x16_tb", 16, 16, "f16", "f16", laid(16, 128, 256, false, 2), laid(16, 128, 256, true, 2), -1.0),
        ("f16_64x16_tb", 16, 16, "f16", "f16", laid(32, 16, 256, false, 2), laid(32, 512, 256, true, 2), -1.0),
        ("bf16_64x64_tab", 64, 16, "bf16", "bf16", laid(128, 2048, 1024, true, 2), laid(128, 2048, 1024, true, 2), 1.0),
        ("bf16_64x64_tab", 64, 16, "bf16", "bf16", laid(64, 1024, 512, true, 2), laid(64, 1024, 512, true, 2), 1.0),
        ("tf32_64x8", 8, 8, "tf32", "tf32", laid(32, 16, 256, false, 4), laid(32, 16, 256, false, 4), 1.0),
        ("s8_64x32", 32, 32, "s8", "u8", laid(64, 16, 512, false, 1), laid(64, 16, 512, false, 1), 1.0),
        ("e4m3_64x24", 24, 32, "e4m3", "e5m2", laid(16, 128, 256, false, 1), laid(16, 128, 256, false, 1), 1.0),
    ];
    let mut random = Random(44);
    for (name, n, k, left, right, layout, other, sign) in cases {
        let mut word = |kind: &str| {
            let small = (random.next() % 17) as f32 / 4.0 - 2.0;
            match kind {
                "f16" => f16::from_f32(small).to_bits() as u32,
                "bf16" => half::bf16::from_f32(small).to_bits() as u32,
                "tf32" => small.to_bits(),
                "e4m3" | "e5m2" => (0x30 + random.next() as u32 % 16) | (random.next() as u32 & 1) << 7,
                _ => random.next() as u32 & 0xff,
            }
        };
        let a: Vec<u32> = (0..64 * k).map(|_| word(left)).collect();
        let b: Vec<u32> = (0..n * k).map(|_| word(right)).collect();
        let (la, lb) = (layout.lay(64, k, |r, at| a[r * k + at]), other.lay(n, k, |r, at| b[r * k + at]));
        for adds in [0u64, 1] {
            let f = Foreign::load("warpgroups").choose(name);
            let count = n / 2;
            let integer = left == "s8";
            let before = |i: usize| if integer { i as u32 % 97 } else { (i as f32 % 97.0).to_bits() };
            let c: Vec<u32> = (0..count * 128).map(before).collect();
            let (da, db, dc) = (f.put(&la), f.put(&lb), f.put(&c));
            let swizzle = [(16, 0u64), (128, 1), (64, 2), (32, 3)].iter().find(|s| s.0 == layout.span).unwrap().1;
            // One swizzle for both in these kernels.
            assert_eq!(layout.span, other.span);
            let launch = Launch { dynamic_shared: 4 * (la.len() + lb.len()) as u32, ..grid(1, 128) };
            let distances = [layout.leading, layout.stride, other.leading, other.stride].map(|v| v as u64);
            let arguments: Vec<u64> = [da, db, dc, la.len() as u64 / 4, lb.len() as u64 / 4]
                .into_iter()
                .chain(distances)
                .chain([swizzle, adds])
                .collect();
            f.run(launch, &arguments);
            let out = f.get::<u32>(dc, count * 128);
            for (i, thread) in (0..count).flat_map(|i| (0..128).map(move |thread| (i, thread))) {
                let (warp, lane) = (thread / 32, thread % 32);
                let row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
                let column = lane % 4 * 2 + i % 2 + 8 * (i / 4);
                let sum: f64 = (0..k).map(|at| number(left, a[row * k + at]) * number(right, b[column * k + at])).sum();
                let expected = sign * sum + adds as f64 * ((i * 128 + thread) % 97) as f64;
                let got = out[i * 128 + thread];
                let got = if integer { got as i32 as f64 } else { f32::from_bits(got) as f64 };
                let tolerance = 1e-6 * expected.abs();
                assert!((got - expected).abs() <= tolerance, "{name} {row} {column}: {got} instead of {expected}");
            }
        }
    }
}

#[test]
fn products_of_warpgroups_with_registers() {
    let f = Foreign::load("warpgroups").choose("registers");
    let mut random = Random(45);
    let mut small = || (random.next() % 17) as f32 / 4.0 - 2.0;
    let a: Vec<f32> = (0..64 * 16).map(|_| small()).collect();
    let b: Vec<f32> = (0..16 * 16).map(|_| small()).collect();
    let bits = |v: f32| f16::from_f32(v).to_bits() as u32;
    let mut fragments = vec![0u32; 4 * 128];
    for (r, thread) in (0..4).flat_map(|r| (0..128).map(move |thread| (r, thread))) {
        let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (r % 2);
        let column = thread % 4 * 2 + 8 * (r / 2);
        fragments[128 * r + thread] = bits(a[row * 16 + column]) | bits(a[row * 16 + column + 1]) << 16;
    }
    let layout = Laid { span: 16, leading: 128, stride: 256, transposed: false, size: 2 };
    let lb = layout.lay(16, 16, |n, k| bits(b[n * 16 + k]));
    let (da, db, dc) = (f.put(&fragments), f.put(&lb), f.put(&vec![0f32; 8 * 128]));
    f.run(grid(1, 128), &[da, db, dc]);
    let out = f.get::<f32>(dc, 8 * 128);
    for (i, thread) in (0..8).flat_map(|i| (0..128).map(move |thread| (i, thread))) {
        let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i / 2 % 2);
        let column = thread % 4 * 2 + i % 2 + 8 * (i / 4);
        let sum: f32 = (0..16).map(|k| a[row * 16 + k] * b[column * 16 + k]).sum();
        assert_eq!(out[128 * i + thread], sum, "{row} {column}");
    }
}

/// As nvcc makes them for Hopper, which has instructions for 8 bits only, and for Blackwell, which has them for all.
#[test]
fn formats_of_eight_bits_and_fewer() {
    let values: Vec<f32> = (0..128u32).map(|i| (i as f32 - 64.0) * 0.37 / (1 << (i % 7)) as f32).collect();
    let nearest = |v: f32, exponents: u32, fraction: u32, bias: i32, largest: u32| {
        let value = |code: u32| {
            let (exponent, part) = (code >> fraction, (code & ((1 << fraction) - 1)) as f64 / (1 << fraction) as f64);
            if exponent == 0 { part * 2f64.powi(1 - bias) } else { (1.0 + part) * 2f64.powi(exponent as i32 - bias) }
        };
        let sign = (v.is_sign_negative() as u32) << (exponents + fraction);
        let distance = |code: u32| (value(code) - (v.abs() as f64).min(value(largest))).abs();
        let code =
            (0..=largest).min_by(|&x, &y| distance(x).total_cmp(&distance(y)).then((x % 2).cmp(&(y % 2)))).unwrap();
        (code | sign, value(code).copysign(v as f64))
    };
    for f in [Foreign::load("small_floats"), Foreign::load("small_floats_sm100")] {
        let (a, b, c) = (f.put(&values), f.put(&vec![0u8; 6 * 128]), f.put(&vec![0f32; 8 * 128]));
        f.run(grid(1, 128), &[a, b, c]);
        let (codes, back) = (f.get::<u8>(b, 6 * 128), f.get::<f32>(c, 8 * 128));
        for (i, &v) in values.iter().enumerate() {
            let formats = [
                nearest(v, 5, 2, 15, 0x7b),
                nearest(v, 4, 3, 7, 0x7e),
                nearest(v, 2, 3, 1, 0x1f),
                nearest(v, 3, 2, 3, 0x1f),
                nearest(v, 2, 1, 1, 7),
            ];
            for (k, (code, value)) in formats.into_iter().enumerate() {
                assert_eq!((codes[6 * i + k] as u32, back[8 * i + k] as f64), (code, value), "format {k} of {v}");
            }
            let e4m3 = |v: f32| nearest(v, 4, 3, 7, 0x7e).1 as f32;
            let sum = e4m3(v) + e4m3(-v) * 2.0 + e4m3(v * 2.0) * 4.0 + e4m3(v / 3.0);
            assert_eq!(back[8 * i + 5], sum, "{v}");
            if v != 0.0 {
                // The least power of two that is not below.
                let scale = v.abs().log2().ceil() as i32;
                assert_eq!((codes[6 * i + 5] as i32, back[8 * i + 7]), (scale + 127, 2f32.powi(scale)), "{v}");
            }
        }
    }
}
