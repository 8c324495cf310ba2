//! Functions that are called with a frame: each is decoded once into a segment of the kernel's code.
//!
//! A segment's registers are its own, so a call saves nothing, except those of a function that is entered again before it has
//! ended. Its variables lie in a frame on the thread's stack, above the kernel's local memory: parameters first, then
//! results, as the prototype alone says, since the caller through a register knows no more.

use super::{Binding, Builder, Place, Scope};
use crate::counters::Class;
use crate::decode::{Decoded, layout};
use crate::exec::calls::{frame_address, ret};
use crate::exec::control as run;
use crate::exec::lanes::plain;
use crate::program::{Callee, Handlers, Instruction, Passed, Reg, Slot, UNGUARDED};
use crate::ptx::ast::{Function, Parameter, Variable};

/// Code whose branches count from its own start.
pub(super) struct Segment {
    code: Vec<Instruction>,
    handlers: Vec<Handlers>,
}

/// Where parameters, then results, lie in a frame, and the bytes they take.
struct FrameLayout {
    parameters: Vec<Option<Slot>>,
    results: Vec<Option<Slot>>,
}

/// The places of what is passed in memory; `None` for what is passed in a register.
fn frame_layout(parameters: &[Parameter], results: &[Parameter]) -> FrameLayout {
    let mut end = 0u32;
    let mut slot = |parameter: &Parameter| match parameter {
        Parameter::Memory(Variable { align, size, .. }) => {
            let offset = end.next_multiple_of(*align as u32);
            end = offset.saturating_add(*size as u32);
            Some(Slot { offset, size: *size as u32 })
        }
        Parameter::Register(_) => None,
    };
    FrameLayout {
        parameters: parameters.iter().map(&mut slot).collect(),
        results: results.iter().map(&mut slot).collect(),
    }
}

impl<'m> Builder<'m> {
    /// The number of a function's segment, which will be decoded if it is not yet.
    pub(super) fn segment_of(&mut self, function: usize) -> u32 {
        if let Some(at) = self.required.iter().position(|&known| known == function) {
            return at as u32;
        }
        self.required.push(function);
        self.required.len() as u32 - 1
    }

    /// All functions whose address is taken get segments.
    pub(crate) fn require_taken(&mut self) {
        for &index in self.functions.taken() {
            let function = self.functions.get(index);
            if function.body.is_some() && !function.is_entry {
                self.segment_of(index);
            }
        }
    }

    /// Ends the code decoded since the last segment.
    pub(super) fn end_segment(&mut self) -> Decoded<Segment> {
        self.patch()?;
        layout::order(&mut self.code, &mut self.handlers, &mut self.lists);
        Ok(Segment { code: std::mem::take(&mut self.code), handlers: std::mem::take(&mut self.handlers) })
    }

    /// Decodes the functions that calls asked for, those too that these ask for in turn.
    pub(super) fn decode_required(&mut self) -> Decoded<(Vec<Segment>, Vec<Callee>)> {
        let (mut segments, mut callees) = (Vec::new(), Vec::new());
        while let Some(&index) = self.required.get(segments.len()) {
            let function = self.functions.get(index);
            let (segment, callee) = self.decode_function(index, function)?;
            segments.push(segment);
            callees.push(callee);
        }
        Ok((segments, callees))
    }

    fn decode_function(&mut self, index: usize, function: &'m Function) -> Decoded<(Segment, Callee)> {
        self.line = function.line;
        self.guard = (UNGUARDED, 0);
        self.scopes.push(Scope::default());
        self.scope = self.scopes.len() - 1;
        self.calls = vec![function.name.clone()];
        self.carry = None;
        self.in_frame = true;
        let kernel_local = std::mem::take(&mut self.local_bytes);
        let (first_register, first_predicate) = (self.allocated.len(), self.predicates);
        let layout = frame_layout(&function.parameters, &function.results);
        let (mut parameter_registers, mut result_registers) = (Vec::new(), Vec::new());
        for (formal, result) in
            function.parameters.iter().map(|p| (p, false)).chain(function.results.iter().map(|p| (p, true)))
        {
            let register = match formal {
                Parameter::Memory(v) => {
                    let offset = self.reserve_local(v)?;
                    self.bind(&v.name, Binding::Variable(Place::CallParam(offset)))?;
                    None
                }
                Parameter::Register(r) => {
                    self.declare(r)?;
                    self.find(&r.name)?.and_then(|binding| match binding {
                        Binding::Register { reg, bits } => Some(Passed::Register { reg, bytes: bits as u8 / 8 }),
                        Binding::Predicate(p) => Some(Passed::Predicate(p)),
                        Binding::Variable(_) => None,
                    })
                }
            };
            if result { &mut result_registers } else { &mut parameter_registers }.push(register);
        }
        let body = function.statements();
        self.statements(body)?;
        self.line = function.line;
        self.guard = (UNGUARDED, 0);
        self.emit(plain(ret), Class::Control, [0; 8], 0, run::FLOW_EXIT);
        let segment = self.end_segment()?;
        let frame_bytes = std::mem::replace(&mut self.local_bytes, kernel_local).next_multiple_of(16);
        self.in_frame = false;
        let callee = Callee {
            name: function.name.clone(),
            function: index,
            entry: 0,
            registers: self.allocated[first_register..].to_vec(),
            predicates: first_predicate..self.predicates,
            frame_bytes,
            parameters: layout.parameters,
            results: layout.results,
            parameter_registers,
            result_registers,
        };
        Ok((segment, callee))
    }

    /// Puts segments one behind the other, the last first: a function before those that call it, so that lanes which
    /// have returned wait for those that have not (`exec`). Returns where the kernel's own code, `kernel`, begins.
    pub(super) fn join_segments(&mut self, kernel: Segment, segments: Vec<Segment>, callees: &mut [Callee]) -> u32 {
        let mut entry = 0;
        let order = segments.into_iter().enumerate().rev().map(|(i, segment)| (Some(i), segment));
        for (which, mut segment) in order.chain([(None, kernel)]) {
            let base = self.code.len() as u32;
            layout::shift(&mut segment.code, &mut self.lists, base);
            self.code.append(&mut segment.code);
            self.handlers.append(&mut segment.handlers);
            match which {
                Some(callee) => callees[callee].entry = base,
                None => entry = base,
            }
        }
        entry
    }

    /// A register with the address, in local memory, of an offset in the current function's frame.
    pub(in crate::decode) fn frame_register(&mut self, offset: i64, bits: u32) -> Reg {
        let reg = self.scratch(bits);
        // Not in the PTX, so not counted.
        self.emit(
            plain(frame_address),
            Class::Control,
            [reg; 8],
            offset as u64,
            run::ADDED | if bits == 64 { 8 } else { 0 },
        );
        reg
    }
}
