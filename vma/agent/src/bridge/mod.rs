//! A browser's way into the session: an X server that speaks RFB on the session connection itself, and an NX
//! client on it, in place of the user's own.
//!
//! ```text
//! browser = router = session connection -> Xvnc <- window manager (this program)
//!                                            ^---- nxproxy = loopback -> nxagent -> desktop
//! ```
//! One process as the session's user, `vma bridge`, runs all three and ends them when one ends; so a connection
//! that goes suspends the session, and a session that is suspended closes the connection. Xvnc is given the
//! connection as its standard input: there is no RFB socket that anybody could connect to.

mod helper;
mod wm;
mod x11;

use crate::{
    environment,
    error::{Error, Result},
    params::Params,
    proc::{self, Process},
    session::{self, Paths},
    user::Account,
};
use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::{fs::OpenOptionsExt, net::UnixStream},
    path::{Path, PathBuf},
};

pub use helper::main;

/// The size of a browser that does not say its own; it then resizes.
const GEOMETRY: &str = "1280x800";
/// The kind of access to an X display that a cookie gives.
const COOKIE: &[u8] = b"MIT-MAGIC-COOKIE-1";

/// Where Xvnc and nxproxy are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// TigerVNC's X server.
    pub xvnc: PathBuf,
    /// The NX client.
    pub nxproxy: PathBuf,
}

impl Programs {
    /// The program that this guest lacks for browsers.
    pub fn missing(&self) -> Option<&Path> {
        [self.xvnc.as_path(), &self.nxproxy].into_iter().find(|path| !path.exists())
    }
}

/// What a bridge shows the session on.
#[derive(Clone, Copy, Debug)]
pub struct Display {
    /// The X server's.
    pub number: u16,
    /// The session had another one before, so its programs have drawn already, and nxagent has to show that.
    pub resumed: bool,
}

/// Runs the bridge as the user, on this display, with the session's connection; `ended` hears of its end.
pub fn start(
    paths: &Paths,
    account: &Account,
    params: &Params,
    display: Display,
    connection: UnixStream,
    ended: impl FnOnce(String) + Send + 'static,
) -> Result<Process> {
    paths.clear_display(display.number);
    let mut command = proc::as_user(account, Path::new("/proc/self/exe"));
    command.arg("bridge").args([&paths.bridge.xvnc, &paths.bridge.nxproxy]);
    command.args([display.number.to_string(), paths.port().to_string(), geometry(params)]).arg(xauthority(&paths.run));
    command.args(display.resumed.then_some(helper::RESUMED));
    command.envs(environment::of_session(account, params, display.number, &session::nx_root(account)?));
    let log = account.runtime.join("bridge.log");
    command.stdin(std::os::fd::OwnedFd::from(connection));
    command.stdout(session::log_for(&log, account)).stderr(session::log_for(&log, account));
    Process::start(command, ended)
}

fn geometry(params: &Params) -> String {
    params.client("geometry").filter(|text| is_geometry(text)).unwrap_or(GEOMETRY).to_owned()
}

/// What a browser may ask for: `WIDTHxHEIGHT`, from 320x240 to 7680x4320.
fn is_geometry(text: &str) -> bool {
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let Some((width, height)) = text.split_once('x') else { return false };
    number(width).is_some_and(|n| (320..=7680).contains(&n))
        && number(height).is_some_and(|n| (240..=4320).contains(&n))
}

/// The cookies that nxagent shows to the display of its client.
pub fn xauthority(run: &Path) -> PathBuf {
    run.join("xauthority")
}

/// A new cookie for the next bridge, known to it and to nxagent, which reads it when it begins to listen.
pub fn new_cookie(run: &Path, account: &Account) -> Result<()> {
    no_cookie(run)?;
    let (path, mut cookie) = (xauthority(run), [0; 16]);
    let random = Path::new("/dev/urandom");
    fs::File::open(random).and_then(|mut file| file.read_exact(&mut cookie)).map_err(Error::file("read", random))?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let mut file = file.map_err(Error::file("create", &path))?;
    file.write_all(&entry(&cookie)).map_err(Error::file("write", &path))?;
    if account.is_self {
        return Ok(());
    }
    std::os::unix::fs::fchown(&file, Some(account.uid), Some(account.gid)).map_err(Error::file("give away", path))
}

/// None, for an NX client: its display would take a wrong one for an intruder's.
pub fn no_cookie(run: &Path) -> Result<()> {
    let path = xauthority(run);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}

/// One entry of an authority file, for any host and display: nxagent's idea of either is its own.
fn entry(cookie: &[u8; 16]) -> Vec<u8> {
    const ANY: [u8; 2] = [0xff; 2];
    let mut bytes = Vec::from(ANY);
    for field in [&b""[..], b"", COOKIE, cookie] {
        bytes.extend((field.len() as u16).to_be_bytes());
        bytes.extend(field);
    }
    bytes
}

/// The cookie in such a file.
fn cookie(path: &Path) -> Result<[u8; 16]> {
    let bytes = fs::read(path).map_err(Error::file("read", path))?;
    let found = bytes.last_chunk::<16>().copied().filter(|cookie| entry(cookie) == bytes);
    found.ok_or_else(|| Error::file("use", path)(io::Error::other("it is no authority file with one cookie")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_read_back_and_another_file_is_refused() {
        let dir = tempfile::tempdir().expect("dir");
        let account = crate::user::myself(dir.path(), None).expect("account");
        new_cookie(dir.path(), &account).expect("made");
        let first = cookie(&xauthority(dir.path())).expect("read");
        new_cookie(dir.path(), &account).expect("made again");
        assert_ne!(cookie(&xauthority(dir.path())).expect("read"), first);
        fs::write(xauthority(dir.path()), b"short").expect("written");
        cookie(&xauthority(dir.path())).expect_err("refused");
        no_cookie(dir.path()).expect("removed");
        no_cookie(dir.path()).expect("nothing to remove");
    }

    #[track_caller]
    fn check(text: &str, expect: bool) {
        assert_eq!(is_geometry(text), expect, "{text}");
    }

    #[test]
    fn a_size_is_two_numbers_within_limits() {
        check("320x240", true);
        check("7680x4320", true);
        for text in ["", "x", "319x240", "320x239", "7682x4320", "800x600+1", "+800x600", "99999x1000", "800"] {
            check(text, false);
        }
    }
}
