//! Traces: every intermediate tensor of a forward pass, by the name llama.cpp gives it, and the first place where two differ.
//!
//! A forward pass tells its tensors to a [`Recorder`], a [`Trace`] collects them in the order of execution, a file keeps them
//! (safetensors, all F32), and [`Trace::diff`] compares two.
//!
//! # Names
//!
//! A name is a stem, the layer, and a count: `Qcur-0` is layer 0's query after its projection. Where llama.cpp gives several tensors
//! one name, a suffix counts them: in a qwen2 model `Qcur-0.1` is the query after the bias, `.2` the same by heads, `.3` after RoPE;
//! in a model without biases the numbers are one lower. Names are given by the model's figure ([`crate::model::figure`]).
//!
//! # Shapes
//!
//! The first dimension is the token, and the last is contiguous: `[tokens, n_embd]`, `[tokens, heads, head_dim]`. Attention
//! probabilities, `kq_soft_max`, are `[heads, tokens, positions]`, with the positions rounded up to a multiple of 256 and zero where
//! a token does not look.

mod diff;
mod file;
mod printed;

use std::collections::HashMap;

pub use diff::{Diff, Difference, relative_error};
pub use file::TraceError;
pub use printed::{Printed, PrintedTensor};

/// `kq_soft_max` has as many positions as the next multiple of this; llama.cpp's cache is padded so.
pub const POSITION_PADDING: usize = 256;

/// Receives a tensor: name, shape, values.
pub type Sink<'a> = dyn FnMut(&str, &[usize], &[f32]) + 'a;

/// Passes the tensors of a forward pass on, or drops them when nobody listens.
pub struct Recorder<'a> {
    sink: Option<&'a mut Sink<'a>>,
}

impl<'a> Recorder<'a> {
    /// A recorder that drops everything.
    pub fn off() -> Recorder<'a> {
        Recorder { sink: None }
    }

    /// A recorder for one forward pass.
    pub fn new(sink: &'a mut Sink<'a>) -> Recorder<'a> {
        Recorder { sink: Some(sink) }
    }

    /// Whether anybody listens: a tensor that has to be made for the trace need not be made otherwise.
    pub fn is_on(&self) -> bool {
        self.sink.is_some()
    }

    /// Records a tensor under its name in the figure.
    pub fn record(&mut self, name: &str, shape: &[usize], data: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{name} has shape {shape:?}");
        if let Some(sink) = &mut self.sink {
            sink(name, shape, data);
        }
    }
}

/// One tensor of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceTensor {
    /// llama.cpp's name.
    pub name: String,
    /// Dimensions; the last is contiguous.
    pub shape: Vec<usize>,
    /// The values.
    pub data: Vec<f32>,
}

/// The tensors of one run, in the order of execution.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    tensors: Vec<TraceTensor>,
    by_name: HashMap<String, usize>,
}

impl Trace {
    /// A trace with nothing in it.
    pub fn new() -> Trace {
        Trace::default()
    }

    /// Adds a tensor. One that is already there, from earlier tokens of the run, grows by the new tokens, so that a prompt fed token
    /// by token gives the same trace as one fed at once.
    ///
    /// # Panics
    /// If the shape differs from the earlier one's in another dimension than the token's.
    pub fn append(&mut self, name: &str, shape: &[usize], data: &[f32]) {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{name} has shape {shape:?}");
        let Some(&i) = self.by_name.get(name) else {
            self.by_name.insert(name.to_string(), self.tensors.len());
            self.tensors.push(TraceTensor { name: name.to_string(), shape: shape.to_vec(), data: data.to_vec() });
            return;
        };
        let tensor = &mut self.tensors[i];
        if name.starts_with("kq_soft_max") {
            tensor.append_probabilities(shape, data);
        } else {
            assert_eq!(tensor.shape[1..], shape[1..], "{name} keeps its shape from token to token");
            tensor.shape[0] += shape[0];
            tensor.data.extend_from_slice(data);
        }
    }

    /// The same of the first `n` tokens alone.
    pub fn first_tokens(&self, n: usize) -> Trace {
        let mut trace = Trace::new();
        for tensor in &self.tensors {
            if tensor.name.starts_with("kq_soft_max") {
                let (heads, tokens, positions) = (tensor.shape[0], tensor.shape[1], tensor.shape[2]);
                let kept =
                    tensor.data.chunks_exact(tokens * positions).flat_map(|head| &head[..n.min(tokens) * positions]);
                let data: Vec<f32> = kept.copied().collect();
                trace.append(&tensor.name, &[heads, n.min(tokens), positions], &data);
            } else {
                let mut shape = tensor.shape.clone();
                shape[0] = n.min(shape[0]);
                trace.append(&tensor.name, &shape, &tensor.data[..shape.iter().product()]);
            }
        }
        trace
    }

    /// The tensors, in the order of execution.
    pub fn tensors(&self) -> &[TraceTensor] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&TraceTensor> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }
}

impl TraceTensor {
    /// Adds tokens to `[heads, tokens, positions]`; either side may have been padded to fewer positions.
    fn append_probabilities(&mut self, shape: &[usize], data: &[f32]) {
        let &[heads, old_tokens, old_positions] = self.shape.as_slice() else {
            panic!("{} has three dimensions", self.name)
        };
        let &[new_heads, new_tokens, new_positions] = shape else { panic!("{} has three dimensions", self.name) };
        assert_eq!(heads, new_heads, "{} keeps its heads", self.name);
        let positions = old_positions.max(new_positions);
        let mut joined = Vec::with_capacity(heads * (old_tokens + new_tokens) * positions);
        for head in 0..heads {
            let parts = [(&self.data[..], old_tokens, old_positions), (data, new_tokens, new_positions)];
            for (data, tokens, width) in parts {
                for row in data[head * tokens * width..][..tokens * width].chunks_exact(width) {
                    joined.extend_from_slice(row);
                    joined.resize(joined.len() + positions - width, 0.0);
                }
            }
        }
        self.shape = vec![heads, old_tokens + new_tokens, positions];
        self.data = joined;
    }
}
