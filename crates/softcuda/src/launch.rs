//! A launch: checks, host threads, and the order of blocks.

use crate::counters::Counters;

use crate::exec::cluster::Cluster;
use crate::exec::memory::Cached;
use crate::exec::scheduler::Round;
use crate::exec::{Block, Context, LaunchFacts, Stop, Warp};
use crate::fault::{Fault, FaultKind, Location};
use crate::memory::Snapshot;
use crate::module::Kernel;
use crate::output::Output;
use crate::profile::{self, Profile};
use crate::program::Line;
use crate::sanitizer::{Chain, LaunchEnd, Sanitizer};
use crate::space::Space;
use crate::{DeviceConfig, Launch};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most shared memory of a block, as on compute capability 9.0.
const MOST_SHARED: u32 = 227 * 1024;
/// The most blocks that a cooperative launch may keep resident.
const MOST_RESIDENT: u64 = 1 << 14;

/// The most blocks of a cluster, as compute capability 9.0 has where a kernel allows more than 8.
const MOST_CLUSTER: u64 = 16;

/// Warp instructions worth giving to another host thread: about 100 microseconds.
const WORTH_A_THREAD: u64 = 8192;

/// What a launch finds around it.
pub(crate) struct World {
    pub(crate) output: Output,
    /// The memory of its grid-wide barrier; 0 for none.
    pub(crate) workspace: u64,
    /// Blocks of a cluster in x, y, z, where the launch says so.
    pub(crate) cluster: Option<[u32; 3]>,
    /// Held while a bulk copy reduces into global memory.
    pub(crate) reductions: Mutex<()>,
}

/// The kernel, and no place in it.
fn whole(kernel: &Kernel) -> Location {
    let source = Vec::new();
    Location { kernel: kernel.name().to_owned(), line: 0, text: String::new(), source, block: [0; 3], thread: [0; 3] }
}

fn invalid(kernel: &Kernel, message: String) -> Fault {
    Fault::new(FaultKind::InvalidLaunch, message).at(whole(kernel))
}

/// Runs a launch to its end.
pub(crate) fn run(
    config: &DeviceConfig,
    memory: &Snapshot,
    kernel: &Kernel,
    launch: &Launch,
    params: &[u8],
    world: &World,
) -> Result<Counters, Fault> {
    let facts = check(config, kernel, launch, params, world)?;
    let blocks = launch.grid.iter().map(|&n| n as u64).product::<u64>();
    if launch.cooperative {
        return cooperative(memory, &mut None, kernel, &facts, blocks);
    }
    // A launch that was short the last time runs on this thread: waking others would take longer.
    let pool = &kernel.inner.pool;
    let expected = pool.instructions_per_block.load(Relaxed).saturating_mul(blocks);
    let worth = match expected {
        0 => usize::MAX,
        n => (n / WORTH_A_THREAD) as usize,
    };
    let workers = config.threads.min(worth).min(blocks as usize).max(1);
    let next = AtomicU64::new(0);
    let note = |counters: &Counters| {
        let each = (counters.warp_instructions() / blocks).max(1);
        pool.instructions_per_block.store(each, Relaxed);
    };
    if workers == 1 {
        let counters = ordinary(memory, &mut None, kernel, &facts, &next, blocks, &|| false)?;
        note(&counters);
        return Ok(counters);
    }
    // The fault of the lowest block wins, so that the report does not depend on timing.
    let total = Mutex::new((Counters::default(), None::<(u64, Fault)>));
    let stop = AtomicU64::new(0);
    let work = || {
        let result = ordinary(memory, &mut None, kernel, &facts, &next, blocks, &|| stop.load(Relaxed) != 0);
        let mut total = total.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match result {
            Ok(counters) => total.0.add(&counters),
            Err(fault) => {
                stop.store(1, Relaxed);
                let block = fault.location().map_or(0, |at| {
                    let [x, y, z] = at.block.map(u64::from);
                    (z * launch.grid[1] as u64 + y) * launch.grid[0] as u64 + x
                });
                if total.1.as_ref().is_none_or(|known| block < known.0) {
                    total.1 = Some((block, fault));
                }
            }
        }
    };
    rayon::in_place_scope(|scope| {
        for _ in 1..workers {
            scope.spawn(|_| work());
        }
        work();
    });
    let (counters, fault) = total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    match fault {
        Some((_, fault)) => Err(fault),
        None => {
            note(&counters);
            Ok(counters)
        }
    }
}

/// Runs a launch to its end under the sanitizer, early in a chain where there is one, and gives what it wrote.
pub(crate) fn run_sanitized(
    config: &DeviceConfig,
    memory: &Snapshot,
    chain: Option<Chain>,
    kernel: &Kernel,
    launch: &Launch,
    params: &[u8],
    world: &World,
) -> Result<(Counters, LaunchEnd), Fault> {
    let facts = check(config, kernel, launch, params, world)?;
    let blocks = launch.grid.iter().map(|&n| n as u64).product::<u64>();
    let mut sanitizer = Sanitizer::new(chain);
    if kernel.inner.program.bulks.iter().any(|bulk| bulk.from.space == Space::Shared) {
        sanitizer.follow_proxies();
    }
    let mut sanitizer = Some(sanitizer);
    let ran = if launch.cooperative {
        cooperative(memory, &mut sanitizer, kernel, &facts, blocks)
    } else {
        // One host thread and one shadow, so that every pair of blocks is seen.
        ordinary(memory, &mut sanitizer, kernel, &facts, &AtomicU64::new(0), blocks, &|| false)
    };
    let Some(mut sanitizer) = sanitizer else { return ran.map(|counters| (counters, LaunchEnd::default())) };
    let ended = ran.and_then(|counters| {
        let end = sanitizer.end_launch(memory).map_err(|fault| fault.at(whole(kernel)))?;
        Ok((counters, end))
    });
    match sanitizer.verdict(ended.as_ref().err().cloned()) {
        Some(fault) => Err(fault),
        None => ended,
    }
}

fn check<'w>(
    config: &DeviceConfig,
    kernel: &Kernel,
    launch: &Launch,
    params: &[u8],
    world: &'w World,
) -> Result<LaunchFacts<'w>, Fault> {
    let program = &kernel.inner.program;
    let [gx, gy, gz] = launch.grid;
    let [bx, by, bz] = launch.block;
    let fail = |message: String| Err(invalid(kernel, message));
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65535 || gz > 65535 {
        return fail(format!("grid ({gx},{gy},{gz}); expected 1 to 2147483647 by 65535 by 65535"));
    }
    let threads = bx as u64 * by as u64 * bz as u64;
    if threads == 0 || threads > 1024 || bx > 1024 || by > 1024 || bz > 64 {
        return fail(format!("block ({bx},{by},{bz}); expected 1 to 1024 threads, at most 1024 by 1024 by 64"));
    }
    if threads > kernel.max_threads() as u64 {
        return fail(format!("{threads} threads per block; the kernel's `.maxntid` allows {}", kernel.max_threads()));
    }
    if let Some(required) = program.required_block
        && required != launch.block
    {
        return fail(format!("block ({bx},{by},{bz}); the kernel's `.reqntid` is {required:?}"));
    }
    let shared = (program.dynamic_shared_offset as u64) + launch.dynamic_shared as u64;
    let used = if launch.dynamic_shared == 0 { program.static_shared as u64 } else { shared };
    if used > MOST_SHARED as u64 {
        return fail(format!(
            "{} bytes of static and {} of dynamic shared memory; a block has {MOST_SHARED}",
            program.static_shared, launch.dynamic_shared
        ));
    }
    if params.len() != program.param_bytes {
        return fail(format!("{} bytes of parameters; the kernel takes {}", params.len(), program.param_bytes));
    }
    let mut lines = vec![Line([0; 64]); params.len().div_ceil(64)];
    for (line, chunk) in lines.iter_mut().zip(params.chunks(64)) {
        line.0[..chunk.len()].copy_from_slice(chunk);
    }
    let asked = program.cluster.or(world.cluster);
    if let (Some(required), Some(given)) = (program.cluster, world.cluster)
        && required != given
    {
        return fail(format!("a cluster of {given:?} blocks; the kernel's `.reqnctapercluster` is {required:?}"));
    }
    let cluster = asked.unwrap_or([1; 3]);
    let count = cluster.iter().map(|&n| n as u64).product::<u64>();
    if count == 0 || count > MOST_CLUSTER {
        return fail(format!("a cluster of {cluster:?} blocks; expected 1 to {MOST_CLUSTER}"));
    }
    if (0..3).any(|axis| !launch.grid[axis].is_multiple_of(cluster[axis])) {
        return fail(format!("grid ({gx},{gy},{gz}) is not made of whole clusters of {cluster:?} blocks"));
    }
    Ok(LaunchFacts {
        grid: launch.grid,
        block: launch.block,
        threads: threads as u32,
        shared_bytes: used as u32,
        dynamic_shared: launch.dynamic_shared,
        sm_count: config.sm_count.max(1),
        instruction_limit: config.instruction_limit,
        environment: world.workspace,
        cluster,
        explicit_cluster: asked.is_some(),
        reductions: &world.reductions,
        output: &world.output,
        params: lines,
    })
}

fn context<'a>(
    memory: &'a Snapshot,
    sanitizer: Option<Box<Sanitizer>>,
    kernel: &'a Kernel,
    facts: &'a LaunchFacts<'a>,
) -> Context<'a> {
    let program = &kernel.inner.program;
    Context {
        program,
        code: &kernel.inner.code,
        memory,
        facts,
        counters: Counters::default(),
        warp: Box::new(Warp::placeholder()),
        block: kernel.inner.pool.take(&kernel.inner.program, facts),
        clusters: vec![Cluster::default()],
        visits: vec![0; kernel.inner.code.len() + 1],
        issued: 0,
        segment: 0,
        sites: Box::new([Cached::NOTHING; 256]),
        sanitizer,
        profile: profile::is_on().then(|| Profile::new(kernel.inner.code.len())),
        nowhere: Box::new(Line([0; 64])),
        issue_limit: u64::MAX,
        stop: Stop::Yield,
        block_start: 0,
    }
}

/// The number of a cluster's block with a rank.
fn block_of(facts: &LaunchFacts, cluster: u64, rank: u64) -> u64 {
    let [cx, cy, _] = facts.cluster.map(u64::from);
    let [gx, gy, _] = facts.grid.map(u64::from);
    let (nx, ny) = (gx / cx, gy / cy);
    let x = cluster % nx * cx + rank % cx;
    let y = cluster / nx % ny * cy + rank / cx % cy;
    let z = cluster / (nx * ny) * facts.cluster[2] as u64 + rank / (cx * cy);
    (z * gy + y) * gx + x
}

/// Makes blocks those of a cluster, which is at a place among those that run now.
fn begin_cluster(facts: &LaunchFacts, cluster: u64, at: usize, blocks: &mut [Block]) -> Cluster {
    let numbers: Vec<u64> = (0..blocks.len() as u64).map(|rank| block_of(facts, cluster, rank)).collect();
    for (rank, (block, &linear)) in blocks.iter_mut().zip(&numbers).enumerate() {
        block.begin(linear, facts.grid);
        (block.cluster, block.rank) = (at, rank as u32);
    }
    let shared = blocks.iter_mut().map(|block| block.shared.as_mut_ptr() as *mut u8).collect();
    Cluster::new(shared, numbers, facts.threads)
}

/// Clusters one after another, taken in order from `next`: a block that waits for an earlier one gets what it waits for.
fn ordinary(
    memory: &Snapshot,
    sanitizer: &mut Option<Box<Sanitizer>>,
    kernel: &Kernel,
    facts: &LaunchFacts,
    next: &AtomicU64,
    blocks: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Counters, Fault> {
    let each = facts.cluster.iter().product::<u32>() as usize;
    let clusters = blocks / each as u64;
    let mut at = next.fetch_add(1, Relaxed);
    if at >= clusters {
        return Ok(Counters::default());
    }
    let mut ctx = context(memory, sanitizer.take(), kernel, facts);
    // A cluster of one is the context's own block; the blocks of a larger one take turns in it.
    let mut resident: Vec<Block> = match each {
        1 => Vec::new(),
        _ => (0..each).map(|_| kernel.inner.pool.take(&kernel.inner.program, facts)).collect(),
    };
    let mut result = Ok(());
    while at < clusters && !stopped() && result.is_ok() {
        if each == 1 {
            ctx.clusters[0] = begin_cluster(facts, at, 0, std::slice::from_mut(&mut ctx.block));
            result = ctx.run_block();
        } else {
            ctx.clusters[0] = begin_cluster(facts, at, 0, &mut resident);
            result = take_turns(&mut ctx, &mut resident);
        }
        if let (Ok(()), Some(sanitizer)) = (&result, &mut ctx.sanitizer) {
            ctx.clusters[0].blocks.iter().for_each(|&linear| sanitizer.end_block(linear));
        }
        at = next.fetch_add(1, Relaxed);
    }
    let counters = ctx.take_counters();
    if let Some(profile) = &ctx.profile {
        profile::ran(kernel, profile);
    }
    *sanitizer = ctx.sanitizer.take();
    for block in resident.into_iter().chain([ctx.block]) {
        kernel.inner.pool.give(block);
    }
    result.map(|()| counters).map_err(|fault| *fault)
}

/// All blocks at once, taking turns on one host thread, so that a wait for another block ends and the counts repeat.
fn cooperative(
    memory: &Snapshot,
    sanitizer: &mut Option<Box<Sanitizer>>,
    kernel: &Kernel,
    facts: &LaunchFacts,
    blocks: u64,
) -> Result<Counters, Fault> {
    if blocks > MOST_RESIDENT {
        return Err(invalid(
            kernel,
            format!("{blocks} blocks of a cooperative launch; at most {MOST_RESIDENT} are resident"),
        ));
    }
    let mut ctx = context(memory, sanitizer.take(), kernel, facts);
    let mut resident: Vec<Block> = (0..blocks).map(|_| kernel.inner.pool.take(&kernel.inner.program, facts)).collect();
    let each = facts.cluster.iter().product::<u32>() as usize;
    ctx.clusters.clear();
    for (at, cluster) in resident.chunks_mut(each).enumerate() {
        ctx.clusters.push(begin_cluster(facts, at as u64, at, cluster));
    }
    // Blocks run in the order of their numbers.
    resident.sort_by_key(|block| block.linear);
    let result = take_turns(&mut ctx, &mut resident);
    let counters = ctx.take_counters();
    if let Some(profile) = &ctx.profile {
        profile::ran(kernel, profile);
    }
    *sanitizer = ctx.sanitizer.take();
    for block in resident.into_iter().chain([ctx.block]) {
        kernel.inner.pool.give(block);
    }
    result.map(|()| counters).map_err(|fault| *fault)
}

/// Runs resident blocks round by round until all have finished.
fn take_turns(ctx: &mut Context, resident: &mut [Block]) -> Result<(), Box<Fault>> {
    let mut left = resident.len();
    while left > 0 {
        let (mut any, mut stuck) = (false, None);
        for (at, block) in resident.iter_mut().enumerate().filter(|(_, b)| !b.finished) {
            std::mem::swap(&mut ctx.block, block);
            let round = ctx.round();
            std::mem::swap(&mut ctx.block, block);
            let Round { finished, ran } = round?;
            left -= finished as usize;
            any |= ran || finished;
            stuck.get_or_insert(at);
        }
        if let (false, Some(at)) = (any, stuck) {
            std::mem::swap(&mut ctx.block, &mut resident[at]);
            let fault = ctx.stuck_cluster();
            std::mem::swap(&mut ctx.block, &mut resident[at]);
            return Err(fault);
        }
    }
    Ok(())
}
