//! LUKS2 by `cryptsetup`. Secrets go to it by its standard input, or by a file in memory where it takes two; never on a
//! command line.

use super::token::{KIND, Token};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use sys::spawn::{Command, Output, run};

const PROGRAM: &str = "/usr/sbin/cryptsetup";
/// Name of the opened volume.
const NAME: &str = "roost-state";
/// Device file of the opened volume.
pub const OPENED: &str = "/dev/mapper/roost-state";
/// The slot of the recovery key: the first of a new header. Slots of the TPM are all others.
pub const RECOVERY_SLOT: &str = "0";
const LIMIT: Duration = Duration::from_secs(120);
/// Keys are random, all of them: guessing one is hopeless however fast a guess is, and a slow derivation would only cost
/// each boot time, and small nodes memory.
const FAST: &[&str] = &["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];

/// First bytes of the header, and where its copy begins with which.
const MAGIC: (u64, &[u8; 6]) = (0, b"LUKS\xba\xbe");
const COPY: (u64, &[u8; 6]) = (0x4000, b"SKUL\xba\xbe");
/// What both lie in.
const HEADERS: usize = 64 << 10;

/// Whether the partition has the header, or its copy. One that cannot be read has not: whoever mounts it will say why.
pub fn is_luks(partition: &Path) -> bool {
    let begins = |(at, magic): (u64, &[u8; 6])| {
        let mut found = [0; 6];
        let read = File::open(partition).and_then(|mut f| {
            f.seek(SeekFrom::Start(at))?;
            f.read_exact(&mut found)
        });
        read.is_ok() && found == *magic
    };
    begins(MAGIC) || begins(COPY)
}

/// Removes what an attempt at an encrypted STATE has left, so that a plain one is not taken for it.
pub fn wipe(partition: &Path) -> Result<(), sys::Error> {
    let written = File::options().write(true).open(partition).and_then(|mut f| {
        f.write_all(&[0; HEADERS])?;
        f.sync_all()
    });
    written.map_err(sys::Error::of("clear the start of", partition.display()))
}

/// Makes a new header with one key, in [`RECOVERY_SLOT`]. All that was there is lost.
pub fn format(partition: &Path, uuid: &str, key: &[u8]) -> Result<(), sys::Error> {
    let mut command = Command::new(PROGRAM);
    command.args(["luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64", "--key-size", "512"]);
    command.args(FAST).args(["--label", NAME, "--uuid", uuid, "--key-file", "-"]).arg(partition);
    done(&mut command, key)
}

/// Opens the volume as [`OPENED`].
pub fn open(partition: &Path, key: &[u8]) -> Result<(), sys::Error> {
    let mut command = Command::new(PROGRAM);
    command.args(["open", "--type", "luks2", "--batch-mode", "--key-file", "-"]).arg(partition).arg(NAME);
    done(&mut command, key)
}

/// Adds a key beside one that opens it already; says in which slot it is.
pub fn add_key(partition: &Path, opens: &[u8], key: &[u8]) -> Result<String, sys::Error> {
    let before = header(partition)?.slots();
    let file = KeyFile::new(opens)?;
    let mut command = Command::new(PROGRAM);
    command.args(["luksAddKey", "--batch-mode"]).args(FAST).arg("--key-file").arg(&file.0).arg(partition).arg("-");
    done(&mut command, key)?;
    let after = header(partition)?.slots();
    after.difference(&before).next().cloned().ok_or_else(|| sys::Error::Malformed {
        object: partition.display().to_string(),
        found: "no further key slot".to_owned(),
        expected: "the one that cryptsetup has filled",
    })
}

/// Writes a token into the header.
pub fn add_token(partition: &Path, token: &Token) -> Result<(), sys::Error> {
    let mut command = Command::new(PROGRAM);
    command.args(["token", "import", "--json-file", "-"]).arg(partition);
    done(&mut command, &serde_json::to_vec(token).unwrap_or_default())
}

/// Removes a key.
pub fn kill_slot(partition: &Path, slot: &str) -> Result<(), sys::Error> {
    let mut command = Command::new(PROGRAM);
    command.args(["luksKillSlot", "--batch-mode"]).arg(partition).arg(slot);
    done(&mut command, b"")
}

/// Removes a token.
pub fn remove_token(partition: &Path, id: u32) -> Result<(), sys::Error> {
    let mut command = Command::new(PROGRAM);
    command.args(["token", "remove", "--token-id"]).arg(id.to_string()).arg(partition);
    done(&mut command, b"")
}

/// The header, as far as it is of interest.
#[derive(Debug, Deserialize)]
pub struct Header {
    keyslots: BTreeMap<String, serde::de::IgnoredAny>,
    tokens: BTreeMap<u32, serde_json::Value>,
}

impl Header {
    /// Slots that hold a key.
    pub fn slots(&self) -> BTreeSet<String> {
        self.keyslots.keys().cloned().collect()
    }

    /// Our tokens and their numbers, the newest first.
    pub fn tokens(&self) -> Vec<(u32, Token)> {
        let ours = self.tokens.iter().rev().filter(|(_, token)| token["type"] == KIND);
        ours.filter_map(|(id, token)| Some((*id, Token::deserialize(token).ok()?))).collect()
    }
}

/// Reads it.
pub fn header(partition: &Path) -> Result<Header, sys::Error> {
    let mut command = Command::new(PROGRAM);
    command.args(["luksDump", "--dump-json-metadata"]).arg(partition);
    let output = run(&mut command, b"", LIMIT)?.ok()?;
    serde_json::from_slice(&output.stdout).map_err(|e| sys::Error::Malformed {
        object: partition.display().to_string(),
        found: e.to_string(),
        expected: "the header of LUKS2 as cryptsetup prints it",
    })
}

fn done(command: &mut Command, input: &[u8]) -> Result<(), sys::Error> {
    run(command, input, LIMIT).and_then(Output::ok).map(drop)
}

/// A key in a file in memory, gone with this handle.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(key: &[u8]) -> Result<Self, sys::Error> {
        let path = Path::new(model::paths::RUN).join(".vault-key");
        let file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&path);
        let written = file.and_then(|mut f| f.write_all(key)).map_err(sys::Error::of("write", path.display()));
        let file = Self(path);
        written.map(|()| file)
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::warn!(error = %e, "A key is left in memory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_seen_by_itself_and_by_its_copy() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("partition");
        for (at, magic) in [MAGIC, COPY] {
            std::fs::write(&path, vec![0; 1 << 20]).expect("written");
            assert!(!is_luks(&path));
            let mut file = File::options().write(true).open(&path).expect("opens");
            file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(magic)).expect("written");
            assert!(is_luks(&path));
            wipe(&path).expect("cleared");
            assert!(!is_luks(&path));
        }
        assert!(!is_luks(&dir.path().join("none")));
    }

    #[test]
    fn only_our_tokens_are_taken_from_a_header() {
        let ours = r#"{"type":"roost-tpm2","keyslots":["1"],"pcr":"00ff","private":"AQI=","public":"Aw=="}"#;
        let text = format!(
            r#"{{"keyslots":{{"0":{{"type":"luks2"}},"1":{{}}}},
                "tokens":{{"0":{{"type":"systemd-tpm2","keyslots":["0"]}},"1":{{"type":"roost-tpm2"}},"10":{ours},"2":{ours}}},
                "segments":{{}}}}"#
        );
        let header: Header = serde_json::from_str(&text).expect("reads");
        assert_eq!(header.slots().into_iter().collect::<Vec<_>>(), ["0", "1"]);
        assert_eq!(header.tokens().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [10, 2]);
    }
}
