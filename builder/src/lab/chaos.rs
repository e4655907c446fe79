//! Faults in a running machine, asked for by the port that a machine booted with [`Boot::chaos`](super::Boot::chaos) has.

use super::LabError;
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// How long PID 1 may take to answer: the port's driver is loaded after Ready, which a busy host can draw out.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long a panic takes at most from its request.
const PANICS: Duration = Duration::from_secs(10);

/// A conversation with PID 1. One at a time.
#[derive(Debug)]
pub struct Chaos {
    peer: String,
    reader: BufReader<UnixStream>,
}

impl Chaos {
    pub(super) fn connect(socket: &Path) -> Result<Self, LabError> {
        let peer = socket.display().to_string();
        let failed = |source| LabError::Connection { peer: peer.clone(), source };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Self { reader: BufReader::new(stream), peer })
    }

    /// PIDs of the processes of this name, those in guests included.
    pub fn pids(&mut self, name: &str) -> Result<Vec<u32>, LabError> {
        self.ask(&format!("pids {name}"))
    }

    /// Kills (SIGKILL) the processes of this name; PIDs of those that were hit.
    pub fn kill(&mut self, name: &str) -> Result<Vec<u32>, LabError> {
        self.ask(&format!("kill {name}"))
    }

    /// Stops (SIGSTOP) the processes of this name.
    pub fn stop(&mut self, name: &str) -> Result<Vec<u32>, LabError> {
        self.ask(&format!("stop {name}"))
    }

    /// Makes PID 1 hang.
    pub fn hang(&mut self) -> Result<(), LabError> {
        self.ask("hang").map(drop)
    }

    /// Makes the kernel panic. Nobody is left to answer.
    pub fn panic(&mut self) -> Result<(), LabError> {
        // Somebody listens: only then does silence mean what it should.
        self.pids("noded")?;
        let failed = |source| LabError::Connection { peer: self.peer.clone(), source };
        let stream = self.reader.get_mut();
        stream.write_all(b"panic\n").and_then(|()| stream.set_read_timeout(Some(PANICS))).map_err(failed)?;
        // What is on its way is lost when the port is closed too soon.
        let mut nothing = String::new();
        let _silence = self.reader.read_line(&mut nothing);
        Ok(())
    }

    /// The end of a file, as the first process of this name sees it; or in words why there is none.
    pub fn file(&mut self, name: &str, path: &str) -> Result<String, LabError> {
        let answer = self.line(&format!("file {name} {path}"))?;
        serde_json::from_str(&answer).map_err(|_| self.unlike(&answer, "a file's text"))
    }

    fn ask(&mut self, line: &str) -> Result<Vec<u32>, LabError> {
        let answer = self.line(line)?;
        let pids: Result<Vec<u32>, _> = answer.split_whitespace().map(str::parse).collect();
        pids.map_err(|_| self.unlike(&answer, "PIDs"))
    }

    fn line(&mut self, line: &str) -> Result<String, LabError> {
        let failed = |source| LabError::Connection { peer: self.peer.clone(), source };
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        let mut answer = String::new();
        self.reader.read_line(&mut answer).map_err(failed)?;
        Ok(answer)
    }

    fn unlike(&self, found: &str, expected: &str) -> LabError {
        LabError::Answer { peer: self.peer.clone(), found: found.trim().to_owned(), expected: expected.to_owned() }
    }
}
