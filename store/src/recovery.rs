//! Recovery keys of nodes' encrypted STATE, as they are kept: sealed, each for its node and volume alone.

use crate::{
    db::RecoveryRow,
    error::{Error, Result},
    pki::Pki,
    secret,
};
use model::{HostId, api::HostRecovery, recovery::RecoveryKey};

/// Letters of a UUID.
const UUID: usize = 36;

/// What a sealed key is, and whose.
fn context(host: HostId, volume: &str) -> String {
    format!("recovery key of volume {volume} of host {host}")
}

/// Whether it can be a volume's UUID. It comes from a node, and is shown to administrators.
pub fn is_volume(text: &str) -> bool {
    text.len() == UUID && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Seals a key for the database.
pub fn seal(pki: &Pki, host: HostId, volume: &str, key: &RecoveryKey) -> Result<String> {
    Ok(secret::text(&pki.seal(&context(host, volume), key.text().as_bytes())?))
}

/// Opens what [`seal`] made.
pub fn open(pki: &Pki, row: RecoveryRow) -> Result<HostRecovery> {
    let RecoveryRow { host, name, volume, sealed, at_ms } = row;
    let opened = pki.open(&context(host, &volume), &secret::bytes(&sealed).unwrap_or_default())?;
    let key = std::str::from_utf8(&opened).ok().and_then(|text| text.parse().ok());
    let key = key.ok_or_else(|| Error::none("recovery key of host", host))?;
    Ok(HostRecovery { id: host, name, volume, key, at: at_ms / 1000 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_uuid_names_a_volume() {
        assert!(is_volume("0f3ac09e-6f0b-4f4e-a9c5-0d1de2a4f9b1"));
        for none in ["", "0f3ac09e", "0f3ac09e-6f0b-4f4e-a9c5-0d1de2a4f9b\n", &"g".repeat(36)] {
            assert!(!is_volume(none), "{none}");
        }
    }
}
