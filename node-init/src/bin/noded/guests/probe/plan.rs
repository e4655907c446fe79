//! What the probe guest is: pure, but for the one file that is its image.

use crate::guests::lxc_config::OwnInit;
use model::{
    DiId, Digest, VmId,
    key::{self, Config, Netmask},
    state::Want,
    sync::{GuestImage, GuestSpec},
};
use sha2::{Digest as _, Sha256};
use std::{net::Ipv4Addr, path::PathBuf};

/// Its number, which no VM has: the store's begin at 1. With it go its cgroup, port and directories.
pub const VM: VmId = VmId(0);
/// Its ids: those that the store's rule (`uid_base`) has for number 0, just below the first guest's.
const UID_BASE: u32 = 1_000_000;
/// Far more than one small program needs, and little beside what a node has.
const MEMORY_MIB: u32 = 64;
/// From its launch to its first word, in seconds. A thousand times what that takes on a real machine, and less than the
/// shortest trial, so that a silent guest is told as such.
const STARTS_WITHIN_S: &str = "20";

/// Its image: empty directories and one file. Written by the builder's own squashfs; a test does so again.
pub const IMAGE: &[u8] = include_bytes!("probe.squashfs");

/// The image as a guest's specification names it.
pub fn image() -> GuestImage {
    GuestImage { di: DiId(0), digest: Digest(Sha256::digest(IMAGE).into()), bytes: IMAGE.len() as u64 }
}

/// The guest in a cluster of this configuration; `taken` are addresses of guests.
pub fn spec(config: &Config, taken: &[Ipv4Addr]) -> GuestSpec {
    let ip = spare_address(config, taken);
    let [_, b, c, d] = ip.octets();
    GuestSpec {
        vm: VM,
        name: "probe".to_owned(),
        login: String::new(),
        want: Want::Run,
        generation: 1,
        image: image(),
        memory_mib: MEMORY_MIB,
        mac: format!("{}:{b:02x}:{c:02x}:{d:02x}", config.get(&key::MAC_PREFIX)),
        ip,
        uid_base: UID_BASE,
        // A home's project is its VM's number, and 0 is the project of all other files.
        home_mib: None,
        epoch: 0,
        properties: vec![],
    }
}

/// The cluster's configuration, with its patience for desktops replaced by that for a small program.
pub fn config(of_cluster: &Config) -> Config {
    let mut config = of_cluster.clone();
    let own = [
        (key::AGENT_START_TIMEOUT.name, STARTS_WITHIN_S),
        (key::STOP_TIMEOUT.name, "20"),
        (key::ZOMBIE_RETRY.name, "5"),
        (key::VM_DEBUG.name, "0"),
        (key::OVERLAY_PERSISTENT.name, "0"),
    ];
    config.0.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    config
}

/// Its init: this daemon's own program, so that the image of the node is no larger for it.
pub fn init(program: PathBuf, config: &Config) -> OwnInit {
    OwnInit { program, words: format!("{} {}", super::inside::WORD, config.get(&key::GATEWAY)) }
}

/// An address of the guests' network that neither the node nor a guest has: the highest below the guests' first, since
/// lower ones are of nodes, and this node's bridge has no other node on it.
fn spare_address(config: &Config, taken: &[Ipv4Addr]) -> Ipv4Addr {
    let (gateway, Netmask(prefix)) = (config.get(&key::GATEWAY), config.get(&key::NETMASK));
    let host_bits = 32 - u32::from(prefix.min(30));
    let network = u32::from(gateway) >> host_bits << host_bits;
    let (first, last) = (network + 1, network + (1 << host_bits) - 2);
    let start = u32::from(config.get(&key::IP_START)).clamp(first, last);
    let free = |ip: &Ipv4Addr| *ip != gateway && !taken.contains(ip);
    let lower_first = (first..start).rev().chain((start..=last).rev());
    lower_first.map(Ipv4Addr::from).find(free).unwrap_or(Ipv4Addr::from(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::probe::inside::{FILE, TEXT};
    use image::{
        squashfs::{Options, write_tree},
        tree::{Content, Entry, Tree},
    };

    /// After a change: `ROOST_BLESS_PROBE=1 cargo test the_image_is_what_the_builder_writes`.
    #[test]
    fn the_image_is_what_the_builder_writes() {
        let mut tree = Tree::new();
        let mut add = |path: &str, entry| drop(tree.insert_with_parents(path, entry).expect("fits"));
        for path in ["dev", "etc", "home", "proc", "run", "sbin", "sys", "tmp"] {
            add(path, Entry::dir(0o755));
        }
        add(FILE.trim_start_matches('/'), Entry::file(0o644, Content::from(TEXT.as_bytes().to_vec())));
        let file = tempfile::NamedTempFile::new().expect("temp file");
        write_tree(file.reopen().expect("opens"), &tree, Options::default()).expect("writes");
        let bytes = std::fs::read(file.path()).expect("reads");
        if std::env::var_os("ROOST_BLESS_PROBE").is_some() {
            let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/noded/guests/probe/probe.squashfs");
            std::fs::write(golden, &bytes).expect("writes");
        }
        assert!(bytes == IMAGE, "{} bytes, expected {}", bytes.len(), IMAGE.len());
    }

    #[track_caller]
    fn check(start: &str, gateway: &str, mask: &str, taken: &[&str], expect: &str) {
        let set = [(key::IP_START.name, start), (key::GATEWAY.name, gateway), (key::NETMASK.name, mask)];
        let config = Config(set.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let taken: Vec<Ipv4Addr> = taken.iter().map(|ip| ip.parse().expect("an address")).collect();
        assert_eq!(spare_address(&config, &taken).to_string(), expect);
    }

    #[test]
    fn its_address_is_nobodys() {
        check("10.3.15.50", "10.3.15.1", "255.255.255.0", &[], "10.3.15.49");
        check("10.3.15.50", "10.3.15.49", "255.255.255.0", &["10.3.15.48"], "10.3.15.47");
        check("10.3.15.2", "10.3.15.1", "255.255.255.0", &["10.3.15.254"], "10.3.15.253");
        check("10.3.15.1", "10.3.15.254", "255.255.255.0", &[], "10.3.15.253");
        check("10.4.0.9", "10.3.15.1", "255.255.255.252", &[], "10.3.15.2");
    }

    #[test]
    fn it_has_no_home_and_ids_below_every_guests() {
        let spec = spec(&Config::default(), &[]);
        assert_eq!((spec.home_mib, spec.vm, spec.mac.as_str()), (None, VmId(0), "54:52:00:03:0f:31"));
        assert!(spec.uid_base + super::super::super::lxc_config::IDS <= 1_065_536, "the first guest's");
        assert_eq!(config(&Config::default()).get(&key::AGENT_START_TIMEOUT).as_secs(), 20);
    }
}
