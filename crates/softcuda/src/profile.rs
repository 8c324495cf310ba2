//! What each instruction did, summed over the launches of a process: the profiler's raw numbers.
//!
//! `SOFTCUDA_PROFILE=FOLDER` switches it on for every device of the process, [`set_profile`] says the same from within.
//! When the process ends, the folder has `PID.json` with the numbers, and `PID-N.ptx` with the text of each module that
//! they speak of. `cargo warp profile` reads both.
//!
//! While it is off it costs nothing: warps run by a loop that is compiled a second time for profiled launches.

use crate::counters::{Class, Counters};
use crate::module::Kernel;
use crate::program::{Handler, Instruction};
use crate::{Launch, SourceLine};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock};

/// The environment variable that names the folder.
const VARIABLE: &str = "SOFTCUDA_PROFILE";

/// What one instruction did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cell {
    /// Times it was issued for a warp or a part of one, and of these, with a lane whose guard let it act.
    issued: u64,
    acted: u64,
    /// Lanes that acted, summed.
    lanes: u64,
    /// Of the counters, what this instruction added.
    load_sectors: u64,
    store_sectors: u64,
    atomic_sectors: u64,
    load_bytes: u64,
    store_bytes: u64,
    shared_load_bytes: u64,
    shared_store_bytes: u64,
    conflicts: u64,
    ways: u64,
    divergent: u64,
    /// The step from lane to lane, in bytes, of the access with the most conflicts or sectors so far; what that had.
    stride: Option<i64>,
    worst: u64,
}

impl Cell {
    fn add(&mut self, other: &Cell) {
        for (mine, theirs) in [
            (&mut self.issued, other.issued),
            (&mut self.acted, other.acted),
            (&mut self.lanes, other.lanes),
            (&mut self.load_sectors, other.load_sectors),
            (&mut self.store_sectors, other.store_sectors),
            (&mut self.atomic_sectors, other.atomic_sectors),
            (&mut self.load_bytes, other.load_bytes),
            (&mut self.store_bytes, other.store_bytes),
            (&mut self.shared_load_bytes, other.shared_load_bytes),
            (&mut self.shared_store_bytes, other.shared_store_bytes),
            (&mut self.conflicts, other.conflicts),
            (&mut self.divergent, other.divergent),
        ] {
            *mine += theirs;
        }
        self.ways = self.ways.max(other.ways);
        if other.worst > self.worst {
            (self.worst, self.stride) = (other.worst, other.stride);
        }
    }
}

/// The instructions of a launch.
pub(crate) struct Profile {
    cells: Vec<Cell>,
}

impl Profile {
    pub(crate) fn new(instructions: usize) -> Box<Profile> {
        Box::new(Profile { cells: vec![Cell::default(); instructions] })
    }

    /// An instruction was carried out for `mask`, empty where no guard let it; the counters before it and after it, and the
    /// step between its lanes' addresses where it has such.
    pub(crate) fn note(&mut self, pc: u32, mask: u32, before: &Counters, after: &Counters, stride: Option<i64>) {
        let cell = &mut self.cells[pc as usize];
        cell.issued += 1;
        if mask == 0 {
            return;
        }
        cell.acted += 1;
        cell.lanes += u64::from(mask.count_ones());
        let sectors = after.global_load_sectors - before.global_load_sectors;
        let stored = after.global_store_sectors - before.global_store_sectors;
        let atomic = after.atomic_sectors - before.atomic_sectors;
        let conflicts = after.shared_conflicts - before.shared_conflicts;
        cell.load_sectors += sectors;
        cell.store_sectors += stored;
        cell.atomic_sectors += atomic;
        cell.load_bytes += after.global_load_bytes - before.global_load_bytes;
        cell.store_bytes += after.global_store_bytes - before.global_store_bytes;
        cell.shared_load_bytes += after.shared_load_bytes - before.shared_load_bytes;
        cell.shared_store_bytes += after.shared_store_bytes - before.shared_store_bytes;
        cell.conflicts += conflicts;
        cell.ways = cell.ways.max(after.shared_ways);
        cell.divergent += after.divergent_branches - before.divergent_branches;
        let bad = sectors + stored + atomic + conflicts;
        if bad > cell.worst && stride.is_some() {
            (cell.worst, cell.stride) = (bad, stride);
        }
    }
}

/// Whether an instruction accesses memory at the addresses in its first operand. A `wmma` has one address for the warp.
pub(crate) fn has_addresses(ins: &Instruction) -> bool {
    use Class::*;
    let accesses = matches!(ins.class, GlobalLoad | GlobalStore | SharedLoad | SharedStore | Atomic);
    accesses && !std::ptr::fn_addr_eq(ins.handler, crate::exec::matrix::run as Handler)
}

/// The step from lane to lane, where every step between lanes of the mask is the same.
pub(crate) fn stride(addresses: &[u64; 32], mask: u32) -> Option<i64> {
    let mut lanes = crate::space::lanes_of(mask);
    let mut last = lanes.next()?;
    let mut found = None;
    for lane in lanes {
        let step = addresses[lane].wrapping_sub(addresses[last]) as i64;
        let apart = (lane - last) as i64;
        if step % apart != 0 || found.is_some_and(|known| known != step / apart) {
            return None;
        }
        (found, last) = (Some(step / apart), lane);
    }
    found
}

/// A launch's grid, block and dynamic shared memory.
type Shape = ([u32; 3], [u32; 3], u32);

struct Known {
    kernel: Kernel,
    launches: BTreeMap<Shape, u64>,
    cells: Vec<Cell>,
}

#[derive(Default)]
struct All {
    folder: Option<PathBuf>,
    /// In the order in which they were first launched; the same kernel of a module that is loaded again is the same.
    kernels: Vec<Known>,
}

fn all() -> MutexGuard<'static, All> {
    static ALL: OnceLock<Mutex<All>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let folder = std::env::var_os(VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        if folder.is_some() {
            at_exit();
        }
        Mutex::new(All { folder, kernels: Vec::new() })
    });
    all.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Has the numbers written when the process ends.
fn at_exit() {
    unsafe extern "C" {
        fn atexit(call: extern "C" fn()) -> i32;
    }
    extern "C" fn write_now() {
        // A process that ends has nobody to report to: whoever asked for the file sees that it is not there.
        let _ = write_profile();
    }
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: C's `atexit`; the function that it will call does not unwind, as `write_profile` does not panic.
        unsafe { atexit(write_now) };
    });
}

/// Profiles the launches from now on, and has the numbers written into a folder when the process ends; `None` stops.
pub fn set_profile(folder: Option<&Path>) {
    all().folder = folder.map(Path::to_owned);
    if folder.is_some() {
        at_exit();
    }
}

/// Whether launches are profiled.
pub(crate) fn is_on() -> bool {
    all().folder.is_some()
}

/// A kernel is the same as another when it has the same name and was read from the same text.
fn same(a: &Kernel, b: &Kernel) -> bool {
    let (a, b) = (&a.inner.program, &b.inner.program);
    a.name == b.name && (Arc::ptr_eq(&a.source, &b.source) || a.source.text() == b.source.text())
}

impl All {
    fn of(&mut self, kernel: &Kernel) -> &mut Known {
        let known = self.kernels.iter().position(|known| same(&known.kernel, kernel)).unwrap_or_else(|| {
            let cells = vec![Cell::default(); kernel.inner.code.len()];
            self.kernels.push(Known { kernel: kernel.clone(), launches: BTreeMap::new(), cells });
            self.kernels.len() - 1
        });
        &mut self.kernels[known]
    }
}

/// A launch begins.
pub(crate) fn launched(kernel: &Kernel, launch: &Launch) {
    *all().of(kernel).launches.entry((launch.grid, launch.block, launch.dynamic_shared)).or_default() += 1;
}

/// A host thread has run its part of a launch.
pub(crate) fn ran(kernel: &Kernel, profile: &Profile) {
    for (total, part) in all().of(kernel).cells.iter_mut().zip(&profile.cells) {
        total.add(part);
    }
}

/// Writes what was counted so far into the folder, and counts anew.
///
/// # Errors
/// The folder or a file cannot be written. Without profiling nothing is written.
pub fn write_profile() -> std::io::Result<()> {
    let mut all = all();
    let kernels = std::mem::take(&mut all.kernels);
    let Some(folder) = all.folder.clone() else { return Ok(()) };
    drop(all);
    if kernels.is_empty() {
        return Ok(());
    }
    static WRITTEN: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = WRITTEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let stem = format!("{}-{number}", std::process::id());
    std::fs::create_dir_all(&folder)?;
    let mut texts: Vec<&Kernel> = Vec::new();
    let mut json = String::from("{\"format\": 1, \"kernels\": [");
    for (index, known) in kernels.iter().enumerate() {
        let source = &known.kernel.inner.program.source;
        let is_it = |text: &&Kernel| Arc::ptr_eq(&text.inner.program.source, source);
        let text = texts.iter().position(is_it).unwrap_or_else(|| {
            texts.push(&known.kernel);
            texts.len() - 1
        });
        json += if index == 0 { "\n" } else { ",\n" };
        write_kernel(&mut json, known, &format!("{stem}-{text}.ptx"));
    }
    json += "\n]}\n";
    for (index, text) in texts.iter().enumerate() {
        std::fs::write(folder.join(format!("{stem}-{index}.ptx")), text.inner.program.source.text())?;
    }
    std::fs::write(folder.join(format!("{stem}.json")), json)
}

fn write_kernel(json: &mut String, known: &Known, ptx: &str) {
    let kernel = &known.kernel;
    let program = &kernel.inner.program;
    // A `String` takes whatever is written to it.
    let _ = write!(
        json,
        "{{\"name\": {}, \"ptx\": {}, \"static_shared\": {}, \"local_bytes\": {}, \"max_threads\": {}, \"launches\": [",
        quoted(kernel.name()),
        quoted(ptx),
        kernel.static_shared_bytes(),
        kernel.local_bytes(),
        kernel.max_threads(),
    );
    for (index, ((grid, block, shared), count)) in known.launches.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(
            json,
            "{comma}{{\"grid\": {grid:?}, \"block\": {block:?}, \"dynamic_shared\": {shared}, \"count\": {count}}}"
        );
    }
    *json += "], \"instructions\": [";
    let mut first = true;
    for (ins, cell) in kernel.inner.code.iter().zip(&known.cells) {
        // A jump that the layout added is no instruction of the kernel.
        if ins.class == Class::Control && ins.flags & crate::exec::control::ADDED != 0 {
            continue;
        }
        *json += if first { "\n" } else { ",\n" };
        first = false;
        let _ = write!(
            json,
            "  {{\"line\": {}, \"text\": {}, \"class\": \"{:?}\", \"source\": [",
            ins.line,
            quoted(program.source.line(ins.line)),
            ins.class
        );
        for (index, SourceLine { file, line, column, function }) in
            program.source.source_of(ins.line).iter().enumerate()
        {
            let comma = if index == 0 { "" } else { ", " };
            let (file, function) = (quoted(file), quoted(function));
            let _ = write!(
                json,
                "{comma}{{\"file\": {file}, \"line\": {line}, \"column\": {column}, \"function\": {function}}}"
            );
        }
        *json += "]";
        for (name, value) in [
            ("issued", cell.issued),
            ("acted", cell.acted),
            ("lanes", cell.lanes),
            ("load_sectors", cell.load_sectors),
            ("store_sectors", cell.store_sectors),
            ("atomic_sectors", cell.atomic_sectors),
            ("load_bytes", cell.load_bytes),
            ("store_bytes", cell.store_bytes),
            ("shared_load_bytes", cell.shared_load_bytes),
            ("shared_store_bytes", cell.shared_store_bytes),
            ("conflicts", cell.conflicts),
            ("ways", cell.ways),
            ("divergent", cell.divergent),
        ] {
            if value != 0 {
                let _ = write!(json, ", \"{name}\": {value}");
            }
        }
        if let Some(stride) = cell.stride {
            let _ = write!(json, ", \"stride\": {stride}");
        }
        *json += "}";
    }
    *json += "]}";
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out += "\\\"",
            '\\' => out += "\\\\",
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out + "\""
}
