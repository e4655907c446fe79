//! The lab's browser for tests that panic instead of handing errors on.

use builder::lab::{self, Keyboard};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A running Chromium.
pub struct Browser {
    browser: lab::Browser,
    _dir: tempfile::TempDir,
}

impl Browser {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Self { browser: lab::Browser::start(dir.path()).expect("Chromium starts"), _dir: dir }
    }

    pub fn page(&self, width: u32, height: u32) -> Page<'_> {
        Page(self.browser.page(width, height).expect("a page"))
    }
}

/// One page.
pub struct Page<'a>(lab::Page<'a>);

/// The lab's methods with these names, whose errors are the test's end.
macro_rules! or_panic {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $result:ty;)*) => {
        $(#[track_caller]
        pub fn $name(&self, $($arg: $kind),*) -> $result {
            self.0.$name($($arg),*).unwrap_or_else(|e| panic!("{e}"))
        })*
    };
}

impl Page<'_> {
    or_panic! {
        call(method: &str, params: Value) -> Value;
        go(address: &str) -> ();
        resize(width: u32, height: u32) -> ();
        offline(offline: bool) -> ();
        eval(script: &str) -> Value;
        until(condition: &str) -> ();
        click(selector: &str) -> ();
        click_at(x: f64, y: f64) -> ();
        middle_click_at(x: f64, y: f64) -> ();
        drag(from: (f64, f64), to: (f64, f64)) -> ();
        type_text(text: &str) -> ();
        log_in(user: &str, password: &str) -> ();
        complaints() -> Vec<String>;
    }

    /// `light` or `dark`.
    pub fn scheme(&self, scheme: &str) {
        let features = serde_json::json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", serde_json::json!({ "features": features }));
    }

    pub fn language(&self, language: &str) {
        let headers = serde_json::json!({ "headers": { "Accept-Language": language } });
        self.call("Network.setExtraHTTPHeaders", headers);
    }

    /// Writes a picture of the page.
    pub fn shot(&self, name: &str) -> PathBuf {
        let path = shot_path(name);
        self.0.shot(&path).expect("a picture");
        path
    }
}

/// Where pictures lie: in the folder that `ROOST_SHOTS` names, else beside what is built.
fn shot_path(name: &str) -> PathBuf {
    let beside = || Path::new(env!("CARGO_TARGET_TMPDIR")).join("shots");
    let folder = std::env::var_os("ROOST_SHOTS").map_or_else(beside, PathBuf::from);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder.join(format!("{name}.png"))
}

/// Writes a picture that another browser took.
pub fn keep_shot(name: &str, png: &[u8]) -> PathBuf {
    let path = shot_path(name);
    std::fs::write(&path, png).expect("written");
    path
}
