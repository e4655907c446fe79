//! `roost build`: an image from its recipe, and a table of what it weighs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image::manifest::Manifest;
use serde_json::json;

use super::common::{Fetching, Telling};
use crate::build::{Options, Outcome, VERSION, build};
use crate::pin;
use crate::programs::Level;
use crate::report::{Report, Style, megabytes};
use crate::sign::SignWith;

/// Build an image from its recipe.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recipe, by name (in image/recipes/) or by path.
    recipe: String,
    /// Folder for what is built.
    #[arg(long, default_value = "out", value_name = "DIR")]
    out: PathBuf,
    /// Fail rather than resolve packages again.
    #[arg(long)]
    locked: bool,
    /// Do every step afresh; packages still come from the cache.
    #[arg(long)]
    no_cache: bool,
    /// How much to spend on size.
    #[arg(long, value_enum, default_value_t)]
    level: Level,
    /// Short for --level release.
    #[arg(long, conflicts_with = "level")]
    release: bool,
    /// Folder of `roost keys`: sign what firmware starts and the update set, and trust its update keys.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Command that signs instead of the secret keys in that folder (see the manual).
    #[arg(long, value_name = "CMD", requires = "keys")]
    signer: Option<String>,
    /// Sign even an image with a shell, such as node-debug: never with the keys of nodes that hold data.
    #[arg(long, requires = "keys")]
    sign_debug: bool,
    /// How many of the trusted update keys must sign a set.
    #[arg(long, default_value_t = 1, value_name = "N", requires = "keys")]
    threshold: usize,
    /// Nodes refuse to install the set from this time on, such as 2027-06-01T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires: Option<jiff::Timestamp>,
    /// CA of the one cluster that the image is for: its nodes accept no other.
    #[arg(long, value_name = "CA.pem")]
    cluster: Option<PathBuf>,
    /// Update set of an earlier build: its nodes fetch a patch of what changed (may be given several times).
    #[arg(long, value_name = "NAME.set")]
    patch_from: Vec<PathBuf>,
    /// Version of the image: letters, digits and . ~ ^ -, newer ones sorting later.
    #[arg(long, default_value = VERSION, value_name = "V")]
    version: String,
    #[command(flatten)]
    fetching: Fetching,
    #[command(flatten)]
    telling: Telling,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let report = args.telling.report();
    let keys = args.keys.clone();
    let options = Options {
        locked: args.locked,
        no_cache: args.no_cache,
        level: if args.release { Level::Release } else { args.level },
        mirror: args.fetching.mirror.clone(),
        version: args.version.clone(),
        sign_debug: args.sign_debug,
        sign: keys.map(|keys| SignWith { keys, signer: args.signer.clone(), threshold: args.threshold, public: false }),
        expires: args.expires.map(|time| u64::try_from(time.as_second()).unwrap_or(0)),
        cluster: args.cluster.as_deref().map(pin::of_ca).transpose()?,
        patch_from: args.patch_from.clone(),
        ..Options::new(&args.out)
    };
    let outcome = build(&args.recipe, &options, &report)?;
    show(&outcome, &report)
}

/// Builds at level dev into `out` when something changed, showing progress. Returns whether it did.
pub fn image(recipe: &str, out: &Path) -> anyhow::Result<bool> {
    let mirror = std::env::var("ROOST_MIRROR").ok();
    let options = Options { mirror, ..Options::new(out) };
    Ok(build(recipe, &options, &Report::new(Style::choose(false)))?.built)
}

fn show(outcome: &Outcome, report: &Report) -> anyhow::Result<()> {
    let text =
        std::fs::read(&outcome.manifest).with_context(|| format!("Cannot read {}", outcome.manifest.display()))?;
    let manifest = Manifest::from_json(&text).with_context(|| format!("Cannot read {}", outcome.manifest.display()))?;
    let mut packages: Vec<_> = manifest.packages.iter().map(|(name, p)| (p.bytes, name.as_str())).collect();
    packages.sort_by_key(|(bytes, name)| (std::cmp::Reverse(*bytes), *name));
    if report.is_json() {
        let artifacts: serde_json::Map<_, _> =
            manifest.artifacts.iter().map(|(n, a)| (n.clone(), json!(a.bytes))).collect();
        report.event(&json!({
            "event": "built", "name": outcome.name, "built": outcome.built, "seconds": outcome.seconds,
            "artifacts": artifacts, "packages": manifest.packages.len(),
        }));
        return Ok(());
    }
    if outcome.built {
        println!("\n{:<32} {:>12}", "package (largest first)", "unpacked");
        for (bytes, name) in packages.iter().take(12) {
            println!("{name:<32} {:>12}", megabytes(*bytes));
        }
        let total: u64 = packages.iter().map(|(bytes, _)| bytes).sum();
        println!("{:<32} {:>12}", format!("{} packages in all", packages.len()), megabytes(total));
    }
    println!("\n{:<32} {:>12}", "artifact", "size");
    for (name, artifact) in &manifest.artifacts {
        println!("{name:<32} {:>12}", megabytes(artifact.bytes));
    }
    println!("{} in {:.1} s", if outcome.built { "built" } else { "up to date, checked" }, outcome.seconds);
    Ok(())
}
