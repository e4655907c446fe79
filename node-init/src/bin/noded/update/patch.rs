//! The patch in a set: what is new in its root, made out of the root that runs before the rest is fetched.
//!
//! Without it, or where it makes other bytes than it should, more is fetched; so nothing that is wrong with a patch ends
//! an update.

use super::{
    UpdateError,
    disk::Running,
    source::Source,
    stage::{Half, REQUEST, Staged, running_root},
    tally::Tally,
};
use crate::{files, report::chain};
use image::patch::{self, Applied, PatchError};
use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Holds the patch until it is used.
const PATCH: &str = "patch";
/// It was used: what the root has got since must not be made again.
const PATCHED: &str = "patched";

/// Fetches the patch for what runs, going on where a fetch was cut off: where it is. None when there is none, or it was
/// used. `tell` hears how far it is.
pub async fn fetch(
    staged: &Staged,
    running: &Running,
    source: &mut Source,
    tell: impl FnMut(String),
) -> Result<Option<PathBuf>, UpdateError> {
    let Some((about, range)) = staged.set.patch(&running.verity.root) else { return Ok(None) };
    if staged.file(PATCHED).exists() {
        return Ok(None);
    }
    let path = staged.file(PATCH);
    let failed = || UpdateError::disk(&path);
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed())?;
    let mut at = file.metadata().map_err(failed())?.len();
    let mut tally = Tally::new(about.bytes, tell);
    tally.add(at);
    while at < about.bytes {
        let end = about.bytes.min(at + REQUEST);
        let bytes = source.get(range.start + at..range.start + end).await?;
        file.write_all_at(&bytes, at).map_err(failed())?;
        tally.add(end - at);
        at = end;
    }
    match about.check(&file) {
        Ok(()) => Ok(Some(path)),
        Err(error) => {
            tracing::warn!(error = %chain(&error), "The patch in the update set is not what was signed");
            fs::remove_file(&path).map_err(failed())?;
            Ok(None)
        }
    }
}

/// Makes what is in a patch, into the new root: so many bytes. Takes a processor for seconds and reads the disk: call it
/// where it may block. An error is one of STATE.
pub fn apply(staged: &Staged, running: &Running, patch: &Path) -> Result<u64, UpdateError> {
    let root = staged.path(Half::Root);
    let mut old = running_root(running)?;
    let made = match make(patch, &mut old, &root, staged.set.manifest.root.bytes) {
        Ok(Applied { runs, others, bytes }) => {
            tracing::info!(runs, others, bytes, "A patch made what is new");
            bytes
        }
        Err(error) => {
            tracing::warn!(error = %chain(&error), "The patch cannot be used: more is fetched");
            0
        }
    };
    let marker = staged.file(PATCHED);
    files::replace(&marker, b"", 0o600).map_err(UpdateError::disk(&marker))?;
    fs::remove_file(patch).map_err(UpdateError::disk(patch))?;
    Ok(made)
}

/// What it made is on disk when this returns.
fn make(patch: &Path, old: &mut (impl Read + Seek), root: &Path, bytes: u64) -> Result<Applied, PatchError> {
    let mut patch = BufReader::new(File::open(patch).map_err(PatchError::Read)?);
    let file = File::options().write(true).create(true).truncate(false).open(root).map_err(PatchError::Write)?;
    let put = |at: u64, made: &[u8]| {
        if at.checked_add(made.len() as u64).is_none_or(|end| end > bytes) {
            return Err(io::Error::other("it lies behind the end of the root"));
        }
        file.write_all_at(made, at)
    };
    let applied = patch::apply(&mut patch, old, put)?;
    file.sync_all().map_err(PatchError::Write)?;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::patch::{Extent, Head, Run};
    use sha2::{Digest as _, Sha256};

    #[test]
    fn what_a_patch_makes_is_in_the_root_and_never_behind_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (patch, root) = (folder.path().join("patch"), folder.path().join("root"));
        // No compressor makes these shorter: they lie in a root as they are.
        let new: Vec<u8> = (0..6u8).flat_map(|n| Sha256::digest([n])).collect();
        let old = [&new[10..110], &[0; 10]].concat();
        let frame = patch::frame(&old, &new).expect("a frame");
        let run = |at| Run {
            at,
            bytes: new.len() as u32,
            frame: frame.len() as u32,
            check: patch::check(&new),
            from: vec![Extent { at: 0, len: 110, stored: true }],
        };
        let write = |at| {
            let head = Head { zstd: patch::library(), level: 3, block_size: 4096, runs: vec![run(at)] };
            fs::write(&patch, patch::to_bytes(&head, std::slice::from_ref(&frame)).expect("a patch")).expect("written");
        };
        write(50);
        let done = make(&patch, &mut io::Cursor::new(&old), &root, 1000).expect("made");
        assert_eq!((done.runs, done.bytes), (1, new.len() as u64));
        assert_eq!(fs::read(&root).expect("read")[50..], new);
        write(1000);
        let error = make(&patch, &mut io::Cursor::new(&old), &root, 1000).expect_err("refused");
        assert!(matches!(error, PatchError::Write(_)), "{error}");
    }
}
