//! Loads, stores, atomics, asynchronous copies, variables; faults of access; the sanitizer; counters.

#![allow(clippy::needless_range_loop, reason = "a lane number indexes several rows at once")]

mod common;
use common::*;
use softcuda::{Class, Fault, FaultKind, Launch, Module};

fn index(body: &str) -> String {
    format!(
        "{HEADER}.visible .entry k(.param .u64 a, .param .u64 b) {{
    .shared .align 16 .b8 tile[4096];
    .reg .pred %p<4>; .reg .b16 %h<9>; .reg .b32 %r<20>; .reg .b64 %d<20>; .reg .f32 %f<9>;
    ld.param.u64 %d1, [a]; ld.param.u64 %d2, [b];
    mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;
    mad.lo.u32 %r4, %r2, %r3, %r1;
    mul.wide.u32 %d3, %r4, 4;
    add.u64 %d4, %d1, %d3;
    add.u64 %d5, %d2, %d3;
    mov.u32 %r5, tile; shl.b32 %r6, %r1, 2; add.u32 %r7, %r5, %r6;
{body}
    ret;
}}"
    )
}

fn numbers(n: u32) -> Vec<u32> {
    (0..n).map(|i| i.wrapping_mul(2654435761)).collect()
}

#[test]
fn widths_signs_and_vectors() {
    // Bytes and halves with both extensions into registers of three widths, vectors of all shapes.
    let body = "
    ld.global.s8 %r8, [%d4+1]; ld.global.u8 %h1, [%d4+2]; ld.global.b8 %d6, [%d4+3]; ld.global.s16 %d7, [%d4+2]; ld.global.u16 %r9, [%d4];
    cvt.u32.u16 %r10, %h1; cvt.u32.u64 %r11, %d6; cvt.u32.u64 %r12, %d7;
    shl.b32 %r13, %r1, 4; cvt.u64.u32 %d8, %r13; add.u64 %d9, %d1, %d8; add.u64 %d10, %d2, %d8;
    ld.global.nc.L1::no_allocate.L2::128B.v4.b32 {%r14, %r15, %r16, %r17}, [%d9];
    xor.b32 %r14, %r8, %r14; add.u32 %r14, %r14, %r9; add.u32 %r15, %r15, %r10; add.u32 %r16, %r16, %r11; add.u32 %r17, %r17, %r12;
    st.global.v2.b32 [%d10], {%r14, %r15}; mov.b64 %d11, {%r16, %r17}; st.volatile.global.b64 [%d10+8], %d11;
    st.global.b8 [%d10], 0x5a;";
    let input = numbers(256);
    let (out, _) = run(&index(body), launch(1, 64), &[input.clone(), vec![0; 256]], true).unwrap();
    for l in 0..64 {
        let b = input[l].to_le_bytes();
        let v = &input[4 * l..4 * l + 4];
        let first = ((b[1] as i8 as u32) ^ v[0]).wrapping_add(input[l] as u16 as u32) & !0xff | 0x5a;
        let rest = [
            v[1].wrapping_add(b[2] as u32),
            v[2].wrapping_add(b[3] as u32),
            v[3].wrapping_add((input[l] >> 16) as u16 as i16 as u32),
        ];
        assert_eq!(out[1][4 * l], first, "lane {l}");
        assert_eq!(out[1][4 * l + 1..4 * l + 4], rest, "lane {l}");
    }
}

#[test]
fn shared_vectors_and_cache_policies() {
    // 16 bytes at a time through shared memory, the neighbour's read back; loads with a policy are loads.
    let body = "
    { .reg .b64 %policy; createpolicy.fractional.L2::evict_first.b64 %policy, 1.0;
    shl.b32 %r13, %r1, 4; cvt.u64.u32 %d8, %r13; add.u64 %d9, %d1, %d8; add.u64 %d10, %d2, %d8;
    ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32 {%r14, %r15, %r16, %r17}, [%d9], %policy; }
    add.u32 %r8, %r5, %r13; st.shared.v4.b32 [%r8], {%r14, %r15, %r16, %r17};
    bar.sync 1, 64;
    xor.b32 %r8, %r13, 16; add.u32 %r8, %r5, %r8; ld.shared.v4.b32 {%r14, %r15, %r16, %r17}, [%r8];
    st.global.v4.b32 [%d10], {%r14, %r15, %r16, %r17};";
    let input = numbers(256);
    let (out, counters) = run(&index(body), launch(1, 64), &[input.clone(), vec![0; 256]], true).unwrap();
    assert!((0..256).all(|i| out[1][i] == input[i ^ 4]));
    assert_eq!((counters.shared_load_bytes, counters.shared_store_bytes, counters.shared_conflicts), (1024, 1024, 0));
}

#[test]
fn atomics() {
    type Update = fn(u32, u32) -> u32;
    let cases: [(&str, Update); 9] = [
        ("add.u32", u32::wrapping_add),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.u32", u32::max),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
        ("exch.b32", |_, b| b),
        ("inc.u32", |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", |a, b| if a == 0 || a > b { b } else { a - 1 }),
    ];
    for (name, update) in cases {
        // All threads of one warp act on word 0 in lane order; the old values tell the order.
        let body = format!(
            "mul.lo.u32 %r8, %r1, 0x9E3779B1; atom.global.{name} %r9, [%d1], %r8; st.global.u32 [%d5], %r9; red.shared.add.u32 [tile], 1;"
        );
        let body = format!("setp.ne.u32 %p1, %r1, 0; @%p1 bra GO; st.shared.u32 [tile], 0; GO: bar.sync 0; {body}");
        let (out, counters) = run(&index(&body), launch(1, 32), &[vec![77], vec![0; 32]], true).unwrap();
        let mut value = 77u32;
        for l in 0..32u32 {
            assert_eq!(out[1][l as usize], value, "{name}");
            value = update(value, l.wrapping_mul(0x9E3779B1));
        }
        assert_eq!(out[0][0], value, "{name}");
        assert_eq!(counters.class(Class::Atomic), 2);
    }
    // Compare and swap, f32 and packed f16 addition.
    let body = "atom.cas.b32 %r8, [%d1], %r1, 40; atom.global.add.f32 %f1, [%d1+4], 0f3F000000; mov.b32 %r10, 0x3C004000; red.global.add.noftz.f16x2 [%d1+8], %r10;
        st.global.u32 [%d5], %r8;";
    let (out, _) = run(&index(body), launch(2, 32), &[vec![5, 0, 0], vec![0; 64]], true).unwrap();
    assert_eq!(out[0][0], 40);
    assert_eq!(f32::from_bits(out[0][1]), 32.0);
    // 64 times 1.0 above and 2.0 below.
    assert_eq!(out[0][2], 0x5400_5800);
}

#[test]
fn async_copies_arrive_at_the_wait() {
    let kernel = |wait: &str| {
        index(&format!(
            "st.shared.u32 [%r7], 9; st.shared.u32 [%r7+2048], 9;
    cp.async.ca.shared.global [%r7], [%d4], 4; cp.async.commit_group;
    setp.lt.u32 %p1, %r1, 5; selp.u32 %r8, 4, 0, %p1;
    cp.async.ca.shared.global [%r7+2048], [%d4], 4, %r8; cp.async.commit_group;
    {wait}
    ld.shared.u32 %r9, [%r7]; ld.shared.u32 %r10, [%r7+2048]; add.u32 %r9, %r9, %r10;
    st.global.u32 [%d5], %r9;"
        ))
    };
    let input: Vec<u32> = (0..64).map(|i| 1000 + i).collect();
    type OfLane = fn(u32) -> u32;
    let cases: [(&str, OfLane); 3] = [
        ("cp.async.wait_all;", |l| 1000 + l + if l < 5 { 1000 + l } else { 0 }),
        ("cp.async.wait_group 1;", |l| 1009 + l),
        ("", |_| 18),
    ];
    for (wait, want) in cases {
        let (out, _) = run(&kernel(wait), launch(1, 64), &[input.clone(), vec![0; 64]], false).unwrap();
        assert!((0..64).all(|l| out[1][l] == want(l as u32)), "{wait}: {:?}", out[1]);
    }
}

#[test]
fn module_variables() {
    let ptx = format!(
        "{HEADER}
.extern .shared .align 16 .b8 dyn[];
.const .align 4 .b32 weights[4] = {{1, -2, 0x30, 4}};
.global .align 4 .f32 table[4] = {{0f3F800000, 2.5, 0f40400000}};
.global .align 8 .u64 pointer = generic(table)+8;
.global .align 1 .b8 text[3] = {{104, 105}};
.visible .entry k(.param .u64 out) {{
    .reg .b16 %h<3>; .reg .b32 %r<20>; .reg .b64 %d<9>;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4;
    mov.u64 %d3, weights; add.u64 %d3, %d3, %d2; ld.const.b32 %r2, [%d3];
    ld.global.u64 %d4, [pointer]; ld.global.b32 %r3, [%d4];
    ld.global.nc.b8 %h1, [text+1]; cvt.u32.u16 %r4, %h1;
    mov.u32 %r5, dyn; shl.b32 %r6, %r1, 2; add.u32 %r5, %r5, %r6; st.shared.b32 [%r5], %r2; ld.shared.b32 %r7, [%r5];
    cvt.u64.u32 %d5, %r5; cvta.shared.u64 %d6, %d5; ld.b32 %r8, [%d6];
    mov.u32 %r9, %dynamic_smem_size;
    add.u64 %d1, %d1, %d2; st.global.b32 [%d1], %r7; st.global.b32 [%d1+16], %r3; st.global.b32 [%d1+32], %r4; st.global.b32 [%d1+48], %r8; st.global.b32 [%d1+64], %r9;
    ret;
}}"
    );
    let launch = Launch { dynamic_shared: 16, ..launch(1, 4) };
    let (out, _) = run(&ptx, launch, &[vec![0; 20]], true).unwrap();
    assert_eq!(out[0][..4], [1, -2i32 as u32, 0x30, 4]);
    assert_eq!(out[0][4..8], [3f32.to_bits(); 4]);
    assert_eq!(out[0][8..12], [105; 4]);
    assert_eq!(out[0][12..16], out[0][..4]);
    assert_eq!(out[0][16..], [16; 4]);
    let device = device(1, true);
    let loaded = device.load(&Module::from_ptx(&ptx).unwrap()).unwrap();
    let (address, size) = loaded.global("table").unwrap();
    assert_eq!(size, 16);
    assert_eq!(download::<f32>(&device, address, 4), [1.0, 2.5, 3.0, 0.0]);
}

fn fault(body: &str, words: u32) -> Fault {
    run(&index(body), launch(2, 64), &[numbers(words), vec![0; 128]], false).expect_err("a fault")
}

#[test]
fn out_of_bounds_names_the_thread() {
    let fault = fault("ld.global.u32 %r8, [%d4];\n st.global.u32 [%d5], %r8;", 100);
    assert_eq!(fault.kind(), FaultKind::OutOfBounds);
    let at = fault.location().unwrap();
    assert_eq!((at.block, at.thread, at.text.as_str()), ([1, 0, 0], [36, 0, 0], "ld.global.u32 %r8, [%d4];"));
    assert!(
        fault.message().contains("4 bytes")
            && fault.message().contains("0 bytes past the end of the 400-byte allocation"),
        "{fault}"
    );
    // Partly inside.
    let fault = self::fault("ld.global.v4.u32 {%r8, %r9, %r10, %r11}, [%d1+384];", 99);
    assert!(fault.message().contains("ending 4 bytes past"), "{fault}");
    assert_eq!(self::fault("ld.global.u32 %r8, [%d3];", 4).kind(), FaultKind::OutOfBounds);
    let shared = self::fault("ld.shared.u32 %r8, [%r7+4000];", 4);
    assert_eq!((shared.kind(), shared.location().unwrap().thread), (FaultKind::OutOfBounds, [24, 0, 0]), "{shared}");
}

#[test]
fn misaligned_access_is_caught() {
    let fault = fault(
        "setp.eq.u32 %p1, %r1, 3; selp.u64 %d6, 2, 0, %p1; add.u64 %d4, %d4, %d6;\nld.global.u32 %r8, [%d4];",
        200,
    );
    assert_eq!((fault.kind(), fault.location().unwrap().thread), (FaultKind::Misaligned, [3, 0, 0]), "{fault}");
    assert_eq!(self::fault("ld.shared.v2.u32 {%r8, %r9}, [%r7+4];", 1).kind(), FaultKind::Misaligned);
}

#[test]
fn use_after_free_and_wrong_frees_are_caught() {
    let device = device(1, true);
    let (a, b) = (upload(&device, &numbers(64)), upload(&device, &numbers(64)));
    let kernel = kernel(&device, &index("ld.global.u32 %r8, [%d4]; st.global.u32 [%d5], %r8;"));
    device.launch(&kernel, &launch(1, 64), &pack(&[a, b])).unwrap();
    device.free(a).unwrap();
    let fault = device.launch(&kernel, &launch(1, 64), &pack(&[a, b])).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::UseAfterFree, "{fault}");
    assert_eq!(device.free(a).unwrap_err().kind(), FaultKind::UseAfterFree);
    assert_eq!(device.free(b + 4).unwrap_err().kind(), FaultKind::InvalidValue);
    assert_eq!(device.free(0).unwrap_err().kind(), FaultKind::InvalidValue);
    assert_ne!(device.alloc(256).unwrap(), a, "addresses are not used again");
    assert_eq!(device.alloc(0).unwrap_err().kind(), FaultKind::InvalidValue);
    assert_eq!(device.alloc(1 << 40).unwrap_err().kind(), FaultKind::OutOfMemory);
    let (free, total) = device.memory_info();
    assert_eq!(total - free, 256 + 256);
    let mut out = [0; 8];
    assert_eq!(device.read(b + 252, &mut out).unwrap_err().kind(), FaultKind::OutOfBounds);
    assert_eq!(device.address_range(b + 100).unwrap(), (b, 256));
}

#[test]
fn host_copies_keep_the_initialised_state() {
    let device = device(1, true);
    let (a, b) = (device.alloc(1000).unwrap(), device.alloc(1000).unwrap());
    device.write(a + 100, &[1; 300]).unwrap();
    device.fill(b, [7u8, 8], 500).unwrap();
    device.copy(b + 50, a, 500).unwrap();
    device.set_sanitizer(true);
    device.check_initialised(b + 150, 300).unwrap();
    device.check_initialised(b, 50).unwrap();
    device.check_initialised(b + 550, 450).unwrap();
    for hole in [b + 149, b + 450, b + 50] {
        let fault = device.check_initialised(hole, 1).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::Uninitialised);
    }
    device.mark_initialised(b + 50, 100).unwrap();
    device.check_initialised(b, 400).unwrap();
    assert_eq!(device.fill(b + 1, [0u8; 4], 1).unwrap_err().kind(), FaultKind::Misaligned);
    device.set_sanitizer(false);
    device.check_initialised(b + 450, 1).unwrap();
}

#[test]
fn uninitialised_reads_are_caught() {
    // The kernel runs once without the sanitizer and writes all but one word of `b`; that is remembered.
    let device = device(2, true);
    let (a, b) = (upload(&device, &numbers(64)), device.alloc(256).unwrap());
    let writer = kernel(&device, &index("setp.eq.u32 %p1, %r1, 40; @!%p1 st.global.u32 [%d5], %r1;"));
    device.launch(&writer, &launch(1, 64), &pack(&[a, b])).unwrap();
    device.set_sanitizer(true);
    let reader = kernel(&device, &index("ld.global.u32 %r8, [%d5]; st.global.u32 [%d4], %r8;"));
    let fault = device.launch(&reader, &launch(1, 64), &pack(&[a, b])).unwrap_err();
    assert_eq!((fault.kind(), fault.location().unwrap().thread), (FaultKind::Uninitialised, [40, 0, 0]), "{fault}");
    device.write(b + 160, &[0; 4]).unwrap();
    device.launch(&reader, &launch(1, 64), &pack(&[a, b])).unwrap();
    // Shared memory: one byte of a word is missing.
    let half = kernel(&device, &index("st.shared.u16 [%r7], 0; st.shared.u8 [%r7+2], 0;\nld.shared.u32 %r8, [%r7];"));
    let fault = device.launch(&half, &launch(1, 64), &pack(&[a, b])).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Uninitialised, "{fault}");
    assert!(fault.message().contains("0x3"), "{fault}");
}

/// Racy kernels, what makes them right, and the two lines that a report must name.
#[test]
fn races_are_caught_and_ordered_accesses_are_not() {
    struct Case {
        racy: &'static str,
        ordered: &'static str,
        named: [&'static str; 2],
    }
    let cases = [
        // Another warp's shared memory, read without a barrier.
        Case {
            racy: "st.shared.u32 [%r7], %r1;\nxor.b32 %r8, %r6, 252; add.u32 %r8, %r5, %r8;\nst.shared.u32 [%r7+256], 0;\nld.shared.u32 %r9, [%r8];",
            ordered: "st.shared.u32 [%r7], %r1;\nxor.b32 %r8, %r6, 252; add.u32 %r8, %r5, %r8;\nbar.sync 0;\nld.shared.u32 %r9, [%r8];",
            named: ["st.shared.u32 [%r8], 1;", "st.shared.u32 [%r7], %r1;"],
        },
        // Reading, then writing over what another warp still reads.
        Case {
            racy: "st.shared.u32 [%r7], %r1;\nbar.sync 0;\nxor.b32 %r8, %r6, 252; add.u32 %r8, %r5, %r8;\nld.shared.u32 %r9, [%r8];\nst.shared.u32 [%r7], 5;",
            ordered: "st.shared.u32 [%r7], %r1;\nbar.sync 0;\nxor.b32 %r8, %r6, 252; add.u32 %r8, %r5, %r8;\nld.shared.u32 %r9, [%r8];\nbar.sync 0;\nst.shared.u32 [%r7], 5;",
            named: ["st.shared.u32 [%r7], 5;", "ld.shared.u32 %r9, [%r8];"],
        },
        // Lanes of one warp.
        Case {
            racy: "st.shared.u32 [%r7], %r1;\nxor.b32 %r8, %r6, 4; add.u32 %r8, %r5, %r8;\nld.shared.u32 %r9, [%r8];",
            ordered: "st.shared.u32 [%r7], %r1;\nxor.b32 %r8, %r6, 4; add.u32 %r8, %r5, %r8;\nbar.warp.sync -1;\nld.shared.u32 %r9, [%r8];",
            named: ["ld.shared.u32 %r9, [%r8];", "st.shared.u32 [%r7], %r1;"],
        },
        // Two lanes, one place, one instruction.
        Case {
            racy: "st.shared.u32 [tile], %r1;",
            ordered: "setp.eq.u32 %p1, %r1, 7; @%p1 st.shared.u32 [tile], %r1;",
            named: ["st.shared.u32 [tile], %r1;", "different values"],
        },
        // Blocks on global memory.
        Case {
            racy: "st.global.u32 [%d4], %r1;\nxor.b32 %r8, %r4, 64; mul.wide.u32 %d6, %r8, 4; add.u64 %d6, %d1, %d6;\nld.global.u32 %r9, [%d6];",
            ordered: "ld.global.u32 %r9, [%d4];\nst.global.u32 [%d4], %r1;",
            named: ["ld.global.u32 %r9, [%d6];", "st.global.u32 [%d4], %r1;"],
        },
        // A plain update of a counter, against an atomic one.
        Case {
            racy: "ld.global.u32 %r8, [%d1]; add.u32 %r8, %r8, 1;\nst.global.u32 [%d1], 1;",
            ordered: "red.global.add.u32 [%d1], 1;",
            named: ["st.global.u32 [%d1], 1;", "ld.global.u32 %r8, [%d1];"],
        },
        // A block's own global data, across warps.
        Case {
            racy: "st.global.u32 [%d4], %r1;\nxor.b32 %r8, %r4, 32; mul.wide.u32 %d6, %r8, 4; add.u64 %d6, %d1, %d6;\nld.global.u32 %r9, [%d6];",
            ordered: "st.global.u32 [%d4], %r1;\nxor.b32 %r8, %r4, 32; mul.wide.u32 %d6, %r8, 4; add.u64 %d6, %d1, %d6;\nbar.sync 0;\nld.global.u32 %r9, [%d6];",
            named: ["ld.global.u32 %r9, [%d6];", "st.global.u32 [%d4], %r1;"],
        },
    ];
    for (i, case) in cases.iter().enumerate() {
        let buffers = [numbers(128), vec![0; 128]];
        let racy =
            if i == 0 { case.racy.replace("ld.shared.u32 %r9, [%r8];", case.named[0]) } else { case.racy.to_owned() };
        let fault = run(&index(&racy), launch(2, 64), &buffers, true).expect_err(&racy);
        assert_eq!(fault.kind(), FaultKind::Race, "{racy}: {fault}");
        let said = fault.to_string();
        assert!(case.named.iter().all(|n| said.contains(n)), "{said}");
        run(&index(&racy), launch(2, 64), &buffers, false).expect("runs without the sanitizer");
        run(&index(case.ordered), launch(2, 64), &buffers, true).unwrap_or_else(|f| panic!("{}: {f}", case.ordered));
    }
}

/// Bytes that were accessed together and then apart keep their own histories.
#[test]
fn races_are_found_by_byte_among_accesses_of_all_widths() {
    // All threads read all 64 bytes of `b`, 16 at a time; then each writes its own byte.
    let body = |between: &str, after: &str| {
        index(&format!(
            "and.b32 %r8, %r1, 3; mul.wide.u32 %d6, %r8, 16; add.u64 %d6, %d2, %d6;
    ld.global.v4.u32 {{%r8, %r9, %r10, %r11}}, [%d6];
    {between}
    cvt.u64.u32 %d7, %r1; add.u64 %d7, %d2, %d7;
    st.global.u8 [%d7], %r1;
    ld.global.u8 %r8, [%d7];
    {after}"
        ))
    };
    let buffers = [vec![0; 16], vec![0; 16]];
    let (out, _) = run(&body("bar.sync 0;", ""), launch(1, 64), &buffers, true).unwrap();
    assert_eq!(out[1][3], u32::from_le_bytes([12, 13, 14, 15]));
    // Without the barrier the first writer races with readers of its byte.
    let fault = run(&body("", ""), launch(1, 64), &buffers, true).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Race, "{fault}");
    // Thread 0 reads eight bytes of the other warp, which writes the first of them as thread 40.
    let early = "setp.eq.u32 %p1, %r1, 0; @%p1 ld.global.v2.u32 {%r8, %r9}, [%d2+40];";
    let fault = run(&body("bar.sync 0;", early), launch(1, 64), &buffers, true).unwrap_err();
    assert_eq!((fault.kind(), fault.location().unwrap().thread), (FaultKind::Race, [40, 0, 0]), "{fault}");
    assert!(fault.message().contains("thread (0,0,0) read"), "{fault}");
}

/// Accesses of evenly spaced lanes are checked and counted as a whole, but lane by lane under the sanitizer: both must say
/// the same, of values too.
#[test]
fn evenly_spaced_lanes_are_counted_as_single_ones() {
    for stride in [0i64, 4, 8, 12, 16, 28, 32, 36, 48, 64, 100, 128, 160, 512, -4, -16, -48] {
        for (width, registers, suffix) in
            [(4, "%r8", ""), (8, "{%r8, %r9}", ".v2"), (16, "{%r8, %r9, %r10, %r11}", ".v4")]
        {
            if stride % width != 0 {
                continue;
            }
            // From the start of what the lanes touch, which is 16 bytes past a sector. Each block has a part of its own;
            // only the first looks for its allocations.
            let first = 16 + if stride < 0 { -31 * stride } else { 0 };
            let body = format!(
                "mov.u32 %r8, 1; mov.u32 %r9, 2; mov.u32 %r10, 3; mov.u32 %r11, 4;
    mul.wide.u32 %d8, %r2, 16896; add.u64 %d2, %d2, %d8;
    mul.wide.s32 %d6, %r1, {stride}; add.s64 %d6, %d6, {first}; add.s64 %d7, %d2, %d6; add.s64 %d6, %d1, %d6;
    st.global{suffix}.u32 [%d7], {registers};
    ld.global{suffix}.u32 {registers}, [%d6];
    and.b32 %r12, %r1, 31; mul.lo.u32 %r12, %r12, {shared}; add.u32 %r12, %r5, %r12;
    st.shared{suffix}.u32 [%r12], {own};
    bar.warp.sync -1;
    ld.shared{suffix}.u32 {registers}, [%r12];
    st.global.u32 [%d2+{end}], 7;",
                shared = stride.abs().min(64),
                own = if stride == 0 {
                    registers.replace("%r8", "%r5").replace("%r9", "%r5").replace("%r10", "%r5").replace("%r11", "%r5")
                } else {
                    registers.to_owned()
                },
                end = 16 + 31 * stride.abs() + width,
            );
            let buffers = [numbers(4200), vec![0; 3 * 4224]];
            let whole = run(&index(&body), launch(3, 32), &buffers, false).unwrap_or_else(|f| panic!("{body}: {f}"));
            let single = run(&index(&body), launch(3, 32), &buffers, true).unwrap_or_else(|f| panic!("{body}: {f}"));
            assert_eq!(whole, single, "stride {stride}, {width} bytes");
        }
    }
}

/// A kernel keeps its register files between launches; shapes, buffers and faults of earlier ones leave no trace.
#[test]
fn launches_do_not_see_each_other() {
    let device = device(2, true);
    let body = "ld.global.u32 %r8, [%d4]; st.shared.u32 [%r7], %r8; bar.sync 0;
    xor.b32 %r9, %r6, 4; add.u32 %r9, %r5, %r9; ld.shared.u32 %r10, [%r9]; st.global.u32 [%d5], %r10;";
    let kernel = kernel(&device, &index(body));
    for (round, threads) in [64u32, 64, 256, 32, 96, 256].into_iter().enumerate() {
        let grid = 1 + round as u32 * 7;
        let n = grid * threads;
        let input: Vec<u32> = numbers(n).iter().map(|v| v ^ round as u32).collect();
        let (a, b) = (upload(&device, &input), upload(&device, &vec![0u32; n as usize]));
        device.launch(&kernel, &launch(grid, threads), &pack(&[a, b])).unwrap();
        let out = download::<u32>(&device, b, n as usize);
        assert!((0..n as usize).all(|i| out[i] == input[i ^ 1]), "{grid} blocks of {threads}");
        device.free(a).unwrap();
        let fault = device.launch(&kernel, &launch(grid, threads), &pack(&[a, b])).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::UseAfterFree, "{fault}");
    }
}

#[test]
fn counters_are_exact() {
    let count = |body: &str| run(&index(body), launch(2, 64), &[numbers(16384), vec![0; 16384]], false).unwrap().1;
    // Coalesced: 4 warps of 128 bytes.
    let c = count("ld.global.u32 %r8, [%d4]; st.global.u32 [%d5], %r8;");
    assert_eq!(
        (c.global_load_sectors, c.global_store_sectors, c.global_load_bytes, c.global_store_bytes),
        (16, 16, 512, 512)
    );
    assert_eq!((c.class(Class::GlobalLoad), c.class(Class::GlobalStore), c.class(Class::Parameter)), (4, 4, 8));
    // One word for everybody; a stride of a sector; backwards.
    assert_eq!(count("ld.global.u32 %r8, [%d1];").global_load_sectors, 4);
    assert_eq!(
        count("mul.wide.u32 %d6, %r4, 32; add.u64 %d6, %d1, %d6; ld.global.u32 %r8, [%d6];").global_load_sectors,
        128
    );
    assert_eq!(
        count("sub.u32 %r8, 127, %r4; mul.wide.u32 %d6, %r8, 4; add.u64 %d6, %d1, %d6; ld.global.u32 %r9, [%d6];")
            .global_load_sectors,
        16
    );
    assert_eq!(
        count("mul.wide.u32 %d6, %r4, 16; add.u64 %d6, %d1, %d6; ld.global.v4.u32 {%r8, %r9, %r10, %r11}, [%d6];")
            .global_load_sectors,
        64
    );
    // A predicate off in all lanes still issues.
    let c = count("setp.gt.u32 %p1, %r1, 1000; @%p1 ld.global.u32 %r8, [%d4];");
    assert_eq!((c.class(Class::GlobalLoad), c.global_load_sectors, c.global_load_bytes), (4, 0, 0));
    // Shared: strides of 1, 2, 32 words, a broadcast, vectors of 16 bytes at strides of 16 and 32.
    let shared_counters = |stride: u32, load: &str| {
        count(&format!("mul.lo.u32 %r8, %r1, {stride}; and.b32 %r8, %r8, 2047; add.u32 %r8, %r5, %r8; {load}"))
    };
    let shared = |stride: u32, load: &str| shared_counters(stride, load).shared_conflicts;
    for (stride, ways) in [(4, 0), (8, 2), (16, 4), (0, 0)] {
        assert_eq!(shared_counters(stride, "ld.shared.u32 %r9, [%r8];").shared_ways, ways, "stride {stride}");
    }
    assert_eq!(shared(4, "ld.shared.u32 %r9, [%r8];"), 0);
    assert_eq!(shared(8, "ld.shared.u32 %r9, [%r8];"), 4);
    assert_eq!(shared(0, "ld.shared.u32 %r9, [%r8];"), 0);
    assert_eq!(shared(16, "ld.shared.v4.u32 {%r9, %r10, %r11, %r12}, [%r8];"), 0);
    assert_eq!(shared(32, "ld.shared.v4.u32 {%r9, %r10, %r11, %r12}, [%r8];"), 4 * 4);
    // 32 words apart: 16 distinct words of one bank within the first 2048 bytes, each twice.
    assert_eq!(shared(128, "ld.shared.u32 %r9, [%r8];"), 4 * 15);
}

#[test]
fn a_move_is_one_instruction_of_its_own_class() {
    let count = |body: &str| {
        let counters = run(&index(body), launch(1, 32), &[vec![0; 32], vec![0; 32]], false).unwrap().1;
        (counters.class(Class::Move), counters.class(Class::Integer))
    };
    let (moves, integers) = count("");
    for (body, more_moves, more_integers) in [
        ("mov.b32 %r8, %r1; mov.b32 %r9, 7; mov.u64 %d6, %d1; mov.u32 %r10, tile;", 4, 0),
        ("mov.b32 {%h1, %h2}, %r1;", 1, 0),
        ("mov.b32 {_, %h2}, %r1;", 1, 0),
        ("mov.b32 %r8, {%h1, %h2};", 1, 0),
        ("mov.b64 {%r8, %r9}, %d1; mov.b64 %d6, {%r8, %r9};", 2, 0),
        ("mov.b64 {%h1, %h2, %h3, %h4}, %d1; mov.b64 %d6, {%h4, %h3, %h2, %h1};", 2, 0),
        ("cvta.to.global.u64 %d6, %d1;", 1, 0),
        ("mov.u32 %r8, %laneid; add.u32 %r8, %r8, 1;", 0, 2),
    ] {
        assert_eq!(count(body), (moves + more_moves, integers + more_integers), "{body}");
    }
}

#[test]
fn counters_do_not_depend_on_threads() {
    let body = "and.b32 %r8, %r4, 1; setp.eq.u32 %p1, %r8, 0; mov.u32 %r9, 0;
    LOOP: add.u32 %r9, %r9, 1; ld.global.u32 %r10, [%d4]; @%p1 ld.global.u32 %r11, [%d1]; setp.lt.u32 %p2, %r9, %r1; @%p2 bra LOOP;
    st.global.u32 [%d5], %r10; red.global.add.u32 [%d1], 1;";
    let results: Vec<_> = [1, 2, 3]
        .map(|threads| {
            let device = device(threads, true);
            let (a, b) = (upload(&device, &numbers(6400)), upload(&device, &vec![0u32; 6400]));
            let kernel = kernel(&device, &index(body));
            device.set_recording(true);
            let counters = device.launch(&kernel, &launch(100, 64), &pack(&[a, b])).unwrap();
            assert_eq!(device.records()[0].counters, counters);
            (counters, download::<u32>(&device, a, 1))
        })
        .into();
    assert!(results.iter().all(|r| *r == results[0]));
    assert!(results[0].0.divergent_branches > 0);
}

#[test]
fn a_prefetch_moves_nothing_and_must_lead_somewhere() {
    let body = |offset: i32| {
        index(&format!(
            "prefetch.global.L2 [%d4+{offset}]; prefetch.global.L2::evict_last [%d5]; prefetch.L1 [%d4]; prefetchu.L1 [%d4];
             cvt.u64.u32 %d11, %r5; cvta.shared.u64 %d11, %d11; prefetch.L2 [%d11];"
        ))
    };
    let buffers = [numbers(64), vec![0; 64]];
    let (_, counters) = run(&body(0), launch(1, 64), &buffers, true).unwrap();
    assert_eq!((counters.global_load_sectors, counters.global_load_bytes), (0, 0));
    assert_eq!(counters.class(Class::Other), 2 * 5);

    // Of the second warp's lanes the last one's address lies past the end.
    let fault = run(&body(4), launch(1, 64), &buffers, false).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::OutOfBounds);
    assert!(fault.message().starts_with("prefetch of 1 bytes"), "{fault}");
    assert_eq!(fault.location().unwrap().thread, [63, 0, 0]);
}

#[test]
fn a_bulk_prefetch_stays_within_an_allocation() {
    let body = |bytes: u32| {
        index(&format!("setp.ne.u32 %p1, %r4, 3; @%p1 bra OUT; cp.async.bulk.prefetch.L2.global [%d2], {bytes}; OUT:"))
            .replace(".target sm_80", ".target sm_90")
    };
    let buffers = [numbers(64), vec![0; 64]];
    let (_, counters) = run(&body(256), launch(1, 32), &buffers, true).unwrap();
    assert_eq!((counters.global_load_sectors, counters.class(Class::Other)), (0, 1));
    for (bytes, kind) in [(272, FaultKind::OutOfBounds), (8, FaultKind::InvalidOperand)] {
        let fault = run(&body(bytes), launch(1, 32), &buffers, false).unwrap_err();
        assert_eq!(fault.kind(), kind, "{fault}");
        assert!(fault.message().starts_with("prefetch of "), "{fault}");
        assert_eq!(fault.location().unwrap().thread, [3, 0, 0]);
    }
}

#[test]
fn grid_dependencies_are_no_operations_and_any_target_is_read() {
    let body = "griddepcontrol.wait; griddepcontrol.launch_dependents; st.global.u32 [%d5], %r4;";
    let ptx = index(body).replace(".target sm_80", ".target sm_90a");
    let (out, counters) = run(&ptx, launch(2, 32), &[vec![0], vec![0; 64]], true).unwrap();
    assert_eq!(out[1], (0..64).collect::<Vec<u32>>());
    assert_eq!(counters.class(Class::Other), 2 * 2);
}
