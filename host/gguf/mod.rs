//! Reading GGUF model files, and trusting nothing in them.
//!
//! A GGUF file is a header, a list of key/value metadata, a list of tensor descriptions, padding, and the tensors' data:
//!
//! ```text
//! magic "GGUF" | version u32 | tensor count u64 | metadata count u64
//! metadata:  key string | type u32 | value                    (a string is u64 length + UTF-8 bytes)
//! tensors:   name string | n_dims u32 | dims u64… | type u32 | offset u64
//! padding to general.alignment
//! data:      each tensor at its offset, counted from here
//! ```
//!
//! Everything is little-endian. `dims[0]` is the contiguous dimension: a matrix of `out` rows of `in` values has dims `[in, out]`.
//! The format is described in ggml's `docs/gguf.md`.
//!
//! A model file comes from a stranger. So every count is compared with the bytes that remain before anything is allocated for it,
//! every product is checked for overflow, and a file that breaks a rule of [`Rule`] is an error naming the file, the field, what was
//! found and what was expected. After [`Gguf::open`] returns, every [`TensorInfo`] names bytes that exist.

mod error;
mod metadata;
mod parse;
mod split;
mod tensor;
mod value;
mod write;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use memmap2::{Mmap, MmapMut};

pub(crate) use error::printable;
pub use error::{GgufError, Rule};
pub use metadata::{Metadata, MetadataError};
pub use tensor::{ForeignTensor, TensorInfo, TensorType};
pub use value::{Array, Value, ValueType};
pub use write::Writer;

/// A GGUF model: one file, or the parts of a split one, memory-mapped or held in memory.
pub struct Gguf {
    name: String,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
    foreign: Vec<ForeignTensor>,
    /// The bytes of each part; [`TensorInfo::part`] says which one holds a tensor.
    parts: Vec<Bytes>,
}

/// Where a part's bytes live.
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Bytes {
    fn map(path: &Path) -> Result<Bytes, GgufError> {
        let open = |source| GgufError::Open { file: path.display().to_string(), source };
        // Before it is opened: to open a pipe is to wait for its other end.
        if !std::fs::metadata(path).map_err(open)?.is_file() {
            return Err(open(std::io::Error::other("it is not a regular file")));
        }
        let file = File::open(path).map_err(open)?;
        // SAFETY: the mapping is private and read-only. Rust cannot rule out that another process truncates or rewrites the file
        // while it is mapped; like every program that maps model files, this one relies on the person not to do that.
        let map = unsafe { Mmap::map(&file) }.map_err(open)?;
        Ok(Bytes::Mapped(map))
    }

    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Maps and checks the file at `path`. Naming the first part of a split model (`…-00001-of-00003.gguf`) opens all its parts,
    /// which lie beside it.
    ///
    /// # Errors
    /// [`GgufError`] when a file cannot be read or breaks a rule of [`Rule`].
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let first = Gguf::single(Bytes::map(path)?, &path.display().to_string())?;
        split::join(first, path)
    }

    /// Reads a model from memory; `name` stands for the path in messages.
    ///
    /// # Errors
    /// [`GgufError::Rejected`], as [`Gguf::open`].
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Gguf, GgufError> {
        split::refuse(Gguf::single(Bytes::Owned(bytes), name)?)
    }

    /// A model in memory of the system's; `name` stands for the path in messages.
    ///
    /// # Errors
    /// [`GgufError::Rejected`], as [`Gguf::open`].
    pub fn from_map(map: MmapMut, name: &str) -> Result<Gguf, GgufError> {
        let map = map.make_read_only().map_err(|source| GgufError::Open { file: name.to_owned(), source })?;
        Gguf::single(Bytes::Mapped(map), name)
    }

    fn single(bytes: Bytes, name: &str) -> Result<Gguf, GgufError> {
        let parse::Parsed { version, metadata, tensors, foreign } = parse::parse(bytes.as_slice(), name)?;
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Gguf { name: name.to_string(), version, metadata, tensors, by_name, foreign, parts: vec![bytes] })
    }

    /// The path or name the model was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key/value pairs, in file order.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in file order.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The tensors of types that this program does not read, in file order. [`Gguf::tensors`] leaves them out.
    pub fn foreign_tensors(&self) -> &[ForeignTensor] {
        &self.foreign
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of `tensor`, as they lie in the file: rows of `dims[0]` values, each row a whole number of blocks.
    ///
    /// # Panics
    /// If `tensor` comes from another model.
    pub fn data(&self, tensor: &TensorInfo) -> &[u8] {
        &self.parts[tensor.part].as_slice()[tensor.offset as usize..][..tensor.bytes as usize]
    }

    /// How many files the model is in.
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Gguf")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("metadata", &self.metadata.len())
            .field("tensors", &self.tensors.len())
            .finish_non_exhaustive()
    }
}
