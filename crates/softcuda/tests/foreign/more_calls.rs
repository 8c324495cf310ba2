//! Virtual functions, deep recursion, `printf` in all its forms, groups of threads.

use crate::{Foreign, Random, close, grid};
use softcuda::{FaultKind, Launch};

fn ackermann(m: i32, n: i32) -> i32 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

fn twist((a, b, c): (i32, f64, i16), depth: i32) -> (i32, f64, i16) {
    if depth == 0 {
        return (a, b, c);
    }
    let (mut a2, b2, c2) = twist((a + 1, b * 2.0, c - 1), depth - 1);
    a2 += a * (depth & 3) + depth;
    (a2, b2, c2)
}

#[test]
fn virtual_functions_and_recursion() {
    let f = Foreign::load("virtuals");
    let n = 40usize;
    let (area, out) = (f.put(&vec![0f32; n]), f.put(&vec![0i32; 3 * n]));
    let (wide, sorted) = (f.put(&vec![0f64; n]), f.put(&vec![0i32; 12 * n]));
    f.run(grid(1, n as u32), &[area, out, wide, sorted]);
    let (area, out) = (f.get::<f32>(area, n), f.get::<i32>(out, 3 * n));
    let (wide, sorted) = (f.get::<f64>(wide, n), f.get::<i32>(sorted, 12 * n));
    for i in 0..n {
        let x = i as f32;
        assert_eq!(area[i], if i % 3 != 0 { x * x + x } else { 3.0 * x * x - x });
        assert_eq!(out[3 * i], (i % 2 == 0) as i32);
        assert_eq!(out[3 * i + 1], ackermann(2, i as i32 & 3));
        let t = (i as i32, i as f64 * 0.5, i as i16);
        let depth = i as i32 % 5;
        let t = if i & 1 == 0 { twist(t, depth) } else { (t.0 - depth, t.1, t.2) };
        assert_eq!((out[3 * i + 2], wide[i]), (t.0 + t.2 as i32, t.1), "{i}");
        let mut expected: Vec<i32> = (0..12).map(|k| (k * 7 + i as i32 * 5) % 13).collect();
        expected.sort_unstable();
        assert_eq!(sorted[12 * i..12 * i + 12], expected);
    }
}

#[test]
fn recursion_without_end_is_a_fault() {
    let ptx = ".version 8.0\n.target sm_80\n.address_size 64
.func f(.param .b32 n) { .reg .b32 %r<3>; .local .align 4 .b8 depot[512]; .reg .pred %p; ld.param.b32 %r1, [n]; st.local.b32 [depot], %r1;
{ .param .b32 a; st.param.b32 [a], %r1; call.uni f, (a); } ret; }
.visible .entry k() { { .param .b32 a; st.param.b32 [a], 7; call.uni f, (a); } ret; }";
    let device = softcuda::Device::new(softcuda::DeviceConfig { total_memory: 1 << 20, ..Default::default() });
    let kernel = device.load(&softcuda::Module::from_ptx(ptx).unwrap()).unwrap().kernel("k").unwrap();
    let fault = device.launch(&kernel, &grid(1, 32), &[]).expect_err("no end");
    assert_eq!(fault.kind(), FaultKind::StackOverflow);
    assert!(fault.message().contains("call of `f`"), "{fault}");
}

#[test]
fn printf_in_all_its_forms() {
    let f = Foreign::load("prints");
    let name = f.put(b"soft\0");
    f.run(grid(2, 64), &[name, i64::MIN as u64, 1234.5678f64.to_bits()]);
    let block = "[soft]   -42|42   |00042 ff FF 10 z %\n8 args, -9223372036854775808 9223372036854775808 -5 200\n\
                 1234.567800 1.235e+03 1234.57  1234.5678 0x1p+0\nplain\n     7 1234.57 0x1234 tail\n";
    assert_eq!(f.printed(), format!("{block}{block}block 1 thread 33\n"));
}

#[test]
fn asserts_and_traps() {
    let values = |bad: i32| {
        let f = Foreign::load("prints").choose("checks");
        let mut x = [3i32; 32];
        x[7] = bad;
        let x = f.put(&x);
        let result = f.launch(grid(1, 32), &[x]);
        (result.err().map(|fault| (fault.kind(), fault.to_string())), f.printed())
    };
    assert_eq!(values(3), (None, "seen\n".repeat(32)));
    let (fault, printed) = values(5);
    let (kind, text) = fault.expect("an assertion");
    assert_eq!(kind, FaultKind::Assertion);
    assert!(text.contains("v != 5 && \"five\"") && text.contains("thread (7,0,0)"), "{text}");
    assert!(printed.contains("thread: [7,0,0] Assertion `v != 5 && \"five\"` failed.\n"), "{printed}");
    assert_eq!(values(9).0.expect("a trap").0, FaultKind::Trap);
}

#[test]
fn groups_of_threads() {
    let f = Foreign::load("groups");
    let mut random = Random(21);
    let x: Vec<i32> = (0..128).map(|_| (random.next() % 100) as i32).collect();
    let w: Vec<f32> = (0..128).map(|_| random.float()).collect();
    let (dx, dy) = (f.put(&x), f.put(&vec![0i32; 1024]));
    let (df, dg) = (f.put(&w), f.put(&vec![0f32; 256]));
    f.run(grid(1, 128), &[dx, dy, df, dg]);
    let (y, g) = (f.get::<i32>(dy, 1024), f.get::<f32>(dg, 256));
    for i in 0..128 {
        let (tile, warp) = (i / 8 * 8, i / 32 * 32);
        assert_eq!(y[i], *x[tile..tile + 8].iter().max().unwrap());
        assert_eq!(y[128 + i], x[warp..=i].iter().sum::<i32>());
        assert_eq!(y[256 + i], x[tile..i].iter().sum::<i32>());
        let any = x[warp..warp + 32].iter().any(|&v| v > 90) as i32;
        assert_eq!(y[384 + i], x[tile + ((i % 8) ^ 3)] + (i as i32 / 8) * 1000 + any * 10000);
        let same = (0..32).fold(0u32, |m, l| m | (((x[warp + l] & 3 == x[i] & 3) as u32) << l));
        assert_eq!(y[512 + i] as u32, same);
        if x[i] & 1 != 0 {
            let odd = |k: &usize| x[*k] & 1 != 0;
            let lanes: Vec<usize> = (warp..warp + 32).filter(odd).collect();
            let rank = lanes.iter().position(|&k| k == i).unwrap() as i32;
            assert_eq!(y[640 + i], lanes.iter().map(|&k| x[k]).sum::<i32>() * 64 + rank);
            let alike: Vec<usize> = lanes.into_iter().filter(|&k| x[k] & 6 == x[i] & 6).collect();
            let rank = alike.iter().position(|&k| k == i).unwrap() as i32;
            assert_eq!(y[768 + i], alike.len() as i32 * 100 + rank);
        } else {
            assert_eq!((y[640 + i], y[768 + i]), (-1, -1));
        }
        close(g[i], w[warp..warp + 32].iter().map(|&v| v as f64).sum(), 1e-5, "sum of a warp");
        let half = i / 16 * 16;
        assert_eq!(g[128 + i], w[half..half + 16].iter().copied().fold(f32::INFINITY, f32::min));
        assert_eq!(y[896 + i], x.iter().sum::<i32>());
    }
}

#[test]
fn a_grid_that_meets() {
    let f = Foreign::load("groups").choose("gridded");
    let (acc, out) = (f.put(&[0i32; 10]), f.put(&[0i32; 10]));
    f.run(Launch { cooperative: true, ..grid(6, 64) }, &[acc, out, 10]);
    let got = f.get::<i32>(out, 10);
    for r in 0..10 {
        let sum: i32 = (0..384).filter(|t| t % 7 == r % 7).map(|t| t as i32 / 64 + 1).sum();
        assert_eq!(got[r], sum * 2 + 6);
    }
    let fault = f.launch(grid(6, 64), &[acc, out, 1]).expect_err("not cooperative");
    assert_eq!(fault.kind(), FaultKind::Trap);
}
