//! Traces as safetensors files.
//!
//! The format stores tensors sorted by name; the order of execution is kept in its metadata under `order`, names joined by newlines.

use std::collections::HashMap;
use std::path::Path;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::Trace;

const ORDER: &str = "order";

/// Why a trace could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("{file}: cannot be read: {source}; check the path")]
    Read {
        /// Path of the file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error("{file}: cannot be written: {source}; check the folder and the space left")]
    Write {
        /// Path of the file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is no trace.
    #[error("{file}: {field}: found {found}, expected {expected}; write it with `ferrowarp trace`")]
    Malformed {
        /// Path of the file.
        file: String,
        /// Which part of it.
        field: String,
        /// What it holds.
        found: String,
        /// What a trace holds there.
        expected: &'static str,
    },
}

impl Trace {
    /// Writes the trace to `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TraceError> {
        let file = path.display().to_string();
        let bytes: Vec<Vec<u8>> =
            self.tensors.iter().map(|t| t.data.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
        let views = self.tensors.iter().zip(&bytes).map(|(t, bytes)| {
            let view = TensorView::new(Dtype::F32, t.shape.clone(), bytes).expect("the data has the tensor's shape");
            (t.name.as_str(), view)
        });
        let order = self.tensors.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join("\n");
        let metadata = HashMap::from([(ORDER.to_string(), order)]);
        let serialised = safetensors::serialize(views, Some(metadata))
            .map_err(|e| TraceError::Write { file: file.clone(), source: std::io::Error::other(e) })?;
        crate::atomic_file::replace(path, &serialised).map_err(|source| TraceError::Write { file, source })
    }

    /// Reads the trace at `path`. In a file that does not say the order of execution, names are in alphabetical order.
    ///
    /// # Errors
    /// The file cannot be read, or is no safetensors file of F32 tensors.
    pub fn load(path: &Path) -> Result<Trace, TraceError> {
        let file = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| TraceError::Read { file: file.clone(), source })?;
        Trace::from_safetensors(&bytes, &file)
    }

    /// Reads a trace from memory; `file` stands for the path in messages.
    ///
    /// # Errors
    /// As [`Trace::load`].
    pub fn from_safetensors(bytes: &[u8], file: &str) -> Result<Trace, TraceError> {
        let malformed = |field: &str, found: String, expected| TraceError::Malformed {
            file: file.to_string(),
            field: field.to_string(),
            found,
            expected,
        };
        let not_safetensors =
            |e: safetensors::SafeTensorError| malformed("header", e.to_string(), "a safetensors file");
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(not_safetensors)?;
        let content = SafeTensors::deserialize(bytes).map_err(not_safetensors)?;

        let mut names: Vec<&str> = content.names();
        names.sort_unstable();
        if let Some(order) = header.metadata().as_ref().and_then(|m| m.get(ORDER)) {
            let position: HashMap<&str, usize> = order.split('\n').enumerate().map(|(i, n)| (n, i)).collect();
            if let Some(name) = names.iter().find(|n| !position.contains_key(*n)) {
                return Err(malformed("metadata key order", format!("no {name}"), "the names of all tensors"));
            }
            names.sort_by_key(|n| position[n]);
        }
        let mut trace = Trace::new();
        for name in names {
            let view = content.tensor(name).map_err(not_safetensors)?;
            if view.dtype() != Dtype::F32 {
                return Err(malformed(name, format!("type {:?}", view.dtype()), "F32"));
            }
            let data: Vec<f32> =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            trace.append(name, view.shape(), &data);
        }
        Ok(trace)
    }
}
