//! The kernel command line, which is part of the signed image and carries the root's hash.

use super::phases::BootError;
use image::verity::{self, Verity};

/// What it says to us.
#[derive(Debug, PartialEq)]
pub struct Cmdline {
    /// The root's hash tree.
    pub verity: Verity,
}

impl Cmdline {
    /// The root partition's PARTUUID.
    pub fn root_uuid(&self) -> String {
        self.verity.partition_uuid().to_string()
    }
}

/// That of the running kernel.
pub fn read() -> Result<Cmdline, BootError> {
    let path = "/proc/cmdline";
    parse(&std::fs::read_to_string(path).map_err(sys::Error::of("read", path))?)
}

fn parse(text: &str) -> Result<Cmdline, BootError> {
    let Some(value) = verity::on_cmdline(text) else {
        return Err(BootError::Cmdline { found: "no roost.verity=".to_owned() });
    };
    let verity = value.parse().map_err(|_| BootError::Cmdline { found: format!("roost.verity={value}") })?;
    Ok(Cmdline { verity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn the_root_hash_names_the_partition() {
        let cmdline = parse(&format!("quiet roost.verity={ROOT}:beef:77 panic=10\n")).expect("reads");
        assert_eq!(cmdline.root_uuid(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!((cmdline.verity.salt, cmdline.verity.data_blocks), (vec![0xbe, 0xef], 77));
    }

    #[track_caller]
    fn refused(text: &str, saying: &str) {
        let error = parse(text).expect_err("refused").to_string();
        assert!(error.contains(saying), "{error}");
    }

    #[test]
    fn anything_else_is_refused_with_what_was_found() {
        refused("quiet", "no roost.verity=");
        refused("roost.verity=abc:00:1", "roost.verity=abc:00:1;");
        refused(&format!("roost.verity={ROOT}:00"), "expected roost.verity=ROOT HASH:SALT:BLOCKS");
        refused(&format!("roost.verity={ROOT}:00:0"), ":0;");
        refused(&format!("roost.verity={ROOT}:00:1:2"), ":1:2;");
        refused(&format!("roost.verity={ROOT}:0:1"), ":0:1;");
        refused(&format!("roost.verity={ROOT}00:00:1"), "00:00:1;");
    }

    proptest! {
        #[test]
        fn no_text_is_a_fault(text in ".{0,200}", value in "[0-9a-f:]{0,90}") {
            let _ = parse(&text);
            let _ = parse(&format!("roost.verity={value}"));
        }
    }
}
