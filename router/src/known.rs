//! What users who logged in here before may do while the store is away.
//!
//! For `l7r.grant.ttl` after a login the router remembers, in memory only: a keyed hash of login and
//! password (the key is random and dies with the process), the user's VMs as last listed, and the
//! grants that the store signed. With these a user lists, and reconnects to, what runs on this node.
//!
//! A login by a one-time code is not kept so: the code is good once. But QVD's C client lists on one connection
//! and connects on the next with the very same words, so for [`AGAIN`] what one client address said once, and
//! the store took, it may say again.

use crate::{RouterError, random};
use model::{
    UserId, VmId,
    sync::{Acquired, LoggedIn, VmEntry},
};
use ring::hmac;
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a login by a one-time code is known: a user chooses a desktop meanwhile.
pub const AGAIN: Duration = Duration::from_secs(90);

/// A keyed hash of a login with its password; says nothing without the key.
#[derive(Clone)]
pub struct Tag(Vec<u8>);

/// All that is known.
pub struct Known {
    key: hmac::Key,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    logins: HashMap<String, Login>,
    by_code: HashMap<(String, IpAddr), Login>,
    users: HashMap<UserId, User>,
}

struct Login {
    tag: Tag,
    who: LoggedIn,
    until: Instant,
}

struct User {
    vms: Option<Vec<VmEntry>>,
    acquired: HashMap<VmId, Acquired>,
    until: Instant,
}

impl Known {
    /// Nothing is known; a fresh key.
    pub fn new() -> Result<Self, RouterError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::bytes::<32>()?);
        Ok(Self { key, inner: Mutex::default() })
    }

    /// The tag of a login with its password.
    pub fn tag(&self, login: &str, password: &str) -> Tag {
        Tag(hmac::sign(&self.key, &message(login, password)).as_ref().to_vec())
    }

    /// Whether a tag is of this login and password, in constant time.
    pub fn matches(&self, tag: &Tag, login: &str, password: &str) -> bool {
        hmac::verify(&self.key, &message(login, password), &tag.0).is_ok()
    }

    /// The store accepted this login.
    pub fn learn(&self, login: &str, password: &str, who: &LoggedIn, ttl: Duration) {
        let (now, tag) = (Instant::now(), self.tag(login, password));
        let mut inner = self.lock();
        inner.meet(who.user, now, now + ttl);
        inner.logins.insert(login.to_owned(), Login { tag, who: who.clone(), until: now + ttl });
    }

    /// The store accepted this login by a one-time code. `text` is all that the client said; none when it will
    /// not say it again.
    pub fn learn_code(&self, login: &str, text: Option<&str>, client: IpAddr, who: &LoggedIn, ttl: Duration) {
        let now = Instant::now();
        let mut inner = self.lock();
        inner.meet(who.user, now, now + ttl);
        // Its password alone, which may have been enough before, is not any more.
        inner.logins.remove(login);
        if let Some(text) = text {
            let login_again = Login { tag: self.tag(login, text), who: who.clone(), until: now + AGAIN };
            inner.by_code.insert((login.to_owned(), client), login_again);
        }
    }

    /// Who said the same a moment ago, from the same address, with a code that was good then.
    pub fn again(&self, login: &str, text: &str, client: IpAddr) -> Option<LoggedIn> {
        let inner = self.lock();
        let known = inner.by_code.get(&(login.to_owned(), client)).filter(|l| l.until > Instant::now())?;
        self.matches(&known.tag, login, text).then(|| known.who.clone())
    }

    /// Nothing is known of this user any more.
    pub fn forget_user(&self, user: UserId) {
        let mut inner = self.lock();
        inner.logins.retain(|_, l| l.who.user != user);
        inner.by_code.retain(|_, l| l.who.user != user);
        inner.users.remove(&user);
    }

    /// The store refused this login: if it is what was known, it is known no more. A wrong password
    /// changes nothing, or anybody could lock a user out.
    pub fn forget(&self, login: &str, password: &str) {
        let mut inner = self.lock();
        if inner.logins.get(login).is_some_and(|l| self.matches(&l.tag, login, password))
            && let Some(gone) = inner.logins.remove(login)
        {
            inner.users.remove(&gone.who.user);
        }
    }

    /// Who this is, without the store.
    pub fn verify(&self, login: &str, password: &str) -> Option<LoggedIn> {
        let inner = self.lock();
        let known = inner.logins.get(login).filter(|l| l.until > Instant::now())?;
        self.matches(&known.tag, login, password).then(|| known.who.clone())
    }

    /// The store listed a user's VMs.
    pub fn listed(&self, user: UserId, vms: &[VmEntry]) {
        if let Some(user) = self.lock().users.get_mut(&user) {
            user.vms = Some(vms.to_vec());
        }
    }

    /// The store gave a VM to a user.
    pub fn acquired(&self, user: UserId, vm: VmId, acquired: &Acquired) {
        if let Some(user) = self.lock().users.get_mut(&user) {
            user.acquired.insert(vm, acquired.clone());
        }
    }

    /// A user's VMs as last listed.
    pub fn vms(&self, user: UserId) -> Option<Vec<VmEntry>> {
        self.lock().users.get(&user)?.vms.clone()
    }

    /// What the store last said when this user asked for this VM.
    pub fn grant(&self, user: UserId, vm: VmId) -> Option<Acquired> {
        self.lock().users.get(&user)?.acquired.get(&vm).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn meet(&mut self, user: UserId, now: Instant, until: Instant) {
        self.logins.retain(|_, l| l.until > now);
        self.by_code.retain(|_, l| l.until > now);
        self.users.retain(|_, u| u.until > now);
        let user = self.users.entry(user);
        user.or_insert_with(|| User { vms: None, acquired: HashMap::new(), until }).until = until;
    }
}

/// The length keeps `ab`, `c` apart from `a`, `bc`.
fn message(login: &str, password: &str) -> zeroize::Zeroizing<Vec<u8>> {
    let length = (login.len() as u64).to_le_bytes();
    zeroize::Zeroizing::new([&length[..], login.as_bytes(), password.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn ann() -> LoggedIn {
        LoggedIn { user: UserId(1), login: "ann".to_owned() }
    }

    #[test]
    fn a_known_user_is_verified_until_the_time_is_over() {
        let known = Known::new().expect("random");
        known.learn("ann", "pw", &ann(), DAY);
        assert_eq!(known.verify("ann", "pw"), Some(ann()));
        assert_eq!(known.verify("ann", "PW"), None);
        assert_eq!(known.verify("an", "npw"), None);
        assert_eq!(known.verify("bob", "pw"), None);
        known.learn("ann", "pw", &ann(), Duration::ZERO);
        assert_eq!(known.verify("ann", "pw"), None);
    }

    #[test]
    fn a_login_by_code_may_be_said_again_from_the_same_address_and_is_no_login_without_the_store() {
        let known = Known::new().expect("random");
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        known.learn("ann", "pw", &ann(), DAY);
        known.learn_code("ann", Some("pw123456"), here, &ann(), DAY);
        assert_eq!(known.again("ann", "pw123456", here), Some(ann()));
        assert_eq!(known.again("ann", "pw123456", there), None);
        assert_eq!(known.again("ann", "pw123457", here), None);
        assert_eq!((known.verify("ann", "pw123456"), known.verify("ann", "pw")), (None, None));
        known.listed(UserId(1), &[]);
        assert_eq!(known.vms(UserId(1)), Some(Vec::new()), "one who is in goes on without the store");
        known.forget_user(UserId(1));
        assert_eq!((known.again("ann", "pw123456", here), known.vms(UserId(1))), (None, None));
    }

    #[test]
    fn a_refused_password_is_forgotten_and_a_wrong_one_locks_nobody_out() {
        let known = Known::new().expect("random");
        known.learn("ann", "pw", &ann(), DAY);
        known.forget("ann", "wrong");
        assert_eq!(known.verify("ann", "pw"), Some(ann()));
        known.listed(UserId(1), &[]);
        known.forget("ann", "pw");
        assert_eq!(known.verify("ann", "pw"), None);
        assert_eq!(known.vms(UserId(1)), None);
    }
}
