//! The probe guest: a version on trial starts a guest of its own before it is trusted with anybody's.
//!
//! ```text
//! on trial? --no--> proven
//!     `--yes--> bridge up --> start: image, storage, port, LXC, its word --> stop, remove all --> proven
//!                                |  the reason is told, then the same after RETRY       |
//!                                `------------------------------------------------------'
//! ```
//!
//! It is started by the very task of a user's guest ([`Task`]), with its own number, ids and address ([`plan`]), and
//! its init is this program ([`inside`]). It has reports of its own, so that nobody takes it for a VM, and a start
//! slot of its own, so that no desktop waits for it. A daemon that dies in between leaves what the next one removes.

pub mod inside;
mod plan;

pub use plan::VM;

use super::{
    Reports, Shared, Wanted,
    engine::Engine,
    plan::{Closing, Order},
    record,
    slots::Slots,
    task::{Task, Wish},
};
use crate::{files, report::chain};
use model::{paths, state::VmState, sync::GuestReport};
use std::{fs, io, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// Between two attempts, until the trial is over.
const RETRY: Duration = Duration::from_secs(5);
/// For all of a start, or of a stop: what hangs is told before the shortest trial is over. [`plan`] has the usual limits.
const LIMIT: Duration = Duration::from_secs(40);

/// The probe's task.
pub(super) struct Probe {
    /// What performs it.
    pub engine: Arc<Engine>,
    /// The program that becomes its init.
    pub program: PathBuf,
    /// The cluster's configuration and guests.
    pub wanted: watch::Receiver<Option<Wanted>>,
    /// How the node goes down.
    pub closing: watch::Receiver<Closing>,
    /// Whether this version is on trial, once that is known.
    pub trial: watch::Receiver<Option<bool>>,
    /// Whether guests have their bridge.
    pub bridge: watch::Receiver<Result<(), String>>,
    /// Where the outcome is told.
    pub proven: watch::Sender<Result<(), String>>,
}

/// One start of the probe guest.
struct Attempt {
    wish: watch::Sender<Wish>,
    reports: watch::Receiver<Reports>,
}

impl Probe {
    /// Runs until a guest was started and stopped, or the node goes down.
    pub async fn run(mut self) {
        // Its senders outlive it, as do all below.
        match self.trial.wait_for(Option::is_some).await.map(|trial| *trial) {
            Ok(Some(true)) => {}
            Ok(Some(false) | None) => return self.tell(Ok(())),
            Err(_) => return,
        }
        self.tell(Err("A guest is being tried, as by every version on trial".to_owned()));
        loop {
            if self.bridge.wait_for(Result::is_ok).await.is_err() || *self.closing.borrow() != Closing::No {
                return;
            }
            if self.once().await {
                return self.tell(Ok(()));
            }
            sleep(RETRY).await;
        }
    }

    fn tell(&self, proven: Result<(), String>) {
        if let Err(reason) = &proven {
            tracing::warn!(reason, "This version is not proven yet");
        }
        self.proven.send_modify(|told| *told = proven);
    }

    /// One start and one stop; whether both went well. Nothing is left, however they went.
    async fn once(&mut self) -> bool {
        let started = match self.begin() {
            Err(e) => Err(format!("its image cannot be written: {e}")),
            Ok(mut attempt) => {
                let mut closing = self.closing.clone();
                // Cancel-safe: both only wait.
                let started = tokio::select! {
                    started = attempt.started() => started,
                    _ = closing.wait_for(|closing| *closing != Closing::No) => Err("the node goes down".to_owned()),
                };
                // At once: the reason must not wait for a stop that takes its time.
                if let Err(reason) = &started {
                    self.tell(Err(format!("A guest cannot be started: {reason}")));
                }
                let stopped = attempt.stopped().await;
                if let Err(reason) = &stopped {
                    self.tell(Err(format!("A guest cannot be stopped: {reason}")));
                    attempt.gone().await;
                }
                stopped.and(started)
            }
        };
        let cleaned = clean(&self.engine).await;
        match (&started, cleaned) {
            (Ok(ms), true) => tracing::info!(ms, "A guest was started and stopped: guests can run here"),
            (Ok(_), false) => self.tell(Err("What a guest left cannot be removed".to_owned())),
            (Err(_), _) => {}
        }
        started.is_ok() && cleaned
    }

    fn begin(&self) -> io::Result<Attempt> {
        let wanted = self.wanted.borrow().clone().unwrap_or_else(Wanted::nothing);
        files::replace(&image_file(&self.engine), plan::IMAGE, 0o600)?;
        let taken: Vec<Ipv4Addr> = wanted.guests.iter().map(|guest| guest.ip).collect();
        let config = plan::config(&wanted.config);
        let reports = watch::Sender::default();
        let shared = Shared {
            engine: self.engine.clone(),
            slots: Slots::new(1),
            init: Some(plan::init(self.program.clone(), &config)),
            reports: reports.clone(),
            agents: Arc::default(),
        };
        let spec = Arc::new(plan::spec(&config, &taken));
        let (wish, told) = watch::channel(Wish { spec, config: Arc::new(config), order: Order::Run });
        tokio::spawn(Task::new(Arc::new(shared), told).run());
        Ok(Attempt { wish, reports: reports.subscribe() })
    }
}

impl Attempt {
    /// Milliseconds from its launch to its word.
    async fn started(&mut self) -> Result<u64, String> {
        let decided = |report: &GuestReport| report.state == VmState::Running || report.failed.is_some();
        let report = self.see(decided).await?;
        report.failed.map_or(Ok(report.start_ms.unwrap_or_default()), Err)
    }

    /// Stops it, and waits until nothing of it is left.
    async fn stopped(&mut self) -> Result<(), String> {
        self.wish.send_modify(|wish| wish.order = Order::Kill);
        self.see(at_rest).await.map(drop)
    }

    /// Waits for its end as long as it takes: two of it must never be.
    async fn gone(&mut self) {
        self.reports.wait_for(|reports| reports.get(&VM).is_some_and(at_rest)).await.ok();
    }

    async fn see(&mut self, there: impl Fn(&GuestReport) -> bool) -> Result<GuestReport, String> {
        let seen = |reports: &Reports| reports.get(&VM).is_some_and(&there);
        if let Ok(found) = timeout(LIMIT, self.reports.wait_for(seen)).await {
            return found
                .ok()
                .and_then(|reports| reports.get(&VM).cloned())
                .ok_or_else(|| "its task has ended".to_owned());
        }
        let last = self.reports.borrow().get(&VM).map(|report| report.phase.clone()).unwrap_or_default();
        Err(format!("it hangs for {} s while {last}", LIMIT.as_secs()))
    }
}

fn at_rest(report: &GuestReport) -> bool {
    report.state == VmState::Stopped
}

/// Removes what a daemon that died, or a power cut, has left of a probe guest.
pub async fn remove_remains(engine: &Engine) {
    if engine.lxc().dir(VM).exists() || layers(engine).exists() || image_file(engine).exists() {
        tracing::warn!("Removing the remains of a probe guest");
        clean(engine).await;
    }
}

async fn clean(engine: &Engine) -> bool {
    let cleaned = engine.clean_up(VM, false).await;
    if let Err(error) = &cleaned {
        tracing::error!(error = %chain(error), "Remains of the probe guest stay");
        return false;
    }
    record::forget(&engine.paths, VM);
    let removed = [fs::remove_dir_all(layers(engine)), fs::remove_file(image_file(engine))];
    removed.into_iter().all(|removed| match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::error!(%error, "Remains of the probe guest stay");
            false
        }
        _ => true,
    })
}

fn layers(engine: &Engine) -> PathBuf {
    engine.paths.at(paths::GUESTS).join(VM.to_string())
}

fn image_file(engine: &Engine) -> PathBuf {
    engine.paths.at(paths::IMAGES).join(format!("{}.squashfs", plan::image().digest))
}
