//! `roost verify`: an image, held against what its sources make.

use std::path::PathBuf;

use anyhow::bail;

use super::common::Telling;
use crate::pin;
use crate::verify::{Against, Verdict, verify};

/// Build an image again from a lock, and tell whether it is the same bytes.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Any artifact of the image, or its folder.
    image: PathBuf,
    /// The lock it was built from.
    #[arg(long, value_name = "FILE")]
    lock: PathBuf,
    /// Its recipe, by name or path; by default that of the image's name.
    #[arg(long)]
    recipe: Option<String>,
    /// Folder of the keys it was built with; their public parts are enough.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// The threshold it was built with.
    #[arg(long, default_value_t = 1, value_name = "N")]
    threshold: usize,
    /// The end it was built with.
    #[arg(long, value_name = "TIME")]
    expires: Option<jiff::Timestamp>,
    /// CA of the one cluster it was built for.
    #[arg(long, value_name = "CA.pem")]
    cluster: Option<PathBuf>,
    /// Update sets it was built with patches against, in the same order.
    #[arg(long, value_name = "NAME.set")]
    patch_from: Vec<PathBuf>,
    #[command(flatten)]
    telling: Telling,
}

/// Runs the command.
///
/// # Errors
/// When it cannot be built again, or something differs.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let against = Against {
        recipe: args.recipe.clone(),
        lock: args.lock.clone(),
        keys: args.keys.clone(),
        threshold: args.threshold,
        expires: args.expires.map(|time| u64::try_from(time.as_second()).unwrap_or(0)),
        cluster: args.cluster.as_deref().map(pin::of_ca).transpose()?,
        patch_from: args.patch_from.clone(),
    };
    let found = verify(&args.image, &against, &args.telling.report())?;
    for (name, verdict) in &found {
        let words = match verdict {
            Verdict::Same => "the same bytes",
            Verdict::SameUnsigned => "the same bytes, its signature apart",
            Verdict::Signed => "not compared: it holds signatures",
            Verdict::Differs => "OTHER BYTES",
            Verdict::Missing => "NOT THERE",
        };
        println!("{name:<32} {words}");
    }
    if found.values().any(|verdict| matches!(verdict, Verdict::Differs | Verdict::Missing)) {
        bail!("the image is not what this source tree makes of {}", args.lock.display());
    }
    Ok(())
}
