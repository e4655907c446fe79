//! A person at a screen: opens a desktop, types into it, and reads what its programs send.

use super::{Client, Display, Lab, LabError, NxProxy, display::Looks, store::HOST_IN_MACHINE};
use std::{
    io::{self, Read},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

/// Session parameters as a client on a screen of 1280x800 sends them.
pub(crate) const PARAMS: [(&str, &str); 4] = [
    ("qvd.client.os", "linux"),
    ("qvd.client.keyboard", "pc105/us"),
    ("qvd.client.geometry", "1280x800"),
    ("qvd.client.fullscreen", "1"),
];

/// How long typed words may take until their output arrives.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a shell gets for one word before it is typed again: an emulated one takes a second or two.
const SHELL_PAUSE: Duration = Duration::from_secs(4);

/// A screen of 1280x800 and whoever sits before it.
#[derive(Debug)]
pub struct Desk {
    lab: Lab,
    display: Display,
    failure: PathBuf,
}

impl Desk {
    /// Turns the screen on. `failure` is where the picture is saved when something that should come does not.
    pub fn new(lab: &Lab, failure: PathBuf) -> Result<Self, LabError> {
        Ok(Self { lab: lab.clone(), display: Display::start(lab, 1280, 800)?, failure })
    }

    /// Its screen.
    pub fn display(&self) -> &Display {
        &self.display
    }

    /// Opens the desktop on the screen and waits for its picture.
    pub fn open(&self, client: &Client, vm: u32) -> Result<NxProxy, LabError> {
        self.open_with(client, vm, "")
    }

    /// The same; sound that the desktop plays goes to this port of this host. The VM needs `vma.audio.enable=1`.
    pub fn open_with_sound(&self, client: &Client, vm: u32, port: u16) -> Result<NxProxy, LabError> {
        self.open_with(client, vm, &format!(",media={port}"))
    }

    fn open_with(&self, client: &Client, vm: u32, options: &str) -> Result<NxProxy, LabError> {
        let (_, session) = client.session(vm, &PARAMS)?;
        let mut proxy = NxProxy::start(&self.lab, &self.display, session, options)?;
        // Wallpaper, panel and icons have many colours, a bare root window few.
        self.display.wait_settled("the desktop's picture", |colours| colours > 200, proxy.process())?;
        Ok(proxy)
    }

    /// Opens a terminal on the desktop that `proxy` shows, and waits until its shell obeys.
    pub fn open_terminal(&self, proxy: &mut NxProxy) -> Result<(), LabError> {
        self.display.click(640, 300)?;
        let before = self.display.colours()?;
        self.display.key("super+Return")?;
        let mut looks = Looks::default();
        let changed = || (looks.due() && self.display.colours().is_ok_and(|c| c != before)).then_some(());
        proxy.process().wait_until("a terminal", PATIENCE, changed)?;
        self.wait_for_shell()
    }

    /// Keys that come before the shell reads are lost, so a word is typed until the shell has obeyed it.
    fn wait_for_shell(&self) -> Result<(), LabError> {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.command_to_here("clear; :")?;
            match accept(&answer, SHELL_PAUSE) {
                Err(error) if Instant::now() > end => return Err(self.photographed(error)),
                Err(_) => self.display.key("ctrl+u")?,
                Ok(_) => return Ok(()),
            }
        }
    }

    /// Types a line into the window that has the focus.
    pub fn type_line(&self, line: &str) -> Result<(), LabError> {
        self.display.type_text(&format!("{line}\n"))
    }

    /// Types a command into a terminal and returns what it prints. Its output comes to this host through the
    /// node's NAT, not through the session.
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
        let _shown = self.display.screenshot(&self.failure);
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
