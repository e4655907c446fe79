//! Answers to a router's questions.

use crate::{
    db::{Account, Acquire, Holder, Placed, Tx, Verdict, Wish},
    error::{Result, chain},
    secret,
    store::Store,
    throttle::Subject,
    totp,
};
use model::{
    HostId, UserId, VmId,
    grant::Grant,
    key,
    state::VmState,
    sync::{Acquired, Call, LoggedIn, Refusal, Reply, Secret, ToNode},
};
use std::{sync::PoisonError, time::Duration};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

/// A question about a VM's state is answered after this at the latest.
const AWAIT: Duration = Duration::from_secs(2);
/// A session that does not let go is told again this often.
const ABORT_AGAIN: Duration = Duration::from_secs(2);

pub(super) async fn answer(store: &Store, router: HostId, call: Call) -> Reply {
    let reply = match call {
        Call::Login { login, password, client } => {
            log_in(store, Attempt { login, password, code: Code::Behind, client }).await
        }
        Call::LoginWithCode { login, password, code, client } => {
            log_in(store, Attempt { login, password, code: Code::Apart(code), client }).await
        }
        Call::List { user } => listed(store, user, move |tx| tx.vms_of(user).map(Reply::Vms)).await,
        Call::Cards { user } => listed(store, user, move |tx| tx.cards_of(user).map(Reply::Cards)).await,
        Call::Acquire { user, vm, session, client } => acquire(store, Wish { user, vm, session, client, router }).await,
        Call::AwaitVm { user, vm, seen } => await_vm(store, user, vm, seen).await,
        Call::StopVm { user, vm } => stop_vm(store, user, vm).await,
        Call::EndLogins { user } => {
            info!(%user, "A user logs out everywhere");
            // The asker as well: it has its answer behind this word.
            store.hub.tell_all_even_late(&ToNode::EndLogins(user));
            Ok(Ok(Reply::LoginsEnded))
        }
    };
    match reply {
        Ok(Ok(reply)) => reply,
        Ok(Err(refusal)) => Reply::Refused(refusal),
        Err(error) => {
            error!(host = %router, error = %chain(&error), "Cannot answer a router");
            Reply::Refused(Refusal::Other("the store failed: its log says why".to_owned()))
        }
    }
}

/// A login as it was typed.
struct Attempt {
    login: String,
    password: Secret,
    code: Code,
    client: String,
}

/// Where the one-time code is.
enum Code {
    /// Behind the password, if the account has codes.
    Behind,
    /// Apart; none when nothing was typed.
    Apart(Option<Secret>),
}

impl Attempt {
    /// Password and code, for an account with codes.
    fn parts(self) -> (Secret, Option<Secret>) {
        match self.code {
            Code::Apart(code) => (self.password, code.filter(|code| !code.0.trim().is_empty())),
            Code::Behind => match totp::split(&self.password.0) {
                Some((password, code)) => (Secret(password.to_owned()), Some(Secret(code.to_owned()))),
                None => (self.password, None),
            },
        }
    }
}

async fn log_in(store: &Store, attempt: Attempt) -> Result<Verdict<Reply>> {
    let typed = attempt.login.clone();
    let (login, account) = store
        .db
        .read(move |tx| {
            let login = tx.normal_login(&typed)?;
            let account = tx.account(&login)?;
            Ok((login, account))
        })
        .await?;
    let client = attempt.client.clone();
    let subjects = [Subject::Login(login.clone()), Subject::Address(client.clone())];
    let now = || store.db.clock().now_ms();
    let throttle = || store.throttle.lock().unwrap_or_else(PoisonError::into_inner);
    let wait = throttle().wait_s(&subjects, now());
    if wait > 0 {
        warn!(user = login, client, seconds = wait, "Login refused: too many failures");
        return Ok(Err(Refusal::TooMany(wait)));
    }
    let verdict = check(store, attempt, account).await?;
    let mut throttle = throttle();
    // Guesses that are made at the same time are no more than those made one after the other: what failed meanwhile
    // counts, and beyond the limit the right password is told from a wrong one no more.
    let wait = throttle.wait_s(&subjects, now());
    match &verdict {
        Err(Refusal::BadLogin | Refusal::BadCode) => throttle.failed(&subjects, now()),
        Ok(_) if wait == 0 => throttle.succeeded(&login),
        _ => {}
    }
    drop(throttle);
    match &verdict {
        _ if wait > 0 => warn!(user = login, client, seconds = wait, "Login refused: too many failed at the same time"),
        Ok(_) => info!(user = login, client, "Login"),
        // The password was right, and nothing was guessed.
        Err(Refusal::CodeNeeded) => info!(user = login, client, "Login without the one-time code"),
        Err(refusal) => warn!(user = login, client, why = %refusal, "Login failed"),
    }
    if wait > 0 { Ok(Err(Refusal::TooMany(wait))) } else { Ok(verdict) }
}

/// Password first, then the code: who does not know the one learns nothing of the other.
async fn check(store: &Store, attempt: Attempt, account: Option<Account>) -> Result<Verdict<Reply>> {
    let phc = account.as_ref().and_then(|account| account.password.clone());
    let Some((sealed, last)) = account.as_ref().and_then(|account| account.totp.clone()) else {
        let right = secret::verify(attempt.password, phc).await?;
        let who = account.filter(|_| right).map(|account| LoggedIn { user: account.id, login: account.login });
        return Ok(who.map(Reply::LoggedIn).ok_or(Refusal::BadLogin));
    };
    let (password, code) = attempt.parts();
    let right = secret::verify(password, phc).await?;
    let Some(Account { id, login, .. }) = account.filter(|_| right) else { return Ok(Err(Refusal::BadLogin)) };
    let Some(code) = code else { return Ok(Err(Refusal::CodeNeeded)) };
    let key = secret::bytes(&sealed).unwrap_or_default();
    let key = store.pki.open(&totp::context(id), &key)?;
    let Some(step) = totp::step(&key, &code.0, store.db.clock().now_ms(), last) else {
        return Ok(Err(Refusal::BadCode));
    };
    let first = store.db.write(move |tx| tx.totp_use(id, step)).await?;
    Ok(if first { Ok(Reply::LoggedInByCode(LoggedIn { user: id, login })) } else { Err(Refusal::BadCode) })
}

/// Answers with what is `of` the user; one who does not exist any more is nobody.
async fn listed<F>(store: &Store, user: UserId, of: F) -> Result<Verdict<Reply>>
where
    F: FnOnce(&Tx) -> Result<Reply> + Send + 'static,
{
    let list = move |tx: &Tx| if tx.user_exists(user)? { of(tx).map(Ok) } else { Ok(Err(Refusal::BadLogin)) };
    store.db.read(list).await
}

/// Takes the VM, ending another session first if there is one.
async fn acquire(store: &Store, wish: Wish) -> Result<Verdict<Reply>> {
    let limit = store.db.read(|tx| Ok(tx.config()?.get(&key::TAKEOVER_TIMEOUT))).await?;
    let deadline = Instant::now() + limit;
    let mut told: Option<(Holder, Instant)> = None;
    loop {
        let mut changes = store.db.changes();
        let holder = match attempt(store, &wish).await? {
            Acquire::Refused(refusal) => return Ok(Err(refusal)),
            Acquire::Held(placed) => return grant(store, &wish, *placed, told.is_some()).await.map(Ok),
            Acquire::Contended(holder) => holder,
        };
        let now = Instant::now();
        if now >= deadline {
            return Ok(Err(Refusal::Held));
        }
        let again = match told {
            Some((before, again)) if before == holder && now < again => again,
            _ => {
                abort(store, wish.vm, holder).await?;
                now + ABORT_AGAIN
            }
        };
        told = Some((holder, again));
        // Any change may be the one waited for; the loop looks again.
        drop(timeout_at(deadline.min(again), changes.changed()).await);
    }
}

/// Takes the VM when nothing is in the way. What is in the way is only looked at: a write would be a change,
/// and wake this very waiter.
async fn attempt(store: &Store, wish: &Wish) -> Result<Acquire> {
    let looked = wish.clone();
    match store.db.read(move |tx| tx.obstacle(&looked)).await? {
        Some(obstacle) => Ok(obstacle),
        None => {
            let wish = wish.clone();
            store.db.write(move |tx| tx.acquire(&wish, &mut secret::dice)).await
        }
    }
}

/// Tells the router that has the session to cut it. A router that cannot be told has lost its node, or
/// its node the store: the session is taken from it, and the VM's own node is told as well.
async fn abort(store: &Store, vm: VmId, holder: Holder) -> Result<()> {
    let reason = model::sync::TAKEN_OVER.to_owned();
    let message = || ToNode::AbortSession { vm, session: holder.session, reason: reason.clone() };
    if holder.router.is_some_and(|router| store.hub.send(router, message())) {
        info!(guest = %vm, "Session told to let go for another client");
        return Ok(());
    }
    let host = store.db.read(move |tx| Ok(tx.life(vm)?.and_then(|life| life.host))).await?;
    if let Some(host) = host {
        store.hub.send(host, message());
    }
    warn!(guest = %vm, "Session taken from a router that cannot be reached");
    store.db.write(move |tx| tx.end_session_of(vm, holder)).await
}

async fn grant(store: &Store, wish: &Wish, placed: Placed, took_over: bool) -> Result<Reply> {
    let ttl = store.db.read(|tx| Ok(tx.config()?.get(&key::GRANT_TTL))).await?;
    let Placed { host, address, login, params, now } = placed;
    let expires = store.db.clock().now_ms() / 1000 + ttl.as_secs();
    let grant = store.pki.sign(&Grant { user: wish.user, vm: wish.vm, host, expires, login, params })?;
    info!(guest = %wish.vm, host = %host, user = %wish.user, took_over, "Desktop granted");
    Ok(Reply::Acquired(Acquired { host, address, grant, now, took_over }))
}

async fn await_vm(store: &Store, user: UserId, vm: VmId, seen: Option<VmState>) -> Result<Verdict<Reply>> {
    let deadline = Instant::now() + AWAIT;
    loop {
        let mut changes = store.db.changes();
        let life = match store.db.read(move |tx| tx.life_for(user, vm)).await? {
            Ok(life) => life,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if Some(life.state) != seen || timeout_at(deadline, changes.changed()).await.is_err() {
            return Ok(Ok(Reply::Vm(life.now())));
        }
    }
}

async fn stop_vm(store: &Store, user: UserId, vm: VmId) -> Result<Verdict<Reply>> {
    store
        .db
        .write(move |tx| match tx.life_for(user, vm)? {
            Ok(life) => Ok(tx.want_stop(&life)?.map(|()| Reply::Stopping)),
            Err(refusal) => Ok(Err(refusal)),
        })
        .await
}
