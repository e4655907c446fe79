//! `roost lock`: resolve recipes anew and say what moved.

use super::common::{Fetching, Telling};
use crate::build::relock;
use crate::cache::Cache;
use crate::mirror::Mirror;
use crate::recipe::Located;

/// Resolve a recipe's packages against Debian and write its lock file.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recipes, by name (in image/recipes/) or by path.
    #[arg(value_name = "RECIPE", required = true)]
    recipes: Vec<String>,
    #[command(flatten)]
    fetching: Fetching,
    #[command(flatten)]
    telling: Telling,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let report = args.telling.report();
    let source = crate::source_dir()?;
    let mirror = Mirror::given(args.fetching.mirror.as_deref())?;
    for recipe in &args.recipes {
        let located = Located::find(recipe, &source)?;
        let (lock, moved) = relock(&located, mirror.as_ref(), &Cache::of_user(), &report)?;
        let count = lock.packages.len();
        match moved {
            None => report.note(&format!("{recipe}: {count} packages locked")),
            Some(lines) if lines.is_empty() => report.note(&format!("{recipe}: {count} packages, none moved")),
            Some(lines) => {
                report.note(&format!("{recipe}: {count} packages, {} moved", lines.len()));
                lines.iter().for_each(|l| report.note(l));
            }
        }
    }
    Ok(())
}
