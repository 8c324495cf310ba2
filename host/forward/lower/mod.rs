//! From a figure to launches: a [`Pass`] for one token, one for many, and the exact one that takes an operation at a time.
//!
//! A lowering walks the figure's nodes in order. Where a pattern matches ([`token`], [`many`]) several become one launch; what no pattern
//! matches becomes a launch of its own ([`exact`]), so every figure runs in every pass. None of them knows what a model looks like: they
//! know which neighbouring operations a kernel does together.

mod attention;
mod exact;
mod launch;
mod many;
mod order;
#[cfg(test)]
mod tests;
mod token;

use crate::{
    gpu::{Activations, kernels::CacheType},
    model::{
        Model,
        figure::{Op, ValueId},
    },
};

pub use launch::{AttentionHeads, Bound, Choice, Launch, QkvParts, ScaleId};
pub use many::{has_flash, query_type};

/// What a lowering depends on beside the model.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What quantised weights are multiplied with where a token is alone.
    pub activations: Activations,
    /// The cache's type: not every kernel is there for every type.
    pub cache_type: CacheType,
}

/// A value in the memory of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Local(pub usize);

/// What a local's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `f32`.
    F32,
    /// `u32`: the experts' numbers.
    U32,
    /// `f16`, times a scale.
    F16,
    /// 8-bit integers with their scales, as one product leaves them for the next.
    Quantised,
    /// Bytes of whatever the launch says.
    Bytes,
}

/// Which tokens have a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowsOf {
    /// All.
    Tokens,
    /// Those whose logits are wanted.
    Logits,
}

/// Where a local lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a buffer of its own while it lives.
    Own,
    /// In another's, from that element of its row on; with an offset only for one token.
    In(Local, usize),
    /// In the logits, which outlive the pass.
    Logits,
}

/// What a local is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Elements of a token.
    pub width: usize,
    /// What they are.
    pub form: Form,
    /// Which tokens have a row.
    pub rows: RowsOf,
    /// Where it lies.
    pub place: Place,
}

/// The locals of a pass.
#[derive(Clone, Debug, Default)]
pub struct Locals(Vec<Room>);

impl Locals {
    fn add(&mut self, room: Room) -> Local {
        self.0.push(room);
        Local(self.0.len() - 1)
    }

    /// What a local is.
    pub fn get(&self, local: Local) -> Room {
        self.0[local.0]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The local that this one lies in, if it is not itself.
    pub fn root(&self, local: Local) -> Local {
        match self.get(local).place {
            Place::In(of, _) => self.root(of),
            Place::Own | Place::Logits => local,
        }
    }

    /// Those that need a buffer.
    pub fn owned(&self) -> impl Iterator<Item = Local> {
        (0..self.0.len()).map(Local).filter(|local| self.get(*local).place == Place::Own)
    }
}

/// A launch and the figure's values that it leaves in memory.
#[derive(Clone, Debug)]
pub struct Step {
    /// What is launched.
    pub launch: Launch,
    /// What it makes that has a name.
    pub makes: Vec<Made>,
}

/// A value of the figure in a pass's memory.
#[derive(Clone, Copy, Debug)]
pub struct Made {
    /// The value.
    pub value: ValueId,
    /// Where it is.
    pub local: Local,
    /// What it was multiplied by, where it is f16.
    pub scale: Option<ScaleId>,
    /// What each row there has still to be multiplied by, where rows have such factors.
    pub factors: Option<Local>,
    /// The first of its columns in the local.
    pub start: usize,
}

impl Made {
    /// A value that is all of a local, as it is.
    pub fn new(value: ValueId, local: Local) -> Made {
        Made { value, local, scale: None, factors: None, start: 0 }
    }
}

/// The launches that carry a figure out.
#[derive(Clone, Debug)]
pub struct Pass {
    /// In order.
    pub steps: Vec<Step>,
    /// Where the head begins.
    pub head: usize,
    /// Where the residual stream is when the head begins.
    pub residual: Local,
    /// The norm that the head begins with, alone and in the stream's place: what a pass for hidden states ends with.
    pub last_norm: Launch,
    /// What they work in.
    pub locals: Locals,
    /// Powers of two that values are multiplied by before they are rounded to f16.
    pub scales: Vec<Bound>,
    /// Which step carries out each of the figure's nodes.
    pub step_of_node: Vec<usize>,
    /// Whether it takes tokens of different sequences together: states are a sequence's, and a value that lies behind another in its row has
    /// its rows apart, which most launches do not know.
    pub takes_rows: bool,
    /// Which locals can lie in the order of the products that read them; none but in a pass for many sequences.
    pub in_steps: Vec<bool>,
}

impl Pass {
    /// Every operation by itself.
    pub fn exact(model: &Model, options: Options) -> Pass {
        Lowering::new(model, options).walk(|_, _| false)
    }

    /// For one token.
    pub fn token(model: &Model, options: Options) -> Pass {
        token::lower(model, options)
    }

    /// For many tokens, on tensor cores. There is none for weights of F32, which would lose precision, nor for rows that are no whole
    /// 16-byte vectors of f16.
    pub fn many(model: &Model, options: Options) -> Option<Pass> {
        many::lower(model, options, false)
    }

    /// The first step of a node: before the one that makes its value there may be some that make nothing with a name.
    pub fn begin_of_node(&self, node: usize) -> usize {
        let step = self.step_of_node[node];
        let is_nameless = |before: &usize| !self.step_of_node.contains(before);
        (0..step).rev().take_while(is_nameless).last().unwrap_or(step)
    }

    /// For a token of each of many sequences, on tensor cores: as for many tokens, but for attention, which is each row's own. There is
    /// none where there is none for many tokens, or where rows cannot be taken together.
    pub fn rows(model: &Model, options: Options) -> Option<Pass> {
        let pass = many::lower(model, options, true).filter(|pass| pass.takes_rows)?;
        Some(Pass { in_steps: order::in_steps(model, &pass), ..pass })
    }
}

/// No launch takes a node along that is further on than this.
const FURTHEST: usize = 64;

/// A pass that is being made.
struct Lowering<'m, 'a> {
    model: &'m Model<'a>,
    options: Options,
    steps: Vec<Step>,
    locals: Locals,
    scales: Vec<Bound>,
    /// Where each value of the figure lies.
    of_value: Vec<Option<Local>>,
    /// The nodes that read each value, and the one that makes it.
    readers: Vec<Vec<usize>>,
    makers: Vec<Option<usize>>,
    /// Nodes that a launch before them has done, or one after them will do.
    done: Vec<bool>,
    head: usize,
    in_head: bool,
}

impl<'m, 'a> Lowering<'m, 'a> {
    fn new(model: &'m Model<'a>, options: Options) -> Lowering<'m, 'a> {
        let figure = &model.figure;
        let (mut readers, mut makers) = (vec![Vec::new(); figure.values.len()], vec![None; figure.values.len()]);
        for (index, node) in figure.nodes.iter().enumerate() {
            for input in node.op.inputs() {
                readers[input.0].push(index);
            }
            for made in [Some(node.out), node.op.second_output()].into_iter().flatten() {
                makers[made.0] = Some(index);
            }
        }
        Lowering {
            model,
            options,
            steps: Vec::new(),
            locals: Locals::default(),
            scales: Vec::new(),
            of_value: vec![None; figure.values.len()],
            readers,
            makers,
            done: vec![false; figure.nodes.len()],
            head: 0,
            in_head: false,
        }
    }

    /// Walks the figure; `fused` makes a launch of a node and those it takes along, or says that it cannot.
    fn walk(mut self, mut fused: impl FnMut(&mut Self, usize) -> bool) -> Pass {
        let n_nodes = self.model.figure.nodes.len();
        let mut step_of_node = vec![None; n_nodes];
        let mut stream = None;
        for index in 0..n_nodes {
            if index == self.model.figure.head {
                (self.head, self.in_head) = (self.steps.len(), true);
                stream = Some(self.local(self.model.figure.residual));
            }
            if self.done[index] {
                continue;
            }
            let before = self.steps.len();
            if !fused(&mut self, index) {
                self.node(index);
            }
            self.done[index] = true;
            // A node without a launch is part of the next one's.
            let step = if self.steps.len() > before { self.steps.len() - 1 } else { before };
            for node in (index..n_nodes).take(FURTHEST).filter(|node| self.done[*node]) {
                // Of several launches, the one that leaves its value.
                let out = self.model.figure.nodes[node].out;
                let makes = |step: &usize| self.steps[*step].makes.iter().any(|made| made.value == out);
                let maker = (before..self.steps.len()).find(makes);
                step_of_node[node].get_or_insert(maker.unwrap_or(step));
            }
        }
        let is_apart = |local: &Local| matches!(self.locals.get(*local).place, Place::In(_, start) if start > 0);
        let takes_rows = self.model.figure.states.is_empty()
            && self.steps.iter().all(|step| match &step.launch {
                Launch::GemvStack { .. } | Launch::AttentionToken { .. } | Launch::AttentionRows { .. } => true,
                launch => !launch.locals().iter().any(is_apart),
            });
        let last = self.steps.len() - 1;
        let step_of_node = step_of_node.into_iter().map(|step| step.map_or(last, |step: usize| step.min(last)));
        let step_of_node = step_of_node.collect();
        let residual = stream.expect("a figure has a head");
        let last_norm = match self.model.figure.nodes[self.model.figure.head].op {
            Op::RmsNorm { weight, epsilon, .. } => {
                let row = self.locals.get(residual).width;
                Launch::RmsNorm { x: residual, out: residual, weight, row, epsilon }
            }
            Op::LayerNorm { weight, epsilon, .. } => Launch::LayerNorm { x: residual, out: residual, weight, epsilon },
            ref other => unreachable!("a head begins with a norm, not {other:?}"),
        };
        let (steps, head, locals, scales) = (self.steps, self.head, self.locals, self.scales);
        let in_steps = vec![false; locals.len()];
        Pass { steps, head, residual, last_norm, locals, scales, step_of_node, takes_rows, in_steps }
    }

    /// A local of its own.
    fn room(&mut self, width: usize, form: Form) -> Local {
        let rows = if self.in_head { RowsOf::Logits } else { RowsOf::Tokens };
        self.locals.add(Room { width, form, rows, place: Place::Own })
    }

    /// A place for a value, of f32 or, for the experts' numbers, of u32.
    fn place(&mut self, value: ValueId, form: Form) -> Local {
        let width = self.model.figure.value(value).width();
        let local = self.room(width, form);
        if value == self.model.figure.logits {
            self.locals.0[local.0].place = Place::Logits;
        }
        self.of_value[value.0] = Some(local);
        local
    }

    /// The value lies in another local, from an element on.
    fn place_in(&mut self, value: ValueId, of: Local, start: usize) -> Local {
        let Room { form, rows, .. } = self.locals.get(of);
        let width = self.model.figure.value(value).width();
        let local = self.locals.add(Room { width, form, rows, place: Place::In(of, start) });
        self.of_value[value.0] = Some(local);
        local
    }

    /// Where a value lies.
    fn local(&self, value: ValueId) -> Local {
        self.of_value[value.0].expect("a value is made before it is read")
    }

    fn launch(&mut self, launch: Launch, makes: &[ValueId]) {
        let makes = makes.iter().map(|value| Made::new(*value, self.local(*value)));
        self.steps.push(Step { launch, makes: makes.collect() });
    }

    /// The nodes that read a value, by their indices.
    fn readers(&self, value: ValueId) -> &[usize] {
        &self.readers[value.0]
    }

    /// The node that makes a value.
    fn maker_index(&self, value: ValueId) -> Option<usize> {
        self.makers[value.0]
    }

    /// The only node that reads a value, where there is only one.
    fn only_reader(&self, value: ValueId) -> Option<usize> {
        match self.readers(value) {
            [only] if value != self.model.figure.residual => Some(*only),
            _ => None,
        }
    }

    /// A norm of whole rows that is only added to a value that is there: the two as one launch, of a row that has still to be multiplied by
    /// `factors`.
    fn norm_add(&mut self, index: usize, factors: Option<Local>) -> bool {
        let node = &self.model.figure.nodes[index];
        let (Op::RmsNorm { x, weight: Some(weight), epsilon }, Some((add, residual))) =
            (&node.op, self.added_norm(index))
        else {
            return false;
        };
        let (x, weight, epsilon) = (self.local(*x), *weight, *epsilon);
        let sum = self.model.figure.nodes[add].out;
        let out = self.place(sum, Form::F32);
        self.done[add] = true;
        self.launch(Launch::NormAdd { x, factors, weight, epsilon, residual, out }, &[sum]);
        true
    }

    /// What such a norm is added to: the sum's node, and where the other value is.
    fn added_norm(&self, index: usize) -> Option<(usize, Local)> {
        let figure = &self.model.figure;
        let node = &figure.nodes[index];
        let Op::RmsNorm { weight: Some(weight), .. } = node.op else { return None };
        let width = figure.value(node.out).width();
        let whole = figure.vector(weight).len() == width && width.is_multiple_of(4);
        self.added_to(node.out).filter(|_| whole && !self.in_head)
    }

    /// A scale by what bounds the values.
    fn scale(&mut self, bound: Bound) -> ScaleId {
        self.scales.push(bound);
        ScaleId(self.scales.len() - 1)
    }
}
