//! Short commands, whole: input in, output out, bounded in time.

use super::{Child, Command, Exit, Stdio};
use crate::poll::{self, Interest};
use crate::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Output beyond this is read and thrown away: a command that talks without end must not fill memory.
const MAX_OUTPUT: usize = 1024 * 1024;

/// What a command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Program that ran.
    pub program: String,
    /// How it ended.
    pub exit: Exit,
    /// Standard output, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 1 MiB.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Itself when the command returned 0, else an error with the end of what it said.
    pub fn ok(self) -> Result<Self> {
        if self.exit.success() {
            return Ok(self);
        }
        let said = if self.stderr.is_empty() { &self.stdout } else { &self.stderr };
        Err(Error::Failed { said: tail(said), exit: self.exit, program: self.program })
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// The last 300 characters or so, on one line.
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(300)..]).into_owned();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end; kills it when the time is over. Blocks: in an async program call it where that is legal.
pub fn run(command: &mut Command, input: &[u8], within: Duration) -> Result<Output> {
    command.stdin(if input.is_empty() { Stdio::Null } else { Stdio::Pipe });
    command.stdout(Stdio::Pipe).stderr(Stdio::Pipe);
    let program = command.program.display().to_string();
    let mut child = command.spawn()?;
    let until = Instant::now() + within;
    let talked = talk(&mut child, input, until);
    let in_time = talked.is_ok() && wait_until(&child, until)?;
    if !in_time {
        child.kill()?;
    }
    let exit = child.wait()?;
    let (stdout, stderr) = talked?;
    if !in_time {
        return Err(Error::TooLate { object: program, seconds: within.as_secs() });
    }
    Ok(Output { program, exit, stdout, stderr })
}

fn wait_until(child: &Child, until: Instant) -> Result<bool> {
    poll::readable(child.as_fd(), Some(until.saturating_duration_since(Instant::now())))
}

/// Feeds and drains all pipes together, since a child may block on any of them.
fn talk(child: &mut Child, mut input: &[u8], until: Instant) -> Result<(Vec<u8>, Vec<u8>)> {
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while stdin.is_some() || stdout.is_some() || stderr.is_some() {
        let ready = wait_for_any(&stdin, &stdout, &stderr, until)?;
        if ready == [false; 3] {
            break;
        }
        if ready[0] {
            feed(&mut stdin, &mut input)?;
        }
        if ready[1] {
            drain(&mut stdout, &mut out)?;
        }
        if ready[2] {
            drain(&mut stderr, &mut err)?;
        }
    }
    Ok((out, err))
}

fn wait_for_any(
    stdin: &Option<File>,
    stdout: &Option<File>,
    stderr: &Option<File>,
    until: Instant,
) -> Result<[bool; 3]> {
    let all = [(stdin, Interest::Write), (stdout, Interest::Read), (stderr, Interest::Read)];
    let open: Vec<_> = all.iter().filter_map(|(f, i)| f.as_ref().map(|f| (f.as_fd(), *i))).collect();
    let ready = poll::wait(&open, Some(until.saturating_duration_since(Instant::now())))?;
    let mut ready = ready.into_iter();
    Ok(all.map(|(f, _)| f.is_some() && ready.next().unwrap_or(false)))
}

/// At most one pipe buffer's atomic part at a time, so that the write cannot block.
fn feed(stdin: &mut Option<File>, input: &mut &[u8]) -> Result<()> {
    let Some(pipe) = stdin else { return Ok(()) };
    let chunk = &input[..input.len().min(4096)];
    match pipe.write(chunk) {
        Ok(n) => *input = &input[n..],
        // It ended, or closed its input, without reading all: its status tells.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => *input = &[],
        Err(e) => return Err(Error::of("write to", "a command")(e)),
    }
    if input.is_empty() {
        *stdin = None;
    }
    Ok(())
}

fn drain(stream: &mut Option<File>, into: &mut Vec<u8>) -> Result<()> {
    let Some(pipe) = stream else { return Ok(()) };
    let mut buffer = [0; 8192];
    let n = pipe.read(&mut buffer).map_err(Error::of("read from", "a command"))?;
    into.extend_from_slice(&buffer[..n.min(MAX_OUTPUT.saturating_sub(into.len()))]);
    if n == 0 {
        *stream = None;
    }
    Ok(())
}
