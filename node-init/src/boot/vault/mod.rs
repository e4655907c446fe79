//! An encrypted STATE: LUKS2, opened by a key that the machine's TPM has sealed, or by a recovery key.
//!
//! ```text
//! made:    recovery key -> slot 0; random key -> another slot, sealed by the TPM -> a token in the header
//! opened:  token -> TPM -> key; if that fails, the seed's recovery key, and then a key is sealed anew
//! ```
//!
//! The seed says whether a STATE is made so. One that is there is opened as it is, whatever the seed says.

mod luks;
mod token;

use super::mounts::Mounted;
use super::phases::BootError;
use super::{random, seed};
use crate::console::Console;
use crate::fail::chain;
use crate::tpm::{self, PCR, Tpm, TpmError};
use image::verity::hex;
use model::paths::RECOVERY;
use model::recovery::{ENTROPY, Escrow, RecoveryKey};
use model::seed::{Encryption, Seed};
use node_init::files;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use token::Token;

/// Bytes of the key that the TPM seals.
const KEY: usize = 32;

/// Why an encrypted STATE does not open.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The TPM does not give the key.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The machine was not booted as it was.
    #[error(
        "PCR {PCR} of the TPM (Secure Boot's state and keys) is {now}, and was {then} when the key was sealed: Secure Boot \
         was switched, its keys or its list of revoked images changed, or something else was started"
    )]
    Changed {
        /// Its value.
        now: String,
        /// Its value at the sealing.
        then: String,
    },
    /// Nothing is sealed.
    #[error("Its header holds no key that a TPM has sealed")]
    NoToken,
    /// The seed's recovery key is another volume's.
    #[error("The seed's recovery key does not open it either")]
    WrongKey(#[source] sys::Error),
    /// cryptsetup failed.
    #[error(transparent)]
    Luks(#[from] sys::Error),
}

/// Proof that STATE can be made encrypted: there is a TPM that can seal.
#[derive(Debug)]
pub struct Maker(Tpm<File>);

/// How STATE is to be made, by the seed. Nothing was changed on the disk when this fails.
pub fn wished(mounted: &Mounted) -> Result<Option<Maker>, BootError> {
    match seed::read(mounted)?.as_ref().map_or(Encryption::None, Seed::encryption) {
        Encryption::None => Ok(None),
        Encryption::Tpm => {
            // Tried, not asked: an owner's password, or a key that it does not know, shows only then.
            let able = tpm::find().and_then(|mut tpm| tpm.seal(&[0; KEY]).map(|_| Maker(tpm)));
            able.map(Some).map_err(BootError::NoTpm)
        }
    }
}

/// A new encrypted volume.
#[derive(Debug)]
pub struct Made {
    /// The opened device.
    pub device: PathBuf,
    /// Its recovery key, to be kept on it, from where the store gets it.
    escrow: Escrow,
}

impl Maker {
    /// Encrypts a partition that this boot, or one that was cut short, has made: what was on it is lost.
    pub fn make(mut self, partition: &Path) -> Result<Made, BootError> {
        let uuid = uuid::Builder::from_random_bytes(random()?).into_uuid().to_string();
        let key = RecoveryKey::draw(&random::<ENTROPY>()?).ok_or_else(|| sys::Error::Malformed {
            object: "/dev/urandom".to_owned(),
            found: "bytes that are not random".to_owned(),
            expected: "random ones",
        })?;
        // What lay there in clear: an earlier STATE that was given up. As good as the disk can.
        let cleared = File::options().write(true).open(partition).map_err(sys::Error::of("open", partition.display()));
        if let Err(e) = cleared.and_then(|device| sys::block::discard(&device, partition)) {
            tracing::warn!(error = %chain(&e), "What was on the partition before is not cleared");
        }
        luks::format(partition, &uuid, key.text().as_bytes())?;
        let locked = |source| BootError::Locked { device: partition.display().to_string(), source };
        seal(&mut self.0, partition, &key).map_err(locked)?;
        luks::open(partition, key.text().as_bytes())?;
        tracing::info!(volume = uuid, "Encrypted STATE; its key is sealed by the TPM");
        Ok(Made { device: luks::OPENED.into(), escrow: Escrow { volume: uuid, key } })
    }
}

impl Made {
    /// Keeps the recovery key on STATE itself, which is mounted. On disk when this returns: a volume whose recovery key
    /// nobody has must not come into use.
    pub fn keep_recovery_key(&self) -> Result<(), sys::Error> {
        let text = serde_json::to_vec(&self.escrow).map_err(io::Error::other);
        let written = text.and_then(|text| files::replace(Path::new(RECOVERY), &text, 0o600));
        written.map_err(sys::Error::of("write", RECOVERY))
    }
}

/// Clears what an attempt at an encrypted STATE has left on a partition that is to hold a plain one.
pub fn forget(partition: &Path) -> Result<(), sys::Error> {
    if luks::is_luks(partition) { luks::wipe(partition) } else { Ok(()) }
}

/// What STATE's file system lies on.
#[derive(Debug)]
pub struct Opened {
    /// Its device.
    pub device: PathBuf,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

/// Opens the partition if it is encrypted; else it is itself the device.
pub fn open(partition: PathBuf, mounted: &Mounted) -> Result<Opened, BootError> {
    if !luks::is_luks(&partition) {
        return Ok(Opened { device: partition, encrypted: false });
    }
    let opened = Opened { device: luks::OPENED.into(), encrypted: true };
    let why = match by_tpm(&partition) {
        Ok(()) => return Ok(opened),
        Err(why) => why,
    };
    tracing::warn!(error = %chain(&why), "STATE is not opened by the TPM");
    let locked = |source| BootError::Locked { device: partition.display().to_string(), source };
    let seed = seed::read(mounted)?;
    let Some(key) = seed.as_ref().and_then(Seed::recovery_key) else { return Err(locked(why)) };
    luks::open(&partition, key.text().as_bytes()).map_err(|e| locked(VaultError::WrongKey(e)))?;
    Console::open().line(&format!("STATE was opened by its recovery key, since: {}", chain(&why)));
    match tpm::find().map_err(VaultError::from).and_then(|mut tpm| reseal(&mut tpm, &partition, key)) {
        Ok(()) => Console::open().line("A new key was sealed: take the recovery key out of the seed."),
        Err(e) => Console::open().line(&format!("No new key was sealed, the next boot needs it again: {}", chain(&e))),
    }
    Ok(opened)
}

fn by_tpm(partition: &Path) -> Result<(), VaultError> {
    let mut tpm = tpm::find()?;
    let mut why = VaultError::NoToken;
    // There are two when a boot was cut short while it sealed anew.
    for (_, token) in luks::header(partition)?.tokens() {
        match tpm.unseal(&token.sealed()) {
            Ok(key) => match luks::open(partition, &key) {
                Ok(()) => return Ok(()),
                Err(e) => why = e.into(),
            },
            Err(TpmError::Changed) => why = VaultError::Changed { now: hex(&tpm.pcr()?), then: token.pcr().to_owned() },
            Err(e) => why = e.into(),
        }
    }
    Err(why)
}

/// Adds a new random key, and the token that holds it sealed: in this order, so that a cut between them leaves a slot
/// that nobody can open, and nothing else. Says which slot.
fn seal(tpm: &mut Tpm<File>, partition: &Path, recovery: &RecoveryKey) -> Result<String, VaultError> {
    let key: [u8; KEY] = random()?;
    let (pcr, sealed) = (tpm.pcr()?, tpm.seal(&key)?);
    if pcr == [0; tpm::DIGEST] {
        tracing::warn!("The firmware measures nothing: STATE's key is bound to the TPM alone, not to Secure Boot");
    }
    let slot = luks::add_key(partition, recovery.text().as_bytes(), &key)?;
    luks::add_token(partition, &Token::new(&slot, pcr, &sealed))?;
    Ok(slot)
}

/// Seals a new key, and removes all others but the recovery key.
fn reseal(tpm: &mut Tpm<File>, partition: &Path, recovery: &RecoveryKey) -> Result<(), VaultError> {
    let old = luks::header(partition)?;
    let slot = seal(tpm, partition, recovery)?;
    for (id, _) in old.tokens() {
        luks::remove_token(partition, id)?;
    }
    for other in old.slots().iter().filter(|other| **other != slot && *other != luks::RECOVERY_SLOT) {
        luks::kill_slot(partition, other)?;
    }
    Ok(())
}

/// Tells an operator what the seed says of STATE in vain.
pub fn tell_mismatch(encrypted: bool, seed: &Seed) {
    let told = match (encrypted, seed.encryption(), seed.recovery_key()) {
        (false, Encryption::Tpm, _) => {
            "The seed asks for an encrypted STATE, and this node's was made without: it stays so. To make it anew, \
             without its data, delete the partition 'roost-state'."
        }
        (true, _, Some(_)) => "The seed still holds STATE's recovery key: take it out.",
        _ => return,
    };
    tracing::warn!("{told}");
    Console::open().line(told);
}
