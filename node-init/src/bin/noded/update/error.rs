//! Why an update does not go on.

use crate::dial::DialError;
use image::{
    fat::FatError,
    set::SetError,
    slot::{Refusal, SlotError},
};
use node_init::state_format::FormatError;
use std::{
    io,
    path::{Path, PathBuf},
};

/// What was found, and whether it may pass.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The node has no certificate to ask with.
    #[error("This node has not joined the cluster yet")]
    NotJoined,
    /// No connection to the store.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The node's certificate cannot be used.
    #[error("Cannot use this node's certificate")]
    Tls(#[from] rustls::Error),
    /// The transfer broke.
    #[error("The transfer of the update broke")]
    Broken(#[source] hyper::Error),
    /// Nothing came.
    #[error("The store sent nothing for {0} s")]
    Stalled(u64),
    /// The store's answer makes no sense.
    #[error("The store answered with {0}")]
    Answer(String),
    /// The store has no such set.
    #[error("The store has no such set any more")]
    Gone,
    /// Bytes that are not those of the chunk table.
    #[error("A piece came with other bytes than the signed table says: the store's file is damaged, or the way to it")]
    Chunk,
    /// The set is none for this node.
    #[error(transparent)]
    Set(SetError),
    /// The set is of another version than the store said.
    #[error("The set is version {found}, and the store announced {expected}")]
    OtherVersion {
        /// What its manifest says.
        found: String,
        /// What was announced.
        expected: String,
    },
    /// The running image trusts nobody.
    #[error(
        "The image that runs carries no update key: it takes no update. Build images with --keys, and write one anew"
    )]
    NoKeys(#[source] io::Error),
    /// The keys in the running image cannot be read.
    #[error("The update keys of the image that runs cannot be used")]
    Keys(#[source] SetError),
    /// The node does not run from a disk of its own.
    #[error("This node runs no root of its own disk")]
    NotFromDisk,
    /// The slots could not be read or written.
    #[error(transparent)]
    Slots(#[from] SlotError),
    /// The ESP could not be read.
    #[error("The ESP cannot be read")]
    Esp(#[source] FatError),
    /// STATE cannot be understood.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The new version cannot go on with this node's STATE.
    #[error("Version {version} was asked to read this node's STATE before it is installed, and failed: {said}")]
    Rehearsal {
        /// Which.
        version: String,
        /// Its own words.
        said: String,
    },
    /// STATE is full.
    #[error("The update needs {needed_mib} MiB on STATE, {free_mib} are free: remove guests or images")]
    NoRoom {
        /// To be written.
        needed_mib: u64,
        /// There.
        free_mib: u64,
    },
    /// A kernel call.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// Not now, or never.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A file.
    #[error("Cannot read or write {path}")]
    Disk {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The work was broken off.
    #[error("The work was broken off")]
    Aborted,
}

impl UpdateError {
    /// For `map_err` on file operations.
    pub fn disk(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Disk { path, source }
    }

    /// Trying the very same set again cannot help. Of what is refused, only a trial that is still on passes by itself;
    /// and a clock may be set.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Set(error) => {
                !matches!(error, SetError::ClockBehind { .. } | SetError::Read { .. } | SetError::Differs { .. })
            }
            Self::Refused(refusal) => !matches!(refusal, Refusal::OnTrial { .. }),
            Self::Rehearsal { .. }
            | Self::OtherVersion { .. }
            | Self::NoKeys(_)
            | Self::Keys(_)
            | Self::NotFromDisk => true,
            _ => false,
        }
    }

    /// What was staged is wrong, and has to be fetched anew.
    pub fn is_about_bytes(&self) -> bool {
        matches!(self, Self::Set(SetError::Differs { .. }))
    }
}
