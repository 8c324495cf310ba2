//! Faults name the lines of source that the PTX says its instructions come from.

mod common;
use common::{HEADER, device, kernel, launch, pack, upload};
use softcuda::{Fault, FaultKind, SourceLine};

/// `store` of `memory.rs` inlined into `put` of `lib.rs`, that into the kernel: twice, from different lines.
const BODY: &str = "
.visible .entry k(.param .u64 out) {
    .reg .b32 %r<4>; .reg .b64 %d<4>;
    .loc 1 20 1
    ld.param.u64 %d1, [out];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %d2, %r1, 4;
    .loc 1 21 5
    .loc 1 11 9, function_name $L__names+6, inlined_at 1 21 5
    .loc 2 3 13, function_name $L__names, inlined_at 1 11 9
    st.global.u32 [%d1], 1;
    .loc 1 22 5
    .loc 1 11 9, function_name $L__names+6, inlined_at 1 22 5
    .loc 2 3 13, function_name $L__names, inlined_at 1 11 9
    add.u64 %d3, %d1, %d2;
    st.global.u32 [%d3+4], 1;
    .loc 1 0 5
    st.global.u32 [%d3+512], 1;
    ret;
}
.file 1 \"src/lib.rs\", 1700000000, 4096
    .file 2 \"src/memory.rs\"
    .section .debug_info
    {
.b64 $L__sec_end0-$L__func_begin0
    }
$L__sec_end0:
    .section .debug_str
    {
$L__names:
    .b8 115,116,111,114,101,0
    .b8 112,117,116,0
    }
    .section .debug_macinfo { }
";

fn fault(body: &str, block: u32, bytes: usize) -> Fault {
    let device = device(1, true);
    device.set_sanitizer(true);
    let kernel = kernel(&device, &format!("{HEADER}{body}"));
    let out = upload(&device, &vec![0u8; bytes]);
    device.launch(&kernel, &launch(1, block), &pack(&[out])).expect_err("a fault")
}

fn line(file: &str, line: u32, column: u32, function: &str) -> SourceLine {
    SourceLine { file: file.into(), line, column, function: function.into() }
}

#[test]
fn a_fault_names_the_line_and_those_that_call_it() {
    let fault = fault(BODY, 1, 4);
    assert_eq!(fault.kind(), FaultKind::OutOfBounds);
    let calls =
        [line("src/memory.rs", 3, 13, "store"), line("src/lib.rs", 11, 9, "put"), line("src/lib.rs", 22, 5, "k")];
    assert_eq!(fault.location().unwrap().source, calls);
    let text = fault.to_string();
    let said = "kernel `k`, src/memory.rs:3:13 in `store`, called at src/lib.rs:11:9 in `put`, called at src/lib.rs:22:5 in `k`, \
                PTX line 19 `st.global.u32 [%d3+4], 1;`, block (0,0,0), thread (0,0,0)";
    assert!(text.contains(said), "{text}");
}

#[test]
fn a_race_names_both_lines() {
    // Every thread writes word 0, then its own: thread 0 the one that the others wrote.
    let fault = fault(&BODY.replace("[%d3+4]", "[%d3]"), 3, 1024);
    assert_eq!(fault.kind(), FaultKind::Race);
    let text = fault.to_string();
    for (place, calls) in
        [("wrote at line 14", "src/lib.rs:21:5 in `k`), and"), ("kernel `k`", "src/lib.rs:22:5 in `k`, PTX")]
    {
        let from = text.find(place).unwrap_or_else(|| panic!("{place}: {text}"));
        let said = format!("src/memory.rs:3:13 in `store`, called at src/lib.rs:11:9 in `put`, called at {calls}");
        assert!(text[from..].contains(&said), "{said}: {text}");
    }
}

#[test]
fn code_of_no_line_has_none_and_text_without_lines_stays_as_it_was() {
    let last = fault(BODY, 1, 16);
    assert_eq!(last.location().unwrap().source, []);
    assert!(last.to_string().contains("kernel `k`, PTX line 21"), "{last}");
    let plain: String = BODY.lines().filter(|l| !l.trim().starts_with(".loc")).map(|l| format!("{l}\n")).collect();
    let fault = fault(&plain, 1, 4);
    assert_eq!(fault.location().unwrap().source, []);
}

#[test]
fn lines_that_are_malformed_say_nothing() {
    for bad in
        [".loc 1", ".loc 1 2 3, inlined_at 1", ".loc 1 2 3, function_name", ".file x \"a\"", ".file 1 a", ".loc -1 2 3"]
    {
        let last = fault(&BODY.replace("    ret;", &format!("    {bad}\n    ret;")), 1, 16);
        assert!(last.to_string().contains("kernel `k`, PTX line 21"), "{bad}: {last}");
    }
}
