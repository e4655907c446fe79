//! A real Chromium, headless, driven over its debugging pipe.

use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);

/// The program; without it the tests of pages fail and say so.
fn chromium() -> PathBuf {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    let found = named.into_iter().chain(usual).find(|p| p.is_file());
    found.expect("the tests of pages need Chromium: install the package chromium, or name the program in CHROMIUM")
}

/// A running browser.
pub struct Browser {
    child: Child,
    pipe: Mutex<Pipe>,
    _profile: tempfile::TempDir,
}

struct Pipe {
    to: ChildStdin,
    from: Receiver<Value>,
    last: u64,
    events: Vec<Value>,
}

impl Browser {
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        // The pipe is descriptors 3 and 4, which only a shell can place without unsafe code.
        let script = r#"exec "$0" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
            --ignore-certificate-errors --no-first-run --disable-background-networking --disable-component-update \
            --remote-debugging-pipe --user-data-dir="$1" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#;
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(chromium())
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Chromium starts");
        let (sender, from) = channel();
        let output = BufReader::new(child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for word in output.split(0).map_while(Result::ok) {
                let Ok(word) = serde_json::from_slice(&word) else { return };
                if sender.send(word).is_err() {
                    return;
                }
            }
        });
        let pipe = Pipe { to: child.stdin.take().expect("piped"), from, last: 0, events: Vec::new() };
        Self { child, pipe: Mutex::new(pipe), _profile: profile }
    }

    /// A page with cookies of its own, in a window of this size.
    pub fn page(&self, width: u32, height: u32) -> Page<'_> {
        let context = self.call(None, "Target.createBrowserContext", json!({}))["browserContextId"].clone();
        let target = json!({ "url": "about:blank", "browserContextId": context, "width": width, "height": height });
        let target = self.call(None, "Target.createTarget", target)["targetId"].clone();
        let session = self.call(None, "Target.attachToTarget", json!({ "targetId": target, "flatten": true }));
        let page = Page { browser: self, session: session["sessionId"].as_str().expect("attached").to_owned() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.resize(width, height);
        page
    }

    fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut pipe = self.pipe.lock().expect("lock");
        pipe.last += 1;
        let id = pipe.last;
        let mut word = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            word["sessionId"] = session.into();
        }
        pipe.to.write_all(&[word.to_string().as_bytes(), &[0]].concat()).expect("Chromium lives");
        loop {
            let word = pipe.from.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no answer to {method}"));
            if word["id"] == id {
                assert!(word.get("error").is_none(), "{method}: {}", word["error"]);
                return word["result"].clone();
            }
            pipe.events.push(word);
        }
    }

    /// Takes what happened in one page since the last time.
    fn events(&self, session: &str) -> Vec<Value> {
        let mut pipe = self.pipe.lock().expect("lock");
        loop {
            match pipe.from.recv_timeout(Duration::from_millis(1)) {
                Ok(event) => pipe.events.push(event),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => panic!("Chromium ended"),
            }
        }
        let (mine, others) = pipe.events.drain(..).partition(|e| e["sessionId"] == session);
        pipe.events = others;
        mine
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// One page.
pub struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl Page<'_> {
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params)
    }

    pub fn go(&self, address: &str) {
        self.call("Page.navigate", json!({ "url": address }));
    }

    pub fn resize(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// `light` or `dark`.
    pub fn scheme(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    pub fn language(&self, language: &str) {
        self.call("Network.setExtraHTTPHeaders", json!({ "headers": { "Accept-Language": language } }));
    }

    pub fn eval(&self, script: &str) -> Value {
        let params = json!({ "expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{script}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn until(&self, condition: &str) {
        let began = Instant::now();
        loop {
            let params = json!({ "expression": condition, "returnByValue": true });
            let value = self.call("Runtime.evaluate", params)["result"]["value"].clone();
            if value == true {
                return;
            }
            if began.elapsed() > PATIENCE {
                let shot = self.shot("never");
                let text = self.eval("document.body.innerText");
                panic!("never {condition} (last {value}); picture {}; {text}; {:?}", shot.display(), self.complaints());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Clicks in the middle of what a selector finds.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        let script = format!(
            "(() => {{ const r = document.querySelector({selector:?}).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let at = self.eval(&script);
        self.click_at(at[0].as_f64().expect("x"), at[1].as_f64().expect("y"));
    }

    pub fn click_at(&self, x: f64, y: f64) {
        self.press_at(x, y, "left");
    }

    pub fn middle_click_at(&self, x: f64, y: f64) {
        self.press_at(x, y, "middle");
    }

    /// Presses at one place and lets go at another.
    pub fn drag(&self, from: (f64, f64), to: (f64, f64)) {
        for (kind, (x, y), buttons) in
            [("mouseMoved", from, 0), ("mousePressed", from, 1), ("mouseMoved", to, 1), ("mouseReleased", to, 0)]
        {
            let event = json!({ "type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    fn press_at(&self, x: f64, y: f64, button: &str) {
        let held = if button == "middle" { 4 } else { 1 };
        for (kind, buttons) in [("mouseMoved", 0), ("mousePressed", held), ("mouseReleased", 0)] {
            let event = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Types on the keyboard, key by key.
    pub fn type_text(&self, text: &str) {
        for letter in text.chars() {
            let (key, code, number) = match letter {
                '\n' => ("Enter".to_owned(), "Enter".to_owned(), 13),
                '\t' => ("Tab".to_owned(), "Tab".to_owned(), 9),
                ' ' => (" ".to_owned(), "Space".to_owned(), 32),
                c if c.is_ascii_alphabetic() => {
                    (c.to_string(), format!("Key{}", c.to_ascii_uppercase()), c.to_ascii_uppercase() as u32)
                }
                c => (c.to_string(), format!("Digit{c}"), c as u32),
            };
            let text = if letter == '\n' { "\r".to_owned() } else { letter.to_string() };
            let mut event = json!({ "type": "keyDown", "key": key, "code": code, "windowsVirtualKeyCode": number });
            if letter != '\t' {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event.clone());
            event["type"] = "keyUp".into();
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Writes a picture of the page.
    pub fn shot(&self, name: &str) -> PathBuf {
        use base64::Engine;
        let data = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let data = data["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
        let folder = std::env::var_os("ROOST_SHOTS")
            .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("shots"), PathBuf::from);
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join(format!("{name}.png"));
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// Errors in the console, exceptions and violations of the content policy since the last time.
    /// Answers of the network that the page expects (401 before the log-in) are none.
    pub fn complaints(&self) -> Vec<String> {
        let said = |event: Value| match event["method"].as_str()? {
            "Runtime.exceptionThrown" => Some(event["params"]["exceptionDetails"].to_string()),
            "Runtime.consoleAPICalled" if event["params"]["type"] == "error" => {
                Some(event["params"]["args"].to_string())
            }
            "Log.entryAdded" if event["params"]["entry"]["level"] == "error" => {
                let entry = &event["params"]["entry"];
                (entry["source"] != "network").then(|| entry.to_string())
            }
            _ => None,
        };
        self.browser.events(&self.session).into_iter().filter_map(said).collect()
    }
}
