//! Faults on request, so that the real image can be shown to survive them: a node has no shell to cause them by.
//!
//! Dead code unless the kernel's command line has the word `roost.chaos`, which is signed into no image that is shipped,
//! and, but for what the command line itself asks for, never with Secure Boot on. Then lines are taken from the virtio
//! port `roost.chaos`, which only whoever runs the machine as a virtual one can reach, and who could as well stop it, read
//! its memory or swap its disk:
//!
//! ```text
//! pids NAME   PIDs of the processes of this name   kill NAME   SIGKILL to each
//! stop NAME   SIGSTOP to each                       hang        PID 1 turns no more
//! panic       the kernel panics; there is no answer
//! file NAME PATH   the end of a file, as the first process of this name sees it
//! ```
//!
//! Each line is answered on one line: by the PIDs concerned, or by the file's text as a JSON string.

use crate::console::Console;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WORD: &str = "roost.chaos";
/// Followed by the name of a service that is killed whenever it runs, so that a version can be made that crashes.
const FAIL: &str = "roost.chaos.fail=";
/// Followed by the name of a phase in the initrd that never ends, so that a version can be made that hangs.
const HANG_IN: &str = "roost.chaos.hang=";
const PORTS: &str = "/sys/class/virtio-ports";
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
const SYSRQ: &str = "/proc/sysrq-trigger";
/// Bytes told of a file.
const END_OF_FILE: u64 = 96 * 1024;
/// Between two looks for a port or a peer that is not there: neither can be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What has been asked of PID 1 itself.
#[derive(Clone, Debug, Default)]
pub struct Chaos {
    hang: Arc<AtomicBool>,
    fails: Option<String>,
}

impl Chaos {
    /// Listens when, and only when, the machine was booted for it.
    pub fn start(console: &Console) -> Self {
        let mut chaos = Self::default();
        let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let verdict = judge(&cmdline, std::fs::read(SECURE_BOOT));
        if verdict != Verdict::Off {
            // Not asked of the port: under Secure Boot the command line is the image's own, and it only fails itself.
            chaos.fails = word_of(&cmdline, FAIL);
        }
        match verdict {
            Verdict::Off => {}
            Verdict::Refused(why) => {
                tracing::error!(why, "roost.chaos is refused");
                console.line(&format!("  roost.chaos on the kernel's command line is refused: {why}"));
            }
            Verdict::On => {
                tracing::error!("Faults are taken on request: this is no node to work on");
                console.line("  CHAOS: this node takes faults on request. Never work on it.");
                let of_thread = chaos.clone();
                let started = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || of_thread.serve());
                if let Err(e) = started {
                    tracing::error!(error = %e, "No faults can be taken");
                }
            }
        }
        chaos
    }

    /// Hangs, for ever, when asked to.
    pub fn maybe_hang(&self) {
        while self.hang.load(Ordering::Relaxed) {
            std::thread::park();
        }
    }

    /// Kills the service that shall not hold.
    pub fn maybe_fail(&self) {
        for pid in self.fails.iter().flat_map(|name| pids(Path::new("/proc"), name)) {
            // One that has just ended is as good.
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }

    /// Whoever connects to the port is served, one after the other.
    fn serve(&self) {
        loop {
            if let Some(Err(e)) = port().map(|p| self.converse(&p)) {
                tracing::warn!(error = %e, "Port of faults");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn converse(&self, port: &Path) -> io::Result<()> {
        let mut reader = BufReader::new(File::options().read(true).write(true).open(port)?);
        let mut line = String::new();
        // At its end nobody is connected.
        while reader.read_line(&mut line)? > 0 {
            tracing::warn!(line = line.trim(), "Fault asked for");
            let answer = self.obey(&line);
            reader.get_mut().write_all(format!("{answer}\n").as_bytes())?;
            line.clear();
        }
        Ok(())
    }

    fn obey(&self, line: &str) -> String {
        let Some(request) = Request::parse(line) else {
            return "not understood: expected pids NAME, kill NAME, stop NAME, file NAME PATH, hang or panic"
                .to_owned();
        };
        let (name, signal) = match request {
            Request::Pids(name) => (name, None),
            Request::Kill(name) => (name, Some(Signal::SIGKILL)),
            Request::Stop(name) => (name, Some(Signal::SIGSTOP)),
            Request::File(name, path) => return quoted(&end_of_file(Path::new("/proc"), name, path)),
            Request::Hang => {
                self.hang.store(true, Ordering::Relaxed);
                return "1".to_owned();
            }
            // The kernel takes it from root whatever kernel.sysrq allows at a keyboard.
            Request::Panic => return std::fs::write(SYSRQ, "c").map_or_else(|e| e.to_string(), |()| String::new()),
        };
        let mut pids = pids(Path::new("/proc"), name);
        // One that ended meanwhile was not hit.
        pids.retain(|pid| kill(Pid::from_raw(*pid), signal).is_ok());
        pids.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
    }
}

/// The phase of the initrd that is to hang. Secure Boot cannot be asked for there; with it on, the command line is the
/// image's own, and an image can only hang itself.
pub fn hang_in() -> Option<String> {
    let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    (judge(&cmdline, std::fs::read(SECURE_BOOT)) == Verdict::On).then(|| word_of(&cmdline, HANG_IN)).flatten()
}

fn word_of(cmdline: &str, key: &str) -> Option<String> {
    cmdline.split_whitespace().find_map(|word| word.strip_prefix(key)).map(str::to_owned)
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Off,
    On,
    Refused(&'static str),
}

/// `secure_boot` is the firmware's variable: four bytes of attributes, then 1 when it is on. Without such firmware there
/// is none.
fn judge(cmdline: &str, secure_boot: io::Result<Vec<u8>>) -> Verdict {
    if !cmdline.split_whitespace().any(|w| w == WORD) {
        return Verdict::Off;
    }
    match secure_boot {
        Ok(bytes) if bytes.get(4..) == Some(&[0]) => Verdict::On,
        Ok(_) => Verdict::Refused("Secure Boot is on"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Verdict::On,
        Err(_) => Verdict::Refused("the state of Secure Boot cannot be read"),
    }
}

#[derive(Debug, PartialEq)]
enum Request<'a> {
    Pids(&'a str),
    Kill(&'a str),
    Stop(&'a str),
    File(&'a str, &'a str),
    Hang,
    Panic,
}

impl<'a> Request<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Some(match words.as_slice() {
            ["pids", name] => Self::Pids(name),
            ["kill", name] => Self::Kill(name),
            ["stop", name] => Self::Stop(name),
            ["file", name, path] => Self::File(name, path),
            ["hang"] => Self::Hang,
            ["panic"] => Self::Panic,
            _ => return None,
        })
    }
}

/// The device of our virtio port.
fn port() -> Option<PathBuf> {
    let ports = std::fs::read_dir(PORTS).ok()?.flatten().map(|e| e.path());
    let mut ours = ports.filter(|p| std::fs::read_to_string(p.join("name")).is_ok_and(|n| n.trim() == WORD));
    Some(Path::new("/dev").join(ours.next()?.file_name()?))
}

/// All processes of this name but PID 1, those of guests included.
fn pids(proc: &Path, name: &str) -> Vec<i32> {
    let all = std::fs::read_dir(proc).into_iter().flatten().flatten();
    let named = all.filter(|e| std::fs::read_to_string(e.path().join("comm")).is_ok_and(|c| c.trim_end() == name));
    let mut pids: Vec<i32> = named.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(|p| *p > 1).collect();
    pids.sort_unstable();
    pids
}

/// The last bytes of a file in the root of the first process of this name; what is wrong, when there is none.
fn end_of_file(proc: &Path, name: &str, path: &str) -> String {
    let Some(pid) = pids(proc, name).first().copied() else { return format!("no process is called {name}") };
    let path = proc.join(pid.to_string()).join("root").join(path.trim_start_matches('/'));
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(&path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(END_OF_FILE)))?;
        let mut bytes = Vec::new();
        file.take(END_OF_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(|e| format!("cannot read {}: {e}", path.display()), |b| String::from_utf8_lossy(&b).into_owned())
}

/// Text as a JSON string: one line, whatever it holds.
fn quoted(text: &str) -> String {
    let plain = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(plain).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    #[test]
    fn only_the_word_turns_it_on_and_secure_boot_never_allows_it() {
        assert_eq!(judge("quiet roost.verity=1 panic=10", missing()), Verdict::Off);
        assert_eq!(judge("quiet roost.chaos=1 roost.chaosx", missing()), Verdict::Off);
        assert_eq!(judge("quiet roost.chaos\n", missing()), Verdict::On);
        assert_eq!(judge("roost.chaos", Ok(vec![6, 0, 0, 0, 0])), Verdict::On);
        assert_eq!(judge("roost.chaos", Ok(vec![6, 0, 0, 0, 1])), Verdict::Refused("Secure Boot is on"));
        assert_eq!(judge("roost.chaos", Ok(vec![])), Verdict::Refused("Secure Boot is on"));
        let unreadable = Err(io::ErrorKind::PermissionDenied.into());
        assert!(matches!(judge("roost.chaos", unreadable), Verdict::Refused(_)));
    }

    #[test]
    fn what_hangs_and_what_fails_is_named() {
        let cmdline = "quiet roost.chaos roost.chaos.hang=find-root roost.chaos.fail=noded panic=2";
        assert_eq!(word_of(cmdline, HANG_IN).as_deref(), Some("find-root"));
        assert_eq!(word_of(cmdline, FAIL).as_deref(), Some("noded"));
        assert_eq!(word_of("quiet roost.chaos", HANG_IN), None);
    }

    #[test]
    fn requests_are_up_to_three_words() {
        assert_eq!(Request::parse("kill noded\n"), Some(Request::Kill("noded")));
        assert_eq!(Request::parse("pids nxagent"), Some(Request::Pids("nxagent")));
        assert_eq!(Request::parse("stop noded"), Some(Request::Stop("noded")));
        assert_eq!(Request::parse("hang"), Some(Request::Hang));
        assert_eq!(Request::parse("panic\n"), Some(Request::Panic));
        assert_eq!(Request::parse("file vma /run/x.log"), Some(Request::File("vma", "/run/x.log")));
        for other in ["", "kill", "kill a b", "hang now", "reboot"] {
            assert_eq!(Request::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_file_is_told_as_its_process_sees_it_on_one_line() {
        let dir = tempfile::tempdir().expect("dir");
        let root = dir.path().join("20/root/run");
        std::fs::create_dir_all(&root).expect("made");
        std::fs::write(dir.path().join("20/comm"), "vma\n").expect("written");
        std::fs::write(root.join("x.log"), [b"gone\n".repeat(40_000), b"\"the\t\\end\"\n".to_vec()].concat())
            .expect("written");
        let told = end_of_file(dir.path(), "vma", "/run/x.log");
        assert!(told.len() as u64 == END_OF_FILE && told.ends_with("gone\n\"the\t\\end\"\n"));
        assert_eq!(quoted("\"the\t\\end\"\n"), r#""\"the\u0009\\end\"\u000a""#);
        assert!(end_of_file(dir.path(), "vma", "/run/y").contains("cannot read"));
        assert_eq!(end_of_file(dir.path(), "noded", "/run/y"), "no process is called noded");
    }

    #[test]
    fn processes_are_found_by_name_and_never_pid_1() {
        let dir = tempfile::tempdir().expect("dir");
        for (pid, comm) in [("1", "noded"), ("20", "noded"), ("3", "noded"), ("7", "noded2"), ("self", "noded")] {
            std::fs::create_dir(dir.path().join(pid)).expect("made");
            std::fs::write(dir.path().join(pid).join("comm"), format!("{comm}\n")).expect("written");
        }
        assert_eq!(pids(dir.path(), "noded"), [3, 20]);
    }
}
