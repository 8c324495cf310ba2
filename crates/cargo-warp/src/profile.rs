//! `cargo warp profile`: what a kernel does and costs, by source line. It runs the tests that launch the kernel, on softcuda
//! with its counts on, and shows what they counted.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use warp_profile::{Assembler, Report, card, page, table};

/// The arguments of `profile`.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    cargo warp profile scale_multiplies            a test\n  \
    cargo warp profile scale --html scale.html     a kernel, whichever tests launch it\n  \
    cargo warp profile matmul --card rtx4090 --json - | jq .kernels[0].lines[0]\n\n\
    Counts are exact and need no GPU. Where there is one, times are measured as well (FERROWARP_DEVICE=cuda).")]
pub struct Arguments {
    /// A test, or a part of the names of several; or a kernel, whichever tests launch it.
    #[arg(value_name = "TEST_OR_KERNEL", required_unless_present = "from")]
    name: Option<String>,
    /// The GPU that counts are compared with: a100, rtx3090, rtx4090, l4, l40s, h100 or h200.
    #[arg(long, default_value = "h200")]
    card: String,
    /// Write one HTML page with the source beside its heat.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write everything as JSON; `-` for standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Do not ask NVIDIA's ptxas for registers and spills; otherwise it is fetched from PyPI where there is none.
    #[arg(long)]
    no_ptxas: bool,
    /// Show what was counted before (SOFTCUDA_PROFILE=FOLDER) in place of running tests.
    #[arg(long, value_name = "FOLDER", conflicts_with = "name")]
    from: Option<PathBuf>,
    /// What else `cargo test` takes, such as `--package kernels` or `--release`.
    #[arg(last = true, value_name = "CARGO_ARGUMENT")]
    cargo: Vec<String>,
}

/// Where cargo builds, and the folder of the workspace.
struct Places {
    target: PathBuf,
    workspace: PathBuf,
}

impl Places {
    fn find() -> Result<Places> {
        let output =
            cargo().args(["metadata", "--format-version", "1", "--no-deps"]).output().context("cargo metadata")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        let folder = |name: &str| {
            metadata[name].as_str().map(PathBuf::from).with_context(|| format!("cargo metadata names no {name}"))
        };
        Ok(Places { target: folder("target_directory")?, workspace: folder("workspace_root")? })
    }
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let card = card(&arguments.card)?;
    let places = match &arguments.from {
        // A folder can be looked at from anywhere.
        Some(_) => Places::find().unwrap_or(Places { target: "target".into(), workspace: ".".into() }),
        None => Places::find()?,
    };
    let roots = [places.workspace.clone(), PathBuf::from(".")];
    let read = |folder: &Path| Report::read(folder, card.clone(), &roots);
    let (mut report, failed) = match (&arguments.from, &arguments.name) {
        (Some(folder), _) => (read(folder)?, false),
        (None, Some(name)) => {
            let folder = places.target.join("warp-profile");
            let mut ran = count(&folder, Some(name), &arguments.cargo)?;
            let mut report = read(&folder)?;
            if report.kernels.is_empty() {
                // No test of that name launched anything: then it is a kernel's.
                ran = count(&folder, None, &arguments.cargo)?;
                report = read(&folder)?;
                let launched: Vec<String> = report.kernels.iter().map(|kernel| kernel.name.clone()).collect();
                report.retain(|kernel| kernel.contains(name.as_str()));
                if report.kernels.is_empty() {
                    bail!(
                        "{name}: neither a test that launches a kernel nor a kernel that a test launches; the tests launched {}",
                        if launched.is_empty() { "none".to_owned() } else { launched.join(", ") }
                    );
                }
            } else if report.kernels.iter().any(|kernel| kernel.name == *name) {
                report.retain(|kernel| kernel == name);
            }
            (report, !ran)
        }
        (None, None) => bail!("a test or a kernel is needed"),
    };
    let assembler = match arguments.no_ptxas {
        true => None,
        false => match Assembler::find(&places.target) {
            Ok(assembler) => Some(assembler),
            Err(error) => {
                note(&format!("{error}; registers stay unknown"));
                None
            }
        },
    };
    report.assemble(assembler.as_ref());
    show(arguments, &report)?;
    if failed {
        bail!("tests failed (above); what they launched until then is in the profile");
    }
    Ok(())
}

/// Runs tests with softcuda counting into the folder; says whether they passed.
fn count(folder: &Path, filter: Option<&str>, more: &[String]) -> Result<bool> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let folder = fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
    let mut command = cargo();
    command.args(["test", "--quiet", "--tests"]).args(more).args(filter).env("SOFTCUDA_PROFILE", &folder);
    // The table is what standard output is for.
    let output = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::inherit()).output();
    let output = output.context("cargo test")?;
    if !output.status.success() {
        note(String::from_utf8_lossy(&output.stdout).trim());
    }
    Ok(output.status.success())
}

fn show(arguments: &Arguments, report: &Report) -> Result<()> {
    let title = arguments.name.as_deref().map_or("Profile".to_owned(), |name| format!("Profile: {name}"));
    if let Some(path) = &arguments.html {
        fs::write(path, page(report, &title)).with_context(|| path.display().to_string())?;
        note(&format!("{}: the source beside its heat", path.display()));
    }
    let json = || serde_json::to_string_pretty(report).context("the profile as JSON");
    let text = match &arguments.json {
        Some(path) if path.as_os_str() == "-" => json()? + "\n",
        Some(path) => {
            fs::write(path, json()? + "\n").with_context(|| path.display().to_string())?;
            table(report)
        }
        None => table(report),
    };
    std::io::stdout().write_all(text.as_bytes()).context("standard output")
}

fn note(text: &str) {
    // Where nobody reads it, nobody misses it.
    let _ = writeln!(std::io::stderr(), "{text}");
}
