//! Many tokens at once: a chunk of a prompt, at the speed of the tensor cores.
//!
//! Nearly all time is cuBLAS's, in products of f16, so everything around them is arranged to be little and to move few bytes. A layer of
//! attention and a dense network is nine launches:
//!
//! | launch | reads, writes, bytes a token (n_embd = e, n_ff = f, heads · head_dim = h, KV heads' = k) |
//! |---|---|
//! | RMSNorm, to f16 | x, normed: 4e + 2e |
//! | product with [Wq; Wk; Wv] | normed, qkv in f32: 2e + 4(h + 2k) |
//! | bias, norms over heads, RoPE, cache | qkv, queries, cache: 4(h + 2k) + 2(h + 2k) |
//! | flash attention | queries, attended, and the cache: 2h + 2h |
//! | product with Wo, added to x | attended, x: 2h + 8e |
//! | RMSNorm, to f16 | x, normed: 4e + 2e |
//! | product with [gate; up] | normed, gate and up in f16: 2e + 4f |
//! | GLU, to f16 | gate and up, their product: 4f + 2f |
//! | product with the down projection, added to x | product, x: 2f + 8e |
//!
//! A step of several sequences, a token of each, is seven: attention takes the product as it is, with its bias from the product, and SwiGLU is the
//! product's own where weights are multiplied as they are.
//!
//! Each weight is read once in f16, after being unpacked from what it is in the file, if that is another type. The residual stream x is f32
//! throughout. What is none of these, a mixture of experts for one, is launched an operation at a time; but attention is flash attention
//! wherever queries, keys and values come from: where no pattern has them, a launch brings queries that are in memory to its type, and
//! one stores keys and values. An expert's products are those of
//! [`experts`](crate::forward::experts).
//!
//! Two products add to x as they end (cuBLAS's β = 1), so x is neither read nor written in a kernel of its own. What is rounded to f16
//! between two products could be too large for it; a power of two, made for each place when the model is loaded, then takes it back into
//! the range: see [`Bound`] and [`range`](crate::forward::range).
//!
//! What is no norm's is bound by nothing known beforehand: the residual stream, which OLMo's and EXAONE's branches read, or a LayerNorm's.
//! Each of its rows is divided by a power of two of its own, so that it is no longer than a normalised one, and the products' rows are
//! multiplied by it again where they are next read ([`Half::factors`]). Where nothing reads them but a norm, that does.
//!
//! # Unpacking
//!
//! Quantised weights, and bf16, are unpacked to f16 for a product of many tokens, each of a layer's matrices into a *room* of its own. As soon as a product
//! is done its room is filled with the next layer's matrix, on a side stream: while the other products of the layer run.

use std::collections::HashMap;

use super::{
    AttentionHeads, Bound, Form, Launch, Local, Lowering, Made, Options, Pass, ScaleId, Step, attention::FusedAttention,
};
use crate::{
    gguf::TensorType,
    gpu::kernels::CacheType,
    model::{
        Glu, Model,
        figure::{Matrix, Op, Span, StackId, ValueId, VectorId},
    },
};

/// A value in f16.
#[derive(Clone, Copy)]
struct Half {
    local: Local,
    /// What it was multiplied by.
    scale: ScaleId,
    /// What each of its rows has still to be multiplied by.
    factors: Option<Local>,
}

type Halves = HashMap<ValueId, Half>;

pub(super) fn lower(model: &Model, options: Options, of_sequences: bool) -> Option<Pass> {
    let figure = &model.figure;
    let lowering = Lowering::new(model, options);
    let patterns: Vec<FusedAttention> = (0..figure.nodes.len())
        .filter_map(|node| lowering.fused_attention(node))
        .filter(|pattern| {
            let rows = (pattern.heads.n_heads + 2 * pattern.n_kv_heads) * pattern.head_dim;
            figure.stack(pattern.stack).n_out == rows && pattern.head_dim.is_multiple_of(8)
        })
        .collect();
    let mut plan = Many {
        patterns,
        of_sequences,
        halves: Halves::new(),
        norms: HashMap::new(),
        factors: HashMap::new(),
        room: 0,
        layer: None,
    };
    if !plan.suits(&lowering) {
        return None;
    }
    Some(lowering.walk(|lowering, index| plan.launch(lowering, index)))
}

struct Many {
    patterns: Vec<FusedAttention>,
    /// Whether each token is of a sequence of its own.
    of_sequences: bool,
    halves: Halves,
    /// The norm's weights of values that are in `halves`.
    norms: HashMap<ValueId, VectorId>,
    /// What rows of values in f32 have still to be multiplied by: a norm is the only one to read them.
    factors: HashMap<ValueId, Local>,
    /// The next product's room, counted within a layer.
    room: usize,
    layer: Option<usize>,
}

impl Many {
    /// Whether all of the layers' matrices that are multiplied with many tokens may be so in f16.
    fn suits(&self, l: &Lowering) -> bool {
        let figure = &l.model.figure;
        let products = figure.nodes[..figure.head].iter().filter_map(|node| match &node.op {
            Op::Product { weight, .. } => Some(weight),
            _ => None,
        });
        // A router and the like are small, and multiplied as they are.
        let fused = |weight: &&Matrix| {
            let nodes = figure.nodes.iter().enumerate();
            let of = |(index, node): (usize, &crate::model::figure::Node)| match &node.op {
                Op::Product { weight: other, .. } => other.stack == weight.stack && self.takes(l, index),
                _ => false,
            };
            nodes.into_iter().any(of)
        };
        let stacks: Vec<StackId> = products.filter(fused).map(|weight| weight.stack).collect();
        let is_exact = |stack: &StackId| {
            l.model.types(figure.stack(*stack)).iter().any(|(tensor_type, _)| *tensor_type == TensorType::F32)
        };
        let is_whole = |stack: &StackId| {
            figure.stack(*stack).n_in.is_multiple_of(8) && figure.stack(*stack).n_out.is_multiple_of(8)
        };
        !stacks.is_empty() && !stacks.iter().any(is_exact) && stacks.iter().all(is_whole)
    }

    /// Whether a product of this node's is one in f16.
    fn takes(&self, l: &Lowering, index: usize) -> bool {
        let figure = &l.model.figure;
        let Op::Product { x, weight } = &figure.nodes[index].op else { return false };
        if self.patterns.iter().any(|pattern| pattern.projections.contains(&index)) || l.glu_of(index, weight).is_some()
        {
            return true;
        }
        // Behind attention, or behind a GLU that is made in f16.
        let Some(maker) = l.maker_index(*x) else { return false };
        if l.only_reader(*x) != Some(index) || figure.stack(weight.stack).n_out != weight.rows.len() {
            return false;
        }
        match &figure.nodes[maker].op {
            Op::Attention { .. } => {
                self.patterns.iter().any(|pattern| pattern.node == maker) || self.has_flash(l, maker)
            }
            Op::Glu { gate, .. } => l.maker_index(*gate).is_some_and(
                |gate| matches!(&figure.nodes[gate].op, Op::Product { weight, .. } if l.glu_of(gate, weight).is_some()),
            ),
            _ => false,
        }
    }

    /// Whether flash attention is for this attention by itself, over values that are in memory.
    fn has_flash(&self, l: &Lowering, index: usize) -> bool {
        let figure = &l.model.figure;
        let Op::Attention { k, v, cache, .. } = figure.nodes[index].op else { return false };
        let (shape, cache_type) = (figure.caches[cache.0], l.options.cache_type);
        // Vectors that are keys and values have a cache of their own.
        has_flash(cache_type)
            && shape.value_dim.is_none()
            && k.is_some() == v.is_some()
            && cache_type.head_dims().any(|dim| dim == shape.head_dim)
    }

    /// The weights of the norm that made a value, where it is a normalised row.
    fn norm_of(&self, l: &Lowering, value: ValueId) -> Option<VectorId> {
        let figure = &l.model.figure;
        match figure.nodes[l.maker_index(value)?].op {
            Op::RmsNorm { weight: Some(weight), .. } if figure.vector(weight).len() == figure.value(value).width() => {
                Some(weight)
            }
            _ => None,
        }
    }

    fn launch(&mut self, l: &mut Lowering, index: usize) -> bool {
        let figure = &l.model.figure;
        let node = &figure.nodes[index];
        if node.layer != self.layer {
            (self.layer, self.room) = (node.layer, 0);
        }
        match &node.op {
            Op::RmsNorm { x, .. } if l.added_norm(index).is_some() => {
                let factors = self.factors.get(x).copied();
                l.norm_add(index, factors)
            }
            Op::RmsNorm { x, weight: Some(weight), epsilon } if !l.in_head && self.norm_of(l, node.out).is_some() => {
                let readers = l.readers(node.out).to_vec();
                let (in_f16, others): (Vec<usize>, Vec<usize>) =
                    readers.into_iter().partition(|reader| self.takes(l, *reader));
                if in_f16.is_empty() {
                    return false;
                }
                if !others.is_empty() {
                    l.node(index);
                }
                let scale = l.scale(Bound::Norm(*weight));
                let out = l.room(figure.value(node.out).width(), Form::F16);
                let x = l.local(*x);
                self.halves.insert(node.out, Half { local: out, scale, factors: None });
                self.norms.insert(node.out, *weight);
                let launch = Launch::RmsNormF16 { x, out, weight: *weight, epsilon: *epsilon, scale };
                let made = Made { scale: Some(scale), ..Made::new(node.out, out) };
                l.steps.push(Step { launch, makes: if others.is_empty() { vec![made] } else { vec![] } });
                true
            }
            Op::Product { x, weight } if !l.in_head && self.takes(l, index) => {
                if let Some(pattern) =
                    self.patterns.iter().find(|pattern| pattern.projections.contains(&index)).cloned()
                {
                    self.qkv(l, &pattern);
                } else if let Some((glu, products)) = l.glu_of(index, weight) {
                    self.glu(l, *x, weight, glu, products);
                } else {
                    self.last_product(l, index, *x, weight.stack);
                }
                true
            }
            Op::Attention { .. } => {
                if let Some(pattern) = self.patterns.iter().find(|pattern| pattern.node == index).cloned() {
                    self.attention(l, &pattern);
                    return true;
                }
                let is_flash = self.has_flash(l, index);
                if is_flash {
                    self.flash_alone(l, index);
                }
                is_flash
            }
            _ => false,
        }
    }

    fn next_room(&mut self) -> usize {
        self.room += 1;
        self.room - 1
    }

    /// A value in f16: as its norm made it, or made now, with a power of two for each row.
    fn half(&mut self, l: &mut Lowering, value: ValueId) -> Half {
        if let Some(half) = self.halves.get(&value) {
            return *half;
        }
        let (out, factors) = (l.room(l.model.figure.value(value).width(), Form::F16), l.room(1, Form::F32));
        let half = Half { local: out, scale: l.scale(Bound::None), factors: Some(factors) };
        self.halves.insert(value, half);
        let launch = Launch::RowsF16 { x: l.local(value), out, factors };
        l.steps.push(Step { launch, makes: vec![] });
        half
    }

    /// Queries, keys and values, from the product to where attention reads them.
    fn qkv(&mut self, l: &mut Lowering, pattern: &FusedAttention) {
        let figure = &l.model.figure;
        let Half { local: x, scale: x_scale, factors } = self.half(l, pattern.x);
        let stack = pattern.stack;
        let product = l.room(figure.stack(stack).n_out, Form::F32);
        let room = self.next_room();
        // A bias is added behind a factor and before norms, or by the kernel that rotates; that of a token's attention knows none.
        let is_behind = factors.is_some() || pattern.whole != [None, None];
        let with_product = pattern.bias.filter(|_| !is_behind && self.is_decoded(pattern));
        let launch = Launch::Product {
            x,
            x_scale,
            stack,
            room,
            bias: with_product,
            out: product,
            out_scale: None,
            adds: false,
            swiglu: None,
        };
        // The values before a norm, in columns of the product, with the bias or before it.
        let is_bias = |node: &&usize| matches!(figure.nodes[**node].op, Op::Bias { .. });
        let makes = pattern.projections.iter().filter_map(|node| match &figure.nodes[*node].op {
            Op::Product { weight, .. } => {
                let biased =
                    pattern.between.iter().filter(is_bias).find(
                        |bias| matches!(figure.nodes[**bias].op, Op::Bias { x, .. } if x == figure.nodes[*node].out),
                    );
                let value = biased.filter(|_| with_product.is_some()).map_or(*node, |bias| *bias);
                Some(Made { factors, start: weight.rows.start, ..Made::new(figure.nodes[value].out, product) })
            }
            _ => None,
        });
        l.steps.push(Step { launch, makes: makes.collect() });
        for node in pattern.projections.iter().chain(&pattern.between) {
            l.done[*node] = true;
        }
        let mut bias = pattern.bias.filter(|_| with_product.is_none());
        if pattern.whole != [None, None] {
            l.norm_qk(pattern, product, factors);
        } else if factors.is_some() {
            let bias = bias.take().map(|vector| Span { vector, range: 0..figure.stack(stack).n_out });
            l.launch(Launch::Sum { x: product, factors, bias, residual: None, out: product }, &[]);
        }
        if self.is_decoded(pattern) {
            l.of_value[pattern.projected[0].0] = Some(product);
            return;
        }
        let cache_type = l.options.cache_type;
        let (n_heads, head_dim) = (pattern.heads.n_heads, pattern.head_dim);
        // Flash attention takes queries of the cache's type, the exact one f32: the latter's keys and values come from f32 as well where the
        // cache is of another type.
        let in_f32 = self.of_sequences || !has_flash(cache_type);
        let q_type = if in_f32 { CacheType::F32 } else { query_type(cache_type) };
        let q = l.room(q_type.bytes(n_heads, head_dim), Form::Bytes);
        let kv = (in_f32 && cache_type != CacheType::F32)
            .then(|| [(); 2].map(|()| l.room(pattern.n_kv_heads * head_dim, Form::F32)));
        let launch = Launch::Qkv { product, bias, parts: pattern.parts, heads: pattern.heads, q, kv };
        l.steps.push(Step { launch, makes: vec![] });
        l.of_value[pattern.projected[0].0] = Some(q);
    }

    /// Whether the kernel that attends for a token of a sequence does it: it knows neither sinks nor soft caps.
    fn is_decoded(&self, pattern: &FusedAttention) -> bool {
        self.of_sequences && pattern.has_plain_scores()
    }

    fn attention(&mut self, l: &mut Lowering, pattern: &FusedAttention) {
        let figure = &l.model.figure;
        let value = figure.nodes[pattern.node].out;
        let width = figure.value(value).width();
        let q = l.local(pattern.projected[0]);
        let kv_len = pattern.n_kv_heads * pattern.head_dim;
        let q_len = pattern.heads.n_heads * pattern.head_dim;
        // Values in f16 average to nothing beyond f16.
        let scale = match (l.options.cache_type, self.norms.get(&pattern.x)) {
            (CacheType::F16, _) => l.scale(Bound::None),
            (_, None) => l.scale(Bound::Values),
            (_, Some(norm)) => {
                let values = q_len + kv_len..q_len + 2 * kv_len;
                let bias = pattern.bias.map(|vector| Span { vector, range: values.clone() });
                l.scale(Bound::Average { rows: Matrix { stack: pattern.stack, rows: values }, norm: *norm, bias })
            }
        };
        let out = l.room(width, Form::F16);
        self.halves.insert(value, Half { local: out, scale, factors: None });
        let FusedAttention { heads, sinks, soft_cap, .. } = *pattern;
        let launch = if self.is_decoded(pattern) {
            Launch::AttentionRows { qkv: q, parts: pattern.parts, heads, out, scale }
        } else if has_flash(l.options.cache_type) && !self.of_sequences {
            Launch::Flash { q, heads, sinks, soft_cap, out, scale }
        } else {
            let exact = l.room(width, Form::F32);
            Launch::AttentionMany { q, heads, sinks, soft_cap, exact, out, scale }
        };
        l.steps.push(Step { launch, makes: vec![Made { scale: Some(scale), ..Made::new(value, out) }] });
    }

    /// Attention over queries, keys and values that are in memory in f32, wherever they come from.
    fn flash_alone(&mut self, l: &mut Lowering, index: usize) {
        let figure = &l.model.figure;
        let (value, op) = (figure.nodes[index].out, figure.nodes[index].op.clone());
        let Op::Attention { q, k, v, cache, rope, scale, sinks, soft_cap, .. } = op else { unreachable!("as found") };
        let (n_heads, cache_type) = (figure.value(q).shape[0], l.options.cache_type);
        let heads = AttentionHeads { n_heads, cache, rope, scale };
        let bound = if cache_type == CacheType::F16 { Bound::None } else { Bound::Values };
        let (scale, out) = (l.scale(bound), l.room(figure.value(value).width(), Form::F16));
        let is_multiplied = l.only_reader(value).is_some_and(|reader| self.takes(l, reader));
        if is_multiplied {
            self.halves.insert(value, Half { local: out, scale, factors: None });
        }
        // Rows of sequences are not one behind another.
        if self.of_sequences {
            l.node(index);
            if is_multiplied {
                l.launch(Launch::ToF16 { x: l.local(value), scale, out }, &[]);
            }
            return;
        }
        let bytes = query_type(cache_type).bytes(n_heads, figure.caches[cache.0].head_dim);
        let in_type = l.room(bytes, Form::Bytes);
        l.launch(Launch::Queries { x: l.local(q), heads, q: in_type }, &[]);
        if let (Some(k), Some(v)) = (k, v) {
            l.launch(Launch::Store { k: l.local(k), v: l.local(v), heads }, &[]);
        }
        let launch = Launch::Flash { q: in_type, heads, sinks, soft_cap, out, scale };
        l.steps.push(Step { launch, makes: vec![Made { scale: Some(scale), ..Made::new(value, out) }] });
        if !is_multiplied {
            let exact = l.place(value, Form::F32);
            l.launch(Launch::FromF16 { x: out, scale, out: exact }, &[]);
        }
    }

    /// Gate and up projection, and what joins them.
    fn glu(&mut self, l: &mut Lowering, x: ValueId, weight: &Matrix, glu: usize, products: [usize; 2]) {
        let figure = &l.model.figure;
        let Half { local: input, scale: x_scale, factors } = self.half(l, x);
        let n_out = figure.stack(weight.stack).n_out;
        let Op::Glu { glu: kind, .. } = figure.nodes[glu].op else { unreachable!("as found") };
        let norm = self.norms.get(&x).copied();
        let rows = Matrix { stack: weight.stack, rows: 0..n_out };
        let in_scale = l.scale(Bound::Product { rows: rows.clone(), norm });
        let out_scale = l.scale(match norm {
            Some(norm) => Bound::Glu { rows, norm },
            None => Bound::GluHeadroom { rows },
        });
        let gate_up = l.room(n_out, Form::F16);
        let (stack, room) = (weight.stack, self.next_room());
        let product = |swiglu| Launch::Product {
            x: input,
            x_scale,
            stack,
            room,
            bias: None,
            out: gate_up,
            out_scale: Some(in_scale),
            adds: false,
            swiglu,
        };
        for node in products.into_iter().chain([glu]) {
            l.done[node] = true;
        }
        let value = figure.nodes[glu].out;
        if self.of_sequences && factors.is_none() && kind == Glu::Swiglu {
            // Products of a few tokens make it themselves.
            let out = l.room(n_out / 2, Form::F16);
            self.halves.insert(value, Half { local: out, scale: out_scale, factors: None });
            let made = Made { scale: Some(out_scale), ..Made::new(value, out) };
            return l.steps.push(Step { launch: product(Some((out, out_scale))), makes: vec![made] });
        }
        let halves = products.iter().zip([0, n_out / 2]).map(|(node, start)| Made {
            scale: Some(in_scale),
            factors,
            start,
            ..Made::new(figure.nodes[*node].out, gate_up)
        });
        l.steps.push(Step { launch: product(None), makes: halves.collect() });
        let out = l.room(n_out / 2, Form::F16);
        // Rows with factors have their scales in those.
        let of_rows = factors.map(|factors| [factors, l.room(1, Form::F32)]);
        let scale = if of_rows.is_some() { l.scale(Bound::None) } else { out_scale };
        let half = Half { local: out, scale, factors: of_rows.map(|[_, factors]| factors) };
        self.halves.insert(value, half);
        let launch = Launch::GluF16 { gate_up, factors: of_rows, in_scale, out, out_scale, glu: kind };
        let made = Made { scale: Some(scale), factors: half.factors, ..Made::new(value, out) };
        l.steps.push(Step { launch, makes: vec![made] });
    }

    /// A product back to the residual stream's width: added to the stream where nothing comes between and nothing else needs it as it was.
    fn last_product(&mut self, l: &mut Lowering, index: usize, x: ValueId, stack: StackId) {
        let figure = &l.model.figure;
        let Half { local: input, scale: x_scale, factors } = self.half(l, x);
        let mut value = figure.nodes[index].out;
        let mut bias = None;
        if let Some(reader) = l.only_reader(value)
            && let Op::Bias { bias: of, .. } = &figure.nodes[reader].op
        {
            (bias, value) = (Some(of.clone()), figure.nodes[reader].out);
            l.done[reader] = true;
        }
        let room = self.next_room();
        let product = |out, adds| Launch::Product {
            x: input,
            x_scale,
            stack,
            room,
            bias: None,
            out,
            out_scale: None,
            adds,
            swiglu: None,
        };
        // Factors are for what reads the product: a norm that is a launch with its sum, or a launch of their own.
        if factors.is_some() {
            let out = l.place(value, Form::F32);
            let is_normed = |reader: usize| l.added_norm(reader).is_some();
            if bias.is_none() && l.only_reader(value).is_some_and(is_normed) {
                self.factors.extend(factors.map(|factors| (value, factors)));
                return l.steps.push(Step {
                    launch: product(out, false),
                    makes: vec![Made { factors, ..Made::new(value, out) }],
                });
            }
            l.launch(product(out, false), &[]);
            let mut residual = None;
            if let Some((add, other)) = l.added_to(value) {
                (residual, value) = (Some(other), figure.nodes[add].out);
                l.done[add] = true;
                l.place_in(value, out, 0);
            }
            return l.launch(Launch::Sum { x: out, factors, bias, residual, out }, &[value]);
        }
        let added = l.added_to(value).filter(|(add, _)| {
            let Op::Add { a, b } = figure.nodes[*add].op else { return false };
            let residual = if a == value { b } else { a };
            l.readers(residual).iter().all(|reader| reader <= add)
        });
        let (out, adds) = match added {
            Some((add, residual)) => {
                l.done[add] = true;
                value = figure.nodes[add].out;
                (l.place_in(value, residual, 0), true)
            }
            None => (l.place(value, Form::F32), false),
        };
        match bias {
            None => l.launch(product(out, adds), &[value]),
            Some(bias) => {
                l.launch(product(out, adds), &[]);
                let bias = Some(bias);
                l.launch(Launch::Sum { x: out, factors: None, bias, residual: None, out }, &[value]);
            }
        }
    }
}

/// Whether there is flash attention over such a cache; over the others attention takes a token at a time.
pub fn has_flash(cache_type: CacheType) -> bool {
    matches!(cache_type, CacheType::F16 | CacheType::BF16)
}

/// What queries are kept in: flash attention multiplies the cache with its own type.
pub fn query_type(cache_type: CacheType) -> CacheType {
    if has_flash(cache_type) { cache_type } else { CacheType::F32 }
}
