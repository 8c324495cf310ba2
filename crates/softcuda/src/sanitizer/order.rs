//! Which accesses come before which: what each warp knows of the others, as vector clocks.
//!
//! A warp's clock counts the points at which something it did could become known to others: barriers, fences, releases.
//! Every access is stamped with it. What is known of a warp is a [`Seen`]: a clock before which all its lanes' accesses
//! are known, and a later one up to which those of certain lanes are; the second is what a lane that releases alone can
//! vouch for.
//!
//! Knowledge travels by barriers among the warps that take part, and by release and acquire (PTX ISA, "Memory
//! Consistency Model"): a release publishes at an address what its warp knows, an acquire that reads there takes it
//! over. Releases and acquires are either operations that say so, or relaxed ones with a fence before (release) or after
//! (acquire) them in the same warp: a fence before remembers what there is to be published, a relaxed read remembers what
//! there is to be taken over. With the scope `.cta` knowledge stays in the block.
//!
//! Where knowledge is merged it may come out as more than was known (lanes that released apart are taken together), never
//! as less: a race may be missed, but none is invented. An address keeps what was published there, whatever is stored
//! later.

use std::collections::HashMap;
use std::sync::Arc;

/// What is known of one warp's accesses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Those of all lanes with an earlier clock.
    all: u32,
    /// Those of `lanes` up to this clock.
    own: u32,
    lanes: u32,
}

impl Seen {
    /// The lanes whose accesses at a clock are known.
    fn lanes_at(self, clock: u32) -> u32 {
        match clock {
            _ if clock < self.all => u32::MAX,
            _ if clock <= self.own => self.lanes,
            _ => 0,
        }
    }

    fn join(&mut self, other: Seen) {
        let all = self.all.max(other.all);
        // What `all` covers need not be kept apart.
        let lanes = |seen: Seen| if seen.own < all { 0 } else { seen.lanes };
        let joined = lanes(*self) | lanes(other);
        *self = Seen { all, own: if joined == 0 { 0 } else { self.own.max(other.own) }, lanes: joined };
    }

    fn covers(self, other: Seen) -> bool {
        let mut joined = self;
        joined.join(other);
        joined == self
    }
}

/// What is known of the warps of a block, by warp.
pub(super) type Warps = Vec<Seen>;
/// What is known of blocks, by block.
pub(super) type Blocks = HashMap<u64, Warps>;

fn join_warps(into: &mut Warps, from: &[Seen]) {
    if into.len() < from.len() {
        into.resize(from.len(), Seen::default());
    }
    into.iter_mut().zip(from).for_each(|(a, &b)| a.join(b));
}

fn join_blocks(into: &mut Blocks, from: &Blocks) {
    for (&block, warps) in from {
        join_warps(into.entry(block).or_default(), warps);
    }
}

/// What a warp knows, or what is published.
#[derive(Clone, Default)]
struct Knowledge {
    /// Of its own block.
    own: Warps,
    /// Of other blocks. Shared by those who know the same, which is most of the time all.
    others: Arc<Blocks>,
}

impl Knowledge {
    fn join(&mut self, other: &Knowledge) {
        join_warps(&mut self.own, &other.own);
        if !Arc::ptr_eq(&self.others, &other.others) {
            join_blocks(Arc::make_mut(&mut self.others), &other.others);
        }
    }
}

/// How far an operation reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Block,
    Device,
}

/// What a fence of some lanes has made ready for them to publish.
#[derive(Clone)]
struct Fenced {
    lanes: u32,
    knowledge: Knowledge,
}

/// One warp's place in the order.
struct Warp {
    /// The stamp of what it does now.
    clock: u32,
    knows: Knowledge,
    /// By any fence, for this block.
    fenced_for_block: Option<Fenced>,
    /// By fences without the scope `.cta`, for every block.
    fenced_for_device: Option<Fenced>,
    /// What relaxed reads found published, for a fence to take over.
    found: HashMap<Key, Arc<Blocks>>,
}

/// The order within a block, and what the block knows of others.
pub(super) struct Order {
    block: u64,
    warps: Vec<Warp>,
    /// What warps that arrived at a barrier without waiting brought, by barrier.
    arrivals: Vec<Knowledge>,
    /// Which warps those are.
    arrivers: [u64; 16],
}

/// For whom something is published, one block or all, and the address. Where the address has the bit [`CLUSTER`], it is in the
/// block's shared memory, and what is published there is for all blocks of the cluster.
type Key = (Option<u64>, u64);

const CLUSTER: u64 = 1 << 63;
/// With a phase's number: what the threads of a cluster bring to its barrier; the block is the cluster's first.
const MEETING: u64 = CLUSTER | 1 << 62;

/// What has been released at addresses.
#[derive(Default)]
pub(super) struct Published(HashMap<Key, Arc<Blocks>>);

impl Published {
    fn add(&mut self, to: Option<u64>, address: u64, block: u64, knowledge: &Knowledge) {
        let there = Arc::make_mut(self.0.entry((to, address)).or_default());
        join_blocks(there, &knowledge.others);
        join_warps(there.entry(block).or_default(), &knowledge.own);
    }

    /// A block has ended: nobody in it will look any more.
    pub(super) fn forget_block(&mut self, block: u64) {
        self.0.retain(|&(to, _), _| to != Some(block));
    }
}

impl Order {
    pub(super) fn new(block: u64, warps: usize) -> Order {
        let warp = |index: usize| {
            let mut own = vec![Seen::default(); warps];
            own[index].all = 1;
            Warp {
                clock: 1,
                knows: Knowledge { own, ..Knowledge::default() },
                fenced_for_block: None,
                fenced_for_device: None,
                found: HashMap::new(),
            }
        };
        Order {
            block,
            warps: (0..warps).map(warp).collect(),
            arrivals: vec![Knowledge::default(); 16],
            arrivers: [0; 16],
        }
    }

    /// The stamp of what a warp does now.
    pub(super) fn clock(&self, warp: usize) -> u32 {
        self.warps[warp].clock
    }

    /// The lanes of an earlier access, by a warp of a block at a clock, that `warp` of this block comes after.
    pub(super) fn lanes_before(&self, warp: usize, (block, by, clock): (u64, usize, u32)) -> u32 {
        let knows = &self.warps[warp].knows;
        let warps = if block == self.block { Some(&knows.own) } else { knows.others.get(&block) };
        warps.and_then(|warps| warps.get(by)).map_or(0, |seen| seen.lanes_at(clock))
    }

    /// All that a warp knows, with what these of its lanes did themselves.
    fn known_to(&self, warp: usize, lanes: u32) -> Knowledge {
        let Warp { clock, ref knows, .. } = self.warps[warp];
        let mut knowledge = knows.clone();
        knowledge.own[warp].join(Seen { all: 0, own: clock, lanes });
        knowledge
    }

    /// The warp's lanes have met: each comes after what any of them did.
    fn meet(&mut self, warp: usize) {
        let state = &mut self.warps[warp];
        state.clock += 1;
        state.knows.own[warp] = Seen { all: state.clock, own: 0, lanes: 0 };
    }

    /// `bar.warp.sync`.
    pub(super) fn warp_sync(&mut self, warp: usize) {
        self.meet(warp);
    }

    /// A warp arrives at a barrier and does not wait.
    pub(super) fn arrive(&mut self, warp: usize, id: usize) {
        self.meet(warp);
        self.arrivers[id] |= 1 << warp;
        self.arrivals[id].join(&self.warps[warp].knows);
    }

    /// A barrier of the block is complete; `warps` took part.
    pub(super) fn barrier(&mut self, id: usize, warps: u64) {
        let arrivers = std::mem::take(&mut self.arrivers[id]);
        let mut all = std::mem::take(&mut self.arrivals[id]);
        let waiting: Vec<usize> = (0..self.warps.len()).filter(|&w| (warps & !arrivers) >> w & 1 != 0).collect();
        for &w in &waiting {
            self.meet(w);
            all.join(&self.warps[w].knows);
        }
        for &w in &waiting {
            self.warps[w].knows = all.clone();
        }
    }

    /// Lanes of a warp arrive at the barrier of the cluster whose first block is `first`, for its phase with this number.
    pub(super) fn arrive_in_cluster(
        &mut self,
        published: &mut Published,
        warp: usize,
        lanes: u32,
        first: u64,
        phase: u32,
    ) {
        let knowledge = self.known_to(warp, lanes);
        published.add(Some(first), MEETING | u64::from(phase), self.block, &knowledge);
        self.warps[warp].clock += 1;
        // Who arrives has waited for the phase before, which nobody did who had not waited for that before it.
        published.0.remove(&(Some(first), MEETING | u64::from(phase.wrapping_sub(2))));
    }

    /// Lanes of a warp have waited for a phase: they come after what was before every arrival.
    pub(super) fn wait_in_cluster(&mut self, published: &Published, warp: usize, first: u64, phase: u32) {
        if let Some(blocks) = published.0.get(&(Some(first), MEETING | u64::from(phase))) {
            self.learn(warp, blocks);
        }
    }

    /// The lanes of an earlier access that some warp of the block comes after.
    pub(super) fn lanes_before_any(&self, access: (u64, usize, u32)) -> u32 {
        (0..self.warps.len()).fold(0, |lanes, warp| lanes | self.lanes_before(warp, access))
    }

    /// A fence of some lanes of a warp.
    pub(super) fn fence(&mut self, warp: usize, lanes: u32, scope: Scope, acquires: bool, releases: bool) {
        let device = scope == Scope::Device;
        if acquires {
            let found = std::mem::take(&mut self.warps[warp].found);
            let (now, later): (HashMap<_, _>, HashMap<_, _>) =
                found.into_iter().partition(|((to, address), _)| device || to.is_some() && address & CLUSTER == 0);
            self.warps[warp].found = later;
            now.values().for_each(|blocks| self.learn(warp, blocks));
        }
        if releases {
            let fenced = Fenced { lanes, knowledge: self.known_to(warp, lanes) };
            let state = &mut self.warps[warp];
            let device = device.then_some(&mut state.fenced_for_device);
            for slot in device.into_iter().chain([&mut state.fenced_for_block]) {
                let mut fenced = fenced.clone();
                // What other lanes have made ready stays so.
                if let Some(before) = slot.take().filter(|before| before.lanes & !lanes != 0) {
                    fenced.lanes |= before.lanes;
                    fenced.knowledge.join(&before.knowledge);
                }
                *slot = Some(fenced);
            }
        }
        self.warps[warp].clock += 1;
    }

    /// Takes over what was published.
    fn learn(&mut self, warp: usize, blocks: &Arc<Blocks>) {
        let knows = &mut self.warps[warp].knows;
        for (&block, warps) in blocks.iter() {
            if block == self.block {
                join_warps(&mut knows.own, warps);
                continue;
            }
            let known = knows.others.get(&block);
            let news = |(w, &seen): (usize, &Seen)| !known.and_then(|k| k.get(w)).is_some_and(|k| k.covers(seen));
            if warps.iter().enumerate().any(news) {
                join_warps(Arc::make_mut(&mut knows.others).entry(block).or_default(), warps);
            }
        }
    }

    /// A strong read of a place.
    pub(super) fn read(&mut self, published: &Published, warp: usize, place: Place, acquires: bool) {
        for key in [place.far(), place.near(self.block)].into_iter().flatten() {
            let Some(blocks) = published.0.get(&key) else {
                continue;
            };
            if acquires {
                self.learn(warp, blocks);
            } else {
                self.warps[warp].found.insert(key, blocks.clone());
            }
        }
    }

    /// A strong write of some lanes of a warp, each to its place.
    pub(super) fn write(
        &mut self,
        published: &mut Published,
        warp: usize,
        lanes: u32,
        places: impl Fn(usize) -> Place,
        releases: bool,
    ) {
        let now = releases.then(|| Fenced { lanes, knowledge: self.known_to(warp, lanes) });
        let state = &self.warps[warp];
        let for_block = now.as_ref().or(state.fenced_for_block.as_ref());
        let for_device = now.as_ref().or(state.fenced_for_device.as_ref());
        if for_block.is_none() {
            return;
        }
        let mut left = lanes;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            let place = places(lane);
            let vouches = |fenced: &&Fenced| fenced.lanes >> lane & 1 != 0;
            if let (Some((to, address)), Some(fenced)) = (place.near(self.block), for_block.filter(vouches)) {
                published.add(to, address, self.block, &fenced.knowledge);
            }
            if let (Some((to, address)), Some(fenced)) = (place.far(), for_device.filter(vouches)) {
                published.add(to, address, self.block, &fenced.knowledge);
            }
        }
        if releases {
            self.warps[warp].clock += 1;
        }
    }
}

/// Whose memory a strong access goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    Global,
    /// Shared memory of the block, which no other reaches.
    Block,
    /// Shared memory of a block of the cluster, by its number.
    Cluster(u64),
}

/// Where a strong access goes, and how far it reaches.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) home: Home,
    pub(super) scope: Scope,
}

impl Place {
    /// Where things are published for the block itself.
    fn near(self, block: u64) -> Option<Key> {
        match self.home {
            Home::Cluster(owner) if owner != block => None,
            _ => Some((Some(block), self.address)),
        }
    }

    /// Where things are published for other blocks.
    fn far(self) -> Option<Key> {
        match self.home {
            _ if self.scope == Scope::Block => None,
            Home::Global => Some((None, self.address)),
            Home::Block => None,
            Home::Cluster(owner) => Some((Some(owner), self.address | CLUSTER)),
        }
    }
}
