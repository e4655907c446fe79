//! A person at a screen: opens a desktop, types into it, and reads what its programs send.

use super::{Client, Display, Keyboard, Lab, LabError, NxProxy, Shell};
use std::{path::PathBuf, time::Duration};

/// Session parameters as a client beside the node, on a screen of 1280x800, sends them.
pub(crate) const PARAMS: [(&str, &str); 5] = [
    ("qvd.client.os", "linux"),
    ("qvd.client.link", "local"),
    ("qvd.client.keyboard", "pc105/us"),
    ("qvd.client.geometry", "1280x800"),
    ("qvd.client.fullscreen", "1"),
];

/// How long an emulated desktop may take to draw itself, and to open a window.
const PATIENCE: Duration = Duration::from_secs(90);
/// More colours than a screen has that no desktop has drawn on.
const MANY: usize = 200;

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
        let drawn = || self.display.look().is_ok_and(|p| p.colours() > MANY).then_some(());
        proxy.process().wait_until("the desktop's picture", PATIENCE, drawn)?;
        Ok(proxy)
    }

    /// Opens a terminal on the desktop that `proxy` shows, and waits until its shell obeys.
    pub fn open_terminal(&self, proxy: &mut NxProxy) -> Result<(), LabError> {
        self.display.click(640, 300)?;
        let middle = || self.display.look().map(|p| p.part((540, 350), (200, 100)));
        let before = middle()?;
        self.display.ask_for_terminal()?;
        let changed = || middle().is_ok_and(|now| now != before).then_some(());
        proxy.process().wait_until("a terminal", PATIENCE, changed)?;
        self.shell().wait()
    }

    /// The shell in the terminal that has the focus.
    pub fn shell(&self) -> Shell<'_> {
        Shell::new(&self.display, self.failure.clone())
    }

    /// Types a line into the window that has the focus.
    pub fn type_line(&self, line: &str) -> Result<(), LabError> {
        self.shell().type_line(line)
    }

    /// Types a command into a terminal and returns what it prints.
    pub fn output_of(&self, command: &str) -> Result<String, LabError> {
        self.shell().output_of(command)
    }
}
