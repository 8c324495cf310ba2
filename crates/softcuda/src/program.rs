//! Decoded code, ready to run.
//!
//! A register is a row of 32 values, one per lane, at a fixed place in the warp's register file, which is an array of
//! 64-byte [`Line`]s: a 16-bit register takes one line, a 32-bit one two, a 64-bit one four, a 128-bit one eight. A
//! literal, and the address of a variable, is a register too, filled once before the kernel starts, so that an operation
//! never asks what kind of operand it has. Predicates are 32-bit masks in a file of their own.
//!
//! An [`Instruction`] holds a pointer to the function that carries it out for all lanes. Each such function exists
//! twice, compiled for the baseline CPU and for AVX2 with FMA; [`Handlers`] carries both until the device picks one.

use crate::counters::Class;
use crate::exec::Context;
use crate::exec::atomic::Vector;
use crate::exec::bulk::Bulk;
use crate::exec::matrix::Matrix;
use crate::exec::video::Video;
use crate::ptx::ast::Source;
use std::sync::Arc;

/// A piece of the register file.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; 64]);

/// The index of a register's first line, or of a predicate.
pub(crate) type Reg = u32;

/// What a handler tells the loop that called it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Control {
    /// Go on with the next instruction.
    Next,
    /// The handler set the program counter and the active lanes.
    Jump,
    /// The warp cannot go on now: see `Context::stop`.
    Stop,
}

/// Carries out an instruction for the lanes of a mask, which is never empty.
///
/// # Safety
/// The instruction must have been decoded for the program whose registers the context holds, and the CPU must have the
/// features the handler was compiled for.
pub(crate) type Handler = for<'a> unsafe fn(&mut Context<'a>, &Instruction, u32) -> Control;

#[derive(Clone, Copy)]
pub(crate) struct Handlers {
    pub(crate) portable: Handler,
    pub(crate) wide: Handler,
}

/// No guard predicate.
pub(crate) const UNGUARDED: u32 = u32::MAX;

#[derive(Clone, Copy)]
pub(crate) struct Instruction {
    pub(crate) handler: Handler,
    /// Index of the guard predicate, or [`UNGUARDED`].
    pub(crate) guard: u32,
    /// `u32::MAX` when the guard is negated, else 0.
    pub(crate) guard_flip: u32,
    /// Registers, destination first; the meaning is the handler's.
    pub(crate) ops: [u32; 8],
    /// An offset, a target or other constant; the meaning is the handler's.
    pub(crate) imm: u64,
    pub(crate) line: u32,
    pub(crate) class: Class,
    /// Small constants of the handler: state space, flags.
    pub(crate) flags: u8,
    /// Which of the places for the allocation used last, see `exec::memory`, a memory instruction has.
    pub(crate) site: u8,
}

/// A register that holds the same value in every lane from the start.
#[derive(Clone, Debug)]
pub(crate) struct Constant {
    pub(crate) reg: Reg,
    /// Bytes per lane: 2, 4, 8 or 16.
    pub(crate) bytes: usize,
    pub(crate) value: u128,
    /// The module variable whose address is to be added.
    pub(crate) variable: Option<usize>,
}

/// One parameter of a kernel, in the packed parameter space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// The name in the PTX.
    pub name: String,
    /// Bytes from the start of the parameter space.
    pub offset: usize,
    /// Bytes.
    pub size: usize,
    /// Required alignment in bytes.
    pub align: usize,
}

/// How many registers a kernel declares and uses, by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterCounts {
    /// Predicates.
    pub predicates: u32,
    /// 16-bit registers.
    pub b16: u32,
    /// 32-bit registers.
    pub b32: u32,
    /// 64-bit registers.
    pub b64: u32,
    /// 128-bit registers.
    pub b128: u32,
}

/// A variable and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: String,
    /// In shared memory, where `start` and `end` are offsets; otherwise they are addresses.
    pub(crate) shared: bool,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Something that a call passes: a register with its address in local memory, or a register or predicate with the value.
#[derive(Clone, Debug)]
pub(crate) enum Passed {
    Memory(Reg),
    Register { reg: Reg, bytes: u8 },
    Predicate(u32),
}

/// What a call goes to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// By index in [`Program::callees`].
    Segment(u32),
    /// The register that holds the address.
    Register(Reg),
    Builtin(Builtin),
}

/// A function that the device's runtime has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Builtin {
    Printf,
    AssertFail,
    Malloc,
    Free,
}

impl Builtin {
    pub(crate) fn parse(name: &str) -> Option<Builtin> {
        Some(match name {
            "vprintf" => Builtin::Printf,
            "__assertfail" => Builtin::AssertFail,
            "malloc" => Builtin::Malloc,
            "free" => Builtin::Free,
            _ => return None,
        })
    }
}

/// A call with a frame.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) target: Target,
    pub(crate) arguments: Vec<Passed>,
    pub(crate) results: Vec<Passed>,
}

impl Call {
    pub(crate) fn uses_heap(&self) -> bool {
        matches!(self.target, Target::Builtin(Builtin::Malloc | Builtin::Free))
    }
}

/// A place in a frame, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) offset: u32,
    pub(crate) size: u32,
}

/// A function that is called with a frame.
#[derive(Clone, Debug)]
pub(crate) struct Callee {
    pub(crate) name: String,
    /// Its index among the module's functions.
    pub(crate) function: usize,
    /// Index of its first instruction.
    pub(crate) entry: u32,
    /// Its registers, with their bytes per lane, and its predicates.
    pub(crate) registers: Vec<(Reg, u8)>,
    pub(crate) predicates: std::ops::Range<u32>,
    pub(crate) frame_bytes: u32,
    /// Of what is passed in memory.
    pub(crate) parameters: Vec<Option<Slot>>,
    pub(crate) results: Vec<Option<Slot>>,
    /// Of what is passed in registers.
    pub(crate) parameter_registers: Vec<Option<Passed>>,
    pub(crate) result_registers: Vec<Option<Passed>>,
}

/// An instruction that is a fault when it is executed.
#[derive(Clone, Debug)]
pub(crate) struct Unknown {
    pub(crate) line: u32,
    pub(crate) message: String,
}

/// One kernel, decoded.
pub(crate) struct Program {
    pub(crate) name: String,
    pub(crate) source: Arc<Source>,
    pub(crate) code: Vec<Instruction>,
    pub(crate) handlers: Vec<Handlers>,
    pub(crate) constants: Vec<Constant>,
    pub(crate) register_lines: usize,
    pub(crate) predicates: usize,
    /// Predicates that hold a constant mask.
    pub(crate) predicate_constants: Vec<(u32, u32)>,
    pub(crate) registers: RegisterCounts,
    pub(crate) params: Vec<Param>,
    pub(crate) param_bytes: usize,
    pub(crate) static_shared: u32,
    pub(crate) dynamic_shared_offset: u32,
    /// Bytes of local memory per thread, the stack included.
    pub(crate) local_bytes: u32,
    /// Where the stack begins.
    pub(crate) static_local: u32,
    /// Index of the kernel's first instruction.
    pub(crate) entry: u32,
    pub(crate) callees: Vec<Callee>,
    pub(crate) calls: Vec<Call>,
    pub(crate) bulks: Vec<Bulk>,
    pub(crate) matrices: Vec<Matrix>,
    pub(crate) videos: Vec<Video>,
    pub(crate) vectors: Vec<Vector>,
    pub(crate) unknown: Vec<Unknown>,
    pub(crate) uses_heap: bool,
    /// It reads `%envreg`, by which a grid-wide barrier finds its memory.
    pub(crate) uses_environment: bool,
    /// `.reqnctapercluster`.
    pub(crate) cluster: Option<[u32; 3]>,
    pub(crate) max_threads: Option<u32>,
    pub(crate) required_block: Option<[u32; 3]>,
    /// Operand lists too long for an instruction, and the targets of `brx.idx`.
    pub(crate) lists: Vec<Vec<u32>>,
    /// The variables of static size that it uses.
    pub(crate) symbols: Vec<Symbol>,
}

impl Program {
    /// All but the code, which a kernel has a copy of with its handlers picked.
    pub(crate) fn without_code(&self) -> Program {
        Program {
            name: self.name.clone(),
            source: self.source.clone(),
            code: Vec::new(),
            handlers: Vec::new(),
            constants: self.constants.clone(),
            predicate_constants: self.predicate_constants.clone(),
            params: self.params.clone(),
            lists: self.lists.clone(),
            symbols: self.symbols.clone(),
            callees: self.callees.clone(),
            calls: self.calls.clone(),
            bulks: self.bulks.clone(),
            matrices: self.matrices.clone(),
            videos: self.videos.clone(),
            vectors: self.vectors.clone(),
            unknown: self.unknown.clone(),
            ..*self
        }
    }
}
