//! Kernel modules: what each says of itself, the closure of a set, and the index files that
//! `node-init` reads instead of running kmod.
//!
//! Debian's kernel package has no `modules.dep`: its maintainer script makes one for all modules. Here
//! the index covers exactly the modules of one tree. Every module of the package is looked into once per
//! kernel version (soft dependencies may name an alias, and only the modules say who has it); the
//! result is kept in the cache.

mod index;
mod info;

use std::collections::{BTreeMap, BTreeSet};

use image::{Entry, Tree};
use sha2::{Digest as _, Sha256};

pub use info::Info;

use crate::cache::{Cache, write_whole};
use crate::error::{Error, Result, at};
use crate::parallel::each_in_parallel;
use crate::pool::{Glob, Pool};
use crate::recipe::Modules;
use crate::report::Report;

/// The modules of the kernel package.
#[derive(Debug)]
pub struct Kernel {
    /// `6.12.0-amd64`, as `uname -r` says.
    pub version: String,
    /// By name, with `_` for `-`: path below the version's folder and what the module says.
    modules: BTreeMap<String, Module>,
    /// Names of what is in the kernel itself.
    builtin: BTreeSet<String>,
}

/// One module of the package.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Module {
    /// Below the version's folder, as in the package: `kernel/fs/ext4/ext4.ko.xz`.
    pub path: String,
    /// What it says of itself.
    pub info: Info,
}

/// How modules lie in a tree.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// As in the package: the kernel reads `.xz` itself.
    Packed,
    /// Decompressed, which makes a root smaller that is compressed anyway; this cache has what was decompressed before.
    Plain(&'a Cache),
}

impl Kernel {
    /// Reads all modules of the one kernel in the pool.
    pub fn find(pool: &Pool, cache: &Cache, report: &Report) -> Result<Self> {
        let version = version(pool)?;
        let folder = format!("usr/lib/modules/{version}");
        let files: Vec<String> =
            pool.tree.below(&folder).map(|(p, _)| p).filter(|p| is_module(p)).map(str::to_owned).collect();
        let builtin = builtin(pool, &folder)?;
        let key = format!("{}.json", digest_of(pool, &files)?);
        let stored = cache.folder("steps/modinfo")?.join(key);
        let known = std::fs::read(&stored).ok().and_then(|b| serde_json::from_slice(&b).ok());
        let modules = match known {
            Some(modules) => modules,
            None => {
                let modules = read_all(pool, &folder, files, report)?;
                let text = serde_json::to_vec(&modules).map_err(|e| at("write", &stored)(e.into()))?;
                write_whole(&stored, &text)?;
                modules
            }
        };
        Ok(Self { version, modules, builtin })
    }

    /// A set of modules with all that they depend on, and softly depend on.
    pub fn closure(
        &self,
        wanted: impl IntoIterator<Item = String>,
    ) -> std::result::Result<BTreeSet<String>, Vec<String>> {
        let mut found = BTreeSet::new();
        let mut problems = Vec::new();
        for wish in wanted {
            let name = plain(&wish);
            if self.modules.contains_key(&name) {
                self.add(name, &mut found);
            } else if !self.builtin.contains(&name) {
                let hint = model::suggest::nearest(&name, self.modules.keys().map(String::as_str));
                let hint = hint.map(|h| format!("; did you mean '{h}'?")).unwrap_or_default();
                problems.push(format!("module {wish}: neither in the kernel package nor built in{hint}"));
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(problems) }
    }

    fn add(&self, name: String, found: &mut BTreeSet<String>) {
        let mut queue = vec![name];
        while let Some(name) = queue.pop() {
            let Some(module) = self.modules.get(&name) else { continue };
            if found.insert(name) {
                queue.extend(module.info.depends.iter().cloned());
                queue.extend(module.info.soft.iter().flat_map(|(_, wish)| self.providers(wish)));
            }
        }
    }

    /// Modules of this name, or with exactly this alias: soft dependencies name either.
    fn providers(&self, wish: &str) -> Vec<String> {
        let name = plain(wish);
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        let has = |m: &Module| m.info.aliases.iter().any(|a| plain(a) == name);
        self.modules.iter().filter(|(_, m)| has(m)).map(|(n, _)| n.clone()).collect()
    }

    /// Puts modules into a tree with their index.
    pub fn place(&self, names: &BTreeSet<String>, pool: &Pool, tree: &mut Tree, form: Form<'_>) -> Result<()> {
        let folder = format!("usr/lib/modules/{}", self.version);
        let placed: BTreeMap<&str, &Module> =
            names.iter().filter_map(|n| Some((n.as_str(), self.modules.get(n)?))).collect();
        for module in placed.values() {
            let source = format!("{folder}/{}", module.path);
            let Some(entry) = pool.tree.get(&source) else { continue };
            let (path, entry) = match form {
                Form::Packed => (source, entry.clone()),
                Form::Plain(cache) => kept_module(&source, entry, cache)?,
            };
            insert(tree, &path, entry)?;
        }
        let compressed = matches!(form, Form::Packed);
        for (name, text) in index::files(&placed, &self.builtin, compressed) {
            insert(tree, &format!("{folder}/{name}"), Entry::file(0o644, text).from_origin("roost"))?;
        }
        Ok(())
    }

    /// Firmware that these modules name: what the pool has; and as problems what nobody has and the recipe does not
    /// give up on, and what it gives up on that no module names.
    pub fn firmware(&self, names: &BTreeSet<String>, pool: &Pool, recipe: &Modules) -> (BTreeSet<String>, Vec<String>) {
        let mut absent: Vec<(Glob, bool)> =
            Glob::all(&recipe.firmware_absent).unwrap_or_default().into_iter().map(|g| (g, false)).collect();
        let mut found = BTreeSet::new();
        let mut problems = Vec::new();
        for (module, file) in names.iter().flat_map(|n| self.firmware_of(n).iter().map(move |f| (n, f))) {
            let path = format!("/usr/lib/firmware/{file}");
            if pool.tree.exists(&path) {
                found.insert(path);
                continue;
            }
            let mut excused = false;
            for (_, used) in absent.iter_mut().filter(|(glob, _)| glob.matches(file)) {
                (*used, excused) = (true, true);
            }
            if !excused {
                problems.push(format!("firmware {file}: in no package, named by module {module}; add its package, or name it in modules.firmware-absent"));
            }
        }
        let idle = recipe.firmware_absent.iter().zip(&absent).filter(|(_, (_, used))| !used);
        problems.extend(
            idle.map(|(text, _)| format!("modules.firmware-absent: '{text}' excuses no firmware: leave it out")),
        );
        (found, problems)
    }

    fn firmware_of(&self, module: &str) -> &[String] {
        self.modules.get(module).map_or(&[], |m| &m.info.firmware)
    }
}

fn insert(tree: &mut Tree, path: &str, entry: Entry) -> Result<()> {
    tree.insert_with_parents(path, entry)
        .map(drop)
        .map_err(|source| Error::Assemble { action: format!("put /{path} into the image"), source: Box::new(source) })
}

/// The one kernel in the pool.
fn version(pool: &Pool) -> Result<String> {
    let versions: Vec<&str> =
        pool.tree.children("usr/lib/modules").filter(|(_, e)| e.is_dir()).map(|(n, _)| n).collect();
    match versions.as_slice() {
        [one] => Ok((*one).to_owned()),
        other => Err(Error::Module {
            path: "/usr/lib/modules".to_owned(),
            problem: format!(
                "found {} kernels ({}), expected one: check packages.install",
                other.len(),
                other.join(", ")
            ),
        }),
    }
}

fn builtin(pool: &Pool, folder: &str) -> Result<BTreeSet<String>> {
    let path = format!("{folder}/modules.builtin");
    let content = pool.tree.get(&path).and_then(Entry::content);
    let missing = || Error::Module { path: path.clone(), problem: "it is missing from the kernel package".to_owned() };
    let bytes = content.ok_or_else(missing)?.read().map_err(|e| deb_error(pool, &path, Box::new(e)))?;
    Ok(String::from_utf8_lossy(&bytes).lines().map(name_of).collect())
}

/// Names the package's modules by their package's unpacked file: equal for equal packages, free to compute.
fn digest_of(pool: &Pool, files: &[String]) -> Result<String> {
    let first = files.first().and_then(|f| pool.tree.get(f)).and_then(Entry::content);
    let name = match first {
        Some(image::Content::Part { path, .. }) => path.file_stem().map(|s| s.to_string_lossy().into_owned()),
        _ => None,
    };
    name.ok_or_else(|| Error::Module {
        path: "/usr/lib/modules".to_owned(),
        problem: "the kernel package has no modules".to_owned(),
    })
}

fn read_all(pool: &Pool, folder: &str, files: Vec<String>, report: &Report) -> Result<BTreeMap<String, Module>> {
    let length = |f: &String| pool.tree.get(f).and_then(Entry::content).map_or(0, image::Content::len);
    let step = report.step("modinfo", Some(files.iter().map(length).sum()));
    let found = std::sync::Mutex::new(BTreeMap::new());
    let count = files.len();
    each_in_parallel(files, |file| -> Result<()> {
        let Some(entry) = pool.tree.get(&file) else { return Ok(()) };
        let (_, plain) = plain_module(&file, entry)?;
        let bytes =
            plain.content().map(image::Content::read).transpose().map_err(|e| deb_error(pool, &file, Box::new(e)))?;
        let info =
            Info::read(&bytes.unwrap_or_default()).map_err(|problem| Error::Module { path: file.clone(), problem })?;
        step.advance(length(&file));
        let path = file[folder.len() + 1..].to_owned();
        found.lock().unwrap_or_else(|e| e.into_inner()).insert(name_of(&file), Module { path, info });
        Ok(())
    })?;
    step.end(&format!("{count} modules"));
    Ok(found.into_inner().unwrap_or_else(|e| e.into_inner()))
}

/// A module decompressed, with the name it then has.
fn plain_module(path: &str, entry: &Entry) -> Result<(String, Entry)> {
    unpacked(path, entry, |packed| Ok(unpack(path, packed)?.into()))
}

/// The same, decompressed once and then kept.
fn kept_module(path: &str, entry: &Entry, cache: &Cache) -> Result<(String, Entry)> {
    let folder = cache.folder("steps/module")?;
    unpacked(path, entry, |packed| {
        let file = folder.join(format!("{}.ko", image::verity::hex(&Sha256::digest(packed))));
        if !file.exists() {
            write_whole(&file, &unpack(path, packed)?)?;
        }
        image::Content::from_path(file).map_err(|e| broken(path, e.to_string()))
    })
}

fn unpacked(
    path: &str,
    entry: &Entry,
    unpack: impl FnOnce(&[u8]) -> Result<image::Content>,
) -> Result<(String, Entry)> {
    let content = entry.content().ok_or_else(|| broken(path, "it is no file".to_owned()))?;
    let Some(short) = path.strip_suffix(".xz") else { return Ok((path.to_owned(), entry.clone())) };
    let packed = content.read().map_err(|e| broken(path, e.to_string()))?;
    let mut entry = entry.clone();
    entry.kind = image::Kind::File(unpack(&packed)?);
    Ok((short.to_owned(), entry))
}

fn unpack(path: &str, packed: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(packed.len() * 5);
    std::io::Read::read_to_end(&mut lzma_rust2::XzReader::new(packed, true), &mut plain)
        .map_err(|e| broken(path, format!("cannot decompress: {e}")))?;
    Ok(plain)
}

fn broken(path: &str, problem: String) -> Error {
    Error::Module { path: format!("/{path}"), problem }
}

fn deb_error(pool: &Pool, path: &str, source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let package = pool.tree.get(path).and_then(|e| e.origin.as_deref()).unwrap_or("(unknown)").to_owned();
    Error::Deb { package, part: format!("/{path}"), source }
}

fn is_module(path: &str) -> bool {
    path.ends_with(".ko") || path.ends_with(".ko.xz")
}

/// `kernel/fs/nls/nls_utf-8.ko.xz` is module `nls_utf_8`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    plain(file.split(".ko").next().unwrap_or(file))
}

/// The kernel takes `-` and `_` in module names as one.
fn plain(name: &str) -> String {
    name.trim().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(modules: &[(&str, &str)]) -> Kernel {
        let module = |text: &str| Module {
            path: String::new(),
            info: Info::parse(text.replace(' ', "\0").replace('_', " ").as_bytes()),
        };
        Kernel {
            version: "6".into(),
            modules: modules.iter().map(|(n, t)| ((*n).to_owned(), module(t))).collect(),
            builtin: BTreeSet::from(["fuse".to_owned()]),
        }
    }

    #[test]
    fn dependencies_soft_ones_and_providers_of_aliases_follow() {
        let kernel = kernel(&[
            ("btrfs", "depends=libcrc,raid"),
            ("libcrc", "softdep=pre:_crc32c"),
            ("raid", "depends="),
            ("crc32c_generic", "alias=crc32c alias=crypto-crc32c"),
            ("other", "depends=btrfs"),
        ]);
        let found = kernel.closure(["btrfs".to_owned(), "fuse".to_owned()]).expect("all there");
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["btrfs", "crc32c_generic", "libcrc", "raid"]);
    }

    #[test]
    fn an_unknown_module_is_named_with_the_nearest_one() {
        let problems = kernel(&[("virtio_blk", "")]).closure(["virtio-bkl".to_owned()]).expect_err("a slip");
        assert_eq!(
            problems,
            ["module virtio-bkl: neither in the kernel package nor built in; did you mean 'virtio_blk'?"]
        );
    }

    #[test]
    fn firmware_is_taken_given_up_by_name_or_a_problem() {
        let kernel = kernel(&[("nic", "firmware=a/1.bin firmware=a/2.bin firmware=b/1.bin"), ("other", "firmware=c")]);
        let mut pool = Pool { tree: crate::pool::merged_tree(), duplicates: BTreeMap::new() };
        let held = Entry::file(0o644, "bytes");
        pool.tree.insert_with_parents("usr/lib/firmware/a/1.bin", held).expect("inserted");
        let absent = vec!["b/*".to_owned(), "c".to_owned()];
        let recipe = Modules { initrd: vec![], root: BTreeMap::new(), firmware_absent: absent };
        let (found, problems) = kernel.firmware(&BTreeSet::from(["nic".to_owned()]), &pool, &recipe);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["/usr/lib/firmware/a/1.bin"]);
        let expect = [
            "firmware a/2.bin: in no package, named by module nic; add its package, or name it in modules.firmware-absent",
            "modules.firmware-absent: 'c' excuses no firmware: leave it out",
        ];
        assert_eq!(problems, expect);
    }

    #[test]
    fn file_names_become_module_names() {
        assert_eq!(name_of("kernel/fs/nls/nls_utf-8.ko.xz"), "nls_utf_8");
        assert_eq!(name_of("kernel/fs/fuse/fuse.ko"), "fuse");
    }
}
