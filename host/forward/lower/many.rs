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
//! and each weight once in f16, after being unpacked from what it is in the file, if that is another type. The residual stream x is f32
//! throughout. What is none of these, a mixture of experts for one, is launched an operation at a time; its products are those of
//! [`experts`](crate::forward::experts).
//!
//! Two products add to x as they end (cuBLAS's β = 1), so x is neither read nor written in a kernel of its own. What is rounded to f16
//! between two products could be too large for it; a power of two, made for each place when the model is loaded, then takes it back into
//! the range: see [`Bound`] and [`range`](crate::forward::range).
//!
//! # Unpacking
//!
//! Quantised weights, and bf16, are unpacked to f16 for a product, each of a layer's matrices into a *room* of its own. As soon as a product
//! is done its room is filled with the next layer's matrix, on a side stream: while the other products of the layer run.

use std::collections::HashMap;

use super::{Bound, Form, Launch, Local, Lowering, Made, Options, Pass, ScaleId, Step, attention::FusedAttention};
use crate::{
    gguf::TensorType,
    gpu::kernels::CacheType,
    model::{
        Model,
        figure::{Matrix, Op, Span, StackId, ValueId, VectorId},
    },
};

/// Values in f16: where, times what, and the norm that made them.
type Halves = HashMap<ValueId, (Local, ScaleId)>;

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
    let mut plan =
        Many { patterns: Vec::new(), of_sequences, halves: Halves::new(), norms: HashMap::new(), room: 0, layer: None };
    // What goes into a product in f16 is a norm's, which bounds it.
    plan.patterns = patterns.into_iter().filter(|pattern| plan.is_norm(&lowering, pattern.x)).collect();
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
        if self.patterns.iter().any(|pattern| pattern.projections.contains(&index)) {
            return self.is_norm(l, *x);
        }
        if l.glu_of(index, weight).is_some() {
            return self.is_norm(l, *x);
        }
        // Behind attention, or behind a GLU that is made in f16.
        let Some(maker) = l.maker_index(*x) else { return false };
        if l.only_reader(*x) != Some(index) || figure.stack(weight.stack).n_out != weight.rows.len() {
            return false;
        }
        match &figure.nodes[maker].op {
            Op::Attention { .. } => self.patterns.iter().any(|pattern| pattern.node == maker),
            Op::Glu { gate, .. } => l.maker_index(*gate).is_some_and(|gate| {
                matches!(&figure.nodes[gate].op, Op::Product { weight, x }
                    if l.glu_of(gate, weight).is_some() && self.is_norm(l, *x))
            }),
            _ => false,
        }
    }

    /// Whether a value is a normalised row.
    fn is_norm(&self, l: &Lowering, value: ValueId) -> bool {
        self.norm_of(l, value).is_some()
    }

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
            Op::RmsNorm { x, weight: Some(weight), epsilon } if !l.in_head => {
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
                self.halves.insert(node.out, (out, scale));
                self.norms.insert(node.out, *weight);
                let launch = Launch::RmsNormF16 { x, out, weight: *weight, epsilon: *epsilon, scale };
                let made = Made { value: node.out, local: out, scale: Some(scale), start: 0 };
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
                let Some(pattern) = self.patterns.iter().find(|pattern| pattern.node == index).cloned() else {
                    return false;
                };
                self.attention(l, &pattern);
                true
            }
            _ => false,
        }
    }

    fn next_room(&mut self) -> usize {
        self.room += 1;
        self.room - 1
    }

    /// Queries, keys and values, from the product to where attention reads them.
    fn qkv(&mut self, l: &mut Lowering, pattern: &FusedAttention) {
        let figure = &l.model.figure;
        let (x, x_scale) = self.halves[&pattern.x];
        let stack = pattern.stack;
        let product = l.room(figure.stack(stack).n_out, Form::F32);
        let room = self.next_room();
        let launch = Launch::Product { x, x_scale, stack, room, out: product, out_scale: None, adds: false };
        // The values before a bias, in columns of the product.
        let makes = pattern.projections.iter().filter_map(|node| match &figure.nodes[*node].op {
            Op::Product { weight, .. } => {
                Some(Made { value: figure.nodes[*node].out, local: product, scale: None, start: weight.rows.start })
            }
            _ => None,
        });
        l.steps.push(Step { launch, makes: makes.collect() });
        for node in pattern.projections.iter().chain(&pattern.between) {
            l.done[*node] = true;
        }
        if self.of_sequences {
            if let Some(vector) = pattern.bias {
                let bias = Some(Span { vector, range: 0..figure.stack(stack).n_out });
                l.launch(Launch::Sum { x: product, bias, residual: None, out: product }, &[]);
            }
            l.of_value[pattern.projected[0].0] = Some(product);
            return;
        }
        let cache_type = l.options.cache_type;
        let (n_heads, head_dim) = (pattern.heads.n_heads, pattern.head_dim);
        let q = l.room(query_type(cache_type).bytes(n_heads, head_dim), Form::Bytes);
        // A cache of 8-bit integers takes its keys and values from f32.
        let kv =
            (cache_type == CacheType::Q8_0).then(|| [(); 2].map(|()| l.room(pattern.n_kv_heads * head_dim, Form::F32)));
        let launch = Launch::Qkv { product, bias: pattern.bias, parts: pattern.parts, heads: pattern.heads, q, kv };
        l.steps.push(Step { launch, makes: vec![] });
        l.of_value[pattern.projected[0].0] = Some(q);
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
            (CacheType::F16, _) | (_, None) => l.scale(Bound::None),
            (_, Some(norm)) => {
                let values = q_len + kv_len..q_len + 2 * kv_len;
                let bias = pattern.bias.map(|vector| Span { vector, range: values.clone() });
                l.scale(Bound::Average { rows: Matrix { stack: pattern.stack, rows: values }, norm: *norm, bias })
            }
        };
        let out = l.room(width, Form::F16);
        self.halves.insert(value, (out, scale));
        let heads = pattern.heads;
        let launch = if self.of_sequences {
            let exact = l.room(width, Form::F32);
            Launch::AttentionRows { qkv: q, parts: pattern.parts, heads, exact, out, scale }
        } else if has_flash(l.options.cache_type) {
            Launch::Flash { q, heads, out, scale }
        } else {
            let exact = l.room(width, Form::F32);
            Launch::AttentionMany { q, heads, exact, out, scale }
        };
        l.steps.push(Step { launch, makes: vec![Made { value, local: out, scale: Some(scale), start: 0 }] });
    }

    /// Gate and up projection, and what joins them.
    fn glu(&mut self, l: &mut Lowering, x: ValueId, weight: &Matrix, glu: usize, products: [usize; 2]) {
        let figure = &l.model.figure;
        let (input, x_scale) = self.halves[&x];
        let n_out = figure.stack(weight.stack).n_out;
        let Op::Glu { glu: kind, .. } = figure.nodes[glu].op else { unreachable!("as found") };
        let norm = self.norms[&x];
        let rows = Matrix { stack: weight.stack, rows: 0..n_out };
        let in_scale = l.scale(Bound::Product { rows: rows.clone(), norm });
        let out_scale = l.scale(Bound::Glu { rows, norm });
        let gate_up = l.room(n_out, Form::F16);
        let (stack, room) = (weight.stack, self.next_room());
        let launch =
            Launch::Product { x: input, x_scale, stack, room, out: gate_up, out_scale: Some(in_scale), adds: false };
        let halves = products.iter().zip([0, n_out / 2]).map(|(node, start)| Made {
            value: figure.nodes[*node].out,
            local: gate_up,
            scale: Some(in_scale),
            start,
        });
        l.steps.push(Step { launch, makes: halves.collect() });
        let value = figure.nodes[glu].out;
        let out = l.room(n_out / 2, Form::F16);
        self.halves.insert(value, (out, out_scale));
        let launch = Launch::GluF16 { gate_up, in_scale, out, out_scale, glu: kind };
        l.steps.push(Step { launch, makes: vec![Made { value, local: out, scale: Some(out_scale), start: 0 }] });
        for node in products.into_iter().chain([glu]) {
            l.done[node] = true;
        }
    }

    /// A product back to the residual stream's width: added to the stream where nothing comes between and nothing else needs it as it was.
    fn last_product(&mut self, l: &mut Lowering, index: usize, x: ValueId, stack: StackId) {
        let figure = &l.model.figure;
        let (input, x_scale) = self.halves[&x];
        let mut value = figure.nodes[index].out;
        let mut bias = None;
        if let Some(reader) = l.only_reader(value)
            && let Op::Bias { bias: of, .. } = &figure.nodes[reader].op
        {
            (bias, value) = (Some(of.clone()), figure.nodes[reader].out);
            l.done[reader] = true;
        }
        let room = self.next_room();
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
        let launch = Launch::Product { x: input, x_scale, stack, room, out, out_scale: None, adds };
        match bias {
            None => l.launch(launch, &[value]),
            Some(bias) => {
                l.launch(launch, &[]);
                l.launch(Launch::Sum { x: out, bias: Some(bias), residual: None, out }, &[value]);
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
