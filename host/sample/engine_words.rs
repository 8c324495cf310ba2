//! What the constraint engine says, in words for whoever wrote the schema or grammar.
//!
//! Most of its messages are about the text and good as they are. Those about its own limits and its inside are put anew.

/// The engine's words for its own limits and states, each with ours. The first that occurs in a message counts.
const MEANINGS: &[(&str, &str)] = &[
    ("NoExtensionBias", "no text can go on from here: the rules lead nowhere, or no token of the vocabulary fits"),
    ("NoExtension", "no text can go on from here"),
    (
        "symbols.len() < u16::MAX",
        "it is too large: it comes to more than 65000 symbols; use fewer rules and alternatives",
    ),
    (
        "Current row has",
        "it can be read in too many ways at once; use fewer alternatives, and rules that call themselves at their beginning rather than their end",
    ),
    ("Too many items", "it can be read in too many ways at once; use fewer alternatives, and longer terminals"),
    ("max items exceeded", "it can be read in too many ways at once; use fewer alternatives, and longer terminals"),
    ("grammar size (number of symbols) too big", "it is too large: use fewer rules and alternatives"),
    (
        "initial lexer configuration (grammar) too big",
        "its texts and regular expressions are too large together; use fewer or shorter ones",
    ),
    ("lexer precomputation failed", "its regular expressions are too large; use shorter ones"),
    ("too many expressions constructed", "its regular expressions are too large; use shorter ones"),
    ("too many states", "its regular expressions are too large; use shorter ones"),
    ("fuel exhausted", "its regular expressions are too large; use shorter ones"),
    ("class too large", "it has too many kinds of terminals; use fewer"),
    ("Schema intersection stack level exceeded", "its allOf and references lead too deep into each other"),
    ("lark grammar too deeply nested", "groups nest too deep; make rules of the inner ones"),
    ("schema too large", "it is too large: use fewer definitions"),
    ("LexerTooComplex", "its regular expressions are too large; use shorter ones"),
    ("ParserTooComplex", "it can be read in too many ways at once; use fewer alternatives"),
    ("InternalError", "it cannot be followed here; simplify it"),
];

/// How much of a message is shown.
const SHOWN: usize = 300;

/// One line for a message of the engine.
pub fn explained(message: &str) -> String {
    if let Some((_, meaning)) = MEANINGS.iter().find(|(words, _)| message.contains(words)) {
        return place(message) + meaning;
    }
    // What it calls a panic is a condition of its own that the grammar broke.
    if message.contains("panic") || message.contains("assertion") {
        return "it is more than can be followed; simplify it".to_owned();
    }
    cut(&one_line(message))
}

/// Where the engine saw it, as it begins a message on Lark: `at 1(8): ` or `1(37): `, line and column.
fn place(message: &str) -> String {
    let rest = message.strip_prefix("at ").unwrap_or(message);
    let place = rest.split_once("): ").and_then(|(place, _)| place.split_once('('));
    match place {
        Some((line, column))
            if [line, column].iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) =>
        {
            format!("line {line}, column {column}: ")
        }
        _ => String::new(),
    }
}

/// The message without the excerpts in it: its first line, and after a colon the line that says the error.
fn one_line(message: &str) -> String {
    let mut lines = message.lines().map(str::trim);
    let first = lines.next().unwrap_or_default();
    match lines.find_map(|line| line.strip_prefix("error: ")) {
        Some(error) if first.ends_with(':') => format!("{} {error}", cut(first)),
        _ => first.to_owned(),
    }
}

/// The beginning of a long text.
fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_reads_of_the_engines_inside() {
        let messages = [
            "panic: assertion failed: grammar.symbols.len() < u16::MAX as usize - 10",
            "NoExtensionBias",
            "Parser Error: Current row has 20001 items; max is 2000; consider making your grammar left-recursive if it's right-recursive",
            "panic: index out of bounds: the len is 3 but the index is 7",
        ];
        for message in messages {
            let words = explained(message);
            for inside in ["panic", "assert", "NoExtension", "Parser Error", "index"] {
                assert!(!words.contains(inside), "{words}");
            }
        }
        let nested = explained("1(37): lark grammar too deeply nested (at \"(\" ('('))");
        assert_eq!(nested, "line 1, column 37: groups nest too deep; make rules of the inner ones");
        assert!(explained(&format!("invalid regex {}", "(".repeat(5000))).chars().count() < 310);
        assert_eq!(explained("at 1(8): unknown name: \"x\""), "at 1(8): unknown name: \"x\"");
    }
}
