//! The first process of a small guest: what must be there, the agent, the system bus, and an orderly end.
//!
//! LXC has made `/proc`, `/sys` and `/dev` before it starts; in a container the end of this process is the
//! end of the guest. It never ends on a failure of its own: what is missing is logged and done without.

mod files;
mod network;
mod services;

use crate::error::{Error, Result};
use nix::{
    sys::{
        reboot::{RebootMode, reboot},
        signal::{SigSet, Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, sync},
};
use services::Services;
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

/// The agent's own grace and a margin.
const AGENT_GRACE: Duration = Duration::from_secs(10);
/// For everything else in the guest, between "please" and "now".
const GRACE: Duration = Duration::from_secs(3);

/// How the guest ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    PowerOff,
    Reboot,
}

/// Runs the guest to its end.
pub fn main() -> anyhow::Result<ExitCode> {
    anyhow::ensure!(nix::unistd::getpid().as_raw() == 1, "vma init is for process 1 of a guest");
    let signals = watched();
    signals.thread_block().map_err(Error::call("block", "signals"))?;
    files::prepare();
    or_log(network::loopback_up(), "Cannot bring up the network");
    let mut services = Services::start();
    let end = serve(&signals, &mut services);
    tracing::info!(?end, "Guest goes down");
    shut_down(&mut services);
    Ok(finish(end))
}

fn watched() -> SigSet {
    // SIGALRM is the clock of restarts and of the shutdown's bounds.
    [Signal::SIGCHLD, Signal::SIGPWR, Signal::SIGTERM, Signal::SIGINT, Signal::SIGALRM].into_iter().collect()
}

/// Reaps and restarts until a signal ends the guest.
fn serve(signals: &SigSet, services: &mut Services) -> End {
    loop {
        services.start_due();
        services.arm();
        match signals.wait() {
            Ok(Signal::SIGPWR | Signal::SIGTERM) => return End::PowerOff,
            Ok(Signal::SIGINT) => return End::Reboot,
            Ok(_) => {
                reap(services);
            }
            Err(error) => tracing::error!(%error, "Cannot wait for signals"),
        }
    }
}

/// Takes in all dead children; says whether there are living ones.
fn reap(services: &mut Services) -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(status) => {
                if let Some(pid) = status.pid() {
                    services.ended(pid, &status);
                }
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

fn shut_down(services: &mut Services) {
    services.stop_restarting();
    services.terminate();
    wait_until(AGENT_GRACE, || {
        reap(services);
        !services.agent_runs()
    });
    let all = Pid::from_raw(-1);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // ESRCH: nobody is left, which is what is wanted.
        let _none = kill(all, signal);
        if wait_until(GRACE, || !reap(services)) {
            break;
        }
    }
    sync();
}

/// Asks every 10 ms until it is so or the time is over. At the very end of a guest this is simple and good enough.
fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// In a container the end of this process is the power-off; in a machine, or to reboot, the kernel is asked.
fn finish(end: End) -> ExitCode {
    let mode = match end {
        End::PowerOff if std::env::var_os("container").is_some() => return ExitCode::SUCCESS,
        End::PowerOff => RebootMode::RB_POWER_OFF,
        End::Reboot => RebootMode::RB_AUTOBOOT,
    };
    let Err(error) = reboot(mode);
    tracing::error!(%error, "The kernel does not end the guest");
    ExitCode::SUCCESS
}

/// Logs a failure that the guest lives without.
fn or_log<T>(result: Result<T>, message: &'static str) -> Option<T> {
    result.map_err(|error| tracing::error!(error = error.chain(), "{message}")).ok()
}
