//! QEMU's control socket: the few commands that the lab needs.

use super::LabError;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// An open control socket of one machine.
#[derive(Debug)]
pub struct Qmp {
    peer: String,
    reader: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects and leaves negotiation mode.
    pub fn connect(socket: &Path) -> Result<Self, LabError> {
        let peer = socket.display().to_string();
        let failed = |source| LabError::Connection { peer: peer.clone(), source };
        let stream = UnixStream::connect(socket).map_err(failed)?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).map_err(failed)?;
        let mut qmp = Self { peer: peer.clone(), reader: BufReader::new(stream) };
        qmp.read()?;
        qmp.command("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result; events that come meanwhile are passed over.
    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value, LabError> {
        let line = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        let sent = self.reader.get_mut().write_all(line.as_bytes());
        sent.map_err(|source| LabError::Connection { peer: self.peer.clone(), source })?;
        loop {
            let answer = self.read()?;
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            if answer.get("error").is_some() {
                let expected = format!("success of {name}");
                return Err(LabError::Answer { peer: self.peer.clone(), found: answer.to_string(), expected });
            }
        }
    }

    /// Waits for an event of this name and returns its data. Only what comes after the connection was made is seen.
    pub fn wait_event(&mut self, name: &str, limit: Duration) -> Result<Value, LabError> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let failed = |source| LabError::Connection { peer: self.peer.clone(), source };
            self.reader.get_ref().set_read_timeout(Some(left)).map_err(failed)?;
            let message = self.read().map_err(|e| match e {
                LabError::Connection { peer, source } if source.kind() == ErrorKind::WouldBlock => {
                    LabError::Timeout { what: format!("QEMU's event {name}"), limit, log: peer.into() }
                }
                other => other,
            })?;
            if message["event"] == name {
                return Ok(message["data"].clone());
            }
        }
    }

    fn read(&mut self) -> Result<Value, LabError> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        read.map_err(|source| LabError::Connection { peer: self.peer.clone(), source })?;
        serde_json::from_str(&line).map_err(|_| LabError::Answer {
            peer: self.peer.clone(),
            found: line.trim().to_owned(),
            expected: "a line of JSON".to_owned(),
        })
    }
}
