//! Where Debian's archive is: `--mirror`, `ROOST_MIRROR`, or what the host's own apt uses.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::lock::Archive;

/// Base addresses of the two archives, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Holds the suites `trixie` and `trixie-updates`.
    pub debian: String,
    /// Holds `trixie-security`.
    pub security: String,
}

impl Mirror {
    /// That of `--mirror` or `ROOST_MIRROR`, if there is one.
    pub fn given(url: Option<&str>) -> Result<Option<Self>> {
        url.filter(|u| !u.is_empty()).map(Self::from_url).transpose()
    }

    /// The one given, else the host's.
    pub fn or_of_host(given: Option<&Self>) -> Result<Self> {
        given.map_or_else(|| Self::from_apt(Path::new("/etc/apt")), |mirror| Ok(mirror.clone()))
    }

    /// From one address. `http://host/debian` has security at `http://host/debian-security`; any other
    /// address is the parent of both.
    pub fn from_url(url: &str) -> Result<Self> {
        let base = url.trim_end_matches('/');
        if !is_web(base) {
            return Err(Error::BadMirror { url: url.to_owned() });
        }
        Ok(match base.strip_suffix("/debian") {
            Some(parent) => Self { debian: base.to_owned(), security: format!("{parent}/debian-security") },
            None => Self { debian: format!("{base}/debian"), security: format!("{base}/debian-security") },
        })
    }

    /// From an apt configuration folder: `sources.list` and `sources.list.d/`, both syntaxes.
    pub fn from_apt(folder: &Path) -> Result<Self> {
        let uris = uris_in(folder);
        let last = |uri: &str| uri.rsplit('/').next().unwrap_or_default().to_owned();
        let debian = uris.iter().find(|u| last(u) == "debian");
        let security = uris.iter().find(|u| last(u) == "debian-security");
        match (debian, security) {
            (Some(d), Some(s)) => Ok(Self { debian: d.clone(), security: s.clone() }),
            (Some(d), None) => Self::from_url(d),
            _ => Err(Error::NoMirror { looked: folder.display().to_string() }),
        }
    }

    /// Base address of an archive.
    pub fn base(&self, archive: Archive) -> &str {
        match archive {
            Archive::Debian => &self.debian,
            Archive::Security => &self.security,
        }
    }
}

/// All web addresses that apt is told to use, in the order of apt's reading.
fn uris_in(folder: &Path) -> Vec<String> {
    let mut files = vec![folder.join("sources.list")];
    let mut parts: Vec<PathBuf> =
        std::fs::read_dir(folder.join("sources.list.d")).into_iter().flatten().flatten().map(|e| e.path()).collect();
    parts.sort();
    files.extend(parts);
    let mut uris = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => uris.extend(deb822_uris(&text)),
            Some("list") => uris.extend(list_uris(&text)),
            _ => {}
        }
    }
    uris.iter().filter_map(|u| web_address(u)).collect()
}

/// `URIs:` of every enabled stanza that has binary packages.
fn deb822_uris(text: &str) -> Vec<String> {
    let mut uris = Vec::new();
    for stanza in stanzas(text) {
        let field = |name: &str| stanza.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
        let off = field("Enabled").is_some_and(|v| ["no", "false", "0"].contains(&v.trim()));
        let binary = field("Types").is_none_or(|v| v.split_whitespace().any(|t| t == "deb"));
        if !off && binary {
            uris.extend(field("URIs").unwrap_or_default().split_whitespace().map(str::to_owned));
        }
    }
    uris
}

/// Stanzas of a deb822 text: fields in order, continuation lines joined by a newline, comments dropped.
pub(crate) fn stanzas(text: &str) -> Vec<Vec<(String, String)>> {
    let mut all: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let current = all.last_mut().expect("one stanza is always open");
        if line.trim().is_empty() {
            all.push(Vec::new());
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = current.last_mut() {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            current.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    all.retain(|s| !s.is_empty());
    all
}

/// `deb [options] URI suite...` lines.
fn list_uris(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|l| l.trim().strip_prefix("deb")).filter(|l| l.starts_with([' ', '\t', '[']));
    let without_options = lines.map(|l| match l.trim_start().strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(_, after)| after),
        None => l,
    });
    without_options.filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

/// A source's web address. Cloud images of Debian name a file with a list of mirrors
/// (`mirror+file:/etc/apt/mirrors/debian.list`): its first line counts.
fn web_address(uri: &str) -> Option<String> {
    if let Some(path) = uri.strip_prefix("mirror+file:") {
        let text = std::fs::read_to_string(path.replacen("//", "/", 1)).ok()?;
        return text.split_whitespace().find_map(web_address);
    }
    let base = uri.trim_end_matches('/');
    is_web(base).then(|| base.to_owned())
}

fn is_web(uri: &str) -> bool {
    let rest = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://"));
    rest.is_some_and(|r| !r.is_empty() && !r.starts_with('/') && !r.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("sources.list.d")).expect("a folder");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("a file");
        }
        dir
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], debian: &str, security: &str) {
        let dir = apt_with(files);
        let found = Mirror::from_apt(dir.path()).expect("a mirror");
        assert_eq!((found.debian.as_str(), found.security.as_str()), (debian, security));
    }

    #[test]
    fn both_syntaxes_of_apt_are_read() {
        check(
            &[(
                "sources.list.d/debian.sources",
                "# x\nTypes: deb deb-src\n# y\nURIs: http://a/debian/\nSuites: bookworm\n\nTypes: deb\nURIs: https://b/debian-security\n",
            )],
            "http://a/debian",
            "https://b/debian-security",
        );
        check(
            &[(
                "sources.list",
                "deb-src http://no/debian x\n# deb http://no/debian x\ndeb [arch=amd64 signed-by=/k] http://a/debian trixie main\n",
            )],
            "http://a/debian",
            "http://a/debian-security",
        );
    }

    #[test]
    fn other_distributions_and_disabled_sources_are_passed_over() {
        let dir = apt_with(&[
            ("sources.list", "deb http://a/ubuntu noble main\ndeb cdrom:[x]/ y main\n"),
            ("sources.list.d/d.sources", "Enabled: no\nTypes: deb\nURIs: http://a/debian\n"),
        ]);
        assert!(matches!(Mirror::from_apt(dir.path()), Err(Error::NoMirror { .. })));
    }

    #[test]
    fn a_list_of_mirrors_in_a_file_is_followed() {
        let dir = apt_with(&[("m.list", "https://c/debian\thttp://d/debian\n")]);
        let source = format!("Types: deb\nURIs: mirror+file:{}/m.list\n", dir.path().display());
        check(&[("sources.list.d/d.sources", &source)], "https://c/debian", "https://c/debian-security");
    }

    #[test]
    fn a_given_address_may_name_the_archive_or_its_parent() {
        let both = Mirror { debian: "http://h/x/debian".into(), security: "http://h/x/debian-security".into() };
        assert_eq!(Mirror::from_url("http://h/x/debian/").expect("archive"), both);
        assert_eq!(Mirror::from_url("http://h/x").expect("parent"), both);
        for bad in ["ftp://h/debian", "h/debian", "http://", "http:///x", "http://a b"] {
            assert!(matches!(Mirror::from_url(bad), Err(Error::BadMirror { .. })), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_sources_file_makes_the_reader_panic(text in "(\\PC|\n){0,200}") {
            deb822_uris(&text);
            list_uris(&text);
        }
    }
}
