//! Modules that are read kernel by kernel.

mod common;
use common::HEADER;
use softcuda::Module;

fn module(bodies: &[&str]) -> String {
    let kernels = bodies.iter().enumerate().map(|(index, body)| {
        format!(".visible .entry k{index}(.param .u64 p)\n.maxntid 32\n{{\n.reg .b32 %r<9>; .reg .b64 %d<9>;\n{body}\nret;\n}}\n")
    });
    HEADER.to_owned() + &kernels.collect::<String>()
}

/// A kernel that is wrong is an error of whoever asks for it, the one that reading the whole module gives; the others run.
#[test]
fn a_mistake_is_told_when_its_kernel_is_asked_for() {
    let fine = "ld.param.b64 %d1, [p];\nst.global.b32 [%d1], 7;";
    for wrong in [
        "add.s32 %r1, %r2;",
        "bra NOWHERE;",
        "add.s32 %r1, %r2, 0f3F800000x;",
        "call nothing;",
        ".reg .b32 %r<3;",
        "\"no end",
    ] {
        let text = module(&[fine, wrong, fine]);
        let expected = Module::from_ptx(&text).err().expect("an error");
        let deferred = Module::deferred(&text);
        // A string without an end is wrong for whoever looks for the function's.
        let Ok(deferred) = deferred else {
            assert_eq!(wrong, "\"no end");
            continue;
        };
        let device = common::device(1, true);
        let loaded = device.load(&deferred).unwrap();
        for _ in 0..2 {
            let found = loaded.read_kernel("k1").err().expect("an error");
            assert_eq!((found.line, &found.text, &found.message), (expected.line, &expected.text, &expected.message));
        }
        assert!(loaded.kernel("k1").is_none() && loaded.read_kernel("k3").unwrap().is_none());
        let out = device.alloc(4).unwrap();
        let kernel = loaded.read_kernel("k2").unwrap().expect("the kernel");
        device.launch(&kernel, &common::launch(1, 1), &common::pack(&[out])).unwrap();
        assert_eq!(common::download::<u32>(&device, out, 1), [7]);
    }
}

/// What stands outside of kernels, or lacks its end, is told at once.
#[test]
fn a_mistake_outside_of_kernels_is_told_at_once() {
    for wrong in [
        ".visible nonsense",
        ".global .b32 x = {;",
        ".visible .entry k() {",
        ".visible .entry k() { /* }",
        ".func f() { add.s32 %r1; @ }",
    ] {
        assert!(Module::deferred(&format!("{HEADER}{wrong}")).is_err(), "{wrong}");
    }
}

/// The end of a body is not in its comments, strings and blocks; lines are counted behind it.
#[test]
fn braces_that_end_nothing_are_passed_over() {
    let text =
        module(&["// }\n/* }\n} */ { .reg .b32 %q; mov.b32 %q, 1; }\n.pragma \"}\";", "frobnicate.b32 %r1, %r2;"]);
    let (whole, deferred) = (Module::from_ptx(&text).unwrap(), Module::deferred(&text).unwrap());
    assert!(deferred.kernels().eq(["k0", "k1"]));
    assert_eq!(deferred.unknown_instructions(), whole.unknown_instructions());
    assert_eq!(whole.unknown_instructions().len(), 1);
}

/// The text is looked through many bytes at a time.
#[test]
fn a_brace_is_found_wherever_it_stands() {
    for n in 0..200 {
        let space = " ".repeat(n);
        let block = format!("{space}{{ .reg .b32 %q;{space}// }}\n}}{space}");
        let text = module(&[&block, "frobnicate.b32 %r1, %r2;"]);
        let deferred = Module::deferred(&text).unwrap();
        assert!(deferred.kernels().eq(["k0", "k1"]), "behind {n} spaces");
        let expected = Module::from_ptx(&text).unwrap().unknown_instructions().to_vec();
        assert_eq!((deferred.unknown_instructions(), expected.len()), (&expected[..], 1), "behind {n} spaces");
    }
}
