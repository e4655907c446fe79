//! The other side of a rehearsal: this version, asked by the one that runs, reads a node's STATE and changes nothing.
//!
//! What every later version must go on to answer: `noded rehearse DIR` ends with 0 and a [`Report`] on its standard output,
//! or else with the reason on its standard error.

use super::Report;
use crate::{
    identity::{Member, NodeKey},
    ledger::Ledger,
    paths::Paths,
    seed,
    update::record::Book,
};
use anyhow::{Context, Result};
use node_init::state_format;
use std::process::ExitCode;

/// The word on the command line; the folder follows.
pub const WORD: &str = "rehearse";

/// What a version may write on STATE until it is blessed, its log and its records of boots included.
const NEEDS: u64 = 32 << 20;

/// Reads all that a start would read.
pub fn run(state: &str) -> ExitCode {
    match read(&Paths { state: state.into(), run: "/nowhere".into() }).and_then(|r| Ok(serde_json::to_string(&r)?)) {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn read(paths: &Paths) -> Result<Report> {
    let format = state_format::check(&paths.at(model::paths::STATE_FORMAT))?;
    NodeKey::load(paths)?;
    Member::load(paths)?;
    seed::rehearse(paths).context("The copy of the seed")?;
    Ledger::rehearse(paths)?;
    Book::rehearse(paths).context("The record of updates")?;
    Ok(Report { format, needs: NEEDS })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_state_is_read_whole_and_what_cannot_be_used_is_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = Paths { state: dir.path().into(), run: "/nowhere".into() };
        assert_eq!(read(&paths).expect("nothing is there yet"), Report { format: 1, needs: NEEDS });
        let key = NodeKey::load_or_make(&paths).expect("made");
        assert!(NodeKey::load(&paths).expect("reads").is_some_and(|k| k.fingerprint() == key.fingerprint()));
        Book::open(&paths).expect("opens").keep().expect("keeps");
        read(&paths).expect("all of it is this version's");
        for (path, text, saying) in [
            (model::paths::STATE_FORMAT, "garbage", "format.json is damaged"),
            (model::paths::SEED_COPY, "garbage", "The copy of the seed: The seed is wrong at line 1"),
            ("/state/identity/member.json", "garbage", "member.json is damaged"),
            ("/state/update/record.json", r#"{"attempt":7}"#, "The record of updates: "),
            ("/state/identity/key.pem", "garbage", "key.pem holds no private key"),
        ] {
            let path = paths.at(path);
            let before = fs::read(&path).ok();
            fs::write(&path, text).expect("written");
            let error = format!("{:#}", read(&paths).expect_err("refused"));
            assert!(error.contains(saying), "{error}");
            match before {
                Some(bytes) => fs::write(&path, bytes).expect("written"),
                None => fs::remove_file(&path).expect("removed"),
            }
        }
        // Without which a node could never be updated again.
        fs::write(paths.at("/state/update/record.json"), "garbage").expect("written");
        read(&paths).expect("a damaged record is none");
    }
}
