//! `roost inspect`: what is in an image, with every hash checked.

use std::path::PathBuf;

/// Show what is in an image, and check every hash in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A disk image (.raw), root image (.squashfs) or UKI (.efi).
    image: PathBuf,
    /// Print one JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When a part of the image is not what it was built as.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let found = crate::inspect::inspect(&args.image)?;
    if args.json {
        println!("{}", serde_json::to_string(&found)?);
    } else {
        print!("{found}");
    }
    Ok(())
}
