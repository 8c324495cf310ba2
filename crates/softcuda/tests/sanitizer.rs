//! What only the sanitizer finds: for each a kernel or program that is wrong, and its twin that is right.

mod common;
use common::{HEADER, device, kernel, launch, pack, run, upload};
use softcuda::{Fault, FaultKind, Module};

/// Runs a body with 64 threads on a buffer of 64 words.
fn outcome(module: &str, body: &str) -> Result<(), Fault> {
    let ptx = format!(
        "{HEADER}{module}\n.visible .entry k(.param .u64 out) {{
    .reg .pred %p<4>; .reg .b32 %r<16>; .reg .b64 %d<16>;
    ld.param.u64 %d1, [out]; mov.u32 %r1, %tid.x; shl.b32 %r2, %r1, 2; cvt.u64.u32 %d2, %r2;\n{body}\n    ret;\n}}"
    );
    run(&ptx, launch(1, 64), &[vec![0; 64]], true).map(|_| ())
}

const TWO: &str = ".shared .align 16 .b8 first[256];\n.shared .align 16 .b8 second[256];";

/// Both arrays are written, so that the second is not merely unwritten.
const BOTH: &str = "
    mov.u32 %r3, first;
    mov.u32 %r4, second;
    add.s32 %r5, %r3, %r2;
    add.s32 %r6, %r4, %r2;
    st.shared.b32 [%r5], %r1;
    st.shared.b32 [%r6], %r1;
    bar.sync 0;\n";

/// Ways to get from a variable to the address behind its end, as compilers write them; `{}` is where the access goes.
const WAYS: [&str; 6] = [
    "add.s32 %r7, %r3, {}; ld.shared.b32 %r8, [%r7];",
    "ld.shared.b32 %r8, [first+{}];",
    "mov.u32 %r10, {}; mad.lo.s32 %r7, %r10, 1, %r3; mov.b32 %r9, %r7; ld.shared.b32 %r8, [%r9];",
    "cvt.u64.u32 %d3, %r3; cvta.shared.u64 %d4, %d3; add.s64 %d5, %d4, {}; ld.b32 %r8, [%d5];",
    // An index that was loaded is no address.
    "ld.shared.b32 %r9, [%r5]; and.b32 %r9, %r9, 0; add.s32 %r9, %r9, {}; add.s32 %r7, %r9, %r3; ld.shared.b32 %r8, [%r7];",
    // A block with a register of its own.
    "{{ .reg .b32 at; add.s32 at, %r3, {}; ld.shared.b32 %r8, [at]; }}",
];

#[test]
fn an_access_past_one_shared_array_into_the_next_is_found() {
    for way in WAYS {
        let access = |offset: u32| {
            format!("{BOTH}{}", way.replace("{}", &offset.to_string()).replace("{{", "{").replace("}}", "}"))
        };
        let fault = outcome(TWO, &access(256)).expect_err(way);
        assert_eq!(fault.kind(), FaultKind::OutOfBounds, "{way}: {fault}");
        let said = "load of 4 bytes at 0x100 of shared memory: 0 bytes past the end of `first`, 256 bytes at 0x0, from whose \
                    address it was computed, in `second`";
        assert!(fault.message().contains(said), "{way}: {fault}");
        outcome(TWO, &access(252)).unwrap_or_else(|fault| panic!("{way}: {fault}"));
    }
}

#[test]
fn an_address_that_may_be_of_either_array_or_of_anywhere_is_left_alone() {
    for body in [
        // One of two arrays.
        "setp.gt.u32 %p1, %r1, 31; selp.b32 %r7, %r3, %r4, %p1; ld.shared.b32 %r8, [%r7+128];",
        "mov.u32 %r7, %r3; setp.gt.u32 %p1, %r1, 31; @%p1 mov.u32 %r7, %r4; add.s32 %r7, %r7, %r2; ld.shared.b32 %r8, [%r7];",
        // A pointer that was kept in memory.
        "mov.u32 %r7, %r3; st.shared.b32 [%r5], %r6; ld.shared.b32 %r7, [%r5]; ld.shared.b32 %r8, [%r7];",
        // A loop over the array: the address begins before it.
        "add.s32 %r7, %r3, -4; mov.u32 %r9, 0;\nL: add.s32 %r7, %r7, 4; ld.shared.b32 %r8, [%r7]; add.s32 %r9, %r9, 1;
         setp.lt.u32 %p2, %r9, 64; @%p2 bra L;",
    ] {
        outcome(TWO, &format!("{BOTH}{body}")).unwrap_or_else(|fault| panic!("{body}: {fault}"));
    }
    // Dynamic shared memory lies behind the arrays, and has no size of its own.
    let dynamic = ".extern .shared .align 16 .b8 tail[];\n.shared .align 16 .b8 first[256];";
    let ptx = format!(
        "{HEADER}{dynamic}\n.visible .entry k(.param .u64 out) {{ .reg .b32 %r<4>;
    mov.u32 %r1, tail; st.shared.b32 [%r1+60], 1; mov.u32 %r2, first; st.shared.b32 [%r2], 1; ret; }}"
    );
    let device = device(1, true);
    device.set_sanitizer(true);
    let kernel = kernel(&device, &ptx);
    let shape = softcuda::Launch { dynamic_shared: 64, ..launch(1, 1) };
    device.launch(&kernel, &shape, &pack(&[0])).unwrap();
}

#[test]
fn an_access_past_a_global_variable_into_another_is_found() {
    let module = ".global .align 4 .u32 table[4] = {1, 2, 3, 4};\n.global .align 4 .u32 other[2048];";
    // Allocations lie 4096 bytes and more apart.
    let access = |offset: u32| format!("mov.u64 %d3, table; add.s64 %d4, %d3, {offset}; ld.global.u32 %r3, [%d4];");
    let fault = outcome(module, &access(4352)).expect_err("other");
    assert_eq!(fault.kind(), FaultKind::OutOfBounds);
    assert!(fault.message().contains("past the end of `table`"), "{fault}");
    assert!(fault.message().contains("in `other`"), "{fault}");
    outcome(module, &access(12)).unwrap();
}

#[test]
fn a_host_read_of_bytes_that_nobody_wrote_is_found() {
    let device = device(1, true);
    let bytes = device.alloc(64).unwrap();
    device.write(bytes, &[7; 60]).unwrap();
    device.read(bytes, &mut [0; 64]).expect("not without the sanitizer");
    device.set_sanitizer(true);
    let fault = device.read(bytes, &mut [0; 64]).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Uninitialised);
    assert!(fault.message().contains(&format!("the byte at {:#x}", bytes + 60)), "{fault}");
    device.read(bytes, &mut [0; 60]).unwrap();
    device.fill(bytes + 60, [0u8; 4], 1).unwrap();
    device.read(bytes, &mut [0; 64]).unwrap();
}

#[test]
fn what_was_never_freed_is_known() {
    let device = device(1, true);
    let text = format!("{HEADER}.global .align 4 .u32 table[4];\n.visible .entry k() {{ ret; }}");
    device.load(&Module::from_ptx(&text).unwrap()).unwrap();
    let (first, second) = (device.alloc(16).unwrap(), device.alloc(300).unwrap());
    device.free(first).unwrap();
    let live: Vec<_> = device.live().iter().map(|live| (live.address, live.bytes, live.number)).collect();
    assert_eq!(live, [(second, 300, 1)]);
    device.free(second).unwrap();
    assert_eq!(device.live(), []);
}

/// Faults at three places, of three kinds: an unwritten word, a store behind the buffer, a race.
const THREE: &str = "
    ld.shared.b32 %r3, [first];
    add.s64 %d3, %d1, 256;
    add.s64 %d4, %d3, %d2;
    st.global.b32 [%d4], %r3;
    mov.u32 %r4, second;
    st.shared.b32 [%r4], %r1;
    st.shared.b32 [%r4+4], %r1;\n";

#[test]
fn a_launch_goes_on_and_reports_the_first_fault_of_each_place() {
    let fault = outcome(TWO, THREE).unwrap_err();
    let all: Vec<_> =
        std::iter::once(&fault).chain(fault.others()).map(|f| (f.kind(), f.location().unwrap().line)).collect();
    use FaultKind::{OutOfBounds, Race, Uninitialised};
    let first = all[0].1;
    let expected = [(Uninitialised, first), (OutOfBounds, first + 3), (Race, first + 5), (Race, first + 6)];
    assert_eq!(all, expected, "{fault}");
    let text = fault.to_string();
    assert!(
        text.starts_with("Uninitialised") && text.contains("\n  and OutOfBounds") && text.contains("\n  and Race"),
        "{text}"
    );
    // Without the sanitizer it ends at the first that is a fault to everybody.
    let ptx = format!(
        "{HEADER}.visible .entry k(.param .u64 out) {{ .reg .b64 %d<4>; ld.param.u64 %d1, [out];
    st.global.b32 [%d1+4], 1;
    st.global.b32 [%d1+8], 1;
    ret; }}"
    );
    assert_eq!(run(&ptx, launch(1, 1), &[vec![0]], false).unwrap_err().others(), []);
    assert_eq!(run(&ptx, launch(1, 1), &[vec![0]], true).unwrap_err().others().len(), 1);
}

#[test]
fn faults_end_at_a_limit_and_so_does_a_loop_on_wrong_values() {
    let stores: String = (1..100).map(|i| format!("    st.global.b32 [%d1+{}], 1;\n", i * 256)).collect();
    let fault = outcome("", &stores).unwrap_err();
    assert_eq!(fault.others().len(), 15);
    let endless = "    ld.shared.b32 %r3, [first];\nL: setp.ne.u32 %p1, %r3, 0;\n    @%p1 bra L;\n";
    let fault = outcome(TWO, endless).unwrap_err();
    assert_eq!(fault.kind(), FaultKind::Uninitialised);
}

#[test]
fn memory_next_to_a_fault_stays_as_it_is() {
    let device = device(1, true);
    device.set_sanitizer(true);
    let ptx = format!(
        "{HEADER}.visible .entry k(.param .u64 out) {{ .reg .b32 %r<4>; .reg .b64 %d<4>;
    ld.param.u64 %d1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %d2, %r1, 4; add.s64 %d3, %d1, %d2;
    st.global.b32 [%d3], %r1; ret; }}"
    );
    let kernel = kernel(&device, &ptx);
    let out = upload(&device, &[9u32; 16]);
    let fault = device.launch(&kernel, &launch(1, 32), &pack(&[out])).unwrap_err();
    assert_eq!(fault.location().unwrap().thread, [16, 0, 0]);
    let words = common::download::<u32>(&device, out, 16);
    assert_eq!(words, (0..16).collect::<Vec<u32>>());
}
