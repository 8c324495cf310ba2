//! A model's tensors as they lie in the file, checked against its hyperparameters.

use std::collections::HashSet;

use super::config::Config;
use super::error::{ModelError, ModelRule};
use super::figure::{Figure, Stack, Tensor, TensorId};
use crate::gguf::{Gguf, TensorType};

/// One matrix, a stack of equal matrices (experts), or a vector, in the file's own bytes.
///
/// Row `r` holds the weights of output `r`: `cols` contiguous values. A vector is a single row.
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    /// The tensor's name in the file.
    pub name: &'a str,
    /// How the values are stored.
    pub tensor_type: TensorType,
    /// Outputs of one matrix.
    pub rows: usize,
    /// Inputs; the contiguous dimension.
    pub cols: usize,
    /// How many matrices are stacked: 1, or the number of experts.
    pub matrices: usize,
    /// `matrices · rows · row_bytes` bytes.
    pub data: &'a [u8],
}

impl<'a> WeightView<'a> {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.data.len() / (self.matrices * self.rows)
    }

    /// The bytes of row `r` of the first matrix.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, r: usize) -> &'a [u8] {
        assert!(r < self.rows, "row {r} of {} in {}", self.rows, self.name);
        let bytes = self.row_bytes();
        &self.data[r * bytes..][..bytes]
    }

    /// Matrix `m` of the stack, as a view of its own.
    ///
    /// # Panics
    /// If there is no such matrix.
    pub fn matrix(&self, m: usize) -> WeightView<'a> {
        assert!(m < self.matrices, "matrix {m} of {} in {}", self.matrices, self.name);
        let bytes = self.row_bytes() * self.rows;
        WeightView { matrices: 1, data: &self.data[m * bytes..][..bytes], ..*self }
    }

    /// How many values the view holds.
    pub fn elements(&self) -> usize {
        self.matrices * self.rows * self.cols
    }
}

/// A model as it lies in a file: its hyperparameters, its figure, and the file's bytes of every tensor in it.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    /// The hyperparameters.
    pub config: Config,
    /// The operations and what they use.
    pub figure: Figure,
    views: Vec<WeightView<'a>>,
}

impl<'a> Model<'a> {
    /// Reads and checks the model in `gguf`.
    ///
    /// # Errors
    /// Those of [`Config::from_gguf`]; a tensor is missing, has another shape, or would be left over.
    pub fn open(gguf: &'a Gguf) -> Result<Model<'a>, ModelError> {
        Model::with_config(gguf, Config::from_gguf(gguf)?)
    }

    /// The same with hyperparameters that may be others than the file's.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, or would be left over.
    pub fn with_config(gguf: &'a Gguf, config: Config) -> Result<Model<'a>, ModelError> {
        let figure = Figure::new(&config, &|name| gguf.tensor(name).is_some());
        let mut tensors = Tensors { gguf, architecture: config.architecture(), used: HashSet::new() };
        let views = figure.tensors.iter().map(|tensor| tensors.view(tensor)).collect::<Result<_, _>>()?;
        tensors.check_all_used(&config)?;
        Ok(Model { config, figure, views })
    }

    /// A tensor.
    pub fn view(&self, tensor: TensorId) -> WeightView<'a> {
        self.views[tensor.0]
    }

    /// The tensor of that name.
    ///
    /// # Panics
    /// Where the figure has none.
    pub fn named(&self, name: &str) -> WeightView<'a> {
        *self.views.iter().find(|view| view.name == name).unwrap_or_else(|| panic!("the figure has no {name}"))
    }

    /// Types and rows of a stack's pieces, from the first output to the last.
    pub fn types(&self, stack: &Stack) -> Vec<(TensorType, usize)> {
        stack.pieces.iter().map(|piece| (self.view(piece.tensor).tensor_type, piece.n_rows())).collect()
    }

    /// Whether some of a stack's values are of a quantised type.
    pub fn is_quantised(&self, stack: &Stack) -> bool {
        self.types(stack).iter().any(|(tensor_type, _)| tensor_type.is_quantised())
    }
}

/// Looks tensors up by name and remembers which were asked for.
struct Tensors<'a> {
    gguf: &'a Gguf,
    architecture: &'static str,
    used: HashSet<&'a str>,
}

impl<'a> Tensors<'a> {
    fn view(&mut self, tensor: &Tensor) -> Result<WeightView<'a>, ModelError> {
        // GGUF may leave out trailing dimensions of 1, so both sides are compared without them.
        let (tensor_type, name, data) = self.find(&tensor.name, &tensor.dims)?;
        if tensor.is_vector && tensor_type != TensorType::F32 {
            return Err(self.reject(ModelRule::VectorType, name, tensor_type, "F32"));
        }
        let [cols, rows, matrices] = tensor.dims;
        Ok(WeightView { name, tensor_type, rows, cols, matrices, data })
    }

    fn find(&mut self, name: &str, dims: &[usize]) -> Result<(TensorType, &'a str, &'a [u8]), ModelError> {
        let dims: Vec<u64> = dims.iter().map(|d| *d as u64).collect();
        let dims = without_ones(&dims);
        let Some(tensor) = self.gguf.tensor(name) else {
            let expected = format!("it, with dimensions {dims:?}, in a {} model", self.architecture);
            return Err(self.reject(ModelRule::MissingTensor, name, "nothing", expected));
        };
        if without_ones(&tensor.dims) != dims {
            let found = format!("dimensions {:?}", tensor.dims);
            return Err(self.reject(ModelRule::TensorShape, name, found, format!("{dims:?}, by the metadata")));
        }
        self.used.insert(&tensor.name);
        Ok((tensor.tensor_type, &tensor.name, self.gguf.data(tensor)))
    }

    /// Fails where a tensor is neither used nor known to be of no use.
    fn check_all_used(&self, config: &Config) -> Result<(), ModelError> {
        let of_later_block = |name: &str| {
            let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
            block.and_then(|(block, _)| block.parse().ok()).is_some_and(|block: usize| {
                (config.n_layers..config.n_layers + config.n_unused_layers).contains(&block)
            })
        };
        let is_known = |name: &str| {
            let ignored = config.family.ignored.iter().any(|end| name.ends_with(end));
            self.used.contains(name) || ignored || of_later_block(name)
        };
        match self.gguf.tensors().find(|t| !is_known(&t.name)) {
            None => Ok(()),
            Some(t) => {
                let found = format!("a tensor of dimensions {:?}", t.dims);
                let expected = format!("only tensors that a {} model of this shape uses", self.architecture);
                Err(self.reject(ModelRule::UnknownTensor, &t.name, found, expected))
            }
        }
    }

    fn reject(&self, rule: ModelRule, tensor: &str, found: impl ToString, expected: impl ToString) -> ModelError {
        ModelError::rejected(self.gguf.name(), rule, format!("tensor {tensor}"), found, expected)
    }
}

/// `dims` without trailing ones; at least one dimension stays.
fn without_ones(dims: &[u64]) -> &[u64] {
    let len = dims.iter().rposition(|d| *d != 1).map_or(1, |last| last + 1);
    &dims[..len]
}
