//! What works on each token alone: a gated network, or a few of many, with what stands beside them.

use super::{Matrix, ValueId, decoder::Drawing};
use crate::model::layer::{Experts, FeedForward, Routing, SharedExpert};

impl Drawing<'_, '_> {
    /// `[n_embd]` to `[n_embd]`.
    pub fn feed_forward(&mut self, h: ValueId, feed_forward: &FeedForward) -> ValueId {
        match feed_forward {
            FeedForward::Dense { n_ff } => self.dense(h, *n_ff, self.family.names.ffn_out),
            FeedForward::Mixture { experts, n_ff, shared, .. } => {
                let routed = self.mixture(h, h, *experts, *n_ff);
                match shared {
                    None => routed,
                    Some(shared) => {
                        let shared = self.shared_expert(h, *shared);
                        self.b.add("ffn_out", routed, shared)
                    }
                }
            }
        }
    }

    /// One network for all tokens, by way of `[n_ff]`.
    fn dense(&mut self, h: ValueId, n_ff: usize, stem: &str) -> ValueId {
        let n_embd = self.config.n_embd;
        let [gate, up] = if self.family.fused_gate_up {
            self.b.parts_of("ffn_up.weight", [n_ff, n_ff], n_embd, 1)
        } else {
            self.b.stack([("ffn_gate.weight", n_ff), ("ffn_up.weight", n_ff)], n_embd)
        };
        let up = self.b.product(if self.family.fused_gate_up { "" } else { "ffn_up" }, h, &up);
        let gate = self.b.product("ffn_gate", h, &gate);
        let glu = self.b.glu(self.family.glu.trace_name(), gate, up, self.family.glu);
        let [down] = self.b.stack([("ffn_down.weight", n_embd)], n_ff);
        self.b.product(stem, glu, &down)
    }

    /// The expert that every token goes through, as far as its gate lets it.
    fn shared_expert(&mut self, h: ValueId, SharedExpert { n_ff, gated }: SharedExpert) -> ValueId {
        let n_embd = self.config.n_embd;
        let [gate, up] = self.b.stack([("ffn_gate_shexp.weight", n_ff), ("ffn_up_shexp.weight", n_ff)], n_embd);
        let up = self.b.product("ffn_up", h, &up);
        let gate = self.b.product("ffn_gate", h, &gate);
        let glu = self.b.glu(self.family.glu.trace_name(), gate, up, self.family.glu);
        let [down] = self.b.stack([("ffn_down_shexp.weight", n_embd)], n_ff);
        let out = self.b.product("ffn_shexp", glu, &down);
        if !gated {
            return out;
        }
        let [share] = self.b.stack([("ffn_gate_inp_shexp.weight", 1)], n_embd);
        let share = self.b.product("shared_expert_gate", h, &share); // [1]
        self.b.gate("", out, share)
    }

    /// A dense network, and experts whose router sees another norm of the stream, each with a norm of its own behind it.
    pub fn side_by_side(&mut self, x: ValueId, experts: Experts, n_ff: usize, dense: usize) -> ValueId {
        let n_embd = self.config.n_embd;
        let h = self.norm("ffn_norm_1", x, self.family.norms.ffn);
        let one = self.dense(h, dense, "");
        let one = self.norm("", one, Some("post_ffw_norm_1.weight"));

        let weight = self.b.vector("ffn_gate_inp.scale", [n_embd, 1, 1]);
        let router = self.b.rms_norm("", x, Some(weight), self.config.rms_epsilon);
        let router = self.b.scale("", router, (n_embd as f32).sqrt().recip());
        let h = self.norm("ffn_norm_2", x, Some("pre_ffw_norm_2.weight"));
        let two = self.mixture(h, router, experts, n_ff);
        let two = self.norm("", two, Some("post_ffw_norm_2.weight"));
        self.b.add("", one, two)
    }

    /// A mixture of experts (arXiv 2401.04088): each token goes through those that the router scores highest, and their results are
    /// summed by the router's weights. `seen` is what the router sees.
    fn mixture(&mut self, h: ValueId, seen: ValueId, experts: Experts, n_ff: usize) -> ValueId {
        let (n_embd, n_experts) = (self.config.n_embd, experts.n_experts);
        let [router] = self.b.stack([("ffn_gate_inp.weight", n_experts)], n_embd);
        let mut logits = self.b.product("ffn_moe_logits", seen, &router);
        let has_bias = self.family.expert_bias;
        if has_bias && let Some(bias) = self.b.biases(&[("ffn_gate_inp.bias", n_experts)], true) {
            logits = self.b.bias("ffn_moe_probs", logits, &bias[0]);
        }
        let dims = [n_experts, 1, 1];
        let selection = self.family.selection_bias.then(|| self.b.optional_vector("exp_probs_b.bias", dims)).flatten();
        let beside = self.family.experts_beside;
        let scales = beside.then(|| self.b.optional_vector("ffn_down_exps.scale", dims)).flatten();
        let routing = Routing { experts, scores: self.config.expert_scores };
        let (chosen, weights) = self.b.route(logits, selection, scales, routing);

        let [gate, up] = if self.b.has("ffn_gate_up_exps.weight") {
            self.b.parts_of("ffn_gate_up_exps.weight", [n_ff, n_ff], n_embd, n_experts)
        } else {
            self.b.expert_stack([("ffn_gate_exps.weight", n_ff), ("ffn_up_exps.weight", n_ff)], n_embd, n_experts)
        };
        let up = self.experts(h, &up, has_bias.then_some("ffn_up_exps.bias"), chosen);
        let gate = self.experts(h, &gate, has_bias.then_some("ffn_gate_exps.bias"), chosen);
        let glu = self.b.glu("", gate, up, self.family.glu);
        let [down] = self.b.expert_stack([("ffn_down_exps.weight", n_embd)], n_ff, n_experts);
        let out = self.experts(glu, &down, has_bias.then_some("ffn_down_exps.bias"), chosen);
        self.b.combine("ffn_moe_out", out, weights)
    }

    /// A product with the experts chosen, and their biases.
    fn experts(&mut self, x: ValueId, weight: &Matrix, bias: Option<&str>, chosen: ValueId) -> ValueId {
        let n_experts = self.b.figure.stack(weight.stack).n_matrices;
        let y = self.b.expert_product("", x, weight, chosen);
        match bias {
            Some(bias) => {
                let bias = self.b.vector(bias, [weight.rows.len(), n_experts, 1]);
                self.b.expert_bias("", y, bias, chosen)
            }
            None => y,
        }
    }
}
