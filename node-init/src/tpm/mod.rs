//! A TPM 2.0, spoken to directly: what it takes to seal a secret so that only this TPM opens it, and only while the
//! machine was booted the way it was.
//!
//! `wire.rs` and `command.rs` are bytes and nothing else, `find.rs` is where the device is, and here is the order of
//! commands. The kernel's resource manager (`/dev/tpmrm0`) keeps users of the TPM apart.

mod command;
mod find;
mod wire;

pub use command::{DIGEST, Sealed};
pub use find::find;

use command::Session;
use find::Absent;
use std::io::{Read, Write};

/// The PCR of the policy: Secure Boot's state, its keys, and the key by which each started image was found good. It
/// does not hold which version was started: an update that is signed by the same key keeps it.
pub const PCR: u8 = 7;

/// Numbers of refusals, without the parameter or session that they are about.
const POLICY_FAIL: u32 = 0x9d;
const INTEGRITY: u32 = 0x9f;
const PCR_CHANGED: u32 = 0x128;

/// Why the TPM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// There is none.
    #[error("This machine has no TPM 2.0: {0}")]
    Absent(#[from] Absent),
    /// The device could not be used.
    #[error("Cannot {action} the TPM")]
    Device {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It answered something that makes no sense.
    #[error("The TPM gave {0}")]
    Garbled(&'static str),
    /// It said no.
    #[error("The TPM refused with code {0:#x}")]
    Refused(u32),
    /// Its firmware keeps no PCRs of SHA-256.
    #[error("The TPM keeps no bank of SHA-256: enable it in the firmware's setup")]
    NoBank,
    /// The sealed secret is not this TPM's.
    #[error("The key was sealed by another TPM, or this one was cleared since")]
    Foreign,
    /// The PCR is not what it was.
    #[error("PCR {PCR} is not what it was when the key was sealed")]
    Changed,
}

impl TpmError {
    /// The refusal's number, without what it is about.
    fn refusal(&self) -> Option<u32> {
        match self {
            // Format one: bits 0 to 5 and 7; the others say which parameter, handle or session.
            Self::Refused(code) if code & 0x80 != 0 => Some(code & 0xbf),
            Self::Refused(code) => Some(*code),
            _ => None,
        }
    }
}

/// A TPM behind something that takes commands and gives answers.
#[derive(Debug)]
pub struct Tpm<D>(D);

impl<D: Read + Write> Tpm<D> {
    /// Speaks to the TPM behind this device.
    pub fn new(device: D) -> Self {
        Self(device)
    }

    /// Value of the policy's PCR.
    pub fn pcr(&mut self) -> Result<[u8; DIGEST], TpmError> {
        command::pcr_value(&self.call(&command::pcr_read(PCR))?, PCR)
    }

    /// Seals a secret to this TPM and to the present value of the policy's PCR.
    pub fn seal(&mut self, secret: &[u8]) -> Result<Sealed, TpmError> {
        // A PCR that is not kept would be no policy at all.
        self.pcr()?;
        let policy = self.within(&command::start_auth_session(Session::Trial), |tpm, session| {
            command::done(&tpm.call(&command::policy_pcr(session, PCR))?)?;
            command::buffer(&tpm.call(&command::policy_get_digest(session))?)
        })?;
        self.within(&command::create_primary(), |tpm, parent| {
            command::sealed(&tpm.call(&command::create(parent, &policy, secret))?)
        })
    }

    /// Opens what [`Self::seal`] made.
    pub fn unseal(&mut self, sealed: &Sealed) -> Result<Vec<u8>, TpmError> {
        self.pcr()?;
        self.within(&command::create_primary(), |tpm, parent| {
            tpm.within(&command::load(parent, sealed), |tpm, item| tpm.unseal_loaded(item)).map_err(|e| {
                match e.refusal() {
                    Some(INTEGRITY) => TpmError::Foreign,
                    Some(POLICY_FAIL | PCR_CHANGED) => TpmError::Changed,
                    _ => e,
                }
            })
        })
    }

    fn unseal_loaded(&mut self, item: u32) -> Result<Vec<u8>, TpmError> {
        let begin = command::start_auth_session(Session::Policy);
        let session = command::handle(&self.call(&begin)?)?;
        let opened = self
            .call(&command::policy_pcr(session, PCR))
            .and_then(|answer| command::done(&answer))
            .and_then(|()| self.call(&command::unseal(item, session)))
            .and_then(|answer| command::buffer(&answer));
        if opened.is_err() {
            // A session that was used ends with its use; one that was not stays.
            self.flush(session);
        }
        opened
    }

    /// Makes something in the TPM, works with it, and removes it.
    fn within<T>(
        &mut self,
        make: &[u8],
        work: impl FnOnce(&mut Self, u32) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        let handle = command::handle(&self.call(make)?)?;
        let result = work(self, handle);
        self.flush(handle);
        result
    }

    /// What is not removed goes when the device is closed.
    fn flush(&mut self, handle: u32) {
        if let Err(e) = self.call(&command::flush_context(handle)) {
            tracing::warn!(error = %crate::fail::chain(&e), "The TPM keeps something that is not needed");
        }
    }

    /// The kernel gives an answer whole, or not at all.
    fn call(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.0.write_all(command).map_err(|source| TpmError::Device { action: "give a command to", source })?;
        let mut answer = vec![0; wire::MAX];
        let read = self.0.read(&mut answer);
        let length = read.map_err(|source| TpmError::Device { action: "read the answer of", source })?;
        answer.truncate(length);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
