//! From bytes to metadata and tensor descriptions, one checked step after the other.

use std::collections::HashSet;
use std::fmt::Arguments;

use super::error::{GgufError, Rule};
use super::metadata::Metadata;
use super::tensor::{ForeignTensor, TensorInfo, TensorType};
use super::value::{Array, Value, ValueType};

/// "The key … must be at most 2^16-1 bytes long" (gguf.md).
const MAX_KEY_BYTES: u64 = (1 << 16) - 1;
/// "The name of the tensor … must be at most 64 bytes long" (gguf.md).
const MAX_TENSOR_NAME_BYTES: u64 = 64;
/// "Currently at most 4" dimensions (gguf.md).
const MAX_DIMS: u32 = 4;
/// A metadata pair takes at least an empty key, its type, and one byte.
const MIN_PAIR_BYTES: u64 = 8 + 4 + 1;
/// A tensor description takes at least a name of one byte, one dimension, type and offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 8 + 4 + 8;
/// gguf.md: "some writers may not write the alignment. If the alignment is not specified, assume it is 32."
const DEFAULT_ALIGNMENT: u32 = 32;
/// gguf.md: the alignment "must be a multiple of 8"; every writer also makes it a power of two.
const MIN_ALIGNMENT: u32 = 8;
/// Half of a huge page. Nothing gains from more, and a bound keeps the padding below it.
const MAX_ALIGNMENT: u32 = 1 << 20;

pub(super) struct Parsed {
    pub version: u32,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    pub foreign: Vec<ForeignTensor>,
}

pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Parsed, GgufError> {
    let mut cursor = Cursor { file, bytes, at: 0 };
    let version = header(&mut cursor)?;
    let n_tensors = cursor.u64(format_args!("tensor count"))?;
    let n_pairs = cursor.u64(format_args!("metadata count"))?;

    let field = format_args!("metadata count");
    cursor.check_count(n_pairs, MIN_PAIR_BYTES, Rule::MetadataCount, field)?;
    let mut metadata = Metadata::new(file);
    for i in 0..n_pairs {
        let (key, value) = pair(&mut cursor, i)?;
        if !metadata.insert(key.clone(), value) {
            return Err(cursor.reject(Rule::DuplicateKey, format_args!("metadata key {key}"), "it twice", "it once"));
        }
    }
    let alignment = alignment(&metadata, &cursor)?;

    cursor.check_count(n_tensors, MIN_TENSOR_BYTES, Rule::TensorCount, format_args!("tensor count"))?;
    let mut tensors = Vec::with_capacity(n_tensors as usize);
    let mut foreign = Vec::new();
    let mut names = HashSet::with_capacity(n_tensors as usize);
    for i in 0..n_tensors {
        let tensor = tensor(&mut cursor, i, alignment)?;
        let name = match &tensor {
            Described::Known(tensor) => &tensor.name,
            Described::Foreign(tensor) => &tensor.name,
        };
        if !names.insert(name.clone()) {
            let field = format!("tensor {name}");
            return Err(cursor.reject(Rule::DuplicateTensor, field, "it twice", "it once"));
        }
        match tensor {
            Described::Known(tensor) => tensors.push(tensor),
            Described::Foreign(tensor) => foreign.push(tensor),
        }
    }

    // Offsets are counted from the first aligned byte after the descriptions; from here on, from the beginning of the file.
    let data_start = (cursor.at as u64).next_multiple_of(u64::from(alignment));
    place(&mut tensors, data_start, &cursor)?;
    Ok(Parsed { version, metadata, tensors, foreign })
}

/// Magic and version; both tell a foreign file from a byte-swapped one.
fn header(cursor: &mut Cursor) -> Result<u32, GgufError> {
    let magic = cursor.take(4, format_args!("magic"))?;
    if magic != b"GGUF" {
        let (rule, hint) = if magic == b"FUGG" { (Rule::ByteOrder, " (byte-swapped)") } else { (Rule::Magic, "") };
        let found = format!("{:?}{hint}", String::from_utf8_lossy(magic));
        return Err(cursor.reject(rule, "magic", found, "\"GGUF\""));
    }
    let version = cursor.u32(format_args!("version"))?;
    match version {
        2 | 3 => Ok(version),
        _ if matches!(version.swap_bytes(), 1..=3) => {
            let found = format!("{}, stored big-endian", version.swap_bytes());
            Err(cursor.reject(Rule::ByteOrder, "version", found, "2 or 3, stored little-endian"))
        }
        _ => Err(cursor.reject(Rule::Version, "version", version, "2 or 3")),
    }
}

fn pair(cursor: &mut Cursor, index: u64) -> Result<(String, Value), GgufError> {
    let field = format!("metadata key number {index}");
    let length = cursor.u64(format_args!("{field}"))?;
    if length == 0 {
        return Err(cursor.reject(Rule::EmptyKey, field, "an empty key", "at least one byte"));
    }
    if length > MAX_KEY_BYTES {
        let found = format!("a length of {length} bytes");
        return Err(cursor.reject(Rule::KeyLength, field, found, format!("at most {MAX_KEY_BYTES}")));
    }
    let key = key(cursor.take(length, format_args!("{field}"))?);
    let field = format!("metadata key {key}");
    let value_type = cursor.value_type(&field)?;
    let value = match value_type {
        ValueType::Array => Value::Array(array(cursor, &field)?),
        scalar_type => scalar(cursor, scalar_type, &field)?,
    };
    Ok((key, value))
}

/// A key as text. Nobody asks for one that is not UTF-8, so its bytes are shown escaped.
fn key(bytes: &[u8]) -> String {
    let mut key = String::new();
    for chunk in bytes.utf8_chunks() {
        key.push_str(chunk.valid());
        key.extend(chunk.invalid().escape_ascii().map(char::from));
    }
    key
}

fn scalar(cursor: &mut Cursor, value_type: ValueType, field: &str) -> Result<Value, GgufError> {
    let name = format_args!("{field}");
    Ok(match value_type {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array(name)?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(name)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(name)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(name)?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(cursor.array(name)?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(name)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(name)?)),
        ValueType::U64 => Value::U64(u64::from_le_bytes(cursor.array(name)?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(name)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(name)?)),
        ValueType::Bool => Value::Bool(cursor.bool(field)?),
        ValueType::String => Value::of_bytes(cursor.string(field)?),
        ValueType::Array => unreachable!("arrays are read by `array`"),
    })
}

fn array(cursor: &mut Cursor, field: &str) -> Result<Array, GgufError> {
    let element_type = cursor.value_type(field)?;
    if element_type == ValueType::Array {
        return Err(cursor.reject(
            Rule::NestedArray,
            field,
            "an array of arrays",
            "an array of numbers, truths or strings",
        ));
    }
    let length = cursor.u64(format_args!("{field}, its length"))?;
    let name = format_args!("{field}, its length");
    cursor.check_count(length, element_type.min_bytes(), Rule::ArrayLength, name)?;
    let n = length as usize;
    Ok(match element_type {
        ValueType::U8 => Array::U8(cursor.numbers(n, field, u8::from_le_bytes)?),
        ValueType::I8 => Array::I8(cursor.numbers(n, field, i8::from_le_bytes)?),
        ValueType::U16 => Array::U16(cursor.numbers(n, field, u16::from_le_bytes)?),
        ValueType::I16 => Array::I16(cursor.numbers(n, field, i16::from_le_bytes)?),
        ValueType::U32 => Array::U32(cursor.numbers(n, field, u32::from_le_bytes)?),
        ValueType::I32 => Array::I32(cursor.numbers(n, field, i32::from_le_bytes)?),
        ValueType::F32 => Array::F32(cursor.numbers(n, field, f32::from_le_bytes)?),
        ValueType::U64 => Array::U64(cursor.numbers(n, field, u64::from_le_bytes)?),
        ValueType::I64 => Array::I64(cursor.numbers(n, field, i64::from_le_bytes)?),
        ValueType::F64 => Array::F64(cursor.numbers(n, field, f64::from_le_bytes)?),
        ValueType::Bool => Array::Bool((0..n).map(|_| cursor.bool(field)).collect::<Result<_, _>>()?),
        ValueType::String => strings(&(0..n).map(|_| cursor.string(field)).collect::<Result<Vec<_>, _>>()?),
        ValueType::Array => unreachable!("rejected above"),
    })
}

fn strings(strings: &[&[u8]]) -> Array {
    let text: Result<Vec<String>, _> =
        strings.iter().map(|bytes| std::str::from_utf8(bytes).map(str::to_owned)).collect();
    match text {
        Ok(text) => Array::String(text),
        Err(_) => Array::Bytes(strings.iter().map(|bytes| bytes.to_vec()).collect()),
    }
}

fn alignment(metadata: &Metadata, cursor: &Cursor) -> Result<u32, GgufError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(v)) if v.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(v) => Ok(*v),
        Some(other) => {
            let found = format!("{} {other}", other.value_type());
            let expected = format!("a u32, a power of two, from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
            Err(cursor.reject(Rule::Alignment, "metadata key general.alignment", found, expected))
        }
    }
}

/// What a description describes.
enum Described {
    Known(TensorInfo),
    Foreign(ForeignTensor),
}

/// One description. Its offset is still relative to the data section. The data of a tensor whose type is not known cannot be placed,
/// so it is only remembered that there is such a tensor.
fn tensor(cursor: &mut Cursor, index: u64, alignment: u32) -> Result<Described, GgufError> {
    let field = format!("tensor number {index}");
    let length = cursor.u64(format_args!("{field}, its name"))?;
    if length == 0 {
        return Err(cursor.reject(Rule::EmptyTensorName, field, "an empty name", "at least one byte"));
    }
    if length > MAX_TENSOR_NAME_BYTES {
        let found = format!("a name of {length} bytes");
        return Err(cursor.reject(Rule::TensorNameLength, field, found, format!("at most {MAX_TENSOR_NAME_BYTES}")));
    }
    let name = cursor.utf8(length, format_args!("{field}, its name"))?;
    let field = format!("tensor {name}");

    let n_dims = cursor.u32(format_args!("{field}, its number of dimensions"))?;
    if !(1..=MAX_DIMS).contains(&n_dims) {
        let found = format!("{n_dims} dimensions");
        return Err(cursor.reject(Rule::DimensionCount, field, found, format!("1 to {MAX_DIMS}")));
    }
    let dims = cursor.numbers(n_dims as usize, &field, u64::from_le_bytes)?;
    if dims.contains(&0) {
        return Err(cursor.reject(Rule::ZeroDimension, field, format!("dimensions {dims:?}"), "positive ones"));
    }
    let type_id = cursor.u32(format_args!("{field}, its type"))?;
    let Some(tensor_type) = TensorType::from_id(type_id) else {
        cursor.u64(format_args!("{field}, its offset"))?;
        return Ok(Described::Foreign(ForeignTensor { name, dims, type_id }));
    };
    if !dims[0].is_multiple_of(tensor_type.block_elements()) {
        let found = format!("rows of {} values", dims[0]);
        let expected = format!("a multiple of {tensor_type}'s block of {}", tensor_type.block_elements());
        return Err(cursor.reject(Rule::BlockSize, field, found, expected));
    }
    let too_many = || {
        let found = format!("dimensions {dims:?} of type {tensor_type}");
        cursor.reject(Rule::ElementCount, &field, found, "fewer than 2^63 elements and bytes")
    };
    // Both products stay below 2^63, so that no later sum or product of two of them overflows.
    let bounded = |n: &u64| i64::try_from(*n).is_ok();
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(bounded).ok_or_else(too_many)?;
    let row_bytes = tensor_type.row_bytes(dims[0]).ok_or_else(too_many)?;
    let bytes = dims[1..].iter().try_fold(row_bytes, |n, d| n.checked_mul(*d)).filter(bounded).ok_or_else(too_many)?;

    let offset = cursor.u64(format_args!("{field}, its offset"))?;
    if !offset.is_multiple_of(u64::from(alignment)) {
        let expected = format!("a multiple of the alignment, {alignment}");
        return Err(cursor.reject(Rule::OffsetAlignment, field, format!("offset {offset}"), expected));
    }
    Ok(Described::Known(TensorInfo { name, dims, tensor_type, offset, bytes, part: 0 }))
}

/// Makes offsets absolute, and checks that the tensors lie inside the file and apart from each other.
fn place(tensors: &mut [TensorInfo], data_start: u64, cursor: &Cursor) -> Result<(), GgufError> {
    let file_bytes = cursor.bytes.len() as u64;
    for tensor in tensors.iter_mut() {
        let start = data_start.checked_add(tensor.offset);
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => tensor.offset = start,
            _ => {
                let found = format!("{} bytes at {data_start} + {}", tensor.bytes, tensor.offset);
                let expected = format!("them inside the file of {file_bytes} bytes");
                return Err(cursor.reject(Rule::TensorRange, format!("tensor {}", tensor.name), found, expected));
            }
        }
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|t| t.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].bytes > pair[1].offset {
            let found = format!("data from byte {}, inside tensor {}", pair[1].offset, pair[0].name);
            let field = format!("tensor {}", pair[1].name);
            return Err(cursor.reject(Rule::TensorOverlap, field, found, "bytes of its own"));
        }
    }
    Ok(())
}

/// A position in the file. Nothing is read past the end, and nothing is allocated for more than the remaining bytes can hold.
struct Cursor<'a> {
    file: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn reject(&self, rule: Rule, field: impl ToString, found: impl ToString, expected: impl ToString) -> GgufError {
        GgufError::rejected(self.file, rule, field, found, expected)
    }

    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    fn take(&mut self, n: u64, field: Arguments) -> Result<&'a [u8], GgufError> {
        if n > self.remaining() {
            let found = format!("the end of the file at byte {}", self.bytes.len());
            let expected = format!("{n} bytes from byte {}", self.at);
            return Err(self.reject(Rule::Truncated, field, found, expected));
        }
        let taken = &self.bytes[self.at..][..n as usize];
        self.at += n as usize;
        Ok(taken)
    }

    /// Compares a count of things of at least `min_bytes` each with the remaining bytes.
    fn check_count(&self, count: u64, min_bytes: u64, rule: Rule, field: Arguments) -> Result<(), GgufError> {
        let most = self.remaining() / min_bytes;
        if count > most {
            let expected = format!("at most {most}, which is what the remaining {} bytes can hold", self.remaining());
            return Err(self.reject(rule, field, count, expected));
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self, field: Arguments) -> Result<[u8; N], GgufError> {
        Ok(self.take(N as u64, field)?.try_into().expect("take returns N bytes"))
    }

    fn u32(&mut self, field: Arguments) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    fn u64(&mut self, field: Arguments) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    fn numbers<T, const N: usize>(
        &mut self,
        n: usize,
        field: &str,
        from: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufError> {
        // The caller has compared `n` with the remaining bytes, or it is a tensor's few dimensions: the product does not overflow.
        let bytes = self.take((n * N) as u64, format_args!("{field}"))?;
        Ok(bytes.chunks_exact(N).map(|chunk| from(chunk.try_into().expect("N bytes"))).collect())
    }

    fn bool(&mut self, field: &str) -> Result<bool, GgufError> {
        match self.array(format_args!("{field}"))? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.reject(Rule::Bool, field, format!("the byte {other}"), "0 or 1")),
        }
    }

    fn value_type(&mut self, field: &str) -> Result<ValueType, GgufError> {
        let id = self.u32(format_args!("{field}, its type"))?;
        ValueType::from_id(id).ok_or_else(|| self.reject(Rule::ValueType, field, format!("value type {id}"), "0 to 12"))
    }

    fn string(&mut self, field: &str) -> Result<&'a [u8], GgufError> {
        let length = self.u64(format_args!("{field}, a string's length"))?;
        self.check_count(length, 1, Rule::StringLength, format_args!("{field}, a string's length"))?;
        self.take(length, format_args!("{field}"))
    }

    fn utf8(&mut self, length: u64, field: Arguments) -> Result<String, GgufError> {
        let bytes = self.take(length, field)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(error) => {
                let found = format!("a byte that is not UTF-8 at {} of {length}", error.valid_up_to());
                Err(self.reject(Rule::Utf8, field, found, "UTF-8"))
            }
        }
    }
}
