//! A node whose firmware starts only what we signed.

use anyhow::{Context, Result};
use builder::{
    lab::{Boot, Disk, Lab, Store},
    programs,
    sign::keys,
};
use std::path::{Path, PathBuf};

/// A store, and an image that keys of its own signed.
#[derive(Debug)]
pub struct Signed {
    /// Its folder.
    pub lab: Lab,
    /// The store.
    pub store: Store,
    /// The image.
    pub image: PathBuf,
    keys: PathBuf,
}

impl Signed {
    /// Makes keys, and builds the node with them.
    pub fn new(name: &str) -> Result<Self> {
        let lab = Lab::new(name)?;
        let store = lab.store()?;
        let keys = lab.path("keys");
        keys::make(&keys, [2026, 1, 1, 0, 0, 0])?;
        let image = build(&lab, &keys)?;
        Ok(Self { lab, store, image, keys })
    }

    /// A machine of this name, with Secure Boot on, whose disk somebody has tampered with.
    pub fn machine(&self, name: &str, tamper: impl FnOnce(&Disk) -> Result<()>) -> Result<Boot> {
        tamper(&self.lab.disk(name, &self.image)?).with_context(|| format!("cannot tamper with {name}"))?;
        Ok(Boot::new(&self.image).name(name).secure_boot(&self.keys).seed(self.store.seed(name)?))
    }
}

/// The node's image, signed, and with a serial console: with Secure Boot on, nobody can add one from outside.
fn build(lab: &Lab, keys: &Path) -> Result<PathBuf> {
    let recipes = programs::source_tree().join("image/recipes");
    let text = std::fs::read_to_string(recipes.join("node.toml")).context("Cannot read the recipe")?;
    let with_console = text.replace("cmdline = \"quiet", "cmdline = \"console=ttyS0 quiet");
    anyhow::ensure!(with_console != text, "the recipe's command line does not begin with 'quiet'");
    let recipe = lab.path("node.toml");
    std::fs::write(&recipe, with_console).context("Cannot write the recipe")?;
    std::fs::copy(recipes.join("node.lock"), lab.path("node.lock")).context("Cannot copy the lock")?;
    let more = ["--version", "0.1.0", "--keys", &keys.to_string_lossy()];
    Ok(crate::artifact(&crate::build(lab, &recipe.to_string_lossy(), &more)?, "raw"))
}
