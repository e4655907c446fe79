//! The states that administrators see and filter by. Names are QVD's; they are stored and sent as these words.

use serde::{Deserialize, Serialize};

/// A word that names no value of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is not a {what}: expected one of {expected}")]
pub struct UnknownWord {
    /// What was being read, such as `VM state`.
    pub what: &'static str,
    /// The text found.
    pub found: String,
    /// The legal words, joined with `, `.
    pub expected: String,
}

macro_rules! words {
    ($($(#[$doc:meta])* $what:literal $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every value, in the order in which they are declared.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word stored, sent and shown.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = UnknownWord;
            fn from_str(s: &str) -> Result<Self, UnknownWord> {
                match s {
                    $($word => Ok(Self::$variant),)*
                    _ => Err(UnknownWord { what: $what, found: s.to_owned(), expected: [$($word,)*].join(", ") }),
                }
            }
        }
    )*};
}

words! {
    /// A virtual machine's state.
    "VM state" VmState {
        /// Nothing of it runs on any node.
        Stopped = "stopped",
        /// A node prepares or boots it.
        Starting = "starting",
        /// Its agent answers.
        Running = "running",
        /// It is being shut down.
        Stopping = "stopping",
        /// Its remains could not be removed yet; the node keeps trying.
        Zombie = "zombie",
        /// It runs but its agent does not answer, and the cluster is set to leave it so.
        Debugging = "debugging",
    }
    /// What the cluster wants of a virtual machine.
    "wanted state" Want {
        /// It should not run.
        Stop = "stop",
        /// It should run.
        Run = "run",
    }
    /// The state of a user's session with a virtual machine.
    "user state" UserState {
        /// No client.
        Disconnected = "disconnected",
        /// A client asked for it and waits.
        Connecting = "connecting",
        /// A client is connected.
        Connected = "connected",
    }
    /// A node's state.
    "host state" HostState {
        /// Registered, never seen or shut down in order.
        Stopped = "stopped",
        /// Connected, not Ready yet.
        Starting = "starting",
        /// Ready: takes guests and users.
        Running = "running",
        /// Shutting down.
        Stopping = "stopping",
        /// Not heard of for longer than `internal.hkd.cluster.node.timeout`.
        Lost = "lost",
    }
    /// What a node knows of the version in a slot.
    "slot state" SlotState {
        /// It was blessed: it can be gone back to.
        Good = "good",
        /// It has tries left.
        Trial = "trial",
        /// It used up its tries, or was given up.
        Failed = "failed",
    }
    /// How far an update is on a node.
    "update step" UpdateStep {
        /// Its bytes come.
        Fetching = "fetching",
        /// It is here, whole and verified, and waits for the node's turn.
        Staged = "staged",
        /// It is the node's turn: new guests stay away, users are waited for.
        Draining = "draining",
        /// It is being written to the idle slot.
        Writing = "writing",
        /// It is what boots next.
        Armed = "armed",
        /// It cannot be had or installed now; it is tried again.
        Failed = "failed",
        /// It was tried here and did not hold, or is no set for this node: it is not tried again.
        Refused = "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_reads_back_and_no_other_does() {
        for state in VmState::ALL {
            assert_eq!(state.as_str().parse::<VmState>().as_ref(), Ok(state));
        }
        let err = "Running".parse::<VmState>().expect_err("case matters");
        assert_eq!(
            err.to_string(),
            "'Running' is not a VM state: expected one of stopped, starting, running, stopping, zombie, debugging"
        );
    }
}
