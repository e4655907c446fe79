//! What nxagent says about its session.
//!
//! nxagent has no interface for its state: these lines of its output are one, in practice since NX 3.
//! Anything not known here is `None`, and harmless.

/// A line that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `Session: Starting session at ...`
    Starting,
    /// It listens for its client. The line alone proves nothing: LISTEN is looked up in `/proc/net/tcp`.
    Waiting,
    /// The first client is up; only now does the display answer.
    Started,
    /// The client went, or a hang-up came.
    Suspending,
    /// Lives without client; listens no more.
    Suspended,
    /// A hang-up came while suspended: it will listen again.
    Resuming,
    /// A client is up again.
    Resumed,
    /// Ending, as asked or by failure; the exit follows.
    Ending,
    /// The display's size now.
    Resized(u16, u16),
    /// Its process id, as it sees it.
    Pid(u32),
    /// A failure in words; the whole line is kept as the reason.
    Error,
}

/// Reads one line of nxagent's output.
pub fn parse(line: &str) -> Option<Line> {
    let line = line.trim();
    // Not only at the begin: the table of keystrokes that nxagent prints when it resumes ends without a
    // newline, and "Session resumed" stands behind it.
    if let Some((_, rest)) = line.rsplit_once("Session: ") {
        return session(rest);
    }
    if line.starts_with("Error: ") {
        return Some(Line::Error);
    }
    let rest = line.strip_prefix("Info: ")?;
    if rest.starts_with("Waiting for connection from ") {
        return Some(Line::Waiting);
    }
    if let Some(pid) = rest.strip_prefix("Agent running with pid '") {
        return pid.split('\'').next()?.parse().ok().map(Line::Pid);
    }
    resized(rest)
}

fn session(rest: &str) -> Option<Line> {
    let words = rest.split(" at ").next()?;
    Some(match words.trim_end_matches('.') {
        "Starting session" => Line::Starting,
        "Session started" => Line::Started,
        "Suspending session" | "Display failure detected" => Line::Suspending,
        "Session suspended" => Line::Suspended,
        "Resuming session" => Line::Resuming,
        "Session resumed" => Line::Resumed,
        "Terminating session" | "Session terminated" | "Aborting session" | "Session aborted" => Line::Ending,
        _ => return None,
    })
}

/// `Screen [0] resized to geometry [WxH] fullscreen [n].`
fn resized(rest: &str) -> Option<Line> {
    let size = rest.strip_prefix("Screen [0] resized to geometry [")?.split(']').next()?;
    let (width, height) = size.split_once('x')?;
    Some(Line::Resized(width.parse().ok()?, height.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(line: &str, expect: Option<Line>) {
        assert_eq!(parse(line), expect, "{line:?}");
    }

    #[test]
    fn the_lines_of_a_session_are_known() {
        check("Session: Starting session at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Starting));
        check("Info: Waiting for connection from any host on socket 'tcp:*:4100'.", Some(Line::Waiting));
        check("Info: Waiting for connection from any host on socket 'tcp:127.0.0.1:4100'.", Some(Line::Waiting));
        check("Session: Session started at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Started));
        check("Session: Display failure detected at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Suspending));
        check("Session: Suspending session at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Suspending));
        check("Session: Session suspended at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Suspended));
        check("Session: Resuming session at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Resuming));
        check("Session: Session resumed at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Resumed));
        check("Session: Terminating session at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Ending));
        check("Session: Session terminated at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Ending));
        check("Session: Aborting session at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Ending));
        check("Session: Session aborted at 'Sat Nov 21 01:48:34 2026'.", Some(Line::Ending));
        check("Info: Agent running with pid '4711'.", Some(Line::Pid(4711)));
        check("Info: Screen [0] resized to geometry [1024x768] fullscreen [0].", Some(Line::Resized(1024, 768)));
        check("Error: Failed to bind socket", Some(Line::Error));
        let glued = "  dump_clipboard        : Ctrl+Shift+Alt+cSession: Session resumed at 'Sat Nov 21 03:20:05 2026'.";
        check(glued, Some(Line::Resumed));
    }

    #[test]
    fn other_lines_mean_nothing() {
        check("", None);
        check("Session: ", None);
        check("Session: Session danced at 'x'.", None);
        check("Info: Agent running with pid 'many'.", None);
        check("Info: Screen [0] resized to geometry [99999999x1] fullscreen [0].", None);
        check("Warning: Session started at 'x'", None);
    }

    proptest! {
        #[test]
        fn no_line_breaks_the_parser(line in "(Session: |Info: |Error: )?(Agent running with pid '|Screen \\[0\\] resized to geometry \\[)?\\PC{0,60}") {
            parse(&line);
        }

        #[test]
        fn what_stands_before_a_state_does_not_hide_it(before in "\\PC{0,40}") {
            prop_assert_eq!(parse(&format!("{before}Session: Session suspended at 'x'.")), Some(Line::Suspended));
        }
    }
}
