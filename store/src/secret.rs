//! Tokens and passwords.

use crate::{
    error::{Error, Result},
    pki,
};
use argon2::{
    Argon2,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use model::sync::Secret;
use ring::rand::{SecureRandom, SystemRandom};
use std::sync::{Arc, LazyLock};
use tokio::sync::Semaphore;

/// Longest password that is looked at: hashing a megabyte for a stranger is too much.
const PASSWORD_MAX: usize = 1024;
/// Passwords hashed at the same time: each takes 19 MiB and a processor for a while.
const AT_ONCE: usize = 4;

static HASHING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(AT_ONCE)));
/// What an unknown user's password is compared with, so that it takes as long as a known one's.
static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| hash_now("nobody has this password").ok());

/// A new token: 32 random bytes.
pub fn new_token() -> Result<Secret> {
    random::<32>().map(|bytes| Secret(URL_SAFE_NO_PAD.encode(bytes)))
}

/// A new id that nobody guesses.
pub fn new_id() -> Result<String> {
    random::<12>().map(|bytes| bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// A number from 0 up to, not including, 1.
pub fn dice() -> f64 {
    // No random numbers means a machine that cannot do TLS either; even odds will do there.
    random::<4>().map_or(0.5, |bytes| f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0))
}

/// A new secret of one-time codes.
pub fn new_totp() -> Result<[u8; crate::totp::SECRET]> {
    random()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let fail = |_| Error::Pki { action: "get random numbers", source: "the system gives none".into() };
    SystemRandom::new().fill(&mut bytes).map_err(fail)?;
    Ok(bytes)
}

/// How a token is kept and looked up.
pub fn token_sha256(token: &str) -> String {
    pki::sha256(token.as_bytes()).to_string()
}

/// How a sealed secret is written into a column.
pub fn text(sealed: &[u8]) -> String {
    STANDARD.encode(sealed)
}

/// Reads it back.
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Checks a new password and makes the PHC string (argon2id) that is kept of it.
pub async fn hash(password: Secret) -> Result<String> {
    if password.0.is_empty() {
        return Err(Error::Invalid("The password is empty".to_owned()));
    }
    if password.0.len() > PASSWORD_MAX {
        return Err(Error::Invalid(format!("The password has more than {PASSWORD_MAX} bytes")));
    }
    in_turn(move || hash_now(&password.0)).await?
}

/// Whether the password is the one that `phc` was made of. For an unknown user (`None`) it takes as long
/// and says no. An empty password is never right.
pub async fn verify(password: Secret, phc: Option<String>) -> Result<bool> {
    if password.0.is_empty() || password.0.len() > PASSWORD_MAX {
        return Ok(false);
    }
    in_turn(move || {
        let known = phc.is_some();
        let Some(phc) = phc.or_else(|| NOBODY.clone()) else { return false };
        let Ok(parsed) = PasswordHash::new(&phc) else { return false };
        Argon2::default().verify_password(password.0.as_bytes(), &parsed).is_ok() && known
    })
    .await
}

async fn in_turn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let _turn = HASHING.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Closed)
}

fn hash_now(password: &str) -> Result<String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|e| Error::Password(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_kept_as_argon2id_and_only_it_verifies() {
        let phc = hash(secret("correct horse")).await.expect("hashes");
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        assert!(verify(secret("correct horse"), Some(phc.clone())).await.expect("checks"));
        assert!(!verify(secret("correct horsf"), Some(phc.clone())).await.expect("checks"));
        assert!(!verify(secret(""), Some(phc)).await.expect("checks"));
    }

    #[tokio::test]
    async fn nobody_has_no_password_and_no_hash_no_match() {
        assert!(!verify(secret("nobody has this password"), None).await.expect("checks"));
        assert!(!verify(secret("x"), Some("43 chars of another system".to_owned())).await.expect("checks"));
        assert!(hash(secret("")).await.is_err());
        assert!(hash(secret(&"x".repeat(PASSWORD_MAX + 1))).await.is_err());
    }

    #[test]
    fn tokens_differ_and_dice_stay_in_range() {
        assert_ne!(new_token().expect("one").0, new_token().expect("another").0);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&dice())));
    }
}
