//! Doing what a text says: commands are executed, files written, outputs compared.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::blocks::{Block, Kind};

/// A folder outside of the checkout, with nothing in it but a clean copy of that, and who works there.
pub struct Desk {
    folder: PathBuf,
    target: PathBuf,
    current: PathBuf,
}

/// What a checkout has at its top that git does not.
const NOT_COPIED: [&str; 3] = ["target", ".git", "shared"];

impl Desk {
    /// A desk with a copy of the checkout as `ferrowarp`. It has the same name on each run, and what is built is kept in the
    /// checkout's own target folder, so that a second run builds what has changed.
    pub fn new(checkout: &Path, name: &str) -> Desk {
        let folder = std::env::temp_dir().join(format!("ferrowarp-{name}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).unwrap();
        }
        fs::create_dir_all(folder.join("ferrowarp")).unwrap();
        for entry in fs::read_dir(checkout).unwrap().map(|entry| entry.unwrap()) {
            if !NOT_COPIED.iter().any(|skipped| entry.file_name() == *skipped) {
                copy(&entry.path(), &folder.join("ferrowarp").join(entry.file_name()));
            }
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from);
        let target = target.join(name);
        fs::create_dir_all(&target).unwrap();
        Desk { current: folder.clone(), target: target.canonicalize().unwrap(), folder }
    }

    /// Where cargo builds.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Goes back to the folder in which the desk is.
    pub fn leave(&mut self) {
        self.current = self.folder.clone();
    }

    /// Goes to a folder from the one in which the desk is.
    pub fn enter(&mut self, folder: &str) {
        self.current = self.folder.join(folder);
    }

    /// Brings what is built in a checkout: the libraries, not the programs. Cargo finds it fresh where the sources are.
    pub fn seed(&self, checkout: &Path) {
        let built = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout.join("target"), PathBuf::from);
        for folder in ["debug/.fingerprint", "debug/build", "debug/deps", "device"] {
            if built.join(folder).exists() && !self.target.join(folder).exists() {
                copy(&built.join(folder), &self.target.join(folder));
            }
        }
        copy(&built.join("CACHEDIR.TAG"), &self.target.join("CACHEDIR.TAG"));
    }

    /// Does what a block says. `file` names the text in what is said when it cannot be done.
    pub fn follow(&mut self, file: &str, block: &Block) {
        let path = |name: &str| self.current.join(name);
        match &block.kind {
            Kind::File(name) => {
                fs::create_dir_all(path(name).parent().unwrap()).unwrap();
                fs::write(path(name), &block.text).unwrap();
            }
            Kind::Append(name) => {
                let text = fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{file}: {name}: {error}"));
                fs::write(path(name), text + &block.text).unwrap();
            }
            Kind::Console { fails } => {
                let commands = commands(&block.text);
                for (index, (command, expected)) in commands.iter().enumerate() {
                    let place = format!("{file}:{}: `{command}`", block.line);
                    let (succeeded, output) = self.run(command);
                    let should_fail = *fails && index + 1 == commands.len();
                    assert!(
                        succeeded != should_fail,
                        "{place} {}:\n{output}",
                        if succeeded { "succeeds" } else { "fails" }
                    );
                    if let Some(missing) = missing(expected, &output) {
                        panic!("{place} does not print {missing:?} where the text has it, but:\n{output}");
                    }
                }
            }
            Kind::Other => {}
        }
    }

    /// Runs a command as a shell would, and remembers where it went. What it printed on either channel.
    fn run(&mut self, command: &str) -> (bool, String) {
        let place = self.folder.join(".place");
        let bin = self.folder.join("installed/bin");
        let path = std::env::var("PATH").unwrap_or_default();
        let script = format!("exec 2>&1\n{command}\nstatus=$?\npwd >'{}'\nexit $status\n", place.display());
        let mut shell = Command::new("sh");
        shell.args(["-c", &script]).current_dir(&self.current);
        // A reader has none of these, and cargo sets some for the tests that it runs.
        let own = |name: &str| name.starts_with("FERROWARP_") || name.starts_with("CARGO_") || name == "WARP_IMAGE";
        for (name, _) in std::env::vars().filter(|(name, _)| own(name) && name != "CARGO_HOME") {
            shell.env_remove(name);
        }
        shell.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INSTALL_ROOT", self.folder.join("installed"));
        shell.env("PATH", format!("{}:{path}", bin.display())).env("CARGO_TERM_COLOR", "never");
        let output = shell.output().unwrap();
        if let Ok(place) = fs::read_to_string(place) {
            self.current = place.trim_end().into();
        }
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The commands of a console's text, each with the lines behind it.
fn commands(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut commands: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((command, expected))) if command.ends_with('\\') && expected.is_empty() => {
                *command = format!("{command}\n{line}");
            }
            (None, Some((_, expected))) => expected.push(line),
            (None, None) => panic!("output before the first command: {line:?}"),
        }
    }
    commands
}

/// The first expected line that is not in the output behind those before it. `…` stands for anything.
fn missing<'a>(expected: &[&'a str], output: &str) -> Option<&'a str> {
    let mut lines = output.lines();
    expected
        .iter()
        .copied()
        .find(|wanted| *wanted != "…" && !lines.any(|line| matches(wanted.trim_end(), line.trim_end())))
}

fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

/// Copies a file, or a folder with what is in it, with the times of their last change, by which cargo knows what it has built. Nothing
/// where there is neither.
fn copy(from: &Path, to: &Path) {
    // What tests build for themselves inside of the checkout is not the checkout's, and the programs that tests are take the most room.
    let is_built = from.file_name().is_some_and(|name| name == "target");
    let is_program = from.parent().is_some_and(|folder| folder.ends_with("debug/deps")) && from.extension().is_none();
    if from.is_symlink() || is_built || is_program {
        return;
    }
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else if from.exists() {
        fs::copy(from, to).unwrap();
        let changed = fs::metadata(from).unwrap().modified().unwrap();
        File::options().write(true).open(to).unwrap().set_modified(changed).unwrap();
    }
}

#[test]
fn a_copy_has_everything_but_what_was_built() {
    let folder = std::env::temp_dir().join(format!("ferrowarp-copy-{}", std::process::id()));
    for name in ["a/src/shared/x.rs", "a/src/target/y", "a/src/z.rs"] {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::write(folder.join(name), name).unwrap();
    }
    copy(&folder.join("a"), &folder.join("b"));
    copy(&folder.join("nothing"), &folder.join("c"));
    let there: Vec<bool> =
        ["b/src/shared/x.rs", "b/src/target", "b/src/z.rs", "c"].map(|name| folder.join(name).exists()).into();
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(there, [true, false, true, false]);
}

#[test]
fn outputs_are_compared_line_by_line_with_room_for_what_varies() {
    let output = "Compiling a v0.1\nrunning 2 tests\ntest a ... ok\ntest b ... ok\n";
    assert_eq!(missing(&["…", "test a ... ok", "…", "test b ... ok"], output), None);
    assert_eq!(missing(&["test b ... ok", "test a ... ok"], output), Some("test a ... ok"));
    assert_eq!(missing(&["running … tests", "test …k"], output), None);
    assert_eq!(missing(&["running … test"], output), Some("running … test"));
    assert_eq!(missing(&["…2…", "… ok"], output), None);
}

#[test]
fn commands_are_told_from_what_they_print() {
    let text = "$ a \\\n  b\nc\n$ d\n";
    assert_eq!(commands(text), [("a \\\n  b".to_owned(), vec!["c"]), ("d".to_owned(), vec![])]);
}
