//! What several tests share.
#![allow(dead_code)] // Each test uses its part.

pub mod fixtures;
pub mod places;
pub mod random;
pub mod tiny;

/// Checks an error's message about `model.gguf`: one line, in the house's order, with `parts` in it.
pub fn check_message(message: &str, parts: &[&str]) {
    assert!(!message.contains('\n'), "one line: {message:?}");
    assert!(message.starts_with("model.gguf: "), "the file comes first: {message}");
    assert!(message.contains("; "), "ends with advice: {message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}
