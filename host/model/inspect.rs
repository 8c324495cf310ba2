//! What a model file holds, for people and for programs: the metadata, the tensors, the totals, and the model this program sees in it.
//!
//! [`Inspection`] serialises to JSON and displays as aligned text. A well-formed file of an architecture that this program does not
//! run is shown too, with the reason.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::config::Config;
use super::weights::Model;
use crate::{
    gguf::{Array, Gguf, Value, printable},
    tokenizer::VocabularySummary,
};

/// Arrays in metadata are cut after this many values.
const SHOWN_VALUES: usize = 4;

/// The content of a model file.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Path of the file.
    pub file: String,
    /// How many files the model is in.
    pub parts: usize,
    /// Version of the format.
    pub gguf_version: u32,
    /// `general.architecture`, where it is there.
    pub architecture: Option<String>,
    /// The kind of vocabulary and the rule that cuts words, where the file has a vocabulary.
    pub tokenizer: Option<VocabularySummary>,
    /// How many values all tensors hold.
    pub parameters: u64,
    /// How many bytes all tensors take.
    pub tensor_bytes: u64,
    /// The model, if this program can run it.
    pub config: Option<Config>,
    /// Why it cannot.
    pub problem: Option<String>,
    /// The metadata, in file order.
    pub metadata: Vec<MetadataLine>,
    /// The tensors, in file order.
    pub tensors: Vec<TensorLine>,
    /// The tensors of types that this program does not read, in file order.
    pub foreign_tensors: Vec<ForeignLine>,
    /// Totals for each tensor type, by the type's number in the format.
    pub types: Vec<TypeTotal>,
}

/// A metadata pair. A long array is an object of its element type, its length and its first values.
#[derive(Clone, Debug, Serialize)]
pub struct MetadataLine {
    /// The key.
    pub key: String,
    /// The value's type, as in `u32`.
    pub value_type: String,
    /// The value.
    pub value: Json,
    /// The value as a short text on one line.
    #[serde(skip)]
    pub text: String,
}

/// A tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorLine {
    /// Its name.
    pub name: String,
    /// How its values are stored.
    pub tensor_type: &'static str,
    /// Its dimensions in the file's order; the first is contiguous.
    pub dims: Vec<u64>,
    /// How many bytes it takes.
    pub bytes: u64,
}

/// A tensor of a type that this program does not read.
#[derive(Clone, Debug, Serialize)]
pub struct ForeignLine {
    /// Its name.
    pub name: String,
    /// The type's number, and its name if it has one.
    pub tensor_type: String,
    /// Its dimensions in the file's order; the first is contiguous.
    pub dims: Vec<u64>,
}

/// All tensors of one type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeTotal {
    /// The type.
    pub tensor_type: &'static str,
    /// How many tensors are of it.
    pub tensors: u64,
    /// How many values they hold.
    pub elements: u64,
    /// How many bytes they take.
    pub bytes: u64,
}

impl Inspection {
    /// Looks at all of `gguf`.
    pub fn new(gguf: &Gguf) -> Inspection {
        let mut types: BTreeMap<_, TypeTotal> = BTreeMap::new();
        for tensor in gguf.tensors() {
            let name = tensor.tensor_type.name();
            let empty = TypeTotal { tensor_type: name, tensors: 0, elements: 0, bytes: 0 };
            let total = types.entry(tensor.tensor_type).or_insert(empty);
            total.tensors += 1;
            total.elements += tensor.elements();
            total.bytes += tensor.bytes;
        }
        let types: Vec<TypeTotal> = types.into_values().collect();
        let (config, problem) = match Model::open(gguf) {
            Ok(model) => (Some(model.config), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let metadata = gguf.metadata().iter().map(|(key, value)| MetadataLine {
            key: key.to_string(),
            value_type: match value {
                Value::Array(array) => format!("{}[{}]", array.element_type(), array.len()),
                scalar => scalar.value_type().to_string(),
            },
            value: to_json(value),
            text: value.to_string(),
        });
        let tensors = gguf.tensors().map(|t| TensorLine {
            name: t.name.clone(),
            tensor_type: t.tensor_type.name(),
            dims: t.dims.clone(),
            bytes: t.bytes,
        });
        let foreign = gguf.foreign_tensors().iter().map(|t| ForeignLine {
            name: t.name.clone(),
            tensor_type: t.type_name(),
            dims: t.dims.clone(),
        });
        Inspection {
            file: gguf.name().to_string(),
            parts: gguf.n_parts(),
            gguf_version: gguf.version(),
            architecture: gguf.metadata().opt_str("general.architecture").ok().flatten().map(str::to_string),
            tokenizer: VocabularySummary::new(gguf),
            parameters: types.iter().map(|t| t.elements).sum(),
            tensor_bytes: types.iter().map(|t| t.bytes).sum(),
            config,
            problem,
            metadata: metadata.collect(),
            tensors: tensors.collect(),
            foreign_tensors: foreign.collect(),
            types,
        }
    }
}

fn to_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::F32(v) => json!(shortest(*v)),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Bytes(v) => json!(String::from_utf8_lossy(v)),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Array(array) => array_json(array),
    }
}

/// The double with the same shortest decimal form: 1e-6 rather than 9.999999974752427e-7.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

fn array_json(array: &Array) -> Json {
    let first = (0..array.len().min(SHOWN_VALUES)).filter_map(|i| array.get(i));
    let first: Vec<Json> = first.map(|v| to_json(&v)).collect();
    if first.len() == array.len() {
        return Json::Array(first);
    }
    json!({ "type": array.element_type().to_string(), "length": array.len(), "first": first })
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let files = if self.parts == 1 { "1 file".to_string() } else { format!("{} files", self.parts) };
        let head = [
            ["file".to_string(), self.file.clone()],
            ["format".to_string(), format!("GGUF {}, {files}", self.gguf_version)],
            ["architecture".to_string(), printable(self.architecture.as_deref().unwrap_or("not said"))],
            ["tokenizer".to_string(), self.tokenizer.as_ref().map_or("none".to_string(), ToString::to_string)],
            ["parameters".to_string(), grouped(self.parameters)],
            ["tensor bytes".to_string(), grouped(self.tensor_bytes)],
        ];
        table(f, &head, [Side::Left, Side::Left])?;

        match (&self.config, &self.problem) {
            (Some(config), _) => {
                writeln!(f, "\nmodel")?;
                table(f, &config_rows(config), [Side::Left, Side::Left])?;
            }
            (None, problem) => writeln!(f, "\nnot runnable: {}", problem.as_deref().unwrap_or_default())?,
        }

        writeln!(f, "\nmetadata ({})", self.metadata.len())?;
        let row = |m: &MetadataLine| [printable(&m.key), m.value_type.clone(), m.text.clone()];
        let rows: Vec<_> = self.metadata.iter().map(row).collect();
        table(f, &rows, [Side::Left, Side::Left, Side::Left])?;

        writeln!(f, "\ntensors ({})", self.tensors.len())?;
        let shape = |dims: &[u64]| dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        let row = |t: &TensorLine| {
            let dims = shape(&t.dims);
            [printable(&t.name), t.tensor_type.to_string(), dims, grouped(t.bytes)]
        };
        let rows: Vec<_> = self.tensors.iter().map(row).collect();
        table(f, &rows, [Side::Left, Side::Left, Side::Left, Side::Right])?;

        if !self.foreign_tensors.is_empty() {
            writeln!(f, "\ntensors of types that are not read here ({})", self.foreign_tensors.len())?;
            let row = |t: &ForeignLine| [printable(&t.name), t.tensor_type.clone(), shape(&t.dims)];
            let rows: Vec<_> = self.foreign_tensors.iter().map(row).collect();
            table(f, &rows, [Side::Left, Side::Left, Side::Left])?;
        }

        writeln!(f, "\ntypes: tensors, values, bytes, bits per value")?;
        let row = |t: &TypeTotal| {
            let bits = format!("{:.2}", t.bytes as f64 * 8.0 / t.elements as f64);
            [t.tensor_type.to_string(), grouped(t.tensors), grouped(t.elements), grouped(t.bytes), bits]
        };
        let rows: Vec<_> = self.types.iter().map(row).collect();
        table(f, &rows, [Side::Left, Side::Right, Side::Right, Side::Right, Side::Right])
    }
}

/// The fields of a configuration; those that the model does not have are left out.
fn config_rows(config: &Config) -> Vec<[String; 2]> {
    // By way of text, in which single-precision numbers have their shortest form.
    let text = serde_json::to_string(config).expect("a configuration has string keys and no maps");
    let Ok(Json::Object(fields)) = serde_json::from_str(&text) else {
        return Vec::new();
    };
    let present = fields.into_iter().filter(|(_, value)| !value.is_null() && *value != json!([]));
    present.map(|(name, value)| [name, brief(&value)]).collect()
}

/// A JSON value as text without quotes; long arrays are cut.
fn brief(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(values) => {
            let first = values.iter().take(SHOWN_VALUES).map(brief).collect::<Vec<_>>().join(", ");
            let more = if values.len() > SHOWN_VALUES { format!(", … ({})", values.len()) } else { String::new() };
            format!("[{first}{more}]")
        }
        Json::Object(fields) => {
            let present = fields.iter().filter(|(_, value)| !value.is_null());
            present.map(|(name, value)| format!("{name} {}", brief(value))).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// 1234567 as `1 234 567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Left,
    Right,
}

/// Rows with their columns under each other, indented by two spaces.
fn table<const N: usize>(f: &mut fmt::Formatter, rows: &[[String; N]], sides: [Side; N]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let mut line = String::new();
        for ((cell, side), width) in row.iter().zip(sides).zip(widths) {
            line.push_str("  ");
            match side {
                Side::Left => line.push_str(&format!("{cell:<width$}")),
                Side::Right => line.push_str(&format!("{cell:>width$}")),
            }
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
