//! `vma bridge XVNC NXPROXY DISPLAY PORT GEOMETRY XAUTHORITY [resumed]`, with the session's connection as standard input:
//! runs as the user and lasts as long as the connection and nxagent both do.

use super::{
    COOKIE, cookie,
    wm::{self, Blanks},
    x11::Display,
};
use crate::proc;
use anyhow::{Context, ensure};
use std::{
    ffi::OsString,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::mpsc::{self, Sender},
};

struct Plan {
    xvnc: PathBuf,
    nxproxy: PathBuf,
    display: u16,
    port: u16,
    geometry: String,
    xauthority: PathBuf,
    resumed: bool,
}

/// The word that says that the session had a display before.
pub const RESUMED: &str = "resumed";

/// Runs the bridge to its end.
pub fn main(args: &[OsString]) -> anyhow::Result<ExitCode> {
    let plan = plan(args).context("Usage: vma bridge XVNC NXPROXY DISPLAY PORT GEOMETRY XAUTHORITY [resumed]")?;
    let (end, ended) = mpsc::channel();
    let mut server = Guard(plan.xvnc().spawn().with_context(|| format!("Cannot run {}", plan.xvnc.display()))?);
    wait_ready(&mut server.0).context("The X server does not start")?;
    let mut display =
        Display::open(plan.display, COOKIE, &cookie(&plan.xauthority)?).context("Cannot use the display")?;
    display.manage().context("Cannot manage the display")?;
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").context("XDG_RUNTIME_DIR is not set")?;
    let blanks = Blanks::in_folder(Path::new(&runtime));
    watch(end.clone(), "display", move || wm::serve(&mut display, &blanks, plan.resumed).to_string());
    let client = plan.nxproxy().spawn().with_context(|| format!("Cannot run {}", plan.nxproxy.display()))?;
    let client = Guard(client);
    let proxy = nix::unistd::Pid::from_raw(client.0.id() as i32);
    watch(end, "nxproxy", move || gone(proxy));
    let why = ended.recv()?;
    tracing::info!(why, "The bridge ends");
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &[OsString]) -> Option<Plan> {
    let (args, resumed) = match args.split_last()? {
        (last, rest) if last == RESUMED => (rest, true),
        _ => (args, false),
    };
    let [xvnc, nxproxy, display, port, geometry, xauthority] = args else { return None };
    Some(Plan {
        xvnc: xvnc.into(),
        nxproxy: nxproxy.into(),
        display: display.to_str()?.parse().ok()?,
        port: port.to_str()?.parse().ok()?,
        geometry: geometry.to_str()?.to_owned(),
        xauthority: xauthority.into(),
        resumed,
    })
}

impl Plan {
    /// Ends by itself when the connection does. Keys go by their place, and nxagent knows the layout.
    fn xvnc(&self) -> Command {
        let mut command = Command::new(&self.xvnc);
        command.arg(format!(":{}", self.display)).args(["-inetd", "-geometry", &self.geometry, "-depth", "24"]);
        command.args(["-SecurityTypes", "None", "-nolisten", "tcp", "-desktop", "Roost", "-RawKeyboard=1"]);
        command.args(["-extension", "GLX", "-displayfd", "1", "-auth"]).arg(&self.xauthority);
        command.stdin(Stdio::inherit()).stdout(Stdio::piped());
        command
    }

    fn nxproxy(&self) -> Command {
        let mut command = Command::new(&self.nxproxy);
        command.arg("-S").arg(format!("nx/nx,connect=tcp:127.0.0.1:{},retry=5:{}", self.port, self.display));
        command.stdin(Stdio::null());
        command
    }
}

/// The server writes the display's number once it takes clients.
fn wait_ready(server: &mut Child) -> anyhow::Result<()> {
    let stdout = server.stdout.take().context("It has no output")?;
    let mut line = String::new();
    let n = BufReader::new(stdout).read_line(&mut line).context("Cannot read its output")?;
    ensure!(n > 0, "it ended, and said why in its log");
    Ok(())
}

fn watch(end: Sender<String>, what: &'static str, work: impl FnOnce() -> String + Send + 'static) {
    proc::spawn(what, move || {
        let why = format!("{what}: {}", work());
        // The other one may have ended first.
        let _unheard = end.send(why);
    });
}

/// Waits for the end of a child without reaping it, so that its number stays its own.
fn gone(pid: nix::unistd::Pid) -> String {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let waited = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    waited.map_or_else(|error| error.to_string(), |status| format!("{status:?}"))
}

/// Ends with this program. nxproxy asked in order would take seconds more, in which the session is still connected.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // One that has ended already is what is wanted.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_listens_nowhere_and_keeps_strangers_out() {
        let args = ["/x", "/n", "101", "4100", "800x600", "/run/vma/xauthority"].map(OsString::from);
        let command = plan(&args).expect("a plan").xvnc();
        let words: Vec<_> = command.get_args().filter_map(|arg| arg.to_str()).collect();
        assert!(words.windows(2).any(|pair| pair == ["-auth", "/run/vma/xauthority"]), "{words:?}");
        assert!(words.contains(&"-inetd") && !words.contains(&"-ac"), "{words:?}");
        assert!(plan(&args[1..]).is_none());
        assert_eq!(plan(&args).expect("a plan").nxproxy, PathBuf::from("/n"));
        let again = [&args[..], &[OsString::from(RESUMED)]].concat();
        assert!(plan(&again).expect("a plan").resumed && !plan(&args).expect("a plan").resumed);
    }
}
