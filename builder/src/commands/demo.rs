//! `roost demo`: from nothing to a desktop; with `--check`, unattended and with figures.

use crate::lab::{self, Browser, Client, Cluster, Desk, Firmware, Images, Keyboard, Lab, NxProxy, Shell};
use anyhow::{Context, bail};
use serde_json::{Value, json};
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
    if args.check { check(cluster, &build, &row, &args.out, &steps) } else { attend(cluster, &steps) }
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

/// Everything that a user does, unattended; the last line is the figures.
fn check(mut cluster: Cluster, build: &Build, started: &Value, out: &Path, steps: &Steps) -> anyhow::Result<()> {
    let host = cluster.wait_ready()?;
    let timeline = cluster.store.json(&["host", "timeline", &format!("id={}", host["id"])])?;
    let client = cluster.client()?;
    let login_s = log_in(&client, cluster.vm).context("step 'log in' failed")?;
    steps.say("logged in: 101, and nxagent answers");
    let desk = Desk::new(&cluster.lab, out.join("failure.png"))?;
    let (picture, word, vm) = (out.join("desktop.png"), cluster.password.clone(), cluster.vm);
    let mut shown = desk.open(&client, vm).context("step 'show the desktop' failed")?;
    desk.open_terminal(&mut shown).context("step 'show a terminal' failed")?;
    steps.say("the desktop is on the screen");
    desk.type_line(&format!("echo {word} > ~/proof")).context("step 'type into the desktop' failed")?;
    read_proof(&desk, &word).context("step 'read the file back' failed")?;
    desk.display().wait_settled(shown.process())?;
    desk.display().screenshot(&picture)?;
    drop(shown);
    steps.say("a file was written into the home");
    let browsed = browse(&cluster, out).context("step 'go on in a browser' failed")?;
    steps.say("a browser went on with the same terminal");
    cluster.stop_vm().context("step 'stop the desktop' failed")?;
    let shown = sit_down(&desk, &client, vm).context("step 'log in to a stopped desktop' failed")?;
    read_proof(&desk, &word).context("step 'read the file after a restart of the desktop' failed")?;
    drop(shown);
    steps.say("it is there after the desktop was restarted");
    let rss = cluster.wait_ready()?["rss_kib"].clone();
    cluster.node.press_power_button()?;
    cluster.node.wait_off(Duration::from_secs(120)).context("step 'shut the node down' failed")?;
    cluster.boot_again().context("step 'boot the node again' failed")?;
    let client = cluster.client()?;
    let shown = sit_down(&desk, &client, vm).context("step 'log in after the node was rebooted' failed")?;
    read_proof(&desk, &word).context("step 'read the file after the node was rebooted' failed")?;
    drop(shown);
    steps.say("it is there after the node was rebooted");
    let power_on = cluster.power_on_to_ready;
    cluster.node.shut_down(Duration::from_secs(120)).context("step 'shut the node down' failed")?;
    steps.say("the node shut down in order");
    let mut figures = json!({
        "build_cold_s": build.cold_s,
        "build_noop_s": build.noop_s,
        "kernel_to_ready_s": timeline["ready_ms"].as_f64().map(|ms| ms / 1000.0),
        "poweron_to_ready_s": seconds(power_on),
        "vm_start_to_ready_s": started["start_ms"].as_f64().map(|ms| ms / 1000.0),
        "login_to_101_s": login_s,
        "rss_kib": by_program(&rss),
        "browser_login_to_pixels_s": browsed.login_to_pixels_s,
        "browser_bridge_rss_kib": browsed.bridge_rss_kib,
        "screenshot": picture.display().to_string(),
        "browser_screenshot": browsed.picture.display().to_string(),
    });
    for (name, bytes) in build.artifacts {
        figures[name] = json!(bytes);
    }
    println!("{figures}");
    Ok(())
}

/// What the browser's part of the check gave.
struct Browsed {
    login_to_pixels_s: f64,
    bridge_rss_kib: u64,
    picture: PathBuf,
}

/// Logs in with a browser while the desktop runs without a client, and types into the terminal that is open there.
fn browse(cluster: &Cluster, out: &Path) -> anyhow::Result<Browsed> {
    let browser = Browser::start(cluster.lab.dir())?;
    let page = browser.page(1280, 800)?;
    page.go(&cluster.url())?;
    page.log_in(lab::USER, &cluster.password)?;
    let began = Instant::now();
    page.wait_for_desktop(Duration::from_secs(60))?;
    let login_to_pixels_s = seconds(began.elapsed());
    let shell = Shell::new(&page, out.join("failure.png"));
    shell.wait()?;
    let bridge_rss_kib = lab::bridge_rss_kib(&shell)?;
    let picture = out.join("browser.png");
    page.picture(&picture)?;
    Ok(Browsed { login_to_pixels_s, bridge_rss_kib, picture })
}

/// Logs in as a QVD client does; seconds from the request to the 101.
fn log_in(client: &Client, vm: u32) -> anyhow::Result<f64> {
    let rows = client.list()?;
    if !rows.iter().any(|r| r.id == vm && r.state == "running") {
        bail!("the list of machines has no running machine {vm}: {rows:?}");
    }
    let began = Instant::now();
    let (progress, mut session) = client.session(vm, &lab::PARAMS)?;
    let took = seconds(began.elapsed());
    if progress.is_empty() {
        bail!("no 102 came before the 101");
    }
    let answer = session.nx_greeting()?;
    if !answer.starts_with("NXPROXY-") {
        bail!("nxagent answered '{answer}': expected NXPROXY-...");
    }
    Ok(took)
}

/// Opens the desktop and a terminal on it.
fn sit_down(desk: &Desk, client: &Client, vm: u32) -> anyhow::Result<NxProxy> {
    let mut shown = desk.open(client, vm)?;
    desk.open_terminal(&mut shown)?;
    Ok(shown)
}

/// Reads the file in the home back and compares it with what was written.
fn read_proof(desk: &Desk, word: &str) -> anyhow::Result<()> {
    let found = desk.output_of("cat ~/proof")?;
    if found.trim() != word {
        bail!("the file holds '{}': expected '{word}'", found.trim());
    }
    Ok(())
}

fn by_program(rss: &Value) -> Value {
    let pairs = rss.as_array().into_iter().flatten();
    pairs.filter_map(|p| Some((p[0].as_str()?.to_owned(), p[1].clone()))).collect::<serde_json::Map<_, _>>().into()
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
