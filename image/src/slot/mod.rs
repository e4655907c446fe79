//! The two root slots and their boot entries: what is on a disk, what to do with it, and doing it.

pub mod entry;
pub mod version;

pub use entry::{EntryName, Mark, Tries};
