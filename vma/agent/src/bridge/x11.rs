//! As much of the X protocol as a window manager for one window needs, over the display's own socket.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Instant,
};

/// Lines of the picture that are looked at.
const LINES: u32 = 16;
/// As many colours as a desktop has that nothing has drawn.
const FEW_COLOURS: usize = 3;
/// What the server may claim to be long at the connection's begin.
const GREETING_LIMIT: usize = 64 * 1024;
const SUBSTRUCTURE_REDIRECT: u32 = 1 << 20;
const STRUCTURE_NOTIFY: u32 = 1 << 17;
const SUBSTRUCTURE_NOTIFY: u32 = 1 << 19;

/// A window.
pub type Window = u32;

/// Width and height.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u16, pub u16);

/// What a program wants of its window: which of the values, as the protocol numbers them, and x, y, width, height and
/// border.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Only what is in [`PLACE_AND_SIZE`].
    pub mask: u16,
    /// All of them.
    pub values: [u16; 5],
}

/// The values of a [`Change`] that are granted: all but the order of windows.
const PLACE_AND_SIZE: u16 = 0x1f;

/// What happens to windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A program wants its window shown.
    MapRequest(Window),
    /// A program wants another place or size.
    ConfigureRequest(Window, Change),
    /// A window has this size now.
    Resized(Window, Size),
    /// It is no more, or hidden.
    Gone(Window),
    /// Anything else.
    Other,
}

/// A connection to a display.
#[derive(Debug)]
pub struct Display {
    stream: UnixStream,
    /// Events that came while an answer was waited for.
    pending: VecDeque<[u8; 32]>,
    /// The root window, and its size at the connection's begin.
    pub root: (Window, Size),
}

impl Display {
    /// Connects with a cookie.
    pub fn open(number: u16, kind: &[u8], cookie: &[u8]) -> io::Result<Self> {
        let mut stream = UnixStream::connect(format!("/tmp/.X11-unix/X{number}"))?;
        stream.write_all(&greeting(kind, cookie))?;
        let mut head = [0; 8];
        stream.read_exact(&mut head)?;
        let mut body = vec![0; (usize::from(u16::from_le_bytes([head[6], head[7]])) * 4).min(GREETING_LIMIT)];
        stream.read_exact(&mut body)?;
        if head[0] != 1 {
            return Err(io::Error::other(format!("refused: {}", String::from_utf8_lossy(&body))));
        }
        let root = root(&body).ok_or_else(|| io::Error::other("a greeting without screen"))?;
        Ok(Self { stream, pending: VecDeque::new(), root })
    }

    /// Asks to decide on the windows of the root; only one program at a time may.
    pub fn manage(&mut self) -> io::Result<()> {
        const CHANGE_WINDOW_ATTRIBUTES: u8 = 2;
        const EVENT_MASK: u32 = 0x800;
        let mask = SUBSTRUCTURE_REDIRECT | SUBSTRUCTURE_NOTIFY | STRUCTURE_NOTIFY;
        self.send(CHANGE_WINDOW_ATTRIBUTES, 0, &[self.root.0, EVENT_MASK, mask])
    }

    /// Shows a window.
    pub fn map(&mut self, window: Window) -> io::Result<()> {
        self.send(8, 0, &[window])
    }

    /// Puts a window at the top left corner, without border.
    pub fn place(&mut self, window: Window, Size(width, height): Size) -> io::Result<()> {
        self.change(window, Change { mask: PLACE_AND_SIZE, values: [0, 0, width, height, 0] })
    }

    /// Changes place and size of a window.
    pub fn change(&mut self, window: Window, Change { mask, values }: Change) -> io::Result<()> {
        let chosen = values.iter().enumerate().filter(|(bit, _)| mask & 1 << bit != 0);
        // Places may be negative, and are as wide as their sign here.
        let chosen = chosen.map(|(bit, value)| if bit < 2 { *value as i16 as i32 as u32 } else { u32::from(*value) });
        self.send(12, 0, &[window, mask.into()].into_iter().chain(chosen).collect::<Vec<_>>())
    }

    /// Gives a window the keyboard.
    pub fn focus(&mut self, window: Window) -> io::Result<()> {
        const REVERT_TO_POINTER: u8 = 1;
        self.send(42, REVERT_TO_POINTER, &[window, 0])
    }

    /// The next event; none when there is none until then, and an error when the display is gone.
    pub fn next(&mut self, until: Option<Instant>) -> io::Result<Option<Event>> {
        if let Some(event) = self.pending.pop_front() {
            return Ok(Some(parse(&event)));
        }
        if let Some(until) = until
            && !readable(&self.stream, until)?
        {
            return Ok(None);
        }
        let mut event = [0; 32];
        self.stream.read_exact(&mut event)?;
        Ok(Some(parse(&event)))
    }

    /// Whether a display of this size shows hardly anything: so few colours, on lines all over it.
    pub fn is_bare(&mut self, size: Size) -> io::Result<bool> {
        let mut colours = Vec::new();
        for nth in 0..LINES {
            for pixel in self.line(size, (u32::from(size.1) * (2 * nth + 1) / (2 * LINES)) as u16)? {
                if !colours.contains(&pixel) {
                    colours.push(pixel);
                }
                if colours.len() > FEW_COLOURS {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The pixels of one line; none where the display has just changed its size.
    fn line(&mut self, Size(width, _): Size, y: u16) -> io::Result<Vec<u32>> {
        const GET_IMAGE: u8 = 73;
        const WHOLE_PIXELS: u8 = 2;
        self.send(GET_IMAGE, WHOLE_PIXELS, &[self.root.0, u32::from(y) << 16, u32::from(width) | 1 << 16, u32::MAX])?;
        loop {
            let mut head = [0; 32];
            self.stream.read_exact(&mut head)?;
            match head[0] {
                0 => return Ok(vec![]),
                1 => {
                    let mut body = vec![0; word(&head, 4).unwrap_or_default() as usize * 4];
                    self.stream.read_exact(&mut body)?;
                    let (pixels, _) = body.as_chunks::<4>();
                    return Ok(pixels.iter().map(|pixel| u32::from_le_bytes(*pixel) & 0xff_ffff).collect());
                }
                _ => self.pending.push_back(head),
            }
        }
    }

    fn send(&mut self, opcode: u8, data: u8, words: &[u32]) -> io::Result<()> {
        let mut bytes = vec![opcode, data];
        bytes.extend((words.len() as u16 + 1).to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.stream.write_all(&bytes)
    }
}

fn readable(stream: &UnixStream, until: Instant) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let rest = until.saturating_duration_since(Instant::now());
    let rest = Timespec::try_from(rest).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&rest)) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn greeting(kind: &[u8], cookie: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'l', 0, 11, 0, 0, 0];
    bytes.extend((kind.len() as u16).to_le_bytes());
    bytes.extend((cookie.len() as u16).to_le_bytes());
    bytes.extend([0, 0]);
    for field in [kind, cookie] {
        bytes.extend(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// The first screen's root, behind vendor and pixel formats.
fn root(body: &[u8]) -> Option<(Window, Size)> {
    let vendor = usize::from(short(body, 16)?).next_multiple_of(4);
    let formats = usize::from(*body.get(21)?) * 8;
    let screen = body.get(32 + vendor + formats..)?;
    Some((word(screen, 0)?, Size(short(screen, 20)?, short(screen, 22)?)))
}

fn parse(event: &[u8; 32]) -> Event {
    let window = word(event, 8).unwrap_or_default();
    let size = || Some(Size(short(event, 20)?, short(event, 22)?));
    // The highest bit says that another program made it up.
    match event[0] & 0x7f {
        17 | 18 => Event::Gone(window),
        20 => Event::MapRequest(window),
        22 => size().map_or(Event::Other, |size| Event::Resized(window, size)),
        23 => change(event).map_or(Event::Other, |change| Event::ConfigureRequest(window, change)),
        _ => Event::Other,
    }
}

fn change(event: &[u8; 32]) -> Option<Change> {
    let mut values = [0; 5];
    for (nth, value) in values.iter_mut().enumerate() {
        *value = short(event, 16 + 2 * nth)?;
    }
    Some(Change { mask: short(event, 26)? & PLACE_AND_SIZE, values })
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(bytes: &[(usize, u8)], expect: Event) {
        let mut event = [0; 32];
        bytes.iter().for_each(|(at, byte)| event[*at] = *byte);
        assert_eq!(parse(&event), expect);
    }

    #[test]
    fn the_events_of_windows_are_known() {
        check(&[(0, 20), (8, 7)], Event::MapRequest(7));
        let change = Change { mask: 5, values: [0xfffe, 0, 64, 0, 0] };
        let bytes = [(0, 23), (8, 7), (16, 0xfe), (17, 0xff), (20, 64), (26, 0x65)];
        check(&bytes, Event::ConfigureRequest(7, change));
        check(&[(0, 22), (8, 7), (20, 64), (21, 6), (22, 132), (23, 3)], Event::Resized(7, Size(1600, 900)));
        check(&[(0, 17), (8, 7)], Event::Gone(7));
        check(&[(0, 18), (8, 7)], Event::Gone(7));
        check(&[(0, 0), (8, 7)], Event::Other);
    }

    #[test]
    fn a_greeting_carries_the_cookie_padded() {
        assert_eq!(greeting(b"abc", b"d").len(), 12 + 4 + 4);
    }

    proptest! {
        #[test]
        fn no_greeting_of_a_server_breaks_the_reader(body in prop::collection::vec(any::<u8>(), 0..200)) {
            root(&body);
        }
    }
}
