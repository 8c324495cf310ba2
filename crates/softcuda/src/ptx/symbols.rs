//! Which variables the address of an access was computed from.
//!
//! A block's shared variables lie one behind the other, so an access past the end of one is within the next, and within
//! bounds. What tells is the name: an address that was computed from the address of `tile` must lie in `tile`. So each register
//! of a function gets the set of variables whose addresses may have gone into it, by every instruction that writes it,
//! wherever that stands; and [`ANYTHING`], where it may hold an address from elsewhere: one that was loaded, or an argument.
//! In a sum, the side with a variable is the address and the other an index. An access is known by its line.

use super::ast::{Function, InstructionText, Operand, StateSpace, Statement};
use std::collections::HashMap;

/// A set of variables by their index, at most 63 of them.
type Set = u64;

/// Not only these variables.
const ANYTHING: Set = 1 << 63;

/// The names of variables, by the line of each access whose address is certainly computed from one of them.
pub(crate) type Accesses = HashMap<u32, Vec<String>>;

/// How an instruction's result comes of its operands.
enum Flow {
    /// It is one of them.
    Copy(&'static [usize]),
    /// A sum, or another operation on an address and an index.
    Sum(&'static [usize]),
    Other,
}

fn flow(opcode: &str) -> Flow {
    match opcode.split('.').next().unwrap_or("") {
        "mov" | "cvt" | "cvta" | "shfl" => Flow::Copy(&[1]),
        "selp" | "min" | "max" => Flow::Copy(&[1, 2]),
        "add" | "or" | "xor" | "and" => Flow::Sum(&[1, 2]),
        "sub" => Flow::Sum(&[1]),
        "mad" => Flow::Sum(&[3]),
        "lop3" => Flow::Sum(&[1, 2, 3]),
        _ => Flow::Other,
    }
}

/// An operand that an instruction reads.
enum Read {
    Register(usize),
    Variable(Set),
    /// A literal, or what is neither.
    Other,
}

struct Write {
    to: usize,
    sum: bool,
    from: Vec<Read>,
}

#[derive(Default)]
struct Walk {
    /// Names that are declared, by scope; the innermost scope last. A name with `<` is the prefix of a range of registers.
    scopes: Vec<(usize, Vec<String>)>,
    opened: usize,
    /// Registers by scope and name.
    registers: HashMap<(usize, String), usize>,
    variables: Vec<String>,
    writes: Vec<Write>,
    accesses: Vec<(u32, Read)>,
}

/// The accesses of a function. `variables` are the module's, with whether each has a size: one that has none (dynamic shared
/// memory) may be of any.
pub(crate) fn accesses(function: &Function, variables: &[(String, bool)]) -> Accesses {
    let mut walk = Walk { scopes: vec![(0, Vec::new())], ..Walk::default() };
    walk.variables = variables.iter().filter(|(_, sized)| *sized).map(|(name, _)| name.clone()).collect();
    for statement in function.statements() {
        walk.statement(statement);
    }
    walk.solve()
}

impl Walk {
    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Open => {
                self.opened += 1;
                self.scopes.push((self.opened, Vec::new()));
            }
            Statement::Close if self.scopes.len() > 1 => {
                self.scopes.pop();
            }
            Statement::Register(register) => {
                let name = match register.count {
                    Some(_) => format!("{}<", register.name),
                    None => register.name.clone(),
                };
                if let Some((_, names)) = self.scopes.last_mut() {
                    names.push(name);
                }
            }
            Statement::Variable(v) if matches!(v.space, StateSpace::Shared | StateSpace::Global) && v.size > 0 => {
                self.variables.push(v.name.clone());
            }
            Statement::Instruction(text) => self.instruction(text),
            _ => {}
        }
    }

    fn register(&mut self, name: &str) -> Option<usize> {
        let prefix = format!("{}<", name.trim_end_matches(|c: char| c.is_ascii_digit()));
        let declares = |names: &[String]| names.iter().any(|known| *known == name || *known == prefix);
        let scope = self.scopes.iter().rev().find(|(_, names)| declares(names))?.0;
        let next = self.registers.len();
        Some(*self.registers.entry((scope, name.to_owned())).or_insert(next))
    }

    fn read(&mut self, operand: &Operand) -> Read {
        let name = match operand {
            Operand::Name(name) | Operand::Offset(name, _) => name,
            Operand::Address { base: Some(base), .. } => base,
            _ => return Read::Other,
        };
        if let Some(register) = self.register(name) {
            return Read::Register(register);
        }
        match self.variables.iter().position(|known| known == name) {
            Some(index) if index < 63 => Read::Variable(1 << index),
            _ => Read::Other,
        }
    }

    fn instruction(&mut self, text: &InstructionText) {
        for operand in &text.operands {
            if matches!(operand, Operand::Address { .. }) {
                let read = self.read(operand);
                self.accesses.push((text.line, read));
            }
        }
        let (sources, sum) = match flow(&text.opcode) {
            Flow::Copy(sources) => (sources, false),
            Flow::Sum(sources) => (sources, true),
            Flow::Other => (&[][..], false),
        };
        let mut targets = Vec::new();
        match text.operands.first() {
            Some(Operand::Vector(parts)) => targets.extend(parts),
            Some(Operand::Pair(value, _)) => targets.push(&**value),
            Some(other) => targets.push(other),
            None => {}
        }
        for target in targets {
            let Operand::Name(name) = target else { continue };
            let Some(to) = self.register(name) else { continue };
            let mut from: Vec<Read> =
                sources.iter().filter_map(|&at| text.operands.get(at)).map(|operand| self.read(operand)).collect();
            if from.is_empty() {
                from.push(Read::Other);
            }
            self.writes.push(Write { to, sum, from });
        }
    }

    fn solve(self) -> Accesses {
        let mut sets = vec![0; self.registers.len()];
        // Variables first, so that it is known which side of a sum has one.
        settle(&mut sets, |sets| {
            for Write { to, from, .. } in &self.writes {
                for read in from {
                    sets[*to] |= match read {
                        Read::Register(register) => sets[*register],
                        Read::Variable(variable) => *variable,
                        Read::Other => 0,
                    };
                }
            }
        });
        settle(&mut sets, |sets| {
            for Write { to, sum, from } in &self.writes {
                let set = |read: &Read| match read {
                    Read::Register(register) => sets[*register],
                    Read::Variable(variable) => *variable,
                    Read::Other => ANYTHING,
                };
                let has_address = |read: &&Read| !sum || set(read) & !ANYTHING != 0;
                let found = match from.iter().any(|read| has_address(&read)) {
                    true => from.iter().filter(has_address).fold(0, |all, read| all | set(read)),
                    false => from.iter().fold(0, |all, read| all | set(read)),
                };
                sets[*to] |= found & ANYTHING;
            }
        });
        let mut by_line: HashMap<u32, Set> = HashMap::new();
        for (line, read) in &self.accesses {
            *by_line.entry(*line).or_default() |= match read {
                // A register that nothing writes.
                Read::Register(register) if sets[*register] == 0 => ANYTHING,
                Read::Register(register) => sets[*register],
                Read::Variable(variable) => *variable,
                Read::Other => ANYTHING,
            };
        }
        let certain = by_line.into_iter().filter(|(_, set)| set & ANYTHING == 0 && *set != 0);
        let names = |set: Set| (0..63).filter(|at| set >> at & 1 != 0).map(|at| self.variables[at].clone()).collect();
        certain.map(|(line, set)| (line, names(set))).collect()
    }
}

/// Repeats a step until it changes nothing.
fn settle(sets: &mut [Set], step: impl Fn(&mut [Set])) {
    loop {
        let before = sets.to_vec();
        step(sets);
        if before == *sets {
            return;
        }
    }
}
