//! Where things are on a node. Programs of one node meet at these paths.

/// Runtime files of ours; gone at reboot.
pub const RUN: &str = "/run/roost";
/// Control socket of `noded` for the router (stream, length-prefixed [`crate::local`] frames). Owner root, group router, mode 0660.
pub const ROUTER_SOCKET: &str = "/run/roost/router.sock";
/// One connection per opened session: the router sends [`crate::local::Open`], `noded` answers one frame with a descriptor.
pub const SESSION_SOCKET: &str = "/run/roost/session.sock";
/// The boot timeline (JSON, [`crate::init::Timeline`]), rewritten as phases end.
pub const TIMELINE: &str = "/run/roost/boot-timeline.json";
/// Written by `node-init` before anything else starts: the seed as found, verbatim.
pub const SEED: &str = "/run/roost/seed.toml";
/// Device file of the disk that the root lies on, written by `node-init`.
pub const ROOT_DISK: &str = "/run/roost/root-disk";
/// Configuration of dnsmasq, written by `noded`.
pub const DNSMASQ_CONF: &str = "/run/roost/dnsmasq.conf";
/// Directory with one file of `MAC,IP` per guest, read by dnsmasq as it changes.
pub const DHCP_HOSTS: &str = "/run/roost/dhcp-hosts";
/// Configuration of chronyd, written by `noded`.
pub const CHRONY_CONF: &str = "/run/roost/chrony.conf";
/// One directory per running guest: LXC configuration, and `sock/` with the agent's socket.
pub const RUN_GUESTS: &str = "/run/roost/guests";
/// Idmapped views that LXC mounts from; must be searchable by others (o+x).
pub const RUN_VIEWS: &str = "/run/roost/views";

/// The STATE partition.
pub const STATE: &str = "/state";
/// The format of what is on STATE (JSON); none: the first.
pub const STATE_FORMAT: &str = "/state/format.json";
/// The node's key, certificate and the cluster CA. Mode 0700.
pub const IDENTITY: &str = "/state/identity";
/// Copy of the seed that the store last welcomed this node with, without its token: for a boot that finds no seed.
pub const SEED_COPY: &str = "/state/identity/seed.toml";
/// The ledger: last desired state, two copies.
pub const LEDGER: &str = "/state/ledger";
/// Guest images by digest (`<sha256>.squashfs`).
pub const IMAGES: &str = "/state/images";
/// Writable layers and homes of guests; 0700, since set-uid files of guests lie there.
pub const GUESTS: &str = "/state/guests";
/// Homes of guests' users.
pub const HOMES: &str = "/state/homes";
/// Updates: what is fetched, and how they went. Survives update and rollback.
pub const UPDATE: &str = "/state/update";
/// Seconds that a version on trial has, written by `noded` whenever they change; the default where absent.
pub const TRIAL_LIMIT: &str = "/state/update/trial-limit";
/// Why the last boot on trial was given up, written by `node-init`.
pub const TRIAL_WHY: &str = "/state/update/why";
/// Recovery key of an encrypted STATE (JSON, [`crate::recovery::Escrow`]), written by `node-init`; `noded` notes there
/// which cluster's store has it. For root alone.
pub const RECOVERY: &str = "/state/recovery-key.json";
/// Logs that outlive a boot.
pub const LOG: &str = "/state/log";
/// One folder for each of the last boots: how it ended, and its last words.
pub const BOOTS: &str = "/state/log/boots";

/// Inside a guest: directory of the agent's socket, read-only.
pub const GUEST_SOCKET_DIR: &str = "/run/roost";
/// Inside a guest: the socket the agent connects to.
pub const GUEST_SOCKET: &str = "/run/roost/vma.sock";
