//! Files for the resolver, dnsmasq, and the guests' leases.

use crate::{files, paths::Paths};
use model::{
    VmId,
    key::{self, Config},
    paths,
    seed::Cidr,
};
use std::{fmt::Write, fs, io, net::Ipv4Addr, path::PathBuf};

/// The guests' network as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNet {
    /// Name of the bridge.
    pub bridge: String,
    /// The node's address on it, with the prefix.
    pub gateway: Cidr,
    /// MAC address of the bridge.
    pub mac: [u8; 6],
    /// First address of guests.
    pub start: Ipv4Addr,
    /// Resolver handed to guests; none is the node itself.
    pub dns: Option<Ipv4Addr>,
    /// Domain handed to guests.
    pub domain: String,
    /// Port of the router, closed to guests on every node.
    pub router_port: u16,
}

impl GuestNet {
    /// Reads the configuration. Names that would not survive in a configuration file become the defaults.
    pub fn of(config: &Config) -> Self {
        let gateway = Cidr { address: config.get(&key::GATEWAY), prefix: config.get(&key::NETMASK).0 };
        let defaults = Config::default();
        let bridge = Some(config.get(&key::BRIDGE)).filter(|name| super::is_link_name(name));
        let is_domain = |d: &String| d.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        // The scheme by which the store names guests' cards, which this address is kept free of.
        let [_, b, c, d] = gateway.address.octets();
        let prefix = super::parse_mac(&format!("{}:00:00:00", config.get(&key::MAC_PREFIX)));
        let [x, y, z, ..] = prefix.unwrap_or([0x54, 0x52, 0, 0, 0, 0]);
        Self {
            bridge: bridge.unwrap_or_else(|| defaults.get(&key::BRIDGE)),
            gateway,
            mac: [x, y, z, b, c, d],
            start: config.get(&key::IP_START),
            dns: config.get(&key::DNS_SERVER).parse().ok(),
            domain: Some(config.get(&key::DOMAIN)).filter(is_domain).unwrap_or_default(),
            router_port: config.get(&key::L7R_PORT),
        }
    }

    /// Configuration of dnsmasq: leases for guests alone, and a forwarder on the bridge alone.
    pub fn dnsmasq_conf(&self, paths: &Paths) -> String {
        let at = |path: &str| paths.at(path).display().to_string();
        let mask = Ipv4Addr::from(self.gateway.mask());
        let (bridge, gateway) = (&self.bridge, self.gateway.address);
        let mut conf = format!(
            "# Written by noded.\nkeep-in-foreground\nlog-facility=-\npid-file=\nuser=dnsmasq\ngroup=dnsmasq\n\
             interface={bridge}\nexcept-interface=lo\nbind-interfaces\nno-hosts\nresolv-file={}\n\
             dhcp-range={},static,{mask},12h\ndhcp-hostsdir={}\ndhcp-leasefile={}\ndhcp-authoritative\nno-ping\n\
             dhcp-option=option:router,{gateway}\ndhcp-option=option:dns-server,{}\n",
            at(RESOLV_CONF),
            self.start,
            at(paths::DHCP_HOSTS),
            at(LEASES),
            self.dns.unwrap_or(gateway),
        );
        if !self.domain.is_empty() {
            // Writing to a string cannot fail.
            writeln!(conf, "domain={}", self.domain).ok();
        }
        conf
    }
}

/// Where the resolvers are written; /etc/resolv.conf of the image points here.
pub const RESOLV_CONF: &str = "/run/roost/resolv.conf";
/// dnsmasq's own memory of leases.
const LEASES: &str = "/run/roost/dnsmasq.leases";
/// One file per admitted guest, so that a restarted daemon knows them.
const PORTS: &str = "/run/roost/ports";

/// Replaces resolv.conf.
pub fn write_resolv_conf(paths: &Paths, dns: &[Ipv4Addr]) -> io::Result<()> {
    let lines: String = dns.iter().take(3).map(|server| format!("nameserver {server}\n")).collect();
    files::replace(&paths.at(RESOLV_CONF), lines.as_bytes(), 0o644)
}

/// A guest's port: what it may send from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name of its link on the node.
    pub link: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Its IP address.
    pub ip: Ipv4Addr,
}

/// Makes the directories. dnsmasq reads them under its own user.
pub fn prepare(paths: &Paths) -> io::Result<()> {
    files::make_dir(&paths.at(paths::DHCP_HOSTS), 0o755)?;
    files::make_dir(&paths.at(PORTS), 0o700)
}

/// Writes a port's lease and record.
pub fn keep_port(paths: &Paths, vm: VmId, port: &Port) -> io::Result<()> {
    let Port { link, mac, ip } = port;
    let mac = super::mac_text(*mac);
    files::replace(&paths.at(PORTS).join(vm.to_string()), format!("{link} {mac} {ip}\n").as_bytes(), 0o600)?;
    files::replace(&lease_file(paths, vm), format!("{mac},{ip}\n").as_bytes(), 0o644)
}

/// Removes a port's lease and record.
pub fn drop_port(paths: &Paths, vm: VmId) -> io::Result<()> {
    for path in [paths.at(PORTS).join(vm.to_string()), lease_file(paths, vm)] {
        match fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn lease_file(paths: &Paths, vm: VmId) -> PathBuf {
    paths.at(paths::DHCP_HOSTS).join(vm.to_string())
}

/// Ports admitted before this daemon was restarted.
pub fn kept_ports(paths: &Paths) -> Vec<(VmId, Port)> {
    let files = fs::read_dir(paths.at(PORTS)).into_iter().flatten().flatten();
    let read = |file: fs::DirEntry| {
        let vm = file.file_name().to_str()?.parse().ok()?;
        Some((vm, parse_port(&fs::read_to_string(file.path()).ok()?)?))
    };
    files.filter_map(read).collect()
}

fn parse_port(text: &str) -> Option<Port> {
    let mut words = text.split_whitespace();
    let link = words.next().filter(|name| super::is_link_name(name))?.to_owned();
    Some(Port { link, mac: super::parse_mac(words.next()?)?, ip: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_outlive_the_daemon() {
        let dir = tempfile::tempdir().expect("temp dir");
        let paths = Paths { state: dir.path().join("s"), run: dir.path().join("r") };
        prepare(&paths).expect("prepares");
        let port = Port { link: "vm7".into(), mac: [0x54, 0x52, 0, 3, 15, 50], ip: Ipv4Addr::new(10, 3, 15, 50) };
        keep_port(&paths, VmId(7), &port).expect("keeps");
        let lease = fs::read_to_string(paths.at(paths::DHCP_HOSTS).join("7")).expect("is there");
        assert_eq!(lease, "54:52:00:03:0f:32,10.3.15.50\n");
        assert_eq!(kept_ports(&paths), [(VmId(7), port)]);
        drop_port(&paths, VmId(7)).expect("drops");
        drop_port(&paths, VmId(7)).expect("twice is fine");
        assert_eq!(kept_ports(&paths), []);
    }

    #[test]
    fn a_name_that_breaks_a_configuration_file_is_not_used() {
        let config = Config(
            [("vm.network.bridge", "a b\nuser=root"), ("vm.network.domain", "x\nuser=root")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
        );
        let net = GuestNet::of(&config);
        assert_eq!((net.bridge.as_str(), net.domain.as_str()), ("qvdnet", ""));
        assert_eq!(net.mac, [0x54, 0x52, 0, 3, 15, 1]);
    }
}
