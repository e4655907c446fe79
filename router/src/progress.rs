//! The 102 messages of a connection, few enough for every client.
//!
//! The C client gives up when 101 is not among its first ten reads, and one TLS record is one read. So
//! messages are collected and sent together, at moments that get rarer, in at most [`RECORDS`] records;
//! the last ones travel with the 101.

use crate::answer;
use model::VmId;
use std::{fmt, time::Duration};

/// What happens on the way to a session. Its `Display` is what QVD's clients show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Another client is told to let go.
    TakingOver(VmId),
    /// The VM is this client's.
    Acquired(VmId),
    /// It does not run: a node is found for it.
    Assigning(VmId),
    /// The node starts it.
    Starting,
    /// It is not running yet.
    Waiting,
    /// The agent is asked for a session.
    StartingSession(VmId),
    /// The session is not there yet.
    WaitingSession(VmId),
    /// The session is there.
    Connecting(VmId),
    /// Bytes may pass.
    Established,
}

impl Step {
    /// A name for pages, which have their own words.
    pub fn name(self) -> &'static str {
        match self {
            Self::TakingOver(_) => "takeover",
            Self::Acquired(_) => "acquired",
            Self::Assigning(_) => "assigning",
            Self::Starting => "starting",
            Self::Waiting => "waiting",
            Self::StartingSession(_) | Self::WaitingSession(_) => "session",
            Self::Connecting(_) | Self::Established => "connecting",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakingOver(vm) => write!(f, "Aborting contending session for VM_ID: {vm}"),
            Self::Acquired(vm) => write!(f, "Session acquired for VM_ID: {vm}"),
            Self::Assigning(vm) => write!(f, "Assigning VM {vm} to host"),
            Self::Starting => f.write_str("Starting virtual machine"),
            Self::Waiting => f.write_str("Waiting for VM to reach state 'running'"),
            Self::StartingSession(vm) => write!(f, "Starting X session at VM {vm}"),
            Self::WaitingSession(vm) => write!(f, "Waiting for X session to come up on VM {vm}"),
            Self::Connecting(vm) => write!(f, "Connecting X session for VM_ID: {vm}"),
            Self::Established => f.write_str("Connection established"),
        }
    }
}

/// Most records of 102s before the one with 101.
pub const RECORDS: usize = 7;
/// A waiting client hears something at these times after it asked, while there are records left; the
/// last one is kept for when the machine runs.
const TIMES: [Duration; RECORDS - 1] = [
    Duration::ZERO,
    Duration::from_secs(4),
    Duration::from_secs(12),
    Duration::from_secs(30),
    Duration::from_secs(70),
    Duration::from_secs(150),
];

/// Messages to send.
#[derive(Debug, Default)]
pub struct Progress {
    pending: String,
    last: String,
    sent: usize,
}

impl Progress {
    /// Adds a message; one that repeats the last one is left out.
    pub fn say(&mut self, text: impl ToString) {
        let text = text.to_string();
        if text != self.last {
            self.pending.push_str(&answer::progress(&text));
            self.last = text;
        }
    }

    /// What to send now, `elapsed` after the request: nothing while it is too early, and never more
    /// often than the clients can take. When nothing new is to be told, the last message is repeated.
    pub fn due(&mut self, elapsed: Duration) -> Option<String> {
        let time = TIMES.get(self.sent)?;
        if elapsed < *time {
            return None;
        }
        if self.pending.is_empty() {
            self.pending = answer::progress(&self.last);
        }
        self.now()
    }

    /// What to send before the last wait, whatever the time.
    pub fn now(&mut self) -> Option<String> {
        if self.pending.is_empty() || self.sent == RECORDS {
            return None;
        }
        self.sent += 1;
        Some(std::mem::take(&mut self.pending))
    }

    /// What is left, to be sent together with the final answer's head.
    pub fn rest(self) -> String {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_are_collected_and_repeated_ones_told_once() {
        let mut progress = Progress::default();
        progress.say("a");
        progress.say("b");
        progress.say("b");
        let sent = progress.due(Duration::ZERO).expect("the first is due at once");
        assert_eq!(sent.matches("102 Processing").count(), 2);
        assert_eq!(progress.due(Duration::from_secs(1)), None);
        assert!(progress.due(Duration::from_secs(4)).expect("due").contains("X-QVD-VM-Info: b\r\n"));
        progress.say("c");
        assert!(progress.rest().contains(": c\r\n"));
    }

    proptest! {
        #[test]
        fn a_client_never_gets_more_records_than_it_can_take(steps in prop::collection::vec((0u64..30, any::<bool>()), 0..400)) {
            let (mut progress, mut at, mut sent) = (Progress::default(), 0, 0);
            for (wait, news) in steps {
                at += wait;
                if news {
                    progress.say(format!("{at}"));
                }
                sent += usize::from(progress.due(Duration::from_secs(at)).is_some());
            }
            prop_assert!(sent < RECORDS);
            progress.say("last");
            prop_assert!(progress.now().is_some());
        }
    }
}
