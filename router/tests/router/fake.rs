//! A small working model of `noded` with the store behind it: users, VMs that start when wanted,
//! takeover, and real descriptors for sessions.

use futures_util::{SinkExt, StreamExt};
use model::{
    HostId, UserId, VmId, frame,
    grant::{Grant, SignedGrant},
    local::{Open, OpenError, OpenInfo, Opened, RouterConfig, SessionKind, ToNoded, ToRouter},
    state::{UserState, VmState, Want},
    sync::{Acquired, Block, Call, LoggedIn, Refusal, Reply, Secret, SessionReport, VmCard, VmEntry, VmNow},
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::{
    collections::{HashMap, HashSet},
    io::IoSlice,
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::{fd::AsFd, unix::net::UnixStream as Guest},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, mpsc},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    runtime::Handle,
    sync::{mpsc as async_mpsc, watch},
    task::JoinHandle,
};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// What a VM does when it is wanted.
#[derive(Clone, Copy, PartialEq)]
pub enum Boot {
    Works,
    Fails(&'static str),
    Hangs,
}

/// A VM of the model.
#[derive(Clone)]
pub struct Vm {
    pub owner: UserId,
    pub name: &'static str,
    pub state: VmState,
    pub want: Want,
    pub blocked: bool,
    pub failed: Option<String>,
    pub boot: Boot,
    /// The administrator's note of a block.
    pub note: Option<&'static str>,
    pub phase: &'static str,
    pub host: HostId,
    pub address: Ipv4Addr,
}

/// What the model knows and heard.
pub struct State {
    pub config: RouterConfig,
    pub users: HashMap<(&'static str, &'static str), UserId>,
    pub vms: HashMap<VmId, Vm>,
    /// Eve's codes that were not used yet.
    pub codes: HashSet<&'static str>,
    pub heard: Vec<ToNoded>,
    pub opened: Vec<Open>,
    /// Opens to be refused as busy first.
    pub busy: u32,
    pub sessions: HashMap<u64, SessionReport>,
    /// While set, a takeover waits.
    pub slow_takeover: bool,
    /// The session that waits for its takeover.
    pub acquiring: Option<u64>,
    /// Users whose logins the store was to end everywhere.
    pub ended: Vec<UserId>,
}

/// A running model.
pub struct Fake {
    pub dir: PathBuf,
    guests: mpsc::Receiver<(SessionKind, Guest)>,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
    runtime: Handle,
}

struct Shared {
    state: Mutex<State>,
    routers: Mutex<Vec<async_mpsc::UnboundedSender<ToRouter>>>,
    changed: watch::Sender<u64>,
    guests: mpsc::Sender<(SessionKind, Guest)>,
}

impl Fake {
    pub fn start(dir: &Path, runtime: &Handle, state: State) -> Self {
        let (sender, guests) = mpsc::channel();
        let shared = Shared {
            state: Mutex::new(state),
            routers: Mutex::default(),
            changed: watch::channel(0).0,
            guests: sender,
        };
        let (dir, runtime) = (dir.to_owned(), runtime.clone());
        let mut fake = Self { dir, guests, shared: Arc::new(shared), tasks: Vec::new(), runtime };
        fake.revive();
        fake
    }

    pub fn router_socket(&self) -> PathBuf {
        self.dir.join("router.sock")
    }

    pub fn session_socket(&self) -> PathBuf {
        self.dir.join("session.sock")
    }

    /// As after `kill -9`: connections break, sockets refuse.
    pub fn kill(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
        self.shared.routers.lock().expect("lock").clear();
        for socket in [self.router_socket(), self.session_socket()] {
            std::fs::remove_file(socket).expect("removed");
        }
        self.state().heard.clear();
    }

    /// As when it is started again.
    pub fn revive(&mut self) {
        let _in = self.runtime.enter();
        let control = UnixListener::bind(self.router_socket()).expect("bound");
        let sessions = UnixListener::bind(self.session_socket()).expect("bound");
        let (a, b) = (self.shared.clone(), self.shared.clone());
        self.tasks.push(self.runtime.spawn(async move {
            // Aborted with this task: a JoinSet ends its tasks when it is dropped.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = control.accept().await {
                connections.spawn(converse(a.clone(), stream));
            }
        }));
        self.tasks.push(self.runtime.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = sessions.accept().await {
                connections.spawn(open(b.clone(), stream));
            }
        }));
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("lock")
    }

    /// Says a word to the router.
    pub fn say(&self, word: ToRouter) {
        self.shared.say(word);
    }

    /// Changes the configuration and sends it.
    pub fn configure(&self, change: impl FnOnce(&mut RouterConfig)) {
        let mut state = self.state();
        change(&mut state.config);
        let config = Box::new(state.config.clone());
        drop(state);
        self.say(ToRouter::Config(config));
    }

    /// The guest's end of the session opened next.
    pub fn guest(&self) -> Guest {
        let (_, guest) = self.guests.recv_timeout(Duration::from_secs(20)).expect("a session was opened");
        guest.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        guest
    }

    /// All sessions opened from now on, for somebody else to answer.
    pub fn take_guests(&mut self) -> mpsc::Receiver<(SessionKind, Guest)> {
        std::mem::replace(&mut self.guests, mpsc::channel().1)
    }

    /// Waits until the model's state is as wished.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, wished: impl Fn(&State) -> Option<T>) -> T {
        let began = std::time::Instant::now();
        loop {
            if let Some(found) = wished(&self.state()) {
                return found;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "never: {what}");
            std::thread::yield_now();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("lock")
    }

    fn say(&self, word: ToRouter) {
        self.routers.lock().expect("lock").iter().for_each(|r| drop(r.send(word.clone())));
    }

    fn heard(&self, word: ToNoded) {
        let mut state = self.lock();
        match &word {
            ToNoded::Session(report) if report.state == UserState::Disconnected => {
                state.sessions.remove(&report.session);
            }
            ToNoded::Session(report) => {
                state.sessions.insert(report.session, report.clone());
            }
            ToNoded::Hello { sessions } => {
                state.sessions = sessions.iter().map(|s| (s.session, s.clone())).collect();
            }
            _ => {}
        }
        state.heard.push(word);
        drop(state);
        self.changed.send_modify(|n| *n += 1);
    }

    async fn answer(&self, call: Call) -> Reply {
        match call {
            Call::Acquire { user, vm, session, .. } => self.acquire(user, vm, session).await,
            Call::AwaitVm { vm, seen, .. } => self.await_vm(vm, seen).await,
            call => self.lock().answer(call).unwrap_or_else(Reply::Refused),
        }
    }

    async fn acquire(&self, user: UserId, vm: VmId, session: u64) -> Reply {
        if let Err(refusal) = self.lock().may(user, vm, true) {
            return Reply::Refused(refusal);
        }
        let mut changes = self.changed.subscribe();
        let held = |state: &State| state.sessions.values().any(|s| s.vm == vm && s.session != session);
        let took_over = held(&self.lock());
        if took_over {
            self.lock().acquiring = Some(session);
            while self.lock().slow_takeover {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.say(ToRouter::Abort { vm, session: None, reason: model::sync::TAKEN_OVER.to_owned() });
            changes.wait_for(|_| !held(&self.lock())).await.expect("lives");
        }
        self.lock().acquired(user, vm, took_over)
    }

    /// Like the store, answers at a change or after a while; the while is short here.
    async fn await_vm(&self, vm: VmId, seen: Option<VmState>) -> Reply {
        if self.lock().seen_again(vm, seen) {
            let mut changes = self.changed.subscribe();
            let _no_change = tokio::time::timeout(Duration::from_millis(20), changes.changed()).await;
        }
        self.lock().vms.get(&vm).map_or(Reply::Refused(Refusal::NoVm), |vm| Reply::Vm(vm.now()))
    }
}

impl Vm {
    fn now(&self) -> VmNow {
        VmNow { state: self.state, want: self.want, phase: String::new(), failed: self.failed.clone() }
    }

    fn step(&mut self) {
        (self.state, self.failed) = match (self.want, self.state, self.boot) {
            (Want::Run, VmState::Stopped, _) => (VmState::Starting, None),
            (Want::Run, VmState::Starting, Boot::Works) => (VmState::Running, None),
            (Want::Run, VmState::Starting, Boot::Fails(reason)) => (VmState::Stopped, Some(reason.to_owned())),
            (Want::Stop, VmState::Running | VmState::Starting, Boot::Works) => (VmState::Stopping, None),
            (Want::Stop, VmState::Stopping, Boot::Works) => (VmState::Stopped, None),
            _ => return,
        };
    }
}

impl State {
    /// Lets the VM take its next step; whether it still is as the asker knows it.
    fn seen_again(&mut self, vm: VmId, seen: Option<VmState>) -> bool {
        let Some(vm) = self.vms.get_mut(&vm) else { return false };
        if seen == Some(vm.state) {
            vm.step();
        }
        seen == Some(vm.state)
    }

    fn may(&self, user: UserId, vm: VmId, to_use: bool) -> Result<&Vm, Refusal> {
        let vm = self.vms.get(&vm).ok_or(Refusal::NoVm)?;
        if vm.blocked && to_use {
            return Err(Refusal::Blocked);
        }
        if vm.owner == user { Ok(vm) } else { Err(Refusal::NotYours) }
    }

    fn answer(&mut self, call: Call) -> Result<Reply, Refusal> {
        match call {
            Call::Login { login, password, .. } => {
                if password.0 == "slow down" {
                    return Err(Refusal::TooMany(30));
                }
                if login == "eve" {
                    return self.login_of_eve(&password.0).map(Reply::LoggedInByCode);
                }
                let known = self.users.iter().find(|((l, p), _)| *l == login && *p == password.0);
                let user = *known.ok_or(Refusal::BadLogin)?.1;
                Ok(Reply::LoggedIn(LoggedIn { user, login }))
            }
            Call::LoginWithCode { login, password, code, client } => {
                let code = code.map(|code| code.0).unwrap_or_default();
                self.answer(Call::Login { login, password: Secret(format!("{}{code}", password.0)), client })
            }
            Call::List { user } => Ok(Reply::Vms(self.cards(user).into_iter().map(|card| card.entry).collect())),
            Call::Cards { user } => Ok(Reply::Cards(self.cards(user))),
            Call::StopVm { user, vm } => {
                let state = self.may(user, vm, false)?.state;
                if matches!(state, VmState::Zombie) {
                    return Err(Refusal::State(state));
                }
                self.vms.entry(vm).and_modify(|v| v.want = Want::Stop);
                Ok(Reply::Stopping)
            }
            Call::EndLogins { user } if self.config.store_online => {
                self.ended.push(user);
                Ok(Reply::LoginsEnded)
            }
            Call::EndLogins { .. } => Err(Refusal::StoreAway),
            other => Err(Refusal::Other(format!("{other:?}"))),
        }
    }

    /// Eve has Ann's desktops, and a code for each login.
    fn login_of_eve(&mut self, password: &str) -> Result<LoggedIn, Refusal> {
        match password.strip_prefix("apple") {
            None => Err(Refusal::BadLogin),
            Some("") => Err(Refusal::CodeNeeded),
            Some(code) if self.codes.remove(code) => Ok(LoggedIn { user: UserId(1), login: "eve".to_owned() }),
            Some(_) => Err(Refusal::BadCode),
        }
    }

    fn cards(&self, user: UserId) -> Vec<VmCard> {
        let mut cards: Vec<_> =
            self.vms.iter().filter(|(_, vm)| vm.owner == user).map(|(id, vm)| self.card(*id, vm)).collect();
        cards.sort_by_key(|card| card.entry.vm);
        cards
    }

    fn card(&self, id: VmId, vm: &Vm) -> VmCard {
        let entry = VmEntry { vm: id, name: vm.name.to_owned(), state: vm.state, blocked: vm.blocked };
        let session = self.sessions.values().find(|s| s.vm == id).map_or(UserState::Disconnected, |s| s.state);
        let block = match (vm.blocked, &vm.failed) {
            (false, _) => None,
            (true, Some(_)) => Some(Block::FailedStart),
            (true, None) => Some(Block::Order(vm.note.map(str::to_owned))),
        };
        VmCard {
            state_ms: Some(190_000),
            phase: vm.phase.to_owned(),
            failed: vm.failed.clone(),
            block,
            session,
            session_ms: Some(7_500_000),
            ..entry.into()
        }
    }

    fn acquired(&mut self, user: UserId, vm: VmId, took_over: bool) -> Reply {
        let login = "demo".to_owned();
        let Some(found) = self.vms.get_mut(&vm) else { return Reply::Refused(Refusal::NoVm) };
        found.want = Want::Run;
        let grant = Grant { user, vm, host: found.host, expires: u64::MAX, login, params: Vec::new() };
        let body = frame::encode(&grant).expect("encodes");
        let grant = SignedGrant { body, signature: b"signed".to_vec() };
        Reply::Acquired(Acquired { host: found.host, address: found.address, grant, now: found.now(), took_over })
    }

    fn open(&mut self, open: &Open) -> Result<OpenInfo, OpenError> {
        let grant: Grant = frame::decode(&open.grant.body).map_err(|e| OpenError::Grant(e.to_string()))?;
        if open.grant.signature != b"signed" || Some(grant.host) != self.config.host {
            return Err(OpenError::Grant("it is for another node".to_owned()));
        }
        if self.busy > 0 {
            self.busy -= 1;
            return Err(OpenError::Busy("suspending".to_owned()));
        }
        self.opened.push(open.clone());
        Ok(OpenInfo { resumed: false })
    }
}

async fn converse(shared: Arc<Shared>, stream: UnixStream) {
    let mut frames = Framed::new(stream, LengthDelimitedCodec::new());
    let (sender, mut words) = async_mpsc::unbounded_channel();
    shared.routers.lock().expect("lock").push(sender.clone());
    let config = Box::new(shared.lock().config.clone());
    sender.send(ToRouter::Config(config)).expect("open");
    let mut calls = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            word = words.recv() => {
                let bytes = frame::encode(&word.expect("a sender is kept")).expect("encodes");
                if frames.send(bytes.as_slice()).await.is_err() {
                    return;
                }
            }
            frame = frames.next() => {
                let Some(Ok(bytes)) = frame else { return };
                match frame::decode(&bytes).expect("a frame") {
                    ToNoded::Call(number, call) => {
                        let (shared, sender) = (shared.clone(), sender.clone());
                        calls.spawn(async move {
                            let reply = shared.answer(call).await;
                            let _router_gone = sender.send(ToRouter::Reply(number, reply));
                        });
                    }
                    word => shared.heard(word),
                }
            }
        }
    }
}

async fn open(shared: Arc<Shared>, mut stream: UnixStream) {
    let length = stream.read_u32().await.expect("a frame");
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await.expect("a whole frame");
    let wanted: Open = frame::decode(&body).expect("an Open");
    let opened: Opened = shared.lock().open(&wanted);
    let answer = frame::encode(&opened).expect("encodes");
    let answer = [&(answer.len() as u32).to_be_bytes()[..], &answer].concat();
    if opened.is_err() {
        stream.write_all(&answer).await.expect("written");
        return;
    }
    let (ours, theirs) = Guest::pair().expect("a pair");
    pass(&stream, &answer, &theirs);
    let _test_over = shared.guests.send((wanted.kind, ours));
}

/// Sends the answer's first byte with the descriptor, as the hardest case, and the rest after it.
fn pass(stream: &UnixStream, answer: &[u8], theirs: &Guest) {
    let descriptors = [theirs.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(stream, &[IoSlice::new(&answer[..1])], &mut control, SendFlags::empty()).expect("sent");
    assert_eq!(sent, 1);
    assert_eq!(stream.try_write(&answer[1..]).expect("sent"), answer.len() - 1);
}
