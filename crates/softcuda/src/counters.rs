//! What a launch did, counted: exact, and the same however many host threads ran it.
//!
//! A *warp instruction* is one PTX instruction issued for one group of converged lanes; a predicated instruction whose
//! predicate is false in every lane still counts, as it does on hardware. A *sector* is 32 bytes of global memory: each
//! warp instruction counts the distinct sectors its lanes touch. Shared memory has 32 banks of 4 bytes; a request needs
//! as many wavefronts as the most-used bank has distinct words, 8-byte requests going by half warp and 16-byte ones by
//! quarter warp; [`Counters::shared_conflicts`] counts the wavefronts beyond those that any such request needs.

/// The class of an instruction, the index of [`Counters::by_class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Integer and logic arithmetic, predicates, selects, reads of special registers.
    Integer,
    /// Moves from register to register and of constants, packing and unpacking included, and conversions between generic
    /// and global addresses, which are equal: what an assembler mostly makes no machine instruction of.
    Move,
    /// Floating-point arithmetic and comparison.
    Float,
    /// `cvt`.
    Conversion,
    /// Loads from global or constant memory, and generic loads.
    GlobalLoad,
    /// Stores to global memory, and generic stores.
    GlobalStore,
    /// Loads from shared memory, `ldmatrix` included.
    SharedLoad,
    /// Stores to shared memory.
    SharedStore,
    /// Local memory, and the parameters of calls.
    Local,
    /// Reads of kernel parameters.
    Parameter,
    /// `atom` and `red`.
    Atomic,
    /// `shfl`, `vote`, `match`, `redux`, `activemask`, `elect`.
    Shuffle,
    /// Barriers of a block or a warp.
    Barrier,
    /// Branches, calls, returns.
    Control,
    /// `mma`.
    Tensor,
    /// Asynchronous copies from global to shared memory.
    AsyncCopy,
    /// Fences, prefetches, cache hints, `nanosleep`.
    Other,
}

impl Class {
    /// Every class, in index order.
    pub const ALL: [Class; 17] = [
        Class::Integer,
        Class::Move,
        Class::Float,
        Class::Conversion,
        Class::GlobalLoad,
        Class::GlobalStore,
        Class::SharedLoad,
        Class::SharedStore,
        Class::Local,
        Class::Parameter,
        Class::Atomic,
        Class::Shuffle,
        Class::Barrier,
        Class::Control,
        Class::Tensor,
        Class::AsyncCopy,
        Class::Other,
    ];
}

/// The counts of one launch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Warp instructions by class; index with `Class as usize` or use [`Counters::class`].
    pub by_class: [u64; 17],
    /// Distinct 32-byte sectors of global memory read, summed over warp instructions.
    pub global_load_sectors: u64,
    /// Distinct 32-byte sectors of global memory written (plain stores; atomics count in `atomic_sectors`).
    pub global_store_sectors: u64,
    /// Distinct 32-byte sectors touched by atomics on global memory.
    pub atomic_sectors: u64,
    /// Bytes of global memory that active lanes asked to read.
    pub global_load_bytes: u64,
    /// Bytes of global memory that active lanes asked to write.
    pub global_store_bytes: u64,
    /// Bytes of shared memory that active lanes asked to read.
    pub shared_load_bytes: u64,
    /// Bytes of shared memory that active lanes asked to write.
    pub shared_store_bytes: u64,
    /// Wavefronts of shared memory beyond the fewest that requests of that width need.
    pub shared_conflicts: u64,
    /// The most wavefronts that such a request, or such a part of one, needed: 2 for a two-way conflict. 0 where none needed
    /// more than the fewest.
    pub shared_ways: u64,
    /// Barrier arrivals of warps (`bar.sync`, `barrier.sync`, `bar.red`, `bar.arrive`).
    pub barriers: u64,
    /// Branches at which the lanes of a warp went both ways.
    pub divergent_branches: u64,
}

impl Counters {
    /// Warp instructions in total.
    pub fn warp_instructions(&self) -> u64 {
        self.by_class.iter().sum()
    }

    /// Warp instructions of one class.
    pub fn class(&self, class: Class) -> u64 {
        self.by_class[class as usize]
    }

    /// Counts a shared request by its wavefronts beyond the fewest and the most of a part of it.
    pub(crate) fn count_wavefronts(&mut self, (extra, ways): (u64, u64)) {
        if extra > 0 {
            self.shared_conflicts += extra;
            self.shared_ways = self.shared_ways.max(ways);
        }
    }

    /// Adds what another launch, or another part of the same, did.
    pub fn add(&mut self, other: &Counters) {
        for (total, part) in self.by_class.iter_mut().zip(other.by_class) {
            *total += part;
        }
        self.global_load_sectors += other.global_load_sectors;
        self.global_store_sectors += other.global_store_sectors;
        self.atomic_sectors += other.atomic_sectors;
        self.global_load_bytes += other.global_load_bytes;
        self.global_store_bytes += other.global_store_bytes;
        self.shared_load_bytes += other.shared_load_bytes;
        self.shared_store_bytes += other.shared_store_bytes;
        self.shared_conflicts += other.shared_conflicts;
        self.shared_ways = self.shared_ways.max(other.shared_ways);
        self.barriers += other.barriers;
        self.divergent_branches += other.divergent_branches;
    }
}

/// One launch, as kept while recording is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaunchRecord {
    /// The kernel's name.
    pub kernel: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads per block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory per block.
    pub dynamic_shared: u32,
    /// Whether all blocks were resident at once.
    pub cooperative: bool,
    /// Whether it could have started before the kernel before it had ended.
    pub early: bool,
    /// What the launch did.
    pub counters: Counters,
    /// The sectors read of each allocation, as `global_load_sectors` counts them; those of which none was read are not here.
    pub reads: Vec<AllocationReads>,
}

/// What a launch read of one allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocationReads {
    /// Where the allocation begins.
    pub address: u64,
    /// Distinct 32-byte sectors, summed over warp instructions.
    pub sectors: u64,
}
