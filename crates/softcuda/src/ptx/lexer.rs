//! Words, numbers and punctuation of PTX.
//!
//! A word runs over dots and double colons, so that an opcode with its modifiers (`ld.global.L1::no_allocate.b32`), a
//! directive (`.reg`) and a special register (`%tid.x`) are one token each.

use super::ast::{BodyText, Literal, Source};
use crate::PtxError;
use std::ops::Range;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    Word(String),
    Number(Literal),
    Text,
    Punct(char),
    /// The body of a kernel, which is read when somebody asks for it.
    Body(BodyText),
}

/// What becomes of the bodies of kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bodies {
    Read,
    /// Each becomes a [`Token::Body`].
    Deferred,
}

#[derive(Clone, Debug)]
pub(crate) struct Lexeme {
    pub(crate) token: Token,
    pub(crate) line: u32,
}

/// The tokens of a part of the text that begins in `line`.
pub(crate) fn tokenise(
    text: &str,
    part: Range<usize>,
    mut line: u32,
    bodies: Bodies,
    source: &Source,
) -> Result<Vec<Lexeme>, PtxError> {
    let text = &text[..part.end];
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(if bodies == Bodies::Read { part.len() / 8 } else { 0 });
    let mut at = part.start;
    // Between `.entry` and what follows its parameters.
    let mut in_head = false;
    while at < bytes.len() {
        let c = bytes[at];
        match c {
            b'\n' => {
                line += 1;
                at += 1;
            }
            b' ' | b'\t' | b'\r' | 0x0c => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let start = line;
                at += 2;
                loop {
                    match bytes.get(at) {
                        None => {
                            return Err(source.error(start, "comment without an end, expected `*/`"));
                        }
                        Some(b'*') if bytes.get(at + 1) == Some(&b'/') => break,
                        Some(b'\n') => line += 1,
                        Some(_) => {}
                    }
                    at += 1;
                }
                at += 2;
            }
            b'"' => {
                let start = at + 1;
                at = start;
                while at < bytes.len() && bytes[at] != b'"' && bytes[at] != b'\n' {
                    at += 1;
                }
                if bytes.get(at) != Some(&b'"') {
                    return Err(source.error(line, "string without an end, expected `\"`"));
                }
                at += 1;
                out.push(Lexeme { token: Token::Text, line });
            }
            b'0'..=b'9' => {
                let start = at;
                while at < bytes.len()
                    && (bytes[at].is_ascii_alphanumeric()
                        || bytes[at] == b'.'
                        || (matches!(bytes[at], b'+' | b'-')
                            && matches!(bytes[at - 1], b'e' | b'E')
                            && !bytes[start..at].starts_with(b"0x")
                            && !bytes[start..at].starts_with(b"0f")
                            && !bytes[start..at].starts_with(b"0d")))
                {
                    at += 1;
                }
                let word = &text[start..at];
                let literal = number(word)
                    .ok_or_else(|| source.error(line, format!("`{word}` is no number, expected a PTX literal")))?;
                out.push(Lexeme { token: Token::Number(literal), line });
            }
            _ if starts_word(c) || (c == b'.' && bytes.get(at + 1).is_some_and(|&n| starts_word(n))) => {
                let start = at;
                // `.reg.b32` are two directives; an opcode keeps its modifiers.
                let directive = c == b'.';
                at += 1;
                while at < bytes.len() {
                    let inside = |i: usize| bytes.get(i).is_some_and(|&n| in_word(n));
                    if inside(at) || (!directive && bytes[at] == b'.' && inside(at + 1)) {
                        at += 1;
                    } else if bytes[at] == b':' && bytes.get(at + 1) == Some(&b':') && inside(at + 2) {
                        at += 2;
                    } else {
                        break;
                    }
                }
                if matches!(&text[start..at], ".loc" | ".file") {
                    // They end with their line, and only messages need them: see `lines`.
                    at = text[at..].find('\n').map_or(text.len(), |length| at + length);
                    continue;
                }
                in_head |= bodies == Bodies::Deferred && &text[start..at] == ".entry";
                out.push(Lexeme { token: Token::Word(text[start..at].to_owned()), line });
            }
            b'{' if in_head => {
                let end = end_of_block(bytes, at).ok_or_else(|| {
                    source.error(line, "expected `}` at the end of the function, found the end of the text")
                })?;
                out.push(Lexeme { token: Token::Body(BodyText { at: at..end, line }), line });
                line += newlines(&bytes[at..end]);
                at = end;
                in_head = false;
            }
            b'{' | b'}' | b'(' | b')' | b'[' | b']' | b'<' | b'>' | b',' | b';' | b':' | b'+' | b'-' | b'|' | b'!'
            | b'@' | b'=' | b'~' | b'*' => {
                in_head &= c != b';';
                out.push(Lexeme { token: Token::Punct(c as char), line });
                at += 1;
            }
            _ => {
                let found = text[at..].chars().next().unwrap_or('?');
                return Err(source.error(line, format!("unexpected character {found:?}")));
            }
        }
    }
    Ok(out)
}

fn newlines(bytes: &[u8]) -> u32 {
    // As many bytes as a sum of one byte holds.
    bytes.chunks(255).map(|part| u32::from(part.iter().map(|&byte| u8::from(byte == b'\n')).sum::<u8>())).sum()
}

/// Behind the `}` of the block whose `{` is at `start`.
fn end_of_block(bytes: &[u8], start: usize) -> Option<usize> {
    let counts = |byte: u8| byte == b'{' || byte == b'}' || byte == b'"' || byte == b'/';
    let mut depth = 0usize;
    let mut at = start;
    loop {
        // Of most bytes none counts, which is seen of many at once.
        while let Some(part) = bytes[at..].first_chunk::<64>() {
            let found = which_count(part, counts);
            if found != 0 {
                at += found.trailing_zeros() as usize;
                break;
            }
            at += 64;
        }
        at += bytes[at..].iter().position(|&byte| counts(byte))?;
        let rest = &bytes[at..];
        at += match rest[0] {
            b'{' => {
                depth += 1;
                1
            }
            b'}' if depth == 1 => return Some(at + 1),
            b'}' => {
                depth -= 1;
                1
            }
            b'"' => 2 + rest[1..].iter().position(|&byte| byte == b'"' || byte == b'\n')?,
            b'/' if rest.starts_with(b"//") => rest.iter().position(|&byte| byte == b'\n')?,
            b'/' if rest.starts_with(b"/*") => 4 + rest[2..].windows(2).position(|pair| pair == b"*/")?,
            _ => 1,
        };
    }
}

/// The bytes that stand for which `counts` is true, as bits.
#[inline(always)]
fn which_count(bytes: &[u8; 64], counts: impl Fn(u8) -> bool) -> u64 {
    // Eight flags of a byte each become neighbouring bits: each is multiplied to its place in the highest byte.
    const GATHER: u64 = 0x0102_0408_1020_4080;
    let mut flags = [0u8; 64];
    for (flag, &byte) in flags.iter_mut().zip(bytes) {
        *flag = u8::from(counts(byte));
    }
    let parts = flags.as_chunks::<8>().0.iter().enumerate();
    parts.fold(0, |bits, (at, part)| bits | (u64::from_le_bytes(*part).wrapping_mul(GATHER) >> 56) << (8 * at))
}

fn starts_word(c: u8) -> bool {
    c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%')
}

fn in_word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'%')
}

fn number(word: &str) -> Option<Literal> {
    let lower = word.to_ascii_lowercase();
    if let Some(hex) = lower.strip_prefix("0f") {
        return (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(Literal::Single))?;
    }
    if let Some(hex) = lower.strip_prefix("0d") {
        return (hex.len() == 16).then(|| u64::from_str_radix(hex, 16).ok().map(Literal::Double))?;
    }
    if lower.contains('.') || (lower.contains('e') && !lower.starts_with("0x")) {
        return lower.parse::<f64>().ok().map(|v| Literal::Double(v.to_bits()));
    }
    let digits = lower.strip_suffix('u').unwrap_or(&lower);
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        u64::from_str_radix(hex, 16)
    } else if let Some(binary) = digits.strip_prefix("0b") {
        u64::from_str_radix(binary, 2)
    } else if digits.len() > 1 && digits.starts_with('0') {
        u64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    value.ok().map(Literal::Integer)
}
