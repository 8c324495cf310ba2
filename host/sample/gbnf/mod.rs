//! GBNF, llama.cpp's grammar notation, translated to the Lark notation that the constraint engine reads.
//!
//! ```text
//! root   ::= "[" ws (number ("," ws number)*)? "]"
//! number ::= [0-9]{1,3}
//! ws     ::= " "?            # to the end of the line: a comment
//! ```
//!
//! A rule ends with its line, unless a parenthesis is open or the line ends in `|` or `::=`. The elements are text in
//! quotes, `[a-z]` and `[^a-z]`, `.` for any character, names, and groups, each with `*`, `+`, `?` or `{m,n}` after it;
//! `\n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH` are the escapes (llama.cpp, `grammars/README.md`).
//!
//! GBNF knows only characters, while the engine's lexer takes the longest match of a terminal. Two translations keep the
//! meaning all the same:
//!
//! - Without recursion the whole grammar is one regular expression, and so one terminal: the fast way.
//! - With recursion, every terminal is a single character: none is the beginning of another, and longest match means
//!   nothing. The engine then takes a step of its parser for each character, which with a large vocabulary costs
//!   milliseconds per token inside free text. A Lark grammar with terminals of its own, or a JSON schema, costs far less.
//!
//! Rules are numbered in the translation, since the two notations allow different names.

mod reader;

use std::fmt::Write;

use super::nesting;

/// How deep groups may nest, and how deep rules are copied into each other.
const MAX_DEPTH: usize = 50;
/// The longest regular expression made of a grammar, in bytes. Past it, rules are not copied into each other.
const MAX_REGEX: usize = 200_000;

/// Whether the text is GBNF and not Lark: it defines a rule with `::=`.
pub fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let rest = line.trim_start().trim_start_matches(reader::is_name_char);
        rest.len() < line.trim_start().len() && rest.trim_start().starts_with("::=")
    })
}

/// The same grammar in Lark, with `start` for `root`. The error says where and what, as `line 3, column 7: …`.
pub fn to_lark(text: &str) -> Result<String, String> {
    let grammar = reader::read(text)?;
    grammar.check_nesting()?;
    let mut regex = String::new();
    if grammar.write_regex(&Node::Rule(grammar.root), &mut Vec::new(), &mut regex) {
        return Ok(format!("start: /{regex}/\n"));
    }
    let mut lark = LarkRules { text: format!("start: r{}\n", grammar.root), n_groups: 0 };
    for (number, rule) in grammar.rules.iter().enumerate() {
        lark.rule(&format!("r{number}"), rule);
    }
    Ok(lark.text)
}

/// Writing to a `String` cannot fail.
const INFALLIBLE: &str = "writing to a String does not fail";

/// The right side of a rule.
enum Node {
    /// One character of a class, as a regular expression.
    Character(String),
    /// One after the other.
    Sequence(Vec<Node>),
    /// One of several.
    Choice(Vec<Node>),
    /// The same again, at least and at most so often.
    Repeat(Box<Node>, u32, Option<u32>),
    /// The rule of this number.
    Rule(usize),
}

impl Node {
    /// How deep the node is; the rules that it names go to `rules`.
    fn collect_rules(&self, rules: &mut Vec<usize>) -> usize {
        match self {
            Node::Character(_) => 1,
            Node::Rule(number) => {
                rules.push(*number);
                1
            }
            Node::Sequence(nodes) | Node::Choice(nodes) => {
                1 + nodes.iter().map(|node| node.collect_rules(rules)).max().unwrap_or(0)
            }
            Node::Repeat(node, ..) => 1 + node.collect_rules(rules),
        }
    }
}

/// A grammar read.
struct Grammar {
    rules: Vec<Node>,
    root: usize,
}

impl Grammar {
    fn check_nesting(&self) -> Result<(), String> {
        let mut edges = vec![Vec::new(); self.rules.len()];
        let weights: Vec<usize> = self.rules.iter().zip(&mut edges).map(|(rule, to)| rule.collect_rules(to)).collect();
        nesting::check("rules", nesting::depth(&edges, &weights))
    }

    /// Writes the node as a regular expression, rules copied in. False when it recurses, or grows too long or too deep;
    /// `open` are the rules that it is inside of.
    fn write_regex(&self, node: &Node, open: &mut Vec<usize>, regex: &mut String) -> bool {
        match node {
            Node::Character(class) => regex.push_str(class),
            Node::Sequence(nodes) => {
                if !nodes.iter().all(|node| self.write_regex(node, open, regex)) {
                    return false;
                }
            }
            Node::Choice(nodes) => {
                regex.push_str("(?:");
                for (i, node) in nodes.iter().enumerate() {
                    regex.push_str(if i > 0 { "|" } else { "" });
                    if !self.write_regex(node, open, regex) {
                        return false;
                    }
                }
                regex.push(')');
            }
            Node::Repeat(node, least, most) => {
                regex.push_str("(?:");
                if !self.write_regex(node, open, regex) {
                    return false;
                }
                write!(regex, "){{{least},{}}}", most.map_or(String::new(), |most| most.to_string()))
                    .expect(INFALLIBLE);
            }
            Node::Rule(number) => {
                if open.contains(number) || open.len() == MAX_DEPTH {
                    return false;
                }
                open.push(*number);
                let written = self.write_regex(&self.rules[*number], open, regex);
                open.pop();
                return written;
            }
        }
        regex.len() <= MAX_REGEX
    }
}

/// Writes rules in Lark. Every group becomes a rule of its own, since Lark's groups cannot nest deep.
struct LarkRules {
    text: String,
    n_groups: usize,
}

impl LarkRules {
    fn rule(&mut self, name: &str, node: &Node) {
        let body = match node {
            Node::Choice(nodes) => nodes.iter().map(|node| self.sequence(node)).collect::<Vec<_>>().join(" | "),
            other => self.sequence(other),
        };
        writeln!(self.text, "{name}: {body}").expect(INFALLIBLE);
    }

    fn sequence(&mut self, node: &Node) -> String {
        match node {
            Node::Sequence(nodes) if nodes.is_empty() => EMPTY.to_owned(),
            Node::Sequence(nodes) => nodes.iter().map(|node| self.element(node)).collect::<Vec<_>>().join(" "),
            other => self.element(other),
        }
    }

    fn element(&mut self, node: &Node) -> String {
        match node {
            // Lark knows no repetition of at most zero.
            Node::Repeat(_, _, Some(0)) => EMPTY.to_owned(),
            Node::Repeat(node, least, most) => {
                let most = most.map_or(String::new(), |most| most.to_string());
                format!("{}{{{least},{most}}}", self.atom(node))
            }
            other => self.atom(other),
        }
    }

    fn atom(&mut self, node: &Node) -> String {
        match node {
            Node::Character(class) => format!("/{class}/"),
            Node::Rule(number) => format!("r{number}"),
            group => {
                let name = format!("g{}", self.n_groups);
                self.n_groups += 1;
                self.rule(&name, group);
                name
            }
        }
    }
}

/// The empty text in Lark.
const EMPTY: &str = "\"\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_gbnf_from_lark() {
        assert!(is_gbnf("# a comment\n  root ::= \"a\""));
        assert!(!is_gbnf("start: \"root ::= a\"\n"));
        assert!(!is_gbnf("::= nothing"));
        assert!(!is_gbnf(""));
    }

    #[test]
    fn without_recursion_it_is_one_regular_expression() {
        let gbnf = "root ::= item+ | \n (item)? # a comment\n\nitem ::= (\n \"ab\" | [^x-z\\]]\n) {2,}\n";
        let item = r"(?:(?:ab|[^\x{78}-\x{7A}\x{5D}-\x{5D}])){2,}";
        let want = format!("start: /(?:(?:{item}){{1,}}|(?:{item}){{0,1}})/\n");
        assert_eq!(to_lark(gbnf).unwrap(), want);
    }

    #[test]
    fn with_recursion_every_terminal_is_a_character() {
        let gbnf = "root ::= \"(\" root* \")\" | \"ab\"{2,3} | \"\"";
        let want = concat!(
            "start: r0\n",
            "g0: /a/ /b/\n",
            "r0: /[\\x{28}-\\x{28}]/ r0{0,} /[\\x{29}-\\x{29}]/ | g0{2,3} | \"\"\n",
        );
        assert_eq!(to_lark(gbnf).unwrap(), want);
        assert_eq!(to_lark("root ::= root{0} | \"\"").unwrap(), "start: r0\nr0: \"\" | \"\"\n");
    }

    /// Thirty rules, each twice the one before: copying them would take gigabytes.
    #[test]
    fn long_grammars_are_not_copied_out() {
        let mut gbnf = String::from("root ::= a30\na0 ::= \"x\"\n");
        for i in 1..=30 {
            writeln!(gbnf, "a{i} ::= a{0} a{0}", i - 1).unwrap();
        }
        assert!(to_lark(&gbnf).unwrap().len() < 2000);
    }

    #[test]
    fn errors_name_the_place() {
        let cases = [
            ("root ::= a\n", "line 1, column 10: there is no rule named a"),
            ("a ::= \"x\"", "there is no rule named root"),
            ("root ::= \"x", "line 1, column 12: a text in quotes does not end"),
            ("root ::= [a\n]", "line 1, column 12: a class of characters does not end"),
            ("root ::= [z-a]", "line 1, column 14: the range z-a is empty"),
            ("root ::= []", "line 1, column 12: a class of characters is empty"),
            ("root ::= \"\\q\"", "line 1, column 13: there is no escape \\q"),
            ("root ::= \"\\uD800\"", "line 1, column 13: expected 4 hexadecimal digits of a character"),
            ("root ::= \"\\x4é\"", "line 1, column 13: expected 2 hexadecimal digits of a character"),
            ("root ::= (\"a\"", "line 1, column 14: expected )"),
            ("root ::= \"a\")", "line 1, column 13: expected the end of the line"),
            ("root ::= \"a\"{3,2}", "line 1, column 18: a repetition with more at least than at most"),
            ("root ::= \"a\"{9999}", "line 1, column 14: expected a count of at most 2000"),
            (
                "root ::= <think>",
                "line 1, column 10: tokens as terminals are not supported: write their text, or use Lark",
            ),
            (
                "root ::= \"a\"?*",
                "line 1, column 14: there is nothing to repeat: put a repetition in parentheses to repeat it",
            ),
            ("root = \"a\"", "line 1, column 6: expected ::= after the name root"),
            ("root ::= \"a\"\nroot ::= \"b\"", "line 2, column 1: the rule root is defined a second time"),
            ("root ::= \"a\"\n\"b\"", "line 2, column 1: expected the name of a rule"),
        ];
        for (text, want) in cases {
            assert_eq!(to_lark(text).unwrap_err(), want, "{text:?}");
        }
        assert!(to_lark("root ::= * \"a\"").is_err());
        assert_eq!(to_lark("root ::= \"\\\n\"").unwrap_err(), "line 1, column 12: a text in quotes does not end");
        let deep = format!("root ::= {}\"a\"{}", "(".repeat(60), ")".repeat(60));
        assert!(to_lark(&deep).unwrap_err().contains("deeper than 50"));
    }
}
