//! A session's bytes between a WebSocket and a guest, both ways.
//!
//! As in [`crate::relay`], each direction reads into the thread's scratch buffer and writes on at once,
//! and only what the other side does not take is kept; while something is kept nothing more is read.
//! Towards the client the bytes are read behind room for a frame's head, so that head and payload are
//! one write without a copy; from the client they are unmasked where they lie.
//!
//! Besides, the client gets a short text at each [`TICK`], by which its page notices a dead network
//! long before TCP does, and pings, which its browser answers: one that is silent for
//! [`SILENCE`] is gone.

use super::{
    Socket,
    frame::{self, Control, Event, HEAD, Opcode, Violation},
};
use crate::{relay::ROUNDS, scratch};
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Interval, MissedTickBehavior, interval},
};

/// How often the page hears that its connection lives.
pub const TICK: Duration = Duration::from_secs(5);
/// What it hears.
pub const TICK_TEXT: &str = "{\"tick\":1}";
/// A ping goes with every so many ticks.
const PINGS: u32 = 4;
/// A client that answered nothing for this long is gone.
pub const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of payload passed on.
pub use crate::relay::Totals;

/// How a session ended by itself.
#[derive(Debug)]
pub enum End {
    /// The guest ended it.
    Guest,
    /// The way to the guest broke.
    GuestBroke(io::Error),
    /// The client said goodbye, or vanished.
    Client,
    /// The client answers nothing any more.
    Silent,
    /// The client broke the protocol.
    Violation(Violation),
}

struct Relay<'a, S, G, F> {
    socket: &'a mut Socket<S>,
    guest: &'a mut G,
    on_tick: F,
    ticks: Interval,
    ticked: u32,
    tick_due: bool,
    heard: Instant,
    pong: Option<Control>,
    /// Bytes that the guest did not take yet.
    kept: Vec<u8>,
    kept_done: usize,
    totals: Totals,
}

impl<S, G, F> Unpin for Relay<'_, S, G, F> {}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Relays until one side ends. `on_tick` is called at each tick while the client lives. Dropping the
    /// future leaves the socket so that [`Socket::close`] ends it in order.
    pub async fn relay<G>(&mut self, guest: &mut G, on_tick: impl FnMut()) -> (Totals, End)
    where
        G: AsyncRead + AsyncWrite + Unpin,
    {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut relay = Relay {
            socket: self,
            guest,
            on_tick,
            ticks,
            ticked: 0,
            tick_due: false,
            heard: Instant::now(),
            pong: None,
            kept: Vec::new(),
            kept_done: 0,
            totals: Totals::default(),
        };
        let end = poll_fn(|cx| relay.poll(cx)).await;
        (relay.totals, end)
    }
}

impl<S, G, F> Relay<'_, S, G, F>
where
    S: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite + Unpin,
    F: FnMut(),
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        while self.ticks.poll_tick(cx).is_ready() {
            // While the guest takes nothing the client is not read, so that its silence says nothing.
            if self.kept.is_empty() && self.heard.elapsed() > SILENCE {
                return Poll::Ready(End::Silent);
            }
            self.tick_due = true;
            (self.on_tick)();
        }
        if let Poll::Ready(end) = self.rounds(cx, Self::poll_up) {
            return Poll::Ready(end);
        }
        self.rounds(cx, Self::poll_down)
    }

    fn rounds(
        &mut self,
        cx: &mut Context<'_>,
        round: fn(&mut Self, &mut Context<'_>) -> Poll<Result<(), End>>,
    ) -> Poll<End> {
        for _ in 0..ROUNDS {
            if let Err(end) = ready!(round(self, cx)) {
                return Poll::Ready(end);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read from the client.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if let Err(error) = ready!(self.poll_kept(cx)) {
            return Poll::Ready(Err(End::GuestBroke(error)));
        }
        let Self { socket, guest, pong, kept, totals, .. } = self;
        let Socket { stream, reader, .. } = &mut **socket;
        let read = scratch::poll_read(stream, cx, |cx, mut bytes| {
            if bytes.is_empty() {
                return Err(End::Client);
            }
            while !bytes.is_empty() {
                let (used, event) = reader.next(bytes).map_err(End::Violation)?;
                match event {
                    Some(Event::Data(data)) => pass(cx, *guest, kept, totals, data).map_err(End::GuestBroke)?,
                    // Only the last one needs an answer, so a flood of them costs nothing.
                    Some(Event::Ping(control)) => *pong = Some(control),
                    Some(Event::Close(_)) => return Err(End::Client),
                    Some(Event::Pong) | None => {}
                }
                bytes = &mut bytes[used..];
            }
            Ok(())
        });
        match ready!(read) {
            Ok(passed) => {
                self.heard = Instant::now();
                Poll::Ready(passed)
            }
            Err(_) => Poll::Ready(Err(End::Client)),
        }
    }

    /// Ready once the guest took all that was kept for it.
    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.kept_done < self.kept.len() {
            match ready!(Pin::new(&mut *self.guest).poll_write(cx, &self.kept[self.kept_done..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => {
                    self.kept_done += taken;
                    self.totals.up += taken as u64;
                }
            }
        }
        if !self.kept.is_empty() {
            (self.kept, self.kept_done, self.heard) = (Vec::new(), 0, Instant::now());
        }
        // The way to a guest on another node is TLS, which holds back what its socket does not take.
        Pin::new(&mut *self.guest).poll_flush(cx)
    }

    /// One message to the client: an answer, a tick, or bytes of the guest.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        if ready!(self.socket.poll_out(cx)).is_err() {
            return Poll::Ready(Err(End::Client));
        }
        if let Some(ping) = self.pong.take() {
            self.socket.out = frame::message(Opcode::Pong, ping.bytes());
            return Poll::Ready(Ok(()));
        }
        if std::mem::take(&mut self.tick_due) {
            self.socket.out = self.tick();
            return Poll::Ready(Ok(()));
        }
        let Self { socket, guest, totals, .. } = self;
        let read = scratch::poll_read_behind(*guest, cx, |cx, room, length| {
            totals.down += length as u64;
            socket.write_message(cx, room, length)
        });
        match read {
            Poll::Ready(Ok(Ok(0))) => Poll::Ready(Err(End::Guest)),
            Poll::Ready(Ok(Ok(_))) => Poll::Ready(Ok(())),
            Poll::Ready(Ok(Err(_))) => Poll::Ready(Err(End::Client)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(End::GuestBroke(error))),
            Poll::Pending => {
                if ready!(self.socket.poll_flush(cx)).is_err() {
                    return Poll::Ready(Err(End::Client));
                }
                Poll::Pending
            }
        }
    }

    fn tick(&mut self) -> Vec<u8> {
        self.ticked = self.ticked.wrapping_add(1);
        let mut bytes = frame::message(Opcode::Text, TICK_TEXT.as_bytes());
        if self.ticked.is_multiple_of(PINGS) {
            bytes.extend(frame::message(Opcode::Ping, b""));
        }
        bytes
    }
}

/// Writes bytes just read to the guest, behind those that are kept already, and keeps the rest.
fn pass<G: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    guest: &mut G,
    kept: &mut Vec<u8>,
    totals: &mut Totals,
    bytes: &[u8],
) -> io::Result<()> {
    let mut taken = 0;
    if kept.is_empty()
        && let Poll::Ready(done) = Pin::new(guest).poll_write(cx, bytes)
    {
        taken = done?;
    }
    totals.up += taken as u64;
    kept.extend_from_slice(&bytes[taken..]);
    Ok(())
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Writes `length` bytes that lie behind [`HEAD`] bytes of room as one message; keeps what is not taken.
    fn write_message(&mut self, cx: &mut Context<'_>, room: &mut [u8], length: usize) -> io::Result<usize> {
        let Some((head, _)) = room.split_first_chunk_mut::<HEAD>().filter(|_| length > 0) else { return Ok(0) };
        let at = frame::put_head(head, Opcode::Binary, length);
        let bytes = &room[at..HEAD + length];
        let taken = match Pin::new(&mut self.stream).poll_write(cx, bytes) {
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        self.unflushed |= taken > 0;
        (self.out, self.out_done) = (bytes[taken..].to_vec(), 0);
        Ok(length)
    }

    /// Ready once the client took all that was kept for it.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_done < self.out.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.out_done..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.out_done += taken,
            }
            self.unflushed = true;
        }
        (self.out, self.out_done) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// As a browser masks it, with a mask of zeros.
    fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        [&[0x80 | opcode, 0xfe, length[0], length[1], 0, 0, 0, 0], payload].concat()
    }

    fn numbered(len: u32) -> Vec<u8> {
        (0..len / 4).flat_map(u32::to_be_bytes).collect()
    }

    /// Payload of the binary messages in what a client got.
    fn payload(mut bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        while let [first, second, rest @ ..] = bytes {
            let (length, rest) = match second {
                126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
                short => (usize::from(*short), rest),
            };
            if *first == 0x82 {
                out.extend_from_slice(&rest[..length]);
            }
            bytes = &rest[length..];
        }
        out
    }

    #[tokio::test]
    async fn numbered_bytes_arrive_once_and_in_order_both_ways_through_narrow_pipes() {
        let ((mut client, c), (mut g, mut guest)) = (duplex(1000), duplex(777));
        let session = tokio::spawn(async move {
            let mut socket = Socket::new(c);
            let (totals, end) = socket.relay(&mut g, || {}).await;
            let code = matches!(end, End::Guest).then_some(1000).expect("the guest ends");
            socket.close(code, "").await;
            totals
        });
        let (up, down) = (numbered(2_000_000), numbered(1_000_000));
        let frames: Vec<u8> = up.chunks(30_000).flat_map(|c| masked(2, c)).collect();
        let (mut client_read, mut client_write) = tokio::io::split(&mut client);
        let (mut guest_read, mut guest_write) = tokio::io::split(&mut guest);
        let (mut at_guest, mut at_client) = (vec![0; up.len()], Vec::new());
        let guest_side = async {
            tokio::try_join!(guest_read.read_exact(&mut at_guest), guest_write.write_all(&down))?;
            guest_write.shutdown().await
        };
        let all =
            tokio::try_join!(client_write.write_all(&frames), guest_side, client_read.read_to_end(&mut at_client));
        all.expect("relayed");
        assert!(at_guest == up && payload(&at_client) == down);
        assert!(at_client.ends_with(&frame::close(1000, "")));
        assert_eq!(session.await.expect("no panic"), Totals { up: 2_000_000, down: 1_000_000 });
    }

    #[tokio::test]
    async fn a_flood_of_pings_is_answered_with_the_last_one_and_costs_no_memory() {
        let ((mut client, c), (mut g, _guest)) = (duplex(100), duplex(64));
        let mut socket = Socket::new(c);
        let flood = async {
            for _ in 0..10_000 {
                client.write_all(&[0x89, 0x81, 0, 0, 0, 0, b'a']).await?;
            }
            client.write_all(&[0x89, 0x81, 0, 0, 0, 0, b'z', 0x88, 0x80, 0, 0, 0, 0]).await
        };
        let ((_, end), flooded) = tokio::join!(socket.relay(&mut g, || {}), flood);
        flooded.expect("taken");
        assert!(matches!(end, End::Client));
        assert!(socket.out.len() < 100, "one answer at most is kept");
    }

    #[tokio::test]
    async fn a_cut_in_the_middle_of_a_message_ends_the_message_first() {
        let ((mut client, c), (mut g, mut guest)) = (duplex(100), duplex(9000));
        let mut socket = Socket::new(c);
        guest.write_all(&numbered(4000)).await.expect("fits");
        tokio::select! {
            _ = socket.relay(&mut g, || {}) => panic!("nobody reads"),
            () = tokio::time::sleep(Duration::from_millis(30)) => {}
        }
        let mut got = Vec::new();
        let (_, read) = tokio::join!(socket.close(4002, "by order"), client.read_to_end(&mut got));
        read.expect("to the end");
        assert_eq!(payload(&got), numbered(4000));
        assert!(got.ends_with(&frame::close(4002, "by order")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_answers_no_ping_is_gone_after_its_time_and_one_that_does_stays() {
        let ((mut client, c), (mut g, _guest)) = (duplex(64 * 1024), duplex(64));
        let (began, mut ticks) = (Instant::now(), 0);
        let (_, end) = Socket::new(c).relay(&mut g, || ticks += 1).await;
        assert!(matches!(end, End::Silent), "half open: {end:?}");
        assert!(began.elapsed() > SILENCE && began.elapsed() <= SILENCE + TICK, "{:?}", began.elapsed());
        assert_eq!(ticks, 13);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.expect("to the end");
        assert_eq!(told.windows(2).filter(|w| *w == [0x89, 0]).count(), 3, "it was asked three times");

        let ((mut client, c), (mut g, _guest)) = (duplex(64 * 1024), duplex(64));
        let pongs = async {
            let mut every = interval(SILENCE / 2);
            for _ in 0..20 {
                every.tick().await;
                client.write_all(&[0x8a, 0x80, 0, 0, 0, 0]).await.expect("taken");
            }
        };
        let mut socket = Socket::new(c);
        tokio::select! {
            (_, end) = socket.relay(&mut g, || {}) => panic!("{end:?}"),
            () = pongs => {}
        }
    }

    #[tokio::test]
    async fn a_client_that_breaks_the_protocol_is_named() {
        let ((mut client, c), (mut g, _guest)) = (duplex(100), duplex(64));
        client.write_all(&[0x82, 0x01, b'x']).await.expect("sent");
        let (_, end) = Socket::new(c).relay(&mut g, || {}).await;
        assert!(matches!(end, End::Violation(v) if v.code() == 1002));
    }
}
