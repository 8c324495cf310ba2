//! Typed access to the metadata.

use std::collections::HashMap;

use super::value::{Array, Value};

/// The key/value pairs of a file, in file order, with typed getters whose errors name the file and the key.
///
/// Each kind of value has a getter that requires the key (`u32`) and one for which it is optional (`opt_u32`). A key of the wrong
/// type is an error in both.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    file: String,
    pairs: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

/// A metadata key is missing or not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// The key is not there.
    #[error(
        "{file}: metadata key {key}: missing, expected {expected}; the file is no complete model of its kind, convert it again"
    )]
    Missing {
        /// Path of the file.
        file: String,
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// The value has another type, or does not fit.
    #[error("{file}: metadata key {key}: found {found}, expected {expected}; convert the model again")]
    Type {
        /// Path of the file.
        file: String,
        /// The key.
        key: String,
        /// The value's type and the value.
        found: String,
        /// The type it should have.
        expected: &'static str,
    },
}

/// Defines `$name` (required) and `$opt` (optional) over a conversion from `&Value`.
macro_rules! getters {
    ($($name:ident $opt:ident -> $type:ty, $expected:literal, $convert:expr;)+) => {
        $(
            #[doc = concat!("The value of `key`: ", $expected, ".")]
            ///
            /// # Errors
            /// The key is missing or has another type.
            #[allow(clippy::needless_lifetimes)] // Only some of the types borrow from the metadata.
            pub fn $name<'a>(&'a self, key: &str) -> Result<$type, MetadataError> {
                self.$opt(key)?.ok_or_else(|| MetadataError::Missing {
                    file: self.file.clone(),
                    key: key.to_string(),
                    expected: $expected,
                })
            }

            #[doc = concat!("The value of `key`, if it is there: ", $expected, ".")]
            ///
            /// # Errors
            /// The key has another type.
            #[allow(clippy::needless_lifetimes)]
            pub fn $opt<'a>(&'a self, key: &str) -> Result<Option<$type>, MetadataError> {
                let convert: fn(&'a Value) -> Option<$type> = $convert;
                let Some(value) = self.get(key) else { return Ok(None) };
                convert(value).map(Some).ok_or_else(|| MetadataError::Type {
                    file: self.file.clone(),
                    key: key.to_string(),
                    found: format!("{} {value}", value.value_type()),
                    expected: $expected,
                })
            }
        )+
    };
}

impl Metadata {
    /// An empty list for the file of that name.
    pub(super) fn new(file: &str) -> Metadata {
        Metadata { file: file.to_string(), ..Metadata::default() }
    }

    /// Adds a pair; false when the key is already there.
    pub(super) fn insert(&mut self, key: String, value: Value) -> bool {
        if self.by_key.contains_key(&key) {
            return false;
        }
        self.by_key.insert(key.clone(), self.pairs.len());
        self.pairs.push((key, value));
        true
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&i| &self.pairs[i].1)
    }

    /// The pairs, in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    getters! {
        u32 opt_u32 -> u32, "an integer from 0 to 4294967295", |v| u32::try_from(v.as_integer()?).ok();
        u64 opt_u64 -> u64, "an integer from 0 to 18446744073709551615", |v| u64::try_from(v.as_integer()?).ok();
        f32 opt_f32 -> f32, "a floating-point number", |v| match v {
            Value::F32(v) => Some(*v),
            Value::F64(v) => Some(*v as f32),
            _ => None,
        };
        bool opt_bool -> bool, "a truth value", |v| match v {
            Value::Bool(v) => Some(*v),
            _ => None,
        };
        str opt_str -> &'a str, "a string", |v| match v {
            Value::String(v) => Some(v.as_str()),
            _ => None,
        };
        string_array opt_string_array -> &'a [String], "an array of strings", |v| match v {
            Value::Array(Array::String(v)) => Some(v.as_slice()),
            _ => None,
        };
        f32_array opt_f32_array -> &'a [f32], "an array of f32", |v| match v {
            Value::Array(Array::F32(v)) => Some(v.as_slice()),
            _ => None,
        };
        i32_array opt_i32_array -> &'a [i32], "an array of i32", |v| match v {
            Value::Array(Array::I32(v)) => Some(v.as_slice()),
            _ => None,
        };
        u32_uniform opt_u32_uniform -> u32, "an integer from 0 to 4294967295, or an array of one such number for all layers", uniform;
    }
}

/// One number, given as such or as an array of equal numbers (some converters write one per layer).
fn uniform(value: &Value) -> Option<u32> {
    let Value::Array(array) = value else {
        return u32::try_from(value.as_integer()?).ok();
    };
    let first = array.get(0)?.as_integer()?;
    let all_equal = (0..array.len()).all(|i| array.get(i).and_then(|v| v.as_integer()) == Some(first));
    all_equal.then(|| u32::try_from(first).ok())?
}
