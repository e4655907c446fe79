//! A recipe: what an image engineer writes to say what is in an image.
//!
//! A recipe is TOML, `image/recipes/NAME.toml`; `image/recipes/README.md` explains every section with
//! examples. Two kinds share one type: a `node` takes single files out of packages and follows what
//! they need (see [`crate::closure`]); a `guest` takes whole packages and leaves out what matches
//! `take.exclude`. [`Recipe::parse`] is the only way in: what it returns obeys the rules of
//! [`Recipe::check`].

mod extend;
mod parse;
pub(crate) use parse::from_toml;
mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result, at};

/// One recipe, checked.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Name of the image; also of its lock file and of its folder in `image/rootfs/`.
    pub name: String,
    /// What is made of the tree.
    pub kind: Kind,
    /// Debian packages.
    pub packages: Packages,
    /// What is taken out of them.
    #[serde(default)]
    pub take: Take,
    /// Programs of this workspace.
    #[serde(default, rename = "program")]
    pub programs: Vec<Program>,
    /// Files written by the recipe itself. Longer ones lie in `image/rootfs/NAME/`, which is copied as it is.
    #[serde(default, rename = "file")]
    pub files: Vec<StaticFile>,
    /// Other permissions or owners than a package or `image/rootfs/NAME/` gives.
    #[serde(default, rename = "permission")]
    pub permissions: Vec<Permission>,
    /// Directories that no package brings, such as mount points.
    #[serde(default, rename = "directory")]
    pub directories: Vec<Directory>,
    /// Symbolic links: path in the image to target.
    #[serde(default)]
    pub symlinks: BTreeMap<String, String>,
    /// Lines of /etc/passwd.
    #[serde(default, rename = "user")]
    pub users: Vec<User>,
    /// Lines of /etc/group beyond one group per user.
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
    /// What PID 1 supervises: each program must be in the image and its user declared.
    #[serde(default, rename = "service")]
    pub services: Vec<Service>,
    /// Kernel modules; only for a node.
    pub modules: Option<Modules>,
    /// How the image boots; only for a node.
    pub boot: Option<Boot>,
    /// Sizes of partitions, and what the artifacts may weigh.
    #[serde(default)]
    pub sizes: Sizes,
    /// Programs of the tree run while building; only for a guest.
    #[serde(default)]
    pub generate: Vec<Generate>,
    /// Exceptions to the checks of the finished tree, each by name.
    #[serde(default)]
    pub checks: Checks,
}

/// What is made of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A bootable machine image.
    Node,
    /// A disk image (DI) for a container guest, `tar.zst`.
    Guest,
}

/// Debian packages of the image.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Packages {
    /// What apt is asked for; dependencies follow, recommendations do not.
    pub install: Vec<String>,
    /// Packages of the closure that are never fetched or opened; `*` matches any letters.
    #[serde(default)]
    pub without: Vec<String>,
}

/// What is taken out of the packages.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Take {
    /// Programs, by absolute path; every library they need follows.
    #[serde(default)]
    pub binaries: Vec<String>,
    /// Any files, by glob; each pattern must match.
    #[serde(default)]
    pub globs: Vec<String>,
    /// Libraries opened at run time, by glob: what DT_NEEDED cannot tell.
    #[serde(default)]
    pub dlopen: Vec<String>,
    /// Firmware files, by glob below /usr/lib/firmware.
    #[serde(default)]
    pub firmware: Vec<String>,
    /// For a guest: paths left out, by glob. A pattern that matches a directory drops what is below it.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// For a guest: exceptions to `exclude`, by glob.
    #[serde(default)]
    pub keep: Vec<String>,
}

/// A program of this workspace, built by cargo.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Program {
    /// Name of the binary.
    pub name: String,
    /// Where it goes.
    pub path: String,
}

/// A file whose content the recipe gives.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StaticFile {
    /// Where it goes.
    pub path: String,
    /// Content.
    pub text: String,
    /// Octal permissions; default 0644.
    #[serde(default = "mode_file")]
    pub mode: Mode,
    /// Owner by name; default root.
    #[serde(default = "root")]
    pub owner: String,
    /// Group by name; default root.
    #[serde(default = "root")]
    pub group: String,
}

/// Another owner or other permissions for something that is in the tree by other means.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Permission {
    /// Where it is.
    pub path: String,
    /// Octal permissions.
    pub mode: Mode,
    /// Owner by name; default root.
    #[serde(default = "root")]
    pub owner: String,
    /// Group by name; default root.
    #[serde(default = "root")]
    pub group: String,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Directory {
    /// Where.
    pub path: String,
    /// Octal permissions; default 0755.
    #[serde(default = "mode_dir")]
    pub mode: Mode,
    /// Owner by name; default root.
    #[serde(default = "root")]
    pub owner: String,
    /// Group by name; default root.
    #[serde(default = "root")]
    pub group: String,
}

/// A user. A group of the same name and number is made with it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct User {
    /// Login name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Home directory.
    #[serde(default = "nonexistent")]
    pub home: String,
    /// Login shell.
    #[serde(default = "nologin")]
    pub shell: String,
    /// Name in full.
    #[serde(default)]
    pub comment: String,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: u32,
    /// Users that belong to it besides those whose own group it is.
    #[serde(default)]
    pub members: Vec<String>,
}

/// A program that PID 1 keeps running.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Service {
    /// Name in logs.
    pub name: String,
    /// Its program, by absolute path.
    pub program: String,
    /// The user it runs as.
    #[serde(default = "root")]
    pub user: String,
}

/// Kernel modules.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Modules {
    /// Modules of the initrd: only what finding and verifying the root needs.
    pub initrd: Vec<String>,
    /// Modules of the root, in named sets. What they depend on follows.
    pub root: BTreeMap<String, Vec<String>>,
    /// Firmware that included modules may ask for and the image does not have, by glob below
    /// /usr/lib/firmware. Any other missing firmware is fatal.
    #[serde(default)]
    pub firmware_absent: Vec<String>,
}

/// How a node boots.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Boot {
    /// Kernel command line; the builder appends the root hash.
    pub cmdline: String,
    /// Program that is `/init` of the initrd, by name of a `[[program]]`.
    pub init: String,
    /// The kernel, by glob in the packages.
    #[serde(default = "kernel")]
    pub kernel: String,
    /// The EFI stub of the UKI, by path in the packages.
    #[serde(default = "stub")]
    pub stub: String,
    /// The boot loader, by path in the packages.
    #[serde(default = "loader")]
    pub loader: String,
}

/// Sizes in MiB of partitions, and budgets in MB (10^6 bytes) of artifacts: going over one is fatal.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Sizes {
    /// EFI system partition, MiB.
    pub esp_mib: u32,
    /// Seed partition, MiB.
    pub seed_mib: u32,
    /// One root slot with its hash tree, MiB.
    pub slot_mib: u32,
    /// Most that the root may weigh at level release, MB.
    pub root_budget_mb: Option<u32>,
    /// Most that the root may weigh at level dev, MB.
    pub root_budget_dev_mb: Option<u32>,
    /// Most that the UKI may weigh, MB.
    pub uki_budget_mb: Option<u32>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            esp_mib: 512,
            seed_mib: 16,
            slot_mib: 256,
            root_budget_mb: None,
            root_budget_dev_mb: None,
            uki_budget_mb: None,
        }
    }
}

/// A program of the tree run while building, for what maintainer scripts would have generated.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Generate {
    /// What it makes; shown while building and in errors.
    pub name: String,
    /// Program (absolute path in the tree) and arguments; `{root}` becomes the unpacked tree's folder.
    pub run: Vec<String>,
    /// Environment, nothing else is passed but `LC_ALL=C`, `PATH`, `HOME`, `SOURCE_DATE_EPOCH`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Path in the tree that the program's standard output becomes.
    pub stdout: Option<String>,
    /// What the program writes, by glob: only these come back into the tree. Each must match.
    #[serde(default)]
    pub outputs: Vec<String>,
    /// Replace the unpacked tree's folder by nothing in the outputs; default true. An output that is no
    /// text and still holds the folder's name is an error.
    #[serde(default = "yes")]
    pub rewrite: bool,
}

/// Exceptions to the checks of the finished tree.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Checks {
    /// Files that may be set-uid or set-gid, by path.
    #[serde(default)]
    pub setuid: Vec<String>,
    /// Files and directories without sticky bit that all may write, by path.
    #[serde(default)]
    pub world_writable: Vec<String>,
    /// Symbolic links whose target appears only at run time, by glob of the link.
    #[serde(default)]
    pub dangling: Vec<String>,
    /// Libraries that a file in the image names but never gets, by library name.
    #[serde(default)]
    pub absent_libraries: Vec<String>,
    /// Files that several packages bring, by path: the package later in the alphabet wins.
    #[serde(default)]
    pub duplicates: Vec<String>,
    /// Shells and interpreters that a node may have, by path. With one of them the image calls itself a debug image.
    #[serde(default)]
    pub interpreters: Vec<String>,
}

/// Octal permissions, written as a string: `mode = "0755"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if bits <= 0o7777 && text.len() <= 5 => Ok(Self(bits)),
            _ => Err(serde::de::Error::custom(format!("mode '{text}' is not octal: expected \"0644\" or the like"))),
        }
    }
}

fn mode_file() -> Mode {
    Mode(0o644)
}
fn mode_dir() -> Mode {
    Mode(0o755)
}
fn root() -> String {
    "root".to_owned()
}
fn nonexistent() -> String {
    "/nonexistent".to_owned()
}
fn nologin() -> String {
    "/usr/sbin/nologin".to_owned()
}
fn kernel() -> String {
    "/boot/vmlinuz-*".to_owned()
}
fn stub() -> String {
    "/usr/lib/systemd/boot/efi/linuxx64.efi.stub".to_owned()
}
fn loader() -> String {
    "/usr/lib/systemd/boot/efi/systemd-bootx64.efi".to_owned()
}
fn yes() -> bool {
    true
}

/// A recipe with the places that belong to it.
#[derive(Debug, Clone)]
pub struct Located {
    /// The recipe.
    pub recipe: Recipe,
    /// What it was asked for by: a name or a path. Advice on commands must use it, for by its own name a recipe
    /// outside `image/recipes/` is not found.
    pub asked: String,
    /// Its file.
    pub file: PathBuf,
    /// Its text, as read; that of the recipe that it extends in front.
    pub text: String,
    /// Name of the recipe that it extends.
    pub base: Option<String>,
}

impl Located {
    /// Finds a recipe by name (in `image/recipes/` of the source tree) or by path, and reads it.
    pub fn find(name_or_path: &str, source_tree: &Path) -> Result<Self> {
        let file = locate(name_or_path, source_tree)?;
        let asked = name_or_path.to_owned();
        let text = std::fs::read_to_string(&file).map_err(at("read", &file))?;
        let Some(base) = base_of(&text, &file)? else {
            let recipe = Recipe::parse(&text, &file)?;
            return Ok(Self { recipe, asked, file, text, base: None });
        };
        let base_file = file.with_file_name(format!("{base}.toml"));
        let base_text = std::fs::read_to_string(&base_file).map_err(at("read", &base_file))?;
        if base_of(&base_text, &base_file)?.is_some() {
            let problem = format!("it extends '{base}', which extends another: only one step is known");
            return Err(Error::Recipe { recipe: asked, problem });
        }
        let recipe = Recipe::parse_on(&text, &file, &base_text, &base_file)?;
        Ok(Self { recipe, asked, file, text: base_text + &text, base: Some(base) })
    }

    /// The lock beside the recipe: `NAME.lock`.
    pub fn lock_file(&self) -> PathBuf {
        self.file.with_extension("lock")
    }

    /// Static files: `../rootfs/NAME` from the recipe; those of the recipe that it extends first.
    pub fn rootfs(&self) -> Vec<PathBuf> {
        let all = self.file.parent().unwrap_or(Path::new(".")).join("../rootfs");
        self.base.iter().chain([&self.recipe.name]).map(|name| all.join(name)).collect()
    }
}

/// The recipe that this text extends.
fn base_of(text: &str, file: &Path) -> Result<Option<String>> {
    let table: toml::Table = from_toml(text, file)?;
    let wrong = |problem| Error::Recipe { recipe: file.display().to_string(), problem };
    extend::base(&table).transpose().map(|base| base.map(str::to_owned)).map_err(wrong)
}

fn locate(name_or_path: &str, source_tree: &Path) -> Result<PathBuf> {
    if name_or_path.contains('/') || name_or_path.ends_with(".toml") {
        return Ok(PathBuf::from(name_or_path));
    }
    let folder = source_tree.join("image/recipes");
    let file = folder.join(format!("{name_or_path}.toml"));
    if file.is_file() { Ok(file) } else { Err(no_recipe(name_or_path, &folder)) }
}

fn no_recipe(name: &str, folder: &Path) -> Error {
    let mut known: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    known.sort();
    let hint = match model::suggest::nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("; did you mean '{near}'?"),
        None => String::new(),
    };
    let listed = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Error::NoRecipe { name: name.to_owned(), looked: folder.display().to_string(), known: listed, hint }
}
