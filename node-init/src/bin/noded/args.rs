//! The command line. On a node there is none; the options are for tests and for a daemon started by hand.

use crate::paths::Paths;
use model::seed::Cidr;
use std::path::PathBuf;

/// Shown when the command line is wrong.
pub const USAGE: &str =
    "usage: noded [--state DIR] [--run DIR] [--seed FILE] [--no-network ADDRESS/PREFIX] [--uplink LINK]";

/// What the command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// Root of what outlives a boot.
    pub state: Option<PathBuf>,
    /// Root of what does not.
    pub run: Option<PathBuf>,
    /// The seed.
    pub seed: Option<PathBuf>,
    /// Leave the network, the clock and the host name alone; this is the node's address.
    pub no_network: Option<Cidr>,
    /// The uplink's link, whatever others there are.
    pub uplink: Option<String>,
}

impl Args {
    /// Reads the arguments behind the program's name; the error names what is wrong.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self::default();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} lacks its value"));
            match word.as_str() {
                "--state" => args.state = Some(value()?.into()),
                "--run" => args.run = Some(value()?.into()),
                "--seed" => args.seed = Some(value()?.into()),
                "--no-network" => args.no_network = Some(value()?.parse()?),
                "--uplink" => args.uplink = Some(value()?),
                _ => return Err(format!("unknown option {word}")),
            }
        }
        Ok(args)
    }

    /// The daemon's roots.
    pub fn paths(&self) -> Paths {
        let usual = Paths::default();
        Paths { state: self.state.clone().unwrap_or(usual.state), run: self.run.clone().unwrap_or(usual.run) }
    }

    /// The seed's file.
    pub fn seed_file(&self) -> PathBuf {
        self.seed.clone().unwrap_or_else(|| self.paths().at(model::paths::SEED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn no_arguments_are_a_node_and_wrong_ones_are_named() {
        assert_eq!(parse("").expect("parses").seed_file(), PathBuf::from(model::paths::SEED));
        assert_eq!(parse("--run /tmp/r").expect("parses").seed_file(), PathBuf::from("/tmp/r/seed.toml"));
        assert_eq!(parse("--state"), Err("--state lacks its value".to_owned()));
        assert_eq!(parse("--sate x"), Err("unknown option --sate".to_owned()));
    }
}
