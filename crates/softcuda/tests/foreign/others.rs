//! Other kernels of the kinds that the rest of these tests has, written by somebody who had not seen those.

use crate::{Foreign, Random, grid};
use softcuda::{FaultKind, Launch};

#[test]
fn scans_and_partitions_of_groups() {
    let f = Foreign::load("partitions").choose("scans");
    let mut random = Random(3);
    let x: Vec<i32> = (0..64).map(|_| random.next() as i32 % 50).collect();
    let y = f.put(&vec![0i32; 6 * 64]);
    f.run(grid(1, 64), &[f.put(&x), y]);
    let y = f.get::<i32>(y, 6 * 64);
    for i in 0..64 {
        let (tile, warp) = (&x[i / 16 * 16..][..16], &x[i / 32 * 32..][..32]);
        let same = |lanes: &[i32]| lanes.iter().filter(|&&v| v % 3 == x[i] % 3).count() as i32;
        let expected = [
            tile[..=i % 16].iter().sum::<i32>(),
            tile[..i % 16].iter().sum(),
            *tile.iter().max().unwrap(),
            tile.iter().filter(|&&v| v & 1 == x[i] & 1).sum(),
            same(&warp[..i % 32]) * 100 + same(warp),
            tile.iter().fold(0, |all, v| all ^ v),
        ];
        assert_eq!(y[6 * i..6 * i + 6], expected, "{i}");
    }
    let f = Foreign::load("partitions").choose("async_groups");
    let x: Vec<f32> = (0..128).map(|i| i as f32).collect();
    let y = f.put(&[0f32; 64]);
    f.run(Launch { dynamic_shared: 512, ..grid(1, 64) }, &[f.put(&x), y, 128]);
    (0..64).for_each(|i| assert_eq!(f.get::<f32>(y, 64)[i], (127 - i + 63 - i) as f32));
}

#[test]
fn atomics_of_every_width_and_scope() {
    let f = Foreign::load("assorted").choose("wide_atomics");
    let (p, old) = (f.put(&[5u64, 7]), f.put(&vec![0u64; 128]));
    f.run(grid(1, 64), &[p, old]);
    let sums = [5 + 64 * 65 / 2, 7 + 3 * 63 * 32];
    assert_eq!(f.get::<u64>(p, 2), sums);
    let old = f.get::<u64>(old, 128);
    let pairs: Vec<[u64; 2]> = old.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
    // What each found, with what it added, is what another found, or the end.
    for (i, [a, b]) in pairs.iter().enumerate() {
        let next = [a + i as u64 + 1, b + 3 * i as u64];
        assert!(next == sums || pairs.contains(&next), "{i}");
    }

    let f = f.choose("vector_red");
    let (four, two, sums) = (f.put(&[0f32; 4]), f.put(&[0f32; 2]), f.put(&[0f32; 2]));
    f.run(grid(1, 64), &[four, two, sums]);
    assert_eq!(f.get::<f32>(four, 4), [64.0, 128.0, 192.0, 2016.0]);
    assert_eq!((f.get::<f32>(two, 2), f.get::<f32>(sums, 2)), (vec![32.0, -64.0], vec![48.0, 48.0]));

    let f = f.choose("scoped");
    let half = 10.0f64.to_bits();
    let words = [0, 0, 2.0f32.to_bits(), 0, half as u32, (half >> 32) as u32, 40, 1, 0x81];
    let (x, y) = (f.put(&[5i32]), f.put(&words));
    f.run(grid(1, 1), &[x, y]);
    let (y, double) = (f.get::<u32>(y, 9), 7.5f64.to_bits());
    assert_eq!(f.get::<i32>(x, 1), [11]);
    assert_eq!(y, [9, 9, 3.5f32.to_bits(), 0, double as u32, (double >> 32) as u32, 43, 3, 0x81]);
}

#[test]
fn what_moves_no_values_and_what_is_refused() {
    let f = Foreign::load("assorted").choose("fences");
    let x = f.put(&vec![0i32; 256]);
    f.run(grid(1, 32), &[x]);
    assert_eq!(f.get::<i32>(x, 32), [7; 32]);
    let f = f.choose("depend");
    f.run(grid(1, 32), &[x]);
    assert_eq!(f.get::<i32>(x, 32), [8; 32]);
    let f = f.choose("registers");
    f.run(grid(1, 256), &[x]);
    assert_eq!(f.get::<i32>(x, 256), (0..256).collect::<Vec<_>>());
    let f = f.choose("elects");
    f.run(grid(1, 32), &[x]);
    let found = f.get::<i32>(x, 33);
    let leader = found[0] / 10;
    (0..32).for_each(|lane| assert_eq!(found[lane as usize], 10 * leader + (lane == leader) as i32));
    assert_eq!(found[32], 5);
    let f = f.choose("nap");
    let times = f.put(&[0u64; 3]);
    f.run(grid(1, 1), &[times]);
    assert!(f.get::<u64>(times, 3)[..2].iter().all(|&time| time > 0));
    // It needs memory of several GPUs: the module loads, and the instruction is the fault.
    let f = f.choose("multi");
    let fault = f.launch(grid(1, 1), &[x]).expect_err("multimem");
    assert_eq!(fault.kind(), FaultKind::UnknownInstruction);
    assert!(fault.message().contains("`multimem`"), "{fault}");
}

#[test]
fn printing_recursion_calls_and_bits() {
    let f = Foreign::load("assorted").choose("tail");
    f.run(grid(1, 1), &[f.put(b"text\0"), 1234.5f64.to_bits(), -5i64 as u64]);
    let lines = [
        "text|   42|42   |00042|+42|ff|0XFF|10|4294967295",
        "1234.500000|1.234e+03|1234.5|   1234.50|1234.5    |0x1.34ap+10",
        "-5|18446744073709551611|fffffffffffffffb|-5|-5|-5|18446744073709551611",
        "ab%|0x1234",
    ];
    assert_eq!(f.printed().lines().collect::<Vec<_>>(), lines);

    fn ackermann(m: i32, n: i32) -> i32 {
        match (m, n) {
            (0, n) => n + 1,
            (m, 0) => ackermann(m - 1, 1),
            (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
        }
    }
    let f = f.choose("ackermann");
    let y = f.put(&[0i32; 32]);
    f.run(grid(1, 32), &[y]);
    (0..32).for_each(|i| assert_eq!(f.get::<i32>(y, 32)[i as usize], ackermann(i % 3, i % 4), "{i}"));

    let f = f.choose("calls");
    let x: Vec<f32> = (0..32).map(|i| i as f32 * 0.5).collect();
    let y = f.put(&[0f32; 32]);
    f.run(grid(1, 32), &[f.put(&x), y]);
    for (i, &x) in x.iter().enumerate() {
        let called = [x + 2.0, x * 2.0, x - 2.0][i % 3];
        assert_eq!(f.get::<f32>(y, 32)[i], called + if i & 1 != 0 { x * x } else { 3.0 * x * x }, "{i}");
    }

    let f = f.choose("bits");
    let mut random = Random(9);
    let x: Vec<u32> = (0..32).map(|i| if i == 0 { 0 } else { (random.next() as u32) << (i % 7) }).collect();
    let y = f.put(&vec![0u32; 8 * 32]);
    f.run(grid(1, 32), &[f.put(&x), y]);
    let y = f.get::<u32>(y, 8 * 32);
    for (i, &v) in x.iter().enumerate() {
        let bytes = |v: u32| v.to_le_bytes();
        let (a, b, low) = (bytes(v), bytes(!v), bytes(v >> 3));
        let signed = |v: u8| v as i8 as i32;
        let first = if v == 0 { 0 } else { v.trailing_zeros() + 1 };
        let difference = std::array::from_fn(|k| a[k].abs_diff(low[k]));
        let halves = [v as i16 as i32, (v >> 16) as i16 as i32];
        let expected = [
            v.reverse_bits(),
            v.count_ones() + 100 * v.leading_zeros() + 10000 * first,
            u32::from_le_bytes([a[0], b[0], a[1], b[1]]),
            (((u64::from(!v) << 32 | u64::from(v)) << (v & 31)) >> 32) as u32,
            (0..4).map(|k| signed(a[k]) * signed(b[k])).sum::<i32>().wrapping_add(5) as u32,
            u32::from_le_bytes(difference),
            ((u64::from(v) * u64::from(v)) >> 32) as u32 + v.abs_diff(7).wrapping_add(3),
            (halves[0] * signed(a[0]) + halves[1] * signed(a[1])) as u32,
        ];
        assert_eq!(y[8 * i..8 * i + 8], expected, "{v:#x}");
    }
}

/// The value of a format's number nearest to `v`, ties to the even one, too large ones to the largest: `exponent` bits with a bias, then
/// `fraction` bits; numbers from `limit` on are none.
fn nearest(v: f32, exponent: u32, fraction: u32, bias: i32, limit: u32) -> f32 {
    let value = |code: u32| {
        let (e, m) = ((code >> fraction) as i32, (code & ((1 << fraction) - 1)) as f32 / (1 << fraction) as f32);
        if e == 0 { m * 2f32.powi(1 - bias) } else { (1.0 + m) * 2f32.powi(e - bias) }
    };
    assert!(limit <= 1 << (exponent + fraction));
    let codes = 0..limit;
    let distance = |code: u32| (value(code) - v.abs()).abs();
    let best = codes.min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1)))).unwrap();
    value(best).copysign(v)
}

#[test]
fn formats_of_few_bits() {
    let f = Foreign::load("formats").choose("fp");
    let mut random = Random(21);
    let mut x: Vec<f32> = (0..58).map(|i| random.float() * 2f32.powi(i % 20 - 10)).collect();
    x.extend([0.0, 500.0, -70000.0, 1.0625, 6.5, 0.25]);
    let y = f.put(&vec![0f32; 7 * 64]);
    f.run(grid(1, 64), &[f.put(&x), y]);
    let y = f.get::<f32>(y, 7 * 64);
    for (i, &v) in x.iter().enumerate() {
        let e4m3 = |v: f32| nearest(v, 4, 3, 7, 0x7f);
        let expected = [
            e4m3(v),
            nearest(v, 5, 2, 15, 0x7c),
            nearest(v, 2, 3, 1, 0x20),
            nearest(v, 3, 2, 3, 0x20),
            nearest(v, 2, 1, 1, 8),
            e4m3(v),
            e4m3(-v),
        ];
        assert_eq!(y[7 * i..7 * i + 7], expected, "{v}");
    }
}

#[test]
fn matrices_of_wmma_shapes() {
    let f = Foreign::load("formats");
    let mut random = Random(5);
    let mut small = |n: usize| (0..n).map(|_| random.next() as i32 % 9 - 4).collect::<Vec<i32>>();
    // Small whole numbers as the upper half of an f32 (bf16), and as f16.
    let half = |v: i32| if v == 0 { 0u16 } else { softcuda_half(v as f32) };
    let brain = |v: i32| ((v as f32).to_bits() >> 16) as u16;
    let sum = |k: usize, a: &dyn Fn(usize) -> i32, b: &dyn Fn(usize) -> i32| (0..k).map(|i| a(i) * b(i)).sum::<i32>();

    let (a, b) = (small(32 * 16), small(8 * 16));
    let halves = |values: &[i32]| values.iter().map(|&v| half(v)).collect::<Vec<u16>>();
    let c = f.put(&vec![0f32; 256]);
    let f = f.choose("wm");
    f.run(grid(1, 32), &[f.put(&halves(&a)), f.put(&halves(&b)), c]);
    for (i, found) in f.get::<f32>(c, 256).into_iter().enumerate() {
        assert_eq!(found, 2.0 * (1 + sum(16, &|k| a[i / 8 * 16 + k], &|k| b[i % 8 * 16 + k])) as f32, "wm {i}");
    }

    let (a, b) = (small(256), small(256));
    let bytes = |values: &[i32]| values.iter().map(|&v| v as u8).collect::<Vec<u8>>();
    let c = f.put(&vec![0i32; 256]);
    let f = f.choose("wi");
    f.run(grid(1, 32), &[f.put(&bytes(&a)), f.put(&bytes(&b)), c]);
    for (i, found) in f.get::<i32>(c, 256).into_iter().enumerate() {
        assert_eq!(found, sum(16, &|k| a[i % 16 * 16 + k], &|k| b[k * 16 + i / 16]), "wi {i}");
    }

    let (a, b) = (small(8 * 16), small(16 * 32));
    let brains = |values: &[i32]| values.iter().map(|&v| brain(v)).collect::<Vec<u16>>();
    let c = f.put(&vec![0f32; 256]);
    let f = f.choose("wb");
    f.run(grid(1, 32), &[f.put(&brains(&a)), f.put(&brains(&b)), c]);
    for (i, found) in f.get::<f32>(c, 256).into_iter().enumerate() {
        assert_eq!(found, sum(16, &|k| a[k * 8 + i / 32], &|k| b[k * 32 + i % 32]) as f32, "wb {i}");
    }

    let (a, b) = (small(128), small(128));
    let singles = |values: &[i32]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
    let c = f.put(&vec![0f32; 256]);
    let f = f.choose("wt");
    f.run(grid(1, 32), &[f.put(&singles(&a)), f.put(&singles(&b)), c]);
    for (i, found) in f.get::<f32>(c, 256).into_iter().enumerate() {
        assert_eq!(found, sum(8, &|k| a[i / 16 * 8 + k], &|k| b[i % 16 * 8 + k]) as f32, "wt {i}");
    }
}

/// A small whole number as f16, which has it exactly.
fn softcuda_half(v: f32) -> u16 {
    let bits = v.to_bits();
    let exponent = (bits >> 23 & 0xff) as i32 - 127 + 15;
    (bits >> 16 & 0x8000) as u16 | (exponent as u16) << 10 | (bits >> 13 & 0x3ff) as u16
}

#[test]
fn matrices_loaded_moved_and_stored() {
    let f = Foreign::load("formats").choose("ldsm");
    let x: Vec<u32> = (0..128).map(|i| (2 * i) | (2 * i + 1) << 16).collect();
    let y = f.put(&vec![0u32; 288 + 128]);
    f.run(grid(1, 32), &[f.put(&x), y]);
    let y = f.get::<u32>(y, 288 + 128);
    // The element of a matrix, of which each has 64.
    let element = |matrix: usize, row: usize, column: usize| (matrix * 64 + row * 8 + column) as u32;
    let transposed = |matrix: usize, row: usize, pair: usize| {
        element(matrix, 2 * pair, row) | element(matrix, 2 * pair + 1, row) << 16
    };
    for lane in 0..32 {
        for matrix in 0..4 {
            assert_eq!(y[9 * lane + matrix], x[32 * matrix + lane]);
            assert_eq!(y[9 * lane + 4 + matrix], transposed(matrix, lane / 4, lane % 4));
            assert_eq!(y[288 + 32 * matrix + lane], transposed(matrix, lane / 4, lane % 4));
        }
        assert_eq!(y[9 * lane + 8], transposed(0, lane / 4, lane % 4));
    }
}

#[test]
fn roles_of_a_pipeline_barriers_and_clusters() {
    let f = Foreign::load("formats").choose("pipe");
    let n = 7;
    let x: Vec<i32> = (0..n * 256).collect();
    let y = f.put(&vec![0i32; x.len()]);
    f.run(grid(1, 96), &[f.put(&x), y, n as u64]);
    for (at, found) in f.get::<i32>(y, x.len()).into_iter().enumerate() {
        let (i, k, part) = (at / 256, at / 4 % 64, at % 4);
        assert_eq!(found, x[i * 256 + (63 - k) * 4 + part] + if part == 0 { i as i32 } else { 0 }, "{at}");
    }
    let f = f.choose("arrive_drop");
    let y = f.put(&[0i32; 96]);
    f.run(grid(1, 64), &[y]);
    let expected: Vec<i32> = (0..96).map(|i| if (32..64).contains(&i) { 1 } else { 2 }).collect();
    assert_eq!(f.get::<i32>(y, 96), expected);
    let f = f.choose("dsmem");
    let x: Vec<f32> = (0..8 * 64).map(|i| i as f32).collect();
    let y = f.put(&[0f32; 128]);
    f.run(grid(8, 64), &[f.put(&x), y]);
    for (i, found) in f.get::<f32>(y, 128).into_iter().enumerate() {
        assert_eq!(found, (0..4).map(|rank| x[(i / 64 * 4 + rank) * 64 + i % 64]).sum::<f32>(), "{i}");
    }
}
