//! What an image is: the file tree and every format it is written in. Data lies in `recipes/` and `rootfs/`.
//!
//! Same input, same bytes: nothing here looks at the clock, the environment, the user, the umask or
//! the number of processors, and no process is started.

pub mod cpio;
pub mod disk;
pub mod fat;
pub mod gpt;
pub mod manifest;
pub mod squashfs;
pub mod tree;
pub mod uki;
pub mod verity;

pub use tree::{Content, Entry, Kind, Tree, TreeError};
