//! `roost demo`: from nothing to a desktop; with `--check`, unattended and with figures.

mod check;

use crate::lab::{self, Cluster, Firmware, Images, Lab};
use anyhow::Context;
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Build the images, boot a node beside a store, run a desktop, and say how to log in.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Unattended: log in as a client does, show the desktop, restart it, reboot the node, print figures.
    #[arg(long)]
    check: bool,
    /// Where images, and with --check the picture, are written.
    #[arg(long, default_value = "out")]
    out: PathBuf,
    /// Start the node's kernel directly instead of through its firmware and boot loader.
    #[arg(long)]
    direct: bool,
}

/// Says what was done, and when.
struct Steps {
    began: Instant,
}

impl Steps {
    fn say(&self, what: &str) {
        println!("{:>7.1} s  {what}", self.began.elapsed().as_secs_f64());
    }
}

/// Runs the demo.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let steps = Steps { began: Instant::now() };
    let build = build(&args.out, &steps).context("step 'build' failed")?;
    let firmware = if args.direct { Firmware::Direct } else { Firmware::Uefi };
    let lab = Lab::new("demo")?;
    let console = lab.path("node1.console.log");
    let follower = Follower::start(console.clone());
    let cluster = Cluster::start(lab, &Images::in_dir(&args.out), firmware, &mut |s| steps.say(s))
        .with_context(|| format!("step 'boot and join' failed; the node's console is {}", console.display()))?;
    let row =
        cluster.start_vm().with_context(|| format!("step 'start the desktop' failed; see {}", console.display()))?;
    steps.say("the desktop runs");
    follower.stop();
    if args.check { check::run(cluster, &build, &row, &args.out, &steps) } else { attend(cluster, &steps) }
}

/// What building gave.
struct Build {
    cold_s: Option<f64>,
    noop_s: f64,
    artifacts: [(&'static str, u64); 3],
}

/// Builds both images, then once more to measure a build in which nothing changed.
fn build(out: &Path, steps: &Steps) -> anyhow::Result<Build> {
    let began = Instant::now();
    let mut built = false;
    for recipe in ["node", "demo-desktop"] {
        built |= super::build::image(recipe, out)?;
    }
    let cold_s = built.then(|| seconds(began.elapsed()));
    steps.say("the images are built");
    let began = Instant::now();
    super::build::image("node", out)?;
    let noop_s = seconds(began.elapsed());
    let bytes = |name: &str| std::fs::metadata(out.join(name)).map(|m| m.len()).with_context(|| format!("no {name}"));
    let artifacts = [
        ("root_bytes", bytes("node.root.squashfs")?),
        ("uki_bytes", bytes("node.efi")?),
        ("disk_bytes", bytes("node.raw")?),
    ];
    Ok(Build { cold_s, noop_s, artifacts })
}

/// Says how to log in, and waits for Ctrl-C.
fn attend(cluster: Cluster, steps: &Steps) -> anyhow::Result<()> {
    let client = cluster.client()?;
    client.list().context("step 'log in' failed")?;
    let fingerprint = client.fingerprint().map(|f| f.to_string()).unwrap_or_default();
    println!("\nOpen the desktop in a browser:");
    println!("  {}", cluster.url());
    println!("  user         {}", lab::USER);
    println!("  password     {}", cluster.password);
    println!(
        "\nThe browser warns that it does not know who signed the certificate: this cluster did, when it was made."
    );
    println!("Compare the fingerprint that the browser shows (SHA-256) and go on:");
    println!("  {}", colons(&fingerprint));
    println!("\nOr with a QVD client, same user and password: 127.0.0.1, port {}", cluster.node.router_port());
    println!("\nAdminister the cluster with:");
    println!("  {} --config {} vm list", cluster.store.qa_program().display(), cluster.store.config().display());
    println!("\nCtrl-C stops it all.");
    wait_for_interrupt()?;
    println!();
    steps.say("stopping the node");
    cluster.node.shut_down(Duration::from_secs(120))?;
    steps.say("stopped");
    Ok(())
}

/// A fingerprint as browsers print it.
fn colons(hex: &str) -> String {
    let pairs: Vec<_> = hex.as_bytes().chunks(2).map(|p| String::from_utf8_lossy(p).to_uppercase()).collect();
    pairs.join(":")
}

fn wait_for_interrupt() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(tokio::signal::ctrl_c()).context("Cannot wait for Ctrl-C")
}

fn seconds(d: Duration) -> f64 {
    (d.as_secs_f64() * 100.0).round() / 100.0
}

/// Prints a console's lines as they come.
struct Follower {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Follower {
    fn start(log: PathBuf) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let console = lab::Console::at(log);
            let mut shown = 0;
            while stopped.recv_timeout(Duration::from_millis(200)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                shown = show(&console, shown);
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        drop(self.stop);
        // A follower that panicked has printed why; the demo goes on.
        let _ended = self.thread.join();
    }
}

/// Prints whole lines beyond the first `shown`; how many were shown now.
fn show(console: &lab::Console, shown: usize) -> usize {
    let Ok(text) = console.text() else { return shown };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines: Vec<&str> = whole.lines().collect();
    for line in lines.iter().skip(shown).filter(|l| !l.trim().is_empty()) {
        println!("           node1 | {line}");
    }
    lines.len()
}
