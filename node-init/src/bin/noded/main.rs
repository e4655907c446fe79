//! `noded`, the node daemon: network, first clock step, join and sync, guests.
//!
//! It may be killed at any time: guests and sessions live in their own processes and cgroups, the router keeps its
//! sessions, and all that is needed to take hold of them again is in the ledger and under /run. SIGTERM ends it and
//! leaves guests alone; only `Shutdown` on the channel to `node-init` stops them.
//!
//! # Tasks
//! One runtime, one thread. Each task owns what its line names; the rest hold handles, and watch the [`board`].
//!
//! | task | owns | in | out |
//! |---|---|---|---|
//! | [`init`] | channel to `node-init` | what others say | Alive, phases, Ready, console; `Shutdown` |
//! | [`network`] uplink | the uplink, resolv.conf | netlink events, DHCP | address, resolvers, time servers |
//! | [`network`] guests | bridge, packet filter, ports, dnsmasq's files | `admit`, `expel`, configuration | bridge status |
//! | [`timekeeper`] | the first clock step, chrony.conf | uplink, configuration | |
//! | [`sync`] cluster | membership, ledger, the link to the store | reports, sessions, calls, verdict | desired state, replies, aborts |
//! | [`guests`] | guests and their storage | desired state, `open` | reports, whether guests can start |
//! | [`router::control`] | control socket, sessions | the router's words | configuration, guests, aborts |
//! | [`router::open`] | session socket | grants | connected descriptors |
//! | [`update`] | the slots, the staged set | desired state, sessions, verdict | versions, Blessed, RebootForUpdate |
//! | [`verdict`] | the node's state | all of the above | state, Ready |
//! | [`applier`] | nothing | desired state | guests, network |

mod applier;
mod args;
mod backoff;
mod board;
mod clock;
mod dial;
mod escrow;
mod grant;
mod guests;
mod identity;
mod init;
mod join;
mod ledger;
mod load;
mod network;
mod paths;
mod report;
mod router;
mod seed;
mod sync;
#[cfg(test)]
mod tests;
mod timekeeper;
mod tls;
mod update;
mod verdict;
mod wire;

use anyhow::{Context, Result};
use args::Args;
use board::Board;
use guests::Guests;
use identity::{Member, NodeKey};
use init::Init;
use model::{
    Digest,
    init::{FromInit, Service, ToInit},
    seed::Seed,
    sync::Inventory,
};
use network::{Network, Uplink, Wanted};
use node_init::files;
use paths::Paths;
use std::{os::fd::OwnedFd, process::ExitCode, sync::Arc, time::Duration};
use sync::{Cluster, Keeper, Store};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::UnboundedReceiver,
};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, gateway] = words.as_slice()
        && word == guests::probe::inside::WORD
    {
        return guests::probe::inside::run(gateway);
    }
    if let [word, state] = words.as_slice()
        && word == update::rehearsal::inside::WORD
    {
        return update::rehearsal::inside::run(state);
    }
    // First, while nothing else can have taken the descriptor's number.
    let channel = Init::inherited();
    log_to_stderr();
    let args = match Args::parse(words.into_iter()) {
        Ok(args) => args,
        Err(wrong) => {
            tracing::error!("{wrong}; {}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match start(&args, channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("ROOST_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,netlink_packet_route=error,netlink_proto=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
}

fn start(args: &Args, channel: Option<OwnedFd>) -> Result<()> {
    // Only fails when one is installed, which nobody else does.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("No runtime")?;
    runtime.block_on(async {
        let (init, heard) = Init::start(channel).context("Cannot use the channel to node-init")?;
        let result = run(args, init.clone(), heard).await;
        if let Err(error) = &result {
            init.console(&format!("The node daemon cannot go on: {error:#}"));
            // Lets the channel's task pass the line on before the runtime ends.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        result
    })
}

/// Brings the node from its seed to a running set of tasks, and stays until told to go.
async fn run(args: &Args, init: Init, heard: UnboundedReceiver<FromInit>) -> Result<()> {
    let paths = args.paths();
    files::make_dir(&paths.run, 0o755).with_context(|| format!("Cannot make {}", paths.run.display()))?;
    let seed::Loaded { seed, ca, instead_of } =
        init.phase("seed", async { seed::find(&args.seed_file(), &paths) }).await?;
    if let Some(why) = instead_of {
        tracing::warn!(why, "Going on with the last good seed");
        init.console(&format!("Going on with the last good seed. {why}"));
    }
    let key = Arc::new(init.phase("identity", async { NodeKey::load_or_make(&paths) }).await?);
    let board = Arc::new(Board::default());
    let member = known_member(&paths, ca, &init)?;
    tokio::spawn(seed::keep_when_good(seed.clone(), ca, board.clone(), paths.clone()));
    let keeper = Keeper::open(&paths, ca);
    recall(&board, member, &keeper);
    if args.no_network.is_none() {
        clock::at_least(&[clock::built_ms(), keeper.entry().clock_ms]);
    }
    let network = bring_up(args, &paths, &seed, &board, &init)?;

    // Guests need the bridge alone: with a ledger they start while the uplink and the store are still away.
    let guests = Guests::start(guests::Deps {
        paths: paths.clone(),
        network: network.clone(),
        store: seed.store.address.clone(),
        member: board.member.subscribe(),
        key: key.clone(),
        trial: board.trial.subscribe(),
        program: std::env::current_exe().context("Cannot tell which program this is")?,
    });
    tokio::spawn(applier::run(board.clone(), guests.clone(), network.clone()));
    tokio::spawn(verdict::run(board.clone(), parts(&paths, &network, &guests), init.clone()));
    let updates =
        update::Store { address: seed.store.address.clone(), member: board.member.subscribe(), key: key.clone() };
    update::start(board.clone(), init.clone(), updates, paths.clone());

    let (store, talk) = Store::new();
    let control = router::control::Control {
        board: board.clone(),
        key: key.clone(),
        store,
        guests: guests.reports(),
        latest: Arc::default(),
    };
    control.start(&paths).context("Cannot make the router's socket")?;
    let doorman = router::open::Doorman { board: board.clone(), guests: guests.clone() };
    doorman.start(&paths).context("Cannot make the socket for sessions")?;
    init.start_service(Service::Router);

    let (reports, able, uplink) = (guests.reports(), guests.able(), network.uplink());
    let no_clock = args.no_network.is_some();
    let cluster = Cluster {
        paths,
        seed,
        ca,
        key,
        board: board.clone(),
        init: init.clone(),
        keeper,
        guests: reports,
        able,
        uplink,
        talk,
        said: None,
    };
    tokio::spawn(connect(network, cluster, no_clock));
    until_told(heard, &board, &guests, &init).await
}

/// The membership, if it is one of this cluster.
fn known_member(paths: &Paths, ca: Digest, init: &Init) -> Result<Option<Arc<Member>>> {
    let member = Member::load(paths)?;
    if let Some(other) = member.as_ref().filter(|m| m.cluster() != ca) {
        init.console(&format!(
            "This machine was node {} of the cluster {}; now it is to be one of {ca}: it joins that one anew",
            other.name,
            other.cluster(),
        ));
    }
    Ok(member.filter(|m| m.cluster() == ca))
}

/// What the ledger knows is what holds, until the store says otherwise.
fn recall(board: &Board, member: Option<Arc<Member>>, keeper: &Keeper) {
    let entry = keeper.entry();
    tracing::info!(host = member.as_ref().map(|m| m.host.0), revision = keeper.revision(), "Read the ledger");
    board.member.send_replace(member);
    board.grant_key.send_replace(entry.grant_key.clone());
    board.desired.send_replace(entry.desired.clone().map(Arc::new));
}

fn bring_up(args: &Args, paths: &Paths, seed: &Seed, board: &Board, init: &Init) -> Result<Network> {
    if let Some(address) = args.no_network {
        let (link, mac) = ("none".to_owned(), String::new());
        return Ok(Network::by_hand(Uplink { link, mac, address, dns: vec![], ntp: vec![] }));
    }
    let name = host_name(paths, seed);
    nix::unistd::sethostname(&name).with_context(|| format!("Cannot set the host name {name}"))?;
    let wanted = Wanted { fixed: seed.network.clone(), link: args.uplink.clone(), name };
    Ok(Network::start(paths, wanted, &board.config(), init.clone())?)
}

fn host_name(paths: &Paths, seed: &Seed) -> String {
    let inventory: Inventory = load::inventory(&paths.state, String::new());
    seed.node.as_ref().map_or_else(|| load::machine_name(&inventory), |n| n.name.to_string())
}

fn parts(paths: &Paths, network: &Network, guests: &Guests) -> verdict::Parts {
    let storage = files::make_dir(&paths.at(model::paths::LEDGER), 0o700);
    verdict::Parts {
        network: network.status(),
        bridge: network.bridge(),
        guests: guests.able(),
        proven: guests.proven(),
        storage: storage.map_err(|e| format!("{} cannot be written: {e}", paths.state.display())),
    }
}

/// What needs the uplink, in its order: the clock before the first certificate is judged. A task of its own, since
/// the node may be told to shut down while it waits.
async fn connect(network: Network, cluster: Cluster, no_clock: bool) {
    network_phase(&network, &cluster.init).await;
    if !no_clock {
        timekeeper::start(&cluster.board, &network, &cluster.paths, &cluster.init).await;
    }
    cluster.run().await;
}

/// Waits for the uplink, no longer than the phase's deadline: it goes on being looked for.
async fn network_phase(network: &Network, init: &Init) {
    const DEADLINE: Duration = Duration::from_secs(30);
    let mut uplink = network.uplink();
    let found = init.phase("network", tokio::time::timeout(DEADLINE, uplink.wait_for(Option::is_some))).await.is_ok();
    if !found {
        let reason = network.status().borrow().clone().err().unwrap_or_default();
        init.console(&format!("No network after {} s: {reason}. The node goes on trying.", DEADLINE.as_secs()));
    }
}

async fn until_told(mut heard: UnboundedReceiver<FromInit>, board: &Board, guests: &Guests, init: &Init) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("Cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("Cannot watch for SIGINT")?;
    loop {
        // Cancel-safe: signals and channel receives lose nothing when dropped.
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(word) = heard.recv() => match word {
                FromInit::Shutdown { within_s } => {
                    board.stopping.send_replace(true);
                    let (guests, init) = (guests.clone(), init.clone());
                    tokio::spawn(async move {
                        guests.shutdown(Duration::from_secs(within_s.into())).await;
                        init.say(ToInit::GuestsStopped);
                    });
                }
                FromInit::ServiceState { service, running, restarts, gave_up } => {
                    tracing::info!(service = ?service, running, restarts, gave_up, "A service changed its state");
                }
            },
        }
    }
    tracing::info!("Told to end; guests go on");
    Ok(())
}
