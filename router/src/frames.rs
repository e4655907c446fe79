//! Single frames on a stream: a 4-byte big-endian length, then a [`model::frame`] value.
//!
//! Used where raw bytes follow the frame on the same stream, so that nothing may be read beyond it.

use model::frame;
use serde::{Serialize, de::DeserializeOwned};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest of these frames; a grant with its parameters is far smaller.
pub const MAX: usize = 256 * 1024;

/// The bytes of one frame with its length.
pub fn pack<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let body = frame::encode(value).map_err(invalid)?;
    let length = u32::try_from(body.len()).map_err(invalid)?;
    Ok([&length.to_be_bytes()[..], &body].concat())
}

/// The length that 4 bytes announce, if it is legal.
pub fn length(prefix: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > MAX { Err(invalid(frame::FrameError::TooLong(length))) } else { Ok(length) }
}

/// The value in a frame's bytes.
pub fn unpack<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    frame::decode(body).map_err(invalid)
}

/// Sends one frame.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    to.write_all(&pack(value)?).await?;
    to.flush().await
}

/// Receives one frame and not a byte more.
pub async fn read<T: DeserializeOwned>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix).await?;
    let mut body = vec![0; length(prefix)?];
    from.read_exact(&mut body).await?;
    unpack(&body)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
