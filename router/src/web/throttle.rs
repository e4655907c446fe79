//! Slows down those who guess passwords: by the user's name and by the address they come from.
//!
//! Pure: the time is an argument. A name or address may fail [`FREE`] times; then each failure doubles
//! the wait, up to [`LONGEST`]. It is forgotten [`MEMORY`] after its last failure. The store has its own
//! limits; these keep a flood from reaching it.

use crate::crowd::prefix;
use std::{
    collections::HashMap,
    hash::Hash,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Failures without a wait: of a name, and of an address, which many users may share.
const FREE: (u32, u32) = (5, 20);
/// The first wait.
const FIRST: Duration = Duration::from_secs(2);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);
/// Forgotten this long after the last failure.
const MEMORY: Duration = Duration::from_secs(900);
/// Most names and most addresses that are kept.
const MAX: usize = 10_000;

/// Failures of each name and address.
#[derive(Debug, Default)]
pub struct Throttle {
    names: Table<String>,
    addresses: Table<IpAddr>,
}

impl Throttle {
    /// How long this one must wait before a password is looked at; none when not at all.
    pub fn wait(&self, name: &str, address: IpAddr, now: Instant) -> Option<Duration> {
        let name = self.names.until(&key(name), FREE.0);
        let address = self.addresses.until(&prefix(address), FREE.1);
        let until = name.into_iter().chain(address).max()?;
        until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// A password was wrong.
    pub fn failed(&mut self, name: &str, address: IpAddr, now: Instant) {
        self.names.fail(key(name), now);
        self.addresses.fail(prefix(address), now);
    }

    /// A password was right: the name's failures are forgotten. Not the address's, or one who has an
    /// account could guess at others' for ever.
    pub fn succeeded(&mut self, name: &str) {
        self.names.0.remove(&key(name));
    }
}

/// Names differ neither by case nor, in this table, beyond 64 letters.
fn key(name: &str) -> String {
    name.chars().take(64).flat_map(char::to_lowercase).collect()
}

#[derive(Debug)]
struct Table<K>(HashMap<K, Failures>);

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl<K: Hash + Eq + Clone> Table<K> {
    fn until(&self, key: &K, free: u32) -> Option<Instant> {
        let Failures { count, last } = *self.0.get(key)?;
        let steps = count.checked_sub(free)?;
        let wait = FIRST.saturating_mul(1 << steps.min(16)).min(LONGEST);
        Some(last + wait)
    }

    fn fail(&mut self, key: K, now: Instant) {
        if self.0.len() >= MAX && !self.0.contains_key(&key) {
            self.0.retain(|_, f| now - f.last < MEMORY);
        }
        if self.0.len() >= MAX
            && let Some(oldest) = self.0.iter().min_by_key(|(_, f)| f.last).map(|(k, _)| k.clone())
        {
            self.0.remove(&oldest);
        }
        let failures = self.0.entry(key).or_insert(Failures { count: 0, last: now });
        if now - failures.last >= MEMORY {
            failures.count = 0;
        }
        *failures = Failures { count: failures.count.saturating_add(1), last: now };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn the_wait_doubles_and_is_forgotten() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            waits.push(throttle.wait("Ann", address(1), now).map_or(0, |w| w.as_secs()));
            throttle.failed("ann", address(1), now);
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 2, 4, 8, 16]);
        assert!(throttle.wait("ann", address(2), now).is_some(), "from anywhere");
        assert!(throttle.wait("bob", address(1), now).is_none(), "others may");
        assert!(throttle.wait("ann", address(1), now + LONGEST).is_none());
        throttle.succeeded("ANN");
        assert!(throttle.wait("ann", address(2), now).is_none());
    }

    #[test]
    fn an_address_that_tries_many_names_waits_too_and_a_success_does_not_help_it() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        (0..30).for_each(|n| throttle.failed(&n.to_string(), address(1), now));
        throttle.succeeded("1");
        assert!(throttle.wait("new", address(1), now).is_some());
        assert!(throttle.wait("new", address(2), now).is_none());
        let [one, two]: [IpAddr; 2] = ["2001:db8::1", "2001:db8::2:2"].map(|a| a.parse().expect("an address"));
        (0..30).for_each(|n| throttle.failed(&n.to_string(), one, now));
        assert!(throttle.wait("new", two, now).is_some(), "the same /64");
    }

    proptest! {
        #[test]
        fn a_wait_is_never_longer_than_the_longest(fails in prop::collection::vec((0u8..4, 0u64..2000), 0..200)) {
            let (mut throttle, mut now) = (Throttle::default(), Instant::now());
            for (who, later) in fails {
                now += Duration::from_millis(later);
                throttle.failed(&who.to_string(), address(who), now);
                prop_assert!(throttle.wait(&who.to_string(), address(who), now).unwrap_or_default() <= LONGEST);
            }
        }
    }
}
