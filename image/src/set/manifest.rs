//! What is signed: all that decides whether a node takes a set, and what it must find in it.

use serde::{Deserialize, Serialize};

use super::{Contents, SetError};
use crate::slot::EntryName;
use crate::verity::Verity;

/// Version of the manifest's form.
pub const FORMAT: u32 = 1;
/// Architecture of all images built here.
pub const ARCH: &str = "x86_64";
/// STATE formats that this version's programs read; they write the newest.
pub const STATE_FORMATS: StateFormats = StateFormats { oldest: 1, newest: 1 };

/// The signed part of a set. Fields of later versions are passed over as long as `format` stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Name of the image's recipe: `node`.
    pub name: String,
    /// Version of the image; [`crate::slot::version::compare`] orders them.
    pub version: String,
    /// [`ARCH`].
    pub arch: String,
    /// `dev` or `release`.
    pub level: String,
    /// Build epoch, in seconds since 1970: what it is made of is not newer.
    pub epoch: u64,
    /// From when on it must not be installed any more, in seconds since 1970: a store that is stopped from
    /// learning of newer sets cannot offer this one for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// `ROOT:SALT:BLOCKS`, as on the UKI's command line.
    pub verity: String,
    /// Kernel release.
    pub kernel: String,
    /// The UKI.
    pub uki: Blob,
    /// Squashfs and verity tree.
    pub root: Blob,
    /// The chunk table.
    pub chunks: Chunks,
    /// What makes the root out of earlier ones, in the order in which they lie.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<Patch>,
    /// The update keys in this image, those that a node trusts once it runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Keys>,
    /// Fingerprint of the CA of the one cluster whose nodes it is for; absent where it is for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// What it can do with a node's STATE.
    pub state_format: StateFormats,
}

/// Bytes, by digest and length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// How many.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// The chunk table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunks {
    /// How long it is.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Number of chunks.
    pub count: u64,
}

/// A patch ([`crate::patch`]), and for whom it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patch {
    /// Root hash of the root that it is made against, in hexadecimal.
    pub from: String,
    /// How many bytes it has.
    pub bytes: u64,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
}

/// STATE formats, oldest and newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFormats {
    /// The oldest that it reads.
    pub oldest: u32,
    /// The newest that it reads, and the one that it writes.
    pub newest: u32,
}

/// Update keys, and how many of them must have signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// So many different ones of them.
    pub threshold: usize,
    /// Minisign public keys: the second line of each one's file.
    pub keys: Vec<String>,
}

/// What a builder says of a version; the rest is measured ([`super::measure`]) or the same for all.
#[derive(Clone, Debug)]
pub struct About {
    /// [`Manifest::name`].
    pub name: String,
    /// [`Manifest::version`].
    pub version: String,
    /// [`Manifest::level`].
    pub level: String,
    /// [`Manifest::epoch`].
    pub epoch: u64,
    /// [`Manifest::expires`].
    pub expires: Option<u64>,
    /// [`Manifest::verity`].
    pub verity: String,
    /// [`Manifest::kernel`].
    pub kernel: String,
    /// [`Manifest::keys`].
    pub keys: Option<Keys>,
    /// [`Manifest::cluster`].
    pub cluster: Option<String>,
}

impl About {
    /// The manifest of a set with these contents.
    #[must_use]
    pub fn manifest(&self, contents: &Contents) -> Manifest {
        Manifest {
            format: FORMAT,
            name: self.name.clone(),
            version: self.version.clone(),
            arch: ARCH.to_owned(),
            level: self.level.clone(),
            epoch: self.epoch,
            expires: self.expires,
            verity: self.verity.clone(),
            kernel: self.kernel.clone(),
            uki: contents.uki.clone(),
            root: contents.root.clone(),
            chunks: contents.chunks.clone(),
            patches: contents.patches().collect(),
            keys: self.keys.clone(),
            cluster: self.cluster.clone(),
            state_format: STATE_FORMATS,
        }
    }
}

impl Manifest {
    /// The bytes that are signed.
    ///
    /// # Errors
    /// Never in practice: there is nothing in it that JSON cannot say.
    pub fn to_json(&self) -> Result<Vec<u8>, SetError> {
        serde_json::to_vec(self).map_err(SetError::Manifest)
    }

    /// Reads a manifest, and holds every field against what it may be.
    ///
    /// # Errors
    /// Names what was found and what was expected.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SetError> {
        // The form first: in another one, other fields may be missing.
        let Form { format } = serde_json::from_slice(bytes).map_err(SetError::Manifest)?;
        if format != FORMAT {
            return Err(SetError::Format { what: "manifest format", found: format, known: FORMAT });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(SetError::Manifest)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The identity of its root.
    ///
    /// # Errors
    /// When the text is none.
    pub fn verity(&self) -> Result<Verity, SetError> {
        Ok(self.verity.parse()?)
    }

    fn check(&self) -> Result<(), SetError> {
        let verity = self.verity()?;
        let field = |field, found: &str, expected| Err(SetError::Field { field, found: found.to_owned(), expected });
        if EntryName::new(&self.name, &self.version).is_none() {
            let found = format!("{}_{}", self.name, self.version);
            return field("name and version", &found, "such as a boot entry's name has");
        }
        let digests = [&self.uki.sha256, &self.root.sha256, &self.chunks.sha256];
        for sha256 in digests.into_iter().chain(self.patches.iter().flat_map(|patch| [&patch.from, &patch.sha256])) {
            if !is_sha256(sha256) {
                return field("sha256", sha256, SHA256);
            }
        }
        if let Some(cluster) = self.cluster.as_ref().filter(|cluster| !is_sha256(cluster)) {
            return field("cluster", cluster, SHA256);
        }
        if self.root.bytes != verity.total_bytes() {
            return field("root.bytes", &self.root.bytes.to_string(), "as many as its verity parameters make");
        }
        Ok(())
    }
}

const SHA256: &str = "64 digits in lower-case hexadecimal";

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[derive(Deserialize)]
struct Form {
    format: u32,
}
