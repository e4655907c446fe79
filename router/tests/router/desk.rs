//! What stands behind sessions in the tests of pages: a real Xvnc with a terminal, and a small working
//! agent for files. It answers every session that the model of `noded` opens.

use crate::world::World;
use model::local::SessionKind;
use std::{
    collections::HashMap,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use vma_proto::{
    Decoder, MAX_FRAME,
    files::{FromFiles, ToFiles, Why},
};

/// What runs in the terminal: everything typed is in the file `typed`.
const TERMINAL: &str = "tee typed";

/// What is known of an upload.
enum Upload {
    Part(Vec<u8>),
    Done(Box<FromFiles>),
}

/// The desktop.
pub struct Desk {
    pub home: PathBuf,
    children: Vec<Child>,
    display: String,
    socket: PathBuf,
    /// The next upload is cut off in its middle.
    pub cut: Arc<AtomicBool>,
    /// The next session ends before its first picture.
    pub blank: Arc<AtomicBool>,
    /// The next upload is taken whole, but its last answer is lost.
    pub deaf: Arc<AtomicBool>,
    /// Where each try of an upload began.
    pub offsets: Arc<Mutex<Vec<u64>>>,
    uploads: Arc<Mutex<HashMap<[u8; 16], Upload>>>,
    _dir: tempfile::TempDir,
}

impl Desk {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let (home, socket) = (dir.path().join("home"), dir.path().join("rfb"));
        std::fs::create_dir(&home).expect("made");
        // A number of this process, so that tests that run at the same time do not meet.
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = 1000 + std::process::id() % 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) * 20_000;
        let display = format!(":{number}");
        let mut desk = Self {
            home,
            children: Vec::new(),
            display,
            socket,
            cut: Arc::default(),
            deaf: Arc::default(),
            blank: Arc::default(),
            offsets: Arc::default(),
            uploads: Arc::default(),
            _dir: dir,
        };
        desk.serve_screen();
        desk
    }

    fn serve_screen(&mut self) {
        let mut xvnc = Command::new("Xvnc");
        xvnc.args([&self.display, "-geometry", "1000x700", "-depth", "24", "-SecurityTypes", "None", "-rfbport", "-1"]);
        xvnc.args(["-AlwaysShared", "-ac", "-nolisten", "tcp", "-rfbunixpath"]).arg(&self.socket);
        self.spawn(xvnc, "the tests of pages need Xvnc: install the package tigervnc-standalone-server");
        let began = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            assert!(began.elapsed() < Duration::from_secs(20), "Xvnc does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        // The terminal is openbox's own child: started beside it, it may come before the window manager and
        // never get the keyboard.
        let terminal =
            format!("xterm -maximized -fa 'DejaVu Sans Mono' -fs 14 -bg '#10202c' -fg '#d8e6ee' -e {TERMINAL}");
        let mut openbox = Command::new("openbox");
        openbox.args(["--startup", &terminal]).current_dir(&self.home);
        openbox.env("DISPLAY", &self.display).env("HOME", &self.home);
        self.spawn(openbox, "install the packages openbox and xterm");
    }

    fn spawn(&mut self, mut command: Command, advice: &str) {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.children.push(child.unwrap_or_else(|e| panic!("{advice} ({e})")));
    }

    /// Answers sessions from now on, in the background, for as long as the world lives.
    pub fn attach(&self, world: &mut World) {
        let opened = world.fake.take_guests();
        let model = Model {
            home: self.home.clone(),
            uploads: self.uploads.clone(),
            cut: self.cut.clone(),
            deaf: self.deaf.clone(),
            offsets: self.offsets.clone(),
        };
        let (socket, blank) = (self.socket.clone(), self.blank.clone());
        std::thread::spawn(move || {
            for (kind, guest) in opened {
                let (socket, model) = (socket.clone(), model.clone());
                let limit =
                    if kind == SessionKind::Vnc && blank.swap(false, Ordering::Relaxed) { GREETING } else { u64::MAX };
                std::thread::spawn(move || match kind {
                    SessionKind::Files => drop(model.serve(guest)),
                    _ => screen(guest, &socket, limit),
                });
            }
        });
    }

    /// Waits until the terminal runs its command, which makes its file.
    #[track_caller]
    pub fn ready(&self) {
        let began = Instant::now();
        while !self.home.join("typed").exists() {
            assert!(began.elapsed() < Duration::from_secs(20), "the terminal does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a file of the home holds what is wished.
    #[track_caller]
    pub fn holds(&self, name: &str, wished: impl Fn(&[u8]) -> bool) {
        let began = Instant::now();
        loop {
            let found = std::fs::read(self.home.join(name)).unwrap_or_default();
            if wished(&found) {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{name} is {:?}", String::from_utf8_lossy(&found));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// The server's words up to its first picture are fewer than this.
const GREETING: u64 = 200;

/// Passes on so many bytes of the server at most.
fn screen(guest: UnixStream, socket: &Path, limit: u64) {
    let Ok(server) = UnixStream::connect(socket) else { return };
    let (mut a, mut b) = (guest.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
    let (mut c, mut d) = (server, guest);
    std::thread::spawn(move || {
        let _ended = std::io::copy(&mut a, &mut b);
        let _gone = b.shutdown(Shutdown::Both);
    });
    let (mut buffer, mut passed) = ([0; 65536], 0);
    while let Ok(n @ 1..) = c.read(&mut buffer) {
        passed += n as u64;
        if passed > limit || d.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _gone = d.shutdown(Shutdown::Both);
}

fn say(to: &mut UnixStream, word: &FromFiles) -> std::io::Result<()> {
    let mut buffer = [0; MAX_FRAME];
    to.write_all(vma_proto::encode(word, &mut buffer).expect("encodes"))
}

/// The agent's part of files.
#[derive(Clone)]
struct Model {
    home: PathBuf,
    uploads: Arc<Mutex<HashMap<[u8; 16], Upload>>>,
    cut: Arc<AtomicBool>,
    deaf: Arc<AtomicBool>,
    offsets: Arc<Mutex<Vec<u64>>>,
}

impl Model {
    /// One request, as `vma_proto::files` says.
    fn serve(&self, mut guest: UnixStream) -> std::io::Result<()> {
        let (mut decoder, mut byte) = (Box::<Decoder>::default(), [0]);
        let request = loop {
            guest.read_exact(&mut byte)?;
            if let (_, Some(request)) = decoder.push::<ToFiles>(&byte) {
                break request.expect("a request");
            }
        };
        let no = |why| FromFiles::Refused { why, reason: Default::default() };
        match request {
            ToFiles::List { folder } => {
                let Ok(entries) = std::fs::read_dir(self.home.join(folder.as_str())) else {
                    return say(&mut guest, &no(Why::NotFound));
                };
                for entry in entries.flatten() {
                    let meta = entry.metadata()?;
                    let name = heapless::String::try_from(&*entry.file_name().to_string_lossy()).expect("short");
                    say(&mut guest, &FromFiles::Entry { name, folder: meta.is_dir(), size: meta.len(), modified: 0 })?;
                }
                say(&mut guest, &FromFiles::End { more: false })
            }
            ToFiles::Get { file, offset } => {
                let Ok(bytes) = std::fs::read(self.home.join(file.as_str())) else {
                    return say(&mut guest, &no(Why::NotFound));
                };
                let size = bytes.len() as u64;
                say(&mut guest, &FromFiles::Ready { offset, size, modified: 0 })?;
                guest.write_all(&bytes[offset as usize..])
            }
            ToFiles::Have { id } => {
                let have = match self.uploads.lock().expect("lock").get(&id) {
                    Some(Upload::Done(done)) => FromFiles::clone(done),
                    Some(Upload::Part(kept)) => ready(kept.len() as u64),
                    None => ready(0),
                };
                say(&mut guest, &have)
            }
            ToFiles::Put { id, folder, name, offset, total } => {
                let mut kept = match self.uploads.lock().expect("lock").remove(&id) {
                    Some(Upload::Part(kept)) => kept,
                    _ => Vec::new(),
                };
                if (kept.len() as u64) < offset {
                    return say(&mut guest, &no(Why::Offset));
                }
                kept.truncate(offset as usize);
                say(&mut guest, &ready(offset))?;
                self.offsets.lock().expect("lock").push(offset);
                let all = if self.cut.swap(false, Ordering::Relaxed) { total / 3 } else { total - offset };
                let mut rest = guest.try_clone()?.take(all);
                let read = rest.read_to_end(&mut kept);
                if read.is_err() || (kept.len() as u64) < total {
                    self.uploads.lock().expect("lock").insert(id, Upload::Part(kept));
                    return Ok(());
                }
                std::fs::write(self.home.join(folder.as_str()).join(name.as_str()), &kept)?;
                let done = FromFiles::Done { name, size: total };
                self.uploads.lock().expect("lock").insert(id, Upload::Done(Box::new(done.clone())));
                if self.deaf.swap(false, Ordering::Relaxed) { Ok(()) } else { say(&mut guest, &done) }
            }
        }
    }
}

fn ready(offset: u64) -> FromFiles {
    FromFiles::Ready { offset, size: 0, modified: 0 }
}
