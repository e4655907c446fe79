//! The programs of a session: nxagent, and behind its first client window manager and desktop.

use crate::{
    bridge, environment,
    error::{Error, Result},
    leftover,
    machine::Client,
    nxlog::{self, Line},
    options::{self, Tolerance},
    params::Params,
    proc::{self, Process},
    user::Account,
};
use rustix::process::Signal;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, PipeReader, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::mpsc,
    time::Duration,
};

/// nxagent's words kept in the log file, at most; it may show cookies, so the file is root's alone.
const LOG_LIMIT: u64 = 1 << 20;

/// How long the end of nxagent waits for the end of its output.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Where things are, and for which display.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The agent's own directory.
    pub run: PathBuf,
    /// nxagent.
    pub nxagent: PathBuf,
    /// What browsers need.
    pub bridge: bridge::Programs,
    /// Runs window manager and desktop, and ends when the user logs out.
    pub desktop: PathBuf,
    /// Number of the X display.
    pub display: u16,
}

/// What the programs of a session do. The number tells one run of nxagent from the next.
#[derive(Debug)]
pub enum Word {
    /// A line that means something, as it is.
    Log(u64, Line, String),
    /// nxagent ended.
    Exited(u64, String),
    /// The desktop ended, and how.
    DesktopEnded(u64, String),
}

/// One run of nxagent and its desktop.
#[derive(Debug)]
pub struct Running {
    /// Which run.
    pub run: u64,
    /// What its next client needs: one browser among its clients is enough.
    pub tolerance: Tolerance,
    agent: Process,
    desktop: Option<Process>,
}

impl Paths {
    /// The port nxagent listens on.
    pub fn port(&self) -> u16 {
        options::port(self.display)
    }

    /// Writes the options and the cookies, which nxagent reads now and at each hang-up.
    pub fn write_options(
        &self,
        account: &Account,
        params: &Params,
        client: Client,
        tolerance: Tolerance,
    ) -> Result<()> {
        match client {
            Client::Nx => bridge::no_cookie(&self.run)?,
            Client::Browser => bridge::new_cookie(&self.run, account)?,
        }
        let text = options::text(params, self.display, tolerance)
            .map_err(|bad| Error::call("use", "the options")(io::Error::other(bad)))?;
        let path = self.options();
        fs::write(&path, text).map_err(Error::file("write", &path))?;
        // The user's nxagent reads it; there is no secret in it.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(Error::file("set the mode of", path))
    }

    fn options(&self) -> PathBuf {
        self.run.join("nxagent.conf")
    }

    /// A display's lock and socket left by an nxagent that was killed keep the next one from starting.
    pub fn clear_display(&self, display: u16) {
        for stale in [format!("/tmp/.X{display}-lock"), format!("/tmp/.X11-unix/X{display}")] {
            match fs::remove_file(&stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => tracing::warn!(stale, %error, "Cannot remove"),
                _ => {}
            }
        }
    }
}

/// What the clients after this one need.
pub fn tolerance(client: Client) -> Tolerance {
    match client {
        Client::Nx => Tolerance::Safe,
        Client::Browser => Tolerance::Any,
    }
}

/// Runs nxagent as the user, listening for such a client; its words go to `words`.
pub fn start<W>(
    paths: &Paths,
    account: &Account,
    params: &Params,
    client: Client,
    run: u64,
    words: W,
) -> Result<Running>
where
    W: Fn(Word) + Clone + Send + 'static,
{
    paths.write_options(account, params, client, tolerance(client))?;
    paths.clear_display(paths.display);
    let nx_root = nx_root(account)?;
    let mut command = proc::as_user(account, &paths.nxagent);
    command.arg(format!(":{}", paths.display));
    command.args(["-ac", "-nolisten", "tcp", "-noreset", "-name", "Roost", "-D"]);
    command.arg("-options").arg(paths.options());
    command.arg("-display").arg(format!("nx/nx,options={}:{}", paths.options().display(), paths.display));
    command.envs(environment::of_session(account, params, paths.display, &nx_root));
    command.env("XAUTHORITY", bridge::xauthority(&paths.run));
    let (reader, writer) = io::pipe().map_err(Error::call("make", "a pipe"))?;
    let twin = writer.try_clone().map_err(Error::call("copy", "a pipe"))?;
    command.stdout(writer).stderr(twin);
    let (ended, (last, last_line)) = (words.clone(), mpsc::channel());
    let agent = Process::start(command, move |how| {
        // A child of nxagent may hold the pipe open behind it: then without its last line.
        let said = last_line.recv_timeout(LAST_WORDS).unwrap_or_default();
        ended(Word::Exited(run, format!("{how}: {said}")));
    })?;
    let log = paths.run.join("nxagent.log");
    proc::spawn("nxlog", move || {
        // Nobody waits for it when nxagent lives on with its output closed.
        let _unheard = last.send(pump(reader, &log, |line, text| words(Word::Log(run, line, text))));
    });
    leftover::note(&paths.run, agent.pid());
    Ok(Running { run, tolerance: tolerance(client), agent, desktop: None })
}

/// Made anew for each start of the guest, and gone with it; nxagent ends at once where it is missing.
pub fn nx_root(account: &Account) -> Result<PathBuf> {
    let path = account.runtime.join("nx");
    fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
    if !account.is_self {
        std::os::unix::fs::chown(&path, Some(account.uid), Some(account.gid))
            .map_err(Error::file("give away", &path))?;
    }
    Ok(path)
}

impl Running {
    /// Suspends, or resumes.
    pub fn hang_up(&self) -> Result<()> {
        self.agent.signal(Signal::HUP)
    }

    /// Asks nxagent to end.
    pub fn terminate(&self) -> Result<()> {
        self.agent.signal(Signal::TERM)
    }

    /// Ends nxagent.
    pub fn kill(&self) -> Result<()> {
        self.agent.signal(Signal::KILL)
    }

    /// Runs the desktop: legal once the first client is up, since the display answers nobody before.
    pub fn start_desktop<W>(&mut self, paths: &Paths, account: &Account, params: &Params, words: W) -> Result<()>
    where
        W: Fn(Word) + Send + 'static,
    {
        let run = self.run;
        let mut command = proc::as_user(account, &paths.desktop);
        command.envs(environment::of_session(account, params, paths.display, &nx_root(account)?));
        let log = account.runtime.join("desktop.log");
        command.stdout(log_for(&log, account)).stderr(log_for(&log, account));
        let desktop = Process::start(command, move |how| words(Word::DesktopEnded(run, how)))?;
        leftover::note(&paths.run, desktop.pid());
        self.desktop = Some(desktop);
        Ok(())
    }

    /// Clears away what outlived nxagent.
    pub fn sweep(&self) {
        proc::sweep(self.agent.pid());
        if let Some(desktop) = &self.desktop {
            proc::sweep(desktop.pid());
        }
    }
}

/// The user's own log of the session; without room for it the session goes on.
pub fn log_for(path: &Path, account: &Account) -> Stdio {
    // In the user's directory a link could lead anywhere.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_APPEND;
    let file = OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path);
    let Ok(file) = file else { return Stdio::null() };
    if !account.is_self && std::os::unix::fs::fchown(&file, Some(account.uid), Some(account.gid)).is_err() {
        return Stdio::null();
    }
    file.into()
}

/// Reads nxagent's words to their end, keeps them in the log and passes on those with a meaning.
/// Returns the last line.
fn pump(reader: PipeReader, log: &Path, said: impl Fn(Line, String)) -> String {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(log);
    let (mut written, mut last) = (0, String::new());
    for line in BufReader::new(reader).split(b'\n').map_while(io::Result::ok) {
        let text = String::from_utf8_lossy(&line).into_owned();
        if let Ok(file) = &mut file {
            written = keep(file, &text, written);
        }
        if let Some(line) = nxlog::parse(&text) {
            said(line, text.clone());
        }
        last = text;
    }
    last
}

/// Begins the log again when it is full: the last words are the ones that matter.
fn keep(file: &mut File, text: &str, written: u64) -> u64 {
    use std::io::Seek;
    let mut written = written;
    if written + text.len() as u64 > LOG_LIMIT && file.set_len(0).and_then(|()| file.rewind()).is_ok() {
        written = 0;
    }
    // A full disk costs log lines, not the session.
    let _kept = writeln!(file, "{text}");
    written + text.len() as u64 + 1
}
