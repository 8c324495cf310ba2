//! Labels, lists of labels, and calls, which are expanded in place.

use super::{Binding, Builder, CALL_DEPTH, Fixup, Place, Target};
use crate::counters::Class;
use crate::decode::Decoded;
use crate::program::{Handlers, UNGUARDED};
use crate::ptx::ast::*;

impl Builder<'_> {
    /// Makes the last instruction's `imm` the place of a label.
    pub(crate) fn target(&mut self, label: &str) {
        let at = Target::Instruction(self.code.len() - 1);
        self.fixups.push(Fixup { at, scope: self.scope, label: label.to_owned(), line: self.line });
    }

    /// A list of the places of the labels that a `.branchtargets` names.
    pub(crate) fn target_list(&mut self, name: &str) -> Decoded<u64> {
        let mut at = Some(self.scope);
        let labels = loop {
            match at {
                None => {
                    return Err(
                        self.error(format!("`{name}` is no list of branch targets; it must be declared before use"))
                    );
                }
                Some(scope) => match self.scopes[scope].targets.get(name) {
                    Some(labels) => break labels.clone(),
                    None => at = self.scopes[scope].parent,
                },
            }
        };
        let list = self.add_list(vec![0; labels.len()]);
        for (i, label) in labels.into_iter().enumerate() {
            self.fixups.push(Fixup { at: Target::List(list as usize, i), scope: self.scope, label, line: self.line });
        }
        Ok(list)
    }

    /// Puts the places of labels where they were asked for.
    pub(super) fn patch(&mut self) -> Decoded {
        for fixup in std::mem::take(&mut self.fixups) {
            let mut at = Some(fixup.scope);
            let place = loop {
                match at {
                    None => {
                        self.line = fixup.line;
                        return Err(self.error(format!("label `{}` is not in this function", fixup.label)));
                    }
                    Some(scope) => match self.scopes[scope].labels.get(&fixup.label) {
                        Some(&place) => break place,
                        None => at = self.scopes[scope].parent,
                    },
                }
            };
            match fixup.at {
                Target::Instruction(i) => self.code[i].imm = place as u64,
                Target::List(list, i) => self.lists[list][i] = place,
            }
        }
        Ok(())
    }

    /// The label after the call being expanded; none in a kernel.
    pub(crate) fn return_target(&self) -> Option<(usize, String)> {
        self.returns.last().cloned()
    }

    pub(crate) fn target_in(&mut self, scope: usize, label: &str) {
        let at = Target::Instruction(self.code.len() - 1);
        self.fixups.push(Fixup { at, scope, label: label.to_owned(), line: self.line });
    }

    /// Expands a call in place.
    pub(crate) fn expand(&mut self, name: &str, results: &[Operand], arguments: &[Operand]) -> Decoded {
        let Some(&function) = self.functions.get(name) else {
            return Err(
                self.error(format!("`{name}` is no function of this module; indirect calls are not executed here"))
            );
        };
        let Some(body) = function.body.as_deref() else {
            return Err(self.error(format!("`{name}` is declared but not defined in this module")));
        };
        if function.is_entry {
            return Err(self.error(format!("`{name}` is a kernel and cannot be called")));
        }
        if self.calls.iter().any(|c| c == name) {
            return Err(self.error(format!("`{name}` calls itself; recursion is not executed here")));
        }
        if self.calls.len() > CALL_DEPTH {
            return Err(self.error(format!("calls nest more than {CALL_DEPTH} deep")));
        }
        if function.results.len() != results.len() || function.parameters.len() != arguments.len() {
            return Err(self.error(format!(
                "`{name}` takes {} arguments and gives {} results; found {} and {}",
                function.parameters.len(),
                function.results.len(),
                arguments.len(),
                results.len()
            )));
        }
        let formals = function.parameters.iter().chain(&function.results);
        let mut bindings = Vec::new();
        for (formal, actual) in formals.zip(arguments.iter().chain(results)) {
            let Operand::Name(actual) = actual else {
                return Err(self.error("expected the name of a variable or register as an argument of a call"));
            };
            let found = self.find(actual)?;
            let (formal_name, binding) = match (formal, found) {
                (Parameter::Memory(v), Some(binding @ Binding::Variable(Place::CallParam(_)))) => (&v.name, binding),
                (Parameter::Register(r), Some(binding @ Binding::Register { .. })) => (&r.name, binding),
                (Parameter::Register(r), Some(binding @ Binding::Predicate(_))) => (&r.name, binding),
                _ => {
                    return Err(self.error(format!(
                        "`{actual}` does not match the parameter of `{name}`; expected a `.param` variable"
                    )));
                }
            };
            bindings.push((formal_name.clone(), binding));
        }
        let outer = self.open(None);
        let (line, guard) = (self.line, self.guard);
        for (formal, binding) in bindings {
            self.bind(&formal, binding)?;
        }
        self.calls.push(name.to_owned());
        // No PTX label can have this name.
        self.returns.push((self.scope, "return".to_owned() + " "));
        self.guard = (UNGUARDED, 0);
        self.statements(body)?;
        self.place_label("return ")?;
        self.returns.pop();
        self.calls.pop();
        (self.scope, self.line, self.guard) = (outer, line, guard);
        Ok(())
    }

    pub(crate) fn is_guarded(&self) -> bool {
        self.guard.0 != UNGUARDED
    }

    /// Emits a branch over what follows, for lanes that the guard excludes; returns where it is.
    pub(crate) fn skip_unless_guard(&mut self, handlers: Handlers) -> usize {
        let guard = self.guard;
        self.guard.1 = !guard.1;
        self.emit(handlers, Class::Control, [0; 8], 0, crate::exec::control::FLOW_JUMP);
        self.guard = (UNGUARDED, 0);
        self.code.len() - 1
    }

    /// Ends what `skip_unless_guard` began.
    pub(crate) fn skip_to_here(&mut self, at: usize) {
        self.code[at].imm = self.code.len() as u64;
    }
}
