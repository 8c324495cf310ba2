//! When a fault in a module's text is told: at its load, or for a large text that is loaded lazily when its kernel is asked for.
//!
//! `CUDA_MODULE_LOADING` is the process's, so each setting is tested in a process of its own.
#![allow(clippy::undocumented_unsafe_blocks, reason = "the same for all: softcuda looks up every handle and address")]

mod common;

use std::env;
use std::ffi::{CStr, CString};
use std::process::Command;
use std::ptr;

use driver::DeviceChoice;
use driver::sys::*;

const SETTING: &str = "CUDA_MODULE_LOADING";

/// A text with kernels `first`, `wrong` and `last`, the second's body and what stands behind the kernels as given, and as many bytes
/// at least.
fn text(body: &str, behind: &str, bytes: usize) -> CString {
    let kernel =
        |name: &str, body: &str| format!(".visible .entry {name}() {{\n    .reg .b32 %r<3>;\n{body}\n    ret;\n}}\n");
    let mut text = ".version 8.0\n.target sm_90\n.address_size 64\n".to_owned();
    while text.len() < bytes {
        text += "// so that the text is long ----------------------------------------------------------------------------\n";
    }
    text += &[kernel("first", ""), kernel("wrong", body), kernel("last", ""), behind.to_owned()].concat();
    CString::new(text).expect("no NUL")
}

fn load(text: &CStr) -> (CUresult, CUmodule) {
    let mut module = ptr::null_mut();
    (unsafe { cuModuleLoadData(&mut module, text.as_ptr().cast()) }, module)
}

fn kernel(module: CUmodule, name: &str) -> CUresult {
    let (name, mut function) = (CString::new(name).expect("no NUL"), ptr::null_mut());
    unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) }
}

/// The last failure is about a line that holds `what`.
#[track_caller]
fn told(result: CUresult, what: &str) {
    let words = driver::last_error().unwrap_or_default();
    assert_eq!(result, CUDA_ERROR_INVALID_PTX, "{what}: {words}");
    assert!(words.contains("PTX line") && words.contains(what), "{what}: {words}");
}

/// What is no PTX, each in the body of a kernel.
const WRONG: [&str; 5] = [
    "    add.s32 %r1, %r2;",
    "    bra NOWHERE;",
    "    mov.u32 %undeclared, 1;",
    "    call nothing;",
    "    .reg .b32 %r<3;",
];

const LONG: usize = 1 << 20;

#[test]
fn faults_are_told_at_once_or_when_asked_for() {
    if env::var_os("LOADING_TEST_CHILD").is_none() {
        for setting in [None, Some("LAZY"), Some("EAGER")] {
            let mut command = Command::new(env::current_exe().expect("the program's path"));
            command.args(["--exact", "faults_are_told_at_once_or_when_asked_for", "--nocapture"]);
            command.env("LOADING_TEST_CHILD", "1").env_remove(SETTING).envs(setting.map(|how| (SETTING, how)));
            let output = command.output().expect("the program runs");
            let said =
                [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
            assert!(output.status.success() && said.contains("1 passed"), "{setting:?}: {said}");
        }
        return;
    }
    let eager = env::var(SETTING).is_ok_and(|how| how == "EAGER");
    let _turn = common::turn_on(DeviceChoice::Soft);
    let mut mode = 0;
    assert_eq!(unsafe { cuModuleGetLoadingMode(&mut mode) }, CUDA_SUCCESS);
    assert_eq!(mode, if eager { 1 } else { 2 });
    for wrong in WRONG {
        told(load(&text(wrong, "", 0)).0, wrong.trim());
        let (result, module) = load(&text(wrong, "", LONG));
        if eager {
            told(result, wrong.trim());
            continue;
        }
        assert_eq!(result, CUDA_SUCCESS, "{wrong}: {:?}", driver::last_error());
        for name in ["first", "last"] {
            assert_eq!(kernel(module, name), CUDA_SUCCESS, "{wrong}: {:?}", driver::last_error());
        }
        // Each time that somebody asks.
        for _ in 0..2 {
            told(kernel(module, "wrong"), wrong.trim());
        }
        assert_eq!(kernel(module, "none"), CUDA_ERROR_NOT_FOUND);
        assert_eq!(unsafe { cuModuleUnload(module) }, CUDA_SUCCESS);
    }
    // Outside of kernels it is a fault of the load in any case.
    for bytes in [0, LONG] {
        for behind in [".visible nonsense\n", ".global .b32 x = {;\n"] {
            told(load(&text("", behind, bytes)).0, behind.trim());
        }
        let (result, module) = load(&text("", "", bytes));
        assert_eq!(result, CUDA_SUCCESS, "{:?}", driver::last_error());
        assert_eq!(kernel(module, "wrong"), CUDA_SUCCESS);
    }
}

/// A text that stays where it is, is read there; its faults are told as those of others are.
#[test]
fn a_text_that_is_kept_loads_as_its_copy_does() {
    let _turn = common::turn_on(DeviceChoice::Soft);
    let kept: &'static CStr = Box::leak(text("    add.s32 %r1, %r2, 1, 2;", "", LONG).into_boxed_c_str());
    let copy = kept.to_owned();
    driver::soft::keep(kept);
    driver::soft::keep(kept);
    for text in [kept, &copy, kept] {
        let (result, module) = load(text);
        assert_eq!(result, CUDA_SUCCESS);
        assert_eq!([kernel(module, "first"), kernel(module, "last")], [CUDA_SUCCESS; 2]);
        told(kernel(module, "wrong"), "add.s32 %r1, %r2, 1, 2");
    }
    // What only begins as it does is another text.
    let (result, module) = load(&CString::new(&kept.to_bytes()[..kept.count_bytes() - 2]).expect("no NUL"));
    assert_eq!((result, module.is_null()), (CUDA_ERROR_INVALID_PTX, true));
}
