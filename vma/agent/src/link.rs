//! The control connection: the agent connects out, again and again, for ever.
//!
//! The socket is the node daemon's, which may restart at any time and then makes it anew in the same
//! directory. Nothing of a session depends on this connection.

use crate::proc::spawn_with;
use std::{io::Read, os::unix::net::UnixStream, path::PathBuf, sync::mpsc::Sender, thread, time::Duration};
use vma_proto::{Decoder, MAX_FRAME, ToVma};

/// The first pause after a failed attempt; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// So long at most the node's daemon waits for us after its start.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A frame is some 28 KiB, and is moved a few times while it is decoded.
const STACK: usize = 512 * 1024;

/// What the connection brings.
#[derive(Debug)]
pub enum Link {
    /// Connected; Hello is to be written here.
    Up(UnixStream),
    /// A frame.
    Frame(Box<ToVma>),
    /// Gone; another attempt is under way.
    Down,
}

/// Starts connecting, in a thread of its own that ends when nobody listens to it.
pub fn start<T: From<Link> + Send + 'static>(socket: PathBuf, events: Sender<T>) {
    spawn_with(STACK, "link", move || {
        let mut pause = PAUSE_MIN;
        loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                pause = PAUSE_MIN;
                if serve(stream, &events).is_none() {
                    return;
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    });
}

/// Reads frames until the connection ends. None when the agent has ended.
fn serve<T: From<Link>>(mut stream: UnixStream, events: &Sender<T>) -> Option<()> {
    let send = |link: Link| events.send(link.into()).ok();
    // A daemon that reads no more must not hold the agent.
    stream.set_write_timeout(Some(Duration::from_secs(5))).ok()?;
    send(Link::Up(stream.try_clone().ok()?))?;
    let (mut decoder, mut buffer) = (Decoder::default(), [0; MAX_FRAME]);
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        let mut rest = &buffer[..n];
        while !rest.is_empty() {
            let (used, frame) = decoder.push::<ToVma>(rest);
            rest = &rest[used..];
            match frame {
                Some(Ok(frame)) => send(Link::Frame(Box::new(frame)))?,
                Some(Err(error)) => tracing::warn!(%error, "Passed over a frame of the node"),
                None => {}
            }
        }
    }
    send(Link::Down)
}
