//! Where the fixtures of the text tests lie.

use std::path::{Path, PathBuf};

/// The folders to look in: `FERROWARP_FIXTURES`, or `tests/fixtures`; and `../shared/fixtures` where it lies beside the checkout.
pub fn roots() -> Vec<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = std::env::var_os("FERROWARP_FIXTURES").map_or_else(|| checkout.join("tests/fixtures"), PathBuf::from);
    let shared = checkout.join("../shared/fixtures");
    let mut roots = vec![own];
    if shared.is_dir() {
        roots.push(shared);
    }
    roots
}

/// A file that only this project has, in its own `tests/fixtures`.
pub fn own(path: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    folder.join(path)
}

/// Every file below `folder` in any root whose name ends in `suffix`. At least one, or the test fails.
pub fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for root in roots() {
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else {
            continue;
        };
        found
            .extend(entries.map(|entry| entry.unwrap().path()).filter(|path| path.to_string_lossy().ends_with(suffix)));
    }
    found.sort();
    assert!(!found.is_empty(), "no {folder}/*{suffix} in {:?}", roots());
    found
}

/// The JSON value in a file.
pub fn json(path: &Path) -> serde_json::Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}
