//! Blocks that wait for the next launch of their kernel.

use crate::exec::{Block, LaunchFacts};
use crate::program::Program;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard};

/// Host memory that a kernel keeps for blocks of launches to come, in bytes.
const MOST_POOLED: usize = 64 << 20;

/// Blocks that ended launches left behind: their register files serve the next launch, whatever its shape. And what a
/// block of the kernel took, on average of the last launch.
#[derive(Default)]
pub(crate) struct BlockPool {
    blocks: Mutex<Vec<Block>>,
    pub(crate) instructions_per_block: AtomicU64,
}

impl BlockPool {
    fn blocks(&self) -> MutexGuard<'_, Vec<Block>> {
        self.blocks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A block to be set up by [`Block::begin`]. Registers hold what the last launch left, as on hardware.
    pub(crate) fn take(&self, program: &Program, facts: &LaunchFacts) -> Block {
        let known = self.blocks().pop();
        let mut block = known.unwrap_or_else(Block::new);
        block.reshape(program, facts.block, facts.shared_bytes);
        block
    }

    pub(crate) fn give(&self, block: Block) {
        let mut blocks = self.blocks();
        if (blocks.len() + 1) * block.bytes() <= MOST_POOLED {
            blocks.push(block);
        }
    }
}
