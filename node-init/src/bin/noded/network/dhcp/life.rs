//! The life of a DHCP lease (RFC 2131), as a pure step function.
//!
//! ```text
//! Selecting --Offer--> Requesting --Ack--> Bound --T1--> Renewing --T2--> Rebinding --end--> Selecting
//!     ^                  | Nak, silence      ^              | Ack            | Ack     (address dropped)
//!     `------------------'                   `--------------+----------------'
//! ```

use model::seed::Cidr;
use std::{net::Ipv4Addr, time::Duration};

/// What a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Address offered.
    pub address: Ipv4Addr,
    /// Who offers it.
    pub server: Ipv4Addr,
}

/// What a server granted. `renew` <= `rebind` <= `length`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Address and its network.
    pub address: Cidr,
    /// Default route.
    pub gateway: Option<Ipv4Addr>,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Who granted it.
    pub server: Ipv4Addr,
    /// T1: from then on its server is asked to prolong it.
    pub renew: Duration,
    /// T2: from then on any server is.
    pub rebind: Duration,
    /// When it ends.
    pub length: Duration,
}

/// Where the life is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Discover was sent so often.
    Selecting(u32),
    /// This offer was accepted so often.
    Requesting(Offer, u32),
    /// All is well.
    Bound(Lease),
    /// Its server is asked; so much is left until T2.
    Renewing(Lease, Duration),
    /// Any server is asked; so much is left of the lease.
    Rebinding(Lease, Duration),
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A server offers.
    Offer(Offer),
    /// A server grants.
    Ack(Lease),
    /// A server takes back.
    Nak,
    /// The time asked for last is over.
    Timer,
    /// The cable was plugged in again: the network may be another one.
    Replugged,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Broadcast a Discover.
    Discover,
    /// Broadcast a Request for this offer.
    Request(Offer),
    /// Ask to prolong the lease: its server alone, or everybody.
    Prolong(Lease, Option<Ipv4Addr>),
    /// Configure the link with this lease.
    Apply(Lease),
    /// Take the address from the link.
    Drop,
    /// Come back after so long.
    Wait(Duration),
}

/// Requests for one offer before another is looked for.
const REQUESTS: u32 = 3;
/// Shortest time between two attempts to prolong.
const PROLONG_LEAST: Duration = Duration::from_secs(60);

/// The first state and what it asks for.
pub fn begin() -> (State, Vec<Effect>) {
    (State::Selecting(1), vec![Effect::Discover, Effect::Wait(patience(1))])
}

/// The next state and what it asks for. `None`: the event means nothing in this state.
pub fn step(state: &State, event: Event) -> Option<(State, Vec<Effect>)> {
    use {Event as E, State as S};
    Some(match (state, event) {
        (S::Selecting(n), E::Timer) => (S::Selecting(n + 1), vec![Effect::Discover, Effect::Wait(patience(n + 1))]),
        (S::Selecting(_), E::Offer(offer)) => request(offer, 1),
        (S::Requesting(offer, n), E::Timer) if *n < REQUESTS => request(offer.clone(), n + 1),
        (S::Requesting(..), E::Timer | E::Nak) => begin(),
        (S::Requesting(..) | S::Bound(_) | S::Renewing(..) | S::Rebinding(..), E::Ack(lease)) => bound(lease),
        (S::Bound(lease), E::Timer) => renewing(lease, lease.rebind - lease.renew),
        // What is left is not known to the second; the half is surely not too much.
        (S::Bound(lease), E::Replugged) => rebinding(lease, (lease.length - lease.renew) / 2),
        (S::Renewing(lease, left), E::Timer) => match left.checked_sub(pause(*left)) {
            Some(left) if left >= Duration::from_secs(1) => renewing(lease, left),
            _ => rebinding(lease, lease.length - lease.rebind),
        },
        (S::Renewing(lease, left), E::Replugged) => rebinding(lease, *left),
        (S::Rebinding(lease, left), E::Timer) => match left.checked_sub(pause(*left)) {
            Some(left) if left >= Duration::from_secs(1) => rebinding(lease, left),
            _ => lost(),
        },
        (S::Bound(_) | S::Renewing(..) | S::Rebinding(..), E::Nak) => lost(),
        (S::Selecting(_), E::Replugged) => begin(),
        (S::Selecting(_), E::Ack(_) | E::Nak)
        | (S::Requesting(..) | S::Bound(_) | S::Renewing(..) | S::Rebinding(..), E::Offer(_))
        | (S::Requesting(..) | S::Rebinding(..), E::Replugged) => return None,
    })
}

fn request(offer: Offer, n: u32) -> (State, Vec<Effect>) {
    let effects = vec![Effect::Request(offer.clone()), Effect::Wait(patience(n))];
    (State::Requesting(offer, n), effects)
}

fn bound(lease: Lease) -> (State, Vec<Effect>) {
    let effects = vec![Effect::Apply(lease.clone()), Effect::Wait(lease.renew)];
    (State::Bound(lease), effects)
}

fn renewing(lease: &Lease, left: Duration) -> (State, Vec<Effect>) {
    let effects = vec![Effect::Prolong(lease.clone(), Some(lease.server)), Effect::Wait(pause(left))];
    (State::Renewing(lease.clone(), left), effects)
}

fn rebinding(lease: &Lease, left: Duration) -> (State, Vec<Effect>) {
    let effects = vec![Effect::Prolong(lease.clone(), None), Effect::Wait(pause(left))];
    (State::Rebinding(lease.clone(), left), effects)
}

fn lost() -> (State, Vec<Effect>) {
    let (state, mut effects) = begin();
    effects.insert(0, Effect::Drop);
    (state, effects)
}

/// 1, 2, 4, 8, 16, 16... seconds: a boot waits for this, and switches may eat the first frames.
fn patience(n: u32) -> Duration {
    Duration::from_secs(1 << n.saturating_sub(1).min(4))
}

/// Half of what is left, not less than a minute, and not more than is left.
fn pause(left: Duration) -> Duration {
    (left / 2).max(PROLONG_LEAST).min(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(length: u64) -> Lease {
        let address = "10.0.0.5/24".parse().expect("parses");
        let (server, length) = (Ipv4Addr::new(10, 0, 0, 1), Duration::from_secs(length));
        let (dns, ntp) = (vec![], vec![]);
        Lease { address, gateway: None, dns, ntp, server, renew: length / 2, rebind: length * 7 / 8, length }
    }

    fn offer() -> Offer {
        Offer { address: Ipv4Addr::new(10, 0, 0, 5), server: Ipv4Addr::new(10, 0, 0, 1) }
    }

    /// Steps through events; the kinds of effects met, without the waits.
    fn run(state: &mut State, events: impl IntoIterator<Item = Event>) -> Vec<&'static str> {
        let mut met = vec![];
        for event in events {
            if let Some((next, effects)) = step(state, event) {
                *state = next;
                met.extend(effects.iter().filter_map(|e| match e {
                    Effect::Discover => Some("discover"),
                    Effect::Request(_) => Some("request"),
                    Effect::Prolong(_, Some(_)) => Some("renew"),
                    Effect::Prolong(_, None) => Some("rebind"),
                    Effect::Apply(_) => Some("apply"),
                    Effect::Drop => Some("drop"),
                    Effect::Wait(_) => None,
                }));
            }
        }
        met
    }

    #[test]
    fn an_offer_is_requested_and_an_ack_applied() {
        let mut state = begin().0;
        assert_eq!(
            run(&mut state, [Event::Timer, Event::Offer(offer()), Event::Ack(lease(600))]),
            ["discover", "request", "apply"]
        );
        assert_eq!(state, State::Bound(lease(600)));
    }

    #[test]
    fn a_server_that_does_not_confirm_its_offer_is_left() {
        let mut state = begin().0;
        let events = [Event::Offer(offer()), Event::Timer, Event::Timer, Event::Timer];
        assert_eq!(run(&mut state, events), ["request", "request", "request", "discover"]);
        assert_eq!(run(&mut state, [Event::Offer(offer()), Event::Nak]), ["request", "discover"]);
    }

    #[test]
    fn a_lease_that_nobody_prolongs_is_dropped_at_its_end() {
        let mut state = State::Bound(lease(600));
        let mut met = vec![];
        while !met.contains(&"drop") {
            met.extend(run(&mut state, [Event::Timer]));
        }
        met.dedup();
        assert_eq!(met, ["renew", "rebind", "drop", "discover"]);
    }

    #[test]
    fn a_replugged_cable_asks_everybody_and_a_nak_drops_the_address() {
        let mut state = State::Bound(lease(600));
        assert_eq!(run(&mut state, [Event::Replugged, Event::Nak]), ["rebind", "drop", "discover"]);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            1 => Just(Event::Offer(offer())),
            1 => (60u64..100_000).prop_map(|l| Event::Ack(lease(l))),
            1 => Just(Event::Nak),
            4 => Just(Event::Timer),
            1 => Just(Event::Replugged),
        ]
    }

    proptest! {
        #[test]
        fn every_step_waits_once_and_an_address_is_held_exactly_when_a_lease_is(events in prop::collection::vec(event(), 0..200)) {
            let (mut state, _) = begin();
            let mut held = false;
            for event in events {
                let Some((next, effects)) = step(&state, event) else { continue };
                let waits: Vec<_> = effects.iter().filter_map(|e| match e { Effect::Wait(d) => Some(*d), _ => None }).collect();
                prop_assert!(waits.len() == 1 && waits[0] >= Duration::from_secs(1) || held, "{effects:?}");
                prop_assert_eq!(waits.len(), 1);
                for effect in &effects {
                    match effect {
                        Effect::Apply(_) => held = true,
                        Effect::Drop => held = false,
                        _ => {}
                    }
                }
                state = next;
                let leased = matches!(state, State::Bound(_) | State::Renewing(..) | State::Rebinding(..));
                prop_assert_eq!(held, leased, "{:?}", state);
            }
        }

        #[test]
        fn an_unanswered_lease_never_outlives_its_length(length in 60u64..1_000_000) {
            let (mut state, effects) = bound(lease(length));
            let mut spent = wait_of(&effects);
            while !matches!(state, State::Selecting(_)) {
                let (next, effects) = step(&state, Event::Timer).expect("a timer always means something");
                state = next;
                if !matches!(state, State::Selecting(_)) { spent += wait_of(&effects) }
            }
            prop_assert!(spent <= Duration::from_secs(length) && spent + Duration::from_secs(2) >= Duration::from_secs(length), "{spent:?}");
        }
    }

    fn wait_of(effects: &[Effect]) -> Duration {
        effects.iter().find_map(|e| if let Effect::Wait(d) = e { Some(*d) } else { None }).unwrap_or_default()
    }
}
