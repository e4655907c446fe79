//! Why a set cannot be used.

use std::io;

use thiserror::Error;

use crate::chunks::ChunkError;
use crate::verity::VerityError;

/// Why a set cannot be written, read or trusted.
#[derive(Debug, Error)]
pub enum SetError {
    /// A section cannot be read.
    #[error("Cannot read the {section} of the update set")]
    Read {
        /// Which.
        section: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The set cannot be written.
    #[error("Cannot write the update set")]
    Write(#[source] io::Error),
    /// It is something else.
    #[error("This is no update set: it begins with {found:?}, expected \"ROOSTSET\"")]
    Magic {
        /// Its first bytes.
        found: String,
    },
    /// It is of a later make.
    #[error("The update set has {what} {found}, and this version knows {known}: update to a version between first")]
    Format {
        /// What was looked at.
        what: &'static str,
        /// What it is.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// A section does not stand where it may.
    #[error("Section {section} of the update set has {found}, expected {expected}")]
    Section {
        /// Which.
        section: &'static str,
        /// What the header says.
        found: String,
        /// What it may say.
        expected: String,
    },
    /// The manifest is no manifest.
    #[error("The manifest of the update set cannot be understood")]
    Manifest(#[source] serde_json::Error),
    /// A field of it makes no sense.
    #[error("The manifest of the update set has {field} {found:?}, expected {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Its verity parameters make no sense.
    #[error("The manifest of the update set names a root that cannot be verified")]
    Verity(#[from] VerityError),
    /// A key is no key.
    #[error("Update key {key:?} cannot be used: {problem}; expected the second line of a minisign public key file")]
    Key {
        /// Its text.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// A trust file that nobody can satisfy, or that asks nothing.
    #[error("The update keys cannot be used: threshold {threshold} with {keys} different keys, expected 1 to {keys}")]
    Threshold {
        /// What is asked for.
        threshold: usize,
        /// How many there are.
        keys: usize,
    },
    /// The list of trusted keys is no such list.
    #[error("The list of update keys cannot be understood")]
    Trust(#[source] serde_json::Error),
    /// A signature is not even one.
    #[error("Signature {index} of the update set cannot be understood: {problem}")]
    Signature {
        /// Which, from 1.
        index: usize,
        /// What is wrong.
        problem: String,
    },
    /// Nobody signed it.
    #[error("The update set is not signed; expected {threshold} of the keys {trusted}")]
    Unsigned {
        /// Signatures asked for.
        threshold: usize,
        /// Ids of trusted keys.
        trusted: String,
    },
    /// Only others signed it.
    #[error(
        "The update set is signed by {found}, which is not trusted here; expected {threshold} of the keys {trusted}"
    )]
    Stranger {
        /// Ids of the keys that signed.
        found: String,
        /// Signatures asked for.
        threshold: usize,
        /// Ids of trusted keys.
        trusted: String,
    },
    /// Too few signed it.
    #[error("The update set is signed by {} of the trusted keys ({found}), expected {threshold} of {trusted}", found.split(' ').count())]
    BelowThreshold {
        /// Ids of the trusted keys that signed.
        found: String,
        /// Signatures asked for.
        threshold: usize,
        /// Ids of trusted keys.
        trusted: String,
    },
    /// A trusted key's signature belongs to other bytes.
    #[error("The manifest of the update set is not the one that key {key} signed: one of the two was altered")]
    Altered {
        /// Id of the key.
        key: String,
    },
    /// Its time is over.
    #[error("The update set expired on {expires}, and it is {now}: ask for a newer one, or look at the clock")]
    Expired {
        /// When.
        expires: jiff::Timestamp,
        /// The clock.
        now: jiff::Timestamp,
    },
    /// The clock cannot be right.
    #[error(
        "The clock says {now}, before the update set was made ({made}): whether it has expired cannot be known; set the clock"
    )]
    ClockBehind {
        /// The clock.
        now: jiff::Timestamp,
        /// Build epoch of the set.
        made: jiff::Timestamp,
    },
    /// It is older than allowed.
    #[error("The update set has version {found}, older than {floor}, the oldest that may still be installed here")]
    BelowFloor {
        /// Its version.
        found: String,
        /// The floor.
        floor: String,
    },
    /// It is for another kind of machine.
    #[error("The update set is for architecture {found}, expected {expected}")]
    Arch {
        /// Its architecture.
        found: String,
        /// This machine's.
        expected: String,
    },
    /// It is another image.
    #[error("The update set is of image {found:?}, expected {expected:?}")]
    Name {
        /// Its name.
        found: String,
        /// This node's.
        expected: String,
    },
    /// It is for another cluster.
    #[error("The update set is for the nodes of cluster {found} alone, and this node's cluster is {expected}")]
    Cluster {
        /// Fingerprint of the CA of its cluster.
        found: String,
        /// That of this node's.
        expected: String,
    },
    /// It is for any cluster.
    #[error(
        "The update set is for any cluster, and the image that runs is for {expected} alone: build it with --cluster"
    )]
    Unpinned {
        /// Fingerprint of the CA of this node's cluster.
        expected: String,
    },
    /// It cannot read what lies on STATE.
    #[error("The update set reads STATE formats {oldest} to {newest}, and this node's is {found}")]
    State {
        /// Oldest that it reads.
        oldest: u32,
        /// Newest that it reads.
        newest: u32,
        /// What the node has.
        found: u32,
    },
    /// Bytes are not those that were signed.
    #[error("The {section} has {found}, and the signed manifest says {expected}: it was altered or cut off")]
    Differs {
        /// Which section.
        section: &'static str,
        /// What is there.
        found: String,
        /// What was signed.
        expected: String,
    },
    /// Chunks cannot be read or made.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// No room for one signature more.
    #[error("The update set has room for {room} bytes of signatures, and these are {found}")]
    SignaturesFull {
        /// Bytes kept for them.
        room: u64,
        /// Bytes they have.
        found: usize,
    },
}
