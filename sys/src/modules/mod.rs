//! Loading kernel modules, without kmod: `modules.dep`, `modules.alias` and `modules.softdep` say what, `finit_module`
//! does it, and the kernel itself decompresses `.ko.xz`.

mod glob;
mod index;

pub use index::{Index, Params};

use crate::{Error, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use std::collections::{BTreeSet, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};

/// `MODULE_INIT_COMPRESSED_FILE`, which nix does not name.
const COMPRESSED: u32 = 4;

/// Loads modules once each.
#[derive(Debug)]
pub struct Loader {
    index: Index,
    params: Params,
    done: HashSet<PathBuf>,
}

impl Loader {
    /// For the modules of one folder.
    pub fn new(index: Index, params: Params) -> Self {
        Self { index, params, done: HashSet::new() }
    }

    /// Loads every module that an alias or a name asks for, with all it needs; says how many were loaded now.
    ///
    /// One that cannot be loaded does not keep the others from it: the first failure is told at the end. No module
    /// for the name is no failure: most devices need none.
    pub fn load(&mut self, name: &str) -> Result<usize> {
        let mut loaded = 0;
        let mut failure = None;
        for path in self.index.load_order(name) {
            match self.load_file(&path) {
                Ok(true) => loaded += 1,
                Ok(false) => {}
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        failure.map_or(Ok(loaded), Err)
    }

    fn load_file(&mut self, path: &Path) -> Result<bool> {
        if !self.done.insert(path.to_owned()) {
            return Ok(false);
        }
        let name = index::module_name(path);
        if is_live(Path::new("/sys/module"), &name) {
            return Ok(false);
        }
        let file = File::open(path).map_err(Error::of("open", path.display()))?;
        let compressed = path.extension().is_some_and(|e| e != "ko");
        let flags = ModuleInitFlags::from_bits_retain(if compressed { COMPRESSED } else { 0 });
        let params = CString::new(self.params.of(&name)).unwrap_or_default();
        match finit_module(file, &params, flags) {
            Ok(()) => Ok(true),
            // There already; or built in; or its hardware is not there after all.
            Err(Errno::EEXIST | Errno::ENODEV) => Ok(false),
            Err(e) => Err(Error::of("load", path.display())(e)),
        }
    }
}

/// Whether a module is there and has begun its work. The kernel would say so too, but only after it has read the file,
/// checked its signature and linked it: for each of the modules that a module needs, at each call for one.
///
/// One that is still starting is not live: asking the kernel for it waits until it is.
fn is_live(modules: &Path, name: &str) -> bool {
    let state = std::fs::read(modules.join(name).join("initstate"));
    state.is_ok_and(|s| s.starts_with(b"live"))
}

/// Aliases of all devices that the kernel has found so far.
///
/// `sys` is where sysfs is mounted. Buses first; classes add input devices, which are on none.
pub fn device_aliases(sys: &Path) -> BTreeSet<String> {
    let buses = folders(&sys.join("bus")).into_iter().map(|b| b.join("devices"));
    let places = buses.chain(folders(&sys.join("class")));
    let devices = places.flat_map(|p| folders(&p));
    // A device may go away, and many have no alias: both read as nothing.
    let texts = devices.filter_map(|d| std::fs::read_to_string(d.join("modalias")).ok());
    texts.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect()
}

fn folders(path: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(path).map(|d| d.flatten().map(|e| e.path()).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_module_that_has_started_is_live() {
        let dir = tempfile::tempdir().expect("dir");
        for (name, state) in [("a", "live\n"), ("b", "coming\n")] {
            std::fs::create_dir(dir.path().join(name)).expect("made");
            std::fs::write(dir.path().join(name).join("initstate"), state).expect("written");
        }
        std::fs::create_dir(dir.path().join("built_in")).expect("made");
        assert_eq!(["a", "b", "built_in", "none"].map(|m| is_live(dir.path(), m)), [true, false, false, false]);
    }

    #[test]
    fn aliases_come_from_buses_and_classes() {
        let dir = tempfile::tempdir().expect("dir");
        for (device, alias) in
            [("bus/pci/devices/0", "pci:v1\n"), ("class/input/input0", "input:b1\n"), ("bus/x/devices/y", "")]
        {
            let path = dir.path().join(device);
            std::fs::create_dir_all(&path).expect("made");
            std::fs::write(path.join("modalias"), alias).expect("written");
        }
        let expect = BTreeSet::from(["input:b1".to_owned(), "pci:v1".to_owned()]);
        assert_eq!(device_aliases(dir.path()), expect);
    }
}
