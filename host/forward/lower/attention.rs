//! The pattern that kernels of attention fuse: queries, keys and values of one stack, their biases, norms over heads, rotation, growth of
//! queries, cache. Norms over all heads together, which OLMo 2 and 3 have in place of a bias, are a launch between the product and those.

use super::{AttentionHeads, Launch, Local, Lowering, Made, QkvParts, Step};
use crate::model::{
    Temperature,
    figure::{Node, Op, Span, StackId, ValueId, VectorId},
};

/// A match of it.
#[derive(Clone, Debug)]
pub(super) struct FusedAttention {
    /// What is projected.
    pub x: ValueId,
    /// Queries, keys and values, the first rows of it.
    pub stack: StackId,
    /// Of all of the stack's rows, where there is one.
    pub bias: Option<VectorId>,
    /// The values with bias or norm over all heads, whatever lies between: queries, keys, values.
    pub projected: [ValueId; 3],
    /// Where each begins in a row of the product.
    pub starts: [usize; 3],
    /// Norms over all heads of queries and of keys, and their ε.
    pub whole: [Option<VectorId>; 2],
    pub whole_epsilon: f32,
    /// The nodes between projection and attention.
    pub between: Vec<usize>,
    /// The projections and their biases.
    pub projections: Vec<usize>,
    pub parts: QkvParts,
    pub heads: AttentionHeads,
    pub sinks: Option<VectorId>,
    pub soft_cap: Option<f32>,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// The attention itself.
    pub node: usize,
}

impl FusedAttention {
    /// Whether scores go into the softmax as they are.
    pub fn has_plain_scores(&self) -> bool {
        self.sinks.is_none() && self.soft_cap.is_none()
    }
}

/// One of queries, keys and values, walked back to its product.
#[derive(Default)]
struct Chain {
    temperature: Option<Temperature>,
    rope: Option<crate::model::figure::RopeId>,
    norm: Option<(VectorId, f32)>,
    /// Over all heads.
    whole: Option<(VectorId, f32)>,
    bias: Option<Span>,
    between: Vec<usize>,
    projections: Vec<usize>,
}

impl Lowering<'_, '_> {
    fn maker(&self, value: ValueId) -> Option<(usize, &Node)> {
        self.maker_index(value).map(|index| (index, &self.model.figure.nodes[index]))
    }

    /// From what attention reads back to the product that it comes from.
    fn chain(&self, value: ValueId) -> Option<(Chain, ValueId, &Op)> {
        let mut chain = Chain::default();
        let mut value = value;
        loop {
            self.only_reader(value)?;
            let (index, node) = self.maker(value)?;
            match &node.op {
                Op::Temper { x, temperature } if chain.between.is_empty() => {
                    chain.temperature = Some(*temperature);
                    (value, _) = (*x, chain.between.push(index));
                }
                Op::Rope { x, rope } if chain.rope.is_none() && chain.norm.is_none() => {
                    chain.rope = Some(*rope);
                    (value, _) = (*x, chain.between.push(index));
                }
                Op::RmsNorm { x, weight: Some(weight), epsilon } if chain.norm.is_none() => {
                    chain.norm = Some((*weight, *epsilon));
                    (value, _) = (*x, chain.between.push(index));
                }
                Op::Reshape { x } => {
                    chain.between.push(index);
                    let projected = *x;
                    let (index, node) = self.maker(projected)?;
                    self.only_reader(projected)?;
                    chain.projections.push(index);
                    if let Op::RmsNorm { x, weight: Some(weight), epsilon } = &node.op {
                        let (whole, width) =
                            (self.model.figure.vector(*weight).len(), self.model.figure.value(*x).width());
                        if whole != width || !width.is_multiple_of(4) {
                            return None;
                        }
                        chain.whole = Some((*weight, *epsilon));
                        self.only_reader(*x)?;
                        let (index, node) = self.maker(*x)?;
                        chain.projections.push(index);
                        return Some((chain, projected, &node.op));
                    }
                    let Op::Bias { x, bias } = &node.op else { return Some((chain, projected, &node.op)) };
                    chain.bias = Some(bias.clone());
                    self.only_reader(*x)?;
                    let (index, node) = self.maker(*x)?;
                    chain.projections.push(index);
                    return Some((chain, projected, &node.op));
                }
                _ => return None,
            }
        }
    }

    /// The pattern that ends at this node, where it is attention and all before it fits.
    pub(super) fn fused_attention(&self, node: usize) -> Option<FusedAttention> {
        let figure = &self.model.figure;
        let Op::Attention { q, k, v, cache, rope, scale, sinks, soft_cap, .. } = figure.nodes[node].op else {
            return None;
        };
        // Neither another layer's keys and values, nor such as are one.
        let (k, v) = (k?, v?);
        let shape = figure.caches[cache.0];
        if !self.options.cache_type.head_dims().any(|dim| dim == shape.head_dim) {
            return None;
        }
        let (mut next, mut stack, mut input) = (0, None, None);
        let mut chains = Vec::new();
        let (mut projected, mut starts) = (Vec::new(), Vec::new());
        for value in [q, k, v] {
            let (chain, value, op) = self.chain(value)?;
            let Op::Product { x, weight } = op else { return None };
            // One stack, one input, one behind the other.
            if weight.rows.start != next
                || *stack.get_or_insert(weight.stack) != weight.stack
                || *input.get_or_insert(*x) != *x
                || chain.bias.as_ref().is_some_and(|bias| bias.range != weight.rows)
            {
                return None;
            }
            starts.push(weight.rows.start);
            next = weight.rows.end;
            projected.push(value);
            chains.push(chain);
        }
        let (stack, x) = (stack?, input?);
        let [q, k, v] = &chains[..] else { return None };
        if q.rope != rope || k.rope != rope || v.rope.is_some() || v.norm.is_some() || v.whole.is_some() {
            return None;
        }
        if k.temperature.is_some() || v.temperature.is_some() {
            return None;
        }
        let bias = q.bias.as_ref().map(|bias| bias.vector);
        let covers = |bias: VectorId| figure.vector(bias).len() == figure.stack(stack).n_out;
        if [k, v].iter().any(|chain| chain.bias.as_ref().map(|bias| bias.vector) != bias) || !bias.is_none_or(covers) {
            return None;
        }
        let epsilon = q.norm.or(k.norm).map_or(0.0, |(_, epsilon)| epsilon);
        Some(FusedAttention {
            x,
            stack,
            bias,
            projected: [projected[0], projected[1], projected[2]],
            between: chains.iter().flat_map(|chain| chain.between.clone()).collect(),
            projections: chains.iter().flat_map(|chain| chain.projections.clone()).collect(),
            starts: [starts[0], starts[1], starts[2]],
            whole: [q, k].map(|chain| chain.whole.map(|(norm, _)| norm)),
            whole_epsilon: q.whole.or(k.whole).map_or(0.0, |(_, epsilon)| epsilon),
            parts: QkvParts {
                q_norm: q.norm.map(|(norm, _)| norm),
                k_norm: k.norm.map(|(norm, _)| norm),
                epsilon,
                temperature: q.temperature,
            },
            sinks,
            soft_cap,
            heads: AttentionHeads {
                n_heads: (figure.value(projected[0]).width()) / shape.head_dim,
                cache,
                rope,
                scale,
            },
            n_kv_heads: shape.n_kv_heads,
            head_dim: shape.head_dim,
            node,
        })
    }

    /// Norms over all heads between the product and the rest of the pattern, where there are some, and the factors of rows with them.
    pub(super) fn norm_qk(&mut self, pattern: &FusedAttention, qkv: Local, factors: Option<Local>) {
        let norms = pattern.whole;
        if norms == [None, None] {
            return;
        }
        let makes = (0..2)
            .filter(|which| norms[*which].is_some())
            .map(|which| Made { start: pattern.starts[which], ..Made::new(pattern.projected[which], qkv) });
        let widths = [0, 1].map(|which| pattern.starts[which + 1] - pattern.starts[which]);
        let launch = Launch::NormQk { qkv, factors, norms, widths, epsilon: pattern.whole_epsilon };
        self.of_value[pattern.projected[0].0] = Some(qkv);
        self.steps.push(Step { launch, makes: makes.collect() });
    }
}
