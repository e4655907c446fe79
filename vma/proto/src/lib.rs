//! Frames between a node and the agent (VMA) in its guests.
//!
//! `no_std`, no allocation: a frame is one postcard value, COBS-encoded and ended by a zero byte, at
//! most [`MAX_FRAME`] bytes, so that a receiver finds the next frame after any garbage. Enums are
//! append-only, and the bytes of every message ever shipped stay in the tests.
//!
//! The agent connects out: once for control (its first frame is [`FromVma::Hello`]), and once more for
//! each session (its only frame is [`FromVma::Session`]; behind it the connection is the session's raw bytes).
#![no_std]

pub mod files;

use heapless::{String, Vec};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Version of these messages.
pub const PROTO: u16 = 1;
/// The longest frame, with its COBS overhead and its zero.
pub const MAX_FRAME: usize = 8192;
/// Session parameters in one request, at most.
pub const MAX_PARAMS: usize = 48;

/// Name of a session parameter, such as `qvd.client.keyboard`.
pub type Name = String<64>;
/// Value of a session parameter; longer ones are refused by the node.
pub type Text = String<512>;
/// Names a session connection that the agent is to open.
pub type Ticket = [u8; 16];

/// To the agent. Append only.
#[expect(clippy::large_enum_variant, reason = "there is no allocator to box with")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToVma {
    /// Answer to Hello.
    Welcome {
        /// [`PROTO`] of the node.
        proto: u16,
    },
    /// Answer with the same number.
    Ping(u32),
    /// Make a session ready and connect it: the answer is [`FromVma::Opened`] or [`FromVma::Refused`],
    /// after which, on success, the session connection follows.
    Open(Open),
    /// Suspend the session, if one is connected (QVD's `x_suspend`).
    Suspend,
    /// End the session (QVD's `x_stop`).
    Stop,
    /// Shut the guest down.
    PowerOff,
    /// The guest should be restarted soon: run the hook.
    Expire {
        /// Unix seconds, 0 when unset.
        soft: u64,
        /// Unix seconds, 0 when unset.
        hard: u64,
    },
}

/// A session to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// To be sent back on the session connection.
    pub ticket: Ticket,
    /// What the client speaks.
    pub kind: Kind,
    /// QVD's session parameters (`qvd.client.*`, `qvd.vm.*`, `custom.*`), in order; later ones win.
    pub params: Vec<(Name, Text), MAX_PARAMS>,
}

/// What a client speaks. Append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// NX.
    Nx,
    /// RFB (a browser).
    Vnc,
    /// The user's files: the session connection carries one request of [`files`]. It concerns no
    /// session: none is started, suspended or resumed by it.
    Files,
}

/// From the agent. Append only.
#[expect(clippy::large_enum_variant, reason = "there is no allocator to box with")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromVma {
    /// First frame of the control connection.
    Hello {
        /// [`PROTO`] of the agent.
        proto: u16,
        /// The agent's version.
        version: String<32>,
        /// State of the session now (the agent outlives the node's daemon).
        session: Session,
    },
    /// First and only frame of a session connection.
    Session(Ticket),
    /// To Ping.
    Pong(u32),
    /// To Open: the session listens, the session connection comes.
    Opened {
        /// The request's ticket.
        ticket: Ticket,
        /// An earlier session is resumed.
        resumed: bool,
    },
    /// To Open: no.
    Refused {
        /// The request's ticket.
        ticket: Ticket,
        /// Asking again in a second may help (the session is being suspended).
        retry: bool,
        /// Why, in words.
        reason: Text,
    },
    /// The session's state changed.
    State(Session),
    /// The guest is going down on its own (its user powered it off).
    GoingDown,
}

/// State of the X session, as QVD names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Session {
    /// None.
    Stopped,
    /// User and home are being made.
    Provisioning,
    /// Starting or resuming; does not listen yet.
    Starting,
    /// Waits for its client.
    Listening,
    /// A client is connected.
    Connected,
    /// The client went; being suspended.
    Suspending,
    /// Lives without client.
    Suspended,
    /// Ending.
    Stopping,
}

/// Why bytes are no frame, or a value is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// More than [`MAX_FRAME`] bytes.
    TooLong,
    /// Not a value of the expected type.
    Malformed,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::TooLong => write!(f, "frame longer than {MAX_FRAME} bytes"),
            Self::Malformed => f.write_str("malformed frame"),
        }
    }
}

impl core::error::Error for FrameError {}

/// Encodes `value` into `buffer`, zero byte included, and returns the used part.
pub fn encode<'a, T: Serialize>(value: &T, buffer: &'a mut [u8; MAX_FRAME]) -> Result<&'a [u8], FrameError> {
    postcard::to_slice_cobs(value, buffer).map(|used| &*used).map_err(|_| FrameError::TooLong)
}

/// Collects bytes into frames.
#[derive(Debug)]
pub struct Decoder {
    buffer: [u8; MAX_FRAME],
    len: usize,
    skipping: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { buffer: [0; MAX_FRAME], len: 0, skipping: false }
    }
}

impl Decoder {
    /// Takes bytes up to the end of one frame. Returns how many it took, and the frame when one ended;
    /// call again with the rest. After an error the next frame is read as usual.
    pub fn push<T: DeserializeOwned>(&mut self, bytes: &[u8]) -> (usize, Option<Result<T, FrameError>>) {
        let Some(end) = bytes.iter().position(|b| *b == 0) else {
            self.keep(bytes);
            return (bytes.len(), None);
        };
        self.keep(&bytes[..=end]);
        let (len, skipped) = (core::mem::take(&mut self.len), core::mem::take(&mut self.skipping));
        if skipped {
            return (end + 1, Some(Err(FrameError::TooLong)));
        }
        if len == 1 {
            // A lone zero: what a sender may put before its first frame to end any garbage.
            return (end + 1, None);
        }
        (end + 1, Some(postcard::from_bytes_cobs(&mut self.buffer[..len]).map_err(|_| FrameError::Malformed)))
    }

    fn keep(&mut self, bytes: &[u8]) {
        match self.buffer.get_mut(self.len..self.len + bytes.len()) {
            Some(room) if !self.skipping => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            _ => self.skipping = true,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec;

    fn text<const N: usize>(s: &str) -> String<N> {
        String::try_from(s).expect("short")
    }

    fn decode_all<T: DeserializeOwned>(decoder: &mut Decoder, mut bytes: &[u8]) -> vec::Vec<Result<T, FrameError>> {
        let mut out = vec![];
        while !bytes.is_empty() {
            let (used, frame) = decoder.push(bytes);
            bytes = &bytes[used..];
            out.extend(frame);
        }
        out
    }

    #[track_caller]
    fn golden<T: Serialize + DeserializeOwned + PartialEq + core::fmt::Debug>(value: T, bytes: &[u8]) {
        let mut buffer = [0; MAX_FRAME];
        assert_eq!(encode(&value, &mut buffer).expect("encodes"), bytes);
        assert_eq!(decode_all(&mut Decoder::default(), bytes), [Ok(value)]);
    }

    #[test]
    fn the_bytes_of_every_message_stay() {
        golden(ToVma::Welcome { proto: 1 }, &[1, 2, 1, 0]);
        golden(ToVma::Ping(300), &[4, 1, 0xac, 2, 0]);
        let mut params = Vec::new();
        params.push((text("k"), text("v"))).expect("room");
        golden(
            ToVma::Open(Open { ticket: [7; 16], kind: Kind::Nx, params }),
            &[18, 2, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6, 1, 1, b'k', 1, b'v', 0],
        );
        golden(ToVma::Suspend, &[2, 3, 0]);
        golden(ToVma::Stop, &[2, 4, 0]);
        golden(ToVma::PowerOff, &[2, 5, 0]);
        golden(ToVma::Expire { soft: 1, hard: 2 }, &[4, 6, 1, 2, 0]);
        golden(FromVma::Hello { proto: 1, version: text("0"), session: Session::Suspended }, &[1, 5, 1, 1, b'0', 6, 0]);
        golden(FromVma::Session([9; 16]), &[18, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0]);
        golden(FromVma::Pong(1), &[3, 2, 1, 0]);
        golden(
            FromVma::Opened { ticket: [1; 16], resumed: true },
            &[19, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0],
        );
        golden(
            FromVma::Refused { ticket: [1; 16], retry: true, reason: text("no") },
            &[22, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, b'n', b'o', 0],
        );
        golden(FromVma::State(Session::Connected), &[3, 5, 4, 0]);
        golden(FromVma::GoingDown, &[2, 6, 0]);
    }

    #[test]
    fn a_frame_too_long_is_one_error_and_the_next_is_read() {
        let mut bytes = vec![1u8; MAX_FRAME * 3];
        bytes.extend([0, 2, 4, 0]);
        let mut decoder = Decoder::default();
        let mut frames = vec![];
        for part in bytes.chunks(1000) {
            frames.extend(decode_all::<ToVma>(&mut decoder, part));
        }
        assert_eq!(frames, [Err(FrameError::TooLong), Ok(ToVma::Stop)]);
    }

    proptest! {
        #[test]
        fn garbage_never_hides_the_frame_behind_it(garbage in prop::collection::vec(any::<u8>(), 0..2000), cut in 1usize..700) {
            let mut bytes = garbage;
            bytes.extend([0, 4, 1, 0xac, 2, 0]);
            let mut decoder = Decoder::default();
            let mut last = None;
            for part in bytes.chunks(cut) {
                last = decode_all::<ToVma>(&mut decoder, part).pop().or(last);
            }
            prop_assert_eq!(last, Some(Ok(ToVma::Ping(300))));
        }
    }
}
