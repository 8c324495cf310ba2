//! Embeddings: a request's body, and an answer's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Number, Value, json};

use super::{FieldError, Fields, Prompt, request::prompts};
use crate::model::shortened;

/// How an answer writes a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// An array of numbers.
    #[default]
    Float,
    /// The numbers' bytes, f32 with the lowest byte first, in base64.
    Base64,
}

/// A body, read.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbeddingsAsked {
    /// The texts, or their tokens. None is a conversation.
    pub inputs: Vec<Prompt>,
    /// How vectors are written.
    pub encoding: Encoding,
    /// How many of a vector's first numbers are wanted, where it is not all.
    pub dimensions: Option<usize>,
}

impl EmbeddingsAsked {
    /// Reads a body for a model whose vectors have `n_embd` numbers.
    ///
    /// # Errors
    /// [`FieldError`], naming the field.
    pub fn read(body: Value, n_embd: usize) -> Result<EmbeddingsAsked, FieldError> {
        let mut fields = Fields::new(if body.is_object() { "" } else { "body" }, body)?;
        fields.pass_over(&["model", "user"]);
        let inputs = prompts(&mut fields, "input")?;
        if let Some(empty) = inputs.iter().position(|input| *input == Prompt::Text(String::new())) {
            let name = if inputs.len() == 1 { "input".to_owned() } else { format!("input[{empty}]") };
            return Err(FieldError::new(&name, &Value::from(""), "a text that is not empty"));
        }
        let encoding = |value: &Value| match value.as_str()? {
            "float" => Some(Encoding::Float),
            "base64" => Some(Encoding::Base64),
            _ => None,
        };
        let asked = EmbeddingsAsked {
            inputs,
            encoding: fields.read("encoding_format", "float or base64", encoding)?.unwrap_or_default(),
            dimensions: fields.count("dimensions", 1, n_embd as u64)?.map(|n| n as usize),
        };
        fields.expect_none()?;
        Ok(asked)
    }

    /// The answer's object: the model's name, the vectors of the inputs in their order, and the tokens that all of these have.
    pub fn answer(&self, model: &str, vectors: &[Vec<f32>], n_tokens: usize) -> Value {
        let one = |(index, vector): (usize, &Vec<f32>)| {
            let short = self.dimensions.map(|n| shortened(vector, n));
            let vector = short.as_ref().unwrap_or(vector);
            let embedding = match self.encoding {
                Encoding::Float => numbers(vector),
                Encoding::Base64 => {
                    STANDARD.encode(vector.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()).into()
                }
            };
            json!({ "object": "embedding", "index": index, "embedding": embedding })
        };
        let data: Vec<Value> = vectors.iter().enumerate().map(one).collect();
        json!({
            "object": "list",
            "data": data,
            "model": model,
            "usage": { "prompt_tokens": n_tokens, "total_tokens": n_tokens },
        })
    }
}

/// A vector as an array.
///
/// # Panics
/// Where one is no number.
pub fn numbers(vector: &[f32]) -> Value {
    vector.iter().map(|value| number(*value)).collect()
}

/// A number with the digits that tell it from its neighbours among f32.
///
/// # Panics
/// Where it is no number.
pub fn number(value: f32) -> Value {
    let shortest: f64 = value.to_string().parse().expect("a number's digits");
    Value::Number(Number::from_f64(shortest).expect("a finite number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const N_EMBD: usize = 4;

    #[test]
    fn inputs_come_in_four_shapes() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        let cases = [
            (json!("a"), vec![text("a")]),
            (json!(["a", "b"]), vec![text("a"), text("b")]),
            (json!([1, 2]), vec![Prompt::Ids(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Prompt::Ids(vec![1]), Prompt::Ids(vec![2, 3])]),
        ];
        for (input, wanted) in cases {
            let asked = EmbeddingsAsked::read(json!({ "model": "any", "user": "me", "input": input }), N_EMBD).unwrap();
            assert_eq!(asked, EmbeddingsAsked { inputs: wanted, encoding: Encoding::Float, dimensions: None });
        }
    }

    #[test]
    fn an_error_names_the_field_and_what_was_found() {
        let cases = [
            (json!({}), "input: found null, expected a string, an array of strings"),
            (json!({ "input": [] }), "input: found [], expected a string"),
            (json!({ "input": "" }), "input: found \"\", expected a text that is not empty"),
            (json!({ "input": ["a", ""] }), "input[1]: found \"\", expected a text that is not empty"),
            (json!({ "input": [1, -2] }), "input: found [1,-2], expected a string"),
            (json!({ "input": [[]] }), "input: found [[]], expected a string"),
            (
                json!({ "input": "a", "encoding_format": "hex" }),
                "encoding_format: found \"hex\", expected float or base64",
            ),
            (json!({ "input": "a", "dimensions": 5 }), "dimensions: found 5, expected a whole number from 1 to 4"),
            (json!({ "input": "a", "dimensions": 0 }), "dimensions: found 0, expected a whole number from 1 to 4"),
            (json!({ "input": "a", "temperature": 1 }), "temperature: found 1, expected no such field"),
            (json!([]), "body: found [], expected a JSON object"),
        ];
        for (body, wanted) in cases {
            let error = EmbeddingsAsked::read(body, N_EMBD).unwrap_err().to_string();
            assert!(error.starts_with(wanted), "{error}\n{wanted}");
        }
    }

    #[test]
    fn an_answer_has_a_vector_for_each_input() {
        let vectors = [vec![0.6, 0.0, 0.0, 0.8], vec![0.1f32, -0.995, 0.0, 0.0]];
        let answer = |more: Value| {
            let mut body = json!({ "input": ["a", "b"] });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            EmbeddingsAsked::read(body, N_EMBD).unwrap().answer("m", &vectors, 7)
        };
        let whole = answer(json!({}));
        let wanted = json!({
            "object": "list", "model": "m", "usage": { "prompt_tokens": 7, "total_tokens": 7 },
            "data": [
                { "object": "embedding", "index": 0, "embedding": [0.6, 0.0, 0.0, 0.8] },
                { "object": "embedding", "index": 1, "embedding": [0.1, -0.995, 0.0, 0.0] },
            ],
        });
        assert_eq!(whole, wanted);
        assert_eq!(answer(json!({ "dimensions": 2 }))["data"][0]["embedding"], json!([1.0, 0.0]));
        let encoded = answer(json!({ "encoding_format": "base64", "dimensions": 1 }));
        // 1 and −1 … of one number each.
        assert_eq!(encoded["data"][0]["embedding"], "AACAPw==");
        assert_eq!(answer(json!({ "encoding_format": "base64" }))["data"][0]["embedding"], "mpkZPwAAAAAAAAAAzcxMPw==");
    }
}
