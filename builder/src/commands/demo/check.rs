//! `roost demo --check`: everything that a user does, unattended, and what it measured.

use super::{Build, Steps, seconds};
use crate::lab::{self, Browser, Client, Cluster, Desk, Keyboard, Page, Shell};
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How long an emulated node may take to go off.
const OFF: Duration = Duration::from_secs(120);

/// Runs it; the last line is the figures.
pub fn run(mut cluster: Cluster, build: &Build, started: &Value, out: &Path, steps: &Steps) -> anyhow::Result<()> {
    let host = cluster.wait_ready()?;
    let timeline = cluster.store.json(&["host", "timeline", &format!("id={}", host["id"])])?;
    let login_s = log_in(&cluster.client()?, cluster.vm).context("step 'log in' failed")?;
    steps.say("logged in: 101, and nxagent answers");
    let desk = Desk::new(&cluster.lab, out.join("failure.png"))?;
    work(&cluster, &desk, out, steps)?;
    let browser = Browser::start(cluster.lab.dir())?;
    let page = browser.page(1280, 800)?;
    let browsed = browse(&cluster, &page, out).context("step 'go on in a browser' failed")?;
    steps.say("a browser went on with the same terminal");
    restart(&cluster, &page).context("step 'restart the desktop' failed")?;
    steps.say("it is there after the desktop was restarted");
    let rss = cluster.wait_ready()?["rss_kib"].clone();
    reboot(&mut cluster, &desk).context("step 'reboot the node' failed")?;
    steps.say("it is there after the node was rebooted");
    let power_on = cluster.power_on_to_ready;
    cluster.node.shut_down(OFF).context("step 'shut the node down' failed")?;
    steps.say("the node shut down in order");
    let mut figures = json!({
        "build_cold_s": build.cold_s,
        "build_noop_s": build.noop_s,
        "kernel_to_ready_s": timeline["ready_ms"].as_f64().map(|ms| ms / 1000.0),
        "poweron_to_ready_s": seconds(power_on),
        "vm_start_to_ready_s": started["start_ms"].as_f64().map(|ms| ms / 1000.0),
        "login_to_101_s": login_s,
        "browser_login_to_pixels_s": browsed.login_to_pixels_s,
        "browser_bridge_rss_kib": browsed.bridge_rss_kib,
        "rss_kib": by_program(&rss),
        "screenshot": out.join(DESKTOP).display().to_string(),
        "browser_screenshot": out.join(BROWSER).display().to_string(),
    });
    for (name, bytes) in build.artifacts {
        figures[name] = json!(bytes);
    }
    println!("{figures}");
    Ok(())
}

/// Names of the pictures.
const DESKTOP: &str = "desktop.png";
const BROWSER: &str = "browser.png";

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

/// Shows the desktop with the NX client, and writes a file by a command typed into a terminal.
fn work(cluster: &Cluster, desk: &Desk, out: &Path, steps: &Steps) -> anyhow::Result<()> {
    let mut shown = desk.open(&cluster.client()?, cluster.vm).context("step 'show the desktop' failed")?;
    desk.open_terminal(&mut shown).context("step 'show a terminal' failed")?;
    steps.say("the desktop is on the screen");
    let line = format!("echo {} > ~/proof", cluster.password);
    desk.type_line(&line).context("step 'type into the desktop' failed")?;
    is_proof(cluster, &desk.output_of("cat ~/proof")?).context("step 'read the file back' failed")?;
    desk.display().wait_settled(shown.process())?;
    desk.display().screenshot(&out.join(DESKTOP))?;
    steps.say("a file was written into the home");
    Ok(())
}

/// What the browser's part gave.
struct Browsed {
    login_to_pixels_s: f64,
    bridge_rss_kib: u64,
}

/// Logs in with a browser while the desktop runs without a client, and types into the terminal that is open there.
fn browse(cluster: &Cluster, page: &Page<'_>, out: &Path) -> anyhow::Result<Browsed> {
    page.go(&cluster.url())?;
    page.log_in(lab::USER, &cluster.password)?;
    let began = Instant::now();
    page.wait_for_desktop(Duration::from_secs(60))?;
    let login_to_pixels_s = seconds(began.elapsed());
    let shell = Shell::new(page, out.join("failure.png"));
    shell.wait()?;
    page.wait_settled(Duration::from_secs(30))?;
    page.picture(&out.join(BROWSER))?;
    let bridge_rss_kib = lab::bridge_rss_kib(&shell)?;
    Ok(Browsed { login_to_pixels_s, bridge_rss_kib })
}

/// Stops the desktop under the browser, which starts it again on demand and takes the file out of it.
fn restart(cluster: &Cluster, page: &Page<'_>) -> anyhow::Result<()> {
    cluster.stop_vm()?;
    page.until("!document.querySelector('#cover-go').hidden && !document.querySelector('#cover').hidden")?;
    page.click("#cover-go")?;
    page.until_within("document.body.dataset.open === '1'", lab::START_LIMIT)?;
    let file = format!("fetch('/web/files/get?id={}&file=proof').then(answer => answer.text())", cluster.vm);
    is_proof(cluster, page.eval(&file)?.as_str().unwrap_or_default())
}

/// Reboots the node, and reads the file on a desktop that the log-in starts.
fn reboot(cluster: &mut Cluster, desk: &Desk) -> anyhow::Result<()> {
    cluster.node.press_power_button()?;
    cluster.node.wait_off(OFF)?;
    cluster.boot_again()?;
    let mut shown = desk.open(&cluster.client()?, cluster.vm)?;
    desk.open_terminal(&mut shown)?;
    is_proof(cluster, &desk.output_of("cat ~/proof")?)
}

/// The file holds the user's password, which is another one in each cluster.
fn is_proof(cluster: &Cluster, found: &str) -> anyhow::Result<()> {
    if found.trim() != cluster.password {
        bail!("the file holds '{}': expected '{}'", found.trim(), cluster.password);
    }
    Ok(())
}

fn by_program(rss: &Value) -> Value {
    let pairs = rss.as_array().into_iter().flatten();
    pairs.filter_map(|p| Some((p[0].as_str()?.to_owned(), p[1].clone()))).collect::<serde_json::Map<_, _>>().into()
}
