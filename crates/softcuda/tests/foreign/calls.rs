//! Calls: recursion, function pointers, and what the device's runtime has.

use crate::{Foreign, grid};
use softcuda::{FaultKind, Launch};

#[test]
fn function_pointers() {
    let f = Foreign::load("fnptr");
    let y: Vec<f32> = (0..64).map(|i| i as f32).collect();
    let dy = f.put(&y);
    f.run(grid(1, 64), &[dy]);
    let out = f.get::<f32>(dy, 64);
    for i in 0..64 {
        assert_eq!(out[i], if i % 2 == 0 { y[i] + 1.0 } else { y[i] * 2.0 });
    }
}

#[test]
fn recursion() {
    let f = Foreign::load("recurse");
    let dy = f.put(&[0i32; 64]);
    f.run(grid(1, 64), &[dy]);
    let fib = [0, 1, 1, 2, 3, 5, 8, 13];
    let out = f.get::<i32>(dy, 64);
    (0..64).for_each(|i| assert_eq!(out[i], fib[i & 7]));
}

#[test]
fn printf() {
    let f = Foreign::load("printf");
    f.run(grid(2, 64), &[3]);
    assert_eq!(f.printed(), "hello 0 1.500000\nhello 1 1.500000\nhello 2 1.500000\n".repeat(2));
}

#[test]
fn assert() {
    let f = Foreign::load("assert");
    let (x, y) = (f.put(&[1i32, 2, 3, 4]), f.put(&[0i32; 4]));
    f.run(grid(1, 4), &[x, y]);
    assert_eq!(f.get::<i32>(y, 4), [1, 2, 3, 4]);
    let bad = f.put(&[1i32, 2, -3, 4]);
    let fault = f.launch(grid(1, 4), &[bad, y]).expect_err("the assertion fails");
    assert_eq!(fault.kind(), FaultKind::Assertion);
    assert!(fault.message().contains("x[threadIdx.x] > 0"), "{fault}");
    assert_eq!(fault.location().unwrap().thread, [2, 0, 0]);
    assert_eq!(
        f.printed(),
        "cu/assert.cu:2: void check(const int *, int *): block: [0,0,0], thread: [2,0,0] Assertion `x[threadIdx.x] > 0` failed.\n"
    );
}

#[test]
fn malloc() {
    let f = Foreign::load("malloc");
    let y = f.put(&[0u64; 64]);
    f.run(grid(1, 64), &[y]);
    let mut pointers = f.get::<u64>(y, 64);
    for (i, &p) in pointers.iter().enumerate() {
        assert_eq!(f.get::<u32>(p, 1), [i as u32]);
    }
    pointers.sort_unstable();
    assert!(pointers.windows(2).all(|pair| pair[1] - pair[0] >= 16));
}

#[test]
fn cooperative_groups() {
    let f = Foreign::load("cg");
    let x: Vec<i32> = (0..64).collect();
    let (dx, dy) = (f.put(&x), f.put(&[0i32; 65]));
    // All blocks write the same sizes to the same places, which is a race.
    f.device.set_sanitizer(false);
    f.run(Launch { cooperative: true, ..grid(4, 64) }, &[dx, dy]);
    let out = f.get::<i32>(dy, 65);
    assert_eq!(out[0], 4 * (0..64).sum::<i32>());
    assert!(out[1..].iter().all(|&size| size == 32));
}
