//! Images: mounted once each, however many guests boot them.

use crate::{Error, Places, Result, places::make_dir};
use model::Digest;
use std::{fs, path::PathBuf};
use sys::{
    loopdev::LoopDevice,
    mount::{self, MntFlags, MsFlags},
};

/// Mounts an image if it is not mounted yet, and says where.
pub(crate) fn mount(places: &Places, digest: &Digest) -> Result<PathBuf> {
    let (file, target) = (places.image(digest), places.mount_of(digest));
    if !file.is_file() {
        return Err(Error::NoImage(*digest));
    }
    if mount::is_mount_point(&target)? {
        return Ok(target);
    }
    make_dir(&target, 0o700)?;
    let refused = |source| Error::Mount { digest: *digest, source };
    // The kernel frees the loop device with the mount.
    let device = LoopDevice::attach(&file, true)?;
    mount::mount(device.path(), &target, "squashfs", MsFlags::MS_RDONLY | MsFlags::MS_NODEV, "").map_err(refused)?;
    Ok(target)
}

/// Unmounts every image that `used` does not ask for. One that is busy stays, for the next time.
pub(crate) fn unmount_unused(places: &Places, used: impl Fn(&Digest) -> bool) -> Result<()> {
    let entries = fs::read_dir(&places.mounted).map_err(Error::file("list", &places.mounted))?;
    for entry in entries.flatten() {
        let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
        if digest.is_some_and(|d| used(&d)) {
            continue;
        }
        match mount::unmount(entry.path(), MntFlags::empty()) {
            Err(e) if e.is(sys::Errno::EBUSY) => continue,
            // Not mounted: only the directory is left.
            Err(e) if e.is(sys::Errno::EINVAL) => {}
            result => result?,
        }
        fs::remove_dir(entry.path()).map_err(Error::file("remove", entry.path()))?;
    }
    Ok(())
}
