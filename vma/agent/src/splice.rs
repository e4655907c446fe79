//! A session's bytes: from the node's socket to nxagent's port on loopback, and back.

use crate::proc::spawn;
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
};
use vma_proto::{FromVma, MAX_FRAME, Ticket};

/// Connects to the node once more and says which session this is.
pub fn dial(socket: &Path, ticket: Ticket) -> io::Result<UnixStream> {
    let mut node = UnixStream::connect(socket)?;
    let mut buffer = [0; MAX_FRAME];
    let frame = vma_proto::encode(&FromVma::Session(ticket), &mut buffer).map_err(io::Error::other)?;
    node.write_all(frame)?;
    Ok(node)
}

/// Waits for the client's first byte, then relays until both ends are done. nxagent's listener is
/// one-shot, so nothing is connected before a client is really there; `claimed` is called just before.
pub fn relay(mut node: UnixStream, port: u16, claimed: impl FnOnce()) -> io::Result<()> {
    let mut first = [0; 4096];
    let n = node.read(&mut first)?;
    if n == 0 {
        return Ok(());
    }
    claimed();
    let mut agent = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    agent.set_nodelay(true)?;
    agent.write_all(&first[..n])?;
    let (node2, agent2) = (node.try_clone()?, agent.try_clone()?);
    spawn("to-client", move || {
        forward(&agent2, &node2);
        // Each direction ends alone; a session half open would keep a dead client "connected".
        let _closed = node2.shutdown(Shutdown::Write);
    });
    forward(&node, &agent);
    // The other side may be gone already.
    let _closed = agent.shutdown(Shutdown::Write);
    Ok(())
}

/// Copies until end of file; an error is an end too, and told to the reader's peer by closing both ways.
fn forward<R: Close, W: Close>(from: &R, to: &W)
where
    for<'a> &'a R: Read,
    for<'a> &'a W: Write,
{
    let (mut reader, mut writer) = (from, to);
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) if writer.write_all(&buffer[..n]).is_ok() => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => {
                from.close();
                to.close();
                return;
            }
        }
    }
}

trait Close {
    fn close(&self);
}

impl Close for UnixStream {
    fn close(&self) {
        let _gone = self.shutdown(Shutdown::Both);
    }
}

impl Close for TcpStream {
    fn close(&self) {
        let _gone = self.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{net::TcpListener, sync::mpsc, thread};

    fn relayed() -> (UnixStream, TcpListener, mpsc::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let (client, node) = UnixStream::pair().expect("pair");
        let (tx, rx) = mpsc::channel();
        thread::spawn(move || relay(node, port, move || tx.send(()).expect("heard")));
        (client, listener, rx)
    }

    #[test]
    fn bytes_go_both_ways_and_each_end_closes_alone() {
        let (mut client, listener, claimed) = relayed();
        client.write_all(b"NXPROXY-3.5.0 ").expect("write");
        let (mut agent, _) = listener.accept().expect("accept");
        claimed.recv().expect("claimed");
        client.shutdown(Shutdown::Write).expect("half closed");
        let mut got = String::new();
        agent.read_to_string(&mut got).expect("read");
        assert_eq!(got, "NXPROXY-3.5.0 ");
        // The other way is still open.
        let big = vec![7; 300_000];
        let sent = big.clone();
        thread::spawn(move || agent.write_all(&sent));
        let mut back = vec![];
        client.read_to_end(&mut back).expect("read");
        assert!(back == big);
    }

    #[test]
    fn a_client_that_says_nothing_never_touches_the_listener() {
        let (client, listener, claimed) = relayed();
        drop(client);
        assert!(claimed.recv().is_err(), "claimed without a byte");
        listener.set_nonblocking(true).expect("flag");
        assert!(listener.accept().is_err());
    }
}
