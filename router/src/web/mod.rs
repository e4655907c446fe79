//! Pages for browsers, on the connections and the port of the QVD protocol.
//!
//! | path | what |
//! |---|---|
//! | `GET /` | log-in and the user's desktops |
//! | `GET /web/desktop?id=N` | one desktop, full window |
//! | `GET /web/s/HASH/…`, `/web/n/HASH/…` | own files, noVNC ([`assets`]) |
//! | `GET /web/lang?to=es` | the language switch |
//! | `POST /web/login`, `POST /web/logout`, `GET /web/session` | [`api`] |
//! | `GET /web/desktops`, `POST /web/desktops/N/{start,stop,restart,ticket}` | [`api`] |
//! | `GET /web/socket` | WebSocket: progress as texts, then RFB ([`desktop`]) |
//! | `GET /web/files/{list,get,have}`, `PUT /web/files/put` | [`files`] |
//!
//! What changes anything needs the cookie, an `Origin` of this very address, and the login's token
//! ([`visit`]). Every failure is a [`fault::Fault`]. All state is in memory: logins, failed passwords, and
//! what opens file connections beside the sessions that are open.

mod api;
mod assets;
mod body;
mod desktop;
mod fault;
mod files;
mod logins;
mod page;
mod throttle;
mod visit;

pub use assets::weight;
pub use desktop::carry;
pub use page::Page;

use crate::{RouterError, answer::Status, conn::Conn, drain::Guard, head::Request, random, router::Router};
use fault::Fault;
use logins::{Limits, Logins};
use model::{UserId, key};
use std::{
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};
use throttle::Throttle;
use tokio::io::{AsyncRead, AsyncWrite};

/// What all pages share.
pub struct Web {
    logins: Mutex<Logins>,
    throttle: Mutex<Throttle>,
    desks: desktop::Desks,
}

impl Web {
    /// Nobody is logged in.
    pub fn new() -> Result<Self, RouterError> {
        let logins = Mutex::new(Logins::new(&random::bytes()?));
        Ok(Self { logins, throttle: Mutex::default(), desks: desktop::Desks::default() })
    }

    /// Ends all logins of a user, with their desktops; how many.
    pub fn end_logins(&self, user: UserId) -> usize {
        self.logins().end_all(user)
    }

    /// A panic elsewhere leaves the tables whole: every change is one call.
    fn logins(&self) -> MutexGuard<'_, Logins> {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(router: &Router) -> Limits {
        let config = router.config();
        Limits { idle: config.get(&key::L7R_WEB_IDLE), absolute: config.get(&key::L7R_WEB_ABSOLUTE) }
    }
}

/// Whether a request is for these pages.
pub fn is_ours(request: &Request) -> bool {
    request.path == "/" || request.path.starts_with("/web/") || request.path == "/favicon.ico"
}

/// What follows a request.
pub enum Next {
    /// An answer; the body of the request, if any, was read.
    Page(Page),
    /// The answer was sent already.
    Sent,
    /// The connection becomes a WebSocket.
    Socket(Box<desktop::Upgrade>),
    /// The client left, or cannot go on.
    Left,
}

impl From<Page> for Next {
    fn from(page: Page) -> Self {
        Self::Page(page)
    }
}

impl From<Fault> for Next {
    fn from(fault: Fault) -> Self {
        Self::Page(fault.into())
    }
}

/// One request and what it needs.
pub struct Visit<'a, S> {
    /// The router.
    pub router: &'a Router,
    /// Tells of the router's end.
    pub guard: &'a Guard,
    /// The client's connection.
    pub conn: &'a mut Conn<S>,
    /// The client's address.
    pub address: IpAddr,
    /// The request.
    pub request: &'a Request,
}

/// Answers a request.
pub async fn handle<S: AsyncRead + AsyncWrite + Unpin>(mut visit: Visit<'_, S>) -> Next {
    let request = visit.request;
    let next = match (request.method.as_str(), request.path.as_str()) {
        ("GET" | "HEAD", "/") => Ok(assets::page(request, "index").into()),
        ("GET" | "HEAD", "/web/desktop") => Ok(assets::page(request, "desktop").into()),
        ("GET", "/web/lang") => Ok(api::language(request).into()),
        ("POST", "/web/login") => visit.login().await.map(Next::Page),
        ("POST", "/web/logout") => visit.logout().await.map(Next::Page),
        ("GET", "/web/session") => visit.session().map(Next::Page),
        ("GET", "/web/desktops") => visit.desktops().await.map(Next::Page),
        ("GET", "/web/socket") => desktop::upgrade(visit.router, request, visit.address),
        ("POST", path) if path.starts_with("/web/desktops/") => visit.change_desktop(path).await.map(Next::Page),
        (_, path) if path.starts_with("/web/files/") => visit.files(path).await,
        ("GET" | "HEAD", _) => assets::file(request).map(Next::Page).ok_or(Fault::NoAddress),
        _ => Err(Fault::NoAddress),
    };
    match next {
        Ok(next) => next,
        // A body that was not read would be taken for the next request.
        Err(fault) if request.has_body() => Page::from(fault).and_close().into(),
        Err(fault) => fault.into(),
    }
}

/// A status without words, for requests that only a machine sends.
fn done() -> Page {
    Page::new(Status::NoContent).header("Cache-Control", "no-store")
}
