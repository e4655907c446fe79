//! The lock: exactly which packages a recipe means.
//!
//! Written by `roost lock` after apt verified the archive's signature, read by every build. It names no
//! host: `path` is relative to the archive's root on whatever mirror the builder uses, and the SHA-256
//! makes every mirror equal. One package a line, so that a change of version is a change of one line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use model::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, TextError, at};
use crate::recipe::Recipe;

/// Layout of the lock file. A builder refuses any other.
const FORMAT: u32 = 1;

/// A lock file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Layout of this file: 1.
    pub format: u32,
    /// When the newest of the archive's signed indexes was made, in seconds since 1970. It is the time of
    /// every file that has no older one.
    pub epoch: u64,
    /// What the recipe asked for.
    pub install: Vec<String>,
    /// The answer, sorted by name.
    #[serde(rename = "package")]
    pub packages: Vec<Package>,
}

/// One package of a lock.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Full version, with epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub arch: String,
    /// Which archive it comes from.
    pub archive: Archive,
    /// Place in the archive, `pool/...`.
    pub path: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// Digest of the .deb.
    pub sha256: Digest,
}

/// Debian's archives: security has its own tree on every mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Archive {
    /// `debian`: the suite and its updates.
    Debian,
    /// `debian-security`.
    Security,
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl Lock {
    /// Version of each package by name.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.packages.iter().map(|p| (p.name.clone(), p.version.clone())).collect()
    }

    /// A lock of these packages, sorted.
    pub fn new(epoch: u64, install: &[String], mut packages: Vec<Package>) -> Self {
        packages.sort();
        let mut install = install.to_vec();
        install.sort();
        install.dedup();
        Self { format: FORMAT, epoch, install, packages }
    }

    /// Reads a lock; `file` is only named in errors.
    pub fn parse(text: &str, file: &Path) -> Result<Self> {
        let lock: Self = crate::recipe::from_toml(text, file)?;
        lock.check().map_err(|message| {
            Error::Text(TextError { file: file.to_owned(), line: 1, column: 1, message, nearest: None })
        })?;
        Ok(lock)
    }

    /// Reads a lock file; `None` when there is none yet.
    pub fn read(file: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&text, file).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at("read", file)(e)),
        }
    }

    /// Writes the lock file whole or not at all.
    pub fn write(&self, file: &Path) -> Result<()> {
        crate::cache::write_whole(file, self.to_text().as_bytes())
    }

    /// The text of the lock file.
    pub fn to_text(&self) -> String {
        let mut text = String::from("# Written by `roost lock`; not for editing.\n");
        let _ = writeln!(text, "format = {}\nepoch = {}\ninstall = [", self.format, self.epoch);
        for name in &self.install {
            let _ = writeln!(text, "  {name:?},");
        }
        text.push_str("]\npackage = [\n");
        for p in &self.packages {
            let archive = match p.archive {
                Archive::Debian => "debian",
                Archive::Security => "security",
            };
            let _ = writeln!(
                text,
                "  {{ name = {:?}, version = {:?}, arch = {:?}, archive = {archive:?}, path = {:?}, size = {}, sha256 = \"{}\" }},",
                p.name, p.version, p.arch, p.path, p.size, p.sha256
            );
        }
        text.push_str("]\n");
        text
    }

    /// Says what the recipe asks for and this lock does not answer, if anything.
    pub fn misfit(&self, recipe: &Recipe) -> Option<String> {
        let locked = |name: &&String| self.install.contains(name);
        let news: Vec<&str> = recipe.packages.install.iter().filter(|n| !locked(n)).map(String::as_str).collect();
        let asked = |name: &&String| recipe.packages.install.contains(name);
        let olds: Vec<&str> = self.install.iter().filter(|n| !asked(n)).map(String::as_str).collect();
        match (news.is_empty(), olds.is_empty()) {
            (true, true) => None,
            (false, _) => Some(format!("the recipe installs {}, which is not locked", news.join(", "))),
            (true, false) => {
                Some(format!("the lock was made for {}, which the recipe no longer installs", olds.join(", ")))
            }
        }
    }

    /// What moved between an older lock and this one, a line each.
    pub fn moved_from(&self, old: &Self) -> Vec<String> {
        let find = |lock: &Self, name: &str| lock.packages.iter().find(|p| p.name == name).cloned();
        let mut lines = Vec::new();
        for p in &self.packages {
            match find(old, &p.name) {
                None => lines.push(format!("+ {p}")),
                Some(o) if o.version != p.version => lines.push(format!("  {} {} -> {}", p.name, o.version, p.version)),
                Some(o) if o.sha256 != p.sha256 => lines.push(format!("  {p}: same version, other bytes")),
                Some(_) => {}
            }
        }
        lines.extend(old.packages.iter().filter(|o| find(self, &o.name).is_none()).map(|o| format!("- {o}")));
        lines
    }

    fn check(&self) -> std::result::Result<(), String> {
        if self.format != FORMAT {
            return Err(format!("format is {}, this builder reads {FORMAT}: run `roost lock` again", self.format));
        }
        if let Some(pair) = self.packages.windows(2).find(|w| w[0].name >= w[1].name) {
            return Err(format!(
                "packages must be sorted and each named once, but {} comes before {}",
                pair[0].name, pair[1].name
            ));
        }
        self.packages.iter().find_map(|p| p.problem()).map_or(Ok(()), Err)
    }
}

impl Package {
    /// A path outside the pool would let a lock fetch anything from the mirror's host.
    fn problem(&self) -> Option<String> {
        let plain = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric() || "+-.~:_".contains(c));
        if !plain(&self.name) || !plain(&self.version) {
            return Some(format!("'{}' '{}' is no package name and version", self.name, self.version));
        }
        let inside = self.path.starts_with("pool/") && self.path.ends_with(".deb");
        let steps = self.path.split('/').all(|c| plain(c) && c != "." && c != "..");
        (!inside || !steps).then(|| format!("package {}: path '{}' is not below pool/", self.name, self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            arch: "amd64".into(),
            archive: Archive::Security,
            path: format!("pool/main/{name}_{version}.deb"),
            size: 7,
            sha256: Digest([7; 32]),
        }
    }

    #[test]
    fn a_lock_is_written_sorted_one_package_a_line_and_read_back() {
        let lock = Lock::new(9, &["b".into(), "aa".into()], vec![package("bb", "1:2"), package("aa", "1+b~1")]);
        let text = lock.to_text();
        assert_eq!(text.lines().filter(|l| l.contains("sha256")).count(), 2);
        assert!(text.find("\"aa\", version").expect("aa") < text.find("\"bb\", version").expect("bb"));
        assert_eq!(Lock::parse(&text, Path::new("x.lock")).expect("own text"), lock);
    }

    #[track_caller]
    fn check(change: impl Fn(&mut Lock), expect: &str) {
        let mut lock = Lock::new(9, &["aa".into()], vec![package("aa", "1"), package("bb", "1")]);
        change(&mut lock);
        let error = Lock::parse(&lock.to_text(), Path::new("x.lock")).expect_err("a bad lock").to_string();
        assert_eq!(error, format!("x.lock:1:1: {expect}"));
    }

    #[test]
    fn a_lock_that_could_mislead_a_build_is_refused() {
        check(|l| l.format = 2, "format is 2, this builder reads 1: run `roost lock` again");
        check(|l| l.packages.swap(0, 1), "packages must be sorted and each named once, but bb comes before aa");
        check(|l| l.packages[0].path = "pool/../x.deb".into(), "package aa: path 'pool/../x.deb' is not below pool/");
        check(|l| l.packages[0].path = "x.deb".into(), "package aa: path 'x.deb' is not below pool/");
        check(|l| l.packages[0].version = "1 2".into(), "'aa' '1 2' is no package name and version");
    }

    #[test]
    fn a_lock_that_answers_another_question_says_which() {
        let recipe = |install: &str| {
            let text = format!("name = \"x\"\nkind = \"guest\"\n[packages]\ninstall = [{install}]\n");
            Recipe::parse(&text, Path::new("x.toml")).expect("a recipe")
        };
        let lock = Lock::new(9, &["aa".into(), "bb".into()], Vec::new());
        assert_eq!(lock.misfit(&recipe("\"bb\", \"aa\"")), None);
        let problem = lock.misfit(&recipe("\"aa\", \"bb\", \"cc\""));
        assert_eq!(problem.as_deref(), Some("the recipe installs cc, which is not locked"));
        let problem = lock.misfit(&recipe("\"aa\""));
        assert_eq!(problem.as_deref(), Some("the lock was made for bb, which the recipe no longer installs"));
    }

    #[test]
    fn each_recipe_of_the_tree_has_a_lock_that_answers_it() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let recipes = std::fs::read_dir(tree.join("image/recipes")).expect("a folder").flatten().map(|e| e.path());
        for file in recipes.filter(|path| path.extension().is_some_and(|e| e == "toml")) {
            let located = crate::recipe::Located::find(&file.to_string_lossy(), &tree).expect("a recipe");
            let lock = Lock::read(&located.lock_file()).expect("a lock").expect("it is there");
            assert_eq!(lock.misfit(&located.recipe), None, "{}", file.display());
        }
    }

    #[test]
    fn what_moved_is_told_by_name_and_version() {
        let old = Lock::new(1, &[], vec![package("aa", "1"), package("bb", "1")]);
        let new = Lock::new(2, &[], vec![package("aa", "2"), package("cc", "1")]);
        assert_eq!(new.moved_from(&old), ["  aa 1 -> 2", "+ cc 1", "- bb 1"]);
        assert!(new.moved_from(&new).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _ = Lock::parse(&text, Path::new("x.lock"));
        }

        #[test]
        fn any_version_of_any_package_survives_the_file(
            names in proptest::collection::btree_set("[a-z][a-z0-9+.-]{1,9}", 0..9), version in "[0-9][0-9a-z.+~-]{0,9}",
        ) {
            let lock = Lock::new(1, &[], names.iter().map(|n| package(n, &version)).collect());
            proptest::prop_assert_eq!(Lock::parse(&lock.to_text(), Path::new("x")).expect("own text"), lock);
        }
    }
}
