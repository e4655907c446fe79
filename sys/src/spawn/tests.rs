use super::*;
use crate::{Errno, Error};
use std::io::{Read, Write};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Command {
    let mut c = Command::new("/bin/sh");
    c.args(["-c", script]);
    c
}

#[track_caller]
fn says(mut command: Command, expect: &str) {
    assert_eq!(run(&mut command, b"", LONG).expect("runs").ok().expect("succeeds").text().trim(), expect);
}

#[test]
fn a_command_gets_its_input_and_gives_its_output() {
    let big = vec![b'x'; 300_000];
    let output = run(&mut sh("cat; echo warning >&2; exit 3"), &big, LONG).expect("runs");
    assert_eq!((output.stdout.len(), output.exit), (300_000, Exit::Code(3)));
    let failure = run(&mut sh("echo no such thing >&2; exit 3"), b"", LONG).expect("runs").ok().expect_err("fails");
    assert_eq!(failure.to_string(), "/bin/sh failed with status 3: no such thing");
}

#[test]
fn a_command_that_hangs_is_killed() {
    let error = run(&mut sh("exec sleep 1000"), b"", Duration::from_millis(50)).expect_err("too late");
    assert!(matches!(error, Error::TooLate { .. }), "{error}");
}

#[test]
fn a_missing_program_is_named() {
    let error = Command::new("/nowhere/prog").spawn().expect_err("refused");
    assert!(error.is(Errno::ENOENT) && error.to_string() == "Cannot run /nowhere/prog", "{error}");
}

#[test]
fn a_child_has_its_environment_and_directory_and_no_more() {
    let mut c = Command::new("/usr/bin/env");
    c.env("A", "1").env("A", "2");
    says(c, "PATH=/usr/sbin:/usr/bin\nA=2");
    let mut c = sh("pwd");
    c.dir("/usr");
    says(c, "/usr");
}

#[test]
fn a_child_has_the_descriptors_given_and_no_others() {
    let (reader, mut writer) = std::io::pipe().expect("pipe");
    writer.write_all(b"hello").expect("written");
    drop(writer);
    let leaky = tempfile::tempfile().expect("file");
    nix::fcntl::fcntl(&leaky, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("leaks");
    let all: String = (0..40).map(|n| format!("[ -e /proc/$$/fd/{n} ] && echo {n};")).collect();
    let mut c = sh(&format!("cat <&3; echo; {all}"));
    c.fd(reader, 3);
    let text = run(&mut c, b"", LONG).expect("runs").text();
    let (line, open) = text.split_once('\n').expect("two lines");
    assert_eq!((line, open.trim()), ("hello", "0\n1\n2\n3"));
}

#[test]
fn descriptors_may_swap_their_numbers() {
    let make = |text: &[u8]| {
        let (reader, mut writer) = std::io::pipe().expect("pipe");
        writer.write_all(text).expect("written");
        reader
    };
    let (a, b) = (make(b"A"), make(b"B"));
    use std::os::fd::AsRawFd;
    let (na, nb) = (a.as_raw_fd(), b.as_raw_fd());
    let mut c = sh(&format!("cat <&{na}; cat <&{nb}"));
    c.fd(a, nb).fd(b, na);
    says(c, "BA");
}

#[test]
fn signals_start_unblocked_and_at_their_defaults() {
    // Rust programs ignore SIGPIPE (bit 12), and this thread blocks SIGUSR1.
    let _fd = crate::signal::SignalFd::new(&[crate::signal::Signal::SIGUSR1]).expect("blocked");
    says(
        sh("grep -E 'SigBlk|SigIgn' /proc/$$/status | tr -d '\\t\\n'"),
        "SigBlk:0000000000000000SigIgn:0000000000000000",
    );
}

#[test]
fn ends_are_told_as_status_or_signal() {
    assert_eq!(sh("exit 7").spawn().expect("spawns").wait().expect("ends"), Exit::Code(7));
    let child = sh("exec sleep 1000").spawn().expect("spawns");
    assert_eq!(child.try_wait().expect("asks"), None);
    assert!(child.kill().expect("kills"));
    assert_eq!(child.wait().expect("ends"), Exit::Signal(9));
    assert!(!child.kill().expect("gone"));
}

#[test]
fn a_running_process_can_be_adopted() {
    let child = sh("exec sleep 1000").spawn().expect("spawns");
    let adopted = ProcessRef::open(child.pid()).expect("adopted");
    assert!(!adopted.ended());
    assert!(adopted.signal(crate::signal::Signal::SIGTERM).expect("signalled"));
    assert!(crate::poll::readable(std::os::fd::AsFd::as_fd(&adopted), Some(LONG)).expect("ends"));
    assert!(adopted.ended());
    assert_eq!(child.wait().expect("ends"), Exit::Signal(15));
    assert!(ProcessRef::open(child.pid()).expect_err("gone").is(Errno::ESRCH));
}

#[test]
fn streams_are_pipes_when_asked() {
    let mut c = sh("read x; echo got $x");
    c.stdin(Stdio::Pipe).stdout(Stdio::Pipe);
    let mut child = c.spawn().expect("spawns");
    child.stdin.take().expect("a pipe").write_all(b"it\n").expect("written");
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("read");
    assert_eq!((text.as_str(), child.wait().expect("ends")), ("got it\n", Exit::Code(0)));
}

#[test]
fn a_child_can_lose_every_privilege() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut c = sh("id -u; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/$$/status | tr -d '\\t' | tr '\\n' ' '");
    c.user(900, 900, &[900]).drop_capabilities().new_session().oom_score(200).open_files(64);
    says(c, "900\n900\nCapEff:0000000000000000 CapBnd:0000000000000000 NoNewPrivs:1");
    let mut c = sh("cat /proc/$$/oom_score_adj; ulimit -n");
    c.oom_score(200).open_files(64);
    says(c, "200\n64");
}

#[test]
fn many_threads_spawn_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..25 {
                    assert_eq!(sh(&format!("exit {n}")).spawn().expect("spawns").wait().expect("ends"), Exit::Code(n));
                }
            });
        }
    });
}
