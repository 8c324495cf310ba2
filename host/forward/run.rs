//! Carrying a pass out: each launch with the memory and the weights that it names.

mod attention;
mod experts;
mod values;

use std::{cell::Cell, ops::Range};

use super::{
    DeviceWeights,
    cache::{KvCache, PageTablesOf},
    experts::ExpertScratch,
    lower::{AttentionHeads, Form, Launch, Local, Made, Pass, QkvParts, ScaleId, Step},
    memory::{Layout, Scratch},
    unpack::{RoomProduct, Rooms},
};
use crate::{
    cache::SequenceId,
    gpu::{
        Activations, Buffer, Gpu, GpuError, Matmul, Product, Slice, SubSlice,
        kernels::{
            Attended, AttentionDecode, AttentionShape, Chunks, DeltaNetShape, Experts, GemmScratch, Gemv, GemvParts,
            Glu, Input, KeyHeads, KeySplits, NormAndRope, Order, Output, RopeShape, SigmoidGate, Staging,
            quantised_len,
        },
    },
    model::{
        self, Figure,
        figure::{RopeId, Span},
    },
    trace::Recorder,
};

/// Rows of a step from which on unpacking the weights for tensor cores takes less time than products that read packed weights for each
/// eight rows (H200: 7B in Q4_K_M, 16 rows in 13.7 ms, of which f16 takes 10 whatever their number): where some are packed, and of others
/// there are no products of a few tokens, as of floats whose rows are no whole chunks.
pub const MANY_ROWS: usize = 12;

/// What attention in decoding works in.
pub struct TokenAttention {
    /// Splits leave their parts here.
    pub parts: Buffer<f32>,
    /// And are counted here.
    pub arrivals: Buffer<u32>,
}

/// A pass with all that its launches name, for some tokens.
pub struct Run<'a> {
    pub gpu: &'a Gpu,
    pub figure: &'a Figure,
    pub weights: &'a DeviceWeights,
    pub cache: &'a KvCache,
    pub pass: &'a Pass,
    pub layout: &'a Layout,
    pub scratch: &'a Scratch,
    /// The pass's scales, by [`ScaleId`].
    pub scales: &'a [f32],
    pub rooms: Option<&'a Rooms>,
    pub matmul: &'a Matmul,
    pub gemm: &'a GemmScratch,
    /// Where experts' products of many tokens are made together.
    pub experts: Option<&'a ExpertScratch>,
    /// Whose pairs it has sorted.
    pub sorted: Cell<Option<Local>>,
    pub staging: &'a Staging,
    pub attention: &'a TokenAttention,
    pub logits: &'a Buffer<f32>,
    pub tokens: &'a Slice<u32>,
    pub positions: &'a Slice<u32>,
    /// The number of each token's sequence.
    pub slots: &'a Slice<u32>,
    /// The sequence whose states the pass carries on.
    pub id: SequenceId,
    /// The most tokens before any of these.
    pub n_past: usize,
    /// Whether some of a decoding step's tokens are neighbours in one sequence.
    pub shares_sequences: bool,
    pub n_tokens: usize,
    /// The rows whose logits are wanted.
    pub wanted: Range<usize>,
    /// Which they are before the head, if not these: rows that are moved to the first ones.
    pub gathered: &'a [usize],
    /// Whose tokens they are, in a pass over chunks.
    pub chunks: Option<Chunks<'a>>,
    /// Whether it is a step of decoding, of which each token is a sequence's.
    pub decodes: bool,
    /// Whether it ends with the last norm and not with logits.
    pub ends_in_states: bool,
}

impl Run<'_> {
    /// Whether weights are multiplied as they are where they can be. Prompts are left to more exact products: their weights are
    /// rounded to f16 once.
    fn multiplies_packed(&self) -> bool {
        self.decodes && self.rooms.is_some_and(|rooms| self.n_tokens <= rooms.most_packed)
    }

    /// All launches, the head's only where logits are wanted; the last norm in its place where hidden states are.
    pub fn launch(&self, trace: &mut Recorder) -> Result<(), GpuError> {
        self.launch_steps(0..self.pass.steps.len(), trace)
    }

    /// The launches of some of the pass's steps, behind those of all before them: between the two the stream may have run passes that
    /// work in other memory.
    pub fn launch_steps(&self, steps: Range<usize>, trace: &mut Recorder) -> Result<(), GpuError> {
        if let Some(rooms) = self.rooms {
            rooms.begin(self.gpu, self.weights, self.multiplies_packed(), &self.pass.steps[..steps.start])?;
        }
        for index in steps.clone() {
            let in_head = index >= self.pass.head;
            if in_head && (self.wanted.is_empty() || self.ends_in_states) {
                break;
            }
            if index == self.pass.head {
                self.gather()?;
            }
            Part { run: self, in_head }.step(&self.pass.steps[index], trace)?;
        }
        if self.ends_in_states && !self.wanted.is_empty() && steps.end == self.pass.steps.len() {
            self.gather()?;
            Part { run: self, in_head: true }.enqueue(&self.pass.last_norm, trace)?;
        }
        Ok(())
    }

    /// Moves the rows of the residual stream that the head is for to the beginning, in ascending order: none is overwritten before it is moved.
    fn gather(&self) -> Result<(), GpuError> {
        let layers = Part { run: self, in_head: false };
        let stream = layers.f32(self.pass.residual);
        let width = self.pass.locals.get(self.pass.residual).width;
        let of_row = |row: usize| stream.slice(row * width..(row + 1) * width).into_cast();
        for (target, row) in self.gathered.iter().enumerate().filter(|(target, row)| target != *row) {
            self.gpu.copy(&of_row(*row), &of_row(target))?;
        }
        Ok(())
    }

    /// The hidden states of the wanted tokens, `[wanted][n_embd]`, of a run that ends in them.
    pub fn states(&self) -> Result<Vec<f32>, GpuError> {
        match self.wanted.is_empty() {
            true => Ok(Vec::new()),
            false => self.gpu.read(&Part { run: self, in_head: true }.f32(self.pass.residual)),
        }
    }
}

/// The layers, or the head, which is for the wanted tokens alone.
struct Part<'r, 'a> {
    run: &'r Run<'a>,
    in_head: bool,
}

impl<'a> std::ops::Deref for Part<'_, 'a> {
    type Target = Run<'a>;

    fn deref(&self) -> &Run<'a> {
        self.run
    }
}

impl Part<'_, '_> {
    /// What the last product takes: logits decide between near ties, which 8 bits would flip.
    fn of_head(&self) -> Activations {
        match self.matmul.activations() {
            Activations::Q8 => Activations::Q16,
            wide => wide,
        }
    }

    fn scale_of(&self, scale: ScaleId) -> f32 {
        self.scales[scale.0]
    }

    fn span(&self, span: &Option<Span>) -> Option<SubSlice<'_, f32>> {
        span.as_ref().map(|span| self.weights.span(span))
    }

    /// The shapes of an attention over the cache.
    fn shape(&self, heads: &AttentionHeads) -> AttentionShape {
        let cache = self.cache.shape(heads.cache);
        AttentionShape {
            n_tokens: self.n(),
            n_heads: heads.n_heads,
            n_kv_heads: cache.n_kv_heads,
            head_dim: cache.head_dim,
            n_pages: self.cache.n_pages(heads.cache),
            window: cache.window,
        }
    }

    /// Where the positions that it looks at are.
    fn pages(&self, heads: &AttentionHeads) -> PageTablesOf<'_> {
        self.cache.tables(heads.cache, self.slots)
    }

    /// RoPE's magnitude belongs to the scores: keys are kept without it.
    fn magnitude(&self, heads: &AttentionHeads) -> f32 {
        heads.rope.map_or(1.0, |rope| self.weights.rope(rope).magnitude)
    }

    /// Nothing is rotated where there is no rotation.
    fn norm_and_rope(&self, parts: &QkvParts, heads: &AttentionHeads) -> NormAndRope<'_> {
        let rope = heads.rope.unwrap_or(RopeId(0));
        let shape = &self.figure.ropes[rope.0];
        NormAndRope {
            q_norm: parts.q_norm.map(|norm| &**self.weights.vector(norm)),
            k_norm: parts.k_norm.map(|norm| &**self.weights.vector(norm)),
            epsilon: parts.epsilon,
            frequencies: &self.weights.rope(rope).frequencies,
            n_rot: if heads.rope.is_some() { shape.n_rot } else { 0 },
            pairing: shape.pairing,
            magnitude: self.magnitude(heads),
            growth: parts.temperature,
        }
    }

    fn step(&self, step: &Step, trace: &mut Recorder) -> Result<(), GpuError> {
        self.enqueue(&step.launch, trace)?;
        if trace.is_on() {
            for made in &step.makes {
                self.record(made, trace)?;
            }
        }
        Ok(())
    }

    fn enqueue(&self, launch: &Launch, trace: &mut Recorder) -> Result<(), GpuError> {
        let (gpu, n) = (self.gpu, self.n());
        let w = self.weights;
        match launch {
            Launch::Embed { table, out } => gpu.embedding(w.stack(*table).all(), self.tokens, &self.f32(*out), n),
            Launch::Scale { x, out, factor } => gpu.scale(&self.f32(*x), &self.f32(*out), *factor, n * self.width(*x)),
            Launch::RmsNorm { x, out, weight, row, epsilon } => {
                let rows = n * self.width(*x) / row;
                match weight {
                    Some(weight) => gpu.rmsnorm(&self.f32(*x), w.vector(*weight), &self.f32(*out), rows, *epsilon),
                    None => gpu.rmsnorm_without_weight(&self.f32(*x), &self.f32(*out), rows, *row, *epsilon),
                }
            }
            Launch::NormAdd { x, factors, weight, epsilon, residual, out } => {
                let (factors, weight) = (factors.map(|factors| self.f32(factors)), w.vector(*weight));
                let (x, residual, out) = (self.f32(*x), self.f32(*residual), self.f32(*out));
                gpu.rmsnorm_add(&x, factors.as_deref(), weight, &residual, &out, n, *epsilon)
            }
            Launch::NormQk { qkv, factors, norms, widths, epsilon } => {
                let factors = factors.map(|factors| self.f32(factors));
                let norms = norms.map(|norm| norm.map(|norm| &**w.vector(norm)));
                let stride = self.width(*qkv);
                gpu.rmsnorm_qk(&self.f32(*qkv), factors.as_deref(), norms, *widths, stride, n, *epsilon)
            }
            Launch::LayerNorm { x, out, weight, epsilon } => {
                let weight = w.vector(*weight);
                gpu.layer_norm(
                    &self.f32(*x),
                    weight,
                    None,
                    &self.f32(*out),
                    n * self.width(*x) / weight.len(),
                    *epsilon,
                )
            }
            Launch::Columns { x, out, row, width, first } => {
                let (x, rows) = (self.f32(*x), n * self.width(*x) / row);
                gpu.take_columns(&x.slice(*first..x.len()), *row, &self.f32(*out), rows, *width)
            }
            Launch::Join { a, b, out, widths } => {
                let rows = n * self.width(*a) / widths[0];
                gpu.join(&self.f32(*a), &self.f32(*b), &self.f32(*out), rows, *widths)
            }
            Launch::Matmul { x, weight, out } => {
                let (rows, x, out) = (w.rows(weight), self.f32(*x), self.f32(*out));
                // Tokens that are decoded; many of them are a matrix like a prompt's.
                let is_packed = self.multiplies_packed();
                if self.in_head && is_packed && Gpu::has_gemm(rows.tensor_type(), rows.n_in()) {
                    return gpu.matmul_packed(self.matmul, self.gemm, rows, &x, &out, n);
                }
                // What a prompt's last token says does not depend on the others'.
                let is_of_chunks = !self.decodes && self.chunks.is_some_and(|chunks| chunks.n() > 1);
                if self.in_head && (n == 1 || is_of_chunks || self.decodes && n < MANY_ROWS) {
                    let gemv = Gemv::new(rows, &x, &out).activations(self.of_head());
                    return gpu.gemv_many(&gemv, n, self.staging);
                }
                gpu.matmul(self.matmul, rows, &x, None, None, &out, n)
            }
            Launch::Sum { x, factors, bias, residual, out } => {
                let bias = self.span(bias);
                let [factors, residual] = [factors, residual].map(|local| local.map(|local| self.f32(local)));
                let (x, out, width) = (self.f32(*x), self.f32(*out), self.width(*x));
                gpu.matmul_epilogue(&x, factors.as_deref(), bias.as_deref(), residual.as_deref(), &out, n, width)
            }
            Launch::Rope { x, rope, n_heads, head_dim } => {
                let (shape, on_device) = (&self.figure.ropes[rope.0], w.rope(*rope));
                let (n_rot, pairing) = (shape.n_rot, shape.pairing);
                let shape = RopeShape { n_tokens: n, n_heads: *n_heads, head_dim: *head_dim, n_rot, pairing };
                gpu.rope(shape, &self.f32(*x), self.positions, &on_device.frequencies, on_device.magnitude)
            }
            Launch::Temper { x, out, temperature } => {
                let model::Temperature { scale, length } = *temperature;
                gpu.temper(&self.f32(*x), self.positions, &self.f32(*out), n, self.width(*x), scale, length)
            }
            Launch::Attention { q, k: Some(k), v: None, out, heads, probabilities, .. } => {
                self.latent_attention(*q, *k, *out, heads, probabilities, trace)
            }
            Launch::Attention { q, k, v, out, heads, sinks, soft_cap, probabilities } => {
                self.attention(*q, [*k, *v], *out, heads, (*sinks, *soft_cap), probabilities, trace)
            }
            Launch::Gate { x, gate, out } => {
                let (width, gate_width, gate) = (self.width(*x), self.width(*gate), self.f32(*gate));
                let gate = match gate_width {
                    1 => SigmoidGate::PerRow(&gate),
                    _ => SigmoidGate::PerValue { gate: &gate, stride: width },
                };
                gpu.multiply_sigmoid(&self.f32(*x), gate, &self.f32(*out), n, width)
            }
            Launch::Glu { gate, up, out, glu } => {
                let width = self.width(*gate);
                gpu.glu(unit(*glu), &self.f32(*gate), &self.f32(*up), &self.f32(*out), n * width)
            }
            Launch::SoftCap { x, out, cap } => gpu.soft_cap(&self.f32(*x), &self.f32(*out), *cap, n * self.width(*x)),
            Launch::Every { experts } => gpu.experts_every(&self.u32(*experts), n, self.width(*experts)),
            Launch::Route(choice) => self.route(choice),
            Launch::Router { x, norm, weight, bias, choice } => self.router(*x, *norm, weight, bias, choice),
            Launch::ExpertBias { x, bias, experts, n: row } => {
                let (experts, pairs) = (self.u32(*experts), n * self.width(*x) / row);
                gpu.experts_bias(&experts, w.vector(*bias), &self.f32(*x), pairs, *row)
            }
            Launch::Combine { x, weights, residual, out, n_used } => {
                self.experts_combine(*x, *weights, *residual, *out, *n_used)
            }
            Launch::Convolve { x, weight, kernel, state, out } => {
                let (x, state, out, channels) =
                    (self.f32(*x), self.cache.state(*state, self.id), self.f32(*out), self.width(*x));
                gpu.delta_net_convolve(&x, w.vector(*weight), &state, &out, n, channels, *kernel)
            }
            Launch::UnitHeads { x, n_key_heads, head_dim, epsilon } => {
                let n_v_heads = self.width(*x) / head_dim - 2 * n_key_heads;
                let shape = self.delta_net(*n_key_heads, n_v_heads, *head_dim, false);
                gpu.delta_net_normalise(shape, &self.f32(*x), *epsilon)
            }
            Launch::DeltaGates { beta, alpha, bias, a } => {
                let (beta, alpha, heads) = (self.f32(*beta), self.f32(*alpha), self.width(*beta));
                gpu.delta_net_gates(&beta, &alpha, w.vector(*a), w.vector(*bias), &alpha, n, heads)
            }
            Launch::DeltaRule { qkv, n_key_heads, head_dim, strength, keep, state, grouped, out } => {
                let shape = self.delta_net(*n_key_heads, self.width(*out) / head_dim, *head_dim, *grouped);
                let (qkv, strength, keep) = (self.f32(*qkv), self.f32(*strength), self.f32(*keep));
                let state = self.cache.state(*state, self.id);
                gpu.delta_net(shape, &qkv, &strength, &keep, &state, &self.f32(*out))
            }
            Launch::GatedNorm { x, gate, weight, epsilon, out } => {
                let weight = w.vector(*weight);
                let rows = n * self.width(*x) / weight.len();
                gpu.delta_net_gate(&self.f32(*x), weight, &self.f32(*gate), &self.f32(*out), rows, *epsilon)
            }

            Launch::Gemv { x, norm, weight, bias, swiglu, residual, experts, out, wide } => {
                let form = |local: Local| self.pass.locals.get(local).form;
                let (x_f32, x_q8) =
                    if form(*x) == Form::Quantised { (None, Some(self.u32(*x))) } else { (Some(self.f32(*x)), None) };
                let (out_f32, out_q8) = if form(*out) == Form::Quantised {
                    (None, Some(self.u32(*out)))
                } else {
                    (Some(self.f32(*out)), None)
                };
                let (bias, residual) = (self.span(bias), residual.map(|residual| self.f32(residual)));
                let chosen = experts.map(|(experts, share)| (self.u32(experts), share));
                if let (Some(together), Some((experts, share)), Some((chosen, _))) = (self.experts, experts, &chosen)
                    && together.takes(&w.rows(weight), chosen.len())
                {
                    debug_assert!(norm.is_none() && bias.is_none() && residual.is_none() && !swiglu, "a product alone");
                    let (x, out) = (self.f32(*x), self.f32(*out));
                    return self.experts_together(together, weight, *experts, chosen, *share, &x, &out);
                }
                let gemv = Gemv {
                    weights: w.rows(weight),
                    x: match (&x_f32, &x_q8) {
                        (_, Some(x)) => Input::Quantised(x),
                        (x, None) => Input::F32(x.as_ref().expect("one of the two")),
                    },
                    norm: norm.map(|(norm, epsilon)| (&**w.vector(norm), epsilon)),
                    bias: bias.as_deref(),
                    residual: residual.as_deref(),
                    out: match (&out_f32, &out_q8) {
                        (_, Some(out)) => Output::Quantised(out),
                        (out, None) => Output::F32(out.as_ref().expect("one of the two")),
                    },
                    swiglu: *swiglu,
                    experts: chosen.as_ref().map(|(chosen, share)| Experts {
                        chosen,
                        n_vectors: chosen.len(),
                        share: *share,
                    }),
                    activations: if *wide { self.of_head() } else { self.matmul.activations() },
                };
                if experts.is_some() { gpu.gemv(&gemv) } else { gpu.gemv_many(&gemv, n, self.staging) }
            }
            Launch::GemvSum { x, weight, experts, weights, residual, out } => {
                self.experts_sum(*x, weight, *experts, *weights, *residual, *out)
            }
            Launch::GemvStack { x, norm, stack, bias, out } => {
                let parts = GemvParts {
                    weights: w.stack(*stack),
                    x: &self.f32(*x),
                    norm: norm.map(|(norm, epsilon)| (&**w.vector(norm), epsilon)),
                    bias: bias.map(|bias| &**w.vector(bias)),
                    out: &self.f32(*out),
                    activations: self.matmul.activations(),
                };
                gpu.gemv_parts_many(&parts, n, self.staging)
            }
            Launch::AttentionToken { qkv, parts, heads, out } => self.attention_token(*qkv, parts, heads, *out, None),

            Launch::RmsNormF16 { x, out, weight, epsilon, scale } => {
                let scale = self.scale_of(*scale);
                let order = self.order(*out);
                let (x, out) = (self.f32(*x), self.f16(*out));
                gpu.rmsnorm_f16(&x, w.vector(*weight), &out, n, *epsilon, scale, order, self.decodes)
            }
            Launch::Product { x, x_scale, stack, room, bias, out, out_scale, adds, swiglu } => {
                let (out_f32, out_f16) = match out_scale {
                    None => (Some(self.f32(*out)), None),
                    Some(_) => (None, Some(self.f16(*out))),
                };
                let of_out = match (&out_f32, &out_f16) {
                    (Some(out), _) => Product::F32(out),
                    (_, out) => Product::F16(out.as_ref().expect("one of the two")),
                };
                let unit = swiglu.map(|(unit, scale)| (self.f16(unit), self.scale_of(scale)));
                let rooms = self.rooms.expect("a pass with such products has rooms");
                let product = RoomProduct {
                    stack: *stack,
                    room: *room,
                    x: &self.f16(*x),
                    x_scale: self.scale_of(*x_scale),
                    bias: bias.map(|bias| &**w.vector(bias)),
                    out: of_out,
                    out_scale: out_scale.map_or(1.0, |scale| self.scale_of(scale)),
                    adds: *adds,
                    swiglu: unit.as_ref().map(|(unit, scale)| (&**unit, *scale)),
                    orders: [self.order(*x), swiglu.map_or(Order::Rows, |(unit, _)| self.order(unit))],
                };
                rooms.multiply(gpu, w, &product, n, self.multiplies_packed().then_some(self.gemm))
            }
            Launch::Qkv { product, bias, parts, heads, q, kv } => self.qkv(*product, *bias, parts, heads, *q, *kv),
            Launch::RowsF16 { x, out, factors } => {
                let (x, width) = (self.f32(*x), self.width(*x));
                gpu.rmsnorm_power_f16(&x, &self.f16(*out), &self.f32(*factors), n, width)
            }
            Launch::ToF16 { x, scale, out } => {
                gpu.range_to_f16_f32(&self.f32(*x), &self.f16(*out), self.scale_of(*scale), n * self.width(*x))
            }
            Launch::FromF16 { x, scale, out } => {
                let (scale, len) = (self.scale_of(*scale).recip(), n * self.width(*x));
                gpu.range_from_f16(&self.f16(*x), &self.f32(*out), scale, len)
            }
            Launch::Queries { x, heads, q } => self.queries(*x, heads, *q),
            Launch::Store { k, v, heads } => self.store(*k, *v, heads),
            Launch::Flash { q, heads, sinks, soft_cap, out, scale } => {
                self.flash(*q, heads, (*sinks, *soft_cap), *out, *scale)
            }
            Launch::AttentionRows { qkv, parts, heads, out, scale } => {
                self.attention_token(*qkv, parts, heads, *out, Some(*scale))
            }
            Launch::AttentionMany { q, heads, sinks, soft_cap, exact, out, scale } => {
                self.attention_many(*q, heads, (*sinks, *soft_cap), *exact, *out, *scale)
            }
            Launch::GluF16 { gate_up, factors, in_scale, out, out_scale, glu } => {
                let (in_scale, out_scale) = (self.scale_of(*in_scale).recip(), self.scale_of(*out_scale));
                let (gate_up, out, width) = (self.f16(*gate_up), self.f16(*out), self.width(*out));
                match factors {
                    None => gpu.glu_f16(unit(*glu), &gate_up, &out, n, width, in_scale, out_scale),
                    Some(factors) => {
                        let [factors, of_out] = factors.map(|local| self.f32(local));
                        gpu.glu_rows_f16(unit(*glu), &gate_up, &factors, &out, &of_out, n, width, in_scale, out_scale)
                    }
                }
            }
        }
    }

    fn delta_net(&self, n_k_heads: usize, n_v_heads: usize, head_dim: usize, grouped: bool) -> DeltaNetShape {
        let key_heads = if grouped { KeyHeads::Grouped } else { KeyHeads::Tiled };
        DeltaNetShape { n_tokens: self.n(), n_k_heads, n_v_heads, head_dim, key_heads }
    }

    fn attention_token(
        &self,
        qkv: Local,
        parts: &QkvParts,
        heads: &AttentionHeads,
        out: Local,
        scale: Option<ScaleId>,
    ) -> Result<(), GpuError> {
        let shape = self.shape(heads);
        let (out_f32, out_q8, out_f16);
        let out = match (self.pass.locals.get(out).form, scale) {
            (Form::Quantised, _) => {
                out_q8 = self.u32(out);
                Attended::Quantised(&out_q8)
            }
            (Form::F16, Some(scale)) => {
                out_f16 = self.f16(out);
                Attended::F16(&out_f16, self.scale_of(scale), self.order(out))
            }
            _ => {
                out_f32 = self.f32(out);
                Attended::F32(&out_f32)
            }
        };
        self.gpu.attention_decode(&AttentionDecode {
            shape,
            qkv: &self.f32(qkv),
            // Behind the values there may be a gate.
            qkv_stride: self.width(qkv),
            positions: self.positions,
            pages: self.cache.tables(heads.cache, self.slots).get(),
            norm_and_rope: self.norm_and_rope(parts, heads),
            scale: heads.scale,
            keys: &self.cache.keys(heads.cache),
            values: &self.cache.values(heads.cache),
            cache_type: self.cache.cache_type,
            splits: key_splits(shape, self.n_past, self.gpu.multiprocessors(), scale.is_some()),
            parts: &self.attention.parts,
            arrivals: &self.attention.arrivals,
            out,
            shares_sequences: self.shares_sequences,
        })
    }

    /// Hands a value, which is on the device, to the recorder.
    fn record(&self, made: &Made, trace: &mut Recorder) -> Result<(), GpuError> {
        let value = self.figure.value(made.value);
        let Some(name) = &value.name else { return Ok(()) };
        let room = self.pass.locals.get(made.local);
        let mut rows: Vec<f32> = match room.form {
            Form::F32 => self.gpu.read(&self.f32(made.local))?,
            Form::U32 => self.gpu.read(&self.u32(made.local))?.into_iter().map(|id| id as f32).collect(),
            Form::F16 => {
                let scale = made.scale.map_or(1.0, |scale| self.scale_of(scale));
                self.gpu.read(&self.f16(made.local))?.into_iter().map(|half| half.to_f32() / scale).collect()
            }
            Form::Quantised => {
                let words = self.gpu.read(&self.u32(made.local))?;
                // Of a mixture each expert's row is a vector of its own.
                let row = value.row();
                let rows = words.chunks_exact(quantised_len(row)).take(self.n() * room.width / row);
                rows.flat_map(|words| dequantised(words, row)).collect()
            }
            Form::Bytes => return Ok(()),
        };
        if let Some(factors) = made.factors {
            let factors = self.gpu.read(&self.f32(factors))?;
            for (row, factor) in rows.chunks_exact_mut(room.width).zip(factors) {
                row.iter_mut().for_each(|value| *value *= factor);
            }
        }
        let width = value.width();
        let values: Vec<f32> = if width == room.width {
            rows
        } else {
            rows.chunks_exact(room.width).flat_map(|row| &row[made.start..made.start + width]).copied().collect()
        };
        let shape: Vec<usize> = [self.n()].into_iter().chain(value.shape.iter().copied()).collect();
        trace.record(name, &shape, &values);
        Ok(())
    }
}

/// How the next token's attention over a cache is split, in a step on tensor cores or not.
pub fn key_splits(shape: AttentionShape, n_past: usize, multiprocessors: usize, on_tensor_cores: bool) -> KeySplits {
    let n_keys = shape.window.map_or(n_past + 1, |window| window.min(n_past + 1));
    let split = if on_tensor_cores { KeySplits::of_many } else { KeySplits::new };
    split(n_keys, shape.n_heads, shape.n_kv_heads, multiprocessors)
}

/// Values that a product left as 8-bit integers, four to a word, then a scale and a sum for each 16.
fn dequantised(words: &[u32], n: usize) -> Vec<f32> {
    let (integers, scales) = words.split_at(n / 4);
    let bytes = integers.iter().flat_map(|word| word.to_le_bytes());
    bytes.enumerate().map(|(i, byte)| f32::from(byte.cast_signed()) * f32::from_bits(scales[i / 16 * 2])).collect()
}

/// The kernels' name of a unit.
fn unit(glu: model::Glu) -> Glu {
    match glu {
        model::Glu::Swiglu => Glu::Swiglu,
        model::Glu::Geglu => Glu::Geglu,
        model::Glu::SwigluClamped => Glu::SwigluClamped,
    }
}
