//! Sessions of users with VMs, and what a router asks for them.

use super::{Dice, Life, Tx, Verdict, signed};
use crate::error::{Error, Result};
use model::{
    HostId, UserId, VmId,
    state::{UserState, VmState},
    sync::{Refusal, SessionReport, VmEntry, VmNow},
};
use std::net::Ipv4Addr;

/// Who wants which VM for which session.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Who.
    pub user: UserId,
    /// Which.
    pub vm: VmId,
    /// Random id of the session to be.
    pub session: u64,
    /// Client's address.
    pub client: String,
    /// Node whose router asks.
    pub router: HostId,
}

/// What becomes of a wish.
#[derive(Clone, Debug)]
pub enum Acquire {
    /// No.
    Refused(Refusal),
    /// Another session has it; nothing was changed.
    Contended(Holder),
    /// It is the session's.
    Held(Box<Placed>),
}

/// The session that has a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Node whose router has it.
    pub router: Option<HostId>,
    /// Its number at that router.
    pub session: Option<u64>,
}

/// A VM held for a session.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Its node.
    pub host: HostId,
    /// That node's address.
    pub address: Ipv4Addr,
    /// Owner's login: the user's name in the guest.
    pub login: String,
    /// Properties that the client cannot override.
    pub params: Vec<(String, String)>,
    /// State now.
    pub now: VmNow,
}

impl Tx<'_> {
    /// The VMs of a user, by id.
    pub fn vms_of(&self, user: UserId) -> Result<Vec<VmEntry>> {
        let sql = "SELECT v.id, v.name, r.state, r.blocked FROM vms v JOIN vm_runtimes r ON r.vm_id = v.id
                   WHERE v.user_id = ? ORDER BY v.id";
        self.all("list a user's VMs", sql, [user.0], |row| {
            Ok(VmEntry {
                vm: VmId(row.get(0)?),
                name: row.get(1)?,
                state: row.get::<_, super::Word<VmState>>(2)?.0,
                blocked: row.get(3)?,
            })
        })
    }

    /// A VM's life, if the user may have it. Who may not have it learns nothing else about it.
    pub fn life_for(&self, user: UserId, vm: VmId) -> Result<Verdict<Life>> {
        Ok(match self.life(vm)? {
            None => Err(Refusal::NoVm),
            Some(life) if life.user != user => Err(Refusal::NotYours),
            Some(life) => Ok(life),
        })
    }

    /// What is in the way of a wish now, if anything is: for those who wait, since a look wakes nobody.
    pub fn obstacle(&self, wish: &Wish) -> Result<Option<Acquire>> {
        Ok(self.claim(wish)?.err())
    }

    /// The life of a VM that is free for a session, or what is in the way.
    fn claim(&self, wish: &Wish) -> Result<std::result::Result<Life, Acquire>> {
        Ok(match self.life_for(wish.user, wish.vm)? {
            Err(refusal) => Err(Acquire::Refused(refusal)),
            Ok(life) if life.blocked => Err(Acquire::Refused(Refusal::Blocked)),
            Ok(life) if life.user_state != UserState::Disconnected && life.session != Some(wish.session) => {
                Err(Acquire::Contended(Holder { router: life.session_host, session: life.session }))
            }
            Ok(life) => Ok(life),
        })
    }

    /// Takes hold of a VM for a session and wants it running. A refusal has no side effect.
    pub fn acquire(&self, wish: &Wish, dice: Dice<'_>) -> Result<Acquire> {
        let life = match self.claim(wish)? {
            Ok(life) => life,
            Err(obstacle) => return Ok(obstacle),
        };
        let host = match self.want_run(&life, dice)? {
            Ok(host) => host,
            Err(refusal) => return Ok(Acquire::Refused(refusal)),
        };
        let sql = "UPDATE vm_runtimes SET user_state = 'connecting', session = ?, session_host = ?, session_user = ?, client = ? WHERE vm_id = ?";
        self.exec("hold a VM", sql, (signed(wish.session), wish.router.0, wish.user.0, &wish.client, wish.vm.0))?;
        self.placed(wish, host).map(|placed| Acquire::Held(Box::new(placed)))
    }

    fn placed(&self, wish: &Wish, host: HostId) -> Result<Placed> {
        let life = self.life(wish.vm)?.ok_or_else(|| Error::none("virtual machine", wish.vm))?;
        let sql = "SELECT u.login, h.address FROM users u, hosts h WHERE u.id = ? AND h.id = ?";
        let found = self.one("read a user and a host", sql, (wish.user.0, host.0), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, super::Word<Ipv4Addr>>(1)?.0))
        })?;
        let (login, address) = found.ok_or_else(|| Error::none("host", host))?;
        let mut params = self.merged_properties(wish.vm)?;
        params.insert("qvd.vm.user.name".to_owned(), login.clone());
        Ok(Placed { host, address, login, params: params.into_iter().collect(), now: life.now() })
    }

    /// A router reports a session. One that is not the VM's present session changes nothing; a session
    /// that the store knows nothing of, but whose VM is free, is believed (the store may have been away).
    pub fn session_report(&self, router: HostId, report: &SessionReport) -> Result<()> {
        let Some(life) = self.life(report.vm)? else { return Ok(()) };
        let ours = life.session == Some(report.session);
        if report.state == UserState::Disconnected {
            return if ours { self.end_session(report.vm) } else { Ok(()) };
        }
        let free = life.user_state == UserState::Disconnected && life.user == report.user;
        if !ours && !free {
            return Ok(());
        }
        let sql = "UPDATE vm_runtimes SET user_state = ?, session = ?, session_host = ?, session_user = ?, client = ? WHERE vm_id = ?";
        let (state, session) = (report.state.as_str(), signed(report.session));
        self.exec("note a session", sql, (state, session, router.0, life.user.0, &report.client, report.vm.0))?;
        Ok(())
    }

    /// Forgets the VM's session.
    pub fn end_session(&self, vm: VmId) -> Result<()> {
        let sql = "UPDATE vm_runtimes SET user_state = 'disconnected', session = NULL, session_host = NULL, session_user = NULL, client = NULL WHERE vm_id = ?";
        self.exec("end a session", sql, [vm.0])?;
        Ok(())
    }

    /// The same, only if the VM still is this session's: a newcomer's is not ended for its predecessor.
    pub fn end_session_of(&self, vm: VmId, holder: Holder) -> Result<()> {
        let held = self.life(vm)?.map(|life| Holder { router: life.session_host, session: life.session });
        if held == Some(holder) { self.end_session(vm) } else { Ok(()) }
    }

    /// A router has told all its sessions: others that the store believes it has are over.
    pub fn sessions_complete(&self, router: HostId, sessions: &[u64]) -> Result<()> {
        let sql = "SELECT vm_id, session FROM vm_runtimes WHERE session_host = ?";
        let believed = self.all("list a router's sessions", sql, [router.0], |row| {
            Ok((VmId(row.get(0)?), row.get::<_, Option<i64>>(1)?.map(super::unsigned)))
        })?;
        for (vm, session) in believed {
            if session.is_none_or(|session| !sessions.contains(&session)) {
                self.end_session(vm)?;
            }
        }
        Ok(())
    }
}
