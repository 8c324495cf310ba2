//! Rotations, and what YaRN does beside turning.

use super::{DEFAULT_THETA, Keys, LITE_BLOCKS, MAX_CONTEXT, MAX_EMBD, MAX_HEAD_DIM, MAX_LATENT};
use crate::{
    gguf::TensorType,
    model::{
        config::{Rope, RopeScaling},
        error::{ModelError, ModelRule},
        family::{RopeFactors, WindowRope},
        layer::LatentAttention,
    },
};

impl Keys<'_> {
    pub(super) fn rope(&self, head_dim: u32, context_length: u32) -> Result<Rope, ModelError> {
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
        let original_context = || self.original_context(context_length);
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
            RopeScaling::Yarn { .. } if self.family.yarn_attention_factor => {
                positive("rope.scaling.yarn_attn_factor", 1.0)?
            }
            _ => 1.0,
        } * positive("rope.scaling.attn_factor", 1.0)?;
        if !(attention_factor.is_finite() && attention_factor > 0.0) {
            let name = "rope.scaling.attn_factor";
            let expected = "a positive finite product with yarn_attn_factor";
            return Err(self.reject(R::RopeScaling, name, attention_factor, expected));
        }
        let mut rope = Rope {
            pairing: self.family.rope_pairing,
            theta,
            n_rot: n_rot as usize,
            scaling,
            attention_factor,
            factors: None,
            long_factors: None,
        };
        // One multiplier takes back what YaRN lengthens; latent attention has all of it in its scores.
        if let (RopeScaling::Yarn { factor, .. }, Some(growth)) = (scaling, self.yarn_log(&rope)?) {
            let growth = if self.family.latent { 1.0 + 0.1 * f64::from(factor).ln() } else { growth };
            rope.attention_factor = (f64::from(attention_factor) / growth) as f32;
        }
        Ok(rope)
    }

    /// RoPE with the divisors that the family may have.
    pub(super) fn rope_with_factors(&self, head_dim: u32, context_length: u32) -> Result<Rope, ModelError> {
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
    pub(super) fn rope_factors(&self, name: &str, n_pairs: usize) -> Result<Option<Vec<f32>>, ModelError> {
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

    /// The rotation of layers with a window, where it is another: unscaled.
    pub(super) fn window_rope(&self, head_dim: u32, context_length: u32) -> Result<Option<Rope>, ModelError> {
        let (theta, end) = match self.family.window_rope {
            WindowRope::Same => return Ok(None),
            WindowRope::Unscaled => ("rope.freq_base", DEFAULT_THETA),
            WindowRope::Own(theta) => ("rope.freq_base_swa", theta),
        };
        let theta = self.positive(ModelRule::RopeTheta, theta, Some(end))?;
        let n_rot = if self.family.layers_differ {
            let head_dim = self.head_dim("_swa", head_dim)?;
            self.ranged(ModelRule::RopeDimension, "rope.dimension_count_swa", Some(head_dim), 2..=head_dim)?
        } else {
            self.ranged(ModelRule::RopeDimension, "rope.dimension_count", Some(head_dim), 2..=head_dim)?
        };
        if !n_rot.is_multiple_of(2) {
            return Err(self.reject(ModelRule::RopeDimension, "rope.dimension_count_swa", n_rot, "an even number"));
        }
        let unscaled = Rope {
            pairing: self.family.rope_pairing,
            theta,
            n_rot: n_rot as usize,
            scaling: RopeScaling::None,
            attention_factor: 1.0,
            factors: None,
            long_factors: None,
        };
        // Nothing is unscaled that was not scaled.
        let differs =
            self.family.window_rope != WindowRope::Unscaled || unscaled != self.rope(head_dim, context_length)?;
        Ok(differs.then_some(unscaled))
    }

    pub(super) fn original_context(&self, context_length: u32) -> Result<usize, ModelError> {
        let name = "rope.scaling.original_context_length";
        Ok(self.ranged(ModelRule::RopeScaling, name, Some(context_length), 1..=MAX_CONTEXT)? as usize)
    }

    /// Latent attention's sizes; the scale is without what YaRN makes of it.
    pub(super) fn latent(&self, n_heads: u32, n_blocks: u32) -> Result<LatentAttention, ModelError> {
        let rule = ModelRule::HeadDim;
        let size = |name: &str| self.ranged(rule, name, None, 2..=MAX_HEAD_DIM);
        let n_rot = size("rope.dimension_count")?;
        let rank = self.ranged(rule, "attention.kv_lora_rank", None, 2..=MAX_LATENT)?;
        let kept = self.ranged(rule, "attention.key_length", Some(rank + n_rot), 2..=MAX_LATENT)?;
        if kept != rank + n_rot {
            let expected = format!("{rank} values kept and a shared key of {n_rot}");
            return Err(self.reject(rule, "attention.key_length", kept, expected));
        }
        let key_dim = size("attention.key_length_mla")?;
        if key_dim <= n_rot {
            let expected = format!("more than the {n_rot} values that are rotated");
            return Err(self.reject(rule, "attention.key_length_mla", key_dim, expected));
        }
        let query_rank = match n_blocks {
            n if LITE_BLOCKS.contains(&n) => 0,
            _ => self.ranged(rule, "attention.q_lora_rank", Some(0), 0..=MAX_EMBD)?,
        };
        Ok(LatentAttention {
            n_heads: n_heads as usize,
            query_rank: (query_rank > 0).then_some(query_rank as usize),
            rank: rank as usize,
            head_dim: (key_dim - n_rot) as usize,
            n_rot: n_rot as usize,
            value_dim: size("attention.value_length_mla")? as usize,
            scale: (1.0 / f64::from(key_dim).sqrt()) as f32,
        })
    }

    /// YaRN's multiplier of a logarithm, in the family's unit, and the logarithm, where there are both.
    pub(super) fn yarn_log(&self, rope: &Rope) -> Result<Option<f64>, ModelError> {
        let name = "rope.scaling.yarn_log_multiplier";
        match (self.family.yarn_log_unit, rope.scaling, self.f32(name, 0.0)?) {
            (None, ..) | (_, _, 0.0) => Ok(None),
            (Some(unit), RopeScaling::Yarn { factor, .. }, _) => {
                let multiplier = self.positive(ModelRule::RopeScaling, name, None)?;
                Ok(Some(1.0 + 0.1 * f64::from(multiplier) / f64::from(unit) * f64::from(factor).ln()))
            }
            _ => Ok(None),
        }
    }

    /// What YaRN multiplies the scores of latent attention by, of which only a part is rotated.
    pub(super) fn yarn_scores(&self, rope: &Rope) -> Result<f32, ModelError> {
        Ok(self.yarn_log(rope)?.map_or(1.0, |growth| (growth * growth) as f32))
    }
}
