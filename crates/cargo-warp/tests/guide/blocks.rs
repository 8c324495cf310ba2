//! The fenced blocks of a Markdown text.

/// What a block is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Commands and their output; the last command fails where the flag is set.
    Console { fails: bool },
    /// A file's text.
    File(String),
    /// What is put at a file's end.
    Append(String),
    /// Nothing that can be checked.
    Other,
}

/// A block of code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Of its opening fence, counted from 1.
    pub line: usize,
    /// What stands behind the opening fence.
    pub info: String,
    pub kind: Kind,
    pub text: String,
}

impl Kind {
    fn of(info: &str) -> Kind {
        let (language, rest) = info.split_once(',').unwrap_or((info, ""));
        match (language, rest.split_once('=')) {
            ("console", None) if rest.is_empty() || rest == "fails" => Kind::Console { fails: rest == "fails" },
            (_, Some(("file", path))) => Kind::File(path.to_owned()),
            (_, Some(("append", path))) => Kind::Append(path.to_owned()),
            _ => Kind::Other,
        }
    }
}

/// All of a text's blocks in order.
pub fn blocks(markdown: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in markdown.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                let kind = Kind::of(info);
                open = Some(Block { line: index + 1, info: info.to_owned(), kind, text: String::new() });
            }
            (Some(block), None) => {
                block.text += line;
                block.text += "\n";
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

#[test]
fn blocks_are_read_with_what_they_are_for() {
    let text = "# a\n```console,fails\n$ b\n```\nc\n```rust,file=src/lib.rs\nd\n```\n```text\n```\n";
    let found: Vec<(usize, Kind, String)> = blocks(text).into_iter().map(|b| (b.line, b.kind, b.text)).collect();
    let expected = [
        (2, Kind::Console { fails: true }, "$ b\n".to_owned()),
        (6, Kind::File("src/lib.rs".into()), "d\n".into()),
        (9, Kind::Other, String::new()),
    ];
    assert_eq!(found, expected);
}
