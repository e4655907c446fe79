//! Keys, and what is signed with them: update sets (minisign), and what firmware starts (Authenticode).
//!
//! Everything signed here is the same in two builds: Ed25519 and RSA PKCS#1 v1.5 have no randomness in them, and no
//! signature holds the time. The secret keys are files of a folder that `roost keys` makes ([`keys`]), or stay
//! elsewhere, behind a command ([`keyring`]).

mod der;
pub mod efi;
pub mod keyring;
pub mod keys;
pub mod minisign;
pub mod pkcs7;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

use image::authenticode::AuthenticodeError;
use image::set::SetError;

pub use keyring::{Keyring, SignWith};

/// Why something could not be signed, or keys not be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A file operation failed.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// Verb.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key that is there already is never written over.
    #[error("{} is there already: keys are not made anew over old ones, which machines may trust; name another folder", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// No random numbers.
    #[error("The kernel gives no random numbers")]
    Random,
    /// An RSA key could not be made.
    #[error("Cannot make an RSA key: {problem}")]
    Rsa {
        /// Why.
        problem: String,
    },
    /// A key file is something else.
    #[error("The key cannot be used: {problem}")]
    Key {
        /// What is wrong.
        problem: String,
    },
    /// Which file that was.
    #[error("Cannot use {}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<SignError>,
    },
    /// A certificate is something else.
    #[error("The certificate cannot be used: {problem}")]
    Certificate {
        /// What is wrong.
        problem: String,
    },
    /// The signer's command failed.
    #[error("The signer `{command} {key}` {problem}")]
    Signer {
        /// As it was given.
        command: String,
        /// `update` or `db`.
        key: &'static str,
        /// What happened.
        problem: String,
    },
    /// What was signed does not fit the key that others know.
    #[error("The signature of key '{key}' does not fit {}: the secret key is another one", public.display())]
    Misfit {
        /// `update` or `db`.
        key: &'static str,
        /// File of the public key.
        public: PathBuf,
    },
    /// The trusted keys make no sense together.
    #[error("The update keys in {} cannot be put into an image", folder.display())]
    Trust {
        /// Folder of the keys.
        folder: PathBuf,
        /// Why not.
        source: SetError,
    },
    /// A program cannot take a signature.
    #[error("Cannot sign {what}")]
    Program {
        /// Which.
        what: &'static str,
        /// Why not.
        source: AuthenticodeError,
    },
}

/// Names the verb and the file of a failed file operation.
fn at<'a>(action: &'static str, path: &'a std::path::Path) -> impl FnOnce(io::Error) -> SignError + 'a {
    move |source| SignError::File { action, path: path.to_owned(), source }
}
