//! The roost program: from a recipe to a bootable image, and the lab that boots it.
//!
//! A build is a chain of functions from value to value:
//! `recipe -> lock -> fetch -> packages -> tree -> image`. Each step is named by a digest of its inputs
//! and its result kept in the cache, so that a build in which nothing changed does nothing.

pub mod apt;
pub mod cache;
pub mod closure;
pub mod deb;
pub mod elf;
pub mod error;
pub mod fetch;
pub mod lab;
pub mod lock;
pub mod mirror;
pub mod pool;
pub mod recipe;
pub mod report;

pub use error::{Error, Result};

/// The builder's cache folder of this user: `${XDG_CACHE_HOME:-~/.cache}/roost`.
pub fn cache_dir() -> std::path::PathBuf {
    cache::Cache::of_user().root().to_owned()
}
