//! What can go wrong, said so that the kernel's author can act on it.
//!
//! [`PtxError`] is about the text of a module: it names the line, quotes it and says what was expected there.
//! [`Fault`] is about an operation on the device: a host call with a bad address, or a kernel that did something that
//! a GPU would answer with an error, with undefined behaviour, or not at all. A fault raised by a kernel names the kernel,
//! the source line where the PTX says it (`.loc`), the PTX line with its text, the block and the thread; [`Fault::kind`]
//! lets a test match on the cause.

use std::fmt;

/// PTX text that cannot be read: bad operand, undeclared name, malformed text; or an instruction that softcuda does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: `{text}`: {message}")]
pub struct PtxError {
    /// The line in the module's text, counted from 1.
    pub line: u32,
    /// The text of that line, trimmed.
    pub text: String,
    /// What was found and what was expected.
    pub message: String,
}

/// The cause of a [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside every allocation, or past the end of shared, local or parameter memory.
    OutOfBounds,
    /// An access to the memory of another device, to which this one has no peer access.
    NoPeerAccess,
    /// An address that is no multiple of the access size.
    Misaligned,
    /// An access to memory that was freed.
    UseAfterFree,
    /// A barrier that part of a block reaches and the rest cannot.
    PartialBarrier,
    /// A warp collective that names, reads from or is executed by the wrong set of lanes.
    InactiveShuffle,
    /// A read of bytes that nobody wrote (sanitizer).
    Uninitialised,
    /// Two unordered accesses to the same byte, at least one of them a write (sanitizer).
    Race,
    /// The kernel executed `trap` or `brkpt`.
    Trap,
    /// A launch whose sizes, shared memory or parameters do not fit the kernel or the device.
    InvalidLaunch,
    /// A warp executed more instructions than [`crate::DeviceConfig::instruction_limit`].
    Timeout,
    /// Warps wait for one another and none can go on.
    Deadlock,
    /// The device has not that much free memory.
    OutOfMemory,
    /// A host call with a size or an address that it cannot take.
    InvalidValue,
    /// An operand whose run-time value the instruction does not accept.
    InvalidOperand,
    /// The kernel executed an instruction that softcuda does not know.
    UnknownInstruction,
    /// The kernel called `__assertfail`.
    Assertion,
    /// Calls nest deeper than a thread's stack.
    StackOverflow,
}

/// A line of the source that a kernel was compiled from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceLine {
    /// The file, as the compiler names it.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1; 0 where the compiler does not say.
    pub column: u32,
    /// The function that the line is in.
    pub function: String,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)?;
        if self.column != 0 {
            write!(f, ":{}", self.column)?;
        }
        write!(f, " in `{}`", self.function)
    }
}

/// Lines that call one another, the innermost first.
pub(crate) struct Calls<'a>(pub(crate) &'a [SourceLine]);

impl fmt::Display for Calls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, line) in self.0.iter().enumerate() {
            write!(f, "{}{line}", if index == 0 { "" } else { ", called at " })?;
        }
        Ok(())
    }
}

/// Where a kernel was when it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The kernel's name.
    pub kernel: String,
    /// The PTX line, counted from 1; 0 for a fault of the launch as a whole.
    pub line: u32,
    /// The text of that line, trimmed.
    pub text: String,
    /// What the line was compiled from: the innermost function first, then the line that calls it, for as many functions as
    /// the compiler has inlined into one another. Empty where the PTX does not say.
    pub source: Vec<SourceLine>,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid` of the first thread concerned.
    pub thread: [u32; 3],
}

/// A failed operation of the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    kind: FaultKind,
    message: String,
    location: Option<Box<Location>>,
    others: Vec<Fault>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into(), location: None, others: Vec::new() }
    }

    pub(crate) fn at(mut self, location: Location) -> Fault {
        self.location = Some(Box::new(location));
        self
    }

    pub(crate) fn with_others(mut self, others: Vec<Fault>) -> Fault {
        self.others = others;
        self
    }

    /// Under the sanitizer, what else was found in the same launch, the first of each place.
    pub fn others(&self) -> &[Fault] {
        &self.others
    }

    /// The cause.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The facts: address, size, the nearest allocation and so on.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Kernel, PTX line, block and thread; none when a host call failed.
    pub fn location(&self) -> Option<&Location> {
        self.location.as_deref()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        if let Some(at) = &self.location {
            let ([bx, by, bz], [tx, ty, tz]) = (at.block, at.thread);
            write!(f, "; kernel `{}`", at.kernel)?;
            if !at.source.is_empty() {
                write!(f, ", {}", Calls(&at.source))?;
            }
            if at.line != 0 {
                write!(f, ", PTX line {} `{}`, block ({bx},{by},{bz}), thread ({tx},{ty},{tz})", at.line, at.text)?;
            }
        }
        for other in &self.others {
            write!(f, "\n  and {other}")?;
        }
        Ok(())
    }
}
