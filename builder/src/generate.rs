//! Running programs of a guest's own tree while building: what maintainer scripts would have generated.
//!
//! The tree is written to a scratch folder once, with absolute links made relative, and each step's
//! program is started through the tree's own dynamic loader. There is no chroot and no namespace: a
//! program must be told the folder, by `{root}` in its arguments or environment, and must not start other
//! programs of the tree. Only the files that a step declares come back, with fixed owner, permissions and time.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use image::{Entry, Kind, Tree};

use crate::elf;
use crate::error::{Error, Result, at};
use crate::pool::Glob;
use crate::recipe::{Generate, Recipe};
use crate::report::Report;

/// Runs all steps in order; later ones see what earlier ones made.
pub fn run(recipe: &Recipe, tree: &mut Tree, epoch: i64, report: &Report) -> Result<()> {
    if recipe.generate.is_empty() {
        return Ok(());
    }
    let step = report.step("generate", None);
    let scratch = tempfile::Builder::new()
        .prefix("roost-guest-")
        .tempdir()
        .map_err(at("create a folder in", &std::env::temp_dir()))?;
    // A link in the path would make programs print another name than the one replaced in their outputs.
    let root = scratch.path().canonicalize().map_err(at("find", scratch.path()))?;
    write_tree(tree, &root, epoch)?;
    for generate in &recipe.generate {
        step.detail(&generate.name);
        Stage { recipe, generate, root: &root, epoch }.run(tree)?;
    }
    step.end(&format!("{} steps", recipe.generate.len()));
    Ok(())
}

struct Stage<'a> {
    recipe: &'a Recipe,
    generate: &'a Generate,
    root: &'a Path,
    epoch: i64,
}

impl Stage<'_> {
    fn run(&self, tree: &mut Tree) -> Result<()> {
        let before = self.snapshot()?;
        let stdout = self.execute(tree)?;
        if let Some(path) = &self.generate.stdout {
            let file = self.root.join(path.trim_start_matches('/'));
            let folder = file.parent().unwrap_or(self.root);
            std::fs::create_dir_all(folder).map_err(at("create", folder))?;
            std::fs::write(&file, stdout).map_err(at("write", &file))?;
            self.take_back(tree, path.trim_start_matches('/'))?;
        }
        for pattern in &self.generate.outputs {
            let glob = Glob::new(pattern).map_err(|p| self.error(p))?;
            let found = self.matching(&glob)?;
            if found.is_empty() {
                return Err(self.error(format!("it made nothing that matches {pattern}")));
            }
            found.iter().try_for_each(|path| self.take_back(tree, path))?;
        }
        self.restore_times(&before)
    }

    fn error(&self, problem: String) -> Error {
        Error::Generate { recipe: self.recipe.name.clone(), step: self.generate.name.clone(), problem }
    }

    fn execute(&self, tree: &Tree) -> Result<Vec<u8>> {
        let words: Vec<String> = self.generate.run.iter().map(|w| self.fill(w)).collect();
        let argv = self.argv(tree, &self.generate.run[0], &words[1..])?;
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).env_clear().current_dir(self.root).stdin(Stdio::null());
        let root = self.root.display();
        command.env("LC_ALL", "C").env("TZ", "UTC").env("HOME", self.root.join("root"));
        command.env("PATH", format!("{root}/usr/bin:{root}/usr/sbin")).env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        command.envs(self.generate.env.iter().map(|(k, v)| (k, self.fill(v))));
        let output = command.output().map_err(|e| self.error(format!("cannot start {}: {e}", argv[0])))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<&str> = words.lines().rev().take(10).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(self.error(format!("{} ended with {}\n{}", self.generate.run[0], output.status, tail.join("\n"))))
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{root}", &self.root.to_string_lossy())
    }

    /// The command that runs a program of the tree on this host: through the tree's loader when it is dynamic,
    /// through the tree's interpreter when it is a script.
    fn argv(&self, tree: &Tree, program: &str, arguments: &[String]) -> Result<Vec<String>> {
        let missing = || self.error(format!("{program} is not in the image"));
        let (real, entry) = tree.lookup(program).map_err(|_| missing())?;
        let bytes = entry.content().ok_or_else(missing)?.read().map_err(|e| self.error(e.to_string()))?;
        let here = |path: &str| self.root.join(path.trim_start_matches('/')).to_string_lossy().into_owned();
        if let Some(line) = bytes.strip_prefix(b"#!") {
            let line = String::from_utf8_lossy(line.split(|b| *b == b'\n').next().unwrap_or_default()).into_owned();
            let mut words = line.split_whitespace();
            let interpreter = words.next().ok_or_else(|| self.error(format!("{program} names no interpreter")))?;
            let all: Vec<String> =
                words.map(str::to_owned).chain([here(&real)]).chain(arguments.iter().cloned()).collect();
            return self.argv(tree, interpreter, &all);
        }
        let needs = elf::needs(&bytes).map_err(|e| self.error(format!("{program} is no program: {e}")))?;
        let own = [here(&real)].into_iter().chain(arguments.iter().cloned());
        let Some(loader) = needs.interpreter else { return Ok(own.collect()) };
        let (loader, _) = tree
            .lookup(&loader)
            .map_err(|_| self.error(format!("{loader}, the loader of {program}, is not in the image")))?;
        let libraries = format!("{}:{}", here("usr/lib/x86_64-linux-gnu"), here("usr/lib"));
        Ok([here(&loader), "--library-path".to_owned(), libraries].into_iter().chain(own).collect())
    }

    /// Files of the scratch folder that match, sorted.
    fn matching(&self, glob: &Glob) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for item in walkdir::WalkDir::new(self.root).min_depth(1).sort_by_file_name() {
            let item = item.map_err(|e| at("read", self.root)(e.into()))?;
            let path = item.path().strip_prefix(self.root).unwrap_or(item.path()).to_string_lossy().into_owned();
            if !item.file_type().is_dir() && glob.covers(&path) {
                found.push(path);
            }
        }
        Ok(found)
    }

    /// Brings one file from the scratch folder into the tree.
    fn take_back(&self, tree: &mut Tree, path: &str) -> Result<()> {
        let file = self.root.join(path);
        let meta = std::fs::symlink_metadata(&file).map_err(at("read", &file))?;
        let entry = if meta.is_symlink() {
            let target = std::fs::read_link(&file).map_err(at("read", &file))?;
            Entry::symlink(target.to_string_lossy())
        } else {
            let bytes = self.rewritten(path, std::fs::read(&file).map_err(at("read", &file))?)?;
            let mode = if meta.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 };
            Entry::file(mode, bytes)
        };
        let entry = entry.modified(self.epoch).from_origin(format!("({})", self.generate.name));
        let fail = |e: image::TreeError| self.error(e.to_string());
        let parent = path.rsplit_once('/').map_or("", |(p, _)| p);
        tree.mkdir_p(parent).map_err(fail)?;
        tree.replace(path, entry).map(drop).map_err(fail)
    }

    /// Paths in the scratch folder become paths in the image.
    fn rewritten(&self, path: &str, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let root = self.root.to_string_lossy().into_owned();
        let holds = bytes.windows(root.len()).any(|w| w == root.as_bytes());
        if !holds || !self.generate.rewrite {
            return Ok(bytes);
        }
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text.replace(&root, "").into_bytes()),
            _ => Err(self.error(format!(
                "/{path} is no text but holds the build's folder: use an option of the program that leaves it out"
            ))),
        }
    }

    /// Times of all folders: writing into one changes them, and caches of fonts and icons record them.
    fn snapshot(&self) -> Result<BTreeMap<PathBuf, SystemTime>> {
        let mut times = BTreeMap::new();
        for item in walkdir::WalkDir::new(self.root) {
            let item = item.map_err(|e| at("read", self.root)(e.into()))?;
            if item.file_type().is_dir() {
                let meta = item.metadata().map_err(|e| at("read", self.root)(e.into()))?;
                times.insert(item.path().to_owned(), meta.modified().map_err(at("read", item.path()))?);
            }
        }
        Ok(times)
    }

    fn restore_times(&self, times: &BTreeMap<PathBuf, SystemTime>) -> Result<()> {
        times.iter().filter(|(path, _)| path.is_dir()).try_for_each(|(path, time)| set_time(path, *time))
    }
}

/// Writes a tree to a folder as far as a plain user can: owners are dropped, devices left out.
fn write_tree(tree: &Tree, root: &Path, epoch: i64) -> Result<()> {
    for (path, entry) in tree.walk().filter(|(path, _)| !path.is_empty()) {
        let file = root.join(path);
        match &entry.kind {
            Kind::Dir => std::fs::create_dir_all(&file).map_err(at("create", &file))?,
            Kind::Symlink(target) => {
                std::os::unix::fs::symlink(relative(path, target), &file).map_err(at("create", &file))?
            }
            Kind::File(content) => {
                let mut from = content
                    .open()
                    .map_err(|e| Error::Assemble { action: format!("read /{path}"), source: Box::new(e) })?;
                let mut to = File::create(&file).map_err(at("create", &file))?;
                std::io::copy(&mut from, &mut to).map_err(at("write", &file))?;
                let mode = if entry.mode & 0o111 != 0 { 0o755 } else { 0o644 };
                to.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(at("write", &file))?;
                to.set_times(FileTimes::new().set_modified(time_of(entry, epoch))).map_err(at("write", &file))?;
            }
            _ => {}
        }
    }
    // Last, since filling a folder changes its time.
    let folders = tree.walk().filter(|(path, e)| e.is_dir() && !path.is_empty());
    folders.into_iter().try_for_each(|(path, e)| set_time(&root.join(path), time_of(e, epoch)))
}

fn time_of(entry: &Entry, epoch: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(entry.mtime.clamp(0, epoch.max(0)) as u64)
}

fn set_time(path: &Path, time: SystemTime) -> Result<()> {
    let folder = File::open(path).map_err(at("open", path))?;
    folder.set_times(FileTimes::new().set_modified(time)).map_err(at("set the time of", path))
}

/// An absolute target as seen from the link's folder, so that it stays inside the scratch folder.
fn relative(link: &str, target: &str) -> String {
    let Some(inside) = target.strip_prefix('/') else { return target.to_owned() };
    format!("{}{}", "../".repeat(link.matches('/').count()), inside)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::merged_tree;
    use crate::report::Style;

    /// A tree with this host's own shell and its libraries, if they are where Debian has them.
    fn host_tree() -> Option<Tree> {
        let mut tree = merged_tree();
        let shell = std::fs::read("/usr/bin/dash").ok()?;
        let loader = elf::needs(&shell).ok()?.interpreter?;
        for (path, from) in [
            ("usr/bin/sh", "/usr/bin/dash"),
            (&*loader, &*loader),
            ("usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6"),
        ] {
            tree.insert_with_parents(path, Entry::file(0o755, std::fs::read(from).ok()?)).ok()?;
        }
        tree.mkdir_p("etc").ok()?;
        tree.insert("etc/name", Entry::file(0o644, "roost").modified(50)).ok()?;
        tree.insert("etc/link", Entry::symlink("/etc/name")).ok()?;
        Some(tree)
    }

    fn recipe(steps: &str) -> Recipe {
        let text = format!("name = \"x\"\nkind = \"guest\"\n[packages]\ninstall = [\"aa\"]\n{steps}");
        Recipe::parse(&text, Path::new("x.toml")).expect("a recipe")
    }

    fn run_steps(steps: &str) -> Option<Result<Tree>> {
        let mut tree = host_tree()?;
        Some(run(&recipe(steps), &mut tree, 100, &Report::new(Style::Silent)).map(|()| tree))
    }

    fn text(tree: &Tree, path: &str) -> String {
        let content = tree.get(path).and_then(Entry::content).expect("a file").read().expect("bytes");
        String::from_utf8_lossy(&content).into_owned()
    }

    #[test]
    fn a_program_of_the_tree_runs_there_and_only_declared_files_come_back() {
        let steps = r#"
            [[generate]]
            name = "one"
            run = ["/usr/bin/sh", "-c", "read n < {root}/etc/link; echo $n $X; echo {root}/etc/name > {root}/etc/made; echo > {root}/etc/other"]
            env = { X = "{root}/x" }
            stdout = "/var/out"
            outputs = ["/etc/ma*"]
        "#;
        let Some(tree) = run_steps(steps) else { return };
        let tree = tree.expect("a step that works");
        assert_eq!(text(&tree, "var/out"), "roost /x\n");
        assert_eq!(text(&tree, "etc/made"), "/etc/name\n");
        let made = tree.get("etc/made").expect("made");
        assert_eq!((made.mode, made.mtime, made.origin.as_deref()), (0o644, 100, Some("(one)")));
        assert!(tree.get("etc/other").is_none());
    }

    #[track_caller]
    fn check(script: &str, rest: &str, expect: &str) {
        let steps = format!("[[generate]]\nname = \"one\"\nrun = [\"/usr/bin/sh\", \"-c\", \"{script}\"]\n{rest}");
        let Some(result) = run_steps(&steps) else { return };
        let error = result.expect_err("a step that fails").to_string();
        assert!(error.starts_with(&format!("Generate step 'one' of recipe 'x': {expect}")), "{error}");
    }

    #[test]
    fn a_step_that_fails_says_how() {
        check("echo oops >&2; exit 3", "", "/usr/bin/sh ended with exit status: 3\noops");
        check("true", "outputs = [\"/etc/none\"]", "it made nothing that matches /etc/none");
        check(
            "printf '\\\\0{root}' > {root}/etc/made",
            "outputs = [\"/etc/made\"]",
            "/etc/made is no text but holds the build's folder",
        );
    }

    #[test]
    fn absolute_links_stay_inside() {
        assert_eq!(relative("etc/alternatives/x", "/usr/bin/x"), "../../usr/bin/x");
        assert_eq!(relative("bin", "usr/bin"), "usr/bin");
    }
}
