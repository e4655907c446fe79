//! Whom a node believes: signatures held against keys, and a set against what the node expects. All of it is pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use jiff::Timestamp;
use minisign_verify::{PublicKey, Signature};

use super::manifest::{Keys, Manifest};
use super::{ARCH, SetError};
use crate::slot::version;

/// Where an image has the keys that it trusts: [`Keys`] as JSON. An image without the file takes no update.
pub const TRUST_PATH: &str = "/usr/lib/roost/trust/update.json";

/// What a node asks of a set besides signatures.
#[derive(Clone, Copy, Debug)]
pub struct Expect<'a> {
    /// Name of its image.
    pub name: &'a str,
    /// Its architecture.
    pub arch: &'a str,
    /// The oldest version that it still takes.
    pub floor: Option<&'a str>,
    /// Format of its STATE.
    pub state_format: u32,
    /// The cluster that the node is in, by its CA's fingerprint; none: it is in none.
    pub cluster: Option<&'a str>,
    /// The image that runs is for that cluster alone.
    pub pinned: bool,
    /// The clock, in seconds since 1970.
    pub now: u64,
}

impl Expect<'_> {
    /// Of this architecture and this version's STATE.
    #[must_use]
    pub fn new(name: &str, now: u64) -> Expect<'_> {
        let state_format = super::STATE_FORMATS.newest;
        Expect { name, arch: ARCH, floor: None, state_format, cluster: None, pinned: false, now }
    }

    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), SetError> {
        if manifest.name != self.name {
            return Err(SetError::Name { found: manifest.name.clone(), expected: self.name.to_owned() });
        }
        if manifest.arch != self.arch {
            return Err(SetError::Arch { found: manifest.arch.clone(), expected: self.arch.to_owned() });
        }
        if let Some(floor) = self.floor
            && version::compare(&manifest.version, floor).is_lt()
        {
            return Err(SetError::BelowFloor { found: manifest.version.clone(), floor: floor.to_owned() });
        }
        let reads = manifest.state_format;
        if !(reads.oldest..=reads.newest).contains(&self.state_format) {
            return Err(SetError::State { oldest: reads.oldest, newest: reads.newest, found: self.state_format });
        }
        self.cluster(manifest)?;
        self.clock(manifest)
    }

    /// A set for another cluster would leave the node without its own; one for any would take away, unasked, what
    /// keeps this node to one.
    fn cluster(&self, manifest: &Manifest) -> Result<(), SetError> {
        let own = self.cluster.unwrap_or("none");
        match manifest.cluster.as_deref() {
            Some(cluster) if cluster != own => {
                Err(SetError::Cluster { found: cluster.to_owned(), expected: own.to_owned() })
            }
            None if self.pinned => Err(SetError::Unpinned { expected: own.to_owned() }),
            _ => Ok(()),
        }
    }

    fn clock(&self, manifest: &Manifest) -> Result<(), SetError> {
        if self.now < manifest.epoch {
            return Err(SetError::ClockBehind { now: time(self.now), made: time(manifest.epoch) });
        }
        match manifest.expires {
            Some(expires) if self.now >= expires => {
                Err(SetError::Expired { expires: time(expires), now: time(self.now) })
            }
            _ => Ok(()),
        }
    }
}

fn time(seconds: u64) -> Timestamp {
    i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or(Timestamp::MAX)
}

impl Keys {
    /// Reads the file at [`TRUST_PATH`].
    ///
    /// # Errors
    /// When it is no list of keys, or one that nothing can satisfy.
    pub fn from_json(text: &[u8]) -> Result<Self, SetError> {
        let keys: Self = serde_json::from_slice(text).map_err(SetError::Trust)?;
        keys.open().map(|_| keys)
    }

    /// Text of that file.
    ///
    /// # Errors
    /// When [`Keys::from_json`] would refuse it.
    pub fn to_json(&self) -> Result<Vec<u8>, SetError> {
        self.open()?;
        let mut text = serde_json::to_vec_pretty(self).map_err(SetError::Trust)?;
        text.push(b'\n');
        Ok(text)
    }

    /// The keys by id.
    fn open(&self) -> Result<BTreeMap<String, PublicKey>, SetError> {
        let mut open = BTreeMap::new();
        for text in &self.keys {
            let bad = |problem: String| SetError::Key { key: text.clone(), problem };
            let key = PublicKey::from_base64(text).map_err(|error| bad(error.to_string()))?;
            open.insert(id(text).ok_or_else(|| bad("it is too short".into()))?, key);
        }
        if !(1..=open.len()).contains(&self.threshold) {
            return Err(SetError::Threshold { threshold: self.threshold, keys: open.len() });
        }
        Ok(open)
    }

    /// Checks that enough of the keys signed these bytes. Returns the ids of those that did.
    ///
    /// # Errors
    /// Says who signed and who should have.
    pub fn check(&self, bytes: &[u8], signatures: &[String]) -> Result<Vec<String>, SetError> {
        let keys = self.open()?;
        let (mut by, mut strangers) = (Vec::new(), Vec::new());
        for (index, text) in signatures.iter().enumerate() {
            let bad = |problem: String| SetError::Signature { index: index + 1, problem };
            let signature = Signature::decode(text).map_err(|error| bad(error.to_string()))?;
            let id = text.lines().nth(1).and_then(id).ok_or_else(|| bad("it names no key".into()))?;
            match keys.get(&id) {
                None => strangers.push(id),
                Some(key) if key.verify(bytes, &signature, false).is_err() => {
                    return Err(SetError::Altered { key: id });
                }
                Some(_) if by.contains(&id) => {}
                Some(_) => by.push(id),
            }
        }
        if by.len() >= self.threshold {
            return Ok(by);
        }
        let trusted = keys.into_keys().collect::<Vec<_>>().join(" ");
        let threshold = self.threshold;
        Err(match (by.is_empty(), strangers.is_empty()) {
            (true, true) => SetError::Unsigned { threshold, trusted },
            (true, false) => SetError::Stranger { found: strangers.join(" "), threshold, trusted },
            (false, _) => SetError::BelowThreshold { found: by.join(" "), threshold, trusted },
        })
    }
}

/// Id of the key in a base64 line, as minisign prints it: the algorithm's two bytes, then eight, the last first.
fn id(line: &str) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(line).ok()?;
    let id = bytes.get(2..10)?;
    Some(id.iter().rev().map(|byte| format!("{byte:02X}")).collect())
}
