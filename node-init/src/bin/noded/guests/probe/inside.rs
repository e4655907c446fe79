//! The inside of the probe guest: its init, which does what every guest's must, and says so to its node.
//!
//! Whatever fails is its last line on the console, and so the reason that the node tells.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::Path,
    process::ExitCode,
    time::Duration,
};
use vma_proto::{Decoder, FromVma, MAX_FRAME, PROTO, Session, ToVma, encode};

/// The word on the command line that makes the program this guest's init; the gateway's address follows.
pub const WORD: &str = "probe-guest";
/// A file of the guest's image, and what it says.
pub const FILE: &str = "/etc/probe";
/// What the image has in [`FILE`].
pub const TEXT: &str = "of the image\n";

const CARD: &str = "/sys/class/net/eth0";
/// Nothing listens there on a node; what counts is that the node refuses it.
const DISCARD: u16 = 9;
/// The node is a bridge away.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Runs until the node lets go of the guest.
pub fn run(gateway: &str) -> ExitCode {
    let done = root().and_then(|()| network(gateway)).and_then(|()| talk());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("{what}");
            ExitCode::FAILURE
        }
    }
}

/// The image can be read, what is written over it lies in the writable layer, and both have the guest's own ids.
fn root() -> Result<(), String> {
    let failed = |action: &'static str| move |e: io::Error| format!("Cannot {action} {FILE}: {e}");
    let text = fs::read_to_string(FILE).map_err(failed("read"))?;
    let owner = fs::metadata(FILE).map_err(failed("look at"))?.uid();
    if (text.as_str(), owner) != (TEXT, 0) {
        return Err(format!("{FILE} has the text {text:?} and owner {owner}, expected {TEXT:?} and 0"));
    }
    fs::write(FILE, "changed").map_err(failed("write"))?;
    let text = fs::read_to_string(FILE).map_err(failed("read"))?;
    if text == "changed" { Ok(()) } else { Err(format!("{FILE} has the text {text:?} after it was written")) }
}

/// The card is there, and the node answers through the packet filter: a refusal is an answer.
fn network(gateway: &str) -> Result<(), String> {
    if !Path::new(CARD).exists() {
        return Err(format!("The guest has no {CARD}"));
    }
    let address: Ipv4Addr = gateway.parse().map_err(|_| format!("'{gateway}' is not the address of a gateway"))?;
    match TcpStream::connect_timeout(&SocketAddr::new(IpAddr::V4(address), DISCARD), ANSWERS_WITHIN) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) => Err(format!("The node does not answer at {gateway} on the guests' bridge: {e}")),
    }
}

/// Says Hello as any guest's agent, and answers until told to end.
fn talk() -> Result<(), String> {
    let failed = |e: io::Error| format!("Cannot talk to the node at {}: {e}", model::paths::GUEST_SOCKET);
    let mut stream = UnixStream::connect(model::paths::GUEST_SOCKET).map_err(failed)?;
    let version = env!("CARGO_PKG_VERSION").try_into().unwrap_or_default();
    send(&mut stream, &FromVma::Hello { proto: PROTO, version, session: Session::Stopped }).map_err(failed)?;
    let (mut decoder, mut byte) = (Decoder::default(), [0]);
    loop {
        stream.read_exact(&mut byte).map_err(failed)?;
        match decoder.push::<ToVma>(&byte).1 {
            Some(Ok(ToVma::PowerOff)) => return Ok(()),
            Some(Ok(ToVma::Ping(n))) => send(&mut stream, &FromVma::Pong(n)).map_err(failed)?,
            _ => {}
        }
    }
}

fn send(stream: &mut UnixStream, frame: &FromVma) -> io::Result<()> {
    let mut buffer = [0; MAX_FRAME];
    stream.write_all(encode(frame, &mut buffer).map_err(io::Error::other)?)
}
