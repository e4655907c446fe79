//! One client's connection while it speaks HTTP.
//!
//! Reads heads within limits of size and time, writes answers as the clients need them, and notices a
//! client that leaves while it waits. The buffer holds only bytes that came and are not consumed yet.

use crate::{
    answer::Answer,
    head::{self, HeadError, Request, Scanner},
    scratch,
};
use std::{future::poll_fn, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// A head must be complete this long after its first byte: longer is a slow-loris, not a slow line.
pub const HEAD_LIMIT: Duration = Duration::from_secs(20);
/// A client must take an answer within this time.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// A client that was refused may go on sending for this long.
const LINGER: Duration = Duration::from_secs(3);
/// Bytes that a client may send ahead while it waits for the 101; no genuine client sends any.
const AHEAD_LIMIT: usize = 64 * 1024;

/// Why no request came.
#[derive(Debug, thiserror::Error)]
pub enum NoRequest {
    /// The client left, or was silent for too long between two requests.
    #[error("The client is gone")]
    Gone,
    /// What came is not a request.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// A head did not end in time.
    #[error("The request's head took longer than {} s", HEAD_LIMIT.as_secs())]
    Slow,
}

/// The client left, or sends without being asked.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("The client left while it waited")]
pub struct Left;

/// A connection between requests.
pub struct Conn<S> {
    stream: S,
    buffer: Vec<u8>,
    head_limit: Duration,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conn<S> {
    /// A connection that nothing was read from yet.
    pub fn new(stream: S) -> Self {
        Self { stream, buffer: Vec::new(), head_limit: HEAD_LIMIT }
    }

    /// The same with another limit for the time of a head.
    pub fn with_head_limit(self, head_limit: Duration) -> Self {
        Self { head_limit, ..self }
    }

    /// The next request. The first byte may take `idle`. Cancel-safe: bytes read so far stay.
    pub async fn next(&mut self, idle: Duration) -> Result<Request, NoRequest> {
        if self.buffer.is_empty() && !matches!(timeout(idle, self.fill()).await, Ok(Ok(1..))) {
            return Err(NoRequest::Gone);
        }
        let limit = self.head_limit;
        let len = timeout(limit, self.head_end()).await.map_err(|_| NoRequest::Slow)??;
        let request = head::parse(&self.buffer[..len])?;
        self.consume(len);
        Ok(request)
    }

    async fn head_end(&mut self) -> Result<usize, NoRequest> {
        let mut scanner = Scanner::default();
        loop {
            if let Some(len) = scanner.end(&self.buffer)? {
                return Ok(len);
            }
            if !matches!(self.fill().await, Ok(1..)) {
                return Err(NoRequest::Gone);
            }
        }
    }

    /// Drops what was read; an empty buffer gives its memory back.
    fn consume(&mut self, len: usize) {
        self.buffer = self.buffer.split_off(len);
    }

    /// Bytes of a body, at most `left`, as they come; none at the end of the stream. Cancel-safe.
    pub async fn piece(&mut self, left: u64) -> io::Result<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
        let rest = self.buffer.split_off(take);
        Ok(std::mem::replace(&mut self.buffer, rest))
    }

    /// Reads once into the buffer; 0 is the end.
    async fn fill(&mut self) -> io::Result<usize> {
        let Self { stream, buffer, .. } = self;
        poll_fn(|cx| {
            scratch::poll_read(stream, cx, |_, bytes| {
                buffer.extend_from_slice(bytes);
                bytes.len()
            })
        })
        .await
    }

    /// Sends a final answer: head and body as two writes, each of them a TLS record.
    pub async fn answer(&mut self, answer: &Answer, head_only: bool) -> io::Result<()> {
        self.send(answer.head().as_bytes()).await?;
        if head_only { Ok(()) } else { self.send(answer.body().as_bytes()).await }
    }

    /// Sends bytes as one write.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(WRITE_LIMIT, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Waits for `work` as long as the client stays. What it sends meanwhile is kept for the session.
    pub async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Left> {
        let left = async { while self.buffer.len() < AHEAD_LIMIT && matches!(self.fill().await, Ok(1..)) {} };
        tokio::select! {
            done = work => Ok(done),
            () = left => Err(Left),
        }
    }

    /// Reads and drops what a client still sends of a body that nobody wants, for a while: ended at once, the
    /// connection would be reset, and the client would never read why.
    pub async fn linger(&mut self) {
        let drop_all = async {
            while matches!(self.fill().await, Ok(1..)) {
                self.buffer.clear();
            }
        };
        let _long_enough = timeout(LINGER, drop_all).await;
    }

    /// Ends the connection; a client that does not take the goodbye does not get it.
    pub async fn close(mut self) {
        let _best_effort = timeout(Duration::from_millis(500), self.stream.shutdown()).await;
    }

    /// The stream, and the bytes that came behind the last request.
    pub fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn pipelined_requests_come_one_by_one_and_the_rest_is_kept() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut conn = Conn::new(server);
        client.write_all(b"GET /a HTTP/1.1\n\n\nGET /b HTTP/1.1\r\n\r\nNXPROXY").await.expect("written");
        assert_eq!(conn.next(LONG).await.expect("first").path, "/a");
        assert_eq!(conn.next(LONG).await.expect("second").path, "/b");
        assert_eq!(conn.into_parts().1, b"NXPROXY");
    }

    #[tokio::test]
    async fn a_head_that_drips_is_cut_off_however_steady_the_drip() {
        let (mut client, server) = tokio::io::duplex(4096);
        let drip = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            for byte in b"GET / HTTP/1.1\r\nX: ".iter().chain([b'y'].iter().cycle()) {
                tick.tick().await;
                if client.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        });
        let mut conn = Conn::new(server).with_head_limit(Duration::from_millis(60));
        assert!(matches!(conn.next(LONG).await, Err(NoRequest::Slow)));
        drop(conn);
        drip.await.expect("the drip ends");
    }

    #[tokio::test]
    async fn silence_ends_a_connection() {
        let (_client, server) = tokio::io::duplex(4096);
        assert!(matches!(Conn::new(server).next(Duration::from_millis(10)).await, Err(NoRequest::Gone)));
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_noticed_while_it_waits() {
        let (mut client, server) = tokio::io::duplex(4096);
        let mut conn = Conn::new(server);
        assert_eq!(conn.attend(async { 5 }).await, Ok(5));
        client.write_all(b"ahead").await.expect("written");
        client.shutdown().await.expect("shut");
        assert_eq!(conn.attend(std::future::pending::<()>()).await, Err(Left));
        assert_eq!(conn.into_parts().1, b"ahead");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("end");
    }
}
