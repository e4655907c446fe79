//! A node's side of the agent's socket, and a real client of its sessions, for tests.

use std::{
    fs,
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{Duration, Instant},
};
use vma_proto::{Decoder, FromVma, Kind, MAX_FRAME, Open, Ticket, ToVma};

/// For every wait: a machine under load is slow, and a failure is one all the same.
const PATIENCE: Duration = Duration::from_secs(60);

static DISPLAYS: AtomicU16 = AtomicU16::new(0);

/// Displays that no other test, nor another run of these tests, uses.
fn display() -> u16 {
    // An agent's bridges use the four behind its own. Those of one run must not come round again while it lasts.
    200 + (std::process::id() % 12) as u16 * 150 + DISPLAYS.fetch_add(1, Ordering::Relaxed) % 30 * 5
}

/// The agent under test.
pub struct Agent {
    child: Child,
    /// The session's display.
    pub display: u16,
    starts: PathBuf,
    log: PathBuf,
}

impl Agent {
    /// Runs it with this nxagent; its desktop only notes that it was started.
    pub fn start(dir: &Path, nxagent: &str) -> Self {
        let (desktop, starts) = (dir.join("desktop"), dir.join("starts"));
        fs::write(&desktop, format!("#!/bin/sh\necho $DISPLAY >>{}\nexec sleep 600\n", starts.display()))
            .expect("desktop");
        fs::set_permissions(&desktop, fs::Permissions::from_mode(0o755)).expect("mode");
        let number = display();
        let child = Command::new(env!("CARGO_BIN_EXE_vma"))
            .arg("--as-self")
            .arg("--home")
            .arg(dir)
            .arg("--socket")
            .arg(dir.join("vma.sock"))
            .arg("--run")
            .arg(dir.join("run"))
            .args(["--xvnc", &nxagent.replace("nxagent", "Xvnc")])
            .args(["--nxagent", nxagent, "--display", &number.to_string(), "--desktop"])
            .arg(&desktop)
            .spawn()
            .expect("the agent starts");
        Self { child, display: number, starts, log: dir.join("run/nxagent.log") }
    }

    /// Until the desktop has been started so many times in all.
    #[track_caller]
    pub fn wait_for_desktop(&self, times: usize) {
        wait("the desktop", || fs::read_to_string(&self.starts).is_ok_and(|text| text.lines().count() == times));
    }

    /// Until the session's display has this size.
    #[track_caller]
    pub fn wait_for_desktop_size(&self, width: u16, height: u16) {
        let (what, wanted) = (format!("a desktop of {width}x{height}"), format!("geometry [{width}x{height}]"));
        wait(&what, || {
            let text = fs::read_to_string(&self.log).unwrap_or_default();
            text.lines().rfind(|line| line.contains("resized to geometry")).is_some_and(|line| line.contains(&wanted))
        });
    }

    /// Until all parts of a browser's bridge run, or none does.
    #[track_caller]
    pub fn wait_for_bridge(&self, wanted: bool) {
        let dir = self.log.parent().expect("directory").display().to_string();
        wait(if wanted { "the bridge" } else { "the bridge's end" }, || processes("Xvnc", &dir) == usize::from(wanted));
    }

    /// Kills it, as a crash does: what it started lives on.
    pub fn crash(mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("killed");
    }

    /// Until so many nxagents of this test run.
    #[track_caller]
    pub fn wait_for_nxagents(&self, wanted: usize) {
        let dir = self.log.parent().expect("directory").display().to_string();
        wait("nxagent", || processes("nxagent", &dir) == wanted);
    }

    /// Ends it in order.
    pub fn terminate(mut self) -> ExitStatus {
        signal(&self.child, nix::sys::signal::Signal::SIGTERM);
        let mut status = None;
        wait("the agent's end", || {
            status = self.child.try_wait().expect("status");
            status.is_some()
        });
        status.expect("ended")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        signal(&self.child, nix::sys::signal::Signal::SIGTERM);
        let _ended = self.child.wait();
    }
}

/// How many processes of this name there are that have the directory of a test in their environment.
fn processes(name: &str, dir: &str) -> usize {
    let pids = fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    let ours = |path: &PathBuf| fs::read(path.join("environ")).is_ok_and(|env| contains(&env, dir.as_bytes()));
    pids.filter(named).filter(ours).count()
}

fn signal(child: &Child, signal: nix::sys::signal::Signal) {
    let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal);
}

#[track_caller]
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::yield_now();
        thread::park_timeout(Duration::from_millis(20));
    }
}

/// The node's daemon.
pub struct Node {
    listener: UnixListener,
    control: UnixStream,
    decoder: Decoder,
    pending: Vec<u8>,
}

impl Node {
    /// Makes the socket anew and waits for the agent.
    pub fn listen(dir: &Path) -> Self {
        let path = dir.join("vma.sock");
        let _none = fs::remove_file(&path);
        let listener = UnixListener::bind(path).expect("bind");
        let (control, _) = listener.accept().expect("the agent connects");
        control.set_read_timeout(Some(PATIENCE)).expect("time-out");
        Self { listener, control, decoder: Decoder::default(), pending: vec![] }
    }

    /// Reads Hello.
    #[track_caller]
    pub fn hello(&mut self) {
        let message = self.next();
        assert!(matches!(message, FromVma::Hello { .. }), "{message:?}");
    }

    /// The agent's next message.
    #[track_caller]
    pub fn next(&mut self) -> FromVma {
        loop {
            if let Some(frame) = self.take() {
                return frame;
            }
            let mut buffer = [0; 4096];
            let n = self.control.read(&mut buffer).expect("a message");
            assert!(n > 0, "the agent closed the connection");
            self.pending.extend(&buffer[..n]);
        }
    }

    fn take(&mut self) -> Option<FromVma> {
        while !self.pending.is_empty() {
            let (used, frame) = self.decoder.push(&self.pending);
            self.pending.drain(..used);
            if let Some(frame) = frame {
                return Some(frame.expect("a good frame"));
            }
        }
        None
    }

    /// Reads up to this message; another answer on the way is a failure.
    #[track_caller]
    pub fn until(&mut self, wanted: &FromVma) {
        loop {
            let message = self.next();
            if message == *wanted {
                return;
            }
            assert!(matches!(message, FromVma::State(_) | FromVma::GoingDown), "{message:?} before {wanted:?}");
        }
    }

    /// Sends a message.
    pub fn send(&mut self, message: &ToVma) {
        let mut buffer = [0; MAX_FRAME];
        self.control.write_all(vma_proto::encode(message, &mut buffer).expect("encodes")).expect("sent");
    }

    /// Opens a session and returns its connection.
    #[track_caller]
    pub fn session(&mut self, ticket: Ticket, resumed: bool) -> UnixStream {
        self.send(&open(ticket, Kind::Nx, &[("qvd.client.link", "lan"), ("qvd.client.geometry", "800x600")]));
        let (was_resumed, stream) = self.opened(ticket);
        assert_eq!(was_resumed, resumed);
        stream
    }

    /// The same for a browser.
    #[track_caller]
    pub fn browse(&mut self, ticket: Ticket, geometry: &str, resumed: bool) -> UnixStream {
        let params = [("qvd.client.os", "browser"), ("qvd.client.link", "lan"), ("qvd.client.geometry", geometry)];
        self.send(&open(ticket, Kind::Vnc, &params));
        let (was_resumed, stream) = self.opened(ticket);
        assert_eq!(was_resumed, resumed);
        stream
    }

    /// The answer to a request, and the connection behind it.
    #[track_caller]
    pub fn opened(&mut self, ticket: Ticket) -> (bool, UnixStream) {
        let resumed = loop {
            match self.next() {
                FromVma::Opened { ticket: other, resumed } if other == ticket => break resumed,
                FromVma::State(_) => {}
                other => panic!("{other:?} before the session"),
            }
        };
        let (mut stream, _) = self.listener.accept().expect("session connection");
        let mut decoder = Decoder::default();
        loop {
            // Byte by byte: what follows the frame is the session's.
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the ticket");
            if let (_, Some(frame)) = decoder.push::<FromVma>(&byte) {
                assert_eq!(frame, Ok(FromVma::Session(ticket)));
                return (resumed, stream);
            }
        }
    }
}

/// A request for a session.
pub fn open(ticket: Ticket, kind: Kind, params: &[(&str, &str)]) -> ToVma {
    let pairs = params.iter().map(|(k, v)| ((*k).try_into().expect("short"), (*v).try_into().expect("short")));
    ToVma::Open(Open { ticket, kind, params: pairs.collect() })
}

/// A real NX client: nxproxy in front of a virtual display. Dropped, it dies without a word.
pub struct Client {
    display: Child,
    proxy: Child,
}

impl Client {
    /// Connects it to a session's bytes.
    pub fn connect(dir: &Path, session: UnixStream) -> Self {
        let number = display();
        let display = Command::new("/usr/bin/Xvfb")
            .args([&format!(":{number}"), "-screen", "0", "1024x768x24", "-nolisten", "tcp"])
            .stderr(Stdio::null())
            .spawn()
            .expect("Xvfb");
        wait("Xvfb", || UnixStream::connect(format!("/tmp/.X11-unix/X{number}")).is_ok());
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let log = fs::File::create(dir.join(format!("nxproxy-{number}.log"))).expect("log");
        let proxy = Command::new("/usr/bin/nxproxy")
            .args(["-S", &format!("nx/nx,connect=tcp:127.0.0.1:{port},retry=5:{number}")])
            .env("DISPLAY", format!(":{number}"))
            .env("NX_ROOT", dir)
            .env("HOME", dir)
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("nxproxy");
        let (client, _) = listener.accept().expect("nxproxy connects");
        relay(client, session);
        Self { display, proxy }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        for child in [&mut self.proxy, &mut self.display] {
            let _killed = child.kill();
            let _ended = child.wait();
        }
    }
}

fn relay(client: TcpStream, session: UnixStream) {
    let (mut from_client, mut to_session) = (client.try_clone().expect("clone"), session.try_clone().expect("clone"));
    let (mut from_session, mut to_client) = (session, client);
    thread::spawn(move || {
        let _ended = io::copy(&mut from_client, &mut to_session);
        let _closed = to_session.shutdown(std::net::Shutdown::Both);
    });
    thread::spawn(move || {
        let _ended = io::copy(&mut from_session, &mut to_client);
        let _closed = to_client.shutdown(std::net::Shutdown::Both);
    });
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// A window that its program never shows, on the display that an agent's first browser sees.
pub struct HiddenWindow {
    stream: UnixStream,
    window: u32,
}

impl HiddenWindow {
    /// Makes it.
    #[track_caller]
    pub fn on_bridge_of(agent: &Agent) -> Self {
        const EVENTS: u32 = 0x800;
        const STRUCTURE: u32 = 1 << 17;
        let authority = fs::read(agent.log.with_file_name("xauthority")).expect("the bridge's cookie");
        let mut stream = UnixStream::connect(format!("/tmp/.X11-unix/X{}", agent.display + 1)).expect("the display");
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        let mut greeting = vec![b'l', 0, 11, 0, 0, 0, 18, 0, 16, 0, 0, 0];
        greeting.extend(b"MIT-MAGIC-COOKIE-1\0\0");
        greeting.extend(authority.last_chunk::<16>().expect("a cookie"));
        stream.write_all(&greeting).expect("sent");
        let head = read_some(&stream, 8);
        assert_eq!(head[0], 1, "let in");
        let body = read_some(&stream, usize::from(u16::from_le_bytes([head[6], head[7]])) * 4);
        let word = |at: usize| u32::from_le_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
        let vendor = usize::from(u16::from_le_bytes([body[16], body[17]])).next_multiple_of(4);
        let (window, root) = (word(4), word(32 + vendor + usize::from(body[21]) * 8));
        let mut hidden = Self { stream, window };
        let (one_by_one, input_output) = (1 | 1 << 16, 1 << 16);
        hidden.ask(1, &[window, root, 0, one_by_one, input_output, 0, EVENTS, STRUCTURE]);
        hidden
    }

    /// Asks for this place, counted from the left.
    pub fn put(&mut self, place: i16) {
        const ONLY_X: u32 = 1;
        self.ask(12, &[self.window, ONLY_X, i32::from(place) as u32]);
    }

    /// Waits until it was moved; where to.
    #[track_caller]
    pub fn place(&mut self) -> i16 {
        const CONFIGURE_NOTIFY: u8 = 22;
        let event = read_some(&self.stream, 32);
        assert_eq!(event[0] & 0x7f, CONFIGURE_NOTIFY, "{event:?}");
        i16::from_le_bytes([event[16], event[17]])
    }

    fn ask(&mut self, opcode: u8, words: &[u32]) {
        let mut bytes = vec![opcode, 0];
        bytes.extend((words.len() as u16 + 1).to_le_bytes());
        bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        self.stream.write_all(&bytes).expect("sent");
    }
}

/// A browser's side of RFB 3.8, as far as a test needs it.
pub struct Browser {
    stream: UnixStream,
    size: (u16, u16),
}

impl Browser {
    /// Shakes hands, and asks for one picture after the other.
    #[track_caller]
    pub fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("time-out");
        assert_eq!(read_some(&stream, 12), b"RFB 003.008\n");
        (&stream).write_all(b"RFB 003.008\n").expect("sent");
        assert_eq!(read_some(&stream, 2), [1, 1], "one kind of security: none");
        (&stream).write_all(&[1]).expect("sent");
        assert_eq!(read_some(&stream, 4), [0; 4], "no failure");
        (&stream).write_all(&[0]).expect("sent");
        let head = read_some(&stream, 24);
        let size = (u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]]));
        // Raw, ExtendedDesktopSize, extended key events.
        let mut encodings = vec![2, 0, 0, 3];
        encodings.extend([0i32, -308, -258].iter().flat_map(|n| n.to_be_bytes()));
        (&stream).write_all(&encodings).expect("sent");
        let (mut reader, mut writer) = (stream.try_clone().expect("clone"), stream.try_clone().expect("clone"));
        thread::spawn(move || {
            let mut buffer = [0; 65536];
            // Whatever comes is asked for again: the server must never have to wait for us.
            while writer.write_all(&[3, 1, 0, 0, 0, 0, 0, 64, 0, 64]).is_ok()
                && matches!(reader.read(&mut buffer), Ok(1..))
            {}
        });
        Self { stream, size }
    }

    /// The display's size at the connection's begin.
    pub fn size(&self) -> (u16, u16) {
        self.size
    }

    /// SetDesktopSize.
    pub fn resize(&mut self, width: u16, height: u16) {
        let ([w0, w1], [h0, h1]) = (width.to_be_bytes(), height.to_be_bytes());
        let message = [251, 0, w0, w1, h0, h1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, w0, w1, h0, h1, 0, 0, 0, 0];
        self.stream.write_all(&message).expect("sent");
    }

    /// Until the server has closed the connection.
    #[track_caller]
    pub fn wait_for_end(&mut self) {
        wait("the end of the browser's connection", || self.stream.write_all(&[3, 1, 0, 0, 0, 0, 0, 1, 0, 1]).is_err());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _gone = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

fn read_some(mut stream: &UnixStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).expect("the server speaks");
    bytes
}

/// Sends one frame.
pub fn say<T: serde::Serialize>(stream: &mut UnixStream, message: &T) {
    let mut buffer = [0; MAX_FRAME];
    stream.write_all(vma_proto::encode(message, &mut buffer).expect("encodes")).expect("sent");
}

/// Reads one frame, and not a byte more.
#[track_caller]
pub fn hear<T: serde::de::DeserializeOwned>(stream: &mut UnixStream) -> T {
    let mut decoder = Decoder::default();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a frame");
        if let (_, Some(frame)) = decoder.push(&byte) {
            return frame.expect("a good frame");
        }
    }
}
