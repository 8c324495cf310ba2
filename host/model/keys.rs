//! Hyperparameters: how they are read from a file's metadata, and what they may be.

use super::config::{Config, Recurrent, Rope, RopeScaling};
use super::error::{ModelError, ModelRule};
use super::family::{Family, Presence, RopeFactors, Windows};
use super::layer::{DeltaNet, Experts};
use crate::gguf::{Array, Gguf, Metadata, MetadataError, TensorType, Value};

const MAX_LAYERS: u32 = 512;
const MAX_EMBD: u32 = 1 << 20;
const MAX_HEADS: u32 = 1 << 16;
const MAX_HEAD_DIM: u32 = 1024;
const MAX_FF: u32 = 1 << 24;
const MAX_CONTEXT: u32 = 1 << 28;
const MAX_EXPERTS: u32 = 4096;
/// Heads of the delta rule that there are kernels for.
const DELTA_HEAD_DIMS: [u32; 4] = [32, 64, 128, 256];
/// Llama's and llama.cpp's default.
const DEFAULT_THETA: f32 = 10_000.0;

/// Keys that other programs act on and that have no code here, with the value at which they do nothing.
const NEUTRAL: &[(&str, f64)] = &[
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.temperature_scale", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("logit_scale", 1.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
    ("attention.shared_kv_layers", 0.0),
    ("embedding_length_per_layer_input", 0.0),
];

/// Keys that are read, or that describe what the tensors already say.
const KNOWN: &[&str] = &[
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.recurrent_layers",
    "full_attention_interval",
    "nextn_predict_layers",
    "rope.dimension_sections",
    "rope.freq_base_swa",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "ssm.group_count",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_weights_norm",
    "expert_weights_scale",
    "expert_gating_func",
    "expert_shared_count",
    "expert_group_count",
    "leading_dense_block_count",
    "vocab_size",
];

impl Config {
    /// Reads the hyperparameters of the model in `gguf`, and checks them. [`Model::open`](super::Model::open) checks the tensors as well.
    ///
    /// # Errors
    /// The architecture is unknown, a key is missing, or something breaks a rule of [`ModelRule`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Config, ModelError> {
        let family = Family::of_model(gguf)?;
        if let Some(tensor) = gguf.foreign_tensors().first() {
            return Err(ModelError::rejected(
                gguf.name(),
                ModelRule::TensorType,
                format!("tensor {}", tensor.name),
                tensor.type_name(),
                format!("one of {}", TensorType::list()),
            ));
        }
        Keys { gguf, family }.config()
    }
}

/// The metadata keys of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    family: &'static Family,
}

impl Keys<'_> {
    /// Everything but RoPE's factors, which are in a tensor.
    fn config(&self) -> Result<Config, ModelError> {
        use ModelRule as R;
        let n_blocks = self.ranged(R::LayerCount, "block_count", None, 1..=MAX_LAYERS)?;
        // The last blocks may be for predicting tokens further on; they are not run.
        let n_layers = n_blocks - self.ranged(R::LayerCount, "nextn_predict_layers", Some(0), 0..=n_blocks - 1)?;
        let n_embd = self.ranged(R::EmbeddingLength, "embedding_length", None, 1..=MAX_EMBD)?;
        let n_heads = self.ranged(R::HeadCount, "attention.head_count", None, 1..=MAX_HEADS)?;
        let n_kv_heads = self.ranged(R::KvHeadCount, "attention.head_count_kv", Some(n_heads), 1..=MAX_HEADS)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            let expected = format!("a divisor of the {n_heads} query heads");
            return Err(self.reject(R::KvHeadCount, "attention.head_count_kv", n_kv_heads, expected));
        }
        let head_dim = self.ranged(R::HeadDim, "attention.key_length", Some(n_embd / n_heads), 2..=MAX_HEAD_DIM)?;
        let value_dim = self.ranged(R::HeadDim, "attention.value_length", Some(n_embd / n_heads), 2..=MAX_HEAD_DIM)?;
        if !head_dim.is_multiple_of(2) {
            return Err(self.reject(R::HeadDim, "attention.key_length", head_dim, "an even number"));
        }
        if value_dim != head_dim {
            let expected = format!("the key length, {head_dim}");
            return Err(self.reject(R::HeadDim, "attention.value_length", value_dim, expected));
        }
        let context_length = self.ranged(R::ContextLength, "context_length", None, 1..=MAX_CONTEXT)?;
        let experts = self.experts()?;
        let n_ff = match (&experts, self.metadata().get(&self.key("expert_feed_forward_length"))) {
            (Some(_), Some(_)) => self.ranged(R::FeedForwardLength, "expert_feed_forward_length", None, 1..=MAX_FF)?,
            _ => self.ranged(R::FeedForwardLength, "feed_forward_length", None, 1..=MAX_FF)?,
        };
        let rms_epsilon = self.positive(R::RmsEpsilon, "attention.layer_norm_rms_epsilon", None)?;
        let default_scale = (1.0 / f64::from(head_dim).sqrt()) as f32;
        let attention_scale = match self.f32("attention.scale", 0.0)? {
            0.0 => default_scale,
            _ => self.positive(R::AttentionScale, "attention.scale", None)?,
        };
        let sliding_window = self.sliding_window()?;
        let family = self.family;
        let scale = |name: &str, wanted: bool| match self.f32(name, 0.0)? {
            value if value == 0.0 || !wanted => Ok::<f32, ModelError>(1.0),
            _ => self.positive(R::Arithmetic, name, None),
        };
        let embedding_scale = if family.root_embedding { (n_embd as f32).sqrt() } else { 1.0 };
        let config = Config {
            family: self.family,
            n_layers: n_layers as usize,
            n_unused_layers: (n_blocks - n_layers) as usize,
            n_embd: n_embd as usize,
            n_heads: n_heads as usize,
            n_kv_heads: n_kv_heads as usize,
            head_dim: head_dim as usize,
            n_ff: n_ff as usize,
            vocab_size: self.vocab_size()?,
            context_length: context_length as usize,
            rms_epsilon,
            rope: self.rope_with_factors(head_dim, context_length)?,
            tied_output: self.gguf.tensor("output.weight").is_none(),
            qk_norm: self.family.qk_norm == Presence::Required,
            experts,
            sliding_window,
            windowed: match sliding_window {
                Some(_) => self.windowed(n_layers as usize)?,
                None => None,
            },
            window_rope: match (sliding_window, family.window_theta) {
                (Some(_), Some(theta)) => Some(self.window_rope(head_dim, theta)?),
                _ => None,
            },
            attention_scale,
            attention_soft_cap: None,
            embedding_scale: embedding_scale * scale("embedding_scale", family.scales)?,
            residual_scale: scale("residual_scale", family.scales)?,
            logit_scale: scale("logit_scale", family.scales)?.recip(),
            logit_soft_cap: match self.f32("final_logit_softcapping", 0.0)? {
                0.0 => None,
                _ => Some(self.positive(R::Arithmetic, "final_logit_softcapping", None)?),
            },
            recurrent: if family.recurrent { Some(self.recurrent(n_layers as usize)?) } else { None },
            unused_keys: self.unused_keys()?,
        };
        Ok(config)
    }

    fn rope(&self, head_dim: u32, context_length: u32) -> Result<Rope, ModelError> {
        use ModelRule as R;
        let theta = self.positive(R::RopeTheta, "rope.freq_base", Some(DEFAULT_THETA))?;
        let n_rot = self.ranged(R::RopeDimension, "rope.dimension_count", Some(head_dim), 2..=head_dim)?;
        if !n_rot.is_multiple_of(2) {
            return Err(self.reject(R::RopeDimension, "rope.dimension_count", n_rot, "an even number"));
        }
        // 0 stands for "not scaled"; the second key is the older name.
        let mut factor = 0.0;
        for name in ["rope.scaling.factor", "rope.scale_linear"] {
            if factor == 0.0 {
                factor = self.f32(name, 0.0)?;
            }
            if !(factor.is_finite() && factor >= 0.0) {
                return Err(self.reject(R::RopeScaling, name, factor, "a positive finite number"));
            }
        }
        let positive = |name, default| self.positive(R::RopeScaling, name, Some(default));
        let original_context = || -> Result<usize, ModelError> {
            let name = "rope.scaling.original_context_length";
            Ok(self.ranged(R::RopeScaling, name, Some(context_length), 1..=MAX_CONTEXT)? as usize)
        };
        let scaling = match self.metadata().opt_str(&self.key("rope.scaling.type"))?.unwrap_or("linear") {
            "none" => RopeScaling::None,
            "linear" | "yarn" if factor == 0.0 => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor },
            "longrope" if self.family.rope_factors == RopeFactors::LongAndShort => {
                RopeScaling::Long { original_context: original_context()? }
            }
            "yarn" => RopeScaling::Yarn {
                factor,
                original_context: original_context()?,
                ext_factor: positive("rope.scaling.yarn_ext_factor", 1.0)?,
                beta_fast: positive("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: positive("rope.scaling.yarn_beta_slow", 1.0)?,
            },
            other => {
                return Err(self.reject(
                    R::RopeScaling,
                    "rope.scaling.type",
                    format!("{other:?}"),
                    "none, linear or yarn",
                ));
            }
        };
        // Only YaRN divides by ln(theta).
        if matches!(scaling, RopeScaling::Yarn { .. }) && theta <= 1.0 {
            return Err(self.reject(R::RopeTheta, "rope.freq_base", theta, "more than 1, for YaRN"));
        }
        let attention_factor = match scaling {
            RopeScaling::Yarn { .. } => positive("rope.scaling.yarn_attn_factor", 1.0)?,
            _ => 1.0,
        } * positive("rope.scaling.attn_factor", 1.0)?;
        if !(attention_factor.is_finite() && attention_factor > 0.0) {
            let name = "rope.scaling.attn_factor";
            let expected = "a positive finite product with yarn_attn_factor";
            return Err(self.reject(R::RopeScaling, name, attention_factor, expected));
        }
        Ok(Rope {
            pairing: self.family.rope_pairing,
            theta,
            n_rot: n_rot as usize,
            scaling,
            attention_factor,
            factors: None,
            long_factors: None,
        })
    }

    /// RoPE with the divisors that the family may have.
    fn rope_with_factors(&self, head_dim: u32, context_length: u32) -> Result<Rope, ModelError> {
        let mut rope = self.rope(head_dim, context_length)?;
        match self.family.rope_factors {
            RopeFactors::None => {}
            RopeFactors::One => rope.factors = self.rope_factors("rope_freqs.weight", rope.n_rot / 2)?,
            RopeFactors::LongAndShort => {
                rope.factors = self.rope_factors("rope_factors_short.weight", rope.n_rot / 2)?;
                rope.long_factors = self.rope_factors("rope_factors_long.weight", rope.n_rot / 2)?;
            }
        }
        Ok(rope)
    }

    /// The content of a tensor of divisors, where the file has it. Its shape is checked with all others'.
    fn rope_factors(&self, name: &str, n_pairs: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.gguf.tensor(name) else { return Ok(None) };
        if tensor.elements() != n_pairs as u64 || tensor.tensor_type != TensorType::F32 {
            return Ok(None);
        }
        let data = self.gguf.data(tensor);
        let factors: Vec<f32> = data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
            None => Ok(Some(factors)),
            Some(bad) => Err(ModelError::rejected(
                self.gguf.name(),
                ModelRule::RopeFactors,
                format!("tensor {name}"),
                bad,
                "positive finite numbers",
            )),
        }
    }

    /// The rotation of layers with a window: another base, and no scaling.
    fn window_rope(&self, head_dim: u32, theta: f32) -> Result<Rope, ModelError> {
        Ok(Rope {
            pairing: self.family.rope_pairing,
            theta: self.positive(ModelRule::RopeTheta, "rope.freq_base_swa", Some(theta))?,
            n_rot: self.ranged(ModelRule::RopeDimension, "rope.dimension_count", Some(head_dim), 2..=head_dim)?
                as usize,
            scaling: RopeScaling::None,
            attention_factor: 1.0,
            factors: None,
            long_factors: None,
        })
    }

    /// The layers that are recurrent, and what such a layer is.
    fn recurrent(&self, n_layers: usize) -> Result<Recurrent, ModelError> {
        use ModelRule as R;
        let interval = self.ranged(R::Recurrence, "full_attention_interval", Some(4), 1..=MAX_LAYERS)? as usize;
        let layers = match self.layer_flags(R::Recurrence, "attention.recurrent_layers", n_layers)? {
            Some(layers) => layers,
            None => (0..n_layers).map(|il| !(il + 1).is_multiple_of(interval)).collect(),
        };
        let size = |name: &str| self.ranged(R::Recurrence, name, None, 1..=MAX_EMBD);
        let head_dim = size("ssm.state_size")?;
        if !DELTA_HEAD_DIMS.contains(&head_dim) {
            return Err(self.reject(R::Recurrence, "ssm.state_size", head_dim, format!("one of {DELTA_HEAD_DIMS:?}")));
        }
        let (n_key_heads, n_value_heads) = (size("ssm.group_count")?, size("ssm.time_step_rank")?);
        let inner = size("ssm.inner_size")?;
        if u64::from(inner) != u64::from(n_value_heads) * u64::from(head_dim) {
            let expected = format!("{n_value_heads} value heads of {head_dim}");
            return Err(self.reject(R::Recurrence, "ssm.inner_size", inner, expected));
        }
        if !n_value_heads.is_multiple_of(n_key_heads) {
            let expected = format!("a divisor of the {n_value_heads} value heads");
            return Err(self.reject(R::Recurrence, "ssm.group_count", n_key_heads, expected));
        }
        let kernel = self.ranged(R::Recurrence, "ssm.conv_kernel", None, 2..=16)?;
        let delta_net = DeltaNet {
            n_key_heads: n_key_heads as usize,
            n_value_heads: n_value_heads as usize,
            head_dim: head_dim as usize,
            kernel: kernel as usize,
        };
        Ok(Recurrent { layers, delta_net })
    }

    /// A flag for each layer, where the key is there as an array. Layers beyond those that are run may have one too.
    fn layer_flags(&self, rule: ModelRule, name: &str, n_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        match self.metadata().get(&self.key(name)) {
            Some(Value::Array(Array::Bool(flags))) if flags.len() >= n_layers => Ok(Some(flags[..n_layers].to_vec())),
            Some(value @ Value::Array(_)) => {
                Err(self.reject(rule, name, value, format!("a truth value for each of {n_layers} layers")))
            }
            _ => Ok(None),
        }
    }

    fn experts(&self) -> Result<Option<Experts>, ModelError> {
        use ModelRule as R;
        let n_experts = self.metadata().opt_u32(&self.key("expert_count"))?.unwrap_or(0);
        match (self.family.experts, n_experts) {
            (Presence::Absent | Presence::Optional, 0) => return Ok(None),
            (Presence::Absent, _) => {
                return Err(self.reject(R::ExpertCount, "expert_count", n_experts, "none"));
            }
            _ => {}
        }
        self.ranged(R::ExpertCount, "expert_count", None, 1..=MAX_EXPERTS)?;
        let n_used = self.ranged(R::ExpertCount, "expert_used_count", None, 1..=n_experts)?;
        // 0 is "not said", 1 is softmax over all experts.
        self.ranged(R::ExpertRouting, "expert_gating_func", Some(1), 0..=1)?;
        self.ranged(R::ExpertRouting, "expert_shared_count", Some(0), 0..=0)?;
        self.ranged(R::ExpertRouting, "expert_group_count", Some(0), 0..=1)?;
        self.ranged(R::ExpertRouting, "leading_dense_block_count", Some(0), 0..=0)?;
        let scale = match self.f32("expert_weights_scale", 1.0)? {
            0.0 => 1.0,
            _ => self.positive(R::ExpertRouting, "expert_weights_scale", Some(1.0))?,
        };
        Ok(Some(Experts {
            n_experts: n_experts as usize,
            n_used: n_used as usize,
            normalise: self.metadata().opt_bool(&self.key("expert_weights_norm"))?.unwrap_or(true),
            scale,
        }))
    }

    fn sliding_window(&self) -> Result<Option<usize>, ModelError> {
        if self.family.windows == Windows::Ignored {
            return Ok(None);
        }
        let window = self.ranged(ModelRule::SlidingWindow, "attention.sliding_window", Some(0), 0..=MAX_CONTEXT)?;
        Ok((window > 0).then_some(window as usize))
    }

    /// Which layers have the window, where it is not all: each for itself, or all but the last of each group of so many.
    fn windowed(&self, n_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let name = "attention.sliding_window_pattern";
        if let Some(layers) = self.layer_flags(ModelRule::SlidingWindow, name, n_layers)? {
            return Ok(Some(layers));
        }
        let group = match self.family.windows {
            Windows::AllButEvery(n) => n as u32,
            _ => 0,
        };
        let group = self.ranged(ModelRule::SlidingWindow, name, Some(group), 0..=MAX_LAYERS)? as usize;
        Ok((group > 0).then(|| (0..n_layers).map(|il| il % group < group - 1).collect()))
    }

    /// The embedding's rows; the tokenizer and `vocab_size` must not say more.
    fn vocab_size(&self) -> Result<usize, ModelError> {
        let Some(embedding) = self.gguf.tensor("token_embd.weight") else {
            return Err(ModelError::rejected(
                self.gguf.name(),
                ModelRule::MissingTensor,
                "tensor token_embd.weight",
                "nothing",
                format!("it in a {} model", self.family.architecture),
            ));
        };
        let rows = embedding.dims.get(1).copied().unwrap_or(1);
        // Some converters count only the tokens in use.
        let most = u32::try_from(rows).unwrap_or(u32::MAX);
        self.ranged(ModelRule::VocabularySize, "vocab_size", Some(most), 1..=most)?;
        if let Some(tokens) = self.metadata().opt_string_array("tokenizer.ggml.tokens")?
            && (tokens.is_empty() || tokens.len() as u64 > rows)
        {
            return Err(ModelError::rejected(
                self.gguf.name(),
                ModelRule::VocabularySize,
                "metadata key tokenizer.ggml.tokens",
                format!("{} tokens", tokens.len()),
                format!("1 to {rows}, the embedding's rows"),
            ));
        }
        Ok(rows as usize)
    }

    /// Keys under the architecture's name that nothing above reads. Those known to change the arithmetic are refused.
    fn unused_keys(&self) -> Result<Vec<String>, ModelError> {
        let has_code = |name: &str| match name {
            "embedding_scale" | "residual_scale" | "logit_scale" => self.family.scales,
            "final_logit_softcapping" => self.family.logit_soft_cap,
            _ => false,
        };
        for (name, neutral) in NEUTRAL.iter().filter(|(name, _)| !has_code(name)) {
            let Some(value) = self.metadata().get(&self.key(name)) else {
                continue;
            };
            let number = match value {
                Value::F32(v) => f64::from(*v),
                Value::F64(v) => *v,
                other => other.as_integer().map_or(f64::NAN, |v| v as f64),
            };
            if number != *neutral {
                return Err(self.reject(ModelRule::Arithmetic, name, value, format!("{neutral}, which does nothing")));
            }
        }
        let prefix = format!("{}.", self.family.architecture);
        let known = |name: &str| KNOWN.contains(&name) || NEUTRAL.iter().any(|(n, _)| *n == name);
        let unused =
            self.metadata().iter().filter(|(key, _)| key.strip_prefix(&prefix).is_some_and(|name| !known(name)));
        Ok(unused.map(|(key, _)| key.to_string()).collect())
    }

    fn metadata(&self) -> &Metadata {
        self.gguf.metadata()
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.architecture)
    }

    fn f32(&self, name: &str, default: f32) -> Result<f32, MetadataError> {
        Ok(self.metadata().opt_f32(&self.key(name))?.unwrap_or(default))
    }

    /// An integer in `range`; without a default the key must be there.
    fn ranged(
        &self,
        rule: ModelRule,
        name: &str,
        default: Option<u32>,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<u32, ModelError> {
        let key = self.key(name);
        let value = match (self.metadata().opt_u32_uniform(&key)?, default) {
            (Some(value), _) => value,
            (None, Some(default)) => default,
            (None, None) => self.metadata().u32(&key)?,
        };
        if !range.contains(&value) {
            let (low, high) = (range.start(), range.end());
            let expected = if low == high { low.to_string() } else { format!("{low} to {high}") };
            return Err(self.reject(rule, name, value, expected));
        }
        Ok(value)
    }

    /// A positive finite number; without a default the key must be there.
    fn positive(&self, rule: ModelRule, name: &str, default: Option<f32>) -> Result<f32, ModelError> {
        let key = self.key(name);
        let value = match (self.metadata().opt_f32(&key)?, default) {
            (Some(value), _) => value,
            (None, Some(default)) => default,
            (None, None) => self.metadata().f32(&key)?,
        };
        if !(value.is_finite() && value > 0.0) {
            return Err(self.reject(rule, name, value, "a positive finite number"));
        }
        Ok(value)
    }

    fn reject(&self, rule: ModelRule, name: &str, found: impl ToString, expected: impl ToString) -> ModelError {
        ModelError::rejected(self.gguf.name(), rule, format!("metadata key {}", self.key(name)), found, expected)
    }
}
