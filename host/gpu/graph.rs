//! Graphs: work that is enqueued once and launched often, by one call to the driver.
//!
//! [`Gpu::capture`] runs host code whose launches, asynchronous copies and fills the driver keeps instead of carrying
//! them out; the [`Graph`] carries them out, in order, each time it is launched. Kernel arguments are those of the
//! capture, so what changes from one launch to the next (a position, a token) is read from device memory.

use std::{mem, ptr};

use driver::captures::{self, Capturing};
use driver::sys::{
    CU_GRAPH_NODE_TYPE_KERNEL, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, CUgraph, CUgraphExec, CUgraphNode, CUstream,
    cuGraphDestroy, cuGraphExecDestroy, cuGraphGetNodes, cuGraphInstantiateWithFlags, cuGraphLaunch,
    cuGraphNodeGetType, cuGraphUpload, cuStreamBeginCapture_v2, cuStreamEndCapture,
};

use super::{Gpu, GpuError, check_call};

/// Captured work, ready to be launched.
///
/// Like a buffer, it is dropped before the [`Gpu`] that it was made on.
#[derive(Debug)]
pub struct Graph {
    executable: CUgraphExec,
    n_kernels: usize,
}

/// What a capture ends in, before it is made executable.
struct Captured(CUgraph);

impl Drop for Captured {
    fn drop(&mut self) {
        // SAFETY: the graph is this value's own. A failure leaves nothing to be done.
        let _ = unsafe { cuGraphDestroy(self.0) };
    }
}

impl Captured {
    /// How many of the nodes are kernels.
    fn n_kernels(&self) -> Result<usize, GpuError> {
        let action = || "reading a graph".to_owned();
        let mut count = 0;
        // SAFETY: without an array the driver gives the number only.
        check_call(action, unsafe { cuGraphGetNodes(self.0, ptr::null_mut(), &mut count) })?;
        let mut nodes: Vec<CUgraphNode> = vec![ptr::null_mut(); count];
        // SAFETY: the array has `count` elements.
        check_call(action, unsafe { cuGraphGetNodes(self.0, nodes.as_mut_ptr(), &mut count) })?;
        let mut n_kernels = 0;
        for node in nodes {
            let mut node_type = 0;
            // SAFETY: a node of this graph.
            check_call(action, unsafe { cuGraphNodeGetType(node, &mut node_type) })?;
            n_kernels += usize::from(node_type == CU_GRAPH_NODE_TYPE_KERNEL);
        }
        Ok(n_kernels)
    }
}

/// A stream's capture; ends it, if nothing else does.
struct Capture {
    /// Null once it has ended.
    stream: CUstream,
    /// Keeps other threads from waiting for the whole device, which would spoil the capture.
    _alone: Capturing,
}

impl Capture {
    fn begin(stream: CUstream) -> Result<Self, GpuError> {
        let alone = captures::capturing();
        // SAFETY: the stream is live. The mode binds this thread only: no other enqueues on the stream.
        let result = unsafe { cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) };
        check_call(|| "beginning to capture a graph".into(), result)?;
        Ok(Capture { stream, _alone: alone })
    }

    fn end(mut self) -> Result<Captured, GpuError> {
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is live, and captures.
        let result = unsafe { cuStreamEndCapture(mem::replace(&mut self.stream, ptr::null_mut()), &mut graph) };
        check_call(|| "capturing a graph".into(), result)?;
        Ok(Captured(graph))
    }
}

/// After an error or a panic: the stream goes on as if it had not captured.
impl Drop for Capture {
    fn drop(&mut self) {
        if self.stream.is_null() {
            return;
        }
        let mut graph = ptr::null_mut();
        // SAFETY: the stream is live. If the capture became invalid there is no graph, which is not news here.
        let _ = unsafe { cuStreamEndCapture(self.stream, &mut graph) };
        if !graph.is_null() {
            drop(Captured(graph));
        }
    }
}

impl Gpu {
    /// Runs `record` with the stream capturing, and gives what it enqueued as a graph. Nothing of it is carried out.
    ///
    /// `record` may not allocate or free device memory, wait for the device, or copy from or to host memory that is not
    /// pinned. An error of its own is given back, and what was captured is dropped. Meanwhile other threads may do with the
    /// device what they like: what would spoil the capture waits for its end ([`driver::captures`]).
    pub fn capture<E: From<GpuError>>(&self, record: impl FnOnce() -> Result<(), E>) -> Result<Graph, E> {
        self.cublas.settle();
        let capture = Capture::begin(self.stream.as_inner().cast())?;
        record()?;
        Ok(self.instantiate(capture.end()?)?)
    }

    fn instantiate(&self, captured: Captured) -> Result<Graph, GpuError> {
        let n_kernels = captured.n_kernels()?;
        let mut executable = ptr::null_mut();
        // SAFETY: the captured graph is live.
        let result = unsafe { cuGraphInstantiateWithFlags(&mut executable, captured.0, 0) };
        check_call(|| "making a graph executable".into(), result)?;
        let graph = Graph { executable, n_kernels };
        // What the first launch would otherwise do.
        // SAFETY: the graph and the stream are live.
        let result = unsafe { cuGraphUpload(graph.executable, self.stream.as_inner().cast()) };
        check_call(|| "bringing a graph to the device".into(), result)?;
        Ok(graph)
    }
}

impl Graph {
    /// Enqueues the graph's work, on the device that it was captured on.
    ///
    /// # Safety
    /// - What the captured launches and copies use is there as it was then: no buffer among it was dropped, and the launch
    ///   contracts of the kernels hold for what is in them now.
    pub unsafe fn launch(&self, gpu: &Gpu) -> Result<(), GpuError> {
        // SAFETY: graph and stream are live; the caller's contract.
        let result = unsafe { cuGraphLaunch(self.executable, gpu.stream.as_inner().cast()) };
        check_call(|| "launching a graph".into(), result)
    }

    /// The number of kernels that one launch of the graph runs.
    pub fn n_kernels(&self) -> usize {
        self.n_kernels
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: the graph is this value's own; one that still runs is freed when it has ended. A failure leaves nothing
        // to be done.
        let _ = unsafe { cuGraphExecDestroy(self.executable) };
    }
}
