//! A user logs in at the node's router.

use anyhow::{Result, ensure};
use builder::lab::{Client, ConnectAnswer, Store, USER};
use qemu_tests::running_desktop;
use std::time::Duration;

#[test]
fn a_user_logs_in_and_reaches_the_desktop() -> Result<()> {
    let cluster = running_desktop("login")?;
    all_protection_holds(&cluster.store)?;
    let client = cluster.client()?;
    assert_eq!(client.get("/qvd/ping")?, (200, "I am alive!\r\n".to_owned()));
    let rows = client.list()?;
    assert_eq!((rows.len(), rows[0].id, rows[0].state.as_str(), rows[0].blocked), (1, cluster.vm, "running", 0));

    let (progress, mut session) = client.session(cluster.vm, &[("qvd.client.os", "linux")])?;
    assert!(!progress.is_empty(), "no 102 before the 101");
    assert!(session.nx_greeting()?.starts_with("NXPROXY-3.5"), "nxagent did not answer");
    cluster
        .store
        .wait_for("the session in the list", "vm", "user_state=connected", Duration::from_secs(20), |r| !r.is_null())?;
    drop(session);
    cluster.store.wait_for("its end", "vm", "user_state=disconnected", Duration::from_secs(30), |r| !r.is_null())?;

    let stranger = Client::new(cluster.node.router_port(), USER, "wrong")?;
    assert_eq!(stranger.get("/qvd/list_of_vm")?.0, 401);
    assert!(matches!(client.connect(4711, &[])?, ConnectAnswer::Refused { status: 404, .. }));
    cluster.store.qa(&["vm", "block", "--force"])?;
    assert!(matches!(client.connect(cluster.vm, &[])?, ConnectAnswer::Refused { status: 403, .. }));
    cluster.store.qa(&["vm", "unblock", "--force"])?;

    cluster.stop_vm()?;
    let (progress, mut session) = client.session(cluster.vm, &[("qvd.client.os", "linux")])?;
    assert!(progress.iter().any(|p| p.contains("Starting virtual machine")), "{progress:?}");
    assert!(session.nx_greeting()?.starts_with("NXPROXY-3.5"), "nxagent did not answer after a start on demand");

    // The guest still runs: an orderly shutdown stops it first, and ends within its bound.
    cluster.node.shut_down(Duration::from_secs(90))?;
    Ok(())
}

/// What the node has read back of its settings, command line and mounts, as an administrator sees it.
fn all_protection_holds(store: &Store) -> Result<()> {
    let told = |host: &serde_json::Value| host["hardening"]["held"].is_u64();
    let host = store.wait_for("the node's hardening", "host", "name=node1", Duration::from_secs(20), told)?;
    let hardening = &host["hardening"];
    println!("hardening: {hardening}");
    ensure!(hardening["missing"].as_array().is_some_and(Vec::is_empty), "{hardening}");
    Ok(())
}
