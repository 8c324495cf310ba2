//! The device: memory, settings, and the entry points of the host.

use crate::counters::{Counters, LaunchRecord};
use crate::exec::lanes::wide_is_supported;
use crate::fault::{Fault, FaultKind};
use crate::launch::World;
use crate::memory::{MOST_DEVICES, Memory, ordinal_of};
use crate::module::{Kernel, LoadedModule, Module};
use crate::output::{Output, Sink, to_stdout};
use crate::ptx::ast::StateSpace;
use crate::sanitizer::Chain;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// What a device is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceConfig {
    /// Which of the process's devices it is, less than [`Device::MOST`]: it decides where the device's addresses lie.
    pub ordinal: u32,
    /// Bytes of global memory. Host memory is only used for what is touched.
    pub total_memory: usize,
    /// Host threads that run the blocks of a launch.
    pub threads: usize,
    /// Multiprocessors that the device reports.
    pub sm_count: u32,
    /// Compute capability that the device reports.
    pub compute_capability: (u32, u32),
    /// Instructions after which a warp is taken to loop for ever ([`FaultKind::Timeout`]).
    pub instruction_limit: u64,
    /// Use AVX2 and FMA where the CPU has them. The results are the same without.
    pub wide: bool,
}

impl Default for DeviceConfig {
    /// 8 GiB, a thread per CPU, 16 multiprocessors, compute capability 9.0 (Hopper).
    fn default() -> DeviceConfig {
        DeviceConfig {
            ordinal: 0,
            total_memory: 8 << 30,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            sm_count: 16,
            compute_capability: (9, 0),
            instruction_limit: 2_000_000_000,
            wide: true,
        }
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads per block in x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory per block.
    pub dynamic_shared: u32,
    /// All blocks are resident at once and may wait for one another.
    pub cooperative: bool,
    /// On a GPU it may start before the kernel before it has ended (programmatic dependent launch). Here it does not; the
    /// sanitizer checks that it would not matter.
    pub early: bool,
}

/// An allocation that was not freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveAllocation {
    /// Its first byte.
    pub address: u64,
    /// Bytes that were asked for.
    pub bytes: usize,
    /// How many allocations the device had made before it.
    pub number: usize,
}

/// Bytes of a grid-wide barrier's memory.
const WORKSPACE_BYTES: usize = 64;

/// A software CUDA device. All methods may be called from any thread; a launch returns when the kernel has ended.
pub struct Device {
    config: DeviceConfig,
    memory: Arc<RwLock<Memory>>,
    /// The memory of the devices that this one's kernels may access, by ordinal.
    peers: RwLock<BTreeMap<u32, Arc<RwLock<Memory>>>>,
    sanitizer: AtomicBool,
    recording: AtomicBool,
    records: Mutex<Vec<LaunchRecord>>,
    /// Under the sanitizer, the launches that a GPU might still be running when the next one starts early.
    chain: Mutex<Chain>,
    sink: Mutex<Sink>,
}

impl Device {
    /// The most devices of a process.
    pub const MOST: u32 = MOST_DEVICES;

    /// A device with empty memory.
    ///
    /// # Panics
    /// Where the ordinal is not below [`Device::MOST`]: its addresses would be the host's.
    pub fn new(config: DeviceConfig) -> Device {
        assert!(config.ordinal < Device::MOST, "device {} of at most {}", config.ordinal, Device::MOST);
        Device {
            memory: Arc::new(RwLock::new(Memory::new(config.ordinal, config.total_memory))),
            peers: RwLock::new(BTreeMap::new()),
            config,
            sanitizer: AtomicBool::new(false),
            recording: AtomicBool::new(false),
            records: Mutex::new(Vec::new()),
            chain: Mutex::new(Chain::default()),
            sink: Mutex::new(Box::new(to_stdout)),
        }
    }

    /// What the device was made with.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    // A panic while a lock is held leaves the tables whole: each change is one step.
    fn memory(&self) -> RwLockReadGuard<'_, Memory> {
        self.memory.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn memory_mut(&self) -> RwLockWriteGuard<'_, Memory> {
        self.memory.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn records_mut(&self) -> MutexGuard<'_, Vec<LaunchRecord>> {
        self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Says that everything launched so far has ended before what comes: a launch after this that starts early overlaps
    /// with none before it. The device says so itself when the host copies or fills memory.
    pub fn end_chain(&self) {
        *self.chain() = Chain::default();
    }

    /// Allocates `bytes` bytes, at least 1, and returns their device address, a multiple of 256.
    ///
    /// The same calls give the same addresses on every run, and no address is given out twice.
    ///
    /// # Errors
    /// [`FaultKind::InvalidValue`] for 0 bytes, [`FaultKind::OutOfMemory`] when the device has not that many.
    pub fn alloc(&self, bytes: usize) -> Result<u64, Fault> {
        self.memory_mut().alloc(bytes)
    }

    /// Frees what [`Device::alloc`] returned.
    ///
    /// # Errors
    /// A double free is [`FaultKind::UseAfterFree`]; an address inside an allocation or elsewhere [`FaultKind::InvalidValue`].
    pub fn free(&self, address: u64) -> Result<(), Fault> {
        self.memory_mut().free(address)
    }

    /// What was allocated and not yet freed, in the order of allocation: at the end of a program, what it leaks. A module's
    /// variables are not among them.
    pub fn live(&self) -> Vec<LiveAllocation> {
        self.memory().live()
    }

    /// Free and total bytes.
    pub fn memory_info(&self) -> (usize, usize) {
        self.memory().info()
    }

    /// The start and length of the allocation that holds an address.
    ///
    /// # Errors
    /// A [`Fault`] when none does.
    pub fn address_range(&self, address: u64) -> Result<(u64, usize), Fault> {
        self.memory().range(address, 1).map(|a| (a.base, a.len))
    }

    /// Copies from the host to the device.
    ///
    /// # Errors
    /// A [`Fault`] when the bytes do not lie in one live allocation, as in all the copies below.
    pub fn write(&self, dst: u64, src: &[u8]) -> Result<(), Fault> {
        self.end_chain();
        self.memory().write(dst, src)
    }

    /// Copies from the device to the host.
    ///
    /// # Errors
    /// As [`Device::write`]; under the sanitizer [`FaultKind::Uninitialised`], where no kernel, copy or fill wrote a byte of it.
    pub fn read(&self, src: u64, dst: &mut [u8]) -> Result<(), Fault> {
        self.end_chain();
        if !dst.is_empty() {
            self.check_initialised(src, dst.len())?;
        }
        self.memory().read(src, dst)
    }

    /// Copies inside the device, the initialised state included. The ranges may overlap.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub fn copy(&self, dst: u64, src: u64, bytes: usize) -> Result<(), Fault> {
        self.end_chain();
        let memory = self.memory();
        memory.copy_from(dst, &memory, src, bytes)
    }

    /// Copies from another device to this one, the initialised state included. No peer access is needed.
    ///
    /// # Errors
    /// As [`Device::write`], on either device.
    pub fn copy_from(&self, dst: u64, source: &Device, src: u64, bytes: usize) -> Result<(), Fault> {
        if std::ptr::eq(self, source) {
            return self.copy(dst, src, bytes);
        }
        self.end_chain();
        source.end_chain();
        self.memory().copy_from(dst, &source.memory(), src, bytes)
    }

    /// The ordinal of the device in whose range of addresses this one lies; none for a host address.
    pub fn ordinal_of(address: u64) -> Option<u32> {
        ordinal_of(address)
    }

    /// Lets this device's kernels access the memory of another, from the next launch on.
    pub fn enable_peer_access(&self, peer: &Device) {
        self.peers_mut().insert(peer.config.ordinal, peer.memory.clone());
    }

    /// Ends what [`Device::enable_peer_access`] began.
    pub fn disable_peer_access(&self, peer: &Device) {
        self.peers_mut().remove(&peer.config.ordinal);
    }

    /// Whether this device's kernels may access the memory of another.
    pub fn has_peer_access(&self, peer: &Device) -> bool {
        self.peers.read().unwrap_or_else(|poisoned| poisoned.into_inner()).contains_key(&peer.config.ordinal)
    }

    fn peers_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<u32, Arc<RwLock<Memory>>>> {
        self.peers.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Makes host memory accessible to kernels and copies, at the address that it has on the host. All of it counts as
    /// written.
    ///
    /// # Errors
    /// [`FaultKind::InvalidValue`] for no bytes, or where a part is mapped already.
    ///
    /// # Safety
    /// - The memory is valid for reads and writes until [`Device::unmap_host`], from any thread while a launch or copy runs.
    pub unsafe fn map_host(&self, memory: *mut u8, bytes: usize) -> Result<(), Fault> {
        self.memory_mut().map(memory, bytes)
    }

    /// Ends what [`Device::map_host`] began for the memory that starts at this address.
    ///
    /// # Errors
    /// [`FaultKind::InvalidValue`] where none does.
    pub fn unmap_host(&self, address: u64) -> Result<(), Fault> {
        self.memory_mut().unmap(address)
    }

    /// Writes `count` copies of a pattern of 1, 2 or 4 bytes.
    ///
    /// # Errors
    /// As [`Device::write`]; [`FaultKind::Misaligned`] when `dst` is no multiple of the pattern's size.
    pub fn fill<const N: usize>(&self, dst: u64, pattern: [u8; N], count: usize) -> Result<(), Fault> {
        const { assert!(N == 1 || N == 2 || N == 4, "a pattern has 1, 2 or 4 bytes") };
        self.end_chain();
        self.memory().fill(dst, &pattern, count)
    }

    /// Where the bytes lie on the host, for library calls that work on device memory. Valid until the allocation is freed.
    ///
    /// # Errors
    /// As [`Device::write`].
    pub fn host_pointer(&self, address: u64, bytes: usize) -> Result<*mut u8, Fault> {
        self.end_chain();
        self.memory().range(address, bytes).map(|a| a.host(address))
    }

    /// Says that somebody outside wrote these bytes through [`Device::host_pointer`].
    ///
    /// # Errors
    /// As [`Device::write`].
    pub fn mark_initialised(&self, address: u64, bytes: usize) -> Result<(), Fault> {
        self.memory().range(address, bytes).map(|a| a.mark(address, bytes))
    }

    /// Checks, when the sanitizer is on, that each of these bytes was written.
    ///
    /// # Errors
    /// [`FaultKind::Uninitialised`] with the first byte that was not; as [`Device::write`].
    pub fn check_initialised(&self, address: u64, bytes: usize) -> Result<(), Fault> {
        let memory = self.memory();
        let allocation = memory.range(address, bytes)?;
        match allocation.first_unwritten(address, bytes) {
            Some(hole) if self.sanitizer() => Err(Fault::new(
                FaultKind::Uninitialised,
                format!(
                    "read of {bytes} bytes at {address:#x}: the byte at {hole:#x} of the {}-byte allocation at {:#x} was never written",
                    allocation.len, allocation.base
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Switches the checks for uninitialised reads and for hazards, from the next launch on.
    pub fn set_sanitizer(&self, on: bool) {
        self.sanitizer.store(on, Relaxed);
    }

    /// Whether the sanitizer is on.
    pub fn sanitizer(&self) -> bool {
        self.sanitizer.load(Relaxed)
    }

    /// Places a module's variables in device memory and makes its kernels ready.
    ///
    /// # Errors
    /// [`FaultKind::OutOfMemory`] when the variables do not fit.
    pub fn load(&self, module: &Module) -> Result<LoadedModule, Fault> {
        let mut addresses = vec![0; module.text.variables.len()];
        let mut globals = BTreeMap::new();
        for (i, known) in module.text.variables.iter().enumerate() {
            let v = &known.variable;
            if v.space != StateSpace::Shared {
                addresses[i] = self.memory_mut().alloc_variable(v.size)?;
                globals.insert(v.name.clone(), (addresses[i], v.size));
            }
        }
        for (i, known) in module.text.variables.iter().enumerate() {
            if known.variable.space == StateSpace::Shared {
                continue;
            }
            let mut bytes = module
                .text
                .contents(known, &addresses)
                .map_err(|message| Fault::new(FaultKind::InvalidValue, message))?;
            // What the initialiser leaves out is zero, as in C.
            bytes.resize(known.variable.size, 0);
            self.write(addresses[i], &bytes)?;
        }
        if module.text.uses_heap() {
            self.memory_mut().make_heap()?;
        }
        let wide = self.config.wide && wide_is_supported();
        Ok(LoadedModule::new(module, addresses, globals, wide))
    }

    /// Frees the variables that [`Device::load`] placed. The module's kernels are not to be launched afterwards: one that
    /// touches a variable ends with [`FaultKind::UseAfterFree`].
    ///
    /// # Errors
    /// As [`Device::free`], for a module that was unloaded before.
    pub fn unload(&self, module: &LoadedModule) -> Result<(), Fault> {
        module.placed.globals.values().try_for_each(|&(address, _)| self.free(address))
    }

    /// Runs a kernel to its end. `params` is the packed parameter space, see [`Kernel::param_layout`].
    ///
    /// # Errors
    /// The first [`Fault`] of the kernel, or [`FaultKind::InvalidLaunch`] for sizes that do not fit.
    pub fn launch(&self, kernel: &Kernel, launch: &Launch, params: &[u8]) -> Result<Counters, Fault> {
        self.launch_with(kernel, launch, None, params)
    }

    /// As [`Device::launch`], in clusters of so many blocks in x, y, z: they run at once and reach one another's shared memory.
    /// A kernel with `.reqnctapercluster` is launched so by [`Device::launch`] too.
    ///
    /// # Errors
    /// As [`Device::launch`]; [`FaultKind::InvalidLaunch`] for a grid that is not made of whole clusters.
    pub fn launch_clusters(
        &self,
        kernel: &Kernel,
        launch: &Launch,
        cluster: [u32; 3],
        params: &[u8],
    ) -> Result<Counters, Fault> {
        self.launch_with(kernel, launch, Some(cluster), params)
    }

    fn launch_with(
        &self,
        kernel: &Kernel,
        launch: &Launch,
        cluster: Option<[u32; 3]>,
        params: &[u8],
    ) -> Result<Counters, Fault> {
        // A cooperative kernel finds the memory of its grid-wide barrier by `%envreg1` and `%envreg2`.
        let workspace = match launch.cooperative && kernel.inner.program.uses_environment {
            true => {
                let address = self.memory_mut().alloc_variable(WORKSPACE_BYTES)?;
                self.memory().fill(address, &[0], WORKSPACE_BYTES)?;
                address
            }
            false => 0,
        };
        let world = World { output: Output::default(), workspace, cluster, reductions: Mutex::new(()) };
        let result = self.launch_in(kernel, launch, params, &world);
        if workspace != 0 {
            self.free(workspace)?;
        }
        let text = world.output.take();
        if !text.is_empty() {
            (self.sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))(&text);
        }
        result
    }

    /// Sends what kernels print somewhere else than to the process's standard output: a text for each launch that prints,
    /// when it has ended.
    pub fn set_output(&self, sink: impl Fn(&str) + Send + Sync + 'static) {
        *self.sink.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Box::new(sink);
    }

    fn launch_in(&self, kernel: &Kernel, launch: &Launch, params: &[u8], world: &World) -> Result<Counters, Fault> {
        let recording = self.recording.load(Relaxed);
        if crate::profile::is_on() {
            crate::profile::launched(kernel, launch);
        }
        let mut snapshot = self.memory().snapshot();
        for peer in self.peers.read().unwrap_or_else(|poisoned| poisoned.into_inner()).values() {
            snapshot.add_peer(peer.read().unwrap_or_else(|poisoned| poisoned.into_inner()).snapshot());
        }
        if recording {
            snapshot.count_reads();
        }
        let counters = if self.sanitizer() {
            let mut chain = self.chain();
            if !launch.early {
                *chain = Chain::default();
            }
            let before = launch.early.then(|| chain.clone());
            let (counters, end) =
                crate::launch::run_sanitized(&self.config, &snapshot, before, kernel, launch, params, world)?;
            chain.push(kernel.name(), end.written, end.ends_what_was_before);
            counters
        } else {
            self.end_chain();
            crate::launch::run(&self.config, &snapshot, kernel, launch, params, world)?
        };
        if recording {
            self.records_mut().push(LaunchRecord {
                kernel: kernel.name().to_owned(),
                grid: launch.grid,
                block: launch.block,
                dynamic_shared: launch.dynamic_shared,
                cooperative: launch.cooperative,
                early: launch.early,
                counters,
                reads: snapshot.reads(),
            });
        }
        Ok(counters)
    }

    /// Keeps a [`LaunchRecord`] of each launch that succeeds from now on, or stops keeping them.
    pub fn set_recording(&self, on: bool) {
        self.recording.store(on, Relaxed);
    }

    /// The launches recorded so far, in order.
    pub fn records(&self) -> Vec<LaunchRecord> {
        self.records_mut().clone()
    }

    /// Forgets the recorded launches.
    pub fn clear_records(&self) {
        self.records_mut().clear();
    }
}
