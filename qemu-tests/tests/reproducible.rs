//! The same inputs give the same bytes, wherever and as whomever one builds.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use builder::lab::Lab;
use builder::{elf, programs};
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
    /// Where sources, crates and compiled programs are; nothing: where they are in everyday work.
    places: Vec<(&'static str, PathBuf)>,
}

const PLAIN: Surroundings =
    Surroundings { out: "a", umask: "022", zone: "UTC", locale: "C", through: &[], places: Vec::new() };
const ODD: Surroundings = Surroundings {
    out: "some where/else",
    umask: "077",
    zone: "Pacific/Chatham",
    locale: "tr_TR.UTF-8",
    through: &["unshare", "--user", "--map-user=4711", "--map-group=4712", "taskset", "--cpu-list", "0"],
    places: Vec::new(),
};

/// What an image of ours is packed with.
const PROGRAMS: [&str; 4] = ["node-init", "noded", "router", "vma"];

#[test]
fn the_node_image_has_the_same_bytes_in_any_surroundings() -> Result<()> {
    let lab = Lab::new("reproducible")?;
    let roost = lab.program("roost");
    let first = build(&roost, &lab.path("first"), &PLAIN)?;
    let second = build(&roost, &lab.path("second place"), &ODD)?;
    verify_finds_what_was_altered(&roost, &lab.path("first").join(PLAIN.out))?;
    ensure_equal(&lab, &first, &second)
}

/// One build shows both: what is as it was built, and the one file that is not.
fn verify_finds_what_was_altered(roost: &Path, image: &Path) -> Result<()> {
    let altered = image.join("node.initrd");
    let mut bytes = std::fs::read(&altered).context("Cannot read the initrd")?;
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&altered, bytes).context("Cannot alter the initrd")?;
    let lock = programs::source_tree().join("image/recipes/node.lock");
    let mut command = Command::new(roost);
    let output = command.arg("verify").arg(image.join("node.raw")).arg("--lock").arg(lock).output();
    let output = output.context("Cannot run roost verify")?;
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let verdicts: BTreeMap<&str, &str> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    ensure!(verdicts.len() > 8, "{said}{error}");
    for (name, verdict) in &verdicts {
        let expect = if *name == "node.initrd" { "OTHER BYTES" } else { "the same bytes" };
        ensure!(verdict.trim() == expect, "{name}: {}, expected {expect}\n{error}", verdict.trim());
    }
    ensure!(!output.status.success() && error.contains("is not what this source tree makes"), "{error}");
    Ok(())
}

#[test]
#[ignore = "compiles everything once more: runs in the full suite"]
fn the_node_image_has_the_same_bytes_from_another_checkout() -> Result<()> {
    let lab = Lab::new("reproducible-elsewhere")?;
    let roost = lab.program("roost");
    let first = build(&roost, &lab.path("first"), &PLAIN)?;
    let places = vec![
        ("ROOST_SOURCE", copy_of_sources(&lab.path("another/checkout"))?),
        ("CARGO_HOME", copy_of_crates(&lab.path("another.home"))?),
        ("CARGO_TARGET_DIR", lab.path("compiled")),
    ];
    let second = build(&roost, &lab.path("second"), &Surroundings { places, ..PLAIN })?;
    ensure_equal(&lab, &first, &second)
}

/// The cheap half of the above: what depends on a folder names it.
#[test]
fn no_program_says_where_it_was_compiled() -> Result<()> {
    let lab = Lab::new("reproducible-programs")?;
    let target = lab.program("..").canonicalize().context("Cannot find the folder of programs")?;
    let places = [cargo_home()?, programs::source_tree().canonicalize()?, target];
    for name in PROGRAMS {
        let program = lab.program(name);
        let bytes = std::fs::read(&program).with_context(|| format!("Cannot read {}", program.display()))?;
        let packed = elf::strip(bytes).with_context(|| format!("Cannot strip {}", program.display()))?;
        for place in &places {
            let place = place.as_os_str().as_encoded_bytes();
            let at = packed.windows(place.len()).position(|bytes| bytes == place);
            let said = at.map(|at| String::from_utf8_lossy(&packed[at..packed.len().min(at + 120)]).into_owned());
            ensure!(said.is_none(), "{name} says where it was compiled: {said:?} (see .cargo/rustc)");
        }
    }
    Ok(())
}

fn ensure_equal(lab: &Lab, first: &BTreeMap<String, String>, second: &BTreeMap<String, String>) -> Result<()> {
    let names: Vec<&String> = first.keys().collect();
    ensure!(names.len() == 10, "a node has ten artifacts, not {names:?}");
    let differ: Vec<&String> = names.into_iter().filter(|name| first.get(*name) != second.get(*name)).collect();
    ensure!(differ.is_empty() && first.len() == second.len(), "{differ:?} differ: compare them in {:?}", lab.dir());
    // Two disk images are of no use to anybody once they are known to be equal.
    std::fs::remove_dir_all(lab.dir()).context("Cannot remove the lab")
}

/// Copies the source tree, without what was made of it.
fn copy_of_sources(to: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(to).with_context(|| format!("Cannot make {}", to.display()))?;
    let script = "tar -C \"$1\" --exclude ./target --exclude ./out --exclude ./.git -c . | tar -C \"$2\" -x";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(programs::source_tree()).arg(to);
    ensure!(command.status().context("Cannot run sh")?.success(), "the sources were not copied");
    Ok(to.to_owned())
}

/// A home of cargo's with the crates of this one, so that nothing is downloaded.
fn copy_of_crates(to: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(to).with_context(|| format!("Cannot make {}", to.display()))?;
    symlink(cargo_home()?.join("registry"), to.join("registry")).context("Cannot link the crates")?;
    Ok(to.to_owned())
}

fn cargo_home() -> Result<PathBuf> {
    let named = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let default = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    named.or_else(default).context("neither CARGO_HOME nor HOME is set")
}

/// Builds afresh from the lock in `folder`, and returns the digest of each artifact by name.
fn build(roost: &Path, folder: &Path, around: &Surroundings) -> Result<BTreeMap<String, String>> {
    std::fs::create_dir_all(folder).with_context(|| format!("Cannot make {}", folder.display()))?;
    let script = format!("umask {}; exec \"$@\"", around.umask);
    let build = ["build", "node", "--locked", "--no-cache", "--out", around.out];
    let mut command = Command::new("sh");
    command.args(["-c", &script, "sh"]).args(around.through).arg(roost).args(build).current_dir(folder);
    command.env("TZ", around.zone).env("LC_ALL", around.locale);
    command.envs(around.places.iter().map(|(name, place)| (name, place)));
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
