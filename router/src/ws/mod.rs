//! WebSockets: the upgrade, and a connection after it.
//!
//! Written here and not taken from a library, because a library's connection keeps a read and a write
//! buffer each, and copies every message through both; thousands of idle desktops are to cost little
//! more than their TLS state. [`frame`] is the protocol without I/O, [`relay`] a session's bytes.

pub mod frame;
mod relay;

pub use relay::{End, Totals};

use crate::{conn::Left, head::Request, scratch};
use base64::{Engine, engine::general_purpose::STANDARD};
use frame::{Control, Event, Opcode, Reader, Violation};
use std::{future::poll_fn, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, interval_at, timeout},
};

/// A client must take a message within this time.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// And the goodbye within this one; the guest's end is closed before it.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Why a request is no WebSocket upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("The request is no WebSocket upgrade of version 13")]
pub struct NoUpgrade;

/// The answer to an upgrade.
pub fn accept(request: &Request) -> Result<String, NoUpgrade> {
    let upgrade = request.has_token("connection", "upgrade") && request.has_token("upgrade", "websocket");
    if request.method != "GET" || !upgrade || request.header("sec-websocket-version") != Some("13") {
        return Err(NoUpgrade);
    }
    let key = request.header("sec-websocket-key").ok_or(NoUpgrade)?;
    if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
        return Err(NoUpgrade);
    }
    let accept = accept_key(key);
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
}

fn accept_key(key: &str) -> String {
    const FIXED: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let hash = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{FIXED}").as_bytes());
    STANDARD.encode(hash)
}

/// A connection after the upgrade.
pub struct Socket<S> {
    stream: S,
    reader: Reader,
    /// Framed bytes that the client did not take yet.
    out: Vec<u8>,
    out_done: usize,
    unflushed: bool,
}

/// What one read brought while no session is open.
struct Heard {
    pong: Option<Control>,
    over: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A connection whose upgrade was answered.
    pub fn new(stream: S) -> Self {
        Self { stream, reader: Reader::default(), out: Vec::new(), out_done: 0, unflushed: false }
    }

    /// Sends a text message.
    pub async fn say(&mut self, text: &str) -> io::Result<()> {
        self.send(&frame::message(Opcode::Text, text.as_bytes())).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let stream = &mut self.stream;
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        timeout(WRITE_LIMIT, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits for `work` as long as the client stays. One that speaks before it was told to has left. Meanwhile its
    /// page hears that the connection lives, as it does in a relay.
    pub async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Left> {
        tokio::pin!(work);
        let mut ticks = interval_at(Instant::now() + relay::TICK, relay::TICK);
        loop {
            // All are cancel-safe: `work` is kept, and a read is handled in the poll that did it.
            let heard = tokio::select! {
                done = &mut work => return Ok(done),
                heard = self.hear() => heard,
                _ = ticks.tick() => {
                    self.say(relay::TICK_TEXT).await.map_err(|_| Left)?;
                    continue;
                }
            };
            if heard.over {
                return Err(Left);
            }
            if let Some(ping) = heard.pong {
                self.send(&frame::message(Opcode::Pong, ping.bytes())).await.map_err(|_| Left)?;
            }
        }
    }

    async fn hear(&mut self) -> Heard {
        let Self { stream, reader, .. } = self;
        let heard = poll_fn(|cx| scratch::poll_read(stream, cx, |_, bytes| heard(reader, bytes))).await;
        heard.ok().and_then(Result::ok).unwrap_or(Heard { pong: None, over: true })
    }

    /// Puts framed bytes before the goodbye of [`Socket::close`].
    pub fn queue(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Ends the connection with a reason; a client that does not take it does not get it.
    pub async fn close(mut self, code: u16, reason: &str) {
        let goodbye = async {
            // A frame that was begun must end before another begins.
            self.stream.write_all(&self.out[self.out_done..]).await?;
            self.stream.write_all(&frame::close(code, reason)).await?;
            self.stream.flush().await?;
            self.stream.shutdown().await
        };
        let _best_effort: Result<io::Result<()>, _> = timeout(CLOSE_LIMIT, goodbye).await;
    }
}

fn heard(reader: &mut Reader, bytes: &mut [u8]) -> Result<Heard, Violation> {
    let mut heard = Heard { pong: None, over: bytes.is_empty() };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (used, event) = reader.next(rest)?;
        match event {
            Some(Event::Ping(control)) => heard.pong = Some(control),
            Some(Event::Data(_) | Event::Close(_)) => heard.over = true,
            Some(Event::Pong) | None => {}
        }
        rest = &mut rest[used..];
    }
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;

    const GOOD: &str = "Upgrade: websocket\nConnection: keep-alive, Upgrade\nSec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n";

    #[track_caller]
    fn check(headers: &str, expect: bool) {
        let request = head::parse(format!("GET /x HTTP/1.1\n{headers}\n").as_bytes()).expect("a request");
        assert_eq!(accept(&request).is_ok(), expect, "{headers}");
    }

    #[test]
    fn an_upgrade_is_answered_as_the_rfc_says_and_nothing_else_is() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        check(GOOD, true);
        check(&GOOD.replace("13", "8"), false);
        check(&GOOD.replace("dGhl", ""), false);
        check(&GOOD.replace("Upgrade: websocket", "Upgrade: QVD/1.0"), false);
        check("", false);
    }

    #[tokio::test]
    async fn a_ping_is_answered_while_the_desktop_starts_and_a_client_that_leaves_is_noticed() {
        use tokio::io::AsyncReadExt;
        let (mut client, server) = tokio::io::duplex(4096);
        let mut socket = Socket::new(server);
        client.write_all(&[0x89, 0x81, 0, 0, 0, 0, b'x']).await.expect("sent");
        let answered = async {
            let mut pong = [0; 3];
            client.read_exact(&mut pong).await.expect("answered");
            pong
        };
        assert_eq!(socket.attend(answered).await, Ok([0x8a, 1, b'x']));
        client.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.expect("sent");
        assert_eq!(socket.attend(std::future::pending::<()>()).await, Err(Left));
    }
}
