//! Lives of VMs: wanting them to run or stop, placing them, and what nodes report.
//!
//! Here is the store's half of "a desktop never runs twice". A VM's storage lies on the node that first
//! started it, so its lease names that node until an administrator releases it, and has no expiry. Each
//! placement raises the epoch; a report of an older epoch, or of a node that does not hold the lease,
//! changes nothing.

use super::{Tx, Word, signed, unsigned};
use crate::{
    error::{Error, Result},
    placement,
};
use model::{
    HostId, OsfId, UserId, VmId,
    state::{HostState, UserState, VmState, Want},
    sync::{GuestReport, Refusal, VmNow},
};

/// Numbers from 0 up to, not including, 1: chance in placement.
pub type Dice<'a> = &'a mut dyn FnMut() -> f64;
/// Yes, or the reason why not.
pub type Verdict<T = ()> = std::result::Result<T, Refusal>;

/// A VM at this moment.
#[derive(Clone, Debug)]
pub struct Life {
    /// Which.
    pub id: VmId,
    /// Its name.
    pub name: String,
    /// Its owner.
    pub user: UserId,
    /// In maintenance.
    pub blocked: bool,
    /// As last reported.
    pub state: VmState,
    /// What the cluster wants.
    pub want: Want,
    /// Step within the state.
    pub phase: String,
    /// Why the last start or run failed.
    pub failed: Option<String>,
    /// Of the last command.
    pub generation: u64,
    /// Of the last report.
    pub reported: u64,
    /// Node that holds it.
    pub host: Option<HostId>,
    /// Of its lease.
    pub epoch: u64,
    /// State of the session.
    pub user_state: UserState,
    /// Id of the session.
    pub session: Option<u64>,
    /// Node whose router has the session.
    pub session_host: Option<HostId>,
    osf: OsfId,
    di_tag: String,
}

impl Life {
    /// For whoever waits for it.
    pub fn now(&self) -> VmNow {
        VmNow { state: self.state, want: self.want, phase: self.phase.clone(), failed: self.failed.clone() }
    }
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reported {
    /// The store's picture changed accordingly.
    Taken,
    /// Of an older epoch, or not of the node that holds the VM.
    Stale,
}

impl Tx<'_> {
    /// A VM's present life.
    pub fn life(&self, vm: VmId) -> Result<Option<Life>> {
        let sql = "SELECT v.id, v.name, v.user_id, v.osf_id, v.di_tag, r.blocked, r.state, r.want, r.phase, r.failed,
                          r.generation, r.reported_generation, l.host_id, l.epoch, r.user_state, r.session, r.session_host
                   FROM vms v JOIN vm_runtimes r ON r.vm_id = v.id JOIN leases l ON l.vm_id = v.id WHERE v.id = ?";
        self.one("read a VM", sql, [vm.0], |row| {
            Ok(Life {
                id: VmId(row.get(0)?),
                name: row.get(1)?,
                user: UserId(row.get(2)?),
                osf: OsfId(row.get(3)?),
                di_tag: row.get(4)?,
                blocked: row.get(5)?,
                state: row.get::<_, Word<VmState>>(6)?.0,
                want: row.get::<_, Word<Want>>(7)?.0,
                phase: row.get(8)?,
                failed: row.get(9)?,
                generation: unsigned(row.get(10)?),
                reported: unsigned(row.get(11)?),
                host: row.get::<_, Option<u32>>(12)?.map(HostId),
                epoch: unsigned(row.get(13)?),
                user_state: row.get::<_, Word<UserState>>(14)?.0,
                session: row.get::<_, Option<i64>>(15)?.map(unsigned),
                session_host: row.get::<_, Option<u32>>(16)?.map(HostId),
            })
        })
    }

    /// Wants a VM to run: places it if it has no node, and chooses its image. Asks for nothing when it
    /// runs or is about to. Does not look at the maintenance flag of a VM that runs.
    pub fn want_run(&self, life: &Life, dice: Dice<'_>) -> Result<Verdict<HostId>> {
        if let (Some(host), true) = (life.host, under_way(life)) {
            return Ok(self.reachable(host)?.map(|()| host));
        }
        if life.blocked {
            return Ok(Err(Refusal::Blocked));
        }
        if life.state == VmState::Zombie {
            return Ok(Err(Refusal::State(VmState::Zombie)));
        }
        let Some(di) = self.di_by_tag(life.osf, &life.di_tag)? else {
            return Ok(Err(Refusal::Other(format!("its OS flavour has no disk image tagged {}", life.di_tag))));
        };
        let host = match life.host {
            Some(host) => self.may_start(host)?.map(|()| host),
            None => self.place(life, dice)?,
        };
        let Ok(host) = host else { return Ok(host) };
        let sql = "UPDATE vm_runtimes SET want = 'run', generation = generation + 1, di_id = ?, failed = NULL, start_ms = NULL WHERE vm_id = ?";
        self.exec("want a VM to run", sql, (di.0, life.id.0))?;
        self.exec(
            "count a start",
            "UPDATE vm_counters SET run_attempts = run_attempts + 1 WHERE vm_id = ?",
            [life.id.0],
        )?;
        Ok(Ok(host))
    }

    /// Wants a VM to stop. Asks for nothing when it is stopped or about to be.
    pub fn want_stop(&self, life: &Life) -> Result<Verdict> {
        if life.state == VmState::Zombie {
            return Ok(Err(Refusal::State(VmState::Zombie)));
        }
        if life.want == Want::Run || !matches!(life.state, VmState::Stopped | VmState::Stopping) {
            let sql = "UPDATE vm_runtimes SET want = 'stop', generation = generation + 1 WHERE vm_id = ?";
            self.exec("want a VM to stop", sql, [life.id.0])?;
        }
        Ok(Ok(()))
    }

    fn place(&self, life: &Life, dice: Dice<'_>) -> Result<Verdict<HostId>> {
        let weights = placement::Weights::of(&self.config()?);
        let Some(host) = placement::choose(&self.candidates()?, weights, dice) else {
            return Ok(Err(Refusal::NoHost));
        };
        let sql = "UPDATE leases SET host_id = ?, epoch = epoch + 1 WHERE vm_id = ?";
        self.exec("place a VM", sql, (host.0, life.id.0))?;
        Ok(Ok(host))
    }

    /// A VM on this node can be reached.
    fn reachable(&self, host: HostId) -> Result<Verdict> {
        let (name, state, _) = self.host_brief(host)?;
        Ok(match state {
            HostState::Lost | HostState::Stopped => Err(away(&name, state)),
            HostState::Starting | HostState::Running | HostState::Stopping => Ok(()),
        })
    }

    /// A VM whose storage lies on this node can be started.
    fn may_start(&self, host: HostId) -> Result<Verdict> {
        let (name, state, blocked) = self.host_brief(host)?;
        Ok(match state {
            HostState::Running if blocked => {
                Err(Refusal::Other(format!("its storage is on {name}, which takes no guests now (blocked)")))
            }
            HostState::Running => Ok(()),
            _ => Err(away(&name, state)),
        })
    }

    fn host_brief(&self, host: HostId) -> Result<(String, HostState, bool)> {
        let sql = "SELECT h.name, hr.state, hr.blocked FROM hosts h JOIN host_runtimes hr ON hr.host_id = h.id WHERE h.id = ?";
        let found = self.one("read a host", sql, [host.0], |row| {
            Ok((row.get(0)?, row.get::<_, Word<HostState>>(1)?.0, row.get(2)?))
        })?;
        found.ok_or_else(|| Error::none("host", host))
    }

    /// An administrator's word that the node which holds the VM will never run it again: the next start
    /// places it anew, without the home that lies there.
    pub fn vm_release(&self, life: &Life) -> Result<()> {
        let Some(host) = life.host else {
            return Err(Error::Refused("no node holds it".to_owned()));
        };
        if self.reachable(host)?.is_ok() {
            let (name, state, _) = self.host_brief(host)?;
            return Err(Error::Refused(format!(
                "{name} holds it and is {state}: only a node that is lost or stopped lets go"
            )));
        }
        self.exec("release a VM", "UPDATE leases SET host_id = NULL, epoch = epoch + 1 WHERE vm_id = ?", [life.id.0])?;
        let sql = "UPDATE vm_runtimes SET state = 'stopped', phase = '', since_ms = ?, want = 'stop', running_di_id = NULL WHERE vm_id = ?";
        self.exec("release a VM", sql, (signed(self.now_ms), life.id.0))?;
        Ok(())
    }

    /// A node reports a guest. `settled`: the node has told all that it found, so this is news and not
    /// the first look after a boot, when a guest that is to run may not have been started yet.
    pub fn guest_report(&self, host: HostId, report: &GuestReport, settled: bool) -> Result<Reported> {
        let Some(life) = self.life(report.vm)? else { return Ok(Reported::Stale) };
        if life.host != Some(host) || life.epoch != report.epoch {
            return Ok(Reported::Stale);
        }
        let running_di = if report.state == VmState::Stopped { None } else { self.known_di(report)? };
        let sql =
            "UPDATE vm_runtimes SET state = ?, phase = ?, since_ms = ?, reported_generation = ?, running_di_id = ?,
                   failed = COALESCE(?, failed), start_ms = COALESCE(?, start_ms) WHERE vm_id = ?";
        let (since, generation, start) =
            (signed(report.since_ms), signed(report.generation), report.start_ms.map(signed));
        let (state, phase) = (report.state.as_str(), &report.phase);
        self.exec(
            "note a guest",
            sql,
            (state, phase, since, generation, running_di, &report.failed, start, report.vm.0),
        )?;
        if report.state == VmState::Running {
            self.note_running(report)?;
        }
        if report.generation == life.generation {
            self.note_end(&life, host, report, settled)?;
        }
        Ok(Reported::Taken)
    }

    /// A DI may have been deleted while its node was away.
    fn known_di(&self, report: &GuestReport) -> Result<Option<u32>> {
        let Some(di) = report.di else { return Ok(None) };
        self.one("look for a DI", "SELECT id FROM dis WHERE id = ?", [di.0], |row| row.get(0))
    }

    fn note_running(&self, report: &GuestReport) -> Result<()> {
        let sql = "UPDATE vm_runtimes SET ran_generation = ?1 WHERE vm_id = ?2 AND ran_generation <> ?1";
        if self.exec("note a start", sql, (signed(report.generation), report.vm.0))? == 1 {
            self.exec("count a start", "UPDATE vm_counters SET run_ok = run_ok + 1 WHERE vm_id = ?", [report.vm.0])?;
        }
        Ok(())
    }

    /// A guest that failed or ended is not wanted any more, and one that could not start is blocked, so
    /// that its user does not try again for ever. Those that end because their node goes down are still
    /// wanted: the node boots them again.
    fn note_end(&self, life: &Life, host: HostId, report: &GuestReport, settled: bool) -> Result<()> {
        let ended = report.state == VmState::Stopped && settled && life.state != VmState::Stopped;
        let node_stops = self.host_brief(host)?.1 == HostState::Stopping;
        if report.failed.is_none() && (!ended || node_stops) {
            return Ok(());
        }
        if life.want == Want::Stop {
            // Known already: a node repeats it when it connects anew, and an administrator may have unblocked since.
            return Ok(());
        }
        self.exec("want a VM no more", "UPDATE vm_runtimes SET want = 'stop' WHERE vm_id = ?", [life.id.0])?;
        if let Some(reason) = &report.failed {
            let sql = "UPDATE vm_runtimes SET blocked = 1, blocked_reason = ? WHERE vm_id = ? AND ran_generation <> generation AND blocked = 0";
            if self.exec("block a VM", sql, (format!("start failed: {reason}"), life.id.0))? == 1 {
                self.event("store", "vm.blocked", &format!("vm {}", life.id), reason)?;
            }
        }
        Ok(())
    }

    /// A node has told all that it found: its other VMs do not run.
    pub fn reports_complete(&self, host: HostId, guests: &[VmId]) -> Result<()> {
        let sql = "SELECT l.vm_id FROM leases l JOIN vm_runtimes r ON r.vm_id = l.vm_id WHERE l.host_id = ? AND r.state <> 'stopped'";
        let believed = self.all("list a node's VMs", sql, [host.0], |row| row.get(0).map(VmId))?;
        for vm in believed.iter().filter(|vm| !guests.contains(vm)) {
            let sql = "UPDATE vm_runtimes SET state = 'stopped', phase = '', since_ms = ?, running_di_id = NULL WHERE vm_id = ?";
            self.exec("note a guest's end", sql, (signed(self.now_ms), vm.0))?;
        }
        Ok(())
    }
}

fn away(name: &str, state: HostState) -> Refusal {
    Refusal::Other(format!("its storage is on {name}, which is {state}"))
}

/// Wanted to run, and not known to have ended in this generation.
fn under_way(life: &Life) -> bool {
    life.want == Want::Run && !(life.state == VmState::Stopped && life.reported == life.generation)
}
