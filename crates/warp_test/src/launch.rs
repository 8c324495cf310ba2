//! How a kernel is launched, and what is known of it afterwards.

use softcuda::Counters;

/// Grid, block, dynamic shared memory and clusters of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// Whether all blocks are resident at once and may wait for one another.
    pub cooperative: bool,
    /// Blocks of a cluster in x, y, z, of which the grid must be made; each block by itself unless told.
    pub cluster: Option<[u32; 3]>,
}

impl Launch {
    /// This many blocks of this many threads, each in x.
    pub fn new(grid: u32, block: u32) -> Launch {
        Launch::grid([grid, 1, 1], [block, 1, 1])
    }

    /// A thread for each of `n` elements: as many blocks of `block` threads as hold them, and at least one.
    pub fn over(n: u32, block: u32) -> Launch {
        Launch::new(n.div_ceil(block).max(1), block)
    }

    /// Blocks and threads in x, y, z.
    pub fn grid(grid: [u32; 3], block: [u32; 3]) -> Launch {
        Launch { grid, block, shared_bytes: 0, cooperative: false, cluster: None }
    }

    /// With dynamic shared memory.
    pub fn shared_bytes(self, shared_bytes: u32) -> Launch {
        Launch { shared_bytes, ..self }
    }

    /// With all blocks resident at once.
    pub fn cooperative(self) -> Launch {
        Launch { cooperative: true, ..self }
    }

    /// In clusters of so many blocks in x, y, z: they run at once and reach one another's shared memory. A Hopper has clusters of
    /// 16 blocks, every GPU that has clusters those of 8.
    pub fn cluster(self, cluster: [u32; 3]) -> Launch {
        Launch { cluster: Some(cluster), ..self }
    }
}

/// A launch that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Launched {
    pub(crate) counters: Option<Counters>,
}

impl Launched {
    /// What the launch did, exactly, as softcuda counted it. A GPU counts nothing.
    pub fn counters(&self) -> Option<Counters> {
        self.counters
    }
}
