//! What of a JSON schema the engine would refuse and need not.
//!
//! - `format` with a name that the engine does not know is an annotation, as the specification has it for all names: it goes.
//! - `uniqueItems` of an array whose items are out of a few known values is written out: all arrays that differ in no item are
//!   a list, an `enum`. Of other arrays it cannot be held to by a grammar, which does not remember what came; it goes, with a
//!   warning.
//!
//! Schemas stand in schemas under many keywords, and in places that only a `$ref` knows. So everything is looked into but what is
//! data.

use std::collections::HashMap;

use llguidance::api::ParserLimits;
use llguidance::{GrammarBuilder, JsonCompileOptions};
use serde_json::{Map, Value, json};

/// Keywords whose values are data.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose values are objects with names of the person's own, and a schema for each.
const NAMED: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords that may stand beside finitely many values and take none of them away.
const ANNOTATIONS: [&str; 6] = ["title", "description", "default", "examples", "$comment", "deprecated"];
/// The most arrays that a `uniqueItems` is written out into: all of five values, or pairs of thirty.
const MAX_ARRAYS: usize = 1000;
/// The longest chain of `$ref` that is followed to find an item's values.
const MAX_REFS: usize = 16;

/// Rewrites the schema, and says what of it will not be held to.
pub(super) fn prepare(schema: &mut Value) -> Vec<String> {
    let root = schema.clone();
    let mut preparation = Preparation { root: &root, formats: HashMap::new(), warnings: Vec::new() };
    preparation.visit(schema, "");
    preparation.warnings
}

struct Preparation<'a> {
    /// The schema as it was, for `$ref`.
    root: &'a Value,
    /// Whether the engine knows a format.
    formats: HashMap<String, bool>,
    warnings: Vec<String>,
}

impl Preparation<'_> {
    /// `path` is the place, as a JSON pointer. As deep as the JSON is, which its parser bounds.
    fn visit(&mut self, value: &mut Value, path: &str) {
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.visit(item, &format!("{path}/{index}"));
                }
            }
            Value::Object(fields) => {
                for (key, child) in fields.iter_mut().filter(|(key, _)| !DATA.contains(&key.as_str())) {
                    let path = format!("{path}/{key}");
                    match child {
                        Value::Object(schemas) if NAMED.contains(&key.as_str()) => {
                            schemas.iter_mut().for_each(|(name, schema)| self.visit(schema, &format!("{path}/{name}")));
                        }
                        _ => self.visit(child, &path),
                    }
                }
                self.prepare_format(fields);
                self.prepare_unique_items(fields, path);
            }
            _ => {}
        }
    }

    fn prepare_format(&mut self, fields: &mut Map<String, Value>) {
        if let Some(Value::String(name)) = fields.get("format") {
            let is_known = *self.formats.entry(name.clone()).or_insert_with(|| is_known_format(name));
            if !is_known {
                fields.remove("format");
            }
        }
    }

    fn prepare_unique_items(&mut self, fields: &mut Map<String, Value>, path: &str) {
        let Some(Value::Bool(unique)) = fields.get("uniqueItems") else {
            return;
        };
        let (unique, limit) = (*unique, |key: &str| fields.get(key).map(|limit| limit.as_u64().unwrap_or(u64::MAX)));
        let at_most_one = limit("maxItems").is_some_and(|limit| limit < 2);
        let arrays = (unique && !at_most_one).then(|| self.arrays(fields));
        fields.remove("uniqueItems");
        match arrays {
            None => {}
            Some(Some(arrays)) => {
                for key in ["type", "items", "minItems", "maxItems"] {
                    fields.remove(key);
                }
                fields.insert("enum".to_owned(), Value::Array(arrays));
            }
            Some(None) => {
                let place = if path.is_empty() { "/" } else { path };
                self.warnings.push(format!(
                    "{place}: uniqueItems is not held to, so an item may come twice: expected items out of a few known values"
                ));
            }
        }
    }

    /// All arrays of different items that match; none where they are too many or not known.
    fn arrays(&self, fields: &Map<String, Value>) -> Option<Vec<Value>> {
        let known = ["type", "items", "minItems", "maxItems", "uniqueItems"];
        let is_known = |key: &String| known.contains(&key.as_str()) || ANNOTATIONS.contains(&key.as_str());
        if fields.get("type")? != "array" || !fields.keys().all(is_known) {
            return None;
        }
        let values = self.values(fields.get("items")?)?;
        let limit = |key: &str, default: usize| match fields.get(key) {
            None => Some(default),
            Some(limit) => usize::try_from(limit.as_u64()?).ok(),
        };
        let (min, max) = (limit("minItems", 0)?, limit("maxItems", values.len())?.min(values.len()));
        let mut arrays = Vec::new();
        let mut longest = vec![Vec::new()];
        for length in 0..=max {
            if length > 0 {
                let longer = |array: &Vec<usize>| {
                    let others = (0..values.len()).filter(|value| !array.contains(value));
                    others.map(|value| [&array[..], &[value]].concat()).collect::<Vec<_>>()
                };
                longest = longest.iter().flat_map(longer).collect();
            }
            if length >= min {
                arrays.extend(longest.iter().map(|array| array.iter().map(|value| values[*value].clone()).collect()));
            }
            if longest.len().max(arrays.len()) > MAX_ARRAYS {
                return None;
            }
        }
        Some(arrays)
    }

    /// The values that match a schema, where they are listed in it.
    fn values(&self, schema: &Value) -> Option<Vec<Value>> {
        let mut schema = schema.as_object()?;
        for _ in 0..MAX_REFS {
            let Some(Value::String(target)) = schema.get("$ref") else {
                break;
            };
            if schema.keys().any(|key| key != "$ref" && !ANNOTATIONS.contains(&key.as_str())) {
                return None;
            }
            schema = self.root.pointer(target.strip_prefix('#')?)?.as_object()?;
        }
        let known =
            |key: &String| ["const", "enum", "type"].contains(&key.as_str()) || ANNOTATIONS.contains(&key.as_str());
        if !schema.keys().all(known) {
            return None;
        }
        let listed = match (schema.get("const"), schema.get("enum"), schema.get("type")) {
            (Some(value), None, _) => vec![value.clone()],
            (None, Some(Value::Array(values)), _) => values.clone(),
            (None, None, Some(Value::String(of))) if of == "boolean" => vec![json!(false), json!(true)],
            (None, None, Some(Value::String(of))) if of == "null" => vec![json!(null)],
            _ => return None,
        };
        let mut values: Vec<Value> = Vec::new();
        for value in listed {
            let matches = match schema.get("type") {
                None => true,
                Some(Value::String(of)) => is_of_type(&value, of),
                Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).any(|of| is_of_type(&value, of)),
                Some(_) => return None,
            };
            if matches && !values.iter().any(|other| is_equal(other, &value)) {
                values.push(value);
            }
        }
        Some(values)
    }
}

/// Whether the engine takes this format.
fn is_known_format(name: &str) -> bool {
    let builder = GrammarBuilder::new(None, ParserLimits::default());
    JsonCompileOptions::default().json_to_llg(builder, json!({ "type": "string", "format": name })).is_ok()
}

fn is_of_type(value: &Value, of: &str) -> bool {
    match value {
        Value::Null => of == "null",
        Value::Bool(_) => of == "boolean",
        Value::Number(number) => {
            of == "number" || of == "integer" && number.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        Value::String(_) => of == "string",
        Value::Array(_) => of == "array",
        Value::Object(_) => of == "object",
    }
}

/// Equality as JSON Schema has it: 1 is 1.0.
fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| is_equal(a, b)))
        }
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(mut schema: Value) -> (Value, Vec<String>) {
        let warnings = prepare(&mut schema);
        (schema, warnings)
    }

    #[test]
    fn unknown_formats_go_wherever_they_stand_and_data_stays() {
        let (schema, warnings) = prepared(json!({
            "properties": {
                "format": { "type": "string", "format": "color" },
                "default": { "anyOf": [{ "format": "uuid" }, { "format": "int32" }] },
                "data": { "enum": [{ "format": "color", "uniqueItems": true }] },
            },
            "components": { "anything": { "items": { "format": "idn-email", "type": "string" } } },
        }));
        let want = json!({
            "properties": {
                "format": { "type": "string" },
                "default": { "anyOf": [{ "format": "uuid" }, {}] },
                "data": { "enum": [{ "format": "color", "uniqueItems": true }] },
            },
            "components": { "anything": { "items": { "type": "string" } } },
        });
        assert_eq!((schema, warnings), (want, vec![]));
        for known in ["date-time", "date", "time", "email", "ipv4", "ipv6", "uri", "uuid"] {
            assert!(is_known_format(known), "{known}");
        }
    }

    #[test]
    fn unique_items_of_known_values_are_listed() {
        let arrays = |schema: Value| prepared(schema);
        let items = json!({ "enum": ["a", "b", "a"] });
        let of = |min: u64, max: u64| json!({ "type": "array", "items": items, "uniqueItems": true, "minItems": min, "maxItems": max });
        assert_eq!(arrays(of(2, 2)), (json!({ "enum": [["a", "b"], ["b", "a"]] }), vec![]));
        assert_eq!(arrays(of(0, 9)).0, json!({ "enum": [[], ["a"], ["b"], ["a", "b"], ["b", "a"]] }));
        assert_eq!(arrays(of(3, 9)).0, json!({ "enum": [] }));
        let by_reference = json!({
            "$defs": { "Size": { "type": "integer", "enum": [1, 1.0, 2, "x"] }, "S": { "$ref": "#/$defs/Size" } },
            "properties": { "sizes": { "type": "array", "uniqueItems": true, "items": { "$ref": "#/$defs/S" }, "minItems": 2 } },
        });
        let (schema, warnings) = prepared(by_reference);
        assert_eq!(schema["properties"]["sizes"], json!({ "enum": [[1, 2], [2, 1]] }));
        assert_eq!(warnings, Vec::<String>::new());
        let flags = json!({ "type": "array", "uniqueItems": true, "items": { "type": "boolean" }, "minItems": 2 });
        assert_eq!(prepared(flags).0, json!({ "enum": [[false, true], [true, false]] }));
    }

    #[test]
    fn unique_items_that_cannot_be_listed_are_warned_of_with_their_place() {
        let many: Vec<u32> = (0..40).collect();
        let unbounded = json!({ "type": "array", "uniqueItems": true, "items": { "enum": many } });
        let cases = [
            json!({ "type": "array", "uniqueItems": true }),
            json!({ "type": "array", "uniqueItems": true, "items": { "type": "string" }, "maxItems": 3 }),
            json!({ "uniqueItems": true, "items": { "enum": [1] } }),
            json!({ "type": "array", "uniqueItems": true, "prefixItems": [{ "enum": [1] }], "items": { "enum": [1] } }),
            unbounded,
        ];
        for schema in cases {
            let (found, warnings) = prepared(json!({ "properties": { "tags": schema } }));
            assert!(found["properties"]["tags"].get("uniqueItems").is_none(), "{found}");
            assert!(warnings.len() == 1 && warnings[0].starts_with("/properties/tags: uniqueItems"), "{warnings:?}");
        }
        // Nothing to say where nothing is lost.
        for schema in [
            json!({ "type": "array", "uniqueItems": false, "items": { "type": "string" } }),
            json!({ "type": "array", "uniqueItems": true, "items": { "type": "string" }, "maxItems": 1 }),
        ] {
            let (found, warnings) = prepared(schema);
            assert!(found.get("uniqueItems").is_none() && warnings.is_empty(), "{found} {warnings:?}");
        }
    }
}
