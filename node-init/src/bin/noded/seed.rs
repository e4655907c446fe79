//! The seed that `node-init` found, or else the copy of the last good one.
//!
//! A seed is good when the store has welcomed the node with it. It is kept on STATE then, without what is used by
//! that time, such as its token: so a node goes on when its stick was pulled out or its firmware's setting is gone, and when
//! somebody has put a broken seed in its place.
//!
//! An image may be for one cluster alone (`image::pin`). A seed of another one is a wrong seed there, wherever it was
//! found, and so is a copy that an image for any cluster has left.

use crate::{board::Board, files, paths::Paths, report::chain};
use image::pin;
use model::{Digest, paths::SEED_COPY, seed::Seed};
use node_init::seed_text::{self, parse};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Why there is no seed.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file cannot be read; missing means that no seed was found anywhere.
    #[error(
        "Cannot read the seed {path}: put a seed.toml on the partition ROOST-SEED, or pass one by fw_cfg or SMBIOS"
    )]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a seed must be.
    #[error(transparent)]
    Wrong(#[from] seed_text::Wrong),
    /// It is of another cluster than the image.
    #[error(
        "The seed is of another cluster: its store.ca is {found}, and this image is for {expected} alone. Give the node a seed of that cluster, or write an image to it that was built for the other one"
    )]
    OtherCluster {
        /// What the seed names.
        found: Digest,
        /// What the image names.
        expected: Digest,
    },
    /// Neither says which cluster it is.
    #[error(
        "The seed has no store.ca, and this image is for no cluster in particular: write the CA's fingerprint into it"
    )]
    NoCa,
    /// The image's own word for it makes no sense.
    #[error(
        "The kernel command line has {}{found}; expected 64 hex digits, as 'roost build --cluster' writes them",
        pin::WORD
    )]
    Pin {
        /// The value.
        found: String,
    },
    /// There is no command line to see.
    #[error("Cannot read {CMDLINE}")]
    Cmdline(#[source] io::Error),
}

const CMDLINE: &str = "/proc/cmdline";

/// What a boot goes on with.
#[derive(Debug, PartialEq)]
pub struct Loaded {
    /// The seed.
    pub seed: Seed,
    /// Fingerprint of the cluster's CA: the image's, or else the seed's.
    pub ca: Digest,
    /// Why it is the copy and not the one found; none when it is the one found.
    pub instead_of: Option<String>,
}

/// Reads and checks the seed, or else the copy of the last good one. No seed counts that is of another cluster than the
/// running image is for.
pub fn find(found: &Path, paths: &Paths) -> Result<Loaded, SeedError> {
    load(found, paths, pinned(&std::fs::read_to_string(CMDLINE).map_err(SeedError::Cmdline)?)?)
}

/// The cluster that the image is for, if it is for one alone.
fn pinned(cmdline: &str) -> Result<Option<Digest>, SeedError> {
    let parse = |found: &str| found.parse().map_err(|_| SeedError::Pin { found: found.to_owned() });
    pin::on_cmdline(cmdline).map(parse).transpose()
}

fn load(found: &Path, paths: &Paths, pin: Option<Digest>) -> Result<Loaded, SeedError> {
    let read = |path: &Path| read(path).and_then(|seed| Ok((cluster(&seed, pin)?, seed)));
    let error = match read(found) {
        Ok((ca, seed)) => return Ok(Loaded { seed, ca, instead_of: None }),
        Err(error) => error,
    };
    match read(&paths.at(SEED_COPY)) {
        Ok((ca, seed)) => Ok(Loaded { seed, ca, instead_of: Some(chain(&error).to_string()) }),
        // What is wrong with the seed is what somebody can mend.
        Err(_) => Err(error),
    }
}

fn read(path: &Path) -> Result<Seed, SeedError> {
    let text = std::fs::read_to_string(path).map_err(|source| SeedError::Read { path: path.to_owned(), source })?;
    Ok(parse(&text)?)
}

/// Whether this version understands the copy on STATE, if there is one.
pub fn rehearse(paths: &Paths) -> Result<(), SeedError> {
    match read(&paths.at(SEED_COPY)) {
        Err(SeedError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        read => read.map(drop),
    }
}

/// The cluster that a seed leads to.
fn cluster(seed: &Seed, pin: Option<Digest>) -> Result<Digest, SeedError> {
    match (seed.store.ca, pin) {
        (Some(found), Some(expected)) if found != expected => Err(SeedError::OtherCluster { found, expected }),
        (ca, pin) => pin.or(ca).ok_or(SeedError::NoCa),
    }
}

/// Keeps the seed once the store has welcomed the node with it.
pub async fn keep_when_good(seed: Seed, ca: Digest, board: Arc<Board>, paths: Paths) {
    // An error is the board's end, and the daemon's.
    if board.welcomed.subscribe().wait_for(|welcomed| *welcomed).await.is_ok()
        && let Err(error) = keep(seed, ca, &paths)
    {
        tracing::error!(error = %chain(&error), "The seed is not kept: without it this node will not boot");
    }
}

fn keep(mut seed: Seed, ca: Digest, paths: &Paths) -> io::Result<()> {
    seed.store.token = None;
    // An image for any cluster, should one come later, has to know which it was.
    seed.store.ca = Some(ca);
    // How STATE is made and opened is of no use on STATE, and a recovery key is for one boot.
    seed.state = None;
    let text = toml::to_string(&seed).map_err(io::Error::other)?;
    let path = paths.at(SEED_COPY);
    if std::fs::read(&path).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    files::replace(&path, text.as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[store]\naddress = \"10.0.2.2:3001\"\nca = \"sha256:0101010101010101010101010101010101010101010101010101010101010101\"\n";

    fn here() -> (tempfile::TempDir, Paths, PathBuf) {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = Paths { state: dir.path().join("state"), run: dir.path().join("run") };
        for path in [paths.at(model::paths::IDENTITY), paths.run.clone()] {
            std::fs::create_dir_all(path).expect("makes");
        }
        let found = paths.at(model::paths::SEED);
        (dir, paths, found)
    }

    #[test]
    fn a_node_goes_on_with_its_copy_when_the_seed_is_gone_or_broken() {
        let (_dir, paths, found) = here();
        assert!(matches!(load(&found, &paths, None), Err(SeedError::Read { .. })));
        let key = "99998-99999-9999A-9999B-9999C-9999D-9999E";
        let state = format!("[state]\nencryption = \"tpm\"\nrecovery-key = \"{key}\"\n");
        let text = format!("{GOOD}token = \"secret\"\n[node]\nname = \"n1\"\n{state}");
        std::fs::write(&found, &text).expect("writes");
        let first = load(&found, &paths, None).expect("loads");
        assert_eq!((first.seed.store.token.as_deref(), &first.instead_of), (Some("secret"), &None));

        keep(first.seed.clone(), first.ca, &paths).expect("keeps");
        let kept = std::fs::read_to_string(paths.at(SEED_COPY)).expect("is there");
        assert!(!kept.contains("secret") && !kept.contains(key), "{kept}");

        std::fs::remove_file(&found).expect("removes");
        let gone = load(&found, &paths, None).expect("loads");
        let mut expect = first.seed;
        expect.store.token = None;
        expect.state = None;
        assert_eq!(gone.seed, expect);
        assert!(gone.instead_of.is_some_and(|why| why.contains("ROOST-SEED")));

        std::fs::write(&found, "[stoer]\n").expect("writes");
        let broken = load(&found, &paths, None).expect("loads");
        assert_eq!(broken.seed, expect);
        assert!(broken.instead_of.is_some_and(|why| why.starts_with("The seed is wrong at line 1")));
    }

    #[test]
    fn what_is_wrong_with_the_seed_is_told_when_there_is_no_copy() {
        let (_dir, paths, found) = here();
        std::fs::write(&found, "[stoer]\n").expect("writes");
        std::fs::write(paths.at(SEED_COPY), "garbage").expect("writes");
        assert!(matches!(load(&found, &paths, None), Err(SeedError::Wrong(_))));
    }

    const PIN: Digest = Digest([1; 32]);
    const OTHER: Digest = Digest([2; 32]);

    #[test]
    fn an_image_for_one_cluster_takes_no_seed_of_another() {
        let (_dir, paths, found) = here();
        let without = "[store]\naddress = \"10.0.2.2:3001\"\n";
        for (text, pin, expect) in [
            (GOOD, None, Ok(PIN)),
            (GOOD, Some(PIN), Ok(PIN)),
            (without, Some(OTHER), Ok(OTHER)),
            (GOOD, Some(OTHER), Err(format!("its store.ca is {PIN}, and this image is for {OTHER} alone"))),
            (without, None, Err("has no store.ca".to_owned())),
        ] {
            std::fs::write(&found, text).expect("writes");
            let loaded = load(&found, &paths, pin).map(|loaded| loaded.ca).map_err(|e| e.to_string());
            match (&loaded, &expect) {
                (Err(found), Err(saying)) => assert!(found.contains(saying), "{found}"),
                _ => assert_eq!(loaded, expect, "{text} {pin:?}"),
            }
        }
    }

    #[test]
    fn a_copy_of_another_cluster_is_no_way_around() {
        let (_dir, paths, found) = here();
        std::fs::write(&found, GOOD).expect("writes");
        let first = load(&found, &paths, None).expect("loads");
        keep(first.seed, first.ca, &paths).expect("keeps");
        let seen = |pin| load(&found, &paths, Some(pin));
        assert!(matches!(seen(OTHER), Err(SeedError::OtherCluster { found: PIN, expected: OTHER })));
        // A stranger's stick does not take a node out of its cluster either.
        std::fs::write(&found, GOOD.replace("0101", "0202")).expect("writes");
        let loaded = seen(PIN).expect("goes on with its copy");
        assert_eq!(loaded.ca, PIN);
        assert!(loaded.instead_of.is_some_and(|why| why.contains("of another cluster")));
        std::fs::remove_file(&found).expect("removes");
        assert!(matches!(seen(OTHER), Err(SeedError::Read { .. })));
    }

    #[test]
    fn a_copy_names_the_cluster_even_if_the_seed_did_not() {
        let (_dir, paths, found) = here();
        std::fs::write(&found, "[store]\naddress = \"10.0.2.2:3001\"\n").expect("writes");
        let first = load(&found, &paths, Some(PIN)).expect("loads");
        keep(first.seed, first.ca, &paths).expect("keeps");
        std::fs::remove_file(&found).expect("removes");
        assert_eq!(load(&found, &paths, None).expect("loads").ca, PIN);
    }

    #[test]
    fn the_image_names_its_cluster_on_the_command_line() {
        let text = |value: &str| format!("quiet {}{value} roost.verity=x", pin::WORD);
        assert_eq!(pinned("quiet").expect("reads"), None);
        assert_eq!(pinned(&text(&PIN.to_string())).expect("reads"), Some(PIN));
        let error = pinned(&text("abc")).expect_err("refused").to_string();
        assert!(error.starts_with("The kernel command line has roost.cluster=abc; expected 64"), "{error}");
    }
}
