//! The one list of what a model takes of the device: the plan adds it up, loading allocates it, and `-v` prints it.

use super::lower::{Form, Local, Locals, Pass, RowsOf};
use crate::gpu::{Buffer, Gpu, GpuError, SubSlice};

/// Allocations and what each is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses(Vec<(&'static str, usize)>);

impl Uses {
    /// One more allocation of that many bytes.
    pub fn add(&mut self, what: &'static str, bytes: usize) {
        self.0.push((what, bytes));
    }

    /// Each allocation's bytes.
    pub fn allocations(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|(_, bytes)| *bytes as u64)
    }

    /// Bytes of all allocations for one thing.
    pub fn of(&self, what: &str) -> u64 {
        self.0.iter().filter(|(of, _)| *of == what).map(|(_, bytes)| *bytes as u64).sum()
    }

    /// Bytes of all.
    pub fn total(&self) -> u64 {
        self.allocations().sum()
    }

    /// What allocations are for and their bytes together, in the order in which they first occur.
    pub fn table(&self) -> Vec<(&'static str, u64)> {
        let mut names: Vec<&'static str> = Vec::new();
        for (name, _) in &self.0 {
            if !names.contains(name) {
                names.push(name);
            }
        }
        names.into_iter().map(|name| (name, self.of(name))).collect()
    }
}

/// How many rows there may be of what a pass works in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostRows {
    /// Tokens together.
    pub tokens: usize,
    /// Tokens whose logits are wanted.
    pub logits: usize,
}

/// Which buffer each local of a pass has: those whose lives do not overlap share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Bytes of each buffer.
    buffers: Vec<usize>,
    /// The buffer of each local that has one of its own.
    of_local: Vec<Option<usize>>,
    /// Each buffer's place among them from the largest to the smallest.
    rank: Vec<usize>,
}

impl Layout {
    /// For a pass of at most so many rows.
    pub fn new(pass: &Pass, rows: MostRows) -> Layout {
        let lives = lives(pass);
        let mut layout = Layout { buffers: Vec::new(), of_local: vec![None; pass.locals.len()], rank: Vec::new() };
        let mut free: Vec<usize> = Vec::new();
        for step in 0..pass.steps.len() {
            let begins = |local: &Local| lives[local.0].is_some_and(|(first, _)| first == step);
            for local in pass.locals.owned().filter(begins) {
                let bytes = pass.locals.bytes(local, rows);
                let found = free.iter().position(|buffer| layout.buffers[*buffer] == bytes);
                let buffer = match found {
                    Some(index) => free.swap_remove(index),
                    None => {
                        layout.buffers.push(bytes);
                        layout.buffers.len() - 1
                    }
                };
                layout.of_local[local.0] = Some(buffer);
            }
            let ends = |local: &Local| lives[local.0].is_some_and(|(_, last)| last == step);
            free.extend(pass.locals.owned().filter(ends).filter_map(|local| layout.of_local[local.0]));
        }
        layout.rank = vec![0; layout.buffers.len()];
        for (rank, buffer) in layout.ranked().into_iter().enumerate() {
            layout.rank[buffer] = rank;
        }
        layout
    }
}

/// The first and the last step of each local, by whatever it is a view of.
fn lives(pass: &Pass) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; pass.locals.len()];
    for (index, step) in pass.steps.iter().enumerate() {
        for local in step.launch.locals() {
            let root = pass.locals.root(local);
            let (first, _) = lives[root.0].unwrap_or((index, index));
            lives[root.0] = Some((first, index));
        }
    }
    lives
}

/// The layouts of passes by whose buffers they work in. Passes that run one after another have the same; a prompt's may be interrupted by steps of
/// other sequences, and has its own where there are any.
pub fn scratches([one, several, rows]: [Option<&Layout>; 3], n_sequences: usize) -> impl Iterator<Item = Vec<&Layout>> {
    let layouts = match n_sequences {
        1 => [vec![one, several, rows], Vec::new()],
        _ => [vec![one, rows], vec![several]],
    };
    layouts.into_iter().map(|layouts| layouts.into_iter().flatten().collect()).filter(|of: &Vec<_>| !of.is_empty())
}

/// The buffers that some passes work in.
pub struct Scratch {
    buffers: Vec<Buffer<u8>>,
}

impl Scratch {
    /// Bytes of each buffer: the largest of every pass is one, the second largest another, and so on.
    pub fn sizes(layouts: &[&Layout]) -> Vec<usize> {
        let mut sizes = Vec::new();
        for layout in layouts {
            for (rank, buffer) in layout.ranked().into_iter().enumerate() {
                let bytes = layout.buffers[buffer];
                match sizes.get_mut(rank) {
                    None => sizes.push(bytes),
                    Some(size) => *size = bytes.max(*size),
                }
            }
        }
        sizes
    }

    /// Allocates them.
    pub fn new(gpu: &Gpu, layouts: &[&Layout]) -> Result<Scratch, GpuError> {
        let buffers = Scratch::sizes(layouts).into_iter().map(|bytes| gpu.alloc("activations", bytes));
        Ok(Scratch { buffers: buffers.collect::<Result<_, _>>()? })
    }

    /// The buffer of a pass's local, as long as it is there.
    pub fn buffer(&self, layout: &Layout, local: Local) -> SubSlice<'_, u8> {
        let buffer = layout.of_local[local.0].expect("a local that some step uses");
        let rank = layout.rank[buffer];
        self.buffers[rank].slice(0..layout.buffers[buffer])
    }
}

impl Layout {
    /// The buffers from the largest to the smallest.
    fn ranked(&self) -> Vec<usize> {
        let mut ranked: Vec<usize> = (0..self.buffers.len()).collect();
        ranked.sort_by_key(|buffer| std::cmp::Reverse(self.buffers[*buffer]));
        ranked
    }
}

impl Locals {
    /// Bytes of a local of a pass of at most so many rows.
    fn bytes(&self, local: Local, rows: MostRows) -> usize {
        let room = self.get(local);
        let rows = match room.rows {
            RowsOf::Tokens => rows.tokens,
            RowsOf::Logits => rows.logits,
        };
        match room.form {
            Form::F32 | Form::U32 => 4 * rows * room.width,
            Form::F16 => 2 * rows * room.width,
            Form::Quantised => 4 * rows * crate::gpu::kernels::quantised_len(room.width),
            Form::Bytes => rows * room.width,
        }
    }
}
