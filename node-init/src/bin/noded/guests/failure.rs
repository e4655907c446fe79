//! Why a guest's start or run failed, in words that an administrator can act on. Pure.

use super::life::{Event, State};

/// What is known at the moment when a guest's state changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// The error of the work that failed.
    pub error: Option<String>,
    /// LXC's first complaint in this start.
    pub lxc: Option<String>,
    /// The last line on the guest's console.
    pub console: Option<String>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// The guest's memory limit, MiB.
    pub memory_mib: u32,
    /// Seconds that the agent was waited for.
    pub silent_s: u64,
    /// The agent said that the guest goes down by its own will.
    pub announced: bool,
}

/// The reason, if this event in this state is a failure.
pub fn reason(state: State, event: Event, seen: &Evidence) -> Option<String> {
    let silent = seen.silent_s;
    let text = match (state, event) {
        (_, Event::Failed) => seen.error.clone().unwrap_or_else(|| format!("Failed while {}", state.phase())),
        (State::Waiting, Event::Deadline | Event::DeadlineKeep) => with_console(
            format!(
                "The agent (VMA) said nothing for {silent} s after the launch: is it installed in the image, and started at boot?"
            ),
            seen,
        ),
        (State::Running, Event::Deadline | Event::DeadlineKeep) => {
            with_memory(format!("The agent (VMA) gave no answer for {silent} s"), seen)
        }
        (State::Waiting, Event::Ended) => match &seen.lxc {
            Some(line) => format!("LXC could not start the guest: {line}"),
            None => with_console(with_memory("The guest ended before its agent (VMA) spoke".into(), seen), seen),
        },
        (State::Running | State::Debugging, Event::Ended) if !seen.announced => {
            with_console(with_memory("The guest ended by itself".into(), seen), seen)
        }
        (State::Killing, Event::Deadline | Event::DeadlineKeep) => "The guest's processes do not die".into(),
        _ => return None,
    };
    Some(text)
}

fn with_memory(text: String, seen: &Evidence) -> String {
    match seen.oom_kills {
        0 => text,
        n => format!(
            "{text}; {n} processes were killed for want of memory: its limit of {} MiB is too low",
            seen.memory_mib
        ),
    }
}

fn with_console(text: String, seen: &Evidence) -> String {
    match &seen.console {
        Some(line) => format!("{text} (last on its console: {line})"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(state: State, event: Event, seen: Evidence, expect: Option<&str>) {
        assert_eq!(reason(state, event, &seen).as_deref(), expect);
    }

    #[test]
    fn a_failed_start_says_what_to_look_at() {
        let lxc = Some("No such file or directory - Failed to attach \"vg1\" to bridge".to_owned());
        check(
            State::Waiting,
            Event::Ended,
            Evidence { lxc, ..Evidence::default() },
            Some("LXC could not start the guest: No such file or directory - Failed to attach \"vg1\" to bridge"),
        );
        check(
            State::Waiting,
            Event::Ended,
            Evidence { oom_kills: 3, memory_mib: 64, console: Some("bye".into()), ..Evidence::default() },
            Some(
                "The guest ended before its agent (VMA) spoke; 3 processes were killed for want of memory: its limit of 64 MiB is too low (last on its console: bye)",
            ),
        );
        check(State::Fetching, Event::Failed, Evidence { error: Some("no".into()), ..Evidence::default() }, Some("no"));
    }

    #[test]
    fn a_guest_that_was_asked_to_stop_or_said_good_bye_has_not_failed() {
        let announced = Evidence { announced: true, ..Evidence::default() };
        check(State::Running, Event::Ended, announced, None);
        check(State::PoweringOff, Event::Ended, Evidence::default(), None);
        check(State::PoweringOff, Event::Deadline, Evidence::default(), None);
    }
}
