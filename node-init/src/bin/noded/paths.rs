//! Where this daemon's files are: [`model::paths`] on a node, under other roots when run by hand.

use model::paths;
use std::path::{Path, PathBuf};

/// Roots of the daemon's files. Every path below is derived from them.
#[derive(Clone, Debug)]
pub struct Paths {
    /// What outlives a boot; [`paths::STATE`] on a node.
    pub state: PathBuf,
    /// What is gone at reboot; [`paths::RUN`] on a node.
    pub run: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { state: paths::STATE.into(), run: paths::RUN.into() }
    }
}

impl Paths {
    /// A path of [`model::paths`] under this daemon's roots; one that lies under neither stays as it is.
    ///
    /// ```ignore
    /// paths.at(model::paths::LEDGER)
    /// ```
    pub fn at(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        let under = |root: &str, own: &Path| path.strip_prefix(root).ok().map(|rest| own.join(rest));
        under(paths::RUN, &self.run).or_else(|| under(paths::STATE, &self.state)).unwrap_or_else(|| path.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_moves_with_its_root() {
        let paths = Paths { state: "/tmp/s".into(), run: "/tmp/r".into() };
        assert_eq!(paths.at(model::paths::LEDGER), Path::new("/tmp/s/ledger"));
        assert_eq!(paths.at(model::paths::ROUTER_SOCKET), Path::new("/tmp/r/router.sock"));
        assert_eq!(paths.at("/usr/sbin/nft"), Path::new("/usr/sbin/nft"));
        assert_eq!(Paths::default().at(model::paths::IMAGES), Path::new(model::paths::IMAGES));
    }
}
