//! Bulk copies out of shared memory: what a thread wrote must be fenced before they read it, and nobody may write there before they are
//! waited for. Each right way is run, and each way that leaves something out must be found, with the lines of both accesses.

mod common;
use common::*;
use softcuda::{Fault, FaultKind};

const WRITE: &str = "st.shared.u32 [%mine], %tid;";
const FENCE: &str = "fence.proxy.async;";
const COPY: &str = "cp.async.bulk.global.shared::cta.bulk_group [%out], [%tile], 256;";
const COMMIT: &str = "cp.async.bulk.commit_group;";
const WAIT: &str = "cp.async.bulk.wait_group.read 0;";
const AGAIN: &str = "st.shared.u32 [%mine], 9;";

/// A block of 64 threads. `tile`, of 64 words, lies at `%tile`, the thread's own word at `%mine`; a second one of each at 256 bytes behind.
/// `%p0` is true of thread 0, `%p1` of thread 32, `%out` the buffer of 256 words.
fn kernel_text(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_90a\n.address_size 64
.visible .entry store(.param .u64 b) {{
    .shared .align 16 .b8 tile[512];
    .reg .pred %p<4>; .reg .b32 %r<4>; .reg .b64 %out;
    .reg .b32 %tid, %tile, %mine;
    ld.param.u64 %out, [b];
    mov.u32 %tid, %tid.x; mov.u32 %tile, tile; mad.lo.u32 %mine, %tid, 4, %tile;
    setp.eq.u32 %p0, %tid, 0; setp.eq.u32 %p1, %tid, 32;
{body}
    ret;
}}"
    )
}

fn outcome(body: &str) -> Result<Vec<u32>, Fault> {
    run(&kernel_text(body), launch(1, 64), &[vec![0; 256]], true).map(|(mut out, _)| out.remove(0))
}

fn expect_right(name: &str, lines: &[&str]) {
    let body = lines.join("\n");
    let out = outcome(&body).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    assert!(out[..64].iter().copied().eq(0..64), "{name}: {out:?}");
    let (plain, _) = run(&kernel_text(&body), launch(1, 64), &[vec![0; 256]], false).unwrap();
    assert_eq!(plain[0], out, "{name} without the sanitizer");
}

/// Among the faults is a race at the line of `at`, whose message names that of `other` and says `what`.
fn expect_race(name: &str, lines: &[&str], at: &str, other: &str, what: &str) {
    let body = lines.join("\n");
    let fault = outcome(&body).expect_err(name);
    let text = kernel_text(&body);
    let line =
        |part: &str| 1 + text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part}")) as u32;
    let is_it = |fault: &&Fault| {
        let named = fault.message().contains(&format!("line {} ", line(other))) && fault.message().contains(what);
        fault.kind() == FaultKind::Race && fault.location().expect("where").line == line(at) && named
    };
    let found = std::iter::once(&fault).chain(fault.others()).find(is_it);
    assert!(found.is_some(), "{name}: lines {} and {}: {fault}", line(at), line(other));
}

fn first(line: &str) -> String {
    format!("@%p0 {line}")
}

#[test]
fn what_threads_wrote_is_fenced_before_a_copy_reads_it() {
    let (copy, commit, wait) = (first(COPY), first(COMMIT), first(WAIT));
    let issue = [copy.as_str(), commit.as_str(), wait.as_str()].join("\n");
    let by_first = first(FENCE);
    let meet = "bar.sync 0;";
    expect_right("by who writes", &[WRITE, FENCE, meet, &issue]);
    expect_right("by who copies", &[WRITE, meet, &by_first, &issue]);
    for only in ["fence.proxy.async.shared::cta;", "fence.proxy.async.shared::cluster;"] {
        expect_right(only, &[WRITE, only, meet, &issue]);
    }
    let what = "no fence.proxy.async";
    expect_race("none", &[WRITE, meet, &issue], COPY, WRITE, what);
    expect_race("before the write", &[FENCE, WRITE, meet, &issue], COPY, WRITE, what);
    expect_race("before the barrier, by one", &[WRITE, &by_first, meet, &issue], COPY, WRITE, what);
    expect_race("of another memory", &[WRITE, "fence.proxy.async.global;", meet, &issue], COPY, WRITE, what);
    expect_race("of another proxy", &[WRITE, "fence.proxy.alias;", meet, &issue], COPY, WRITE, what);
    expect_race("of order alone", &[WRITE, "fence.acq_rel.cta;", meet, &issue], COPY, WRITE, what);
    // Of a second round.
    let again =
        [&issue, meet, AGAIN, meet, "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%out+256], [%tile], 256;"]
            .join("\n");
    expect_race("the first round's", &[WRITE, FENCE, meet, &again], "[%out+256]", AGAIN, what);
}

#[test]
fn nobody_writes_what_a_copy_may_still_read() {
    let (copy, commit, wait) = (first(COPY), first(COMMIT), first(WAIT));
    let filled = [WRITE, FENCE, "bar.sync 0;", &copy].join("\n");
    let what = "may still read";
    expect_right("waited for", &[&filled, &commit, &wait, "bar.sync 0;", AGAIN]);
    expect_right(
        "until it is written too",
        &[&filled, &commit, "@%p0 cp.async.bulk.wait_group 0;", "bar.sync 0;", AGAIN],
    );
    expect_race("no wait", &[&filled, &commit, "bar.sync 0;", AGAIN], AGAIN, COPY, what);
    expect_race("not committed", &[&filled, &wait, "bar.sync 0;", AGAIN], AGAIN, COPY, what);
    expect_race(
        "another's wait",
        &[&filled, &commit, "@%p1 cp.async.bulk.wait_group.read 0;", "bar.sync 0;", AGAIN],
        AGAIN,
        COPY,
        what,
    );
    expect_race(
        "a group too few",
        &[&filled, &commit, "@%p0 cp.async.bulk.wait_group.read 1;", "bar.sync 0;", AGAIN],
        AGAIN,
        COPY,
        what,
    );
    // It has been waited for, which the others do not know.
    expect_race("no barrier behind the wait", &[&filled, &commit, &wait, AGAIN], AGAIN, COPY, "nothing orders the two");

    // Two groups, of which all but one are over.
    let second = "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%out+256], [%tile+256], 256;";
    let both = [
        "st.shared.u32 [%mine+256], 5;",
        &filled,
        &commit,
        second,
        &commit,
        "@%p0 cp.async.bulk.wait_group.read 1;",
        "bar.sync 0;",
    ]
    .join("\n");
    expect_right("the first group", &[&both, AGAIN]);
    let other = "st.shared.u32 [%mine+256], 9;";
    expect_race("the second group", &[&both, other], other, second, what);
}
