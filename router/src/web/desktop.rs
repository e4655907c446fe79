//! One desktop in one browser: from the WebSocket's upgrade to its last byte.
//!
//! ```text
//! texts to the page:   {"step":"starting"}…   {"open":true,"resumed":…}   {"tick":1}…   {"fault":{…}}
//! binary both ways:    RFB, from `open` on
//! ```

use super::{
    Next, Web,
    api::open_for_users,
    fault::Fault,
    logins::{self, Visitor},
    visit,
};
use crate::{
    conn::{Conn, Left},
    drain::{self, Guard},
    head::Request,
    progress::Step,
    query::Query,
    router::Router,
    seek::{Client, NoSession, Seeking, Session, Wanted},
    serve,
    session::{Guest, Place},
    ws::{self, End, Socket},
};
use model::{UserId, VmId, grant::SignedGrant, key, local::SessionKind, sync::Block};
use serde_json::json;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Close codes; see docs/decisions/006-browser.md.
mod code {
    pub const ENDED: u16 = 1000;
    pub const ROUTER_ENDS: u16 = 1001;
    pub const BROKEN: u16 = 1011;
    pub const TAKEN_OVER: u16 = 4001;
    pub const CUT: u16 = 4002;
    pub const LOGIN_OVER: u16 = 4003;
    /// There was no session to begin with; the fault was told.
    pub const DENIED: u16 = 4004;
}

/// What opens further connections to guests whose desktops are open here.
#[derive(Default)]
pub struct Desks {
    open: Mutex<HashMap<(UserId, VmId), Vec<Desk>>>,
    /// Why sessions were cut lately. A page whose connection broke in the same moment did not hear it, and
    /// must not take the desktop back by itself.
    farewells: Mutex<HashMap<u64, (Fault, Instant)>>,
}

/// A farewell is kept this long; a page tries again far sooner.
const FAREWELL: Duration = Duration::from_secs(120);
/// Most farewells that are kept.
const MAX_FAREWELLS: usize = 10_000;

/// One open desktop.
#[derive(Clone)]
pub struct Desk {
    session: u64,
    login: [u8; 32],
    /// Its page has lost it, and asks for another.
    left: bool,
    /// Where the guest is.
    pub place: Place,
    /// The store's word.
    pub grant: SignedGrant,
}

impl Desks {
    fn add(&self, owner: (UserId, VmId), desk: Desk) {
        self.lock().entry(owner).or_default().push(desk);
    }

    fn remove(&self, owner: (UserId, VmId), session: u64) {
        let mut desks = self.lock();
        if let Some(open) = desks.get_mut(&owner) {
            open.retain(|d| d.session != session);
            if open.is_empty() {
                desks.remove(&owner);
            }
        }
    }

    /// The open desktop of this login, if there is one.
    pub fn find(&self, visitor: &Visitor, vm: VmId) -> Option<Desk> {
        let desks = self.lock();
        desks.get(&(visitor.who.user, vm))?.iter().find(|d| d.login == visitor.id).cloned()
    }

    /// The page of this session asks for another one, which will take it over.
    pub fn leave(&self, visitor: &Visitor, vm: VmId, session: u64) {
        let mut desks = self.lock();
        let open = desks.get_mut(&(visitor.who.user, vm)).into_iter().flatten();
        open.filter(|d| d.login == visitor.id && d.session == session).for_each(|d| d.left = true);
    }

    /// Whether the page itself is about to take the session over, which is nothing to tell it.
    fn is_left(&self, owner: (UserId, VmId), session: u64) -> bool {
        self.lock().get(&owner).is_some_and(|open| open.iter().any(|d| d.session == session && d.left))
    }

    /// A session was cut.
    fn part(&self, session: u64, fault: Fault) {
        let (now, mut farewells) = (Instant::now(), self.farewells.lock().unwrap_or_else(PoisonError::into_inner));
        farewells.retain(|_, (_, at)| now - *at < FAREWELL);
        if farewells.len() < MAX_FAREWELLS {
            farewells.insert(session, (fault, now));
        }
    }

    /// Why a session that a page lost was cut, if it was; told once.
    pub fn farewell(&self, session: u64) -> Option<Fault> {
        let mut farewells = self.farewells.lock().unwrap_or_else(PoisonError::into_inner);
        farewells.remove(&session).map(|(fault, _)| fault)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(UserId, VmId), Vec<Desk>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that may become a desktop.
pub struct Upgrade {
    answer: String,
    visitor: Visitor,
    wanted: Wanted,
    address: IpAddr,
}

/// Checks the upgrade: page, login and ticket.
pub fn upgrade(router: &Router, request: &Request, address: IpAddr) -> Result<Next, Fault> {
    let answer = ws::accept(request).map_err(|_| Fault::Malformed)?;
    visit::same_origin(request)?;
    let visitor = visit::visitor(router, request)?;
    let query = Query::parse(&request.query);
    let ticket = query.get("ticket").and_then(logins::unhex).ok_or(Fault::Forged)?;
    let vm = router.web.logins().take_ticket(&visitor.id, &ticket, Instant::now()).ok_or(Fault::Forged)?;
    let wanted = Wanted { vm, kind: SessionKind::Vnc, params: params(&query) };
    Ok(Next::Socket(Box::new(Upgrade { answer, visitor, wanted, address })))
}

/// What the agent is told of the browser. Values out of bounds are left out.
fn params(query: &Query) -> Vec<(String, String)> {
    let mut params = vec![("qvd.client.os", "browser".to_owned()), ("qvd.client.link", "lan".to_owned())];
    params.extend(geometry(query).map(|g| ("qvd.client.geometry", g)));
    let layout = |l: &&str| (1..=12).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    params.extend(query.get("layout").filter(layout).map(|l| ("qvd.client.keyboard", format!("pc105/{l}"))));
    params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn geometry(query: &Query) -> Option<String> {
    let (w, h): (u32, u32) = (query.get("w")?.parse().ok()?, query.get("h")?.parse().ok()?);
    let legal = (320..=7680).contains(&w) && (240..=4320).contains(&h);
    legal.then(|| format!("{}x{}", w & !1, h & !1))
}

/// A page that waits for its desktop.
struct Waiting<S> {
    socket: Socket<S>,
    pending: Vec<&'static str>,
    last: &'static str,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client for Waiting<S> {
    fn say(&mut self, step: Step) {
        self.pending.push(step.name());
    }

    async fn tell_when_due(&mut self) -> Result<(), Left> {
        // A page takes any number of messages, and by one that repeats it knows that we live.
        let mut steps = std::mem::take(&mut self.pending);
        steps.dedup();
        self.last = steps.last().copied().unwrap_or(self.last);
        let steps = if steps.is_empty() { vec![self.last] } else { steps };
        for step in steps {
            self.socket.say(&json!({ "step": step }).to_string()).await.map_err(|_| Left)?;
        }
        Ok(())
    }

    async fn tell_now(&mut self) -> Result<(), Left> {
        self.tell_when_due().await
    }

    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Left> {
        self.socket.attend(work).await
    }
}

/// How a desktop ended.
enum Ended {
    ByItself(End),
    Aborted(String),
    LoginOver,
    RouterEnds,
}

/// Answers the upgrade and carries the desktop until it ends.
pub async fn carry<S>(router: &Router, guard: &Guard, mut conn: Conn<S>, upgrade: Upgrade)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Upgrade { answer, visitor, wanted, address } = upgrade;
    if conn.send(answer.as_bytes()).await.is_err() {
        return;
    }
    let (stream, ahead) = conn.into_parts();
    let client = Waiting { socket: Socket::new(stream), pending: Vec::new(), last: "acquired" };
    if !ahead.is_empty() {
        // No browser speaks before it has the answer.
        return client.socket.close(1002, "").await;
    }
    let mut seeking = Seeking { router, guard, who: visitor.who.clone(), address, client };
    let sought = async {
        open_for_users(router.node())?;
        let seek = Box::pin(seeking.seek(wanted.clone()));
        tokio::select! {
            sought = seek => Ok(sought),
            () = visitor.over.wait() => Err(Fault::NoLogin),
        }
    };
    let sought = sought.await;
    let socket = seeking.client.socket;
    match sought {
        Ok(Ok(session)) => session_of(router, guard, socket, session, &visitor, wanted.vm).await,
        Ok(Err(NoSession::Left)) => {}
        Ok(Err(NoSession::Denied(denied))) => {
            let fault = explained(router, &visitor, wanted.vm, denied.into()).await;
            tell(socket, fault).await;
        }
        Err(fault) => tell(socket, fault).await,
    }
}

/// The store's refusal does not say why a desktop is blocked; its card does.
async fn explained(router: &Router, visitor: &Visitor, vm: VmId, fault: Fault) -> Fault {
    if fault != Fault::Blocked(None) {
        return fault;
    }
    let cards = serve::cards(router, &visitor.who).await.unwrap_or_default();
    let card = cards.into_iter().find(|card| card.entry.vm == vm);
    Fault::Blocked(card.and_then(|card| match card.block? {
        Block::Order(note) => note,
        Block::FailedStart => card.failed,
    }))
}

/// There is no session: says why.
async fn tell<S: AsyncRead + AsyncWrite + Unpin>(mut socket: Socket<S>, fault: Fault) {
    let code = if fault == Fault::NoLogin { code::LOGIN_OVER } else { code::DENIED };
    let _gone = socket.say(&json!({ "fault": fault.json() }).to_string()).await;
    socket.close(code, fault.code()).await;
}

async fn session_of<S: AsyncRead + AsyncWrite + Unpin>(
    router: &Router,
    guard: &Guard,
    mut socket: Socket<S>,
    session: Session,
    visitor: &Visitor,
    vm: VmId,
) {
    let Session { guest, live, since, acquired, resumed } = session;
    let owner = (visitor.who.user, vm);
    let place = Place { host: acquired.host, address: acquired.address.into() };
    let desk = Desk { session: live.id(), login: visitor.id, left: false, place, grant: acquired.grant };
    if socket
        .say(&json!({ "open": true, "resumed": resumed, "session": format!("{:016x}", live.id()) }).to_string())
        .await
        .is_err()
    {
        return;
    }
    router.web.desks.add(owner, desk);
    let id = live.id();
    let _removed = at_end(|| router.web.desks.remove(owner, id));
    let touch = || {
        let limits = Web::limits(router);
        router.web.logins().touch(&visitor.id, limits, Instant::now());
    };
    let relayed = async {
        match guest {
            Guest::Here(mut guest) => socket.relay(&mut guest, touch).await,
            Guest::There(mut guest) => socket.relay(&mut *guest, touch).await,
        }
    };
    let ended = tokio::select! {
        (totals, end) = relayed => (Some(totals), Ended::ByItself(end)),
        reason = live.aborted() => (None, Ended::Aborted(reason)),
        () = visitor.over.wait() => (None, Ended::LoginOver),
        () = guard.cut() => (None, Ended::RouterEnds),
    };
    if since.elapsed() < router.config().get(&key::SHORT_SESSION) {
        router.counters.short_sessions.count();
    }
    let (totals, ended) = ended;
    let (code, fault) = words(ended);
    let seconds = since.elapsed().as_secs();
    tracing::info!(session = id, guest = %vm, seconds, totals = ?totals, code, "A browser's session ended");
    drop(live);
    if let Some(fault) = fault {
        if fault != Fault::TakenOver || !router.web.desks.is_left(owner, id) {
            router.web.desks.part(id, fault.clone());
        }
        // The close frame's reason is too short for words of an administrator.
        let text = ws::frame::message(ws::frame::Opcode::Text, json!({ "fault": fault.json() }).to_string().as_bytes());
        socket.queue(&text);
    }
    socket.close(code, "").await;
}

/// What the page hears of the end.
fn words(ended: Ended) -> (u16, Option<Fault>) {
    match ended {
        Ended::ByItself(End::Guest) => (code::ENDED, None),
        Ended::ByItself(End::GuestBroke(_)) => (code::BROKEN, None),
        Ended::ByItself(End::Client) => (code::ENDED, None),
        // One that hears it after all may try again.
        Ended::ByItself(End::Silent) => (code::BROKEN, None),
        Ended::ByItself(End::Violation(violation)) => (violation.code(), None),
        Ended::LoginOver => (code::LOGIN_OVER, Some(Fault::NoLogin)),
        Ended::RouterEnds => (code::ROUTER_ENDS, None),
        Ended::Aborted(reason) if reason == drain::REASON => (code::ROUTER_ENDS, None),
        Ended::Aborted(reason) => {
            let fault = Fault::of_abort(reason);
            let code = if fault == Fault::TakenOver { code::TAKEN_OVER } else { code::CUT };
            (code, Some(fault))
        }
    }
}

/// Runs when it is dropped, also by a panic.
fn at_end<F: FnMut()>(run: F) -> impl Drop {
    struct Guarded<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guarded<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guarded(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expect: &[&str]) {
        let params = params(&Query::parse(query));
        let values: Vec<_> = params.iter().skip(2).map(|(_, v)| v.as_str()).collect();
        assert_eq!(values, expect, "{query}");
    }

    #[test]
    fn only_sane_sizes_and_layouts_reach_the_agent() {
        check("w=1281&h=800&layout=es", &["1280x800", "pc105/es"]);
        check("w=10&h=800", &[]);
        check("w=99999&h=800&layout=../x", &[]);
        check("w=1280&layout=", &[]);
    }

    #[test]
    fn the_page_hears_why_its_desktop_ended() {
        let taken = Ended::Aborted(model::sync::TAKEN_OVER.to_owned());
        assert_eq!(words(taken).0, 4001);
        let (code, fault) = words(Ended::Aborted("maintenance at noon".to_owned()));
        assert_eq!((code, fault), (4002, Some(Fault::Cut(Some("maintenance at noon".to_owned())))));
        assert_eq!(words(Ended::Aborted(drain::REASON.to_owned())).0, 1001);
        assert_eq!(words(Ended::LoginOver).0, 4003);
    }
}
