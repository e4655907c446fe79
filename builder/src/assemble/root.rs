//! The root: squashfs with its verity tree behind it, kept in the cache by the digest of its inputs.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image::manifest::Manifest;
use image::squashfs::{self, Kept, Options};
use image::verity::{self, Verity};
use sha2::{Digest, Sha256};

use super::error::at;
use super::{Parts, Result};
use crate::cache::Cache;
use crate::report::{Report, megabytes};

/// Part of every key: changes when the writer's bytes change.
const WRITER: &str = "squashfs 1";
/// Roots that stay in the cache.
const KEPT: usize = 6;

/// A made root.
pub struct Root {
    /// Squashfs and tree, in the cache.
    pub file: PathBuf,
    /// Its identity.
    pub verity: Verity,
}

impl Root {
    /// Takes the root from the cache, or makes it.
    pub fn make(parts: &Parts<'_>, manifest: &Manifest, cache: &Cache, report: &Report) -> Result<Self> {
        let step = report.step("root", Some(parts.node.root.content_bytes()));
        let options = options(parts);
        let roots = cache.root().join("steps/root");
        let folder = roots.join(key(parts, manifest, options));
        if let Some(root) = Self::cached(&folder) {
            step.end(&format!("{} (cached)", megabytes(root.verity.total_bytes())));
            return Ok(root);
        }
        fs::create_dir_all(&roots).map_err(at("create", &roots))?;
        let work =
            tempfile::Builder::new().prefix(".new-").tempdir_in(&roots).map_err(at("create a folder in", &roots))?;
        let verity = write(parts, options, &roots, work.path())?;
        let note = work.path().join("verity");
        fs::write(&note, verity.to_string()).map_err(at("write", &note))?;
        // Another build may have put the same root there meanwhile; then that one will do.
        if let Err(error) = fs::rename(work.path(), &folder) {
            return Self::cached(&folder).ok_or_else(|| at("write", &folder)(error));
        }
        prune(&roots);
        step.end(&megabytes(verity.total_bytes()));
        Ok(Self { file: folder.join("root"), verity })
    }

    fn cached(folder: &Path) -> Option<Self> {
        let verity: Verity = fs::read_to_string(folder.join("verity")).ok()?.parse().ok()?;
        let file = folder.join("root");
        let whole = fs::metadata(&file).ok()?.len() == verity.total_bytes();
        // Touched, so that pruning spares it.
        let _unused = File::open(folder).and_then(|folder| folder.set_modified(SystemTime::now()));
        whole.then_some(Self { file, verity })
    }
}

fn options(parts: &Parts<'_>) -> Options {
    Options {
        level: super::compression(parts.level),
        mtime: u32::try_from(parts.lock.epoch).unwrap_or(u32::MAX),
        ..Options::default()
    }
}

fn write(parts: &Parts<'_>, options: Options, roots: &Path, work: &Path) -> Result<Verity> {
    let path = &work.join("root");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let file = file.map_err(at("create", path))?;
    let blocks = blocks_name(options);
    let earlier = earlier(roots, &blocks).unwrap_or_default();
    let (mut file, summary) = squashfs::write_tree_after(file, &parts.node.root, options, Some(earlier))?;
    let index = work.join(&blocks);
    fs::write(&index, squashfs::index(&summary.blocks)).map_err(at("write", &index))?;
    let verity = verity::append(&mut file, summary.bytes, &salt(parts))?;
    file.seek(SeekFrom::Start(0)).map_err(at("read", path))?;
    Ok(verity)
}

/// File of the index of a root's blocks. Its name says how they were compressed.
fn blocks_name(options: Options) -> String {
    format!("blocks-{}-{}-{}", WRITER.replace(' ', "-"), options.level, options.block_size)
}

/// The root that was used last, of those whose blocks were compressed in this way.
fn earlier(roots: &Path, blocks: &str) -> Option<Kept> {
    let folder = by_use(roots).into_iter().find(|folder| folder.join(blocks).exists())?;
    Kept::open(&folder.join("root"), &folder.join(blocks)).ok()
}

/// Differs from image to image, and is the same for one image.
fn salt(parts: &Parts<'_>) -> [u8; 32] {
    Sha256::new()
        .chain_update("roost verity salt\0")
        .chain_update(parts.name)
        .chain_update([0])
        .chain_update(parts.version)
        .finalize()
        .into()
}

fn key(parts: &Parts<'_>, manifest: &Manifest, options: Options) -> String {
    let mut hash = Sha256::new();
    hash.update(format!(
        "{WRITER}\0{}\0{}\0{}\0{}\0",
        options.level, options.block_size, options.mtime, options.pack_tails
    ));
    hash.update(salt(parts));
    for (path, entry) in parts.node.root.walk() {
        let listed = manifest.files.get(path);
        let digest = listed.and_then(|file| file.sha256.as_deref()).unwrap_or_default();
        let kind = match &entry.kind {
            image::Kind::File(_) => "file".to_owned(),
            other => format!("{other:?}"),
        };
        let head = (entry.mode, entry.uid, entry.gid, entry.mtime);
        hash.update(format!("{path}\0{head:?}\0{:?}\0{kind}\0{digest}\0", entry.xattrs));
    }
    verity::hex(&hash.finalize())
}

/// Removes the roots that were not used for longest. What cannot be removed costs only space.
fn prune(roots: &Path) {
    for old in by_use(roots).iter().skip(KEPT) {
        let _left = fs::remove_dir_all(old);
    }
}

/// All roots in the cache, the one used last first.
fn by_use(roots: &Path) -> Vec<PathBuf> {
    let age =
        |entry: &fs::DirEntry| entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut found: Vec<_> = fs::read_dir(roots).into_iter().flatten().flatten().collect();
    found.retain(|entry| !entry.file_name().to_string_lossy().starts_with('.'));
    found.sort_by_key(|entry| std::cmp::Reverse(age(entry)));
    found.iter().map(fs::DirEntry::path).collect()
}
