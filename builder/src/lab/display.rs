//! A screen on this host (Xvfb) and the NX client that draws a session on it.

use super::{Keyboard, Lab, LabError, Picture, Process, Session, file, process::run};
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
    memory: PathBuf,
    process: Process,
}

impl Display {
    /// Starts Xvfb on a display number of its own choice.
    pub fn start(lab: &Lab, width: u32, height: u32) -> Result<Self, LabError> {
        let chosen = lab.path("xvfb.display");
        file("write", &chosen, |p| std::fs::write(p, b""))?;
        let memory = lab.path("xvfb");
        file("make", &memory, std::fs::create_dir_all)?;
        let mut command = Command::new("sh");
        // Xvfb writes the number it chose to a descriptor; the shell only opens that. Without -noreset the server
        // starts afresh whenever its last client leaves, and a client that comes at that moment is turned away.
        let script = r#"exec Xvfb -displayfd 3 -screen 0 "$1" -fbdir "$3" -noreset -nolisten tcp 3>"$2""#;
        command.args(["-c", script, "xvfb"]);
        command.arg(format!("{width}x{height}x24")).arg(&chosen).arg(&memory);
        let mut process = Process::start("Xvfb", lab.path("xvfb.log"), &mut command)?;
        let number = process.wait_until("the display", Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&chosen).ok()?;
            text.ends_with('\n').then(|| text.trim().parse().ok()).flatten()
        })?;
        Ok(Self { number, memory: memory.join("Xvfb_screen0"), process })
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

    /// What the screen shows at this moment. A look costs no program: it may be often.
    pub(super) fn look(&self) -> Result<Picture, LabError> {
        Picture::read(&self.memory)
    }

    /// Waits until the screen has not changed for a while: the picture is complete. `drawer` draws it.
    pub fn wait_settled(&self, drawer: &mut Process) -> Result<(), LabError> {
        let mut last = (self.look()?.colours(), Instant::now());
        drawer.wait_until("a picture that stays", Duration::from_secs(90), || {
            let colours = self.look().ok()?.colours();
            if colours != last.0 {
                last = (colours, Instant::now());
            }
            (last.1.elapsed() > SETTLED).then_some(())
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
const SETTLED: Duration = Duration::from_secs(1);

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
