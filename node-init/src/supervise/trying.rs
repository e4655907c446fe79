//! The trial of this version, if it is on one: found out, ended when its time is over.
//!
//! Reading the slots takes a disk's time, and no service needs to know. So a thread does it, once the node is Ready, or
//! when the boot takes long; every trial is longer than that.

use crate::boot::Trial;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::time::Duration;

/// When the slots are looked at in a boot that is not Ready yet, after the kernel's start.
const LOOK_AT: Duration = Duration::from_secs(30);
const _: () = assert!(LOOK_AT.as_secs() < Trial::SHORTEST_S);

/// The disk needs about as long, and nothing else tells that it has answered.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Looks at the slots.
pub type Look = Box<dyn FnOnce() -> Option<Trial> + Send>;

/// What is known of it.
pub struct Trying(Known);

enum Known {
    NotYet(Look),
    Looking(Receiver<Option<Trial>>),
    Trial(Trial),
    /// None, or it has ended.
    None,
}

/// What a turn found.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// This version is on trial.
    Begins(Trial),
    /// And its time is over.
    Over(Trial),
}

impl Trying {
    /// Nothing is known yet.
    pub fn new(look: Look) -> Self {
        Self(Known::NotYet(look))
    }

    /// The node is Ready: now there is time to look.
    pub fn look(&mut self) {
        self.0 = match std::mem::replace(&mut self.0, Known::None) {
            Known::NotYet(look) => start(look),
            known => known,
        };
    }

    /// This version is good. Whatever a look finds later is of before.
    pub fn bless(&mut self) -> Option<Trial> {
        match std::mem::replace(&mut self.0, Known::None) {
            Known::Trial(trial) => Some(trial),
            Known::NotYet(_) | Known::Looking(_) | Known::None => None,
        }
    }

    /// Whether something has begun or is over.
    pub fn turn(&mut self, now: Duration) -> Option<Found> {
        if now >= LOOK_AT {
            self.look();
        }
        match &self.0 {
            Known::Looking(answer) => {
                let found = match answer.try_recv() {
                    Ok(found) => found,
                    Err(TryRecvError::Empty) => return None,
                    Err(TryRecvError::Disconnected) => None,
                };
                self.0 = found.clone().map_or(Known::None, Known::Trial);
                found.map(Found::Begins)
            }
            Known::Trial(trial) if now >= trial.until => self.bless().map(Found::Over),
            Known::Trial(_) | Known::NotYet(_) | Known::None => None,
        }
    }

    /// When it wants to be looked at again.
    pub fn due(&self, now: Duration) -> Option<Duration> {
        match &self.0 {
            Known::NotYet(_) => Some(LOOK_AT),
            Known::Trial(trial) => Some(trial.until),
            Known::Looking(_) => Some(now + ASK_AGAIN),
            Known::None => None,
        }
    }
}

fn start(look: Look) -> Known {
    let (tell, told) = mpsc::channel();
    // The receiver is gone once the version was blessed.
    let work = move || drop(tell.send(look()));
    match std::thread::Builder::new().stack_size(512 * 1024).spawn(work) {
        Ok(_) => Known::Looking(told),
        Err(e) => {
            tracing::error!(error = %e, "Cannot tell whether this boot is a trial");
            Known::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::Sender;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn trial() -> Trial {
        Trial { version: "2".to_owned(), until: at(60) }
    }

    /// One whose look waits for a word.
    fn trying() -> (Sender<Option<Trial>>, Trying) {
        let (tell, told) = mpsc::channel();
        (tell, Trying::new(Box::new(move || told.recv().ok().flatten())))
    }

    fn wait(trying: &mut Trying, now: Duration) -> Option<Found> {
        while matches!(trying.0, Known::Looking(_)) {
            if let Some(found) = trying.turn(now) {
                return Some(found);
            }
            std::thread::yield_now();
        }
        None
    }

    #[test]
    fn a_boot_is_looked_at_when_it_is_ready_or_late_and_its_trial_ends() {
        for ready in [true, false] {
            let (tell, mut trying) = trying();
            assert_eq!((trying.turn(at(29)), trying.due(at(29))), (None, Some(LOOK_AT)));
            let now = if ready { at(5) } else { at(31) };
            if ready {
                trying.look();
            }
            assert_eq!(trying.turn(now), None, "it does not wait for the disk");
            tell.send(Some(trial())).expect("waits");
            assert_eq!(wait(&mut trying, now), Some(Found::Begins(trial())));
            assert_eq!((trying.turn(at(59)), trying.due(at(59))), (None, Some(at(60))));
            assert_eq!((trying.turn(at(60)), trying.turn(at(61))), (Some(Found::Over(trial())), None));
        }
    }

    #[test]
    fn a_blessed_version_is_on_no_trial_whatever_the_look_finds() {
        let (tell, mut trying) = trying();
        trying.look();
        assert_eq!(trying.bless(), None);
        tell.send(Some(trial())).expect("waits");
        assert_eq!((trying.turn(at(99)), trying.due(at(99))), (None, None));
    }

    #[test]
    fn a_look_that_fails_is_no_trial() {
        let mut trying = Trying::new(Box::new(|| panic!("a fault in reading slots")));
        trying.look();
        assert_eq!((wait(&mut trying, at(1)), trying.turn(at(99))), (None, None));
    }
}
