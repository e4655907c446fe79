//! Updates of nodes: what the store wants a node to run, and what a node tells of its versions.

use crate::{Digest, state::SlotState, state::UpdateStep};
use serde::{Deserialize, Serialize};

/// The update set that a node shall move to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// Its version, as its signed manifest says.
    pub version: String,
    /// SHA-256 of the set's file: its name in the store's repository.
    pub digest: Digest,
    /// Bytes of that file.
    pub bytes: u64,
    /// It is the node's turn: it drains, installs and reboots. Before that it only fetches and checks.
    pub go: bool,
    /// Seconds that users get to leave once it is the node's turn; none: as long as they like.
    pub drain_s: Option<u32>,
    /// Once it is the node's turn: how many users have a session with one of its desktops, through whichever router,
    /// or through its own router.
    pub users: u32,
}

/// What a node says of its versions, at each change. A level: the last one counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Versions {
    /// The version that runs.
    pub running: String,
    /// It runs on trial: this boot is not blessed yet.
    pub trial: bool,
    /// What the other slot holds, if anything.
    pub other: Option<Other>,
    /// How the update that the store wants stands; none: nothing is wanted, or it runs.
    pub update: Option<Progress>,
    /// Versions that were tried here and did not hold, and why. None of them is tried again.
    pub refused: Vec<Refused>,
}

impl Versions {
    /// Whether nothing but how far a fetch is has changed since `before`: nothing follows from that.
    pub fn only_fetched_more(&self, before: &Self) -> bool {
        let Some(now) = self.update.as_ref().filter(|update| update.step == UpdateStep::Fetching) else { return false };
        let mut before = before.clone();
        let Some(then) = before.update.as_mut() else { return false };
        let more = then.detail != now.detail;
        then.detail.clone_from(&now.detail);
        more && before == *self
    }
}

/// The slot that the node does not run from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Other {
    /// Its version.
    pub version: String,
    /// What is known of it.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub state: SlotState,
}

/// How an update stands on its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Progress {
    /// To which version.
    pub version: String,
    /// Where it is.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub step: UpdateStep,
    /// More: how much is fetched, why it failed.
    pub detail: String,
}

/// A version that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Refused {
    /// The version.
    pub version: String,
    /// What was found when it was tried.
    pub reason: String,
}

/// The hours, in UTC, in which nodes may go down for an update: `22:00-05:00`. It may pass midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Minute of the day at which it opens.
    from: u16,
    /// Minute of the day at which it closes.
    until: u16,
}

/// A text that is no [`Window`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no maintenance window: expected HH:MM-HH:MM in UTC, such as 22:00-05:00, with two different times")]
pub struct BadWindow(String);

impl Window {
    /// Whether it is open at this time, Unix milliseconds.
    pub fn is_open(self, now_ms: u64) -> bool {
        let minute = u16::try_from(now_ms / 60_000 % (24 * 60)).unwrap_or_default();
        if self.from < self.until {
            (self.from..self.until).contains(&minute)
        } else {
            minute >= self.from || minute < self.until
        }
    }
}

impl std::str::FromStr for Window {
    type Err = BadWindow;

    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let window = text.split_once('-').and_then(|(from, until)| Some((minute(from)?, minute(until)?)));
        match window {
            Some((from, until)) if from != until => Ok(Self { from, until }),
            _ => Err(BadWindow(text.to_owned())),
        }
    }
}

fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str, below: u16| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|n| digits && *n < below)
    };
    Some(number(hours, 24)? * 60 + number(minutes, 60)?)
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, until } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn open(window: &str, hour: u64, minute: u64, expect: bool) {
        let parsed: Window = window.parse().expect("a window");
        assert_eq!(parsed.to_string(), window);
        // Any day will do.
        let now = (20_000 * 24 * 60 + hour * 60 + minute) * 60_000;
        assert_eq!(parsed.is_open(now), expect, "{window} at {hour}:{minute}");
    }

    #[test]
    fn how_far_a_fetch_is_is_told_from_what_matters() {
        let versions = |running: &str, step, detail: &str| Versions {
            running: running.into(),
            update: Some(Progress { version: "2".into(), step, detail: detail.into() }),
            ..Versions::default()
        };
        let before = versions("1", UpdateStep::Fetching, "1 of 2 MB");
        for (now, expect) in [
            (versions("1", UpdateStep::Fetching, "2 of 2 MB"), true),
            (before.clone(), false),
            (versions("1", UpdateStep::Staged, ""), false),
            (versions("2", UpdateStep::Fetching, "2 of 2 MB"), false),
            (Versions::default(), false),
        ] {
            assert_eq!(now.only_fetched_more(&before), expect, "{now:?}");
        }
        assert!(!before.only_fetched_more(&Versions::default()));
        assert!(!before.only_fetched_more(&versions("1", UpdateStep::Failed, "the network")));
    }

    #[test]
    fn a_window_opens_and_closes_also_over_midnight() {
        open("01:00-05:30", 1, 0, true);
        open("01:00-05:30", 5, 29, true);
        open("01:00-05:30", 5, 30, false);
        open("01:00-05:30", 0, 59, false);
        open("22:00-05:00", 23, 59, true);
        open("22:00-05:00", 0, 0, true);
        open("22:00-05:00", 5, 0, false);
        open("22:00-05:00", 12, 0, false);
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for bad in ["", "22:00", "22:00-", "22:00-22:00", "24:00-01:00", "1:00-02:00", "01:60-02:00", "+1:00-02:00"] {
            assert_eq!(bad.parse::<Window>(), Err(BadWindow(bad.to_owned())));
        }
    }
}
