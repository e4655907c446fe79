//! Packs a folder of this machine into a squashfs image and prints how fast: `squash FOLDER IMAGE [LEVEL [THREADS]]`.
//! For comparing with `mksquashfs`; owners and modes are the folder's own.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use image::squashfs::{Options, write_tree};
use image::{Content, Entry, Kind, Tree};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let folder = args.get(1).context("missing FOLDER")?;
    let output = args.get(2).context("missing IMAGE")?;
    let level = args.get(3).map_or(Ok(6), |level| level.parse())?;
    let threads = args.get(4).map_or(Ok(0), |threads| threads.parse())?;
    let mut tree = Tree::new();
    add(&mut tree, Path::new(folder), "")?;
    let begin = Instant::now();
    let (_, summary) = write_tree(File::create(output)?, &tree, Options { level, threads, ..Options::default() })?;
    let seconds = begin.elapsed().as_secs_f64();
    let mib = summary.content_bytes as f64 / f64::from(1 << 20);
    println!("{summary:?}: {seconds:.2} s, {:.1} MiB/s", mib / seconds);
    Ok(())
}

fn add(tree: &mut Tree, folder: &Path, at: &str) -> Result<()> {
    for found in std::fs::read_dir(folder)? {
        let found = found?;
        let Some(name) = found.file_name().to_str().map(str::to_owned) else { continue };
        let path = if at.is_empty() { name } else { format!("{at}/{name}") };
        let meta = found.metadata()?;
        let kind = match meta.file_type() {
            kind if kind.is_dir() => Kind::Dir,
            kind if kind.is_symlink() => {
                Kind::Symlink(std::fs::read_link(found.path())?.to_string_lossy().into_owned())
            }
            kind if kind.is_file() => Kind::File(Content::from_path(found.path())?),
            kind if kind.is_fifo() => Kind::Fifo,
            _ => continue,
        };
        let dir = matches!(kind, Kind::Dir);
        let mut entry =
            Entry::dir((meta.mode() & 0o7777) as u16).owned_by(meta.uid(), meta.gid()).modified(meta.mtime());
        entry.kind = kind;
        tree.insert(&path, entry)?;
        if dir {
            add(tree, &found.path(), &path)?;
        }
    }
    Ok(())
}
