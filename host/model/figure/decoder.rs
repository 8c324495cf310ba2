//! The figure that all families here share: a residual stream through layers that mix tokens, then work on each alone.
//!
//! ```text
//! tokens ─ embed ─┬─ norm ─ attention or delta net ─ (norm) ─ + ─┬─ norm ─ GLU or experts ─ (norm) ─ + ─ … ─ norm ─ output ─ logits
//!                 └──────────────────────────────────────────────┘└───────────────────────────────────┘
//! ```
//!
//! What is in brackets, and which weights there are, is the [`Family`]'s and the file's.

use super::{Builder, CacheId, Figure, Matrix, Piece, Span, ValueId, delta_net::delta_net, latent::latent};
use crate::model::{
    config::Config,
    family::{Family, Presence, RopeFactors},
    layer::{Attention, FeedForward, Mixer, RopeKind},
};

/// What the layers share while they are drawn.
pub(super) struct Drawing<'a, 'b> {
    pub b: &'a mut Builder<'b>,
    pub config: &'a Config,
    pub family: &'static Family,
    /// The model's rotation, and that of layers with a window.
    pub ropes: [super::RopeId; 2],
    /// The cache of each layer that has one.
    caches: Vec<Option<CacheId>>,
}

/// The whole model.
pub(super) fn decoder(config: &Config, has: &dyn Fn(&str) -> bool) -> Figure {
    let mut builder = Builder::new(has);
    let b = &mut builder;
    let family = config.family;
    let full = b.rope(config.rope.clone());
    let window = config.window_rope.clone().map_or(full, |rope| b.rope(rope));
    read_at_load(b, config);
    let mut d = Drawing { b, config, family, ropes: [full, window], caches: vec![None; config.n_layers] };

    let [table] = d.b.stack([("token_embd.weight", config.vocab_size)], config.n_embd);
    let mut x = d.b.embed("inp_embd", &table); // [n_embd], the residual stream
    if config.embedding_scale != 1.0 {
        x = d.b.scale("inp_scaled", x, config.embedding_scale);
    }
    let of_layers = (config.n_embd_per_layer > 0).then(|| d.layer_embeddings(x));
    let layers = config.layers();
    for (il, layer) in layers.iter().enumerate() {
        d.b.in_layer(Some(il));
        let names = family.names;

        let before = d.norm("attn_norm", x, family.norms.attn);
        let a = match &layer.mixer {
            Mixer::Attention(attention) => d.attention(il, attention, before),
            Mixer::DeltaNet(shape) => delta_net(&mut d, shape, before),
            Mixer::Latent(shape) => latent(&mut d, shape, before),
        };
        let a = d.norm(names.attn_post_norm, a, family.norms.attn_post);
        let a = d.scaled(a, config.residual_scale);
        // Both branches read one norm, or each the stream as the one before left it.
        let stem = if family.parallel { "" } else { names.ffn_inp };
        x = d.b.add(stem, a, x);

        let f = match &layer.feed_forward {
            FeedForward::Mixture { experts, n_ff, beside: Some(dense), .. } => {
                d.side_by_side(x, *experts, *n_ff, *dense)
            }
            feed_forward => {
                let h = if family.parallel { before } else { d.norm(names.ffn_norm, x, family.norms.ffn) };
                d.feed_forward(h, feed_forward)
            }
        };
        let f = d.norm(names.ffn_post_norm, f, family.norms.ffn_post);
        let f = d.scaled(f, config.residual_scale);
        let scale = config.layer_scales.as_ref().map_or(1.0, |scales| scales[il]);
        let stem = match of_layers {
            Some(_) => "pe_in",
            None if scale == 1.0 => "l_out",
            None => "",
        };
        x = d.b.add(stem, f, x);
        if let Some(of_layers) = of_layers {
            x = d.add_layer_embedding(if scale == 1.0 { "l_out" } else { "" }, x, of_layers, il);
        }
        if scale != 1.0 {
            x = d.b.scale("l_out", x, scale);
        }
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

/// Divisors of RoPE's frequencies, of which the angles are made, and scales of layers lie in tensors: they are read once, with the metadata.
fn read_at_load(b: &mut Builder, config: &Config) {
    let names: &[&str] = match config.family.rope_factors {
        RopeFactors::None => &[],
        RopeFactors::One => &["rope_freqs.weight"],
        RopeFactors::LongAndShort => &["rope_factors_long.weight", "rope_factors_short.weight"],
    };
    for name in names {
        b.used_at_load(name, [config.rope.n_rot / 2, 1, 1]);
    }
    if config.family.layer_embedding {
        for il in 0..config.n_layers {
            b.in_layer(Some(il));
            b.used_at_load("layer_output_scale.weight", [1, 1, 1]);
        }
        b.in_layer(None);
    }
}

impl Drawing<'_, '_> {
    /// The norm with the weights of that name, where the family has one here.
    pub fn norm(&mut self, stem: &str, x: ValueId, weight: Option<&str>) -> ValueId {
        let Some(weight) = weight else { return x };
        let weight = self.b.vector(weight, [self.config.n_embd, 1, 1]);
        match self.family.layer_norm {
            true => self.b.layer_norm(stem, x, weight, self.config.rms_epsilon),
            false => self.b.rms_norm(stem, x, Some(weight), self.config.rms_epsilon),
        }
    }

    /// The embeddings that layers add (Gemma 3n's and 4's): a row for the token, and a projection of its embedding: `[n_layers][n]`.
    fn layer_embeddings(&mut self, x: ValueId) -> ValueId {
        let config = self.config;
        let (n, n_layers) = (config.n_embd_per_layer, config.n_layers);
        let [table] = self.b.stack([("per_layer_token_embd.weight", config.vocab_size)], n * n_layers);
        let row = self.b.embed("", &table);
        let row = self.b.scale("", row, (n as f32).sqrt());
        let row = self.b.reshape("", row, &[n_layers, n]);
        let [projection] = self.b.stack([("per_layer_model_proj.weight", n * n_layers)], config.n_embd);
        let projected = self.b.product("", x, &projection);
        let projected = self.b.scale("", projected, (config.n_embd as f32).sqrt().recip());
        let projected = self.b.reshape("", projected, &[n_layers, n]);
        let weight = self.b.vector("per_layer_proj_norm.weight", [n, 1, 1]);
        let projected = self.b.rms_norm("", projected, Some(weight), config.rms_epsilon);
        let sum = self.b.add("", projected, row);
        self.b.scale("inp_per_layer", sum, std::f32::consts::FRAC_1_SQRT_2)
    }

    /// Adds what a layer makes of its part of these: as much of it as the stream wants.
    fn add_layer_embedding(&mut self, stem: &str, x: ValueId, of_layers: ValueId, il: usize) -> ValueId {
        let (n, n_embd) = (self.config.n_embd_per_layer, self.config.n_embd);
        let all = self.b.reshape("", of_layers, &[n * self.config.n_layers]);
        let own = self.b.columns("", all, il * n..(il + 1) * n);
        let [gate] = self.b.stack([("inp_gate.weight", n)], n_embd);
        let gate = self.b.product("", x, &gate);
        let gated = self.b.glu("", gate, own, self.family.glu);
        let [projection] = self.b.stack([("proj.weight", n_embd)], n);
        let added = self.b.product("", gated, &projection);
        let added = self.norm("per_layer_embd_out", added, Some("post_norm.weight"));
        self.b.add(stem, added, x)
    }

    pub fn scaled(&mut self, x: ValueId, factor: f32) -> ValueId {
        if factor == 1.0 { x } else { self.b.scale("", x, factor) }
    }

    /// A product with its bias, where there is one.
    pub fn project(&mut self, stem: &str, x: ValueId, weight: &Matrix, bias: Option<&Span>) -> ValueId {
        let y = self.b.product(stem, x, weight);
        match bias {
            Some(bias) => self.b.bias(stem, y, bias),
            None => y,
        }
    }

    pub fn biases(&mut self, presence: Presence, parts: &[(&str, usize)]) -> Option<Vec<Span>> {
        match presence {
            Presence::Absent => None,
            Presence::Optional => self.b.biases(parts, false),
            Presence::Required => self.b.biases(parts, true),
        }
    }

    /// Grouped-query attention (arXiv 1706.03762, 2305.13245): `[n_embd]` to `[n_embd]`.
    fn attention(&mut self, il: usize, a: &Attention, h: ValueId) -> ValueId {
        let (config, family) = (self.config, self.family);
        let names = family.names;
        let Attention { n_heads, head_dim, .. } = *a;
        let q_len = n_heads * head_dim;
        let rope = a.rope.map(|kind| match kind {
            RopeKind::Full => self.ropes[0],
            RopeKind::Window => self.ropes[1],
        });
        // Queries, and keys and values where they are the layer's own.
        let shared = a.cache_of.and_then(|of| self.caches[of]);
        let (mut heads, gate) = match shared {
            Some(_) => {
                let [wq] = self.b.stack([("attn_q.weight", q_len)], config.n_embd);
                (vec![self.b.product(names.projected[0], h, &wq)], None)
            }
            None => self.projections(a, h),
        };
        let n_heads_of = [n_heads, a.n_kv_heads, a.n_kv_heads];
        if family.qk_norm_whole {
            self.qk_norms(&mut heads, |which| n_heads_of[which] * head_dim);
        }
        for (which, value) in heads.iter_mut().enumerate() {
            *value = self.b.reshape(names.heads[which], *value, &[n_heads_of[which], head_dim]);
        }
        if !family.qk_norm_whole {
            self.qk_norms(&mut heads, |_| head_dim);
        }
        if let (true, Some(v)) = (family.v_norm, heads.get_mut(2)) {
            *v = self.b.rms_norm("Vcur_normed", *v, None, config.rms_epsilon);
        }
        if let Some(rope) = rope {
            for (value, name) in heads.iter_mut().zip(names.rotated) {
                *value = self.b.rotate(name, *value, rope);
            }
        }
        let mut q = heads[0];
        if let Some(temperature) = config.temperature {
            q = self.b.temper("", q, temperature);
        }
        let shape = super::Cache { n_kv_heads: a.n_kv_heads, head_dim, window: a.window, value_dim: None };
        let cache = shared.unwrap_or_else(|| self.b.cache(shape));
        self.caches[il] = Some(cache);
        let kv = [1, 2].map(|which: usize| heads.get(which).copied());
        let sinks = a.sinks.then(|| self.b.vector("attn_sinks.weight", [n_heads, 1, 1]));
        let mut attended = self.b.attend(names.attended, q, kv, cache, rope, a.scale, sinks, config.attention_soft_cap);
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
                self.b.bias(names.attn_out, out, &bias[0])
            }
            None => self.b.product(names.attn_out, attended, &wo),
        }
    }

    /// Queries, keys and values of all heads, with their biases; and the gate's matrix.
    fn projections(&mut self, a: &Attention, h: ValueId) -> (Vec<ValueId>, Option<Matrix>) {
        let (family, names) = (self.family, self.family.names);
        let (q_len, kv_len) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim);
        if family.v_norm && !self.b.has("attn_v.weight") {
            let [wq, wk] = self.b.stack([("attn_q.weight", q_len), ("attn_k.weight", kv_len)], self.config.n_embd);
            let q = self.b.product(names.projected[0], h, &wq);
            // llama.cpp's last name of it.
            let k = self.b.product(names.projected[2], h, &wk);
            return (vec![q, k, k], None);
        }
        let (weights, gate) = self.qkv_weights(a);
        let parts = [("attn_q.bias", q_len), ("attn_k.bias", kv_len), ("attn_v.bias", kv_len)];
        let biases = self.biases(family.qkv_bias, &parts);
        let bias = |index: usize| biases.as_ref().map(|biases| &biases[index]);
        let projected = weights.iter().zip(names.projected).enumerate();
        (projected.map(|(index, (weight, name))| self.project(name, h, weight, bias(index))).collect(), gate)
    }

    /// Projections of queries, keys and values, and of the gate beside the queries, where there is one.
    fn qkv_weights(&mut self, a: &Attention) -> ([Matrix; 3], Option<Matrix>) {
        let n_embd = self.config.n_embd;
        let (q_len, kv_len) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim);
        if self.family.fused_qkv {
            return (self.b.parts_of("attn_qkv.weight", [q_len, kv_len, kv_len], n_embd, 1), None);
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

    /// RMSNorm over rows of so many values of queries and keys, where the family has it.
    fn qk_norms(&mut self, heads: &mut [ValueId], row: impl Fn(usize) -> usize) {
        let names = [("Qcur_normed", "attn_q_norm.weight"), ("Kcur_normed", "attn_k_norm.weight")];
        for (which, (value, (stem, weight))) in heads.iter_mut().zip(names).enumerate() {
            let dims = [row(which), 1, 1];
            let weight = match self.family.qk_norm {
                Presence::Absent => None,
                Presence::Optional => self.b.optional_vector(weight, dims),
                Presence::Required => Some(self.b.vector(weight, dims)),
            };
            if weight.is_some() {
                *value = self.b.rms_norm(stem, *value, weight, self.config.rms_epsilon);
            }
        }
    }
}
