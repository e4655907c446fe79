//! Why a plan is not made.

use thiserror::Error;

use super::load::{Side, State};

/// Why something is not done. Nothing was written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// What runs came from elsewhere.
    #[error("This node runs no root of its own disk: boot it from there first")]
    NotFromDisk,
    /// The running version could not be booted again.
    #[error("Slot {side} runs, and no boot entry leads to it any more: reboot into the other slot first")]
    NoEntry {
        /// The running slot.
        side: Side,
    },
    /// The running version may yet turn out bad.
    #[error("Version {version} runs on trial and is not blessed yet: the other slot is what it falls back on")]
    OnTrial {
        /// The running version.
        version: String,
    },
    /// It is there.
    #[error("Version {version} is installed in slot {side} already: {state}")]
    Installed {
        /// The version.
        version: String,
        /// Where.
        side: Side,
        /// How it fares.
        state: State,
    },
    /// It is there, and was given up.
    #[error("Version {version} is in slot {side} and failed: install another one, or ask for it to be tried again")]
    FailedBefore {
        /// The version.
        version: String,
        /// Where.
        side: Side,
    },
    /// Two builds under one version.
    #[error(
        "Version {version} in slot {side} has root {found}, and the new one of the same version {new}: versions are not used twice"
    )]
    TwoOfOneVersion {
        /// The version.
        version: String,
        /// Where the other one is.
        side: Side,
        /// Root hash there.
        found: String,
        /// Root hash of the new one.
        new: String,
    },
    /// Two versions with one root: partitions are found by it.
    #[error("Version {version} has the very root that runs")]
    SameRoot {
        /// The new version.
        version: String,
    },
    /// The boot loader would not take it.
    #[error(
        "Version {new} is not newer than {running}, which runs: the boot loader would never try it; to go back, roll back"
    )]
    NotNewer {
        /// The running version.
        running: String,
        /// The new version.
        new: String,
    },
    /// The boot loader sorts by this first.
    #[error("The new image is {new}, and {running} runs: a node is not updated to another image")]
    OtherImage {
        /// What runs.
        running: String,
        /// What was offered.
        new: String,
    },
    /// Older than what may be installed.
    #[error("Version {new} is below the floor {floor}")]
    BelowFloor {
        /// The floor.
        floor: String,
        /// The new version.
        new: String,
    },
    /// For another machine.
    #[error("The new version is for {found}, and this node is {expected}")]
    Architecture {
        /// Of the new version.
        found: String,
        /// Of the node.
        expected: String,
    },
    /// Name and version cannot be an entry's.
    #[error("Name {name:?} and version {version:?} cannot be a boot entry's")]
    BadName {
        /// The name.
        name: String,
        /// The version.
        version: String,
    },
    /// The root's length is not what its verity parameters say.
    #[error("The root is announced with {found} bytes, and its verity parameters make {expected}")]
    RootLength {
        /// As announced.
        found: u64,
        /// As computed.
        expected: u64,
    },
    /// Too large for a slot.
    #[error("The root has {found} bytes, and slot {side} has {room}")]
    RootTooLarge {
        /// Bytes of the root.
        found: u64,
        /// Which slot.
        side: Side,
        /// Bytes of it.
        room: u64,
    },
    /// Too large for the ESP.
    #[error("The UKI has {found} bytes, and the ESP has room for {room} once the old one is gone")]
    UkiTooLarge {
        /// Bytes of the UKI.
        found: u64,
        /// Bytes free then.
        room: u64,
    },
    /// There is nothing to go back to.
    #[error("There is no good version to go back to: slot {side} is {state}")]
    NothingGood {
        /// The other slot.
        side: Side,
        /// How it fares.
        state: State,
    },
    /// There is nothing to try again.
    #[error("There is no failed version to try again: slot {side} is {state}")]
    NothingFailed {
        /// The other slot.
        side: Side,
        /// How it fares.
        state: State,
    },
}
