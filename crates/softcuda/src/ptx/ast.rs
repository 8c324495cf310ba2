//! The syntax tree of a PTX module.

use super::lexer::Bodies;
use super::lines::LineTable;
use super::symbols::{self, Accesses};
use crate::SourceLine;
use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// The module's text, kept for messages, and its line table.
#[derive(Debug)]
pub(crate) struct Source {
    text: Cow<'static, str>,
    /// Where each line begins, once somebody asks.
    starts: OnceLock<Vec<usize>>,
    known: OnceLock<Known>,
    table: OnceLock<LineTable>,
}

/// What reading the module has told.
#[derive(Debug)]
struct Known {
    /// The lines at which functions begin, and their names.
    functions: Vec<(u32, String)>,
    /// By function.
    accesses: Vec<OnceLock<Accesses>>,
    /// The module's variables, and whether each has a size.
    variables: Vec<(String, bool)>,
}

impl Source {
    pub(crate) fn new(text: Cow<'static, str>) -> Arc<Source> {
        let (starts, known, table) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Arc::new(Source { text, starts, known, table })
    }

    fn starts(&self) -> &[usize] {
        let ends = || self.text.match_indices('\n').map(|(at, _)| at + 1);
        self.starts.get_or_init(|| std::iter::once(0).chain(ends()).collect())
    }

    /// The module has been read.
    pub(super) fn set_known(&self, module: &ModuleText) {
        let functions: Vec<_> = module.functions.iter().map(|f| (f.line, f.name.clone())).collect();
        let accesses = functions.iter().map(|_| OnceLock::new()).collect();
        let variables = module.variables.iter().map(|v| (v.name.clone(), v.size > 0)).collect();
        // Each source is read once.
        let _ = self.known.set(Known { functions, accesses, variables });
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The trimmed text of a line counted from 1.
    pub(crate) fn line(&self, line: u32) -> &str {
        let Some(&start) = (line as usize).checked_sub(1).and_then(|i| self.starts().get(i)) else { return "" };
        let end = self.starts().get(line as usize).copied().unwrap_or(self.text.len());
        self.text[start..end].trim()
    }

    /// What a line was compiled from, the innermost function first; empty where nothing says so.
    pub(crate) fn source_of(&self, line: u32) -> Vec<SourceLine> {
        let functions = self.known.get().map_or(&[][..], |known| &known.functions);
        self.table.get_or_init(|| LineTable::read(&self.text, functions)).source_of(line)
    }

    /// The variables from one of whose addresses that of the access in a line was computed; none where that is not certain.
    pub(crate) fn variables_of(&self, line: u32) -> &[String] {
        let Some(known) = self.known.get() else { return &[] };
        let Some(function) = known.functions.partition_point(|(from, _)| *from <= line).checked_sub(1) else {
            return &[];
        };
        let accesses = known.accesses[function].get_or_init(|| {
            // The function alone, at the lines where it stands.
            let start = known.functions[function].0 as usize - 1;
            let end = known
                .functions
                .get(function + 1)
                .map_or(self.text.len(), |(next, _)| self.starts()[*next as usize - 1]);
            let text = "\n".repeat(start) + &self.text[self.starts()[start]..end];
            let tree = super::parser::parse(text.into(), Bodies::Read).map(|(tree, _)| tree).unwrap_or_default();
            tree.functions.first().map_or_else(Accesses::new, |function| symbols::accesses(function, &known.variables))
        });
        accesses.get(&line).map_or(&[], |names| names)
    }

    /// A line for a message: its number, its text and what it was compiled from.
    pub(crate) fn describe(&self, line: u32) -> impl fmt::Display + '_ {
        let source = self.source_of(line);
        let place = if source.is_empty() { String::new() } else { format!(" ({})", crate::fault::Calls(&source)) };
        format!("line {line} `{}`{place}", self.line(line))
    }

    pub(crate) fn error(&self, line: u32, message: impl Into<String>) -> crate::PtxError {
        crate::PtxError { line, text: self.line(line).to_owned(), message: message.into() }
    }
}

/// The scalar types of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    B8,
    B16,
    B32,
    B64,
    B128,
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    Pred,
}

impl Type {
    pub(crate) fn parse(word: &str) -> Option<Type> {
        Some(match word {
            "b8" => Type::B8,
            "b16" => Type::B16,
            "b32" => Type::B32,
            "b64" => Type::B64,
            "b128" => Type::B128,
            "u8" => Type::U8,
            "u16" => Type::U16,
            "u32" => Type::U32,
            "u64" => Type::U64,
            "s8" => Type::S8,
            "s16" => Type::S16,
            "s32" => Type::S32,
            "s64" => Type::S64,
            "f16" => Type::F16,
            "f16x2" => Type::F16x2,
            "bf16" => Type::Bf16,
            "bf16x2" => Type::Bf16x2,
            "tf32" => Type::Tf32,
            "f32" => Type::F32,
            "f64" => Type::F64,
            "pred" => Type::Pred,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// Bytes in memory; a predicate has none.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Type::B8 | Type::U8 | Type::S8 => 1,
            Type::B16 | Type::U16 | Type::S16 | Type::F16 | Type::Bf16 => 2,
            Type::B32 | Type::U32 | Type::S32 | Type::F32 | Type::F16x2 | Type::Bf16x2 | Type::Tf32 => 4,
            Type::B64 | Type::U64 | Type::S64 | Type::F64 => 8,
            Type::B128 => 16,
            Type::Pred => 0,
        }
    }

    pub(crate) fn bits(self) -> u32 {
        self.bytes() as u32 * 8
    }

    pub(crate) fn is_signed(self) -> bool {
        matches!(self, Type::S8 | Type::S16 | Type::S32 | Type::S64)
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Type::U8 | Type::U16 | Type::U32 | Type::U64) || self.is_signed()
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2 | Type::Tf32 | Type::F32 | Type::F64)
    }
}

/// A literal: integers keep their two's complement, floats the bits they were written with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Literal {
    Integer(u64),
    /// `0fXXXXXXXX`.
    Single(u32),
    /// `0dXXXXXXXXXXXXXXXX` or a decimal fraction.
    Double(u64),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    /// A register, a special register, a variable, a label or a function.
    Name(String),
    /// `!%p`.
    Not(String),
    /// `name+offset` outside brackets.
    Offset(String, i64),
    Literal(Literal),
    /// `[base+offset]`; no base means an absolute address.
    Address {
        base: Option<String>,
        offset: i64,
    },
    /// `[a, b, {c, d}]`: an address with coordinates, of `tex` and the copies of tensors.
    Indexed(Vec<Operand>),
    /// `{a, b}`.
    Vector(Vec<Operand>),
    /// `%p|%q`: two results.
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
}

#[derive(Clone, Debug)]
pub(crate) struct Guard {
    pub(crate) predicate: String,
    pub(crate) negated: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct InstructionText {
    pub(crate) line: u32,
    pub(crate) guard: Option<Guard>,
    /// The opcode with its modifiers, as written: `ld.global.v4.b32`.
    pub(crate) opcode: String,
    pub(crate) operands: Vec<Operand>,
    /// Why the operands could not be read.
    pub(crate) malformed: Option<crate::PtxError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateSpace {
    Global,
    Const,
    Shared,
    Local,
    Param,
}

/// The contents of an initialised variable.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Initialiser {
    Literal(Literal),
    /// The address of another variable (`generic(name)` or the plain name) plus an offset.
    Symbol(String, i64),
    List(Vec<Initialiser>),
}

#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) line: u32,
    pub(crate) space: StateSpace,
    pub(crate) name: String,
    pub(crate) element: Type,
    pub(crate) align: usize,
    /// Bytes; 0 for an array without a size (`dyn[]`).
    pub(crate) size: usize,
    pub(crate) external: bool,
    pub(crate) initialiser: Option<Initialiser>,
}

#[derive(Clone, Debug)]
pub(crate) struct RegisterDeclaration {
    pub(crate) line: u32,
    pub(crate) kind: Type,
    /// The name, or the prefix when `count` is given (`%r<9>`).
    pub(crate) name: String,
    pub(crate) count: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) enum Statement {
    Open,
    Close,
    Label {
        line: u32,
        name: String,
    },
    Register(RegisterDeclaration),
    Variable(Variable),
    BranchTargets {
        line: u32,
        name: String,
        labels: Vec<String>,
    },
    /// What a function called through a register takes and gives.
    Prototype {
        line: u32,
        name: String,
        results: Vec<Parameter>,
        parameters: Vec<Parameter>,
    },
    /// The functions that a register may hold the address of, by `.calltargets`.
    CallTargets {
        functions: Vec<String>,
    },
    Instruction(InstructionText),
}

/// A parameter of a function, in parameter memory or in a register.
#[derive(Clone, Debug)]
pub(crate) enum Parameter {
    Memory(Variable),
    Register(RegisterDeclaration),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    /// `.maxntid` or `.reqntid`, the product of its dimensions.
    pub(crate) max_threads: Option<u32>,
    /// `.reqntid` as written.
    pub(crate) required: Option<[u32; 3]>,
    /// `.reqnctapercluster` as written.
    pub(crate) cluster: Option<[u32; 3]>,
}

#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) line: u32,
    pub(crate) name: String,
    pub(crate) is_entry: bool,
    pub(crate) results: Vec<Parameter>,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) limits: Limits,
    /// None for a prototype.
    pub(crate) body: Option<Body>,
}

/// What lies between the braces of a function.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Read(Vec<Statement>),
    Deferred(BodyText),
}

/// Where the body of a function lies in the text, its braces included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BodyText {
    pub(crate) at: Range<usize>,
    /// The line in which it begins.
    pub(crate) line: u32,
}

impl Function {
    /// Its statements; none for a prototype, and for a body that has not been read.
    pub(crate) fn statements(&self) -> &[Statement] {
        match &self.body {
            Some(Body::Read(statements)) => statements,
            Some(Body::Deferred(_)) | None => &[],
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ModuleText {
    pub(crate) variables: Vec<Variable>,
    pub(crate) functions: Vec<Function>,
    /// `.alias`: a name and the function it stands for.
    pub(crate) aliases: Vec<(String, String)>,
}
