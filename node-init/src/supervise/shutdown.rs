//! Going down: guests, services, everything else, file systems, and then the machine. Every step has its time.

use crate::fail::chain;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use sys::cgroup::Cgroup;
use sys::mount::{MntFlags, MsFlags, mounts, remount, unmount};
use sys::power::{End, end, sync_within};

/// What `noded` has for an orderly stop of all guests.
pub const GUESTS_WITHIN_S: u32 = 75;
/// Until guests are killed even if `noded` says nothing.
const GUESTS: Duration = Duration::from_secs(90);
/// For services; each is killed after 5 s of that.
const SERVICES: Duration = Duration::from_secs(7);
const UNMOUNT: Duration = Duration::from_secs(10);
const SYNC: Duration = Duration::from_secs(10);

/// A shutdown in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// How it ends.
    pub how: End,
    step: Step,
    until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Guests,
    Services,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on waiting.
    Wait,
    /// Stop all services.
    StopServices,
    /// Nothing is left to wait for: [`finish`].
    Finish,
}

impl Shutdown {
    /// Begins: guests are being stopped.
    pub fn begin(how: End, now: Duration) -> Self {
        Self { how, step: Step::Guests, until: now + GUESTS }
    }

    /// Asked for once more: whoever asks is in a hurry, and guests get no more time.
    pub fn hurry(&mut self, now: Duration) {
        if self.step == Step::Guests {
            self.until = now;
        }
    }

    /// When something is due at the latest.
    pub fn due(&self) -> Duration {
        self.until
    }

    /// Decides, from what is known now.
    pub fn step(&mut self, now: Duration, guests_stopped: bool, services_down: bool) -> Next {
        match self.step {
            Step::Guests if guests_stopped || now >= self.until => {
                *self = Self { how: self.how, step: Step::Services, until: now + SERVICES };
                Next::StopServices
            }
            Step::Services if services_down || now >= self.until => Next::Finish,
            _ => Next::Wait,
        }
    }
}

/// Kills what is left, writes back and unmounts what can be, and ends the machine's run. `say` hears each step before it.
pub fn finish(how: End, guests: &Cgroup, services: &Cgroup, mut say: impl FnMut(&str)) -> ! {
    say("Stopping everything else");
    for group in [guests, services] {
        if let Err(e) = group.kill().and_then(|()| group.wait_empty(Duration::from_secs(5))) {
            tracing::warn!(error = %chain(&e), "Processes not killed by their cgroup");
        }
    }
    // What is in neither: helpers of the kernel, and what escaped. PID 1 itself is not among "all".
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), nix::sys::signal::Signal::SIGKILL);
    reap_for(Duration::from_secs(2));
    say("Unmounting");
    if !within(UNMOUNT, unmount_all) {
        tracing::error!("File systems do not unmount; going down without");
    }
    if !sync_within(SYNC) {
        tracing::error!("Data cannot be written back; going down without");
    }
    say(if how == End::Reboot { "Rebooting" } else { "Power off" });
    loop {
        let refused = end(how);
        tracing::error!(error = %chain(&refused), "The machine does not go down");
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// Reaps until nobody is left or the time is over.
fn reap_for(limit: Duration) {
    let until = Instant::now() + limit;
    while Instant::now() < until {
        match sys::spawn::reap_any() {
            Ok(Some(_)) => {}
            // Children that are not dead yet: there is no descriptor to wait on for "any child".
            Ok(None) if has_children() => std::thread::sleep(Duration::from_millis(10)),
            _ => return,
        }
    }
}

fn has_children() -> bool {
    let children = std::fs::read_to_string("/proc/self/task/1/children");
    children.is_ok_and(|text| !text.trim().is_empty())
}

/// Runs something that may hang for ever (a dead network file system) beside us.
fn within(limit: Duration, work: fn()) -> bool {
    let (done, wait) = mpsc::channel();
    let spawned = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
        work();
        let _ = done.send(());
    });
    spawned.is_ok() && wait.recv_timeout(limit).is_ok()
}

/// Newest first, since mounts lie on mounts. What is busy is made read-only, which is as good for its data.
fn unmount_all() {
    let mut all = mounts().unwrap_or_default();
    all.reverse();
    for mount in all.iter().filter(|m| !is_kernels(&m.kind) && m.target != Path::new("/")) {
        let Err(e) = unmount(&mount.target, MntFlags::empty()) else { continue };
        let read_only = remount(&mount.target, MsFlags::MS_RDONLY);
        tracing::warn!(target = %mount.target.display(), error = %chain(&e), read_only = read_only.is_ok(), "Not unmounted");
    }
}

/// Nothing of these is on a disk.
fn is_kernels(kind: &str) -> bool {
    matches!(kind, "devtmpfs" | "proc" | "sysfs" | "devpts" | "cgroup2" | "tmpfs" | "efivarfs" | "pstore" | "rootfs")
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn guests_come_first_then_services_then_the_end() {
        let mut shutdown = Shutdown::begin(End::PowerOff, at(100));
        assert_eq!(shutdown.step(at(120), false, false), Next::Wait);
        assert_eq!(shutdown.step(at(121), true, false), Next::StopServices);
        assert_eq!(shutdown.step(at(122), true, false), Next::Wait);
        assert_eq!(shutdown.step(at(123), true, true), Next::Finish);
    }

    #[test]
    fn every_step_ends_by_itself() {
        let mut shutdown = Shutdown::begin(End::Reboot, at(0));
        assert_eq!(shutdown.step(at(89), false, false), Next::Wait);
        assert_eq!(shutdown.step(shutdown.due(), false, false), Next::StopServices);
        assert_eq!(shutdown.step(shutdown.due(), false, false), Next::Finish);
        assert!(shutdown.due() <= at(97));
    }

    #[test]
    fn a_second_request_gives_guests_no_more_time() {
        let mut shutdown = Shutdown::begin(End::Reboot, at(0));
        shutdown.hurry(at(3));
        assert_eq!(shutdown.step(at(3), false, false), Next::StopServices);
        shutdown.hurry(at(4));
        assert_eq!(shutdown.step(at(4), false, false), Next::Wait);
    }

    #[test]
    fn work_that_hangs_is_left_behind() {
        assert!(within(at(5), || {}));
        assert!(!within(Duration::from_millis(10), || std::thread::park_timeout(at(5))));
    }
}
