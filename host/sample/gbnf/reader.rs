//! Reads GBNF text into rules.

use std::collections::HashMap;
use std::fmt::Write;

use super::{Grammar, INFALLIBLE, MAX_DEPTH, Node};

/// The largest count that a repetition may have, as in llama.cpp.
const MAX_REPETITION: u32 = 2000;

/// The grammar that `text` writes, or where and why it writes none.
pub fn read(text: &str) -> Result<Grammar, String> {
    let mut reader = Reader { rest: text, line: 1, column: 1, rules: Vec::new(), numbers: HashMap::new() };
    reader.rules()?;
    let root = reader.numbers.get("root").copied();
    let root = root.filter(|&root| reader.rules[root].body.is_some()).ok_or("there is no rule named root")?;
    let bodies = reader
        .rules
        .into_iter()
        .map(|rule| rule.body.ok_or_else(|| format!("{}: there is no rule named {}", rule.place, rule.name)));
    Ok(Grammar { rules: bodies.collect::<Result<_, _>>()?, root })
}

/// A rule that has been defined or only mentioned.
struct Rule {
    name: String,
    /// Where it was first seen.
    place: String,
    /// Its right side; `None` while it is only mentioned.
    body: Option<Node>,
}

/// Reads the text from front to back; line and column count from 1, in characters.
struct Reader<'a> {
    rest: &'a str,
    line: usize,
    column: usize,
    rules: Vec<Rule>,
    numbers: HashMap<&'a str, usize>,
}

/// Whether the character can be part of a rule's name.
pub fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
}

impl<'a> Reader<'a> {
    fn rules(&mut self) -> Result<(), String> {
        self.skip_space(true);
        while !self.rest.is_empty() {
            let place = self.place();
            let name = self.name().ok_or_else(|| self.error("expected the name of a rule"))?;
            let number = self.rule_number(name, &place);
            self.skip_space(false);
            for expected in "::=".chars() {
                if !self.take(expected) {
                    return Err(self.error(&format!("expected ::= after the name {name}")));
                }
            }
            self.skip_space(true);
            let body = self.alternatives(0)?;
            if self.rules[number].body.replace(body).is_some() {
                return Err(format!("{place}: the rule {name} is defined a second time"));
            }
            if !matches!(self.peek(), None | Some('\n')) {
                return Err(self.error("expected the end of the line"));
            }
            self.skip_space(true);
        }
        Ok(())
    }

    /// The number of the rule of this name, a new one where `place` is the first to mention it.
    fn rule_number(&mut self, name: &'a str, place: &str) -> usize {
        *self.numbers.entry(name).or_insert_with(|| {
            self.rules.push(Rule { name: name.to_owned(), place: place.to_owned(), body: None });
            self.rules.len() - 1
        })
    }

    /// Alternatives separated by `|`, up to a closing parenthesis or the end of the line.
    fn alternatives(&mut self, depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err(self.error(&format!("groups nest deeper than {MAX_DEPTH}")));
        }
        let first = self.sequence(depth)?;
        if self.peek() != Some('|') {
            return Ok(first);
        }
        let mut choice = vec![first];
        while self.take('|') {
            self.skip_space(true);
            choice.push(self.sequence(depth)?);
        }
        Ok(Node::Choice(choice))
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, String> {
        let mut elements = Vec::new();
        while let Some(c) = self.peek() {
            let element = match c {
                '"' => self.literal()?,
                '[' => self.class()?,
                '.' => {
                    self.advance();
                    Node::Character(r"[\x{0}-\x{10FFFF}]".to_owned())
                }
                '(' => {
                    self.advance();
                    self.skip_space(true);
                    let group = self.alternatives(depth + 1)?;
                    if !self.take(')') {
                        return Err(self.error("expected )"));
                    }
                    group
                }
                '<' | '!' => {
                    return Err(self.error("tokens as terminals are not supported: write their text, or use Lark"));
                }
                c if is_name_char(c) => {
                    let place = self.place();
                    let name = self.name().expect("a name character begins a name");
                    Node::Rule(self.rule_number(name, &place))
                }
                _ => break,
            };
            self.skip_space(depth > 0);
            elements.push(self.repetition(element)?);
            self.skip_space(depth > 0);
            if matches!(self.peek(), Some('*' | '+' | '?' | '{')) {
                return Err(self.error("there is nothing to repeat: put a repetition in parentheses to repeat it"));
            }
        }
        Ok(if elements.len() == 1 { elements.remove(0) } else { Node::Sequence(elements) })
    }

    /// The element with the repetition that follows it, if any.
    fn repetition(&mut self, element: Node) -> Result<Node, String> {
        let (least, most) = if self.take('*') {
            (0, None)
        } else if self.take('+') {
            (1, None)
        } else if self.take('?') {
            (0, Some(1))
        } else if self.take('{') {
            self.bounds()?
        } else {
            return Ok(element);
        };
        Ok(Node::Repeat(Box::new(element), least, most))
    }

    /// The rest of a repetition in braces: `m}`, `m,}` or `m,n}`.
    fn bounds(&mut self) -> Result<(u32, Option<u32>), String> {
        let least = self.number()?;
        let most = match self.take(',') {
            true if self.peek() == Some('}') => None,
            true => Some(self.number()?),
            false => Some(least),
        };
        if !self.take('}') {
            return Err(self.error("expected } after a repetition"));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.error("a repetition with more at least than at most"));
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Result<u32, String> {
        let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let value = self.rest[..digits].parse().ok().filter(|&value| value <= MAX_REPETITION);
        let value = value.ok_or_else(|| self.error(&format!("expected a count of at most {MAX_REPETITION}")))?;
        for _ in 0..digits {
            self.advance();
        }
        Ok(value)
    }

    /// Text in quotes.
    fn literal(&mut self) -> Result<Node, String> {
        self.advance();
        let mut characters = Vec::new();
        while !self.take('"') {
            let c = self.character("a text in quotes")?;
            characters.push(Node::Character(regex_class(&[(c, c)], false)));
        }
        Ok(if characters.len() == 1 { characters.remove(0) } else { Node::Sequence(characters) })
    }

    /// A class of characters in brackets.
    fn class(&mut self) -> Result<Node, String> {
        self.advance();
        let negated = self.take('^');
        let mut ranges = Vec::new();
        while !self.take(']') {
            let first = self.character("a class of characters")?;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let last = if is_range {
                self.advance();
                self.character("a class of characters")?
            } else {
                first
            };
            if last < first {
                return Err(self.error(&format!("the range {first}-{last} is empty")));
            }
            ranges.push((first, last));
        }
        if ranges.is_empty() {
            return Err(self.error("a class of characters is empty"));
        }
        Ok(Node::Character(regex_class(&ranges, negated)))
    }

    /// The next character, escaped or not.
    fn character(&mut self, inside: &str) -> Result<char, String> {
        let unfinished = format!("{inside} does not end");
        let c = match self.peek() {
            None | Some('\n') => return Err(self.error(&unfinished)),
            Some(c) => c,
        };
        self.advance();
        if c != '\\' {
            return Ok(c);
        }
        let escape = self.peek().filter(|&c| c != '\n').ok_or_else(|| self.error(&unfinished))?;
        self.advance();
        let digits = match escape {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '\\' | '"' | '[' | ']' => return Ok(escape),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return Err(self.error(&format!("there is no escape \\{escape}"))),
        };
        let code = self.rest.get(..digits).and_then(|hex| u32::from_str_radix(hex, 16).ok());
        let c = code.and_then(char::from_u32);
        let c = c.ok_or_else(|| self.error(&format!("expected {digits} hexadecimal digits of a character")))?;
        for _ in 0..digits {
            self.advance();
        }
        Ok(c)
    }

    fn name(&mut self) -> Option<&'a str> {
        let length = self.rest.len() - self.rest.trim_start_matches(is_name_char).len();
        let name = &self.rest[..length];
        for _ in 0..length {
            self.advance();
        }
        (!name.is_empty()).then_some(name)
    }

    /// Skips blanks and comments, and the ends of lines where they mean nothing.
    fn skip_space(&mut self, across_lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' | '\r' => self.advance(),
                '\n' if across_lines => self.advance(),
                '#' => {
                    while !matches!(self.peek(), None | Some('\n')) {
                        self.advance();
                    }
                }
                _ => return,
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn take(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.advance();
        }
        found
    }

    fn advance(&mut self) {
        if let Some(c) = self.peek() {
            self.rest = &self.rest[c.len_utf8()..];
            (self.line, self.column) = if c == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        }
    }

    fn place(&self) -> String {
        format!("line {}, column {}", self.line, self.column)
    }

    fn error(&self, what: &str) -> String {
        format!("{}: {what}", self.place())
    }
}

/// A regex class of these inclusive ranges.
fn regex_class(ranges: &[(char, char)], negated: bool) -> String {
    // Short, for grammars with many words in them.
    if let (&[(only, last)], false) = (ranges, negated)
        && only == last
        && only.is_ascii_alphanumeric()
    {
        return only.to_string();
    }
    let mut class = String::from(if negated { "[^" } else { "[" });
    for &(first, last) in ranges {
        write!(class, "\\x{{{:X}}}-\\x{{{:X}}}", first as u32, last as u32).expect(INFALLIBLE);
    }
    class.push(']');
    class
}
