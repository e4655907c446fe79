//! What nxagent runs instead of a dialogue, as `$NX_CLIENT`.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{ffi::OsString, process::ExitCode};

/// Closing the session's window suspends: nxagent asks "suspend or terminate" and takes a hang-up as the
/// answer. Every other dialogue is only a message, and goes unseen.
pub fn main(args: &[OsString]) -> ExitCode {
    let Some(parent) = to_suspend(args) else { return ExitCode::SUCCESS };
    match kill(Pid::from_raw(parent), Signal::SIGHUP) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn to_suspend(args: &[OsString]) -> Option<i32> {
    let value = |name: &str| args.iter().skip_while(|arg| *arg != name).nth(1)?.to_str();
    let parent = value("--parent")?.parse().ok().filter(|pid| *pid > 1)?;
    (value("--dialog")? == "yesnosuspend").then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expect: Option<i32>) {
        let args: Vec<_> = line.split(' ').map(OsString::from).collect();
        assert_eq!(to_suspend(&args), expect);
    }

    #[test]
    fn only_the_closing_of_the_window_hangs_up() {
        check("--dialog yesnosuspend --caption x --parent 77 --display :100", Some(77));
        check("--parent 77 --dialog yesnosuspend", Some(77));
        check("--dialog ok --parent 77", None);
        check("--dialog yesnosuspend --parent 1", None);
        check("--dialog yesnosuspend --parent -1", None);
        check("--dialog yesnosuspend --parent", None);
    }
}
