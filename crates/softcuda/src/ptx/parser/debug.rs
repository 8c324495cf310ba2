//! What a module says of the source that it was compiled from: `.file`, `.loc` and the names in `.debug_str`. Pragmas and the
//! other sections are passed over: they hold nothing that execution or messages need.

use super::{Parsed, Parser};
use crate::ptx::ast::Literal;
use crate::ptx::lexer::Token;
use crate::ptx::lines::Spot;

impl Parser {
    pub(super) fn debug(&mut self) -> Parsed<()> {
        match self.word("a directive")?.as_str() {
            ".section" => self.section(),
            ".pragma" => {
                while !self.eat(';') {
                    if !matches!(self.peek(), Some(Token::Text(_))) && !self.is(',') {
                        return self.expected("`;` after the pragma");
                    }
                    self.at += 1;
                }
                Ok(())
            }
            ".file" => self.file(),
            _ => self.loc(),
        }
    }

    /// `.file 1 "kernels/rmsnorm.rs"`; a time and a size may follow.
    fn file(&mut self) -> Parsed<()> {
        let line = self.tokens[self.at - 1].line;
        let index = self.small("the file's number")?;
        let Some(Token::Text(path)) = self.peek().cloned() else {
            return self.expected("the file's name in quotes");
        };
        self.table.file(index, path);
        self.end_line(line);
        Ok(())
    }

    /// `.loc 1 20 5`, with `, function_name LABEL+offset, inlined_at 1 30 7` where that was inlined.
    fn loc(&mut self) -> Parsed<()> {
        let line = self.tokens[self.at - 1].line;
        let spot = self.spot()?;
        let (mut name, mut inlined_at) = (None, None);
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) && self.eat(',') {
            if self.eat_word("function_name") {
                let label = self.name("a label of .debug_str")?;
                let offset = if self.eat('+') { self.integer()? } else { 0 };
                name = Some((label, offset));
            } else if self.eat_word("inlined_at") {
                inlined_at = Some(self.spot()?);
            } else {
                return self.expected("`function_name` or `inlined_at`");
            }
        }
        self.table.place(line, spot, name, inlined_at);
        self.end_line(line);
        Ok(())
    }

    fn spot(&mut self) -> Parsed<Spot> {
        Ok((self.small("the file's number")?, self.small("the line")?, self.small("the column")?))
    }

    /// `.file` and `.loc` end with their line, whatever else it holds.
    fn end_line(&mut self, line: u32) {
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            self.at += 1;
        }
    }

    fn section(&mut self) -> Parsed<()> {
        let strings = self.word("a section name")? == ".debug_str";
        self.want('{')?;
        while !self.eat('}') {
            match self.peek() {
                None | Some(Token::Punct('{')) => return self.expected("`}` at the end of the section"),
                Some(Token::Word(label)) if strings && self.is_at(1, ':') => {
                    let label = label.clone();
                    self.table.label(label);
                }
                Some(&Token::Number(Literal::Integer(byte))) if strings => self.table.byte(byte as u8),
                Some(_) => {}
            }
            self.at += 1;
        }
        Ok(())
    }
}
