//! What every CUDA program has: arithmetic, shared memory, atomics, constants.

use crate::{Foreign, Random, close, grid};
use softcuda::Launch;

#[test]
fn saxpy() {
    let f = Foreign::load("saxpy");
    let mut random = Random(1);
    let n = 1000;
    let (x, y): (Vec<f32>, Vec<f32>) = (0..n).map(|_| (random.float(), random.float())).unzip();
    let (dx, dy) = (f.put(&x), f.put(&y));
    f.run(grid(3, 128), &[n as u64, 1.5f32.to_bits() as u64, dx, dy]);
    let out = f.get::<f32>(dy, n);
    for i in 0..n {
        assert_eq!(out[i], 1.5f32.mul_add(x[i], y[i]), "{i}");
    }
}

#[test]
fn reduce() {
    let f = Foreign::load("reduce");
    let mut random = Random(2);
    let x: Vec<f32> = (0..5000).map(|_| random.float()).collect();
    let (dx, out) = (f.put(&x), f.put(&[0f32]));
    f.run(grid(4, 256), &[dx, out, 5000]);
    let sum: f64 = x.iter().map(|&v| v as f64).sum();
    close(f.get::<f32>(out, 1)[0], sum, 1e-4, "sum");
}

#[test]
fn transpose() {
    let f = Foreign::load("transpose");
    let (w, h) = (70usize, 45usize);
    let x: Vec<f32> = (0..w * h).map(|i| i as f32).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0f32; w * h]));
    let launch = Launch { grid: [3, 2, 1], block: [32, 8, 1], ..grid(1, 1) };
    f.run(launch, &[dx, dy, w as u64, h as u64]);
    let out = f.get::<f32>(dy, w * h);
    for y in 0..h {
        for x in 0..w {
            assert_eq!(out[x * h + y], (y * w + x) as f32);
        }
    }
}

#[test]
fn histogram() {
    let f = Foreign::load("histogram");
    let mut random = Random(3);
    let x: Vec<u8> = (0..4000).map(|_| random.next() as u8).collect();
    let (dx, bins) = (f.put(&x), f.put(&[0u32; 256]));
    f.run(grid(5, 256), &[dx, bins, 4000]);
    let mut expected = [0u32; 256];
    x.iter().for_each(|&v| expected[v as usize] += 1);
    assert_eq!(f.get::<u32>(bins, 256), expected);
}

#[test]
fn dynamic_shared_and_generic_addresses() {
    let f = Foreign::load("shared_dyn");
    let y: Vec<f32> = (0..64).map(|i| i as f32 + 10.0).collect();
    let dy = f.put(&y);
    f.run(Launch { dynamic_shared: 256, ..grid(1, 64) }, &[dy]);
    let out = f.get::<f32>(dy, 64);
    for i in 0..64 {
        let expected = if i % 2 == 1 { y[i & 3] + 1.0 } else { [1.0, 2.0, 3.0, 4.0][i & 3] };
        assert_eq!(out[i], expected, "{i}");
    }
}

#[test]
fn constants_and_variables() {
    let f = Foreign::load("constant");
    let (c, bytes) = f.module.global("c").expect("the constant");
    assert_eq!(bytes, 256);
    let values: Vec<u8> = (0..64).flat_map(|i| (i as f32 * 0.5).to_le_bytes()).collect();
    f.device.write(c, &values).unwrap();
    let dy = f.put(&[0f32; 64]);
    f.run(grid(1, 64), &[dy]);
    let out = f.get::<f32>(dy, 64);
    for i in 0..64 {
        assert_eq!(out[i], i as f32 * 0.5 + 2.5 + b'h' as f32, "{i}");
    }
    let counter = f.module.global("counter").expect("the counter").0;
    assert_eq!(f.get::<i32>(counter, 1), [4]);
}

#[test]
fn local_arrays() {
    let f = Foreign::load("local");
    let mut random = Random(4);
    let x: Vec<i32> = (0..32).map(|_| random.next() as i32 % 1000).collect();
    let (dx, dy) = (f.put(&x), f.put(&[0i32; 8]));
    f.device.set_sanitizer(false);
    f.run(grid(1, 8), &[dx, dy, 20]);
    let mut a = [0i32; 16];
    for i in 0..16 {
        a[(x[i] as usize + i) & 15] = x[i].wrapping_mul(i as i32);
    }
    let sum = (0..20).fold(0i32, |s, i| s.wrapping_add(a[x[i] as usize & 15]));
    assert_eq!(f.get::<i32>(dy, 8), [sum; 8]);
}

#[test]
fn integers() {
    let f = Foreign::load("int_");
    let mut random = Random(5);
    let mut x: Vec<i32> = (0..256).map(|_| random.next() as u32 as i32).collect();
    x[..6].copy_from_slice(&[0, 1, -1, i32::MAX, 7, -13]);
    let (dx, dy) = (f.put(&x), f.put(&[0i64; 256]));
    f.run(grid(1, 256), &[dx, dy]);
    let out = f.get::<i64>(dy, 256);
    for (i, &v) in x.iter().enumerate() {
        let wide = v as i64;
        let mul24 = ((v << 8 >> 8).wrapping_mul(3)) as i64;
        let mut e = (v / 7 + v % 13) as i64;
        e += wide * wide / (v | 1) as i64;
        // The unsigned remainder makes the sum unsigned; the bits are the same.
        e = e.wrapping_add((wide as u64 % 1_000_003) as i64);
        e = e.wrapping_add(mul24).wrapping_add((wide * wide) >> 32);
        e = e.wrapping_add((wide as u64).reverse_bits() as i64).wrapping_add((wide as u64).count_ones() as i64);
        e = e.wrapping_add(v.wrapping_shl(i as u32 & 31) as i64).wrapping_add(v.wrapping_abs() as i64);
        e = e.wrapping_add(v.min(3) as i64);
        assert_eq!(out[i], e, "{v}");
    }
}

#[test]
fn atomics() {
    let f = Foreign::load("atomics64");
    let p = f.put(&[5u64, 3, 0, 1, 0]);
    let d = f.put(&[1.0f64]);
    let q = f.put(&[100u32, 0, 0, 0, 7, 2, 1000, 0, 0]);
    let fl = f.put(&[0f32, 0.0]);
    // One block: one of the atomics has the scope of a block.
    f.run(grid(1, 66), &[p, d, q, fl]);
    assert_eq!(f.get::<u64>(p, 5), [71, 65, 7, 9, 0]);
    assert_eq!(f.get::<f64>(d, 1), [34.0]);
    // 66 increments modulo 11; decrements from 0 go round 10, 9, …, 0.
    assert_eq!(f.get::<u32>(q, 9), [0, 0, 0, 0, 3, 6, 1000 - 66, 66, 66]);
    assert_eq!(f.get::<f32>(fl, 2), [66.0, 2.0]);
}

#[test]
fn asynchronous_copies() {
    let f = Foreign::load("cpasync");
    let x: Vec<f32> = (0..256).map(|i| i as f32).collect();
    let (dx, dy) = (f.put(&x), f.put(&[0f32; 256]));
    f.run(grid(1, 64), &[dx, dy]);
    let out = f.get::<f32>(dy, 256);
    for i in 0..256 {
        assert_eq!(out[i], x[(63 - i / 4) * 4 + i % 4], "{i}");
    }
}

#[test]
fn mathematics() {
    let f = Foreign::load("mathf");
    let mut random = Random(6);
    let x: Vec<f32> = (0..128).map(|_| random.float().abs() * 4.0 + 0.01).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0f32; 1280]));
    f.run(grid(1, 128), &[dx, dy, 128]);
    let out = f.get::<f32>(dy, 1280);
    for (i, &v) in x.iter().enumerate() {
        let w = v as f64;
        let row = &out[i * 10..];
        let expected = [
            (0, w.sin()),
            (1, ((v * 1e6f32) as f64).cos()),
            (2, w.exp()),
            (3, w.powf(1.7f32 as f64)),
            (4, w.ln()),
            (5, w.tanh()),
            (7, 1.0 / w.sqrt()),
            (8, w.sqrt() / 3.1f32 as f64),
        ];
        for (k, e) in expected {
            // CUDA's own bounds are a few units in the last place.
            close(row[k], e, 4e-7, &format!("function {k} of {v}"));
        }
        assert!(row[6] > -1.0 && row[6] <= 1.0 && row[9].is_finite());
    }
}
