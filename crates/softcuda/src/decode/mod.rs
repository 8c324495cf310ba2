//! From the syntax tree to code: names become registers, opcodes become handlers.
//!
//! One [`Builder`] makes one kernel. It walks the body once. Registers get their place in the register file when they are
//! first named, literals and addresses become constant registers, labels are patched at the end. Each opcode has a
//! function in one of the submodules, which takes the modifiers it knows from the [`Opcode`]; one that is left over is an
//! error, so nothing is skipped silently.
//!
//! A call is expanded in place: the callee's body with registers and labels of its own, its `.param` variables bound to
//! the caller's. Functions that reach themselves, or are called through a register, are decoded once for the kernel and
//! called with a frame ([`functions`]).
//!
//! What a decoder does not know, an opcode or a modifier, becomes an instruction that is a fault when it is executed; what is
//! certainly wrong, such as a register of the wrong width, refuses the module.

mod asynchronous;
mod bits;
mod builder;
mod collective;
mod control;
mod convert;
mod float;
mod functions;
mod half;
mod integer;
mod layout;
mod matrix;
mod memory;
mod narrow;
mod operands;
mod tensor;
mod video;

pub(crate) use builder::{Builder, ModuleVariable, build, layout_variables};
pub(crate) use functions::Functions;

use crate::PtxError;
use crate::numeric::Rounding;
use crate::ptx::ast::{InstructionText, Type};

type Decoded<T = ()> = Result<T, PtxError>;

/// An opcode's name and the modifiers that nobody has claimed yet.
pub(crate) struct Opcode<'t> {
    pub(crate) name: &'t str,
    modifiers: Vec<Option<&'t str>>,
    pub(crate) text: &'t InstructionText,
}

impl<'t> Opcode<'t> {
    pub(crate) fn new(text: &'t InstructionText) -> Opcode<'t> {
        let mut parts = text.opcode.split('.');
        let name = parts.next().unwrap_or("");
        Opcode { name, modifiers: parts.map(Some).collect(), text }
    }

    /// Claims a modifier if it is there.
    pub(crate) fn take(&mut self, modifier: &str) -> bool {
        self.take_any(&[modifier]).is_some()
    }

    /// Claims the first modifier that is one of these.
    pub(crate) fn take_any(&mut self, choices: &[&str]) -> Option<&'t str> {
        let slot = self.modifiers.iter_mut().find(|m| m.is_some_and(|m| choices.contains(&m)))?;
        slot.take()
    }

    /// Claims the first modifier that starts so.
    pub(crate) fn take_prefix(&mut self, prefix: &str) -> Option<&'t str> {
        let slot = self.modifiers.iter_mut().find(|m| m.is_some_and(|m| m.starts_with(prefix)))?;
        slot.take()
    }

    /// Claims the first modifier of which something is true.
    pub(crate) fn take_where(&mut self, is: impl Fn(&str) -> bool) -> Option<&'t str> {
        let slot = self.modifiers.iter_mut().find(|m| m.is_some_and(&is))?;
        slot.take()
    }

    /// Claims the first modifier that is a type.
    pub(crate) fn take_type(&mut self) -> Option<Type> {
        let slot = self.modifiers.iter_mut().find(|m| m.is_some_and(|m| Type::parse(m).is_some()))?;
        slot.take().and_then(Type::parse)
    }

    /// Claims the direction of rounding.
    pub(crate) fn take_rounding(&mut self) -> Option<Rounding> {
        self.take_any(&["rn", "rz", "rm", "rp"]).map(|direction| match direction {
            "rn" => Rounding::Nearest,
            "rz" => Rounding::Zero,
            "rm" => Rounding::Down,
            _ => Rounding::Up,
        })
    }

    pub(crate) fn has(&self, modifier: &str) -> bool {
        self.modifiers.contains(&Some(modifier))
    }

    /// The first modifier that nobody claimed.
    pub(crate) fn rest(&self) -> Option<&'t str> {
        self.modifiers.iter().flatten().next().copied()
    }
}

/// Every opcode that has a decoder.
const KNOWN: &str = "add sub mul fma mad div min max abs neg rem addc subc madc sad mul24 mad24 and or xor not cnot shl shr lop3 \
    shf bfe bfi brev popc clz bfind prmt szext bmsk dp4a dp2a setp set selp slct testp rcp sqrt rsqrt sin cos ex2 lg2 tanh copysign \
    cvt mov cvta isspacep mapa getctarank mbarrier ld ldu st atom red prefetch prefetchu discard applypriority createpolicy cp bra brx \
    exit ret trap brkpt call nanosleep pmevent griddepcontrol bar barrier membar fence shfl vote match redux activemask elect mma \
    ldmatrix movmatrix stmatrix wmma wgmma setmaxnreg fns vadd vsub vabsdiff vmin vmax vshl vshr vset vadd2 vsub2 vavrg2 vabsdiff2 \
    vmin2 vmax2 vset2 vadd4 vsub4 vavrg4 vabsdiff4 vmin4 vmax4 vset4";

pub(crate) fn is_known(name: &str) -> bool {
    KNOWN.split_whitespace().any(|known| known == name)
}

/// Expands one of the decoders by opcode name.
pub(crate) fn instruction(b: &mut Builder, op: &mut Opcode) -> Decoded {
    match op.name {
        "add" | "sub" | "mul" | "fma" | "mad" | "div" | "min" | "max" | "abs" | "neg" if is_float(op) => {
            float::arithmetic(b, op)
        }
        "add" | "sub" | "mul" | "mad" | "div" | "rem" | "min" | "max" | "abs" | "neg" | "addc" | "subc" | "madc"
        | "sad" | "mul24" | "mad24" => integer::arithmetic(b, op),
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" | "lop3" => integer::logic(b, op),
        "shf" | "bfe" | "bfi" | "brev" | "popc" | "clz" | "bfind" | "prmt" | "szext" | "bmsk" => bits::bits(b, op),
        "fns" => video::fns(b, op),
        "vadd" | "vsub" | "vabsdiff" | "vmin" | "vmax" | "vshl" | "vshr" | "vset" | "vadd2" | "vsub2" | "vavrg2"
        | "vabsdiff2" | "vmin2" | "vmax2" | "vset2" | "vadd4" | "vsub4" | "vavrg4" | "vabsdiff4" | "vmin4"
        | "vmax4" | "vset4" => video::video(b, op),
        "dp4a" | "dp2a" => bits::dot_product(b, op),
        "setp" | "set" | "selp" | "slct" | "testp" => integer::comparison(b, op),
        "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "ex2" | "lg2" | "tanh" | "copysign" => float::function(b, op),
        "cvt" => convert::cvt(b, op),
        "mov" => memory::mov(b, op),
        "cvta" | "isspacep" => memory::address(b, op),
        "mapa" | "getctarank" => asynchronous::map_address(b, op),
        "mbarrier" => asynchronous::mbarrier(b, op),
        "ld" | "ldu" => memory::load(b, op),
        "st" => memory::store(b, op),
        "atom" | "red" => memory::atomic(b, op),
        "prefetch" | "prefetchu" | "discard" | "applypriority" => memory::hint(b, op),
        "createpolicy" => memory::policy(b, op),
        "cp" => asynchronous::async_copy(b, op),
        "setmaxnreg" => control::registers(b, op),
        "bra" | "brx" | "exit" | "ret" | "trap" | "brkpt" | "call" | "nanosleep" | "pmevent" | "griddepcontrol" => {
            control::flow(b, op)
        }
        "bar" | "barrier" => control::barrier(b, op),
        "membar" | "fence" => control::fence(b, op),
        "shfl" | "vote" | "match" | "redux" | "activemask" | "elect" => collective::collective(b, op),
        "mma" | "ldmatrix" => tensor::tensor(b, op),
        "movmatrix" | "stmatrix" => matrix::small(b, op),
        "wmma" => matrix::wmma(b, op),
        "wgmma" => matrix::wgmma(b, op),
        other => {
            b.unsupported.set(true);
            Err(b.error(format!("unknown opcode `{other}`; expected a PTX instruction that softcuda executes")))
        }
    }
}

fn is_float(op: &Opcode) -> bool {
    ["f16", "f16x2", "bf16", "bf16x2", "f32", "f64"].iter().any(|t| op.has(t))
}
