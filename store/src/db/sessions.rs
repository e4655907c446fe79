//! Sessions of users with VMs, and what a router asks for them.

use super::{Dice, Life, Tx, Verdict, Word, signed, unsigned, vms::UNAVAILABLE};
use crate::error::{Error, Result};
use model::{
    HostId, UserId, VmId,
    state::{UserState, VmState},
    sync::{Block, Refusal, SessionReport, VmCard, VmEntry, VmNow},
};
use std::net::Ipv4Addr;

/// Characters of a failure that a card shows.
const CARD_MAX: usize = 200;

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
        self.all("list a user's VMs", sql, [user.0], entry)
    }

    /// The VMs of a user, by id, with all that a page tells of them.
    pub fn cards_of(&self, user: UserId) -> Result<Vec<VmCard>> {
        let sql = format!(
            "SELECT v.id, v.name, r.state, r.blocked, r.since_ms, r.phase, r.failed, r.blocked_reason, r.block_note,
                    {UNAVAILABLE}, r.user_state, r.user_since_ms
             FROM vms v JOIN vm_runtimes r ON r.vm_id = v.id JOIN leases l ON l.vm_id = v.id
             LEFT JOIN host_runtimes hr ON hr.host_id = l.host_id WHERE v.user_id = ? ORDER BY v.id"
        );
        let age = |since: Option<i64>| since.map(|since| self.now_ms.saturating_sub(unsigned(since)));
        self.all("list a user's cards", &sql, [user.0], |row| {
            let entry = entry(row)?;
            let (reason, note): (Option<String>, Option<String>) = (row.get(7)?, row.get(8)?);
            let block = if reason.is_some() { Block::FailedStart } else { Block::Order(note) };
            Ok(VmCard {
                block: entry.blocked.then_some(block),
                entry,
                state_ms: age(Some(row.get(4)?)),
                phase: row.get(5)?,
                failed: row.get::<_, Option<String>>(6)?.map(|text| for_a_card(&text)),
                unavailable: row.get(9)?,
                session: row.get::<_, Word<UserState>>(10)?.0,
                session_ms: age(row.get(11)?),
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
        let (session, user) = (Some((wish.session, wish.router)), Some(wish.user));
        self.note_session(wish.vm, UserState::Connecting, session, user, Some(&wish.client))?;
        self.placed(wish, host).map(|placed| Acquire::Held(Box::new(placed)))
    }

    fn placed(&self, wish: &Wish, host: HostId) -> Result<Placed> {
        let life = self.life(wish.vm)?.ok_or_else(|| Error::none("virtual machine", wish.vm))?;
        let sql = "SELECT u.login, h.address FROM users u, hosts h WHERE u.id = ? AND h.id = ?";
        let found = self.one("read a user and a host", sql, (wish.user.0, host.0), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Word<Ipv4Addr>>(1)?.0))
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
        self.note_session(
            report.vm,
            report.state,
            Some((report.session, router)),
            Some(life.user),
            Some(&report.client),
        )
    }

    /// Forgets the VM's session.
    pub fn end_session(&self, vm: VmId) -> Result<()> {
        self.note_session(vm, UserState::Disconnected, None, None, None)
    }

    /// A state that is told again keeps the time at which it came about.
    fn note_session(
        &self,
        vm: VmId,
        state: UserState,
        session: Option<(u64, HostId)>,
        user: Option<UserId>,
        client: Option<&str>,
    ) -> Result<()> {
        let sql = "UPDATE vm_runtimes SET user_since_ms = CASE WHEN user_state = ?1 THEN user_since_ms ELSE ?2 END,
                       user_state = ?1, session = ?3, session_host = ?4, session_user = ?5, client = ?6 WHERE vm_id = ?7";
        let (id, router) = (session.map(|(id, _)| signed(id)), session.map(|(_, router)| router.0));
        let now = signed(self.now_ms);
        self.exec("note a session", sql, (state.as_str(), now, id, router, user.map(|u| u.0), client, vm.0))?;
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
            Ok((VmId(row.get(0)?), row.get::<_, Option<i64>>(1)?.map(unsigned)))
        })?;
        for (vm, session) in believed {
            if session.is_none_or(|session| !sessions.contains(&session)) {
                self.end_session(vm)?;
            }
        }
        Ok(())
    }
}

/// The first four columns of a list of VMs.
fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<VmEntry> {
    let state = row.get::<_, Word<VmState>>(2)?.0;
    Ok(VmEntry { vm: VmId(row.get(0)?), name: row.get(1)?, state, blocked: row.get(3)? })
}

/// The beginning of what was recorded: the rest is for administrators.
fn for_a_card(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(CARD_MAX).collect()
}
