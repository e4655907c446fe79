//! A private apt-get: Debian's own answer to "which packages does this need", without touching the host.
//!
//! It runs in folders of our own with an empty dpkg status, so nothing counts as installed: Essential
//! packages come along only when something depends on them. The host's configuration is not read (our
//! `Dir::Etc` is set before apt looks for it), except for its proxies. apt verifies the signed InRelease
//! against Debian's keys, and refuses an archive without a valid signature.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use model::Digest;

use crate::cache::{self, Cache, write_whole};
use crate::error::{Error, Result, at};
use crate::lock::{Archive, Lock, Package};
use crate::mirror::Mirror;

/// The Debian release that images are made of.
pub const SUITE: &str = "trixie";

const KEYRINGS: [&str; 2] =
    ["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"];

/// Resolves packages against a mirror, after fetching and verifying its indexes.
pub fn resolve(install: &[String], mirror: &Mirror, cache: &Cache) -> Result<Lock> {
    let apt = Apt::set_up(mirror, cache)?;
    apt.run("Updating the package lists", &["update", "-q"])?;
    let mut args = vec!["install", "-q", "--print-uris", "-y", "--no-remove"];
    args.extend(install.iter().map(String::as_str));
    let answer = apt.run("Resolving the recipe's packages", &args)?;
    let packages: Result<Vec<Package>> =
        answer.lines().filter(|l| l.starts_with('\'')).map(|l| package(l, mirror)).collect();
    Ok(Lock::new(apt.epoch()?, install, packages?))
}

struct Apt {
    root: PathBuf,
    /// Held while apt runs: two at once would fail on each other's lists.
    _lock: File,
}

impl Apt {
    /// Writes configuration and sources. The folder is kept, so that the next update fetches only what changed.
    fn set_up(mirror: &Mirror, cache: &Cache) -> Result<Self> {
        let keyring = keyring()?;
        let root = cache.folder("apt")?;
        let lock_file = root.join("lock");
        let lock = File::create(&lock_file).map_err(at("create", &lock_file))?;
        cache::lock(&lock, &lock_file)?;
        for folder in [
            "state/lists/partial",
            "cache/archives/partial",
            "etc/preferences.d",
            "etc/apt.conf.d",
            "etc/sources.list.d",
        ] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(at("create", &folder))?;
        }
        write_whole(&root.join("status"), b"")?;
        write_whole(&root.join("etc/sources.list"), sources(mirror, &keyring).as_bytes())?;
        write_whole(&root.join("apt.conf"), configuration(&root).as_bytes())?;
        Ok(Self { root, _lock: lock })
    }

    /// Runs apt-get and returns its standard output.
    fn run(&self, action: &str, args: &[&str]) -> Result<String> {
        let output = Command::new("apt-get")
            .args(args)
            .env("APT_CONFIG", self.root.join("apt.conf"))
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .output()
            .map_err(|source| Error::Start {
                program: "apt-get".to_owned(),
                advice: "a lock is made on Debian or a system with apt; a build from a complete lock needs none"
                    .to_owned(),
                source,
            })?;
        // apt-get update ends with 0 when a repository could not be fetched and an old copy is there,
        // and only warns when one is refused: both mean that the answer would be stale.
        let words = String::from_utf8_lossy(&output.stderr);
        let doubtful = words.lines().any(|l| l.starts_with("E:") || l.starts_with("W:") || l.starts_with("Err:"));
        if output.status.success() && !doubtful {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failed(action, &output))
    }

    /// When the newest verified index was made.
    fn epoch(&self) -> Result<u64> {
        let lists = self.root.join("state/lists");
        let mut newest = 0;
        for entry in std::fs::read_dir(&lists).map_err(at("read", &lists))? {
            let path = entry.map_err(at("read", &lists))?.path();
            if path.to_string_lossy().ends_with("InRelease") {
                let text = std::fs::read_to_string(&path).map_err(at("read", &path))?;
                let date = text.lines().find_map(|l| l.strip_prefix("Date: ")).and_then(release_date);
                newest = newest
                    .max(date.ok_or_else(|| Error::AptAnswer { line: format!("no date in {}", path.display()) })?);
            }
        }
        Ok(newest)
    }
}

fn keyring() -> Result<PathBuf> {
    let found = KEYRINGS.iter().map(PathBuf::from).find(|p| p.is_file());
    found.ok_or_else(|| Error::NoKeyring { looked: KEYRINGS.join(" or ") })
}

fn sources(mirror: &Mirror, keyring: &Path) -> String {
    let line = |base: &str, suite: &str| {
        format!("deb [arch=amd64 signed-by={}] {base} {suite} main non-free-firmware\n", keyring.display())
    };
    [
        line(&mirror.debian, SUITE),
        line(&mirror.debian, &format!("{SUITE}-updates")),
        line(&mirror.security, &format!("{SUITE}-security")),
    ]
    .concat()
}

fn configuration(root: &Path) -> String {
    let dir = root.display();
    format!(
        "Dir \"{dir}\";\nDir::Etc \"{dir}/etc\";\nDir::State \"{dir}/state\";\n\
         Dir::State::Status \"{dir}/status\";\nDir::Cache \"{dir}/cache\";\nDir::Log \"{dir}\";\n\
         APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\nAPT::Install-Recommends \"false\";\n\
         APT::Install-Suggests \"false\";\nAPT::Sandbox::User \"\";\nAPT::Get::AllowUnauthenticated \"false\";\n\
         Acquire::Languages \"none\";\nAcquire::ForceHash \"SHA256\";\nAcquire::Retries \"2\";\n\
         Acquire::AllowInsecureRepositories \"false\";\nAcquire::AllowWeakRepositories \"false\";\n\
         Acquire::AllowDowngradeToInsecureRepositories \"false\";\nDebug::NoLocking \"false\";\n{}",
        host_proxies()
    )
}

/// The proxy lines of the host's apt configuration; none when the host has no apt-config.
fn host_proxies() -> String {
    let output = Command::new("apt-config").arg("dump").env("LC_ALL", "C").output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let proxy = |l: &&str| l.starts_with("Acquire::http") && l.contains("::Proxy");
    text.lines().filter(proxy).map(|l| format!("{l}\n")).collect()
}

fn failed(action: &str, output: &Output) -> Error {
    let words = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = words.lines().filter(|l| !l.trim().is_empty()).collect();
    let mut told = lines[lines.len().saturating_sub(12)..].join("\n");
    if words.contains("NO_PUBKEY") {
        told.push_str("\nThe host's Debian keys are too old to verify this archive: upgrade debian-archive-keyring");
    }
    Error::Program {
        action: action.to_owned(),
        program: "apt-get".to_owned(),
        status: output.status.to_string(),
        output: told,
    }
}

/// One line of `--print-uris`: `'URL' name_version_arch.deb SIZE SHA256:HEX`. The version in the second word has its
/// epoch, which the file in the pool lacks; both are percent-encoded.
fn package(line: &str, mirror: &Mirror) -> Result<Package> {
    parse_package(line, mirror).ok_or_else(|| Error::AptAnswer { line: line.to_owned() })
}

fn parse_package(line: &str, mirror: &Mirror) -> Option<Package> {
    let (url, rest) = line.strip_prefix('\'')?.split_once("' ")?;
    let mut words = rest.split_whitespace();
    let file = words.next()?;
    let size = words.next()?.parse().ok()?;
    let sha256: Digest = words.next()?.strip_prefix("SHA256:")?.parse().ok()?;
    // Security first: its address may begin with the other's.
    let (archive, path) = [Archive::Security, Archive::Debian].into_iter().find_map(|a| {
        let path = url.strip_prefix(mirror.base(a))?.strip_prefix('/')?;
        Some((a, decode(path)?))
    })?;
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version, arch) = (parts.next()?, decode(parts.next()?)?, parts.next()?);
    Some(Package { name: name.to_owned(), version, arch: arch.to_owned(), archive, path, size, sha256 })
}

/// Undoes percent-encoding; `None` when it is broken or no ASCII.
fn decode(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, after)) = rest.split_once('%') {
        out.push_str(plain);
        let byte = u8::from_str_radix(after.get(..2)?, 16).ok().filter(u8::is_ascii_graphic)?;
        out.push(byte as char);
        rest = &after[2..];
    }
    out.push_str(rest);
    Some(out)
}

/// `Sat, 15 Nov 2025 09:31:00 UTC` as seconds since 1970.
fn release_date(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace().skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let name = words.next()?;
    let month = months.iter().position(|m| *m == name)? as i64 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let clock: Vec<i64> = words.next()?.split(':').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    let zone_is_utc = matches!(words.next(), Some("UTC" | "GMT" | "+0000"));
    if clock.len() != 3 || !zone_is_utc || !(1..=31).contains(&day) || !(1970..=9999).contains(&year) {
        return None;
    }
    let seconds = days_from_1970(year, month, day) * 86_400 + clock[0] * 3600 + clock[1] * 60 + clock[2];
    u64::try_from(seconds).ok()
}

/// Days since 1970-01-01 of a day of the Gregorian calendar, counted in eras of 400 years from March.
fn days_from_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        Mirror::from_url("http://h/debian").expect("an address")
    }

    #[test]
    fn a_line_of_apts_answer_becomes_a_package() {
        let hash = "ab".repeat(32);
        let line = format!(
            "'http://h/debian-security/pool/main/g/glibc/libc6_2.41-12%2bdeb13u4_amd64.deb' libc6_1%3a2.41-12+deb13u4_amd64.deb 2846580 SHA256:{hash}"
        );
        let expect = Package {
            name: "libc6".into(),
            version: "1:2.41-12+deb13u4".into(),
            arch: "amd64".into(),
            archive: Archive::Security,
            path: "pool/main/g/glibc/libc6_2.41-12+deb13u4_amd64.deb".into(),
            size: 2_846_580,
            sha256: hash.parse().expect("a digest"),
        };
        assert_eq!(package(&line, &mirror()).expect("a package"), expect);
    }

    #[test]
    fn a_line_of_another_shape_or_host_is_an_error() {
        for line in
            ["'x", "'http://other/debian/pool/x.deb' x_1_all.deb 1 SHA256:00", "'http://h/debian/p' x 1 MD5Sum:0"]
        {
            assert!(matches!(package(line, &mirror()), Err(Error::AptAnswer { .. })), "{line}");
        }
    }

    #[test]
    fn dates_of_an_index_are_seconds_since_1970() {
        assert_eq!(release_date("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(release_date("Sat, 15 Nov 2025 09:31:00 UTC"), Some(1_763_199_060));
        assert_eq!(release_date("Thu, 29 Feb 2024 23:59:59 UTC"), Some(1_709_251_199));
        assert_eq!(release_date("Sat, 15 Nov 2025 09:31:00 CET"), None);
        assert_eq!(release_date("soon"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(line in "\\PC*") {
            let _ = package(&line, &mirror());
            let _ = release_date(&line);
        }
    }
}
