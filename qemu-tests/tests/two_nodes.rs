//! Two nodes on one network: a user may log in at either, and a desktop runs on one.

use anyhow::{Context, Result};
use builder::lab::{Boot, Client, Desk, Desktop, Firmware, Lab, Lan, Machine, START_LIMIT, Store, USER, VM};
use qemu_tests::images;
use serde_json::Value;
use std::time::Duration;

/// Name of the second desktop.
const OTHER: &str = "other-desktop";

/// Two nodes, their store, and a user with two desktops.
struct Pair {
    lab: Lab,
    store: Store,
    _lan: Lan,
    a: Machine,
    b: Machine,
    desktop: Desktop,
}

impl Pair {
    fn start(name: &str) -> Result<Self> {
        let (lab, images) = (Lab::new(name)?, images());
        let (store, lan) = (lab.store()?, lab.lan(&["a", "b"])?);
        let boot = |name: &str| -> Result<Machine> {
            let seed = lan.seed(name, &store.seed(name)?)?;
            let boot = Boot::new(&images.node).name(name).firmware(Firmware::Direct).seed(seed).chaos();
            Ok(lab.boot(boot.lan(&lan)?)?)
        };
        let (mut a, mut b) = (boot("a")?, boot("b")?);
        let desktop = Desktop::add(&store, &images, &mut |_| {})?;
        store.qa(&["vm", "add", &format!("name={OTHER}"), &format!("user={USER}"), "osf=demo"])?;
        store.wait_ready(&mut a)?;
        store.wait_ready(&mut b)?;
        Ok(Self { lab, store, _lan: lan, a, b, desktop })
    }

    fn block(&self, node: &str) -> Result<()> {
        self.store.qa(&["host", "block", "-f", &format!("name={node}")])?;
        Ok(())
    }

    fn unblock(&self, node: &str) -> Result<()> {
        self.store.qa(&["host", "unblock", "-f", &format!("name={node}")])?;
        Ok(())
    }

    /// Starts a VM and returns the row of the running one.
    fn start_vm(&self, vm: &str) -> Result<Value> {
        self.store.qa(&["vm", "start", "-f", &format!("name={vm}")])?;
        Ok(self.store.wait_running(vm, START_LIMIT)?)
    }

    /// The user at a node's router.
    fn user_at(&self, node: &Machine) -> Result<Client> {
        Ok(Client::new(node.router_port(), USER, &self.desktop.password)?)
    }

    /// Containers that each node really runs.
    fn containers(&self) -> Result<(usize, usize)> {
        let count = |node: &Machine| -> Result<usize> { Ok(node.chaos()?.pids("lxc-start")?.len()) };
        Ok((count(&self.a)?, count(&self.b)?))
    }
}

#[test]
fn a_desktop_runs_on_one_node_and_is_reached_from_both() -> Result<()> {
    let mut pair = Pair::start("two-nodes")?;

    // A blocked node gets no new guests.
    pair.block("a")?;
    assert_eq!(pair.start_vm(VM)?["host"], "b");
    assert_eq!(pair.containers()?, (0, 1));
    pair.unblock("a")?;
    pair.block("b")?;
    assert_eq!(pair.start_vm(OTHER)?["host"], "a");
    assert_eq!(pair.containers()?, (1, 1));
    pair.unblock("b")?;

    // Logged in at A, the desktop runs on B.
    let desk = Desk::new(&pair.lab, pair.lab.path("failure.png"))?;
    let mut shown = desk.open(&pair.user_at(&pair.a)?, pair.desktop.vm)?;
    desk.open_terminal(&mut shown)?;
    desk.type_line("mark=same-window")?;
    // What was typed has arrived before the connection is cut.
    assert_eq!(desk.output_of("echo $mark")?.trim(), "same-window");
    let agent = pair.b.chaos()?.pids("nxagent")?;
    assert_eq!(agent.len(), 1, "one nxagent on B: {agent:?}");

    // A's router is killed under the session: the session is over, the windows are not.
    let router = pair.a.chaos()?.kill("router")?;
    assert_eq!(router.len(), 1, "one router on A: {router:?}");
    assert!(shown.process().wait_end(Duration::from_secs(60)), "the client still has its session");
    let mut shown = desk.open(&pair.user_at(&pair.b)?, pair.desktop.vm)?;
    desk.display().click(640, 300)?;
    assert_eq!(desk.output_of("echo $mark")?.trim(), "same-window", "another shell");
    assert_eq!(pair.b.chaos()?.pids("nxagent")?, agent, "another nxagent");
    assert_eq!(pair.containers()?, (1, 1));

    // From B back to A: its router was started again, and takes the session over.
    let mut shown_at_a = desk.open(&pair.user_at(&pair.a)?, pair.desktop.vm)?;
    assert!(shown.process().wait_end(Duration::from_secs(60)), "two clients have the session");
    desk.display().click(640, 300)?;
    assert_eq!(desk.output_of("echo $mark")?.trim(), "same-window", "another shell");

    // B loses its power, and the store is told not to wait ten minutes for it. Its desktop's storage lies
    // there: nothing starts it elsewhere.
    pair.store.qa(&["config", "set", "internal.hkd.cluster.node.timeout=40"])?;
    pair.b.process().kill();
    assert!(shown_at_a.process().wait_end(Duration::from_secs(60)), "a session with a node that is gone");
    let filter = format!("name={VM}");
    pair.store.wait_for("B lost", "host", "name=b", Duration::from_secs(120), |row| row["state"] == "lost")?;
    let row = pair.store.one("vm", &filter)?;
    assert_eq!(row["unavailable"], true, "{row}");
    let refused =
        pair.user_at(&pair.a)?.session(pair.desktop.vm, &[]).err().context("a session with a lost desktop")?;
    assert!(refused.to_string().contains("503"), "{refused}");
    assert_eq!(pair.a.chaos()?.pids("lxc-start")?.len(), 1, "A runs B's desktop");

    // The other desktop never noticed.
    assert_eq!(pair.store.one("vm", &format!("name={OTHER}"))?["state"], "running");
    let (_, mut session) = pair.user_at(&pair.a)?.session(pair.desktop.vm + 1, &[("qvd.client.os", "linux")])?;
    assert!(session.nx_greeting()?.starts_with("NXPROXY-3.5"), "nxagent did not answer");
    drop(session);
    pair.a.shut_down(Duration::from_secs(90))?;
    Ok(())
}
