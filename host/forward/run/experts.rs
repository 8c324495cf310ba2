//! Launches of mixtures of experts: choosing them, their products together, and adding up.

use super::{
    super::lower::{Choice, Form, Local},
    ExpertScratch, Part,
};
use crate::{
    gpu::{
        GpuError, Slice,
        kernels::{ExpertGroups, Gemv, GemvSum, Input, RouterScore, Routing},
    },
    model::{
        self, Scores,
        figure::{Matrix, Span, VectorId},
    },
};

impl Part<'_, '_> {
    /// Chooses the experts of all tokens.
    pub(super) fn route(&self, choice: &Choice) -> Result<(), GpuError> {
        let Choice { logits, experts, weights, .. } = *choice;
        let (logits, experts, weights) = (self.f32(logits), self.u32(experts), self.f32(weights));
        self.gpu.experts_route(&self.routing(choice), &logits, &experts, &weights, self.n())
    }

    /// The logits too.
    pub(super) fn router(
        &self,
        x: Local,
        norm: Option<(VectorId, f32)>,
        weight: &Matrix,
        bias: &Option<Span>,
        choice: &Choice,
    ) -> Result<(), GpuError> {
        let (x, bias, logits) = (self.f32(x), self.span(bias), self.f32(choice.logits));
        let gemv = Gemv {
            norm: norm.map(|(norm, epsilon)| (&**self.weights.vector(norm), epsilon)),
            bias: bias.as_deref(),
            ..Gemv::new(self.weights.rows(weight), &x, &logits)
        };
        if self.n() > 1 {
            self.gpu.gemv_many(&gemv, self.n(), self.staging)?;
            return self.route(choice);
        }
        let (experts, weights) = (self.u32(choice.experts), self.f32(choice.weights));
        // Attention's, which are zero between its launches: no launch overlaps with one that is not its neighbour.
        let arrivals = self.attention.arrivals.slice(0..1);
        self.gpu.experts_router(&gemv, &self.routing(choice), &experts, &weights, &arrivals)
    }

    fn routing(&self, choice: &Choice) -> Routing<'_> {
        let Choice { bias, scales, routing, .. } = choice;
        let model::Experts { n_experts, n_used, normalise, scale, groups } = routing.experts;
        // Softmax over those chosen is softmax over all, divided by the sum of those chosen.
        let of_chosen = routing.scores == Scores::SoftmaxOfChosen;
        Routing {
            n_experts,
            n_used,
            score: if routing.scores == Scores::Sigmoid { RouterScore::Sigmoid } else { RouterScore::Softmax },
            selection_bias: bias.map(|bias| &**self.weights.vector(bias)),
            normalise: normalise || of_chosen,
            scale,
            expert_scales: scales.map(|scales| &**self.weights.vector(scales)),
            groups: groups.map(|model::Groups { n_groups, n_used }| ExpertGroups { n_groups, n_used }),
        }
    }

    /// What a token's experts made, weighted, and the residual stream.
    pub(super) fn experts_combine(
        &self,
        x: Local,
        weights: Local,
        residual: Option<Local>,
        out: Local,
        n_used: usize,
    ) -> Result<(), GpuError> {
        let residual = residual.map(|residual| self.f32(residual));
        let (x, weights, row, out) = (self.f32(x), self.f32(weights), self.width(out), self.f32(out));
        self.gpu.experts_combine(&x, &weights, residual.as_deref(), &out, self.n(), row, n_used)
    }

    /// The products of tokens with their experts, each token's weighted and added up with the residual stream.
    pub(super) fn experts_sum(
        &self,
        x: Local,
        weight: &Matrix,
        experts: Local,
        weights: Local,
        residual: Option<Local>,
        out: Local,
    ) -> Result<(), GpuError> {
        let n_used = self.width(experts);
        let (x_f32, x_q8);
        let x = if self.pass.locals.get(x).form == Form::Quantised {
            x_q8 = self.u32(x);
            Input::Quantised(&x_q8)
        } else {
            x_f32 = self.f32(x);
            Input::F32(&x_f32)
        };
        let residual = residual.map(|residual| self.f32(residual));
        let sum = GemvSum {
            stack: self.weights.rows(weight),
            x,
            experts: &self.u32(experts),
            weights: &self.f32(weights),
            residual: residual.as_deref(),
            out: &self.f32(out),
            n_used,
        };
        self.gpu.gemv_sum(&sum, self.n())
    }

    /// The products of tokens with their experts, sorted by these where the launch before has not done so.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn experts_together(
        &self,
        together: &ExpertScratch,
        weight: &Matrix,
        experts: Local,
        chosen: &Slice<u32>,
        share: usize,
        x: &Slice<f32>,
        out: &Slice<f32>,
    ) -> Result<(), GpuError> {
        let rows = self.weights.rows(weight);
        if self.sorted.replace(Some(experts)) != Some(experts) {
            together.sort(self.gpu, chosen, rows.n_matrices())?;
        }
        together.multiply(self.gpu, rows, x, share, out, chosen.len())
    }
}
