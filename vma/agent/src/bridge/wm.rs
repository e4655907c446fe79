//! The window manager of the bridge: every window fills the display, whatever size it asks for.
//!
//! A common one will not do: nxagent says that its window is at most as large as the display was when it
//! connected, and so would never grow with the browser. Nor does it need keys, frames and menus.

use super::x11::{Display, Event, Size, Window};
use std::io;

/// What is to be done to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Place(Window, Size),
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
            Event::ConfigureRequest(window) => vec![Act::Place(window, self.size)],
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

/// Manages until the display is gone.
pub fn serve(display: &mut Display) -> io::Error {
    let (root, size) = display.root;
    let mut manager = Manager { root, size, shown: vec![] };
    loop {
        if let Err(error) = turn(display, &mut manager) {
            return error;
        }
    }
}

fn turn(display: &mut Display, manager: &mut Manager) -> io::Result<()> {
    for act in manager.react(display.next()?) {
        match act {
            Act::Place(window, size) => display.place(window, size)?,
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
        assert_eq!(manager.react(Event::ConfigureRequest(7)), [Act::Place(7, SMALL)]);
        assert_eq!(manager.react(Event::Resized(1, LARGE)), [Act::Place(7, LARGE)]);
        // Its own change of size is no reason for another.
        assert_eq!(manager.react(Event::Resized(7, LARGE)), []);
        assert_eq!(manager.react(Event::Resized(1, LARGE)), []);
        assert_eq!(manager.react(Event::Gone(7)), []);
        assert_eq!(manager.react(Event::Resized(1, SMALL)), []);
    }
}
