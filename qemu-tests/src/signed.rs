//! A node whose firmware starts only what we signed.

use crate::{Forge, artifact};
use anyhow::{Context, Result};
use builder::lab::{Boot, Disk, Lab, Store};
use std::path::PathBuf;

/// A store, and an image that keys of its own signed.
#[derive(Debug)]
pub struct Signed {
    /// Its folder.
    pub lab: Lab,
    /// The store.
    pub store: Store,
    /// The image.
    pub image: PathBuf,
    forge: Forge,
}

impl Signed {
    /// Makes keys, and builds the node with them.
    pub fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let store = lab.store()?;
        let forge = Forge::new(&lab)?;
        // With Secure Boot on, nobody can add a serial console from outside.
        let with_console = [("cmdline = \"quiet", "cmdline = \"console=ttyS0 quiet")];
        let image = artifact(&forge.node_with("0.1.0", &with_console)?, "raw");
        Ok(Self { lab, store, image, forge })
    }

    /// A machine of this name, with Secure Boot on, whose disk somebody has tampered with.
    pub fn machine(&self, name: &str, tamper: impl FnOnce(&Disk) -> Result<()>) -> Result<Boot> {
        tamper(&self.lab.disk(name, &self.image)?).with_context(|| format!("cannot tamper with {name}"))?;
        Ok(Boot::new(&self.image).name(name).secure_boot(self.forge.keys()).seed(self.store.seed(name)?))
    }
}
