//! `roost keys`: an update key, and the keys of Secure Boot.

use std::path::PathBuf;

use crate::sign::keys;

/// Make the keys that images are signed with: an update key, and PK, KEK and db of Secure Boot.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for them; nothing in it is written over.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let now = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).datetime();
    let [month, day, hour, minute, second] =
        [now.month(), now.day(), now.hour(), now.minute(), now.second()].map(i8::unsigned_abs).map(u16::from);
    for path in keys::make(&args.out, [now.year().unsigned_abs(), month, day, hour, minute, second])? {
        println!("{}", path.display());
    }
    println!("Keep the *.key files where no network reaches; build with `--keys {}`.", args.out.display());
    Ok(())
}
