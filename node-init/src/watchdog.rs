//! The machine's watchdog: armed in the initrd, fed there by whoever watches over the phases and on the root by the
//! supervisor, so that a hang at any time ends in a reset, which boot counting understands.

use crate::fail::chain;
use std::path::Path;
use std::time::Duration;
use sys::watchdog::Watchdog;

const DEVICE: &str = "/dev/watchdog";
/// Twice this is at most a minute, since some timers count down twice before they bite; and a disk that takes its time
/// over a log's line is no hang yet.
const LIMIT_S: u32 = 30;
/// From a hang to the machine's reset.
const BITES_WITHIN_S: u32 = 60;
const _: () = assert!(LIMIT_S * 2 <= BITES_WITHIN_S);
/// How often it is fed when nothing asks for more.
pub const FEED_EVERY: Duration = Duration::from_secs(5);
/// Word by which the initrd tells the root's program under which number it left the watchdog open.
const LEFT_AT: &str = "watchdog=";

/// Arms it, if there is one.
pub fn arm() -> Option<Watchdog> {
    told(Watchdog::arm(Path::new(DEVICE), LIMIT_S))
}

/// Leaves it armed and open to the program that this one becomes: the argument that tells that one so.
pub fn leave(watchdog: &Watchdog) -> Option<String> {
    let left = watchdog.leave().inspect_err(|e| tracing::warn!(error = %chain(e), "Watchdog not handed on"));
    left.ok().map(|number| format!("{LEFT_AT}{number}"))
}

/// Takes over the one that these arguments tell of. Call it before anything else opens files.
pub fn left(mut arguments: impl Iterator<Item = String>) -> Option<Watchdog> {
    let number = arguments.find_map(|a| a.strip_prefix(LEFT_AT)?.parse().ok())?;
    told(Watchdog::inherited(number, LIMIT_S).map(Some))
}

fn told(armed: Result<Option<Watchdog>, sys::Error>) -> Option<Watchdog> {
    let watchdog = armed.inspect_err(|e| tracing::error!(error = %chain(e), "Watchdog not armed")).ok()??;
    let (timeout_s, bites_within_s) = (watchdog.timeout_s(), watchdog.bites_within_s());
    tracing::info!(name = watchdog.name(), timeout_s, bites_within_s, "Watchdog armed");
    if bites_within_s > BITES_WITHIN_S {
        tracing::warn!(timeout_s, expected_s = LIMIT_S, "Watchdog takes no shorter time limit");
    }
    Some(watchdog)
}

/// Feeds it, if there is one.
pub fn feed(watchdog: Option<&mut Watchdog>) {
    if let Some(Err(e)) = watchdog.map(Watchdog::feed) {
        tracing::error!(error = %chain(&e), "Watchdog not fed");
    }
}

/// How often to feed it: a few times within its limit, which some hardware has shorter than it was asked for.
pub fn feed_every(watchdog: Option<&Watchdog>) -> Duration {
    within(watchdog.map(Watchdog::timeout_s))
}

fn within(timeout_s: Option<u32>) -> Duration {
    let quarter = timeout_s.map(|s| Duration::from_secs(u64::from(s)) / 4);
    quarter.map_or(FEED_EVERY, |q| q.clamp(Duration::from_millis(250), FEED_EVERY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_is_fed_several_times_within_its_limit() {
        assert_eq!(within(None), FEED_EVERY);
        assert_eq!(within(Some(LIMIT_S)), FEED_EVERY);
        assert_eq!(within(Some(8)), Duration::from_secs(2));
        // A driver that does not know its limit must not make PID 1 spin.
        assert_eq!(within(Some(0)), Duration::from_millis(250));
    }

    #[test]
    fn a_program_that_was_left_nothing_takes_nothing() {
        let left = |words: &[&str]| left(words.iter().map(|w| (*w).to_owned())).is_some();
        assert!(!left(&["node-init"]) && !left(&["node-init", "watchdog=x"]) && !left(&["node-init", "watchdog=9999"]));
    }
}
