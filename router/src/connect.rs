//! `connect_to_vm`: from the request to a session.

use crate::{
    answer::{self, Answer, Status},
    auth,
    conn::{Conn, Left},
    drain::{self, Guard},
    head::Request,
    progress::Progress,
    query::Query,
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
    sync::{Acquired, Call, LoggedIn, Refusal, Reply, VmNow},
};
use std::{
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};

/// The store may take this much longer than the takeover that it waits for.
const ACQUIRE_MARGIN: Duration = Duration::from_secs(15);
/// A question about a VM is answered within 2 s when all is well.
const AWAIT_LIMIT: Duration = Duration::from_secs(12);
/// Pause before asking again a store that is away.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    vm: VmId,
    params: Vec<(String, String)>,
}

/// Reads the request, with QVD's order of checks.
pub fn wanted(request: &Request) -> Result<Wanted, Answer> {
    if !request.has_token("connection", "upgrade") || !request.has_token("upgrade", "QVD/1.0") {
        return Err(Answer::plain(Status::UpgradeRequired));
    }
    let query = Query::parse(&request.query);
    if query.get("id").is_none() && query.get("file_name").is_none() {
        return Err(missing_id());
    }
    let params = query.session_params().map_err(|e| Answer::text(Status::Forbidden, e.to_string()))?;
    Ok(Wanted { vm: vm_id(&query)?, params })
}

/// The VM that a query names.
pub fn vm_id(query: &Query) -> Result<VmId, Answer> {
    let id = query.get("id").ok_or_else(missing_id)?;
    if !id.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Answer::text(Status::Unprocessable, "parameter id must be a whole number"));
    }
    // More digits than an id can have name a VM that does not exist.
    id.parse().map_err(|_| Refusal::NoVm.into())
}

fn missing_id() -> Answer {
    Answer::text(Status::Unprocessable, "parameter id is missing")
}

/// A session that is ready to carry bytes.
pub struct Session {
    /// The way to the guest.
    pub guest: Guest,
    /// Its place in the table.
    pub live: Live,
    /// When it was connected.
    pub since: Instant,
}

/// Why there is none.
pub enum NoSession {
    /// To be told to the client.
    Answer(Answer),
    /// There is nobody to tell.
    Left,
}

impl From<Answer> for NoSession {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl From<Left> for NoSession {
    fn from(_: Left) -> Self {
        Self::Left
    }
}

impl From<std::io::Error> for NoSession {
    fn from(_: std::io::Error) -> Self {
        Self::Left
    }
}

/// A reason in QVD's words.
fn not_available(reason: impl std::fmt::Display) -> Answer {
    let text = format!("The requested virtual machine is not available: {reason}, retry later");
    Answer::text(Status::Unavailable, text)
}

fn refused(refusal: Refusal) -> Answer {
    match Status::from(&refusal) {
        Status::Unavailable => not_available(refusal),
        _ => refusal.into(),
    }
}

/// One client on its way to a session.
pub struct Connecting<'a, S> {
    /// The router.
    pub router: &'a Router,
    /// The client's connection.
    pub conn: &'a mut Conn<S>,
    /// Tells of the router's end.
    pub guard: &'a Guard,
    /// The user.
    pub who: LoggedIn,
    /// The client's address.
    pub client: IpAddr,
    /// What was told so far.
    pub progress: Progress,
    /// When the request came.
    pub began: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connecting<'_, S> {
    /// Gets the VM, waits until it runs, opens the session, and answers 101.
    pub async fn connect(mut self, wanted: Wanted) -> Result<Session, NoSession> {
        let id = random::session_id().map_err(not_available)?;
        let report = table::connecting(id, wanted.vm, self.who.user, self.client.to_string());
        let live = self.router.table.enter(report, self.router.noded.reports());
        let acquired = self.acquire(&live, wanted.vm).await?;
        live.report(UserState::Connecting);
        self.wait_until_running(&live, wanted.vm, &acquired.now).await?;
        let key = random::slave_key().map_err(not_available)?;
        let guest = self.open(&live, wanted, acquired, &key).await?;
        live.report(UserState::Connected);
        self.progress.say("Connection established");
        let last = self.progress.rest() + &answer::switching(&key);
        self.conn.send(last.as_bytes()).await?;
        Ok(Session { guest, live, since: Instant::now() })
    }

    async fn acquire(&mut self, live: &Live, vm: VmId) -> Result<Acquired, NoSession> {
        let reply = self.ask_for_vm(live, vm).await?;
        let acquired = match reply {
            Reply::Acquired(acquired) => acquired,
            Reply::Refused(Refusal::StoreAway) => self.known_here(live, vm)?,
            Reply::Refused(refusal) => return Err(refused(refusal).into()),
            other => return Err(refused(auth::unexpected(&other)).into()),
        };
        self.router.known.acquired(self.who.user, vm, &acquired);
        if acquired.took_over {
            self.progress.say(format!("Aborting contending session for VM_ID: {vm}"));
        }
        self.progress.say(format!("Session acquired for VM_ID: {vm}"));
        Ok(acquired)
    }

    async fn ask_for_vm(&mut self, live: &Live, vm: VmId) -> Result<Reply, NoSession> {
        let call = Call::Acquire { user: self.who.user, vm, session: live.id(), client: self.client.to_string() };
        let limit = self.router.config().get(&key::TAKEOVER_TIMEOUT) + ACQUIRE_MARGIN;
        let noded = self.router.noded.clone();
        self.attend(live, noded.acquire(call, live.id(), limit)).await
    }

    /// The store is away: a VM of a known user that runs on this node may be had with its last grant.
    /// The session that holds it, if any, is one of this router, and makes way.
    fn known_here(&self, live: &Live, vm: VmId) -> Result<Acquired, Answer> {
        let here = |a: &Acquired| Some(a.host) == self.router.host();
        let runs = self.router.table.guest(vm) == Some(VmState::Running);
        let known = self.router.known.grant(self.who.user, vm).filter(here).filter(|_| runs);
        let mut acquired = known.ok_or_else(|| not_available(Refusal::StoreAway))?;
        acquired.took_over = self.router.table.abort(vm, "Another client took over the session") > 0;
        acquired.now.state = VmState::Running;
        live.acquired();
        Ok(acquired)
    }

    async fn wait_until_running(&mut self, live: &Live, vm: VmId, first: &VmNow) -> Result<(), NoSession> {
        let limit = self.router.config().get(&key::VM_START_TIMEOUT);
        let (mut waking, mut now) = (Waking::new(first), first.clone());
        if now.state == VmState::Stopped {
            self.progress.say(format!("Assigning VM {vm} to host"));
            self.progress.say("Starting virtual machine");
        }
        loop {
            match waking.judge(&now) {
                Verdict::Running => return Ok(()),
                Verdict::Failed(reason) => return Err(not_available(reason).into()),
                Verdict::Wait if self.began.elapsed() > limit => {
                    let waited = format!("it did not reach state 'running' within {} s", limit.as_secs());
                    return Err(not_available(waited).into());
                }
                Verdict::Wait => {}
            }
            self.progress.say("Waiting for VM to reach state 'running'");
            self.tell_when_due().await?;
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
            Reply::Refused(refusal) => Err(refused(refusal).into()),
            other => Err(refused(auth::unexpected(&other)).into()),
        }
    }

    async fn open(&mut self, live: &Live, wanted: Wanted, to: Acquired, key: &str) -> Result<Guest, NoSession> {
        let vm = wanted.vm;
        self.progress.say(format!("Starting X session at VM {vm}"));
        self.progress.say(format!("Waiting for X session to come up on VM {vm}"));
        if let Some(bytes) = self.progress.now() {
            self.conn.send(bytes.as_bytes()).await?;
        }
        self.router.counters.nx_attempts.count();
        let mut params = wanted.params;
        params.push(("qvd.slave.key".to_owned(), key.to_owned()));
        let open = Open { grant: to.grant, kind: SessionKind::Nx, params, session: live.id() };
        let router = self.router;
        let place = Place { host: to.host, address: to.address.into() };
        let opened = self.attend(live, session::open(router, place, &open)).await?;
        let (guest, info) = opened.map_err(|e| {
            tracing::warn!(guest = %vm, error = %crate::error::chain(&e), "No session could be opened");
            not_available(e)
        })?;
        tracing::info!(guest = %vm, user = %self.who.user, resumed = info.resumed, "A session is open");
        self.router.counters.nx_ok.count();
        self.progress.say(format!("Connecting X session for VM_ID: {vm}"));
        Ok(guest)
    }

    async fn tell_when_due(&mut self) -> Result<(), NoSession> {
        match self.progress.due(self.began.elapsed()) {
            Some(bytes) => Ok(self.conn.send(bytes.as_bytes()).await?),
            None => Ok(()),
        }
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
        Ok(self.conn.attend(work).await?.map_err(not_available)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;

    const UPGRADE: &str = "Connection: Upgrade\nUpgrade: QVD/1.0\n";

    #[track_caller]
    fn check(query: &str, headers: &str, expect: Result<u32, (&str, &str)>) {
        let head = format!("GET /qvd/connect_to_vm?{query} HTTP/1.1\n{headers}\n");
        let got = wanted(&head::parse(head.as_bytes()).expect("a request")).map(|w| w.vm.0);
        match (got, expect) {
            (Ok(vm), Ok(expected)) => assert_eq!(vm, expected),
            (Err(answer), Err((code, body))) => {
                assert!(answer.status().line().starts_with(code), "{answer:?}");
                assert!(answer.body().contains(body), "{answer:?}");
            }
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn requests_are_checked_in_qvds_order() {
        check("id=7&qvd.client.os=linux&custom.x=1", UPGRADE, Ok(7));
        check("id=7&file_name=a", "upgrade: qvd/1.0\nCONNECTION: keep-alive, upgrade\n", Ok(7));
        check("bad=1", "", Err(("426", "QVD/1.0")));
        check("bad=1", "Connection: Upgrade\nUpgrade: websocket\n", Err(("426", "")));
        check("bad=1", UPGRADE, Err(("422", "parameter id is missing")));
        check("id=7&bad=1&qvd.vm.user.name=root", UPGRADE, Err(("403", "Invalid parameters bad, qvd.vm.user.name")));
        check("file_name=a", UPGRADE, Err(("422", "parameter id is missing")));
        check("id=seven", UPGRADE, Err(("422", "whole number")));
        check("id=99999999999999", UPGRADE, Err(("404", "does not exist")));
    }
}
