//! `roost sign`: one signature more on an update set.

use std::fs::OpenOptions;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use image::set::{self, Set};

use crate::sign::{Keyring, SignWith};

/// Add the signature of another update key to an update set, for images that ask for several.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The update set; it is changed in place.
    set: PathBuf,
    /// Folder of `roost keys` whose update key signs.
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Command that signs instead of the secret key in that folder.
    #[arg(long, value_name = "CMD")]
    signer: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// When it is no set, or the key does not sign.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let with = SignWith { keys: args.keys.clone(), signer: args.signer.clone(), threshold: 1, public: false };
    let keys = Keyring::open(&with)?;
    let shown = args.set.display();
    let mut file =
        OpenOptions::new().read(true).write(true).open(&args.set).with_context(|| format!("Cannot open {shown}"))?;
    let found = Set::open(&mut file).with_context(|| format!("Cannot sign {shown}"))?;
    let name = format!("{}.{}", found.manifest.name, set::SUFFIX);
    let Some(signature) = keys.sign_set(&found.manifest_bytes, &name, found.manifest.epoch)? else {
        bail!("these keys sign nothing");
    };
    set::sign(&mut file, &signature).with_context(|| format!("Cannot sign {shown}"))?;
    println!("{shown}: {} {} signed", found.manifest.name, found.manifest.version);
    Ok(())
}
