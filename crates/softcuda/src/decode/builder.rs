//! Names, registers, constants and labels of one kernel.

mod calls;
mod segments;

use super::functions::Functions;
use super::{Decoded, Opcode};
use crate::PtxError;
use crate::counters::Class;
use crate::exec::atomic::Vector;
use crate::exec::bulk::Bulk;
use crate::exec::lanes::plain;
use crate::exec::matrix::Matrix;
use crate::exec::video::Video;
use crate::program::{
    Call, Constant, Handlers, Instruction, Param, Program, Reg, RegisterCounts, Symbol, UNGUARDED, Unknown,
};
use crate::ptx::ast::*;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

/// The most registers of a class that one declaration may name.
const MOST_REGISTERS: u32 = 1 << 20;
/// The most instructions a kernel may have once calls are expanded.
const MOST_INSTRUCTIONS: usize = 1 << 22;
/// The deepest chain of calls that are expanded in place.
const CALL_DEPTH: usize = 64;
/// The most instructions that calls are expanded to in place.
const MOST_EXPANDED: usize = 1 << 18;
/// A thread's stack, for calls with frames, in bytes.
const STACK_BYTES: u32 = 64 << 10;

/// A variable of the module and its place when several variables share one allocation.
#[derive(Clone, Debug)]
pub(crate) struct ModuleVariable {
    pub(crate) variable: Variable,
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    Register { reg: Reg, bits: u32 },
    Predicate(u32),
    Variable(Place),
}

/// Where a variable lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    /// A module variable in global or constant memory, by index; its address is known when the module is loaded.
    Module(usize),
    /// An offset in shared memory.
    Shared(u32),
    /// The start of dynamic shared memory.
    DynamicShared,
    /// An offset in the thread's local memory.
    Local(u32),
    /// A parameter of a call, which lives in local memory.
    CallParam(u32),
    /// An offset in the kernel's parameters.
    Param(u32),
}

#[derive(Default)]
struct Scope {
    parent: Option<usize>,
    bindings: HashMap<String, Binding>,
    /// `%r<9>`: prefix, count, type.
    ranges: Vec<(String, u32, Type)>,
    labels: HashMap<String, u32>,
    targets: HashMap<String, Vec<String>>,
    /// How many parameters and results a prototype has.
    prototypes: HashMap<String, (usize, usize)>,
}

struct Fixup {
    /// The instruction whose target it is, or a list's entry.
    at: Labelled,
    scope: usize,
    label: String,
    line: u32,
}

enum Labelled {
    Instruction(usize),
    List(usize, usize),
}

pub(crate) struct Builder<'m> {
    module: &'m ModuleText,
    functions: &'m Functions<'m>,
    variables: &'m HashMap<String, usize>,
    source: Arc<Source>,
    scopes: Vec<Scope>,
    scope: usize,
    code: Vec<Instruction>,
    handlers: Vec<Handlers>,
    pub(super) constants: Vec<Constant>,
    pub(super) constant_index: HashMap<(u128, usize, Option<usize>), Reg>,
    pub(super) dynamic_constants: Vec<usize>,
    lines: u32,
    predicates: u32,
    pub(super) predicate_constants: Vec<(u32, u32)>,
    counts: RegisterCounts,
    carry: Option<u32>,
    fixups: Vec<Fixup>,
    shared_offsets: HashMap<usize, u32>,
    shared_bytes: u32,
    symbols: Vec<Symbol>,
    dynamic_align: u32,
    local_bytes: u32,
    lists: Vec<Vec<u32>>,
    /// The place that the next memory instruction gets, see `exec::memory`.
    sites: u8,
    calls: Vec<String>,
    /// Calls with frames.
    call_sites: Vec<Call>,
    /// Functions that such calls name, by number of their segment.
    required: Vec<usize>,
    /// Variables lie in a frame, not at fixed places.
    in_frame: bool,
    /// Registers and their bytes per lane, in the order in which they were given out.
    allocated: Vec<(Reg, u8)>,
    pub(super) bulks: Vec<Bulk>,
    pub(super) matrices: Vec<Matrix>,
    pub(super) videos: Vec<Video>,
    pub(super) vectors: Vec<Vector>,
    /// What instructions that cannot be executed say.
    pub(super) unknown: Vec<Unknown>,
    /// The decoder did not know the instruction, which is not the same as its being wrong.
    pub(super) unsupported: Cell<bool>,
    pub(super) environment: bool,
    /// Scope that holds the label after the call being expanded.
    returns: Vec<(usize, String)>,
    /// Of the instruction being decoded.
    line: u32,
    guard: (u32, u32),
}

/// Module variables by index, and the index of each name.
pub(crate) fn layout_variables(
    module: &ModuleText,
    source: &Source,
) -> Decoded<(Vec<ModuleVariable>, HashMap<String, usize>)> {
    let mut index = HashMap::new();
    let mut out: Vec<ModuleVariable> = Vec::new();
    for variable in &module.variables {
        if let Some(&earlier) = index.get(&variable.name) {
            // A definition may follow an `.extern` declaration of the same name.
            let known: &mut ModuleVariable = &mut out[earlier];
            if known.variable.external && !variable.external {
                known.variable = variable.clone();
            } else if !variable.external {
                return Err(source.error(variable.line, format!("variable `{}` is defined twice", variable.name)));
            }
            continue;
        }
        index.insert(variable.name.clone(), out.len());
        out.push(ModuleVariable { variable: variable.clone() });
    }
    for known in &out {
        let v = &known.variable;
        if v.external && v.space != StateSpace::Shared {
            return Err(source.error(
                v.line,
                format!("`{}` is external and no other module is linked; expected a definition", v.name),
            ));
        }
        if v.size == 0 && !(v.external && v.space == StateSpace::Shared) {
            return Err(source.error(v.line, format!("`{}` has no size; only `.extern .shared` may have none", v.name)));
        }
    }
    Ok((out, index))
}

/// Decodes one function as a kernel.
pub(crate) fn build(
    module: &ModuleText,
    functions: &Functions,
    variables: &HashMap<String, usize>,
    source: &Arc<Source>,
    function: &Function,
) -> Decoded<Program> {
    let mut b = Builder {
        module,
        functions,
        variables,
        source: source.clone(),
        scopes: vec![Scope::default()],
        scope: 0,
        code: Vec::new(),
        handlers: Vec::new(),
        constants: Vec::new(),
        constant_index: HashMap::new(),
        dynamic_constants: Vec::new(),
        lines: 0,
        predicates: 0,
        predicate_constants: Vec::new(),
        counts: RegisterCounts::default(),
        carry: None,
        fixups: Vec::new(),
        shared_offsets: HashMap::new(),
        shared_bytes: 0,
        symbols: Vec::new(),
        dynamic_align: 16,
        local_bytes: 0,
        lists: Vec::new(),
        sites: 0,
        calls: vec![function.name.clone()],
        call_sites: Vec::new(),
        required: Vec::new(),
        in_frame: false,
        allocated: Vec::new(),
        bulks: Vec::new(),
        matrices: Vec::new(),
        videos: Vec::new(),
        vectors: Vec::new(),
        unknown: Vec::new(),
        unsupported: Cell::new(false),
        environment: false,
        returns: Vec::new(),
        line: function.line,
        guard: (UNGUARDED, 0),
    };
    let (mut params, mut end) = (Vec::new(), 0usize);
    for parameter in function.parameters.iter().chain(&function.results) {
        match parameter {
            Parameter::Memory(v) if function.is_entry => {
                if v.size == 0 || v.size > 1 << 16 {
                    return Err(b.error(format!("parameter `{}` has {} bytes; expected 1 to 65536", v.name, v.size)));
                }
                end = end.next_multiple_of(v.align);
                b.bind(&v.name, Binding::Variable(Place::Param(end as u32)))?;
                params.push(Param { name: v.name.clone(), offset: end, size: v.size, align: v.align });
                end += v.size;
            }
            Parameter::Memory(v) => {
                let offset = b.reserve_local(v)?;
                b.bind(&v.name, Binding::Variable(Place::CallParam(offset)))?;
            }
            Parameter::Register(r) => b.declare(r)?,
        }
    }
    let body = function.statements();
    b.statements(body)?;
    b.line = function.line;
    b.guard = (UNGUARDED, 0);
    b.emit(plain(crate::exec::control::exit), Class::Control, [0; 8], 0, crate::exec::control::FLOW_EXIT);
    let kernel = b.end_segment()?;
    let (segments, mut callees) = b.decode_required()?;
    let entry = b.join_segments(kernel, segments, &mut callees);
    let static_local = b.local_bytes.next_multiple_of(16);
    let uses_heap = b.call_sites.iter().any(Call::uses_heap);
    let stack = if callees.is_empty() { 0 } else { STACK_BYTES };
    let dynamic = b.shared_bytes.next_multiple_of(b.dynamic_align);
    for &constant in &b.dynamic_constants {
        b.constants[constant].value += dynamic as u128;
    }
    Ok(Program {
        name: function.name.clone(),
        source: source.clone(),
        code: b.code,
        handlers: b.handlers,
        constants: b.constants,
        register_lines: b.lines as usize,
        predicates: b.predicates as usize,
        predicate_constants: b.predicate_constants,
        registers: b.counts,
        params,
        param_bytes: end,
        static_shared: b.shared_bytes,
        dynamic_shared_offset: dynamic,
        local_bytes: static_local + stack,
        static_local,
        entry,
        callees,
        calls: b.call_sites,
        bulks: b.bulks,
        matrices: b.matrices,
        videos: b.videos,
        vectors: b.vectors,
        unknown: b.unknown,
        uses_heap,
        uses_environment: b.environment,
        cluster: function.limits.cluster,
        max_threads: function.limits.max_threads,
        required_block: function.limits.required,
        lists: b.lists,
        symbols: b.symbols,
    })
}

impl<'m> Builder<'m> {
    /// The address of a function of the module.
    pub(super) fn function_address(&self, name: &str) -> Option<u64> {
        self.functions.find(name).map(|(index, _)| Functions::address(index))
    }

    /// Whether the function being decoded has its variables in a frame.
    pub(super) fn is_in_frame(&self) -> bool {
        self.in_frame
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> PtxError {
        self.source.error(self.line, message)
    }

    // ---- Scopes and names.

    fn open(&mut self, parent: Option<usize>) -> usize {
        self.scopes.push(Scope { parent, ..Scope::default() });
        let outer = self.scope;
        self.scope = self.scopes.len() - 1;
        outer
    }

    fn bind(&mut self, name: &str, binding: Binding) -> Decoded {
        if self.scopes[self.scope].bindings.insert(name.to_owned(), binding).is_some() {
            return Err(self.error(format!("`{name}` is declared twice")));
        }
        Ok(())
    }

    fn declare(&mut self, r: &RegisterDeclaration) -> Decoded {
        self.line = r.line;
        match r.count {
            Some(count) if count > MOST_REGISTERS => {
                Err(self.error(format!("{count} registers; expected at most {MOST_REGISTERS}")))
            }
            Some(count) => {
                self.scopes[self.scope].ranges.push((r.name.clone(), count, r.kind));
                Ok(())
            }
            None => {
                let binding = self.new_register(r.kind);
                self.bind(&r.name, binding)
            }
        }
    }

    fn new_register(&mut self, kind: Type) -> Binding {
        if kind == Type::Pred {
            self.counts.predicates += 1;
            return Binding::Predicate(self.new_predicate());
        }
        let bits = kind.bits().max(16);
        match bits {
            16 => self.counts.b16 += 1,
            32 => self.counts.b32 += 1,
            64 => self.counts.b64 += 1,
            _ => self.counts.b128 += 1,
        }
        Binding::Register { reg: self.scratch(bits), bits }
    }

    pub(super) fn new_predicate(&mut self) -> u32 {
        self.predicates += 1;
        self.predicates - 1
    }

    /// A register nobody else knows.
    pub(crate) fn scratch(&mut self, bits: u32) -> Reg {
        let reg = self.lines;
        self.lines += bits / 16;
        self.allocated.push((reg, bits as u8 / 8));
        reg
    }

    /// A predicate nobody else knows.
    pub(crate) fn scratch_predicate(&mut self) -> u32 {
        self.new_predicate()
    }

    /// The carry flag of `add.cc` and its kin.
    pub(crate) fn carry(&mut self) -> u32 {
        if let Some(p) = self.carry {
            return p;
        }
        let p = self.new_predicate();
        self.carry = Some(p);
        p
    }

    pub(crate) fn find(&mut self, name: &str) -> Decoded<Option<Binding>> {
        let mut at = Some(self.scope);
        while let Some(scope) = at {
            if let Some(binding) = self.scopes[scope].bindings.get(name) {
                return Ok(Some(binding.clone()));
            }
            let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
            let (prefix, number) = name.split_at(digits);
            let range = self.scopes[scope].ranges.iter().find(|r| r.0 == prefix).cloned();
            if let (Some((_, count, kind)), Ok(index)) = (range, number.parse::<u32>())
                && index < count
            {
                let binding = self.new_register(kind);
                self.scopes[scope].bindings.insert(name.to_owned(), binding.clone());
                return Ok(Some(binding));
            }
            at = self.scopes[scope].parent;
        }
        let Some(&index) = self.variables.get(name) else {
            return Ok(None);
        };
        let variable = &self.module.variables.iter().find(|v| v.name == name && !v.external);
        let external = self.module.variables.iter().find(|v| v.name == name);
        let Some(variable) = variable.or(external) else {
            return Ok(None);
        };
        let place = match variable.space {
            StateSpace::Shared => self.shared_place(index, variable)?,
            _ => Place::Module(index),
        };
        Ok(Some(Binding::Variable(place)))
    }

    fn shared_place(&mut self, index: usize, variable: &Variable) -> Decoded<Place> {
        if variable.external {
            self.dynamic_align = self.dynamic_align.max(variable.align as u32);
            return Ok(Place::DynamicShared);
        }
        if let Some(&offset) = self.shared_offsets.get(&index) {
            return Ok(Place::Shared(offset));
        }
        let offset = self.reserve_shared(variable)?;
        self.shared_offsets.insert(index, offset);
        Ok(Place::Shared(offset))
    }

    fn reserve_shared(&mut self, v: &Variable) -> Decoded<u32> {
        let offset = self.shared_bytes.next_multiple_of(v.align as u32);
        match u32::try_from(v.size).ok().and_then(|size| offset.checked_add(size)).filter(|&end| end <= 1 << 20) {
            Some(end) => {
                self.shared_bytes = end;
                let (start, end) = (u64::from(offset), u64::from(end));
                self.symbols.push(Symbol { name: v.name.clone(), shared: true, start, end });
            }
            None => {
                return Err(self
                    .error(format!("`{}` needs {} bytes of shared memory, more than any device has", v.name, v.size)));
            }
        }
        Ok(offset)
    }

    fn reserve_local(&mut self, v: &Variable) -> Decoded<u32> {
        let offset = self.local_bytes.next_multiple_of(v.align as u32);
        match u32::try_from(v.size).ok().and_then(|size| offset.checked_add(size)).filter(|&end| end <= 512 << 10) {
            Some(end) => self.local_bytes = end,
            None => {
                return Err(
                    self.error(format!("`{}` needs {} bytes of local memory; a thread has 512 KiB", v.name, v.size))
                );
            }
        }
        Ok(offset)
    }

    // ---- Statements.

    pub(crate) fn statements(&mut self, body: &[Statement]) -> Decoded {
        let mut outer = Vec::new();
        for statement in body {
            match statement {
                Statement::Open => {
                    let parent = self.scope;
                    outer.push(self.open(Some(parent)));
                }
                Statement::Close => {
                    if let Some(scope) = outer.pop() {
                        self.scope = scope;
                    }
                }
                Statement::Label { line, name } => {
                    self.line = *line;
                    self.place_label(name)?;
                }
                Statement::Register(r) => self.declare(r)?,
                Statement::Variable(v) => {
                    self.line = v.line;
                    let place = match v.space {
                        StateSpace::Local => Place::Local(self.reserve_local(v)?),
                        StateSpace::Param => Place::CallParam(self.reserve_local(v)?),
                        StateSpace::Shared if v.external => {
                            self.dynamic_align = self.dynamic_align.max(v.align as u32);
                            Place::DynamicShared
                        }
                        StateSpace::Shared => Place::Shared(self.reserve_shared(v)?),
                        StateSpace::Global | StateSpace::Const => {
                            return Err(self.error("global and constant variables are declared outside functions here"));
                        }
                    };
                    if v.initialiser.is_some() {
                        return Err(self.error("only global and constant variables can be initialised"));
                    }
                    self.bind(&v.name, Binding::Variable(place))?;
                }
                Statement::BranchTargets { line, name, labels } => {
                    self.line = *line;
                    let scope = &mut self.scopes[self.scope];
                    if scope.targets.insert(name.clone(), labels.clone()).is_some() {
                        return Err(self.error(format!("`{name}` is declared twice")));
                    }
                }
                Statement::Prototype { line, name, results, parameters } => {
                    self.line = *line;
                    let counts = (parameters.len(), results.len());
                    self.scopes[self.scope].prototypes.insert(name.clone(), counts);
                }
                // Any function whose address is taken may be called.
                Statement::CallTargets { .. } => {}
                Statement::Instruction(text) => self.decode(text)?,
            }
        }
        Ok(())
    }

    fn place_label(&mut self, name: &str) -> Decoded {
        let here = self.code.len() as u32;
        if self.scopes[self.scope].labels.insert(name.to_owned(), here).is_some() {
            return Err(self.error(format!("label `{name}` is placed twice")));
        }
        Ok(())
    }

    fn decode(&mut self, text: &InstructionText) -> Decoded {
        self.line = text.line;
        self.guard = match &text.guard {
            None => (UNGUARDED, 0),
            Some(guard) => (self.predicate_named(&guard.predicate)?, if guard.negated { u32::MAX } else { 0 }),
        };
        let mut op = Opcode::new(text);
        let (code, fixups, guard) = (self.code.len(), self.fixups.len(), self.guard);
        self.unsupported.set(false);
        let result = match &text.malformed {
            Some(error) if op.rest().is_none() && super::is_known(op.name) => Err(error.clone()),
            Some(_) if super::is_known(op.name) => self.unsupported(&op, "these operands"),
            _ => super::instruction(self, &mut op),
        };
        // What is wrong is refused; what a later PTX may mean, and nothing here does, is a fault of whoever executes it.
        let problem = match (result, op.rest()) {
            (Ok(()), None) => None,
            (Ok(()), Some(rest)) => Some(format!("unknown modifier `.{rest}` for `{}`", op.name)),
            (Err(error), rest) if self.unsupported.get() || rest.is_some() => Some(error.message),
            (Err(error), _) => return Err(error),
        };
        if let Some(problem) = problem {
            self.code.truncate(code);
            self.handlers.truncate(code);
            self.fixups.truncate(fixups);
            self.guard = guard;
            self.emit_unknown(problem);
        }
        if self.code.len() > MOST_INSTRUCTIONS {
            return Err(self
                .error(format!("the kernel has more than {MOST_INSTRUCTIONS} instructions once calls are expanded")));
        }
        Ok(())
    }

    /// Adds an instruction that is a fault when it is executed.
    pub(super) fn emit_unknown(&mut self, message: String) {
        self.unknown.push(Unknown { line: self.line, message });
        let at = self.unknown.len() as u64 - 1;
        self.emit(plain(crate::exec::calls::unknown), Class::Other, [0; 8], at, 0);
    }

    /// Adds an instruction.
    pub(crate) fn emit(&mut self, handlers: Handlers, class: Class, ops: [u32; 8], imm: u64, flags: u8) {
        let site = self.sites;
        if matches!(class, Class::GlobalLoad | Class::GlobalStore | Class::Atomic | Class::AsyncCopy | Class::Other) {
            self.sites = self.sites.wrapping_add(1);
        }
        self.handlers.push(handlers);
        self.code.push(Instruction {
            handler: handlers.portable,
            guard: self.guard.0,
            guard_flip: self.guard.1,
            ops,
            imm,
            line: self.line,
            class,
            flags,
            site,
        });
    }

    /// Adds an instruction with up to eight registers and nothing else.
    pub(crate) fn emit_ops(&mut self, handlers: Handlers, class: Class, ops: &[u32]) {
        let mut all = [0; 8];
        all[..ops.len()].copy_from_slice(ops);
        self.emit(handlers, class, all, 0, 0);
    }

    pub(crate) fn add_list(&mut self, list: Vec<u32>) -> u64 {
        self.lists.push(list);
        self.lists.len() as u64 - 1
    }
}
