//! `bench` on softcuda: counters in every format.

use serde_json::Value;

use crate::run::{failure, ferrowarp, output, stdout};

/// What is tested here is softcuda's part, wherever the tests run.
const TINY: [&str; 11] =
    ["bench", "--device", "soft", "--shape", "tiny-qwen2", "--type", "f16,q4_k_m", "-p", "8", "-n", "3"];

#[test]
fn softcuda_counts_what_a_token_costs() {
    let lines = stdout(&[&TINY[..], &["-d", "0,5", "-o", "jsonl"]].concat());
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<String> =
        rows.iter().map(|row| format!("{} {}", row["model"], row["test"]).replace('"', "")).collect();
    let tests = ["pp8", "tg3", "pp8 @ d5", "tg3 @ d5"];
    let want: Vec<String> =
        ["f16", "q4_k_m"].iter().flat_map(|t| tests.map(|test| format!("tiny-qwen2 {t} {test}"))).collect();
    assert_eq!(names, want);
    for row in &rows {
        assert_eq!(row["backend"], "soft");
        assert!(row.get("tokens_per_s").is_none(), "a time: {row}");
        assert!(row["launches_per_token"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["warp_instructions_per_token"].as_u64().unwrap() > 1000, "{row}");
        if row["n_gen"] == 3 {
            // Every byte is read; how much more is `tests/budgets.rs`'s.
            assert!(row["streamed_over_floor"].as_f64().unwrap() > 0.99, "{row}");
        }
    }
    // The same every time.
    assert_eq!(stdout(&[&TINY[..], &["-d", "0,5", "-o", "jsonl"]].concat()), lines);
}

#[test]
fn every_format_has_the_same_rows() {
    let run = |format: &str| stdout(&[&TINY[..], &["-o", format]].concat());
    let array: Value = serde_json::from_str(&run("json")).unwrap();
    assert_eq!(array.as_array().unwrap().len(), 4);
    let csv = run("csv");
    assert_eq!(csv.lines().count(), 5);
    assert!(csv.starts_with("kind,model,size,"), "{csv}");
    let md = run("md");
    assert!(md.lines().next().unwrap().ends_with("a time here says nothing about a GPU"), "{md}");
    assert_eq!(md.lines().filter(|line| line.starts_with("| tiny-qwen2 ")).count(), 4, "{md}");
}

#[test]
fn guesses_are_counted() {
    let tiny = ["bench", "--device", "soft", "--shape", "tiny-qwen2", "--type", "q4_k_m", "-p", "3", "-n", "12"];
    let run = |percent: &str| {
        let line = stdout(&[&tiny[..], &["--guesses-right", percent, "-o", "jsonl"]].concat());
        let row: Value = serde_json::from_str(&line).unwrap();
        ["n_steps", "n_guessed", "n_kept"].map(|name| row[name].as_u64().unwrap())
    };
    let ([all, guessed, kept], [none, _, wrong]) = (run("100"), run("0"));
    assert!(guessed > 0 && kept == guessed && all + kept == 12, "{all} steps, {kept} of {guessed} kept");
    assert_eq!((none, wrong), (12, 0));
}

#[test]
fn kernels_are_counted_by_name() {
    let (out, _) = output(&["bench", "--device", "soft", "--kernels", "rmsnorm 0.5B", "-o", "jsonl"], "");
    let row: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(row["kernel"], "rmsnorm");
    // One token of 896 values is read, and read again with the weights, and written.
    assert_eq!(row["global_bytes"], 4 * 4 * 896);
    let error = failure(&["bench", "--kernels", "no such kernel"], "");
    assert!(error.contains("--kernels without it shows all"), "{error}");
}

#[test]
fn kernels_are_profiled_by_source_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let file = folder.path().join(name);
        let arguments = ["bench", "--device", "soft", "--kernels", "rmsnorm 0.5B", "--profile", file.to_str().unwrap()];
        // What an assembler would add is tested with its text; here none is asked for.
        let output = ferrowarp(&arguments).env("FERROWARP_PTXAS", "off").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(file).unwrap()
    };
    let json: Value = serde_json::from_str(&run("profile.json")).unwrap();
    let kernels = json["kernels"].as_array().unwrap();
    let kernel = kernels.iter().find(|kernel| kernel["name"] == "rmsnorm").expect("the kernel that was asked for");
    let lines = kernel["lines"].as_array().unwrap();
    let of_kernel =
        |line: &&Value| line["file"] == "kernels/rmsnorm.rs" && line["numbers"]["load_bytes"].as_u64() > Some(0);
    assert!(lines.iter().any(|line| of_kernel(&line)), "{kernel:#}");
    let page = run("profile.html");
    assert!(page.contains("kernels/rmsnorm.rs") && page.contains("Roofline of H200"), "{page}");
    let error = failure(&["bench", "--device", "soft", "--kernels", "rmsnorm 0.5B", "--profile", "/absent/p.html"], "");
    assert!(error.contains("/absent/p.html"), "{error}");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let error = failure(&["bench", "--shape", "tiny-qwen2"], "");
    assert!(error.contains("--type"), "{error}");
    let error = failure(&["bench", "--shape", "tiny-qwen2", "--type", "f16", "-p", "0", "-n", "0"], "");
    assert!(error.contains("nothing to measure"), "{error}");
    let error = failure(&["bench", "--shape", "tiny-qwen2", "--type", "f16", "-n", "0", "-p", "8", "-d", "4096"], "");
    assert!(error.contains("4104") && error.contains("512"), "{error}");
}
