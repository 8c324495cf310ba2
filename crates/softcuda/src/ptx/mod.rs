//! From PTX text to a syntax tree: [`lexer`] makes tokens, [`parser`] makes the [`ast`].
//!
//! Nothing here knows what an instruction means; an opcode is a word and its operands are shapes. Meaning is given by
//! [`crate::decode`].

pub(crate) mod ast;
pub(crate) mod lexer;
pub(crate) mod lines;
pub(crate) mod parser;
pub(crate) mod symbols;
