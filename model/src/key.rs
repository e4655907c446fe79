//! Configuration keys: one typed registry. Names and defaults are QVD's where the key means something here.
//!
//! The registry yields the manual page, `qa config get`, and the check for unknown keys. A value is
//! text in the store; [`Config::get`] parses it, and since the store refuses a value that its key
//! cannot parse, every value that reaches a node is legal.

use crate::suggest;
use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

/// A type that configuration values can have.
pub trait Value: Sized {
    /// What a legal value looks like, for error messages.
    const EXPECTED: &'static str;
    /// Reads the text of a value.
    fn parse(text: &str) -> Option<Self>;
}

impl Value for bool {
    const EXPECTED: &'static str = "0 or 1";
    fn parse(text: &str) -> Option<Self> {
        match text {
            "0" | "no" | "off" | "false" => Some(false),
            "1" | "yes" | "on" | "true" => Some(true),
            _ => None,
        }
    }
}

impl Value for u16 {
    const EXPECTED: &'static str = "a whole number from 0 to 65535";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Value for u32 {
    const EXPECTED: &'static str = "a whole number";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Value for f64 {
    const EXPECTED: &'static str = "a number, 0 or more";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().filter(|v: &f64| v.is_finite() && *v >= 0.0)
    }
}

impl Value for Duration {
    const EXPECTED: &'static str = "a number of seconds";
    fn parse(text: &str) -> Option<Self> {
        f64::parse(text).filter(|s| *s <= 1e9).map(Duration::from_secs_f64)
    }
}

impl Value for Ipv4Addr {
    const EXPECTED: &'static str = "an IPv4 address";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Value for String {
    const EXPECTED: &'static str = "text";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

/// An IPv4 prefix length, given as one or as a dotted mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Netmask(pub u8);

impl Value for Netmask {
    const EXPECTED: &'static str = "a prefix length from 8 to 30, or a mask such as 255.255.0.0";
    fn parse(text: &str) -> Option<Self> {
        let prefix = match text.parse::<Ipv4Addr>() {
            Ok(mask) => {
                let bits = u32::from(mask);
                (bits.leading_ones() + bits.trailing_zeros() == 32).then_some(bits.leading_ones() as u8)?
            }
            Err(_) => text.parse().ok()?,
        };
        (8..=30).contains(&prefix).then_some(Self(prefix))
    }
}

/// A configuration key with the type of its value.
pub struct Key<T> {
    /// Its name.
    pub name: &'static str,
    /// Its default, as text.
    pub default: &'static str,
    /// One sentence for the manual.
    pub doc: &'static str,
    value: std::marker::PhantomData<fn() -> T>,
}

/// A key whose value's type does not matter: for listings and checks.
pub trait AnyKey: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// Its default, as text.
    fn default(&self) -> &'static str;
    /// One sentence for the manual.
    fn doc(&self) -> &'static str;
    /// What a legal value looks like.
    fn expected(&self) -> &'static str;
    /// Whether `text` is a legal value.
    fn accepts(&self, text: &str) -> bool;
}

impl<T: Value> AnyKey for Key<T> {
    fn name(&self) -> &'static str {
        self.name
    }
    fn default(&self) -> &'static str {
        self.default
    }
    fn doc(&self) -> &'static str {
        self.doc
    }
    fn expected(&self) -> &'static str {
        T::EXPECTED
    }
    fn accepts(&self, text: &str) -> bool {
        T::parse(text).is_some()
    }
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $id:ident: $type:ty = $name:literal, $default:literal;)*) => {
        $($(#[doc = $doc])+ pub const $id: Key<$type> =
            Key { name: $name, default: $default, doc: concat!($($doc),+), value: std::marker::PhantomData };)*
        /// Every key, in the order of the manual.
        pub const ALL: &[&dyn AnyKey] = &[$(&$id),*];
    };
}

keys! {
    /// Whether logins differ by the case of their letters.
    LOGIN_CASE_SENSITIVE: bool = "model.user.login.case-sensitive", "0";
    /// Address on which a node's router listens; `*` is every address.
    L7R_ADDRESS: String = "l7r.address", "*";
    /// Port on which a node's router listens.
    L7R_PORT: u16 = "l7r.port", "8443";
    /// Weight of free memory (MB) in the choice of a node.
    BALANCE_RAM: f64 = "l7r.loadbalancer.plugin.default.weight.ram", "1";
    /// Weight of CPU power in the choice of a node.
    BALANCE_CPU: f64 = "l7r.loadbalancer.plugin.default.weight.cpu", "1";
    /// Weight of chance in the choice of a node.
    BALANCE_RANDOM: f64 = "l7r.loadbalancer.plugin.default.weight.random", "1";
    /// Seconds for which a user known to a router may reconnect while the store is away.
    GRANT_TTL: Duration = "l7r.grant.ttl", "43200";
    /// Seconds after which a browser's login ends when nothing is done with it; an open desktop counts as use.
    L7R_WEB_IDLE: Duration = "l7r.web.idle", "1800";
    /// Seconds after which a browser's login ends whatever is done with it.
    L7R_WEB_ABSOLUTE: Duration = "l7r.web.absolute", "43200";
    /// Largest file, in MiB, that a browser may bring to a desktop; 0 allows none.
    L7R_WEB_UPLOAD_MAX: u32 = "l7r.web.upload.max", "2048";
    /// Whether a browser may take files from a desktop.
    L7R_WEB_DOWNLOAD: bool = "l7r.web.download.enabled", "1";
    /// Memory of an OS flavour's machines when none is given, in MB.
    OSF_MEMORY: u32 = "osf.default.memory", "256";
    /// Whether an OS flavour's machines get a writable layer when nothing is said.
    OSF_OVERLAY: bool = "osf.default.overlay", "1";
    /// Guests that a node starts at the same time; more wait.
    STARTING_MAX: u32 = "hkd.vm.starting.max", "6";
    /// Whether a guest's writable layer is kept from start to start.
    OVERLAY_PERSISTENT: bool = "vm.overlay.persistent", "0";
    /// CPUs that a guest may use at most; 0 is no limit.
    VM_CPUS: f64 = "vm.lxc.cpus", "2";
    /// Processes and threads that a guest may have at most.
    VM_PIDS: u32 = "vm.lxc.pids", "4096";
    /// Name of the bridge of guests on a node.
    BRIDGE: String = "vm.network.bridge", "qvdnet";
    /// Domain name handed to guests.
    DOMAIN: String = "vm.network.domain", "";
    /// First three bytes of guests' MAC addresses; the rest is the end of their IP address.
    MAC_PREFIX: String = "vm.network.mac.prefix", "54:52:00";
    /// First address of guests; lower ones of the network belong to nodes.
    IP_START: Ipv4Addr = "vm.network.ip.start", "10.3.15.50";
    /// Network mask of the guests' network.
    NETMASK: Netmask = "vm.network.netmask", "255.255.255.0";
    /// Address of the node on the guests' bridge, and the guests' default route.
    GATEWAY: Ipv4Addr = "vm.network.gateway", "10.3.15.1";
    /// Resolver handed to guests; empty means the node itself.
    DNS_SERVER: String = "vm.network.dns_server", "";
    /// User in a guest when the login gives none.
    VMA_USER: String = "vma.user.default.name", "qvd";
    /// Groups of that user, separated by commas; those that the image lacks are left out.
    VMA_GROUPS: String = "vma.user.default.groups", "";
    /// Locale of sessions.
    VMA_LANG: String = "vma.default.lang", "en_US.UTF-8";
    /// Keyboard of sessions when the client names none, as MODEL/LAYOUT.
    VMA_KEYBOARD: String = "vma.default.client.keyboard", "pc105/us";
    /// NX link profile when the client names none: modem, isdn, adsl, wan, lan or local.
    VMA_LINK: String = "vma.default.client.link", "adsl";
    /// Time servers, separated by commas; empty means those that DHCP names, else none.
    NTP_SERVERS: String = "node.ntp.servers", "";
    /// Seconds for which Ready must hold before a node's boot counts as good.
    BLESS_AFTER: Duration = "node.bless.after", "60";
    /// Seconds from the kernel's start in which a version on trial must have become good, else the node reboots.
    TRIAL_LIMIT: Duration = "node.trial.limit", "300";
    /// Seconds until a VM that was asked to start counts as failed, as the router sees it.
    VM_START_TIMEOUT: Duration = "internal.l7r.timeout.vm_start", "270";
    /// Seconds until a VM that was asked to stop counts as stuck, as the router sees it.
    VM_STOP_TIMEOUT: Duration = "internal.l7r.timeout.vm_stop", "270";
    /// Seconds until a session in a guest must listen.
    X_START_TIMEOUT: Duration = "internal.l7r.timeout.x_start", "10";
    /// Seconds that a login waits for another one to let go of a VM.
    TAKEOVER_TIMEOUT: Duration = "internal.l7r.timeout.takeover", "30";
    /// A session shorter than this many seconds counts as short.
    SHORT_SESSION: Duration = "internal.l7r.short_session", "120";
    /// Seconds without a word from a node after which it counts as lost.
    NODE_TIMEOUT: Duration = "internal.hkd.cluster.node.timeout", "600";
    /// Seconds between two heartbeats of a node.
    HEARTBEAT: Duration = "internal.hkd.agent.ticker.delay", "15";
    /// Seconds from launch to the agent's first word before a start counts as failed.
    AGENT_START_TIMEOUT: Duration = "internal.hkd.vmhandler.vma.failed.max_time.on.starting", "180";
    /// Seconds without an answer from a running guest's agent before the guest is stopped.
    AGENT_RUN_TIMEOUT: Duration = "internal.hkd.vmhandler.vma.failed.max_time.on.running", "320";
    /// Seconds between two questions to a running guest's agent.
    AGENT_PING: Duration = "internal.hkd.vmhandler.vma_monitor.delay.after.ok", "20";
    /// Leaves a guest whose agent stops answering in state debugging instead of stopping it.
    VM_DEBUG: bool = "internal.vm.debug.enable", "0";
    /// Seconds that a guest gets to shut down in order.
    SHUTDOWN_TIMEOUT: Duration = "internal.hkd.lxc.timeout.on_state.stopping.shutdown.waiting_for_lxc", "180";
    /// Seconds that a guest's processes get to die when killed, before it counts as a zombie.
    STOP_TIMEOUT: Duration = "internal.hkd.lxc.timeout.on_state.stopping.stop.waiting_for_lxc", "120";
    /// Seconds between two attempts to remove a zombie.
    ZOMBIE_RETRY: Duration = "internal.hkd.lxc.timeout.on_state.zombie.reap.delaying", "60";
    /// Seconds in all that a node's guests get when the node shuts down.
    NODE_STOP_TIMEOUT: Duration = "internal.hkd.stopping.vms.timeout", "60";
}

/// Prefixes under which every key is one of ours: an unknown one there is a mistake.
const OUR_PREFIXES: &[&str] =
    &["l7r.", "hkd.", "vm.", "vma.", "osf.", "node.", "model.", "internal.", "path.", "command.", "log."];

/// Why a key or its value was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No such key under a prefix of ours.
    #[error("Unknown configuration key '{key}'{}", nearest.map(|n| format!(": did you mean '{n}'?")).unwrap_or_default())]
    Unknown {
        /// The key given.
        key: String,
        /// The nearest known one.
        nearest: Option<&'static str>,
    },
    /// The key's type refuses the value.
    #[error("'{value}' is no value for {key}: expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// The text given.
        value: String,
        /// What a legal value looks like.
        expected: &'static str,
    },
    /// A custom key that cannot be stored.
    #[error("'{0}' is no configuration key: expected 1 to 64 letters, digits, '.', '-' or '_'")]
    Shape(String),
}

/// Whether `key` may be set to `value`. Custom keys (outside our prefixes) take any text.
pub fn check(key: &str, value: &str) -> Result<(), KeyError> {
    if let Some(known) = find(key) {
        return if known.accepts(value) {
            Ok(())
        } else {
            Err(KeyError::Value { key: key.to_owned(), value: value.to_owned(), expected: known.expected() })
        };
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if key.is_empty() || key.len() > 64 || !key.bytes().all(legal) {
        return Err(KeyError::Shape(key.to_owned()));
    }
    if OUR_PREFIXES.iter().any(|p| key.starts_with(p)) {
        let nearest = suggest::nearest(key, ALL.iter().map(|k| k.name()));
        return Err(KeyError::Unknown { key: key.to_owned(), nearest });
    }
    Ok(())
}

/// The known key of this name.
pub fn find(name: &str) -> Option<&'static dyn AnyKey> {
    ALL.iter().copied().find(|k| k.name() == name)
}

/// Values that differ from the defaults, and custom keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Config(pub BTreeMap<String, String>);

impl Config {
    /// The value of a key, or its default. A stored text that the key cannot parse (written by another
    /// version) counts as the default.
    pub fn get<T: Value>(&self, key: &Key<T>) -> T {
        let stored = self.0.get(key.name).and_then(|text| T::parse(text));
        stored
            .or_else(|| T::parse(key.default))
            .unwrap_or_else(|| unreachable!("{} has a default of its own type, a test checks it", key.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_legal_and_every_name_is_known_once() {
        for key in ALL {
            assert!(key.accepts(key.default()), "{}", key.name());
            assert_eq!(ALL.iter().filter(|k| k.name() == key.name()).count(), 1, "{}", key.name());
            assert!(key.doc().trim().ends_with('.'), "{}", key.name());
        }
    }

    #[test]
    fn a_value_stored_wins_over_the_default() {
        let config = Config(
            [("l7r.port".to_owned(), "443".to_owned()), ("vm.network.netmask".to_owned(), "16".to_owned())].into(),
        );
        assert_eq!(config.get(&L7R_PORT), 443);
        assert_eq!(config.get(&NETMASK), Netmask(16));
        assert_eq!(config.get(&STARTING_MAX), 6);
    }

    #[track_caller]
    fn refused(key: &str, value: &str, saying: &str) {
        assert_eq!(check(key, value).expect_err("refused").to_string(), saying);
    }

    #[test]
    fn slips_are_refused_with_what_was_meant() {
        refused("l7r.prot", "1", "Unknown configuration key 'l7r.prot': did you mean 'l7r.port'?");
        refused("l7r.port", "http", "'http' is no value for l7r.port: expected a whole number from 0 to 65535");
        refused(
            "vm.network.netmask",
            "255.0.255.0",
            "'255.0.255.0' is no value for vm.network.netmask: expected a prefix length from 8 to 30, or a mask such as 255.255.0.0",
        );
        refused("a b", "", "'a b' is no configuration key: expected 1 to 64 letters, digits, '.', '-' or '_'");
        assert_eq!(check("site.printer", "anything"), Ok(()));
    }
}
