//! What is to be done with the guests of this node, from what is wanted and what is there. Pure.

use super::life::{Event, State, step};
use model::{
    VmId,
    state::{VmState, Want},
    sync::GuestSpec,
};
use std::collections::{BTreeMap, BTreeSet};

/// What one guest's task is to see to, as a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// That it runs.
    Run,
    /// That it does not run, with all the time that a shutdown in order takes.
    Stop,
    /// That it does not run, at once.
    Kill,
}

/// How this node goes down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Closing {
    /// It does not.
    #[default]
    No,
    /// Guests are to shut down in order.
    InOrder,
    /// Their time is over.
    Now,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Tell the guest's task; one without a task gets it.
    Order(VmId, Order),
    /// Nothing of it is here and nobody wants it: end its task and drop its report.
    Forget(VmId),
}

/// All that is to be done, in the order in which it is to be done: stop, forget, run. Doing any of it twice is harmless.
pub fn plan(desired: &[GuestSpec], closing: Closing, observed: &BTreeMap<VmId, VmState>) -> Vec<Action> {
    let wanted: BTreeSet<VmId> = desired.iter().map(|spec| spec.vm).collect();
    let gone = observed.iter().filter(|(vm, _)| !wanted.contains(vm));
    let orders = desired.iter().map(|spec| (spec.vm, order(spec.want, closing)));
    let mut all: Vec<Action> = orders
        .chain(gone.clone().map(|(vm, _)| (*vm, order(Want::Stop, closing))))
        .map(|(vm, order)| Action::Order(vm, order))
        .chain(gone.filter(|(_, state)| **state == VmState::Stopped).map(|(vm, _)| Action::Forget(*vm)))
        .collect();
    all.sort_by_key(|action| match action {
        Action::Order(_, Order::Kill | Order::Stop) => 0,
        Action::Forget(_) => 1,
        Action::Order(_, Order::Run) => 2,
    });
    all
}

fn order(want: Want, closing: Closing) -> Order {
    match (closing, want) {
        (Closing::Now, Want::Run | Want::Stop) => Order::Kill,
        (Closing::InOrder, Want::Run | Want::Stop) | (Closing::No, Want::Stop) => Order::Stop,
        (Closing::No, Want::Run) => Order::Run,
    }
}

/// The event that an order is for a guest in this state; none when it is as ordered, or cannot be told now.
/// `spent`: this generation has had its run.
pub fn due(order: Order, state: State, spent: bool) -> Option<Event> {
    let event = match order {
        Order::Run if spent => return None,
        Order::Run => Event::Start,
        Order::Stop => Event::Stop,
        Order::Kill => Event::Kill,
    };
    step(state, event).map(|_| event)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{DiId, Digest, sync::GuestImage};
    use std::net::Ipv4Addr;

    fn spec(vm: u32, want: Want) -> GuestSpec {
        GuestSpec {
            vm: VmId(vm),
            name: format!("vm{vm}"),
            login: "alice".into(),
            want,
            generation: 1,
            image: GuestImage { di: DiId(1), digest: Digest([0; 32]), bytes: 1 },
            memory_mib: 256,
            mac: "54:52:00:00:00:01".into(),
            ip: Ipv4Addr::new(10, 3, 15, 50),
            uid_base: 1_000_000,
            home_mib: None,
            epoch: 1,
            properties: vec![],
        }
    }

    #[track_caller]
    fn check(desired: &[(u32, Want)], closing: Closing, observed: &[(u32, VmState)], expect: &[Action]) {
        let desired: Vec<_> = desired.iter().map(|(vm, want)| spec(*vm, *want)).collect();
        let observed = observed.iter().map(|(vm, state)| (VmId(*vm), *state)).collect();
        assert_eq!(plan(&desired, closing, &observed), expect);
    }

    #[test]
    fn stops_come_before_starts_and_what_nobody_wants_is_stopped_then_forgotten() {
        use Action::{Forget, Order as Tell};
        check(
            &[(1, Want::Run), (2, Want::Stop)],
            Closing::No,
            &[(2, VmState::Running), (3, VmState::Running), (4, VmState::Stopped)],
            &[
                Tell(VmId(2), Order::Stop),
                Tell(VmId(3), Order::Stop),
                Tell(VmId(4), Order::Stop),
                Forget(VmId(4)),
                Tell(VmId(1), Order::Run),
            ],
        );
    }

    #[test]
    fn a_node_that_goes_down_runs_nothing() {
        use Action::Order as Tell;
        check(&[(1, Want::Run)], Closing::InOrder, &[], &[Tell(VmId(1), Order::Stop)]);
        check(&[(1, Want::Run)], Closing::Now, &[(1, VmState::Stopping)], &[Tell(VmId(1), Order::Kill)]);
    }

    #[test]
    fn a_generation_that_had_its_run_is_not_started_again() {
        assert_eq!(due(Order::Run, State::Stopped, false), Some(Event::Start));
        assert_eq!(due(Order::Run, State::Stopped, true), None);
        assert_eq!(due(Order::Run, State::Running, false), None);
        assert_eq!(due(Order::Stop, State::Fetching, false), Some(Event::Stop));
        assert_eq!(due(Order::Stop, State::PoweringOff, false), None);
        assert_eq!(due(Order::Kill, State::PoweringOff, false), Some(Event::Kill));
        assert_eq!(due(Order::Kill, State::Zombie, false), None);
    }
}
