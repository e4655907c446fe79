//! The data part: files cut into blocks, compressed by a pool of threads, written in the order given.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};
use zstd::bulk::Compressor;

use super::kept::{Block, Kept};
use super::{Options, Result, SquashfsError, lossy, superblock, write};

/// Files up to this length are held in memory until their end, and stored once when equal.
pub const DEDUPE_LIMIT: usize = 16 << 20;
/// In a block's size: stored as it is.
const STORED: u32 = 1 << 24;
/// Index into [`Packed::files`].
pub type FileId = u32;

/// Where a file's bytes lie.
#[derive(Default)]
pub struct FileBlocks {
    pub len: u64,
    pub start: u64,
    /// Length on disk of each block; 0 is a block of zeros that is not stored.
    pub sizes: Vec<u32>,
    /// Bytes in such blocks.
    pub sparse: u64,
    /// Fragment and offset of the tail.
    pub fragment: Option<(u32, u32)>,
}

/// All data written.
pub struct Packed<W> {
    pub out: W,
    /// Where the image starts in the output.
    pub base: u64,
    /// Where the data ends, from the image's start.
    pub position: u64,
    pub files: Vec<FileBlocks>,
    /// The fragment table's records.
    pub fragments: Vec<u8>,
    pub content_bytes: u64,
    pub duplicates: u64,
    /// What was compressed, where blocks are kept.
    pub blocks: Vec<Block>,
}

#[derive(Clone, Copy)]
enum Target {
    Block { file: FileId, index: usize },
    Fragment { index: usize },
}

struct Job {
    number: u64,
    target: Target,
    data: Vec<u8>,
}

struct Done {
    target: Target,
    /// What goes to disk; empty for a block of zeros.
    bytes: Vec<u8>,
    stored: bool,
    /// Of what was compressed, where blocks are kept.
    sha256: Option<[u8; 32]>,
}

pub struct Packer<W> {
    out: W,
    base: u64,
    position: u64,
    block_size: usize,
    pack_tails: bool,
    pool: Pool,
    files: Vec<FileBlocks>,
    fragments: Vec<(u64, u32)>,
    tail: Vec<u8>,
    known: HashMap<(u64, [u8; 32]), FileId>,
    content_bytes: u64,
    duplicates: u64,
    blocks: Vec<Block>,
}

impl<W: Write + Seek> Packer<W> {
    pub fn new(mut out: W, options: &Options, kept: Option<Kept>) -> Result<Self> {
        let base = out.stream_position().map_err(SquashfsError::Write)?;
        let position = superblock::LEN;
        out.seek(SeekFrom::Start(base + position)).map_err(SquashfsError::Write)?;
        Ok(Self {
            out,
            base,
            position,
            block_size: usize::try_from(options.block_size).unwrap_or(1 << 17),
            pack_tails: options.pack_tails,
            pool: Pool::new(options, kept)?,
            files: Vec::new(),
            fragments: Vec::new(),
            tail: Vec::new(),
            known: HashMap::new(),
            content_bytes: 0,
            duplicates: 0,
            blocks: Vec::new(),
        })
    }

    pub fn add_file(&mut self, path: &[u8], mut contents: impl Read) -> Result<FileId> {
        let id = FileId::try_from(self.files.len()).unwrap_or(FileId::MAX);
        self.files.push(FileBlocks::default());
        let mut held: Vec<Vec<u8>> = Vec::new();
        let mut hash = Some(Sha256::new());
        let mut index = 0;
        let mut len = 0u64;
        loop {
            let block = read_block(&mut contents, self.block_size)
                .map_err(|source| SquashfsError::Read { path: lossy(path), source })?;
            let last = block.len() < self.block_size;
            len += block.len() as u64;
            if let Some(hash) = &mut hash {
                hash.update(&block);
            }
            held.push(block);
            if last {
                break;
            }
            if held.len() * self.block_size > DEDUPE_LIMIT {
                hash = None;
            }
            if hash.is_none() {
                for block in held.drain(..) {
                    self.block(id, &mut index, block)?;
                }
            }
        }
        self.content_bytes += len;
        if let Some(hash) = hash.filter(|_| len > 0) {
            let key = (len, hash.finalize().into());
            if let Some(same) = self.known.get(&key) {
                self.files.pop();
                self.duplicates += 1;
                return Ok(*same);
            }
            self.known.insert(key, id);
        }
        self.files[id as usize].len = len;
        let tail = held.pop().unwrap_or_default();
        for block in held {
            self.block(id, &mut index, block)?;
        }
        self.tail(id, index, tail)?;
        Ok(id)
    }

    fn block(&mut self, file: FileId, index: &mut usize, data: Vec<u8>) -> Result<()> {
        self.files[file as usize].sizes.push(0);
        let target = Target::Block { file, index: *index };
        *index += 1;
        self.submit(target, data)
    }

    /// The last, short block of a file: alone, or with others in a fragment.
    fn tail(&mut self, file: FileId, mut index: usize, data: Vec<u8>) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        if index > 0 && !self.pack_tails || data.iter().all(|byte| *byte == 0) {
            return self.block(file, &mut index, data);
        }
        if self.tail.len() + data.len() > self.block_size {
            self.flush_fragment()?;
        }
        let fragment = u32::try_from(self.fragments.len()).unwrap_or(u32::MAX);
        let offset = u32::try_from(self.tail.len()).unwrap_or(u32::MAX);
        self.files[file as usize].fragment = Some((fragment, offset));
        self.tail.extend_from_slice(&data);
        Ok(())
    }

    fn flush_fragment(&mut self) -> Result<()> {
        if self.tail.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.tail);
        let index = self.fragments.len();
        self.fragments.push((0, 0));
        self.submit(Target::Fragment { index }, data)
    }

    fn submit(&mut self, target: Target, data: Vec<u8>) -> Result<()> {
        let zeros = matches!(target, Target::Block { .. }) && data.iter().all(|byte| *byte == 0);
        if let (true, Target::Block { file, .. }) = (zeros, target) {
            self.files[file as usize].sparse += data.len() as u64;
            self.pool.skip(Done { target, bytes: Vec::new(), stored: false, sha256: None });
        } else {
            self.pool.submit(target, data)?;
        }
        while let Some(done) = self.pool.take(false)? {
            self.retire(done)?;
        }
        Ok(())
    }

    fn retire(&mut self, done: Done) -> Result<()> {
        let at = self.position;
        let size = u32::try_from(done.bytes.len()).unwrap_or(STORED) | if done.stored { STORED } else { 0 };
        match done.target {
            Target::Block { file, index } => {
                let file = &mut self.files[file as usize];
                if index == 0 {
                    file.start = at;
                }
                file.sizes[index] = size;
            }
            Target::Fragment { index } => self.fragments[index] = (at, size),
        }
        if let (Some(sha256), Ok(length)) = (done.sha256, u32::try_from(done.bytes.len())) {
            self.blocks.push(Block { sha256, offset: at, length });
        }
        write(&mut self.out, &done.bytes)?;
        self.position += done.bytes.len() as u64;
        Ok(())
    }

    pub fn finish(mut self) -> Result<Packed<W>> {
        self.flush_fragment()?;
        while let Some(done) = self.pool.take(true)? {
            self.retire(done)?;
        }
        let mut fragments = Vec::with_capacity(self.fragments.len() * 16);
        for (start, size) in &self.fragments {
            fragments.extend(start.to_le_bytes());
            fragments.extend(size.to_le_bytes());
            fragments.extend([0; 4]);
        }
        Ok(Packed {
            out: self.out,
            base: self.base,
            position: self.position,
            files: self.files,
            fragments,
            content_bytes: self.content_bytes,
            duplicates: self.duplicates,
            blocks: self.blocks,
        })
    }
}

/// One block as it goes to disk; nothing of one that is all zeros.
pub fn block(compressor: &mut Compressor<'_>, data: &[u8]) -> Result<Vec<u8>> {
    if data.iter().all(|byte| *byte == 0) {
        return Ok(Vec::new());
    }
    let packed = compressor.compress(data).map_err(SquashfsError::Compress)?;
    Ok(shorter(packed, data.to_vec()).0)
}

/// What of a block goes to disk, and whether that is the block as it is.
fn shorter(packed: Vec<u8>, data: Vec<u8>) -> (Vec<u8>, bool) {
    let stored = packed.len() >= data.len();
    (if stored { data } else { packed }, stored)
}

/// Reads until the block is full or the input ends; short means the end.
fn read_block(input: &mut impl Read, size: usize) -> std::io::Result<Vec<u8>> {
    let mut block = Vec::new();
    input.by_ref().take(size as u64).read_to_end(&mut block)?;
    Ok(block)
}

/// Threads that compress; results are handed out in the order of submission.
struct Pool {
    /// `None` only while dropping.
    jobs: Sender<Job>,
    results: Receiver<(u64, Result<Done>)>,
    waiting: BTreeMap<u64, Done>,
    submitted: u64,
    taken: u64,
    /// Jobs between the first not yet taken and the last submitted, so that memory stays bounded.
    window: u64,
}

impl Pool {
    fn new(options: &Options, kept: Option<Kept>) -> Result<Self> {
        let kept = kept.map(Arc::new);
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let (jobs, queue) = channel::<Job>();
        let (sender, results) = channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let mut compressor = Compressor::new(options.level).map_err(SquashfsError::Compress)?;
            let (queue, sender, kept) = (queue.clone(), sender.clone(), kept.clone());
            std::thread::spawn(move || work(&mut compressor, kept.as_deref(), &queue, &sender));
        }
        let window = threads as u64 * 4 + 4;
        Ok(Self { jobs, results, waiting: BTreeMap::new(), submitted: 0, taken: 0, window })
    }

    fn submit(&mut self, target: Target, data: Vec<u8>) -> Result<()> {
        let job = Job { number: self.submitted, target, data };
        self.submitted += 1;
        self.jobs.send(job).map_err(|_| SquashfsError::Thread)
    }

    /// A result that needs no work keeps its place in the order.
    fn skip(&mut self, done: Done) {
        self.waiting.insert(self.submitted, done);
        self.submitted += 1;
    }

    /// The next result in order. Waits for it when the window is full, or when `all` are wanted.
    fn take(&mut self, all: bool) -> Result<Option<Done>> {
        loop {
            if let Some(done) = self.waiting.remove(&self.taken) {
                self.taken += 1;
                return Ok(Some(done));
            }
            let ahead = self.submitted - self.taken;
            if ahead == 0 || (!all && ahead < self.window) {
                return Ok(None);
            }
            let (number, result) = self.results.recv().map_err(|_| SquashfsError::Thread)?;
            self.waiting.insert(number, result?);
        }
    }
}

fn work(
    compressor: &mut Compressor<'_>,
    kept: Option<&Kept>,
    queue: &Mutex<Receiver<Job>>,
    results: &Sender<(u64, Result<Done>)>,
) {
    loop {
        let job = match queue.lock() {
            Ok(queue) => queue.recv(),
            Err(_) => return,
        };
        let Ok(Job { number, target, data }) = job else { return };
        // Only who keeps blocks pays for their digests.
        let sha256 = kept.map(|_| Sha256::digest(&data).into());
        let known = kept.zip(sha256.as_ref()).and_then(|(kept, sha256)| kept.compressed(sha256, &data));
        let packed = known.map_or_else(|| compressor.compress(&data).map_err(SquashfsError::Compress), Ok);
        let result = packed.map(|packed| {
            let (bytes, stored) = shorter(packed, data);
            Done { target, bytes, stored, sha256: sha256.filter(|_| !stored) }
        });
        if results.send((number, result)).is_err() {
            return;
        }
    }
}
