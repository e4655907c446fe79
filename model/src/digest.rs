//! SHA-256 digests as names of contents.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A SHA-256 digest. Shown, and written to JSON and TOML, as 64 lower-case hex digits; on the wire
/// (postcard) it is the 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

/// A text that is no digest: it must be 64 hex digits, optionally after `sha256:`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a SHA-256 digest: expected 64 hex digits")]
pub struct BadDigest(pub String);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Digest {
    type Err = BadDigest;

    /// Takes 64 hex digits of either case, with or without a leading `sha256:`, and with `:` between
    /// bytes as certificate tools print fingerprints.
    fn from_str(s: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(s.to_owned());
        let hex: Vec<u8> = s.strip_prefix("sha256:").unwrap_or(s).bytes().filter(|b| *b != b':').collect();
        if hex.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks(2)) {
            let digit = |b: u8| (b as char).to_digit(16).ok_or_else(bad);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = std::borrow::Cow::<str>::deserialize(d)?;
            text.parse().map_err(serde::de::Error::custom)
        } else {
            Ok(Self(<[u8; 32]>::deserialize(d)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_of_any_common_shape_is_read_and_written_plain() {
        let plain = "00ff".repeat(16);
        let digest: Digest = plain.parse().expect("plain hex");
        assert_eq!(digest.to_string(), plain);
        let colons =
            plain.as_bytes().chunks(2).map(|c| std::str::from_utf8(c).expect("ascii")).collect::<Vec<_>>().join(":");
        assert_eq!(format!("sha256:{}", colons.to_uppercase()).parse::<Digest>().expect("colons"), digest);
    }

    #[test]
    fn anything_else_is_refused_and_quoted() {
        for bad in ["", "zz", &"0".repeat(63), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Digest>(), Err(BadDigest(bad.to_owned())));
        }
    }
}
