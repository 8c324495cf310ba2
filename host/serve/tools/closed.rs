//! Schemas of arguments, closed.

use serde_json::{Map, Value};

/// What JSON Schema leaves open is closed: an object has the properties that its schema names, unless that says `additionalProperties`. A model that
/// may make properties up goes on doing so until its context is full, and no tool knows what to do with them. Arguments are always an object.
pub fn closed(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(fields) = &mut schema {
        fields.insert("type".to_owned(), "object".into());
    }
    // Parts of a whole, each of which would refuse what the others name.
    if !has_parts(&schema) {
        close(&mut schema);
    }
    schema
}

/// Whether anything in it has to follow two schemas with properties at a time.
fn has_parts(schema: &Value) -> bool {
    match schema {
        Value::Object(fields) => {
            let refines = |word: &str| fields.contains_key(word) && fields.contains_key("properties");
            fields.contains_key("allOf")
                || ["$ref", "anyOf", "oneOf", "if"].into_iter().any(refines)
                || fields.values().any(has_parts)
        }
        Value::Array(all) => all.iter().any(has_parts),
        _ => false,
    }
}

fn close(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    let says = |fields: &Map<String, Value>, word: &str| fields.contains_key(word);
    let is_open = says(fields, "properties")
        && !["additionalProperties", "patternProperties", "unevaluatedProperties"]
            .iter()
            .any(|word| says(fields, word));
    if is_open {
        fields.insert("additionalProperties".to_owned(), false.into());
    }
    for (word, value) in fields {
        match (word.as_str(), value) {
            ("properties" | "$defs" | "definitions" | "patternProperties", Value::Object(named)) => {
                named.values_mut().for_each(close);
            }
            ("anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(all)) => all.iter_mut().for_each(close),
            ("items" | "additionalProperties", one) => close(one),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Begins, Choice, Dialect, Tool, Tools},
        closed,
    };
    use serde_json::json;

    #[test]
    fn what_a_call_follows_is_closed_and_what_the_model_is_shown_is_not() {
        let parameters = json!({ "type": "object", "properties": { "x": { "type": "string" } } });
        let tool = Tool { name: "f".to_owned(), description: None, parameters: parameters.clone() };
        let tools = Tools::new(vec![tool], Some(Choice::Required), true).unwrap();
        let dialect = Dialect { knows_tools: true, ..Dialect::default() };
        assert_eq!(tools.grammar(dialect, Begins::Opened, None, &|_| None).schemas, [closed(&parameters)]);
        assert_eq!(tools.for_template(dialect).unwrap()[0]["function"]["parameters"], parameters);
    }

    #[test]
    fn objects_have_what_is_named_unless_they_say_otherwise() {
        for (open, expected) in [
            (json!({ "type": "object" }), json!({ "type": "object" })),
            (json!({ "properties": {} }), json!({ "properties": {}, "additionalProperties": false })),
            (
                json!({ "properties": {}, "additionalProperties": true }),
                json!({ "properties": {}, "additionalProperties": true }),
            ),
            // A property may be called as a word of schemas is.
            (
                json!({ "properties": { "properties": { "type": "string" } } }),
                json!({ "properties": { "properties": { "type": "string" } }, "additionalProperties": false }),
            ),
            (
                json!({ "$defs": { "a": { "properties": { "x": {} } } }, "properties": { "l": { "items": { "$ref": "#/$defs/a" } } } }),
                json!({
                    "$defs": { "a": { "properties": { "x": {} }, "additionalProperties": false } },
                    "properties": { "l": { "items": { "$ref": "#/$defs/a" } } },
                    "additionalProperties": false,
                }),
            ),
            (
                json!({ "properties": { "u": { "anyOf": [{ "properties": { "x": {} } }, { "type": "null" }] } } }),
                json!({
                    "properties": { "u": { "anyOf": [{ "properties": { "x": {} }, "additionalProperties": false }, { "type": "null" }] } },
                    "additionalProperties": false,
                }),
            ),
            (
                json!({ "additionalProperties": { "properties": { "x": {} } } }),
                json!({ "additionalProperties": { "properties": { "x": {} }, "additionalProperties": false } }),
            ),
        ] {
            let mut expected = expected;
            expected["type"] = "object".into();
            assert_eq!(closed(&open), expected, "{open}");
        }
        // Closed, none of its parts would let the other's properties by.
        for mut parts in [
            json!({ "allOf": [{ "properties": { "x": {} } }, { "properties": { "y": {} } }] }),
            json!({ "properties": { "x": {} }, "anyOf": [{ "required": ["x"] }, { "properties": { "y": {} } }] }),
        ] {
            parts["type"] = "object".into();
            assert_eq!(closed(&parts), parts);
        }
    }
}
