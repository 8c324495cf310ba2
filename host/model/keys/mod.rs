//! Hyperparameters: how they are read from a file's metadata, and what they may be.

mod experts;
mod rope;

use super::config::{Config, Recurrent, Rope, RopeScaling, Temperature};
use super::error::{ModelError, ModelRule};
use super::family::{Family, LogitScale, Presence, ScoreScale, Windows};
use super::layer::{DeltaNet, LatentAttention};
use super::pooling::Pooling;
use crate::gguf::{Array, Gguf, Metadata, MetadataError, TensorType, Value};

const MAX_LAYERS: u32 = 512;
const MAX_EMBD: u32 = 1 << 20;
const MAX_HEADS: u32 = 1 << 16;
const MAX_HEAD_DIM: u32 = 1024;
const MAX_FF: u32 = 1 << 24;
const MAX_CONTEXT: u32 = 1 << 28;
const MAX_EXPERTS: u32 = kernels::experts::MAX_EXPERTS;
/// The vector that latent attention keeps of a token, the shared key included.
const MAX_LATENT: u32 = 768;
/// DeepSeek V2 Lite's numbers of blocks: its files name a rank of queries that they do not have.
const LITE_BLOCKS: [u32; 2] = [26, 27];
/// Heads of the delta rule that there are kernels for.
const DELTA_HEAD_DIMS: [u32; 4] = [32, 64, 128, 256];
/// Llama's and llama.cpp's default.
const DEFAULT_THETA: f32 = 10_000.0;

/// Keys that other programs act on and that have no code here, with the value at which they do nothing.
const NEUTRAL: &[(&str, f64)] = &[
    ("attention.causal", 1.0),
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
    "attention.value_length_mla",
    "attention.value_length_swa",
    "attention.key_length_mla",
    "attention.key_length_swa",
    "attention.kv_lora_rank",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.q_lora_rank",
    "attention.scale",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.recurrent_layers",
    "full_attention_interval",
    "pooling_type",
    "nextn_predict_layers",
    "rope.dimension_sections",
    "rope.freq_base_swa",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "ssm.group_count",
    "rope.dimension_count",
    "rope.dimension_count_swa",
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
    "expert_shared_feed_forward_length",
    "expert_group_count",
    "expert_group_used_count",
    "interleave_moe_layer_step",
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
        let n_kv_heads = self.widest(R::KvHeadCount, "attention.head_count_kv", Some(n_heads), 1..=MAX_HEADS)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            let expected = format!("a divisor of the {n_heads} query heads");
            return Err(self.reject(R::KvHeadCount, "attention.head_count_kv", n_kv_heads, expected));
        }
        let family = self.family;
        let latent = if family.latent { Some(self.latent(n_heads, n_blocks)?) } else { None };
        let head_dim = match latent {
            Some(latent) => (latent.head_dim + latent.n_rot) as u32,
            None => self.head_dim("", n_embd / n_heads)?,
        };
        let context_length = self.ranged(R::ContextLength, "context_length", None, 1..=MAX_CONTEXT)?;
        let experts = self.experts()?;
        let n_ff = match (&experts, self.metadata().get(&self.key("expert_feed_forward_length"))) {
            (Some(_), Some(_)) => self.ranged(R::FeedForwardLength, "expert_feed_forward_length", None, 1..=MAX_FF)?,
            _ => self.widest(R::FeedForwardLength, "feed_forward_length", None, 1..=MAX_FF)?,
        };
        let epsilon =
            if family.layer_norm { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
        let sliding_window = self.sliding_window(n_blocks)?;
        let scale = |name: &str, wanted: bool| match self.f32(name, 0.0)? {
            value if value == 0.0 || !wanted => Ok::<f32, ModelError>(1.0),
            _ => self.positive(R::Arithmetic, name, None),
        };
        let embedding_scale = if family.root_embedding { (n_embd as f32).sqrt() } else { 1.0 };
        // A cap of 0 is none.
        let soft_cap = |name: &str, default: Option<f32>| match (default, self.f32(name, default.unwrap_or(0.0))?) {
            (None, _) | (_, 0.0) => Ok::<Option<f32>, ModelError>(None),
            _ => Ok(Some(self.positive(R::Arithmetic, name, default)?)),
        };
        let logit_scale = scale("logit_scale", family.logit_scale != LogitScale::None)?;
        let rope = self.rope_with_factors(latent.map_or(head_dim, |latent| latent.n_rot as u32), context_length)?;
        let n = n_layers as usize;
        let config = Config {
            family: self.family,
            n_layers: n,
            n_unused_layers: (n_blocks - n_layers) as usize,
            n_embd: n_embd as usize,
            n_heads: n_heads as usize,
            n_kv_heads: n_kv_heads as usize,
            kv_heads_by_layer: self.kv_heads_by_layer(n, n_heads)?,
            head_dim: head_dim as usize,
            window_head_dim: match sliding_window {
                Some(_) if family.layers_differ => Some(self.head_dim("_swa", head_dim)? as usize),
                _ => None,
            },
            n_ff: n_ff as usize,
            n_ff_by_layer: match experts {
                None if family.layers_differ => {
                    self.by_layer(R::FeedForwardLength, "feed_forward_length", n, 1..=MAX_FF)?
                }
                _ => None,
            },
            vocab_size: self.vocab_size()?,
            context_length: context_length as usize,
            rms_epsilon: self.positive(R::RmsEpsilon, epsilon, None)?,
            temperature: self.temperature(&rope, context_length)?,
            attention_scale: match latent {
                Some(latent) => latent.scale * self.yarn_scores(&rope)?,
                None => self.attention_scale(head_dim, n_embd / n_heads, n_blocks)?,
            },
            latent: match latent {
                Some(latent) => Some(LatentAttention { scale: latent.scale * self.yarn_scores(&rope)?, ..latent }),
                None => None,
            },
            rope,
            tied_output: self.gguf.tensor("output.weight").is_none(),
            qk_norm: self.family.qk_norm == Presence::Required,
            dense: match experts {
                Some(_) if family.some_dense => self.dense_layers(n)?,
                _ => None,
            },
            shared_expert: match experts {
                Some(_) => self.shared_expert(n_ff)?,
                None => None,
            },
            beside_experts: match experts {
                Some(_) if family.experts_beside => {
                    Some(self.ranged(R::FeedForwardLength, "feed_forward_length", None, 1..=MAX_FF)? as usize)
                }
                _ => None,
            },
            expert_scores: self.expert_scores()?,
            experts,
            sliding_window,
            windowed: match sliding_window {
                Some(_) => self.windowed(n)?,
                None => None,
            },
            window_rope: match sliding_window {
                Some(_) => self.window_rope(head_dim, context_length)?,
                None => None,
            },
            attention_soft_cap: soft_cap("attn_logit_softcapping", family.score_soft_cap)?,
            n_shared_kv_layers: self.shared_kv_layers(n_layers)? as usize,
            n_embd_per_layer: if family.layer_embedding {
                self.ranged(R::EmbeddingLength, "embedding_length_per_layer_input", Some(0), 0..=MAX_EMBD)? as usize
            } else {
                0
            },
            layer_scales: if family.layer_embedding { self.layer_scales(n)? } else { None },
            embedding_scale: embedding_scale * scale("embedding_scale", family.scales)?,
            residual_scale: scale("residual_scale", family.scales)?,
            logit_scale: if family.logit_scale == LogitScale::Divides { logit_scale.recip() } else { logit_scale },
            logit_soft_cap: soft_cap("final_logit_softcapping", family.logit_soft_cap)?,
            recurrent: if family.recurrent { Some(self.recurrent(n)?) } else { None },
            pooling: self.pooling()?,
            unused_keys: self.unused_keys()?,
        };
        self.check_shared_caches(&config)?;
        Ok(config)
    }

    /// Values of a head, the same for keys and values; `end` is what the names of the keys end with.
    fn head_dim(&self, end: &str, default: u32) -> Result<u32, ModelError> {
        let rule = ModelRule::HeadDim;
        let [keys, values] = ["key", "value"].map(|of| format!("attention.{of}_length{end}"));
        let head_dim = self.ranged(rule, &keys, Some(default), 2..=MAX_HEAD_DIM)?;
        let value_dim = self.ranged(rule, &values, Some(default), 2..=MAX_HEAD_DIM)?;
        if !head_dim.is_multiple_of(2) {
            return Err(self.reject(rule, &keys, head_dim, "an even number"));
        }
        if value_dim != head_dim {
            return Err(self.reject(rule, &values, value_dim, format!("the key length, {head_dim}")));
        }
        Ok(head_dim)
    }

    fn attention_scale(&self, head_dim: u32, head_share: u32, n_blocks: u32) -> Result<f32, ModelError> {
        if self.f32("attention.scale", 0.0)? != 0.0 {
            return self.positive(ModelRule::AttentionScale, "attention.scale", None);
        }
        let of = |n: u32| (1.0 / f64::from(n).sqrt()) as f32;
        Ok(match self.family.score_scale {
            ScoreScale::One => 1.0,
            ScoreScale::OfWidthAt(blocks) if blocks == n_blocks => of(head_share),
            ScoreScale::OfHead | ScoreScale::OfWidthAt(_) => of(head_dim),
        })
    }

    fn temperature(&self, rope: &Rope, context_length: u32) -> Result<Option<Temperature>, ModelError> {
        let name = "attention.temperature_scale";
        if !self.family.temperature || self.f32(name, 0.0)? == 0.0 {
            return Ok(None);
        }
        let length = match rope.scaling {
            RopeScaling::Yarn { original_context, .. } => original_context,
            _ => self.original_context(context_length)?,
        };
        Ok(Some(Temperature { scale: self.positive(ModelRule::Arithmetic, name, None)?, length }))
    }

    /// Layers that read the cache of one before them: at least one of each kind has one of its own.
    fn shared_kv_layers(&self, n_layers: u32) -> Result<u32, ModelError> {
        if !self.family.layer_embedding {
            return Ok(0);
        }
        self.ranged(ModelRule::KvHeadCount, "attention.shared_kv_layers", Some(0), 0..=n_layers - 1)
    }

    /// Fails where a layer would read a cache that is not made for it.
    fn check_shared_caches(&self, config: &Config) -> Result<(), ModelError> {
        let n_own = config.n_layers - config.n_shared_kv_layers;
        let is_windowed = |il: usize| config.windowed.as_ref().is_none_or(|windowed| windowed[il]);
        let has_last_two = n_own >= 2 && is_windowed(n_own - 2) && !is_windowed(n_own - 1);
        if config.n_shared_kv_layers == 0 || has_last_two {
            return Ok(());
        }
        let expected = "a layer with a window and one without before those that share";
        let name = "attention.shared_kv_layers";
        Err(self.reject(ModelRule::KvHeadCount, name, config.n_shared_kv_layers, expected))
    }

    /// What each layer's result is multiplied by: tensors of one number. A layer without one is not scaled.
    fn layer_scales(&self, n_layers: usize) -> Result<Option<Vec<f32>>, ModelError> {
        let scales = (0..n_layers).map(|il| {
            let scale = self.rope_factors(&format!("blk.{il}.layer_output_scale.weight"), 1)?;
            Ok(scale.map_or(1.0, |scale| scale[0]))
        });
        let scales: Vec<f32> = scales.collect::<Result<_, ModelError>>()?;
        Ok(scales.iter().any(|scale| *scale != 1.0).then_some(scales))
    }

    fn kv_heads_by_layer(&self, n_layers: usize, n_heads: u32) -> Result<Option<Vec<usize>>, ModelError> {
        let (rule, name) = (ModelRule::KvHeadCount, "attention.head_count_kv");
        let heads = if self.family.layers_differ { self.by_layer(rule, name, n_layers, 1..=MAX_HEADS)? } else { None };
        match heads.iter().flatten().find(|heads| !(n_heads as usize).is_multiple_of(**heads)) {
            Some(bad) => Err(self.reject(rule, name, bad, format!("divisors of the {n_heads} query heads"))),
            None => Ok(heads),
        }
    }

    /// A number for each layer, where they are not all one.
    fn by_layer(
        &self,
        rule: ModelRule,
        name: &str,
        n_layers: usize,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<Option<Vec<usize>>, ModelError> {
        let numbers = match self.metadata().get(&self.key(name)) {
            Some(Value::Array(Array::U32(numbers))) => numbers.iter().map(|n| i64::from(*n)).collect::<Vec<_>>(),
            Some(Value::Array(Array::I32(numbers))) => numbers.iter().map(|n| i64::from(*n)).collect(),
            _ => return Ok(None),
        };
        if numbers.windows(2).all(|pair| pair[0] == pair[1]) {
            return Ok(None);
        }
        let in_range = |n: &i64| u32::try_from(*n).is_ok_and(|n| range.contains(&n));
        if numbers.len() < n_layers || !numbers.iter().all(in_range) {
            let found = format!("{} numbers, {numbers:?}", numbers.len());
            let expected = format!("{} to {} for each of {n_layers} layers", range.start(), range.end());
            return Err(self.reject(rule, name, found, expected));
        }
        Ok(Some(numbers[..n_layers].iter().map(|n| *n as usize).collect()))
    }

    /// An integer, or of a list for all layers the largest, in families whose layers may differ.
    fn widest(
        &self,
        rule: ModelRule,
        name: &str,
        default: Option<u32>,
        range: std::ops::RangeInclusive<u32>,
    ) -> Result<u32, ModelError> {
        if self.family.layers_differ
            && let Some(numbers) = self.by_layer(rule, name, 1, range.clone())?
            && let Value::Array(array) = &self.metadata().get(&self.key(name)).cloned().unwrap_or(Value::Bool(false))
        {
            let all = self.by_layer(rule, name, array.len(), range)?;
            return Ok(all.unwrap_or(numbers).into_iter().max().unwrap_or(0) as u32);
        }
        self.ranged(rule, name, default, range)
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

    fn sliding_window(&self, n_blocks: u32) -> Result<Option<usize>, ModelError> {
        let is_ignored = match self.family.windows {
            Windows::Ignored => true,
            Windows::AllButEveryOf64(_) => n_blocks != 64,
            _ => false,
        };
        if is_ignored {
            return Ok(None);
        }
        let default = Some(self.family.default_window);
        let window = self.ranged(ModelRule::SlidingWindow, "attention.sliding_window", default, 0..=MAX_CONTEXT)?;
        Ok((window > 0).then_some(window as usize))
    }

    /// Which layers have the window, where it is not all: each for itself, or all but the last of each group of so many.
    fn windowed(&self, n_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let name = "attention.sliding_window_pattern";
        if let Some(layers) = self.layer_flags(ModelRule::SlidingWindow, name, n_layers)? {
            return Ok(Some(layers));
        }
        let group = match self.family.windows {
            Windows::AllButEvery(n) | Windows::AllButEveryOf64(n) => n as u32,
            Windows::Listed => {
                let found = self.metadata().get(&self.key(name)).map_or("nothing".into(), ToString::to_string);
                let expected = format!("a truth value for each of {n_layers} layers");
                return Err(self.reject(ModelRule::SlidingWindow, name, found, expected));
            }
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

    /// How embeddings are made; 0 leaves it to whoever makes them.
    fn pooling(&self) -> Result<Option<Pooling>, ModelError> {
        let (rule, name) = (ModelRule::Pooling, "pooling_type");
        let number = match self.metadata().opt_u32_uniform(&self.key(name))? {
            None | Some(0) => return Ok(None),
            Some(number) => number,
        };
        match Pooling::of_number(number) {
            Some(pooling) => Ok(Some(pooling)),
            None => Err(self.reject(rule, name, number, "0 to 3: none, mean, cls or last")),
        }
    }

    /// Keys under the architecture's name that nothing above reads. Those known to change the arithmetic are refused.
    fn unused_keys(&self) -> Result<Vec<String>, ModelError> {
        let has_code = |name: &str| match name {
            "embedding_scale" | "residual_scale" => self.family.scales,
            "logit_scale" => self.family.logit_scale != LogitScale::None,
            "attn_logit_softcapping" => self.family.score_soft_cap.is_some(),
            "final_logit_softcapping" => self.family.logit_soft_cap.is_some(),
            "attention.temperature_scale" => self.family.temperature,
            "rope.scaling.yarn_log_multiplier" => self.family.yarn_log_unit.is_some(),
            "attention.shared_kv_layers" | "embedding_length_per_layer_input" => self.family.layer_embedding,
            _ => false,
        };
        for (name, neutral) in NEUTRAL.iter().filter(|(name, _)| !has_code(name)) {
            let Some(value) = self.metadata().get(&self.key(name)) else {
                continue;
            };
            let number = match value {
                Value::F32(v) => f64::from(*v),
                Value::F64(v) => *v,
                Value::Bool(v) => f64::from(u8::from(*v)),
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
