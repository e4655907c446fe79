//! Rules that a recipe obeys as a whole, beyond the types of its keys.

use std::collections::BTreeSet;

use super::{Kind, Recipe};
use crate::error::{Error, Result};

impl Recipe {
    /// Checks what types cannot say: paths, references between sections, what belongs to which kind.
    pub(super) fn check(&self) -> Result<()> {
        let problem = self
            .name_problem()
            .or_else(|| self.package_problem())
            .or_else(|| self.path_problem())
            .or_else(|| self.file_problem())
            .or_else(|| self.account_problem())
            .or_else(|| self.kind_problem())
            .or_else(|| self.generate_problem());
        match problem {
            Some(problem) => Err(Error::Recipe { recipe: self.name.clone(), problem }),
            None => Ok(()),
        }
    }

    fn name_problem(&self) -> Option<String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let good = !self.name.is_empty() && self.name.len() <= 40 && self.name.chars().all(fits);
        (!good).then(|| format!("name '{}' must be 1 to 40 of a-z, 0-9 and '-'", self.name))
    }

    fn package_problem(&self) -> Option<String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        let good = |name: &&String| {
            name.len() > 1 && name.chars().all(fits) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        if self.packages.install.is_empty() {
            return Some("packages.install is empty: name at least one package".to_owned());
        }
        let bad = self.packages.install.iter().find(|n| !good(n))?;
        Some(format!("packages.install: '{bad}' is not the name of a Debian package"))
    }

    fn path_problem(&self) -> Option<String> {
        self.paths()
            .find_map(|(section, path)| path_problem(path).map(|problem| format!("{section}: '{path}' {problem}")))
    }

    /// Every path in the image that the recipe names, with the section it stands in.
    fn paths(&self) -> impl Iterator<Item = (&'static str, &str)> {
        fn of<'a>(section: &'static str, list: &'a [String]) -> impl Iterator<Item = (&'static str, &'a str)> {
            list.iter().map(move |p| (section, p.as_str()))
        }
        of("take.binaries", &self.take.binaries)
            .chain(of("take.globs", &self.take.globs))
            .chain(of("take.dlopen", &self.take.dlopen))
            .chain(of("take.exclude", &self.take.exclude))
            .chain(of("take.keep", &self.take.keep))
            .chain(of("checks.setuid", &self.checks.setuid))
            .chain(of("checks.world-writable", &self.checks.world_writable))
            .chain(of("checks.dangling", &self.checks.dangling))
            .chain(of("checks.duplicates", &self.checks.duplicates))
            .chain(of("checks.interpreters", &self.checks.interpreters))
            .chain(self.programs.iter().map(|p| ("program.path", p.path.as_str())))
            .chain(self.files.iter().map(|f| ("file.path", f.path.as_str())))
            .chain(self.permissions.iter().map(|p| ("permission.path", p.path.as_str())))
            .chain(self.directories.iter().map(|d| ("directory.path", d.path.as_str())))
            .chain(self.symlinks.keys().map(|p| ("symlinks", p.as_str())))
            .chain(self.services.iter().map(|s| ("service.program", s.program.as_str())))
            .chain(self.generate.iter().filter_map(|g| Some(("generate.stdout", g.stdout.as_deref()?))))
            .chain(self.generate.iter().flat_map(|g| of("generate.outputs", &g.outputs)))
    }

    fn file_problem(&self) -> Option<String> {
        let mut seen = BTreeSet::new();
        let own = self.files.iter().map(|f| &f.path).chain(self.symlinks.keys());
        let own = own.chain(self.programs.iter().map(|p| &p.path));
        for path in own {
            if !seen.insert(path) {
                return Some(format!("'{path}' is given twice"));
            }
        }
        None
    }

    fn account_problem(&self) -> Option<String> {
        let mut names = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for user in &self.users {
            if !names.insert(user.name.as_str()) || !ids.insert(user.uid) {
                return Some(format!("user '{}' ({}) is given twice", user.name, user.uid));
            }
        }
        let mut groups = names.clone();
        let mut gids = ids;
        for group in &self.groups {
            if !groups.insert(group.name.as_str()) || !gids.insert(group.gid) {
                return Some(format!(
                    "group '{}' ({}) is given twice, or is a user's own group",
                    group.name, group.gid
                ));
            }
            if let Some(stranger) = group.members.iter().find(|m| !names.contains(m.as_str())) {
                return Some(format!("group '{}': member '{stranger}' is no user of this recipe", group.name));
            }
        }
        self.unknown_owner(&names, &groups)
    }

    fn unknown_owner(&self, users: &BTreeSet<&str>, groups: &BTreeSet<&str>) -> Option<String> {
        let files = self.files.iter().map(|f| (&f.path, &f.owner, &f.group));
        let permissions = self.permissions.iter().map(|p| (&p.path, &p.owner, &p.group));
        let all = files.chain(self.directories.iter().map(|d| (&d.path, &d.owner, &d.group))).chain(permissions);
        for (path, owner, group) in all {
            if owner != "root" && !users.contains(owner.as_str()) {
                return Some(format!("'{path}': owner '{owner}' is no user of this recipe"));
            }
            if group != "root" && !groups.contains(group.as_str()) {
                return Some(format!("'{path}': group '{group}' is no group of this recipe"));
            }
        }
        self.services
            .iter()
            .find(|s| s.user != "root" && !users.contains(s.user.as_str()))
            .map(|s| format!("service '{}': user '{}' is no user of this recipe", s.name, s.user))
    }

    fn kind_problem(&self) -> Option<String> {
        match self.kind {
            Kind::Node => self.node_problem(),
            Kind::Guest if self.boot.is_some() || self.modules.is_some() => {
                Some("a guest has no [boot] and no [modules]: it runs on the node's kernel".to_owned())
            }
            Kind::Guest => None,
        }
    }

    fn node_problem(&self) -> Option<String> {
        let Some(boot) = &self.boot else { return Some("a node needs a [boot] section".to_owned()) };
        if self.modules.is_none() {
            return Some("a node needs a [modules] section".to_owned());
        }
        if !self.programs.iter().any(|p| p.name == boot.init) {
            return Some(format!("boot.init = '{}' is the name of no [[program]]", boot.init));
        }
        if boot.cmdline.contains('\n') || ["roost.verity", "roost.cluster"].iter().any(|w| boot.cmdline.contains(w)) {
            return Some(
                "boot.cmdline must be one line without roost.verity and roost.cluster, which the builder adds"
                    .to_owned(),
            );
        }
        if !self.generate.is_empty() || !self.take.exclude.is_empty() {
            return Some("[[generate]] and take.exclude are for guests: a node takes single files".to_owned());
        }
        None
    }

    fn generate_problem(&self) -> Option<String> {
        self.generate.iter().find_map(|g| match g.run.first() {
            None => Some(format!("generate '{}': run is empty", g.name)),
            Some(program) => path_problem(program).map(|p| format!("generate '{}': program '{program}' {p}", g.name)),
        })
    }
}

/// Why a path (or glob) cannot be one of an image; `None` when it can.
fn path_problem(path: &str) -> Option<String> {
    if !path.starts_with('/') {
        return Some("must start with '/'".to_owned());
    }
    if path.len() > 1 && (path.ends_with('/') || path.contains("//") || path.split('/').any(|c| c == "." || c == ".."))
    {
        return Some("must be plain: no '//', '.', '..' and no '/' at the end".to_owned());
    }
    let first = path[1..].split('/').next().unwrap_or_default();
    ["bin", "sbin", "lib", "lib64", "lib32"]
        .contains(&first)
        .then(|| format!("must be written /usr{path}: these folders are links in the image"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const HEAD: &str = "name = \"tiny\"\nkind = \"guest\"\n[packages]\ninstall = [\"base-files\"]\n";

    #[track_caller]
    fn check(rest: &str, expect: &str) {
        let error = Recipe::parse(&format!("{HEAD}{rest}"), Path::new("tiny.toml")).expect_err("a broken rule");
        assert_eq!(error.to_string(), format!("Recipe 'tiny': {expect}"));
    }

    #[test]
    fn paths_are_absolute_plain_and_below_usr() {
        check("[take]\nglobs = [\"etc/x\"]", "take.globs: 'etc/x' must start with '/'");
        check(
            "[take]\nbinaries = [\"/bin/true\"]",
            "take.binaries: '/bin/true' must be written /usr/bin/true: these folders are links in the image",
        );
        check(
            "[symlinks]\n\"/etc/../x\" = \"y\"",
            "symlinks: '/etc/../x' must be plain: no '//', '.', '..' and no '/' at the end",
        );
    }

    #[test]
    fn a_file_is_given_once_and_its_owner_exists() {
        check(
            "[[file]]\npath = \"/etc/x\"\ntext = \"\"\nowner = \"mike\"",
            "'/etc/x': owner 'mike' is no user of this recipe",
        );
        check(
            "[[permission]]\npath = \"/etc/x\"\nmode = \"0600\"\ngroup = \"mike\"",
            "'/etc/x': group 'mike' is no group of this recipe",
        );
        check("[[file]]\npath = \"/etc/x\"\ntext = \"\"\n[symlinks]\n\"/etc/x\" = \"y\"", "'/etc/x' is given twice");
    }

    #[test]
    fn accounts_are_unique_and_members_are_users() {
        let user = "[[user]]\nname = \"a\"\nuid = 5\n";
        check(&format!("{user}[[user]]\nname = \"b\"\nuid = 5"), "user 'b' (5) is given twice");
        check("[[group]]\nname = \"g\"\ngid = 5\nmembers = [\"x\"]", "group 'g': member 'x' is no user of this recipe");
        check(
            "[[service]]\nname = \"s\"\nprogram = \"/usr/bin/s\"\nuser = \"x\"",
            "service 's': user 'x' is no user of this recipe",
        );
    }

    #[test]
    fn each_section_belongs_to_a_kind() {
        check(
            "[boot]\ncmdline = \"quiet\"\ninit = \"x\"",
            "a guest has no [boot] and no [modules]: it runs on the node's kernel",
        );
        let node = HEAD.replace("guest", "node");
        let error = Recipe::parse(&node, Path::new("tiny.toml")).expect_err("no boot");
        assert_eq!(error.to_string(), "Recipe 'tiny': a node needs a [boot] section");
    }

    #[test]
    fn a_step_names_its_program() {
        check("[[generate]]\nname = \"g\"\nrun = []", "generate 'g': run is empty");
    }
}
