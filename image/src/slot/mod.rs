//! The two root slots and their boot entries: what is on a disk, what to do with it, and doing it.
//!
//! ```text
//! Slots::read(disk, booted) --> install | bless | roll_back | retry | forget --> Plan --> apply(plan, disk)
//! ```
//!
//! A slot is a partition that is found by the root hash in its UKI's command line, and how it fares is in the UKI's
//! name, where the boot loader counts: there is no other state. Decisions are pure; every step of a plan leaves
//! a disk that boots a blessed version (decision 012).
//!
//! ```text
//!            install              boots           bless, the other slot good      boots without blessing
//! (empty) ------------> +3-0 ------------> +2-1 ------------------------> +5-0 -------------------------> ... +0-5
//!                                            |        bless, it is not: no counter                           failed
//!                                            +--> +1-2 --> +0-3: failed, the other slot boots
//! ```

mod admit;
mod apply;
pub mod entry;
mod error;
mod identity;
mod load;
mod plan;
mod refusal;
pub mod version;

pub use apply::{Progress, Sources, apply, apply_marks};
pub use entry::{EntryName, Mark, Tries};
pub use error::SlotError;
pub use identity::{Identity, IdentityError};
pub use load::{Held, Side, Slot, Slots, State, Stray};
pub use plan::{New, Plan, Step, bless, forget, install, retry, roll_back};
pub use refusal::Refusal;

#[cfg(test)]
mod tests;
