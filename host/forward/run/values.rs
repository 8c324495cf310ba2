//! Where a pass's values are: a local's rows in the scratch, or in the logits.

use half::f16;

use super::Part;
use crate::{
    forward::lower::{Form, Local, Place, RowsOf},
    gpu::{SubSlice, kernels::Order},
};

impl Part<'_, '_> {
    /// Rows of this part.
    pub(super) fn n(&self) -> usize {
        if self.in_head { self.wanted.len() } else { self.n_tokens }
    }

    /// The rows of a local, as elements of its form.
    pub(super) fn bytes(&self, local: Local) -> SubSlice<'_, u8> {
        let room = self.pass.locals.get(local);
        let element = if room.form == Form::F16 {
            2
        } else if room.form == Form::Bytes {
            1
        } else {
            4
        };
        let width = element * room.width;
        let (whole, start) = match room.place {
            Place::Own => (self.scratch.buffer(self.layout, local), 0),
            Place::In(of, _) => {
                let (root, offset) = (self.pass.locals.root(of), self.offset(local));
                debug_assert!(offset == 0 || self.n_tokens == 1, "a part of a row, of {} tokens", self.n_tokens);
                match self.pass.locals.get(root).place {
                    Place::Logits => (self.logits.cast(), element * offset),
                    _ => (self.scratch.buffer(self.layout, root), element * offset),
                }
            }
            Place::Logits => (self.logits.cast(), 0),
        };
        if room.form == Form::Quantised {
            return whole;
        }
        // The head reads of the layers' values those of its tokens: of the residual stream alone, where they are gathered.
        debug_assert!(
            !self.in_head || self.gathered.is_empty() || room.rows == RowsOf::Logits || self.is_residual(local),
            "a value of the layers that was not gathered for the head"
        );
        let first = if self.in_head && room.rows == RowsOf::Tokens { self.wanted.start } else { 0 };
        let start = start + first * width;
        whole.into_slice(start..start + self.n() * width)
    }

    fn is_residual(&self, local: Local) -> bool {
        self.pass.locals.root(local) == self.pass.locals.root(self.pass.residual)
    }

    /// Elements from the root's first to the local's.
    pub(super) fn offset(&self, local: Local) -> usize {
        match self.pass.locals.get(local).place {
            Place::In(of, start) => start + self.offset(of),
            Place::Own | Place::Logits => 0,
        }
    }

    pub(super) fn f32(&self, local: Local) -> SubSlice<'_, f32> {
        self.bytes(local).into_cast()
    }

    pub(super) fn u32(&self, local: Local) -> SubSlice<'_, u32> {
        self.bytes(local).into_cast()
    }

    pub(super) fn f16(&self, local: Local) -> SubSlice<'_, f16> {
        self.bytes(local).into_cast()
    }

    /// How an f16 local lies: in steps where this launch's products take it so.
    pub(super) fn order(&self, local: Local) -> Order {
        let is_so = self.pass.in_steps[local.0] && self.multiplies_packed();
        if is_so && self.gpu.takes_steps(self.width(local)) { Order::Steps } else { Order::Rows }
    }

    pub(super) fn width(&self, local: Local) -> usize {
        self.pass.locals.get(local).width
    }
}
