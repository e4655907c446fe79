//! Typed ids. All are the store's row numbers: positive, never used again, and shown as plain integers
//! because the QVD protocol demands integers (`docs/SPECIFICATION.md`, protocol).

use serde::{Deserialize, Serialize};

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = std::num::ParseIntError;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }
    )*};
}

typed_ids! {
    /// A node of the cluster, as registered in the store.
    HostId
    /// A person who logs in.
    UserId
    /// An OS flavour: memory, home size and the series of disk images that its machines boot.
    OsfId
    /// A disk image: one version of an OS flavour's contents.
    DiId
    /// A virtual machine (container or KVM guest); keeps its id over moves and restarts.
    VmId
}
