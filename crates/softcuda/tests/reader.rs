//! What the reader refuses, with which line and words, and that no text makes it panic.

mod common;
use common::HEADER;
use proptest::prelude::*;
use softcuda::Module;

fn error(body: &str) -> softcuda::PtxError {
    let text = format!(
        "{HEADER}.visible .entry k(.param .u64 p) {{\n.reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %d<9>;\n{body}\nret;\n}}"
    );
    match Module::from_ptx(&text) {
        Ok(_) => panic!("accepted: {body}"),
        Err(e) => e,
    }
}

#[test]
fn mistakes_are_reported_with_their_line() {
    let cases = [
        ("add.s32 %r1, %r2;", "2 operands; expected 3"),
        ("add.s32 %r1, %r2, %d1;", "expected a 32-bit register"),
        ("add.s32 %r1, %r2, %q1;", "`%q1` is not declared"),
        ("add.s32 %r1, %r2, %r9;", "`%r9` is not declared"),
        ("bra NOWHERE;", "label `NOWHERE`"),
        ("add.s32 %r1, %r2, 0f3F800000x;", "no number"),
        ("@%r1 bra K;", "no predicate"),
        ("call nothing;", "`nothing` is no function"),
        ("cvt.f32.s32 %r1, %r2;", "needs a rounding"),
        ("ld.shared.b32 %r1, [p];", "not in the state space"),
        ("fma.f32 %r1, %r2, %r3, %r4;", "needs a rounding"),
        (".reg .b32 %r<3;", "expected `>`"),
    ];
    for (body, said) in cases {
        let e = error(body);
        assert_eq!((e.line, e.text.as_str()), (6, body), "{e}");
        assert!(e.message.contains(said), "{body}: {e}");
    }
}

#[test]
fn functions_that_nobody_calls_are_checked_too() {
    let text = format!("{HEADER}.func unused() {{\n add.s32 %r1, %r1, 1;\n ret;\n}}\n.visible .entry k() {{ ret; }}");
    let e = Module::from_ptx(&text).err().expect("an error");
    assert_eq!(e.line, 5);
}

/// An instruction of a later PTX, or one that nobody has, is a fault of whoever executes it.
#[test]
fn what_is_unknown_is_a_fault_when_it_is_executed() {
    let cases = [
        ("frobnicate.b32 %r1, %r2;", "unknown opcode `frobnicate`"),
        ("frobnicate %r1|%p1, [%d1, {%r1, %r2}], [%d2], {%r1, {%r2}}, 0.5, -1;", "unknown opcode `frobnicate`"),
        ("frobnicate %r1 <=> [[]];", "unknown opcode `frobnicate`"),
        ("add.wobble.s32 %r1, %r2, %r3;", "unknown modifier `.wobble`"),
        ("ld.global.L7::magic.b32 %r1, [%d1];", "unknown modifier `.L7::magic`"),
        ("mma.sync.aligned.m99n8k16.row.col.f32.f16.f16.f32 {%r1}, {%r2}, {%r3}, {%r1};", "this shape"),
        ("tex.2d.v4.f32.s32 {%r1, %r2, %r3, %r4}, [%d1, {%r1, %r2}];", "unknown opcode `tex`"),
        ("shfl.bfly.b32 %r1, %r2, 1, 31;", "no `.sync`"),
        ("setp.under.s32 %p1, %r1, %r2;", "no comparison"),
    ];
    for (instruction, said) in cases {
        let text = format!(
            "{HEADER}.future 7, \"x\" {{ .of {{ 1 }} }}\n.visible .entry k(.param .u64 p, .param .u32 n) .hopeful 3 {{
.reg .pred %p<4>; .reg .b32 %r<9>; .reg .b64 %d<9>;\n.intent \"y\";\nld.param.u32 %r8, [n]; setp.ne.u32 %p3, %r8, 0;
@%p3 {instruction}
ret;\n}}"
        );
        let module = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let unknown = module.unknown_instructions();
        assert_eq!(unknown.len(), 1, "{text}");
        assert!(unknown[0].message.contains(said), "{}", unknown[0]);
        let device = common::device(1, true);
        let kernel = device.load(&module).unwrap().kernel("k").unwrap();
        let run =
            |n: u64| device.launch(&kernel, &common::launch(1, 32), &[0u64, n].map(u64::to_le_bytes).concat()[..12]);
        run(0).unwrap_or_else(|fault| panic!("not executed, yet {fault}"));
        let fault = run(1).expect_err("executed");
        assert_eq!(fault.kind(), softcuda::FaultKind::UnknownInstruction);
        assert!(fault.message().contains(said), "{fault}");
        let at = fault.location().expect("a place");
        assert_eq!((at.line, at.text.as_str()), (9, format!("@%p3 {instruction}").as_str()));
    }
}

#[test]
fn debug_information_is_passed_over() {
    let text = format!(
        "//\n// Generated\n//\n{HEADER}.file 1 \"/a/b.rs\"\n\t// .globl\tk
.visible .entry k(\n\t.param .u64 .ptr .global .align 16 k_param_0\n)\n.maxntid 256, 1, 1\n.minnctapersm 2\n{{
\t.pragma \"nounroll\";\n\t.loc\t1 3 0\n$L__func_begin0:\n\t/* a\n comment */\n\tret; // done\n}}
\t.section\t.debug_abbrev\n\t{{\n.b8 1\n.b8 17, 0x1F\n.b32 $L__func_begin0\n\t}}\n"
    );
    let module = Module::from_ptx(&text).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(module.kernels().collect::<Vec<_>>(), ["k"]);
}

const SEED: &str = include_str!("ptx/add.ptx");
const RICH: &str = ".version 8.0\n.target sm_80\n.address_size 64
.extern .shared .align 16 .b8 dyn[];
.global .align 4 .b32 table[4] = {1, -2, 0x30, 4};
.func (.param .b32 r) f(.param .b32 a) { .reg .b32 %r<2>; ld.param.b32 %r1, [a]; st.param.b32 [r], %r1; ret; }
.visible .entry k(.param .u64 out) .maxntid 64 {
    .reg .pred %p<4>; .reg .b16 %h<4>; .reg .b32 %r<9>; .reg .b64 %d<9>; .reg .f32 %f<4>; .local .align 8 .b8 depot[16];
    ld.param.u64 %d1, [out]; mov.u32 %r1, %tid.x; mov.u32 %r2, dyn;
    { .reg .pred q; setp.lt.and.u32 q|%p2, %r1, 5, !%p1; @q bra L; }
    T: .branchtargets L, M; brx.idx %r1, T;
L:  mov.b32 {%h1, %h2}, %r1; fma.rn.ftz.f32 %f1, %f2, 0f3F800000, %f3; cvt.rzi.s32.f32 %r3, %f1;
    { .param .b32 a; .param .b32 r; st.param.b32 [a], %r1; call.uni (r), f, (a); ld.param.b32 %r4, [r]; }
M:  shfl.sync.bfly.b32 %r5|%p1, %r4, 1, 31, -1; atom.global.add.u32 %r6, [%d1+-4], 1; ld.global.nc.v2.b32 {%r7, _}, [table+8];
    bar.sync 0; cp.async.cg.shared.global [%r2+16], [%d1], 16; ret;
}";

/// Deletes, doubles, swaps and replaces pieces of a text.
fn mutate(text: &str, edits: &[(u8, prop::sample::Index, prop::sample::Index, String)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (kind, from, to, word) in edits {
        if chars.is_empty() {
            break;
        }
        let (a, b) = (from.index(chars.len()), to.index(chars.len()));
        match kind % 5 {
            0 => drop(chars.drain(a..(a + 1 + b % 9).min(chars.len()))),
            1 => chars.swap(a, b),
            2 => {
                let piece: Vec<char> = chars[a..(a + b % 60).min(chars.len())].to_vec();
                chars.splice(b..b, piece);
            }
            3 => drop(chars.splice(a..(a + 1).min(chars.len()), word.chars())),
            _ => chars.truncate(a.max(chars.len() / 2)),
        }
    }
    chars.into_iter().collect()
}

#[test]
fn no_text_makes_the_reader_panic() {
    Module::from_ptx(RICH).unwrap_or_else(|e| panic!("{e}"));
    let word = prop_oneof![
        "[ -~]{0,6}",
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            "(",
            ")",
            ";",
            ",",
            ".",
            ":",
            "%r1",
            "%d1",
            "%p1",
            "0x",
            "0f",
            "99999999999999999999",
            "-1",
            ".v4",
            ".b128",
            ".u64",
            ".pred",
            "_",
            "|",
            "!",
            "@",
            "\"",
            "/*",
            "4294967295",
            "é",
            "<1000000>",
            "dyn",
            "k",
            ".shared",
            ".align 0",
            "%laneid",
        ])
        .prop_map(str::to_owned),
    ];
    let edits =
        prop::collection::vec((any::<u8>(), any::<prop::sample::Index>(), any::<prop::sample::Index>(), word), 1..6);
    proptest!(ProptestConfig::with_cases(3000), |(edits in edits, rich in any::<bool>())| {
        let text = mutate(if rich { RICH } else { SEED }, &edits);
        if let Err(e) = Module::from_ptx(&text) {
            prop_assert!(!e.message.is_empty());
        }
    });
}
