//! A guest's life, as a table. Nothing here acts: one task per guest ([`super::task`]) performs the
//! effects in order, and brings what comes of them back as events.
//!
//! ```text
//! stopped -> fetching -> queued -> storing -> admitting -> launching -> waiting -> running <-> debugging
//!    ^           |          |         |           |            |           |          |
//!    |           v          v         v           v            v           v          v
//!    +------- cleaning <-------------------------------- killing <--- powering off <--+
//!    |           v                                          v
//!    +------ reaping <-> zombie <---------------------------+
//! ```
//!
//! An effect that takes time ([`Effect::is_work`]) stands last in its list, so that at most one is under
//! way; [`Event::Done`] and [`Event::Failed`] are its ends. Any step cancels the deadline.

use model::state::VmState;

/// Where a guest is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing of it exists but its files.
    Stopped,
    /// Its image is being brought here.
    Fetching,
    /// Waits until fewer guests start at the same time.
    Queued,
    /// Image, writable layer and home are being mounted.
    Storing,
    /// The network is told of its port.
    Admitting,
    /// Its configuration is written and LXC started.
    Launching,
    /// Runs; its agent has not spoken yet.
    Waiting,
    /// Its agent answers.
    Running,
    /// Runs, its agent does not answer, and the cluster is set to leave it so.
    Debugging,
    /// Asked to shut down in order.
    PoweringOff,
    /// Its processes were killed, and are waited for.
    Killing,
    /// What it held is being released.
    Cleaning,
    /// Its remains could not be removed; tried again at the deadline.
    Zombie,
    /// Its remains are being removed once more.
    Reaping,
}

/// What happens to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// It is to run.
    Start,
    /// It is to stop, in order.
    Stop,
    /// It is to stop now.
    Kill,
    /// The work under way ended well.
    Done,
    /// The work under way failed.
    Failed,
    /// The agent said its Hello.
    AgentReady,
    /// The agent said anything else.
    AgentSpoke,
    /// The agent says that the guest goes down by its own will.
    GoingDown,
    /// LXC's monitor ended: no process of the guest is left that LXC knows of.
    Ended,
    /// The time for this state is over.
    Deadline,
    /// The same, in a cluster that keeps guests whose agent is silent.
    DeadlineKeep,
}

/// What the guest's task is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Work: bring the image to this node. May be abandoned half-way, unlike the rest but the next.
    FetchImage,
    /// Work: wait for a start slot. May be abandoned.
    TakeSlot,
    /// Work: mount image, writable layer and home.
    PrepareStorage,
    /// Work: admit the guest's port.
    AdmitNetwork,
    /// Work: write the configuration, listen for the agent, start LXC.
    Launch,
    /// Work: kill what is left, unmount, release. Harmless when there is nothing, and complete only
    /// when nothing is left.
    CleanUp,
    /// Give the start slot back. Harmless without one.
    ReleaseSlot,
    /// Ask the guest to shut down: through its agent, else by a signal to its init.
    PowerOff,
    /// Kill the guest's processes.
    Kill,
    /// The state's deadline begins.
    ArmDeadline,
}

impl Effect {
    /// Whether it takes time, and ends in [`Event::Done`] or [`Event::Failed`].
    pub fn is_work(self) -> bool {
        match self {
            Self::FetchImage | Self::TakeSlot | Self::PrepareStorage => true,
            Self::AdmitNetwork | Self::Launch | Self::CleanUp => true,
            Self::ReleaseSlot | Self::PowerOff | Self::Kill | Self::ArmDeadline => false,
        }
    }
}

impl State {
    /// The state that administrators see.
    pub fn vm_state(self) -> VmState {
        match self {
            Self::Stopped => VmState::Stopped,
            Self::Fetching | Self::Queued | Self::Storing => VmState::Starting,
            Self::Admitting | Self::Launching | Self::Waiting => VmState::Starting,
            Self::Running => VmState::Running,
            Self::Debugging => VmState::Debugging,
            Self::PoweringOff | Self::Killing | Self::Cleaning => VmState::Stopping,
            Self::Zombie | Self::Reaping => VmState::Zombie,
        }
    }

    /// The step within the state, for administrators.
    pub fn phase(self) -> &'static str {
        match self {
            Self::Stopped | Self::Running | Self::Debugging => "",
            Self::Fetching => "fetching-image",
            Self::Queued => "waiting-for-start-slot",
            Self::Storing => "preparing-storage",
            Self::Admitting => "preparing-network",
            Self::Launching => "launching",
            Self::Waiting => "waiting-for-agent",
            Self::PoweringOff => "shutting-down",
            Self::Killing => "killing",
            Self::Cleaning => "cleaning-up",
            Self::Zombie => "waiting-to-retry",
            Self::Reaping => "reaping",
        }
    }

    /// Whether the guest's processes may exist in this state.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Waiting | Self::Running | Self::Debugging | Self::PoweringOff | Self::Killing)
    }
}

/// What a guest does next. `None` means the event asks for nothing in this state.
pub fn step(state: State, event: Event) -> Option<(State, &'static [Effect])> {
    use Effect::{
        AdmitNetwork, ArmDeadline, CleanUp, FetchImage, Kill as DoKill, Launch, PowerOff, PrepareStorage, ReleaseSlot,
        TakeSlot,
    };
    use Event::{AgentReady, AgentSpoke, Deadline, DeadlineKeep, Done, Ended, Failed, GoingDown, Kill, Start, Stop};
    use State::{
        Admitting, Cleaning, Debugging, Fetching, Killing, Launching, PoweringOff, Queued, Reaping, Running, Stopped,
        Storing, Waiting, Zombie,
    };
    const CLEAN: &[Effect] = &[ReleaseSlot, CleanUp];
    const KILL: &[Effect] = &[ReleaseSlot, DoKill, ArmDeadline];
    const POWER_OFF: &[Effect] = &[ReleaseSlot, PowerOff, ArmDeadline];
    Some(match (state, event) {
        (Stopped, Start) => (Fetching, &[FetchImage]),
        (Fetching, Done) => (Queued, &[TakeSlot]),
        (Queued, Done) => (Storing, &[PrepareStorage]),
        (Storing, Done) => (Admitting, &[AdmitNetwork]),
        (Admitting, Done) => (Launching, &[Launch]),
        (Launching, Done) => (Waiting, &[ArmDeadline]),
        (Fetching | Queued, Failed | Stop | Kill) => (Cleaning, CLEAN),
        (Storing | Admitting | Launching, Failed) => (Cleaning, CLEAN),

        (Waiting, AgentReady) => (Running, &[ReleaseSlot, ArmDeadline]),
        (Running, AgentReady | AgentSpoke) => (Running, &[ArmDeadline]),
        (Debugging, AgentReady | AgentSpoke) => (Running, &[ArmDeadline]),
        (Waiting | Running, DeadlineKeep) => (Debugging, &[ReleaseSlot]),
        // Its agent does not answer, so nothing in it would hear a request to shut down.
        (Waiting | Running, Deadline) => (Killing, KILL),

        (Waiting | Running | Debugging, Stop) => (PoweringOff, POWER_OFF),
        (Waiting | Running | Debugging, GoingDown) => (PoweringOff, &[ReleaseSlot, ArmDeadline]),
        (Waiting | Running | Debugging | PoweringOff, Kill) => (Killing, KILL),
        (PoweringOff, Deadline | DeadlineKeep) => (Killing, KILL),
        (Waiting | Running | Debugging | PoweringOff | Killing, Ended) => (Cleaning, CLEAN),

        (Cleaning | Reaping, Done) => (Stopped, &[]),
        (Killing, Deadline | DeadlineKeep) | (Cleaning | Reaping, Failed) => (Zombie, &[ArmDeadline]),
        (Zombie, Deadline | DeadlineKeep | Ended) => (Reaping, &[CleanUp]),

        // What asks for nothing. A stop during work that is not to be abandoned is asked for again
        // when the work has ended, since what is wanted is a level.
        (Stopped, Stop | Kill | Done | Failed | AgentReady | AgentSpoke) => return None,
        (Stopped, GoingDown | Ended | Deadline | DeadlineKeep) => return None,
        (Fetching | Queued, Start | AgentReady | AgentSpoke | GoingDown) => return None,
        (Fetching | Queued, Ended | Deadline | DeadlineKeep) => return None,
        (Storing | Admitting | Launching, Start | Stop | Kill | AgentReady | AgentSpoke) => return None,
        (Storing | Admitting | Launching, GoingDown | Ended | Deadline | DeadlineKeep) => return None,
        (Waiting, Start | Done | Failed | AgentSpoke) => return None,
        (Running, Start | Done | Failed) => return None,
        (Debugging, Start | Done | Failed | Deadline | DeadlineKeep) => return None,
        (PoweringOff, Start | Stop | Done | Failed | AgentReady | AgentSpoke | GoingDown) => return None,
        (Killing, Start | Stop | Kill | Done | Failed | AgentReady | AgentSpoke | GoingDown) => return None,
        (Cleaning | Reaping, Start | Stop | Kill | AgentReady | AgentSpoke | GoingDown) => return None,
        (Cleaning | Reaping, Ended | Deadline | DeadlineKeep) => return None,
        (Zombie, Start | Stop | Kill | Done | Failed | AgentReady | AgentSpoke | GoingDown) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STATES: [State; 14] = [
        State::Stopped,
        State::Fetching,
        State::Queued,
        State::Storing,
        State::Admitting,
        State::Launching,
        State::Waiting,
        State::Running,
        State::Debugging,
        State::PoweringOff,
        State::Killing,
        State::Cleaning,
        State::Zombie,
        State::Reaping,
    ];
    const EVENTS: [Event; 11] = [
        Event::Start,
        Event::Stop,
        Event::Kill,
        Event::Done,
        Event::Failed,
        Event::AgentReady,
        Event::AgentSpoke,
        Event::GoingDown,
        Event::Ended,
        Event::Deadline,
        Event::DeadlineKeep,
    ];

    #[track_caller]
    fn walk(events: &[Event], end: State) {
        let state = events.iter().fold(State::Stopped, |s, e| step(s, *e).map_or(s, |(next, _)| next));
        assert_eq!(state, end, "{events:?}");
    }

    #[test]
    fn a_whole_life_ends_where_it_began() {
        use Event::{AgentReady, Done, Ended, Start, Stop};
        let up = [Start, Done, Done, Done, Done, Done, AgentReady];
        walk(&up[..6], State::Waiting);
        walk(&up, State::Running);
        walk(&[&up[..], &[Stop, Ended, Done]].concat(), State::Stopped);
    }

    #[test]
    fn a_stop_is_heard_while_an_image_is_fetched_and_while_the_agent_is_waited_for() {
        use Event::{Done, Ended, Start, Stop};
        walk(&[Start, Stop, Done], State::Stopped);
        walk(&[Start, Done, Done, Done, Done, Done, Stop], State::PoweringOff);
        walk(&[Start, Done, Done, Done, Done, Done, Stop, Ended, Done], State::Stopped);
    }

    #[test]
    fn a_silent_agent_ends_the_guest_unless_the_cluster_keeps_such_guests() {
        use Event::{AgentReady, AgentSpoke, Deadline, DeadlineKeep, Done, Start};
        let up = [Start, Done, Done, Done, Done, Done, AgentReady];
        walk(&[&up[..], &[Deadline]].concat(), State::Killing);
        walk(&[&up[..], &[DeadlineKeep]].concat(), State::Debugging);
        walk(&[&up[..], &[DeadlineKeep, AgentSpoke]].concat(), State::Running);
        walk(&[&up[..6], &[Deadline, Deadline]].concat(), State::Zombie);
    }

    #[test]
    fn work_stands_last_in_its_list_and_a_waiting_state_has_a_deadline() {
        for (state, event) in STATES.iter().flat_map(|s| EVENTS.iter().map(|e| (*s, *e))) {
            let Some((next, effects)) = step(state, event) else { continue };
            let work = effects.iter().filter(|e| e.is_work()).count();
            assert!(work == 0 || (work == 1 && effects.last().is_some_and(|e| e.is_work())), "{state:?} {event:?}");
            let waits =
                matches!(next, State::Waiting | State::Running | State::PoweringOff | State::Killing | State::Zombie);
            assert_eq!(waits, effects.contains(&Effect::ArmDeadline), "{state:?} {event:?} -> {next:?}");
        }
    }

    #[test]
    fn from_every_state_work_that_ends_and_deadlines_that_pass_lead_to_rest() {
        for start in STATES {
            let mut state = start;
            for _ in 0..20 {
                // A kill, then whatever the state waits for.
                let events = [Event::Kill, Event::Done, Event::Ended, Event::Deadline];
                state = events.iter().fold(state, |s, e| step(s, *e).map_or(s, |(next, _)| next));
            }
            assert_eq!(state, State::Stopped, "from {start:?}");
        }
    }

    proptest! {
        /// The promise behind "a desktop never runs twice" on one node.
        #[test]
        fn no_launch_follows_a_launch_without_a_clean_up_that_ended_well(
            picks in prop::collection::vec(0..EVENTS.len(), 0..400)
        ) {
            let (mut state, mut dirty) = (State::Stopped, false);
            for event in picks.into_iter().map(|i| EVENTS[i]) {
                if let Some((next, effects)) = step(state, event) {
                    if matches!((state, event), (State::Cleaning | State::Reaping, Event::Done)) {
                        dirty = false;
                    }
                    if effects.contains(&Effect::Launch) {
                        prop_assert!(!dirty, "a second launch from {:?} by {:?}", state, event);
                        dirty = true;
                    }
                    prop_assert!(next != State::Stopped || !dirty, "at rest with remains");
                    state = next;
                }
            }
        }

        #[test]
        fn a_slot_taken_is_given_back_before_the_guest_rests_or_runs(
            picks in prop::collection::vec(0..EVENTS.len(), 0..400)
        ) {
            let (mut state, mut held) = (State::Stopped, false);
            for event in picks.into_iter().map(|i| EVENTS[i]) {
                if let Some((next, effects)) = step(state, event) {
                    held = (held || state == State::Queued && event == Event::Done)
                        && !effects.contains(&Effect::ReleaseSlot);
                    prop_assert!(!(held && matches!(next.vm_state(), VmState::Running | VmState::Stopped | VmState::Zombie)));
                    state = next;
                }
            }
        }

        #[test]
        fn a_zombie_is_always_tried_again(picks in prop::collection::vec(0..EVENTS.len(), 0..50)) {
            let mut state = State::Zombie;
            for event in picks.into_iter().map(|i| EVENTS[i]) {
                state = step(state, event).map_or(state, |(next, _)| next);
            }
            if state == State::Zombie {
                prop_assert_eq!(step(state, Event::Deadline), Some((State::Reaping, &[Effect::CleanUp][..])));
            }
        }
    }
}
