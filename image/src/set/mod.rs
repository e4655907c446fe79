//! Update sets: one file with all that a node needs to move to this version, `NAME.set`.
//!
//! Every section begins at a multiple of 4096, so that a node may fetch any of it by HTTP ranges:
//!
//! ```text
//! 0     header      "ROOSTSET", version 1 (u32), 0 (u32), then offset and length (u64 each) of every section
//!                   below, in this order; zeros to 4096. Integers are little-endian
//! 4096  manifest    JSON; exactly these bytes are signed
//!       signatures  minisign texts (prehashed), one behind the other; 16 KiB are kept free for them
//!       chunks      for each chunk of the UKI, then of the root: SHA-256, length (u32)
//!       uki
//!       root        squashfs and verity tree, as in a slot
//!       patches     what makes the root out of earlier ones, one behind the other; nothing, and zeros in the header,
//!                   where there are none
//! ```
//!
//! The header itself is not signed: it only says where to look. What is found there counts when it is what the
//! signed manifest says. A node's way: fetch [`HEAD_MAX`] bytes, [`Set::open`], [`Set::verify`], fetch the chunk table
//! and [`Verified::chunks`], [`crate::chunks::cut`] what it has, [`crate::chunks::missing`], fetch those pieces,
//! and hold what it put together
//! against it by [`Verified::check_uki`] and [`Verified::check_root`].

mod error;
mod header;
mod manifest;
mod read;
mod trust;
mod write;

#[cfg(test)]
mod tests;

pub use error::SetError;
pub use header::{HEADER, Header, SIGNATURES_MAX, Section};
pub use manifest::{ARCH, About, Blob, Chunks, FORMAT, Keys, Manifest, Patch, STATE_FORMATS, StateFormats};
pub use read::{HEAD_MAX, Set, Verified};
pub use trust::{Expect, TRUST_PATH};
pub use write::{Contents, measure, sign, write};

/// Suffix of a set's file name.
pub const SUFFIX: &str = "set";
