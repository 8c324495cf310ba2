//! Lanes that spin for others of their own warp, which hardware since Volta lets go on.

mod common;
use common::*;
use softcuda::{Counters, Fault, FaultKind};

/// Runs `body` in one block, with 64 words of global memory, zero at first, at `%d1`, some shared memory and the thread's number in `%lane`.
fn words(body: &str, threads: u32, sanitizer: bool) -> Result<(Vec<u32>, Counters), Fault> {
    let ptx = format!(
        "{HEADER}.visible .entry k(.param .u64 data) {{\n{SCRATCH}    .reg .b32 %lane;
    .shared .align 16 .b8 room[1024];
    ld.param.u64 %d1, [data];
    mov.u32 %lane, %tid.x;\n{body}\n    ret;\n}}\n"
    );
    let (out, counters) = run(&ptx, launch(1, threads), &[vec![0; 64]], sanitizer)?;
    Ok((out[0].clone(), counters))
}

fn runs(body: &str, threads: u32) -> Vec<u32> {
    let plain = words(body, threads, false).unwrap_or_else(|fault| panic!("{fault}\n{body}")).0;
    let sanitized = words(body, threads, true).unwrap_or_else(|fault| panic!("sanitizer: {fault}\n{body}")).0;
    assert_eq!(plain, sanitized);
    plain
}

/// Each lane takes the lock, adds to a number that only the lock protects, and gives it back behind the loop.
#[test]
fn a_lock_for_each_lane() {
    for take in [
        "atom.acquire.gpu.global.cas.b32 %r1, [%d1], 0, 1;",
        "atom.acquire.gpu.global.exch.b32 %r1, [%d1], 1;",
        // It asks whether the lock is free before it tries: never the same instruction twice running.
        "ld.relaxed.gpu.global.u32 %r1, [%d1]; atom.acquire.gpu.global.cas.b32 %r1, [%d1], 0, 1;",
        "nanosleep.u32 20; atom.acquire.gpu.global.cas.b32 %r1, [%d1], 0, 1;",
    ] {
        let body = format!(
            "    mov.u32 %r9, 0;
TAKE:
    {take}
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra TAKE;
    ld.global.u32 %r2, [%d1+4];
    add.u32 %r2, %r2, %lane;
    st.global.u32 [%d1+4], %r2;
    st.release.gpu.global.u32 [%d1], 0;
    add.u32 %r9, %r9, 1;
    setp.lt.u32 %p2, %r9, 3;
    @%p2 bra TAKE;
    bar.warp.sync -1;
    atom.global.add.u32 %r3, [%d1+8], 1;"
        );
        for threads in [32, 64] {
            let out = runs(&body, threads);
            assert_eq!(out[..3], [0, 3 * threads * (threads - 1) / 2, threads], "{take}, {threads} threads");
        }
    }
}

/// Lane 0 waits for what lane 1 does further on.
#[test]
fn a_flag_that_is_set_further_on() {
    for (ask, zero) in [
        ("ld.acquire.gpu.global.u32 %r1, [%d1];", "setp.eq.u32 %p2, %r1, 0;"),
        ("ld.volatile.global.u32 %r1, [%d1];", "setp.eq.u32 %p2, %r1, 0;"),
        ("ld.volatile.global.v2.u32 {%r2, %r1}, [%d1];", "setp.eq.u32 %p2, %r2, 0;"),
        ("ld.acquire.gpu.global.u32 %r1, [%d1]; nanosleep.u32 100;", "setp.eq.u32 %p2, %r1, 0;"),
        ("atom.acquire.gpu.global.or.b32 %r1, [%d1], 0;", "setp.eq.u32 %p2, %r1, 0;"),
        // Two places in turn, so that nothing is asked twice running.
        (
            "ld.acquire.gpu.global.u32 %r2, [%d1+4]; ld.acquire.gpu.global.u32 %r1, [%d1]; or.b32 %r1, %r1, %r2;",
            "setp.eq.u32 %p2, %r1, 0;",
        ),
    ] {
        let body = format!(
            "    setp.ne.u32 %p1, %lane, 0;
    @%p1 bra OTHERS;
SPIN:
    {ask}
    {zero}
    @%p2 bra SPIN;
    st.global.u32 [%d1+12], 5;
OTHERS:
    setp.ne.u32 %p3, %lane, 1;
    @%p3 bra END;
    st.release.gpu.global.u32 [%d1], 1;
END:
    bar.warp.sync -1;
    shfl.sync.idx.b32 %r5, %lane, 7, 31, -1;
    st.global.u32 [%d1+16], %r5;"
        );
        let out = if ask.contains("volatile") {
            // A volatile load orders nothing, but what it waits for is one word.
            words(&body, 32, false).unwrap_or_else(|fault| panic!("{fault}\n{body}")).0
        } else {
            runs(&body, 32)
        };
        assert_eq!(out[..5], [1, 0, 0, 5, 7], "{ask}");
    }
}

#[test]
fn an_mbarrier_that_a_lane_further_on_arrives_at() {
    for wait in ["test_wait", "try_wait"] {
        let body = format!(
            "    mov.u64 %d2, room;
    setp.ne.u32 %p1, %lane, 0;
    @!%p1 mbarrier.init.shared.b64 [room], 3;
    bar.sync 0;
    @%p1 bra OTHERS;
SPIN:
    mbarrier.{wait}.parity.shared.b64 %p2, [room], 0;
    @!%p2 bra SPIN;
    ld.shared.u32 %r1, [room+64];
    st.global.u32 [%d1], %r1;
OTHERS:
    setp.eq.u32 %p3, %lane, 0;
    setp.gt.u32 %p4, %lane, 3;
    or.pred %p3, %p3, %p4;
    @%p3 bra END;
    setp.eq.u32 %p5, %lane, 2;
    @%p5 st.shared.u32 [room+64], 77;
    mbarrier.arrive.shared.b64 %d3, [room];
END:"
        );
        assert_eq!(runs(&body, 32)[0], 77, "{wait}");
    }
}

/// The arms of an `if` hand each other a number, 50 times; whichever stands first, one of them waits for the one behind it.
#[test]
fn arms_that_wait_for_one_another() {
    for first in [0, 1] {
        let body = format!(
            "    mov.u32 %r9, 0;
    and.b32 %r1, %lane, 31;
    setp.ne.u32 %p1, %r1, 0;
    @%p1 bra ELSE;
ONE:
    ld.acquire.gpu.global.u32 %r2, [%d1];
    and.b32 %r3, %r2, 1;
    setp.ne.u32 %p2, %r3, {first};
    @%p2 bra ONE;
    add.u32 %r2, %r2, 1;
    st.release.gpu.global.u32 [%d1], %r2;
    add.u32 %r9, %r9, 1;
    setp.lt.u32 %p3, %r9, 50;
    @%p3 bra ONE;
    bra END;
ELSE:
    setp.ne.u32 %p4, %r1, 1;
    @%p4 bra END;
TWO:
    ld.acquire.gpu.global.u32 %r2, [%d1];
    and.b32 %r3, %r2, 1;
    setp.eq.u32 %p2, %r3, {first};
    @%p2 bra TWO;
    add.u32 %r2, %r2, 1;
    st.release.gpu.global.u32 [%d1], %r2;
    add.u32 %r9, %r9, 1;
    setp.lt.u32 %p3, %r9, 50;
    @%p3 bra TWO;
END:"
        );
        assert_eq!(runs(&body, 32)[0], 100);
    }
}

/// Lane by lane: each waits for the next, the last for nobody.
#[test]
fn a_chain_of_all_lanes() {
    let body = "    sub.u32 %r1, 31, %lane;
    mov.u32 %r9, 0;
COUNT:
    setp.ge.u32 %p1, %r9, %lane;
    @%p1 bra SPIN;
    add.u32 %r9, %r9, 1;
    bra COUNT;
SPIN:
    ld.acquire.gpu.global.u32 %r2, [%d1];
    setp.ne.u32 %p2, %r2, %r1;
    @%p2 bra SPIN;
    add.u32 %r2, %r2, 1;
    st.release.gpu.global.u32 [%d1], %r2;";
    assert_eq!(runs(body, 32)[0], 32);
}

/// Lane 0 waits for another warp for so long that its own goes on to what all lanes must come to together.
#[test]
fn lanes_that_went_on_wait_for_the_one_that_spins() {
    const MMA: &str =
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f0,%f0,%f0}, {%r30,%r30}, {%r30}, {%f0,%f0,%f0,%f0};";
    // With the arrivals of groups of lanes at a barrier that both warps make; one that needs no whole warp takes lane 0 later.
    for (together, arrivals) in [
        ("bar.sync 0;", 2),
        ("barrier.sync 0;", 3),
        ("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;", 2),
        ("mov.u32 %r20, room; ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r21}, [%r20];", 0),
        (MMA, 0),
        ("shfl.sync.idx.b32 %r21, %lane, 3, 31, -1;", 0),
    ] {
        let body = format!(
            "    .reg .f32 %f<2>;
    mov.f32 %f0, 0f00000000;
    mov.u32 %r30, 0;
    setp.ge.u32 %p1, %lane, 32;
    @%p1 bra OTHER_WARP;
    setp.ne.u32 %p2, %lane, 0;
    @%p2 bra MEET;
SPIN:
    ld.acquire.gpu.global.u32 %r1, [%d1];
    setp.eq.u32 %p3, %r1, 0;
    @%p3 bra SPIN;
    bra MEET;
OTHER_WARP:
    mov.u32 %r9, 0;
AGAIN:
    nanosleep.u32 10;
    add.u32 %r9, %r9, 1;
    setp.lt.u32 %p4, %r9, 1000;
    @%p4 bra AGAIN;
    setp.eq.u32 %p5, %lane, 32;
    @%p5 st.release.gpu.global.u32 [%d1], 1;
MEET:
    {together}
    atom.global.add.u32 %r2, [%d1+4], 1;"
        );
        for sanitizer in [false, true] {
            if sanitizer && together.contains("ldmatrix") {
                continue; // Nobody wrote what it reads.
            }
            let (out, counters) =
                words(&body, 64, sanitizer).unwrap_or_else(|fault| panic!("{fault}\n{together} {sanitizer}"));
            assert_eq!(out[..2], [1, 64], "{together}");
            assert_eq!(counters.barriers, arrivals, "{together}");
        }
    }
}

#[test]
fn who_waits_for_nobody_waits_for_ever() {
    for body in [
        // Alone, behind others that wait for it, and each for the other.
        "SPIN: ld.acquire.gpu.global.u32 %r1, [%d1]; setp.eq.u32 %p2, %r1, 0; @%p2 bra SPIN;",
        "setp.ne.u32 %p1, %lane, 0; @%p1 bra END;
SPIN: atom.global.cas.b32 %r1, [%d1], 1, 2; setp.eq.u32 %p2, %r1, 0; @%p2 bra SPIN; END: bar.sync 0;",
        "setp.ne.u32 %p1, %lane, 0; @%p1 bra TWO;
ONE: ld.acquire.gpu.global.u32 %r1, [%d1]; setp.eq.u32 %p2, %r1, 0; @%p2 bra ONE; st.release.gpu.global.u32 [%d1+4], 1;
TWO: ld.acquire.gpu.global.u32 %r1, [%d1+4]; setp.eq.u32 %p2, %r1, 0; @%p2 bra TWO; st.release.gpu.global.u32 [%d1], 1;",
    ] {
        let fault = words(body, 32, false).expect_err(body);
        assert_eq!(fault.kind(), FaultKind::Timeout, "{fault}\n{body}");
    }
}
