//! People go on working while parts of the cluster die: the node's daemon, and the store.

use anyhow::{Result, bail, ensure};
use builder::lab::{Chaos, Cluster, Desk, VM};
use qemu_tests::{Numbers, images, wait_for_successor, wait_until};
use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

/// How long the store stays away.
const AWAY: Duration = Duration::from_secs(60);
/// A daemon that ends again and again is started after 30 s at the latest, and has to boot.
const COMES_BACK: Duration = Duration::from_secs(60);

#[test]
fn a_session_loses_no_byte_while_noded_dies_and_the_store_is_away() -> Result<()> {
    tell("survival", 6)
}

/// The wait before each start grows to 30 s, so twenty take six minutes.
#[test]
#[ignore = "takes ten minutes: runs in the full suite"]
fn a_session_loses_no_byte_while_noded_dies_twenty_times() -> Result<()> {
    tell("survival-full", 20)
}

fn tell(name: &str, kills: usize) -> Result<()> {
    let mut cluster = Cluster::with_faults(name, &images())?;
    cluster.store.qa(&["vm", "propset", "vma.audio.enable=1", "-f", &format!("name={VM}")])?;
    cluster.start_vm()?;
    let client = cluster.client()?;
    let desk = Desk::new(&cluster.lab, cluster.lab.path("failure.png"))?;

    // The channel for sound carries any bytes: here they are numbered, and a desktop's cat sends them back.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut shown = desk.open_with_sound(&client, cluster.vm, listener.local_addr()?.port())?;
    desk.open_terminal(&mut shown)?;
    let stream = connect_back(&desk, &listener)?;
    let numbers = Numbers::over(stream);
    numbers.wait_progress()?;

    let mut chaos = cluster.node.chaos()?;
    let nxagent = chaos.pids("nxagent")?;
    ensure!(nxagent.len() == 1, "{nxagent:?}");
    for nth in 1..=kills {
        kill_noded(&mut chaos)?;
        numbers.wait_progress()?;
        eprintln!("noded was killed {nth} times, {} numbers came back", numbers.back());
    }

    cluster.store.stop();
    let before = numbers.back();
    wait_until(AWAY, || numbers.wait_progress().is_err());
    numbers.wait_progress()?;
    let count = numbers.finish()?;
    eprintln!("{} numbers of {count} came back while the store was away", count - before);
    ensure_same(&mut chaos, &nxagent)?;

    // A known user comes back while the store is still away, and finds the same session.
    drop(shown);
    let shown = desk.open(&client, cluster.vm)?;
    ensure_same(&mut chaos, &nxagent)?;
    drop(shown);

    // What only the store can decide works again as soon as it is back.
    cluster.store.resume()?;
    cluster.stop_vm()?;
    ensure!(chaos.pids("nxagent")?.is_empty(), "the desktop still runs");
    cluster.node.shut_down(Duration::from_secs(90))?;
    Ok(())
}

/// Kills the daemon and waits until its successor runs.
fn kill_noded(chaos: &mut Chaos) -> Result<()> {
    let killed = chaos.kill("noded")?;
    ensure!(killed.len() == 1, "not one noded but {killed:?}");
    wait_for_successor(chaos, "noded", &killed, COMES_BACK)
}

/// Types what sends back all that comes through the channel, until it has connected.
fn connect_back(desk: &Desk, listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    for _ in 0..3 {
        desk.type_line("exec 3<>/dev/tcp/localhost/7100; cat <&3 >&3")?;
        let mut found = None;
        wait_until(Duration::from_secs(30), || {
            found = listener.accept().ok();
            found.is_some()
        });
        if let Some((stream, _)) = found {
            stream.set_nonblocking(false)?;
            return Ok(stream);
        }
        // A busy guest may have dropped a key: once more, on a line of its own.
        desk.display().key("ctrl+c")?;
    }
    bail!("nothing came through the session's channel")
}

/// The same session is there, in the same process. While it resumes it forks helpers of its own name.
fn ensure_same(chaos: &mut Chaos, nxagent: &[u32]) -> Result<()> {
    let mut now = Vec::new();
    wait_until(Duration::from_secs(20), || {
        now = chaos.pids("nxagent").unwrap_or_default();
        now == nxagent
    });
    ensure!(now == nxagent, "another session: nxagent was {nxagent:?} and is {now:?}");
    Ok(())
}
