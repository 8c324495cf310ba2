//! Labels, lists of labels, and calls: expanded in place, or with a frame of the callee's own.

use super::{Binding, Builder, CALL_DEPTH, Fixup, Labelled, MOST_EXPANDED, Place};
use crate::counters::Class;
use crate::decode::Decoded;
use crate::exec::lanes::plain;
use crate::program::{Builtin, Call, Handlers, Passed, Reg, Target, UNGUARDED};
use crate::ptx::ast::*;

impl Builder<'_> {
    /// Makes the last instruction's `imm` the place of a label.
    pub(crate) fn target(&mut self, label: &str) {
        let at = Labelled::Instruction(self.code.len() - 1);
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
            self.fixups.push(Fixup { at: Labelled::List(list as usize, i), scope: self.scope, label, line: self.line });
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
                Labelled::Instruction(i) => self.code[i].imm = place as u64,
                Labelled::List(list, i) => self.lists[list][i] = place,
            }
        }
        Ok(())
    }

    /// The label after the call being expanded; none in a kernel.
    pub(crate) fn return_target(&self) -> Option<(usize, String)> {
        self.returns.last().cloned()
    }

    pub(crate) fn target_in(&mut self, scope: usize, label: &str) {
        let at = Labelled::Instruction(self.code.len() - 1);
        self.fixups.push(Fixup { at, scope, label: label.to_owned(), line: self.line });
    }

    /// A call by name: expanded in place, or with a frame where the callee may reach itself; of a function that is only
    /// declared, what softcuda knows of it.
    pub(crate) fn call(&mut self, name: &str, results: &[Operand], arguments: &[Operand]) -> Decoded {
        let Some((index, function)) = self.functions.find(name) else {
            return Err(self.error(format!("`{name}` is no function of this module")));
        };
        if function.is_entry {
            return Err(self.error(format!("`{name}` is a kernel and cannot be called")));
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
        if function.body.is_none() {
            let Some(builtin) = Builtin::parse(name) else {
                let message = format!("`{name}` is declared but not defined in this module");
                self.emit_unknown(message);
                return Ok(());
            };
            return self.call_framed(Target::Builtin(builtin), results, arguments, None);
        }
        let long = self.calls.len() > CALL_DEPTH || self.code.len() > MOST_EXPANDED;
        if self.functions.is_recursive(index) || long || self.calls.iter().any(|c| c == name) {
            let segment = self.segment_of(index);
            return self.call_framed(Target::Segment(segment), results, arguments, None);
        }
        self.expand(function, results, arguments)
    }

    /// A call of whatever a register points to, by its prototype.
    pub(crate) fn call_indirect(
        &mut self,
        register: Reg,
        results: &[Operand],
        arguments: &[Operand],
        list: Option<&str>,
    ) -> Decoded {
        let mut at = Some(self.scope);
        let mut layout = None;
        while let (Some(scope), Some(name), None) = (at, list, &layout) {
            layout = self.scopes[scope].prototypes.get(name).cloned();
            at = self.scopes[scope].parent;
        }
        self.require_taken();
        self.call_framed(Target::Register(register), results, arguments, layout)
    }

    /// A call with a frame of the callee's own.
    fn call_framed(
        &mut self,
        target: Target,
        results: &[Operand],
        arguments: &[Operand],
        prototype: Option<(usize, usize)>,
    ) -> Decoded {
        if prototype.is_some_and(|counts| counts != (arguments.len(), results.len())) {
            return Err(self.error("the call's arguments and results are not those of its prototype"));
        }
        let arguments = arguments.iter().map(|operand| self.passed(operand)).collect::<Decoded<_>>()?;
        let results = results.iter().map(|operand| self.passed(operand)).collect::<Decoded<_>>()?;
        self.call_sites.push(Call { target, arguments, results });
        let at = self.call_sites.len() as u64 - 1;
        self.emit(plain(crate::exec::calls::call), Class::Control, [0; 8], at, 0);
        Ok(())
    }

    /// Something that a call passes or gets back.
    fn passed(&mut self, operand: &Operand) -> Decoded<Passed> {
        let Operand::Name(name) = operand else {
            let Operand::Literal(_) = operand else {
                return Err(self.error("expected the name of a variable or register as an argument of a call"));
            };
            let reg = self.source_operand(operand, Type::B32)?;
            return Ok(Passed::Register { reg, bytes: 4 });
        };
        match self.find(name)? {
            Some(Binding::Variable(place @ (Place::CallParam(_) | Place::Local(_)))) => {
                Ok(Passed::Memory(self.place_register(place, 0, 64)))
            }
            Some(Binding::Register { reg, bits }) => Ok(Passed::Register { reg, bytes: bits as u8 / 8 }),
            Some(Binding::Predicate(p)) => Ok(Passed::Predicate(p)),
            _ => Err(self.error(format!("`{name}` cannot be passed; expected a `.param` variable or a register"))),
        }
    }

    /// Expands a call in place.
    fn expand(&mut self, function: &Function, results: &[Operand], arguments: &[Operand]) -> Decoded {
        let name = &function.name;
        let body = function.statements();
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
