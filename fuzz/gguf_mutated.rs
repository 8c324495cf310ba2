//! A valid model with one field replaced, as the bytes say.
#![no_main]

mod checks;
mod mutated;
#[path = "../tests/support/tiny.rs"]
#[allow(dead_code)] // The tests use more of it.
mod tiny;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::bytes(&mutated::model(bytes)));
