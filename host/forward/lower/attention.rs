//! The pattern that kernels of attention fuse: queries, keys and values of one stack, their biases, norms over heads, rotation, cache.

use super::{AttentionHeads, Lowering, QkvParts};
use crate::model::figure::{Node, Op, Span, StackId, ValueId, VectorId};

/// A match of it.
#[derive(Clone, Debug)]
pub(super) struct FusedAttention {
    /// What is projected.
    pub x: ValueId,
    /// Queries, keys and values, the first rows of it.
    pub stack: StackId,
    /// Of all of the stack's rows, where there is one.
    pub bias: Option<VectorId>,
    /// The values with bias, whatever lies between: queries, keys, values.
    pub projected: [ValueId; 3],
    /// The nodes between projection and attention.
    pub between: Vec<usize>,
    /// The projections and their biases.
    pub projections: Vec<usize>,
    pub parts: QkvParts,
    pub heads: AttentionHeads,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    /// The attention itself.
    pub node: usize,
}

/// One of queries, keys and values, walked back to its product.
#[derive(Default)]
struct Chain {
    rope: Option<crate::model::figure::RopeId>,
    norm: Option<(VectorId, f32)>,
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
        let Op::Attention { q, k, v, cache, rope, scale, sinks: None, soft_cap: None, .. } = figure.nodes[node].op
        else {
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
        let mut projected = Vec::new();
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
            next = weight.rows.end;
            projected.push(value);
            chains.push(chain);
        }
        let (stack, x) = (stack?, input?);
        let [q, k, v] = &chains[..] else { return None };
        if q.rope != rope || k.rope != rope || v.rope.is_some() || v.norm.is_some() {
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
            parts: QkvParts { q_norm: q.norm.map(|(norm, _)| norm), k_norm: k.norm.map(|(norm, _)| norm), epsilon },
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
}
