//! The window manager of the bridge: every window fills the display, whatever size it asks for.
//!
//! A common one will not do: nxagent says that its window is at most as large as the display was when it
//! connected, and so would never grow with the browser. Nor does it need keys, frames and menus.
//!
//! nxagent keeps an account of what is to be drawn, and a desktop stays blank, in whole or in part, where that goes
//! wrong. For each region that it has its programs draw, it notes which window that was, and asks for another place of
//! a window of its own that is never shown. Until it hears of that place, which tells it how far the display is, it
//! holds back what the display says of the window in its note. So a window that is not shown goes where it wants to:
//! one that is put to the same place each time does not move, and nobody hears of it ([`Act::Grant`]).

use super::x11::{Change, Display, Event, Size, Window};
use std::{
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// A session that shows nothing by then does not come any more.
const FIRST_WINDOW: Duration = Duration::from_secs(45);
/// A desktop has drawn something by then; on a busy node it takes longer, so each further look waits twice as long.
const LOOK: Duration = Duration::from_secs(4);
/// How long nxagent has for a change of size, the first time.
const RESTORE: Duration = Duration::from_millis(1500);
/// How often a window is made to be drawn: a desktop may be all of one colour.
const LOOKS: u8 = 4;
/// By which part of its height a window is made smaller: some pixels less were not always taken for another size.
const SHRINK: u16 = 8;

/// What is to be done to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Place(Window, Size),
    Grant(Window, Change),
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
                vec![Act::Place(window, self.size), Act::Map(window), Act::Focus(window)]
            }
            Event::ConfigureRequest(window, _) if self.shown.contains(&window) => vec![Act::Place(window, self.size)],
            Event::ConfigureRequest(window, change) => vec![Act::Grant(window, change)],
            Event::Resized(window, size) if window == self.root && size != self.size => {
                self.size = size;
                self.all(size)
            }
            Event::Gone(window) => {
                self.shown.retain(|shown| *shown != window);
                vec![]
            }
            Event::Resized(..) | Event::Other => vec![],
        }
    }

    fn all(&self, size: Size) -> Vec<Act> {
        self.shown.iter().map(|window| Act::Place(*window, size)).collect()
    }
}

/// What is due next when nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// There must be a window.
    Window,
    /// It must have been drawn. So often it was not.
    Look(u8),
    /// Its size comes back.
    Restore(u8),
    Nothing,
}

impl Due {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Window => Some(FIRST_WINDOW),
            Self::Look(tries) => Some(LOOK * (1 << tries)),
            Self::Restore(tries) => Some(RESTORE * (1 << tries)),
            Self::Nothing => None,
        }
    }
}

/// Manages until the display is gone, or no window comes. Where the session had a display before, `blank` is a file that
/// tells the next bridge that this one ended because nothing was drawn. It is for the next one alone, however that ends.
pub fn serve(display: &mut Display, blank: Option<&Path>) -> io::Error {
    let again = blank.is_some_and(|blank| fs::remove_file(blank).is_ok());
    let (root, size) = display.root;
    let mut manager = Manager { root, size, shown: vec![] };
    // The programs of a session that is new may take long before they draw, and are not held back.
    let shown = if blank.is_some() { Due::Look(0) } else { Due::Nothing };
    let (mut due, mut since) = (Due::Window, Instant::now());
    loop {
        let next = match display.next(due.limit().map(|limit| since + limit)) {
            Ok(Some(event)) => {
                let maps = matches!(event, Event::MapRequest(_));
                let acts = manager.react(event);
                perform(display, acts).map(|()| maps.then_some(shown))
            }
            Ok(None) if due == Due::Look(0) && !again => first_look(display, manager.size, blank).map(Some),
            Ok(None) => overdue(display, &manager, due).map(Some),
            Err(error) => return error,
        };
        match next {
            Ok(Some(next)) => (due, since) = (next, Instant::now()),
            Ok(None) => {}
            Err(error) => return error,
        }
    }
}

/// nxagent's account begins anew with each display, so where nothing was drawn the bridge ends, and the page comes back
/// at once for another.
fn first_look(display: &mut Display, size: Size, blank: Option<&Path>) -> io::Result<Due> {
    // Without its file the next one would end as well, and the one after it.
    if !display.is_bare(size)? || blank.is_none_or(|blank| fs::File::create(blank).is_err()) {
        return Ok(Due::Nothing);
    }
    Err(io::Error::other("nothing was drawn"))
}

/// A desktop of which two displays in a row show nothing may be one of a single colour: its window only gets another
/// size, and its own again, which has most programs draw.
fn overdue(display: &mut Display, manager: &Manager, due: Due) -> io::Result<Due> {
    let size = manager.size;
    match due {
        Due::Window => Err(io::Error::other(format!("nxagent showed no window in {FIRST_WINDOW:?}"))),
        Due::Look(tries) if tries < LOOKS && display.is_bare(size)? => {
            tracing::info!(tries, "Nothing is drawn: the session's window is resized");
            perform(display, manager.all(Size(size.0, size.1 - size.1 / SHRINK)))?;
            Ok(Due::Restore(tries))
        }
        Due::Restore(tries) => {
            perform(display, manager.all(size))?;
            Ok(Due::Look(tries + 1))
        }
        Due::Look(_) | Due::Nothing => Ok(Due::Nothing),
    }
}

fn perform(display: &mut Display, acts: Vec<Act>) -> io::Result<()> {
    for act in acts {
        match act {
            Act::Place(window, size) => display.place(window, size)?,
            Act::Grant(window, change) => display.change(window, change)?,
            Act::Map(window) => display.map(window)?,
            Act::Focus(window) => display.focus(window)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size(800, 600);
    const LARGE: Size = Size(1600, 900);

    #[test]
    fn a_window_fills_the_display_and_follows_its_size() {
        let mut manager = Manager { root: 1, size: SMALL, shown: vec![] };
        assert_eq!(manager.react(Event::MapRequest(7)), [Act::Place(7, SMALL), Act::Map(7), Act::Focus(7)]);
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
