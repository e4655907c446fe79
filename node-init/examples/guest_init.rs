//! Init and agent of the guests in `noded`'s tests: speaks the real protocol, obeys simple commands.
//!
//! A session's bytes are lines: `read PATH` answers with the file, `write PATH TEXT` and `replace DIR`
//! (removes it with all in it and makes it anew) answer with `ok`; an error answers with itself. An answer ends with a zero byte.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};
use vma_proto::{Decoder, FromVma, MAX_FRAME, PROTO, Session, Ticket, ToVma, encode};

const SOCKET: &str = "/run/roost/vma.sock";

fn main() {
    println!("the guest is up");
    if fs::exists("/etc/mute").unwrap_or(false) {
        println!("and mute");
        loop {
            thread::sleep(Duration::from_secs(60));
        }
    }
    loop {
        match control() {
            Ok(true) => return,
            Ok(false) => {}
            Err(e) => println!("control connection: {e}"),
        }
        // A real agent backs off; here the node's daemon is back in no time.
        thread::sleep(Duration::from_millis(20));
    }
}

/// One control connection; true when the guest is to end.
fn control() -> io::Result<bool> {
    let mut stream = UnixStream::connect(SOCKET)?;
    let version = "0".try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    send(&mut stream, &FromVma::Hello { proto: PROTO, version, session: Session::Stopped })?;
    let (mut decoder, mut byte) = (Decoder::default(), [0]);
    loop {
        stream.read_exact(&mut byte)?;
        match decoder.push::<ToVma>(&byte).1 {
            Some(Ok(ToVma::PowerOff)) => return Ok(true),
            Some(Ok(ToVma::Ping(n))) => send(&mut stream, &FromVma::Pong(n))?,
            Some(Ok(ToVma::Open(open))) => {
                send(&mut stream, &FromVma::Opened { ticket: open.ticket, resumed: false })?;
                let ticket = open.ticket;
                thread::spawn(move || session(ticket));
            }
            _ => {}
        }
    }
}

fn session(ticket: Ticket) -> io::Result<()> {
    let mut stream = UnixStream::connect(SOCKET)?;
    send(&mut stream, &FromVma::Session(ticket))?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let answer = obey(&line?).unwrap_or_else(|e| e.to_string().into_bytes());
        stream.write_all(&[&answer[..], b"\0"].concat())?;
    }
    Ok(())
}

fn obey(line: &str) -> io::Result<Vec<u8>> {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["read", path] => return fs::read(path),
        ["write", path, text] => fs::write(path, text)?,
        ["replace", dir] => fs::remove_dir_all(dir).and_then(|()| fs::create_dir(dir))?,
        _ => return Err(io::Error::other(format!("what is '{line}'?"))),
    }
    Ok(b"ok".to_vec())
}

fn send(stream: &mut UnixStream, frame: &FromVma) -> io::Result<()> {
    let mut buffer = [0; MAX_FRAME];
    stream.write_all(encode(frame, &mut buffer).map_err(io::Error::other)?)
}
