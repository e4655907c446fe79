//! WebSocket frames (RFC 6455) as a browser sends them, read from pieces of any size, and as a server
//! writes them.
//!
//! Payload is never collected: a piece that came is unmasked where it lies and handed on, so a frame
//! of any size costs no memory. Only control frames (at most 125 bytes) are kept until they are whole.

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// 0: more of the message before.
    Continuation,
    /// 1
    Text,
    /// 2
    Binary,
    /// 8
    Close,
    /// 9
    Ping,
    /// 10
    Pong,
}

impl Opcode {
    fn parse(nibble: u8) -> Option<Self> {
        Some(match nibble {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn nibble(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// Most bytes of a control frame's payload.
pub const MAX_CONTROL: usize = 125;
/// A frame that announces more is refused; browsers send far smaller ones.
pub const MAX_FRAME: u64 = 64 << 20;

/// How a peer broke the protocol; the connection ends with [`Violation::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not what RFC 6455 allows.
    #[error("A frame breaks the WebSocket protocol: {0}")]
    Protocol(&'static str),
    /// Text, which nobody here reads.
    #[error("A text message came, where only binary ones are read")]
    Text,
    /// More than [`MAX_FRAME`].
    #[error("A frame of {0} bytes is longer than {MAX_FRAME}")]
    TooLong(u64),
}

impl Violation {
    /// The close code that says so.
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Text => 1003,
            Self::TooLong(_) => 1009,
        }
    }
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Bytes of a binary message, unmasked.
    Data(&'a [u8]),
    /// To be answered with the same bytes.
    Ping(Control),
    /// An answer to a ping of ours.
    Pong,
    /// The peer ends, with this code.
    Close(Option<u16>),
}

/// Payload of a control frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Control {
    bytes: [u8; MAX_CONTROL],
    len: u8,
}

impl Control {
    const EMPTY: Self = Self { bytes: [0; MAX_CONTROL], len: 0 };

    /// The payload.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(&mut self, more: &[u8]) {
        let at = usize::from(self.len);
        // Its head announced no more than fits.
        self.bytes[at..at + more.len()].copy_from_slice(more);
        self.len += more.len() as u8;
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.bytes().fmt(f)
    }
}

/// Reads frames.
#[derive(Debug)]
pub struct Reader {
    head: [u8; 14],
    have: u8,
    /// The frame whose payload comes.
    open: Option<Frame>,
    control: Control,
    in_message: bool,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    mask: [u8; 4],
    /// Bytes of payload that came.
    done: u64,
    length: u64,
}

impl Default for Reader {
    fn default() -> Self {
        Self { head: [0; 14], have: 0, open: None, control: Control::EMPTY, in_message: false }
    }
}

impl Reader {
    /// Takes a prefix of `bytes`, at least one byte of a non-empty slice. Returns how many, and what
    /// they brought. After a violation the connection is over.
    pub fn next<'a>(&mut self, bytes: &'a mut [u8]) -> Result<(usize, Option<Event<'a>>), Violation> {
        let mut used = 0;
        if self.open.is_none() {
            used = self.take_head(bytes)?;
            if self.open.is_none() {
                return Ok((used, None));
            }
        }
        let (more, event) = self.take_payload(&mut bytes[used..]);
        Ok((used + more, event))
    }

    /// Whether a message is under way, or a frame.
    pub fn is_between_messages(&self) -> bool {
        !self.in_message && self.open.is_none() && self.have == 0
    }

    fn take_head(&mut self, bytes: &[u8]) -> Result<usize, Violation> {
        for (i, byte) in bytes.iter().enumerate() {
            self.head[usize::from(self.have)] = *byte;
            self.have += 1;
            if self.have == 2 {
                self.check_start()?;
            }
            if self.have >= 2 && usize::from(self.have) == head_len(self.head[1]) {
                self.have = 0;
                self.open = Some(self.frame()?);
                return Ok(i + 1);
            }
        }
        Ok(bytes.len())
    }

    fn check_start(&self) -> Result<(), Violation> {
        let [first, second, ..] = self.head;
        let opcode = Opcode::parse(first & 15).ok_or(Violation::Protocol("an unknown opcode"))?;
        let (fin, length) = (first & 0x80 != 0, second & 0x7f);
        match opcode {
            _ if first & 0x70 != 0 => Err(Violation::Protocol("reserved bits are set")),
            _ if second & 0x80 == 0 => Err(Violation::Protocol("it is not masked")),
            _ if opcode.is_control() && (!fin || usize::from(length) > MAX_CONTROL) => {
                Err(Violation::Protocol("a control frame is long or in parts"))
            }
            Opcode::Text => Err(Violation::Text),
            Opcode::Binary if self.in_message => Err(Violation::Protocol("a message begins inside another")),
            Opcode::Continuation if !self.in_message => Err(Violation::Protocol("nothing is to be continued")),
            _ => Ok(()),
        }
    }

    fn frame(&mut self) -> Result<Frame, Violation> {
        let [first, second, ..] = self.head;
        let opcode = Opcode::parse(first & 15).ok_or(Violation::Protocol("an unknown opcode"))?;
        let h = &self.head;
        let (length, least, at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes([h[2], h[3]])), 126, 4),
            127 => (u64::from_be_bytes([h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9]]), 65536, 10),
            short => (u64::from(short), 0, 2),
        };
        if length < least {
            return Err(Violation::Protocol("its length is written longer than it is"));
        }
        if length > MAX_FRAME {
            return Err(Violation::TooLong(length));
        }
        let mask = [h[at], h[at + 1], h[at + 2], h[at + 3]];
        if !opcode.is_control() {
            self.in_message = first & 0x80 == 0;
        }
        self.control = Control::EMPTY;
        Ok(Frame { opcode, mask, done: 0, length })
    }

    fn take_payload<'a>(&mut self, bytes: &'a mut [u8]) -> (usize, Option<Event<'a>>) {
        let Some(frame) = &mut self.open else { return (0, None) };
        let left = frame.length - frame.done;
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let piece = &mut bytes[..take];
        unmask(piece, frame.mask, frame.done);
        frame.done += take as u64;
        let (opcode, whole) = (frame.opcode, frame.done == frame.length);
        if whole {
            self.open = None;
        }
        if !opcode.is_control() {
            return (take, (take > 0).then_some(Event::Data(piece)));
        }
        self.control.push(piece);
        (take, whole.then(|| self.control_event(opcode)))
    }

    fn control_event(&self, opcode: Opcode) -> Event<'static> {
        match (opcode, self.control.bytes()) {
            (Opcode::Ping, _) => Event::Ping(self.control),
            (Opcode::Close, [high, low, ..]) => Event::Close(Some(u16::from_be_bytes([*high, *low]))),
            (Opcode::Close, _) => Event::Close(None),
            _ => Event::Pong,
        }
    }
}

/// Length of a head by its second byte; a browser's is always masked.
fn head_len(second: u8) -> usize {
    match second & 0x7f {
        126 => 8,
        127 => 14,
        _ => 6,
    }
}

/// Takes the mask off `bytes`, which lie `at` bytes behind the start of the payload.
fn unmask(bytes: &mut [u8], mask: [u8; 4], at: u64) {
    let mut mask = mask;
    mask.rotate_left((at % 4) as usize);
    // Sixteen at a time: a byte at a time is a third of the relay's cost.
    let wide = u128::from_ne_bytes(std::array::from_fn(|i| mask[i % 4]));
    let (words, rest) = bytes.as_chunks_mut::<16>();
    for word in words {
        *word = (u128::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Most bytes of a frame's head as a server writes it, for payloads below 64 KiB.
pub const HEAD: usize = 4;
/// Most payload of one frame that a server writes.
pub const MAX_OUT: usize = 65535;

/// Writes the head of a whole message of `length` bytes (at most [`MAX_OUT`]) so that it ends at the
/// end of `room`; returns where it begins.
pub fn put_head(room: &mut [u8; HEAD], opcode: Opcode, length: usize) -> usize {
    let first = 0x80 | opcode.nibble();
    if length < 126 {
        [room[2], room[3]] = [first, length as u8];
        return 2;
    }
    let [high, low] = (length.min(MAX_OUT) as u16).to_be_bytes();
    *room = [first, 126, high, low];
    0
}

/// A whole short message.
pub fn message(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(MAX_OUT)];
    let mut head = [0; HEAD];
    let at = put_head(&mut head, opcode, payload.len());
    [&head[at..], payload].concat()
}

/// A close frame with a reason in words, cut to what fits.
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let end = (0..=reason.len().min(MAX_CONTROL - 2)).rev().find(|i| reason.is_char_boundary(*i)).unwrap_or(0);
    message(Opcode::Close, &[&code.to_be_bytes()[..], &reason.as_bytes()[..end]].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A frame as a browser sends it.
    fn masked(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut frame = vec![opcode.nibble() | if fin { 0x80 } else { 0 }];
        match payload.len() {
            0..126 => frame.push(0x80 | payload.len() as u8),
            126..65536 => frame.extend([&[0xfe][..], &(payload.len() as u16).to_be_bytes()].concat()),
            _ => frame.extend([&[0xff][..], &(payload.len() as u64).to_be_bytes()].concat()),
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        frame
    }

    #[derive(Debug, Default, PartialEq, Clone)]
    struct Seen {
        data: Vec<u8>,
        pings: Vec<Vec<u8>>,
        closed: Option<Option<u16>>,
        violation: Option<Violation>,
    }

    fn read(bytes: &[u8], step: usize) -> Seen {
        let (mut reader, mut seen) = (Reader::default(), Seen::default());
        for piece in bytes.chunks(step) {
            let mut piece = piece.to_vec();
            let mut rest = &mut piece[..];
            while !rest.is_empty() {
                let (used, event) = match reader.next(rest) {
                    Ok(got) => got,
                    Err(violation) => return Seen { violation: Some(violation), ..seen },
                };
                match event {
                    Some(Event::Data(data)) => seen.data.extend_from_slice(data),
                    Some(Event::Ping(control)) => seen.pings.push(control.bytes().to_vec()),
                    Some(Event::Close(code)) => seen.closed = Some(code),
                    Some(Event::Pong) | None => {}
                }
                assert!(used > 0, "progress");
                rest = &mut rest[used..];
            }
        }
        seen
    }

    #[track_caller]
    fn refused(bytes: &[u8], code: u16) {
        for step in [1, 3, bytes.len()] {
            assert_eq!(read(bytes, step).violation.map(Violation::code), Some(code), "{bytes:02x?}");
        }
    }

    #[test]
    fn what_the_protocol_forbids_ends_the_connection_with_its_code() {
        refused(&[0x82, 0x01, b'x'], 1002);
        refused(&[0xc2, 0x81, 0, 0, 0, 0, 0], 1002);
        refused(&[0x83, 0x80, 0, 0, 0, 0], 1002);
        refused(&[0x80, 0x80, 0, 0, 0, 0], 1002);
        refused(&[0x09, 0x80, 0, 0, 0, 0], 1002);
        refused(&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], 1002);
        refused(&[0x82, 0xfe, 0, 5, 0, 0, 0, 0], 1002);
        refused(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0], 1002);
        refused(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009);
        refused(&masked(true, Opcode::Text, b"hi"), 1003);
        refused(&[masked(false, Opcode::Binary, b"a"), masked(true, Opcode::Binary, b"b")].concat(), 1002);
    }

    #[test]
    fn a_message_in_parts_with_a_ping_between_them_is_whole() {
        let bytes = [
            masked(false, Opcode::Binary, b"one "),
            masked(true, Opcode::Ping, b"there?"),
            masked(false, Opcode::Continuation, b""),
            masked(true, Opcode::Continuation, b"two"),
            masked(true, Opcode::Close, &[0x03, 0xe8, b'b', b'y', b'e']),
        ]
        .concat();
        let seen = read(&bytes, bytes.len());
        assert_eq!((seen.data.as_slice(), seen.closed), (&b"one two"[..], Some(Some(1000))));
        assert_eq!(seen.pings, [b"there?"]);
    }

    #[test]
    fn heads_are_written_in_the_shortest_form() {
        assert_eq!(message(Opcode::Binary, b"ab"), [0x82, 2, b'a', b'b']);
        assert_eq!(message(Opcode::Text, &[7; 126])[..5], [0x81, 126, 0, 126, 7]);
        assert_eq!(close(4001, "no"), [0x88, 4, 0x0f, 0xa1, b'n', b'o']);
        assert_eq!(close(1000, &"é".repeat(100)).len(), 2 + 2 + 122, "cut between letters");
    }

    proptest! {
        #[test]
        fn frames_split_anywhere_bring_the_same(
            parts in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..400), any::<bool>()), 1..8),
            step in 1usize..70,
        ) {
            let mut bytes = Vec::new();
            for (i, (part, ping)) in parts.iter().enumerate() {
                let opcode = if i == 0 { Opcode::Binary } else { Opcode::Continuation };
                bytes.extend(masked(i + 1 == parts.len(), opcode, part));
                if *ping {
                    bytes.extend(masked(true, Opcode::Ping, &part[..part.len().min(MAX_CONTROL)]));
                }
            }
            let seen = read(&bytes, step);
            prop_assert_eq!(&seen.data, &parts.iter().flat_map(|(p, _)| p.clone()).collect::<Vec<_>>());
            prop_assert_eq!(seen.violation, None);
            prop_assert_eq!(seen, read(&bytes, bytes.len()));
        }

        #[test]
        fn any_bytes_split_anywhere_end_alike(bytes in prop::collection::vec(any::<u8>(), 1..300), step in 1usize..20) {
            let whole = read(&bytes, bytes.len());
            prop_assert_eq!(read(&bytes, step), whole);
        }
    }
}
