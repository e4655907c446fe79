//! Calls of the router to the store, and counts, on their way through the cluster task.

use model::{
    key::{self, Config},
    sync::{Call, Counters, Refusal, Reply, SessionReport},
};
use std::{collections::HashMap, time::Duration};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long the store may take with a call; checking a password is slow on purpose.
const ANSWER: Duration = Duration::from_secs(20);
/// What the store may take beyond the time that it gives a session to let go. The router waits longer still.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(10);
/// Calls that wait at most; more are refused.
const WAITING: usize = 256;

/// Handle to the store for the rest of the daemon.
#[derive(Clone, Debug)]
pub struct Store {
    calls: mpsc::Sender<Asked>,
    counts: mpsc::UnboundedSender<Counters>,
}

/// A call and where its answer goes.
pub type Asked = (Call, oneshot::Sender<Reply>);

/// How long to wait for the answer to a call.
pub fn limit(call: &Call, config: &Config) -> Duration {
    match call {
        Call::Acquire { .. } => ANSWER.max(config.get(&key::TAKEOVER_TIMEOUT) + TAKEOVER_MARGIN),
        _ => ANSWER,
    }
}

/// The answer when too many calls are open.
pub fn overloaded() -> Reply {
    Reply::Refused(Refusal::Other("The node is overloaded: try again in a moment".to_owned()))
}

impl Store {
    /// A handle, and the cluster task's end of it.
    pub fn new() -> (Self, Talk) {
        let (calls, asked) = mpsc::channel(WAITING);
        let (counts, counted) = mpsc::unbounded_channel();
        (Self { calls, counts }, Talk { asked, counted, counters: Counters::default(), pending: Pending::default() })
    }

    /// Asks the store. Away, silent or overloaded, the answer is a refusal: there is always one, within `limit`.
    pub async fn call(&self, call: Call, limit: Duration) -> Reply {
        let (reply, answer) = oneshot::channel();
        if self.calls.try_send((call, reply)).is_err() {
            return overloaded();
        }
        match timeout(limit, answer).await {
            Ok(Ok(reply)) => reply,
            _ => Reply::Refused(Refusal::StoreAway),
        }
    }

    /// Counts towards the store's statistics; kept while the store is away.
    pub fn count(&self, counters: Counters) {
        // The receiver ends with the daemon.
        self.counts.send(counters).ok();
    }
}

/// The cluster task's end.
#[derive(Debug)]
pub struct Talk {
    /// Calls asked.
    pub asked: mpsc::Receiver<Asked>,
    /// Counts to be added to `counters`.
    pub counted: mpsc::UnboundedReceiver<Counters>,
    /// Counts that the store has not got yet.
    pub counters: Counters,
    /// Calls sent.
    pub pending: Pending,
}

impl Talk {
    /// Does `work` while there is no link: every call is answered at once that the store is away.
    pub async fn away<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            // Cancel-safe: a receive takes nothing unless it completes, and the work is pinned outside.
            tokio::select! {
                done = &mut work => return done,
                Some((_, reply)) = self.asked.recv() => drop(reply.send(Reply::Refused(Refusal::StoreAway))),
            }
        }
    }

    /// The link broke: what was asked over it has no answer.
    pub fn broken(&mut self) {
        self.pending.refuse_all();
    }

    /// Adds counts.
    pub fn add(&mut self, more: Counters) {
        let sum = &mut self.counters;
        for (field, more) in [
            (&mut sum.http_requests, more.http_requests),
            (&mut sum.auth_attempts, more.auth_attempts),
            (&mut sum.auth_ok, more.auth_ok),
            (&mut sum.nx_attempts, more.nx_attempts),
            (&mut sum.nx_ok, more.nx_ok),
            (&mut sum.short_sessions, more.short_sessions),
        ] {
            *field = field.saturating_add(more);
        }
    }
}

/// Calls sent and not answered.
#[derive(Debug, Default)]
pub struct Pending {
    last: u64,
    waiting: HashMap<u64, Waiting>,
}

/// A call without an answer yet.
#[derive(Debug)]
struct Waiting {
    reply: oneshot::Sender<Reply>,
    /// What to tell the store when it grants a VM that nobody waits for any more.
    over: Option<SessionReport>,
}

impl Pending {
    /// Gives a call its number. Those that nobody waits for any more are forgotten, unless they may bring a VM.
    pub fn number(&mut self, call: &Call, reply: oneshot::Sender<Reply>) -> u64 {
        self.waiting.retain(|_, waiting| !waiting.reply.is_closed() || waiting.over.is_some());
        self.last += 1;
        self.waiting.insert(self.last, Waiting { reply, over: SessionReport::end_of(call) });
        self.last
    }

    /// Hands an answer to whoever asked; one to no question of ours is dropped. A VM that was granted to an asker who
    /// has given up is to be given back: the report that does it.
    pub fn answer(&mut self, number: u64, reply: Reply) -> Option<SessionReport> {
        let Waiting { reply: asker, over } = self.waiting.remove(&number)?;
        let undelivered = asker.send(reply).err()?;
        over.filter(|_| matches!(undelivered, Reply::Acquired(_)))
    }

    fn refuse_all(&mut self) {
        for (_, Waiting { reply: asker, .. }) in self.waiting.drain() {
            asker.send(Reply::Refused(Refusal::StoreAway)).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{
        HostId, UserId, VmId,
        grant::SignedGrant,
        state::{VmState, Want},
        sync::{Acquired, VmNow},
    };
    use std::net::Ipv4Addr;

    const LIST: Call = Call::List { user: UserId(1) };

    fn granted() -> Reply {
        let grant = SignedGrant { body: vec![], signature: vec![] };
        let now = VmNow { state: VmState::Running, want: Want::Run, phase: String::new(), failed: None };
        let (host, address) = (HostId(1), Ipv4Addr::LOCALHOST);
        Reply::Acquired(Acquired { host, address, grant, now, took_over: false })
    }

    #[tokio::test]
    async fn a_vm_granted_to_an_asker_who_gave_up_is_given_back() {
        let (_, mut talk) = Store::new();
        let call = Call::Acquire { user: UserId(1), vm: VmId(2), session: 3, client: "c".to_owned() };
        let (reply, answer) = oneshot::channel();
        let number = talk.pending.number(&call, reply);
        drop(answer);
        let _other = talk.pending.number(&LIST, oneshot::channel().0);
        assert_eq!(talk.pending.answer(number, granted()), SessionReport::end_of(&call));
        let (reply, _answer) = oneshot::channel();
        let number = talk.pending.number(&call, reply);
        assert_eq!(talk.pending.answer(number, granted()), None, "it was taken");
    }

    #[tokio::test]
    async fn a_call_while_the_store_is_away_is_refused_at_once() {
        let (store, mut talk) = Store::new();
        let asked = store.call(LIST, ANSWER);
        let reply = talk.away(asked).await;
        assert_eq!(reply, Reply::Refused(Refusal::StoreAway));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_store_counts_as_away_and_its_late_answer_goes_nowhere() {
        let (store, mut talk) = Store::new();
        let asker = tokio::spawn(async move { store.call(LIST, ANSWER).await });
        let (_, reply) = talk.asked.recv().await.expect("asked");
        let number = talk.pending.number(&LIST, reply);
        assert_eq!(asker.await.expect("ends"), Reply::Refused(Refusal::StoreAway));
        talk.pending.answer(number, Reply::Stopping);
        assert_eq!(talk.pending.waiting.len(), 0);
    }

    #[tokio::test]
    async fn answers_reach_their_askers_in_any_order() {
        let (_, mut talk) = Store::new();
        let (a, got_a) = oneshot::channel();
        let (b, got_b) = oneshot::channel();
        let (a, b) = (talk.pending.number(&LIST, a), talk.pending.number(&LIST, b));
        talk.pending.answer(b, Reply::Stopping);
        talk.pending.answer(77, Reply::Stopping);
        talk.pending.answer(a, Reply::Vms(vec![]));
        assert_eq!((got_a.await, got_b.await), (Ok(Reply::Vms(vec![])), Ok(Reply::Stopping)));
    }

    #[test]
    fn counts_add_up() {
        let (_, mut talk) = Store::new();
        let one = Counters { auth_ok: 1, nx_ok: u32::MAX, ..Counters::default() };
        talk.add(one);
        talk.add(one);
        assert_eq!(talk.counters, Counters { auth_ok: 2, nx_ok: u32::MAX, ..Counters::default() });
    }
}
