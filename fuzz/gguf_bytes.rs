//! Any bytes as a model file.
#![no_main]

mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::bytes(bytes));
