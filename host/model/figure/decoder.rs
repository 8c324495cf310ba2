//! The figure that all families here share: a residual stream through layers that mix tokens, then work on each alone.
//!
//! ```text
//! tokens ─ embed ─┬─ norm ─ attention or delta net ─ (norm) ─ + ─┬─ norm ─ GLU or experts ─ (norm) ─ + ─ … ─ norm ─ output ─ logits
//!                 └──────────────────────────────────────────────┘└───────────────────────────────────┘
//! ```
//!
//! What is in brackets, and which weights there are, is the [`Family`]'s and the file's.

use super::{Builder, Figure, Matrix, Piece, Span, ValueId, delta_net::delta_net};
use crate::model::{
    config::Config,
    family::{Family, Presence, RopeFactors},
    layer::{Attention, Experts, FeedForward, Mixer, RopeKind, Routing},
};

/// What the layers share while they are drawn.
pub(super) struct Drawing<'a, 'b> {
    pub b: &'a mut Builder<'b>,
    pub config: &'a Config,
    pub family: &'static Family,
    /// The model's rotation, and that of layers with a window.
    ropes: [super::RopeId; 2],
}

/// The whole model.
pub(super) fn decoder(config: &Config, has: &dyn Fn(&str) -> bool) -> Figure {
    let mut builder = Builder::new(has);
    let b = &mut builder;
    let family = config.family;
    let full = b.rope(config.rope.clone());
    let window = config.window_rope.clone().map_or(full, |rope| b.rope(rope));
    rope_factors(b, config);
    let mut d = Drawing { b, config, family, ropes: [full, window] };

    let [table] = d.b.stack([("token_embd.weight", config.vocab_size)], config.n_embd);
    let mut x = d.b.embed("inp_embd", &table); // [n_embd], the residual stream
    if config.embedding_scale != 1.0 {
        x = d.b.scale("inp_scaled", x, config.embedding_scale);
    }
    let layers = config.layers();
    for (il, layer) in layers.iter().enumerate() {
        d.b.in_layer(Some(il));
        let names = family.names;

        let h = d.norm("attn_norm", x, family.norms.attn);
        let a = match &layer.mixer {
            Mixer::Attention(attention) => d.attention(attention, h),
            Mixer::DeltaNet(shape) => delta_net(&mut d, shape, h),
        };
        let a = d.norm("attn_post_norm", a, family.norms.attn_post);
        let a = d.scaled(a, config.residual_scale);
        x = d.b.add(names.ffn_inp, a, x);

        let h = d.norm(names.ffn_norm, x, family.norms.ffn);
        let f = match &layer.feed_forward {
            FeedForward::Dense { n_ff } => d.dense(h, *n_ff),
            FeedForward::Mixture { experts, n_ff } => d.mixture(h, *experts, *n_ff),
        };
        let f = d.norm("ffn_post_norm", f, family.norms.ffn_post);
        let f = d.scaled(f, config.residual_scale);
        x = d.b.add("l_out", f, x);
    }

    d.b.in_layer(None);
    let head = d.b.figure.nodes.len();
    let h = d.norm("result_norm", x, Some("output_norm.weight"));
    let output = d.b.output("output.weight", &table);
    let mut logits = d.b.product("result_output", h, &output); // [vocab_size]
    logits = d.scaled(logits, config.logit_scale);
    if let Some(cap) = config.logit_soft_cap {
        logits = d.b.soft_cap("", logits, cap);
    }
    let mut figure = builder.figure;
    (figure.layers, figure.head, figure.residual, figure.logits) = (layers, head, x, logits);
    rename_logits(&mut figure);
    figure
}

/// `result_output` are the logits that a token is chosen by, after whatever scales or caps them.
fn rename_logits(figure: &mut Figure) {
    for value in figure.values.iter_mut().filter(|value| value.name.as_deref() == Some("result_output")) {
        value.name = None;
    }
    figure.values[figure.logits.0].name = Some("result_output".into());
}

/// Divisors of RoPE's frequencies lie in tensors; the angles are made of them once, when the model is loaded.
fn rope_factors(b: &mut Builder, config: &Config) {
    let names: &[&str] = match config.family.rope_factors {
        RopeFactors::None => &[],
        RopeFactors::One => &["rope_freqs.weight"],
        RopeFactors::LongAndShort => &["rope_factors_long.weight", "rope_factors_short.weight"],
    };
    for name in names {
        b.used_at_load(name, [config.rope.n_rot / 2, 1, 1]);
    }
}

impl Drawing<'_, '_> {
    /// RMSNorm with the weights of that name, where the family has one here.
    fn norm(&mut self, stem: &str, x: ValueId, weight: Option<&str>) -> ValueId {
        let Some(weight) = weight else { return x };
        let weight = self.b.vector(weight, [self.config.n_embd, 1, 1]);
        self.b.rms_norm(stem, x, Some(weight), self.config.rms_epsilon)
    }

    fn scaled(&mut self, x: ValueId, factor: f32) -> ValueId {
        if factor == 1.0 { x } else { self.b.scale("", x, factor) }
    }

    /// A product with its bias, where there is one.
    fn project(&mut self, stem: &str, x: ValueId, weight: &Matrix, bias: Option<&Span>) -> ValueId {
        let y = self.b.product(stem, x, weight);
        match bias {
            Some(bias) => self.b.bias(stem, y, bias),
            None => y,
        }
    }

    fn biases(&mut self, presence: Presence, parts: &[(&str, usize)]) -> Option<Vec<Span>> {
        match presence {
            Presence::Absent => None,
            Presence::Optional => self.b.biases(parts, false),
            Presence::Required => self.b.biases(parts, true),
        }
    }

    /// Grouped-query attention (arXiv 1706.03762, 2305.13245): `[n_embd]` to `[n_embd]`.
    fn attention(&mut self, a: &Attention, h: ValueId) -> ValueId {
        let (config, family) = (self.config, self.family);
        let Attention { n_heads, n_kv_heads, head_dim, .. } = *a;
        let (q_len, kv_len) = (n_heads * head_dim, n_kv_heads * head_dim);

        let ([wq, wk, wv], gate) = self.qkv_weights(a);
        let parts = [("attn_q.bias", q_len), ("attn_k.bias", kv_len), ("attn_v.bias", kv_len)];
        let biases = self.biases(family.qkv_bias, &parts);
        let bias = |index: usize| biases.as_ref().map(|biases| &biases[index]);
        // Where the file has one tensor for several, llama.cpp names what it makes of them only when they are heads.
        let stem = |stem: &'static str, is_own: bool| if is_own { stem } else { "" };
        let q = self.project(stem("Qcur", !family.fused_qkv && !a.gated), h, &wq, bias(0));
        let k = self.project(stem("Kcur", !family.fused_qkv), h, &wk, bias(1));
        let v = self.project(stem("Vcur", !family.fused_qkv), h, &wv, bias(2));
        let mut q = self.b.reshape(stem("Qcur", !a.gated), q, &[n_heads, head_dim]);
        let mut k = self.b.reshape(stem("Kcur", !a.gated), k, &[n_kv_heads, head_dim]);
        let v = self.b.reshape("Vcur", v, &[n_kv_heads, head_dim]);
        q = self.head_norm("Qcur_normed", q, "attn_q_norm.weight", head_dim);
        k = self.head_norm("Kcur_normed", k, "attn_k_norm.weight", head_dim);

        let rope = a.rope.map(|kind| match kind {
            RopeKind::Full => self.ropes[0],
            RopeKind::Window => self.ropes[1],
        });
        if let Some(rope) = rope {
            q = self.b.rotate("Qcur", q, rope);
            k = self.b.rotate("Kcur", k, rope);
        }
        let cache = self.b.cache(super::Cache { n_kv_heads, head_dim, window: a.window });
        let sinks = a.sinks.then(|| self.b.vector("attn_sinks.weight", [n_heads, 1, 1]));
        let stem = if a.gated { "attn_pregate" } else { "kqv_out" };
        let mut attended = self.b.attend(stem, [q, k, v], cache, rope, a.scale, sinks, config.attention_soft_cap);
        if let Some(gate) = gate {
            let gate = self.b.product("", h, &gate);
            attended = self.b.gate("kqv_out", attended, gate);
        }
        let [wo] = self.b.stack([("attn_output.weight", config.n_embd)], q_len);
        let bias = self.biases(family.attn_output_bias, &[("attn_output.bias", config.n_embd)]);
        // llama.cpp names the sum with the bias alone.
        match bias {
            Some(bias) => {
                let out = self.b.product("", attended, &wo);
                self.b.bias(family.names.attn_out, out, &bias[0])
            }
            None => self.b.product(family.names.attn_out, attended, &wo),
        }
    }

    /// Projections of queries, keys and values, and of the gate beside the queries, where there is one.
    fn qkv_weights(&mut self, a: &Attention) -> ([Matrix; 3], Option<Matrix>) {
        let n_embd = self.config.n_embd;
        let (q_len, kv_len) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim);
        if self.family.fused_qkv {
            return (self.b.parts_of("attn_qkv.weight", [q_len, kv_len, kv_len], n_embd), None);
        }
        if !a.gated {
            let parts = [("attn_q.weight", q_len), ("attn_k.weight", kv_len), ("attn_v.weight", kv_len)];
            return (self.b.stack(parts, n_embd), None);
        }
        let queries = self.b.rows_of("attn_q.weight", n_embd, 2 * q_len);
        let every_other = |first: usize| Piece {
            tensor: queries,
            first,
            group: a.head_dim,
            stride: 2 * a.head_dim,
            n_groups: a.n_heads,
        };
        let [k, v] = ["attn_k.weight", "attn_v.weight"].map(|name| self.b.rows_of(name, n_embd, kv_len));
        let whole = |tensor| Piece { tensor, first: 0, group: kv_len, stride: kv_len, n_groups: 1 };
        let pieces = [every_other(0), whole(k), whole(v), every_other(a.head_dim)];
        let [q, k, v, gate] = self.b.stack_of(pieces, n_embd, 1);
        ([q, k, v], Some(gate))
    }

    /// RMSNorm over each head of queries or keys.
    fn head_norm(&mut self, stem: &str, x: ValueId, weight: &str, head_dim: usize) -> ValueId {
        let dims = [head_dim, 1, 1];
        let weight = match self.family.qk_norm {
            Presence::Absent => None,
            Presence::Optional => self.b.optional_vector(weight, dims),
            Presence::Required => Some(self.b.vector(weight, dims)),
        };
        match weight {
            Some(weight) => self.b.rms_norm(stem, x, Some(weight), self.config.rms_epsilon),
            None => x,
        }
    }

    /// The feed-forward network: `[n_embd]` by way of `[n_ff]`.
    fn dense(&mut self, h: ValueId, n_ff: usize) -> ValueId {
        let n_embd = self.config.n_embd;
        let [gate, up] = if self.family.fused_gate_up {
            self.b.parts_of("ffn_up.weight", [n_ff, n_ff], n_embd)
        } else {
            self.b.stack([("ffn_gate.weight", n_ff), ("ffn_up.weight", n_ff)], n_embd)
        };
        let up = self.b.product("ffn_up", h, &up);
        let gate = self.b.product("ffn_gate", h, &gate);
        let glu = self.b.glu(self.family.glu.trace_name(), gate, up, self.family.glu);
        let [down] = self.b.stack([("ffn_down.weight", n_embd)], n_ff);
        self.b.product("ffn_out", glu, &down)
    }

    /// A mixture of experts (arXiv 2401.04088): each token goes through those that the router scores highest, and their results are
    /// summed by the router's weights.
    fn mixture(&mut self, h: ValueId, experts: Experts, n_ff: usize) -> ValueId {
        let (n_embd, n_experts) = (self.config.n_embd, experts.n_experts);
        let [router] = self.b.stack([("ffn_gate_inp.weight", n_experts)], n_embd);
        let mut logits = self.b.product("ffn_moe_logits", h, &router);
        let has_bias = self.family.expert_bias;
        if has_bias && let Some(bias) = self.b.biases(&[("ffn_gate_inp.bias", n_experts)], true) {
            logits = self.b.bias("ffn_moe_probs", logits, &bias[0]);
        }
        let (chosen, weights) = self.b.route(logits, None, Routing { experts, scores: self.family.expert_scores });

        let parts = [("ffn_gate_exps.weight", n_ff), ("ffn_up_exps.weight", n_ff)];
        let [gate, up] = self.b.expert_stack(parts, n_embd, n_experts);
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
