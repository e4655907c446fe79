//! A screen on this host (Xvfb) and the NX client that draws a session on it.

use super::{Keyboard, Lab, LabError, Process, Session, file, process::run};
use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// A virtual screen.
#[derive(Debug)]
pub struct Display {
    number: u32,
    process: Process,
}

impl Display {
    /// Starts Xvfb on a display number of its own choice.
    pub fn start(lab: &Lab, width: u32, height: u32) -> Result<Self, LabError> {
        let chosen = lab.path("xvfb.display");
        file("write", &chosen, |p| std::fs::write(p, b""))?;
        let mut command = Command::new("sh");
        // Xvfb writes the number it chose to a descriptor; the shell only opens that. Without -noreset the server
        // starts afresh whenever its last client leaves, and a client that comes at that moment is turned away.
        command.args(["-c", "exec Xvfb -displayfd 3 -screen 0 \"$1\" -noreset -nolisten tcp 3>\"$2\"", "xvfb"]);
        command.arg(format!("{width}x{height}x24")).arg(&chosen);
        let mut process = Process::start("Xvfb", lab.path("xvfb.log"), &mut command)?;
        let number = process.wait_until("the display", Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&chosen).ok()?;
            text.ends_with('\n').then(|| text.trim().parse().ok()).flatten()
        })?;
        Ok(Self { number, process })
    }

    /// Its name, such as `:1`.
    pub fn name(&self) -> String {
        format!(":{}", self.number)
    }

    /// A command that uses this display.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("DISPLAY", self.name()).env_remove("XAUTHORITY");
        command
    }

    /// Presses a key or a combination, by xdotool's names.
    pub fn key(&self, keys: &str) -> Result<(), LabError> {
        run(self.command("xdotool").args(["key", "--clearmodifiers", keys])).map(drop)
    }

    /// Clicks at a point of the screen.
    pub fn click(&self, x: u32, y: u32) -> Result<(), LabError> {
        let (x, y) = (x.to_string(), y.to_string());
        run(self.command("xdotool").args(["mousemove", &x, &y, "click", "1"])).map(drop)
    }

    /// Writes what the screen shows to a PNG file.
    pub fn screenshot(&self, png: &Path) -> Result<(), LabError> {
        run(self.command("import").args(["-window", "root"]).arg(png)).map(drop)
    }

    /// How many different colours the screen shows: a blank screen has one.
    pub fn colours(&self) -> Result<u32, LabError> {
        let out = run(self.command("import").args(["-window", "root", "-format", "%k", "info:-"]))?;
        Ok(out.trim().parse().unwrap_or(0))
    }

    /// Waits until the number of colours is as wanted and has not changed for a while: the picture is complete.
    /// `drawer` is the program that draws it.
    pub fn wait_settled(&self, what: &str, wanted: impl Fn(u32) -> bool, drawer: &mut Process) -> Result<(), LabError> {
        let mut last = (0, Instant::now());
        let mut looks = Looks::default();
        drawer.wait_until(what, Duration::from_secs(90), || {
            let colours = looks.due().then(|| self.colours().ok()).flatten()?;
            if colours != last.0 {
                last = (colours, Instant::now());
            }
            (wanted(colours) && last.1.elapsed() > SETTLED).then_some(())
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Keyboard for Display {
    fn type_text(&self, text: &str) -> Result<(), LabError> {
        for (nth, line) in text.split('\n').enumerate() {
            if nth > 0 {
                self.key("Return")?;
            }
            if !line.is_empty() {
                // A key every 40 ms: an emulated guest drops keys that come faster.
                run(self.command("xdotool").args(["type", "--delay", "40", line]))?;
            }
        }
        Ok(())
    }

    fn clear_line(&self) -> Result<(), LabError> {
        self.key("ctrl+u")
    }

    fn ask_for_terminal(&self) -> Result<(), LabError> {
        self.key("super+Return")
    }

    fn picture(&self, png: &Path) -> Result<(), LabError> {
        self.screenshot(png)
    }
}

/// A picture that has not changed for so long is complete, also on an emulated machine.
const SETTLED: Duration = Duration::from_secs(2);

/// When to look at the screen: seldom, since a look takes processor time from the machine that draws.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last: Option<Instant>,
}

impl Looks {
    const PAUSE: Duration = Duration::from_millis(500);

    /// True when the last look is long enough ago; this is the next one then.
    pub(super) fn due(&mut self) -> bool {
        let due = self.last.is_none_or(|at| at.elapsed() >= Self::PAUSE);
        if due {
            self.last = Some(Instant::now());
        }
        due
    }
}

/// An NX client that draws a session on a display.
#[derive(Debug)]
pub struct NxProxy {
    process: Process,
}

impl NxProxy {
    /// Connects `nxproxy -S` on `display` to the session, with more NX options (each begins with a comma).
    pub fn start(lab: &Lab, display: &Display, session: Box<Session>, options: &str) -> Result<Self, LabError> {
        let peer = || "the NX client".to_owned();
        let listener =
            TcpListener::bind("127.0.0.1:0").map_err(|source| LabError::Connection { peer: peer(), source })?;
        let address = listener.local_addr().map_err(|source| LabError::Connection { peer: peer(), source })?;
        session.relay_to(listener).map_err(|source| LabError::Connection { peer: peer(), source })?;
        let home: PathBuf = lab.path("nx");
        file("make", &home, std::fs::create_dir_all)?;
        let mut command = display.command("nxproxy");
        command.env("NX_HOME", &home).env("HOME", &home).arg("-S");
        command.arg(format!("nx/nx,connect=tcp:127.0.0.1:{},retry=5{options}:{}", address.port(), display.number));
        Ok(Self { process: Process::start("nxproxy", lab.path("nxproxy.log"), &mut command)? })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
