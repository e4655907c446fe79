//! The pages in a real Firefox without a screen, driven by Marionette: numbered JSON on a TCP connection.

use crate::{desk::Desk, world::World};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long Firefox may take for one answer, and a page for what it should show.
const PATIENCE: Duration = Duration::from_secs(30);
/// Enter, as WebDriver names keys that are no letters.
const ENTER: &str = "\u{e007}";

/// A running Firefox with one page, which takes any certificate.
struct Firefox {
    child: Child,
    stream: BufReader<TcpStream>,
    last: u64,
    _profile: tempfile::TempDir,
}

fn program() -> PathBuf {
    let named = std::env::var_os("FIREFOX").map(PathBuf::from);
    let usual = ["/usr/bin/firefox-esr", "/usr/bin/firefox"].map(PathBuf::from);
    let found = named.into_iter().chain(usual).find(|p| p.is_file());
    found.expect("the tests of pages need Firefox: install the package firefox-esr, or name the program in FIREFOX")
}

impl Firefox {
    fn start() -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        // Port 0 is any free one, which Firefox then writes into its profile.
        let prefs = "user_pref(\"marionette.port\", 0);\nuser_pref(\"app.update.enabled\", false);\n";
        std::fs::write(profile.path().join("user.js"), prefs).expect("written");
        let mut command = Command::new(program());
        command.args(["--headless", "--marionette", "--no-remote", "--profile"]).arg(profile.path());
        command.env("HOME", profile.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("Firefox starts");
        let stream = BufReader::new(connect(&profile.path().join("MarionetteActivePort")));
        let mut firefox = Self { child, stream, last: 0, _profile: profile };
        let greeting = firefox.word();
        assert_eq!(greeting["marionetteProtocol"], 3, "{greeting}");
        firefox.ask("WebDriver:NewSession", json!({ "acceptInsecureCerts": true }));
        firefox
    }

    /// `LENGTH:JSON`.
    fn word(&mut self) -> Value {
        let mut length = Vec::new();
        self.stream.read_until(b':', &mut length).expect("Firefox lives");
        let length = String::from_utf8_lossy(&length).trim_end_matches(':').parse().expect("a length");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).expect("a whole word");
        serde_json::from_slice(&body).expect("JSON")
    }

    #[track_caller]
    fn ask(&mut self, command: &str, params: Value) -> Value {
        self.try_ask(command, params).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    fn try_ask(&mut self, command: &str, params: Value) -> Result<Value, Value> {
        self.last += 1;
        let word = json!([0, self.last, command, params]).to_string();
        self.stream.get_mut().write_all(format!("{}:{word}", word.len()).as_bytes()).expect("Firefox lives");
        let answer = self.word();
        assert_eq!((&answer[0], &answer[1]), (&json!(1), &json!(self.last)), "{answer}");
        if answer[2].is_null() { Ok(answer[3]["value"].clone()) } else { Err(answer[2].clone()) }
    }

    /// A window whose page is this large.
    fn size(&mut self, width: u64, height: u64) {
        self.ask("WebDriver:SetWindowRect", json!({ "width": width, "height": height }));
        let seen = self.eval("[innerWidth, innerHeight]");
        let (more, higher) = (width - seen[0].as_u64().expect("a width"), height - seen[1].as_u64().expect("a height"));
        self.ask("WebDriver:SetWindowRect", json!({ "width": width + more, "height": height + higher }));
    }

    #[track_caller]
    fn eval(&mut self, expression: &str) -> Value {
        self.look(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn look(&mut self, expression: &str) -> Result<Value, Value> {
        // `eval` would be against the page's content policy; a function made by WebDriver is not.
        self.try_ask("WebDriver:ExecuteScript", json!({ "script": format!("return {expression}"), "args": [] }))
    }

    /// An error is an answer like another: between two pages there is no document, or one without body.
    #[track_caller]
    fn until(&mut self, condition: &str) {
        let began = Instant::now();
        loop {
            let last = self.look(condition);
            if last == Ok(json!(true)) {
                return;
            }
            if began.elapsed() > PATIENCE {
                let page = self.look("location.href + ' says ' + document.body?.innerText");
                panic!("never {condition} (last {last:?}); {page:?}; picture {}", self.shot("never").display());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn type_text(&mut self, text: &str) {
        let key = |letter: char| if letter == '\n' { ENTER.to_owned() } else { letter.to_string() };
        let press =
            |key: String| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })];
        let actions: Vec<_> = text.chars().map(key).flat_map(press).collect();
        self.ask(
            "WebDriver:PerformActions",
            json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] }),
        );
    }

    #[track_caller]
    fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const r = document.querySelector({selector:?}).getBoundingClientRect(); return [Math.round(r.x + r.width / 2), Math.round(r.y + r.height / 2)]; }})()"
        );
        let at = self.eval(&middle);
        let actions = json!([
            { "type": "pointerMove", "x": at[0], "y": at[1] },
            { "type": "pointerDown", "button": 0 },
            { "type": "pointerUp", "button": 0 },
        ]);
        let mouse =
            json!({ "type": "pointer", "id": "mouse", "parameters": { "pointerType": "mouse" }, "actions": actions });
        self.ask("WebDriver:PerformActions", json!({ "actions": [mouse] }));
    }

    fn shot(&mut self, name: &str) -> PathBuf {
        use base64::Engine;
        let data = self.ask("WebDriver:TakeScreenshot", json!({ "full": false }));
        let png = base64::engine::general_purpose::STANDARD.decode(data.as_str().expect("a picture")).expect("base64");
        crate::cdp::keep_shot(name, &png)
    }
}

/// Firefox listens some time after its start.
fn connect(port: &Path) -> TcpStream {
    let began = Instant::now();
    loop {
        let port = std::fs::read_to_string(port).ok().and_then(|text| text.trim().parse::<u16>().ok());
        if let Some(stream) = port.and_then(|port| TcpStream::connect(("127.0.0.1", port)).ok()) {
            stream.set_read_timeout(Some(PATIENCE)).expect("set");
            return stream;
        }
        assert!(began.elapsed() < PATIENCE, "Firefox does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// How many colours the desktop's picture has.
const COLOURS: &str = "(() => { const c = document.querySelector('#screen canvas'); const d = new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer); return new Set(d).size; })()";

#[test]
fn a_user_logs_in_sees_the_desktop_types_and_it_fits_the_window() {
    let (mut world, desk) = (World::new(), Desk::start());
    desk.attach(&mut world);
    let mut firefox = Firefox::start();
    firefox.size(1280, 800);
    firefox.ask("WebDriver:Navigate", json!({ "url": format!("https://{}/", world.address) }));
    firefox.until("document.querySelector('#login')?.hidden === false");
    firefox.click("#user");
    firefox.type_text("ann");
    firefox.click("#password");
    firefox.type_text("wrong\n");
    firefox.until("document.querySelector('#login-fault').textContent.includes('R101')");
    firefox.eval("document.querySelector('#login-form').reset()");
    firefox.click("#user");
    firefox.type_text("ann");
    firefox.click("#password");
    firefox.type_text("secret\n");
    firefox.until("document.querySelectorAll('.card').length > 3");
    firefox.shot("firefox-cards");
    firefox.click(".card .primary");
    firefox.until("document.body.dataset.open === '1'");
    firefox.until("document.querySelector('#screen canvas').width === 1280");
    desk.ready();
    firefox.click("#screen");
    firefox.type_text("hello from firefox\n");
    desk.holds("typed", |typed| typed == b"hello from firefox\n");
    firefox.until(&format!("{COLOURS} > 20"));
    firefox.shot("firefox-desktop");
    firefox.size(900, 600);
    firefox.until("document.querySelector('#screen canvas').width === 900");
}
