//! The same inputs give the same bytes, wherever and as whomever one builds.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use builder::lab::Lab;
use sha2::{Digest, Sha256};

/// Everything around a build that must not show in its result.
struct Surroundings {
    /// Where artifacts go, relative to the folder that the build runs in.
    out: &'static str,
    umask: &'static str,
    zone: &'static str,
    locale: &'static str,
    /// What the build is started through: another user, fewer processors.
    through: &'static [&'static str],
}

const PLAIN: Surroundings = Surroundings { out: "a", umask: "022", zone: "UTC", locale: "C", through: &[] };
const ODD: Surroundings = Surroundings {
    out: "some where/else",
    umask: "077",
    zone: "Pacific/Chatham",
    locale: "tr_TR.UTF-8",
    through: &["unshare", "--user", "--map-user=4711", "--map-group=4712", "taskset", "--cpu-list", "0"],
};

#[test]
fn the_node_image_has_the_same_bytes_in_any_surroundings() -> Result<()> {
    let lab = Lab::new("reproducible")?;
    let roost = lab.program("roost");
    let first = build(&roost, &lab.path("first"), &PLAIN)?;
    let second = build(&roost, &lab.path("second place"), &ODD)?;
    let names: Vec<&String> = first.keys().collect();
    ensure!(names.len() == 7, "a node has seven artifacts, not {names:?}");
    let differ: Vec<&String> = names.into_iter().filter(|name| first.get(*name) != second.get(*name)).collect();
    ensure!(differ.is_empty() && first.len() == second.len(), "{differ:?} differ: compare them in {:?}", lab.dir());
    // Two disk images are of no use to anybody once they are known to be equal.
    std::fs::remove_dir_all(lab.dir()).context("Cannot remove the lab")
}

/// Builds afresh from the lock in `folder`, and returns the digest of each artifact by name.
fn build(roost: &Path, folder: &Path, around: &Surroundings) -> Result<BTreeMap<String, String>> {
    std::fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
    let script = format!("umask {}; exec \"$@\"", around.umask);
    let build = ["build", "node", "--locked", "--no-cache", "--out", around.out];
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).args(around.through).arg(roost).args(build).current_dir(folder);
    command.env("TZ", around.zone).env("LC_ALL", around.locale);
    let output = command.output().context("Cannot run sh")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the build in {} ended with {}:\n{words}", folder.display(), output.status);
    digests(&folder.join(around.out))
}

/// All that was built; the stamp, which holds times of files, is for this folder alone.
fn digests(out: &Path) -> Result<BTreeMap<String, String>> {
    let entries = std::fs::read_dir(out).with_context(|| format!("Cannot read {}", out.display()))?;
    let paths = entries.map(|e| Ok(e?.path())).collect::<Result<Vec<PathBuf>>>()?;
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    paths.iter().map(|p| (name(p), p)).filter(|(n, _)| !n.starts_with('.')).map(|(n, p)| Ok((n, digest(p)?))).collect()
}

fn digest(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("Cannot open {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).with_context(|| format!("Cannot read {}", path.display()))? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&buffer[..n]),
        }
    }
}
