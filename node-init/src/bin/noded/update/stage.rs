//! A set's UKI and root on STATE, put together from what the node has and what it must fetch.
//!
//! ```text
//! /state/update/<digest of the set>/uki, root    parts are where they belong as soon as they are there, so that a
//!                                                fetch that was cut off goes on: chunks that are right are not fetched
//!                                   patch        until it is used ([`super::patch`])
//!                                   patched      it was
//! ```

use super::{UpdateError, disk::Running, source::Source, tally::Tally};
use crate::files;
use image::{
    chunks::{self, Chunk, Piece},
    device::{Part, Stream},
    fat::Editor,
    gpt::{self, Table},
    set::{Expect, HEAD_MAX, Keys, Section, Set, Verified},
    slot::SlotError,
};
use model::{Digest, update::Update};
use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

/// One request carries about this much.
pub const REQUEST: u64 = 4 << 20;

/// The two files of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// The UKI.
    Uki,
    /// Squashfs and tree.
    Root,
}

/// What a half consists of, and which of it is not here.
#[derive(Clone, Debug)]
pub struct Missing {
    half: Half,
    chunks: Vec<Chunk>,
    pieces: Vec<Piece>,
}

impl Missing {
    /// Bytes to fetch.
    pub fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.bytes.end - piece.bytes.start).sum()
    }
}

/// A set on its way to STATE, or there.
#[derive(Clone, Debug)]
pub struct Staged {
    dir: PathBuf,
    /// What was signed.
    pub set: Verified,
}

/// Whom the node believes, and what it asks of a set.
pub struct Terms<'a> {
    /// Keys in the running image.
    pub keys: &'a Keys,
    /// What runs.
    pub running: &'a Running,
    /// The node's cluster, by its CA; none before it has joined.
    pub cluster: Option<Digest>,
    /// Format of the node's STATE.
    pub state_format: u32,
    /// Unix seconds.
    pub now: u64,
}

impl Staged {
    /// Fetches the set's head and judges it.
    pub async fn begin(
        root: &Path,
        update: &Update,
        terms: &Terms<'_>,
        source: &mut Source,
    ) -> Result<Self, UpdateError> {
        let head = source.get(0..HEAD_MAX.min(update.bytes)).await?;
        let set = Set::open(&head[..]).map_err(UpdateError::Set)?;
        if set.manifest.version != update.version {
            return Err(UpdateError::OtherVersion { found: set.manifest.version, expected: update.version.clone() });
        }
        let mut expect = Expect::new(&terms.running.name, terms.now);
        expect.floor = Some(&terms.running.version);
        expect.state_format = terms.state_format;
        let cluster = terms.cluster.map(|cluster| cluster.to_string());
        (expect.cluster, expect.pinned) = (cluster.as_deref(), terms.running.pinned);
        let set = set.verify(terms.keys, &expect).map_err(UpdateError::Set)?;
        Ok(Self { dir: root.join(update.digest.to_string()), set })
    }

    /// Makes its folder, where there is room for it, and fetches the table of its chunks.
    pub async fn table(&self, source: &mut Source) -> Result<Vec<u8>, UpdateError> {
        files::make_dir(&self.dir, 0o700).map_err(UpdateError::disk(&self.dir))?;
        self.has_room()?;
        source.get(self.set.header.range(Section::Chunks)).await
    }

    /// Whether STATE has room for what is not there yet: both halves are put together beside all else.
    fn has_room(&self) -> Result<(), UpdateError> {
        // Of a fetch that was cut off: by blocks, for the file has its whole length from the start.
        let here = |half| fs::metadata(self.path(half)).map_or(0, |m| m.blocks() * 512);
        let manifest = &self.set.manifest;
        let halves = [(Half::Uki, manifest.uki.bytes), (Half::Root, manifest.root.bytes)];
        let halves = halves.map(|(half, bytes)| bytes.saturating_sub(here(half)));
        let patch = manifest.patches.iter().map(|patch| patch.bytes).max().unwrap_or(0);
        room(&self.dir, halves[0] + halves[1] + patch)
    }

    /// Where something else of it lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Where a half lies.
    pub fn path(&self, half: Half) -> PathBuf {
        self.dir.join(match half {
            Half::Uki => "uki",
            Half::Root => "root",
        })
    }

    /// Fills both halves from what the node runs; what is still missing, by half. Reads as much as the node has on
    /// its disk: call it where it may block.
    pub fn fill(&self, running: &Running, table: &[u8]) -> Result<[Missing; 2], UpdateError> {
        let (uki, root) = self.set.chunks(table).map_err(UpdateError::Set)?;
        let mut here = Here::open(running)?;
        let mut fill = |half, chunks: Vec<Chunk>| {
            let pieces = here.fill(&self.path(half), &chunks)?;
            Ok::<_, UpdateError>(Missing { half, chunks, pieces })
        };
        Ok([fill(Half::Uki, uki)?, fill(Half::Root, root)?])
    }

    /// Fetches what is missing and puts it where it belongs.
    pub async fn fetch(
        &self,
        missing: &Missing,
        source: &mut Source,
        tally: &mut Tally<impl FnMut(String)>,
    ) -> Result<(), UpdateError> {
        let Missing { half, chunks, pieces } = missing;
        let path = self.path(*half);
        let file = File::options().write(true).open(&path).map_err(UpdateError::disk(&path))?;
        let section = match half {
            Half::Uki => Section::Uki,
            Half::Root => Section::Root,
        };
        let start = self.set.header.range(section).start;
        for (bytes, chunks) in pieces.iter().flat_map(|piece| requests(piece, chunks)) {
            let got = source.get(start + bytes.start..start + bytes.end).await?;
            check(&got, chunks)?;
            file.write_all_at(&got, bytes.start).map_err(UpdateError::disk(&path))?;
            tally.add(bytes.end - bytes.start);
        }
        file.sync_all().map_err(UpdateError::disk(&path))
    }

    /// Holds both halves against what was signed. Reads all of them: call it where it may block.
    pub fn check(&self) -> Result<(), UpdateError> {
        let open = |half| {
            let path = self.path(half);
            File::open(&path).map(|file| io::BufReader::with_capacity(1 << 18, file)).map_err(UpdateError::disk(&path))
        };
        self.set.check_uki(open(Half::Uki)?).map_err(UpdateError::Set)?;
        self.set.check_root(open(Half::Root)?).map_err(UpdateError::Set)
    }

    /// Removes what was put together, so that it is fetched anew.
    pub fn discard(&self) {
        // Not there is as good; anything else shows when it is made again.
        fs::remove_dir_all(&self.dir).ok();
    }
}

/// Whether so many bytes are free on STATE, where this folder lies.
pub fn room(folder: &Path, needed: u64) -> Result<(), UpdateError> {
    let free = files::free(folder).map_err(UpdateError::disk(folder))?;
    let (needed_mib, free_mib) = (needed.div_ceil(1 << 20), free >> 20);
    if needed <= free { Ok(()) } else { Err(UpdateError::NoRoom { needed_mib, free_mib }) }
}

/// Removes what was staged of other sets than this one.
pub fn tidy(root: &Path, keep: Option<&Digest>) {
    let keep = keep.map(Digest::to_string);
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let staged = name.parse::<Digest>().is_ok();
        if staged && Some(&name) != keep.as_ref() && fs::remove_dir_all(entry.path()).is_err() {
            tracing::warn!(path = %entry.path().display(), "Cannot remove what was staged");
        }
    }
}

/// A piece as requests of a bearable size, each of whole chunks.
fn requests<'a>(piece: &Piece, all: &'a [Chunk]) -> Vec<(std::ops::Range<u64>, &'a [Chunk])> {
    let mut requests = Vec::new();
    let (mut at, mut first) = (piece.bytes.start, piece.chunks.start);
    let mut end = at;
    for index in piece.chunks.clone() {
        end += u64::from(all[index].len);
        if end - at >= REQUEST || index + 1 == piece.chunks.end {
            requests.push((at..end, &all[first..=index]));
            (at, first) = (end, index + 1);
        }
    }
    requests
}

fn check(bytes: &[u8], chunks: &[Chunk]) -> Result<(), UpdateError> {
    let mut at = 0;
    for chunk in chunks {
        let end = at + chunk.len as usize;
        if bytes.get(at..end).is_none_or(|bytes| !chunk.is(bytes)) {
            return Err(UpdateError::Chunk);
        }
        at = end;
    }
    Ok(())
}

/// What the node has: the chunks of what it runs, and where they are.
struct Here {
    files: [Box<dyn ReadSeek>; 2],
    places: HashMap<Chunk, (usize, u64)>,
}

pub trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

impl Here {
    fn open(running: &Running) -> Result<Self, UpdateError> {
        let failed = |source| UpdateError::Disk { path: running.disk.clone(), source };
        let mut files = [running_uki(running)?, running_root(running)?];
        let mut places = HashMap::new();
        for (index, file) in files.iter_mut().enumerate() {
            let mut at = 0;
            for chunk in chunks::cut(file) {
                let chunk = chunk.map_err(io::Error::other).map_err(failed)?;
                places.insert(chunk, (index, at));
                at += u64::from(chunk.len);
            }
        }
        Ok(Self { files, places })
    }

    /// Brings what is here into `path`; what is missing then.
    fn fill(&mut self, path: &Path, table: &[Chunk]) -> Result<Vec<Piece>, UpdateError> {
        let failed = UpdateError::disk(path);
        // Chunks that lack in some place; bytes that come twice may be right in one and not yet in the other.
        let mut lacking = HashSet::new();
        let done = (|| {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            file.set_len(table.iter().map(|chunk| u64::from(chunk.len)).sum())?;
            let (mut at, mut buffer) = (0, vec![0; chunks::MAX]);
            for chunk in table {
                let bytes = &mut buffer[..chunk.len as usize];
                file.read_exact_at(bytes, at)?;
                if !chunk.is(bytes) {
                    if self.read(chunk, bytes)? {
                        file.write_all_at(bytes, at)?;
                    } else {
                        lacking.insert(*chunk);
                    }
                }
                at += u64::from(chunk.len);
            }
            file.sync_all()
        })();
        done.map_err(failed)?;
        let have = table.iter().filter(|chunk| !lacking.contains(chunk)).copied().collect();
        Ok(chunks::missing(table, &have, chunks::GAP))
    }

    /// Whether the chunk is here; then `bytes` are its own.
    fn read(&mut self, chunk: &Chunk, bytes: &mut [u8]) -> io::Result<bool> {
        let Some((file, at)) = self.places.get(chunk) else { return Ok(false) };
        let file = &mut self.files[*file];
        file.seek(SeekFrom::Start(*at))?;
        file.read_exact(bytes)?;
        Ok(chunk.is(bytes))
    }
}

/// The root that the node runs.
pub fn running_root(running: &Running) -> Result<Box<dyn ReadSeek>, UpdateError> {
    let mut disk = running.open()?;
    let table = Table::read(&mut Stream::new(&mut disk)).map_err(SlotError::from)?;
    let guid = running.verity.partition_uuid();
    let part = table.partitions().into_iter().find(|part| part.guid == guid).ok_or(UpdateError::NotFromDisk)?;
    let len = running.verity.total_bytes().min(part.len);
    Ok(Box::new(Stream::new(Part::new(disk, part.start, len))))
}

/// The UKI is 14 MB, and is read where it lies in pieces all over the volume: it is taken to memory.
fn running_uki(running: &Running) -> Result<Box<dyn ReadSeek>, UpdateError> {
    let mut disk = running.open()?;
    let slots = running.slots(&mut disk)?;
    let held = slots.running_and_idle().and_then(|(running, _)| running.held().cloned());
    let Some(held) = held else { return Ok(Box::new(io::Cursor::new(Vec::new()))) };
    let table = Table::read(&mut Stream::new(&mut disk)).map_err(SlotError::from)?;
    let esp = table.find(gpt::ESP).map_err(SlotError::from)?;
    let editor = Editor::open(Part::new(disk, esp.start, esp.len)).map_err(UpdateError::Esp)?;
    let mut bytes = Vec::new();
    editor
        .file(&held.path())
        .map_err(UpdateError::Esp)?
        .read_to_end(&mut bytes)
        .map_err(UpdateError::disk(&running.disk))?;
    Ok(Box::new(io::Cursor::new(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn a_piece_is_asked_for_in_requests_of_whole_chunks() {
        let all: Vec<Chunk> = (0..100).map(|n| Chunk { sha256: [n; 32], len: 100_000 }).collect();
        let piece = Piece { bytes: 500_000..9_500_000, chunks: 5..95 };
        let asked = requests(&piece, &all);
        assert_eq!((asked[0].0.start, asked.last().map(|(r, _)| r.end)), (500_000, Some(9_500_000)));
        assert!(asked.windows(2).all(|pair| pair[0].0.end == pair[1].0.start));
        assert!(asked.iter().all(|(range, chunks)| range.end - range.start == 100_000 * chunks.len() as u64));
        assert_eq!((asked.len(), asked[0].1[0].sha256[0]), (3, 5));
    }

    #[test]
    fn a_file_that_is_half_there_is_gone_on_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let bytes: Vec<u8> = (0..400_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let table: Vec<Chunk> = chunks::cut(&bytes[..]).collect::<Result<_, _>>().expect("cut");
        let nothing: [Box<dyn ReadSeek>; 2] = [Box::new(io::empty()), Box::new(io::empty())];
        let mut here = Here { files: nothing, places: HashMap::new() };
        let path = folder.path().join("root");
        let all = here.fill(&path, &table).expect("filled");
        assert_eq!(all, [Piece { bytes: 0..bytes.len() as u64, chunks: 0..table.len() }]);
        let half = u64::from(table[0].len) + u64::from(table[1].len);
        fs::write(&path, &bytes[..half as usize + 10]).expect("written");
        let rest = here.fill(&path, &table).expect("filled");
        assert_eq!(rest[0].bytes.start, half, "what is whole stays");
        check(&bytes[half as usize..], &table[2..]).expect("right");
        assert!(check(&bytes[1..], &table).is_err());
    }

    #[test]
    fn bytes_that_come_twice_are_fetched_for_the_place_that_lacks_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (vec![1; 5000], vec![2; 6000]);
        let chunk = |bytes: &[u8]| Chunk { sha256: Sha256::digest(bytes).into(), len: bytes.len() as u32 };
        let table = [chunk(&one), chunk(&two), chunk(&one)];
        let path = folder.path().join("root");
        fs::write(&path, [&one[..], &two].concat()).expect("written");
        let nothing: [Box<dyn ReadSeek>; 2] = [Box::new(io::empty()), Box::new(io::empty())];
        let pieces = Here { files: nothing, places: HashMap::new() }.fill(&path, &table).expect("filled");
        assert_eq!(pieces.last().map(|piece| piece.bytes.end), Some(16_000));
    }

    #[test]
    fn what_is_on_the_node_is_not_fetched() {
        let folder = tempfile::tempdir().expect("a folder");
        let old: Vec<u8> = (0..500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut places = HashMap::new();
        let mut at = 0;
        for chunk in chunks::cut(&old[..]).map(|c| c.expect("cut")) {
            places.insert(chunk, (1, at));
            at += u64::from(chunk.len);
        }
        let mut new = old.clone();
        new.splice(1_000_000..1_000_000, *b"news");
        let table: Vec<Chunk> = chunks::cut(&new[..]).collect::<Result<_, _>>().expect("cut");
        let mut here = Here { files: [Box::new(io::empty()), Box::new(io::Cursor::new(old))], places };
        let pieces = here.fill(&folder.path().join("root"), &table).expect("filled");
        let missing: u64 = pieces.iter().map(|p| p.bytes.end - p.bytes.start).sum();
        assert!(missing < 4 * chunks::MAX as u64, "{missing} of {}", new.len());
    }
}
