//! One page of a browser, and whoever sits before it.

use super::{Browser, Keyboard, LabError, file, keys};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How long what a page should show may take, unless its caller says otherwise.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a condition in a page is looked at.
const POLL: Duration = Duration::from_millis(20);

/// A key by the browser's words: its name, its place on the keyboard, its number.
type Key<'a> = (&'a str, &'a str, u32);
const ENTER: Key<'_> = ("Enter", "Enter", 13);
/// The browser's number of Shift among the modifiers.
const SHIFT: u32 = 8;

/// One page.
#[derive(Debug)]
pub struct Page<'a> {
    browser: &'a Browser,
    session: String,
}

impl<'a> Page<'a> {
    pub(super) fn new(browser: &'a Browser, session: String, width: u32, height: u32) -> Result<Self, LabError> {
        let page = Self { browser, session };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({}))?;
        }
        page.resize(width, height)?;
        Ok(page)
    }

    /// A command of Chromium's debugging protocol.
    pub fn call(&self, method: &str, params: Value) -> Result<Value, LabError> {
        self.browser.call(Some(&self.session), method, params)
    }

    /// Opens an address.
    pub fn go(&self, address: &str) -> Result<(), LabError> {
        self.call("Page.navigate", json!({ "url": address })).map(drop)
    }

    /// Makes the window this large.
    pub fn resize(&self, width: u32, height: u32) -> Result<(), LabError> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics).map(drop)
    }

    /// Takes the page off the network, or brings it back. Open WebSockets live on in Chromium's emulation.
    pub fn offline(&self, offline: bool) -> Result<(), LabError> {
        let none = json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.call("Network.emulateNetworkConditions", none).map(drop)
    }

    /// What a script in the page evaluates to; promises are awaited.
    pub fn eval(&self, script: &str) -> Result<Value, LabError> {
        let params = json!({ "expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true });
        let result = self.call("Runtime.evaluate", params)?;
        match result.get("exceptionDetails") {
            None => Ok(result["result"]["value"].clone()),
            Some(thrown) => Err(LabError::Answer {
                peer: format!("the page, to '{script}',"),
                found: thrown.to_string(),
                expected: "a value".to_owned(),
            }),
        }
    }

    /// Waits until an expression is true.
    pub fn until(&self, condition: &str) -> Result<(), LabError> {
        self.until_within(condition, PATIENCE)
    }

    /// Waits until an expression is true. The error names a picture of what the page shows instead.
    pub fn until_within(&self, condition: &str, limit: Duration) -> Result<(), LabError> {
        let end = Instant::now() + limit;
        loop {
            let last = match self.look(condition) {
                // The page went away for the next one in the middle of the question.
                Err(LabError::Answer { found, .. }) if Instant::now() < end => found.into(),
                answer => answer?,
            };
            if last == true {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(self.never(condition, &last, limit)?);
            }
            std::thread::sleep(POLL);
        }
    }

    /// What an expression is now. An exception is an answer like another: the element may not be there yet.
    fn look(&self, condition: &str) -> Result<Value, LabError> {
        let params = json!({ "expression": condition, "returnByValue": true });
        Ok(self.call("Runtime.evaluate", params)?["result"]["value"].clone())
    }

    fn never(&self, condition: &str, last: &Value, limit: Duration) -> Result<LabError, LabError> {
        let log = self.browser.dir().join("never.png");
        self.shot(&log)?;
        let (text, complaints) = (self.eval("document.body.innerText")?, self.complaints()?);
        let what = format!("'{condition}' (last {last}; the page says {text}; its console {complaints:?})");
        Ok(LabError::Timeout { what, limit, log })
    }

    /// Clicks in the middle of what a selector finds.
    pub fn click(&self, selector: &str) -> Result<(), LabError> {
        let middle = format!(
            "(() => {{ const r = document.querySelector({selector:?}).getBoundingClientRect();
                return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let at = self.eval(&middle)?;
        self.click_at(at[0].as_f64().unwrap_or_default(), at[1].as_f64().unwrap_or_default())
    }

    /// Clicks at a point of the window.
    pub fn click_at(&self, x: f64, y: f64) -> Result<(), LabError> {
        self.press_at(x, y, "left", 1)
    }

    /// Clicks at a point with the middle button.
    pub fn middle_click_at(&self, x: f64, y: f64) -> Result<(), LabError> {
        self.press_at(x, y, "middle", 4)
    }

    fn press_at(&self, x: f64, y: f64, button: &str, held: u32) -> Result<(), LabError> {
        self.mouse("mouseMoved", (x, y), button, 0)?;
        self.mouse("mousePressed", (x, y), button, held)?;
        self.mouse("mouseReleased", (x, y), button, 0)
    }

    /// Presses at one place and lets go at another.
    pub fn drag(&self, from: (f64, f64), to: (f64, f64)) -> Result<(), LabError> {
        self.mouse("mouseMoved", from, "left", 0)?;
        self.mouse("mousePressed", from, "left", 1)?;
        self.mouse("mouseMoved", to, "left", 1)?;
        self.mouse("mouseReleased", to, "left", 0)
    }

    fn mouse(&self, kind: &str, (x, y): (f64, f64), button: &str, held: u32) -> Result<(), LabError> {
        let event = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": held, "clickCount": 1 });
        self.call("Input.dispatchMouseEvent", event).map(drop)
    }

    /// Presses a key and lets it go. `held` is the browser's number of the modifiers that are down.
    fn key(&self, (key, code, number): Key<'_>, held: u32) -> Result<(), LabError> {
        self.key_event("keyDown", (key, code, number), held)?;
        self.key_event("keyUp", (key, code, number), held)
    }

    /// Presses a key while a modifier is held down, as fingers do.
    fn chord(&self, modifier: Key<'_>, held: u32, key: Key<'_>) -> Result<(), LabError> {
        self.key_event("keyDown", modifier, held)?;
        self.key(key, held)?;
        self.key_event("keyUp", modifier, 0)
    }

    fn key_event(&self, kind: &str, (key, code, number): Key<'_>, held: u32) -> Result<(), LabError> {
        let mut event = json!({ "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number });
        event["modifiers"] = held.into();
        match key {
            _ if kind == "keyUp" || ![0, SHIFT].contains(&held) => {}
            "Enter" => event["text"] = "\r".into(),
            _ if key.chars().count() == 1 => event["text"] = key.into(),
            _ => {}
        }
        self.call("Input.dispatchKeyEvent", event).map(drop)
    }

    /// Writes a picture of the page.
    pub fn shot(&self, png: &Path) -> Result<(), LabError> {
        let data = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let bytes = STANDARD.decode(data["data"].as_str().unwrap_or_default()).unwrap_or_default();
        file("write", png, |p| std::fs::write(p, bytes))
    }

    /// Colour of one pixel of the desktop, as the viewer drew it: red, green, blue.
    pub fn pixel(&self, x: u32, y: u32) -> Result<[u64; 3], LabError> {
        let data = self.eval(&format!("Array.from({SCREEN}.getContext('2d').getImageData({x}, {y}, 1, 1).data)"))?;
        Ok([0, 1, 2].map(|i| data[i].as_u64().unwrap_or_default()))
    }

    /// Errors in the console, exceptions and violations of the content policy since the last time.
    /// Answers of the network that the page expects (401 before the log-in) are none.
    pub fn complaints(&self) -> Result<Vec<String>, LabError> {
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
        Ok(self.browser.events(&self.session)?.into_iter().filter_map(said).collect())
    }

    /// Fills in the router's login form and sends it, by keyboard.
    pub fn log_in(&self, user: &str, password: &str) -> Result<(), LabError> {
        self.until("document.querySelector('#login')?.hidden === false")?;
        self.eval("document.querySelector('#login-form').reset()")?;
        self.click("#user")?;
        self.type_text(user)?;
        self.click("#password")?;
        self.type_text(&format!("{password}\n"))
    }

    /// Waits until the desktop's picture has not changed for a second: one that is taken up again is drawn in pieces.
    pub fn wait_settled(&self, limit: Duration) -> Result<(), LabError> {
        let looks = format!("({COLOURS})({SCREEN})");
        let (end, mut last, mut since) = (Instant::now() + limit, Value::Null, Instant::now());
        while since.elapsed() < Duration::from_secs(1) {
            let now = self.look(&looks)?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if Instant::now() > end {
                return Err(self.never("a picture that stays", &last, limit)?);
            }
            std::thread::sleep(5 * POLL);
        }
        Ok(())
    }

    /// Waits until the page shows a desktop: a picture with many colours, where a bare screen has few.
    pub fn wait_for_desktop(&self, limit: Duration) -> Result<(), LabError> {
        self.until_within("document.body.dataset.open === '1'", limit)?;
        self.until_within(&format!("({COLOURS})({SCREEN}) > 200"), limit)
    }
}

/// The canvas that the viewer draws on; a still picture lies beside it while the network is away.
const SCREEN: &str = "document.querySelector('#screen canvas:not(.still)')";

/// How many colours a canvas shows: of every 7th pixel, which no pattern of the picture follows.
const COLOURS: &str = "canvas => {
    if (!canvas?.width) return 0;
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(data.buffer), seen = new Set();
    for (let at = 0; at < pixels.length; at += 7) seen.add(pixels[at]);
    return seen.size;
}";

impl Keyboard for Page<'_> {
    fn type_text(&self, text: &str) -> Result<(), LabError> {
        text.chars().try_for_each(|letter| match (letter, keys::stroke(letter)) {
            ('\n', _) => self.key(ENTER, 0),
            ('\t', _) => self.key(("Tab", "Tab", 9), 0),
            (_, Some(at)) if at.shift => {
                self.chord(("Shift", "ShiftLeft", 16), SHIFT, (&letter.to_string(), &at.code, at.number))
            }
            (_, Some(at)) => self.key((&letter.to_string(), &at.code, at.number), 0),
            (_, None) => self.call("Input.insertText", json!({ "text": letter.to_string() })).map(drop),
        })
    }

    fn clear_line(&self) -> Result<(), LabError> {
        self.chord(("Control", "ControlLeft", 17), 2, ("u", "KeyU", 85))
    }

    fn ask_for_terminal(&self) -> Result<(), LabError> {
        self.chord(("Meta", "MetaLeft", 91), 4, ENTER)
    }

    fn picture(&self, png: &Path) -> Result<(), LabError> {
        self.shot(png)
    }
}
