//! Where the keys and values of many sequences lie: accounts of pages, with no device in them.

pub mod pages;

pub use pages::{Group, Origin, POSITIONS, PageCopy, Pages, SequenceId, Shortage};
