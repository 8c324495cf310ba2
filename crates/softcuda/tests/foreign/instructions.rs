//! Bits, warps, halves, mathematics, atomics of every type.

use crate::{Foreign, Random, close, grid};
use half::{bf16, f16};

#[test]
fn bits() {
    let f = Foreign::load("bits");
    let mut random = Random(31);
    let mut a: Vec<u32> = (0..64).map(|_| random.next() as u32 ^ (random.next() as u32) << 7).collect();
    let mut b: Vec<u32> = (0..64).map(|_| random.next() as u32 ^ (random.next() as u32) << 7).collect();
    (a[0], b[0], a[1], b[1], a[2]) = (0, 0, u32::MAX, 1, 0x8000_0000);
    let (da, db) = (f.put(&a), f.put(&b));
    let (y, w) = (f.put(&vec![0u32; 64 * 32]), f.put(&vec![0u64; 129]));
    f.run(grid(1, 64), &[da, db, y, w]);
    let (y, w) = (f.get::<u32>(y, 64 * 32), f.get::<u64>(w, 128));
    let bytes = |x: u32, g: fn(u8, u8) -> u8, z: u32| {
        u32::from_le_bytes(std::array::from_fn(|i| g(x.to_le_bytes()[i], z.to_le_bytes()[i])))
    };
    let halves = |x: u32, z: u32, g: &dyn Fn(i16, i16) -> i16| {
        g(x as i16, z as i16) as u16 as u32 | (g((x >> 16) as i16, (z >> 16) as i16) as u16 as u32) << 16
    };
    for i in 0..64 {
        let (x, z) = (a[i], b[i]);
        let o = &y[32 * i..32 * i + 32];
        let both = (z as u64) << 32 | x as u64;
        let l = (x as u64) << 32 | z as u64;
        let picked =
            |s: u32| (0..4).fold(0u32, |out, k| out | ((both >> (8 * (s >> (4 * k) & 7)) & 0xff) as u32) << (8 * k));
        let dot = |signed: bool| {
            (0..4).map(move |k| {
                let (p, q) = (x.to_le_bytes()[k], z.to_le_bytes()[k]);
                if signed { p as i8 as i64 * q as i8 as i64 } else { p as i64 * q as i64 }
            })
        };
        let dot2 = |high: usize, signed: bool| {
            (0..2).map(move |k| {
                let p = (x >> (16 * k)) as u16;
                let q = z.to_le_bytes()[k + 2 * high];
                if signed { p as i16 as i64 * q as i8 as i64 } else { p as i64 * q as i64 }
            })
        };
        let least = |shift: u32| {
            let (p, q) = ((x >> shift) as i16, (z >> shift) as i16);
            (p.wrapping_add(q).min(p) as u16 as u32) << shift
        };
        let nth = (0..32).filter(|k| x >> k & 1 != 0).nth(2).map_or(u32::MAX, |k| k as u32);
        let expected = [
            picked(0x5140),
            x.leading_zeros(),
            if x == 0 { 0 } else { x.trailing_zeros() + 1 },
            x.reverse_bits(),
            x.count_ones(),
            funnel_left(x, z, z & 31),
            (both >> z.min(32)) as u32,
            (dot(true).sum::<i64>() + 5) as u32,
            (dot(false).sum::<i64>() + 5) as u32,
            (dot2(0, true).sum::<i64>() + 3) as u32,
            (dot2(1, false).sum::<i64>() + 3) as u32,
            ((x as u64 * z as u64) >> 32) as u32,
            ((x << 8) as i32 >> 8).wrapping_mul((z << 8) as i32 >> 8) as u32,
            (x as i32).abs_diff(z as i32).wrapping_add(7),
            ((x as u64 + z as u64) >> 1) as u32,
            ((x as i32 as i64 + z as i32 as i64 + 1) >> 1) as u32,
            bytes(x, u8::wrapping_add, z),
            bytes(x, u8::abs_diff, z),
            halves(x, z, &|p, q| p.max(q)),
            bytes(x, |p, q| if p > q { 255 } else { 0 }, z),
            halves(x, z, &i16::saturating_add),
            bytes(x, |p, q| (p as u16 + q as u16).div_ceil(2) as u8, z),
            halves(x, z, &|p, q| (p <= q) as i16),
            (x as i32).wrapping_add(z as i32).max(3) as u32,
            x.min(z).min(77),
            nth,
            (x & z) | (!x & i as u32),
            (if l == 0 { 0 } else { l.trailing_zeros() + 1 }) + l.leading_zeros() * 100 + l.count_ones() * 10000,
            (0..4).map(|k| x.to_le_bytes()[k].abs_diff(z.to_le_bytes()[k]) as u32).sum(),
            halves(x, z, &|p, q| p.max(q).max(0)),
            least(0) | least(16),
            ((x >> 8 & 0xff) as i64 + z as i16 as i64) as u32,
        ];
        for k in 0..32 {
            assert_eq!(o[k], expected[k], "operation {k} of {x:#x} {z:#x}");
        }
        let p = (l as u128).wrapping_mul((l ^ z as u64) as u128).wrapping_add(x as u128);
        assert_eq!(w[2 * i], p as u64);
        let high = ((p >> 64) as u64 / 3).wrapping_add(l >> (z & 63)).wrapping_add(((l as i64) >> (x & 31)) as u64);
        assert_eq!(w[2 * i + 1], high);
    }
}

/// The upper 32 bits of `high:low` shifted left.
fn funnel_left(low: u32, high: u32, by: u32) -> u32 {
    (((high as u64) << 32 | low as u64) << by >> 32) as u32
}

#[test]
fn warps() {
    let f = Foreign::load("warps");
    let mut random = Random(32);
    let x: Vec<i32> = (0..64).map(|_| (random.next() % 100) as i32).collect();
    let (dx, dy, dt) = (f.put(&x), f.put(&vec![0i32; 64 * 24]), f.put(&vec![0i64; 64]));
    f.run(grid(1, 64), &[dx, dy, dt]);
    let (y, t) = (f.get::<i32>(dy, 64 * 24), f.get::<i64>(dt, 64));
    for i in 0..64 {
        let (l, base) = (i % 32, i / 32 * 32);
        let w = &x[base..base + 32];
        let o = &y[24 * i..];
        let mask = |is: &dyn Fn(i32) -> bool| (0..32).fold(0u32, |m, k| m | (is(w[k]) as u32) << k) as i32;
        // `match.all` finds one value in all lanes or none; its predicate is added.
        let expected = [
            w[5],
            if l >= 3 { w[l - 3] } else { w[l] },
            if l % 16 < 14 { w[l + 2] } else { w[l] },
            w[l ^ 7],
            mask(&|v| v & 1 != 0),
            w.iter().all(|&v| v > 0) as i32 + 2 * w.iter().any(|&v| v > 90) as i32,
            mask(&|v| v & 7 == w[l] & 7),
            0,
            w.iter().sum(),
            *w.iter().min().unwrap(),
            *w.iter().max().unwrap(),
            w.iter().fold(0, |a, b| a ^ b),
            -1,
            if l < 10 { w[..10].iter().fold(0, |a, b| a | b) } else { 0 },
            if l < 10 { w[9] } else { 22 },
            ((w[4] as i64 * 3_000_000_000) >> 32) as i32,
            w[l ^ 1],
            x.iter().filter(|&&v| v & 1 != 0).count() as i32,
            1 + 2 * x.contains(&50) as i32,
            ((1u64 << l) - 1) as i32,
            (l == 0) as i32,
            1 + 4,
            (i / 32) as i32,
            w.iter().filter(|&&v| v == w[l]).count() as i32,
        ];
        for (k, &e) in expected.iter().enumerate() {
            assert_eq!(o[k], e, "operation {k} in lane {i}");
        }
        assert!(t[i] > 0);
    }
}

#[test]
fn halves() {
    let f = Foreign::load("halves").choose("halves");
    let mut random = Random(33);
    let pack = |low: f32, high: f32| f16::from_f32(low).to_bits() as u32 | (f16::from_f32(high).to_bits() as u32) << 16;
    let a: Vec<u32> = (0..64).map(|_| pack(random.float() * 4.0, random.float())).collect();
    let b: Vec<u32> = (0..64).map(|_| pack(random.float() + 2.0, random.float() - 1.5)).collect();
    let (da, db) = (f.put(&a), f.put(&b));
    let (dy, df) = (f.put(&vec![0u32; 64 * 16]), f.put(&vec![0f32; 64 * 6]));
    f.run(grid(1, 64), &[da, db, dy, df]);
    let (y, g) = (f.get::<u32>(dy, 64 * 16), f.get::<f32>(df, 64 * 6));
    for i in 0..64 {
        for (half, shift) in [(0, 0), (1, 16)] {
            let of = |v: u32| f16::from_bits((v >> shift) as u16);
            let (x, z) = (of(a[i]).to_f64(), of(b[i]).to_f64());
            let exact: [(usize, f64); 11] = [
                (0, x + z),
                (1, x * z),
                (2, x * z + x),
                (3, x - z),
                (5, x.max(z)),
                (6, x.min(z)),
                (7, x.abs()),
                (8, -x),
                (11, x.floor()),
                (12, (x > z) as u8 as f64),
                (14, (x + z).clamp(0.0, 1.0)),
            ];
            for (k, e) in exact {
                assert_eq!(of(y[16 * i + k]), f16::from_f64(e), "operation {k} of {x} and {z}, half {half}");
            }
            // A unit in the last place or two.
            for (k, e) in [(4, x / z), (9, x.exp2()), (10, x.abs().sqrt()), (13, (x * z + x).max(0.0))] {
                close(of(y[16 * i + k]).to_f32(), e, 2e-3, &format!("operation {k} of {x} and {z}"));
            }
        }
        assert_eq!(y[16 * i + 15], a[i].rotate_left(16));
        let (x, z) = (f16::from_bits(a[i] as u16).to_f32(), f16::from_bits(b[i] as u16).to_f32());
        assert_eq!((g[6 * i], g[6 * i + 1], g[6 * i + 4]), (x, x.trunc(), i as f32));
        assert_eq!(g[6 * i + 3], (x < z) as u8 as f32 + 4.0);
        close(g[6 * i + 2], (x.abs() as f64).ln(), 2e-3, "log");
        close(g[6 * i + 5], (x as f64).tanh(), 2e-3, "tanh");
    }
}

#[test]
fn brain_floats() {
    let f = Foreign::load("halves").choose("bfloats");
    let mut random = Random(34);
    let pack =
        |low: f32, high: f32| bf16::from_f32(low).to_bits() as u32 | (bf16::from_f32(high).to_bits() as u32) << 16;
    let a: Vec<u32> = (0..32).map(|_| pack(random.float() * 4.0, random.float() + 1.5)).collect();
    let b: Vec<u32> = (0..32).map(|_| pack(random.float(), random.float())).collect();
    let (da, db) = (f.put(&a), f.put(&b));
    let (dy, df) = (f.put(&[0u32; 32 * 10]), f.put(&[0f32; 32]));
    f.run(grid(1, 32), &[da, db, dy, df]);
    let (y, g) = (f.get::<u32>(dy, 320), f.get::<f32>(df, 32));
    for i in 0..32 {
        for shift in [0, 16] {
            let of = |v: u32| bf16::from_bits((v >> shift) as u16);
            let (x, z) = (of(a[i]).to_f64(), of(b[i]).to_f64());
            let exact = [(0, x + z), (1, x * z), (2, x * z + x), (3, x.max(z)), (4, x.min(z)), (5, x.abs()), (9, -z)];
            for (k, e) in exact {
                assert_eq!(of(y[10 * i + k]), bf16::from_f64(e), "operation {k} of {x} and {z}");
            }
            for (k, e) in [(6, x.exp()), (8, 1.0 / x)] {
                close(of(y[10 * i + k]).to_f32(), e, 1e-2, &format!("operation {k} of {x}"));
            }
        }
        assert_eq!(y[10 * i + 7], pack(i as f32 * 1.01, -(i as i32) as f32));
        let x = bf16::from_bits(a[i] as u16).to_f32();
        assert_eq!(g[i], x + bf16::from_f32(i as f32 * 33.0).to_f32());
    }
}

#[test]
fn atomics_of_every_type() {
    let f = Foreign::load("atomics");
    let n = 32.0f32;
    let h = f.put(&[0u16; 2]);
    let h2 = f.put(&[0u32; 16]);
    let b = f.put(&[0u16; 2]);
    let b2 = f.put(&[0u32]);
    let f2 = f.put(&[0f32; 4]);
    let f4 = f.put(&[0f32; 4]);
    let d = f.put(&[1f64]);
    let u = f.put(&[99u64, 0, u64::MAX, 0]);
    let s = f.put(&[0u16; 2]);
    let i = f.put(&[0i32, 0, 5, 0]);
    let wide = f.put(&[0u64; 4]);
    f.run(grid(1, 32), &[h, h2, b, b2, f2, f4, d, u, s, i, wide]);
    let half = |bits: u16| f16::from_bits(bits).to_f32();
    assert_eq!(half(f.get::<u16>(h, 1)[0]), n / 2.0);
    let pairs: Vec<(f32, f32)> =
        f.get::<u32>(h2, 10).into_iter().map(|v| (half(v as u16), half((v >> 16) as u16))).collect();
    assert_eq!((pairs[0], pairs[4], pairs[7]), ((n, 2.0 * n), (n, n), (n, n)));
    assert_eq!((pairs[8], pairs[9]), ((2.0, 1.0), (1.0, 0.0)));
    assert_eq!(bf16::from_bits(f.get::<u16>(b, 1)[0]).to_f32(), n);
    let v = f.get::<u32>(b2, 1)[0];
    assert_eq!((bf16::from_bits(v as u16).to_f32(), bf16::from_bits((v >> 16) as u16).to_f32()), (n, n / 2.0));
    assert_eq!(f.get::<f32>(f2, 4), [n, 2.0 * n, n, 3.0 * n]);
    assert_eq!(f.get::<f32>(f4, 4), [n, 2.0 * n, 3.0 * n, 4.0 * n]);
    assert_eq!(f.get::<f64>(d, 1), [1.0 + 48.0]);
    assert_eq!(f.get::<u64>(u, 4), [0, 26, u64::MAX << 32, u32::MAX as u64]);
    assert_eq!(f.get::<u16>(s, 1), [9]);
    let i = f.get::<i32>(i, 4);
    assert_eq!((i[0], f32::from_bits(i[1] as u32), i[2], i[3]), (64, 31.0, 6, 32));
    // The first lane finds zero; the last one leaves its value.
    assert_eq!(f.get::<u64>(wide, 4), [1, 77, 32, 77]);
}

#[test]
fn loads_and_stores_with_every_hint() {
    let f = Foreign::load("loads");
    let mut random = Random(35);
    let x: Vec<i32> = (0..512).map(|_| random.next() as i32 % 1000).collect();
    let c: Vec<u8> = (0..384).map(|_| random.next() as u8).collect();
    let d: Vec<f64> = (0..1024).map(|i| i as f64 * 1.5).collect();
    let s: Vec<i16> = (0..384).map(|_| random.next() as i16).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0i32; 4 * 512]));
    let (dc, dd, ds) = (f.put(&c), f.put(&d), f.put(&s));
    f.run(grid(1, 128), &[dx, dy, dc, dd, ds]);
    let y = f.get::<i32>(dy, 2048);
    let table = [1, 2, 3];
    for i in 0..128 {
        let v = &x[4 * i..4 * i + 4];
        let w = table.get(i & 15).copied().unwrap_or(0) + 4 + 3;
        assert_eq!(y[4 * i..4 * i + 4], [v[0] + v[1], v[2] + v[3], v[0] + v[1], w]);
        assert_eq!((&y[512 + 4 * i..516 + 4 * i], &y[1024 + 4 * i..1028 + 4 * i]), (v, v));
        let bytes = c[3 * i] as i8 as i32 + c[3 * i + 1] as i8 as i32 * 2 + c[3 * i + 2] as i8 as i32;
        let short = s[3 * i] as i32 + s[3 * i + 1] as i32 - s[3 * i + 2] as i32;
        assert_eq!(y[1536 + 4 * i..1540 + 4 * i], [bytes, short, 5, d[4 * i + 2] as i32]);
    }
    assert_eq!(f.get::<f64>(dd, 1024)[512..], d[..512]);
}

#[test]
fn mathematics_of_singles_and_doubles() {
    let f = Foreign::load("mathematics").choose("singles");
    let mut random = Random(36);
    let x: Vec<f32> = (0..64).map(|_| random.float() * 6.0).filter(|v| v.abs() > 1e-3).collect();
    let n = x.len();
    let (dx, dy) = (f.put(&x), f.put(&vec![0f32; n * 32]));
    f.run(grid(1, n as u32), &[dx, dy]);
    let y = f.get::<f32>(dy, n * 32);
    for (i, &v) in x.iter().enumerate() {
        let (w, a) = (v as f64, v.abs() as f64);
        let expected = [
            (0, w.sin()),
            (1, w.cos()),
            (2, w.tan()),
            (3, ((v / 10.0) as f64).asin()),
            (4, ((v / 10.0) as f64).acos()),
            (5, w.atan()),
            (6, w.atan2(2.0)),
            (7, w.sinh()),
            (8, w.cosh()),
            (9, w.asinh()),
            (10, w.exp()),
            (11, w.exp2()),
            (12, 10f64.powf(w / 4.0)),
            (13, w.exp_m1()),
            (14, a.log2()),
            (15, a.log10()),
            (16, a.ln_1p()),
            (21, w.cbrt()),
            (22, w.hypot(3.0)),
            (23, a.powf(0.3f32 as f64)),
            (24, (v % 0.7f32) as f64),
            (26, w.round_ties_even() + w.round() * 10.0 + w.trunc() * 100.0 + w.ceil() * 1000.0),
            (27, w),
            (28, w),
        ];
        for (k, e) in expected {
            // CUDA's own bounds: at most 4 units in the last place.
            close(y[32 * i + k], e, 6e-7, &format!("function {k} of {v}"));
        }
        // The fast ones are good to about 2^-21.
        let fast = w.exp() + w.sin() + a.ln();
        close(y[32 * i + 29], fast, 4e-6, "fast functions");
    }
    let f = Foreign::load("mathematics").choose("doubles");
    let x: Vec<f64> = (0..64).map(|_| random.float() as f64 * 5.0 + 0.01).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0f64; 64 * 20]));
    f.run(grid(1, 64), &[dx, dy]);
    let y = f.get::<f64>(dy, 64 * 20);
    for (i, &v) in x.iter().enumerate() {
        let a = v.abs();
        let expected = [
            (0, v.sin()),
            (1, v.cos()),
            (2, v.exp()),
            (3, a.ln()),
            (4, a.powf(1.3)),
            (5, a.sqrt()),
            (6, v.cbrt()),
            (7, v.tanh()),
            (8, v.atan2(2.0)),
            (11, v % 0.7),
            (12, 1.0 / v),
            (13, v / 3.0),
            (14, 1.0 / a.sqrt()),
            (15, v.floor() + v.round_ties_even() * 10.0),
            (18, v.mul_add(v, -1.0)),
            (19, (v * 1e8).sin()),
        ];
        for (k, e) in expected {
            let got = y[20 * i + k];
            assert!((got - e).abs() <= 1e-14 * e.abs().max(1.0), "function {k} of {v}: {got} instead of {e}");
        }
        assert_eq!(y[20 * i + 17], (v * 1e6) as i64 as f64 + v as f32 as f64 + v.round_ties_even());
    }
}
