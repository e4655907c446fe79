//! The layer-7 router of a node.

use anyhow::Context;
use clap::Parser;
use mimalloc::MiMalloc;
use router::{Options, bench};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tokio::signal::unix::{SignalKind, signal};

// musl's gives memory back to the kernel after each TLS record and takes it again for the next: decision 013.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The layer-7 router of a node: TLS, login, list, start, relay.
///
/// It takes its certificate, its ports and its configuration from the node daemon, and listens once it
/// has them. SIGTERM ends it: at once what is idle, in time what carries a session.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The node daemon's control socket.
    #[arg(long, value_name = "PATH", default_value = model::paths::ROUTER_SOCKET)]
    noded: PathBuf,
    /// The node daemon's session socket.
    #[arg(long, value_name = "PATH", default_value = model::paths::SESSION_SOCKET)]
    session_socket: PathBuf,
    /// Where other nodes' routers are awaited.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8444")]
    peer_listen: SocketAddr,
    /// Port on which other nodes' routers are dialled.
    #[arg(long, value_name = "PORT", default_value_t = 8444)]
    peer_port: u16,
    /// Seconds that sessions may go on after SIGTERM; node-init kills a service 5 s after that.
    #[arg(long, value_name = "SECONDS", default_value_t = 4)]
    drain: u64,
    /// Most connections at a time.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_connections: usize,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Measures how fast and how cheaply bytes pass through, on this machine.
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    log();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("A TLS provider was installed before");
    }
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("Cannot start")?;
    match args.command {
        Some(Command::Bench(bench)) => runtime.block_on(bench::run(bench)).map_err(Into::into),
        None => runtime.block_on(route(args)),
    }
}

async fn route(args: Args) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let mut terminate = signal(SignalKind::terminate()).context("Cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("Cannot wait for SIGINT")?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let options = Options {
        noded: args.noded,
        session_socket: args.session_socket,
        peer_listen: args.peer_listen,
        peer_port: args.peer_port,
        drain: Duration::from_secs(args.drain),
        max_connections: args.max_connections,
    };
    Ok(router::run(options, stop).await?)
}

/// `RUST_LOG` decides; a panic is a line of the log like any other failure.
fn log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    std::panic::set_hook(Box::new(|panic| tracing::error!(error = %panic, "A fault in the program")));
}

/// Each session holds two descriptors; the limit that an unprivileged process may set for itself is far
/// above the default.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(error = %error, "The limit of open files stays as it is");
    }
}
