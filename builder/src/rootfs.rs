//! From packages and a recipe to file trees: the root and the initrd of a node, or the root of a guest.

use std::collections::BTreeSet;

use image::{Content, Entry, Tree};

use crate::cache::Cache;
use crate::closure::Picker;
use crate::error::{Error, Result};
use crate::generate;
use crate::lock::{Lock, Package};
use crate::modules::{Form, Kernel};
use crate::overlay;
use crate::pool::{Glob, Pool, merged_tree};
use crate::programs::Built;
use crate::recipe::{Boot, Located, Modules, Recipe};
use crate::release;
use crate::report::Report;
use crate::sign::Keyring;
use crate::{checks, deb};

/// What a node's image is assembled from.
#[derive(Debug)]
pub struct Node {
    /// The root file system.
    pub root: Tree,
    /// The initrd: `init` and the modules that finding the root needs.
    pub initrd: Tree,
    /// The kernel, `bzImage`.
    pub kernel: Content,
    /// As `uname -r` will say.
    pub kernel_version: String,
    /// The EFI stub that the UKI begins with.
    pub stub: Content,
    /// systemd-boot.
    pub loader: Content,
    /// Kernel, stub and boot loader once more, by the names of their files and with the packages they came from.
    pub boot: Tree,
    /// The kernel command line, without the root hash.
    pub cmdline: String,
}

/// What all builds of a tree are made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The recipe.
    pub located: &'a Located,
    /// Its lock.
    pub lock: &'a Lock,
    /// Programs of this workspace.
    pub programs: &'a Built,
    /// Terms of the crates in them (see [`crate::crates`]).
    pub licences: &'a str,
    /// Where packages are cached.
    pub cache: &'a Cache,
    /// Who is told.
    pub report: &'a Report,
    /// Version of the image.
    pub version: &'a str,
    /// Keys that sign it.
    pub keys: Option<&'a Keyring>,
}

/// The packages of a lock that a recipe opens.
pub fn opened<'a>(recipe: &Recipe, lock: &'a Lock) -> Vec<&'a Package> {
    let without = Glob::all(&recipe.packages.without).unwrap_or_default();
    lock.packages.iter().filter(|p| !without.iter().any(|g| g.matches(&p.name))).collect()
}

impl Inputs<'_> {
    fn pool(&self) -> Result<Pool> {
        let packages: Vec<Package> = opened(&self.located.recipe, self.lock).into_iter().cloned().collect();
        deb::unpack(&packages, self.cache, self.report)?;
        Pool::open(&packages, self.cache)
    }

    /// The time that every file made here gets.
    pub(crate) fn epoch(&self) -> i64 {
        self.lock.epoch as i64
    }
}

/// Builds the trees of a node recipe.
pub fn node(inputs: &Inputs<'_>) -> Result<Node> {
    let recipe = &inputs.located.recipe;
    let (Some(modules), Some(boot)) = (&recipe.modules, &recipe.boot) else {
        return Err(Error::Recipe {
            recipe: recipe.name.clone(),
            problem: "a node needs [modules] and [boot]".to_owned(),
        });
    };
    let pool = inputs.pool()?;
    let kernel = Kernel::find(&pool, inputs.cache, inputs.report)?;
    let step = inputs.report.step("tree", None);
    let (wanted, firmware) = module_sets(recipe, modules, &kernel, &pool)?;
    let mut root = pick(recipe, &pool, &firmware)?;
    kernel.place(&wanted, &pool, &mut root, Form::Plain(inputs.cache))?;
    overlay::apply(inputs, &mut root)?;
    release::name(inputs, &mut root)?;
    release::trust(inputs, &mut root)?;
    licences(&pool, &mut root);
    root.clamp_times(inputs.epoch());
    checks::check(recipe, &pool, &root)?;
    let initrd = initrd(inputs, modules, boot, &kernel, &pool)?;
    step.end(&format!(
        "{} entries, {}, {} modules",
        root.len(),
        crate::report::megabytes(root.content_bytes()),
        wanted.len()
    ));
    let mut files = Tree::new();
    Ok(Node {
        kernel: single(recipe, &pool, &boot.kernel, &mut files)?,
        kernel_version: kernel.version,
        stub: single(recipe, &pool, &boot.stub, &mut files)?,
        loader: single(recipe, &pool, &boot.loader, &mut files)?,
        boot: files,
        cmdline: boot.cmdline.clone(),
        root,
        initrd,
    })
}

/// Builds the tree of a guest recipe.
pub fn guest(inputs: &Inputs<'_>) -> Result<Tree> {
    let recipe = &inputs.located.recipe;
    let pool = inputs.pool()?;
    let step = inputs.report.step("tree", None);
    let mut root = whole(recipe, &pool)?;
    overlay::apply(inputs, &mut root)?;
    root.clamp_times(inputs.epoch());
    step.end(&format!("{} entries, {}", root.len(), crate::report::megabytes(root.content_bytes())));
    generate::run(recipe, &mut root, inputs.epoch(), inputs.report)?;
    root.clamp_times(inputs.epoch());
    checks::check(recipe, &pool, &root)?;
    Ok(root)
}

/// The modules of the root, and the firmware that they name.
fn module_sets(
    recipe: &Recipe,
    modules: &Modules,
    kernel: &Kernel,
    pool: &Pool,
) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let missing = |problems| Error::Missing { recipe: recipe.name.clone(), problems };
    let all = modules.root.values().flatten().chain(&modules.initrd).cloned();
    let wanted = kernel.closure(all).map_err(missing)?;
    let (firmware, problems) = kernel.firmware(&wanted, pool, modules);
    if problems.is_empty() { Ok((wanted, firmware)) } else { Err(missing(problems)) }
}

/// What a node takes out of the packages.
fn pick(recipe: &Recipe, pool: &Pool, firmware: &BTreeSet<String>) -> Result<Tree> {
    let mut picker = Picker::new(pool, merged_tree());
    let take = &recipe.take;
    for path in &take.binaries {
        picker.file(path, "take.binaries")?;
    }
    for (list, who) in [(&take.globs, "take.globs"), (&take.dlopen, "take.dlopen")] {
        for pattern in list {
            picker.glob(pattern, who)?;
        }
    }
    for pattern in &take.firmware {
        picker.glob(&format!("/usr/lib/firmware/{}", pattern.trim_start_matches('/')), "take.firmware")?;
    }
    for path in firmware {
        picker.file(path, "a kernel module")?;
    }
    picker.follow()?;
    picker.finish(&recipe.name)
}

/// Whole packages but what the recipe excludes.
fn whole(recipe: &Recipe, pool: &Pool) -> Result<Tree> {
    let wrong = |problem| Error::Recipe { recipe: recipe.name.clone(), problem };
    let exclude = Glob::all(&recipe.take.exclude).map_err(wrong)?;
    let keep = Glob::all(&recipe.take.keep).map_err(wrong)?;
    let mut tree = merged_tree();
    for (path, entry) in pool.tree.walk() {
        let out = exclude.iter().any(|g| g.covers(path)) && !keep.iter().any(|g| g.covers(path));
        if path.is_empty() || out || tree.get(path).is_some_and(|e| e.link_target().is_some()) {
            continue;
        }
        tree.insert_with_parents(path, entry.clone()).map_err(|source| Error::Assemble {
            action: format!("put /{path} into the image"),
            source: Box::new(source),
        })?;
    }
    Ok(tree)
}

/// The terms under which each package in the tree may be passed on. The package may share another's folder.
fn licences(pool: &Pool, tree: &mut Tree) {
    let packages: BTreeSet<String> = tree.walk().filter_map(|(_, e)| e.origin.as_deref().map(str::to_owned)).collect();
    for package in packages {
        let path = format!("usr/share/doc/{package}/copyright");
        if let Ok((_, entry)) = pool.tree.lookup(&path)
            && entry.content().is_some()
        {
            // It exists already when the recipe itself took it.
            let _ = tree.insert_with_parents(&path, entry.clone());
        }
    }
}

fn initrd(inputs: &Inputs<'_>, modules: &Modules, boot: &Boot, kernel: &Kernel, pool: &Pool) -> Result<Tree> {
    let recipe = &inputs.located.recipe;
    let mut tree = merged_tree();
    let wanted = kernel.closure(modules.initrd.iter().cloned());
    let wanted = wanted.map_err(|problems| Error::Missing { recipe: recipe.name.clone(), problems })?;
    kernel.place(&wanted, pool, &mut tree, Form::Packed)?;
    let init = Entry::file(0o755, inputs.programs.content(&boot.init)?).from_origin(overlay::RECIPE);
    let made = tree.insert("init", init).map(drop);
    let folders = ["dev", "proc", "run", "sys", "sysroot"];
    let made = folders.iter().try_fold(made, |_, f| tree.mkdir_p(f).map(|_| Ok(()))).and_then(|r| r);
    // Before devtmpfs is mounted: with a console= that the machine does not have, PID 1 starts without standard
    // streams, and without /dev/null Rust's runtime aborts before main.
    let devices = [("dev/console", 0o600, 5, 1), ("dev/null", 0o666, 1, 3)];
    let made = made.and_then(|()| {
        devices.iter().try_for_each(|&(path, mode, major, minor)| {
            tree.insert(path, Entry::char_dev(mode, major, minor).from_origin(overlay::RECIPE)).map(drop)
        })
    });
    made.map_err(|source| Error::Assemble { action: "make the initrd".to_owned(), source: Box::new(source) })?;
    tree.clamp_times(inputs.epoch());
    Ok(tree)
}

/// The one file that a pattern matches; it is put into `files` as well.
fn single(recipe: &Recipe, pool: &Pool, pattern: &str, files: &mut Tree) -> Result<Content> {
    let glob = Glob::new(pattern).map_err(|problem| Error::Recipe { recipe: recipe.name.clone(), problem })?;
    let found = pool.matches(&glob);
    let content = match found.as_slice() {
        [one] => pool.tree.lookup(one).ok().and_then(|(_, e)| {
            let name = one.rsplit('/').next().unwrap_or(one);
            // A file of this name is the same one, named twice by the recipe.
            let _ = files.insert(name, e.clone());
            e.content().cloned()
        }),
        _ => None,
    };
    content.ok_or_else(|| Error::Missing {
        recipe: recipe.name.clone(),
        problems: vec![format!(
            "{pattern}: found {} files in the packages, expected one, named by [boot]",
            found.len()
        )],
    })
}
