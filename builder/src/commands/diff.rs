//! `roost diff`: what differs between two images, and what the update weighs.

use std::path::PathBuf;

use crate::diff::{Change, Diff, diff};
use crate::report::megabytes;

/// Files shown; `--json` has all.
const SHOWN: usize = 30;

/// Show what differs between two images: packages, files, and the bytes that a node fetches to update.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The image that a node has: any artifact of a build, or its folder.
    before: PathBuf,
    /// The one that it gets.
    after: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When one of them is no image.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let found = diff(&args.before, &args.after)?;
    if args.json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        show(&found);
    }
    Ok(())
}

fn show(found: &Diff) {
    for (title, changes) in [("packages", &found.packages), ("files", &found.files)] {
        println!("{title}: {} differ", changes.len());
        changes.iter().take(SHOWN).for_each(line);
        if changes.len() > SHOWN {
            println!("  and {} more", changes.len() - SHOWN);
        }
    }
    let Some(wire) = &found.wire else {
        println!("update: one of them has no update set");
        return;
    };
    let part = |(fetched, all): (u64, u64)| format!("{} of {}", megabytes(fetched), megabytes(all));
    let patch = if wire.patch > 0 { format!(", patch {}", megabytes(wire.patch)) } else { String::new() };
    println!("update: UKI {}, root {}, table {}{patch}", part(wire.uki), part(wire.root), megabytes(wire.head));
    let share = wire.bytes() as f64 * 100.0 / wire.root.1.max(1) as f64;
    println!("  {} in {} requests: {share:.1} % of the root's bytes", megabytes(wire.bytes()), wire.requests);
}

fn line(change: &Change) {
    let side = |side: &Option<(String, u64)>| match side {
        Some((version, bytes)) => format!("{version} {}", megabytes(*bytes)).trim().to_owned(),
        None => "-".to_owned(),
    };
    println!("  {:<50} {} -> {}", change.name, side(&change.before), side(&change.after));
}
