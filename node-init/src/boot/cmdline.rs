//! The kernel command line, which is part of the signed image and carries the root's hash.

use super::phases::BootError;
use sys::dm::{OnCorruption, Verity};

/// What it says to us.
#[derive(Debug, PartialEq)]
pub struct Cmdline {
    /// The root's hash tree.
    pub verity: Verity,
}

impl Cmdline {
    /// The root partition's PARTUUID: the first 16 bytes of the root hash.
    pub fn root_uuid(&self) -> String {
        let mut text: String = self.verity.root[..16].iter().map(|b| format!("{b:02x}")).collect();
        for dash in [20, 16, 12, 8] {
            text.insert(dash, '-');
        }
        text
    }
}

/// That of the running kernel.
pub fn read() -> Result<Cmdline, BootError> {
    let path = "/proc/cmdline";
    parse(&std::fs::read_to_string(path).map_err(sys::Error::of("read", path))?)
}

fn parse(text: &str) -> Result<Cmdline, BootError> {
    let value = text.split_whitespace().filter_map(|w| w.strip_prefix("roost.verity=")).next_back();
    let Some(value) = value else { return Err(BootError::Cmdline { found: "no roost.verity=".to_owned() }) };
    let verity = verity(value).ok_or_else(|| BootError::Cmdline { found: format!("roost.verity={value}") })?;
    Ok(Cmdline { verity })
}

fn verity(value: &str) -> Option<Verity> {
    let mut parts = value.split(':');
    let root = hex(parts.next()?)?.try_into().ok()?;
    let salt = hex(parts.next()?).filter(|s| s.len() <= 256)?;
    // 4096-byte blocks whose 512-byte sectors the kernel counts in 64 bits.
    let data_blocks = parts.next()?.parse().ok().filter(|n| (1..u64::MAX / 4096).contains(n))?;
    let end = parts.next();
    end.is_none().then_some(Verity { root, salt, data_blocks, on_corruption: OnCorruption::Panic })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| (*b as char).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|p| match p {
        [a, b] => Some((digit(a)? * 16 + digit(b)?) as u8),
        _ => None,
    });
    pairs.collect()
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
