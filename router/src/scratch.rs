//! One read buffer per thread instead of one per connection: thousands of idle connections cost no
//! buffer at all, and a byte that can be passed on at once is copied nowhere else.

use crate::ws::frame::HEAD;
use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, ReadBuf};

/// Bytes read at once.
pub const SIZE: usize = 64 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SIZE].into_boxed_slice());
}

/// Reads once and hands the bytes (none at the end of the stream) to `take`. A peer that ends without
/// TLS's goodbye, or resets a connection that is over, has ended like any other.
pub fn poll_read<R: AsyncRead + Unpin, T>(
    from: &mut R,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut Context<'_>, &mut [u8]) -> T,
) -> Poll<io::Result<T>> {
    read(from, cx, 0, |cx, bytes, _| take(cx, bytes))
}

/// The same, with [`HEAD`] bytes of room before the bytes read, whose number comes with them.
pub fn poll_read_behind<R: AsyncRead + Unpin, T>(
    from: &mut R,
    cx: &mut Context<'_>,
    take: impl FnOnce(&mut Context<'_>, &mut [u8], usize) -> T,
) -> Poll<io::Result<T>> {
    read(from, cx, HEAD, take)
}

fn read<R: AsyncRead + Unpin, T>(
    from: &mut R,
    cx: &mut Context<'_>,
    room: usize,
    take: impl FnOnce(&mut Context<'_>, &mut [u8], usize) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(&mut scratch[room..]);
        let length = match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => 0,
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Ready(Ok(())) => buffer.filled().len(),
        };
        Poll::Ready(Ok(take(cx, &mut scratch[..room + length], length)))
    })
}
