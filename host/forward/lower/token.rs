//! One token: packed weights, each read once, and as few launches as the kernels allow.
//!
//! A layer of attention and a dense network is five: norm, queries, keys and values; their norms, rotation, cache and attention; output
//! projection and residual; norm, gate, up and SwiGLU; down projection and residual. One with a mixture of experts is six: the router with its
//! norm and its choice is one more, and the last adds the experts' outputs up. A norm over the residual stream is never a launch
//! where only products read it: each makes it anew from the stream, which costs less than a launch.

use std::collections::HashMap;

use super::{Choice, Form, Launch, Local, Lowering, Options, Pass, attention::FusedAttention};
use crate::{
    gguf::TensorType,
    gpu::{Activations, Gpu},
    model::{
        Glu, Model,
        figure::{Matrix, Op, Span, ValueId, VectorId},
    },
};

/// A norm that products make themselves: of what, and with which weights.
type Norms = HashMap<ValueId, (ValueId, VectorId, f32)>;

pub(super) fn lower(model: &Model, options: Options) -> Pass {
    let lowering = Lowering::new(model, options);
    let patterns = (0..model.figure.nodes.len()).filter_map(|node| lowering.fused_attention(node));
    // The kernel knows neither sinks nor soft caps.
    let patterns: Vec<FusedAttention> = patterns.filter(FusedAttention::has_plain_scores).collect();
    let mut norms = Norms::new();
    lowering.walk(|lowering, index| lowering.token(index, &patterns, &mut norms))
}

impl Lowering<'_, '_> {
    fn token(&mut self, index: usize, patterns: &[FusedAttention], norms: &mut Norms) -> bool {
        let figure = &self.model.figure;
        let node = &figure.nodes[index];
        match &node.op {
            Op::RmsNorm { x, weight: Some(weight), epsilon } => {
                if self.norm_add(index, None) {
                    return true;
                }
                let is_product = |reader: &usize| match &figure.nodes[*reader].op {
                    Op::Product { .. } => true,
                    Op::ExpertProduct { experts, .. } => *experts != node.out,
                    _ => false,
                };
                let whole = figure.vector(*weight).len() == figure.value(node.out).width();
                let lazy = whole && self.readers(node.out).iter().all(is_product);
                if lazy {
                    norms.insert(node.out, (*x, *weight, *epsilon));
                }
                lazy
            }
            Op::Product { x, weight } => {
                let pattern = patterns.iter().find(|pattern| pattern.projections.contains(&index));
                self.token_product(index, *x, weight, pattern, norms);
                true
            }
            Op::ExpertProduct { x, weight, experts } => {
                if self.token_sum(index) {
                    return true;
                }
                let n_used = figure.value(*experts).width();
                let share = n_used * figure.stack(weight.stack).n_in / figure.value(*x).width();
                let experts = Some((self.local(*experts), share));
                if !self.token_glu(index, *x, weight, experts, norms) {
                    let (x, norm) = self.input(*x, norms);
                    let out = self.place(node.out, Form::F32);
                    let weight = weight.clone();
                    self.launch(
                        Launch::Gemv {
                            x,
                            norm,
                            weight,
                            bias: None,
                            swiglu: false,
                            residual: None,
                            experts,
                            out,
                            wide: false,
                        },
                        &[node.out],
                    );
                }
                true
            }
            Op::Combine { x, weights } => {
                let Some((add, residual)) = self.added_to(node.out) else { return false };
                let n_used = figure.value(*weights).width();
                let (x, weights, residual) = (self.local(*x), self.local(*weights), Some(residual));
                let sum = figure.nodes[add].out;
                let out = self.place(sum, Form::F32);
                self.done[add] = true;
                self.launch(Launch::Combine { x, weights, residual, n_used, out }, &[sum]);
                true
            }
            Op::Attention { .. } => {
                let Some(pattern) = patterns.iter().find(|pattern| pattern.node == index) else { return false };
                let qkv = self.locals.root(self.local(pattern.projected[0]));
                let out = self.between_products(node.out);
                let launch = Launch::AttentionToken { qkv, parts: pattern.parts, heads: pattern.heads, out };
                self.launch(launch, &[node.out]);
                true
            }
            _ => false,
        }
    }

    /// A product of a vector for each of a token's experts, added up: the sum's node, where one kernel does both.
    fn sum_of(&self, product: usize) -> Option<usize> {
        let figure = &self.model.figure;
        let node = &figure.nodes[product];
        let Op::ExpertProduct { x, weight, experts } = &node.op else { return None };
        let combine = self.only_reader(node.out)?;
        let (stack, n_used) = (figure.stack(weight.stack), figure.value(*experts).width());
        let sums =
            matches!(figure.nodes[combine].op, Op::Combine { .. }) && figure.value(*x).width() == n_used * stack.n_in;
        let types = self.model.types(stack);
        let &[(tensor_type, _)] = &types[..] else { return None };
        let eight_bits = self.options.activations == Activations::Q8 || !tensor_type.is_quantised();
        (sums && eight_bits && Gpu::has_gemv_sum(tensor_type, stack.n_in, n_used)).then_some(combine)
    }

    /// The same as one launch, where its vectors are in the form that it takes.
    fn token_sum(&mut self, index: usize) -> bool {
        let figure = &self.model.figure;
        let Some(combine) = self.sum_of(index) else { return false };
        let (Op::ExpertProduct { x, weight, experts }, Op::Combine { weights, .. }) =
            (&figure.nodes[index].op, &figure.nodes[combine].op)
        else {
            unreachable!("as found")
        };
        // A vector that has still to be normalised is nowhere.
        let Some(x) = self.of_value[x.0] else { return false };
        let form = if self.model.is_quantised(figure.stack(weight.stack)) { Form::Quantised } else { Form::F32 };
        if self.locals.get(x).form != form {
            return false;
        }
        let (weight, experts, weights) = (weight.clone(), self.local(*experts), self.local(*weights));
        let mut value = figure.nodes[combine].out;
        self.done[combine] = true;
        let mut residual = None;
        if let Some((add, local)) = self.added_to(value) {
            (residual, value) = (Some(local), figure.nodes[add].out);
            self.done[add] = true;
        }
        let out = self.place(value, Form::F32);
        self.launch(Launch::GemvSum { x, weight, experts, weights, residual, out }, &[value]);
        true
    }

    /// What a product reads: the value, or what its norm is made of.
    fn input(&self, x: ValueId, norms: &Norms) -> (Local, Option<(VectorId, f32)>) {
        match norms.get(&x) {
            Some(&(of, weight, epsilon)) => (self.local(of), Some((weight, epsilon))),
            None => (self.local(x), None),
        }
    }

    fn token_product(
        &mut self,
        index: usize,
        x: ValueId,
        weight: &Matrix,
        pattern: Option<&FusedAttention>,
        norms: &Norms,
    ) {
        let figure = &self.model.figure;
        if self.token_glu(index, x, weight, None, norms) {
            return;
        }
        let together = self.of_one_stack(x, weight);
        let (input, norm) = self.input(x, norms);
        if together.len() > 1 {
            // All of a stack in one launch: the values lie one behind the other.
            let out = self.room(figure.stack(weight.stack).n_out, Form::F32);
            let bias = pattern.and_then(|pattern| pattern.bias);
            let mut made = Vec::new();
            for &product in &together {
                let Op::Product { weight, .. } = &figure.nodes[product].op else { unreachable!("as found") };
                let value = figure.nodes[product].out;
                let value = match self.only_reader(value).map(|reader| &figure.nodes[reader]) {
                    Some(reader) if bias.is_some() && matches!(reader.op, Op::Bias { .. }) => reader.out,
                    _ => value,
                };
                self.place_in(value, out, weight.rows.start);
                self.done[product] = true;
                made.push(value);
            }
            if let Some(pattern) = pattern {
                for node in pattern.projections.iter().chain(&pattern.between) {
                    self.done[*node] = true;
                }
            }
            self.launch(Launch::GemvStack { x: input, norm, stack: weight.stack, bias, out }, &made);
            if let Some(pattern) = pattern {
                self.norm_qk(pattern, out, None);
            }
            return;
        }
        // The product with what follows it: its bias, and the residual stream.
        let mut value = figure.nodes[index].out;
        let mut bias: Option<Span> = None;
        if let Some(reader) = self.only_reader(value)
            && let Op::Bias { bias: of, .. } = &figure.nodes[reader].op
        {
            (bias, value) = (Some(of.clone()), figure.nodes[reader].out);
            self.done[reader] = true;
        }
        if let Some(route) = self.only_reader(value)
            && let Op::Route { bias: of_choice, scales, routing, weights, .. } = &figure.nodes[route].op
            && self.is_f32(weight)
        {
            let chosen = figure.nodes[route].out;
            let choice = Choice {
                logits: self.place(value, Form::F32),
                bias: *of_choice,
                scales: *scales,
                routing: *routing,
                experts: self.place(chosen, Form::U32),
                weights: self.place(*weights, Form::F32),
            };
            self.done[route] = true;
            let launch = Launch::Router { x: input, norm, weight: weight.clone(), bias, choice };
            return self.launch(launch, &[value, chosen, *weights]);
        }
        let mut residual = None;
        if let Some((add, local)) = self.added_to(value) {
            (residual, value) = (Some(local), figure.nodes[add].out);
            self.done[add] = true;
        }
        let out = self.place(value, Form::F32);
        let (weight, wide) = (weight.clone(), self.in_head);
        let launch = Launch::Gemv { x: input, norm, weight, bias, swiglu: false, residual, experts: None, out, wide };
        self.launch(launch, &[value]);
    }

    fn is_f32(&self, weight: &Matrix) -> bool {
        self.model.types(self.model.figure.stack(weight.stack)).iter().all(|(of, _)| *of == TensorType::F32)
    }

    /// The products that read the same value, of the same stack, which they take whole.
    fn of_one_stack(&self, x: ValueId, weight: &Matrix) -> Vec<usize> {
        let figure = &self.model.figure;
        let same = |index: &&usize| match &figure.nodes[**index].op {
            Op::Product { weight: other, .. } => other.stack == weight.stack,
            _ => false,
        };
        let together: Vec<usize> = self.readers(x).iter().filter(same).copied().collect();
        let rows: usize = together.iter().map(|index| figure.value(figure.nodes[*index].out).width()).sum();
        // A bias of its own is for a launch of its own, unless it is the pattern's.
        let whole = rows == figure.stack(weight.stack).n_out && figure.stack(weight.stack).n_matrices == 1;
        if whole { together } else { Vec::new() }
    }

    /// Gate and up projection of one type, and SwiGLU of them, where that is what this product begins.
    fn token_glu(
        &mut self,
        index: usize,
        x: ValueId,
        weight: &Matrix,
        experts: Option<(Local, usize)>,
        norms: &Norms,
    ) -> bool {
        let figure = &self.model.figure;
        let Some((glu, products)) = self.glu_of(index, weight) else { return false };
        let Op::Glu { glu: kind, .. } = figure.nodes[glu].op else { return false };
        let types = self.model.types(figure.stack(weight.stack));
        if kind != Glu::Swiglu || types[0].0 != types[1].0 {
            return false;
        }
        let value = figure.nodes[glu].out;
        let (input, norm) = self.input(x, norms);
        let out = self.between_products(value);
        let weight = Matrix { stack: weight.stack, rows: 0..figure.stack(weight.stack).n_out };
        let launch = Launch::Gemv {
            x: input,
            norm,
            weight,
            bias: None,
            swiglu: true,
            residual: None,
            experts,
            out,
            wide: false,
        };
        self.launch(launch, &[value]);
        for node in products.into_iter().chain([glu]) {
            self.done[node] = true;
        }
        true
    }

    /// A place for what one product alone reads: 8-bit integers where it wants them.
    fn between_products(&mut self, value: ValueId) -> Local {
        let figure = &self.model.figure;
        let wants = |reader: usize| match &figure.nodes[reader].op {
            Op::Product { weight, .. } => {
                let quantised = self.model.is_quantised(figure.stack(weight.stack));
                quantised && self.options.activations == Activations::Q8 && figure.stack(weight.stack).pieces.len() == 1
            }
            Op::ExpertProduct { weight, .. } => {
                self.model.is_quantised(figure.stack(weight.stack)) && self.sum_of(reader).is_some()
            }
            _ => false,
        };
        let form = if self.only_reader(value).is_some_and(wants) { Form::Quantised } else { Form::F32 };
        self.place(value, form)
    }
}

impl Lowering<'_, '_> {
    /// The GLU that joins this product with its neighbour of the same stack, which is the two of them, gate first; and both products.
    pub(super) fn glu_of(&self, index: usize, weight: &Matrix) -> Option<(usize, [usize; 2])> {
        let figure = &self.model.figure;
        let glu = self.only_reader(figure.nodes[index].out)?;
        let Op::Glu { gate, up, .. } = figure.nodes[glu].op else { return None };
        let matrix_of = |value: ValueId| {
            self.only_reader(value)?;
            let maker = self.maker_index(value)?;
            match &figure.nodes[maker].op {
                Op::Product { x, weight } | Op::ExpertProduct { x, weight, .. } => Some((maker, *x, weight)),
                _ => None,
            }
        };
        let ((gate, x, gate_weight), (up, other_x, up_weight)) = (matrix_of(gate)?, matrix_of(up)?);
        let n_out = figure.stack(weight.stack).n_out;
        let halves = gate_weight.stack == up_weight.stack
            && gate_weight.rows == (0..n_out / 2)
            && up_weight.rows == (n_out / 2..n_out)
            && x == other_x;
        halves.then_some((glu, [gate, up]))
    }

    /// The sum of this value, which nothing else reads, and one that is there already: the node, and where that one is.
    pub(super) fn added_to(&self, value: ValueId) -> Option<(usize, Local)> {
        let add = self.only_reader(value)?;
        let Op::Add { a, b } = self.model.figure.nodes[add].op else { return None };
        let other = if a == value { b } else { a };
        let local = self.of_value[other.0]?;
        (other != value && self.locals.get(local).form == Form::F32).then_some((add, local))
    }
}
