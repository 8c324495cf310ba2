//! Each operation as a launch of its own: what runs where no pattern matches, and the pass whose every value can be recorded.

use super::{AttentionHeads, Choice, Form, Launch, Lowering, Made};
use crate::model::figure::Op;

impl Lowering<'_, '_> {
    /// Nothing is launched, but what the last launch left has one more name.
    fn also_makes(&mut self, made: Made) {
        self.steps.last_mut().expect("something was launched before it").makes.push(made);
    }

    /// The launch of one node.
    pub(super) fn node(&mut self, index: usize) {
        let figure = &self.model.figure;
        let node = &figure.nodes[index];
        let out = node.out;
        let at = |value| self.local(value);
        let launch = match node.op.clone() {
            Op::Reshape { x } => {
                let x = at(x);
                let local = self.place_in(out, x, 0);
                return self.also_makes(Made::new(out, local));
            }
            Op::Part { x, first } => {
                return self.also_makes(Made { start: first, ..Made::new(out, at(x)) });
            }
            Op::Rope { x, rope } => {
                let (shape, x) = (&figure.value(x).shape, at(x));
                self.place_in(out, x, 0);
                Launch::Rope { x, rope, n_heads: shape[0], head_dim: shape[1] }
            }
            Op::Embed { table } => Launch::Embed { table: table.stack, out: self.place(out, Form::F32) },
            Op::Scale { x, factor } => Launch::Scale { x: at(x), factor, out: self.place(out, Form::F32) },
            Op::RmsNorm { x, weight, epsilon } => {
                let row = weight.map_or(figure.value(x).row(), |weight| figure.vector(weight).len());
                Launch::RmsNorm { x: at(x), weight, row, epsilon, out: self.place(out, Form::F32) }
            }
            Op::LayerNorm { x, weight, epsilon } => {
                Launch::LayerNorm { x: at(x), weight, epsilon, out: self.place(out, Form::F32) }
            }
            Op::Temper { x, temperature } => Launch::Temper { x: at(x), temperature, out: self.place(out, Form::F32) },
            Op::Columns { x, first } => {
                let (row, width) = (figure.value(x).row(), figure.value(out).row());
                Launch::Columns { x: at(x), row, width, first, out: self.place(out, Form::F32) }
            }
            Op::Join { a, b } => {
                let widths = [a, b].map(|value| figure.value(value).row());
                Launch::Join { a: at(a), b: at(b), widths, out: self.place(out, Form::F32) }
            }
            Op::Every { .. } => Launch::Every { experts: self.place(out, Form::U32) },
            Op::Product { x, weight } => Launch::Matmul { x: at(x), weight, out: self.place(out, Form::F32) },
            Op::Bias { x, bias } => {
                let (x, bias, out) = (at(x), Some(bias), self.place(out, Form::F32));
                Launch::Sum { x, factors: None, bias, residual: None, out }
            }
            Op::Add { a, b } => {
                let (x, residual, out) = (at(a), Some(at(b)), self.place(out, Form::F32));
                Launch::Sum { x, factors: None, bias: None, residual, out }
            }
            Op::Attention { q, k, v, cache, rope, scale, sinks, soft_cap, probabilities } => {
                let heads = AttentionHeads { n_heads: figure.value(q).shape[0], cache, rope, scale };
                let (q, k, v) = (at(q), k.map(at), v.map(at));
                let out = self.place(out, Form::F32);
                Launch::Attention { q, k, v, heads, sinks, soft_cap, probabilities, out }
            }
            Op::Gate { x, gate } => Launch::Gate { x: at(x), gate: at(gate), out: self.place(out, Form::F32) },
            Op::Glu { gate, up, glu } => {
                Launch::Glu { gate: at(gate), up: at(up), glu, out: self.place(out, Form::F32) }
            }
            Op::SoftCap { x, cap } => Launch::SoftCap { x: at(x), cap, out: self.place(out, Form::F32) },
            Op::Route { logits, bias, scales, routing, weights } => {
                let logits = at(logits);
                let (experts, shares) = (self.place(out, Form::U32), self.place(weights, Form::F32));
                let choice = Choice { logits, bias, scales, routing, experts, weights: shares };
                return self.launch(Launch::Route(choice), &[out, weights]);
            }
            Op::ExpertProduct { x, weight, experts } => {
                let share = figure.value(experts).width() * figure.stack(weight.stack).n_in / figure.value(x).width();
                let (x, experts) = (at(x), Some((at(experts), share)));
                let out = self.place(out, Form::F32);
                Launch::Gemv {
                    x,
                    norm: None,
                    weight,
                    bias: None,
                    swiglu: false,
                    residual: None,
                    experts,
                    out,
                    wide: false,
                }
            }
            Op::ExpertBias { x, bias, experts } => {
                let (n, x, experts) = (figure.value(x).row(), at(x), at(experts));
                self.place_in(out, x, 0);
                Launch::ExpertBias { x, bias, experts, n }
            }
            Op::Combine { x, weights } => {
                let n_used = figure.value(weights).width();
                let (x, weights) = (at(x), at(weights));
                Launch::Combine { x, weights, residual: None, n_used, out: self.place(out, Form::F32) }
            }
            Op::Convolve { x, weight, kernel, state } => {
                Launch::Convolve { x: at(x), weight, kernel, state, out: self.place(out, Form::F32) }
            }
            Op::UnitHeads { x, n_key_heads, head_dim, epsilon } => {
                let x = at(x);
                self.place_in(out, x, 0);
                Launch::UnitHeads { x, n_key_heads, head_dim, epsilon }
            }
            Op::DeltaGates { beta, alpha, bias, a, strength } => {
                let [beta, alpha] = [at(beta), at(alpha)];
                self.place_in(out, alpha, 0);
                self.place_in(strength, beta, 0);
                return self.launch(Launch::DeltaGates { beta, alpha, bias, a }, &[out, strength]);
            }
            Op::DeltaRule { qkv, n_key_heads, strength, keep, state, grouped } => {
                let [qkv, strength, keep] = [qkv, strength, keep].map(at);
                let (head_dim, out) = (figure.value(out).row(), self.place(out, Form::F32));
                Launch::DeltaRule { qkv, n_key_heads, head_dim, strength, keep, state, grouped, out }
            }
            Op::GatedNorm { x, gate, weight, epsilon } => {
                Launch::GatedNorm { x: at(x), gate: at(gate), weight, epsilon, out: self.place(out, Form::F32) }
            }
        };
        self.launch(launch, &[out]);
    }
}
