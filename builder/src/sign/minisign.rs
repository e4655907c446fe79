//! Minisign keys and signatures, always the same for the same bytes: Ed25519 over BLAKE2b-512, and no clock.
//!
//! The files are minisign's own, so that its program reads them; a secret key has no password, as after
//! `minisign -G -W`: what keeps it is the folder, or the machine behind `--signer`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake2::digest::consts::U32;
use blake2::{Blake2b, Blake2b512, Digest as _};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::SignError;

/// Ed25519, as keys are marked.
const KEY: &[u8; 2] = b"Ed";
/// Ed25519 over a digest, as signatures are.
const PREHASHED: &[u8; 2] = b"ED";
/// No password, and a checksum by BLAKE2b.
const PLAIN: &[u8; 4] = b"\0\0B2";
/// Salt and cost of a password that is not there.
const NO_PASSWORD: [u8; 48] = [0; 48];

/// A key that others know: what a node trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Public {
    /// Number that signatures name it by.
    pub id: [u8; 8],
    /// The key.
    pub key: [u8; 32],
}

/// A key that signs.
#[derive(Debug)]
pub struct Secret {
    /// What belongs to it.
    pub public: Public,
    seed: [u8; 32],
}

impl Public {
    /// The line that matters in its file.
    pub fn line(&self) -> String {
        BASE64.encode([&KEY[..], &self.id, &self.key].concat())
    }

    /// Its file.
    pub fn text(&self) -> String {
        format!("untrusted comment: Roost update key {}\n{}\n", self.name(), self.line())
    }

    /// Its number, as minisign shows it.
    pub fn name(&self) -> String {
        self.id.iter().rev().map(|byte| format!("{byte:02X}")).collect()
    }

    /// Reads its file.
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let bytes = second_line(text)?;
        let bad = || SignError::Key { problem: format!("{} bytes, expected the 42 of a public key", bytes.len()) };
        let ([b'E', b'd' | b'D'], rest) = bytes.split_first_chunk().ok_or_else(bad)? else { return Err(bad()) };
        let (id, key) = rest.split_first_chunk().ok_or_else(bad)?;
        Ok(Self { id: *id, key: key.try_into().map_err(|_| bad())? })
    }
}

impl Secret {
    /// A new one.
    pub fn generate() -> Result<Self, SignError> {
        let mut random = [0; 40];
        SystemRandom::new().fill(&mut random).map_err(|_| SignError::Random)?;
        let (seed, id) = random.split_at(32);
        let (Ok(seed), Ok(id)) = (seed.try_into(), id.try_into()) else { return Err(SignError::Random) };
        Self::of(seed, id)
    }

    fn of(seed: [u8; 32], id: [u8; 8]) -> Result<Self, SignError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(rejected)?;
        let mut key = [0; 32];
        key.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { public: Public { id, key }, seed })
    }

    /// Its file.
    pub fn text(&self) -> String {
        let secret = [&self.seed[..], &self.public.key].concat();
        let bytes =
            [&KEY[..], PLAIN, &NO_PASSWORD, &self.public.id, &secret, &checksum(&self.public.id, &secret)].concat();
        format!("untrusted comment: Roost update key {}, secret\n{}\n", self.public.name(), BASE64.encode(bytes))
    }

    /// Reads its file.
    pub fn parse(text: &str) -> Result<Self, SignError> {
        let bytes = second_line(text)?;
        let bad = |problem: &str| SignError::Key { problem: problem.to_owned() };
        let (Some(head), Some(rest)) = (bytes.get(..6), bytes.get(54..158)) else {
            return Err(bad("it is too short for a secret key"));
        };
        if head != [&KEY[..], PLAIN].concat() {
            return Err(bad("it is no minisign key without a password"));
        }
        let (mut id, mut seed) = ([0; 8], [0; 32]);
        id.copy_from_slice(&rest[..8]);
        seed.copy_from_slice(&rest[8..40]);
        if rest[72..] != checksum(&id, &rest[8..72]) {
            return Err(bad("its checksum is wrong"));
        }
        let made = Self::of(seed, id)?;
        if made.public.key == rest[40..72] { Ok(made) } else { Err(bad("its two halves do not belong together")) }
    }

    /// The raw signature of these bytes.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, SignError> {
        let pair = Ed25519KeyPair::from_seed_and_public_key(&self.seed, &self.public.key).map_err(rejected)?;
        Ok(pair.sign(bytes).as_ref().to_vec())
    }
}

/// A signature's text. `raw` makes Ed25519 signatures with the key: it is asked twice.
pub fn signature(
    public: &Public,
    bytes: &[u8],
    trusted_comment: &str,
    raw: impl Fn(&[u8]) -> Result<Vec<u8>, SignError>,
) -> Result<String, SignError> {
    let first = raw(&Blake2b512::digest(bytes))?;
    let second = raw(&[&first, trusted_comment.as_bytes()].concat())?;
    let line = BASE64.encode([&PREHASHED[..], &public.id, &first].concat());
    let name = public.name();
    Ok(format!(
        "untrusted comment: signature by Roost update key {name}\n{line}\ntrusted comment: {trusted_comment}\n{}\n",
        BASE64.encode(second)
    ))
}

fn checksum(id: &[u8; 8], secret: &[u8]) -> [u8; 32] {
    Blake2b::<U32>::new().chain_update(KEY).chain_update(id).chain_update(secret).finalize().into()
}

fn second_line(text: &str) -> Result<Vec<u8>, SignError> {
    let bad = |problem: String| SignError::Key { problem };
    let line = text.lines().nth(1).ok_or_else(|| bad("it has no second line".into()))?;
    BASE64.decode(line.trim()).map_err(|error| bad(format!("its second line is no base64: {error}")))
}

fn rejected(error: ring::error::KeyRejected) -> SignError {
    SignError::Key { problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use minisign::{PublicKeyBox, SecretKeyBox, SignatureBox};

    use super::*;

    #[test]
    fn minisign_reads_our_files_and_takes_our_signatures() {
        let secret = Secret::generate().expect("a key");
        let bytes = b"a manifest";
        let text = signature(&secret.public, bytes, "timestamp:1790000000", |b| secret.sign(b)).expect("signed");
        assert_eq!(text, signature(&secret.public, bytes, "timestamp:1790000000", |b| secret.sign(b)).expect("signed"));
        let public =
            PublicKeyBox::from_string(&secret.public.text()).expect("a file").into_public_key().expect("a key");
        let theirs = SignatureBox::from_string(&text).expect("a signature");
        minisign::verify(&public, &theirs, Cursor::new(bytes), true, false, false).expect("right");
        minisign::verify(&public, &theirs, Cursor::new(b"another"), true, false, false).expect_err("wrong");
        let file = SecretKeyBox::from_string(&secret.text()).expect("a file");
        let key = file.into_unencrypted_secret_key().expect("a key");
        minisign::sign(Some(&public), &key, &bytes[..], None, None).expect("signed by minisign with our key");
    }

    #[test]
    fn keys_read_back_and_damaged_ones_are_refused() {
        let secret = Secret::generate().expect("a key");
        assert_eq!(Secret::parse(&secret.text()).expect("a key").public, secret.public);
        assert_eq!(Public::parse(&secret.public.text()).expect("a key"), secret.public);
        let mut other = secret.text().into_bytes();
        let at = other.len() - 60;
        other[at] = if other[at] == b'A' { b'B' } else { b'A' };
        let other = String::from_utf8(other).expect("text");
        for (text, expect) in [
            (other.as_str(), "checksum"),
            ("one line", "no second line"),
            ("x\nRWQ=\n", "too short"),
            ("x\n???\n", "no base64"),
        ] {
            let error = Secret::parse(text).expect_err("refused").to_string();
            assert!(error.contains(expect), "{error}");
        }
        assert!(Public::parse("x\nRWQ=\n").is_err());
    }
}
