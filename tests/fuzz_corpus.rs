//! The inputs that fuzzing found interesting, run as an ordinary test.

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "../fuzz/mutated.rs"]
mod mutated;
mod support;
use support::tiny;

use std::{fs::File, io::Read, path::Path};

/// Checks every input in the archive of a target's corpus.
#[allow(clippy::print_stdout)] // a test says what it measured
fn run(corpus: &str, least: usize, check: impl Fn(&[u8])) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(corpus).with_extension("tar");
    let mut archive = tar::Archive::new(File::open(&path).unwrap());
    let mut n = 0;
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        println!("{}: {}", path.display(), entry.path().unwrap().display());
        let mut input = Vec::new();
        entry.read_to_end(&mut input).unwrap();
        check(&input);
        n += 1;
    }
    assert!(n >= least, "{n} inputs in {}", path.display());
}

#[test]
fn bytes() {
    run("gguf_bytes", 100, checks::bytes);
}

#[test]
fn mutated_models() {
    run("gguf_mutated", 100, |input| checks::bytes(&mutated::model(input)));
}

/// Every change of every field with numbers at the edges: what the fuzzer starts from, in a grid.
#[test]
fn mutated_models_at_the_edges() {
    const NUMBERS: [u64; 8] = [0, 1, 3, 255, 0x7FC0_0000, 0xFFFF_FFFF, 1 << 63, u64::MAX];
    for model in 0..5 {
        for change in 0..16 {
            for field in 0..40 {
                for number in NUMBERS {
                    let text: &[u8] = if field % 2 == 0 { b"\x06" } else { b"expert_count" };
                    let head = [model, change, field];
                    let input = [head.as_slice(), &number.to_le_bytes(), text].concat();
                    checks::bytes(&mutated::model(&input));
                }
            }
        }
    }
}
