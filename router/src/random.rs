//! Random values that nobody can guess.

use crate::RouterError;
use ring::rand::{SecureRandom, SystemRandom};

const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Random bytes.
pub fn bytes<const N: usize>() -> Result<[u8; N], RouterError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| RouterError::Random)?;
    Ok(bytes)
}

/// Id of a new session.
pub fn session_id() -> Result<u64, RouterError> {
    bytes().map(u64::from_le_bytes)
}

/// A slave key: 64 letters and digits, all equally likely.
pub fn slave_key() -> Result<String, RouterError> {
    let mut key = String::with_capacity(64);
    while key.len() < 64 {
        // 248 is the last multiple of 62 in a byte; the rest would make some letters likelier.
        let fair = bytes::<64>()?.into_iter().filter(|b| *b < 248);
        key.extend(fair.map(|b| char::from(ALPHANUMERIC[usize::from(b % 62)])).take(64 - key.len()));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slave_key_is_64_letters_and_digits_and_never_the_same() {
        let key = slave_key().expect("random");
        assert_eq!(key.len(), 64);
        assert!(key.bytes().all(|b| b.is_ascii_alphanumeric()));
        assert_ne!(key, slave_key().expect("random"));
    }
}
