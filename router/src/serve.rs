//! One client's connection: requests and their answers, until it ends or becomes a session.
//!
//! | path (GET only) | checks, in this order | answer |
//! |---|---|---|
//! | `/qvd/ping` | registered 503, blocked 503, running 503 | 200 `I am alive!` |
//! | `/qvd/list_of_vm` | registered 503, login 401, blocked 503, running 503 | 200 JSON |
//! | `/qvd/connect_to_vm` | registered 503, login 401, blocked 503, upgrade 426, id 422, parameters 403, VM 404 or 403, all else 503 | 102s, 101 |
//! | `/qvd/stop_vm` | registered 503, login 401, blocked 503, id 422, VM 404 or 403, state 503, too slow 408 | 102s, 200 |
//!
//! `/` and `/web/…` are pages for browsers ([`crate::web`]). Everything else is 404. Heads that are none end the connection with 400, 408, 431 or 505. Only pages
//! read a body; another request that announces one is the connection's last.

use crate::{
    answer::{Answer, Status},
    auth::{self, Remembered},
    conn::{Conn, Left, NoRequest},
    connect,
    drain::{self, Guard},
    head::{HeadError, Request},
    progress::Progress,
    query::Query,
    relay,
    router::Router,
    seek::{NoSession, Session, Wanted},
    session::Guest,
    web,
};
use model::{
    key,
    local::RouterConfig,
    state::{HostState, VmState},
    sync::{Call, LoggedIn, Refusal, Reply, VmCard, VmEntry},
};
use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

/// A client that never logged in may be silent this long between two requests.
const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// One that did may show its list for this long: the Perl client keeps one connection for everything,
/// and its user chooses a machine in his own time.
const CHOOSING_LIMIT: Duration = Duration::from_secs(4 * 3600);
/// The store answers a list within this time.
const LIST_LIMIT: Duration = Duration::from_secs(10);
/// And a question about a VM.
const AWAIT_LIMIT: Duration = Duration::from_secs(12);

/// A client's connection after the TLS handshake.
pub struct Client<'a, S> {
    router: &'a Router,
    guard: &'a Guard,
    conn: Conn<S>,
    address: IpAddr,
    remembered: Remembered,
}

/// What follows a request.
enum Next {
    Answer(Answer),
    Session(Session),
    Web(web::Next),
    Left,
}

/// Why a VM was not stopped.
enum NotStopped {
    Answer(Answer),
    Left,
}

impl From<Answer> for NotStopped {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

impl From<Left> for NotStopped {
    fn from(_: Left) -> Self {
        Self::Left
    }
}

impl From<Answer> for Next {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// Serves a connection to its end.
pub async fn serve<S: AsyncRead + AsyncWrite + Unpin>(router: &Router, guard: &Guard, stream: S, address: IpAddr) {
    let client = Client { router, guard, conn: Conn::new(stream), address, remembered: Remembered::default() };
    client.run().await;
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<'_, S> {
    async fn run(mut self) {
        loop {
            let Some(request) = self.next().await else { return self.conn.close().await };
            // Boxed: what a connection needs in order to answer is not paid for while it is idle.
            let next = Box::pin(self.handle(&request)).await;
            let mut answer = match next {
                Next::Answer(answer) => answer,
                Next::Session(session) => return carry(self.router, self.guard, self.conn, session).await,
                Next::Web(web::Next::Socket(upgrade)) => {
                    return web::carry(self.router, self.guard, self.conn, *upgrade).await;
                }
                Next::Web(web::Next::Page(page)) => {
                    if self.page(page, &request).await {
                        continue;
                    }
                    return self.conn.close().await;
                }
                Next::Web(web::Next::Sent) => continue,
                Next::Web(web::Next::Left) | Next::Left => return,
            };
            answer.close |= request.has_body() || request.has_token("connection", "close");
            let sent = self.conn.answer(&answer, request.method == "HEAD").await;
            if sent.is_err() || answer.close {
                return self.conn.close().await;
            }
        }
    }

    /// Sends a page; whether the connection goes on.
    async fn page(&mut self, mut page: web::Page, request: &Request) -> bool {
        page.close |= request.has_token("connection", "close");
        let sent = self.conn.send(&page.bytes(request.method == "HEAD")).await;
        if sent.is_ok() && page.close && request.has_body() {
            self.conn.linger().await;
        }
        sent.is_ok() && !page.close
    }

    /// The next request; what is none is answered, and is the connection's last word.
    async fn next(&mut self) -> Option<Request> {
        let idle = if self.remembered.is_known() { CHOOSING_LIMIT } else { IDLE_LIMIT };
        let request = tokio::select! {
            request = self.conn.next(idle) => request,
            () = self.guard.draining() => return None,
        };
        let status = match request {
            Ok(request) => return Some(request),
            Err(NoRequest::Gone) => return None,
            Err(NoRequest::Slow) => Status::Timeout,
            Err(NoRequest::Head(HeadError::Malformed)) => Status::BadRequest,
            Err(NoRequest::Head(HeadError::Version)) => Status::Version,
            Err(NoRequest::Head(HeadError::TooLarge)) => Status::HeadTooLarge,
        };
        let _gone = self.conn.answer(&Answer::plain(status).and_close(), false).await;
        None
    }

    async fn handle(&mut self, request: &Request) -> Next {
        if web::is_ours(request) {
            let (router, guard, address) = (self.router, self.guard, self.address);
            return Next::Web(web::handle(web::Visit { router, guard, conn: &mut self.conn, address, request }).await);
        }
        let result = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/qvd/ping") => self.ping(),
            ("GET", "/qvd/list_of_vm") => self.list(request).await,
            ("GET", "/qvd/stop_vm") => match self.stop(request).await {
                Err(NotStopped::Left) => return Next::Left,
                Err(NotStopped::Answer(answer)) => Err(answer),
                Ok(answer) => Ok(answer),
            },
            ("GET", "/qvd/connect_to_vm") => return self.connect(request).await,
            _ => Err(Answer::plain(Status::NotFound)),
        };
        result.unwrap_or_else(|refused| refused).into()
    }

    /// For load balancers: says whether this node takes users.
    fn ping(&self) -> Result<Answer, Answer> {
        let node = self.registered()?;
        not_blocked(&node)?;
        running(&node)?;
        Ok(Answer::text(Status::Ok, "I am alive!\r\n"))
    }

    async fn list(&mut self, request: &Request) -> Result<Answer, Answer> {
        let node = self.registered()?;
        let who = self.authenticate(request).await?;
        not_blocked(&node)?;
        running(&node)?;
        Ok(Answer::vms(&vms(self.router, &who).await?))
    }

    async fn connect(&mut self, request: &Request) -> Next {
        let wanted = match self.may_connect(request).await {
            Ok(wanted) => wanted,
            Err(answer) => return answer.into(),
        };
        match connect::connect(self.router, self.guard, &mut self.conn, wanted, self.address).await {
            Ok(session) => Next::Session(session),
            Err(NoSession::Denied(denied)) => Answer::from(denied).into(),
            Err(NoSession::Left) => Next::Left,
        }
    }

    async fn may_connect(&mut self, request: &Request) -> Result<(LoggedIn, Wanted), Answer> {
        let node = self.registered()?;
        let who = self.authenticate(request).await?;
        not_blocked(&node)?;
        Ok((who, connect::wanted(request)?))
    }

    async fn stop(&mut self, request: &Request) -> Result<Answer, NotStopped> {
        let node = self.registered()?;
        let who = self.authenticate(request).await?;
        not_blocked(&node)?;
        let vm = connect::vm_id(&Query::parse(&request.query))?;
        match self.router.noded.call(Call::StopVm { user: who.user, vm }, LIST_LIMIT).await {
            Reply::Stopping => {}
            Reply::Refused(refusal) => return Err(Answer::from(refusal).into()),
            other => return Err(Answer::from(auth::unexpected(&other)).into()),
        }
        self.wait_until_stopped(&who, vm).await
    }

    async fn wait_until_stopped(&mut self, who: &LoggedIn, vm: model::VmId) -> Result<Answer, NotStopped> {
        let limit = self.router.config().get(&key::VM_STOP_TIMEOUT);
        let (began, mut seen, mut progress) = (Instant::now(), None, Progress::default());
        progress.say("Stopping virtual machine");
        loop {
            let call = Call::AwaitVm { user: who.user, vm, seen };
            let noded = self.router.noded.clone();
            match self.conn.attend(noded.call(call, AWAIT_LIMIT)).await? {
                Reply::Vm(now) if now.state == VmState::Stopped => {
                    return Ok(Answer::text(Status::Ok, "Machine stopped\r\n"));
                }
                Reply::Vm(now) => seen = Some(now.state),
                Reply::Refused(refusal) => return Err(Answer::from(refusal).into()),
                other => return Err(Answer::from(auth::unexpected(&other)).into()),
            }
            if began.elapsed() > limit {
                return Err(Answer::text(Status::Timeout, "VM didn't reach state 'stopped'. Timeout").into());
            }
            progress.say("Waiting for VM to reach state 'stopped'");
            if let Some(bytes) = progress.due(began.elapsed()) {
                self.conn.send(bytes.as_bytes()).await.map_err(|_| Left)?;
            }
        }
    }

    async fn authenticate(&mut self, request: &Request) -> Result<LoggedIn, Answer> {
        self.router.counters.http_requests.count();
        auth::authenticate(self.router, &mut self.remembered, request, self.address).await
    }

    fn registered(&self) -> Result<std::sync::Arc<RouterConfig>, Answer> {
        let node = self.router.node().filter(|n| n.host.is_some());
        node.ok_or_else(|| Answer::text(Status::Unavailable, "Host is not registered in the database"))
    }
}

/// The same with all that a page tells of them; while the store is away only what was listed.
pub async fn cards(router: &Router, who: &LoggedIn) -> Result<Vec<VmCard>, Refusal> {
    let user = who.user;
    match router.noded.call(Call::Cards { user }, LIST_LIMIT).await {
        Reply::Cards(cards) => {
            let vms: Vec<_> = cards.iter().map(|card| card.entry.clone()).collect();
            router.known.listed(user, &vms);
            Ok(cards)
        }
        Reply::Refused(Refusal::StoreAway) => {
            let vms = known_vms(router, who).ok_or(Refusal::StoreAway)?;
            Ok(vms.into_iter().map(VmCard::from).collect())
        }
        Reply::Refused(refusal) => Err(refusal),
        other => Err(auth::unexpected(&other)),
    }
}

/// A user's VMs, from the store or, while that is away, as last listed.
pub async fn vms(router: &Router, who: &LoggedIn) -> Result<Vec<VmEntry>, Refusal> {
    let user = who.user;
    match router.noded.call(Call::List { user }, LIST_LIMIT).await {
        Reply::Vms(vms) => {
            router.known.listed(user, &vms);
            Ok(vms)
        }
        Reply::Refused(Refusal::StoreAway) => known_vms(router, who).ok_or(Refusal::StoreAway),
        Reply::Refused(refusal) => Err(refusal),
        other => Err(auth::unexpected(&other)),
    }
}

/// The list as last seen, with the states that this node knows better.
fn known_vms(router: &Router, who: &LoggedIn) -> Option<Vec<VmEntry>> {
    let mut vms = router.known.vms(who.user)?;
    for vm in &mut vms {
        vm.state = router.table.guest(vm.vm).unwrap_or(vm.state);
    }
    Some(vms)
}

fn not_blocked(node: &RouterConfig) -> Result<(), Answer> {
    if node.blocked { Err(Answer::text(Status::Unavailable, "Server is blocked")) } else { Ok(()) }
}

fn running(node: &RouterConfig) -> Result<(), Answer> {
    match node.state {
        HostState::Running => Ok(()),
        state => Err(Answer::text(Status::Unavailable, format!("Server is {state}"))),
    }
}

/// Carries a session's bytes until it ends by itself, is aborted, or the router ends.
async fn carry<S>(router: &Router, guard: &Guard, conn: Conn<S>, session: Session)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Session { guest, live, since, .. } = session;
    let (mut stream, ahead) = conn.into_parts();
    let relayed = async {
        match guest {
            Guest::Here(mut guest) => relay::relay(&mut stream, &mut guest, ahead).await,
            Guest::There(mut guest) => relay::relay(&mut stream, &mut *guest, ahead).await,
        }
    };
    let ended = tokio::select! {
        ended = relayed => Ok(ended),
        reason = live.aborted() => Err(reason),
        () = guard.cut() => Err(drain::REASON.to_owned()),
    };
    if since.elapsed() < router.config().get(&key::SHORT_SESSION) {
        router.counters.short_sessions.count();
    }
    log_end(live.id(), since, ended);
    drop(live);
    let _best_effort = tokio::time::timeout(Duration::from_millis(500), stream.shutdown()).await;
}

fn log_end(session: u64, since: Instant, ended: Result<(relay::Totals, io::Result<()>), String>) {
    let seconds = since.elapsed().as_secs();
    match ended {
        Ok((relay::Totals { up, down }, Ok(()))) => tracing::info!(session, seconds, up, down, "A session ended"),
        Ok((relay::Totals { up, down }, Err(error))) => {
            tracing::info!(session, seconds, up, down, error = %error, "A session broke");
        }
        Err(reason) => tracing::info!(session, seconds, reason, "A session was cut"),
    }
}
