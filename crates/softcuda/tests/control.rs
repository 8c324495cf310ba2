//! Divergence, loops, reconvergence, calls, barriers, warp collectives, cooperative launches.

#![allow(clippy::needless_range_loop, reason = "a lane number indexes several rows at once")]

mod common;
use common::*;
use softcuda::{Class, Fault, FaultKind, Launch};

fn lane_ids() -> [u64; 32] {
    std::array::from_fn(|l| l as u64)
}

#[test]
fn loops_of_different_length_reconverge_for_a_shuffle() {
    // Each lane adds 1 lane times; the loop exits lane by lane, then all shuffle.
    let body = "cvt.u32.u64 %r1, %x0; mov.u32 %r2, 0; mov.u32 %r3, 0;
LOOP:
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra DONE;
    add.u32 %r2, %r2, 1;
    add.u32 %r3, %r3, 3;
    bra.uni LOOP;
DONE:
    shfl.sync.bfly.b32 %r4, %r3, 1, 31, -1;
    cvt.u64.u32 %y0, %r3;
    cvt.u64.u32 %y1, %r4;";
    let got = lanes(body, &[lane_ids()], 2);
    for l in 0..32 {
        assert_eq!(got[0][l], 3 * l as u64);
        assert_eq!(got[1][l], 3 * (l as u64 ^ 1));
    }
}

#[test]
fn lanes_meet_again_before_the_next_turn_of_a_loop_whose_end_stands_before_its_beginning() {
    // Every eighth lane does more in each turn. The loop's last block stands first in the text, as LLVM sometimes has it, and
    // what follows the loop in the middle of it.
    let body = "cvt.u32.u64 %r1, %x0; mov.u32 %r2, 0; mov.u32 %r3, 0; and.b32 %r4, %r1, 7; setp.ne.u32 %p1, %r4, 0;
    bra.uni HEAD;
LATCH:
    add.u32 %r2, %r2, 1;
    setp.lt.u32 %p2, %r2, 10;
    @%p2 bra HEAD;
    bra.uni DONE;
DONE:
    cvt.u64.u32 %y0, %r3;
    st.global.u64 [%out], %y0;
    ret;
HEAD:
    ld.global.u64 %d1, [%in];
    add.u32 %r3, %r3, 1;
    @%p1 bra LATCH;
    add.u32 %r3, %r3, 100;
    bra.uni LATCH;";
    let device = device(1, true);
    device.set_recording(true);
    let got = lanes_on(&device, body, &[lane_ids()], 1).unwrap();
    for (lane, got) in got[0].iter().enumerate() {
        assert_eq!(*got, if lane.is_multiple_of(8) { 1010 } else { 10 });
    }
    let counters = device.records()[0].counters;
    // Once for the input and once a turn, for all lanes together.
    assert_eq!(counters.class(Class::GlobalLoad), 11);
    // `bra.uni HEAD`, the two branches of the end, that to HEAD's end and the one behind it, and the return: no jump is counted
    // that the text does not have.
    assert_eq!(counters.class(Class::Control), 1 + 10 + 1 + 10 + 10 + 1);
}

#[test]
fn nested_branches_and_early_exit() {
    // Lanes 0..8 return early; odd lanes among the rest take an inner branch.
    let body = "cvt.u32.u64 %r1, %x0; mov.u64 %y0, 7;
    setp.lt.u32 %p1, %r1, 8;
    @!%p1 bra KEEP;
    st.global.u64 [%out], %y0;
    ret;
KEEP:
    and.b32 %r2, %r1, 1;
    setp.eq.u32 %p2, %r2, 0;
    @%p2 bra EVEN;
    setp.gt.u32 %p3, %r1, 20;
    @%p3 bra LARGE;
    mov.u64 %y0, 1;
    bra JOIN;
LARGE:
    mov.u64 %y0, 2;
    bra JOIN;
EVEN:
    mov.u64 %y0, 3;
JOIN:
    activemask.b32 %r5;
    cvt.u64.u32 %d1, %r5;
    shl.b64 %d1, %d1, 8;
    or.b64 %y0, %y0, %d1;";
    let got = lanes(body, &[lane_ids()], 1);
    for l in 0..32u64 {
        let want = match l {
            0..8 => 7,
            _ if l % 2 == 0 => 3 | 0xffff_ff00 << 8,
            21.. => 2 | 0xffff_ff00 << 8,
            _ => 1 | 0xffff_ff00 << 8,
        };
        assert_eq!(got[0][l as usize], want, "lane {l}");
    }
}

#[test]
fn indexed_branch() {
    let body = "cvt.u32.u64 %r1, %x0; and.b32 %r1, %r1, 3;
    TARGETS: .branchtargets A, B, C, A;
    brx.idx %r1, TARGETS;
A:  mov.u64 %y0, 10; bra END;
B:  mov.u64 %y0, 20; bra END;
C:  mov.u64 %y0, 30;
END:";
    let got = lanes(body, &[lane_ids()], 1);
    for l in 0..32 {
        assert_eq!(got[0][l], [10, 20, 30, 10][l % 4]);
    }
}

#[test]
fn functions_are_called_with_parameters_and_return() {
    let ptx = format!(
        "{HEADER}
.func (.param .b32 result) clamp_sum(.param .b32 a, .param .align 8 .b8 pair[8]) {{
    .reg .pred %p<2>; .reg .b32 %r<6>;
    ld.param.b32 %r1, [a];
    ld.param.v2.b32 {{%r2, %r3}}, [pair];
    add.s32 %r4, %r1, %r2;
    setp.lt.s32 %p1, %r4, %r3;
    @%p1 bra SMALL;
    st.param.b32 [result], %r3;
    ret;
SMALL:
    st.param.b32 [result], %r4;
    ret;
}}
.visible .entry k(.param .u64 out) {{
    .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    mov.u32 %r5, -1;
    setp.ne.u32 %p1, %r1, 31;
    {{
    .param .b32 a; .param .align 8 .b8 pair[8]; .param .b32 result;
    st.param.b32 [a], %r1;
    st.param.v2.b32 [pair], {{100, 110}};
    @%p1 call.uni (result), clamp_sum, (a, pair);
    ld.param.b32 %r2, [result];
    }}
    selp.b32 %r2, %r2, %r5, %p1;
    mul.wide.u32 %d2, %r1, 4;
    add.u64 %d1, %d1, %d2;
    st.global.b32 [%d1], %r2;
    ret;
}}"
    );
    let (out, _) = run(&ptx, launch(1, 32), &[vec![0; 32]], true).unwrap();
    for (l, &got) in out[0].iter().enumerate() {
        assert_eq!(got, if l == 31 { u32::MAX } else { (100 + l as u32).min(110) });
    }
}

#[test]
fn local_memory_through_generic_addresses() {
    let ptx = format!(
        "{HEADER}.visible .entry k(.param .u64 out) {{
    .local .align 8 .b8 depot[16];
    .reg .pred %p<2>; .reg .b32 %r<6>; .reg .b64 %SP; .reg .b64 %SPL; .reg .b64 %d<6>;
    mov.b64 %SPL, depot;
    cvta.local.u64 %SP, %SPL;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    add.u64 %d4, %SP, 8;
    st.u32 [%d4], %r1;
    ld.local.u32 %r2, [%SPL+8];
    isspacep.local %p1, %d4;
    selp.b32 %r3, 1000, 0, %p1;
    add.u32 %r2, %r2, %r3;
    mul.wide.u32 %d2, %r1, 4;
    add.u64 %d1, %d1, %d2;
    st.global.b32 [%d1], %r2;
    ret;
}}"
    );
    let (out, counters) = run(&ptx, launch(1, 64), &[vec![0; 64]], true).unwrap();
    assert!(out[0].iter().enumerate().all(|(l, &v)| v == 1000 + l as u32));
    assert_eq!(counters.class(Class::Local), 2);
}

/// Two warps exchange values through shared memory.
fn exchange(barrier: &str) -> String {
    format!(
        "{HEADER}.visible .entry k(.param .u64 out) {{
    .shared .align 4 .b8 tile[256];
    .reg .pred %p<2>; .reg .b32 %r<9>; .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, tile;
    shl.b32 %r3, %r1, 2;
    add.u32 %r4, %r2, %r3;
    st.shared.u32 [%r4], %r1;
    {barrier}
    xor.b32 %r5, %r3, 252;
    add.u32 %r5, %r2, %r5;
    ld.shared.u32 %r6, [%r5];
    mul.wide.u32 %d2, %r1, 4;
    add.u64 %d1, %d1, %d2;
    st.global.b32 [%d1], %r6;
    ret;
}}"
    )
}

#[test]
fn barrier_orders_warps() {
    for barrier in ["bar.sync 0;", "barrier.sync 3;", "barrier.cta.sync.aligned 1, 64;", "barrier.sync.aligned 0;"] {
        let (out, counters) = run(&exchange(barrier), launch(3, 64), &[vec![0; 64]], false).unwrap();
        assert!(out[0].iter().enumerate().all(|(l, &v)| v == 63 - l as u32), "{barrier}");
        assert_eq!(counters.barriers, 6);
    }
}

fn fault(ptx: &str, launch: Launch, words: usize) -> Fault {
    run(ptx, launch, &[vec![0; words]], false).expect_err("a fault")
}

#[test]
fn barrier_in_a_divergent_warp_is_a_fault() {
    let barrier = "setp.lt.u32 %p1, %r1, 16;\n    @%p1 bar.sync 0;";
    let fault = fault(&exchange(barrier), launch(1, 64), 64);
    assert_eq!(fault.kind(), FaultKind::PartialBarrier, "{fault}");
    let at = fault.location().unwrap();
    assert_eq!((at.thread, at.text.as_str()), ([0, 0, 0], "@%p1 bar.sync 0;"));
    assert!(fault.message().contains("16 of 32"), "{fault}");
}

#[test]
fn barrier_after_part_of_the_block_left_is_a_fault() {
    // A whole warp leaves.
    let whole = fault(&exchange("setp.ge.u32 %p1, %r1, 32;\n    @%p1 ret;\n    bar.sync 0;"), launch(1, 64), 64);
    assert_eq!(whole.kind(), FaultKind::PartialBarrier, "{whole}");
    assert!(whole.message().contains("32 of 64") && whole.message().contains("thread (32,0,0) has exited"), "{whole}");
    // One thread leaves.
    let one = fault(&exchange("setp.eq.u32 %p1, %r1, 40;\n    @%p1 ret;\n    bar.sync 0;"), launch(1, 64), 64);
    assert_eq!(one.kind(), FaultKind::PartialBarrier, "{one}");
    assert!(one.message().contains("thread (40,0,0)"), "{one}");
}

#[test]
fn warps_at_different_barriers_are_a_fault() {
    let ptx = exchange(
        "setp.ge.u32 %p1, %r1, 32;\n    @%p1 bra OTHER;\n    bar.sync 1;\n    bra JOIN;\nOTHER:\n    bar.sync 2;\nJOIN:",
    );
    assert_eq!(fault(&ptx, launch(1, 64), 64).kind(), FaultKind::PartialBarrier);
}

#[test]
fn barrier_reductions_and_arrival() {
    let ptx = exchange(
        "bar.sync 0;
    and.b32 %r7, %r1, 3;
    setp.eq.u32 %p1, %r7, 0;
    bar.red.popc.u32 %r8, 1, %p1;
    st.shared.u32 [%r4], %r8;
    bar.sync 0;",
    );
    let (out, _) = run(&ptx, launch(1, 64), &[vec![0; 64]], false).unwrap();
    assert!(out[0].iter().all(|&v| v == 16));
    // The second warp arrives without waiting, the first waits for it.
    let ptx = exchange(
        "setp.ge.u32 %p1, %r1, 32;
    @%p1 bra PRODUCER;
    bar.sync 5, 64;
    bra JOIN;
PRODUCER:
    bar.arrive 5, 64;
JOIN:
    bar.sync 0;",
    );
    let (out, _) = run(&ptx, launch(1, 64), &[vec![0; 64]], true).unwrap();
    assert!(out[0].iter().enumerate().all(|(l, &v)| v == 63 - l as u32));
}

#[test]
fn shuffles() {
    type Source = fn(u32) -> (u32, bool);
    let modes: [(&str, Source); 6] = [
        ("up.b32 %r2|%p1, %r1, 3, 0", |l| if l >= 3 { (l - 3, true) } else { (l, false) }),
        ("down.b32 %r2|%p1, %r1, 5, 31", |l| if l + 5 <= 31 { (l + 5, true) } else { (l, false) }),
        ("bfly.b32 %r2|%p1, %r1, 12, 31", |l| (l ^ 12, true)),
        ("idx.b32 %r2|%p1, %r1, 9, 31", |_| (9, true)),
        // Segments of 8 lanes: c = (32 - 8) << 8 | 7 for idx, 0x1800 for up.
        ("idx.b32 %r2|%p1, %r1, 5, 0x181f", |l| (l / 8 * 8 + 5, true)),
        ("down.b32 %r2|%p1, %r1, 4, 0x181f", |l| if l % 8 + 4 <= 7 { (l + 4, true) } else { (l, false) }),
    ];
    for (mode, source) in modes {
        let body = format!(
            "cvt.u32.u64 %r1, %x0; add.u32 %r1, %r1, 100; shfl.sync.{mode}, -1; cvt.u64.u32 %y0, %r2; selp.u64 %y1, 1, 0, %p1;"
        );
        let got = lanes(&body, &[lane_ids()], 2);
        for l in 0..32 {
            let (from, inside) = source(l as u32);
            assert_eq!((got[0][l], got[1][l]), (100 + from as u64, inside as u64), "{mode} lane {l}");
        }
    }
}

#[test]
fn votes_matches_and_reductions() {
    let body = "cvt.u32.u64 %r1, %x0;
    setp.lt.u32 %p1, %r1, 12;
    vote.sync.ballot.b32 %r2, %p1, -1;
    vote.sync.any.pred %p2, %p1, -1;
    vote.sync.all.pred %p3, !%p1, -1;
    vote.sync.uni.pred %p4, %p1, -1;
    selp.u32 %r3, 1, 0, %p2; selp.u32 %r4, 2, 0, %p3; selp.u32 %r5, 4, 0, %p4;
    or.b32 %r3, %r3, %r4; or.b32 %r3, %r3, %r5;
    and.b32 %r6, %r1, 3;
    match.any.sync.b32 %r7, %r6, -1;
    match.all.sync.b32 %r8|%p5, %r2, -1;
    redux.sync.add.s32 %r9, %r1, -1;
    redux.sync.max.u32 %r10, %r6, -1;
    redux.sync.xor.b32 %r11, %r1, -1;
    elect.sync %r12|%p6, -1;
    selp.u32 %r13, 1, 0, %p6;
    cvt.u64.u32 %y0, %r2; cvt.u64.u32 %y1, %r3; cvt.u64.u32 %y2, %r7; cvt.u64.u32 %y3, %r8;
    cvt.u64.u32 %y4, %r9; cvt.u64.u32 %y5, %r10; cvt.u64.u32 %y6, %r11; cvt.u64.u32 %y7, %r13;";
    let got = lanes(body, &[lane_ids()], 8);
    for l in 0..32 {
        let row: Vec<u64> = got.iter().map(|r| r[l]).collect();
        assert_eq!(row, [0xfff, 1, 0x1111_1111 << (l % 4), 0xffff_ffff, 496, 3, 0, (l == 0) as u64]);
    }
}

#[test]
fn collectives_of_some_lanes() {
    // Half of the warp shuffles among itself, with a mask that names that half.
    let body = "cvt.u32.u64 %r1, %x0; mov.u32 %r2, 0;
    setp.ge.u32 %p1, %r1, 16;
    @%p1 bra END;
    shfl.sync.bfly.b32 %r2, %r1, 8, 31, 0xffff;
END:
    cvt.u64.u32 %y0, %r2;";
    let got = lanes(body, &[lane_ids()], 1);
    assert!((0..32).all(|l| got[0][l] == if l < 16 { l as u64 ^ 8 } else { 0 }));
}

#[test]
fn a_collective_waits_for_lanes_that_come_later() {
    // The odd lanes jump ahead over the shuffle and come back to it: it runs once, with all lanes.
    let body = "cvt.u32.u64 %r1, %x0; and.b32 %r2, %r1, 1; setp.eq.u32 %p1, %r2, 1;
    @%p1 bra AHEAD;
SHUFFLE:
    shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;
    bra END;
AHEAD:
    add.u32 %r1, %r1, 100;
    bra SHUFFLE;
END:
    cvt.u64.u32 %y0, %r3;";
    let got = lanes(body, &[lane_ids()], 1);
    for l in 0..32u64 {
        let from = l ^ 1;
        assert_eq!(got[0][l as usize], from + 100 * (from % 2));
    }
}

#[test]
fn wrong_collectives_are_faults() {
    let cases = [
        // Names lanes that branched away and exit.
        ("setp.ge.u32 %p1, %lane, 16; @%p1 bra END; shfl.sync.bfly.b32 %r2, %lane, 1, 31, -1; END:", "lane 16"),
        // Predicated off in the lanes it names.
        ("setp.ne.u32 %p1, %lane, 5; @%p1 shfl.sync.idx.b32 %r2, %lane, 1, 31, -1;", "lane 5"),
        // Reads a lane outside the mask.
        (
            "setp.ge.u32 %p1, %lane, 16; @%p1 bra END; shfl.sync.bfly.b32 %r2, %lane, 16, 31, 0xffff; END:",
            "reads lane 16",
        ),
        // The executing lane is not named.
        ("vote.sync.ballot.b32 %r2, %p1, 0xfffffffe;", "does not name"),
        // Lanes at two different barriers of the warp.
        (
            "setp.ge.u32 %p1, %lane, 16; @%p1 bra B; bar.warp.sync -1; bra END; B: nanosleep.u32 1; vote.sync.any.pred %p2, %p1, -1; END:",
            "never comes",
        ),
    ];
    for (body, said) in cases {
        let fault = lanes_on(&device(1, true), body, &[], 0).expect_err(body);
        assert_eq!(fault.kind(), FaultKind::InactiveShuffle, "{body}: {fault}");
        assert!(fault.message().contains(said), "{body}: {fault}");
    }
}

#[test]
fn trap_and_endless_loop() {
    let fault = lanes_on(&device(1, true), "setp.eq.u32 %p1, %lane, 9; @%p1 trap;", &[], 0).unwrap_err();
    assert_eq!((fault.kind(), fault.location().unwrap().thread), (FaultKind::Trap, [9, 0, 0]));
    let fault = lanes_on(&device(1, true), "LOOP: bra LOOP;", &[], 0).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Timeout);
}

/// Every block adds 1 to a counter and spins until all have; then block b reads what block b+1 wrote.
fn grid_barrier(fence: &str) -> String {
    format!(
        "{HEADER}.visible .entry k(.param .u64 data, .param .u64 counter, .param .u64 out) {{
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b64 %d<20>;
    ld.param.u64 %d1, [data]; ld.param.u64 %d2, [counter]; ld.param.u64 %d3, [out];
    mov.u32 %r1, %ctaid.x; mov.u32 %r2, %tid.x; mov.u32 %r3, %nctaid.x;
    setp.ne.u32 %p1, %r2, 0;
    @%p1 bra WAIT;
    mul.wide.u32 %d4, %r1, 4;
    add.u64 %d5, %d1, %d4;
    mul.lo.u32 %r4, %r1, 7;
    st.global.u32 [%d5], %r4;
    {fence}
    atom.global.add.u32 %r5, [%d2], 1;
SPIN:
    ld.acquire.gpu.global.u32 %r6, [%d2];
    setp.lt.u32 %p2, %r6, %r3;
    @%p2 bra SPIN;
WAIT:
    bar.sync 0;
    @%p1 bra END;
    add.u32 %r7, %r1, 1;
    rem.u32 %r7, %r7, %r3;
    mul.wide.u32 %d6, %r7, 4;
    add.u64 %d6, %d1, %d6;
    ld.global.u32 %r8, [%d6];
    add.u64 %d7, %d3, %d4;
    st.global.u32 [%d7], %r8;
END:
    ret;
}}"
    )
}

#[test]
fn cooperative_grid_barrier() {
    let blocks = 40;
    let launch = Launch { cooperative: true, ..launch(blocks, 64) };
    let buffers = [vec![0; blocks as usize], vec![0], vec![0; blocks as usize]];
    for sanitizer in [false, true] {
        let (out, counters) = run(&grid_barrier("fence.acq_rel.gpu;"), launch, &buffers, sanitizer).unwrap();
        assert!(out[2].iter().enumerate().all(|(b, &v)| v == (b as u32 + 1) % blocks * 7));
        let (_, again) = run(&grid_barrier("fence.acq_rel.gpu;"), launch, &buffers, sanitizer).unwrap();
        assert_eq!(counters, again);
    }
    // Without the fence nothing publishes the store.
    let fault = run(&grid_barrier(""), launch, &buffers, true).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Race, "{fault}");
}

#[test]
fn launch_limits() {
    let ptx = format!(
        "{HEADER}.visible .entry k(.param .u64 a, .param .u32 b) .maxntid 128 {{ .shared .b8 s[40000]; .reg .b32 %r<2>; mov.u32 %r1, s; ret; }}"
    );
    let device = device(1, true);
    let kernel = kernel(&device, &ptx);
    let good = launch(1, 128);
    device.launch(&kernel, &good, &[0; 12]).unwrap();
    let refused = [
        (Launch { block: [129, 1, 1], ..good }, 12, "maxntid"),
        (Launch { block: [1, 1, 65], ..good }, 12, "at most 1024 by 1024 by 64"),
        (Launch { grid: [1, 65536, 1], ..good }, 12, "65535"),
        (Launch { grid: [0, 1, 1], ..good }, 12, "grid"),
        (Launch { dynamic_shared: 227 * 1024 - 39999, ..good }, 12, "shared memory"),
        (good, 16, "16 bytes of parameters; the kernel takes 12"),
    ];
    for (launch, bytes, said) in refused {
        let fault = device.launch(&kernel, &launch, &vec![0; bytes]).unwrap_err();
        assert_eq!(fault.kind(), FaultKind::InvalidLaunch);
        assert!(fault.message().contains(said), "{fault}");
    }
}
