//! The task behind [`super::Agent`].

use super::{
    Command, Manners, Reply, Seen,
    greet::{Greeted, Rude, greet},
};
use model::local::{OpenError, SessionKind};
use std::{collections::HashMap, future::pending, io, os::fd::OwnedFd, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::{debug, warn};
use vma_proto::{Decoder, FromVma, Kind, MAX_FRAME, Open, PROTO, Session, Ticket, ToVma, encode};

/// Connections whose first frame is awaited, at most: a guest cannot make the node hold more.
const GREETED_AT_ONCE: usize = 8;
/// An agent that does not read for so long has lost its connection.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Connections and requests of one guest.
pub struct Link {
    listener: UnixListener,
    root: u32,
    manners: Manners,
    told: watch::Sender<Seen>,
    control: Option<Control>,
    greetings: JoinSet<Result<Greeted, Rude>>,
    waiting: HashMap<Ticket, Waiting>,
    pings: u32,
}

struct Control {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    decoder: Box<Decoder>,
    buffer: Box<[u8; 1024]>,
}

/// A request to open a session: complete with the agent's word and its connection, in either order.
struct Waiting {
    reply: Reply,
    resumed: Option<bool>,
    stream: Option<UnixStream>,
    deadline: Instant,
}

impl Link {
    /// A link without connections.
    pub fn new(listener: UnixListener, root: u32, manners: Manners, told: watch::Sender<Seen>) -> Self {
        let (control, greetings, waiting) = (None, JoinSet::new(), HashMap::new());
        Self { listener, root, manners, told, control, greetings, waiting, pings: 0 }
    }

    /// Turns until every handle is gone. Each branch is cancel-safe: `accept`, `recv`, `join_next`,
    /// `tick` and `sleep_until` are by their documentation, and [`Control::read`] awaits one `read` alone.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut ticks = interval(self.manners.ping);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let until = self.waiting.values().map(|w| w.deadline).min();
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                connection = self.listener.accept(), if self.greetings.len() < GREETED_AT_ONCE => match connection {
                    Ok((stream, _)) => { self.greetings.spawn(greet(stream, self.root)); }
                    Err(e) => warn!(error = %e, "A connection of an agent was lost"),
                },
                Some(greeted) = self.greetings.join_next() => match greeted {
                    Ok(Ok(greeted)) => self.welcome(greeted).await,
                    Ok(Err(rude)) => warn!(error = %rude, "A connection from a guest was refused"),
                    Err(e) => warn!(error = %e, "Greeting an agent failed"),
                },
                frames = read(&mut self.control) => match frames {
                    Ok(frames) => frames.into_iter().for_each(|f| self.hear(f)),
                    Err(e) => self.lose_control(&e),
                },
                _ = ticks.tick() => {
                    self.pings = self.pings.wrapping_add(1);
                    self.say(&ToVma::Ping(self.pings)).await;
                }
                () = sleep_until_some(until) => self.give_up_late(),
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::PowerOff => self.say(&ToVma::PowerOff).await,
            Command::Open { kind, params, reply } => {
                let kind = match kind {
                    SessionKind::Nx => Kind::Nx,
                    SessionKind::Vnc => Kind::Vnc,
                    SessionKind::Files => Kind::Files,
                };
                let Some(ticket) = new_ticket() else {
                    return refuse(reply, OpenError::Failed("the node has no random numbers".into()));
                };
                if self.control.is_none() {
                    return refuse(reply, OpenError::Busy("the machine's agent is not connected".into()));
                }
                let deadline = Instant::now() + self.manners.open;
                self.waiting.insert(ticket, Waiting { reply, resumed: None, stream: None, deadline });
                self.say(&ToVma::Open(Open { ticket, kind, params: *params })).await;
            }
        }
    }

    async fn welcome(&mut self, greeted: Greeted) {
        match greeted {
            Greeted::Control { stream, session } => {
                // The newest connection counts: the older one is of an agent that was restarted.
                let (reader, writer) = stream.into_split();
                let (decoder, buffer) = (Box::default(), Box::new([0; 1024]));
                self.control = Some(Control { reader, writer, decoder, buffer });
                self.say(&ToVma::Welcome { proto: PROTO }).await;
                self.told.send_modify(|seen| {
                    *seen =
                        Seen { hellos: seen.hellos + 1, frames: seen.frames + 1, connected: true, session, ..*seen };
                });
            }
            Greeted::Session { stream, ticket } => match self.waiting.get_mut(&ticket) {
                Some(waiting) => {
                    waiting.stream = Some(stream);
                    self.finish(&ticket);
                }
                None => warn!("A session connection came that nobody waits for"),
            },
        }
    }

    fn hear(&mut self, frame: FromVma) {
        self.told.send_modify(|seen| seen.frames += 1);
        match frame {
            FromVma::Pong(_) => {}
            FromVma::Opened { ticket, resumed } => {
                if let Some(waiting) = self.waiting.get_mut(&ticket) {
                    waiting.resumed = Some(resumed);
                    self.finish(&ticket);
                }
            }
            FromVma::Refused { ticket, retry, reason } => {
                if let Some(waiting) = self.waiting.remove(&ticket) {
                    let reason = reason.as_str().to_owned();
                    refuse(waiting.reply, if retry { OpenError::Busy(reason) } else { OpenError::Failed(reason) });
                }
            }
            FromVma::State(session) => self.progress(session),
            FromVma::GoingDown => self.told.send_modify(|seen| seen.going_down = true),
            FromVma::Hello { .. } | FromVma::Session(_) => warn!("An agent sent a first frame again"),
        }
    }

    /// Making a user and a home may take long, and says so; each step gets the full time.
    fn progress(&mut self, session: Session) {
        debug!(?session, "A session's state changed");
        self.told.send_modify(|seen| seen.session = session);
        let deadline = Instant::now() + self.manners.open;
        self.waiting.values_mut().for_each(|w| w.deadline = deadline);
    }

    /// Hands over a session whose two halves are there.
    fn finish(&mut self, ticket: &Ticket) {
        if !self.waiting.get(ticket).is_some_and(|w| w.resumed.is_some() && w.stream.is_some()) {
            return;
        }
        let Some(Waiting { reply, resumed: Some(resumed), stream: Some(stream), .. }) = self.waiting.remove(ticket)
        else {
            return;
        };
        let descriptor = stream.into_std().map(OwnedFd::from);
        let answer = descriptor.map(|fd| (fd, resumed)).map_err(|e| OpenError::Failed(e.to_string()));
        // The asker may have gone meanwhile; the connection then closes, which the agent sees.
        if reply.send(answer).is_err() {
            debug!("A session was opened for a client that is gone");
        }
    }

    fn give_up_late(&mut self) {
        let now = Instant::now();
        let late: Vec<Ticket> = self.waiting.iter().filter(|(_, w)| w.deadline <= now).map(|(t, _)| *t).collect();
        for waiting in late.iter().filter_map(|ticket| self.waiting.remove(ticket)) {
            let seconds = self.manners.open.as_secs();
            let late = format!("the machine's agent made no session in {seconds} s");
            // Another client's session takes its time to end, on a busy machine; the next try waits on for it.
            let suspends = matches!(self.told.borrow().session, Session::Suspending | Session::Suspended);
            refuse(waiting.reply, if suspends { OpenError::Busy(late) } else { OpenError::Failed(late) });
        }
    }

    /// Sends a frame; an agent that cannot take it has lost its connection.
    async fn say(&mut self, frame: &ToVma) {
        let Some(control) = &mut self.control else { return };
        let mut buffer = [0; MAX_FRAME];
        let bytes = match encode(frame, &mut buffer) {
            Ok(bytes) => bytes,
            Err(e) => return self.refuse_unsendable(frame, &e.to_string()),
        };
        let sent = timeout(WRITE_PATIENCE, control.writer.write_all(bytes)).await;
        if let Err(e) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            self.lose_control(&e);
        }
    }

    fn refuse_unsendable(&mut self, frame: &ToVma, error: &str) {
        if let ToVma::Open(open) = frame
            && let Some(waiting) = self.waiting.remove(&open.ticket)
        {
            refuse(waiting.reply, OpenError::Failed(format!("the session's parameters make a {error}")));
        }
    }

    fn lose_control(&mut self, error: &io::Error) {
        debug!(error = %error, "The agent's control connection is gone");
        self.control = None;
        self.told.send_modify(|seen| seen.connected = false);
        for (_, waiting) in self.waiting.drain() {
            refuse(waiting.reply, OpenError::Busy("the machine's agent has lost its connection".into()));
        }
    }
}

/// Frames that have come; malformed ones are left out. Never returns without a control connection.
async fn read(control: &mut Option<Control>) -> io::Result<Vec<FromVma>> {
    let Some(control) = control else { return pending().await };
    let n = control.reader.read(&mut control.buffer[..]).await?;
    if n == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (mut bytes, mut frames) = (&control.buffer[..n], Vec::new());
    while !bytes.is_empty() {
        let (used, frame) = control.decoder.push(bytes);
        bytes = &bytes[used..];
        match frame {
            Some(Ok(frame)) => frames.push(frame),
            Some(Err(e)) => warn!(error = %e, "An agent sent a bad frame"),
            None => {}
        }
    }
    Ok(frames)
}

fn refuse(reply: Reply, error: OpenError) {
    if reply.send(Err(error)).is_err() {
        debug!("A session was refused to a client that is gone");
    }
}

fn new_ticket() -> Option<Ticket> {
    let mut ticket = Ticket::default();
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut ticket).ok()?;
    Some(ticket)
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
