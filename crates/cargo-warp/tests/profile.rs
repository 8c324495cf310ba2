//! `cargo warp profile` on counts that softcuda left in a folder.

use std::fs;

use assert_cmd::Command;

/// As softcuda writes it: one kernel with a store in shared memory whose lanes all want one bank.
const COUNTS: &str = r#"{"format": 1, "kernels": [
{"name": "turn", "ptx": "1-0-0.ptx", "static_shared": 4096, "local_bytes": 0, "max_threads": 1024,
 "launches": [{"grid": [2, 1, 1], "block": [32, 1, 1], "dynamic_shared": 0, "count": 3}], "instructions": [
  {"line": 7, "text": "st.shared.u32 [%r4], %r1;", "class": "SharedStore",
   "source": [{"file": "crates/cuda_std/src/shared.rs", "line": 9, "column": 1, "function": "set"},
              {"file": "src/lib.rs", "line": 2, "column": 5, "function": "turn"}],
   "issued": 6, "acted": 6, "lanes": 192, "shared_store_bytes": 768, "conflicts": 186, "ways": 32, "stride": 128},
  {"line": 8, "text": "ret;", "class": "Control", "source": [], "issued": 6, "acted": 6, "lanes": 192}]}]}"#;

fn profile(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-warp"));
    command.args(["warp", "profile"]).args(arguments);
    command
}

#[test]
fn a_folder_of_counts_is_shown_as_a_table_a_page_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let (counts, root) = (folder.path().join("counts"), folder.path());
    fs::create_dir_all(&counts).unwrap();
    fs::create_dir_all(root.join("src")).unwrap();
    fs::write(root.join("src/lib.rs"), "fn turn() {\n    tile.set(lane * 32, x);\n}\n").unwrap();
    fs::write(counts.join("1-0.json"), COUNTS).unwrap();
    fs::write(counts.join("1-0-0.ptx"), ".version 8.0\n.visible .entry turn()\n{\n\tret;\n}\n").unwrap();
    let from = counts.to_str().unwrap();
    let output =
        profile(&["--from", from, "--no-ptxas", "--card", "RTX4090", "--html", "page.html", "--json", "all.json"])
            .current_dir(root)
            .output()
            .unwrap();
    assert!(output.status.success(), "{output:?}");
    let table = String::from_utf8(output.stdout).unwrap();
    for part in [
        "turn: 3 launches",
        "GeForce RTX 4090",
        "src/lib.rs:2  tile.set(lane * 32, x);",
        "32-way conflict: stride 32 words",
    ] {
        assert!(table.contains(part), "{part:?} is missing:\n{table}");
    }
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(root.join("all.json")).unwrap()).unwrap();
    assert_eq!(json["kernels"][0]["lines"][0]["numbers"]["shared_conflicts"], 186);
    assert!(fs::read_to_string(root.join("page.html")).unwrap().contains("32-way conflict"));
    let output = profile(&["--from", from, "--no-ptxas", "--json", "-"]).current_dir(root).output().unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok(), "{output:?}");
}

#[test]
fn what_cannot_be_shown_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.json");
    fs::write(&bad, "{}").unwrap();
    for (arguments, said) in [
        (&["--from", folder.path().to_str().unwrap()][..], "bad.json"),
        (&["--from", "/absent"], "/absent"),
        (&["--from", "/absent", "--card", "voodoo"], "expected one of a100"),
        (&[], "TEST_OR_KERNEL"),
    ] {
        let output = profile(arguments).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(said), "{arguments:?}: {error}");
    }
}
