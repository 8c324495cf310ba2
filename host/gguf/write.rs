//! Writing GGUF: metadata and tensor descriptions in front of the data.
//!
//! [`Writer`] lays out what it is told. The `raw` calls, and the header's public fields, write any bytes in any place, which is how
//! the tests build each kind of broken file.

use super::tensor::TensorType;
use super::value::{Array, Value};

/// Builds the part of a file that comes before the data.
#[derive(Clone, Debug)]
pub struct Writer {
    /// The first four bytes.
    pub magic: [u8; 4],
    /// The format's version.
    pub version: u32,
    /// The tensor count in the header.
    pub tensor_count: u64,
    /// The metadata count in the header.
    pub metadata_count: u64,
    /// Padding unit in front of the data, and between tensors. [`Writer::metadata`] takes it from `general.alignment`.
    pub alignment: usize,
    metadata: Vec<u8>,
    tensors: Vec<u8>,
    /// Where the next tensor goes, from the beginning of the data section.
    next_offset: u64,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer {
            magic: *b"GGUF",
            version: 3,
            tensor_count: 0,
            metadata_count: 0,
            alignment: 32,
            metadata: Vec::new(),
            tensors: Vec::new(),
            next_offset: 0,
        }
    }
}

impl Writer {
    /// Adds a key/value pair.
    pub fn metadata(&mut self, key: &str, value: &Value) {
        if let ("general.alignment", Value::U32(alignment)) = (key, value) {
            self.alignment = *alignment as usize;
        }
        let mut payload = Vec::new();
        put_value(&mut payload, value);
        self.metadata_raw(key.as_bytes(), value.value_type() as u32, &payload);
    }

    /// Adds a pair from its parts, whatever they are.
    pub fn metadata_raw(&mut self, key: &[u8], type_id: u32, payload: &[u8]) {
        self.metadata_count += 1;
        put_bytes(&mut self.metadata, key);
        self.metadata.extend_from_slice(&type_id.to_le_bytes());
        self.metadata.extend_from_slice(payload);
    }

    /// Adds a tensor behind the ones already there and returns its offset in the data section, in bytes.
    ///
    /// # Panics
    /// If a row is not a whole number of blocks.
    pub fn tensor(&mut self, name: &str, dims: &[u64], tensor_type: TensorType) -> u64 {
        let row = tensor_type.row_bytes(dims[0]).expect("a row is a whole number of blocks");
        let offset = self.next_offset;
        let bytes = row * dims[1..].iter().product::<u64>();
        self.next_offset = (offset + bytes).next_multiple_of(self.alignment as u64);
        self.tensor_raw(name.as_bytes(), dims, tensor_type.id(), offset);
        offset
    }

    /// Adds a tensor's description from its parts, whatever they are.
    pub fn tensor_raw(&mut self, name: &[u8], dims: &[u64], type_id: u32, offset: u64) {
        self.tensor_count += 1;
        put_bytes(&mut self.tensors, name);
        self.tensors.extend_from_slice(&(dims.len() as u32).to_le_bytes());
        for dim in dims {
            self.tensors.extend_from_slice(&dim.to_le_bytes());
        }
        self.tensors.extend_from_slice(&type_id.to_le_bytes());
        self.tensors.extend_from_slice(&offset.to_le_bytes());
    }

    /// The bytes of the data section that the tensors so far need, padding included.
    pub fn data_bytes(&self) -> u64 {
        self.next_offset
    }

    /// Everything in front of the data section, padded up to it.
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.tensor_count.to_le_bytes());
        out.extend_from_slice(&self.metadata_count.to_le_bytes());
        out.extend_from_slice(&self.metadata);
        out.extend_from_slice(&self.tensors);
        out.resize(out.len().next_multiple_of(self.alignment.max(1)), 0);
        out
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I8(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I16(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::U32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F32(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::String(v) => put_bytes(out, v.as_bytes()),
        Value::Bytes(v) => put_bytes(out, v),
        Value::Array(v) => put_array(out, v),
        Value::U64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::I64(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::F64(v) => out.extend_from_slice(&v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend_from_slice(&(array.element_type() as u32).to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    for i in 0..array.len() {
        put_value(out, &array.get(i).expect("in range"));
    }
}
