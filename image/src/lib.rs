//! What an image is: the file tree and every format it is written in. Data lies in `recipes/` and `rootfs/`.
//!
//! Same input, same bytes: nothing here looks at the clock, the environment, the user, the umask or
//! the number of processors, and no process is started.
//!
//! ```text
//! tree ---> squashfs ---> verity ----------+
//!   |                        | root hash   v
//!   +--> cpio (initrd) ---> uki ---> fat, gpt ---> disk
//!   +--> manifest          uki, root ---> set (what a node fetches to move to this version)
//! ```
//!
//! A verified root from a tree:
//!
//! ```
//! use image::{Entry, Tree, squashfs, verity};
//! use std::io::Cursor;
//!
//! let mut tree = Tree::new();
//! tree.insert_with_parents("usr/bin/hello", Entry::file(0o755, "#!/bin/sh\n"))?;
//! let (mut image, summary) = squashfs::write_tree(Cursor::new(Vec::new()), &tree, squashfs::Options::default())?;
//! let root = verity::append(&mut image, summary.bytes, &[0; 32])?;
//! println!("roost.verity={root}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod authenticode;
pub mod chunks;
pub mod cpio;
pub mod device;
mod digest;
pub mod disk;
pub mod fat;
pub mod gpt;
pub mod manifest;
pub mod patch;
pub mod pin;
pub mod set;
pub mod slot;
pub mod squashfs;
pub mod tree;
pub mod uki;
pub mod verity;

pub use digest::digest;
pub use tree::{Content, Entry, Kind, Tree, TreeError};
