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
