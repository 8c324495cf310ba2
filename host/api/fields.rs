//! The fields of a JSON object, taken one by one, with errors that name them.

use serde_json::{Map, Value};

/// A field that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: found {found}, expected {expected}")]
pub struct FieldError {
    /// Its name, with a path where it lies deeper: `response_format.type`.
    pub field: String,
    /// What is there.
    pub found: String,
    /// What could be.
    pub expected: String,
}

impl FieldError {
    /// An error about a field.
    pub fn new(field: &str, found: &Value, expected: &str) -> FieldError {
        FieldError { field: field.to_owned(), found: shown(found), expected: expected.to_owned() }
    }
}

/// A value in a message: cut where it is long.
fn shown(value: &Value) -> String {
    let mut text = value.to_string();
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The fields that were not taken yet.
pub struct Fields {
    path: String,
    fields: Map<String, Value>,
}

impl Fields {
    /// The fields of an object, called `name` in errors; nothing for the outermost.
    ///
    /// # Errors
    /// It is no object.
    pub fn new(name: &str, value: Value) -> Result<Fields, FieldError> {
        match value {
            Value::Object(fields) => {
                Ok(Fields { path: if name.is_empty() { String::new() } else { format!("{name}.") }, fields })
            }
            other => Err(FieldError::new(if name.is_empty() { "the line" } else { name }, &other, "a JSON object")),
        }
    }

    /// The field's name as errors call it.
    pub fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// Whether it is there, be it null.
    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// A field; none where it is missing or null.
    pub fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.shift_remove(field).filter(|value| !value.is_null())
    }

    /// A field, read.
    ///
    /// # Errors
    /// It is there and `read` gives nothing for it.
    pub fn read<T>(
        &mut self,
        field: &str,
        expected: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, FieldError> {
        let Some(value) = self.take(field) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| FieldError::new(&self.name(field), &value, expected))
    }

    /// A number within limits.
    ///
    /// # Errors
    /// It is no number, or outside them.
    pub fn number(&mut self, field: &str, low: f64, high: f64) -> Result<Option<f32>, FieldError> {
        let expected = match (low.is_finite(), high.is_finite()) {
            (true, true) => format!("a number from {low} to {high}"),
            (true, false) => format!("a number, at least {low}"),
            _ => "a number".to_owned(),
        };
        let within = |number: &f64| (low..=high).contains(number) && (*number as f32).is_finite();
        self.read(field, &expected, |value| value.as_f64().filter(within).map(|number| number as f32))
    }

    /// A whole number within limits.
    ///
    /// # Errors
    /// It is no whole number, or outside them.
    pub fn count(&mut self, field: &str, low: u64, high: u64) -> Result<Option<u64>, FieldError> {
        let expected = format!("a whole number from {low} to {high}");
        self.read(field, &expected, |value| value.as_u64().filter(|number| (low..=high).contains(number)))
    }

    /// A truth value.
    ///
    /// # Errors
    /// It is none.
    pub fn flag(&mut self, field: &str) -> Result<Option<bool>, FieldError> {
        self.read(field, "true or false", Value::as_bool)
    }

    /// A text.
    ///
    /// # Errors
    /// It is none.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, FieldError> {
        self.read(field, "a string", |value| value.as_str().map(str::to_owned))
    }

    /// Passes over fields that change nothing in an answer.
    pub fn pass_over(&mut self, fields: &[&str]) {
        fields.iter().for_each(|field| {
            self.fields.shift_remove(*field);
        });
    }

    /// What is left, as an object.
    pub fn into_value(self) -> Value {
        Value::Object(self.fields)
    }

    /// Nothing is left.
    ///
    /// # Errors
    /// A field that nobody took.
    pub fn expect_none(self) -> Result<(), FieldError> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((field, value)) => {
                Err(FieldError::new(&self.name(field), value, "no such field: it is unknown here, or not supported"))
            }
        }
    }
}
