//! The guide in `docs/` and the README's steps, followed to the letter.
//!
//! `book_*` read the text: every chapter is in the summary, every link and every path leads somewhere, every block of code is one
//! that is run. The ignored tests, which `./x test-guide` runs, follow it: from a clean checkout in an otherwise empty folder
//! outside of this one, commands are executed, files written, and outputs compared.

mod blocks;
mod follow;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use blocks::{Block, Kind, blocks};

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The book's pages by file name, the summary not among them.
fn pages() -> Vec<(String, String)> {
    let folder = root().join("docs/src");
    let mut pages: Vec<(String, String)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md") && !path.ends_with("SUMMARY.md"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    pages.sort();
    pages
}

/// What stands in round brackets behind square ones: the targets of links.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

/// Text without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

#[test]
fn book_chapters_are_all_in_the_summary() {
    let summary = fs::read_to_string(root().join("docs/src/SUMMARY.md")).unwrap();
    let listed: Vec<&str> = links(&summary).collect();
    let files: BTreeSet<String> = pages().into_iter().map(|(file, _)| file).collect();
    assert_eq!(listed.iter().map(|file| file.to_string()).collect::<BTreeSet<_>>(), files);
    assert_eq!(listed.len(), files.len(), "a chapter is listed twice");
}

#[test]
fn book_links_and_paths_lead_somewhere() {
    let root = root();
    let source = root.join("docs/src");
    for (file, text) in pages() {
        let text = prose(&text);
        for link in links(&text) {
            let known = link.starts_with("https://") || source.join(link).exists();
            assert!(known, "docs/src/{file}: the link {link:?} leads nowhere");
        }
        // `kernels/rmsnorm.rs`: a file of the repository. Those of a reader's own project are src/ and tests/NAME.rs.
        for code in text.split('`').skip(1).step_by(2) {
            let own = ["kernels/", "host/", "crates/", "benches/", "tests/kernels"];
            if own.iter().any(|folder| code.starts_with(folder)) {
                assert!(root.join(code).exists(), "docs/src/{file}: there is no `{code}` in the repository");
            }
        }
    }
}

#[test]
fn book_blocks_are_all_compiled_or_run() {
    for (file, text) in pages() {
        for Block { line, info, kind, .. } in blocks(&text) {
            assert!(
                kind != Kind::Other,
                "docs/src/{file}:{line}: a block of ```{info} is neither compiled nor run: expected ```console, \
                 ```console,fails, ```LANGUAGE,file=PATH or ```LANGUAGE,append=PATH"
            );
        }
    }
}

#[test]
#[ignore = "builds crates for minutes: ./x test-guide"]
fn guide_is_followed_from_a_clean_checkout() {
    let mut desk = follow::Desk::new(&root(), "guide");
    let all = pages();
    let summary = fs::read_to_string(root().join("docs/src/SUMMARY.md")).unwrap();
    for file in links(&summary) {
        let (_, text) = all.iter().find(|(name, _)| name == file).unwrap();
        desk.leave();
        for block in blocks(text) {
            desk.follow(&format!("docs/src/{file}"), &block);
        }
    }
    // A build of kernels that builds itself would have left one in another.
    let nested = desk.target().join("device/sm_80/device");
    assert!(!nested.exists(), "{} is there", nested.display());
}

/// The README's steps for a kernel of the engine's, in a copy of the repository, where what is built already need not be built
/// again.
#[test]
#[ignore = "builds the program once more: ./x test-guide"]
fn readme_steps_make_a_kernel_and_its_test() {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, section) = text.split_once("## Writing a kernel").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut desk = follow::Desk::new(&root(), "readme");
    desk.seed(&root());
    desk.enter("ferrowarp");
    let steps: Vec<Block> = blocks(section);
    // The first block is how the guide begins, which follows it.
    assert!(steps[0].text.starts_with("$ cargo install --path crates/cargo-warp"), "{}", steps[0].text);
    assert!(steps.iter().all(|block| block.kind != Kind::Other), "a block of the section is no step");
    for block in &steps[1..] {
        desk.follow("README.md", block);
    }
}
