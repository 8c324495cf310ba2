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

/// A file, unpacked once where it is kept packed: vocabularies are mostly words, and the fixtures have little room.
pub fn unpacked(path: &Path) -> PathBuf {
    let packed = path.to_string_lossy().into_owned();
    let Some(name) = packed.strip_suffix(".zst") else { return path.to_owned() };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("unpacked");
    let target = folder.join(Path::new(name).file_name().expect("a file has a name"));
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let bytes = zstd::decode_all(&*bytes).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    if std::fs::metadata(&target).is_ok_and(|found| found.len() == bytes.len() as u64) {
        return target;
    }
    // Tests run beside each other: each writes a file of its own, and the last name stays.
    std::fs::create_dir_all(&folder).unwrap();
    let own = folder.join(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&own, bytes).unwrap();
    std::fs::rename(&own, &target).unwrap();
    target
}

/// The file of that name in the folder of another, unpacked where it is kept packed.
#[allow(dead_code, reason = "not every test binary has such pairs")]
pub fn beside(path: &Path, name: &str) -> PathBuf {
    let packed = path.with_file_name(format!("{name}.zst"));
    if packed.exists() { unpacked(&packed) } else { path.with_file_name(name) }
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
        let paths = entries.map(|entry| entry.unwrap().path());
        let named = paths.filter(|path| path.to_string_lossy().trim_end_matches(".zst").ends_with(suffix));
        found.extend(named.map(|path| unpacked(&path)));
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
