//! Copies a session's bytes both ways until both sides have ended.
//!
//! Each direction reads into the thread's scratch buffer and writes on at once; only what the other
//! side does not take is kept, in memory that goes again when it was taken. While something is kept
//! nothing more is read: that is the back-pressure. The end of one direction is passed on (half-close)
//! and the other goes on, for as long as bytes come.

use crate::scratch;
use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep},
};

/// Once one side has ended, the other may be silent this long before the session is over.
pub const HALF_CLOSED_SILENCE: Duration = Duration::from_secs(60);
/// Reads of one direction before the other, and other sessions, get their turn.
pub(crate) const ROUNDS: u32 = 16;

/// Bytes passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// From the client to the guest.
    pub up: u64,
    /// From the guest to the client.
    pub down: u64,
}

/// Relays until both directions have ended. A direction that fails ends; the other one may still have
/// last words to pass on, and the first failure is returned. `ahead` are bytes of the client that were
/// read before the session began. Dropping the future ends the session where it is.
pub async fn relay<C, G>(client: &mut C, guest: &mut G, ahead: Vec<u8>) -> (Totals, io::Result<()>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    G: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Direction::new(ahead), Direction::new(Vec::new()));
    let mut silence = Silence::new(HALF_CLOSED_SILENCE);
    poll_fn(|cx| {
        let one = up.poll(cx, client, guest).is_ready();
        let other = down.poll(cx, guest, client).is_ready();
        match (one, other) {
            (true, true) => Poll::Ready(()),
            (false, false) => Poll::Pending,
            _ => silence.poll(cx, up.total + down.total),
        }
    })
    .await;
    let totals = Totals { up: up.total, down: down.total };
    (totals, up.failure.or(down.failure).map_or(Ok(()), Err))
}

/// One direction of a session.
struct Direction {
    state: State,
    kept: Vec<u8>,
    taken: usize,
    unflushed: bool,
    total: u64,
    failure: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Copying,
    /// The reading side ended; what is kept and the end itself are still to be passed on.
    Ending,
    Ended,
}

impl Direction {
    fn new(kept: Vec<u8>) -> Self {
        Self { state: State::Copying, kept, taken: 0, unflushed: false, total: 0, failure: None }
    }

    /// Ready once the end was passed on, or cannot be.
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<()>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            if self.state == State::Ended {
                return Poll::Ready(());
            }
            match self.poll_round(cx, from, to) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(failure)) => {
                    self.failure = Some(failure);
                    self.state = State::Ended;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Passes on what is kept, then the end or what can be read at once. Fails when nothing more can
    /// be written.
    fn poll_round<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        ready!(self.poll_kept(cx, to))?;
        if self.state == State::Ending {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.state = State::Ended;
            return Poll::Ready(Ok(()));
        }
        match scratch::poll_read(from, cx, |cx, bytes| self.pass(cx, bytes, to)) {
            Poll::Ready(Ok(passed)) => Poll::Ready(passed),
            Poll::Ready(Err(failure)) => {
                self.failure = Some(failure);
                self.state = State::Ending;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                ready!(self.poll_flush(cx, to))?;
                Poll::Pending
            }
        }
    }

    /// Writes bytes just read, and keeps those that were not taken.
    fn pass<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, bytes: &[u8], to: &mut W) -> io::Result<()> {
        if bytes.is_empty() {
            self.state = State::Ending;
            return Ok(());
        }
        let taken = match Pin::new(to).poll_write(cx, bytes) {
            Poll::Ready(taken) => taken?,
            Poll::Pending => 0,
        };
        self.count(taken);
        self.kept = bytes[taken..].to_vec();
        Ok(())
    }

    /// Ready once nothing is kept.
    fn poll_kept<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while self.taken < self.kept.len() {
            let taken = ready!(Pin::new(&mut *to).poll_write(cx, &self.kept[self.taken..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.taken += taken;
            self.count(taken);
        }
        (self.kept, self.taken) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    /// TLS holds back what its socket does not take, so a pause must push it out.
    fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(to).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, taken: usize) {
        self.total += taken as u64;
        self.unflushed |= taken > 0;
    }
}

/// Ready when no byte moved for a while; runs from its first poll.
struct Silence {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    total: u64,
}

impl Silence {
    fn new(limit: Duration) -> Self {
        Self { limit, timer: None, total: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>, total: u64) -> Poll<()> {
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        if self.total != total {
            self.total = total;
            timer.as_mut().reset(Instant::now() + limit);
        }
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    /// Bytes whose value tells their place.
    fn numbered(len: u32) -> Vec<u8> {
        (0..len / 4).flat_map(u32::to_be_bytes).collect()
    }

    #[tokio::test]
    async fn numbered_bytes_arrive_once_and_in_order_both_ways_through_narrow_pipes() {
        let ((mut client, mut c), (mut g, mut guest)) = (duplex(1000), duplex(777));
        let relay = tokio::spawn(async move { relay(&mut c, &mut g, b"ahead".to_vec()).await });
        let (up, down) = (numbered(3_000_000), numbered(1_000_000));
        let (up_sent, down_sent) = (up.clone(), down.clone());
        let (mut client_read, mut client_write) = tokio::io::split(&mut client);
        let (mut guest_read, mut guest_write) = tokio::io::split(&mut guest);
        let (mut at_guest, mut at_client) = (Vec::new(), Vec::new());
        let send_up = async {
            client_write.write_all(&up_sent).await?;
            client_write.shutdown().await
        };
        let send_down = async {
            guest_write.write_all(&down_sent).await?;
            guest_write.shutdown().await
        };
        let all = tokio::try_join!(
            send_up,
            send_down,
            guest_read.read_to_end(&mut at_guest),
            client_read.read_to_end(&mut at_client)
        );
        all.expect("relayed");
        assert!(at_guest == [&b"ahead"[..], &up].concat() && at_client == down);
        let (totals, result) = relay.await.expect("no panic");
        result.expect("both ended");
        assert_eq!(totals, Totals { up: 3_000_005, down: 1_000_000 });
    }

    #[tokio::test]
    async fn one_side_may_end_long_before_the_other() {
        let ((mut client, mut c), (mut g, mut guest)) = (duplex(64), duplex(64));
        let relay = tokio::spawn(async move { relay(&mut c, &mut g, Vec::new()).await });
        client.shutdown().await.expect("client ends its side");
        let mut nothing = Vec::new();
        guest.read_to_end(&mut nothing).await.expect("the guest sees the end");
        guest.write_all(b"still talking").await.expect("the guest goes on");
        let mut heard = [0; 13];
        client.read_exact(&mut heard).await.expect("the client hears it");
        drop(guest);
        assert_eq!(client.read(&mut heard).await.expect("end"), 0);
        relay.await.expect("no panic").1.expect("ended in order");
    }

    #[tokio::test]
    async fn the_last_words_of_a_guest_that_takes_no_more_arrive() {
        let (mut client, mut c) = duplex(64);
        let (mut g, guest) = tokio::net::UnixStream::pair().expect("a pair");
        let relay = tokio::spawn(async move { relay(&mut c, &mut g, Vec::new()).await });
        let guest = guest.into_std().expect("std");
        std::io::Write::write_all(&mut &guest, b"goodbye").expect("fits");
        drop(guest);
        client.write_all(b"are you there?").await.expect("taken");
        let mut heard = [0; 7];
        client.read_exact(&mut heard).await.expect("the last words");
        assert_eq!(&heard, b"goodbye");
        drop(client);
        let failure = relay.await.expect("no panic").1.expect_err("the guest took no more");
        assert_eq!(failure.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_guest_that_does_not_read_stops_the_client() {
        let ((mut client, mut c), (mut g, guest)) = (duplex(64), duplex(64));
        let mut session = Box::pin(relay(&mut c, &mut g, Vec::new()));
        let flood = async { client.write_all(&numbered(1_000_000)).await };
        tokio::select! {
            _ = &mut session => panic!("the session goes on"),
            _ = flood => panic!("nobody reads, so nothing more may be taken"),
            () = tokio::time::sleep(Duration::from_millis(50)) => {}
        }
        drop(guest);
    }
}
