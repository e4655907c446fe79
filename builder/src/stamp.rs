//! Whether an output folder already holds the result of these inputs.
//!
//! `.NAME.built` in the output folder has the digest of everything that decides the result and, for each file
//! written, its size and time. When all of it still fits, a build has nothing to do.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use model::Digest;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::cache::write_whole;
use crate::error::{Result, at};
use crate::lock::Lock;
use crate::programs::Built;
use crate::recipe::Located;

/// What was built from what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Digest of the inputs.
    pub inputs: Digest,
    /// Files written, by name: size, and time in nanoseconds.
    pub outputs: BTreeMap<String, (u64, i128)>,
}

impl Stamp {
    /// Whether the folder has the result of these inputs, untouched.
    pub fn holds(out: &Path, name: &str, inputs: Digest) -> bool {
        let stored = std::fs::read(stamp_file(out, name)).ok();
        let stamp: Option<Self> = stored.and_then(|b| serde_json::from_slice(&b).ok());
        stamp.is_some_and(|s| {
            s.inputs == inputs
                && !s.outputs.is_empty()
                && s.outputs.iter().all(|(f, v)| identity(&out.join(f)).ok() == Some(*v))
        })
    }

    /// Takes the stamp away before the first output changes, so that a build cut off is not mistaken for a whole one.
    pub fn remove(out: &Path, name: &str) -> Result<()> {
        let file = stamp_file(out, name);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(at("remove", &file)(e)),
            _ => Ok(()),
        }
    }

    /// Records these files of the folder as the result of the inputs.
    pub fn write(out: &Path, name: &str, inputs: Digest, files: &[String]) -> Result<()> {
        let mut outputs = BTreeMap::new();
        for file in files {
            let path = out.join(file);
            outputs.insert(file.clone(), identity(&path).map_err(at("read", &path))?);
        }
        let target = stamp_file(out, name);
        let text = serde_json::to_vec_pretty(&Self { inputs, outputs }).map_err(|e| at("write", &target)(e.into()))?;
        write_whole(&target, &text)
    }
}

fn stamp_file(out: &Path, name: &str) -> PathBuf {
    out.join(format!(".{name}.built"))
}

fn identity(path: &Path) -> std::io::Result<(u64, i128)> {
    let meta = std::fs::metadata(path)?;
    Ok((meta.len(), i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())))
}

/// Names everything that decides an image's bytes; `flags` is what the command line said of them.
pub fn inputs(located: &Located, lock: &Lock, programs: &Built, flags: &[String]) -> Result<Digest> {
    let mut hash = sha2::Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(env!("ROOST_BUILDER_DIGEST").as_bytes());
    flags.iter().for_each(|flag| part(flag.as_bytes()));
    part(located.text.as_bytes());
    part(lock.to_text().as_bytes());
    part(&programs.digest().0);
    for rootfs in located.rootfs().into_iter().filter(|folder| folder.is_dir()) {
        for item in walkdir::WalkDir::new(&rootfs).sort_by_file_name() {
            let item = item.map_err(|e| at("read", &rootfs)(e.into()))?;
            let path = item.path();
            let meta = item.metadata().map_err(|e| at("read", path)(e.into()))?;
            part(path.strip_prefix(&rootfs).unwrap_or(path).as_os_str().as_encoded_bytes());
            part(&[u8::from(meta.mode() & 0o100 != 0)]);
            if meta.is_file() {
                part(&std::fs::read(path).map_err(at("read", path))?);
            } else if meta.is_symlink() {
                part(std::fs::read_link(path).map_err(at("read", path))?.as_os_str().as_encoded_bytes());
            }
        }
    }
    Ok(Digest(hash.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_up_to_date_until_inputs_or_outputs_change() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("x.raw");
        std::fs::write(&file, "one").expect("written");
        let (these, others) = (Digest([1; 32]), Digest([2; 32]));
        assert!(!Stamp::holds(dir.path(), "x", these));
        Stamp::write(dir.path(), "x", these, &["x.raw".to_owned()]).expect("stamped");
        assert!(Stamp::holds(dir.path(), "x", these));
        assert!(!Stamp::holds(dir.path(), "x", others));
        std::fs::write(&file, "other").expect("written");
        assert!(!Stamp::holds(dir.path(), "x", these));
        Stamp::remove(dir.path(), "x").expect("removed");
        Stamp::remove(dir.path(), "x").expect("nothing to remove");
    }
}
