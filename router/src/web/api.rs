//! Log in and out, list, start, stop.

use super::{Visit, Web, assets, done, fault::Fault, logins, page::Page, visit};
use crate::{
    answer::Status,
    auth,
    conn::Left,
    head::Request,
    progress::Step,
    query::Query,
    random,
    seek::{Client, NoSession, Seeking},
    serve,
};
use model::{
    UserId, VmId,
    local::RouterConfig,
    state::{HostState, UserState, VmState},
    sync::{Block, Call, LoggedIn, Refusal, Reply, Secret, VmCard},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::io::{AsyncRead, AsyncWrite};
use zeroize::Zeroizing;

/// The store answers within this time.
const STORE_LIMIT: Duration = Duration::from_secs(12);

#[derive(Deserialize)]
struct LoginForm {
    user: String,
    password: Zeroizing<String>,
    /// One-time code, for accounts that have one.
    #[serde(default)]
    code: Zeroizing<String>,
}

#[derive(Deserialize)]
struct LogoutForm {
    #[serde(default)]
    everywhere: bool,
}

#[derive(Deserialize)]
struct DesktopForm {
    /// The session that the page lost and wants back by itself, without its user's word.
    after: Option<String>,
}

/// Sets the language and goes back to the front page.
pub fn language(request: &Request) -> Page {
    let query = Query::parse(&request.query);
    let wanted = assets::LANGUAGES.into_iter().find(|l| query.get("to") == Some(l)).unwrap_or("en");
    let cookie = format!("{}={wanted}; Path=/; Max-Age=31536000; Secure; HttpOnly; SameSite=Strict", visit::LANGUAGE);
    Page::new(Status::Found).header("Set-Cookie", &cookie).header("Location", "/").header("Cache-Control", "no-store")
}

/// Whether this node takes users.
pub fn open_for_users(node: Option<Arc<RouterConfig>>) -> Result<(), Fault> {
    let node = node.filter(|n| n.host.is_some()).ok_or(Fault::NotRegistered)?;
    match node.state {
        _ if node.blocked => Err(Fault::Maintenance),
        HostState::Running => Ok(()),
        state => Err(Fault::NodeState(state.to_string())),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Visit<'_, S> {
    /// Logs in.
    pub async fn login(&mut self) -> Result<Page, Fault> {
        visit::same_origin(self.request)?;
        let form: LoginForm = self.json().await?;
        open_for_users(self.router.node())?;
        let (now, web) = (Instant::now(), &self.router.web);
        if let Some(wait) = web.throttle().wait(&form.user, self.address, now) {
            return Err(Fault::Slow(wait.as_secs() + 1));
        }
        self.router.counters.auth_attempts.count();
        let who = self.check(&form).await?;
        self.router.counters.auth_ok.count();
        let cookie = random::bytes::<32>().map_err(|e| Fault::Ours(e.to_string()))?;
        let limits = Web::limits(self.router);
        let old = visit::token(self.request);
        let visitor = {
            let mut logins = web.logins();
            logins.sweep(limits, now);
            // One who logs in again in the same browser has not two logins.
            if let Some(old) = old.and_then(|old| logins.visitor(&old, limits, false, now)) {
                logins.end(&old.id);
            }
            logins.begin(&cookie, who, now);
            logins.visitor(&cookie, limits, true, now).ok_or(Fault::NoLogin)?
        };
        tracing::info!(user = %visitor.who.user, client = %self.address, "A browser logged in");
        let cookie = format!("{}={}; Path=/; Secure; HttpOnly; SameSite=Strict", visit::LOGIN, logins::hex(&cookie));
        Ok(self.about(&visitor).header("Set-Cookie", &cookie))
    }

    async fn check(&self, form: &LoginForm) -> Result<LoggedIn, Fault> {
        let (router, web) = (self.router, &self.router.web);
        let (login, password) = (form.user.clone(), Secret(form.password.to_string()));
        let code = Some(form.code.trim()).filter(|c| !c.is_empty()).map(|c| Secret(c.to_owned()));
        let call = Call::LoginWithCode { login, password, code, client: self.address.to_string() };
        let ttl = router.config().get(&model::key::GRANT_TTL);
        match router.noded.call(call, Duration::from_secs(20)).await {
            Reply::LoggedIn(who) => {
                web.throttle().succeeded(&form.user);
                router.known.learn(&form.user, &form.password, &who, ttl);
                Ok(who)
            }
            Reply::LoggedInByCode(who) => {
                web.throttle().succeeded(&form.user);
                router.known.learn_code(&form.user, None, self.address, &who, ttl);
                Ok(who)
            }
            Reply::Refused(Refusal::StoreAway) => {
                router.known.verify(&form.user, &form.password).ok_or(Fault::StoreAway)
            }
            Reply::Refused(refusal @ (Refusal::BadLogin | Refusal::BadCode)) => {
                web.throttle().failed(&form.user, self.address, Instant::now());
                router.known.forget(&form.user, &form.password);
                tracing::info!(login = form.user, client = %self.address, %refusal, "A login was refused");
                Err(refusal.into())
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            other => Err(auth::unexpected(&other).into()),
        }
    }

    /// Who is logged in, and what the page needs to go on.
    pub fn session(&self) -> Result<Page, Fault> {
        Ok(self.about(&visit::visitor(self.router, self.request)?))
    }

    fn about(&self, visitor: &logins::Visitor) -> Page {
        let token = self.router.web.logins().csrf(&visitor.id);
        let limit = self.router.config().get(&model::key::L7R_WEB_UPLOAD_MAX);
        Page::json(
            Status::Ok,
            &json!({
                "user": visitor.who.login,
                "token": token,
                "left": visitor.left.as_secs(),
                "viewer": assets::NOVNC,
                "uploadMax": u64::from(limit) << 20,
            }),
        )
    }

    /// Logs out, here or everywhere.
    pub async fn logout(&mut self) -> Result<Page, Fault> {
        let visitor = visit::changer(self.router, self.request)?;
        let form: LogoutForm = self.json().await?;
        let page = if form.everywhere {
            self.logout_everywhere(visitor.who.user).await
        } else {
            self.router.web.logins().end(&visitor.id);
            done()
        };
        let gone = format!("{}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict", visit::LOGIN);
        Ok(page.header("Set-Cookie", &gone))
    }

    /// Here at once, and at the other nodes by the store's word. Without the store it is only here, which is told.
    async fn logout_everywhere(&self, user: UserId) -> Page {
        let ended = self.router.web.end_logins(user);
        let reply = self.router.noded.call(Call::EndLogins { user }, STORE_LIMIT).await;
        tracing::info!(%user, ended, ?reply, "A user logged out everywhere");
        match reply {
            Reply::LoginsEnded => done(),
            _ => Page::json(Status::Ok, &json!({ "onlyHere": true })),
        }
    }

    /// The user's desktops.
    pub async fn desktops(&mut self) -> Result<Page, Fault> {
        let visitor = visit::visitor(self.router, self.request)?;
        self.router.counters.http_requests.count();
        let vms = match serve::cards(self.router, &visitor.who).await {
            // There is no such user any more, and the word of it was lost.
            Err(Refusal::BadLogin) => {
                self.router.web.end_logins(visitor.who.user);
                return Err(Fault::NoLogin);
            }
            cards => cards?,
        };
        let notice = open_for_users(self.router.node()).err().map(|f| f.json());
        let cards: Vec<Value> = vms.iter().map(|vm| self.card(vm)).collect();
        Ok(Page::json(Status::Ok, &json!({ "desktops": cards, "notice": notice })))
    }

    fn card(&self, card: &VmCard) -> Value {
        let vm = &card.entry;
        // This router knows of its own sessions before the store does.
        let held = self.router.table.is_held(vm.vm) || card.session != UserState::Disconnected;
        let block = match &card.block {
            Some(Block::Order(note)) => json!({ "note": note }),
            Some(Block::FailedStart) => json!({ "code": Fault::NotRunning(String::new()).code() }),
            None => Value::Null,
        };
        json!({
            "id": vm.vm.0, "name": vm.name, "state": vm.state.as_str(), "blocked": vm.blocked, "block": block,
            "phase": card.phase, "away": card.unavailable, "held": held,
            "failed": card.failed.as_ref().map(|reason| Fault::NotRunning(reason.clone()).json()),
            "since": seconds(card.state_ms), "heldSince": seconds(card.session_ms.filter(|_| held)),
        })
    }

    /// `/web/desktops/N/VERB`.
    pub async fn change_desktop(&mut self, path: &str) -> Result<Page, Fault> {
        let visitor = visit::changer(self.router, self.request)?;
        let form: DesktopForm = self.json().await?;
        let rest = path.strip_prefix("/web/desktops/").ok_or(Fault::NoAddress)?;
        let (id, verb) = rest.split_once('/').ok_or(Fault::NoAddress)?;
        let vm = VmId(id.parse().map_err(|_| Fault::NoDesktop)?);
        match verb {
            "ticket" => self.ticket(&visitor, vm, form.after.as_deref()),
            "start" => self.start(visitor.who, vm).await,
            "stop" => self.stop(&visitor.who, vm).await,
            "restart" => self.restart(visitor.who, vm).await,
            _ => Err(Fault::NoAddress),
        }
    }

    fn ticket(&self, visitor: &logins::Visitor, vm: VmId, after: Option<&str>) -> Result<Page, Fault> {
        open_for_users(self.router.node())?;
        let lost = after.and_then(|session| u64::from_str_radix(session, 16).ok());
        if let Some(session) = lost {
            match self.router.web.desks.farewell(session) {
                Some(fault) => return Err(fault),
                None => self.router.web.desks.leave(visitor, vm, session),
            }
        }
        let ticket = random::bytes::<32>().map_err(|e| Fault::Ours(e.to_string()))?;
        self.router.web.logins().give_ticket(&visitor.id, &ticket, vm, Instant::now());
        Ok(Page::json(Status::Ok, &json!({ "ticket": logins::hex(&ticket) })))
    }

    /// Makes the cluster want the desktop running, and lets go of it.
    async fn start(&mut self, who: LoggedIn, vm: VmId) -> Result<Page, Fault> {
        open_for_users(self.router.node())?;
        let (router, guard, address) = (self.router, self.guard, self.address);
        let mut seeking = Seeking { router, guard, who, address, client: Silent };
        match seeking.hold(vm).await {
            Ok(_let_go_at_once) => Ok(done()),
            Err(NoSession::Denied(denied)) => Err(denied.into()),
            Err(NoSession::Left) => Err(Fault::Malformed),
        }
    }

    async fn stop(&mut self, who: &LoggedIn, vm: VmId) -> Result<Page, Fault> {
        match self.router.noded.call(Call::StopVm { user: who.user, vm }, STORE_LIMIT).await {
            Reply::Stopping => Ok(done()),
            Reply::Refused(refusal) => Err(refusal.into()),
            other => Err(auth::unexpected(&other).into()),
        }
    }
}

fn seconds(ms: Option<u64>) -> Option<u64> {
    ms.map(|ms| ms / 1000)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Visit<'_, S> {
    /// Stops and starts, in one request: a page that is closed meanwhile leaves no desktop half way.
    async fn restart(&mut self, who: LoggedIn, vm: VmId) -> Result<Page, Fault> {
        open_for_users(self.router.node())?;
        self.stop(&who, vm).await?;
        let limit = self.router.config().get(&model::key::VM_STOP_TIMEOUT);
        let (began, mut seen) = (Instant::now(), None);
        while began.elapsed() < limit {
            let call = Call::AwaitVm { user: who.user, vm, seen };
            match self.router.noded.call(call, STORE_LIMIT).await {
                Reply::Vm(now) if now.state == VmState::Stopped => return self.start(who, vm).await,
                Reply::Vm(now) => seen = Some(now.state),
                Reply::Refused(refusal) => return Err(refusal.into()),
                other => return Err(auth::unexpected(&other).into()),
            }
        }
        Err(Fault::State(VmState::Stopping.to_string()))
    }
}

/// One who only starts a desktop hears nothing on the way.
struct Silent;

impl Client for Silent {
    fn say(&mut self, _: Step) {}

    async fn tell_when_due(&mut self) -> Result<(), Left> {
        Ok(())
    }

    async fn tell_now(&mut self) -> Result<(), Left> {
        Ok(())
    }

    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Left> {
        Ok(work.await)
    }
}
