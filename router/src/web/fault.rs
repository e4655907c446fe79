//! What a page is told when something does not work: a code, for which it has words in each language
//! and which an administrator finds in the manual, and what was recorded.

use crate::{answer::Status, seek::Denied};
use model::sync::{ENDED, Refusal, TAKEN_OVER};
use serde_json::{Value, json};

/// A failure, as a page hears of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Wrong name or password.
    Login,
    /// Too many wrong passwords: seconds to wait.
    Slow(u64),
    /// Nobody is logged in with this cookie.
    NoLogin,
    /// The request does not come from our page.
    Forged,
    /// The account needs a one-time code, and none was given.
    CodeNeeded,
    /// The one-time code is wrong or was used.
    BadCode,
    /// There is nothing at this address.
    NoAddress,
    /// A request that cannot be read.
    Malformed,
    /// No such desktop.
    NoDesktop,
    /// Another user's desktop.
    NotYours,
    /// The desktop is in maintenance, and what its administrator says of it.
    Blocked(Option<String>),
    /// No node has room.
    NoRoom,
    /// Another client does not let go.
    Held,
    /// Not possible in the desktop's state.
    State(String),
    /// It does not start: what was recorded.
    NotRunning(String),
    /// It takes too long.
    Late,
    /// It runs, but gives no session: what was recorded.
    NotOpened(String),
    /// An administrator ended it, and why, where a reason was given.
    Cut(Option<String>),
    /// Another client took it.
    TakenOver,
    /// The node is in no cluster yet.
    NotRegistered,
    /// The node is in maintenance.
    Maintenance,
    /// The node starts or stops.
    NodeState(String),
    /// The store cannot be reached.
    StoreAway,
    /// A fault of ours.
    Ours(String),
    /// A file or folder is not there.
    NoFile,
    /// The user may not.
    FileForbidden,
    /// A name that no file can have.
    BadName,
    /// Goes on elsewhere than where it stopped.
    Offset,
    /// The home is full.
    HomeFull,
    /// Too many transfers.
    FilesBusy,
    /// Larger than allowed: how many MiB are.
    TooLarge(u64),
    /// A transfer failed: what was recorded.
    FileFailed(String),
    /// Files need an open desktop.
    NoSession,
}

impl Fault {
    /// Its code.
    pub fn code(&self) -> &'static str {
        self.facts().0
    }

    /// Its HTTP status.
    pub fn status(&self) -> Status {
        self.facts().1
    }

    /// Seconds to wait.
    pub fn wait(&self) -> Option<u64> {
        match self {
            Self::Slow(seconds) => Some(*seconds),
            _ => None,
        }
    }

    fn facts(&self) -> (&'static str, Status) {
        match self {
            Self::Login => ("R101", Status::Unauthorized),
            Self::Slow(_) => ("R102", Status::TooMany),
            Self::NoLogin => ("R103", Status::Unauthorized),
            Self::Forged => ("R104", Status::Forbidden),
            Self::NoAddress => ("R105", Status::NotFound),
            Self::Malformed => ("R106", Status::BadRequest),
            Self::CodeNeeded => ("R107", Status::Unauthorized),
            Self::BadCode => ("R108", Status::Unauthorized),
            Self::NoDesktop => ("R201", Status::NotFound),
            Self::NotYours => ("R202", Status::Forbidden),
            Self::Blocked(_) => ("R203", Status::Forbidden),
            Self::NoRoom => ("R204", Status::Unavailable),
            Self::Held => ("R205", Status::Unavailable),
            Self::State(_) => ("R206", Status::Conflict),
            Self::NotRunning(_) => ("R207", Status::Unavailable),
            Self::Late => ("R208", Status::Unavailable),
            Self::NotOpened(_) => ("R209", Status::Unavailable),
            Self::Cut(_) => ("R210", Status::Unavailable),
            Self::TakenOver => ("R211", Status::Conflict),
            Self::NotRegistered => ("R301", Status::Unavailable),
            Self::Maintenance => ("R302", Status::Unavailable),
            Self::NodeState(_) => ("R303", Status::Unavailable),
            Self::StoreAway => ("R304", Status::Unavailable),
            Self::Ours(_) => ("R305", Status::Internal),
            Self::NoFile => ("R401", Status::NotFound),
            Self::FileForbidden => ("R402", Status::Forbidden),
            Self::BadName => ("R403", Status::Unprocessable),
            Self::Offset => ("R404", Status::Conflict),
            Self::HomeFull => ("R405", Status::NoRoom),
            Self::FilesBusy => ("R406", Status::TooMany),
            Self::TooLarge(_) => ("R407", Status::TooLarge),
            Self::FileFailed(_) => ("R408", Status::Unavailable),
            Self::NoSession => ("R409", Status::Conflict),
        }
    }

    /// What was recorded, beside the words for the code.
    fn detail(&self) -> Option<String> {
        match self {
            Self::State(d) | Self::NotRunning(d) | Self::NotOpened(d) => Some(d.clone()),
            Self::Blocked(d) | Self::Cut(d) => d.clone(),
            Self::NodeState(d) | Self::Ours(d) | Self::FileFailed(d) => Some(d.clone()),
            Self::Slow(seconds) => Some(format!("{seconds} s")),
            Self::TooLarge(mib) => Some(format!("{mib} MiB")),
            _ => None,
        }
    }

    /// As pages read it.
    pub fn json(&self) -> Value {
        match self.detail() {
            Some(detail) => json!({ "code": self.code(), "detail": detail, "wait": self.wait() }),
            None => json!({ "code": self.code() }),
        }
    }

    /// The end of a session for a reason that the table gives.
    pub fn of_abort(reason: String) -> Self {
        match reason.as_str() {
            TAKEN_OVER => Self::TakenOver,
            // The page's own words say so; the same once more would be no reason.
            ENDED => Self::Cut(None),
            _ => Self::Cut(Some(reason)),
        }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadLogin => Self::Login,
            Refusal::TooMany(seconds) => Self::Slow(seconds.into()),
            Refusal::CodeNeeded => Self::CodeNeeded,
            Refusal::BadCode => Self::BadCode,
            Refusal::NoVm => Self::NoDesktop,
            Refusal::Blocked => Self::Blocked(None),
            Refusal::NotYours => Self::NotYours,
            Refusal::NoHost => Self::NoRoom,
            Refusal::Held => Self::Held,
            Refusal::State(state) => Self::State(state.to_string()),
            Refusal::StoreAway => Self::StoreAway,
            Refusal::Other(reason) => Self::Ours(reason),
        }
    }
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Refused(refusal) => refusal.into(),
            Denied::NotRunning(reason) => Self::NotRunning(reason),
            Denied::Late(_) => Self::Late,
            Denied::NotOpened(reason) => Self::NotOpened(reason),
            Denied::Cut(reason) => Self::of_abort(reason),
            Denied::Ours(reason) => Self::Ours(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_words_for_every_code_and_administrators_the_manual() {
        let texts = include_str!("../../web/strings.en.json");
        let manual = include_str!("../../../docs/manual/src/browser.md");
        let all = include_str!("fault.rs");
        let codes: Vec<_> = all.match_indices("(\"R").map(|(at, _)| &all[at + 2..at + 6]).collect();
        assert!(codes.len() > 30);
        for code in codes {
            assert!(texts.contains(&format!("\"{code}\"")), "no words for {code}");
            assert!(manual.contains(&format!("| {code} |")), "the manual does not know {code}");
        }
    }

    #[test]
    fn a_takeover_is_told_from_an_order_of_an_administrator() {
        assert_eq!(Fault::of_abort(TAKEN_OVER.to_owned()), Fault::TakenOver);
        assert_eq!(Fault::of_abort("maintenance".to_owned()).json()["detail"], "maintenance");
        assert!(Fault::of_abort(ENDED.to_owned()).json().get("detail").is_none(), "said once");
    }
}
