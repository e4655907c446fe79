//! What can go wrong in the package side of the builder.

use std::path::{Path, PathBuf};

/// A failure of the builder. Each names what was being done and to what; the cause is in `source`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("Cannot {action} {}", path.display())]
    File {
        /// Verb: `read`, `write`, `create`.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The folder for artifacts takes none.
    #[error("Cannot write to the output folder {}: name one that can be written by --out", folder.display())]
    Output {
        /// As asked for.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A recipe or a lock is not what it must be.
    #[error("{0}")]
    Text(TextError),
    /// A rule that spans a whole recipe is broken.
    #[error("Recipe '{recipe}': {problem}")]
    Recipe {
        /// Name of the recipe.
        recipe: String,
        /// What was found and what is expected.
        problem: String,
    },
    /// No recipe of that name or path.
    #[error("No recipe '{name}': {looked} holds {known}{hint}")]
    NoRecipe {
        /// As asked for.
        name: String,
        /// Folder searched.
        looked: String,
        /// Names that are there.
        known: String,
        /// `; did you mean ...?` or nothing.
        hint: String,
    },
    /// The source tree is not where it was.
    #[error("No source tree at {}: set ROOST_SOURCE to the folder with Roost's Cargo.toml", tree.display())]
    NoSource {
        /// Where it was looked for.
        tree: PathBuf,
    },
    /// The host's apt names no Debian mirror.
    #[error(
        "No Debian mirror found in {looked}: pass --mirror URL or set ROOST_MIRROR to a mirror that has the suites 'trixie' and 'trixie-security'"
    )]
    NoMirror {
        /// What was searched.
        looked: String,
    },
    /// A mirror address that cannot be used.
    #[error(
        "'{url}' is not a mirror address: expected http:// or https:// followed by host and path, as in http://HOST/debian"
    )]
    BadMirror {
        /// As given.
        url: String,
    },
    /// The keys that sign Debian's archive are not on this host.
    #[error("No Debian archive keys at {looked}: install the package debian-archive-keyring")]
    NoKeyring {
        /// Paths tried.
        looked: String,
    },
    /// A program could not be started or ended badly.
    #[error("{action} failed: {program} ended with {status}\n{output}")]
    Program {
        /// What it was run for.
        action: String,
        /// Which program.
        program: String,
        /// How it ended.
        status: String,
        /// Its own words, last lines.
        output: String,
    },
    /// A program could not be started at all.
    #[error("Cannot run {program}: {advice}")]
    Start {
        /// Which program.
        program: String,
        /// What to install or to set.
        advice: String,
        /// Why.
        source: std::io::Error,
    },
    /// apt's answer could not be read.
    #[error("Unexpected line from apt-get: {line}")]
    AptAnswer {
        /// The line.
        line: String,
    },
    /// A recipe asks for what its lock does not hold, and `--locked` forbids a new one.
    #[error("The lock {} does not fit the recipe: {problem}; run `roost lock {recipe}`", lock.display())]
    StaleLock {
        /// The lock file.
        lock: PathBuf,
        /// Name of the recipe.
        recipe: String,
        /// What differs.
        problem: String,
    },
    /// The mirror no longer has a locked version.
    #[error("The mirror no longer has {}: run `roost lock {recipe}`, or build without --locked", packages.join(", "))]
    Gone {
        /// Name of the recipe.
        recipe: String,
        /// `name version` each.
        packages: Vec<String>,
    },
    /// Packages are missing from the cache and could not be fetched.
    #[error("Cannot fetch {} of {total} packages ({bytes} bytes missing); first: {package} from {url}", failed)]
    Fetch {
        /// How many failed.
        failed: usize,
        /// How many were needed.
        total: usize,
        /// Bytes still missing.
        bytes: u64,
        /// The first that failed.
        package: String,
        /// Its address.
        url: String,
        /// Why that one failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Bytes of a package are not those the lock names.
    #[error("Package {package}: SHA-256 is {found}, but the lock says {expected}; {advice}")]
    BadPackage {
        /// Name and version.
        package: String,
        /// Digest of what was there.
        found: String,
        /// Digest in the lock.
        expected: String,
        /// What to do.
        advice: &'static str,
    },
    /// Keys cannot be read, or do not sign.
    #[error(transparent)]
    Sign(#[from] crate::sign::SignError),
    /// A debug image would be as good as a node's to firmware and TPM.
    #[error(
        "{recipe} has a shell, and was to be signed: with it, whoever stands in front of a node whose firmware trusts these \
         keys opens its encrypted STATE. Leave out --keys, or use keys of a laboratory and say --sign-debug"
    )]
    SignedDebug {
        /// The recipe.
        recipe: String,
    },
    /// The file given as a cluster's CA is none.
    #[error("{} cannot be a cluster's CA: {problem}. The store keeps it as pki/ca.pem", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        problem: String,
    },
    /// An image is held against another cluster than it was built for.
    #[error(
        "The image is for {found}, and it is held against a build for {expected}: name its cluster's CA by --cluster"
    )]
    OtherCluster {
        /// As its manifest says.
        found: String,
        /// As asked for.
        expected: String,
    },
    /// Name and version cannot be a boot entry's.
    #[error("The image '{name}' cannot have version {version:?}: expected letters, digits and . ~ ^ -")]
    Version {
        /// Name of the recipe.
        name: String,
        /// The version.
        version: String,
    },
    /// A .deb that cannot be read.
    #[error("Package {package}: cannot read {part}")]
    Deb {
        /// Name and version.
        package: String,
        /// `the archive`, `data.tar.xz`, a path.
        part: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something the recipe or a file in the image needs is in no package.
    #[error("{} missing from the image '{recipe}':\n{}", plural(problems.len(), "thing is", "things are"), bullets(problems))]
    Missing {
        /// Name of the recipe.
        recipe: String,
        /// One line each: what is missing and who asks for it.
        problems: Vec<String>,
    },
    /// The tree breaks a rule of what may be in an image.
    #[error("The image '{recipe}' may not be built: {}\n{}", plural(problems.len(), "rule is broken", "rules are broken"), bullets(problems))]
    Unfit {
        /// Name of the recipe.
        recipe: String,
        /// One line each.
        problems: Vec<String>,
    },
    /// A kernel module that cannot be understood.
    #[error("Kernel module {path}: {problem}")]
    Module {
        /// Path in the package.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A generate step of a guest recipe failed.
    #[error("Generate step '{step}' of recipe '{recipe}': {problem}")]
    Generate {
        /// Name of the recipe.
        recipe: String,
        /// Name of the step.
        step: String,
        /// What went wrong.
        problem: String,
    },
    /// Turning the tree into an image failed.
    #[error("Cannot {action}")]
    Assemble {
        /// Which step.
        action: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A text file that does not parse: where, what was found, what may have been meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextError {
    /// The file.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What was found and what is expected.
    pub message: String,
    /// The nearest word that would be right.
    pub nearest: Option<String>,
}

impl std::fmt::Display for TextError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file.display(), self.line, self.column, self.message)?;
        match &self.nearest {
            Some(word) => write!(f, "; did you mean '{word}'?"),
            None => Ok(()),
        }
    }
}

fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// At most twenty lines: the rest is counted, for a terminal shows no more.
fn bullets(lines: &[String]) -> String {
    let mut text: Vec<String> = lines.iter().take(20).map(|l| format!("  - {l}")).collect();
    if lines.len() > 20 {
        text.push(format!("  - and {} more", lines.len() - 20));
    }
    text.join("\n")
}

/// Names the file and the verb of a failed file operation.
pub(crate) fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::File { action, path: path.to_owned(), source }
}

/// Result of the builder.
pub type Result<T> = std::result::Result<T, Error>;
