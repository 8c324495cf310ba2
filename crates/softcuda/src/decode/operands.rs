//! Operands: registers by width, literals as constant registers, addresses, predicates.

use super::builder::{Binding, Builder, Place};
use super::{Decoded, Opcode};
use crate::counters::Class;
use crate::exec::control::Special;
use crate::exec::lanes::plain;
use crate::program::{Constant, Handlers, Reg};
use crate::ptx::ast::{Literal, Operand, Type};

impl Builder<'_> {
    pub(crate) fn count(&self, op: &Opcode, counts: std::ops::RangeInclusive<usize>) -> Decoded {
        let found = op.text.operands.len();
        if counts.contains(&found) {
            return Ok(());
        }
        let expected = if counts.start() == counts.end() {
            format!("{}", counts.start())
        } else {
            format!("{} to {}", counts.start(), counts.end())
        };
        Err(self.error(format!("`{}` has {found} operands; expected {expected}", op.name)))
    }

    pub(crate) fn type_of(&self, op: &mut Opcode) -> Decoded<Type> {
        op.take_type().ok_or_else(|| self.error(format!("`{}` has no type; expected one such as `.b32`", op.name)))
    }

    pub(crate) fn unsupported<T>(&self, op: &Opcode, what: &str) -> Decoded<T> {
        self.unsupported.set(true);
        Err(self.error(format!("`{}` with {what} is not executed here", op.name)))
    }

    /// A floating-point instruction of one type: a destination and so many sources.
    pub(crate) fn emit_float(&mut self, op: &Opcode, t: Type, sources: usize, handlers: Handlers) -> Decoded {
        self.count(op, sources + 1..=sources + 1)?;
        let mut ops = vec![self.dest(op, t)?];
        for i in 1..=sources {
            ops.push(self.source(op, i, t)?);
        }
        self.emit_ops(handlers, Class::Float, &ops);
        Ok(())
    }

    /// A constant register.
    pub(crate) fn constant(&mut self, value: u128, bits: u32, variable: Option<usize>) -> Reg {
        let bytes = bits.max(16) as usize / 8;
        let value = if bits >= 128 { value } else { value & ((1 << bits) - 1) };
        if let Some(&reg) = self.constant_index.get(&(value, bytes, variable)) {
            return reg;
        }
        let reg = self.scratch(bits.max(16));
        self.constants.push(Constant { reg, bytes, value, variable });
        self.constant_index.insert((value, bytes, variable), reg);
        reg
    }

    pub(crate) fn literal_bits(&self, literal: Literal, kind: Type) -> Decoded<u128> {
        Ok(match (literal, kind) {
            (Literal::Integer(v), t)
                if t.is_float() && !matches!(t, Type::F16x2 | Type::Bf16x2 | Type::F16 | Type::Bf16) =>
            {
                return Err(self.error(format!("integer {v} where `.{}` needs a floating-point literal", kind.name())));
            }
            (Literal::Integer(v), Type::B128) => v as i64 as i128 as u128,
            (Literal::Integer(v), _) => v as u128,
            (Literal::Single(v), Type::F64) => (f32::from_bits(v) as f64).to_bits() as u128,
            (Literal::Single(v), t) if t.bits() == 32 => v as u128,
            (Literal::Double(v), t) if t.bits() == 64 => v as u128,
            (Literal::Double(v), Type::F32) => (f64::from_bits(v) as f32).to_bits() as u128,
            _ => return Err(self.error(format!("the literal does not fit `.{}`", kind.name()))),
        })
    }

    /// The register or constant of an operand, with its width in bits.
    pub(crate) fn any_source(&mut self, operand: &Operand, kind: Type) -> Decoded<(Reg, u32)> {
        match operand {
            Operand::Literal(literal) => {
                let value = self.literal_bits(*literal, kind)?;
                Ok((self.constant(value, kind.bits(), None), kind.bits().max(16)))
            }
            Operand::Name(name) => {
                if name == "WARP_SZ" {
                    return Ok((self.constant(32, kind.bits(), None), kind.bits().max(16)));
                }
                if let Some((special, bits)) = Special::parse(name) {
                    self.environment |= special.is_environment();
                    let bits = if kind.bits() == 64 { 64 } else { bits.min(kind.bits().max(16)) };
                    let reg = self.scratch(bits);
                    self.emit(
                        plain(crate::exec::control::special),
                        Class::Integer,
                        [reg; 8],
                        special as u64,
                        (bits / 8) as u8,
                    );
                    return Ok((reg, bits));
                }
                match self.find(name)? {
                    Some(Binding::Register { reg, bits }) => Ok((reg, bits)),
                    Some(Binding::Predicate(_)) => {
                        Err(self.error(format!("`{name}` is a predicate; expected a `.{}` register", kind.name())))
                    }
                    Some(Binding::Variable(place)) => self.address_of(place, 0, kind),
                    None if kind.bits() == 64 && self.function_address(name).is_some() => {
                        let address = self.function_address(name).unwrap_or_default();
                        Ok((self.constant(address as u128, 64, None), 64))
                    }
                    None => Err(self.error(format!("`{name}` is not declared"))),
                }
            }
            Operand::Offset(name, offset) => match self.find(name)? {
                Some(Binding::Variable(place)) => self.address_of(place, *offset, kind),
                Some(_) => Err(self.error(format!("`{name}` is a register; only an address may have an offset here"))),
                None => Err(self.error(format!("`{name}` is not declared"))),
            },
            _ => Err(self.error("expected a register or a literal")),
        }
    }

    fn address_of(&mut self, place: Place, offset: i64, kind: Type) -> Decoded<(Reg, u32)> {
        let bits = kind.bits();
        if bits != 64 && !(bits == 32 && matches!(place, Place::Shared(_) | Place::DynamicShared | Place::Local(_))) {
            return Err(self.error(format!("an address does not fit `.{}`", kind.name())));
        }
        Ok((self.place_register(place, offset, bits), bits))
    }

    /// A constant register that holds the address of a place in its own state space.
    pub(crate) fn place_register(&mut self, place: Place, offset: i64, bits: u32) -> Reg {
        if let (Place::Local(o) | Place::CallParam(o), true) = (place, self.is_in_frame()) {
            return self.frame_register(o as i64 + offset, bits);
        }
        let (base, variable) = match place {
            Place::Module(index) => (0, Some(index)),
            Place::DynamicShared => (0, Some(usize::MAX)),
            Place::Shared(o) | Place::Local(o) | Place::CallParam(o) | Place::Param(o) => (o as i64, None),
        };
        let known = self.constants.len();
        let reg = self.constant(base.wrapping_add(offset) as u64 as u128, bits, variable);
        if place == Place::DynamicShared && self.constants.len() > known {
            self.dynamic_constants.push(known);
            self.constants[known].variable = None;
        }
        reg
    }

    /// A source register of exactly the type's width.
    pub(crate) fn source(&mut self, op: &Opcode, index: usize, kind: Type) -> Decoded<Reg> {
        let Some(operand) = op.text.operands.get(index) else {
            return Err(self.error(format!("`{}` has {} operands; expected more", op.name, op.text.operands.len())));
        };
        self.source_operand(operand, kind)
    }

    pub(crate) fn source_operand(&mut self, operand: &Operand, kind: Type) -> Decoded<Reg> {
        let (reg, bits) = self.any_source(operand, kind)?;
        if bits != kind.bits().max(16) {
            return Err(self.error(format!(
                "expected a {}-bit register for `.{}`, found a {bits}-bit one",
                kind.bits().max(16),
                kind.name()
            )));
        }
        Ok(reg)
    }

    /// A destination register with its width; `_` is a register nobody reads.
    pub(crate) fn any_dest(&mut self, operand: &Operand, kind: Type) -> Decoded<(Reg, u32)> {
        match operand {
            Operand::Name(name) if name == "_" => {
                let bits = kind.bits().max(16);
                Ok((self.scratch(bits), bits))
            }
            Operand::Name(name) => match self.find(name)? {
                Some(Binding::Register { reg, bits }) => Ok((reg, bits)),
                Some(_) => {
                    Err(self.error(format!("`{name}` cannot be written; expected a `.{}` register", kind.name())))
                }
                None => Err(self.error(format!("`{name}` is not declared"))),
            },
            _ => Err(self.error("expected a register for the result")),
        }
    }

    pub(crate) fn dest(&mut self, op: &Opcode, kind: Type) -> Decoded<Reg> {
        let Some(operand) = op.text.operands.first() else {
            return Err(self.error(format!("`{}` has no operands", op.name)));
        };
        self.dest_operand(operand, kind)
    }

    pub(crate) fn dest_operand(&mut self, operand: &Operand, kind: Type) -> Decoded<Reg> {
        let (reg, bits) = self.any_dest(operand, kind)?;
        if bits != kind.bits().max(16) {
            return Err(self.error(format!(
                "expected a {}-bit register for `.{}`, found a {bits}-bit one",
                kind.bits().max(16),
                kind.name()
            )));
        }
        Ok(reg)
    }

    pub(super) fn predicate_named(&mut self, name: &str) -> Decoded<u32> {
        match self.find(name)? {
            Some(Binding::Predicate(p)) => Ok(p),
            Some(_) => Err(self.error(format!("`{name}` is no predicate"))),
            None => Err(self.error(format!("`{name}` is not declared"))),
        }
    }

    /// A predicate to read, and whether it is negated.
    pub(crate) fn predicate(&mut self, operand: Option<&Operand>) -> Decoded<(u32, bool)> {
        match operand {
            Some(Operand::Name(name)) => Ok((self.predicate_named(name)?, false)),
            Some(Operand::Not(name)) => Ok((self.predicate_named(name)?, true)),
            Some(Operand::Literal(Literal::Integer(v))) => {
                let value = if *v != 0 { u32::MAX } else { 0 };
                let known = self.predicate_constants.iter().find(|c| c.1 == value);
                if let Some(&(p, _)) = known {
                    return Ok((p, false));
                }
                let p = self.new_predicate();
                self.predicate_constants.push((p, value));
                Ok((p, false))
            }
            _ => Err(self.error("expected a predicate")),
        }
    }

    /// A predicate to write; `_` is one nobody reads.
    pub(crate) fn predicate_dest(&mut self, operand: Option<&Operand>) -> Decoded<u32> {
        match operand {
            Some(Operand::Name(name)) if name == "_" => Ok(self.new_predicate()),
            Some(Operand::Name(name)) => self.predicate_named(name),
            _ => Err(self.error("expected a predicate for the result")),
        }
    }
}
