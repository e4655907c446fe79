//! The index files beside the modules, in the text formats that kmod's tools read and write.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::Module;

/// `modules.dep`, `modules.alias`, `modules.softdep` and `modules.builtin` for exactly these modules.
pub fn files(
    modules: &BTreeMap<&str, &Module>,
    builtin: &BTreeSet<String>,
    compressed: bool,
) -> [(&'static str, String); 4] {
    [
        ("modules.dep", dep(modules, compressed)),
        ("modules.alias", alias(modules)),
        ("modules.softdep", softdep(modules)),
        ("modules.builtin", builtin.iter().map(|n| format!("{n}.ko\n")).collect()),
    ]
}

/// `path: path...`, where the whole chain of dependencies is listed, nearest first: loading from the end of the line
/// to its beginning works.
fn dep(modules: &BTreeMap<&str, &Module>, compressed: bool) -> String {
    let path = |m: &Module| if compressed { m.path.clone() } else { m.path.trim_end_matches(".xz").to_owned() };
    let mut text = String::new();
    for (name, module) in modules {
        let mut chain = Vec::new();
        visit(name, modules, &mut chain, &mut BTreeSet::new());
        // Post-order ends with the module itself.
        let needs = chain.iter().rev().skip(1).filter_map(|n| modules.get(n.as_str()));
        let needs: String = needs.map(|m| format!(" {}", path(m))).collect();
        let _ = writeln!(text, "{}:{needs}", path(module));
    }
    text
}

/// Lists a module after everything it depends on.
fn visit(name: &str, modules: &BTreeMap<&str, &Module>, chain: &mut Vec<String>, seen: &mut BTreeSet<String>) {
    let Some(module) = modules.get(name) else { return };
    if seen.insert(name.to_owned()) {
        for dependency in &module.info.depends {
            visit(dependency, modules, chain, seen);
        }
        chain.push(name.to_owned());
    }
}

fn alias(modules: &BTreeMap<&str, &Module>) -> String {
    let mut text = String::new();
    for (name, module) in modules {
        for pattern in &module.info.aliases {
            let _ = writeln!(text, "alias {pattern} {name}");
        }
    }
    text
}

fn softdep(modules: &BTreeMap<&str, &Module>) -> String {
    let mut text = String::new();
    for (name, module) in modules.iter().filter(|(_, m)| !m.info.soft.is_empty()) {
        let _ = write!(text, "softdep {name}");
        for (heading, before) in [(" pre:", true), (" post:", false)] {
            let wishes: String =
                module.info.soft.iter().filter(|(b, _)| *b == before).map(|(_, n)| format!(" {n}")).collect();
            if !wishes.is_empty() {
                let _ = write!(text, "{heading}{wishes}");
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Info;
    use super::*;

    #[test]
    fn the_index_is_what_kmod_would_read() {
        let module = |path: &str, info: &[u8]| Module { path: path.into(), info: Info::parse(info) };
        let a = module("k/a.ko.xz", b"depends=b,c\0alias=pci:v1*\0softdep=pre: x post: y");
        let b = module("k/b.ko.xz", b"depends=c");
        let c = module("k/c.ko.xz", b"depends=");
        let modules = BTreeMap::from([("a", &a), ("b", &b), ("c", &c)]);
        let builtin = BTreeSet::from(["fuse".to_owned()]);
        let [dep, alias, softdep, builtin] = files(&modules, &builtin, true).map(|(_, text)| text);
        assert_eq!(dep, "k/a.ko.xz: k/b.ko.xz k/c.ko.xz\nk/b.ko.xz: k/c.ko.xz\nk/c.ko.xz:\n");
        assert_eq!(alias, "alias pci:v1* a\n");
        assert_eq!(softdep, "softdep a pre: x post: y\n");
        assert_eq!(builtin, "fuse.ko\n");
        assert!(files(&modules, &BTreeSet::new(), false)[0].1.starts_with("k/a.ko: k/b.ko k/c.ko\n"));
    }
}
