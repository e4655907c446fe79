//! The files of a build: written beside their final names, and put there together at the end.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use image::disk::Disk;
use image::manifest::Artifact;
use image::set::{self, About};
use tempfile::NamedTempFile;

use super::error::at;
use super::{Result, open};
use crate::sign::Keyring;
use crate::sparse::Sparse;

/// Artifacts under way. Several may be written at a time.
pub struct Artifacts {
    folder: PathBuf,
    name: String,
    done: Mutex<Vec<Done>>,
}

type Done = (PathBuf, NamedTempFile, Artifact);

impl Artifacts {
    /// Artifacts `NAME.*` of a folder, which is made when missing.
    pub fn new(folder: &Path, name: &str) -> Result<Self> {
        fs::create_dir_all(folder).map_err(at("create", folder))?;
        Ok(Self { folder: folder.to_owned(), name: name.to_owned(), done: Mutex::default() })
    }

    /// Writes one from memory.
    pub fn bytes(&self, suffix: &str, bytes: &[u8]) -> Result<()> {
        let (path, mut file) = self.begin(suffix)?;
        file.write_all(bytes).map_err(at("write", &path))?;
        self.end(path, file)
    }

    /// Writes one from a file.
    pub fn copy(&self, suffix: &str, from: &Path) -> Result<()> {
        let (path, mut file) = self.begin(suffix)?;
        io::copy(&mut open(from)?, file.as_file_mut()).map_err(at("write", &path))?;
        self.end(path, file)
    }

    /// Writes the disk image, as a sparse file.
    pub fn disk(&self, suffix: &str, disk: &Disk, root: &Path) -> Result<()> {
        let (path, mut file) = self.begin(suffix)?;
        file.as_file().set_len(disk.bytes()).map_err(at("write", &path))?;
        disk.write(file.as_file_mut(), &mut open(root)?)?;
        self.end(path, file)
    }

    /// Writes the update set of UKI and root, with patches by the hashes of the roots that they are made against; signed
    /// when there are keys.
    pub fn set(
        &self,
        about: &About,
        (uki, root): (&[u8], &Path),
        patches: Vec<([u8; 32], Vec<u8>)>,
        keys: Option<&Keyring>,
    ) -> Result<()> {
        let (path, mut file) = self.begin(set::SUFFIX)?;
        let mut contents = set::measure(uki, open(root)?)?;
        patches.into_iter().for_each(|(from, patch)| contents.patch(&from, patch));
        let manifest = about.manifest(&contents);
        let signed = manifest.to_json()?;
        let sign = |keys: &Keyring| keys.sign_set(&signed, &format!("{}.{}", self.name, set::SUFFIX), about.epoch);
        let signatures: Vec<String> = keys.map(sign).transpose()?.flatten().into_iter().collect();
        set::write(file.as_file_mut(), &manifest, &signatures, &contents, uki, open(root)?)?;
        self.end(path, file)
    }

    /// File names with digests and lengths, so far.
    pub fn listed(&self) -> BTreeMap<String, Artifact> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.iter().map(|(path, _, artifact)| (name(path), artifact.clone())).collect()
    }

    /// Gives all their final names.
    pub fn publish(self) -> Result<()> {
        for (path, file, _) in self.done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            file.persist(&path).map_err(|error| at("write", &path)(error.error))?;
        }
        Ok(())
    }

    fn begin(&self, suffix: &str) -> Result<(PathBuf, NamedTempFile)> {
        let path = self.folder.join(format!("{}.{suffix}", self.name));
        let file = tempfile::Builder::new()
            .prefix(".roost-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(&self.folder)
            .map_err(at("create a file in", &self.folder))?;
        Ok((path, file))
    }

    fn end(&self, path: PathBuf, file: NamedTempFile) -> Result<()> {
        let artifact = whole(file.as_file()).map_err(at("read", &path))?;
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push((path, file, artifact));
        Ok(())
    }
}

/// Digest and length of a whole file.
pub fn whole(file: &File) -> io::Result<Artifact> {
    Artifact::of(Sparse::new(file)?)
}
