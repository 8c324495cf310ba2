//! What is said of pages: whose they are, of which layers, and what may be missing.

use super::POSITIONS;

/// A sequence: the number of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

impl SequenceId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Layers that look back equally far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Positions that a token sees, itself included; all of them if none.
    pub window: Option<usize>,
    /// Pages there are.
    pub n_pages: usize,
}

impl Group {
    /// The first page that the token at position `n_tokens` sees.
    pub(super) fn first_seen(&self, n_tokens: usize) -> usize {
        self.window.map_or(0, |window| (n_tokens + 1).saturating_sub(window) / POSITIONS)
    }
}

/// The pass by which a token's keys and values were computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// With many others, as a part of a prompt.
    Prompt,
    /// Alone, as it was generated.
    Token,
}

/// A copy of a page that the device has to make before the step that it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageCopy {
    /// Which group's pages.
    pub group: usize,
    /// The page that stays with its other owners.
    pub from: u32,
    /// The page that will be written.
    pub to: u32,
}

/// Pages that are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} cache pages of {POSITIONS} positions are needed, {available} are there")]
pub struct Shortage {
    /// Which group's pages.
    pub group: usize,
    /// Pages that would have to be there.
    pub needed: usize,
    /// Pages that are.
    pub available: usize,
}
