//! A shell in a terminal on a desktop, however the keys get there and whoever draws the screen.

use super::{LabError, store::HOST_IN_MACHINE};
use std::{
    io::{self, Read},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long typed words may take until their output arrives.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a shell gets for one word before it is typed again: an emulated one takes a second or two.
const PAUSE: Duration = Duration::from_secs(4);

/// Keys that reach the desktop, and a picture of what it shows.
pub trait Keyboard {
    /// Types text into the window that has the focus. A `\n` is Return.
    fn type_text(&self, text: &str) -> Result<(), LabError>;
    /// Ctrl-U: takes back what was typed on this line.
    fn clear_line(&self) -> Result<(), LabError>;
    /// Super-Return: the desktop opens a terminal.
    fn ask_for_terminal(&self) -> Result<(), LabError>;
    /// Writes what the screen shows to a PNG file.
    fn picture(&self, png: &Path) -> Result<(), LabError>;
}

/// The shell in the terminal that has the focus.
pub struct Shell<'a> {
    keys: &'a dyn Keyboard,
    failure: PathBuf,
}

impl<'a> Shell<'a> {
    /// `failure` is where the picture is saved when an answer does not come.
    pub fn new(keys: &'a dyn Keyboard, failure: PathBuf) -> Self {
        Self { keys, failure }
    }

    /// Opens a terminal and waits until its shell obeys.
    pub fn open(&self) -> Result<(), LabError> {
        self.keys.ask_for_terminal()?;
        self.wait()
    }

    /// Keys that come before the shell reads are lost, so a word is typed until the shell has obeyed it.
    pub fn wait(&self) -> Result<(), LabError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.command_to_here("clear; :")?;
            match accept(&answer, PAUSE) {
                Err(error) if Instant::now() > end => return Err(self.photographed(error)),
                Err(_) => self.keys.clear_line()?,
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Types a line.
    pub fn type_line(&self, line: &str) -> Result<(), LabError> {
        self.keys.type_text(&format!("{line}\n"))
    }

    /// Types a command and returns what it prints. Its output comes to this host through the node's NAT, not
    /// through the session.
    pub fn output_of(&self, command: &str) -> Result<String, LabError> {
        let answer = self.command_to_here(command)?;
        accept(&answer, PATIENCE).and_then(read).map_err(|error| self.photographed(error))
    }

    /// Types a command whose output comes to the listener that this returns.
    fn command_to_here(&self, command: &str) -> Result<TcpListener, LabError> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(broken)?;
        let port = listener.local_addr().map_err(broken)?.port();
        self.type_line(&format!("{command} > /dev/tcp/{HOST_IN_MACHINE}/{port}"))?;
        Ok(listener)
    }

    /// Saves what the screen shows, which tells more than the error; a picture that fails adds nothing to it.
    fn photographed(&self, error: LabError) -> LabError {
        let _shown = self.keys.picture(&self.failure);
        match error {
            LabError::Timeout { what, limit, .. } => LabError::Timeout { what, limit, log: self.failure.clone() },
            other => other,
        }
    }
}

fn broken(source: io::Error) -> LabError {
    LabError::Connection { peer: "the desktop's command".to_owned(), source }
}

/// The first connection to `listener`.
fn accept(listener: &TcpListener, limit: Duration) -> Result<TcpStream, LabError> {
    listener.set_nonblocking(true).map_err(broken)?;
    let end = Instant::now() + limit;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return Ok(stream),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(broken(e)),
            Err(_) if Instant::now() > end => {
                let what = "an answer from the desktop's shell".to_owned();
                return Err(LabError::Timeout { what, limit, log: PathBuf::new() });
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn read(mut stream: TcpStream) -> Result<String, LabError> {
    let mut text = String::new();
    stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(PATIENCE))).map_err(broken)?;
    stream.read_to_string(&mut text).map_err(broken)?;
    Ok(text)
}
