//! What an agent that crashed leaves behind: programs of a session that nobody serves any more.
//!
//! The leader of each session of processes is noted, with the time it started, which tells it from a later process
//! of the same number. The next agent ends what the notes lead to before it takes its first order: the user's
//! desktop is gone with its agent, and the next connection gets a new one instead of a display that is taken.

use crate::proc;
use rustix::process::Signal;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// How long what is left may take to end by itself.
const GRACE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(20);

/// A noted leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leader {
    pid: u32,
    /// In clock ticks since the guest's boot, by `/proc/PID/stat`.
    started: u64,
}

/// Notes a leader in the agent's directory. Without its note a crash would leave it: that is told, no more.
pub fn note(run: &Path, pid: u32) {
    let Some(started) = started(&proc::stat(pid)) else { return };
    let file = OpenOptions::new().append(true).create(true).open(notes(run));
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{pid} {started}")) {
        tracing::warn!(pid, %error, "Cannot note a process");
    }
}

/// Ends what the notes of an earlier agent lead to, and begins them anew.
pub fn end(run: &Path) -> io::Result<()> {
    let text = match fs::read_to_string(notes(run)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text?,
    };
    let left: Vec<u32> = text.lines().filter_map(parse).filter(|l| !is_another(*l)).map(|l| l.pid).collect();
    let ended = signal_all(&left, Signal::TERM);
    let end = Instant::now() + GRACE;
    while signal_all(&left, Signal::URG) > 0 && Instant::now() < end {
        thread::sleep(POLL);
    }
    signal_all(&left, Signal::KILL);
    if ended > 0 {
        tracing::warn!(processes = ended, "Ended what an earlier agent left");
    }
    fs::remove_file(notes(run))
}

/// Signals all processes of these sessions; how many there were. `URG` is one that every program ignores
/// unless it asked for it: it only counts.
fn signal_all(leaders: &[u32], signal: Signal) -> usize {
    leaders.iter().map(|leader| proc::signal_session(*leader, signal)).sum()
}

/// Whether the number has gone to another process since: nothing of the session is left then.
fn is_another(leader: Leader) -> bool {
    started(&proc::stat(leader.pid)).is_some_and(|started| started != leader.started)
}

fn notes(run: &Path) -> PathBuf {
    run.join("leaders")
}

fn parse(line: &str) -> Option<Leader> {
    let (pid, started) = line.split_once(' ')?;
    Some(Leader { pid: pid.parse().ok()?, started: started.parse().ok()? })
}

/// The start time in `/proc/PID/stat`: the twentieth field behind the name.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn what_is_noted_ends_with_its_session_and_another_of_its_number_does_not() {
        let dir = tempfile::tempdir().expect("dir");
        // A child of the test's would lead no session; one of `setsid` that need not fork does.
        let mut left = Command::new("setsid").args(["sleep", "600"]).stdin(Stdio::null()).spawn().expect("setsid");
        while proc::signal_session(left.id(), Signal::URG) == 0 {
            thread::sleep(POLL);
        }
        note(dir.path(), left.id());
        let text = fs::read_to_string(notes(dir.path())).expect("noted");
        let other = format!("{} 1\n{text}nonsense\n", std::process::id());
        fs::write(notes(dir.path()), other).expect("written");
        end(dir.path()).expect("ended");
        assert!(!left.wait().expect("status").success());
        assert!(!notes(dir.path()).exists());
        end(dir.path()).expect("nothing to do is no error");
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        assert_eq!(started(stat), Some(4711));
        assert_eq!(parse("7 4711"), Some(Leader { pid: 7, started: 4711 }));
        assert_eq!((started(""), parse("x y"), parse("7")), (None, None, None));
    }
}
