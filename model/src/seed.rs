//! The seed: what a node must be told before it can join, and nothing more.
//!
//! A small TOML text, found on the seed partition (`seed.toml`), in fw_cfg (`opt/roost/seed`) or in an
//! SMBIOS OEM string (`roost-seed=` and the text in base64), in this order; the first found wins.
//!
//! ```toml
//! [store]
//! address = "10.0.2.2:3001"        # where the store listens for nodes
//! ca = "sha256:5f..."              # fingerprint of the cluster CA's certificate; in the image instead, if it is for one
//! token = "..."                    # one-use; without it an administrator approves the node
//!
//! [node]
//! name = "node1"                   # else made from the machine's serial number
//!
//! [network]                        # else DHCP on the first card with a link
//! address = "192.0.2.10/24"
//! gateway = "192.0.2.1"
//! dns = ["192.0.2.1"]
//!
//! [state]                          # how STATE is made; one that exists stays as it is
//! encryption = "tpm"               # LUKS2, its key sealed by the machine's TPM 2.0; else "none"
//! recovery-key = "4K9TM-..."       # opens an encrypted STATE whose TPM does not, for one boot
//! ```

use crate::{Digest, recovery::RecoveryKey, suggest};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// Name in fw_cfg under which QEMU passes the seed.
pub const FW_CFG: &str = "opt/roost/seed";
/// Prefix of the SMBIOS type 11 string that carries the seed, base64 of the TOML text behind it.
pub const SMBIOS_PREFIX: &str = "roost-seed=";
/// File on the seed partition.
pub const FILE: &str = "seed.toml";

/// What a node is told to be able to join.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// The store to join.
    pub store: StoreSeed,
    /// The node's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeSeed>,
    /// Fixed addressing; DHCP when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkSeed>,
    /// How STATE is made and opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateSeed>,
}

impl Seed {
    /// How STATE shall be encrypted.
    pub fn encryption(&self) -> Encryption {
        self.state.as_ref().map_or(Encryption::None, |state| state.encryption)
    }

    /// What opens an encrypted STATE whose TPM does not.
    pub fn recovery_key(&self) -> Option<&RecoveryKey> {
        self.state.as_ref()?.recovery_key.as_ref()
    }
}

/// Where the store is and how it is recognised.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSeed {
    /// `host:port` of the store's node listener.
    pub address: StoreAddress,
    /// SHA-256 of the cluster CA certificate (DER). May be absent where the image itself names its cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Digest>,
    /// One-use join token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// The node's own name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSeed {
    /// Host name: letters, digits and `-`, 1 to 63 characters.
    pub name: HostName,
}

/// Fixed IPv4 addressing of the uplink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSeed {
    /// Address with prefix length.
    pub address: Cidr,
    /// Default route.
    pub gateway: Ipv4Addr,
    /// Resolvers.
    #[serde(default)]
    pub dns: Vec<Ipv4Addr>,
}

/// How STATE is made and opened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StateSeed {
    /// How it is encrypted when it is made.
    #[serde(default)]
    pub encryption: Encryption,
    /// What `qa host recovery` printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_key: Option<RecoveryKey>,
}

/// How STATE is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// Not at all.
    #[default]
    None,
    /// LUKS2, its key sealed by the machine's TPM 2.0.
    Tpm,
}

impl std::str::FromStr for Encryption {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "tpm" => Ok(Self::Tpm),
            _ => Err(format!("'{text}' is no kind of encryption: expected none or tpm")),
        }
    }
}

macro_rules! parsed_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(s: String) -> Result<Self, String> {
                s.parse()
            }
        }
        impl From<$name> for String {
            fn from(v: $name) -> String {
                v.to_string()
            }
        }
    };
}

/// `host:port`; the host is a name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StoreAddress {
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}
parsed_text!(StoreAddress);

impl std::fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl std::str::FromStr for StoreAddress {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("'{s}' is not a store address: expected HOST:PORT, such as 192.0.2.1:3001");
        let (host, port) = s.rsplit_once(':').ok_or_else(bad)?;
        let port: u16 = port.parse().map_err(|_| bad())?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let ok = match bare {
            Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.'),
        };
        if port == 0 || !ok {
            return Err(bad());
        }
        Ok(Self { host: bare.unwrap_or(host).to_owned(), port })
    }
}

/// A host name of one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);
parsed_text!(HostName);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

impl std::str::FromStr for HostName {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let ok = (1..=63).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !s.starts_with('-')
            && !s.ends_with('-');
        if ok {
            Ok(Self(s.to_owned()))
        } else {
            Err(format!("'{s}' is not a host name: expected 1 to 63 letters, digits and '-', not at either end"))
        }
    }
}

/// An IPv4 address with its prefix length, such as `10.0.0.1/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    /// The address.
    pub address: Ipv4Addr,
    /// Prefix length, 1 to 32.
    pub prefix: u8,
}
parsed_text!(Cidr);

impl Cidr {
    /// The network mask as a number.
    pub fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    /// Whether `other` is in the same network.
    pub fn contains(self, other: Ipv4Addr) -> bool {
        (u32::from(self.address) ^ u32::from(other)) & self.mask() == 0
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl std::str::FromStr for Cidr {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parse = || {
            let (address, prefix) = s.split_once('/')?;
            let prefix: u8 = prefix.parse().ok().filter(|p| (1..=32).contains(p))?;
            Some(Self { address: address.parse().ok()?, prefix })
        };
        parse().ok_or_else(|| format!("'{s}' is not an address with prefix: expected one like 192.0.2.10/24"))
    }
}

/// Field names of the seed, for suggestions.
const FIELDS: &[&str] = &[
    "store",
    "node",
    "network",
    "state",
    "address",
    "ca",
    "token",
    "name",
    "gateway",
    "dns",
    "encryption",
    "recovery-key",
];
/// Values of which there is a list.
const VALUES: &[&str] = &["none", "tpm"];

/// So long a word may be to be repeated: a key that stands in the wrong place is longer.
const REPEATED: usize = 12;

/// Adds "did you mean" to what a TOML reader said of an unknown field or value, and takes out what may be a secret.
pub fn explain(message: &str) -> String {
    let unknown = |kind: &str| message.split(kind).nth(1).and_then(|m| m.split('`').next());
    if let Some(value) = unknown("unknown variant `").filter(|value| value.len() > REPEATED) {
        return message.replace(value, "...");
    }
    let near = |kind: &str, known: &[&'static str]| {
        unknown(kind).and_then(|word| suggest::nearest(word, known.iter().copied()))
    };
    match near("unknown field `", FIELDS).or_else(|| near("unknown variant `", VALUES)) {
        Some(near) => format!("{message} (did you mean `{near}`?)"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[store]\naddress = \"10.0.2.2:3001\"\nca = \"sha256:0101010101010101010101010101010101010101010101010101010101010101\"\n";

    #[test]
    fn a_minimal_seed_is_read_and_written_back() {
        let seed: Seed = toml::from_str(GOOD).expect("reads");
        assert_eq!(seed.store.address.to_string(), "10.0.2.2:3001");
        assert_eq!(seed.store.token, None);
        assert_eq!(toml::from_str::<Seed>(&toml::to_string(&seed).expect("writes")).expect("reads back"), seed);
        let seed: Seed = toml::from_str("[store]\naddress = \"s:3001\"\n").expect("reads");
        assert_eq!(seed.store.ca, None);
        assert_eq!(toml::from_str::<Seed>(&toml::to_string(&seed).expect("writes")).expect("reads back"), seed);
    }

    #[track_caller]
    fn refused(text: &str, saying: &str) {
        let err = toml::from_str::<Seed>(text).expect_err("refused").to_string();
        assert!(explain(&err).contains(saying), "{err}");
    }

    #[test]
    fn a_bad_seed_says_what_was_expected() {
        refused(&GOOD.replace("10.0.2.2:3001", "10.0.2.2"), "expected HOST:PORT");
        refused(&GOOD.replace("sha256:01", "sha256:"), "expected 64 hex digits");
        refused(&GOOD.replace("address", "adress"), "did you mean `address`?");
        refused(&format!("{GOOD}[node]\nname = \"a_b\"\n"), "is not a host name");
        refused(&format!("{GOOD}[network]\naddress = \"1.2.3.4\"\ngateway = \"1.2.3.1\"\n"), "expected one like");
    }

    #[test]
    fn how_state_is_made_is_said_strictly() {
        let seed = |more: &str| toml::from_str::<Seed>(&format!("{GOOD}{more}")).expect("reads");
        assert_eq!(seed("").encryption(), Encryption::None);
        assert_eq!(seed("[state]\nencryption = \"none\"\n").encryption(), Encryption::None);
        let tpm = seed("[state]\nencryption = \"tpm\"\nrecovery-key = \"99998-99999-9999A-9999B-9999C-9999D-9999E\"\n");
        assert_eq!((tpm.encryption(), tpm.recovery_key().is_some()), (Encryption::Tpm, true));
        assert!(!format!("{tpm:?}").contains("9999"));
        refused(&format!("{GOOD}[state]\nencryptoin = \"tpm\"\n"), "did you mean `encryption`?");
        refused(&format!("{GOOD}[state]\nencryption = \"tmp\"\n"), "did you mean `tpm`?");
        refused(&format!("{GOOD}[state]\nencryption = true\n"), "wanted string");
        refused(&format!("{GOOD}[state]\nrecovery-key = \"99998\"\n"), "has 5 letters");
    }

    #[test]
    fn addresses_of_all_kinds_round_trip() {
        for text in ["store.example:3001", "10.0.0.1:1", "[fd00::1]:3001"] {
            assert_eq!(text.parse::<StoreAddress>().expect("parses").to_string(), text);
        }
        for text in ["", ":1", "a:0", "a:70000", "[::g]:1", "a b:1"] {
            assert!(text.parse::<StoreAddress>().is_err(), "{text}");
        }
        let net: Cidr = "10.0.1.2/16".parse().expect("parses");
        assert!(net.contains(Ipv4Addr::new(10, 0, 200, 1)) && !net.contains(Ipv4Addr::new(10, 1, 0, 1)));
    }
}
