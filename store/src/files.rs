//! Files that must be whole or absent, and secrets among them.

use crate::error::{Error, Result};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Writes a file that its owner alone may read, by a rename.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, 0o600)
}

/// Writes a file that all may read, by a rename.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, 0o644)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let new = with_suffix(path, ".new");
    let make = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        // Whatever the umask, and also when an earlier attempt left the file.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    make().map_err(Error::io("write", path))?;
    sync_dir(path)
}

/// Makes a rename in the file's directory outlive a power cut.
pub fn sync_dir(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io("sync the folder", dir))
}

/// A directory for its owner alone, made with its parents if absent.
pub fn private_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("make the folder", path))?;
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(Error::io("protect the folder", path))
}

/// A text file.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(Error::io("read", path))
}

/// The path with something appended to its last part.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
