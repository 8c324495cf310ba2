//! Shared memory of other blocks of a cluster: what orders accesses to it and what does not. Each right way is run, and each way that
//! leaves something out must be found, with the lines of both accesses.

mod common;
use common::*;
use softcuda::{Fault, FaultKind};

/// Clusters of two blocks of 64 threads. `%rank`, `%tid`; `tile` of 64 words at `%mine` (the thread's own word) and at `%theirs` (the
/// other block's same word), `bar`, an mbarrier of 64 arrivals, at `%bar` and `%theirbar`. The thread's word of the buffer is at %out.
fn kernel_text(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64
.visible .entry visit(.param .u64 b) .explicitcluster .reqnctapercluster 2, 1, 1 {{
    .shared .align 16 .b8 tile[256];
    .shared .align 8 .b8 bar[8];
    .reg .pred %p<8>; .reg .b32 %r<20>; .reg .b64 %b, %out, %d<8>;
    .reg .b32 %tid, %rank, %other, %mine, %theirs, %bar, %theirbar, %index;
    ld.param.u64 %b, [b];
    mov.u32 %tid, %tid.x; mov.u32 %rank, %cluster_ctarank; xor.b32 %other, %rank, 1;
    mov.u32 %r0, %ctaid.x; mad.lo.u32 %index, %r0, 64, %tid;
    mul.wide.u32 %d0, %index, 4; add.u64 %out, %b, %d0;
    mov.u32 %mine, tile; mad.lo.u32 %mine, %tid, 4, %mine; mapa.shared::cluster.u32 %theirs, %mine, %other;
    mov.u32 %bar, bar; mapa.shared::cluster.u32 %theirbar, %bar, %other;
    setp.eq.u32 %p0, %rank, 0; setp.eq.u32 %p1, %tid, 0; mov.u32 %r1, 0;
{body}
    st.global.u32 [%out], %r1;
    ret;
}}"
    )
}

const SYNC: &str = "barrier.cluster.arrive; barrier.cluster.wait;";
const INIT: &str = "@%p1 mbarrier.init.shared.b64 [%bar], 64;
    fence.mbarrier_init.release.cluster; barrier.cluster.arrive; barrier.cluster.wait;";

fn outcome(body: &str) -> Result<Vec<u32>, Fault> {
    run(&kernel_text(body), launch(4, 64), &[vec![0; 256]], true).map(|(mut out, _)| out.remove(0))
}

/// The values that every thread leaves, given the rank of its block and its own number.
fn expect_right(name: &str, body: &str, value: impl Fn(u32, u32) -> u32) {
    let out = outcome(body).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    let want: Vec<u32> = (0..256).map(|i| value(i / 64 % 2, i % 64)).collect();
    assert_eq!(out, want, "{name}");
    // Without the sanitizer nothing is looked for and the same comes out.
    let (plain, _) = run(&kernel_text(body), launch(4, 64), &[vec![0; 256]], false).unwrap();
    assert_eq!(plain[0], want, "{name} without the sanitizer");
}

/// Among the faults of a launch there is a race whose own line holds one of two texts and whose message names the line of the other.
fn expect_race(name: &str, body: &str, one: &str, other: &str) {
    let fault = outcome(body).expect_err(name);
    let text = kernel_text(body);
    let line =
        |part: &str| 1 + text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}")) as u32;
    let is_it = |fault: &&Fault| {
        let at = fault.location().expect("where").line;
        let named = |part: &str| fault.message().contains(&format!("line {} ", line(part)));
        fault.kind() == FaultKind::Race && (at == line(one) && named(other) || at == line(other) && named(one))
    };
    let found = std::iter::once(&fault).chain(fault.others()).find(is_it);
    assert!(found.is_some(), "{name}: lines {} and {}: {fault}", line(one), line(other));
}

#[test]
fn what_the_owner_wrote_is_read_behind_a_barrier() {
    const WRITE: &str = "st.shared.u32 [%mine], %index;";
    const READ: &str = "ld.shared::cluster.u32 %r1, [%theirs];";
    let other_index = |rank: u32, tid: u32| move |block: u32| (block / 2 * 2 + (1 - rank)) * 64 + tid;
    let out = outcome(&format!("{WRITE}\n{SYNC}\n{READ}\n{SYNC}")).unwrap_or_else(|fault| panic!("{fault}"));
    (0..256).for_each(|i| assert_eq!(out[i as usize], other_index(i / 64 % 2, i % 64)(i / 64)));
    expect_race("no barrier", &format!("{WRITE}\nbar.sync 0;\n{READ}\n{SYNC}"), "st.shared.u32 [%mine]", READ);
    let early = format!("{WRITE}\nbarrier.cluster.arrive;\n{READ}\nbarrier.cluster.wait;\n{SYNC}");
    expect_race("between arrival and wait", &early, "st.shared.u32 [%mine]", READ);
    let late = format!("barrier.cluster.arrive;\n{WRITE}\nbarrier.cluster.wait;\n{READ}\n{SYNC}");
    expect_race("written behind the arrival", &late, "st.shared.u32 [%mine]", READ);
    // What was never written is said as it is of the block's own.
    let fault = outcome(&format!("{SYNC}\n{READ}\n{SYNC}")).expect_err("nobody wrote");
    assert_eq!(fault.kind(), FaultKind::Uninitialised, "{fault}");
}

#[test]
fn what_another_block_wrote_is_read_behind_a_barrier() {
    const WRITE: &str = "st.shared::cluster.u32 [%theirs], %tid;";
    const READ: &str = "ld.shared.u32 %r1, [%mine];";
    expect_right("a barrier", &format!("{SYNC}\n{WRITE}\n{SYNC}\n{READ}"), |_, tid| tid);
    expect_race(
        "no barrier",
        &format!("st.shared.u32 [%mine], 1;\n{SYNC}\n{WRITE}\nbar.sync 0;\n{READ}\n{SYNC}"),
        WRITE,
        READ,
    );
    let first = format!("st.shared.u32 [%mine], 1;\n{WRITE}\n{SYNC}\n{READ}");
    expect_race("over what the owner writes", &first, "st.shared.u32 [%mine]", WRITE);
    let generic = "cvt.u64.u32 %d1, %mine; cvta.shared.u64 %d1, %d1; mapa.u64 %d2, %d1, %other; st.u32 [%d2], %tid;";
    expect_right("a generic address", &format!("{SYNC}\n{generic}\n{SYNC}\n{READ}"), |_, tid| tid);
    let missing = format!("st.shared.u32 [%mine], 1;\n{SYNC}\n{generic}\n{READ}\n{SYNC}");
    expect_race("a generic address, no barrier", &missing, "st.u32 [%d2], %tid;", READ);
}

#[test]
fn atomics_are_ordered_towards_each_other_only() {
    // All threads of both blocks add to the first word of block 0.
    let start =
        format!("mov.u32 %r2, tile; mapa.shared::cluster.u32 %r3, %r2, 0;\n@%p1 st.shared.u32 [tile], 0;\n{SYNC}");
    const ADD: &str = "atom.shared::cluster.add.u32 %r4, [%r3], 1;";
    const READ: &str = "@%p0 ld.shared.u32 %r1, [tile];";
    expect_right("atomics, then a barrier", &format!("{start}\n{ADD}\n{SYNC}\n{READ}"), |rank, _| 128 * (1 - rank));
    expect_race("read at once", &format!("{start}\n{ADD}\nbar.sync 0;\n{READ}\n{SYNC}"), ADD, READ);
    let narrow = ADD.replace("atom.", "atom.relaxed.cta.");
    expect_race("atomic in the block only", &format!("{start}\n{narrow}\n{SYNC}"), &narrow, &narrow);
}

#[test]
fn an_mbarrier_hands_over() {
    // Each thread writes to the other block and arrives there; each block waits at its own.
    let pass = |store: &str, arrive: &str, wait: &str| {
        format!("{INIT}\n{store}\n{arrive}\nWAIT:\n{wait}\n@!%p2 bra WAIT;\nld.shared.u32 %r1, [%mine];\n{SYNC}")
    };
    const STORE: &str = "st.shared::cluster.u32 [%theirs], %tid;";
    const ARRIVE: &str = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%theirbar];";
    const WAIT: &str = "mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p2, [%bar], 0;";
    const READ: &str = "ld.shared.u32 %r1, [%mine];";
    expect_right("release and acquire", &pass(STORE, ARRIVE, WAIT), |_, tid| tid);
    // As it is mostly written.
    let unsaid = pass(
        STORE,
        "mbarrier.arrive.shared::cluster.b64 _, [%theirbar];",
        "mbarrier.try_wait.parity.shared.b64 %p2, [%bar], 0;",
    );
    expect_right("scopes unsaid", &unsaid, |_, tid| tid);
    let fenced =
        pass(STORE, "fence.acq_rel.cluster; mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%theirbar];", WAIT);
    expect_right("a fence and a relaxed arrival", &fenced, |_, tid| tid);
    let relaxed = pass(STORE, "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%theirbar];", WAIT);
    expect_race("a relaxed arrival", &relaxed, STORE, READ);
    let block = pass(STORE, ARRIVE, "mbarrier.try_wait.parity.acquire.cta.shared.b64 %p2, [%bar], 0;");
    expect_race("an acquire of the block's", &block, STORE, READ);
    let behind = pass("", &format!("{ARRIVE}\n{STORE}"), WAIT);
    expect_race(
        "written behind the arrival",
        &behind.replace(INIT, &format!("st.shared.u32 [%mine], 7;\n{INIT}")),
        STORE,
        READ,
    );
}

#[test]
fn a_bulk_copy_to_another_block_is_waited_for_there() {
    // One thread sends the block's tile to the other block's second half.
    let send = |wait: &str| {
        format!(
            "st.shared.u32 [%mine], %index; @%p1 mbarrier.init.shared.b64 [%bar], 1; fence.proxy.async;\n{SYNC}
    @%p1 mbarrier.arrive.expect_tx.shared.b64 %d3, [%bar], 128;
    add.u32 %r5, %theirs, 128;
    @%p1 cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r5], [%mine], 128, [%theirbar];
    {wait}
    and.b32 %r6, %tid, 31; shl.b32 %r6, %r6, 2; mov.u32 %r7, tile; add.u32 %r7, %r7, %r6;
    ld.shared.u32 %r1, [%r7+128];\n{SYNC}"
        )
    };
    const READ: &str = "ld.shared.u32 %r1, [%r7+128];";
    let right = send("WAIT: mbarrier.try_wait.parity.shared.b64 %p2, [%bar], 0; @!%p2 bra WAIT;");
    let out = outcome(&right).unwrap_or_else(|fault| panic!("{fault}"));
    (0..256u32).for_each(|i| assert_eq!(out[i as usize], ((i / 64) ^ 1) * 64 + i % 32));
    let fault = outcome(&send("")).expect_err("nobody waits");
    assert_eq!(fault.kind(), FaultKind::Race, "{fault}");
    // What the threads wrote is read by another way than they write.
    let bare = right.replace("fence.proxy.async;", "");
    expect_race("no proxy fence", &bare, "st.shared.u32 [%mine], %index;", "@%p1 cp.async.bulk.shared::cluster");
    // Once more to the same place, where the owner may still be reading.
    let again =
        "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r5], [%mine], 64, [%theirbar];";
    let twice = |meet: &str| {
        format!(
            "{right}\nbar.sync 0; {meet}
    @%p1 mbarrier.arrive.expect_tx.shared.b64 %d3, [%bar], 64;\n    @%p1 {again}
AGAIN: mbarrier.try_wait.parity.shared.b64 %p2, [%bar], 1; @!%p2 bra AGAIN;\n{SYNC}"
        )
        .replacen(&format!("{READ}\n{SYNC}"), READ, 1)
    };
    outcome(&twice(SYNC)).unwrap_or_else(|fault| panic!("{fault}"));
    expect_race("over what the owner still reads", &twice(""), again, READ);
}

#[test]
fn a_block_lasts_until_others_are_done_with_its_memory() {
    const READ: &str = "@%p0 ld.shared::cluster.u32 %r1, [%theirs];";
    let visit = |end: &str| format!("st.shared.u32 [%mine], %tid;\n{SYNC}\n{READ}\n{end}");
    expect_right("a barrier at the end", &visit(SYNC), |rank, tid| (1 - rank) * tid);
    expect_right(
        "an arrival, and the owner waits",
        &visit("barrier.cluster.arrive; @!%p0 barrier.cluster.wait;"),
        |rank, tid| (1 - rank) * tid,
    );
    // Here it may well be there still, which nothing says.
    expect_race("no barrier at the end", &visit(""), READ, "    ret;");
    let told = format!(
        "{INIT}\n{}",
        visit(
            "@%p0 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%theirbar];
    @%p0 bra DONE;\nWAIT: mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p2, [%bar], 0; @!%p2 bra WAIT;\nDONE:"
        )
    );
    expect_right("the owner is told", &told, |rank, tid| (1 - rank) * tid);
    // Long after the other block has ended.
    let gone = format!(
        "st.shared.u32 [%mine], %tid;\n{SYNC}\n@!%p0 bra END; mov.u32 %r2, 0;
AGAIN: add.u32 %r2, %r2, 1; nanosleep.u32 100; setp.lt.u32 %p3, %r2, 100; @%p3 bra AGAIN;
    {READ}\nEND:"
    );
    for sanitizer in [false, true] {
        let fault = run(&kernel_text(&gone), launch(2, 64), &[vec![0; 128]], sanitizer).expect_err("it has ended");
        let found = std::iter::once(&fault).chain(fault.others()).find(|fault| fault.kind() == FaultKind::UseAfterFree);
        assert!(found.is_some_and(|fault| fault.message().contains("which has ended")), "{fault}");
    }
}
