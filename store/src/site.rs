//! Where a store keeps its things, and its first start.
//!
//! ```text
//! DIR/store.db           the database (0600); `.lock` beside it is held by the process that serves
//! DIR/pki/               the cluster's keys (0700)
//! DIR/qa.toml            how `qa` finds and enters this store (0600)
//! DIR/images/            the image repository, unless elsewhere
//! ```
//!
//! A first start makes all of it under `store.db.new` and renames that last: a start that was cut off
//! leaves no database, and the next one begins afresh.

use crate::{
    api::JOIN_TTL_S,
    db::{Clock, Db},
    error::{Error, Result},
    files,
    pki::{self, Names, Pki},
    repository::Repository,
    secret,
};
use model::{
    api::{QA_FILE, QaConfig, TokenKind},
    sync::Secret,
};
use std::{
    fs::{self, File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The database file.
    pub db: PathBuf,
    /// The keys.
    pub pki: PathBuf,
    /// The file for `qa`.
    pub qa: PathBuf,
    /// The image repository.
    pub images: PathBuf,
}

/// A site in use. The lock goes when this is dropped.
pub struct Opened {
    /// The database.
    pub db: Db,
    /// The keys.
    pub pki: Pki,
    /// The images.
    pub images: Repository,
    /// What a first start made, to be shown once.
    pub first: Option<FirstStart>,
    /// Keeps other processes away.
    pub lock: File,
}

/// Tokens made by a first start.
#[derive(Debug)]
pub struct FirstStart {
    /// For administrators, for ever.
    pub admin: Secret,
    /// For one node, for a day.
    pub join: Secret,
}

impl Site {
    /// The site of `--db sqlite:PATH`; images beside it unless elsewhere.
    pub fn of(db: &str, images: Option<PathBuf>) -> Result<Self> {
        let invalid = |text: String| Error::Invalid(text);
        let path = match db.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => PathBuf::from(path.strip_prefix("//").unwrap_or(path)),
            Some(("postgres" | "postgresql", _)) => {
                return Err(invalid("PostgreSQL is not supported yet: use --db sqlite:PATH".to_owned()));
            }
            _ => return Err(invalid(format!("'{db}' is no database: expected sqlite:PATH"))),
        };
        if path.is_dir() {
            return Err(invalid(format!("{} is a folder: expected the path of a database file", path.display())));
        }
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self {
            pki: dir.join("pki"),
            qa: dir.join(QA_FILE),
            images: images.unwrap_or_else(|| dir.join("images")),
            db: path,
        })
    }

    /// Opens the site, setting it up if there is nothing yet. `url` is where administrators reach it.
    ///
    /// # Errors
    /// When another process serves it, or half of it is missing: keys without a database or the reverse
    /// are never made up again, since every node trusts the old ones.
    pub fn open(&self, url: &str, names: &Names, clock: Clock) -> Result<Opened> {
        let dir = self.qa.parent().unwrap_or(Path::new("."));
        if !dir.exists() {
            files::private_dir(dir)?;
        }
        let lock = self.lock()?;
        let begun = files::with_suffix(&self.db, ".new");
        let first = match (self.db.exists(), self.pki.exists()) {
            (true, true) => None,
            (true, false) => {
                return Err(Error::Refused(format!(
                    "The database {} is there and the cluster's keys {} are missing: restore them from a backup",
                    self.db.display(),
                    self.pki.display()
                )));
            }
            (false, true) if !begun.exists() => {
                return Err(Error::Refused(format!(
                    "The cluster's keys {} are there and the database {} is missing: restore it from a backup, or move the keys away to begin a new cluster",
                    self.pki.display(),
                    self.db.display()
                )));
            }
            (false, _) => Some(self.set_up(&begun, url, &clock)?),
        };
        let pki = Pki::load(&self.pki, names)?;
        self.update_qa(url)?;
        let (images, db) = (Repository::open(&self.images)?, Db::open(&self.db, clock)?);
        Ok(Opened { db, pki, images, first, lock })
    }

    fn lock(&self) -> Result<File> {
        let path = files::with_suffix(&self.db, ".lock");
        let file = File::create(&path).map_err(Error::io("create", &path))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(_) => Err(Error::Refused(format!(
                "Another store serves {} already (it holds {})",
                self.db.display(),
                path.display()
            ))),
        }
    }

    fn set_up(&self, begun: &Path, url: &str, clock: &Clock) -> Result<FirstStart> {
        for leftover in ["", "-wal", "-shm"] {
            crate::repository::remove(&files::with_suffix(begun, leftover))?;
        }
        let first = FirstStart { admin: secret::new_token()?, join: secret::new_token()? };
        let (admin, join) = (secret::token_sha256(&first.admin.0), secret::token_sha256(&first.join.0));
        Db::create(begun, clock, |tx| {
            tx.token_add(TokenKind::Admin, &admin, "first start", None)?;
            tx.token_add(TokenKind::Join, &join, "first start", Some(tx.now_ms + JOIN_TTL_S * 1000))?;
            tx.event("store", "cluster.new", "cluster", "")
        })?;
        fs::set_permissions(begun, Permissions::from_mode(0o600)).map_err(Error::io("protect", begun))?;
        files::private_dir(&self.pki)?;
        pki::create(&self.pki)?;
        let ca = files::read_text(&self.pki.join("ca.pem"))?;
        self.write_qa(&QaConfig { url: url.to_owned(), token: first.admin.0.clone(), ca })?;
        fs::rename(begun, &self.db).map_err(Error::io("publish", &self.db))?;
        files::sync_dir(&self.db)?;
        Ok(first)
    }

    /// The store may listen elsewhere than last time; a file that someone moved away stays away.
    fn update_qa(&self, url: &str) -> Result<()> {
        let Ok(text) = fs::read_to_string(&self.qa) else { return Ok(()) };
        match toml::from_str::<QaConfig>(&text) {
            Ok(config) if config.url != url => self.write_qa(&QaConfig { url: url.to_owned(), ..config }),
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::warn!(file = %self.qa.display(), error = error.message(), "This file is left alone: it is not one of ours");
                Ok(())
            }
        }
    }

    fn write_qa(&self, config: &QaConfig) -> Result<()> {
        let text = toml::to_string(config).map_err(Error::pki("write qa.toml"))?;
        files::write_secret(&self.qa, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(dir: &Path) -> Site {
        Site::of(&format!("sqlite:{}", dir.join("deep/store.db").display()), None).expect("a site")
    }

    fn open(site: &Site, url: &str) -> Result<Opened> {
        site.open(url, &Names::default(), Clock::System)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_first_start_makes_everything_and_a_second_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = site(dir.path());
        let first = open(&site, "https://127.0.0.1:1").expect("opens");
        let tokens = first.first.as_ref().expect("tokens");
        let qa: QaConfig = toml::from_str(&fs::read_to_string(&site.qa).expect("there")).expect("parses");
        assert_eq!((qa.token.as_str(), qa.ca.as_str()), (tokens.admin.0.as_str(), first.pki.ca_pem()));
        assert_eq!([mode(&site.qa), mode(&site.db), mode(&site.pki)], [0o600, 0o600, 0o700]);
        let hash = secret::token_sha256(&tokens.admin.0);
        assert_eq!(first.db.read(move |tx| tx.admin(&hash)).await.expect("reads"), Some("first start".to_owned()));
        let ca = first.pki.ca_sha256();
        drop(first);
        let second = open(&site, "https://127.0.0.1:2").expect("opens again");
        assert!(second.first.is_none());
        assert_eq!(second.pki.ca_sha256(), ca);
        assert!(fs::read_to_string(&site.qa).expect("there").contains("127.0.0.1:2"));
    }

    #[test]
    fn two_stores_never_serve_one_database() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = site(dir.path());
        let _first = open(&site, "x").expect("opens");
        let error = open(&site, "x").err().expect("refused").to_string();
        assert!(error.contains("Another store serves"), "{error}");
    }

    #[test]
    fn half_a_cluster_is_never_made_up_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = site(dir.path());
        drop(open(&site, "x").expect("opens"));
        let kept = files::with_suffix(&site.db, ".kept");
        fs::rename(&site.db, &kept).expect("moved");
        let error = open(&site, "x").err().expect("refused").to_string();
        assert!(error.contains("the database") && error.contains("is missing"), "{error}");
        fs::rename(&kept, &site.db).expect("back");
        fs::remove_dir_all(&site.pki).expect("removed");
        let error = open(&site, "x").err().expect("refused").to_string();
        assert!(error.contains("keys") && error.contains("are missing"), "{error}");
    }

    #[test]
    fn a_first_start_that_was_cut_off_begins_afresh() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = site(dir.path());
        fs::create_dir_all(&site.pki).expect("made");
        fs::write(files::with_suffix(&site.db, ".new"), "half").expect("written");
        assert!(open(&site, "x").expect("opens").first.is_some());
    }

    #[track_caller]
    fn refused(db: &str, saying: &str) {
        assert!(Site::of(db, None).expect_err("refused").to_string().contains(saying), "{db}");
    }

    #[test]
    fn what_is_no_database_is_refused() {
        refused("store.db", "expected sqlite:PATH");
        refused("sqlite:", "expected sqlite:PATH");
        refused("sqlite:/", "is a folder");
        refused("postgres://host/db", "not supported yet");
    }

    #[test]
    fn a_file_of_another_kind_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let site = site(dir.path());
        drop(open(&site, "x").expect("opens"));
        for name in ["-wal", "-shm", ""] {
            crate::repository::remove(&files::with_suffix(&site.db, name)).expect("removed");
        }
        fs::write(&site.db, "this is no database, but it is some kilobytes of text\n".repeat(100)).expect("written");
        let error = crate::error::chain(&open(&site, "x").err().expect("refused"));
        assert!(error.contains("not a database"), "{error}");
    }
}
