//! One read buffer per thread instead of one per connection: thousands of idle connections cost no
//! buffer at all, and a byte that can be passed on at once is copied nowhere else.

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
    take: impl FnOnce(&mut Context<'_>, &[u8]) -> T,
) -> Poll<io::Result<T>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut buffer = ReadBuf::new(scratch);
        match Pin::new(from).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(take(cx, &[]))),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(take(cx, buffer.filled()))),
        }
    })
}
