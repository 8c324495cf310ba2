//! Graphs: captured work, and what is instantiated from it to be launched.
//!
//! The work of a graph runs in the order in which it was captured: a chain. Launching it is one call; each kernel in it
//! is a launch of its own to the device's counters and records.

use std::ffi::{c_uint, c_ulonglong};
use std::ptr;
use std::sync::Arc;

use super::owner::{self, Owner};
use super::registry::Registry;
use super::work::Work;
use super::{Failure, Outcome, capture, give, stream};
use crate::sys::*;

struct Graph {
    owner: Owner,
    work: Arc<Vec<Work>>,
    /// The handle of each node, in order.
    nodes: Vec<usize>,
}

struct Node {
    owner: Owner,
    node_type: c_uint,
}

struct Executable {
    owner: Owner,
    work: Arc<Vec<Work>>,
}

static GRAPHS: Registry<Graph> = Registry::new("graph");
static NODES: Registry<Node> = Registry::new("graph node");
static EXECUTABLES: Registry<Executable> = Registry::new("executable graph");

/// Ends the graphs of a context.
pub(crate) fn release(owner: Owner) {
    GRAPHS.retain(|graph| graph.owner != owner);
    NODES.retain(|node| node.owner != owner);
    EXECUTABLES.retain(|executable| executable.owner != owner);
}

/// A graph of captured work.
pub(super) fn create(work: Vec<Work>) -> Result<CUgraph, Failure> {
    let owner = owner::current()?;
    let node = |work: &Work| NODES.insert(Node { owner, node_type: work.node_type() }).addr();
    let nodes = work.iter().map(node).collect();
    Ok(GRAPHS.insert(Graph { owner, work: Arc::new(work), nodes }))
}

pub(crate) fn destroy(graph: CUgraph) -> Outcome {
    owner::current()?;
    let graph = GRAPHS.remove(graph)?;
    for &node in &graph.nodes {
        NODES.remove(ptr::without_provenance_mut(node))?;
    }
    Ok(())
}

/// The nodes, or their number where `nodes` is null. Entries of the array beyond them become null.
pub(crate) unsafe fn get_nodes(graph: CUgraph, nodes: *mut CUgraphNode, count: *mut usize) -> Outcome {
    owner::current()?;
    let graph = GRAPHS.get(graph)?;
    if count.is_null() {
        return Err(Failure::invalid_value("the pointer for the number of nodes is null"));
    }
    if !nodes.is_null() {
        // SAFETY: not null; the caller gives the array's length in it.
        let room = unsafe { count.read_unaligned() };
        for index in 0..room {
            let node = graph.nodes.get(index).copied().unwrap_or(0);
            // SAFETY: the caller promises `room` elements.
            unsafe { give(nodes.add(index), ptr::without_provenance_mut(node)) }?;
        }
    }
    // SAFETY: the caller's pointer for the number.
    unsafe { give(count, graph.nodes.len()) }
}

pub(crate) unsafe fn node_type(node: CUgraphNode, node_type: *mut c_uint) -> Outcome {
    owner::current()?;
    // SAFETY: the caller's pointer for the type.
    unsafe { give(node_type, NODES.get(node)?.node_type) }
}

pub(crate) unsafe fn instantiate(executable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong) -> Outcome {
    let owner = owner::current()?;
    if flags != 0 {
        return Err(Failure::new(CUDA_ERROR_NOT_SUPPORTED, format!("graph flags {flags:#x}; softcuda takes 0")));
    }
    let work = GRAPHS.get(graph)?.work.clone();
    if executable.is_null() {
        return Err(Failure::invalid_value("the pointer for the handle is null"));
    }
    // SAFETY: the caller's pointer for the handle.
    unsafe { give(executable, EXECUTABLES.insert(Executable { owner, work })) }
}

pub(crate) fn destroy_executable(executable: CUgraphExec) -> Outcome {
    owner::current()?;
    EXECUTABLES.remove(executable).map(drop)
}

/// There is nothing to bring to the device beforehand.
pub(crate) fn upload(executable: CUgraphExec, stream: CUstream) -> Outcome {
    stream::check(stream)?;
    capture::refuse(stream, "the upload of a graph")?;
    EXECUTABLES.get(executable).map(drop)
}

pub(crate) unsafe fn launch(executable: CUgraphExec, stream: CUstream) -> Outcome {
    stream::check(stream)?;
    capture::refuse(stream, "the launch of another graph")?;
    let executable = EXECUTABLES.get(executable)?;
    let device = owner::current_device()?;
    // The graph's first kernel starts after what was before, and what comes after the graph after its last.
    device.end_chain();
    // SAFETY: who captured the work promised that it may run whenever the graph is launched.
    let outcome = executable.work.iter().try_for_each(|work| unsafe { work.run() });
    device.end_chain();
    outcome
}

/// The parameters are the flags, the stream that an upload would be in, and two answers about failures.
pub(crate) unsafe fn instantiate_with_parameters(
    executable: *mut CUgraphExec,
    graph: CUgraph,
    parameters: *mut CUDA_GRAPH_INSTANTIATE_PARAMS,
) -> Outcome {
    if parameters.is_null() {
        return Err(Failure::invalid_value("the pointer to the parameters is null"));
    }
    // SAFETY: not null; the caller promises a structure.
    let mut answered = unsafe { parameters.read_unaligned() };
    (answered.hErrNode_out, answered.result_out) = (ptr::null_mut(), 0);
    // Flag 2 uploads at once, which there is no need for.
    // SAFETY: the caller's pointers.
    unsafe {
        instantiate(executable, graph, answered.flags & !2)?;
        give(parameters, answered)
    }
}
