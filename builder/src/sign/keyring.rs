//! A folder of keys as a build uses it: what others know of them, and something that signs.
//!
//! With `--signer CMD` no secret key is read. The command is run as `CMD update` or `CMD db`, gets the bytes to be
//! signed on standard input, and writes the bare signature to standard output: Ed25519 for `update` (64 bytes), RSA
//! PKCS#1 v1.5 with SHA-256 for `db` (256 bytes with RSA-2048). It is asked twice for an update set. What it answers
//! is held against the public key in the folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use image::{authenticode, set};
use ring::rand::SystemRandom;
use ring::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::efi::{VARIABLES, Variable};
use super::keys::{UPDATE, file};
use super::minisign::{self, Public, Secret};
use super::{SignError, at, pkcs7};

/// How a build signs: `--keys`, `--signer`, `--threshold`.
#[derive(Clone, Debug)]
pub struct SignWith {
    /// Folder of the keys.
    pub keys: PathBuf,
    /// Command that signs instead of the secret keys in it.
    pub signer: Option<String>,
    /// How many of the update keys in it must sign a set before a node takes it.
    pub threshold: usize,
    /// Sign nothing: only put in what others know of the keys.
    pub public: bool,
}

/// An RSA key that signs.
#[derive(Debug)]
pub struct RsaKey(RsaKeyPair);

impl RsaKey {
    /// Reads PKCS#8 in PEM.
    pub fn parse(pem: &str) -> Result<Self, SignError> {
        let bad = |problem: String| SignError::Key { problem };
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(body).map_err(|error| bad(error.to_string()))?;
        RsaKeyPair::from_pkcs8(&der).map(Self).map_err(|error| bad(error.to_string()))
    }

    /// PKCS#1 v1.5 with SHA-256.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; self.0.public().modulus_len()];
        // The randomness only blinds the computation.
        let signed = self.0.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), bytes, &mut signature);
        signed.map(|()| signature).map_err(|_| SignError::Random)
    }
}

#[derive(Debug)]
enum Signer {
    Files {
        update: Secret,
        db: Box<RsaKey>,
    },
    Command(String),
    /// Others have signed: what is built has everything but their signatures.
    Nobody,
}

/// Keys, ready to sign.
#[derive(Debug)]
pub struct Keyring {
    folder: PathBuf,
    update: Public,
    trusted: set::Keys,
    certificate: Vec<u8>,
    enrolment: Vec<(String, Vec<u8>)>,
    signer: Signer,
}

impl Keyring {
    /// Reads a folder. Every `*.pub` in it is trusted by the image; `update.pub` is the one that signs.
    pub fn open(with: &SignWith) -> Result<Self, SignError> {
        let folder = with.keys.clone();
        let path = |name: &str| folder.join(name);
        let update = parsed(&path(UPDATE[1]), Public::parse)?;
        let trusted = trusted(&folder, with.threshold)?;
        let certificate = read(&path(&file(Variable::Db, "der")))?;
        let auth = |variable: &Variable| -> Result<_, SignError> {
            let name = file(*variable, "auth");
            Ok((name.clone(), read(&path(&name))?))
        };
        let enrolment = VARIABLES.iter().map(auth).collect::<Result<_, _>>()?;
        let signer = match &with.signer {
            _ if with.public => Signer::Nobody,
            Some(command) => Signer::Command(command.clone()),
            None => Signer::Files {
                update: parsed(&path(UPDATE[0]), Secret::parse)?,
                db: Box::new(parsed(&path(&file(Variable::Db, "key")), RsaKey::parse)?),
            },
        };
        Ok(Self { folder, update, trusted, certificate, enrolment, signer })
    }

    /// The update keys that an image of this folder trusts.
    pub fn trusted(&self) -> &set::Keys {
        &self.trusted
    }

    /// `PK.auth` and the others, for the ESP: a boot loader in setup mode can enrol them.
    pub fn enrolment(&self) -> &[(String, Vec<u8>)] {
        &self.enrolment
    }

    /// Digest of all that decides what a build with these keys comes to; no secret is in it.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.update.line());
        hash.update(format!("{:?}", self.trusted));
        hash.update(&self.certificate);
        self.enrolment.iter().for_each(|(_, auth)| hash.update(auth));
        hash.finalize().into()
    }

    /// Signs a set's manifest; `epoch` is the only time in the signature.
    pub fn sign_set(&self, manifest: &[u8], name: &str, epoch: u64) -> Result<Option<String>, SignError> {
        if matches!(self.signer, Signer::Nobody) {
            return Ok(None);
        }
        let comment = format!("timestamp:{epoch}\tfile:{name}\thashed");
        minisign::signature(&self.update, manifest, &comment, |bytes| self.sign_update(bytes)).map(Some)
    }

    /// Signs a program that firmware starts.
    pub fn sign_program(&self, what: &'static str, program: &[u8]) -> Result<Vec<u8>, SignError> {
        if matches!(self.signer, Signer::Nobody) {
            return Ok(program.to_vec());
        }
        let failed = |source| SignError::Program { what, source };
        let digest = authenticode::digest(program).map_err(failed)?;
        let pkcs7 = pkcs7::authenticode(&digest, &self.certificate, &|bytes| self.sign_db(bytes))?;
        authenticode::attach(program, &pkcs7).map_err(failed)
    }

    /// Signs a program anew that somebody else signed.
    pub fn sign_again(&self, what: &'static str, program: &[u8]) -> Result<Vec<u8>, SignError> {
        let plain = authenticode::strip(program).map_err(|source| SignError::Program { what, source })?;
        self.sign_program(what, &plain)
    }

    fn sign_update(&self, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = match &self.signer {
            Signer::Files { update, .. } => update.sign(bytes)?,
            Signer::Command(command) => ask(command, "update", bytes)?,
            Signer::Nobody => Vec::new(),
        };
        let fits = UnparsedPublicKey::new(&ED25519, self.update.key).verify(bytes, &signature);
        fits.map_err(|_| SignError::Misfit { key: "update", public: self.folder.join(UPDATE[1]) })?;
        Ok(signature)
    }

    fn sign_db(&self, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
        let signature = match &self.signer {
            Signer::Files { db, .. } => db.sign(bytes)?,
            Signer::Command(command) => ask(command, "db", bytes)?,
            Signer::Nobody => Vec::new(),
        };
        let public = self.folder.join(file(Variable::Db, "der"));
        let parsed = X509Certificate::from_der(&self.certificate);
        let (_, certificate) = parsed.map_err(|error| SignError::Certificate { problem: error.to_string() })?;
        let key = &certificate.tbs_certificate.subject_pki.subject_public_key.data;
        let fits = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(bytes, &signature);
        fits.map_err(|_| SignError::Misfit { key: "db", public })?;
        Ok(signature)
    }
}

fn trusted(folder: &Path, threshold: usize) -> Result<set::Keys, SignError> {
    let entries = std::fs::read_dir(folder).map_err(at("read", folder))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|suffix| suffix == "pub"));
    paths.sort();
    let keys = paths.iter().map(|path| Ok(parsed(path, Public::parse)?.line())).collect::<Result<_, SignError>>()?;
    let keys = set::Keys { threshold, keys };
    let failed = |source| SignError::Trust { folder: folder.to_owned(), source };
    keys.to_json().map_err(failed)?;
    Ok(keys)
}

fn read(path: &Path) -> Result<Vec<u8>, SignError> {
    std::fs::read(path).map_err(at("read", path))
}

fn parsed<T>(path: &Path, parse: impl Fn(&str) -> Result<T, SignError>) -> Result<T, SignError> {
    let text = std::fs::read_to_string(path).map_err(at("read", path))?;
    parse(&text).map_err(|source| SignError::In { path: path.to_owned(), source: Box::new(source) })
}

/// Runs the signer's command once.
fn ask(command: &str, key: &'static str, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
    let failed = |problem: String| SignError::Signer { command: command.to_owned(), key, problem };
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| failed("is no command".into()))?;
    let mut child = Command::new(program)
        .args(words)
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    // A few kilobytes at most: they fit the pipe, whether it reads them or not.
    let sent = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(bytes));
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("ended with {}", output.status)));
    }
    sent.map_err(|error| failed(format!("did not read what it should sign: {error}")))?;
    Ok(output.stdout)
}
