//! A slow line between a machine and what listens on this host: so that a fetch takes long enough to be cut off.

use super::{LabError, free_port};
use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

/// Bytes that pass at a time.
const PORTION: usize = 16 << 10;

/// A port on loopback whose connections lead to another one. It lives as long as this process: who has the only handle
/// is the test.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    port: u16,
}

impl Line {
    /// To `port`, with this many bytes a second, for each connection, from there to the machine.
    pub fn to(port: u16, bytes_per_second: u64) -> Result<Self, LabError> {
        let own = free_port()?;
        let failed = |source| LabError::Connection { peer: format!("127.0.0.1:{own}"), source };
        let listener = TcpListener::bind(("127.0.0.1", own)).map_err(failed)?;
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Nobody there: the machine sees its connection close, as it does of a host that is up alone.
                if let Ok(far) = TcpStream::connect(("127.0.0.1", port)) {
                    join(near, far, bytes_per_second);
                }
            }
        });
        Ok(Self { port: own })
    }

    /// Its port on 127.0.0.1.
    pub fn port(self) -> u16 {
        self.port
    }
}

/// Passes bytes both ways until either side ends.
fn join(near: TcpStream, far: TcpStream, bytes_per_second: u64) {
    let (Ok(near_again), Ok(far_again)) = (near.try_clone(), far.try_clone()) else { return };
    thread::spawn(move || pass(near, far_again, u64::MAX));
    thread::spawn(move || pass(far, near_again, bytes_per_second));
}

/// Ends with the connection: whatever ended it, both sides see that.
fn pass(mut from: TcpStream, mut to: TcpStream, bytes_per_second: u64) {
    let _ended = relay(&mut from, &mut to, bytes_per_second);
    for stream in [&from, &to] {
        let _gone = stream.shutdown(Shutdown::Both);
    }
}

fn relay(from: &mut impl Read, to: &mut impl Write, bytes_per_second: u64) -> io::Result<()> {
    let (mut buffer, mut free) = ([0; PORTION], Instant::now());
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n])?;
        // What a line has not carried while nothing was sent it does not carry later.
        free = free.max(Instant::now()) + Duration::from_nanos(n as u64 * 1_000_000_000 / bytes_per_second);
        thread::sleep(free.saturating_duration_since(Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_as_slowly_as_was_asked_for_and_an_end_is_seen() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let port = listener.local_addr().expect("a port").port();
        let line = Line::to(port, 1 << 20).expect("a line");
        let mut near = TcpStream::connect(("127.0.0.1", line.port())).expect("connects");
        let (mut far, _) = listener.accept().expect("arrives");
        near.write_all(b"up").expect("sent");
        let mut up = [0; 2];
        far.read_exact(&mut up).expect("came");
        assert_eq!(&up, b"up");
        let began = Instant::now();
        far.write_all(&vec![7; 256 << 10]).expect("sent");
        drop(far);
        let mut down = Vec::new();
        near.read_to_end(&mut down).expect("came");
        assert_eq!(down, vec![7; 256 << 10]);
        assert!(began.elapsed() >= Duration::from_millis(200), "{:?}", began.elapsed());
    }
}
