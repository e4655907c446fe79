//! A real Chromium without a screen, driven over its debugging pipe.

use super::{LabError, Page, file};
use serde_json::{Value, json};
use std::{
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, MutexGuard,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::Duration,
};

/// How long Chromium may take for one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where systems have the program; the environment's `CHROMIUM` goes before them.
const USUAL: [&str; 3] = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];

/// A running browser. It takes any certificate, as a user does who has compared the fingerprint.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    pipe: Mutex<Pipe>,
    dir: PathBuf,
}

#[derive(Debug)]
struct Pipe {
    to: ChildStdin,
    from: Receiver<Value>,
    last: u64,
    events: Vec<Value>,
}

impl Browser {
    /// Starts it with a fresh profile in `dir`, where also the pictures of failures are written.
    pub fn start(dir: &Path) -> Result<Self, LabError> {
        let profile = dir.join("chromium");
        if profile.exists() {
            file("remove", &profile, std::fs::remove_dir_all)?;
        }
        file("make", &profile, std::fs::create_dir_all)?;
        // The pipe is descriptors 3 and 4, which only a shell can place without unsafe code.
        let script = r#"exec "$0" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
            --ignore-certificate-errors --no-first-run --disable-background-networking --disable-component-update \
            --remote-debugging-pipe --user-data-dir="$1" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#;
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(program()?).arg(&profile);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(absent)?;
        let (to, output) = child.stdin.take().zip(child.stdout.take()).ok_or_else(ended)?;
        let (sender, from) = channel();
        std::thread::spawn(move || {
            for word in BufReader::new(output).split(0).map_while(Result::ok) {
                let Ok(word) = serde_json::from_slice(&word) else { return };
                if sender.send(word).is_err() {
                    return;
                }
            }
        });
        let pipe = Mutex::new(Pipe { to, from, last: 0, events: Vec::new() });
        Ok(Self { child, pipe, dir: dir.to_owned() })
    }

    /// A page with cookies of its own, in a window of this size.
    pub fn page(&self, width: u32, height: u32) -> Result<Page<'_>, LabError> {
        let context = self.call(None, "Target.createBrowserContext", json!({}))?["browserContextId"].clone();
        let target = json!({ "url": "about:blank", "browserContextId": context, "width": width, "height": height });
        let target = self.call(None, "Target.createTarget", target)?["targetId"].clone();
        let session = self.call(None, "Target.attachToTarget", json!({ "targetId": target, "flatten": true }))?;
        Page::new(self, session["sessionId"].as_str().unwrap_or_default().to_owned(), width, height)
    }

    /// Where pictures of failures are written.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Asks Chromium, or one page of it, and waits for the answer.
    pub(super) fn call(&self, session: Option<&str>, method: &str, params: Value) -> Result<Value, LabError> {
        let mut pipe = self.pipe();
        pipe.last += 1;
        let id = pipe.last;
        let mut word = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            word["sessionId"] = session.into();
        }
        pipe.to.write_all(&[word.to_string().as_bytes(), &[0]].concat()).map_err(|_| ended())?;
        loop {
            let word = pipe.from.recv_timeout(PATIENCE).map_err(|_| answer(method, "nothing"))?;
            if word["id"] == id {
                let error = word.get("error").map(|e| Err(answer(method, &e.to_string())));
                return error.unwrap_or_else(|| Ok(word["result"].clone()));
            }
            pipe.events.push(word);
        }
    }

    /// Takes what happened in one page since the last time.
    pub(super) fn events(&self, session: &str) -> Result<Vec<Value>, LabError> {
        let mut pipe = self.pipe();
        loop {
            match pipe.from.recv_timeout(Duration::from_millis(1)) {
                Ok(event) => pipe.events.push(event),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            }
        }
        let (mine, others) = pipe.events.drain(..).partition(|e| e["sessionId"] == session);
        pipe.events = others;
        Ok(mine)
    }

    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Either call fails only when it is gone already.
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn program() -> Result<PathBuf, LabError> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let found = named.into_iter().chain(USUAL.map(PathBuf::from)).find(|p| p.is_file());
    found.ok_or_else(|| absent(io::ErrorKind::NotFound.into()))
}

fn absent(source: io::Error) -> LabError {
    LabError::Spawn { program: "chromium".to_owned(), source }
}

fn ended() -> LabError {
    LabError::Connection { peer: "Chromium".to_owned(), source: io::ErrorKind::BrokenPipe.into() }
}

fn answer(method: &str, found: &str) -> LabError {
    LabError::Answer {
        peer: format!("Chromium, to {method},"),
        found: found.to_owned(),
        expected: "a result".to_owned(),
    }
}
