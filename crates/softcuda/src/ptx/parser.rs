//! Tokens to a syntax tree.

mod body;

use super::ast::*;
use super::lexer::{Bodies, Lexeme, Token, tokenise};
use crate::PtxError;
use std::borrow::Cow;
use std::sync::Arc;

/// Deepest nesting of `{ }` in code and in initialisers.
const NESTING: usize = 64;
/// The largest variable, as a guard against sizes that no device has.
const VARIABLE_BYTES: usize = 1 << 40;

pub(crate) fn parse(text: Cow<'static, str>, bodies: Bodies) -> Result<(ModuleText, Arc<Source>), PtxError> {
    let source = Source::new(text);
    let text = source.text();
    let tokens = tokenise(text, 0..text.len(), 1, bodies, &source)?;
    let mut parser = Parser { tokens, at: 0, source: source.clone() };
    let module = parser.module()?;
    source.set_known(&module);
    Ok((module, source))
}

/// Reads a body that was deferred.
pub(crate) fn parse_body(text: &BodyText, source: &Arc<Source>) -> Result<Vec<Statement>, PtxError> {
    let tokens = tokenise(source.text(), text.at.clone(), text.line, Bodies::Read, source)?;
    Parser { tokens, at: 0, source: source.clone() }.body()
}

struct Parser {
    tokens: Vec<Lexeme>,
    at: usize,
    source: Arc<Source>,
}

type Parsed<T> = Result<T, PtxError>;

impl Parser {
    fn line(&self) -> u32 {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(1, |t| t.line)
    }

    fn error<T>(&self, message: impl Into<String>) -> Parsed<T> {
        Err(self.source.error(self.line(), message))
    }

    fn expected<T>(&self, what: &str) -> Parsed<T> {
        let found = match self.tokens.get(self.at).map(|t| &t.token) {
            None => "the end of the text".to_owned(),
            Some(Token::Word(w)) => format!("`{w}`"),
            Some(Token::Number(n)) => format!("{n:?}"),
            Some(Token::Text) => "a string".to_owned(),
            Some(Token::Punct(c)) => format!("`{c}`"),
            Some(Token::Body(_)) => "`{`".to_owned(),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.token)
    }

    fn peek_word(&self) -> Option<&str> {
        match self.peek() {
            Some(Token::Word(w)) => Some(w),
            _ => None,
        }
    }

    fn is(&self, c: char) -> bool {
        self.peek() == Some(&Token::Punct(c))
    }

    fn is_at(&self, ahead: usize, c: char) -> bool {
        self.tokens.get(self.at + ahead).is_some_and(|t| t.token == Token::Punct(c))
    }

    fn eat(&mut self, c: char) -> bool {
        let hit = self.is(c);
        self.at += hit as usize;
        hit
    }

    fn eat_word(&mut self, word: &str) -> bool {
        let hit = self.peek_word() == Some(word);
        self.at += hit as usize;
        hit
    }

    fn want(&mut self, c: char) -> Parsed<()> {
        if self.eat(c) { Ok(()) } else { self.expected(&format!("`{c}`")) }
    }

    fn word(&mut self, what: &str) -> Parsed<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            _ => self.expected(what),
        }
    }

    fn name(&mut self, what: &str) -> Parsed<String> {
        if self.peek_word().is_some_and(|w| w.starts_with('.')) {
            return self.expected(what);
        }
        self.word(what)
    }

    fn integer(&mut self) -> Parsed<u64> {
        match self.peek() {
            Some(Token::Number(Literal::Integer(v))) => {
                let v = *v;
                self.at += 1;
                Ok(v)
            }
            _ => self.expected("an integer"),
        }
    }

    fn small(&mut self, what: &str) -> Parsed<u32> {
        let value = self.integer()?;
        u32::try_from(value).or_else(|_| self.error(format!("{what} {value} is too large")))
    }

    fn module(&mut self) -> Parsed<ModuleText> {
        let mut module = ModuleText::default();
        while self.at < self.tokens.len() {
            let Some(word) = self.peek_word().map(str::to_owned) else {
                if self.eat(';') {
                    continue;
                }
                return self.expected("a directive");
            };
            match word.as_str() {
                ".version" => {
                    self.at += 1;
                    match self.peek() {
                        Some(Token::Number(_)) => self.at += 1,
                        _ => return self.expected("a version number"),
                    }
                }
                ".target" => {
                    self.at += 1;
                    self.word("a target")?;
                    while self.eat(',') {
                        self.word("a target")?;
                    }
                }
                ".address_size" => {
                    self.at += 1;
                    if self.integer()? != 64 {
                        self.at -= 1;
                        return self.error("expected `.address_size 64`: only 64-bit modules run here");
                    }
                }
                ".pragma" | ".section" => self.skip_debug()?,
                ".alias" => {
                    self.at += 1;
                    let name = self.name("a function's name")?;
                    self.want(',')?;
                    let function = self.name("a function's name")?;
                    self.want(';')?;
                    module.aliases.push((name, function));
                }
                ".visible" | ".extern" | ".weak" | ".common" | ".entry" | ".func" | ".global" | ".const"
                | ".shared" => self.definition(&mut module)?,
                // Between debug sections, such as `$L__sec_end0:`.
                _ if self.is_at(1, ':') => self.at += 2,
                _ if word.starts_with('.') => self.skip_directive(),
                _ => return self.expected("a module directive"),
            }
        }
        Ok(module)
    }

    /// `.pragma` and `.section`: nothing that execution needs.
    fn skip_debug(&mut self) -> Parsed<()> {
        let word = self.word("a directive")?;
        match word.as_str() {
            ".section" => {
                self.word("a section name")?;
                self.want('{')?;
                while !self.eat('}') {
                    if self.peek().is_none() || self.is('{') {
                        return self.expected("`}` at the end of the section");
                    }
                    self.at += 1;
                }
            }
            _ => {
                while !self.eat(';') {
                    if self.peek() != Some(&Token::Text) && !self.is(',') {
                        return self.expected("`;` after the pragma");
                    }
                    self.at += 1;
                }
            }
        }
        Ok(())
    }

    /// A directive that a later PTX may have: up to its `;`, its block, or the end of its line.
    fn skip_directive(&mut self) {
        let line = self.line();
        let mut depth = 0;
        self.at += 1;
        while let Some(lexeme) = self.tokens.get(self.at) {
            match lexeme.token {
                Token::Punct('{') => depth += 1,
                Token::Punct('}') if depth <= 1 => {
                    self.at += (depth == 1) as usize;
                    return;
                }
                Token::Punct('}') => depth -= 1,
                Token::Punct(';') if depth == 0 => {
                    self.at += 1;
                    return;
                }
                Token::Word(ref word) if depth == 0 && lexeme.line != line && word.starts_with('.') => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn definition(&mut self, module: &mut ModuleText) -> Parsed<()> {
        let mut external = false;
        loop {
            match self.peek_word() {
                Some(".visible" | ".weak" | ".common") => self.at += 1,
                Some(".extern") => {
                    external = true;
                    self.at += 1;
                }
                _ => break,
            }
        }
        match self.peek_word() {
            Some(".entry" | ".func") => {
                let function = self.function()?;
                module.functions.push(function);
            }
            Some(".global" | ".const" | ".shared") => {
                self.variables(external, &mut module.variables)?;
            }
            _ => return self.expected("`.entry`, `.func`, `.global`, `.const` or `.shared`"),
        }
        Ok(())
    }

    fn function(&mut self) -> Parsed<Function> {
        let line = self.line();
        let is_entry = self.word("`.entry` or `.func`")? == ".entry";
        let results = if !is_entry && self.is('(') { self.parameters()? } else { Vec::new() };
        let name = self.name("the function's name")?;
        let parameters = if self.is('(') { self.parameters()? } else { Vec::new() };
        let mut limits = Limits::default();
        loop {
            match self.peek_word() {
                Some(word @ (".maxntid" | ".reqntid")) => {
                    let required = word == ".reqntid";
                    self.at += 1;
                    let dims = self.dimensions()?;
                    limits.max_threads = Some(dims.iter().fold(1u32, |a, &b| a.saturating_mul(b)));
                    limits.required = required.then_some(dims).or(limits.required);
                }
                Some(".reqnctapercluster") => {
                    self.at += 1;
                    limits.cluster = Some(self.dimensions()?);
                }
                Some(".pragma") => self.skip_debug()?,
                // `.maxnreg 64`, `.noreturn`, `.explicitcluster` and whatever else says nothing of the values.
                Some(word) if word.starts_with('.') => {
                    self.at += 1;
                    while matches!(self.peek(), Some(Token::Number(_) | Token::Text)) || self.is(',') {
                        self.at += 1;
                    }
                }
                _ => break,
            }
        }
        let deferred = match self.peek() {
            Some(Token::Body(text)) => Some(Body::Deferred(text.clone())),
            _ => None,
        };
        let body = match deferred {
            Some(body) => {
                self.at += 1;
                Some(body)
            }
            None if self.eat(';') => None,
            None => Some(Body::Read(self.body()?)),
        };
        Ok(Function { line, name, is_entry, results, parameters, limits, body })
    }

    /// One to three numbers.
    fn dimensions(&mut self) -> Parsed<[u32; 3]> {
        let mut dims = [1u32; 3];
        let mut rank = 0;
        loop {
            let value = self.small("the dimension")?;
            if rank == 3 {
                return self.error("expected at most three dimensions");
            }
            dims[rank] = value;
            rank += 1;
            if !self.eat(',') {
                return Ok(dims);
            }
        }
    }

    fn parameters(&mut self) -> Parsed<Vec<Parameter>> {
        self.want('(')?;
        let mut out = Vec::new();
        while !self.eat(')') {
            if !out.is_empty() {
                self.want(',')?;
            }
            match self.peek_word() {
                Some(".param") => {
                    self.at += 1;
                    out.push(Parameter::Memory(self.variable(StateSpace::Param, false)?));
                }
                Some(".reg") => {
                    self.at += 1;
                    let line = self.line();
                    let kind = self.kind()?;
                    let name = self.name("a register name")?;
                    out.push(Parameter::Register(RegisterDeclaration { line, kind, name, count: None }));
                }
                _ => return self.expected("`.param` or `.reg`"),
            }
        }
        Ok(out)
    }

    fn kind(&mut self) -> Parsed<Type> {
        let word = self.peek_word().and_then(|w| w.strip_prefix('.'));
        // A reference to a texture, sampler or surface is a handle of 64 bits.
        let handle = word.filter(|w| matches!(*w, "texref" | "samplerref" | "surfref")).map(|_| Type::B64);
        match handle.or_else(|| word.and_then(Type::parse)) {
            Some(kind) => {
                self.at += 1;
                Ok(kind)
            }
            None => self.expected("a type such as `.b32`"),
        }
    }

    fn variables(&mut self, external: bool, out: &mut Vec<Variable>) -> Parsed<()> {
        let space = match self.word("a state space")?.as_str() {
            ".global" => StateSpace::Global,
            ".const" => StateSpace::Const,
            ".shared" => StateSpace::Shared,
            ".local" => StateSpace::Local,
            _ => StateSpace::Param,
        };
        let first = self.variable(space, external)?;
        let mut previous = first.clone();
        out.push(first);
        while self.eat(',') {
            // `.param .b32 a, b` declares both with the same type.
            previous = self.declarator(previous)?;
            out.push(previous.clone());
        }
        self.want(';')
    }

    /// After the state space: attributes, type, name, array size, initialiser.
    fn variable(&mut self, space: StateSpace, external: bool) -> Parsed<Variable> {
        let line = self.line();
        let mut align = None;
        let mut width = 1;
        let element = loop {
            match self.peek_word() {
                Some(".align") => {
                    self.at += 1;
                    let value = self.small("the alignment")? as usize;
                    if !value.is_power_of_two() || value > 4096 {
                        self.at -= 1;
                        return self.error("expected an alignment that is a power of two");
                    }
                    align = Some(value);
                }
                Some(".v2") => {
                    width = 2;
                    self.at += 1;
                }
                Some(".v4") => {
                    width = 4;
                    self.at += 1;
                }
                Some(".v8") => {
                    width = 8;
                    self.at += 1;
                }
                Some(".attribute") => {
                    self.at += 1;
                    self.want('(')?;
                    while !self.eat(')') {
                        if self.peek().is_none() || self.is(';') {
                            return self.expected("`)`");
                        }
                        self.at += 1;
                    }
                }
                _ => break self.kind()?,
            }
        };
        if element.bytes() == 0 {
            return self.error("a variable cannot be a predicate");
        }
        // `.param .u64 .ptr .global .align 16 name`: what the pointer points to.
        if self.eat_word(".ptr") {
            loop {
                match self.peek_word() {
                    Some(".global" | ".shared" | ".const" | ".local" | ".shared::cluster" | ".shared::cta") => {
                        self.at += 1
                    }
                    Some(".align") => {
                        self.at += 1;
                        self.integer()?;
                    }
                    _ => break,
                }
            }
        }
        self.declarator(Variable {
            line,
            space,
            name: String::new(),
            element,
            align: align.unwrap_or(element.bytes() * width),
            size: element.bytes() * width,
            external,
            initialiser: None,
        })
        .map(|mut v| {
            v.line = line;
            v
        })
    }

    fn declarator(&mut self, model: Variable) -> Parsed<Variable> {
        let mut variable = model;
        variable.name = self.name("a variable name")?;
        variable.initialiser = None;
        let mut size = variable.size;
        while self.eat('[') {
            if self.eat(']') {
                size = 0;
                continue;
            }
            let count = self.integer()? as usize;
            size = match size.checked_mul(count) {
                Some(bytes) if bytes <= VARIABLE_BYTES => bytes,
                _ => return self.error("the variable is too large"),
            };
            self.want(']')?;
        }
        variable.size = size;
        if self.eat('=') {
            variable.initialiser = Some(self.initialiser(0)?);
        }
        Ok(variable)
    }

    fn initialiser(&mut self, depth: usize) -> Parsed<Initialiser> {
        if self.eat('{') {
            if depth >= NESTING {
                return self.error("the initialiser nests too deeply");
            }
            let mut items = Vec::new();
            while !self.eat('}') {
                if !items.is_empty() {
                    self.want(',')?;
                }
                items.push(self.initialiser(depth + 1)?);
            }
            return Ok(Initialiser::List(items));
        }
        if let Some(word) = self.peek_word().map(str::to_owned) {
            self.at += 1;
            let generic = word == "generic" && self.eat('(');
            let name = if generic { self.name("a variable name")? } else { word };
            if generic {
                self.want(')')?;
            }
            let offset = self.offset()?;
            return Ok(Initialiser::Symbol(name, offset));
        }
        Ok(Initialiser::Literal(self.literal()?))
    }

    fn literal(&mut self) -> Parsed<Literal> {
        let negative = self.eat('-');
        let inverted = !negative && self.eat('~');
        match self.peek() {
            Some(Token::Number(literal)) => {
                let literal = *literal;
                self.at += 1;
                Ok(match literal {
                    Literal::Integer(v) if negative => Literal::Integer(v.wrapping_neg()),
                    Literal::Integer(v) if inverted => Literal::Integer(!v),
                    Literal::Single(v) if negative => Literal::Single(v ^ 1 << 31),
                    Literal::Double(v) if negative => Literal::Double(v ^ 1 << 63),
                    other => other,
                })
            }
            _ => self.expected("a number"),
        }
    }

    /// `+4`, `-4`, `+-4`, or nothing.
    fn offset(&mut self) -> Parsed<i64> {
        if self.eat('+') {
            let negative = self.eat('-');
            let value = self.integer()? as i64;
            return Ok(if negative { value.wrapping_neg() } else { value });
        }
        if self.eat('-') {
            return Ok((self.integer()? as i64).wrapping_neg());
        }
        Ok(0)
    }
}
