//! What a recipe itself puts into a tree: `image/rootfs/NAME/`, files, directories, links, accounts,
//! programs, permissions. It comes after the packages and replaces a file of theirs, since the recipe
//! says so by name.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use image::{Content, Entry, Tree};

use crate::accounts::{self, Accounts};
use crate::crates;
use crate::error::{Error, Result, at};
use crate::rootfs::Inputs;

/// Origin of what comes from the recipe.
pub const RECIPE: &str = "(recipe)";

/// Puts everything of the recipe into the tree, times set to the lock's.
pub fn apply(inputs: &Inputs<'_>, tree: &mut Tree) -> Result<()> {
    let recipe = &inputs.located.recipe;
    let accounts = Accounts::of(recipe);
    let mut put = Put { tree, epoch: inputs.epoch() };
    for d in &recipe.directories {
        let (uid, gid) = accounts.ids(&d.owner, &d.group);
        put.entry(&d.path, Entry::dir(d.mode.0 as u16).owned_by(uid, gid))?;
    }
    for folder in inputs.located.rootfs() {
        put.folder(&folder)?;
    }
    for f in &recipe.files {
        let (uid, gid) = accounts.ids(&f.owner, &f.group);
        put.entry(&f.path, Entry::file(f.mode.0 as u16, f.text.as_str()).owned_by(uid, gid))?;
    }
    for (path, mode, text) in accounts::files(recipe) {
        put.entry(path, Entry::file(mode, text))?;
    }
    for (path, target) in &recipe.symlinks {
        put.entry(path, Entry::symlink(target.as_str()))?;
    }
    for program in &recipe.programs {
        put.entry(&program.path, Entry::file(0o755, inputs.programs.content(&program.name)?))?;
    }
    if !inputs.licences.is_empty() {
        put.entry(crates::PATH, Entry::file(0o644, inputs.licences))?;
    }
    for p in &recipe.permissions {
        let entry = put.tree.get_mut(&p.path).ok_or_else(|| Error::Missing {
            recipe: recipe.name.clone(),
            problems: vec![format!("{}: not in the image, named by [[permission]]", p.path)],
        })?;
        (entry.uid, entry.gid) = accounts.ids(&p.owner, &p.group);
        entry.mode = p.mode.0 as u16;
    }
    Ok(())
}

struct Put<'a> {
    tree: &'a mut Tree,
    epoch: i64,
}

impl Put<'_> {
    fn entry(&mut self, path: &str, entry: Entry) -> Result<()> {
        let entry = entry.modified(self.epoch).from_origin(RECIPE);
        let fail = |source| Error::Assemble { action: format!("put {path} into the image"), source: Box::new(source) };
        let parent = path.trim_start_matches('/').rsplit_once('/').map_or("", |(p, _)| p);
        self.tree.mkdir_p(parent).map_err(fail)?;
        // A directory that stands keeps what is in it and takes the new mode and owner.
        self.tree.replace(path, entry).map(drop).map_err(fail)
    }

    /// Copies a folder of the repository: permissions are 0755 or 0644, whatever the checkout's umask made of them.
    fn folder(&mut self, folder: &Path) -> Result<()> {
        if !folder.is_dir() {
            return Ok(());
        }
        for item in walkdir::WalkDir::new(folder).min_depth(1).sort_by_file_name() {
            let item = item.map_err(|e| at("read", folder)(e.into()))?;
            let path = item.path();
            let inside = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
            let meta = item.metadata().map_err(|e| at("read", path)(e.into()))?;
            let entry = if meta.is_dir() {
                match self.tree.lookup(&inside) {
                    Ok((_, standing)) if standing.is_dir() => continue,
                    _ => Entry::dir(0o755),
                }
            } else if meta.is_symlink() {
                let target = std::fs::read_link(path).map_err(at("read", path))?;
                Entry::symlink(target.to_string_lossy())
            } else {
                let mode = if meta.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
                Entry::file(mode, Content::Bytes(std::fs::read(path).map_err(at("read", path))?.into()))
            };
            self.entry(&inside, entry)?;
        }
        Ok(())
    }
}
