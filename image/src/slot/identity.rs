//! What a UKI is: the root it boots, and what systemd-boot sorts it by.

use std::io::{Read, Seek};

use object::LittleEndian as LE;
use object::pe::IMAGE_FILE_MACHINE_AMD64;
use object::read::pe::{ImageNtHeaders, PeFile64};
use object::read::{Object, ObjectSection, ReadCache};
use thiserror::Error;

use crate::pin;
use crate::verity::{self, Verity};

/// More than a command line or an os-release ever has.
const TEXT_MAX: u64 = 64 << 10;

/// Why a UKI does not say what it is.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum IdentityError {
    /// It is no PE file, or is cut.
    #[error("It is no whole 64-bit PE file: {reason}")]
    NotPe {
        /// What the parser found.
        reason: String,
    },
    /// A section is missing, or larger than any text.
    #[error("Its section {name} is missing or larger than {TEXT_MAX} bytes")]
    Section {
        /// Its name.
        name: &'static str,
    },
    /// There is no usable `roost.verity=` in it.
    #[error("Its command line has no usable roost.verity=: {found}")]
    Verity {
        /// What it has.
        found: String,
    },
}

/// Read from a UKI's headers and two short sections; the rest of it is not looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The root that it boots.
    pub verity: Verity,
    /// Fingerprint of the CA of the one cluster that it is for, if it is for one.
    pub cluster: Option<String>,
    /// systemd-boot keeps entries of one sort key together, in the order of the keys.
    pub sort_key: Option<String>,
    /// What systemd-boot takes for its version, whatever the file's name says.
    pub version: Option<String>,
    /// `x86_64`, or the number of another machine.
    pub architecture: String,
}

impl Identity {
    /// Reads a UKI.
    ///
    /// # Errors
    /// When it is none of ours, or damaged.
    pub fn read(uki: impl Read + Seek) -> Result<Self, IdentityError> {
        let cache = ReadCache::new(uki);
        let bad = |error: object::read::Error| IdentityError::NotPe { reason: error.to_string() };
        let file = PeFile64::parse(&cache).map_err(bad)?;
        let text = |name: &'static str| -> Result<String, IdentityError> {
            let section = file.section_by_name(name).filter(|section| section.size() <= TEXT_MAX);
            let section = section.ok_or(IdentityError::Section { name })?;
            Ok(String::from_utf8_lossy(section.data().map_err(bad)?).into_owned())
        };
        let cmdline = text(".cmdline")?;
        let word = verity::on_cmdline(&cmdline);
        let found = || IdentityError::Verity { found: word.unwrap_or("none").to_owned() };
        let verity = word.and_then(|word| word.parse().ok()).ok_or_else(found)?;
        let release = text(".osrel")?;
        let machine = file.nt_headers().file_header().machine.get(LE);
        Ok(Self {
            verity,
            cluster: pin::on_cmdline(&cmdline).map(str::to_owned),
            sort_key: first_of(&release, &["IMAGE_ID", "ID"]),
            version: first_of(&release, &["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"]),
            architecture: match machine {
                IMAGE_FILE_MACHINE_AMD64 => "x86_64".to_owned(),
                other => format!("PE machine {other:?}"),
            },
        })
    }
}

/// The first of these fields that an os-release has, in the order in which systemd-boot asks for them.
fn first_of(release: &str, names: &[&str]) -> Option<String> {
    let field = |name: &&str| {
        let mut lines = release.split(['\n', '\0']).filter_map(|line| line.trim().split_once('='));
        lines.find(|(key, _)| key == name).map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
    };
    names.iter().find_map(field)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::uki::{self, Parts, tests::stub};

    fn uki(cmdline: &str, os_release: &str) -> Vec<u8> {
        let parts = Parts { os_release, cmdline, initrd: &[1; 9000], uname: "6.12", linux: &[2; 50_000] };
        uki::build(&stub(0x600), &parts).unwrap()
    }

    const VERITY: &str = "7bff3cfd62cce972161fa8c4f0ba6b018281d237e7f73225d43a343a49882c0e:3aaf:13575";

    #[test]
    fn a_uki_says_which_root_it_boots_and_how_it_is_sorted() {
        let bytes = uki(
            &format!("quiet roost.cluster=c1 roost.verity={VERITY}\0"),
            "ID=roost\nIMAGE_ID=node\nIMAGE_VERSION=\"1.2\"\n",
        );
        let identity = Identity::read(Cursor::new(&bytes)).unwrap();
        assert_eq!(identity.verity.to_string(), VERITY);
        assert_eq!((identity.sort_key.as_deref(), identity.cluster.as_deref()), (Some("node"), Some("c1")));
        assert_eq!(identity.version.as_deref(), Some("1.2"));
        assert_eq!(identity.architecture, "x86_64");
        let old =
            Identity::read(Cursor::new(uki(&format!("roost.verity={VERITY}"), "ID=roost\nVERSION_ID=1\n"))).unwrap();
        assert_eq!((old.sort_key.as_deref(), old.version.as_deref()), (Some("roost"), Some("1")));
        assert_eq!(old.cluster, None);
    }

    #[test]
    fn what_is_no_uki_of_ours_says_why() {
        let error = |bytes: &[u8]| Identity::read(Cursor::new(bytes)).unwrap_err().to_string();
        assert!(error(b"MZ").contains("no whole 64-bit PE file"));
        assert!(error(&uki("quiet", "")).contains("none"));
        assert!(error(&uki("roost.verity=1:2:3", "")).contains("1:2:3"));
        let long = "x".repeat(70_000);
        assert!(error(&uki(&long, "")).contains(".cmdline"));
        let bytes = uki(&format!("roost.verity={VERITY}"), "");
        for cut in (0..bytes.len()).step_by(64) {
            // What is looked at is whole, or it is an error.
            assert_eq!(Identity::read(Cursor::new(&bytes[..cut])).is_ok(), cut >= 0x880, "cut at {cut}");
        }
    }
}
