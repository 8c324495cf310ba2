//! Running the program.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;

#[allow(dead_code, reason = "only files that are kept packed are of interest here")]
#[path = "../text_fixtures/mod.rs"]
mod text_fixtures;

/// A prompt that the embedded model knows how to answer.
pub const HAIKU: &str = "Write a haiku about rain that includes the word \"tin\"";

/// The file of the embedded model.
pub const EMBEDDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/haiku/haiku.gguf");

/// The program, untouched by variables meant for the tests; on softcuda unless the environment names a device.
pub fn program(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ferrowarp"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("FERROWARP_") && !["FERROWARP_DEVICE", "FERROWARP_CUBLAS"].contains(&name.as_str()) {
            command.env_remove(name);
        }
    }
    if std::env::var_os("FERROWARP_DEVICE").is_none() {
        command.env("FERROWARP_DEVICE", "soft");
    }
    command.args(arguments);
    command
}

/// [`program`], to be run once.
pub fn ferrowarp(arguments: &[&str]) -> Command {
    Command::from_std(program(arguments))
}

/// Standard output and error of a run that must go well.
pub fn output(arguments: &[&str], stdin: &str) -> (String, String) {
    let output = ferrowarp(arguments).write_stdin(stdin).output().unwrap();
    let (out, error) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{arguments:?}: {:?}: {error}", output.status);
    (out, error)
}

/// Standard output of a run that must go well.
pub fn stdout(arguments: &[&str]) -> String {
    output(arguments, "").0
}

/// The object that a run with `--format json` prints.
pub fn json(arguments: &[&str]) -> Value {
    let out = stdout(&[arguments, &["--format", "json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"))
}

/// The line that a run must fail with: exit code 1, nothing on standard output, one line on standard error.
pub fn failure(arguments: &[&str], stdin: &str) -> String {
    let output = ferrowarp(arguments).write_stdin(stdin).output().unwrap();
    let (out, error) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {out} {error}");
    assert_eq!(out, "", "{arguments:?}");
    assert!(error.starts_with("error: ") && error.lines().count() == 1, "{arguments:?}: {error}");
    error
}

/// Token ids in a JSON array.
pub fn ids(value: &Value) -> Vec<u32> {
    let values = value.as_array().unwrap_or_else(|| panic!("{value}"));
    values.iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// Ids as `--prompt-ids` takes them.
pub fn list(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    ids.join(",")
}

/// A file of the project's fixtures.
pub fn fixture(path: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let packed = folder.join(format!("{path}.zst"));
    let path = if packed.exists() { text_fixtures::unpacked(&packed) } else { folder.join(path) };
    assert!(path.exists(), "{}", path.display());
    path.to_str().unwrap().to_owned()
}

/// A folder of one test's own.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }

    /// A file in it.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Every file in it.
    pub fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the program prints UTF-8")
}
