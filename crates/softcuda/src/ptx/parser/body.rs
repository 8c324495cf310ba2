//! The body of a function: declarations, labels, instructions and their operands.

use super::{NESTING, Parsed, Parser};
use crate::ptx::ast::*;
use crate::ptx::lexer::Token;

impl Parser {
    /// What lies between the braces of a function, both included.
    pub(super) fn body(&mut self) -> Parsed<Vec<Statement>> {
        self.want('{')?;
        let mut out = Vec::new();
        let mut depth = 1;
        loop {
            let line = self.line();
            match self.peek() {
                None => return self.expected("`}` at the end of the function"),
                Some(Token::Punct('{')) => {
                    self.at += 1;
                    depth += 1;
                    if depth > NESTING {
                        return self.error("blocks nest too deeply");
                    }
                    out.push(Statement::Open);
                }
                Some(Token::Punct('}')) => {
                    self.at += 1;
                    depth -= 1;
                    if depth == 0 {
                        return Ok(out);
                    }
                    out.push(Statement::Close);
                }
                Some(Token::Punct(';')) => self.at += 1,
                Some(Token::Punct('@')) => {
                    self.at += 1;
                    let negated = self.eat('!');
                    let predicate = self.name("a predicate register")?;
                    let instruction = self.instruction(Some(Guard { predicate, negated }))?;
                    out.push(Statement::Instruction(instruction));
                }
                Some(Token::Word(word)) => {
                    let word = word.clone();
                    match word.as_str() {
                        ".reg" => self.registers(&mut out)?,
                        ".local" | ".shared" | ".param" | ".global" | ".const" => {
                            let mut variables = Vec::new();
                            self.variables(false, &mut variables)?;
                            out.extend(variables.into_iter().map(Statement::Variable));
                        }
                        ".extern" => {
                            self.at += 1;
                            let mut variables = Vec::new();
                            self.variables(true, &mut variables)?;
                            out.extend(variables.into_iter().map(Statement::Variable));
                        }
                        ".pragma" | ".section" => self.skip_debug()?,
                        _ if word.starts_with('.') => self.skip_directive(),
                        _ if self.is_at(1, ':') => {
                            self.at += 2;
                            if self.eat_word(".branchtargets") {
                                let mut labels = vec![self.name("a label")?];
                                while self.eat(',') {
                                    labels.push(self.name("a label")?);
                                }
                                self.want(';')?;
                                out.push(Statement::BranchTargets { line, name: word, labels });
                            } else if self.eat_word(".callprototype") {
                                out.push(self.prototype(line, word)?);
                            } else if self.eat_word(".calltargets") {
                                let mut functions = vec![self.name("a function")?];
                                while self.eat(',') {
                                    functions.push(self.name("a function")?);
                                }
                                self.want(';')?;
                                out.push(Statement::CallTargets { functions });
                            } else {
                                out.push(Statement::Label { line, name: word });
                            }
                        }
                        _ => {
                            let instruction = self.instruction(None)?;
                            out.push(Statement::Instruction(instruction));
                        }
                    }
                }
                Some(_) => return self.expected("an instruction"),
            }
        }
    }

    /// After `name : .callprototype`: `(results) _ (parameters);`, each list optional.
    fn prototype(&mut self, line: u32, name: String) -> Parsed<Statement> {
        let results = if self.is('(') { self.parameters()? } else { Vec::new() };
        self.name("`_`")?;
        let parameters = if self.is('(') { self.parameters()? } else { Vec::new() };
        while !self.eat(';') {
            // `.noreturn`, `.abi_preserve 4`.
            match self.peek() {
                Some(Token::Word(word)) if word.starts_with('.') => self.at += 1,
                Some(Token::Number(_)) => self.at += 1,
                _ => return self.expected("`;` after the prototype"),
            }
        }
        Ok(Statement::Prototype { line, name, results, parameters })
    }

    fn registers(&mut self, out: &mut Vec<Statement>) -> Parsed<()> {
        self.at += 1;
        let kind = self.kind()?;
        loop {
            let line = self.line();
            let name = self.name("a register name")?;
            let count = if self.eat('<') {
                let count = self.small("the register count")?;
                self.want('>')?;
                Some(count)
            } else {
                None
            };
            out.push(Statement::Register(RegisterDeclaration { line, kind, name, count }));
            if !self.eat(',') {
                break;
            }
        }
        self.want(';')
    }

    fn instruction(&mut self, guard: Option<Guard>) -> Parsed<InstructionText> {
        let line = self.line();
        let opcode = self.name("an opcode")?;
        let start = self.at;
        match self.operands() {
            Ok(operands) => Ok(InstructionText { line, guard, opcode, operands, malformed: None }),
            // Perhaps operands of an instruction that nobody here knows; the decoder says.
            Err(error) => {
                self.at = start;
                while !self.is(';') {
                    if self.peek().is_none() || self.peek_word().is_some_and(|word| word.starts_with('.')) {
                        return Err(error);
                    }
                    self.at += 1;
                }
                self.at += 1;
                Ok(InstructionText { line, guard, opcode, operands: Vec::new(), malformed: Some(error) })
            }
        }
    }

    fn operands(&mut self) -> Parsed<Vec<Operand>> {
        let mut operands = Vec::new();
        if !self.is(';') {
            loop {
                operands.push(self.operand(0)?);
                if !self.eat(',') {
                    break;
                }
            }
        }
        self.want(';')?;
        Ok(operands)
    }

    fn operand(&mut self, depth: usize) -> Parsed<Operand> {
        if depth > 2 {
            return self.error("operands nest too deeply");
        }
        match self.peek() {
            Some(Token::Punct('[')) => {
                self.at += 1;
                let base = match self.peek() {
                    Some(Token::Word(_)) => Some(self.name("a register or a variable")?),
                    _ => None,
                };
                let offset = match (&base, self.peek()) {
                    (None, _) => match self.literal()? {
                        Literal::Integer(v) => v as i64,
                        _ => return self.error("expected an integer address"),
                    },
                    _ => self.offset()?,
                };
                let address = Operand::Address { base, offset };
                if !self.is(',') {
                    self.want(']')?;
                    return Ok(address);
                }
                let mut items = vec![address];
                while self.eat(',') {
                    items.push(self.operand(depth + 1)?);
                }
                self.want(']')?;
                Ok(Operand::Indexed(items))
            }
            Some(Token::Punct(open @ ('{' | '('))) => {
                let open = *open;
                let close = if open == '{' { '}' } else { ')' };
                self.at += 1;
                let mut items = Vec::new();
                while !self.eat(close) {
                    if !items.is_empty() {
                        self.want(',')?;
                    }
                    items.push(self.operand(depth + 1)?);
                }
                Ok(if open == '{' { Operand::Vector(items) } else { Operand::List(items) })
            }
            Some(Token::Punct('!')) => {
                self.at += 1;
                Ok(Operand::Not(self.name("a predicate register")?))
            }
            Some(Token::Word(_)) => {
                let name = self.name("an operand")?;
                if self.eat('|') {
                    let second = self.operand(depth + 1)?;
                    return Ok(Operand::Pair(Box::new(Operand::Name(name)), Box::new(second)));
                }
                let offset = self.offset()?;
                Ok(if offset == 0 { Operand::Name(name) } else { Operand::Offset(name, offset) })
            }
            _ => Ok(Operand::Literal(self.literal()?)),
        }
    }
}
