//! Mixtures of experts.

use super::{Keys, MAX_EXPERTS, MAX_FF, MAX_LAYERS};
use crate::model::{
    config::DenseLayers,
    error::{ModelError, ModelRule},
    family::{Presence, Shared},
    layer::{Experts, Groups, Scores, SharedExpert},
};

/// A lane of a warp has a group.
const MAX_EXPERT_GROUPS: u32 = 32;

impl Keys<'_> {
    pub(super) fn experts(&self) -> Result<Option<Experts>, ModelError> {
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
        let family = self.family;
        // 0 is "not said", 1 is softmax over all experts, 2 is σ.
        let most = if family.expert_scores_keyed { 2 } else { 1 };
        self.ranged(R::ExpertRouting, "expert_gating_func", Some(1), 0..=most)?;
        let most = if family.shared_expert == Shared::None { 0 } else { MAX_EXPERTS };
        self.ranged(R::ExpertRouting, "expert_shared_count", Some(0), 0..=most)?;
        let most = if family.some_dense { MAX_LAYERS } else { 0 };
        self.ranged(R::ExpertRouting, "leading_dense_block_count", Some(0), 0..=most)?;
        let scale = match self.f32("expert_weights_scale", 1.0)? {
            0.0 => 1.0,
            _ => self.positive(R::ExpertRouting, "expert_weights_scale", Some(1.0))?,
        };
        let normalise = self.metadata().opt_bool(&self.key("expert_weights_norm"))?;
        Ok(Some(Experts {
            n_experts: n_experts as usize,
            n_used: n_used as usize,
            normalise: normalise.unwrap_or(family.expert_norm),
            scale,
            groups: self.expert_groups(n_experts, n_used)?,
        }))
    }

    pub(super) fn expert_groups(&self, n_experts: u32, n_used: u32) -> Result<Option<Groups>, ModelError> {
        let rule = ModelRule::ExpertRouting;
        let most = if self.family.expert_scores_keyed { MAX_EXPERT_GROUPS } else { 1 };
        let n_groups = self.ranged(rule, "expert_group_count", Some(0), 0..=most)?;
        if n_groups <= 1 {
            return Ok(None);
        }
        if !n_experts.is_multiple_of(n_groups) {
            let expected = format!("a divisor of the {n_experts} experts");
            return Err(self.reject(rule, "expert_group_count", n_groups, expected));
        }
        let n_groups_used = self.ranged(rule, "expert_group_used_count", None, 1..=n_groups)?;
        if n_groups_used * (n_experts / n_groups) < n_used {
            let expected = format!("groups of the {n_used} experts that a token uses");
            return Err(self.reject(rule, "expert_group_used_count", n_groups_used, expected));
        }
        Ok(Some(Groups { n_groups: n_groups as usize, n_used: n_groups_used as usize }))
    }

    /// The layers without experts, where there are some: the first few, and those between each so many.
    pub(super) fn dense_layers(&self, n_layers: usize) -> Result<Option<DenseLayers>, ModelError> {
        let rule = ModelRule::ExpertRouting;
        let first = self.ranged(rule, "leading_dense_block_count", Some(0), 0..=MAX_LAYERS)? as usize;
        let step = self.ranged(rule, "interleave_moe_layer_step", Some(1), 0..=MAX_LAYERS)?.max(1) as usize;
        let layers: Vec<bool> = (0..n_layers).map(|il| il < first || !(il + 1).is_multiple_of(step)).collect();
        if !layers.contains(&true) {
            return Ok(None);
        }
        let n_ff = self.ranged(ModelRule::FeedForwardLength, "feed_forward_length", None, 1..=MAX_FF)?;
        Ok(Some(DenseLayers { layers, n_ff: n_ff as usize }))
    }

    pub(super) fn shared_expert(&self, n_ff: u32) -> Result<Option<SharedExpert>, ModelError> {
        let rule = ModelRule::FeedForwardLength;
        let width = match self.family.shared_expert {
            Shared::None => 0,
            Shared::Plain => self.ranged(rule, "expert_shared_feed_forward_length", Some(0), 0..=MAX_FF)?,
            Shared::Gated => self.ranged(rule, "expert_shared_feed_forward_length", Some(n_ff), 0..=MAX_FF)?,
            Shared::Counted => {
                let count = self.ranged(ModelRule::ExpertRouting, "expert_shared_count", Some(0), 0..=MAX_EXPERTS)?;
                match count.checked_mul(n_ff) {
                    Some(width) if width <= MAX_FF => width,
                    _ => {
                        return Err(self.reject(
                            rule,
                            "expert_shared_count",
                            count,
                            format!("at most {MAX_FF} values"),
                        ));
                    }
                }
            }
        };
        let gated = self.family.shared_expert == Shared::Gated;
        Ok((width > 0).then_some(SharedExpert { n_ff: width as usize, gated }))
    }

    /// How scores are made of the router's logits.
    pub(super) fn expert_scores(&self) -> Result<Scores, ModelError> {
        let family = self.family;
        let key = self.ranged(ModelRule::ExpertRouting, "expert_gating_func", Some(0), 0..=2)?;
        Ok(match key {
            1 if family.expert_scores_keyed => Scores::Softmax,
            2 if family.expert_scores_keyed => Scores::Sigmoid,
            _ => family.expert_scores,
        })
    }
}
