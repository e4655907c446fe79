//! The central store: cluster model in SQL, node sync, admin API, image repository.

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use model::api::{NewToken, TokenKind};
use std::{io::IsTerminal, net::SocketAddr, path::PathBuf, process::ExitCode};
use store::{
    api,
    db::{Clock, Db},
    error::chain,
    pki::Names,
    secret,
    serve::{self, Options, Serving},
    site::Site,
};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(name = "store", version, about = "The central store of a Roost cluster")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves administrators and nodes; the first start makes a new cluster
    Serve(Serve),
    /// Tokens for nodes and administrators
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Args)]
struct Place {
    /// Database [default: sqlite:/var/lib/roost/store.db for root, else under ~/.local/state/roost]
    #[arg(long, value_name = "sqlite:PATH", env = "ROOST_STORE_DB")]
    db: Option<String>,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    place: Place,
    /// Address for administrators (HTTPS)
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:3000")]
    listen: SocketAddr,
    /// Address for nodes
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:3001")]
    node_listen: SocketAddr,
    /// Folder of disk images [default: images beside the database]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Name or address under which this store is reached; goes into its certificate (repeatable)
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Makes a token and prints it: the only time it is seen
    New {
        #[command(flatten)]
        place: Place,
        /// What for
        #[arg(long, value_enum, default_value_t = Kind::Join)]
        kind: Kind,
        /// How long it is good, in seconds or with s, m, h, d [default: a day for join, no limit for admin]
        #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
        ttl: Option<u64>,
        /// A word for the log of events, such as who it is for
        #[arg(long, default_value = "")]
        note: String,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    /// One node may join with it, once
    Join,
    /// An administrator's key to the admin API
    Admin,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        bail!("A TLS provider was installed before main");
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("Cannot start the runtime")?;
    match cli.command {
        Command::Serve(options) => runtime.block_on(serve(options)),
        Command::Token { command: TokenCommand::New { place, kind, ttl, note } } => {
            runtime.block_on(new_token(place, kind, ttl, note))
        }
    }
}

async fn serve(options: Serve) -> Result<()> {
    let site = Site::of(&place(options.place)?, options.images)?;
    let names = names(&options.names)?;
    let mut term = signal(SignalKind::terminate()).context("Cannot wait for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("Cannot wait for SIGINT")?;
    let files = site.clone();
    let options = Options { site, listen: options.listen, node_listen: options.node_listen, names };
    let serving = serve::start(options, Clock::System).await?;
    announce(&serving, &files);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    tracing::info!("Store stops; once more ends it at once");
    tokio::select! {
        () = serving.stop() => {}
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

fn announce(serving: &Serving, files: &Site) {
    if let Some(first) = &serving.first {
        println!("A new cluster was made. These tokens are shown this once:");
        println!("  admin token     {}", first.admin.0);
        println!("                  (qa finds it in {})", files.qa.display());
        println!("  join token      {}", first.join.0);
        println!("                  (one node, for a day; more by 'store token new')");
    }
    println!("CA fingerprint    sha256:{}", serving.ca_sha256());
    println!("administrators    {}", serving.url);
    println!("nodes             {}", serving.node_listen);
}

async fn new_token(at: Place, kind: Kind, ttl_s: Option<u64>, note: String) -> Result<()> {
    let site = Site::of(&place(at)?, None)?;
    let db = Db::open(&site.db, Clock::System)?;
    let kind = match kind {
        Kind::Join => TokenKind::Join,
        Kind::Admin => TokenKind::Admin,
    };
    let token = secret::new_token()?;
    api::make_token(&db, &token, NewToken { kind, ttl_s, note }, "store token new".to_owned()).await?;
    println!("{}", token.0);
    Ok(())
}

fn place(place: Place) -> Result<String> {
    if let Some(db) = place.db {
        return Ok(db);
    }
    if rustix::process::geteuid().is_root() {
        return Ok("sqlite:/var/lib/roost/store.db".to_owned());
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let state =
        state.filter(|dir| dir.is_absolute()).or_else(home).context("HOME is not set: give --db sqlite:PATH")?;
    Ok(format!("sqlite:{}", state.join("roost/store.db").display()))
}

fn names(given: &[String]) -> Result<Names> {
    let mut names = Names::default();
    for name in given {
        match name.parse() {
            Ok(ip) => names.ips.push(ip),
            Err(_)
                if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) =>
            {
                names.dns.push(name.clone());
            }
            Err(_) => bail!("--name '{name}' is neither an address nor a DNS name"),
        }
    }
    Ok(names)
}

fn parse_ttl(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 86_400),
        _ => (text, 1),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).filter(|s| *s > 0);
    seconds.ok_or_else(|| "expected seconds, or a number with s, m, h or d, such as 2h".to_owned())
}
