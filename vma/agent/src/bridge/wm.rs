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
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A session that shows nothing by then does not come any more.
const FIRST_WINDOW: Duration = Duration::from_secs(45);
/// How often a display is looked at until it shows something.
const POLL: Duration = Duration::from_millis(500);
/// So many looks find a desktop drawn that comes back, or it is blank.
const POLLS: u8 = 8;
/// So many displays in a row make way for another: where one of ten is blank, five never are.
const DISPLAYS: u8 = 4;
/// The first wait between two changes of size; on a busy node all takes longer, so each further one is twice as long.
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
    /// It should have been drawn. So often it was not.
    Poll(u8),
    /// It must have been drawn. So often it was resized.
    Look(u8),
    /// Its size comes back.
    Restore(u8),
    Nothing,
}

impl Due {
    fn limit(self) -> Option<Duration> {
        match self {
            Self::Window => Some(FIRST_WINDOW),
            Self::Poll(_) => Some(POLL),
            Self::Look(tries) => Some(LOOK * (1 << tries)),
            Self::Restore(tries) => Some(RESTORE * (1 << tries)),
            Self::Nothing => None,
        }
    }
}

/// How many displays of the session in a row were blank: a file, since each has a bridge of its own.
pub struct Blanks(PathBuf);

impl Blanks {
    /// In this folder of the session's user.
    pub fn in_folder(runtime: &Path) -> Self {
        Self(runtime.join("bridge.blanks"))
    }

    fn number(&self) -> u8 {
        fs::read_to_string(&self.0).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn one_more(&self) -> io::Result<()> {
        fs::write(&self.0, self.number().saturating_add(1).to_string())
    }

    fn none(&self) {
        // None is there as a rule.
        fs::remove_file(&self.0).ok();
    }
}

/// Manages until the display is gone, or no window comes. `resumed` says that the session had a display before: what
/// its programs drew is owed to this one. Those of a new session may take long before they draw anything.
pub fn serve(display: &mut Display, blanks: &Blanks, resumed: bool) -> io::Error {
    let (root, size) = display.root;
    let mut manager = Manager { root, size, shown: vec![] };
    let shown = match resumed {
        false => Due::Nothing,
        true if blanks.number() < DISPLAYS => Due::Poll(0),
        true => Due::Look(0),
    };
    let (mut due, mut since) = (Due::Window, Instant::now());
    loop {
        let next = match display.next(due.limit().map(|limit| since + limit)) {
            Ok(Some(event)) => {
                let maps = matches!(event, Event::MapRequest(_));
                let acts = manager.react(event);
                perform(display, acts).map(|()| maps.then_some(shown))
            }
            Ok(None) => overdue(display, &manager, due, blanks).map(Some),
            Err(error) => return error,
        };
        match next {
            Ok(Some(next)) => (due, since) = (next, Instant::now()),
            Ok(None) => {}
            Err(error) => return error,
        }
    }
}

/// Nothing was drawn. nxagent's account begins anew with each display, so the bridge ends, and the page comes back at
/// once for another. A desktop of which some displays in a row show nothing may be one of a single colour: then the
/// window only gets another size, and its own again, which has most programs draw.
fn overdue(display: &mut Display, manager: &Manager, due: Due, blanks: &Blanks) -> io::Result<Due> {
    let size = manager.size;
    match due {
        Due::Window => Err(io::Error::other(format!("nxagent showed no window in {FIRST_WINDOW:?}"))),
        Due::Poll(_) | Due::Look(_) if !display.is_bare(size)? => {
            blanks.none();
            Ok(Due::Nothing)
        }
        Due::Poll(polls) if polls + 1 < POLLS => Ok(Due::Poll(polls + 1)),
        Due::Poll(_) => match blanks.one_more() {
            Ok(()) => Err(io::Error::other("nothing was drawn")),
            // Nobody could tell how often that was, and it might go on for ever.
            Err(_) => Ok(Due::Look(0)),
        },
        Due::Look(tries) if tries < LOOKS => {
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
