//! A template's source, taken apart into what it may write and what it computes.
//!
//! Template text outside tags and string literals inside them are the only places where a template's own words
//! stand. This module finds them, so that they can be exchanged for marked copies (module `provenance`); the rest
//! of the source is kept as it is. It reads just enough of Jinja's syntax for that: the three kinds of tags, raw
//! blocks, comments, brackets and strings.
//!
//! Hugging Face templates may also wrap an answer in `{% generation %}`, which only matters in training. It is read
//! as `{% if true %}` here.

/// A stretch of a template's source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Text outside tags.
    Text(String),
    /// A string literal.
    Literal {
        /// As it stands in the source, with its quotes.
        source: String,
        /// What it means.
        text: String,
    },
    /// Everything else.
    Code(String),
}

impl Segment {
    /// The words of the template that stand here.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Segment::Text(text) | Segment::Literal { text, .. } => Some(text),
            Segment::Code(_) => None,
        }
    }

    /// The segment's source.
    pub(super) fn source(&self) -> &str {
        match self {
            Segment::Text(source) | Segment::Literal { source, .. } | Segment::Code(source) => source,
        }
    }

    /// Source that means `text` in the place of this segment.
    pub(super) fn source_with_text(&self, text: &str) -> String {
        match self {
            Segment::Text(_) => text.to_owned(),
            Segment::Literal { .. } => {
                format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
            }
            Segment::Code(source) => source.clone(),
        }
    }
}

/// Takes `source` apart. Joined, the segments' sources are the template, with generation tags replaced.
pub(super) fn segments(source: &str) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut rest = source;
    while let Some(start) = tag_start(rest) {
        push_text(&mut segments, &rest[..start]);
        rest = &rest[start..];
        let length = if rest.starts_with("{#") {
            let length = rest.find("#}").map_or(rest.len(), |end| end + 2);
            segments.push(Segment::Code(rest[..length].to_owned()));
            length
        } else if let Some(tag) = simple_tag(rest, "raw") {
            let body = &rest[tag..];
            let end = find_simple_tag(body, "endraw").unwrap_or(body.len());
            segments.push(Segment::Code(rest[..tag].to_owned()));
            push_text(&mut segments, &body[..end]);
            let closing = simple_tag(&body[end..], "endraw").unwrap_or(0);
            segments.push(Segment::Code(body[end..end + closing].to_owned()));
            tag + end + closing
        } else if let Some(length) = simple_tag(rest, "generation") {
            segments.push(Segment::Code(rest[..length].replace("generation", "if true")));
            length
        } else if let Some(length) = simple_tag(rest, "endgeneration") {
            segments.push(Segment::Code(rest[..length].replace("endgeneration", "endif")));
            length
        } else {
            push_tag(&mut segments, rest)
        };
        rest = &rest[length..];
    }
    push_text(&mut segments, rest);
    segments
}

fn push_text(segments: &mut Vec<Segment>, text: &str) {
    if !text.is_empty() {
        segments.push(Segment::Text(text.to_owned()));
    }
}

/// Where the next tag or comment begins.
fn tag_start(source: &str) -> Option<usize> {
    source
        .char_indices()
        .filter(|&(_, character)| character == '{')
        .map(|(at, _)| at)
        .find(|&at| ["{{", "{%", "{#"].iter().any(|tag| source[at..].starts_with(tag)))
}

/// The length of `{% name %}` at the start of `source`, with any white-space control.
fn simple_tag(source: &str, name: &str) -> Option<usize> {
    let inner = source.strip_prefix("{%")?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
    let after = inner.strip_prefix(name)?.trim_start();
    let after = after.strip_prefix(['-', '+']).unwrap_or(after);
    let after = after.strip_prefix("%}")?;
    Some(source.len() - after.len())
}

/// Where `{% name %}` begins in `source`.
fn find_simple_tag(source: &str, name: &str) -> Option<usize> {
    source.match_indices("{%").map(|(at, _)| at).find(|&at| simple_tag(&source[at..], name).is_some())
}

/// Adds the tag at the start of `source` and returns its length. A tag without an end reaches to the end of the
/// source; the template engine reports it.
fn push_tag(segments: &mut Vec<Segment>, source: &str) -> usize {
    let closing = if source.starts_with("{{") { "}}" } else { "%}" };
    let mut open_brackets = 0;
    let mut code_start = 0;
    let mut position = 2;
    while let Some(character) = source[position..].chars().next() {
        if open_brackets == 0 && source[position..].starts_with(closing) {
            position += 2;
            break;
        }
        match character {
            '"' | '\'' => {
                let Some(length) = string_length(&source[position..], character) else {
                    position = source.len();
                    break;
                };
                let literal = &source[position..position + length];
                if let Some(text) = unescape(&literal[1..length - 1]) {
                    segments.push(Segment::Code(source[code_start..position].to_owned()));
                    segments.push(Segment::Literal { source: literal.to_owned(), text });
                    code_start = position + length;
                }
                position += length;
                continue;
            }
            '(' | '[' | '{' => open_brackets += 1,
            ')' | ']' | '}' => open_brackets -= 1,
            _ => {}
        }
        position += character.len_utf8();
    }
    segments.push(Segment::Code(source[code_start..position].to_owned()));
    position
}

/// The length of the string literal at the start of `source`, quotes included; `None` when it does not end.
fn string_length(source: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, character) in source.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if character == '\\' {
            escaped = true;
        } else if character == quote {
            return Some(at + 1);
        }
    }
    None
}

/// What the inside of a literal means; `None` for an escape that is not read here, so the literal stays code.
fn unescape(literal: &str) -> Option<String> {
    let mut text = String::with_capacity(literal.len());
    let mut characters = literal.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            text.push(character);
            continue;
        }
        match characters.next()? {
            'n' => text.push('\n'),
            't' => text.push('\t'),
            'r' => text.push('\r'),
            'u' => text.push(code_point(&mut characters, 4)?),
            'x' => text.push(code_point(&mut characters, 2)?),
            plain @ ('\\' | '"' | '\'' | '/') => text.push(plain),
            _ => return None,
        }
    }
    Some(text)
}

/// The character whose code point the next `digits` hexadecimal digits give; `None` for half a surrogate pair.
fn code_point(characters: &mut std::str::Chars, digits: usize) -> Option<char> {
    let mut number = 0;
    for _ in 0..digits {
        number = 16 * number + characters.next()?.to_digit(16)?;
    }
    char::from_u32(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(source: &str) -> Vec<String> {
        let segments = segments(source);
        segments.iter().filter_map(Segment::text).map(str::to_owned).collect()
    }

    #[test]
    fn text_and_literals_are_found() {
        assert_eq!(
            words(r#"a{{ "b\n" + x['c'] }}d{# 'e' #}{%- if x == "}}" -%}f{% endif %}"#),
            ["a", "b\n", "c", "d", "}}", "f"]
        );
        assert_eq!(words("{{ {'a': {'b': 1}}}}c"), ["a", "b", "c"]);
        assert_eq!(words(r#"{{ "\u003c\x7c" }}"#), ["<|"]);
        assert_eq!(words(r#"{{ "it's" ~ 'a"b' ~ "\"" }}"#), ["it's", "a\"b", "\""]);
    }

    #[test]
    fn raw_blocks_are_text() {
        assert_eq!(words("{% raw -%}{{ 'a' }}{%- endraw %}b"), ["{{ 'a' }}", "b"]);
        assert_eq!(words("{% raw %}a"), ["a"]);
    }

    #[test]
    fn generation_tags_are_replaced() {
        let segments = segments("{%- generation -%}a{% endgeneration %}{{ generation }}");
        let source: String = segments.iter().map(Segment::source).collect();
        assert_eq!(source, "{%- if true -%}a{% endif %}{{ generation }}");
    }

    proptest! {
        /// Whatever the source, nothing is lost and nothing panics.
        #[test]
        fn segments_joined_are_the_source(source in "(\\{\\{ *|[{}%#'\"\\\\ a🙂\n(\\[-]|raw|endraw){0,40}") {
            let joined: String = segments(&source).iter().map(Segment::source).collect();
            prop_assert_eq!(joined, source);
        }
    }
}
