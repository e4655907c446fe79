//! The one connection to `noded`: calls and reports go out, answers, configuration and aborts come in.
//!
//! [`Link`] owns the connection and runs for as long as the router. When `noded` is away it keeps
//! trying; sessions do not notice, the last configuration stays, reports are dropped (the Hello after
//! the next connection tells all sessions anew), and calls wait: each is sent again with the next
//! connection, until the one who asked gives up. All calls may be repeated: that of a session carries
//! its id.

use crate::{RouterError, counters::Counters, error::chain, known::Known, table::Table, web::Web};
use futures_util::{SinkExt, StreamExt};
use model::{
    frame,
    local::{RouterConfig, ToNoded, ToRouter},
    sync::{Call, Refusal, Reply, SessionReport},
};
use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    net::UnixStream,
    sync::{mpsc, oneshot, watch},
    time::{interval, sleep, timeout},
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// How long a call waits for a `noded` that is away before it counts as unanswered.
const AWAY_LIMIT: Duration = Duration::from_secs(3);
/// Time between two attempts to connect.
const RETRY: Duration = Duration::from_millis(200);
/// Counters are sent, and abandoned calls forgotten, this often.
const TICK: Duration = Duration::from_secs(5);
/// `noded` must take a frame within this time.
const SEND_LIMIT: Duration = Duration::from_secs(10);

/// The configuration as last received.
pub type Configuration = watch::Receiver<Option<Arc<RouterConfig>>>;

/// What connections ask of the link. At most a few per connection wait at any time, so the channel
/// needs no bound of its own.
#[derive(Debug)]
pub enum Command {
    /// A question.
    Call {
        /// For the store.
        call: Call,
        /// The session that acquires by this call.
        session: Option<u64>,
        /// Where the answer goes.
        reply: oneshot::Sender<Reply>,
    },
    /// A report; dropped when `noded` is away.
    Say(ToNoded),
    /// Answered when all before it was written, or dropped.
    Flush(oneshot::Sender<()>),
}

/// Where reports go.
#[derive(Clone, Debug)]
pub struct Reports(mpsc::UnboundedSender<Command>);

impl Reports {
    /// Sends a report when `noded` is there. The link outlives every connection but for the end of
    /// the program, when a report has no meaning.
    pub fn say(&self, word: ToNoded) {
        let _at_exit = self.0.send(Command::Say(word));
    }
}

/// A handle on the link.
#[derive(Clone, Debug)]
pub struct Noded {
    commands: mpsc::UnboundedSender<Command>,
    configuration: Configuration,
    connected: watch::Receiver<bool>,
}

impl Noded {
    /// Where reports go.
    pub fn reports(&self) -> Reports {
        Reports(self.commands.clone())
    }

    /// The configuration as last received, and its changes.
    pub fn configuration(&self) -> Configuration {
        self.configuration.clone()
    }

    /// What `noded` last said of the store; it says so again at each connection and change.
    fn store_online(&self) -> bool {
        self.configuration.borrow().as_ref().is_some_and(|c| c.store_online)
    }

    /// Asks the store. No answer within `limit` is [`Refusal::StoreAway`]; so is, at once, a store
    /// that `noded` says is away.
    pub async fn call(&self, call: Call, limit: Duration) -> Reply {
        self.ask(call, None, limit).await
    }

    /// Asks for the VM of a session, which counts as acquired before any later frame of `noded`.
    pub async fn acquire(&self, call: Call, session: u64, limit: Duration) -> Reply {
        self.ask(call, Some(session), limit).await
    }

    async fn ask(&self, call: Call, session: Option<u64>, limit: Duration) -> Reply {
        const AWAY: Reply = Reply::Refused(Refusal::StoreAway);
        let mut connected = self.connected.clone();
        let answers = matches!(timeout(AWAY_LIMIT, connected.wait_for(|c| *c)).await, Ok(Ok(_)));
        if !answers || !self.store_online() {
            return AWAY;
        }
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Call { call, session, reply }).is_err() {
            return AWAY;
        }
        timeout(limit, answer).await.ok().and_then(Result::ok).unwrap_or(AWAY)
    }

    /// Waits until all reports so far were written, or for `limit`.
    pub async fn flush(&self, limit: Duration) {
        let (done, written) = oneshot::channel();
        if self.commands.send(Command::Flush(done)).is_ok() {
            let _late_or_gone = timeout(limit, written).await;
        }
    }
}

/// What the link acts on.
pub struct Shared {
    /// Sessions and guests.
    pub table: Arc<Table>,
    /// Counts for the store.
    pub counters: Arc<Counters>,
    /// What users may do without the store.
    pub known: Arc<Known>,
    /// Logins of browsers.
    pub web: Arc<Web>,
}

/// The task behind [`Noded`].
pub struct Link {
    path: PathBuf,
    shared: Shared,
    commands: mpsc::UnboundedReceiver<Command>,
    configuration: watch::Sender<Option<Arc<RouterConfig>>>,
    connected: watch::Sender<bool>,
    calls: HashMap<u64, Pending>,
    last_call: u64,
    listening: Option<ToNoded>,
}

struct Pending {
    call: Call,
    session: Option<u64>,
    reply: oneshot::Sender<Reply>,
}

type Frames = Framed<UnixStream, LengthDelimitedCodec>;

impl Link {
    /// A link that has not begun, and its handle.
    pub fn new(path: PathBuf, shared: Shared) -> (Self, Noded) {
        let (sender, commands) = mpsc::unbounded_channel();
        let (configuration, config_seen) = watch::channel(None);
        let (connected, connected_seen) = watch::channel(false);
        let link = Self {
            path,
            shared,
            commands,
            configuration,
            connected,
            calls: HashMap::new(),
            last_call: 0,
            listening: None,
        };
        (link, Noded { commands: sender, configuration: config_seen, connected: connected_seen })
    }

    /// Runs until all handles are gone.
    pub async fn run(mut self) {
        while let Some(stream) = self.connect().await {
            let ended = self.converse(stream).await;
            self.connected.send_replace(false);
            match ended {
                Ok(()) => return,
                Err(error) => tracing::warn!(error = %chain(&error), "The node daemon is away; sessions go on"),
            }
        }
    }

    /// Tries until `noded` is there; none when nobody needs it any more.
    async fn connect(&mut self) -> Option<UnixStream> {
        let mut told = false;
        loop {
            match UnixStream::connect(&self.path).await {
                Ok(stream) => return Some(stream),
                Err(source) if !told => {
                    let error = RouterError::Noded { path: self.path.clone(), source };
                    tracing::info!(error = %chain(&error), "Waiting for the node daemon");
                    told = true;
                }
                Err(_) => {}
            }
            let pause = sleep(RETRY);
            tokio::pin!(pause);
            // Both branches are cancel-safe: a timer, and a channel's recv.
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    command = self.commands.recv() => self.while_away(command?),
                }
            }
        }
    }

    fn while_away(&mut self, command: Command) {
        match command {
            Command::Call { call, session, reply } => {
                self.remember(Pending { call, session, reply });
            }
            Command::Say(word) => self.keep_level(&word),
            Command::Flush(done) => drop(done.send(())),
        }
    }

    /// Where the router listens is a state, so the next `noded` must hear it too.
    fn keep_level(&mut self, word: &ToNoded) {
        if matches!(word, ToNoded::Listening(_)) {
            self.listening = Some(word.clone());
        }
    }

    fn remember(&mut self, pending: Pending) -> u64 {
        self.last_call += 1;
        self.calls.insert(self.last_call, pending);
        self.last_call
    }

    /// Talks until the connection breaks (an error) or nobody needs it any more.
    async fn converse(&mut self, stream: UnixStream) -> Result<(), RouterError> {
        let codec = LengthDelimitedCodec::builder().max_frame_length(frame::MAX).new_codec();
        let mut frames = Framed::new(stream, codec);
        self.greet(&mut frames).await?;
        self.connected.send_replace(true);
        let mut tick = interval(TICK);
        loop {
            // All branches are cancel-safe: recv, a framed stream's next, a tick.
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => self.command(&mut frames, command).await?,
                    None => return Ok(()),
                },
                frame = frames.next() => {
                    let end = || self.broken(std::io::ErrorKind::UnexpectedEof.into());
                    let bytes = frame.ok_or_else(end)?.map_err(|e| self.broken(e))?;
                    if let Some(word) = self.receive(&bytes) {
                        self.send(&mut frames, &word).await?;
                    }
                }
                _ = tick.tick() => self.tick(&mut frames).await?,
            }
        }
    }

    /// Hello with all sessions, then what the last `noded` was asked and did not answer.
    async fn greet(&mut self, frames: &mut Frames) -> Result<(), RouterError> {
        self.calls.retain(|_, pending| !pending.reply.is_closed());
        let hello = ToNoded::Hello { sessions: self.shared.table.reports() };
        let levels = self.listening.clone();
        let calls = self.calls.iter().map(|(number, pending)| ToNoded::Call(*number, pending.call.clone()));
        for word in [hello].into_iter().chain(levels).chain(calls).collect::<Vec<_>>() {
            self.send(frames, &word).await?;
        }
        Ok(())
    }

    async fn command(&mut self, frames: &mut Frames, command: Command) -> Result<(), RouterError> {
        match command {
            Command::Call { call, session, reply } => {
                let number = self.remember(Pending { call: call.clone(), session, reply });
                self.send(frames, &ToNoded::Call(number, call)).await
            }
            Command::Say(word) => {
                self.keep_level(&word);
                self.send(frames, &word).await
            }
            Command::Flush(done) => {
                let _gave_up = done.send(());
                Ok(())
            }
        }
    }

    async fn tick(&mut self, frames: &mut Frames) -> Result<(), RouterError> {
        // A session's call stays although nobody waits: what it brings must be given back.
        self.calls.retain(|_, pending| pending.session.is_some() || !pending.reply.is_closed());
        let Some(counts) = self.shared.counters.take() else { return Ok(()) };
        let sent = self.send(frames, &ToNoded::Counters(counts)).await;
        if sent.is_err() {
            self.shared.counters.put_back(counts);
        }
        sent
    }

    async fn send(&self, frames: &mut Frames, word: &ToNoded) -> Result<(), RouterError> {
        let bytes = frame::encode(word)?;
        let sent = timeout(SEND_LIMIT, frames.send(bytes.as_slice())).await;
        sent.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(|e| self.broken(e))
    }

    /// Applies a frame; there may be something to say to it. A frame of a newer `noded` that this
    /// router cannot read is passed over.
    fn receive(&mut self, bytes: &[u8]) -> Option<ToNoded> {
        match frame::decode(bytes) {
            Ok(ToRouter::Config(config)) => {
                self.configuration.send_replace(Some(Arc::new(*config)));
            }
            Ok(ToRouter::Reply(number, reply)) => return self.reply(number, reply),
            Ok(ToRouter::Abort { vm, session, reason }) => {
                let sessions = self.shared.table.abort(vm, session, &reason);
                tracing::info!(guest = %vm, reason, sessions, "Sessions are cut");
                // The store holds a VM for a session that does not exist: of a router before this one, or one whose
                // end got lost. It is told, else nobody could ever have that VM.
                let lost = session.filter(|_| sessions == 0);
                return lost.map(|session| ToNoded::Session(SessionReport::over(vm, session)));
            }
            Ok(ToRouter::EndLogins(user)) => {
                self.shared.known.forget_user(user);
                let logins = self.shared.web.end_logins(user);
                tracing::info!(%user, logins, "Logins of a user are ended");
            }
            Ok(ToRouter::Guests(guests)) => self.shared.table.set_guests(guests),
            Err(error) => tracing::warn!(error = %chain(&error), "A frame of the node daemon was passed over"),
        }
        None
    }

    /// Hands an answer over. A VM given to a session that has ended meanwhile is to be given back: the
    /// report to send.
    fn reply(&mut self, number: u64, reply: Reply) -> Option<ToNoded> {
        let pending = self.calls.remove(&number)?;
        if let (Some(session), Reply::Acquired(_)) = (pending.session, &reply)
            && !self.shared.table.acquired(session)
        {
            return SessionReport::end_of(&pending.call).map(ToNoded::Session);
        }
        let _gave_up = pending.reply.send(reply);
        None
    }

    fn broken(&self, source: std::io::Error) -> RouterError {
        RouterError::Noded { path: self.path.clone(), source }
    }
}

#[cfg(test)]
impl Reports {
    pub(crate) fn for_tests() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }
}

#[cfg(test)]
impl Command {
    pub(crate) fn session_state(self) -> Option<model::state::UserState> {
        match self {
            Self::Say(ToNoded::Session(report)) => Some(report.state),
            _ => None,
        }
    }
}
