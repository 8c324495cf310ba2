//! Pages of the cache: which sequence has which, which are shared, and which to take next.
//!
//! A page has room for the keys and values of [`POSITIONS`] positions in every layer of a group. Layers with the same window are a group:
//! what one of them passed, all of them passed. A sequence has a table for each group, from position / [`POSITIONS`] to the page.
//!
//! ```text
//!           taken            filled                   last owner gone            taken by another
//! free ──────────────► owned ──────► owned, registered ──────────────► cached ──────────────────► owned
//!  ▲                     │ last owner gone                               │ adopted by a sequence with the same beginning
//!  └─────────────────────┘                                               └──► owned, registered
//! ```
//!
//! Pages are shared by count. A full page is registered under its content: the tokens from the sequence's first to the page's last, and by
//! which pass each came ([`Origin`]), because the passes round differently. Registered contents form a tree, a node for each page's tokens
//! under the page before it, so that equal nodes mean equal beginnings without any trust in a hash. A sequence that begins alike adopts what
//! is there. When no page is free, the one that has had no owner for the longest is taken; of a sequence that ended, its last pages come
//! first, because the others are of no use without the first.
//!
//! A page that several own is copied before one of them writes to it; the copies are the caller's to carry out, in order, before the step.

mod terms;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

pub use terms::{Group, Origin, PageCopy, SequenceId, Shortage};

/// Positions of a page.
pub const POSITIONS: usize = 32;

/// No page, or no node.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Page {
    /// Sequences that have it in their tables.
    n_owners: u32,
    /// Its content, where that is registered.
    node: u32,
    /// When its last owner went; its key among the cached.
    released: u64,
}

struct Pool {
    group: Group,
    pages: Vec<Page>,
    /// Without owner and content.
    free: Vec<u32>,
    /// Without owner, with content, by the time of their release.
    cached: BTreeMap<u64, u32>,
}

/// The tokens of a full page, after those of its parent.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Content {
    parent: u32,
    /// A bit for each token that came by [`Origin::Token`].
    alone: u32,
    tokens: [u32; POSITIONS],
}

struct Node {
    content: Content,
    /// The registered page of each group.
    pages: Box<[u32]>,
    /// Nodes below, and sequences whose last full page this is.
    n_users: u32,
}

/// One sequence's table in one group.
#[derive(Clone, Debug, Default)]
struct Table {
    /// By position / [`POSITIONS`]; those before `first` are 0, and mean nothing.
    pages: Vec<u32>,
    /// The first page that is still the sequence's.
    first: usize,
    /// Entries that changed since they were last asked for.
    changed: Range<usize>,
}

impl Table {
    fn set(&mut self, index: usize, page: u32) {
        if index == self.pages.len() {
            self.pages.push(page);
        } else {
            self.pages[index] = page;
        }
        self.changed = match self.changed.is_empty() {
            true => index..index + 1,
            false => self.changed.start.min(index)..self.changed.end.max(index + 1),
        };
    }
}

struct Sequence {
    n_tokens: usize,
    /// The content of its last full page.
    node: u32,
    /// The tokens behind that, fewer than [`POSITIONS`], and which of them came alone.
    tail: Vec<u32>,
    alone: u32,
    /// One for each group.
    tables: Vec<Table>,
}

/// The pages of all groups and who has them.
pub struct Pages {
    n_batch: usize,
    pools: Vec<Pool>,
    sequences: Vec<Option<Sequence>>,
    nodes: Vec<Option<Node>>,
    free_nodes: Vec<u32>,
    contents: HashMap<Content, u32>,
    /// Counts releases.
    clock: u64,
}

impl Pages {
    /// All pages free, for up to `n_slots` sequences at a time, each of which grows by `n_batch` tokens a step at most.
    pub fn new(groups: &[Group], n_slots: usize, n_batch: usize) -> Pages {
        let pool = |group: &Group| Pool {
            group: *group,
            pages: vec![Page { n_owners: 0, node: NONE, released: 0 }; group.n_pages],
            free: (0..group.n_pages as u32).rev().collect(),
            cached: BTreeMap::new(),
        };
        Pages {
            n_batch,
            pools: groups.iter().map(pool).collect(),
            sequences: (0..n_slots).map(|_| None).collect(),
            nodes: Vec::new(),
            free_nodes: Vec::new(),
            contents: HashMap::new(),
            clock: 0,
        }
    }

    /// A new, empty sequence; none where all slots are taken.
    pub fn open(&mut self) -> Option<SequenceId> {
        let slot = self.sequences.iter().position(Option::is_none)?;
        let tables = vec![Table::default(); self.pools.len()];
        self.sequences[slot] = Some(Sequence { n_tokens: 0, node: NONE, tail: Vec::new(), alone: 0, tables });
        Some(SequenceId(slot as u32))
    }

    /// Ends a sequence. What nobody else has of it can be taken at once, and adopted until it is.
    pub fn close(&mut self, id: SequenceId) {
        let sequence = self.sequences[id.index()].take().expect("an open sequence");
        for (group, table) in sequence.tables.iter().enumerate() {
            table.pages[table.first..].iter().rev().for_each(|page| self.release(group, *page));
        }
        self.leave(sequence.node);
    }

    /// Tokens that a sequence has.
    pub fn n_tokens(&self, id: SequenceId) -> usize {
        self.sequence(id).n_tokens
    }

    /// A sequence's pages in a group, by position / [`POSITIONS`]. Those that a window passed are 0 and mean nothing.
    pub fn table(&self, id: SequenceId, group: usize) -> &[u32] {
        &self.sequence(id).tables[group].pages
    }

    /// The first entry of [`Self::table`] that still means something.
    pub fn first_page(&self, id: SequenceId, group: usize) -> usize {
        self.sequence(id).tables[group].first
    }

    /// The entries of [`Self::table`] that changed since this was last asked.
    pub fn take_changes(&mut self, id: SequenceId, group: usize) -> Range<usize> {
        let Table { pages, changed, .. } = &mut self.sequence_mut(id).tables[group];
        let changed = std::mem::take(changed);
        changed.start.min(pages.len())..changed.end.min(pages.len())
    }

    /// Pages of a group that nobody has.
    pub fn free(&self, group: usize) -> usize {
        self.pools[group].free.len() + self.pools[group].cached.len()
    }

    /// Pages of all groups that somebody has, and all there are.
    pub fn n_taken(&self) -> (usize, usize) {
        let all: usize = self.pools.iter().map(|pool| pool.pages.len()).sum();
        let free: usize = (0..self.pools.len()).map(|group| self.free(group)).sum();
        (all - free, all)
    }

    /// Whether a sequence of `n_tokens` fits where there is no other.
    ///
    /// # Errors
    /// [`Shortage`] of a group, with all the pages that the group has.
    pub fn fits_alone(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.fits(n_tokens, |group| self.pools[group].pages.len())
    }

    /// Whether a sequence of `n_tokens` fits into the pages that nobody has.
    ///
    /// # Errors
    /// [`Shortage`] of a group, with the pages that nobody has.
    pub fn fits_free(&self, n_tokens: usize) -> Result<(), Shortage> {
        self.fits(n_tokens, |group| self.free(group))
    }

    fn fits(&self, n_tokens: usize, available: impl Fn(usize) -> usize) -> Result<(), Shortage> {
        for (group, pool) in self.pools.iter().enumerate() {
            let mut needed = n_tokens.div_ceil(POSITIONS);
            if let Some(window) = pool.group.window {
                // What the first token of a chunk sees before it, and the chunk; it may begin at the end of a page.
                let n_positions = window.saturating_sub(1) + self.n_batch;
                needed = needed.min(n_positions.saturating_sub(1).div_ceil(POSITIONS) + 1);
            }
            let available = available(group);
            if needed > available {
                return Err(Shortage { group, needed, available });
            }
        }
        Ok(())
    }

    /// Makes room for `n_new` more tokens. Returns the pages to copy before they are written.
    ///
    /// # Errors
    /// [`Shortage`]; nothing was taken then.
    pub fn reserve(&mut self, id: SequenceId, n_new: usize) -> Result<Vec<PageCopy>, Shortage> {
        let sequence = self.sequence(id);
        let n_tokens = sequence.n_tokens;
        // A page that has tokens and will get more.
        let partial = (n_new > 0 && !n_tokens.is_multiple_of(POSITIONS)).then_some(n_tokens / POSITIONS);
        let n_pages = (n_tokens + n_new).div_ceil(POSITIONS);
        for (group, (pool, table)) in self.pools.iter().zip(&sequence.tables).enumerate() {
            let is_shared = partial.is_some_and(|index| pool.pages[table.pages[index] as usize].n_owners > 1);
            let needed = n_pages.saturating_sub(table.pages.len()) + usize::from(is_shared);
            let available = self.free(group);
            if needed > available {
                return Err(Shortage { group, needed, available });
            }
        }
        let mut copies = Vec::new();
        for group in 0..self.pools.len() {
            if let Some(index) = partial {
                let page = self.sequence(id).tables[group].pages[index];
                if self.pools[group].pages[page as usize].n_owners > 1 {
                    let to = self.take(group);
                    copies.push(PageCopy { group, from: page, to });
                    self.sequence_mut(id).tables[group].set(index, to);
                    self.release(group, page);
                } else {
                    // It was full once; what is written now is no longer that content.
                    self.forget(group, page);
                }
            }
            while self.sequence(id).tables[group].pages.len() < n_pages {
                let page = self.take(group);
                let table = &mut self.sequence_mut(id).tables[group];
                table.set(table.pages.len(), page);
            }
        }
        Ok(copies)
    }

    /// The step is done: `tokens`, for which there is room, are part of the sequence. Full pages are registered, and those that a window
    /// passed are no longer the sequence's.
    ///
    /// # Panics
    /// Where [`Self::reserve`] has not made room.
    pub fn advance(&mut self, id: SequenceId, tokens: &[u32], origin: Origin) {
        let sequence = self.sequence(id);
        let written = sequence.n_tokens / POSITIONS..(sequence.n_tokens + tokens.len()).div_ceil(POSITIONS);
        for (pool, table) in self.pools.iter().zip(&sequence.tables) {
            let is_own = |page: &u32| pool.pages[*page as usize].n_owners == 1;
            let has_room = table.pages.get(written.clone()).is_some_and(|pages| pages.iter().all(is_own));
            assert!(has_room || tokens.is_empty(), "room for {} tokens after {}", tokens.len(), sequence.n_tokens);
        }
        for token in tokens {
            let sequence = self.sequence_mut(id);
            if origin == Origin::Token {
                sequence.alone |= 1 << sequence.tail.len();
            }
            sequence.tail.push(*token);
            sequence.n_tokens += 1;
            if sequence.tail.len() == POSITIONS {
                self.register(id);
            }
        }
        let n_tokens = self.n_tokens(id);
        for group in 0..self.pools.len() {
            let first_seen = self.pools[group].group.first_seen(n_tokens);
            let table = &mut self.sequence_mut(id).tables[group];
            let passed = table.first..first_seen.max(table.first);
            table.first = passed.end;
            if passed.is_empty() {
                continue;
            }
            let path = self.path(id);
            for index in passed {
                let page = std::mem::take(&mut self.sequence_mut(id).tables[group].pages[index]);
                // Another sequence's page had this content, and may have been taken since: the sequence may want it back.
                if self.registered(path[index], group).is_none() {
                    self.node_mut(path[index]).pages[group] = page;
                    self.pools[group].pages[page as usize].node = path[index];
                }
                self.release(group, page);
            }
        }
    }

    /// An empty sequence takes the longest beginning of `tokens` that is there, in whole pages and never all of it: something is left to
    /// compute. The first `n_prompt` of the tokens are those of a prompt, the others would come alone. Returns how many it has now.
    ///
    /// # Panics
    /// Where the sequence has tokens or room.
    pub fn adopt(&mut self, id: SequenceId, tokens: &[u32], n_prompt: usize) -> usize {
        assert!(self.sequence(id).tables.iter().all(|table| table.pages.is_empty()), "an empty sequence");
        let mut path = Vec::new();
        let mut parent = NONE;
        for (index, page) in tokens[..tokens.len().saturating_sub(1)].chunks_exact(POSITIONS).enumerate() {
            let n_prompt = n_prompt.saturating_sub(index * POSITIONS).min(POSITIONS);
            let alone = u32::MAX.checked_shl(n_prompt as u32).unwrap_or(0);
            let content = Content { parent, alone, tokens: page.try_into().expect("a page of tokens") };
            let Some(node) = self.contents.get(&content) else { break };
            path.push(*node);
            parent = *node;
        }
        let n_tokens =
            self.reachable(path.len() * POSITIONS, |group, index| self.registered(path[index], group).is_some());
        // A window may have let go what only a longer beginning would have seen.
        let n_pages = n_tokens / POSITIONS;
        path.truncate(n_pages);
        for group in 0..self.pools.len() {
            let first = self.pools[group].group.first_seen(n_tokens).min(n_pages);
            for (index, node) in path.iter().enumerate() {
                let page = if index < first {
                    0
                } else {
                    let page = self.registered(*node, group).expect("a reachable page");
                    self.share(group, page);
                    page
                };
                self.sequence_mut(id).tables[group].set(index, page);
            }
            self.sequence_mut(id).tables[group].first = first;
        }
        let node = path.last().copied().unwrap_or(NONE);
        self.join(node);
        let sequence = self.sequence_mut(id);
        (sequence.n_tokens, sequence.node) = (n_pages * POSITIONS, node);
        n_pages * POSITIONS
    }

    /// Drops the end of a sequence so that `n` tokens are left, and the room reserved behind. Fewer are left where a window passed pages that
    /// the next token would see and that are taken meanwhile. Returns how many are left.
    pub fn truncate(&mut self, id: SequenceId, n: usize) -> usize {
        let sequence = self.sequence(id);
        let n = n.min(sequence.n_tokens);
        let path = self.path(id);
        let n = self.reachable(n, |group, index| {
            let table = &sequence.tables[group];
            index >= table.first || self.registered(path[index], group).is_some()
        });
        let n_pages = n.div_ceil(POSITIONS);
        for group in 0..self.pools.len() {
            let table = &mut self.sequence_mut(id).tables[group];
            let dropped = table.pages.split_off(n_pages.min(table.pages.len()));
            let passed = table.first.saturating_sub(n_pages).min(dropped.len());
            dropped[passed..].iter().rev().for_each(|page| self.release(group, *page));
            let first_seen = self.pools[group].group.first_seen(n).min(n_pages);
            let first = self.sequence(id).tables[group].first.min(n_pages);
            for (index, node) in path.iter().enumerate().take(first).skip(first_seen) {
                let page = self.registered(*node, group).expect("a reachable page");
                self.share(group, page);
                self.sequence_mut(id).tables[group].set(index, page);
            }
            self.sequence_mut(id).tables[group].first = first.min(first_seen);
        }
        let n_full = n / POSITIONS;
        if n_full < path.len() {
            let Content { alone, tokens, .. } = self.node(path[n_full]).content.clone();
            let sequence = self.sequence_mut(id);
            (sequence.tail, sequence.alone) = (tokens.to_vec(), alone);
            let (old, new) = (sequence.node, if n_full > 0 { path[n_full - 1] } else { NONE });
            sequence.node = new;
            self.join(new);
            self.leave(old);
        }
        let sequence = self.sequence_mut(id);
        sequence.tail.truncate(n % POSITIONS);
        sequence.alone &= (1 << (n % POSITIONS)) - 1;
        sequence.n_tokens = n;
        n
    }

    /// A second sequence with the same tokens and pages; none where all slots are taken.
    pub fn fork(&mut self, id: SequenceId) -> Option<SequenceId> {
        let fork = self.open()?;
        let Sequence { n_tokens, node, tail, alone, tables } = self.sequence(id);
        let (n_tokens, node) = (*n_tokens, *node);
        let mut copy = Sequence { n_tokens, node, tail: tail.clone(), alone: *alone, tables: tables.clone() };
        for (group, table) in copy.tables.iter_mut().enumerate() {
            // Room that has nothing in it yet is not shared.
            table.pages.truncate(n_tokens.div_ceil(POSITIONS));
            table.changed = 0..table.pages.len();
            table.pages[table.first.min(table.pages.len())..].iter().for_each(|page| self.share(group, *page));
        }
        self.sequences[fork.index()] = Some(copy);
        self.join(node);
        Some(fork)
    }

    /// The contents of a sequence's full pages, in order.
    fn path(&self, id: SequenceId) -> Vec<u32> {
        let sequence = self.sequence(id);
        let mut path = Vec::with_capacity(sequence.n_tokens / POSITIONS);
        let mut node = sequence.node;
        while node != NONE {
            path.push(node);
            node = self.node(node).content.parent;
        }
        path.reverse();
        path
    }

    fn sequence(&self, id: SequenceId) -> &Sequence {
        self.sequences[id.index()].as_ref().expect("an open sequence")
    }

    fn sequence_mut(&mut self, id: SequenceId) -> &mut Sequence {
        self.sequences[id.index()].as_mut().expect("an open sequence")
    }

    fn node(&self, node: u32) -> &Node {
        self.nodes[node as usize].as_ref().expect("a node in use")
    }

    fn node_mut(&mut self, node: u32) -> &mut Node {
        self.nodes[node as usize].as_mut().expect("a node in use")
    }

    fn registered(&self, node: u32, group: usize) -> Option<u32> {
        Some(self.node(node).pages[group]).filter(|page| *page != NONE)
    }

    /// The largest number of tokens, at most `n`, of which every page that the next token sees is there.
    fn reachable(&self, mut n: usize, is_there: impl Fn(usize, usize) -> bool) -> usize {
        let missing = |n: usize| {
            let of_group = |(group, pool): (usize, &Pool)| {
                (pool.group.first_seen(n)..n.div_ceil(POSITIONS)).find(|index| !is_there(group, *index))
            };
            self.pools.iter().enumerate().filter_map(of_group).min()
        };
        while let Some(index) = missing(n) {
            n = index * POSITIONS;
        }
        n
    }

    /// A page for one owner: a free one, or the one that was cached for the longest.
    fn take(&mut self, group: usize) -> u32 {
        let pool = &mut self.pools[group];
        let page = match pool.free.pop() {
            Some(page) => page,
            None => {
                let (_, page) = pool.cached.pop_first().expect("a page that was counted");
                self.forget(group, page);
                page
            }
        };
        self.pools[group].pages[page as usize].n_owners = 1;
        page
    }

    /// One owner more.
    fn share(&mut self, group: usize, page: u32) {
        let Pool { pages, cached, .. } = &mut self.pools[group];
        let page = &mut pages[page as usize];
        if page.n_owners == 0 {
            cached.remove(&page.released).expect("a page without owner that has content");
        }
        page.n_owners += 1;
    }

    /// One owner less.
    fn release(&mut self, group: usize, page: u32) {
        self.clock += 1;
        let Pool { pages, free, cached, .. } = &mut self.pools[group];
        let Page { n_owners, node, released } = &mut pages[page as usize];
        *n_owners -= 1;
        if *n_owners > 0 {
            return;
        }
        if *node == NONE {
            free.push(page);
        } else {
            *released = self.clock;
            cached.insert(*released, page);
        }
    }

    /// The page no longer has its content.
    fn forget(&mut self, group: usize, page: u32) {
        let node = std::mem::replace(&mut self.pools[group].pages[page as usize].node, NONE);
        if node != NONE {
            self.node_mut(node).pages[group] = NONE;
            self.prune(node);
        }
    }

    /// Registers the sequence's last page, which is full now.
    fn register(&mut self, id: SequenceId) {
        let n_groups = self.pools.len();
        let sequence = self.sequence_mut(id);
        let index = sequence.n_tokens / POSITIONS - 1;
        let (parent, alone) = (sequence.node, std::mem::take(&mut sequence.alone));
        let tokens = sequence.tail[..].try_into().expect("a page of tokens");
        sequence.tail.clear();
        let content = Content { parent, alone, tokens };
        let node = match self.contents.get(&content) {
            Some(node) => *node,
            None => {
                let node = self.free_nodes.pop().unwrap_or_else(|| {
                    self.nodes.push(None);
                    self.nodes.len() as u32 - 1
                });
                self.contents.insert(content.clone(), node);
                let pages = vec![NONE; n_groups].into_boxed_slice();
                self.nodes[node as usize] = Some(Node { content, pages, n_users: 0 });
                self.join(parent);
                node
            }
        };
        self.join(node);
        self.sequence_mut(id).node = node;
        self.leave(parent);
        for group in 0..n_groups {
            let page = self.sequence(id).tables[group].pages[index];
            // Another sequence may have computed the same before.
            if self.registered(node, group).is_none() {
                self.node_mut(node).pages[group] = page;
                self.pools[group].pages[page as usize].node = node;
            }
        }
    }

    fn join(&mut self, node: u32) {
        if node != NONE {
            self.node_mut(node).n_users += 1;
        }
    }

    fn leave(&mut self, node: u32) {
        if node != NONE {
            self.node_mut(node).n_users -= 1;
            self.prune(node);
        }
    }

    /// Drops the node where nothing needs it any more, and then those above it.
    fn prune(&mut self, mut node: u32) {
        while node != NONE {
            let Node { content, pages, n_users } = self.node(node);
            if *n_users > 0 || pages.iter().any(|page| *page != NONE) {
                return;
            }
            let content = content.clone();
            self.contents.remove(&content);
            self.nodes[node as usize] = None;
            self.free_nodes.push(node);
            node = content.parent;
            if node != NONE {
                self.node_mut(node).n_users -= 1;
            }
        }
    }
}

#[cfg(test)]
mod tests;
