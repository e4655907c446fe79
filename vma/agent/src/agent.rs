//! The agent: one thread owns all state and reads one queue; the rest only feed it.
//!
//! | thread | brings |
//! |---|---|
//! | link | connection up, frames, connection down |
//! | nxlog, wait (one pair per program) | nxagent's words, its end, the desktop's end |
//! | provision (while it lasts) | the account |
//! | relay, to-client (one pair per session connection) | that the first byte came |
//! | signals | an orderly end |

use crate::{
    bridge,
    error::{Error, Result},
    files, leftover,
    link::Link,
    machine::{Client, Effect, Event, Machine, Now},
    nxlog::Line,
    options::{self, Tolerance},
    params::Params,
    proc::{self, Process},
    session::{self, Paths, Running, Word},
    splice, tcp,
    user::{self, Account},
};
use std::{
    io::Write,
    net::Shutdown,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};
use vma_proto::{FromVma, Kind, MAX_FRAME, Open, PROTO, Session, Ticket, ToVma};

/// How long the end of the agent waits for the end of its session.
const GRACE: Duration = Duration::from_secs(8);

/// Displays that bridges use by turns, behind the session's own.
const BRIDGE_DISPLAYS: u16 = 4;

/// Connections to the user's files at a time, at most.
const TRANSFERS: usize = 8;

/// How the agent is run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's socket.
    pub socket: PathBuf,
    /// Programs and directories.
    pub paths: Paths,
    /// Run sessions as ourselves and make no user.
    pub as_self: bool,
    /// The home then, in place of our own.
    pub home: Option<PathBuf>,
}

enum Message {
    Link(Link),
    Word(Word),
    Provisioned(Result<Account>),
    /// Of the session connection with this ticket.
    Claimed(Ticket),
    /// For a connection to the user's files.
    Files(Ticket, Result<Account>),
    FilesEnded(String),
    /// The bridge of this ticket ended, and how.
    BridgeEnded(Ticket, String),
    Shutdown,
}

impl From<Link> for Message {
    fn from(link: Link) -> Self {
        Self::Link(link)
    }
}

struct Agent {
    settings: Settings,
    queue: Sender<Message>,
    began: Instant,
    machine: Machine,
    node: Option<UnixStream>,
    params: Params,
    account: Option<Account>,
    running: Option<Running>,
    runs: u64,
    last_error: Option<String>,
    /// The session connection whose client has not yet said a word.
    dialled: Option<(Ticket, UnixStream)>,
    /// The browser's way in, while there is one.
    bridge: Option<(Ticket, Process)>,
    bridges: u16,
    /// Connections to the user's files.
    transfers: usize,
    ending: Option<Instant>,
}

/// Serves until a signal ends it. Returns once the session has ended too.
pub fn run(settings: Settings) -> Result<()> {
    let (queue, messages) = mpsc::channel();
    let run = &settings.paths.run;
    std::fs::create_dir_all(run).map_err(Error::file("create", run))?;
    leftover::end(run).map_err(Error::file("read the notes in", run))?;
    watch_signals(queue.clone())?;
    crate::link::start(settings.socket.clone(), queue.clone());
    Agent::new(settings, queue).serve(&messages);
    Ok(())
}

/// Blocked in all threads, taken by one.
fn watch_signals(queue: Sender<Message>) -> Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    set.thread_block().map_err(Error::call("block", "signals"))?;
    proc::spawn("signals", move || while set.wait().is_ok_and(|_| queue.send(Message::Shutdown).is_ok()) {});
    Ok(())
}

impl Agent {
    fn new(settings: Settings, queue: Sender<Message>) -> Self {
        Self {
            settings,
            queue,
            began: Instant::now(),
            machine: Machine::default(),
            node: None,
            params: Params::default(),
            account: None,
            running: None,
            runs: 0,
            last_error: None,
            dialled: None,
            bridge: None,
            bridges: 0,
            transfers: 0,
            ending: None,
        }
    }

    fn serve(mut self, messages: &Receiver<Message>) {
        while !self.ended() {
            match self.next(messages) {
                Ok(message) => self.on_message(message),
                Err(RecvTimeoutError::Timeout) => self.event(Event::Tick),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A message, or a time-out at the machine's deadline.
    fn next(&self, messages: &Receiver<Message>) -> std::result::Result<Message, RecvTimeoutError> {
        let rest = self.machine.deadline().map(|at| at.saturating_sub(self.now()));
        let ending = self.ending.map(|at| at.saturating_duration_since(Instant::now()));
        match [rest, ending].into_iter().flatten().min() {
            Some(rest) => messages.recv_timeout(rest),
            None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn ended(&self) -> bool {
        self.ending.is_some_and(|at| Instant::now() >= at || self.machine.state() == Session::Stopped)
    }

    fn now(&self) -> Now {
        self.began.elapsed()
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Link(link) => self.on_link(link),
            Message::Word(word) => self.on_word(word),
            Message::Provisioned(Ok(account)) => {
                self.account = Some(account);
                self.event(Event::Provisioned(Ok(())));
            }
            Message::Provisioned(Err(error)) => {
                tracing::error!(error = error.chain(), "Cannot provide the user");
                self.event(Event::Provisioned(Err(error.chain())));
            }
            Message::Claimed(ticket) => {
                // An older connection's client may speak after its session was given on.
                if self.dialled.take_if(|(dialled, _)| *dialled == ticket).is_some() {
                    self.event(Event::Claimed);
                }
            }
            Message::Files(ticket, account) => self.files(ticket, account),
            Message::FilesEnded(how) => {
                tracing::info!(how, "A transfer ended");
                self.transfers -= 1;
            }
            Message::BridgeEnded(ticket, how) => self.bridge_ended(ticket, &how),
            Message::Shutdown => {
                self.send(&FromVma::GoingDown);
                self.ending = Some(Instant::now() + GRACE);
                self.event(Event::Stop);
            }
        }
    }

    fn on_link(&mut self, link: Link) {
        match link {
            Link::Up(stream) => {
                self.node = Some(stream);
                let version = env!("CARGO_PKG_VERSION").try_into().unwrap_or_default();
                self.send(&FromVma::Hello { proto: PROTO, version, session: self.machine.state() });
            }
            Link::Down => {
                self.node = None;
                self.event(Event::NodeLost);
            }
            Link::Frame(frame) => self.on_frame(&frame),
        }
    }

    fn on_frame(&mut self, frame: &ToVma) {
        match frame {
            ToVma::Welcome { proto } if *proto != PROTO => {
                tracing::warn!(proto, ours = PROTO, "The node speaks another version")
            }
            ToVma::Welcome { .. } => {}
            ToVma::Ping(number) => self.send(&FromVma::Pong(*number)),
            ToVma::Open(open) => self.open(open),
            ToVma::Suspend => self.event(Event::Suspend),
            ToVma::Stop => self.event(Event::Stop),
            ToVma::PowerOff => power_off(),
            ToVma::Expire { soft, hard } => tracing::info!(soft, hard, "The guest is to be restarted"),
        }
    }

    fn open(&mut self, open: &Open) {
        let params = Params::of(open);
        if open.kind == Kind::Files {
            return self.open_files(open.ticket, params);
        }
        match self.client(open.kind, &params) {
            Err(reason) => self.refuse(open.ticket, false, &reason),
            Ok(client) => {
                self.params = params;
                self.event(Event::Open(open.ticket, client));
            }
        }
    }

    /// The client that wants a session, or why there will be none.
    fn client(&self, kind: Kind, params: &Params) -> std::result::Result<Client, String> {
        options::text(params, self.settings.paths.display, Tolerance::Safe).map_err(|bad| bad.to_string())?;
        match kind {
            Kind::Nx => Ok(Client::Nx),
            Kind::Files => Err("files are no session".into()),
            Kind::Vnc => match self.settings.paths.bridge.missing() {
                Some(missing) => {
                    Err(format!("this desktop cannot be shown in a browser: {} is missing", missing.display()))
                }
                None => Ok(Client::Browser),
            },
        }
    }

    fn on_word(&mut self, word: Word) {
        let current = self.running.as_ref().map(|running| running.run);
        match word {
            Word::Log(run, line, text) if current == Some(run) => {
                tracing::info!(run, line = text.trim(), "nxagent");
                if line == Line::Error {
                    self.last_error = Some(text);
                }
                self.event(Event::Log(line));
            }
            Word::Exited(run, how) if current == Some(run) => {
                if let Some(running) = self.running.take() {
                    running.sweep();
                }
                tracing::info!(run, how, "nxagent ended");
                let why = self.last_error.take().unwrap_or(how);
                self.event(Event::Exited(format!("nxagent ended: {}", why.trim())));
            }
            Word::DesktopEnded(run, how) if current == Some(run) => {
                tracing::info!(run, how, "The desktop ended, and the session with it");
                self.event(Event::DesktopEnded);
            }
            _ => {}
        }
    }

    fn event(&mut self, event: Event) {
        let effects = self.machine.step(event, self.now());
        for effect in effects {
            self.perform(effect);
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Report(session) => self.send(&FromVma::State(session)),
            Effect::Provision => self.provision(),
            Effect::Start(client) => self.start(client),
            Effect::Resume(client) => self.resume(client),
            Effect::HangUp => self.leave("hang up", Running::hang_up),
            Effect::Terminate => self.leave("end", Running::terminate),
            Effect::Kill => self.leave("kill", Running::kill),
            Effect::Probe => self.probe(),
            Effect::StartDesktop => self.start_desktop(),
            Effect::Opened { ticket, client, resumed } => self.opened(ticket, client, resumed),
            Effect::Refused { ticket, retry, reason } => self.refuse(ticket, retry, &reason),
        }
    }

    fn provision(&self) {
        self.provide(self.params.clone(), Message::Provisioned);
    }

    /// Finds or makes the user in a thread of its own.
    fn provide(&self, params: Params, told: impl FnOnce(Result<Account>) -> Message + Send + 'static) {
        let (settings, queue) = (self.settings.clone(), self.queue.clone());
        proc::spawn("provision", move || {
            let account = match settings.as_self {
                true => user::myself(&settings.paths.run, settings.home),
                false => user::provision(&params),
            };
            // Nobody listens when the agent ends.
            let _unheard = queue.send(told(account));
        });
    }

    fn open_files(&mut self, ticket: Ticket, params: Params) {
        match &self.account {
            Some(account) => self.files(ticket, Ok(account.clone())),
            None => self.provide(params, move |account| Message::Files(ticket, account)),
        }
    }

    fn files(&mut self, ticket: Ticket, account: Result<Account>) {
        let account = match account {
            Ok(account) => account,
            Err(error) => return self.refuse(ticket, false, &error.chain()),
        };
        self.send(&FromVma::Opened { ticket, resumed: false });
        if let Err(error) = self.transfer(ticket, &account) {
            tracing::error!(error = error.chain(), "Cannot serve the user's files");
        }
    }

    fn transfer(&mut self, ticket: Ticket, account: &Account) -> Result<()> {
        let node = splice::dial(&self.settings.socket, ticket);
        let node = node.map_err(Error::call("open", "the session's connection to the node"))?;
        if self.transfers >= TRANSFERS {
            return files::busy(node).map_err(Error::call("refuse", "a transfer"));
        }
        let mut command = proc::as_user(account, Path::new("/proc/self/exe"));
        command.arg("files").stdin(OwnedFd::from(node));
        let queue = self.queue.clone();
        let _served = Process::start(command, move |how| {
            let _unheard = queue.send(Message::FilesEnded(how));
        })?;
        self.transfers += 1;
        Ok(())
    }

    fn start(&mut self, client: Client) {
        let Some(account) = &self.account else { return };
        self.runs += 1;
        match session::start(&self.settings.paths, account, &self.params, client, self.runs, self.words()) {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                tracing::error!(error = error.chain(), "Cannot start nxagent");
                self.event(Event::Exited(error.chain()));
            }
        }
    }

    fn resume(&mut self, client: Client) {
        if let Some(running) = self.running.as_mut().filter(|_| client == Client::Browser) {
            running.tolerance = session::tolerance(client);
        }
        self.on_running("resume", |agent, running| {
            if let Some(account) = &agent.account {
                agent.settings.paths.write_options(account, &agent.params, client, running.tolerance)?;
            }
            running.hang_up()
        });
    }

    fn words(&self) -> impl Fn(Word) + Clone + Send + 'static {
        let queue = self.queue.clone();
        move |word| {
            let _unheard = queue.send(Message::Word(word));
        }
    }

    fn start_desktop(&mut self) {
        let words = self.words();
        let (Some(running), Some(account)) = (&mut self.running, &self.account) else { return };
        if let Err(error) = running.start_desktop(&self.settings.paths, account, &self.params, words) {
            tracing::error!(error = error.chain(), "Cannot start the desktop");
            self.event(Event::DesktopEnded);
        }
    }

    fn on_running(&self, action: &str, work: impl FnOnce(&Self, &Running) -> Result<()>) {
        let Some(running) = &self.running else { return };
        if let Err(error) = work(self, running) {
            tracing::error!(action, error = error.chain(), "Cannot act on the session");
        }
    }

    /// Signals nxagent, and ends what serves a browser: left to themselves the two take 6 s to part.
    fn leave(&mut self, action: &str, signal: impl FnOnce(&Running) -> Result<()>) {
        self.on_running(action, |_, running| signal(running));
        self.end_bridge();
    }

    fn probe(&mut self) {
        match tcp::listens(self.settings.paths.port()) {
            Ok(true) => self.event(Event::Listens),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "Cannot read the table of listeners"),
        }
    }

    /// Answers, and brings the session connection behind the answer.
    fn opened(&mut self, ticket: Ticket, client: Client, resumed: bool) {
        if let Some((_, silent)) = self.dialled.take() {
            // Its client never spoke and must not, now that the listener is another's.
            let _gone = silent.shutdown(Shutdown::Both);
        }
        self.send(&FromVma::Opened { ticket, resumed });
        let dialled = match client {
            Client::Nx => self.dial(ticket).map_err(Error::call("open", "the session's connection to the node")),
            Client::Browser => self.dial_bridged(ticket, resumed),
        };
        if let Err(error) = dialled {
            tracing::error!(error = error.chain(), "Cannot serve a client");
        }
    }

    /// The server speaks first, so the bridge begins at once and has used the listener up.
    fn dial_bridged(&mut self, ticket: Ticket, resumed: bool) -> Result<()> {
        self.end_bridge();
        let node = splice::dial(&self.settings.socket, ticket);
        let node = node.map_err(Error::call("open", "the session's connection to the node"))?;
        let Some(account) = &self.account else { return Ok(()) };
        let (paths, queue) = (&self.settings.paths, self.queue.clone());
        // Another number each time: the last one's server may still be ending.
        self.bridges = self.bridges % BRIDGE_DISPLAYS + 1;
        let ended = move |how| {
            let _unheard = queue.send(Message::BridgeEnded(ticket, how));
        };
        let display = bridge::Display { number: paths.display + self.bridges, resumed };
        let bridge = bridge::start(paths, account, &self.params, display, node, ended)?;
        leftover::note(&paths.run, bridge.pid());
        self.bridge = Some((ticket, bridge));
        self.event(Event::Claimed);
        Ok(())
    }

    fn bridge_ended(&mut self, ticket: Ticket, how: &str) {
        tracing::info!(how, "The bridge ended");
        if let Some((_, bridge)) = self.bridge.take_if(|(current, _)| *current == ticket) {
            proc::sweep(bridge.pid());
            self.event(Event::ClientEnded);
        }
    }

    /// One that is left has no session any more.
    fn end_bridge(&mut self) {
        let Some((_, bridge)) = self.bridge.take() else { return };
        proc::sweep(bridge.pid());
    }

    fn dial(&mut self, ticket: Ticket) -> std::io::Result<()> {
        let node = splice::dial(&self.settings.socket, ticket)?;
        self.dialled = Some((ticket, node.try_clone()?));
        let (port, queue) = (self.settings.paths.port(), self.queue.clone());
        proc::spawn("relay", move || {
            let claimed = move || {
                let _unheard = queue.send(Message::Claimed(ticket));
            };
            if let Err(error) = splice::relay(node, port, claimed) {
                tracing::warn!(%error, "A session's connection ended");
            }
        });
        Ok(())
    }

    fn refuse(&mut self, ticket: Ticket, retry: bool, reason: &str) {
        tracing::warn!(retry, reason, "Refused a session");
        self.send(&FromVma::Refused { ticket, retry, reason: clipped(reason) });
    }

    /// To the node, if it is there. One that cannot take it gets Hello, with the state, when it is back.
    fn send(&mut self, message: &FromVma) {
        let Some(node) = &mut self.node else { return };
        let mut buffer = [0; MAX_FRAME];
        let sent = vma_proto::encode(message, &mut buffer)
            .map_err(std::io::Error::other)
            .and_then(|frame| node.write_all(frame));
        if let Err(error) = sent {
            tracing::warn!(%error, "Lost the node");
            let _gone = node.shutdown(Shutdown::Both);
            self.node = None;
        }
    }
}

/// As much of the text as a frame has room for.
pub fn clipped<const N: usize>(text: &str) -> heapless::String<N> {
    let mut clipped = heapless::String::new();
    for char in text.chars() {
        if clipped.push(char).is_err() {
            break;
        }
    }
    clipped
}

/// Asks the guest's init to go down; it then ends the agent too.
fn power_off() {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    tracing::info!("The node powers the guest off");
    let ours = std::fs::read_to_string("/proc/1/comm").is_ok_and(|comm| matches!(comm.trim(), "init" | "vma"));
    if !ours && std::process::Command::new("/sbin/poweroff").spawn().is_ok() {
        return;
    }
    if let Err(error) = kill(Pid::from_raw(1), Signal::SIGPWR) {
        tracing::error!(%error, "Cannot power the guest off");
    }
}
