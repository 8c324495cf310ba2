//! What orders two accesses and what does not: releases and acquires, asynchronous copies, and launches that overlap.
//! Each right way is run, and each way that leaves something out must be found.

mod common;
use common::*;
use softcuda::{Device, Fault, FaultKind, Kernel, Launch};

/// A kernel of the parameters a, b and c, with the thread's own word of b at %own.
fn kernel_text(name: &str, body: &str) -> String {
    format!(
        "{HEADER}.visible .entry {name}(.param .u64 a, .param .u64 b, .param .u64 c) {{
    .shared .align 16 .b8 tile[4096];
    .reg .pred %p<8>; .reg .b32 %r<40>; .reg .b64 %a, %b, %c, %own, %d<20>;
    .reg .b32 %tid, %block, %threads, %blocks, %index, %word;
    ld.param.u64 %a, [a]; ld.param.u64 %b, [b]; ld.param.u64 %c, [c];
    mov.u32 %tid, %tid.x; mov.u32 %block, %ctaid.x; mov.u32 %threads, %ntid.x; mov.u32 %blocks, %nctaid.x;
    mad.lo.u32 %index, %block, %threads, %tid;
    mul.wide.u32 %d0, %index, 4; add.u64 %own, %b, %d0;
    mov.u32 %word, tile; mad.lo.u32 %word, %tid, 4, %word;
{body}
END:
    ret;
}}"
    )
}

/// Every thread leaves a 3 in b; thread 0 of each block counts the block in, in a; the last block to come sums b by its
/// thread `reader` and leaves the sum in c.
fn last_block(store: &str, meet: &str, before: &str, atomic: &str, after: &str, tell: &str, reader: u32) -> String {
    let body = format!(
        "    {store} [%own], 3;
    {meet}
    setp.ne.u32 %p1, %tid, 0;
    @%p1 bra TOLD;
    {before}
    {atomic}.global.add.u32 %r1, [%a], 1;
    {after}
    st.shared.u32 [tile], %r1;
TOLD:
    {tell}
    ld.shared.u32 %r1, [tile];
    sub.u32 %r2, %blocks, 1;
    setp.ne.u32 %p2, %r1, %r2;
    @%p2 bra END;
    setp.ne.u32 %p3, %tid, {reader};
    @%p3 bra END;
    mov.u32 %r3, 0; mov.u32 %r4, 0; mul.lo.u32 %r5, %blocks, %threads;
SUM:
    mul.wide.u32 %d1, %r4, 4; add.u64 %d1, %b, %d1;
    ld.global.u32 %r6, [%d1]; add.u32 %r3, %r3, %r6;
    add.u32 %r4, %r4, 1; setp.lt.u32 %p4, %r4, %r5; @%p4 bra SUM;
    st.global.u32 [%c], %r3;"
    );
    kernel_text("last_block", &body)
}

#[test]
fn the_last_block_may_combine_what_all_have_released() {
    const STORE: &str = "st.global.u32";
    const SYNC: &str = "bar.sync 0;";
    const GPU: &str = "fence.acq_rel.gpu;";
    let buffers = [vec![0], vec![0; 256], vec![0]];
    let outcome = |text: &str| run(text, launch(4, 64), &buffers, true).map(|(out, _)| out[2][0]);
    let right = [
        ("acquire and release", last_block(STORE, SYNC, "", "atom.acq_rel.gpu", "", SYNC, 40)),
        ("fences around a relaxed one", last_block(STORE, SYNC, GPU, "atom.relaxed.gpu", GPU, SYNC, 40)),
        ("the old names", last_block(STORE, SYNC, "membar.gl;", "atom", "membar.gl;", SYNC, 63)),
        ("one-sided fences", last_block(STORE, SYNC, "fence.release.gpu;", "atom", "fence.acquire.gpu;", SYNC, 1)),
        ("release, then a fence", last_block(STORE, SYNC, "", "atom.release.gpu", GPU, SYNC, 33)),
        ("a fence, then acquire", last_block(STORE, SYNC, "fence.sc.sys;", "atom.acquire.sys", "", SYNC, 0)),
    ];
    for (name, text) in right {
        assert_eq!(outcome(&text).unwrap_or_else(|fault| panic!("{name}: {fault}")), 4 * 64 * 3, "{name}");
    }
    let wrong = [
        ("no fence", last_block(STORE, SYNC, "", "atom.relaxed.gpu", "", SYNC, 40)),
        ("nothing acquires", last_block(STORE, SYNC, "", "atom.release.gpu", "", SYNC, 40)),
        ("nothing releases", last_block(STORE, SYNC, "", "atom.acquire.gpu", GPU, SYNC, 40)),
        ("a scope too small", last_block(STORE, SYNC, "", "atom.acq_rel.cta", "", SYNC, 40)),
        ("fences of a scope too small", last_block(STORE, SYNC, "membar.cta;", "atom", "membar.cta;", SYNC, 40)),
        ("released before others have stored", last_block(STORE, "", "", "atom.acq_rel.gpu", "", SYNC, 40)),
        ("released before the warp has stored", last_block(STORE, "", "", "atom.acq_rel.gpu", "", SYNC, 0)),
        (
            "a fence before the barrier only",
            last_block(STORE, "fence.acq_rel.gpu; bar.sync 0;", "", "atom", GPU, SYNC, 40),
        ),
        ("told without a barrier", last_block(STORE, SYNC, "", "atom.acq_rel.gpu", "", "", 0)),
    ];
    for (name, text) in wrong {
        let fault = outcome(&text).map(|sum| panic!("{name}: {sum}, and nothing was found")).unwrap_err();
        assert!(matches!(fault.kind(), FaultKind::Race | FaultKind::Uninitialised), "{name}: {fault}");
    }
}

/// Blocks hand a token on: block b waits for b - 1, adds to what it left, and releases to b + 1. A counter per dependency.
#[test]
fn a_counter_hands_data_from_block_to_block() {
    let relay = |release: &str, acquire: &str, fence: &str| {
        let body = format!(
            "    setp.ne.u32 %p1, %tid, 32;
    @%p1 bra MEET;
    mul.wide.u32 %d1, %block, 4; add.u64 %d2, %a, %d1;
SPIN:
    {acquire}.global.u32 %r1, [%d2];
    setp.eq.u32 %p2, %r1, 0;
    @%p2 bra SPIN;
    {fence}
MEET:
    bar.sync 0;
    ld.global.u32 %r2, [%b];
    add.u32 %r2, %r2, 1;
    bar.sync 0;
    setp.ne.u32 %p3, %tid, 5;
    @%p3 bra END;
    st.global.u32 [%b], %r2;
    {fence}
    mul.wide.u32 %d1, %block, 4; add.u64 %d2, %a, %d1;
    {release}"
        );
        let buffers = [std::iter::once(1).chain([0; 8]).collect(), vec![0; 64 * 8], vec![0]];
        let launch = Launch { cooperative: true, ..launch(8, 64) };
        run(&kernel_text("relay", &body), launch, &buffers, true).map(|(out, _)| out[1][0])
    };
    let store = "st.release.gpu.global.u32 [%d2+4], 1;";
    let add = "red.release.gpu.global.add.u32 [%d2+4], 1;";
    assert_eq!(relay(store, "ld.acquire.gpu", "").unwrap(), 8);
    assert_eq!(relay(add, "ld.acquire.gpu", "").unwrap(), 8);
    let (relaxed, volatile) = ("st.relaxed.gpu.global.u32 [%d2+4], 1;", "st.volatile.global.u32 [%d2+4], 1;");
    assert_eq!(relay(relaxed, "ld.relaxed.gpu", "fence.acq_rel.gpu;").unwrap(), 8);
    assert_eq!(relay(volatile, "ld.volatile", "membar.gl;").unwrap(), 8);
    for (name, release, acquire) in [
        ("relaxed", relaxed, "ld.relaxed.gpu"),
        ("volatile", volatile, "ld.volatile"),
        ("released only", store, "ld.relaxed.gpu"),
        ("acquired only", relaxed, "ld.acquire.gpu"),
    ] {
        let fault = relay(release, acquire, "").expect_err(name);
        assert_eq!(fault.kind(), FaultKind::Race, "{name}: {fault}");
        assert!(fault.message().contains("nothing orders the two"), "{name}: {fault}");
    }
}

/// Warps of a block hand data on through shared memory, with the scope of the block.
#[test]
fn warps_hand_data_on_within_the_scope_of_their_block() {
    let hand_on = |release: &str, acquire: &str| {
        let body = format!(
            "    setp.ne.u32 %p1, %tid, 0; @%p1 bra INIT;
    st.shared.u32 [tile+2048], 0;
INIT:
    bar.sync 0;
    setp.ne.u32 %p1, %tid, 0; @%p1 bra SECOND;
    st.shared.u32 [tile], 9;
    {release}.shared.u32 [tile+2048], 1;
    bra END;
SECOND:
    setp.ne.u32 %p2, %tid, 32; @%p2 bra END;
SPIN:
    {acquire}.shared.u32 %r1, [tile+2048];
    setp.eq.u32 %p3, %r1, 0; @%p3 bra SPIN;
    ld.shared.u32 %r2, [tile];
    st.global.u32 [%b], %r2;"
        );
        run(&kernel_text("hand_on", &body), launch(1, 64), &[vec![0], vec![0], vec![0]], true).map(|(out, _)| out[1][0])
    };
    assert_eq!(hand_on("st.release.cta", "ld.acquire.cta").unwrap(), 9);
    assert_eq!(hand_on("st.release.gpu", "ld.acquire.cta").unwrap(), 9);
    for (release, acquire) in [("st.relaxed.cta", "ld.acquire.cta"), ("st.release.cta", "ld.relaxed.cta")] {
        assert_eq!(hand_on(release, acquire).unwrap_err().kind(), FaultKind::Race, "{release} {acquire}");
    }
}

/// Two stages of asynchronous copies: while one is summed the next is on its way.
fn pipeline(after_wait: &str, after_use: &str, wait: &str) -> Result<Vec<u32>, Fault> {
    // Stage s is the 256 bytes at tile + 256 s; a thread copies 16 bytes of it, 16 threads all. Round r copies words
    // 64 r to 64 r + 63 of a; each thread sums the words that it did not copy itself.
    let body = format!(
        "    shl.b32 %r1, %tid, 4; mov.u32 %r2, tile; add.u32 %r3, %r2, %r1;
    cvt.u64.u32 %d1, %r1; add.u64 %d2, %a, %d1;
    setp.lt.u32 %p1, %tid, 16;
    @%p1 cp.async.cg.shared.global [%r3], [%d2], 16;
    cp.async.commit_group;
    mov.u32 %r4, 0; mov.u32 %r5, 0;
ROUND:
    add.u32 %r6, %r5, 1;
    setp.lt.u32 %p2, %r6, 4;
    and.pred %p3, %p1, %p2;
    and.b32 %r7, %r6, 1; mad.lo.u32 %r8, %r7, 256, %r3;
    mul.wide.u32 %d3, %r6, 256; add.u64 %d4, %d2, %d3;
    @%p3 cp.async.cg.shared.global [%r8], [%d4], 16;
    cp.async.commit_group;
    {wait}
    {after_wait}
    and.b32 %r9, %r5, 1; mad.lo.u32 %r10, %r9, 256, %r2; xor.b32 %r11, %tid, 63;
    mad.lo.u32 %r10, %r11, 4, %r10;
    ld.shared.u32 %r12, [%r10];
    add.u32 %r4, %r4, %r12;
    {after_use}
    add.u32 %r5, %r5, 1;
    setp.lt.u32 %p4, %r5, 4;
    @%p4 bra ROUND;
    st.global.u32 [%own], %r4;"
    );
    let input = (0..256).map(|i| i * i).collect();
    run(&kernel_text("pipeline", &body), launch(1, 64), &[input, vec![0; 64], vec![0]], true)
        .map(|(out, _)| out[1].clone())
}

#[test]
fn asynchronous_copies_are_waited_for_and_then_shared() {
    const WAIT: &str = "cp.async.wait_group 1;";
    const SYNC: &str = "bar.sync 0;";
    let sums = pipeline(SYNC, SYNC, WAIT).unwrap();
    for (thread, sum) in sums.iter().enumerate() {
        let word = |round: usize| ((round * 64 + (thread ^ 63)) as u32).pow(2);
        assert_eq!(*sum, (0..4).map(word).sum(), "thread {thread}");
    }
    for (name, after_wait, after_use, wait, words) in [
        ("waits for the group before last", SYNC, SYNC, "cp.async.wait_group 2;", "nothing has waited for it"),
        ("no barrier after the wait", "", SYNC, WAIT, "nothing"),
        ("the stage is copied over while others read it", SYNC, "", WAIT, "nothing orders the two"),
    ] {
        let fault = pipeline(after_wait, after_use, wait).expect_err(name);
        assert_eq!(fault.kind(), FaultKind::Race, "{name}: {fault}");
        assert!(fault.message().contains(words), "{name}: {fault}");
    }
}

/// Kernels on one device, under the sanitizer, with three buffers.
struct Stream {
    device: Device,
    buffers: [u64; 3],
}

impl Stream {
    fn new() -> Stream {
        let device = device(1, true);
        device.set_sanitizer(true);
        let buffers = [0u32, 1, 2].map(|buffer| upload(&device, &vec![buffer; 64]));
        Stream { device, buffers }
    }

    fn kernel(&self, name: &str, body: &str) -> Kernel {
        kernel(&self.device, &kernel_text(name, body))
    }

    fn launch(&self, kernel: &Kernel, early: bool) -> Result<(), Fault> {
        let launch = Launch { early, ..launch(1, 64) };
        self.device.launch(kernel, &launch, &pack(&self.buffers)).map(drop)
    }
}

#[test]
fn a_kernel_that_starts_early_waits_before_it_touches_what_others_write() {
    // The first kernel writes b; the others read c freely, b after the wait, and write b.
    let first = "st.global.u32 [%own], 5;";
    let step = |before: &str, after: &str| {
        format!("griddepcontrol.launch_dependents; {before} griddepcontrol.wait; {after} st.global.u32 [%own], %r1;")
    };
    let good =
        step("ld.global.u32 %r2, [%c]; prefetch.global.L2 [%b];", "ld.global.u32 %r1, [%own]; add.u32 %r1, %r1, %r2;");
    let stream = Stream::new();
    let (first, good) = (stream.kernel("first", first), stream.kernel("good", &good));
    stream.launch(&first, false).unwrap();
    for _ in 0..3 {
        stream.launch(&good, true).unwrap();
    }
    assert_eq!(download::<u32>(&stream.device, stream.buffers[1], 64), [5 + 3 * 2; 64]);

    // One thread of a block may wait for the others; a barrier brings the word.
    let one = "setp.ne.u32 %p1, %tid, 3; @!%p1 griddepcontrol.wait; bar.sync 0; ld.global.u32 %r1, [%own];";
    let one = stream.kernel("one", one);
    stream.launch(&first, false).unwrap();
    stream.launch(&one, true).unwrap();

    for (name, body, words) in [
        (
            "reads",
            "ld.global.u32 %r1, [%own]; griddepcontrol.wait;",
            "kernel `first`, which may still run, writes them",
        ),
        ("writes", "st.global.u32 [%own], 1; griddepcontrol.wait;", "writes 4 bytes at"),
        ("counts", "red.global.add.u32 [%c], 1; griddepcontrol.wait;", "atomically changes 4 bytes at"),
        ("never", "ld.global.u32 %r1, [%c];", "no thread of it executes griddepcontrol.wait"),
        (
            "apart",
            "setp.ne.u32 %p1, %tid, 3; @!%p1 griddepcontrol.wait; ld.global.u32 %r1, [%own];",
            "before griddepcontrol.wait",
        ),
    ] {
        let bad = stream.kernel(name, body);
        stream.launch(&first, false).unwrap();
        // Also behind another early kernel: the first may still run.
        stream.launch(&good, true).unwrap();
        let fault = stream.launch(&bad, true).expect_err(name);
        assert_eq!(fault.kind(), FaultKind::Race, "{name}: {fault}");
        let words = words.replace("`first`", "`good`");
        assert!(fault.message().contains(&words), "{name}: {fault}");
        assert_eq!(fault.location().unwrap().kernel, name);
        // Launched to start after the others it is as good as any.
        stream.launch(&bad, false).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
}

#[test]
fn what_a_kernel_waited_for_before_it_let_the_next_one_start_is_over() {
    let stream = Stream::new();
    let first = stream.kernel("first", "st.global.u32 [%own], 5;");
    let one = "setp.eq.u32 %p2, %tid, 0; @%p2 st.global.u32 [%c], 1;";
    let late = &format!("griddepcontrol.wait; griddepcontrol.launch_dependents; {one}");
    let late = stream.kernel("late", late);
    // One thread that has not waited lets the next kernel start.
    let apart = "setp.ne.u32 %p1, %tid, 3; @%p1 griddepcontrol.wait; griddepcontrol.launch_dependents;";
    let apart = stream.kernel("apart", &format!("{apart} griddepcontrol.wait; {one}"));
    let reads_first = stream.kernel("reads_first", "ld.global.u32 %r1, [%own]; griddepcontrol.wait;");
    let reads_late = stream.kernel("reads_late", "ld.global.u32 %r1, [%c]; griddepcontrol.wait;");
    stream.launch(&first, false).unwrap();
    stream.launch(&late, true).unwrap();
    stream.launch(&reads_first, true).unwrap();
    stream.launch(&first, false).unwrap();
    stream.launch(&late, true).unwrap();
    let fault = stream.launch(&reads_late, true).expect_err("it may still run");
    assert!(fault.message().contains("kernel `late`, which may still run"), "{fault}");
    stream.launch(&first, false).unwrap();
    stream.launch(&apart, true).unwrap();
    let fault = stream.launch(&reads_first, true).expect_err("a thread of the one between has not waited");
    assert!(fault.message().contains("kernel `first`, which may still run"), "{fault}");
}

#[test]
fn a_chain_ends_where_the_host_copies_or_an_ordinary_launch_comes() {
    let stream = Stream::new();
    let first = stream.kernel("first", "st.global.u32 [%own], 5;");
    let other = stream.kernel("other", "ld.global.u32 %r1, [%c];");
    let reads = stream.kernel("reads", "ld.global.u32 %r1, [%own]; griddepcontrol.wait;");
    let far = "setp.eq.u32 %p1, %tid, 64; @%p1 bra END; ld.global.u32 %r1, [%own]; griddepcontrol.wait;";
    let far = stream.kernel("far", far);
    stream.launch(&first, false).unwrap();
    assert!(stream.launch(&reads, true).is_err());
    // An ordinary launch waits for all before it.
    stream.launch(&first, false).unwrap();
    stream.launch(&other, false).unwrap();
    stream.launch(&reads, true).unwrap();
    // So do a copy and a fill.
    stream.launch(&first, false).unwrap();
    stream.device.fill(stream.buffers[2], [1u8], 4).unwrap();
    stream.launch(&far, true).unwrap();
    stream.launch(&first, false).unwrap();
    stream.device.end_chain();
    stream.launch(&reads, true).unwrap();
}
