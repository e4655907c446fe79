//! What a crashed node had to say is at the store once the node is back: its kernel's last words, and the end of its log.

use anyhow::{Context, Result, ensure};
use builder::lab::{Boot, Lab, Machine, Store};
use qemu_tests::images;
use serde_json::Value;
use std::time::{Duration, Instant};

/// From power-on, or from a reset, to Ready; a hang takes its watchdog's time more.
const LIMIT: Duration = Duration::from_secs(240);
/// From a line of the log to its place on STATE.
const GATHERED: Duration = Duration::from_secs(8);
/// From Ready to the store's knowing.
const TOLD: Duration = Duration::from_secs(30);

#[test]
fn a_panic_and_a_hang_are_told_with_their_last_words() -> Result<()> {
    let lab = Lab::new("last-words")?;
    let store = lab.store()?;
    let mut node = lab.boot(Boot::new(images().node).seed(store.seed("node1")?).chaos())?;
    node.console().wait_for("Ready after", LIMIT)?;
    let first = boot(&store, "running")?;
    ensure!(first["why"] == "" && !first["version"].as_str().unwrap_or_default().is_empty(), "{first}");

    // Lines wait three seconds for more before they are on STATE.
    std::thread::sleep(GATHERED);
    // The kernel panics: OVMF's variables have its words.
    crash(&mut node, |node| Ok(node.chaos()?.panic()?))?;
    let panicked = boot(&store, "panic")?;
    ensure!(panicked["id"] == first["id"], "the boot that ran is the one that panicked: {first} {panicked}");
    ensure!(panicked["why"] == "kernel panic: sysrq triggered crash", "{panicked}");
    let text = words(&store, &panicked)?;
    let (kernel, log) = text.split_once("The node's log:").context("no log of the node")?;
    for word in ["sysrq: Trigger a crash", "Kernel panic - not syncing", "Fault asked for line=panic", "Call Trace"] {
        ensure!(kernel.contains(word), "the kernel's words have no {word:?}:\n{text}");
    }
    for word in ["node-init: Boot boot=", "noded: ", "Node is ready"] {
        ensure!(log.contains(word), "the node's log has no {word:?}:\n{text}");
    }
    println!("{}", store.qa(&["host", "log", "-f", "name=node1"])?);

    // PID 1 hangs: the watchdog bites, and the log goes to the end.
    crash(&mut node, |node| Ok(node.chaos()?.hang()?))?;
    let hung = boot(&store, "hang")?;
    ensure!(hung["why"].as_str().is_some_and(|why| why.starts_with("PID 1 turned no more after")), "{hung}");
    let text = words(&store, &hung)?;
    ensure!(!text.contains("The kernel's last words"), "{text}");
    ensure!(text.contains("Fault asked for line=hang"), "the log does not go to the end:\n{text}");

    // An orderly end is told as such; and what was told is not told again.
    crash(&mut node, |node| Ok(node.press_ctrl_alt_del()?))?;
    let orderly = boot(&store, "reboot")?;
    ensure!(orderly["why"] == "Ctrl-Alt-Del", "{orderly}");
    // The boot that goes on is told beside the one that ended, a moment earlier or later.
    boot(&store, "running")?;
    let all = store.json(&["host", "log", "-f", "name=node1"])?;
    let ends: Vec<_> =
        all.as_array().into_iter().flatten().map(|row| row["end"].as_str().unwrap_or_default()).collect();
    ensure!(ends == ["running", "reboot", "hang", "panic"], "{all}");
    println!("{}", store.qa(&["host", "log"])?);
    node.shut_down(Duration::from_secs(60))?;
    Ok(())
}

/// Ends this boot of the node and waits until the next one is Ready.
fn crash(node: &mut Machine, how: impl FnOnce(&mut Machine) -> Result<()>) -> Result<()> {
    node.console().mark()?;
    let begin = Instant::now();
    how(node)?;
    node.console().wait_for("Ready after", LIMIT)?;
    println!("Ready again after {:.1} s", begin.elapsed().as_secs_f64());
    Ok(())
}

/// The newest boot of the node that ended so.
fn boot(store: &Store, end: &str) -> Result<Value> {
    let until = Instant::now() + TOLD;
    loop {
        let rows = store.json(&["host", "log", "-f", "name=node1"])?;
        let found = rows.as_array().into_iter().flatten().find(|row| row["end"] == end).cloned();
        if let Some(row) = found {
            return Ok(row);
        }
        ensure!(Instant::now() < until, "no boot that ended by {end}: {rows}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What `qa` shows of it.
fn words(store: &Store, boot: &Value) -> Result<String> {
    Ok(store.qa(&["host", "log", "-f", "name=node1", &format!("boot={}", boot["id"])])?)
}
