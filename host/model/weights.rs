//! A model's tensors as they lie in the file, checked against its hyperparameters.

use std::collections::HashSet;

use super::config::Config;
use super::error::{ModelError, ModelRule};
use super::family::Presence;
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

/// The tensors of one layer. `heads·dim` stands for `n_heads · head_dim`, `kv·dim` for `n_kv_heads · head_dim`.
#[derive(Clone, Copy, Debug)]
pub struct LayerWeights<'a> {
    /// RMSNorm before attention: `[n_embd]`.
    pub attn_norm: WeightView<'a>,
    /// Query projection: `heads·dim` rows of `n_embd`.
    pub attn_q: WeightView<'a>,
    /// Query bias: `[heads·dim]`.
    pub attn_q_bias: Option<WeightView<'a>>,
    /// Key projection: `kv·dim` rows of `n_embd`.
    pub attn_k: WeightView<'a>,
    /// Key bias: `[kv·dim]`.
    pub attn_k_bias: Option<WeightView<'a>>,
    /// Value projection: `kv·dim` rows of `n_embd`.
    pub attn_v: WeightView<'a>,
    /// Value bias: `[kv·dim]`.
    pub attn_v_bias: Option<WeightView<'a>>,
    /// RMSNorm over each query head: `[head_dim]`.
    pub attn_q_norm: Option<WeightView<'a>>,
    /// RMSNorm over each key head: `[head_dim]`.
    pub attn_k_norm: Option<WeightView<'a>>,
    /// Output projection: `n_embd` rows of `heads·dim`.
    pub attn_output: WeightView<'a>,
    /// Output bias: `[n_embd]`.
    pub attn_output_bias: Option<WeightView<'a>>,
    /// RMSNorm before the feed-forward network: `[n_embd]`.
    pub ffn_norm: WeightView<'a>,
    /// The router, where there are experts: `n_experts` rows of `n_embd`.
    pub ffn_gate_inp: Option<WeightView<'a>>,
    /// Gate projection: `n_ff` rows of `n_embd`; one matrix, or one for each expert.
    pub ffn_gate: WeightView<'a>,
    /// Up projection: `n_ff` rows of `n_embd`; one matrix, or one for each expert.
    pub ffn_up: WeightView<'a>,
    /// Down projection: `n_embd` rows of `n_ff`; one matrix, or one for each expert.
    pub ffn_down: WeightView<'a>,
}

impl LayerWeights<'_> {
    /// Whether queries, keys or values have a bias.
    pub fn has_qkv_bias(&self) -> bool {
        [self.attn_q_bias, self.attn_k_bias, self.attn_v_bias].iter().any(Option::is_some)
    }
}

/// All tensors of a model.
#[derive(Clone, Debug)]
pub struct ModelWeights<'a> {
    /// Embedding: `vocab_size` rows of `n_embd`.
    pub token_embd: WeightView<'a>,
    /// The last RMSNorm: `[n_embd]`.
    pub output_norm: WeightView<'a>,
    /// Output projection: `vocab_size` rows of `n_embd`. The embedding itself where the two are tied.
    pub output: WeightView<'a>,
    /// Divisors of RoPE's frequencies: `[n_rot/2]`.
    pub rope_freqs: Option<WeightView<'a>>,
    /// The layers, first to last.
    pub layers: Vec<LayerWeights<'a>>,
}

impl<'a> ModelWeights<'a> {
    /// Finds every tensor of the model in `gguf` and checks its shape.
    ///
    /// # Errors
    /// A tensor is missing, has another shape, or would be left over.
    pub fn new(gguf: &'a Gguf, config: &Config) -> Result<ModelWeights<'a>, ModelError> {
        let mut tensors = Tensors { gguf, architecture: config.architecture(), used: HashSet::new() };
        let family = config.family;
        let n_embd = config.n_embd;

        let token_embd = tensors.matrix("token_embd.weight", config.vocab_size, n_embd)?;
        let output_norm = tensors.vector("output_norm.weight", n_embd)?;
        let output = match gguf.tensor("output.weight") {
            Some(_) => tensors.matrix("output.weight", config.vocab_size, n_embd)?,
            None => token_embd,
        };
        let rope_freqs = tensors.part(family.rope_factors, "rope_freqs.weight", config.rope.n_rot / 2)?;
        let layers = (0..config.n_layers).map(|il| layer(&mut tensors, config, il)).collect::<Result<_, _>>()?;
        tensors.check_all_used()?;
        Ok(ModelWeights { token_embd, output_norm, output, rope_freqs, layers })
    }
}

fn layer<'a>(t: &mut Tensors<'a>, config: &Config, il: usize) -> Result<LayerWeights<'a>, ModelError> {
    let Config { family, n_embd, head_dim, n_ff, .. } = *config;
    let q_len = config.n_heads * head_dim;
    let kv_len = config.n_kv_heads * head_dim;
    let name = |part: &str| format!("blk.{il}.{part}");

    // Where there are experts, their matrices are stacked under names of their own.
    let (suffix, experts) = match &config.experts {
        Some(experts) => ("_exps", experts.n_experts),
        None => ("", 1),
    };
    let mut feed_forward =
        |part: &str, rows: usize, cols: usize| t.stack(&name(&format!("{part}{suffix}.weight")), experts, rows, cols);
    let ffn_gate = feed_forward("ffn_gate", n_ff, n_embd)?;
    let ffn_up = feed_forward("ffn_up", n_ff, n_embd)?;
    let ffn_down = feed_forward("ffn_down", n_embd, n_ff)?;
    let ffn_gate_inp = match &config.experts {
        Some(experts) => Some(t.matrix(&name("ffn_gate_inp.weight"), experts.n_experts, n_embd)?),
        None => None,
    };
    Ok(LayerWeights {
        attn_norm: t.vector(&name("attn_norm.weight"), n_embd)?,
        attn_q: t.matrix(&name("attn_q.weight"), q_len, n_embd)?,
        attn_q_bias: t.part(family.qkv_bias, &name("attn_q.bias"), q_len)?,
        attn_k: t.matrix(&name("attn_k.weight"), kv_len, n_embd)?,
        attn_k_bias: t.part(family.qkv_bias, &name("attn_k.bias"), kv_len)?,
        attn_v: t.matrix(&name("attn_v.weight"), kv_len, n_embd)?,
        attn_v_bias: t.part(family.qkv_bias, &name("attn_v.bias"), kv_len)?,
        attn_q_norm: t.part(family.qk_norm, &name("attn_q_norm.weight"), head_dim)?,
        attn_k_norm: t.part(family.qk_norm, &name("attn_k_norm.weight"), head_dim)?,
        attn_output: t.matrix(&name("attn_output.weight"), n_embd, q_len)?,
        attn_output_bias: t.part(family.attn_output_bias, &name("attn_output.bias"), n_embd)?,
        ffn_norm: t.vector(&name("ffn_norm.weight"), n_embd)?,
        ffn_gate_inp,
        ffn_gate,
        ffn_up,
        ffn_down,
    })
}

/// Looks tensors up by name and remembers which were asked for.
struct Tensors<'a> {
    gguf: &'a Gguf,
    architecture: &'static str,
    used: HashSet<&'a str>,
}

impl<'a> Tensors<'a> {
    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<WeightView<'a>, ModelError> {
        self.stack(name, 1, rows, cols)
    }

    fn stack(&mut self, name: &str, matrices: usize, rows: usize, cols: usize) -> Result<WeightView<'a>, ModelError> {
        // GGUF may leave out trailing dimensions of 1, so both sides are compared without them.
        let dims = [cols, rows, matrices];
        self.find(name, &dims).map(|(tensor_type, name, data)| WeightView {
            name,
            tensor_type,
            rows,
            cols,
            matrices,
            data,
        })
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<WeightView<'a>, ModelError> {
        let view = self.stack(name, 1, 1, len)?;
        if view.tensor_type != TensorType::F32 {
            return Err(self.reject(ModelRule::VectorType, name, view.tensor_type, "F32"));
        }
        Ok(view)
    }

    /// A vector that the family may have or not.
    fn part(&mut self, presence: Presence, name: &str, len: usize) -> Result<Option<WeightView<'a>>, ModelError> {
        match presence {
            Presence::Absent => Ok(None),
            Presence::Optional if self.gguf.tensor(name).is_none() => Ok(None),
            Presence::Optional | Presence::Required => self.vector(name, len).map(Some),
        }
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

    fn check_all_used(&self) -> Result<(), ModelError> {
        match self.gguf.tensors().find(|t| !self.used.contains(t.name.as_str())) {
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
