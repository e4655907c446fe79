//! The user's files for a browser: `vma files`, as the session's user, in the home, with the connection as
//! standard input. It serves the one request of [`vma_proto::files`] and ends.

mod home;
#[cfg(test)]
mod tests;

use anyhow::Context;
use home::{Home, No};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    process::ExitCode,
    time::Duration,
};
use vma_proto::{
    Decoder, MAX_FRAME,
    files::{FromFiles, ToFiles, Why, legal, legal_name},
};

/// A peer silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
const BUFFER: usize = 128 * 1024;

/// Serves the request on standard input, in the working directory.
pub fn main() -> anyhow::Result<ExitCode> {
    let connection = io::stdin().as_fd().try_clone_to_owned().context("Cannot copy the connection")?;
    let home = Home::open(".").context("Cannot open the home")?;
    serve(UnixStream::from(connection), &home).context("The connection of a transfer broke")?;
    Ok(ExitCode::SUCCESS)
}

/// Tells a connection that there are too many.
pub fn busy(mut connection: UnixStream) -> io::Result<()> {
    say(&mut connection, &refused(&No { why: Why::Busy, reason: "too many transfers at a time".into() }))
}

fn serve(mut connection: UnixStream, home: &Home) -> io::Result<()> {
    connection.set_read_timeout(Some(SILENCE))?;
    connection.set_write_timeout(Some(SILENCE))?;
    let Some(request) = request(&mut connection)? else { return Ok(()) };
    let done = match checked(&request) {
        Ok(()) => answer(&mut connection, home, &request)?,
        Err(no) => Err(no),
    };
    match done {
        Ok(()) => Ok(()),
        Err(no) => {
            tracing::warn!(why = ?no.why, reason = no.reason, "Refused a transfer");
            say(&mut connection, &refused(&no))
        }
    }
}

/// Byte by byte: what follows the frame is a file's. None when the peer went without a word.
fn request(connection: &mut UnixStream) -> io::Result<Option<ToFiles>> {
    let (mut decoder, mut byte) = (Box::<Decoder>::default(), [0]);
    for _ in 0..MAX_FRAME {
        if connection.read(&mut byte)? == 0 {
            return Ok(None);
        }
        if let (_, Some(frame)) = decoder.push(&byte) {
            return frame.map(Some).map_err(io::Error::other);
        }
    }
    Err(io::Error::other("a first frame without end"))
}

fn checked(request: &ToFiles) -> Result<(), No> {
    let good = match request {
        ToFiles::List { folder } => legal(folder),
        ToFiles::Get { file, .. } => legal(file) && !file.is_empty(),
        ToFiles::Have { .. } => true,
        ToFiles::Put { folder, name, .. } => legal(folder) && legal_name(name),
    };
    if good { Ok(()) } else { Err(No { why: Why::BadName, reason: "a path or name that is not legal".into() }) }
}

fn answer(connection: &mut UnixStream, home: &Home, request: &ToFiles) -> io::Result<Result<(), No>> {
    match request {
        ToFiles::List { folder } => list(connection, home, folder),
        ToFiles::Get { file, offset } => get(connection, home, file, *offset),
        ToFiles::Have { id } => match home.done(id).and_then(|done| Ok((done, home.kept(id)?))) {
            Ok((Some(done), _)) => say_done(connection, done).map(Ok),
            Ok((None, offset)) => say(connection, &FromFiles::Ready { offset, size: 0, modified: 0 }).map(Ok),
            Err(no) => Ok(Err(no)),
        },
        ToFiles::Put { id, folder, name, offset, total } => {
            match home.done(id) {
                Ok(Some(done)) => return say_done(connection, done).map(Ok),
                Ok(None) => {}
                Err(no) => return Ok(Err(no)),
            }
            let upload = match home.upload(id, *offset, *total) {
                Ok(upload) => upload,
                Err(no) => return Ok(Err(no)),
            };
            say(connection, &FromFiles::Ready { offset: *offset, size: 0, modified: 0 })?;
            match collect(connection, &upload, total - offset)? {
                Ok(true) => {}
                // Cut off: what came stays for the next try.
                Ok(false) => return Ok(Ok(())),
                Err(no) => return Ok(Err(no)),
            }
            match home.finish(id, &upload, folder, name) {
                Ok(name) => say_done(connection, (name, *total)).map(Ok),
                Err(no) => Ok(Err(no)),
            }
        }
    }
}

fn say_done(connection: &mut UnixStream, (name, size): (String, u64)) -> io::Result<()> {
    say(connection, &FromFiles::Done { name: name.as_str().try_into().unwrap_or_default(), size })
}

fn list(connection: &mut UnixStream, home: &Home, folder: &str) -> io::Result<Result<(), No>> {
    let (entries, more) = match home.list(folder) {
        Ok(listed) => listed,
        Err(no) => return Ok(Err(no)),
    };
    let mut out = io::BufWriter::new(connection);
    for entry in &entries {
        say(&mut out, entry)?;
    }
    say(&mut out, &FromFiles::End { more })?;
    out.flush().map(Ok)
}

fn get(connection: &mut UnixStream, home: &Home, path: &str, offset: u64) -> io::Result<Result<(), No>> {
    let (file, size, modified) = match home.read(path, offset) {
        Ok(opened) => opened,
        Err(no) => return Ok(Err(no)),
    };
    say(connection, &FromFiles::Ready { offset, size, modified })?;
    let (mut rest, mut buffer) = (file.take(size - offset), vec![0; BUFFER]);
    loop {
        // A file that shrinks ends early, and so does the connection.
        let n = rest.read(&mut buffer)?;
        if n == 0 {
            return Ok(Ok(()));
        }
        connection.write_all(&buffer[..n])?;
    }
}

/// Writes so many bytes to the upload. False when the peer ended before.
fn collect(connection: &mut UnixStream, mut upload: &File, total: u64) -> io::Result<Result<bool, No>> {
    let (mut rest, mut buffer) = (total, vec![0; BUFFER]);
    while rest > 0 {
        let room = buffer.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
        let n = connection.read(&mut buffer[..room])?;
        if n == 0 {
            return Ok(Ok(false));
        }
        if let Err(error) = upload.write_all(&buffer[..n]) {
            return Ok(Err(No::of("write the upload")(error)));
        }
        rest -= n as u64;
    }
    Ok(Ok(true))
}

fn refused(no: &No) -> FromFiles {
    FromFiles::Refused { why: no.why, reason: crate::agent::clipped(&no.reason) }
}

fn say(connection: &mut impl Write, message: &FromFiles) -> io::Result<()> {
    let mut buffer = [0; MAX_FRAME];
    connection.write_all(vma_proto::encode(message, &mut buffer).map_err(io::Error::other)?)
}
