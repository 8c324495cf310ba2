//! Kernels with their counts by line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cards::{Card, Occupancy, Roofline};
use crate::counts::{self, Instruction, Place};
use crate::{Assembled, Assembler, ProfileError, advice};

/// Lanes of a warp.
const WARP: u64 = 32;

/// Bytes of a sector of global memory.
pub(crate) const SECTOR: u64 = 32;

/// What some instructions did, in all launches.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Numbers {
    /// Warp instructions by class, under softcuda's names.
    pub by_class: BTreeMap<String, u64>,
    /// Warp instructions.
    pub instructions: u64,
    /// Of 100 lanes of those that did anything, so many acted.
    pub active_lanes: f64,
    /// Branches at which the lanes of a warp went both ways.
    pub divergent_branches: u64,
    /// Warp instructions that accessed global memory: loads, stores, atomics.
    pub requests: u64,
    /// 32-byte sectors that they touched.
    pub sectors: u64,
    /// Sectors that would do for the bytes.
    pub fewest_sectors: u64,
    /// Bytes of global memory that lanes asked to read and to write.
    pub load_bytes: u64,
    /// As `load_bytes`.
    pub store_bytes: u64,
    /// Warp instructions that accessed shared memory.
    pub shared_requests: u64,
    /// Bytes of shared memory that lanes asked to read or to write.
    pub shared_bytes: u64,
    /// Wavefronts of shared memory beyond the fewest.
    pub shared_conflicts: u64,
    /// The most lanes that wanted one bank at once.
    pub shared_ways: u64,
    /// Accesses to local memory: spilled registers and arrays that are indexed.
    pub local: u64,
    /// Floating-point operations of lanes, tensor products among them.
    pub operations: u64,
    /// Issue slots and passes through the memory units (128 bytes of global memory, a wavefront of shared memory): what a
    /// line is ranked by.
    pub cost: u64,
    #[serde(skip)]
    pub(crate) acted: u64,
    #[serde(skip)]
    pub(crate) lanes: u64,
}

impl Numbers {
    /// Sectors a request.
    pub fn sectors_per_request(&self) -> f64 {
        self.sectors as f64 / self.requests.max(1) as f64
    }

    fn add(&mut self, ins: &Instruction) {
        *self.by_class.entry(ins.class.clone()).or_default() += ins.issued;
        self.instructions += ins.issued;
        self.acted += ins.acted;
        self.lanes += ins.lanes;
        self.active_lanes = 100.0 * self.lanes as f64 / (self.acted * WARP).max(1) as f64;
        self.divergent_branches += ins.divergent;
        let sectors = ins.load_sectors + ins.store_sectors + ins.atomic_sectors;
        if sectors > 0 {
            self.requests += ins.acted;
            self.sectors += sectors;
            // Atomics have no bytes of their own: each sector is one that is needed.
            let bytes = ins.load_bytes + ins.store_bytes;
            self.fewest_sectors += bytes.div_ceil(SECTOR).min(sectors).max(ins.acted.min(sectors)) + ins.atomic_sectors;
        }
        self.load_bytes += ins.load_bytes;
        self.store_bytes += ins.store_bytes;
        let shared_bytes = ins.shared_load_bytes + ins.shared_store_bytes;
        if shared_bytes > 0 || ins.conflicts > 0 {
            self.shared_requests += ins.acted;
        }
        self.shared_bytes += shared_bytes;
        self.shared_conflicts += ins.conflicts;
        self.shared_ways = self.shared_ways.max(ins.ways);
        self.local += if ins.class == "Local" { ins.acted } else { 0 };
        self.operations += operations(ins);
        self.cost += ins.issued + ins.conflicts + sectors.div_ceil(4);
    }
}

/// Floating-point operations: two of each lane's `fma`, twice as many of a pair of halves, 2·m·n·k of a tensor product.
fn operations(ins: &Instruction) -> u64 {
    let opcode = ins.text.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or("");
    match ins.class.as_str() {
        "Float" => {
            let pair = if opcode.contains("16x2") { 2 } else { 1 };
            let each = if opcode.starts_with("fma") || opcode.starts_with("mad") { 2 } else { 1 };
            let counts =
                ["fma", "mad", "add", "sub", "mul", "div", "sqrt", "rcp", "rsqrt", "ex2", "lg2", "sin", "cos", "tanh"];
            let is_arithmetic = counts.iter().any(|name| opcode.split('.').next() == Some(name));
            if is_arithmetic { ins.lanes * each * pair } else { 0 }
        }
        "Tensor" => {
            let shape =
                opcode.split('.').find(|part| part.starts_with('m') && part.contains('n') && part.contains('k'));
            let number = |part: Option<&str>| part.and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0);
            let product = shape.map_or(0, |shape| {
                let mut sizes = shape[1..].split(['n', 'k']);
                number(sizes.next()) * number(sizes.next()) * number(sizes.next())
            });
            2 * product * ins.acted
        }
        _ => 0,
    }
}

/// A line of source with what its instructions did.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The file, as the PTX names it; empty for instructions of no line.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// The function that the line is in.
    pub function: String,
    /// The line's text, where the file was found.
    pub text: Option<String>,
    /// Of the kernel's cost, in per cent.
    pub share: f64,
    /// What it did.
    pub numbers: Numbers,
    /// What costs more than it need, and what would help.
    pub advice: Vec<String>,
}

/// Launches of one shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub dynamic_shared: u32,
    /// How many there were.
    pub count: u64,
}

/// Times of a kernel's launches on a GPU, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Time {
    /// How many were measured.
    pub launches: usize,
    /// The fastest.
    pub least: f64,
    /// The one in the middle.
    pub median: f64,
}

/// A kernel with its counts.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// How it was launched, the most frequent shape first.
    pub launches: Vec<Launch>,
    /// Bytes of shared memory that it declares.
    pub static_shared: u32,
    /// All of its instructions.
    pub numbers: Numbers,
    /// Its lines, the costliest first.
    pub lines: Vec<Line>,
    /// What `ptxas` says of it, or why it says nothing.
    pub assembled: Result<Assembled, String>,
    /// How many warps fit a multiprocessor, of the most frequent launch.
    pub occupancy: Option<Occupancy>,
    /// What limits it on the card.
    pub roofline: Option<Roofline>,
    /// Measured times, where there is a GPU.
    pub time: Option<Time>,
    #[serde(skip)]
    ptx: String,
}

/// The kernels of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In the order in which they were first launched.
    pub kernels: Vec<Kernel>,
    /// The card that they are compared with.
    pub card: Card,
    /// The text of each file of source that was found, by its name in the PTX.
    #[serde(skip)]
    pub sources: BTreeMap<String, Vec<String>>,
    #[serde(skip)]
    folder: PathBuf,
}

/// The place that an instruction is put down to: the innermost of the author's own, which is neither Rust's library nor
/// `cuda_std`; otherwise the outermost.
fn own_place(source: &[Place]) -> Option<&Place> {
    let own = |place: &&Place| {
        let file = place.file.as_str();
        !(file.starts_with("core/") || file.contains("cuda_std/src/") || file.contains("/registry/src/"))
    };
    source.iter().find(own).or(source.last())
}

impl Report {
    /// Reads what softcuda left in a folder. Files of source are looked for below `roots`.
    ///
    /// # Errors
    /// A file cannot be read, or is not softcuda's.
    pub fn read(folder: &Path, card: Card, roots: &[PathBuf]) -> Result<Report, ProfileError> {
        let (files, times) = counts::read(folder)?;
        let mut report = Report { kernels: Vec::new(), card, sources: BTreeMap::new(), folder: folder.to_owned() };
        let mut merged: Vec<counts::Kernel> = Vec::new();
        for kernel in files.into_iter().flat_map(|file| file.kernels) {
            // The same kernel from another test's process.
            let same = |known: &&mut counts::Kernel| {
                let texts =
                    |kernel: &counts::Kernel| kernel.instructions.iter().map(|i| i.text.clone()).collect::<Vec<_>>();
                known.name == kernel.name && texts(known) == texts(&kernel)
            };
            match merged.iter_mut().find(same) {
                Some(known) => merge(known, kernel),
                None => merged.push(kernel),
            }
        }
        for kernel in &merged {
            let kernel = report.kernel(kernel, roots)?;
            report.kernels.push(kernel);
        }
        for kernel in &mut report.kernels {
            let mut all: Vec<f64> =
                times.iter().filter(|time| time.kernel == kernel.name).map(|time| time.microseconds).collect();
            all.sort_by(f64::total_cmp);
            if let (Some(&least), Some(&median)) = (all.first(), all.get(all.len() / 2)) {
                kernel.time = Some(Time { launches: all.len(), least, median });
            }
        }
        Ok(report)
    }

    fn kernel(&mut self, counted: &counts::Kernel, roots: &[PathBuf]) -> Result<Kernel, ProfileError> {
        let mut launches: Vec<Launch> = counted
            .launches
            .iter()
            .map(|launch| Launch {
                grid: launch.grid,
                block: launch.block,
                dynamic_shared: launch.dynamic_shared,
                count: launch.count,
            })
            .collect();
        launches.sort_by_key(|launch| std::cmp::Reverse(launch.count));
        let mut numbers = Numbers::default();
        let mut lines: BTreeMap<(String, u32), (String, Numbers, Vec<&Instruction>)> = BTreeMap::new();
        for ins in &counted.instructions {
            numbers.add(ins);
            let place = own_place(&ins.source);
            let key = place.map_or((String::new(), 0), |place| (place.file.clone(), place.line));
            let line = lines.entry(key).or_insert_with(|| {
                let function = place.map_or(String::new(), |place| place.function.clone());
                (function, Numbers::default(), Vec::new())
            });
            line.1.add(ins);
            line.2.push(ins);
        }
        let total = numbers.cost.max(1) as f64;
        let mut lines: Vec<Line> = lines
            .into_iter()
            .filter(|(_, (_, numbers, _))| numbers.instructions > 0)
            .map(|((file, line), (function, numbers, instructions))| {
                let text = self.text(&file, line, roots);
                let share = 100.0 * numbers.cost as f64 / total;
                let advice = advice::of(&numbers, &instructions);
                Line { file, line, function, text, share, numbers, advice }
            })
            .collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.numbers.cost));
        let ptx = counts::ptx_of(&self.folder, &counted.ptx, &counted.name)?;
        let runs = launches.iter().map(|launch| launch.count).sum::<u64>().max(1);
        let roofline = Some(Roofline::new(&self.card, &numbers, runs));
        Ok(Kernel {
            name: counted.name.clone(),
            launches,
            static_shared: counted.static_shared,
            numbers,
            lines,
            assembled: Err("not asked".into()),
            occupancy: None,
            roofline,
            time: None,
            ptx,
        })
    }

    /// A line of a file of source, and the file kept.
    fn text(&mut self, file: &str, line: u32, roots: &[PathBuf]) -> Option<String> {
        if file.is_empty() {
            return None;
        }
        if !self.sources.contains_key(file) {
            let places = roots.iter().map(|root| root.join(file));
            let text = places.filter_map(|path| std::fs::read_to_string(path).ok()).next()?;
            self.sources.insert(file.to_owned(), text.lines().map(str::to_owned).collect());
        }
        self.sources.get(file)?.get(line.checked_sub(1)? as usize).cloned()
    }

    /// Keeps the kernels for which a name is wanted.
    pub fn retain(&mut self, wanted: impl Fn(&str) -> bool) {
        self.kernels.retain(|kernel| wanted(&kernel.name));
    }

    /// Has each kernel assembled for the card, to know its registers and how many of its warps fit a multiprocessor.
    pub fn assemble(&mut self, assembler: Option<&Assembler>) {
        for kernel in &mut self.kernels {
            kernel.assembled = match assembler {
                Some(assembler) => assembler.run(&kernel.ptx, &kernel.name, &self.card),
                None => Err("there is no ptxas".into()),
            };
            let registers = kernel.assembled.as_ref().ok().map(|assembled| assembled.registers);
            kernel.occupancy = kernel.launches.first().map(|launch| {
                let shared = kernel.static_shared + launch.dynamic_shared;
                Occupancy::new(&self.card, launch.block.iter().product(), registers, shared)
            });
        }
    }
}

fn merge(known: &mut counts::Kernel, other: counts::Kernel) {
    for launch in other.launches {
        let same = |l: &&mut counts::Launch| {
            (l.grid, l.block, l.dynamic_shared) == (launch.grid, launch.block, launch.dynamic_shared)
        };
        match known.launches.iter_mut().find(same) {
            Some(known) => known.count += launch.count,
            None => known.launches.push(launch),
        }
    }
    for (a, b) in known.instructions.iter_mut().zip(other.instructions) {
        for (mine, more) in [
            (&mut a.issued, b.issued),
            (&mut a.acted, b.acted),
            (&mut a.lanes, b.lanes),
            (&mut a.load_sectors, b.load_sectors),
            (&mut a.store_sectors, b.store_sectors),
            (&mut a.atomic_sectors, b.atomic_sectors),
            (&mut a.load_bytes, b.load_bytes),
            (&mut a.store_bytes, b.store_bytes),
            (&mut a.shared_load_bytes, b.shared_load_bytes),
            (&mut a.shared_store_bytes, b.shared_store_bytes),
            (&mut a.conflicts, b.conflicts),
            (&mut a.divergent, b.divergent),
        ] {
            *mine += more;
        }
        a.ways = a.ways.max(b.ways);
        a.stride = a.stride.or(b.stride);
    }
}
