//! The functions of a module: by name, which may be called through a register, and which call themselves.
//!
//! A direct call is expanded in place, so that the code around it and the callee's are one (`Builder::expand`). That cannot be
//! done for a function that reaches itself or whose address is taken; such a function is placed once in the kernel's code and
//! called with a frame of its own ([`super::calls`]).

use super::Decoded;
use crate::memory::FUNCTION_WINDOW;
use crate::ptx::ast::{Function, Initialiser, ModuleText, Operand, Source, Statement};
use std::collections::{HashMap, HashSet};

pub(crate) struct Functions<'m> {
    by_name: HashMap<&'m str, usize>,
    list: Vec<&'m Function>,
    /// Those whose address some instruction or variable takes.
    taken: Vec<usize>,
    /// Those that call themselves, perhaps by way of others.
    recursive: HashSet<usize>,
}

impl<'m> Functions<'m> {
    pub(crate) fn new(tree: &'m ModuleText, source: &Source) -> Decoded<Functions<'m>> {
        let (mut by_name, mut list): (HashMap<&str, usize>, Vec<&Function>) = (HashMap::new(), Vec::new());
        for function in &tree.functions {
            match by_name.get(function.name.as_str()) {
                Some(&known) if list[known].body.is_some() && function.body.is_some() => {
                    return Err(source.error(function.line, format!("`{}` is defined twice", function.name)));
                }
                Some(&known) if function.body.is_some() => list[known] = function,
                Some(_) => {}
                None => {
                    by_name.insert(&function.name, list.len());
                    list.push(function);
                }
            }
        }
        for (name, function) in &tree.aliases {
            // An alias stands where a declaration of its name may have stood.
            if let Some(&known) = by_name.get(function.as_str()) {
                by_name.insert(name, known);
            }
        }
        let mut functions = Functions { by_name, list, taken: Vec::new(), recursive: HashSet::new() };
        functions.find_taken(tree);
        functions.find_recursive();
        Ok(functions)
    }

    pub(crate) fn find(&self, name: &str) -> Option<(usize, &'m Function)> {
        self.by_name.get(name).map(|&index| (index, self.list[index]))
    }

    pub(crate) fn get(&self, index: usize) -> &'m Function {
        self.list[index]
    }

    pub(crate) fn taken(&self) -> &[usize] {
        &self.taken
    }

    pub(crate) fn is_recursive(&self, index: usize) -> bool {
        self.recursive.contains(&index)
    }

    /// What a register holds that points to a function.
    pub(crate) fn address(index: usize) -> u64 {
        FUNCTION_WINDOW + 16 * (index as u64 + 1)
    }

    /// The addresses by name.
    pub(crate) fn addresses(&self) -> HashMap<String, u64> {
        self.by_name.iter().map(|(&name, &index)| (name.to_owned(), Self::address(index))).collect()
    }

    /// Whether statements name a function that the module defines, or take the address of any.
    pub(crate) fn are_named_in(&self, statements: &[Statement]) -> bool {
        let mut named = Vec::new();
        for statement in statements {
            match statement {
                Statement::Instruction(text) => text.operands.iter().for_each(|operand| names(operand, &mut named)),
                Statement::CallTargets { .. } | Statement::Prototype { .. } => return true,
                _ => {}
            }
        }
        // Those that are declared only are the runtime's, which is the same everywhere.
        named.iter().filter_map(|name| self.find(name)).any(|(_, function)| function.body.is_some())
    }

    fn find_taken(&mut self, tree: &ModuleText) {
        fn symbols<'i>(item: &'i Initialiser, out: &mut Vec<&'i str>) {
            match item {
                Initialiser::Symbol(name, _) => out.push(name),
                Initialiser::List(items) => items.iter().for_each(|item| symbols(item, out)),
                Initialiser::Literal(_) => {}
            }
        }
        let mut used = Vec::new();
        for variable in &tree.variables {
            variable.initialiser.iter().for_each(|item| symbols(item, &mut used));
        }
        for statement in tree.functions.iter().flat_map(Function::statements) {
            match statement {
                Statement::Instruction(text) if !is_call(&text.opcode) => {
                    text.operands.iter().for_each(|operand| names(operand, &mut used));
                }
                Statement::CallTargets { functions, .. } => used.extend(functions.iter().map(String::as_str)),
                _ => {}
            }
        }
        let mut taken: Vec<usize> = used.into_iter().filter_map(|name| self.by_name.get(name).copied()).collect();
        taken.sort_unstable();
        taken.dedup();
        self.taken = taken;
    }

    fn find_recursive(&mut self) {
        let callees = |index: usize| -> Vec<usize> {
            let body = self.list[index].statements().iter();
            let calls = body.filter_map(|statement| match statement {
                Statement::Instruction(text) if is_call(&text.opcode) => Some(&text.operands),
                _ => None,
            });
            let names = calls.flat_map(|operands| {
                operands.iter().filter_map(|operand| match operand {
                    Operand::Name(name) => self.by_name.get(name.as_str()).copied(),
                    _ => None,
                })
            });
            names.collect()
        };
        let graph: Vec<Vec<usize>> = (0..self.list.len()).map(callees).collect();
        let reaches_itself = |start: usize| {
            let mut seen = vec![false; graph.len()];
            let mut open = graph[start].clone();
            while let Some(at) = open.pop() {
                if at == start {
                    return true;
                }
                if !std::mem::replace(&mut seen[at], true) {
                    open.extend(&graph[at]);
                }
            }
            false
        };
        self.recursive = (0..graph.len()).filter(|&index| reaches_itself(index)).collect();
    }
}

/// The names in an operand.
fn names<'o>(operand: &'o Operand, out: &mut Vec<&'o str>) {
    match operand {
        Operand::Name(name) => out.push(name),
        Operand::Vector(items) => items.iter().for_each(|item| names(item, out)),
        _ => {}
    }
}

fn is_call(opcode: &str) -> bool {
    opcode == "call" || opcode.starts_with("call.")
}
