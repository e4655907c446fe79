//! Writable layers: what a guest changes of its image.
//!
//! ```text
//! guests/<vm>/lock                  held (flock) while the guest may run
//! guests/<vm>/layer-<image>/u       the changes; LXC makes `work` beside it
//! guests/deleteme-<vm>-<n>          a layer thrown away, removed when there is time
//! ```
//!
//! A layer belongs to one image: on another one its whiteouts and renames would make nonsense. The
//! kernel does not refuse one layer to two guests ("undefined behaviour", it says, and only in its
//! log), hence the lock.

use crate::{Error, Places, Result, places::make_dir};
use model::{Digest, VmId};
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::SystemTime,
};

const RETIRED: &str = "deleteme-";

/// Held while a guest may use its writable layer.
pub(crate) type Lock = Flock<File>;

/// Takes the lock of a guest's layers.
pub(crate) fn lock(places: &Places, vm: VmId) -> Result<Lock> {
    make_dir(&places.guest(vm), 0o700)?;
    let path = places.guest(vm).join("lock");
    let file =
        File::options().create(true).truncate(false).write(true).open(&path).map_err(Error::file("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::errno::Errno::EWOULDBLOCK => Error::InUse(vm),
        other => Error::file("lock", path)(other.into()),
    })
}

/// The layer for a start: a new one with these files (path from the root, contents), unless `keep` and
/// there is one for this image. A layer that was the guest's once gets no files: what looks like a
/// directory there may be a link of the guest's to anywhere on the node.
pub(crate) fn prepare(
    places: &Places,
    vm: VmId,
    image: &Digest,
    keep: bool,
    files: &[(&str, String)],
    _held: &Lock,
) -> Result<PathBuf> {
    let layer = places.guest(vm).join(format!("layer-{image}"));
    if !keep {
        retire(places, vm)?;
    }
    if layer.join("u").is_dir() {
        return Ok(layer);
    }
    // Under another name until it is complete, or a start that was cut off would leave half of it to be kept.
    let new = places.guest(vm).join(format!("layer-new-{image}"));
    fs::remove_dir_all(&new).or_else(absent).map_err(Error::file("remove", &new))?;
    make_dir(&new.join("u"), 0o755)?;
    make_dir(&new, 0o755)?;
    for (path, contents) in files {
        let path = new.join("u").join(path);
        make_dir(path.parent().unwrap_or(&new), 0o755)?;
        fs::write(&path, contents).map_err(Error::file("write", &path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(Error::file("change the mode of", &path))?;
    }
    fs::rename(&new, &layer).map_err(Error::file("rename", &new))?;
    Ok(layer)
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Puts all layers of a guest out of the way; [`sweep`] removes them.
pub(crate) fn retire(places: &Places, vm: VmId) -> Result<()> {
    let dir = places.guest(vm);
    let entries = match fs::read_dir(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::file("list", &dir))?,
    };
    let layers = entries.flatten().filter(|e| e.file_name().as_encoded_bytes().starts_with(b"layer-"));
    for layer in layers {
        let stamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_nanos());
        let target = places.guests.join(format!("{RETIRED}{vm}-{stamp}"));
        fs::rename(layer.path(), &target).map_err(Error::file("rename", layer.path()))?;
    }
    Ok(())
}

/// Removes what was thrown away. Long; harmless beside anything else.
pub(crate) fn sweep(places: &Places) -> Result<()> {
    let entries = fs::read_dir(&places.guests).map_err(Error::file("list", &places.guests))?;
    for entry in entries.flatten().filter(|e| e.file_name().as_encoded_bytes().starts_with(RETIRED.as_bytes())) {
        match fs::remove_dir_all(entry.path()) {
            // Another sweep was faster.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            result => result.map_err(Error::file("remove", entry.path()))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().expect("temp dir");
        let at = |name: &str| dir.path().join(name);
        let places = Places {
            images: at("images"),
            guests: at("guests"),
            homes: at("homes"),
            mounted: at("mounted"),
            views: at("views"),
        };
        places.make().expect("makes");
        (dir, places)
    }

    const VM: VmId = VmId(7);
    const IMAGE: Digest = Digest([1; 32]);

    #[test]
    fn a_second_holder_is_refused_until_the_first_lets_go() {
        let (_dir, places) = places();
        let held = lock(&places, VM).expect("free");
        assert!(matches!(lock(&places, VM), Err(Error::InUse(VM))));
        drop(held);
        lock(&places, VM).expect("free again");
    }

    #[test]
    fn a_link_that_the_guest_left_is_never_followed() {
        let (dir, places) = places();
        let held = lock(&places, VM).expect("free");
        let files = [("etc/hostname", "alice\n".to_owned())];
        let layer = prepare(&places, VM, &IMAGE, true, &files, &held).expect("made");
        fs::remove_dir_all(layer.join("u/etc")).expect("removes");
        std::os::unix::fs::symlink(dir.path(), layer.join("u/etc")).expect("links");
        prepare(&places, VM, &IMAGE, true, &files, &held).expect("kept");
        assert!(!dir.path().join("hostname").exists());
    }

    #[test]
    fn a_layer_is_new_at_each_start_unless_kept_and_swept_away_later() {
        let (_dir, places) = places();
        let held = lock(&places, VM).expect("free");
        let files = [("etc/hostname", "alice\n".to_owned())];
        let layer = prepare(&places, VM, &IMAGE, false, &files, &held).expect("made");
        assert_eq!(fs::read_to_string(layer.join("u/etc/hostname")).expect("reads"), "alice\n");
        fs::write(layer.join("u/changed"), "x").expect("writes");

        let same = prepare(&places, VM, &IMAGE, true, &files, &held).expect("kept");
        assert!(same.join("u/changed").exists());
        let other = prepare(&places, VM, &Digest([2; 32]), true, &files, &held).expect("made");
        assert!(!other.join("u/changed").exists(), "a layer belongs to one image");

        let new = prepare(&places, VM, &IMAGE, false, &files, &held).expect("made anew");
        assert!(!new.join("u/changed").exists());
        let names = || fs::read_dir(&places.guests).expect("lists").flatten().count();
        assert_eq!(names(), 3, "the guest, and two layers thrown away");
        sweep(&places).expect("sweeps");
        assert_eq!(names(), 1);
    }
}
