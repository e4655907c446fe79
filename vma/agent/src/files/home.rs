//! A home directory, and nothing outside of it: every path is resolved by the kernel below one descriptor.

use rustix::{
    fs::{self as rfs, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};
use vma_proto::files::{FromFiles, MAX_ENTRIES, UploadId, Why};

/// Where uploads are collected, from the home on.
const UPLOADS: [&str; 2] = [".cache", "roost-uploads"];
/// An upload nobody went on with for so many seconds is dropped.
const KEEP: i64 = 24 * 3600;
/// Names tried beside a taken one.
const NAMES: u32 = 1000;
/// Most bytes of a note of an upload that is done: a number and a name.
const NOTE_LIMIT: u64 = 300;

/// A refusal: what kind, and in words.
#[derive(Debug)]
pub struct No {
    pub why: Why,
    pub reason: String,
}

impl No {
    /// For `map_err`.
    pub fn of<E: Into<io::Error>>(action: &str) -> impl FnOnce(E) -> Self {
        let action = action.to_owned();
        move |error| {
            let error = error.into();
            Self { why: why(&error), reason: format!("Cannot {action}: {error}") }
        }
    }

    fn new(why: Why, reason: impl Into<String>) -> Self {
        Self { why, reason: reason.into() }
    }
}

fn why(error: &io::Error) -> Why {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR) => Why::NotFound,
        // XDEV is the kernel's word for a path that leads out of the home.
        Some(Errno::ACCESS | Errno::PERM | Errno::XDEV | Errno::LOOP | Errno::ISDIR | Errno::NXIO) => Why::Forbidden,
        Some(Errno::NOSPC | Errno::DQUOT) => Why::NoRoom,
        Some(Errno::NAMETOOLONG) => Why::BadName,
        _ => Why::Failed,
    }
}

/// The home.
#[derive(Debug)]
pub struct Home(OwnedFd);

impl Home {
    /// At this path.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rfs::open(path.as_ref(), flags, Mode::empty())?))
    }

    fn at(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { "." } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        rfs::openat2(&self.0, path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty(), resolve)
    }

    fn folder(&self, path: &str) -> Result<OwnedFd, No> {
        self.at(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(No::of("open the folder"))
    }

    /// Folders and regular files in a folder, and whether there are more.
    pub fn list(&self, folder: &str) -> Result<(Vec<FromFiles>, bool), No> {
        let folder = self.folder(folder)?;
        let (mut entries, read) = (vec![], No::of::<Errno>);
        for entry in Dir::read_from(&folder).map_err(read("read the folder"))? {
            let entry = entry.map_err(read("read the folder"))?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let Some(told) = told(&folder, name) else { continue };
            if entries.len() == MAX_ENTRIES {
                return Ok((entries, true));
            }
            entries.push(told);
        }
        Ok((entries, false))
    }

    /// A regular file from an offset on, its size and its last change.
    pub fn read(&self, path: &str, offset: u64) -> Result<(File, u64, i64), No> {
        // Without NONBLOCK a pipe would hold us until somebody writes.
        let mut file = File::from(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(No::of("open the file"))?);
        let stat = rfs::fstat(&file).map_err(No::of("look at the file"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(No::new(Why::Forbidden, "it is no regular file"));
        }
        let size = stat.st_size as u64;
        if offset > size {
            return Err(No::new(Why::Offset, format!("byte {offset} of {size}")));
        }
        file.seek(SeekFrom::Start(offset)).map_err(No::of("seek in the file"))?;
        Ok((file, size, stat.st_mtime))
    }

    /// Name and size of an upload that is whole and has its name: asked for again when the answer was lost.
    pub fn done(&self, id: &UploadId) -> Result<Option<(String, u64)>, No> {
        let uploads = self.uploads()?;
        let Some(done) = noted(&uploads, id) else { return Ok(None) };
        match rfs::statat(&uploads, hex(id), AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(Some(done)),
            // It has its name, and we ended before it lost this one.
            Ok(stat) if stat.st_nlink > 1 => {
                rfs::unlinkat(&uploads, hex(id), AtFlags::empty()).map_err(No::of("forget the upload"))?;
                Ok(Some(done))
            }
            Ok(_) => Ok(None),
            Err(error) => Err(No::of("look at the upload")(error)),
        }
    }

    /// Bytes kept of an upload.
    pub fn kept(&self, id: &UploadId) -> Result<u64, No> {
        let uploads = self.uploads()?;
        match rfs::statat(&uploads, hex(id), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(stat.st_size as u64),
            Err(Errno::NOENT) => Ok(0),
            Err(error) => Err(No::of("look at the upload")(error)),
        }
    }

    /// The file that collects an upload, cut to `offset` and standing there. Locked until it is dropped.
    pub fn upload(&self, id: &UploadId, offset: u64, total: u64) -> Result<File, No> {
        if offset > total {
            return Err(No::new(Why::Offset, format!("byte {offset} of {total}")));
        }
        let uploads = self.uploads()?;
        drop_old(&uploads);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rfs::openat(&uploads, hex(id), flags, Mode::RUSR | Mode::WUSR).map_err(No::of("open the upload"))?;
        rfs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| No::new(Why::Busy, "an earlier try of this upload has not ended yet"))?;
        let stat = rfs::fstat(&file).map_err(No::of("look at the upload"))?;
        let named = rfs::statat(&uploads, hex(id), AtFlags::SYMLINK_NOFOLLOW);
        if stat.st_nlink != 1 || !named.is_ok_and(|named| named.st_ino == stat.st_ino) {
            // What it was is a file of the user's by now, and not to be cut. The next try begins a new one.
            if stat.st_nlink > 1 {
                rfs::unlinkat(&uploads, hex(id), AtFlags::empty()).map_err(No::of("forget the upload"))?;
            }
            return Err(No::new(Why::Busy, "an earlier try of this upload has ended just now"));
        }
        let kept = stat.st_size as u64;
        if kept < offset {
            return Err(No::new(Why::Offset, format!("{kept} bytes are kept, and the try begins at {offset}")));
        }
        let room = rfs::fstatvfs(&file).map_err(No::of("look for room"))?;
        if room.f_bavail.saturating_mul(room.f_frsize).saturating_add(kept) < total {
            return Err(No::new(Why::NoRoom, format!("no room for {total} bytes")));
        }
        rfs::ftruncate(&file, offset).map_err(No::of("cut the upload"))?;
        let mut file = File::from(file);
        file.seek(SeekFrom::Start(offset)).map_err(No::of("seek in the upload"))?;
        Ok(file)
    }

    /// Gives a whole upload its name, or a free one beside it, in one step. Returns the name. Before, the name is
    /// noted: whoever asks again hears it, and no second file is made.
    pub fn finish(&self, id: &UploadId, upload: &File, folder: &str, name: &str) -> Result<String, No> {
        let (uploads, folder) = (self.uploads()?, self.folder(folder)?);
        // Until here nobody but the user was to see it; from here on it is a file like any other.
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        nix::sys::stat::umask(mask);
        rfs::fchmod(upload, Mode::from_raw_mode(0o666 & !mask.bits())).map_err(No::of("set the mode of the upload"))?;
        upload.sync_all().map_err(No::of("bring the upload to disk"))?;
        for number in 1..=NAMES {
            let name = numbered(name, number);
            if rfs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
                continue;
            }
            note(&uploads, id, upload, &name)?;
            match rfs::linkat(&uploads, hex(id), &folder, &name, AtFlags::empty()) {
                Ok(()) => {
                    rfs::unlinkat(&uploads, hex(id), AtFlags::empty()).map_err(No::of("forget the upload"))?;
                    rfs::fsync(&folder).map_err(No::of("bring the folder to disk"))?;
                    return Ok(name);
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(No::of("name the upload")(error)),
            }
        }
        Err(No::new(Why::BadName, format!("{NAMES} names like this are taken")))
    }

    fn uploads(&self) -> Result<OwnedFd, No> {
        let mut path = String::new();
        let mut parent = self.folder("")?;
        for part in UPLOADS {
            match rfs::mkdirat(&parent, part, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(No::of("make the folder of uploads")(error)),
            }
            path = if path.is_empty() { part.into() } else { format!("{path}/{part}") };
            parent = self.folder(&path)?;
        }
        Ok(parent)
    }
}

fn told(folder: impl AsFd, name: &str) -> Option<FromFiles> {
    if name.starts_with('.') || !vma_proto::files::legal_name(name) {
        return None;
    }
    // It may be gone since.
    let stat = rfs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let folder = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => false,
        _ => return None,
    };
    let size = if folder { 0 } else { stat.st_size as u64 };
    Some(FromFiles::Entry { name: name.try_into().ok()?, folder, size, modified: stat.st_mtime })
}

/// Drops uploads nobody went on with; what cannot be dropped is tried at the next one.
fn drop_old(uploads: &OwnedFd) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let Ok(entries) = Dir::read_from(uploads) else { return };
    for entry in entries.flatten() {
        let old = rfs::statat(uploads, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_mtime.saturating_add(KEEP) < now);
        if old {
            let _later = rfs::unlinkat(uploads, entry.file_name(), AtFlags::empty());
        }
    }
}

/// The file that tells which name an upload got: its size, and the name.
fn note_of(id: &UploadId) -> String {
    format!("{}.done", hex(id))
}

fn note(uploads: &OwnedFd, id: &UploadId, upload: &File, name: &str) -> Result<(), No> {
    let size = upload.metadata().map_err(No::of("look at the upload"))?.len();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rfs::openat(uploads, note_of(id), flags, Mode::RUSR | Mode::WUSR).map_err(No::of("note the upload"))?;
    File::from(file).write_all(format!("{size} {name}").as_bytes()).map_err(No::of("note the upload"))
}

fn noted(uploads: &OwnedFd, id: &UploadId) -> Option<(String, u64)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rfs::openat(uploads, note_of(id), flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(NOTE_LIMIT).read_to_string(&mut text).ok()?;
    let (size, name) = text.split_once(' ')?;
    vma_proto::files::legal_name(name).then_some((name.to_owned(), size.parse().ok()?))
}

fn hex(id: &UploadId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `report.pdf`, `report (2).pdf`, ...; shortened where the number leaves no room.
pub fn numbered(name: &str, number: u32) -> String {
    if number == 1 {
        return name.to_owned();
    }
    let (stem, ending) = match name.rfind('.') {
        Some(at @ 1..) if name.len() - at <= 16 => name.split_at(at),
        _ => (name, ""),
    };
    let tail = format!(" ({number}){ending}");
    let mut keep = stem.len().min(255 - tail.len());
    while !stem.is_char_boundary(keep) {
        keep -= 1;
    }
    format!("{}{tail}", &stem[..keep])
}
