//! What can go wrong on the disk.

use std::io;

use thiserror::Error;
use uuid::Uuid;

use super::identity::IdentityError;
use super::load::Side;
use crate::fat::FatError;
use crate::gpt::GptError;
use crate::verity::VerityError;

/// Why a disk could not be read, or a plan not be carried out. Planning again and applying that is legal after
/// each of them.
#[derive(Debug, Error)]
pub enum SlotError {
    /// The partition table.
    #[error(transparent)]
    Gpt(#[from] GptError),
    /// The ESP could not be read or changed.
    #[error("The ESP could not be read or changed")]
    Esp(#[source] FatError),
    /// The slot holds something, and only an emptied one is written to.
    #[error("Slot {side} has PARTUUID {found}, expected {expected} of an emptied slot: nothing was written to it")]
    NotEmpty {
        /// Which.
        side: Side,
        /// What it has.
        found: Uuid,
        /// What an emptied slot has.
        expected: Uuid,
    },
    /// The root could not be had, or not be written.
    #[error("Cannot {action} the root of slot {side}")]
    Root {
        /// What was tried.
        action: &'static str,
        /// Which slot.
        side: Side,
        /// Why not.
        source: io::Error,
    },
    /// What was written is not what comes back.
    #[error("Slot {side} does not hold the root that was written to it")]
    RootAltered {
        /// Which.
        side: Side,
        /// The block.
        source: VerityError,
    },
    /// The UKI could not be read back.
    #[error("Cannot read back {file}")]
    Entry {
        /// Name of its file.
        file: String,
        /// Why not.
        source: io::Error,
    },
    /// The UKI is another one.
    #[error("{file} has SHA-256 {found}, expected {expected}")]
    EntryAltered {
        /// Name of its file.
        file: String,
        /// Of what was written.
        found: String,
        /// Of the new version.
        expected: String,
    },
    /// It does not say what it is.
    #[error("{file} is not a UKI of ours")]
    Identity {
        /// Name of its file.
        file: String,
        /// What is wrong.
        source: IdentityError,
    },
    /// It boots something else than what it came with.
    #[error(
        "The UKI {file} has {what} {found}, expected {expected}: the boot loader or the node would not find its version"
    )]
    Mislabelled {
        /// Name of its file.
        file: String,
        /// Which of its facts.
        what: &'static str,
        /// What it has.
        found: String,
        /// What the new version has.
        expected: String,
    },
}
