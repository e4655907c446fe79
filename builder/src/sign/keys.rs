//! `roost keys`: a folder with an update key, and the keys of Secure Boot.
//!
//! | file | what |
//! |---|---|
//! | `update.key`, `update.pub` | signs update sets; what nodes trust |
//! | `PK.key`, `KEK.key`, `db.key` | RSA-2048, PKCS#8; `db` signs what is booted |
//! | `*.pem`, `*.der` | their certificates |
//! | `*.esl`, `*.auth` | what firmware stores, and what it takes while in setup mode |

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey as _, LineEnding};
use rsa::rand_core::OsRng;

use super::efi::{self, VARIABLES, Variable};
use super::keyring::RsaKey;
use super::minisign::Secret;
use super::{SignError, at};

/// What firmware everywhere takes.
const BITS: usize = 2048;
/// File names of the update key.
pub const UPDATE: [&str; 2] = ["update.key", "update.pub"];
/// Firmware looks at no dates; these say only that the certificate is not meant to end.
const VALID: [i32; 2] = [2020, 2100];

/// Makes all keys in a folder, which is made when missing. `time` is now: year, month, day, hour, minute, second.
/// Returns the files.
pub fn make(folder: &Path, time: [u16; 6]) -> Result<Vec<PathBuf>, SignError> {
    for name in names() {
        let path = folder.join(name);
        if path.exists() {
            return Err(SignError::Exists { path });
        }
    }
    let files = contents(time)?;
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at("create", folder))?;
    files.iter().map(|(name, bytes)| write(&folder.join(name), bytes)).collect()
}

fn names() -> impl Iterator<Item = String> {
    let secure_boot = VARIABLES.iter().flat_map(|v| ["key", "pem", "der", "esl", "auth"].map(|s| file(*v, s)));
    UPDATE.map(str::to_owned).into_iter().chain(secure_boot)
}

/// Name of a variable's file.
pub fn file(variable: Variable, suffix: &str) -> String {
    format!("{}.{suffix}", variable.name())
}

/// All files; nothing is written before all could be made.
fn contents(time: [u16; 6]) -> Result<Vec<(String, Vec<u8>)>, SignError> {
    let update = Secret::generate()?;
    let [secret, public] = UPDATE.map(str::to_owned);
    let mut files = vec![(secret, update.text().into_bytes()), (public, update.public.text().into_bytes())];
    let made = VARIABLES.iter().map(|variable| Owner::new(*variable)).collect::<Result<Vec<_>, _>>()?;
    for owner in &made {
        let signer = made.iter().find(|one| one.variable == owner.variable.signer()).unwrap_or(owner);
        let list = efi::list(&owner.der);
        let auth = efi::signed(owner.variable, &list, time, &signer.der, &|bytes| signer.key.sign(bytes))?;
        let name = |suffix| file(owner.variable, suffix);
        files.extend([
            (name("key"), owner.secret.clone().into_bytes()),
            (name("pem"), owner.pem.clone().into_bytes()),
            (name("der"), owner.der.clone()),
            (name("esl"), list),
            (name("auth"), auth),
        ]);
    }
    Ok(files)
}

struct Owner {
    variable: Variable,
    key: RsaKey,
    secret: String,
    pem: String,
    der: Vec<u8>,
}

impl Owner {
    fn new(variable: Variable) -> Result<Self, SignError> {
        let bad = |problem: String| SignError::Rsa { problem };
        let made = RsaPrivateKey::new(&mut OsRng, BITS).map_err(|error| bad(error.to_string()))?;
        let secret = made.to_pkcs8_pem(LineEnding::LF).map_err(|error| bad(error.to_string()))?.to_string();
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(&secret, &PKCS_RSA_SHA256);
        let pair = pair.map_err(|error| bad(error.to_string()))?;
        let certificate = params(variable).self_signed(&pair).map_err(|error| bad(error.to_string()))?;
        let key = RsaKey::parse(&secret)?;
        Ok(Self { variable, key, secret, pem: certificate.pem(), der: certificate.der().to_vec() })
    }
}

fn params(variable: Variable) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, variable.common_name());
    params.not_before = rcgen::date_time_ymd(VALID[0], 1, 1);
    params.not_after = rcgen::date_time_ymd(VALID[1], 1, 1);
    params.is_ca = if variable == Variable::Db { IsCa::ExplicitNoCa } else { IsCa::NoCa };
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params
}

/// Whatever the umask: a secret key is for its owner alone.
fn write(path: &Path, bytes: &[u8]) -> Result<PathBuf, SignError> {
    let mode = if path.extension().is_some_and(|e| e == "key") { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(at("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at("write", path))?;
    Ok(path.to_owned())
}
