//! Frames over a stream: [`model::frame`] values behind a 4-byte big-endian length.

use futures_util::{SinkExt, StreamExt};
use model::frame::{self, FrameError};
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{
    bytes::Bytes,
    codec::{Framed, LengthDelimitedCodec},
};

/// Why a frame was not sent or received. The connection is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The stream failed.
    #[error("The connection broke")]
    Stream(#[source] io::Error),
    /// The peer closed between two frames.
    #[error("The other side closed the connection")]
    Closed,
    /// The peer speaks another language.
    #[error("The other side sent a frame that cannot be read")]
    Frame(#[source] FrameError),
    /// A value of ours does not fit into a frame.
    #[error("A frame cannot be sent")]
    Unsendable(#[source] FrameError),
}

/// A stream of frames.
pub struct Wire<S>(Framed<S, LengthDelimitedCodec>);

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Frames of at most [`frame::MAX`] bytes.
    pub fn new(stream: S) -> Self {
        Self::with_limit(stream, frame::MAX)
    }

    /// Frames of at most `limit` bytes, for peers that have no business to send more.
    pub fn with_limit(stream: S, limit: usize) -> Self {
        Self(Framed::new(stream, LengthDelimitedCodec::builder().max_frame_length(limit).new_codec()))
    }

    /// Sends one value. Not cancel-safe: a cancelled send may leave half a frame.
    pub async fn send<T: Serialize>(&mut self, value: &T) -> Result<(), WireError> {
        let bytes = frame::encode(value).map_err(WireError::Unsendable)?;
        self.0.send(Bytes::from(bytes)).await.map_err(WireError::Stream)
    }

    /// Receives one value. Cancel-safe: bytes read so far stay in the buffer.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<T, WireError> {
        match self.0.next().await {
            Some(Ok(bytes)) => frame::decode(&bytes).map_err(WireError::Frame),
            Some(Err(e)) => Err(WireError::Stream(e)),
            None => Err(WireError::Closed),
        }
    }

    /// The stream below. Bytes that were read ahead are lost.
    pub fn into_inner(self) -> S {
        self.0.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn values_arrive_in_order_and_the_end_is_told_from_a_break() {
        let (a, b) = tokio::io::duplex(64);
        let (mut a, mut b) = (Wire::new(a), Wire::new(b));
        for n in [1u32, 2] {
            a.send(&n).await.expect("sends");
            assert_eq!(b.recv::<u32>().await.expect("receives"), n);
        }
        a.into_inner().write_all(&[0, 0, 0, 9, 1]).await.expect("half a frame");
        assert!(matches!(b.recv::<u32>().await, Err(WireError::Stream(_))));
    }

    #[tokio::test]
    async fn a_frame_longer_than_the_limit_is_an_error() {
        let (a, b) = tokio::io::duplex(64);
        let mut b = Wire::with_limit(b, 16);
        let mut a = a;
        a.write_all(&[0, 1, 0, 0]).await.expect("writes");
        assert!(matches!(b.recv::<u32>().await, Err(WireError::Stream(_))));
    }
}
