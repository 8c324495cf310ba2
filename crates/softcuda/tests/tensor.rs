//! `mma` and `ldmatrix` against a plain matrix product, with the fragment layouts of the PTX ISA written out here again.

#![allow(clippy::needless_range_loop, reason = "a lane number indexes several rows at once")]

mod common;
use common::*;
use half::{bf16, f16};

/// A small generator with a fixed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }
    fn small(&mut self) -> f32 {
        (self.next() % 33) as f32 / 8.0 - 2.0
    }
}

/// Runs an `mma` whose fragments are given register by register, each a row of 32 lanes.
fn mma(name: &str, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]]) -> Vec<[u32; 32]> {
    let wide = |rows: &[[u32; 32]]| rows.iter().map(|r| r.map(u64::from)).collect::<Vec<_>>();
    let inputs: Vec<_> = [wide(a), wide(b), wide(c)].concat();
    let mut body = String::new();
    for i in 0..inputs.len() {
        body += &format!("cvt.u32.u64 %r{i}, %x{i};\n");
    }
    let list =
        |from: usize, count: usize| (from..from + count).map(|i| format!("%r{i}")).collect::<Vec<_>>().join(", ");
    let (na, nb, nc) = (a.len(), b.len(), c.len());
    body += &format!(
        "{name} {{{}}}, {{{}}}, {{{}}}, {{{}}};\n",
        list(40, nc),
        list(0, na),
        list(na, nb),
        list(na + nb, nc)
    );
    for i in 0..nc {
        body += &format!("cvt.u64.u32 %y{i}, %r{};\n", 40 + i);
    }
    lanes(&body, &inputs, nc).into_iter().map(|r| r.map(|v| v as u32)).collect()
}

/// Row and column of element `i` of A in a lane, for 16-bit elements: ISA figures for m16n8k8 and m16n8k16.
fn a16(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i / 2 % 2 == 1 { 8 } else { 0 }, lane % 4 * 2 + i % 2 + if i >= 4 { 8 } else { 0 })
}

fn b16(lane: usize, i: usize) -> (usize, usize) {
    (lane % 4 * 2 + i % 2 + if i >= 2 { 8 } else { 0 }, lane / 4)
}

fn c32(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + if i >= 2 { 8 } else { 0 }, lane % 4 * 2 + i % 2)
}

#[test]
fn sixteen_bit_products() {
    let mut random = Random(1);
    for (k, brain, narrow) in [
        (16, false, false),
        (8, false, false),
        (16, true, false),
        (8, true, false),
        (16, false, true),
        (8, false, true),
    ] {
        let encode = |v: f32| if brain { bf16::from_f32(v).to_bits() } else { f16::from_f32(v).to_bits() } as u32;
        let a: Vec<Vec<f32>> = (0..16).map(|_| (0..k).map(|_| random.small()).collect()).collect();
        let b: Vec<Vec<f32>> = (0..k).map(|_| (0..8).map(|_| random.small()).collect()).collect();
        let c: Vec<Vec<f32>> = (0..16).map(|_| (0..8).map(|_| random.small()).collect()).collect();
        let pair = |low: u32, high: u32| low | high << 16;
        let af: Vec<[u32; 32]> = (0..k / 4)
            .map(|r| {
                std::array::from_fn(|l| {
                    let at = |i| {
                        let (row, column) = a16(l, i);
                        encode(a[row][column])
                    };
                    pair(at(2 * r), at(2 * r + 1))
                })
            })
            .collect();
        let bf: Vec<[u32; 32]> = (0..k / 8)
            .map(|r| {
                std::array::from_fn(|l| {
                    let at = |i| {
                        let (row, column) = b16(l, i);
                        encode(b[row][column])
                    };
                    pair(at(2 * r), at(2 * r + 1))
                })
            })
            .collect();
        let at = |l: usize, i: usize| {
            let (row, column) = c32(l, i);
            c[row][column]
        };
        let cf: Vec<[u32; 32]> = if narrow {
            (0..2).map(|r| std::array::from_fn(|l| pair(encode(at(l, 2 * r)), encode(at(l, 2 * r + 1))))).collect()
        } else {
            (0..4).map(|i| std::array::from_fn(|l| at(l, i).to_bits())).collect()
        };
        let (t, acc) = (if brain { "bf16" } else { "f16" }, if narrow { "f16" } else { "f32" });
        let got = mma(&format!("mma.sync.aligned.m16n8k{k}.row.col.{acc}.{t}.{t}.{acc}"), &af, &bf, &cf);
        for l in 0..32 {
            for i in 0..4 {
                let (row, column) = c32(l, i);
                // Multiples of 1/64 below 2^10: every order of summing is exact in f32.
                let want = c[row][column] + (0..k).map(|j| a[row][j] * b[j][column]).sum::<f32>();
                let value = if narrow {
                    f16::from_bits((got[i / 2][l] >> (16 * (i % 2))) as u16).to_f32()
                } else {
                    f32::from_bits(got[i][l])
                };
                let want = if narrow { f16::from_f32(want).to_f32() } else { want };
                assert_eq!(value, want, "k {k} {t} {acc} row {row} column {column}");
            }
        }
    }
}

#[test]
fn tensor_float_products() {
    let mut random = Random(2);
    for k in [4, 8] {
        let a: Vec<Vec<f32>> = (0..16).map(|_| (0..k).map(|_| random.small()).collect()).collect();
        let b: Vec<Vec<f32>> = (0..k).map(|_| (0..8).map(|_| random.small()).collect()).collect();
        // The lower 13 bits are ignored.
        let af: Vec<[u32; 32]> = (0..k / 2)
            .map(|r| std::array::from_fn(|l| a[l / 4 + 8 * (r % 2)][l % 4 + 4 * (r / 2)].to_bits() | 0x1fff))
            .collect();
        let bf: Vec<[u32; 32]> =
            (0..k / 4).map(|r| std::array::from_fn(|l| b[l % 4 + 4 * r][l / 4].to_bits())).collect();
        let got = mma(&format!("mma.sync.aligned.m16n8k{k}.row.col.f32.tf32.tf32.f32"), &af, &bf, &[[0; 32]; 4]);
        for l in 0..32 {
            for i in 0..4 {
                let (row, column) = c32(l, i);
                let want = (0..k).map(|j| a[row][j] * b[j][column]).sum::<f32>();
                assert_eq!(f32::from_bits(got[i][l]), want);
            }
        }
    }
}

#[test]
fn byte_products() {
    let mut random = Random(3);
    for k in [16, 32] {
        for (sa, sb) in [(true, true), (true, false), (false, true), (false, false)] {
            let value = |byte: u8, signed: bool| {
                if signed { byte as i8 as i32 } else { byte as i32 }
            };
            let a: Vec<Vec<u8>> = (0..16).map(|_| (0..k).map(|_| random.next() as u8).collect()).collect();
            let b: Vec<Vec<u8>> = (0..k).map(|_| (0..8).map(|_| random.next() as u8).collect()).collect();
            let c: Vec<Vec<i32>> =
                (0..16).map(|_| (0..8).map(|_| random.next() as i32 - (1 << 30)).collect()).collect();
            let af: Vec<[u32; 32]> = (0..k / 8)
                .map(|r| {
                    std::array::from_fn(|l| {
                        u32::from_le_bytes(std::array::from_fn(|i| {
                            a[l / 4 + 8 * (r % 2)][l % 4 * 4 + i + 16 * (r / 2)]
                        }))
                    })
                })
                .collect();
            let bf: Vec<[u32; 32]> = (0..k / 16)
                .map(|r| {
                    std::array::from_fn(|l| {
                        u32::from_le_bytes(std::array::from_fn(|i| b[l % 4 * 4 + i + 16 * r][l / 4]))
                    })
                })
                .collect();
            let cf: Vec<[u32; 32]> = (0..4)
                .map(|i| {
                    std::array::from_fn(|l| {
                        let (r, n) = c32(l, i);
                        c[r][n] as u32
                    })
                })
                .collect();
            let t = |s| if s { "s8" } else { "u8" };
            let got = mma(&format!("mma.sync.aligned.m16n8k{k}.row.col.s32.{}.{}.s32", t(sa), t(sb)), &af, &bf, &cf);
            for l in 0..32 {
                for i in 0..4 {
                    let (row, column) = c32(l, i);
                    let want =
                        c[row][column] + (0..k).map(|j| value(a[row][j], sa) * value(b[j][column], sb)).sum::<i32>();
                    assert_eq!(got[i][l] as i32, want, "k {k} {sa} {sb}");
                }
            }
        }
    }
}

#[test]
fn matrices_load_as_fragments() {
    for (count, transposed) in [(1, false), (2, false), (4, false), (1, true), (2, true), (4, true)] {
        // Each lane writes 16 bytes, row l of four matrices of 8 rows: element value = 8 row + column.
        let registers = ["%r10", "%r11", "%r12", "%r13"][..count].join(", ");
        let trans = if transposed { ".trans" } else { "" };
        let mut stores = String::new();
        for i in 0..4 {
            stores += &format!(
                "mad.lo.u32 %r2, %lane, 0x80008, {}; st.shared.b32 [%r1+{}], %r2;\n",
                (2 * i) | (2 * i + 1) << 16,
                4 * i
            );
        }
        let mut body = format!(
            "{{ .shared .align 16 .b8 tile[512]; mov.u32 %r1, tile; shl.b32 %r3, %lane, 4; add.u32 %r1, %r1, %r3; {stores} bar.sync 0;
            ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16 {{{registers}}}, [%r1]; }}\n"
        );
        for i in 0..count {
            body += &format!("cvt.u64.u32 %y{i}, %r{};\n", 10 + i);
        }
        let got = lanes(&body, &[], count);
        for (m, row) in got.iter().enumerate() {
            for l in 0..32u64 {
                let element = |r: u64, c: u64| 8 * (8 * m as u64 + r) + c;
                let (x, y) = (l / 4, l % 4 * 2);
                let want = if transposed {
                    element(y, x) | element(y + 1, x) << 16
                } else {
                    element(x, y) | element(x, y + 1) << 16
                };
                assert_eq!(row[l as usize], want, "x{count}{trans} matrix {m} lane {l}");
            }
        }
    }
}
