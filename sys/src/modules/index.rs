//! What `depmod` wrote: which file a module is, what it needs, which devices it serves.

use super::glob;
use crate::{Error, Result};
use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// The modules of one kernel.
///
/// The kernel asks for many a module in a process of its own, so opening costs little: the texts stay as they are,
/// entries are places in them, and the many aliases are only looked at when a name is not a module's own.
#[derive(Debug, Default)]
pub struct Index {
    dir: PathBuf,
    dep: String,
    /// Names of modules, and their lines in `dep`.
    modules: HashMap<String, Line>,
    alias: String,
    aliases: OnceCell<Vec<Alias>>,
    soft: HashMap<String, Soft>,
}

/// `FILE: NEEDS`.
#[derive(Debug)]
struct Line {
    file: Range<usize>,
    /// Files of what must be there before, farthest last.
    needs: Range<usize>,
}

#[derive(Debug)]
struct Alias {
    pattern: Range<usize>,
    module: Range<usize>,
}

#[derive(Debug, Default)]
struct Soft {
    before: Vec<String>,
    after: Vec<String>,
}

impl Index {
    /// Reads the index of `/usr/lib/modules/VERSION`. Without `modules.dep` that is an error; aliases and soft
    /// dependencies may be absent.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self> {
        let dir = dir.into();
        let path = dir.join("modules.dep");
        let dep = std::fs::read_to_string(&path).map_err(Error::of("read", path.display()))?;
        let optional = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
        let (alias, softdep) = (optional("modules.alias"), optional("modules.softdep"));
        Ok(Self::parse(dir, dep, alias, &softdep))
    }

    /// The index of the running kernel.
    pub fn of_running_kernel() -> Result<Self> {
        let name = nix::sys::utsname::uname().map_err(Error::of("ask for", "the kernel's version"))?;
        Self::open(Path::new("/usr/lib/modules").join(name.release()))
    }

    fn parse(dir: PathBuf, dep: String, alias: String, softdep: &str) -> Self {
        let mut modules = HashMap::new();
        for (file, needs) in dep.lines().filter_map(|l| l.split_once(':')) {
            let line = Line { file: place(&dep, file), needs: place(&dep, needs) };
            modules.insert(module_name(Path::new(file)), line);
        }
        let soft = softdep.lines().filter_map(parse_softdep).collect();
        Self { dir, dep, modules, alias, aliases: OnceCell::new(), soft }
    }

    /// Patterns and modules, in the file's order.
    fn aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.aliases.get_or_init(|| self.alias.lines().filter_map(|l| self.parse_alias(l)).collect());
        all.iter().map(|a| (&self.alias[a.pattern.clone()], &self.alias[a.module.clone()]))
    }

    /// `alias PATTERN MODULE`.
    fn parse_alias(&self, line: &str) -> Option<Alias> {
        let (pattern, module) = line.strip_prefix("alias ")?.trim().split_once(' ')?;
        Some(Alias { pattern: place(&self.alias, pattern), module: place(&self.alias, module.trim_start()) })
    }

    /// Names of the modules that serve this alias, which is [`normal`].
    fn matching(&self, alias: &str) -> Vec<String> {
        // Nearly all patterns begin with a literal word, so that a look at it spares most matches.
        let word = &alias.as_bytes()[..alias.find([':', '_', '-']).unwrap_or(0)];
        let begins = |pattern: &str| pattern.as_bytes().starts_with(word) || pattern.starts_with(['*', '?', '[']);
        let found = self.aliases().filter(|(p, _)| begins(p) && glob::matches(&normal(p), alias));
        found.map(|(_, m)| normal(m)).collect()
    }

    /// Files to load, in order, for a module's name or an alias; each once; empty when there is no such module.
    pub fn load_order(&self, name: &str) -> Vec<PathBuf> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        let plain = normal(name);
        if self.modules.contains_key(&plain) {
            self.visit(&plain, &mut seen, &mut order);
        } else {
            for module in self.matching(&plain) {
                self.visit(&module, &mut seen, &mut order);
            }
        }
        order
    }

    fn visit(&self, name: &str, seen: &mut HashSet<String>, order: &mut Vec<PathBuf>) {
        // Softdeps may name each other; a module is entered once.
        if !seen.insert(name.to_owned()) {
            return;
        }
        let Some(line) = self.modules.get(name) else {
            // A soft dependency may be an alias, such as `crypto-sha256`.
            self.matching(name).iter().for_each(|m| self.visit(m, seen, order));
            return;
        };
        let soft = self.soft.get(name);
        soft.iter().flat_map(|s| &s.before).for_each(|n| self.visit(n, seen, order));
        let needs = self.dep[line.needs.clone()].split_whitespace().rev();
        needs.for_each(|n| self.visit(&module_name(Path::new(n)), seen, order));
        order.push(self.dir.join(&self.dep[line.file.clone()]));
        soft.iter().flat_map(|s| &s.after).for_each(|n| self.visit(n, seen, order));
    }
}

/// Where in a text a part of it lies.
fn place(text: &str, part: &str) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + part.len()
}

/// `kernel/fs/nls/nls_utf8.ko.xz` is `nls_utf8`.
pub fn module_name(file: &Path) -> String {
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    normal(name.split('.').next().unwrap_or_default())
}

/// `-` and `_` mean the same in names and aliases, but not in the sets of a pattern.
fn normal(name: &str) -> String {
    let mut in_set = false;
    let one = |c: char| {
        in_set = (in_set || c == '[') && c != ']';
        if c == '-' && !in_set { '_' } else { c }
    };
    name.chars().map(one).collect()
}

/// `softdep NAME pre: A B post: C`.
fn parse_softdep(line: &str) -> Option<(String, Soft)> {
    let mut words = line.split_whitespace();
    let module = words.next().filter(|w| *w == "softdep").and_then(|_| words.next())?;
    let mut soft = Soft::default();
    let mut after = false;
    for word in words {
        match word {
            "pre:" => after = false,
            "post:" => after = true,
            name if after => soft.after.push(normal(name)),
            name => soft.before.push(normal(name)),
        }
    }
    Some((normal(module), soft))
}

/// Parameters of modules on the kernel's command line: `MODULE.NAME=VALUE`.
#[derive(Debug, Default)]
pub struct Params(HashMap<String, String>);

impl Params {
    /// Picks them out of a command line.
    pub fn parse(cmdline: &str) -> Self {
        let mut all: HashMap<String, String> = HashMap::new();
        for word in cmdline.split_whitespace() {
            let dotted = word.find('.').filter(|dot| word.find('=').is_none_or(|equals| *dot < equals));
            if let Some(dot) = dotted {
                let params = all.entry(normal(&word[..dot])).or_default();
                params.push_str(&word[dot + 1..]);
                params.push(' ');
            }
        }
        Self(all)
    }

    pub(super) fn of(&self, module: &str) -> String {
        self.0.get(module).map(|p| p.trim_end().to_owned()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a.ko.xz: kernel/b-x.ko.xz kernel/c.ko.xz\nkernel/b-x.ko.xz: kernel/c.ko.xz\n\
                       kernel/c.ko.xz:\nkernel/crc.ko.xz:\nkernel/hook.ko.xz:\n";
    const ALIAS: &str =
        "# Aliases\nalias pci:v*d00000001* a\nalias crypto-crc32c crc\nalias pci:v* hook\nalias fs-a a\n";
    const SOFT: &str = "softdep c pre: crypto-crc32c post: hook\nsoftdep hook pre: c\n";

    #[track_caller]
    fn check(name: &str, expect: &[&str]) {
        let index = Index::parse("/m".into(), DEP.to_owned(), ALIAS.to_owned(), SOFT);
        let names: Vec<_> = index.load_order(name).iter().map(|p| module_name(p)).collect();
        assert_eq!(names, expect);
    }

    #[test]
    fn what_a_module_needs_comes_first() {
        check("a", &["crc", "c", "hook", "b_x", "a"]);
        check("b-x", &["crc", "c", "hook", "b_x"]);
        check("fs-a", &["crc", "c", "hook", "b_x", "a"]);
        check("pci:v0d00000001x", &["crc", "c", "hook", "b_x", "a"]);
        check("pci:v0d2", &["crc", "c", "hook"]);
        check("nothing", &[]);
    }

    #[test]
    fn parameters_come_from_the_command_line() {
        let params =
            Params::parse("quiet kvm-intel.nested=1 loop.max_loop=4 kvm_intel.ept root=a.b=c console=ttyS0,115200.x");
        assert_eq!(params.of("kvm_intel"), "nested=1 ept");
        assert_eq!(params.of("loop"), "max_loop=4");
        assert_eq!(params.of("console=ttyS0,115200"), "");
    }
}
