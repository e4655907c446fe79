//! `roost build`: recipe, lock, programs, packages, tree, image; each only when its inputs changed.

use std::path::{Path, PathBuf};
use std::time::Instant;

use image::manifest::Manifest;
use image::slot::EntryName;
use image::verity::hex;
use model::Digest;

use crate::assemble::{Parts, assemble};
use crate::cache::{Cache, write_whole};
use crate::error::{Error, Result};
use crate::fetch::{Fetched, fetch};
use crate::lock::{Lock, Package};
use crate::mirror::Mirror;
use crate::patch::{Base, MakeError};
use crate::programs::{self, Built, Level};
use crate::recipe::{Kind, Located};
use crate::report::Report;
use crate::rootfs::{self, Inputs};
use crate::sign::{Keyring, SignWith};
use crate::stamp::{self, Stamp};
use crate::{apt, crates, tarball};

/// Version of images unless one is given.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How to build.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where artifacts go.
    pub out: PathBuf,
    /// Fail rather than resolve the recipe again.
    pub locked: bool,
    /// Do every step afresh, with packages from the cache.
    pub no_cache: bool,
    /// How much is spent on size.
    pub level: Level,
    /// `--mirror` or `ROOST_MIRROR`.
    pub mirror: Option<String>,
    /// Version of the image.
    pub version: String,
    /// `--sign-debug`: also an image with a shell.
    pub sign_debug: bool,
    /// `--keys`: sign what is built.
    pub sign: Option<SignWith>,
    /// Lock to build from instead of the recipe's own; it is only read.
    pub lock: Option<PathBuf>,
    /// When the update set stops being one to install, in seconds since 1970.
    pub expires: Option<u64>,
    /// Fingerprint of the CA of the one cluster that it is for.
    pub cluster: Option<Digest>,
    /// `--patch-from`: update sets whose nodes are to fetch less.
    pub patch_from: Vec<PathBuf>,
}

impl Options {
    /// At level dev into a folder, from the cache, without keys.
    pub fn new(out: &Path) -> Self {
        Self {
            out: out.to_owned(),
            locked: false,
            no_cache: false,
            level: Level::Dev,
            mirror: None,
            version: VERSION.to_owned(),
            sign: None,
            sign_debug: false,
            lock: None,
            expires: None,
            cluster: None,
            patch_from: Vec::new(),
        }
    }
}

/// What a build came to.
#[derive(Debug)]
pub struct Outcome {
    /// Name of the image.
    pub name: String,
    /// Whether anything was done: `false` when the output was up to date.
    pub built: bool,
    /// Seconds it took.
    pub seconds: f64,
    /// Manifest of the image, in the output folder.
    pub manifest: PathBuf,
}

/// Resolves a recipe and writes its lock. Returns what moved, a line each; `None` when there was no lock.
pub fn relock(
    located: &Located,
    mirror: Option<&Mirror>,
    cache: &Cache,
    report: &Report,
) -> Result<(Lock, Option<Vec<String>>)> {
    let file = located.lock_file();
    // A lock that cannot be read is no reason not to make a new one.
    let old = Lock::read(&file).ok().flatten();
    let step = report.step("resolve", None);
    let mut lock = apt::resolve(&located.recipe.packages.install, &Mirror::or_of_host(mirror)?, cache)?;
    step.end(&format!("{} packages", lock.packages.len()));
    if let Some(old) = old.as_ref().filter(|o| o.packages == lock.packages) {
        // The same packages: the file changes only where the answer did.
        lock.epoch = old.epoch;
    }
    lock.write(&file)?;
    let moved = old.map(|old| lock.moved_from(&old));
    Ok((lock, moved))
}

/// Builds an image.
pub fn build(name: &str, options: &Options, report: &Report) -> Result<Outcome> {
    let began = Instant::now();
    let source = programs::source_tree();
    let located = Located::find(name, &source)?;
    named(&located.recipe.name, &options.version)?;
    may_be_signed(&located, options)?;
    accepts_files(&options.out)?;
    let user = Cache::of_user();
    let scratch = if options.no_cache { Some(scratch_folder(&user)?) } else { None };
    let cache = scratch.as_ref().map_or(Ok(user.clone()), |s| user.with_downloads_of(s.path()))?;
    let keys = options.sign.as_ref().map(Keyring::open).transpose()?;
    let bases = bases(&located, &options.patch_from)?;
    // Before anything is missing: a wrong address would else be found out by another build, some other day.
    let mirror = Mirror::given(options.mirror.as_deref())?;
    let build = Build {
        located: &located,
        mirror: mirror.as_ref(),
        options,
        cache: &cache,
        report,
        keys: keys.as_ref(),
        bases: &bases,
    };
    let lock = build.lock()?;
    let names: Vec<&str> = located.recipe.programs.iter().map(|p| p.name.as_str()).collect();
    let built = programs::build(&names, options.level, &source, &user, report)?;
    let done = build.image(lock, &built)?;
    let name = located.recipe.name.clone();
    let manifest = options.out.join(manifest_name(&name));
    Ok(Outcome { name, built: done, seconds: began.elapsed().as_secs_f64(), manifest })
}

/// The two become the name of a file on the ESP.
fn named(name: &str, version: &str) -> Result<()> {
    let refused = || Error::Version { name: name.to_owned(), version: version.to_owned() };
    EntryName::new(name, version).map(drop).ok_or_else(refused)
}

/// The sets that patches are made against, each a node's: known to be such before anything is made.
fn bases(located: &Located, sets: &[PathBuf]) -> Result<Vec<Base>> {
    let open = |path: &PathBuf| {
        let base = Base::open(path)?;
        base.is_of(&located.recipe.name)?;
        Ok(base)
    };
    sets.iter().map(open).collect::<std::result::Result<_, MakeError>>().map_err(failed("make a patch"))
}

/// An image with a shell is not signed unasked.
fn may_be_signed(located: &Located, options: &Options) -> Result<()> {
    let signs = options.sign.as_ref().is_some_and(|with| !with.public);
    if signs && !options.sign_debug && !located.recipe.checks.interpreters.is_empty() {
        return Err(Error::SignedDebug { recipe: located.recipe.name.clone() });
    }
    Ok(())
}

/// Compiling takes minutes: a folder that refuses the result is told of before them.
fn accepts_files(out: &Path) -> Result<()> {
    let probe = || std::fs::create_dir_all(out).and_then(|()| tempfile::tempfile_in(out));
    probe().map(drop).map_err(|source| Error::Output { folder: out.to_owned(), source })
}

/// On the disk of the cache: results of steps are as large as what they are made of.
pub(crate) fn scratch_folder(user: &Cache) -> Result<tempfile::TempDir> {
    let folder = user.folder("scratch")?;
    tempfile::tempdir_in(&folder).map_err(crate::error::at("create a folder in", &folder))
}

struct Build<'a> {
    located: &'a Located,
    mirror: Option<&'a Mirror>,
    options: &'a Options,
    cache: &'a Cache,
    report: &'a Report,
    keys: Option<&'a Keyring>,
    bases: &'a [Base],
}

impl Build<'_> {
    fn name(&self) -> &str {
        &self.located.recipe.name
    }

    /// The recipe's lock, made anew when it does not fit.
    fn lock(&self) -> Result<Lock> {
        let file = self.options.lock.clone().unwrap_or_else(|| self.located.lock_file());
        let found = Lock::read(&file)?;
        let problem = match &found {
            Some(lock) => lock.misfit(&self.located.recipe),
            None => Some("there is none yet".to_owned()),
        };
        match (found, problem) {
            (Some(lock), None) => Ok(lock),
            (_, Some(problem)) if self.options.locked => {
                Err(Error::StaleLock { lock: file, recipe: self.located.asked.clone(), problem })
            }
            (_, problem) => self.relock(&problem.unwrap_or_default()),
        }
    }

    fn relock(&self, why: &str) -> Result<Lock> {
        self.report.warn(&format!("resolving '{}' again: {why}", self.name()));
        let (lock, moved) = relock(self.located, self.mirror, self.cache, self.report)?;
        for line in moved.iter().flatten() {
            self.report.note(line);
        }
        Ok(lock)
    }

    /// Brings all packages into the cache; resolves again when the mirror has dropped some.
    fn fetch(&self, lock: Lock) -> Result<Lock> {
        match self.fetch_once(&lock)? {
            Fetched::All => Ok(lock),
            Fetched::Gone(gone) => {
                let packages: Vec<String> = gone.iter().map(Package::to_string).collect();
                let why = format!("the mirror no longer has {}", packages.join(", "));
                let error = Error::Gone { recipe: self.located.asked.clone(), packages };
                if self.options.locked {
                    return Err(error);
                }
                let lock = self.relock(&why)?;
                match self.fetch_once(&lock)? {
                    Fetched::All => Ok(lock),
                    Fetched::Gone(_) => Err(error),
                }
            }
        }
    }

    fn fetch_once(&self, lock: &Lock) -> Result<Fetched> {
        let packages: Vec<Package> = rootfs::opened(&self.located.recipe, lock).into_iter().cloned().collect();
        fetch(&packages, || Mirror::or_of_host(self.mirror), self.cache, self.report)
    }

    /// Builds unless the output folder has the result already. Returns whether it did.
    fn image(&self, lock: Lock, programs: &Built) -> Result<bool> {
        let out = &self.options.out;
        let before = stamp::inputs(self.located, &lock, programs, &self.flags())?;
        if !self.options.no_cache && Stamp::holds(out, self.name(), before) {
            self.report.note(&format!("{}: up to date in {}", self.name(), out.display()));
            return Ok(false);
        }
        let lock = self.fetch(lock)?;
        let digest = stamp::inputs(self.located, &lock, programs, &self.flags())?;
        Stamp::remove(out, self.name())?;
        let licences = self.licences(programs)?;
        let inputs = Inputs {
            located: self.located,
            lock: &lock,
            programs,
            licences: &licences,
            cache: self.cache,
            report: self.report,
            version: &self.options.version,
            keys: self.keys,
        };
        let files = match self.located.recipe.kind {
            Kind::Node => self.node(&inputs)?,
            Kind::Guest => self.guest(&inputs)?,
        };
        Stamp::write(out, self.name(), digest, &files)?;
        Ok(true)
    }

    /// What decides the result besides files.
    fn flags(&self) -> Vec<String> {
        let Options { level, version, expires, cluster, .. } = self.options;
        let keys = self.keys.map(|keys| Digest(keys.digest()));
        let bases: Vec<String> = self.bases.iter().map(|base| hex(&base.hash)).collect();
        vec![level.name().to_owned(), version.clone(), format!("{expires:?} {keys:?} {cluster:?} {bases:?}")]
    }

    /// Terms of what is in the programs; empty without programs.
    fn licences(&self, programs: &Built) -> Result<String> {
        let names: Vec<&str> = programs.iter().map(|(name, _)| name).collect();
        if names.is_empty() { Ok(String::new()) } else { crates::licences(&names, &programs::source_tree()) }
    }

    fn node(&self, inputs: &Inputs<'_>) -> Result<Vec<String>> {
        let node = rootfs::node(inputs)?;
        let parts = Parts {
            name: self.name(),
            version: &self.options.version,
            level: self.options.level,
            node: &node,
            sizes: &self.located.recipe.sizes,
            lock: inputs.lock,
            keys: self.keys,
            expires: self.options.expires,
            cluster: self.options.cluster,
            bases: self.bases,
        };
        let done =
            assemble(&parts, self.cache, &self.options.out, self.report).map_err(failed("assemble the image"))?;
        Ok(self.written(&done.manifest))
    }

    fn guest(&self, inputs: &Inputs<'_>) -> Result<Vec<String>> {
        let tree = rootfs::guest(inputs)?;
        let level = self.options.level;
        let file = format!("{}.tar.zst", self.name());
        let versions = inputs.lock.versions();
        let version = &self.options.version;
        let mut manifest =
            Manifest::of_root(self.name(), version, level.name(), &tree, &versions).map_err(failed("read the tree"))?;
        let artifact = tarball::write(&tree, &self.options.out.join(&file), level, self.report)?;
        manifest.artifacts.insert(file, artifact);
        let text = manifest.to_json().map_err(failed("write the manifest"))?;
        write_whole(&self.options.out.join(manifest_name(self.name())), &text)?;
        Ok(self.written(&manifest))
    }

    /// Names of the files in the output folder.
    fn written(&self, manifest: &Manifest) -> Vec<String> {
        manifest.artifacts.keys().cloned().chain([manifest_name(self.name())]).collect()
    }
}

fn manifest_name(name: &str) -> String {
    format!("{name}.manifest.json")
}

fn failed<E: std::error::Error + Send + Sync + 'static>(action: &str) -> impl FnOnce(E) -> Error {
    let action = action.to_owned();
    move |source| Error::Assemble { action, source: Box::new(source) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Style;

    fn refusal(recipe: &str, out: &Path, mirror: Option<&str>) -> Error {
        let mirror = mirror.map(str::to_owned);
        let options = Options { locked: true, mirror, ..Options::new(out) };
        build(recipe, &options, &Report::new(Style::choose(true))).expect_err("a refusal")
    }

    #[track_caller]
    fn check_out(out: &Path) {
        let error = refusal("node", out, None);
        assert!(matches!(&error, Error::Output { folder, .. } if folder == out), "{error}");
        assert!(error.to_string().contains(&format!("{}", out.display())), "{error}");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_of_before_anything_is_done() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("out");
        std::fs::write(&file, "not a folder").expect("written");
        check_out(&file);
        check_out(&file.join("below a file"));
        // Not even root makes files in here.
        check_out(Path::new("/proc/self"));
        check_out(Path::new("/proc/self/out"));
    }

    #[test]
    fn a_wrong_mirror_is_told_of_though_nothing_is_missing() {
        let dir = tempfile::tempdir().expect("a folder");
        let error = refusal("node", dir.path(), Some("ftp://h/debian"));
        assert!(matches!(&error, Error::BadMirror { url } if url == "ftp://h/debian"), "{error}");
    }

    #[test]
    fn a_debug_image_is_signed_only_when_that_is_asked_for() {
        let tree = programs::source_tree();
        let located = |name: &str| Located::find(name, &tree).expect("a recipe");
        let with = |public| SignWith { keys: "keys".into(), signer: None, threshold: 1, public };
        let options = |sign, sign_debug| Options { sign, sign_debug, ..Options::new(Path::new("out")) };
        for (recipe, sign, sign_debug, refused) in [
            ("node-debug", Some(with(false)), false, true),
            ("node-debug", Some(with(false)), true, false),
            ("node-debug", Some(with(true)), false, false),
            ("node-debug", None, false, false),
            ("node", Some(with(false)), false, false),
        ] {
            let judged = may_be_signed(&located(recipe), &options(sign, sign_debug));
            assert_eq!(matches!(judged, Err(Error::SignedDebug { .. })), refused, "{recipe} {judged:?}");
        }
    }

    #[test]
    fn advice_names_a_recipe_as_it_was_asked_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("mine.toml");
        std::fs::write(&file, "name = \"other\"\nkind = \"guest\"\n[packages]\ninstall = [\"aa\"]\n").expect("written");
        let error = refusal(&file.to_string_lossy(), &dir.path().join("out"), None).to_string();
        assert!(error.contains(&format!("`roost lock {}`", file.display())), "{error}");
        assert!(error.contains(&dir.path().join("mine.lock").display().to_string()), "{error}");
    }
}
