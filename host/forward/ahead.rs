//! A step ahead: where each sequence goes on with its largest logit's token, the step that takes these tokens is enqueued behind the one that they are
//! chosen by, before the host has read them. The device goes on while the host writes texts and decides what is next.
//!
//! ```text
//! device   step n │ choices → host │ step n + 1                │ choices → host │ …
//! host            ╰ waits ─────────╯ tasks, texts, accounts ── decode_rows: as begun
//! ```
//!
//! What is begun is a guess of the next call of [`Engine::decode_rows`], and nobody's before that call: no account of pages knows its tokens. Where all rows of
//! the call are among those that were begun, each sequence with the same token at the same position, they are what was asked for, and the other rows are
//! nobody's; else the step is made anew, on the same stream and so behind what was begun, and writes the same places over. A row that nobody asks for wrote
//! keys and values to a place behind its sequence's tokens, in a page that nobody else had then; who gets the page later writes it later.
//!
//! A row has the same bits in both: a step in which the rows that are left would take another way ([`Way`]) is made anew.
//!
//! The logits of the step that chose are gone when the next one has begun. Who asks for them all the same has that step made once more, which takes its time
//! and gives its bits.

use super::{
    Engine, EngineError,
    decode::{Choice, StepRows, Way},
};
use crate::{
    cache::{POSITIONS, SequenceId},
    gpu::{Buffer, Event, Gpu, GpuError, Pinned, kernels::NO_CHOICE},
};

/// The step behind the last one.
pub(super) struct Behind {
    /// The last step's rows and how they went, where the next one can be begun behind it: no rows where it cannot.
    last: Vec<(SequenceId, u32)>,
    way: Way,
    begun: Option<Begun>,
    /// Of the last step's rows, where their logits are; empty where each is in its place.
    places: Vec<usize>,
    on_device: Buffer<u32>, // [n_rows]: the same
    staged: Pinned<u32>,    // [n_rows]: the same, on its way
    /// The choices are on the host.
    is_read: Event,
}

/// A step that is on its way.
struct Begun {
    /// Whose rows, their tokens and positions; nobody's where the sequence has ended.
    rows: Vec<(Option<SequenceId>, u32, usize)>,
    /// Rows on the device.
    n_all: usize,
    way: Way,
    /// What it chooses.
    choice: Choice,
}

impl Behind {
    pub fn new(gpu: &Gpu, n_rows: usize) -> Result<Behind, GpuError> {
        Ok(Behind {
            last: Vec::new(),
            way: Way::OneByOne,
            begun: None,
            places: Vec::new(),
            on_device: gpu.alloc("rows", n_rows)?,
            staged: gpu.alloc_pinned("rows", n_rows)?,
            is_read: gpu.event()?,
        })
    }

    /// Where the logits of one of the last step's rows are.
    pub fn place(&self, row: usize) -> usize {
        self.places.get(row).copied().unwrap_or(row)
    }

    /// Whether all of them are where their rows are.
    pub fn are_in_place(&self) -> bool {
        self.places.is_empty()
    }

    /// Something else than a step comes next, or its sequences are others. What the last step left is still where it was.
    pub fn forget(&mut self) {
        self.last.clear();
        self.begun = None;
    }

    /// There are other logits, each row's in its place.
    pub fn left(&mut self) {
        self.forget();
        self.places.clear();
    }

    /// A sequence has ended: what begins in its slot is another.
    pub fn close(&mut self, id: SequenceId) {
        self.last.clear();
        for (of, ..) in self.begun.iter_mut().flat_map(|begun| &mut begun.rows) {
            of.take_if(|of| *of == id);
        }
    }

    /// A step was made.
    pub fn stepped(&mut self, step: &StepRows, way: Way) {
        self.last.clear();
        if matches!(way, Way::Lanes | Way::TensorCores { .. }) && !step.shares_sequences() {
            self.last.extend(step.rows);
        }
        self.way = way;
    }
}

impl Engine {
    /// Begins the step that goes on with the last one's choices, and reads these into `best` once they are there; false, and nothing was read, where it cannot
    /// be begun.
    pub(super) fn begin_behind(&mut self, n_tokens: usize, best: &mut [u32]) -> Result<bool, EngineError> {
        let n = self.decode.behind.last.len();
        if !self.steps_ahead || n == 0 || n != best.len() || self.n_rows() > Gpu::MOST_NEXT_ROWS {
            return Ok(false);
        }
        let rows = self.decode.behind.last.clone();
        let (n_taken, _) = self.pages();
        for (id, _) in &rows {
            if self.n_tokens(*id) == self.n_context() {
                return Ok(false);
            }
            match self.reserve(*id, 1) {
                Ok(()) => {}
                Err(EngineError::Pages(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        // A page that a window has just passed may be another's now. What is begun then writes to it, and the last step could not be made once more.
        if self.pages().0 != n_taken && rows.iter().any(|(id, _)| self.has_passed_a_page(*id)) {
            return Ok(false);
        }
        let mut step = StepRows::new(&rows, |id| self.n_tokens(id));
        let way = self.way(&mut step);
        if !matches!(way, Way::Lanes | Way::TensorCores { .. }) {
            return Ok(false);
        }
        let graph = self.graph(&step, way)?;

        let (gpu, decode) = (&self.gpu, &mut self.decode);
        let n_before = decode.n_rows;
        let behind = &mut decode.behind;
        let has_places = !behind.places.is_empty();
        for (staged, place) in behind.staged.iter_mut().zip(&behind.places) {
            *staged = *place as u32;
        }
        let places = behind.on_device.slice(0..n);
        if has_places {
            // SAFETY: the pinned memory lives as long as the engine, and is not touched before the event below.
            unsafe { gpu.enqueue_write(&places, &behind.staged[..n])? };
        }
        // SAFETY: likewise.
        let choices = unsafe { decode.chosen.on_device() };
        let places = has_places.then_some(&*places);
        gpu.next_step(&decode.best, places, &decode.input, &choices, n_tokens, [n_before, n, step.n_all])?;
        gpu.record(&behind.is_read)?;
        // SAFETY: the buffers that the graph uses live as long as the engine.
        unsafe { decode.graphs[graph].1.launch(gpu)? };
        gpu.synchronise_with(&behind.is_read)?;

        best.copy_from_slice(&decode.chosen[..n]);
        let last_token = n_tokens as u32 - 1;
        let rows = rows.iter().zip(&step.positions).zip(&*best);
        let rows = rows.map(|(((id, _), position), token)| (Some(*id), (*token).min(last_token), *position));
        behind.begun = Some(Begun { rows: rows.collect(), n_all: step.n_all, way, choice: decode.choice });
        // All copies were enqueued before the event.
        self.landed();
        if best.contains(&NO_CHOICE) {
            // Its logits say what is wrong with the row.
            self.come_back()?;
        }
        Ok(true)
    }

    /// Whether a sequence's last token was the last that saw a page of some window.
    fn has_passed_a_page(&self, id: SequenceId) -> bool {
        let windows = self.figure.caches.iter().filter_map(|cache| cache.window);
        // The next token sees positions from here on.
        let first_seen = |window: usize| (self.n_tokens(id) + 1).saturating_sub(window);
        windows.map(first_seen).any(|first| first > 0 && first.is_multiple_of(POSITIONS))
    }

    /// Whether these rows are among those that were begun, and so on their way: where each has its logits is known then.
    pub(super) fn goes_on(&mut self, step: &StepRows, way: Way) -> bool {
        let decode = &mut self.decode;
        decode.behind.places.clear();
        let Some(begun) = decode.behind.begun.take() else { return false };
        if begun.way != way || step.shares_sequences() {
            return false;
        }
        let mut all = begun.rows.iter().enumerate();
        let places = step.rows.iter().zip(&step.positions).map(|((id, token), position)| {
            all.find(|(_, row)| **row == (Some(*id), *token, *position)).map(|(place, _)| place)
        });
        let Some(places) = places.collect::<Option<Vec<usize>>>() else { return false };
        if places.len() < begun.rows.len() {
            decode.behind.places = places;
        }
        (decode.n_rows, decode.has_choice) = (begun.n_all, begun.choice == decode.choice);
        true
    }

    /// Makes the last step once more, where another was begun behind it: its logits are wanted.
    ///
    /// # Panics
    /// Where one of its sequences has ended.
    pub(super) fn come_back(&mut self) -> Result<(), EngineError> {
        let Some(begun) = self.decode.behind.begun.take() else { return Ok(()) };
        let (rows, way) = (std::mem::take(&mut self.decode.behind.last), self.decode.behind.way);
        assert_eq!(rows.len(), begun.rows.len(), "logits of a step, one of whose sequences has ended");
        let mut step = StepRows::new(&rows, |id| self.n_tokens(id));
        step.positions.iter_mut().for_each(|position| *position -= 1);
        step.n_all = self.decode.n_rows;
        self.decode.behind.places.clear();
        self.step(&step, way)?;
        self.decode.behind.last = rows;
        Ok(())
    }
}
