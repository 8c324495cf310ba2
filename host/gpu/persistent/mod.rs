//! A step as one launch: `kernels/persistent/`.
//!
//! [`Gpu::record`] runs host code whose launches are kept, as a capture keeps them for a graph; [`Program`] is the array of
//! records that the kernel walks over, and [`Gpu::persistent`] launches it.
//!
//! Parts that depend on nothing of each other are a stage; which launches those are follows from what they read and write
//! (`stage.rs`). What is read ahead, and when, is `ahead.rs`.

mod ahead;
mod stage;

use cuda_std::Packed;
use driver::sys::cuOccupancyMaxActiveBlocksPerMultiprocessor;
use kernels::persistent::{BLOCK, MAX_SLOTS, RECORD_WORDS, SLOTS, SPANS, kind_of, persistent};

use super::{Gpu, GpuError, Slice, check_call, launch::Launch};

/// A launch that was recorded.
struct Recorded {
    kernel: &'static str,
    kind: u32,
    grid: [u32; 3],
    arguments: Packed,
}

impl Recorded {
    /// A launch with these arguments.
    #[cfg(test)]
    fn of(kernel: &'static str, grid: [u32; 3], arguments: &[u64]) -> Recorded {
        let kind = kind_of(kernel).expect("a phase");
        Recorded { kernel, kind, grid, arguments: Packed::of(arguments) }
    }

    /// The blocks of the launch: the parts of the phase.
    fn n_parts(&self) -> u32 {
        self.grid.iter().product()
    }

    /// An argument's bits.
    fn slot(&self, index: usize) -> u64 {
        self.arguments.slots()[index]
    }

    /// An argument of 32 bits.
    fn word(&self, index: usize) -> u32 {
        self.slot(index) as u32
    }
}

/// Launches as they are recorded.
pub(super) struct Recording {
    /// Over how many blocks each launch is to be spread; where that is not known yet, over this many.
    shares: Vec<usize>,
    n_blocks: usize,
    launches: Vec<Recorded>,
    /// The most dynamic shared memory of a launch, in bytes.
    shared_bytes: u32,
}

impl Recording {
    /// Keeps a launch.
    ///
    /// # Errors
    /// It cannot be a phase.
    pub(super) fn keep(&mut self, kernel: &'static str, launch: Launch, arguments: Packed) -> Result<(), GpuError> {
        let Some(kind) = kind_of(kernel) else {
            return Err(GpuError::NoPhase { kernel });
        };
        assert!(arguments.slots().len() <= MAX_SLOTS as usize, "{kernel} has more arguments than a record");
        self.shared_bytes = self.shared_bytes.max(launch.dynamic_shared());
        self.launches.push(Recorded { kernel, kind, grid: launch.grid(), arguments });
        Ok(())
    }
}

/// How many blocks walk over a program, and what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residents {
    /// The blocks.
    pub n_blocks: usize,
    /// Bytes of dynamic shared memory of each.
    pub shared_bytes: u32,
}

/// A step, ready to be written to device memory.
pub struct Program {
    /// `[n_phases][RECORD_WORDS]`.
    pub words: Vec<u32>,
    /// What it reckons with.
    pub residents: Residents,
}

/// Words of a program of that many launches.
pub fn program_len(n_launches: usize) -> usize {
    n_launches * RECORD_WORDS as usize
}

/// The most blocks on a multiprocessor. Two have as many loads under way as the memory needs to be busy.
const BLOCKS_PER_MULTIPROCESSOR: usize = 2;

impl Gpu {
    /// Runs `record` twice and keeps its launches, in order, as a program: nothing is launched. It may do nothing else on the
    /// device. The first time tells how many blocks fit, the second spreads the launches over these.
    ///
    /// # Errors
    /// A launch cannot be part of a program, or too few blocks fit.
    pub fn record<E: From<GpuError>>(&self, record: impl Fn() -> Result<(), E>) -> Result<Program, E> {
        let recorded = |shares, n_blocks| {
            let recording = Recording { shares, n_blocks, launches: Vec::new(), shared_bytes: 0 };
            assert!(self.recording.replace(Some(recording)).is_none(), "one recording at a time");
            let result = record();
            let recording = self.recording.take().expect("the recording that began");
            result.map(|()| recording)
        };
        let first = recorded(Vec::new(), self.multiprocessors())?;
        let residents = self.residents(first.shared_bytes)?;
        let shares = stage::shares(&first.launches, residents.n_blocks);
        let Recording { launches, .. } = recorded(shares, residents.n_blocks)?;
        Ok(Program { words: words(&launches, residents.n_blocks), residents })
    }

    /// Over how many blocks a launch is to be spread that is being recorded; none where it is not.
    pub(super) fn recording_blocks(&self) -> Option<usize> {
        let recording = self.recording.borrow();
        recording
            .as_ref()
            .map(|recording| recording.shares.get(recording.launches.len()).copied().unwrap_or(recording.n_blocks))
    }

    /// The blocks that are resident together, with so much dynamic shared memory each.
    fn residents(&self, shared_bytes: u32) -> Result<Residents, GpuError> {
        let function = &self.functions[persistent.name()];
        function.raise_shared_limit(persistent.name(), shared_bytes)?;
        let mut blocks = 0;
        // SAFETY: the function is loaded, and the pointer leads to a number.
        let result = unsafe {
            cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                function.handle(),
                BLOCK.cast_signed(),
                shared_bytes as usize,
            )
        };
        check_call(|| "reading how many blocks of persistent decoding fit".into(), result)?;
        match blocks.unsigned_abs() as usize {
            0 => Err(GpuError::NotResident { shared_bytes }),
            n => Ok(Residents { n_blocks: n.min(BLOCKS_PER_MULTIPROCESSOR) * self.multiprocessors(), shared_bytes }),
        }
    }

    /// Enqueues a program: all its blocks run together, or the launch is an error.
    ///
    /// # Safety
    /// - `program` holds the words of a [`Program`] for these residents. What its launches use is there as it was when they were
    ///   recorded, and their contracts hold for what is in it now.
    /// - `counter` is one word, zero, which it is again afterwards.
    pub unsafe fn persistent(
        &self,
        program: &Slice<u32>,
        counter: &Slice<u32>,
        residents: Residents,
    ) -> Result<(), GpuError> {
        let Residents { n_blocks, shared_bytes } = residents;
        let n_phases = program.len() / RECORD_WORDS as usize;
        let launch = Launch::new([n_blocks as u32, 1, 1], BLOCK).shared_bytes(shared_bytes).cooperative();
        // SAFETY: the caller's contract is the kernel's.
        unsafe { self.launch_as(persistent, launch, (program, n_phases as u32, counter)) }
    }
}

/// The records of launches spread over `n_blocks`.
fn words(launches: &[Recorded], n_blocks: usize) -> Vec<u32> {
    assert_eq!(launches.last().map(|launch| launch.kernel), Some("argmax"), "the greedy choice ends a program");
    let before = stage::parts_before(launches);
    let spans = ahead::spans(launches, n_blocks);
    let mut words = vec![0; program_len(launches.len())];
    // Parts go on where those of the phase before end: other blocks have had less to do.
    let mut first = 0;
    for (index, (launch, record)) in launches.iter().zip(words.chunks_exact_mut(RECORD_WORDS as usize)).enumerate() {
        let [x, y, z] = launch.grid;
        let parts = launch.n_parts();
        assert!(parts as usize <= n_blocks, "{}: {parts} parts for {n_blocks} blocks", launch.kernel);
        record[..7].copy_from_slice(&[launch.kind, first, x, y, z, before[index], spans[index].len() as u32]);
        for (slot, words) in launch.arguments.slots().iter().zip(record[SLOTS as usize..].chunks_exact_mut(2)) {
            words.copy_from_slice(&[*slot as u32, (*slot >> 32) as u32]);
        }
        for (span, words) in spans[index].iter().zip(record[SPANS as usize..].chunks_exact_mut(4)) {
            words.copy_from_slice(&[span.address as u32, (span.address >> 32) as u32, span.piece, span.bytes]);
        }
        first = (first + parts) % n_blocks as u32;
    }
    words
}
