//! What a build tells while it runs: bars on a terminal, plain lines in a log, JSON events in a pipeline.
//!
//! People's lines go to standard error, so that standard output is only what was asked for. With
//! `--json` every event is one object a line on standard output:
//! `{"event":"begin","step":S,"total":BYTES}`, `progress` (at most one a second), `end` (with `seconds`
//! and `detail`), `note`, `warning`, and whatever [`Report::event`] is given.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Progress bars.
    Terminal,
    /// One line as a step ends.
    Plain,
    /// One JSON object per event on standard output.
    Json,
    /// Nothing; for tests and for callers that show their own progress.
    Silent,
}

impl Style {
    /// JSON when asked for, bars when standard error is a terminal, else plain lines.
    pub fn choose(json: bool) -> Self {
        match (json, std::io::stderr().is_terminal()) {
            (true, _) => Self::Json,
            (false, true) => Self::Terminal,
            (false, false) => Self::Plain,
        }
    }
}

/// Receives the events of one run. Shared by threads.
#[derive(Debug)]
pub struct Report {
    style: Style,
    bars: MultiProgress,
}

/// A step under way. Dropped without [`Step::end`] it counts as failed and only its bar goes.
#[derive(Debug)]
pub struct Step<'a> {
    report: &'a Report,
    name: String,
    began: Instant,
    done: AtomicU64,
    told: Mutex<Instant>,
    bar: Option<ProgressBar>,
}

impl Report {
    /// A report in this style.
    pub fn new(style: Style) -> Self {
        Self { style, bars: MultiProgress::new() }
    }

    /// Whether JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// Begins a step of so many bytes, or of unknown length.
    pub fn step(&self, name: &str, total: Option<u64>) -> Step<'_> {
        self.event(&json!({"event": "begin", "step": name, "total": total}));
        let bar = (self.style == Style::Terminal).then(|| self.bars.add(bar(name, total)));
        let began = Instant::now();
        Step { report: self, name: name.to_owned(), began, done: AtomicU64::new(0), told: Mutex::new(began), bar }
    }

    /// Something worth knowing that is no step.
    pub fn note(&self, text: &str) {
        self.line(text);
        self.event(&json!({"event": "note", "text": text}));
    }

    /// Something odd that the build goes on with.
    pub fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
        self.event(&json!({"event": "warning", "text": text}));
    }

    /// An event of any other kind; shown only as JSON.
    pub fn event(&self, event: &Value) {
        if self.style == Style::Json {
            // A reader that went away must not fail the build.
            let _ = writeln!(std::io::stdout().lock(), "{event}");
        }
    }

    fn line(&self, text: &str) {
        match self.style {
            // A line above the bars; when there is no terminal after all there is nobody to tell.
            Style::Terminal => drop(self.bars.println(text)),
            Style::Plain => drop(writeln!(std::io::stderr().lock(), "{text}")),
            Style::Json | Style::Silent => {}
        }
    }
}

impl Step<'_> {
    /// So many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        if self.report.is_json() && self.is_due() {
            self.report.event(&json!({"event": "progress", "step": self.name, "done": done}));
        }
    }

    /// Shows what the step is busy with.
    pub fn detail(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    /// The step ended well; `detail` is its result in a few words.
    pub fn end(self, detail: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.report.line(&format!("{:<12} {seconds:>6.1} s  {detail}", self.name));
        let seconds = (seconds * 1000.0).round() / 1000.0;
        self.report.event(&json!({"event": "end", "step": self.name, "seconds": seconds, "detail": detail}));
    }

    fn is_due(&self) -> bool {
        let Ok(mut told) = self.told.try_lock() else { return false };
        let due = told.elapsed() >= Duration::from_secs(1);
        if due {
            *told = Instant::now();
        }
        due
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => {
            (ProgressBar::new(total), "{prefix:12} {elapsed:>4} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}")
        }
        None => (ProgressBar::new_spinner(), "{prefix:12} {elapsed:>4} {spinner} {msg}"),
    };
    bar.enable_steady_tick(Duration::from_millis(200));
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style).with_prefix(name.to_owned())
}

/// Bytes for people: `61.8 MB` (10^6, as disks and budgets count).
pub fn megabytes(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
