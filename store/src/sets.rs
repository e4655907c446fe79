//! Update sets on their way into the repository: looked at whole before anything believes in them.
//!
//! The store checks that a set is one and that its bytes are those that its manifest speaks of. Whether to trust it is
//! each node's own decision, by the keys in the image that it runs: a store that was broken into cannot update a node.

use crate::{
    db::NewSet,
    error::{Error, Result},
};
use image::set::{self, Section, SetError};
use model::Digest;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

/// Reads a set to its end. `name` is for the error.
///
/// # Errors
/// When it is no set, or its bytes are not what its manifest says.
pub fn inspect(path: &Path, name: &str) -> Result<NewSet> {
    let refused = |source: SetError| Error::Set { name: name.to_owned(), source };
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let bytes = file.metadata().map_err(Error::io("look at", path))?.len();
    let set = set::Set::open(BufReader::new(&file)).map_err(refused)?;
    let end = set.header.file_len();
    if end != bytes {
        let (found, expected) = (format!("its end at {end}"), format!("that of the file, {bytes}"));
        return Err(refused(SetError::Section { section: Section::Root.name(), found, expected }));
    }
    let section = |section| part(path, set.header.range(section));
    let contents = set::measure(section(Section::Uki)?, section(Section::Root)?).map_err(refused)?;
    contents.check(&set.manifest).map_err(refused)?;
    for (patch, range) in set.patches() {
        patch.check(part(path, range)?).map_err(refused)?;
    }
    file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
    let digest = digest(&mut file).map_err(Error::io("read", path))?;
    Ok(NewSet { digest, bytes, manifest: set.manifest, signatures: set.signatures.len() })
}

fn part(path: &Path, range: std::ops::Range<u64>) -> Result<impl Read> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    file.seek(SeekFrom::Start(range.start)).map_err(Error::io("read", path))?;
    Ok(BufReader::with_capacity(1 << 18, file.take(range.end - range.start)))
}

fn digest(file: &mut File) -> io::Result<Digest> {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(Digest(hash.finalize().into())),
            n => hash.update(&buffer[..n]),
        }
    }
}
