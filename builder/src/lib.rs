//! The roost program: from a recipe to a bootable image, and the lab that boots it.
//!
//! A build is a chain of functions from value to value:
//! `recipe -> lock -> fetch -> packages -> tree -> image`. Each result is named by a digest of its inputs,
//! so that a build in which nothing changed does nothing.

pub mod accounts;
pub mod apt;
pub mod assemble;
pub mod build;
pub mod cache;
pub mod checks;
pub mod closure;
pub mod commands;
pub mod crates;
pub mod deb;
pub mod diff;
pub mod elf;
pub mod error;
pub mod executables;
pub mod fetch;
pub mod generate;
pub mod inspect;
pub mod lab;
pub mod lock;
pub mod mirror;
pub mod modules;
pub mod npm;
pub mod overlay;
mod parallel;
pub mod patch;
pub mod pin;
pub mod pool;
pub mod programs;
pub mod recipe;
pub mod release;
pub mod report;
pub mod rootfs;
pub mod sbom;
pub mod sign;
mod sparse;
pub mod stamp;
pub mod tarball;
pub mod verify;

pub use error::{Error, Result};

/// The builder's cache folder of this user: `${XDG_CACHE_HOME:-~/.cache}/roost`.
pub fn cache_dir() -> std::path::PathBuf {
    cache::Cache::of_user().root().to_owned()
}

/// The source tree of this program: `ROOST_SOURCE` (set by the launcher), else where it was compiled.
pub fn source_dir() -> Result<std::path::PathBuf> {
    let tree = programs::source_tree();
    let found = tree.join("Cargo.toml").is_file();
    if found { Ok(tree) } else { Err(Error::NoSource { tree }) }
}
