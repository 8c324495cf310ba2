//! Collectives of a warp whose lanes pass different member masks: groups apart, each of which acts by itself.

mod common;
use common::*;
use softcuda::FaultKind;

/// Masks that take the warp apart, by lane.
fn partitions() -> Vec<(&'static str, [u32; 32])> {
    let by = |group: fn(u32) -> u32| {
        let same = |a: u32| (0..32).filter(|&b| group(a) == group(b)).fold(0, |mask, b| mask | 1u32 << b);
        std::array::from_fn(|lane| same(lane as u32))
    };
    vec![
        ("all together", by(|_| 0)),
        ("halves", by(|lane| lane / 16)),
        ("odd and even", by(|lane| lane % 2)),
        ("by three", by(|lane| lane % 3)),
        ("a few and the rest", by(|lane| u32::from(lane == 3 || lane > 27))),
        ("each alone", by(|lane| lane)),
    ]
}

const COLLECTIVES: &str = "
    cvt.u32.u64 %r1, %x0; cvt.u32.u64 %r2, %x1; setp.gt.u32 %p1, %r1, 40; setp.lt.u32 %p2, %r1, 100;
    vote.sync.ballot.b32 %r3, %p1, %r2; cvt.u64.u32 %y0, %r3;
    vote.sync.any.pred %p3, %p1, %r2; vote.sync.all.pred %p4, %p1, %r2; vote.sync.uni.pred %p5, %p1, %r2;
    selp.u32 %r4, 1, 0, %p3; selp.u32 %r5, 2, 0, %p4; selp.u32 %r6, 4, 0, %p5; or.b32 %r4, %r4, %r5; or.b32 %r4, %r4, %r6;
    cvt.u64.u32 %y1, %r4;
    and.b32 %r7, %r1, 3; match.any.sync.b32 %r8, %r7, %r2; cvt.u64.u32 %y2, %r8;
    match.all.sync.b32 %r9|%p6, %r7, %r2; selp.u32 %r10, 1, 0, %p6; cvt.u64.u32 %y3, %r9; cvt.u64.u32 %y4, %r10;
    redux.sync.add.u32 %r11, %r1, %r2; cvt.u64.u32 %y5, %r11;
    redux.sync.min.s32 %r12, %r1, %r2; redux.sync.max.u32 %r13, %r1, %r2; mad.lo.u32 %r12, %r13, 1000, %r12; cvt.u64.u32 %y6, %r12;
    redux.sync.xor.b32 %r1, %r1, %r2; cvt.u64.u32 %y7, %r1;
    elect.sync %r14|%p7, %r2; selp.u32 %r15, 100, 0, %p7; add.u32 %r14, %r14, %r15; cvt.u64.u32 %y8, %r14;
    cvt.u32.u64 %r1, %x0; bfind.u32 %r16, %r2; shfl.sync.idx.b32 %r17, %r1, %r16, 31, %r2; cvt.u64.u32 %y9, %r17;
    bar.warp.sync %r2;";

fn expected(values: &[u64; 32], members: &[u32; 32], lane: usize) -> [u64; 10] {
    let group: Vec<usize> = (0..32).filter(|&l| members[lane] >> l & 1 != 0).collect();
    let mask = |is: &dyn Fn(u64) -> bool| group.iter().filter(|&&l| is(values[l])).fold(0u64, |m, &l| m | 1 << l);
    let all: Vec<u64> = group.iter().map(|&l| values[l]).collect();
    let (votes, own) = (mask(&|v| v > 40), u64::from(members[lane]));
    let (any, every) = (votes != 0, votes == own);
    let same = mask(&|v| v & 3 == values[lane] & 3);
    [
        votes,
        u64::from(any) + 2 * u64::from(every) + 4 * u64::from(every || !any),
        same,
        if same == own { own } else { 0 },
        u64::from(same == own),
        all.iter().sum(),
        all.iter().max().unwrap() * 1000 + all.iter().min().unwrap(),
        all.iter().fold(0, |a, b| a ^ b),
        group[0] as u64 + if group[0] == lane { 100 } else { 0 },
        values[*group.last().unwrap()],
    ]
}

fn check(name: &str, body: &str, members: &[u32; 32]) {
    let values: [u64; 32] = std::array::from_fn(|lane| (lane as u64 * 37 + 11) % 90);
    let out = lanes(body, &[values, members.map(u64::from)], 10);
    for lane in 0..32 {
        let found: Vec<u64> = out.iter().map(|row| row[lane]).collect();
        assert_eq!(found, expected(&values, members, lane), "{name}: lane {lane}");
    }
}

#[test]
fn each_group_acts_by_itself() {
    for (name, members) in partitions() {
        check(name, COLLECTIVES, &members);
        // Some lanes come later: groups that are complete act without them, the others when they have come.
        for late in ["1", "8", "17"] {
            let detour = format!(
                "    and.b32 %r20, %lane, {late}; setp.eq.u32 %p10, %r20, 0; @%p10 bra HERE; mov.u32 %r21, 0;
AGAIN: add.u32 %r21, %r21, 1; setp.lt.u32 %p11, %r21, %lane; @%p11 bra AGAIN;\nHERE:\n{COLLECTIVES}"
            );
            check(&format!("{name}, some late by {late}"), &detour, &members);
        }
    }
}

#[test]
fn masks_that_contradict_each_other_are_a_fault() {
    let members: [u64; 32] = std::array::from_fn(|lane| if lane == 5 { 0x30 } else { 0x0000_ffff << (lane / 16 * 16) });
    let body = "    cvt.u32.u64 %r1, %x0; redux.sync.add.u32 %r2, %lane, %r1; cvt.u64.u32 %y0, %r2;";
    let fault = lanes_on(&device(1, true), body, &[members], 1).expect_err("lane 5 passes another mask");
    assert_eq!(fault.kind(), FaultKind::InactiveShuffle);
    assert!(fault.message().contains("names lane 5, but that passes 0x00000030"), "{fault}");
}
