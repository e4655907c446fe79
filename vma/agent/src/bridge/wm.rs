//! The window manager of the bridge: every window fills the display, whatever size it asks for.
//!
//! A common one will not do: nxagent says that its window is at most as large as the display was when it
//! connected, and so would never grow with the browser. Nor does it need keys, frames and menus.
//!
//! nxagent keeps an account of what is to be drawn, and a desktop stays blank, in whole or in part, where that goes
//! wrong. For each region that it has its programs draw, it notes which window that was, and asks for another place of
//! a window of its own that is never shown. Until it hears of that place, which tells it how far the display is, it
//! holds back what the display says of the window in its note.
//!
//! - So a window that is not shown goes where it wants to: one that is put to the same place each time does not move,
//!   and nobody hears of it ([`Act::Grant`]).
//! - A session that is suspended in between keeps its notes, which nobody answers any more. nxagent drops them not when
//!   it resumes but at the first region after that. So its window is not mapped, and nothing is there to be drawn,
//!   before it has had such a region ([`Act::Settle`]).

use super::x11::{Change, Display, Event, Size, Window};
use std::{
    io,
    time::{Duration, Instant},
};

/// A session that shows nothing by then does not come any more.
const FIRST_WINDOW: Duration = Duration::from_secs(45);
/// How long nxagent may take to go on with its programs; it does so once it has resumed.
const SETTLES: Duration = Duration::from_secs(10);

/// What is to be done to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Place(Window, Size),
    Grant(Window, Change),
    /// Have nxagent drop its notes.
    Settle,
    Map(Window),
    Focus(Window),
}

/// The windows shown, and the display's size.
#[derive(Debug)]
struct Manager {
    root: Window,
    size: Size,
    shown: Vec<Window>,
}

impl Manager {
    fn react(&mut self, event: Event) -> Vec<Act> {
        match event {
            Event::MapRequest(window) => {
                self.shown.retain(|shown| *shown != window);
                self.shown.push(window);
                vec![Act::Place(window, self.size), Act::Settle, Act::Map(window), Act::Focus(window)]
            }
            Event::ConfigureRequest(window, _) if self.shown.contains(&window) => vec![Act::Place(window, self.size)],
            Event::ConfigureRequest(window, change) => vec![Act::Grant(window, change)],
            Event::Resized(window, size) if window == self.root && size != self.size => {
                self.size = size;
                self.shown.iter().map(|window| Act::Place(*window, size)).collect()
            }
            Event::Gone(window) => {
                self.shown.retain(|shown| *shown != window);
                vec![]
            }
            Event::Resized(..) | Event::Other => vec![],
        }
    }
}

/// Manages until the display is gone, or no window comes. `session` is nxagent's own display.
pub fn serve(display: &mut Display, session: u16) -> io::Error {
    let (root, size) = display.root;
    let mut manager = Manager { root, size, shown: vec![] };
    let mut until = Some(Instant::now() + FIRST_WINDOW);
    loop {
        match turn(display, &mut manager, session, until) {
            Ok(true) => until = until.filter(|_| manager.shown.is_empty()),
            Ok(false) => return io::Error::other(format!("nxagent showed no window in {FIRST_WINDOW:?}")),
            Err(error) => return error,
        }
    }
}

/// False when nothing came in time.
fn turn(display: &mut Display, manager: &mut Manager, session: u16, until: Option<Instant>) -> io::Result<bool> {
    let Some(event) = display.next(until)? else { return Ok(false) };
    for act in manager.react(event) {
        match act {
            Act::Place(window, size) => display.place(window, size)?,
            Act::Grant(window, change) => display.change(window, change)?,
            Act::Settle => settle(session),
            Act::Map(window) => display.map(window)?,
            Act::Focus(window) => display.focus(window)?,
        }
    }
    Ok(true)
}

/// Whoever waits sees no worse than without it.
fn settle(session: u16) {
    // Whoever reaches the socket may use the display.
    let shown = Display::open(session, b"", b"", Some(SETTLES)).and_then(|mut display| display.show_pixel());
    if let Err(error) = shown {
        tracing::warn!(%error, "nxagent's display does not answer: a part of the desktop may stay blank");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size(800, 600);
    const LARGE: Size = Size(1600, 900);

    #[test]
    fn a_window_fills_the_display_and_follows_its_size() {
        let mut manager = Manager { root: 1, size: SMALL, shown: vec![] };
        assert_eq!(
            manager.react(Event::MapRequest(7)),
            [Act::Place(7, SMALL), Act::Settle, Act::Map(7), Act::Focus(7)]
        );
        let change = Change { mask: 1, values: [3, 0, 0, 0, 0] };
        assert_eq!(manager.react(Event::ConfigureRequest(7, change)), [Act::Place(7, SMALL)]);
        assert_eq!(manager.react(Event::ConfigureRequest(8, change)), [Act::Grant(8, change)], "one that is not shown");
        assert_eq!(manager.react(Event::Resized(1, LARGE)), [Act::Place(7, LARGE)]);
        // Its own change of size is no reason for another.
        assert_eq!(manager.react(Event::Resized(7, LARGE)), []);
        assert_eq!(manager.react(Event::Resized(1, LARGE)), []);
        assert_eq!(manager.react(Event::Gone(7)), []);
        assert_eq!(manager.react(Event::Resized(1, SMALL)), []);
    }
}
