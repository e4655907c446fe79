//! Images of other versions than the one under test, built and signed for one scenario.

use anyhow::{Context, Result, ensure};
use builder::{lab::Lab, programs};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Builds node images that trust each other's updates.
#[derive(Debug)]
pub struct Forge {
    roost: PathBuf,
    dir: PathBuf,
    keys: PathBuf,
}

impl Forge {
    /// With keys of its own, in the lab's folder.
    pub fn new(lab: &Lab) -> Result<Self> {
        let forge = Self { roost: lab.program("roost"), dir: lab.path("forge"), keys: lab.path("forge/keys") };
        forge.run(&["keys", "--out", &forge.keys.to_string_lossy()])?;
        Ok(forge)
    }

    /// The folder of its keys.
    pub fn keys(&self) -> &Path {
        &self.keys
    }

    /// The node of the repository as this version: the folder with its artifacts.
    pub fn node(&self, version: &str) -> Result<PathBuf> {
        self.node_by(version, &[])
    }

    /// The same with further arguments for `roost build`.
    pub fn node_by(&self, version: &str, more: &[&str]) -> Result<PathBuf> {
        self.build("node", version, more)
    }

    /// The same with a patch for nodes of this other version.
    pub fn node_patched(&self, version: &str, from: &Path) -> Result<PathBuf> {
        self.node_by(version, &["--patch-from", &artifact(from, "set").to_string_lossy()])
    }

    /// The same with parts of its recipe replaced, so that something is missing, wrong or small in it.
    pub fn node_with(&self, version: &str, changes: &[(&str, &str)]) -> Result<PathBuf> {
        let recipes = programs::source_tree().join("image/recipes");
        let folder = self.dir.join(format!("recipe-{version}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("Cannot make {}", folder.display()))?;
        let mut recipe = std::fs::read_to_string(recipes.join("node.toml")).context("Cannot read the recipe")?;
        for (part, changed) in changes {
            ensure!(recipe.matches(part).count() == 1, "the recipe has {part:?} not once");
            recipe = recipe.replace(part, changed);
        }
        std::fs::write(folder.join("node.toml"), recipe).context("Cannot write a recipe")?;
        std::fs::copy(recipes.join("node.lock"), folder.join("node.lock")).context("Cannot copy a lock")?;
        self.build(&folder.join("node.toml").to_string_lossy(), version, &[])
    }

    fn build(&self, recipe: &str, version: &str, more: &[&str]) -> Result<PathBuf> {
        let out = self.dir.join(version);
        let (to, keys) = (out.to_string_lossy(), self.keys.to_string_lossy());
        let words = ["build", recipe, "--locked", "--version", version, "--keys", &keys, "--out", &to];
        self.run(&[&words, more].concat())?;
        Ok(out)
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        run(&self.roost, args)
    }
}

/// Builds a recipe from its lock into the lab's folder `out`, with these further arguments: the folder.
pub fn build(lab: &Lab, recipe: &str, more: &[&str]) -> Result<PathBuf> {
    let out = lab.path("out");
    let words = ["build", recipe, "--locked", "--out", &out.to_string_lossy()];
    run(&lab.program("roost"), &[&words, more].concat())?;
    Ok(out)
}

fn run(roost: &Path, args: &[&str]) -> Result<()> {
    let output = Command::new(roost).args(args).output().context("Cannot run roost")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "roost {args:?} ended with {}:\n{words}", output.status);
    Ok(())
}

/// An artifact of a build.
pub fn artifact(build: &Path, suffix: &str) -> PathBuf {
    build.join(format!("node.{suffix}"))
}
