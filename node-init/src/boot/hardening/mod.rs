//! Hardening: applied early, read back when everything is mounted, and told to the administrator.
//!
//! Nothing here stops a boot. What must hold before any of our programs runs is held by others: the root by verity, the
//! kernel, its command line and the initrd by the firmware. What is missing in a boot is in the log, on the console,
//! and in `qa host list`.

mod rules;

use super::mounts::Mounted;
use super::state::State;
use crate::fail::chain;
use crate::variant::variant;
use model::init::Hardening;
use rules::RULES;
use std::fs;
use std::path::{Path, PathBuf};
use sys::mount::{MountGuard, MsFlags, mount};

/// Where something is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// File below `/proc/sys`; the wanted value is its text, and is written first.
    Sysctl(&'static str),
    /// The kernel's command line has the wanted word.
    Word,
    /// File below `/sys/module`; the wanted value is its text.
    Module(&'static str),
    /// Mount point; it has all the wanted options.
    Mount(&'static str),
    /// How far the kernel is locked down; further than wanted is as good.
    Lockdown,
    /// The image's variant.
    Variant,
}

/// One thing that is wanted.
#[derive(Clone, Copy, Debug)]
struct Rule {
    place: Place,
    wanted: &'static str,
    why: &'static str,
}

/// Applies what can be applied while the node runs. Before drivers and cards: what holds for a new network link is
/// taken when it appears.
pub fn apply(_: &Mounted) {
    for rule in RULES {
        if let Place::Sysctl(file) = rule.place
            && let Err(e) = fs::write(Path::new("/proc/sys").join(file), rule.wanted)
        {
            // Some can only be read once they are set: whether it matters is seen when it is read back.
            tracing::debug!(setting = file, error = %e, "Setting not applied");
        }
    }
}

/// Reads all of it back. STATE is one of the mounts.
pub fn check(_: &State) -> Hardening {
    let hardening = Here::read(Path::new("/")).judge(RULES);
    for missing in &hardening.missing {
        tracing::warn!(missing, "Hardening does not hold");
    }
    tracing::info!(held = hardening.held, of = hardening.wanted(), "Hardening");
    hardening
}

/// A machine, as far as it was read.
struct Here {
    root: PathBuf,
    cmdline: String,
    mounts: String,
    lockdown: Option<String>,
    variant: String,
}

impl Here {
    fn read(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let (cmdline, mounts) = (text("proc/cmdline"), text("proc/self/mountinfo"));
        Self { root: root.to_owned(), cmdline, mounts, lockdown: lockdown(), variant: variant() }
    }

    fn judge(&self, rules: &[Rule]) -> Hardening {
        let missing: Vec<String> = rules.iter().filter_map(|rule| self.missing(rule)).collect();
        let held = u32::try_from(rules.len() - missing.len()).unwrap_or(u32::MAX);
        Hardening { held, missing }
    }

    /// What is found instead, and why it is wanted; none when it is as wanted.
    fn missing(&self, rule: &Rule) -> Option<String> {
        let Rule { place, wanted, why } = rule;
        let (name, found) = match place {
            Place::Sysctl(file) => (file.replace('/', "."), self.text("proc/sys", file)),
            Place::Module(file) => (file.replace("/parameters/", "."), self.text("sys/module", file)),
            Place::Word => {
                let there = self.cmdline.split_whitespace().any(|word| word == *wanted);
                ("command line".to_owned(), there.then(|| (*wanted).to_owned()))
            }
            Place::Mount(at) => ((*at).to_owned(), options(&self.mounts, at)),
            Place::Lockdown => ("lockdown".to_owned(), self.lockdown.as_deref().and_then(chosen)),
            Place::Variant => ("image".to_owned(), Some(self.variant.clone())),
        };
        let holds = found.as_deref().is_some_and(|found| place.holds(found, wanted));
        let found = found.unwrap_or_else(|| "missing".to_owned());
        (!holds).then(|| format!("{name} is {found}, wanted {wanted}: {why}"))
    }

    fn text(&self, below: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.root.join(below).join(file)).ok().map(|text| text.trim().to_owned())
    }
}

impl Place {
    fn holds(self, found: &str, wanted: &str) -> bool {
        match self {
            Self::Mount(_) => wanted.split(',').all(|option| found.split(',').any(|has| has == option)),
            Self::Lockdown => found == wanted || found == "confidentiality",
            Self::Sysctl(_) | Self::Word | Self::Module(_) | Self::Variant => found == wanted,
        }
    }
}

/// Options of what is mounted last at a place, from the text of `/proc/self/mountinfo`.
fn options(mountinfo: &str, at: &str) -> Option<String> {
    let of_line = |line: &str| {
        let mut fields = line.split(' ').skip(4);
        let (place, options) = (fields.next()?, fields.next()?);
        (place == at).then(|| options.to_owned())
    };
    mountinfo.lines().filter_map(of_line).next_back()
}

/// The one of several words that stands in brackets.
fn chosen(text: &str) -> Option<String> {
    text.split_whitespace().find_map(|word| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned()))
}

/// The kernel says it in a file system of its own, which nothing else here needs: it is mounted for this moment.
fn lockdown() -> Option<String> {
    let at = Path::new(model::paths::RUN).join("securityfs");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let mounted = fs::create_dir_all(&at)
        .map_err(sys::Error::of("create", at.display()))
        .and_then(|()| mount("securityfs", &at, "securityfs", flags, ""));
    if let Err(e) = mounted {
        tracing::warn!(error = %chain(&e), "Cannot tell whether the kernel is locked down");
        return None;
    }
    let guard = MountGuard::of(&at);
    fs::read_to_string(guard.path().join("lockdown")).ok()
}

#[cfg(test)]
mod tests;
