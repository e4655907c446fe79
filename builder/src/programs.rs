//! Programs of this workspace, built by cargo for an image.
//!
//! Level `dev` uses the profile of everyday work, so that nothing is compiled twice; level `release` has its own.
//! What goes into an image is stripped, and names no path of this machine: `.cargo/rustc` sees to it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::Content;
use model::Digest;
use sha2::Digest as _;

use crate::cache::Cache;
use crate::elf;
use crate::error::{Error, Result, at};
use crate::npm;
use crate::report::Report;

/// The one target of programs and tests.
pub const TARGET: &str = "x86_64-unknown-linux-musl";

/// How much is spent on the size of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Level {
    /// Quick: the dev profile, light compression.
    #[default]
    Dev,
    /// Small: the release profile, strongest compression.
    Release,
}

impl Level {
    /// `dev` or `release`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }
}

/// Stripped programs by name.
#[derive(Debug, Default)]
pub struct Built {
    programs: BTreeMap<String, Vec<u8>>,
}

impl Built {
    /// Programs as given, for tests and for callers that built them.
    pub fn of(programs: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self { programs: programs.into_iter().collect() }
    }

    /// Names the bytes of all programs.
    pub fn digest(&self) -> Digest {
        let mut hash = sha2::Sha256::new();
        for (name, bytes) in &self.programs {
            hash.update(name.as_bytes());
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(sha2::Sha256::digest(bytes));
        }
        Digest(hash.finalize().into())
    }

    /// One program.
    pub fn content(&self, name: &str) -> Result<Content> {
        let bytes = self.programs.get(name).ok_or_else(|| Error::Program {
            action: "Building the programs".to_owned(),
            program: "cargo".to_owned(),
            status: "success".to_owned(),
            output: format!("but the workspace has no program '{name}': see [[program]] in the recipe"),
        })?;
        Ok(Content::from(bytes.as_slice()))
    }

    /// All programs.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.programs.iter().map(|(n, b)| (n.as_str(), b.as_slice()))
    }
}

/// The source tree: `ROOST_SOURCE` (set by the launcher), else where this program was compiled.
pub fn source_tree() -> PathBuf {
    let compiled = || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned();
    std::env::var_os("ROOST_SOURCE").map(PathBuf::from).unwrap_or_else(compiled)
}

/// Builds programs and reads them stripped. What a program is compiled with besides its source comes from `cache`.
pub fn build(names: &[&str], level: Level, source: &Path, cache: &Cache, report: &Report) -> Result<Built> {
    if names.is_empty() {
        return Ok(Built::default());
    }
    if names.contains(&"router") {
        npm::bring(source, level, cache, report)?;
    }
    let step = report.step("programs", None);
    let target = target_folder(source);
    cargo(names, level, source, &target)?;
    let folder = target.join(TARGET).join(if level == Level::Release { "release" } else { "debug" });
    let mut built = Built::default();
    for name in names {
        let path = folder.join(name);
        let bytes = std::fs::read(&path).map_err(at("read", &path))?;
        let thin = elf::strip(bytes).map_err(|e| at("strip", &path)(std::io::Error::other(e)))?;
        built.programs.insert((*name).to_owned(), thin);
    }
    let total = built.programs.values().map(|b| b.len() as u64).sum();
    step.end(&format!("{} at level {}, {}", names.join(", "), level.name(), crate::report::megabytes(total)));
    Ok(built)
}

fn target_folder(source: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).unwrap_or_else(|| source.join("target"))
}

/// Only these programs, but with the features that the whole workspace asks of its dependencies: those of one
/// program alone would compile most crates once more, apart from what everyday builds and tests share.
fn cargo(names: &[&str], level: Level, source: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(source).args(["build", "--quiet", "--locked", "--workspace"]);
    command.args(names.iter().flat_map(|name| ["--bin", name]));
    command.env("CARGO_TARGET_DIR", target);
    // Left by an outer cargo; they would change fingerprints and compile everything anew. Another wrapper than the
    // workspace's would leave paths of this machine in the programs.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "RUSTC_WRAPPER", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(name);
    }
    if level == Level::Release {
        command.arg("--release");
    }
    let output = command.output().map_err(|source| Error::Start {
        program: "cargo".to_owned(),
        advice: "the image's own programs are compiled from source: install a Rust toolchain".to_owned(),
        source,
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = words.lines().collect();
    Err(Error::Program {
        action: "Building the programs".to_owned(),
        program: "cargo".to_owned(),
        status: output.status.to_string(),
        output: lines[lines.len().saturating_sub(30)..].join("\n"),
    })
}
