//! The examples do what they say, on the device that the tests run on.

#![allow(dead_code)] // Their `main` functions.

#[path = "../examples/generate.rs"]
mod generate;
#[path = "../examples/kernel.rs"]
mod kernel;
mod support;
#[path = "../examples/verify.rs"]
mod verify;

use driver::DeviceChoice;
use support::places::root;

fn device() -> DeviceChoice {
    std::env::var("FERROWARP_DEVICE").unwrap_or_else(|_| "auto".into()).parse().expect("FERROWARP_DEVICE")
}

#[test]
fn generate_writes_a_haiku_with_the_word() {
    let mut out = Vec::new();
    let prompt = r#"Write a haiku about GPU computing that includes the word "forty-six""#;
    generate::run(device(), &root().join("models/haiku/haiku.gguf"), prompt, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.trim().lines().count(), 3, "{text}");
    assert!(text.contains("forty-six"), "{text}");
}

#[test]
fn verify_finds_no_difference_and_with_a_tolerance_of_nothing_finds_one() {
    let model = root().join("tests/fixtures/models/qwen2-tiny-f32.gguf");
    let diff = verify::run(device(), &model, &[1, 2, 3], 1e-4).unwrap();
    assert!(diff.first.is_none() && diff.compared > 10, "{diff}");
    let diff = verify::run(device(), &model, &[1, 2, 3], 0.0).unwrap();
    assert!(diff.first.is_some(), "{diff}");
}

#[test]
fn kernel_caps_what_it_is_given() {
    let out = kernel::run(device(), &[-1e6, 0.0, 1.5, 1e6], 15.0).unwrap();
    let want = [-15.0, 0.0, 15.0 * (0.1f32).tanh(), 15.0];
    assert!(out.iter().zip(want).all(|(got, want)| (got - want).abs() <= 1e-5), "{out:?}");
}
