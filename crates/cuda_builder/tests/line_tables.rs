//! The compiler's own output: with line tables and without, the instructions are the same.

use std::path::Path;

use cuda_builder::CudaBuilder;

/// The PTX of `tests/kernel`.
fn ptx(lines: bool) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kernel.ptx");
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel");
    CudaBuilder::new(kernel).line_tables(lines).copy_to(&file).build().unwrap_or_else(|error| panic!("{error}"));
    std::fs::read_to_string(file).unwrap()
}

/// What is executed, and what declares it: neither comments nor lines.
fn instructions(ptx: &str) -> Vec<&str> {
    let code = ptx.split("\t.file").next().unwrap().lines().map(str::trim);
    code.filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with(".loc")).collect()
}

#[test]
fn instructions_are_the_same_with_line_tables_and_without() {
    let (with, without) = (ptx(true), ptx(false));
    assert_eq!(instructions(&with), instructions(&without));
    assert!(!without.contains(".loc"), "{without}");
    // The load is two functions deep.
    let load = with.find("ld.global").or(with.find("ld.b32")).expect("a load");
    let before = with[..load].lines().rev().find(|line| line.starts_with("\t.loc")).unwrap();
    assert!(before.contains("function_name") && before.contains("inlined_at"), "{before}\n{with}");
    assert!(with.contains("\"crates/cuda_builder/tests/kernel/src/lib.rs\""), "{with}");
    for gone in ["debug_info", "$L__tmp", ", debug"] {
        assert!(!with.contains(gone), "{gone} is there:\n{with}");
    }
}
