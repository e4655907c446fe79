//! Who is logged in with a browser: cookies, tickets for WebSockets, and their limits.
//!
//! Pure: the time is an argument. A cookie is 256 random bits, of which only a hash is kept; so is a
//! ticket, which is good for one WebSocket within [`TICKET_TTL`]. Both tables are bounded. The end of a
//! login, however it comes, is seen by all that hold its [`Over`].

use model::{UserId, VmId, sync::LoggedIn};
use ring::{digest, hmac};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Random bytes of a cookie or ticket.
pub type Token = [u8; 32];
/// What is kept of one.
type Hash = [u8; 32];

/// A ticket must be used within this time.
pub const TICKET_TTL: Duration = Duration::from_secs(30);
/// Most logins at a time; beyond it the one unused for the longest time ends.
pub const MAX_LOGINS: usize = 20_000;
/// Most logins of one user at a time.
pub const MAX_PER_USER: usize = 20;
/// Most tickets of one login at a time.
const MAX_TICKETS: usize = 8;

/// How long logins live.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Without any request.
    pub idle: Duration,
    /// In all.
    pub absolute: Duration,
}

/// Why a login ended. Others wait for it.
#[derive(Clone, Debug)]
pub struct Over(watch::Receiver<()>);

impl Over {
    /// Resolves when the login has ended.
    pub async fn wait(&self) {
        let mut alive = self.0.clone();
        while alive.changed().await.is_ok() {}
    }
}

/// One login.
#[derive(Debug)]
struct Login {
    who: LoggedIn,
    since: Instant,
    used: Instant,
    tickets: HashMap<Hash, (VmId, Instant)>,
    alive: watch::Sender<()>,
}

/// What a valid cookie says.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Who.
    pub who: LoggedIn,
    /// Names the login inside the router.
    pub id: Hash,
    /// Time until it ends whatever happens.
    pub left: Duration,
    /// Resolves when it has ended.
    pub over: Over,
}

/// All logins.
pub struct Logins {
    key: hmac::Key,
    logins: HashMap<Hash, Login>,
}

impl Logins {
    /// None; `key` is random and makes the tokens against forged requests.
    pub fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), logins: HashMap::new() }
    }

    /// Begins a login with a fresh random cookie.
    pub fn begin(&mut self, cookie: &Token, who: LoggedIn, now: Instant) {
        while self.of(who.user).count() >= MAX_PER_USER {
            let oldest = self.of(who.user).min_by_key(|(_, l)| l.used).map(|(id, _)| *id);
            oldest.and_then(|id| self.logins.remove(&id));
        }
        if self.logins.len() >= MAX_LOGINS {
            let oldest = self.logins.iter().min_by_key(|(_, l)| l.used).map(|(id, _)| *id);
            oldest.and_then(|id| self.logins.remove(&id));
        }
        let login = Login { who, since: now, used: now, tickets: HashMap::new(), alive: watch::channel(()).0 };
        self.logins.insert(hash(cookie), login);
    }

    fn of(&self, user: UserId) -> impl Iterator<Item = (&Hash, &Login)> {
        self.logins.iter().filter(move |(_, l)| l.who.user == user)
    }

    /// Who a cookie is of. `used` puts the idle limit off; a page that only refreshes itself does not.
    pub fn visitor(&mut self, cookie: &Token, limits: Limits, used: bool, now: Instant) -> Option<Visitor> {
        let id = hash(cookie);
        let login = self.live(&id, limits, now)?;
        if used {
            login.used = now;
        }
        let left = limits.absolute.saturating_sub(now - login.since);
        Some(Visitor { who: login.who.clone(), id, left, over: Over(login.alive.subscribe()) })
    }

    /// A login within its limits; one beyond them ends here.
    fn live(&mut self, id: &Hash, limits: Limits, now: Instant) -> Option<&mut Login> {
        let login = self.logins.get(id)?;
        if now - login.used > limits.idle || now - login.since > limits.absolute {
            self.logins.remove(id);
        }
        self.logins.get_mut(id)
    }

    /// An open desktop keeps its login from being idle. False when the login is over.
    pub fn touch(&mut self, id: &Hash, limits: Limits, now: Instant) -> bool {
        self.live(id, limits, now).map(|login| login.used = now).is_some()
    }

    /// Ends all that are beyond their limits.
    pub fn sweep(&mut self, limits: Limits, now: Instant) {
        self.logins.retain(|_, l| now - l.used <= limits.idle && now - l.since <= limits.absolute);
    }

    /// Ends one login.
    pub fn end(&mut self, id: &Hash) {
        self.logins.remove(id);
    }

    /// Ends all logins of a user; how many.
    pub fn end_all(&mut self, user: UserId) -> usize {
        let before = self.logins.len();
        self.logins.retain(|_, l| l.who.user != user);
        before - self.logins.len()
    }

    /// The token that requests of this login which change something must carry.
    pub fn csrf(&self, id: &Hash) -> String {
        hex(hmac::sign(&self.key, id).as_ref())
    }

    /// Whether a request carries it, in constant time.
    pub fn csrf_is(&self, id: &Hash, token: &str) -> bool {
        unhex::<32>(token).is_some_and(|tag| hmac::verify(&self.key, id, &tag).is_ok())
    }

    /// Makes a ticket for one WebSocket to one desktop.
    pub fn give_ticket(&mut self, id: &Hash, ticket: &Token, vm: VmId, now: Instant) {
        let Some(login) = self.logins.get_mut(id) else { return };
        login.tickets.retain(|_, (_, until)| *until > now);
        if login.tickets.len() >= MAX_TICKETS {
            let oldest = login.tickets.iter().min_by_key(|(_, (_, until))| *until).map(|(hash, _)| *hash);
            oldest.and_then(|hash| login.tickets.remove(&hash));
        }
        login.tickets.insert(hash(ticket), (vm, now + TICKET_TTL));
    }

    /// Takes a ticket of this login; it is good no more, whatever the answer.
    pub fn take_ticket(&mut self, id: &Hash, ticket: &Token, now: Instant) -> Option<VmId> {
        let (vm, until) = self.logins.get_mut(id)?.tickets.remove(&hash(ticket))?;
        (until > now).then_some(vm)
    }
}

/// Keys of a hash table need no constant time when they are hashes of random bytes.
fn hash(token: &Token) -> Hash {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token).as_ref());
    out
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads it back.
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    let digit = |b: u8| (b as char).to_digit(16).filter(|_| !b.is_ascii_uppercase());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = (digit(*high)? * 16 + digit(*low)?) as u8;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits { idle: Duration::from_secs(100), absolute: Duration::from_secs(1000) };
    const SECOND: Duration = Duration::from_secs(1);

    fn ann() -> LoggedIn {
        LoggedIn { user: UserId(1), login: "ann".to_owned() }
    }

    fn logins() -> Logins {
        Logins::new(&[9; 32])
    }

    #[test]
    fn a_login_ends_when_it_is_idle_and_when_it_is_old() {
        let (mut logins, start) = (logins(), Instant::now());
        logins.begin(&[1; 32], ann(), start);
        assert!(logins.visitor(&[2; 32], LIMITS, true, start).is_none());
        assert!(logins.visitor(&[1; 32], LIMITS, true, start + 90 * SECOND).is_some());
        assert!(logins.visitor(&[1; 32], LIMITS, false, start + 180 * SECOND).is_some(), "put off by use");
        assert!(logins.visitor(&[1; 32], LIMITS, false, start + 191 * SECOND).is_none(), "not by a refresh");
        logins.begin(&[1; 32], ann(), start);
        for second in (0..1000).step_by(50) {
            assert!(logins.visitor(&[1; 32], LIMITS, true, start + second * SECOND).is_some());
        }
        assert!(logins.visitor(&[1; 32], LIMITS, true, start + 1001 * SECOND).is_none());
    }

    #[tokio::test]
    async fn everything_that_hangs_on_a_login_hears_of_its_end() {
        let (mut logins, now) = (logins(), Instant::now());
        for cookie in [[1; 32], [2; 32]] {
            logins.begin(&cookie, ann(), now);
        }
        let one = logins.visitor(&[1; 32], LIMITS, true, now).expect("there");
        let two = logins.visitor(&[2; 32], LIMITS, true, now).expect("there");
        logins.end(&one.id);
        one.over.wait().await;
        assert_eq!(logins.end_all(UserId(1)), 1);
        two.over.wait().await;
    }

    #[test]
    fn a_ticket_is_good_once_for_its_login_and_for_a_short_time() {
        let (mut logins, now) = (logins(), Instant::now());
        logins.begin(&[1; 32], ann(), now);
        logins.begin(&[2; 32], ann(), now);
        let [one, two] = [[1; 32], [2; 32]].map(|c| logins.visitor(&c, LIMITS, true, now).expect("there").id);
        logins.give_ticket(&one, &[5; 32], VmId(7), now);
        assert_eq!(logins.take_ticket(&two, &[5; 32], now), None, "another login's");
        assert_eq!(logins.take_ticket(&one, &[5; 32], now), Some(VmId(7)));
        assert_eq!(logins.take_ticket(&one, &[5; 32], now), None, "used");
        logins.give_ticket(&one, &[6; 32], VmId(7), now);
        assert_eq!(logins.take_ticket(&one, &[6; 32], now + TICKET_TTL), None, "late");
    }

    #[test]
    fn the_token_against_forged_requests_is_of_one_login() {
        let (mut logins, now) = (logins(), Instant::now());
        logins.begin(&[1; 32], ann(), now);
        logins.begin(&[2; 32], ann(), now);
        let [one, two] = [[1; 32], [2; 32]].map(|c| logins.visitor(&c, LIMITS, true, now).expect("there").id);
        let token = logins.csrf(&one);
        assert!(logins.csrf_is(&one, &token));
        assert!(!logins.csrf_is(&two, &token) && !logins.csrf_is(&one, "") && !logins.csrf_is(&one, &token[2..]));
    }

    proptest! {
        #[test]
        fn nobody_fills_the_tables(users in prop::collection::vec(0u32..3, 1..120), tickets in 0u8..40) {
            let (mut logins, now) = (logins(), Instant::now());
            for (n, user) in users.iter().enumerate() {
                let mut cookie = [0; 32];
                cookie[..8].copy_from_slice(&n.to_le_bytes());
                logins.begin(&cookie, LoggedIn { user: UserId(*user), login: String::new() }, now + n as u32 * SECOND / 100);
                let id = logins.visitor(&cookie, LIMITS, true, now + n as u32 * SECOND / 100).expect("the newest stays").id;
                (0..tickets).for_each(|t| logins.give_ticket(&id, &[t; 32], VmId(1), now));
                prop_assert!(logins.logins[&id].tickets.len() <= MAX_TICKETS);
            }
            prop_assert!(logins.logins.len() <= 3 * MAX_PER_USER);
        }

        #[test]
        fn hexadecimal_reads_back(bytes: [u8; 32], junk in "\\PC{0,70}") {
            prop_assert_eq!(unhex(&hex(&bytes)), Some(bytes));
            if let Some(read) = unhex::<32>(&junk) {
                prop_assert_eq!(hex(&read), junk);
            }
        }
    }
}
