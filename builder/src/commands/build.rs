//! `roost build`: an image from its recipe, and a table of what it weighs.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use image::manifest::Manifest;
use serde_json::json;

use super::common::{Fetching, Telling};
use crate::build::{Options, Outcome, VERSION, build};
use crate::programs::Level;
use crate::report::{Report, Style, megabytes};

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
    let options = Options {
        out: args.out.clone(),
        locked: args.locked,
        no_cache: args.no_cache,
        level: if args.release { Level::Release } else { args.level },
        mirror: args.fetching.mirror.clone(),
        version: args.version.clone(),
    };
    let outcome = build(&args.recipe, &options, &report)?;
    show(&outcome, &report)
}

/// Builds at level dev into `out` when something changed, showing progress. Returns whether it did.
pub fn image(recipe: &str, out: &Path) -> anyhow::Result<bool> {
    let mirror = std::env::var("ROOST_MIRROR").ok();
    let options = Options {
        out: out.to_owned(),
        locked: false,
        no_cache: false,
        level: Level::Dev,
        mirror,
        version: VERSION.into(),
    };
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
