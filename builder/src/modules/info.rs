//! What a module says of itself: its `.modinfo` section.

use object::{Object as _, ObjectSection as _};

/// The parts of `.modinfo` that a builder needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Info {
    /// Modules that must be loaded first.
    pub depends: Vec<String>,
    /// Soft dependencies in order: whether before (`true`) or after, and a name or alias.
    pub soft: Vec<(bool, String)>,
    /// Patterns of devices and names that this module answers to.
    pub aliases: Vec<String>,
    /// Firmware files it may ask for.
    pub firmware: Vec<String>,
}

impl Info {
    /// Reads a decompressed module.
    pub fn read(module: &[u8]) -> Result<Self, String> {
        let file = object::File::parse(module).map_err(|e| format!("it is no ELF file: {e}"))?;
        let section = file.section_by_name(".modinfo").ok_or("it has no .modinfo section")?;
        Ok(Self::parse(section.data().map_err(|e| format!("cannot read .modinfo: {e}"))?))
    }

    /// Reads `key=value` strings, each ended by a zero byte.
    pub fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        let text = section.split(|b| *b == 0).map(String::from_utf8_lossy);
        for line in text.filter(|l| !l.is_empty()) {
            match line.split_once('=') {
                Some(("depends", v)) => info.depends.extend(v.split(',').filter(|n| !n.is_empty()).map(super::plain)),
                Some(("softdep", v)) => info.soft.extend(soft(v)),
                Some(("alias", v)) => info.aliases.push(v.to_owned()),
                Some(("firmware", v)) => info.firmware.push(v.to_owned()),
                _ => {}
            }
        }
        info
    }
}

/// `pre: a b post: c`.
fn soft(text: &str) -> Vec<(bool, String)> {
    let mut before = true;
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "pre:" => before = true,
            "post:" => before = false,
            name => found.push((before, name.to_owned())),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_read_key_by_key() {
        let info =
            Info::parse(b"license=GPL\0depends=a-b,c\0softdep=pre: x y post: z\0alias=pci:v*\0firmware=f/x.bin\0\0");
        let expect = Info {
            depends: vec!["a_b".into(), "c".into()],
            soft: vec![(true, "x".into()), (true, "y".into()), (false, "z".into())],
            aliases: vec!["pci:v*".into()],
            firmware: vec!["f/x.bin".into()],
        };
        assert_eq!(info, expect);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes: Vec<u8>) {
            Info::parse(&bytes);
            let _ = Info::read(&bytes);
        }
    }
}
