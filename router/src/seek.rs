//! From a user and a VM to a session that is ready to carry bytes, whatever the client speaks.

use crate::{
    auth,
    conn::Left,
    drain::{self, Guard},
    progress::Step,
    random,
    router::Router,
    session::{self, Guest, Place},
    table::{self, Live},
    wake::{Verdict, Waking},
};
use model::{
    VmId, key,
    local::{Open, SessionKind},
    state::{UserState, VmState},
    sync::{Acquired, Call, LoggedIn, Refusal, Reply, TAKEN_OVER, VmNow},
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The store may take this much longer than the takeover that it waits for.
const ACQUIRE_MARGIN: Duration = Duration::from_secs(15);
/// A question about a VM is answered within 2 s when all is well.
const AWAIT_LIMIT: Duration = Duration::from_secs(12);
/// Pause before asking again a store that is away.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The desktop.
    pub vm: VmId,
    /// What the client speaks.
    pub kind: SessionKind,
    /// Parameters for the agent.
    pub params: Vec<(String, String)>,
}

/// A client that waits for its session.
#[expect(async_fn_in_trait, reason = "the futures are awaited where they are made, in tasks of concrete types")]
pub trait Client {
    /// Takes note of a step, to be told when it is due.
    fn say(&mut self, step: Step);
    /// Tells what is due by now.
    async fn tell_when_due(&mut self) -> Result<(), Left>;
    /// Tells all, before a wait.
    async fn tell_now(&mut self) -> Result<(), Left>;
    /// Waits for `work` as long as the client stays.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Left>;
}

/// A session that is ready to carry bytes.
pub struct Session {
    /// The way to the guest.
    pub guest: Guest,
    /// Its place in the table.
    pub live: Live,
    /// When it was connected.
    pub since: Instant,
    /// What opens further connections to the guest while the session lives.
    pub acquired: Acquired,
    /// An earlier session was resumed.
    pub resumed: bool,
}

/// Why a client gets no session; `Display` is QVD's reason.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// The store says no.
    #[error(transparent)]
    Refused(Refusal),
    /// It does not start: what was recorded.
    #[error("{0}")]
    NotRunning(String),
    /// It did not run in time.
    #[error("it did not reach state 'running' within {} s", .0.as_secs())]
    Late(Duration),
    /// It runs, but there is no session.
    #[error("{0}")]
    NotOpened(String),
    /// Cut while it waited.
    #[error("{0}")]
    Cut(String),
    /// A fault of this program or its machine.
    #[error("{0}")]
    Ours(String),
}

impl Denied {
    /// A fault of this program or its machine.
    pub fn ours(error: impl std::fmt::Display) -> Self {
        Self::Ours(error.to_string())
    }
}

/// Why there is no session.
#[derive(Debug)]
pub enum NoSession {
    /// To be told to the client.
    Denied(Denied),
    /// There is nobody to tell.
    Left,
}

impl From<Denied> for NoSession {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<Left> for NoSession {
    fn from(_: Left) -> Self {
        Self::Left
    }
}

/// One client on its way to a session.
pub struct Seeking<'a, C> {
    /// The router.
    pub router: &'a Router,
    /// Tells of the router's end.
    pub guard: &'a Guard,
    /// The user.
    pub who: LoggedIn,
    /// The client's address.
    pub address: IpAddr,
    /// The client.
    pub client: C,
}

impl<C: Client> Seeking<'_, C> {
    /// Gets the VM, waits until it runs, and opens the session.
    pub async fn seek(&mut self, wanted: Wanted) -> Result<Session, NoSession> {
        let (began, vm) = (Instant::now(), wanted.vm);
        let (live, acquired) = self.hold(vm).await?;
        self.wait_until_running(&live, vm, &acquired.now, began).await?;
        let (guest, resumed) = self.open(&live, wanted, &acquired).await?;
        live.report(UserState::Connected);
        Ok(Session { guest, live, since: Instant::now(), acquired, resumed })
    }

    /// Takes hold of the VM, which makes the cluster want it running; letting go of it does not stop it.
    pub async fn hold(&mut self, vm: VmId) -> Result<(Live, Acquired), NoSession> {
        let id = random::session_id().map_err(Denied::ours)?;
        let report = table::connecting(id, vm, self.who.user, self.address.to_string());
        let live = self.router.table.enter(report, self.router.noded.reports());
        let acquired = self.acquire(&live, vm).await?;
        live.report(UserState::Connecting);
        Ok((live, acquired))
    }

    async fn acquire(&mut self, live: &Live, vm: VmId) -> Result<Acquired, NoSession> {
        let reply = self.ask_for_vm(live, vm).await?;
        let acquired = match reply {
            Reply::Acquired(acquired) => acquired,
            Reply::Refused(Refusal::StoreAway) => self.known_here(live, vm)?,
            Reply::Refused(refusal) => return Err(Denied::Refused(refusal).into()),
            other => return Err(Denied::Refused(auth::unexpected(&other)).into()),
        };
        self.router.known.acquired(self.who.user, vm, &acquired);
        if acquired.took_over {
            self.client.say(Step::TakingOver(vm));
        }
        self.client.say(Step::Acquired(vm));
        Ok(acquired)
    }

    async fn ask_for_vm(&mut self, live: &Live, vm: VmId) -> Result<Reply, NoSession> {
        let call = Call::Acquire { user: self.who.user, vm, session: live.id(), client: self.address.to_string() };
        let limit = self.router.config().get(&key::TAKEOVER_TIMEOUT) + ACQUIRE_MARGIN;
        let noded = self.router.noded.clone();
        self.attend(live, noded.acquire(call, live.id(), limit)).await
    }

    /// The store is away: a VM of a known user that runs on this node may be had with its last grant.
    /// The session that holds it, if any, is one of this router, and makes way.
    fn known_here(&self, live: &Live, vm: VmId) -> Result<Acquired, Denied> {
        let listed = self.router.known.vms(self.who.user).unwrap_or_default();
        if listed.iter().any(|known| known.vm == vm && known.blocked) {
            return Err(Denied::Refused(Refusal::Blocked));
        }
        let here = |a: &Acquired| Some(a.host) == self.router.host();
        let runs = self.router.table.guest(vm) == Some(VmState::Running);
        let known = self.router.known.grant(self.who.user, vm).filter(here).filter(|_| runs);
        let mut acquired = known.ok_or(Denied::Refused(Refusal::StoreAway))?;
        acquired.took_over = self.router.table.abort(vm, None, TAKEN_OVER) > 0;
        acquired.now.state = VmState::Running;
        live.acquired();
        Ok(acquired)
    }

    async fn wait_until_running(
        &mut self,
        live: &Live,
        vm: VmId,
        first: &VmNow,
        began: Instant,
    ) -> Result<(), NoSession> {
        let limit = self.router.config().get(&key::VM_START_TIMEOUT);
        let (mut waking, mut now) = (Waking::new(first), first.clone());
        if now.state == VmState::Stopped {
            self.client.say(Step::Assigning(vm));
            self.client.say(Step::Starting);
        }
        loop {
            match waking.judge(&now) {
                Verdict::Running => return Ok(()),
                Verdict::Failed(reason) => return Err(Denied::NotRunning(reason).into()),
                Verdict::Wait if began.elapsed() > limit => return Err(Denied::Late(limit).into()),
                Verdict::Wait => {}
            }
            self.client.say(Step::Waiting);
            self.client.tell_when_due().await?;
            now = self.await_change(live, vm, now).await?;
        }
    }

    /// The VM as it is after the next change, or in 2 s. A store that is away is waited for.
    async fn await_change(&mut self, live: &Live, vm: VmId, now: VmNow) -> Result<VmNow, NoSession> {
        let noded = self.router.noded.clone();
        let call = Call::AwaitVm { user: self.who.user, vm, seen: Some(now.state) };
        match self.attend(live, noded.call(call, AWAIT_LIMIT)).await? {
            Reply::Vm(now) => Ok(now),
            Reply::Refused(Refusal::StoreAway) => {
                self.attend(live, sleep(STORE_PAUSE)).await?;
                Ok(now)
            }
            Reply::Refused(refusal) => Err(Denied::Refused(refusal).into()),
            other => Err(Denied::Refused(auth::unexpected(&other)).into()),
        }
    }

    async fn open(&mut self, live: &Live, wanted: Wanted, to: &Acquired) -> Result<(Guest, bool), NoSession> {
        let vm = wanted.vm;
        self.client.say(Step::StartingSession(vm));
        self.client.say(Step::WaitingSession(vm));
        self.client.tell_now().await?;
        self.router.counters.nx_attempts.count();
        let open = Open { grant: to.grant.clone(), kind: wanted.kind, params: wanted.params, session: live.id() };
        let router = self.router;
        let place = Place { host: to.host, address: to.address.into() };
        let opened = self.attend(live, session::open(router, place, &open)).await?;
        let (guest, info) = opened.map_err(|e| {
            tracing::warn!(guest = %vm, error = %crate::error::chain(&e), "No session could be opened");
            Denied::NotOpened(e.to_string())
        })?;
        tracing::info!(guest = %vm, user = %self.who.user, kind = ?wanted.kind, resumed = info.resumed, "A session is open");
        self.router.counters.nx_ok.count();
        self.client.say(Step::Connecting(vm));
        Ok((guest, info.resumed))
    }

    /// Waits for `work` unless the client leaves, the session is aborted, or the router ends.
    async fn attend<T>(&mut self, live: &Live, work: impl Future<Output = T>) -> Result<T, NoSession> {
        let guard = self.guard;
        let work = async {
            tokio::select! {
                done = work => Ok(done),
                reason = live.aborted() => Err(reason),
                () = guard.cut() => Err(drain::REASON.to_owned()),
            }
        };
        Ok(self.client.attend(work).await?.map_err(Denied::Cut)?)
    }
}
