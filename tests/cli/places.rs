//! Where results go and files lie: readers that leave, full disks, links, modes, pipes.

#![cfg(unix)]

use std::{
    fs::{self, File, Permissions},
    io::{BufRead, BufReader, Read},
    os::unix::fs::{PermissionsExt, symlink},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::run::{Folder, HAIKU, failure, fixture, json, output, program};

/// A command line for everything that prints, with what it needs.
fn printers(folder: &Folder) -> Vec<Vec<String>> {
    let trace = folder.path("trace.safetensors");
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let text = folder.file("text.txt", "The rain falls on tin and the wind drums beneath the stars. ".repeat(4));
    output(&["trace", "-m", &model, "--prompt-ids", "5,6", "-o", &trace], "");
    let lines: [&[&str]; 17] = [
        &["--help"],
        &["generate", "--help"],
        &["--version"],
        &["generate", "--temp", "0", "-n", "3", "-p", HAIKU],
        &["generate", "--temp", "0", "-n", "3", "-p", HAIKU, "--format", "json", "--logprobs", "1"],
        &["generate", "--temp", "0", "-n", "3", "-p", HAIKU, "-v", "--logprobs", "1"],
        &["chat", "--temp", "0", "-n", "3"],
        &["tokenize", "-p", "a"],
        &["template", "-p", "a"],
        &["perplexity", "-m", &model, "-f", &text, "-c", "16"],
        &["diff", &trace, &trace],
        &["verify", "-m", &model, "--prompt-ids", "5,6", "--cache-type", "f32"],
        &["inspect"],
        &["inspect", "--format", "json"],
        &["devices"],
        &["completions", "zsh"],
        &["man"],
    ];
    let mut lines: Vec<Vec<String>> = lines.iter().map(|line| line.iter().map(ToString::to_string).collect()).collect();
    let synth = ["synth", "--shape", "tiny-qwen2", "--type", "f16", "--force", "-o", &folder.path("s.gguf")];
    lines.push(synth.map(str::to_owned).to_vec());
    let bench = ["bench", "--device", "soft", "--shape", "tiny-qwen2", "--type", "f16", "-p", "4", "-n", "1"];
    lines.push(bench.map(str::to_owned).to_vec());
    lines
}

fn command(line: &[String]) -> Command {
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    program(&line)
}

/// Standard input with a turn for `chat`.
fn turn(folder: &Folder) -> File {
    File::open(folder.file("turn.txt", "/hello\n")).unwrap()
}

#[test]
fn a_reader_that_leaves_is_no_error_and_a_full_disk_is_one() {
    let folder = Folder::new();
    for line in printers(&folder) {
        // Nobody reads from the start on.
        let mut child =
            command(&line).stdin(turn(&folder)).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{line:?}: {error}");
        assert!(!error.contains("panic") && !error.contains("error"), "{line:?}: {error}");

        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = command(&line).stdin(turn(&folder)).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line:?}: {error}");
        let last = error.lines().last().unwrap_or_default();
        assert!(last.starts_with("error: standard output: cannot write"), "{line:?}: {error}");
        assert!(!error.contains("panic"), "{line:?}: {error}");
    }
}

#[test]
fn a_reader_that_reads_one_line_is_no_error() {
    let mut child = program(&["inspect"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty() && !first.is_empty(), "{output:?}");
}

#[test]
fn standard_error_that_nobody_reads_changes_nothing() {
    let folder = Folder::new();
    let text = folder.file("text.txt", "The rain falls on tin and the wind drums beneath the stars. ".repeat(4));
    let missing = folder.path("missing.gguf");
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let lines: [&[&str]; 7] = [
        &["generate", "--temp", "0", "-n", "2", "-p", HAIKU, "-v", "--logprobs", "1"],
        &["chat", "--temp", "0", "-n", "2"],
        &["perplexity", "-m", &model, "-f", &text, "-c", "16"],
        &["generate", "-m", &missing, "-p", "a"],
        &["nonsense"],
        &["devices"],
        &[],
    ];
    for line in lines {
        let run = |stderr: Stdio| program(line).stdin(turn(&folder)).stderr(stderr).output().unwrap();
        let heard = run(Stdio::piped());
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for unheard in [run(writer.into()), run(full.into())] {
            assert_eq!(unheard.status.code(), heard.status.code(), "{line:?}: {:?}", unheard.status);
            assert_eq!(unheard.stdout, heard.stdout, "{line:?}");
        }
        // Closed before the start.
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(env!("CARGO_BIN_EXE_ferrowarp")).args(line);
        shell.env("FERROWARP_DEVICE", "soft").stdin(turn(&folder));
        assert_eq!(shell.output().unwrap().status.code(), heard.status.code(), "{line:?}");
    }
}

#[test]
fn what_is_written_again_keeps_its_mode_and_links_stay() {
    let folder = Folder::new();
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let model = fixture("models/qwen2-tiny-f32.gguf");
    let (target, link, saved) = (folder.path("target"), folder.path("link"), folder.path("saved.json"));
    // An empty file is a fresh cache.
    fs::write(&target, "").unwrap();
    fs::set_permissions(&target, Permissions::from_mode(0o640)).unwrap();
    symlink("target", &link).unwrap();
    let arguments = ["generate", "-m", &model, "--prompt-ids", "5,6,7", "-n", "1", "--prompt-cache", &link];
    let reused = || json(&arguments)["timings"]["prompt_reused_n"].as_u64().unwrap();
    assert_eq!([reused(), reused()], [0, 2]);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(mode(&target), 0o640);

    fs::write(&saved, "[]").unwrap();
    fs::set_permissions(&saved, Permissions::from_mode(0o600)).unwrap();
    output(&["chat", "-n", "1"], &format!("/system Hi.\n/save {saved}\n"));
    assert_eq!(mode(&saved), 0o600);
    assert!(fs::read_to_string(&saved).unwrap().contains("Hi."));

    // A trace as well, and a device is never replaced.
    fs::write(folder.path("trace"), "").unwrap();
    fs::set_permissions(folder.path("trace"), Permissions::from_mode(0o600)).unwrap();
    for path in [folder.path("trace"), "/dev/null".to_owned()] {
        output(&["trace", "-m", &model, "--prompt-ids", "5", "-o", &path], "");
    }
    assert_eq!(mode(&folder.path("trace")), 0o600);
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn folders_and_pipes_are_no_models_and_no_caches() {
    let folder = Folder::new();
    let pipe = folder.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let split = folder.path("part-00001-of-00002.gguf");
    assert!(Command::new("mkfifo").arg(&split).status().unwrap().success());
    let inside = folder.path("");
    let start = Instant::now();
    for path in [&pipe, &split, &inside] {
        for line in [
            &["generate", "-p", "a", "-m", path][..],
            &["inspect", path],
            &["inspect", "-m", path],
            &["tokenize", "-p", "a", "-m", path],
            &["chat", "-m", path],
            &["bench", "-m", path],
            &["generate", "-n", "1", "-p", "a", "--prompt-cache", path],
        ] {
            let error = failure(line, "");
            assert!(error.contains(path.trim_end_matches('/')) && error.contains("not a regular file"), "{error}");
        }
    }
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    // A prompt may come from a pipe.
    let writer = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, "hello\n").unwrap()
    });
    let mut text = String::new();
    let mut child = program(&["template", "-f", &pipe, "--chat-template", "{{ messages[0].content }}|"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(text, "hello|\n");
}
