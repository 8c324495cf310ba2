//! What the threads of a warp, a block or a cluster do together, as LLVM's intrinsics and not as inline assembly.
//!
//! LLVM knows of an intrinsic that it is *convergent*: which threads reach it together must stay as it is written. Of inline assembly it
//! does not, and where a condition is asked before and behind it, may give each answer a copy of its own, which half the threads then wait at.

// "unadjusted": arguments as LLVM has them, a truth value as one bit.
unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.bar.warp.sync"]
    pub fn warp_barrier(lanes: u32);

    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    pub fn shuffle_index(lanes: u32, value: u32, from: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
    pub fn shuffle_butterfly(lanes: u32, value: u32, mask: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.up.i32"]
    pub fn shuffle_up(lanes: u32, value: u32, by: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.down.i32"]
    pub fn shuffle_down(lanes: u32, value: u32, by: u32, clamp: u32) -> u32;

    #[link_name = "llvm.nvvm.vote.any.sync"]
    pub fn any(lanes: u32, condition: bool) -> bool;
    #[link_name = "llvm.nvvm.vote.ballot.sync"]
    pub fn ballot(lanes: u32, condition: bool) -> u32;
    #[link_name = "llvm.nvvm.match.any.sync.i32"]
    pub fn match_any(lanes: u32, value: u32) -> u32;

    #[link_name = "llvm.nvvm.redux.sync.add"]
    pub fn sum(value: u32, lanes: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.umin"]
    pub fn min_unsigned(value: u32, lanes: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.umax"]
    pub fn max_unsigned(value: u32, lanes: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.min"]
    pub fn min_signed(value: i32, lanes: u32) -> i32;
    #[link_name = "llvm.nvvm.redux.sync.max"]
    pub fn max_signed(value: i32, lanes: u32) -> i32;
    #[link_name = "llvm.nvvm.redux.sync.and"]
    pub fn and(value: u32, lanes: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.or"]
    pub fn or(value: u32, lanes: u32) -> u32;
    #[link_name = "llvm.nvvm.redux.sync.xor"]
    pub fn xor(value: u32, lanes: u32) -> u32;
}

#[cfg(cuda_arch_at_least = "90")]
unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.barrier.cluster.arrive"]
    pub fn cluster_arrive();
    #[link_name = "llvm.nvvm.barrier.cluster.wait"]
    pub fn cluster_wait();
}
