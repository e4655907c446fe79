//! Everything a child needs, laid out before the fork; and the child's own steps, which only make system calls.

use super::clone::{Forked, fork};
use super::{Child, Command, ProcessRef, Stdio};
use crate::{Error, Result};
use nix::libc::{self, c_char, c_int, c_long};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

const CLOSE_RANGE_CLOEXEC: c_int = 4;
/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Steps of the child, in order; their names are the words of the error.
const STEPS: [&str; 10] = [
    "unblock signals for",
    "open a session for",
    "set the OOM score of",
    "set the file limit of",
    "pass descriptors to",
    "enter the directory of",
    "drop capabilities of",
    "take on the user of",
    "tie to its parent",
    "run",
];

struct Plan {
    program: CString,
    _args: Vec<CString>,
    argv: Vec<*const c_char>,
    _env: Vec<CString>,
    envp: Vec<*const c_char>,
    dir: CString,
    /// Duplicates above every target, so that no dup2 overwrites one that is still needed.
    fds: Vec<(OwnedFd, RawFd)>,
    user: Option<(u32, u32, Vec<u32>)>,
    oom_score: Option<String>,
    open_files: Option<libc::rlimit>,
    drop_capabilities: bool,
    die_with_parent: bool,
    new_session: bool,
    parent: i32,
    report: OwnedFd,
}

pub fn spawn(command: &mut Command) -> Result<Child> {
    let name = command.program.display().to_string();
    let mut pipes = [None, None, None];
    let (mut reader, report) = std::io::pipe().map_err(Error::of("create", "a pipe"))?;
    let plan = Plan::new(command, &mut pipes, report.into())?;
    let cgroup = command.cgroup.as_ref().map(|c| c.open()).transpose()?;
    let mask = block_signals();
    // SAFETY: the child's side calls only `Plan::child`, which keeps to raw system calls on the plan's memory.
    let forked = unsafe { fork(0, cgroup.as_ref().map(AsFd::as_fd)) };
    if let Ok(Forked::Child) = forked {
        // SAFETY: this is the child, and the plan is laid out.
        unsafe { plan.child() }
    }
    restore_signals(mask);
    let Forked::Parent { pid, pidfd } = forked.map_err(|e| named(e, &name))? else { unreachable!("handled above") };
    drop(plan);
    let child = Child::new(ProcessRef::new(pid, pidfd), pipes);
    match read_report(&mut reader) {
        None => Ok(child),
        Some((step, errno)) => {
            child.wait()?;
            let action = STEPS.get(step).copied().unwrap_or("start");
            Err(Error::of(action, name)(std::io::Error::from_raw_os_error(errno)))
        }
    }
}

fn named(e: Error, name: &str) -> Error {
    match e {
        Error::Kernel { action, source, .. } => {
            Error::Kernel { action, object: format!("a process for {name}"), source }
        }
        other => other,
    }
}

/// The child's last word, if it did not come to run its program.
fn read_report(reader: &mut impl Read) -> Option<(usize, i32)> {
    let mut word = [0; 8];
    reader.read_exact(&mut word).ok()?;
    let [a, b, c, d, e, f, g, h] = word;
    Some((u32::from_ne_bytes([a, b, c, d]) as usize, i32::from_ne_bytes([e, f, g, h])))
}

impl Plan {
    fn new(command: &mut Command, pipes: &mut [Option<File>; 3], report: OwnedFd) -> Result<Self> {
        let first_free = command.fds.iter().map(|f| f.1).max().unwrap_or(2).max(2) + 1;
        let mut fds = Vec::new();
        for (number, stream) in command.streams.iter().enumerate() {
            if let Some(fd) = open_stream(stream, number, &mut pipes[number])? {
                fds.push((duplicate(&fd, first_free)?, number as RawFd));
            }
        }
        for (fd, number) in &command.fds {
            fds.push((duplicate(fd, first_free)?, *number));
        }
        let program = text(command.program.as_os_str())?;
        let mut args = vec![program.clone()];
        for arg in &command.args {
            args.push(text(arg)?);
        }
        let mut env = Vec::new();
        for (name, value) in &command.env {
            env.push(text(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))?);
        }
        Ok(Self {
            argv: pointers(&args),
            envp: pointers(&env),
            program,
            _args: args,
            _env: env,
            dir: text(command.dir.as_os_str())?,
            fds,
            user: command.user.as_ref().map(|u| (u.uid, u.gid, u.groups.clone())),
            oom_score: command.oom_score.map(|s| s.to_string()),
            open_files: command.open_files.map(|n| libc::rlimit { rlim_cur: n, rlim_max: n }),
            drop_capabilities: command.drop_capabilities,
            die_with_parent: command.die_with_parent,
            new_session: command.new_session,
            parent: std::process::id() as i32,
            report: duplicate(&report, first_free)?,
        })
    }

    /// Becomes the program, or reports why not and ends.
    ///
    /// # Safety
    /// Only in a child made by `fork`.
    unsafe fn child(&self) -> ! {
        // SAFETY: this is the child, which calls the steps once and then ends.
        unsafe {
            let (step, errno) = self.steps();
            let [a, b, c, d] = (step as u32).to_ne_bytes();
            let [e, f, g, h] = errno.to_ne_bytes();
            let word = [a, b, c, d, e, f, g, h];
            libc::syscall(libc::SYS_write, self.report.as_raw_fd(), word.as_ptr(), word.len());
            libc::syscall(libc::SYS_exit_group, 127);
        }
        loop {
            std::hint::spin_loop();
        }
    }

    /// Runs the steps; returns only with the index of the one that failed and its error number.
    unsafe fn steps(&self) -> (usize, c_int) {
        type Step = unsafe fn(&Plan) -> c_long;
        let steps: [Step; 10] = [
            Self::signals,
            Self::session,
            Self::oom,
            Self::files,
            Self::descriptors,
            Self::directory,
            Self::capabilities,
            Self::identity,
            Self::tie,
            Self::exec,
        ];
        for (index, step) in steps.iter().enumerate() {
            // SAFETY: each step is a row of system calls with pointers into the plan, which lives in this copy of the
            // memory for as long as the child does.
            if unsafe { step(self) } < 0 {
                // SAFETY: errno of this only thread.
                return (index, unsafe { *libc::__errno_location() });
            }
        }
        (STEPS.len() - 1, libc::ENOEXEC)
    }

    /// The handlers are reset by CLONE_CLEAR_SIGHAND; what is ignored is not, and Rust programs ignore SIGPIPE.
    unsafe fn signals(&self) -> c_long {
        let default = [0usize; 4];
        let none = 0u64;
        // SAFETY: a zeroed kernel sigaction is SIG_DFL, and both sets are of the kernel's 8 bytes.
        unsafe {
            let null = std::ptr::null_mut::<u8>();
            for signal in 1..=64 {
                // SIGKILL and SIGSTOP cannot be set and need not be.
                libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), null, 8);
            }
            libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, null, 8)
        }
    }

    unsafe fn session(&self) -> c_long {
        if !self.new_session {
            return 0;
        }
        // SAFETY: no arguments.
        unsafe { libc::syscall(libc::SYS_setsid) }
    }

    unsafe fn oom(&self) -> c_long {
        let Some(score) = &self.oom_score else { return 0 };
        let path = c"/proc/self/oom_score_adj";
        // SAFETY: path is a C string, and the score's bytes are told with their length.
        unsafe {
            let fd =
                libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC, 0);
            if fd < 0 {
                return fd;
            }
            libc::syscall(libc::SYS_write, fd, score.as_ptr(), score.len())
        }
    }

    unsafe fn files(&self) -> c_long {
        let Some(limit) = &self.open_files else { return 0 };
        let null = std::ptr::null_mut::<u8>();
        // SAFETY: limit is a live rlimit; the kernel's rlimit64 has the same two 64-bit fields.
        unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_NOFILE, std::ptr::from_ref(limit), null) }
    }

    /// First all closes on exec, then what is passed is put in its place, which clears that mark.
    unsafe fn descriptors(&self) -> c_long {
        // SAFETY: numbers only.
        unsafe {
            if libc::syscall(libc::SYS_close_range, 3, u32::MAX, CLOSE_RANGE_CLOEXEC) < 0 {
                return -1;
            }
            for (fd, number) in &self.fds {
                if libc::syscall(libc::SYS_dup3, fd.as_raw_fd(), *number, 0) < 0 {
                    return -1;
                }
            }
        }
        0
    }

    unsafe fn directory(&self) -> c_long {
        // SAFETY: dir is a C string.
        unsafe { libc::syscall(libc::SYS_chdir, self.dir.as_ptr()) }
    }

    /// The bounding set now, while CAP_SETPCAP is there; the rest goes with the user id, or below when it stays 0.
    unsafe fn capabilities(&self) -> c_long {
        if !self.drop_capabilities {
            return 0;
        }
        // SAFETY: numbers only.
        unsafe {
            for capability in 0..64 {
                // EINVAL past the last one this kernel knows.
                if libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) < 0
                    && *libc::__errno_location() != libc::EINVAL
                {
                    return -1;
                }
            }
            libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        }
    }

    /// Raw calls, since libc's own would try to reach threads that do not exist here.
    unsafe fn identity(&self) -> c_long {
        // SAFETY: the groups are told with their number; the capability header and its empty sets are two live arrays
        // of the kernel's layout (version 3: two times three words).
        unsafe {
            if let Some((uid, gid, groups)) = &self.user
                && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) < 0
                    || libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) < 0
                    || libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) < 0)
            {
                return -1;
            }
            if !self.drop_capabilities {
                return 0;
            }
            let header = [CAPABILITY_VERSION_3, 0];
            let empty = [0u32; 6];
            libc::syscall(libc::SYS_capset, header.as_ptr(), empty.as_ptr())
        }
    }

    /// After the change of user, which clears the mark; a parent that ended meanwhile would never be noticed.
    unsafe fn tie(&self) -> c_long {
        if !self.die_with_parent {
            return 0;
        }
        // SAFETY: numbers only.
        unsafe {
            if libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) < 0 {
                return -1;
            }
            if libc::syscall(libc::SYS_getppid) == c_long::from(self.parent) {
                return 0;
            }
            libc::syscall(libc::SYS_kill, libc::syscall(libc::SYS_getpid), libc::SIGKILL)
        }
    }

    unsafe fn exec(&self) -> c_long {
        // SAFETY: three C strings and arrays of them ended by null, all owned by the plan.
        unsafe { libc::syscall(libc::SYS_execve, self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) }
    }
}

fn open_stream(stream: &Stdio, number: usize, kept: &mut Option<File>) -> Result<Option<OwnedFd>> {
    match stream {
        Stdio::Inherit => Ok(None),
        Stdio::Fd(fd) => fd.try_clone().map(Some).map_err(Error::of("duplicate", "a descriptor")),
        Stdio::Null => {
            let null = File::options().read(true).write(true).open("/dev/null");
            null.map(|f| Some(f.into())).map_err(Error::of("open", "/dev/null"))
        }
        Stdio::Pipe => {
            let (reader, writer) = std::io::pipe().map_err(Error::of("create", "a pipe"))?;
            let (ours, theirs): (OwnedFd, OwnedFd) =
                if number == 0 { (writer.into(), reader.into()) } else { (reader.into(), writer.into()) };
            *kept = Some(ours.into());
            Ok(Some(theirs))
        }
    }
}

fn duplicate(fd: &OwnedFd, at_least: RawFd) -> Result<OwnedFd> {
    let number = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(at_least))
        .map_err(Error::of("duplicate", "a descriptor"))?;
    // SAFETY: the kernel has just made this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn text(s: &OsStr) -> Result<CString> {
    CString::new(s.as_bytes()).map_err(|_| Error::Malformed {
        object: "a command".to_owned(),
        found: s.to_string_lossy().into_owned(),
        expected: "text without a zero byte",
    })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Between fork and exec a handler of ours must not run in the child, where it would act on shared descriptors.
fn block_signals() -> nix::sys::signal::SigSet {
    let mut before = nix::sys::signal::SigSet::empty();
    let all = nix::sys::signal::SigSet::all();
    let how = nix::sys::signal::SigmaskHow::SIG_BLOCK;
    // It fails only for a wrong `how`.
    let _ = nix::sys::signal::pthread_sigmask(how, Some(&all), Some(&mut before));
    before
}

fn restore_signals(mask: nix::sys::signal::SigSet) {
    let _ = mask.thread_set_mask();
}
