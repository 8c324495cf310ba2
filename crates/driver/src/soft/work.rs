//! What a stream is given to do, as values: each can run at once or, captured, any number of times later.

use std::ffi::{c_uint, c_void};

use softcuda::{Device, Kernel, Launch};

use super::copy::{Fill, Rows};
use super::{Outcome, host, memory};
use crate::sys::*;

/// One operation, with everything that it needs.
pub(crate) enum Work {
    Kernel {
        device: &'static Device,
        kernel: Kernel,
        launch: Launch,
        /// Blocks of a cluster in x, y, z, where the launch says so.
        cluster: Option<[u32; 3]>,
        parameters: Vec<u8>,
    },
    CopyToDevice {
        to: CUdeviceptr,
        from: *const c_void,
        bytes: usize,
    },
    CopyToHost {
        to: *mut c_void,
        from: CUdeviceptr,
        bytes: usize,
    },
    CopyOnDevice {
        to: CUdeviceptr,
        from: CUdeviceptr,
        bytes: usize,
    },
    /// A copy between any two places.
    CopyRows(Rows),
    Fill {
        address: CUdeviceptr,
        pattern: Pattern,
        count: usize,
    },
    FillRows(Fill),
    HostFunction {
        function: unsafe extern "C" fn(*mut c_void),
        user_data: *mut c_void,
    },
}

/// The value that a fill writes over and over.
#[derive(Clone, Copy)]
pub(crate) enum Pattern {
    Bytes1([u8; 1]),
    Bytes2([u8; 2]),
    Bytes4([u8; 4]),
}

impl Pattern {
    /// Its bytes.
    pub fn width(self) -> usize {
        match self {
            Pattern::Bytes1(_) => 1,
            Pattern::Bytes2(_) => 2,
            Pattern::Bytes4(_) => 4,
        }
    }
}

// SAFETY: the pointers are addresses of the caller's memory, whose use from other threads its promises cover as with a
// real driver, which touches them from threads of its own.
unsafe impl Send for Work {}
// SAFETY: as above; nothing here changes through a shared reference.
unsafe impl Sync for Work {}

impl Work {
    /// Does it now.
    ///
    /// # Safety
    /// - Host pointers are valid for what is read or written there; a host function may be called with its data.
    pub unsafe fn run(&self) -> Outcome {
        match *self {
            Work::Kernel { device, ref kernel, ref launch, cluster, ref parameters } => {
                match cluster {
                    Some(cluster) => device.launch_clusters(kernel, launch, cluster, parameters)?,
                    None => device.launch(kernel, launch, parameters)?,
                };
                Ok(())
            }
            // SAFETY: the caller's promise.
            Work::CopyToDevice { to, from, bytes } => unsafe { memory::copy_to_device(to, from, bytes) },
            // SAFETY: the caller's promise.
            Work::CopyToHost { to, from, bytes } => unsafe { memory::copy_to_host(to, from, bytes) },
            Work::CopyOnDevice { to, from, bytes } => memory::copy_on_device_now(to, from, bytes),
            // SAFETY: the caller's promise.
            Work::CopyRows(ref rows) => unsafe { rows.run() },
            Work::Fill { address, pattern, count } => memory::fill(address, pattern, count),
            Work::FillRows(ref rows) => rows.run(),
            Work::HostFunction { function, user_data } => {
                // SAFETY: the caller's promise.
                unsafe { function(user_data) };
                Ok(())
            }
        }
    }

    /// Whether it may be part of a graph, where it runs later: its addresses are looked at now, as a driver does, and
    /// host memory must be page-locked, so that it is still there.
    pub fn check_for_graph(&self) -> Outcome {
        match *self {
            Work::Kernel { .. } | Work::HostFunction { .. } => Ok(()),
            Work::CopyToDevice { to, from, bytes } => {
                host::expect_page_locked(from.addr(), bytes)?;
                memory::expect_on_device(to, bytes)
            }
            Work::CopyToHost { to, from, bytes } => {
                host::expect_page_locked(to.addr(), bytes)?;
                memory::expect_on_device(from, bytes)
            }
            Work::CopyOnDevice { to, from, bytes } => {
                memory::expect_on_device(to, bytes)?;
                memory::expect_on_device(from, bytes)
            }
            Work::CopyRows(ref rows) => rows.check_for_graph(),
            Work::Fill { address, pattern, count } => {
                memory::expect_on_device(address, count.saturating_mul(pattern.width()))
            }
            Work::FillRows(ref rows) => rows.check_for_graph(),
        }
    }

    /// The `CUgraphNodeType` of the node that it becomes.
    pub fn node_type(&self) -> c_uint {
        match self {
            Work::Kernel { .. } => CU_GRAPH_NODE_TYPE_KERNEL,
            Work::CopyToDevice { .. } | Work::CopyToHost { .. } | Work::CopyOnDevice { .. } | Work::CopyRows(_) => {
                CU_GRAPH_NODE_TYPE_MEMCPY
            }
            Work::Fill { .. } | Work::FillRows(_) => CU_GRAPH_NODE_TYPE_MEMSET,
            Work::HostFunction { .. } => CU_GRAPH_NODE_TYPE_HOST,
        }
    }
}
