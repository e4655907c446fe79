use super::*;
use proptest::prelude::*;

const A: Ticket = [0xa; 16];
const B: Ticket = [0xb; 16];

/// Sends the events, one second apart unless a time is given by a `Tick`, and compares the last one's effects.
#[track_caller]
fn check(machine: &mut Machine, clock: &mut u64, event: Event, expect: &[Effect]) {
    *clock += 1000;
    let at = Duration::from_millis(*clock);
    assert_eq!(machine.step(event, at), expect);
}

struct Life(Machine, u64);

impl Life {
    fn new() -> Self {
        Self(Machine::default(), 0)
    }
    #[track_caller]
    fn on(mut self, event: Event, expect: &[Effect]) -> Self {
        check(&mut self.0, &mut self.1, event, expect);
        self
    }
    /// Lets the time pass up to the next deadline.
    #[track_caller]
    fn at_deadline(mut self, expect: &[Effect]) -> Self {
        let at = self.0.deadline().expect("a deadline");
        self.1 = self.1.max(at.as_millis() as u64);
        assert_eq!(self.0.step(Event::Tick, Duration::from_millis(self.1)), expect);
        self
    }
    fn later(mut self, seconds: u64) -> Self {
        self.1 += seconds * 1000;
        self
    }
}

use Client::*;
use Effect::*;
use Session::*;

fn opened(ticket: Ticket, resumed: bool) -> Effect {
    Opened { ticket, client: Nx, resumed }
}

fn refused(ticket: Ticket, retry: bool, reason: &str) -> Effect {
    Refused { ticket, retry, reason: reason.into() }
}

fn listening() -> Life {
    Life::new()
        .on(Event::Open(A, Nx), &[Report(Provisioning), Provision])
        .on(Event::Provisioned(Ok(())), &[Report(Starting), Start(Nx)])
        .on(Event::Log(Line::Starting), &[])
        .on(Event::Log(Line::Waiting), &[])
        .on(Event::Tick, &[Probe])
        .on(Event::Listens, &[Report(Listening), opened(A, false)])
}

fn connected() -> Life {
    listening().on(Event::Claimed, &[]).on(Event::Log(Line::Started), &[Report(Connected), StartDesktop])
}

fn suspended() -> Life {
    connected()
        .on(Event::Log(Line::Suspending), &[Report(Suspending)])
        .on(Event::Log(Line::Suspending), &[])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)])
}

fn resuming() -> Life {
    suspended().on(Event::Open(B, Nx), &[]).at_deadline(&[Report(Starting), Resume(Nx)])
}

#[test]
fn a_first_client_gets_a_session_and_its_desktop() {
    connected();
}

#[test]
fn a_client_that_comes_back_resumes_and_no_second_desktop_starts() {
    resuming()
        .on(Event::Log(Line::Resuming), &[])
        .on(Event::Tick, &[Probe])
        .on(Event::Listens, &[Report(Listening), opened(B, true)])
        .on(Event::Claimed, &[])
        .on(Event::Log(Line::Resumed), &[Report(Connected)]);
}

#[test]
fn a_hang_up_waits_out_the_second_of_the_suspension() {
    let life = suspended();
    let entered = life.0.entered;
    let mut machine = life.0;
    machine.step(Event::Open(B, Nx), entered);
    assert_eq!(machine.deadline(), Some(entered + HUP_PAUSE));
    assert_eq!(machine.step(Event::Tick, entered + HUP_PAUSE / 2), []);
}

#[test]
fn a_lost_hang_up_is_sent_again_and_nothing_is_probed_before_it_is_heard() {
    let life = resuming().on(Event::Tick, &[]).later(2).on(Event::Tick, &[HangUp]);
    life.on(Event::Log(Line::Resuming), &[]).on(Event::Tick, &[Probe]);
}

#[test]
fn a_session_deaf_to_hang_ups_is_left_suspended_with_its_windows() {
    let mut life = resuming();
    let mut all = vec![];
    while life.0.state() == Starting {
        let at = life.0.deadline().expect("a deadline");
        all.extend(life.0.step(Event::Tick, at));
    }
    assert_eq!(life.0.state(), Suspended);
    assert!(all.contains(&refused(B, true, "nxagent does not listen")), "{all:?}");
    assert!(!all.contains(&Terminate), "{all:?}");
}

#[test]
fn a_second_client_takes_the_session_over() {
    connected()
        .on(Event::Open(B, Nx), &[Report(Suspending), HangUp])
        .on(Event::Log(Line::Suspending), &[])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)])
        .at_deadline(&[Report(Starting), Resume(Nx)])
        .on(Event::Log(Line::Resuming), &[])
        .on(Event::Tick, &[Probe])
        .on(Event::Listens, &[Report(Listening), opened(B, true)]);
}

#[test]
fn a_client_that_asked_during_the_negotiation_of_another_takes_over_after_it() {
    listening()
        .on(Event::Claimed, &[])
        .on(Event::Open(B, Nx), &[])
        .on(Event::Log(Line::Started), &[Report(Suspending), StartDesktop, HangUp]);
}

#[test]
fn a_listener_nobody_came_to_is_given_to_the_next_client_while_it_is_fresh() {
    listening().on(Event::Open(B, Nx), &[opened(B, false)]);
    listening().later(45).on(Event::Open(B, Nx), &[]);
}

#[test]
fn of_two_requests_the_later_stays() {
    let superseded = "another client asked for the session after this one";
    Life::new()
        .on(Event::Open(A, Nx), &[Report(Provisioning), Provision])
        .on(Event::Open(B, Nx), &[refused(A, false, superseded)])
        .on(Event::Provisioned(Ok(())), &[Report(Starting), Start(Nx)])
        .on(Event::Listens, &[Report(Listening), opened(B, false)]);
}

#[test]
fn a_user_that_cannot_be_made_is_the_answer() {
    Life::new()
        .on(Event::Open(A, Nx), &[Report(Provisioning), Provision])
        .on(Event::Provisioned(Err("no room".into())), &[Report(Stopped), refused(A, false, "no room")]);
}

#[test]
fn an_nxagent_that_dies_at_its_start_is_the_answer_with_its_last_words() {
    Life::new()
        .on(Event::Open(A, Nx), &[Report(Provisioning), Provision])
        .on(Event::Provisioned(Ok(())), &[Report(Starting), Start(Nx)])
        .on(Event::Log(Line::Ending), &[])
        .on(Event::Exited("no such file".into()), &[Report(Stopped), refused(A, false, "no such file")]);
}

#[test]
fn a_request_that_meets_the_end_of_a_session_gets_a_new_one() {
    connected()
        .on(Event::Stop, &[Report(Stopping), Terminate])
        .on(Event::Open(B, Nx), &[])
        .on(Event::Exited(String::new()), &[Report(Provisioning), Provision])
        .on(Event::Provisioned(Ok(())), &[Report(Starting), Start(Nx)]);
}

#[test]
fn a_failed_first_client_ends_the_session_and_the_next_one_starts_a_new_one() {
    listening()
        .on(Event::Claimed, &[])
        .on(Event::Log(Line::Ending), &[Report(Stopping)])
        .on(Event::Exited(String::new()), &[Report(Stopped)])
        .on(Event::Open(B, Nx), &[Report(Provisioning), Provision]);
}

#[test]
fn a_failed_resume_leaves_the_session_suspended() {
    resuming()
        .on(Event::Log(Line::Resuming), &[])
        .on(Event::Listens, &[Report(Listening), opened(B, true)])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)]);
}

#[test]
fn a_resumed_session_that_says_nothing_more_is_never_ended_for_it() {
    let listening =
        || resuming().on(Event::Log(Line::Resuming), &[]).on(Event::Listens, &[Report(Listening), opened(B, true)]);
    listening().on(Event::Claimed, &[]).at_deadline(&[Report(Connected)]);
    listening().at_deadline(&[HangUp]).at_deadline(&[HangUp]);
    self::listening().at_deadline(&[Report(Stopping), Terminate]);
}

#[test]
fn a_log_out_ends_the_session() {
    connected().on(Event::DesktopEnded, &[Report(Stopping), Terminate]).at_deadline(&[Kill]).at_deadline(&[Kill]);
}

#[test]
fn a_stop_while_the_user_is_made_starts_nothing() {
    Life::new()
        .on(Event::Open(A, Nx), &[Report(Provisioning), Provision])
        .on(Event::Stop, &[refused(A, false, "the session is being ended")])
        .on(Event::Provisioned(Ok(())), &[Report(Stopped)]);
}

#[test]
fn before_the_first_client_a_suspend_does_nothing_since_it_would_end_the_session() {
    listening().on(Event::Suspend, &[]);
    connected().on(Event::Suspend, &[Report(Suspending), HangUp]);
    suspended().on(Event::Suspend, &[]);
}

#[test]
fn a_request_is_refused_when_the_session_stays_busy_and_may_be_repeated() {
    connected()
        .on(Event::Open(B, Nx), &[Report(Suspending), HangUp])
        .on(Event::Log(Line::Suspending), &[])
        .at_deadline(&[refused(B, true, "the session is still suspending")])
        .at_deadline(&[Report(Stopping), Terminate]);
}

#[test]
fn a_suspension_that_nxagent_did_not_hear_is_asked_for_again() {
    connected()
        .on(Event::Suspend, &[Report(Suspending), HangUp])
        .at_deadline(&[HangUp])
        .at_deadline(&[HangUp])
        .on(Event::Log(Line::Suspending), &[])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)]);
}

#[test]
fn a_node_that_forgot_the_request_gets_no_resume() {
    let life = suspended().on(Event::Open(B, Nx), &[]).on(Event::NodeLost, &[]);
    assert_eq!(life.0.deadline(), None);
}

fn opened_to(client: Client, ticket: Ticket, resumed: bool) -> Effect {
    Opened { ticket, client, resumed }
}

fn listening_for_a_browser() -> Life {
    Life::new()
        .on(Event::Open(A, Browser), &[Report(Provisioning), Provision])
        .on(Event::Provisioned(Ok(())), &[Report(Starting), Start(Browser)])
        .on(Event::Listens, &[Report(Listening), opened_to(Browser, A, false)])
}

#[test]
fn a_browser_gets_a_session_as_any_client_does() {
    listening_for_a_browser()
        .on(Event::Claimed, &[])
        .on(Event::Log(Line::Started), &[Report(Connected), StartDesktop])
        .on(Event::ClientEnded, &[]);
}

#[test]
fn a_browser_takes_over_from_an_nx_client_and_back() {
    connected()
        .on(Event::Open(B, Browser), &[Report(Suspending), HangUp])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)])
        .at_deadline(&[Report(Starting), Resume(Browser)])
        .on(Event::Log(Line::Resuming), &[])
        .on(Event::Listens, &[Report(Listening), opened_to(Browser, B, true)])
        .on(Event::Claimed, &[])
        .on(Event::Log(Line::Resumed), &[Report(Connected)])
        .on(Event::Open(A, Nx), &[Report(Suspending), HangUp])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)])
        .at_deadline(&[Report(Starting), Resume(Nx)]);
}

#[test]
fn a_listener_for_another_kind_of_client_is_made_anew() {
    // Nothing lives yet: it ends, and the request gets a new one.
    listening()
        .on(Event::Open(B, Browser), &[Report(Stopping), Terminate])
        .on(Event::Exited(String::new()), &[Report(Provisioning), Provision])
        .on(Event::Provisioned(Ok(())), &[Report(Starting), Start(Browser)]);
    // Windows live: it goes back to sleep, and is woken for the other.
    resuming()
        .on(Event::Log(Line::Resuming), &[])
        .on(Event::Listens, &[Report(Listening), opened(B, true)])
        .on(Event::Open(A, Browser), &[HangUp])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)])
        .at_deadline(&[Report(Starting), Resume(Browser)]);
    // The request changed while the session was starting.
    Life::new()
        .on(Event::Open(A, Nx), &[Report(Provisioning), Provision])
        .on(Event::Provisioned(Ok(())), &[Report(Starting), Start(Nx)])
        .on(Event::Open(B, Browser), &[refused(A, false, "another client asked for the session after this one")])
        .on(Event::Listens, &[Report(Stopping), Terminate]);
}

#[test]
fn a_browser_that_goes_before_it_is_up_leaves_no_deaf_listener() {
    listening_for_a_browser().on(Event::Claimed, &[]).on(Event::ClientEnded, &[Report(Stopping), Terminate]);
    resuming()
        .on(Event::Log(Line::Resuming), &[])
        .on(Event::Listens, &[Report(Listening), opened(B, true)])
        .on(Event::Claimed, &[])
        .on(Event::ClientEnded, &[HangUp])
        .on(Event::Log(Line::Suspended), &[Report(Suspended)]);
}

fn line() -> impl Strategy<Value = Line> {
    prop::sample::select(vec![
        Line::Starting,
        Line::Waiting,
        Line::Started,
        Line::Suspending,
        Line::Suspended,
        Line::Resuming,
        Line::Resumed,
        Line::Ending,
        Line::Error,
    ])
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any::<u8>().prop_map(|n| Event::Open([n; 16], if n % 2 == 0 { Nx } else { Browser })),
        1 => Just(Event::Suspend),
        1 => Just(Event::Stop),
        1 => Just(Event::DesktopEnded),
        2 => Just(Event::Provisioned(Ok(()))),
        1 => Just(Event::Provisioned(Err("x".into()))),
        4 => line().prop_map(Event::Log),
        2 => Just(Event::Listens),
        2 => Just(Event::Claimed),
        1 => Just(Event::ClientEnded),
        1 => Just(Event::Exited("x".into())),
        4 => Just(Event::Tick),
    ]
}

/// Counts what must balance, whatever happens.
#[derive(Default)]
struct Ledger {
    asked: usize,
    answered: usize,
    runs: bool,
    reported: Option<Session>,
}

impl Ledger {
    fn note(&mut self, effects: &[Effect], state: Session) {
        for effect in effects {
            match effect {
                Opened { .. } => {
                    assert_eq!(state, Listening);
                    self.answered += 1;
                }
                Refused { .. } => self.answered += 1,
                Start(_) => assert!(!std::mem::replace(&mut self.runs, true), "a second nxagent"),
                Resume(_) | HangUp | Terminate | Kill | StartDesktop => {
                    assert!(self.runs, "{effect:?} without nxagent")
                }
                Report(session) => self.reported = Some(*session),
                Probe | Provision => {}
            }
        }
        assert_eq!(self.reported.unwrap_or(Stopped), state, "the node does not know the state");
    }
}

proptest! {
    #[test]
    fn whatever_happens_one_nxagent_runs_at_most_and_each_request_has_one_answer(
        steps in prop::collection::vec((event(), 0u64..30_000), 0..120)
    ) {
        let (mut machine, mut ledger, mut clock) = (Machine::default(), Ledger::default(), 0);
        for (event, pause) in steps {
            clock += pause;
            // Nothing exits that does not run.
            if matches!(event, Event::Exited(_)) && !std::mem::replace(&mut ledger.runs, false) {
                continue;
            }
            ledger.asked += usize::from(matches!(event, Event::Open(..)));
            let effects = machine.step(event, Duration::from_millis(clock));
            ledger.note(&effects, machine.state());
        }
        let mut turns = 0;
        while let Some(at) = machine.deadline().filter(|_| machine.waiting.is_some()) {
            let effects = machine.step(Event::Tick, at.max(Duration::from_millis(clock)));
            ledger.note(&effects, machine.state());
            turns += 1;
            prop_assert!(turns < 5000, "a request waits for ever");
        }
        prop_assert_eq!(ledger.asked, ledger.answered);
    }

    #[test]
    fn a_deadline_that_has_passed_moves_on(steps in prop::collection::vec((event(), 0u64..3_000), 0..60)) {
        let (mut machine, mut clock) = (Machine::default(), Duration::ZERO);
        for (event, pause) in steps {
            clock += Duration::from_millis(pause);
            machine.step(event, clock);
        }
        // A tick at the deadline never leaves the same deadline, or the agent would spin.
        if let Some(at) = machine.deadline() {
            let at = at.max(clock);
            machine.step(Event::Tick, at);
            prop_assert!(machine.deadline().is_none_or(|next| next > at));
        }
    }
}
