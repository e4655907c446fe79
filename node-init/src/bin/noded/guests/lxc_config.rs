//! The LXC configuration of one guest: a pure function from what it is to the text.
//!
//! The choices are measured (`docs/SPECIFICATION.md`, guests): LXC mounts the overlay itself inside the
//! guest's user namespace, on views whose ids are mapped already; `userxattr` is required, without it
//! replacing a directory of the image fails with EIO; no hook, since the node has no shell; limits are
//! not here but on a cgroup of ours around LXC's, which a guest cannot reach and LXC cannot lose.

use std::{
    fmt::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

/// Ids of a guest: its user namespace maps 0..65536 to `uid_base`...
pub const IDS: u32 = 65_536;
/// System calls refused to guests; part of the package lxc.
pub const SECCOMP: &str = "/usr/share/lxc/config/common.seccomp";
/// Capabilities that no guest has, even over its own namespaces: what they are for is the node's business.
const CAP_DROP: &str = "mac_admin mac_override sys_module sys_rawio sys_time mknod audit_control syslog wake_alarm";

/// A program of the node that is a guest's init instead of the image's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnInit {
    /// The program, which must need no library.
    pub program: PathBuf,
    /// Its arguments.
    pub words: String,
}

/// What a guest's configuration says. Paths are the node's, and hold no blank.
#[derive(Clone, Debug)]
pub struct Container<'a> {
    /// Host name in the guest ([`host_name`]).
    pub host_name: &'a str,
    /// First uid and gid on the node.
    pub uid_base: u32,
    /// The image, read-only, ids mapped.
    pub base: &'a Path,
    /// Directory of the writable layer, ids mapped; LXC makes `work` in it, beside `u`.
    pub layer: &'a Path,
    /// What becomes `/home`, ids mapped.
    pub home: Option<&'a Path>,
    /// Directory of the agent's socket, ids mapped.
    pub socket_dir: &'a Path,
    /// Where LXC assembles the root, in its own mount namespace: any directory.
    pub mount_point: &'a Path,
    /// What the guest writes to its console.
    pub console_log: &'a Path,
    /// Its cgroup, from the top of the tree: LXC's own are below it.
    pub cgroup: &'a str,
    /// Name of its port on the bridge.
    pub port: &'a str,
    /// The bridge.
    pub bridge: &'a str,
    /// MAC address.
    pub mac: &'a str,
    /// IP address.
    pub ip: Ipv4Addr,
    /// Prefix length of the bridge's network.
    pub prefix: u8,
    /// Default route.
    pub gateway: Ipv4Addr,
    /// Its init, when that is not the image's own.
    pub init: Option<&'a OwnInit>,
}

impl Container<'_> {
    /// The text for `lxc-start -f`.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(2048);
        for (key, value) in self.settings() {
            // Writing to a string cannot fail.
            writeln!(text, "{key} = {value}").unwrap_or_default();
        }
        text
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut all = self.root();
        all.extend(self.mounts());
        all.extend(self.confinement());
        all.extend(self.port());
        all
    }

    fn root(&self) -> Vec<(&'static str, String)> {
        let (base, layer) = (self.base.display(), self.layer.display());
        vec![
            ("lxc.uts.name", self.host_name.into()),
            ("lxc.rootfs.path", format!("overlay:{base}:{layer}/u")),
            ("lxc.rootfs.options", "userxattr".into()),
            ("lxc.rootfs.mount", self.mount_point.display().to_string()),
            ("lxc.idmap", format!("u 0 {} {IDS}", self.uid_base)),
            ("lxc.idmap", format!("g 0 {} {IDS}", self.uid_base)),
            ("lxc.init.cmd", self.init.map_or("/sbin/init".into(), |init| format!("/sbin/init {}", init.words))),
        ]
    }

    fn mounts(&self) -> Vec<(&'static str, String)> {
        let entry = |what: String| ("lxc.mount.entry", what);
        let mut all = vec![
            ("lxc.mount.auto", "proc:mixed sys:mixed cgroup:mixed".into()),
            // Ours before the guest's init can mount its own over it and hide the agent's socket.
            entry("tmpfs run tmpfs rw,nosuid,nodev,mode=755,size=25%,create=dir 0 0".into()),
            entry(format!(
                "{} {} none bind,ro,nosuid,nodev,noexec,create=dir 0 0",
                self.socket_dir.display(),
                model::paths::GUEST_SOCKET_DIR.trim_start_matches('/'),
            )),
            entry("/dev/fuse dev/fuse none bind,optional,create=file 0 0".into()),
            entry("mqueue dev/mqueue mqueue rw,optional,create=dir 0 0".into()),
        ];
        all.extend(
            self.home.map(|home| entry(format!("{} home none bind,nosuid,nodev,create=dir 0 0", home.display()))),
        );
        all.extend(
            self.init.map(|init| entry(format!("{} sbin/init none bind,create=file 0 0", init.program.display()))),
        );
        all
    }

    fn confinement(&self) -> Vec<(&'static str, String)> {
        vec![
            ("lxc.cap.drop", CAP_DROP.into()),
            ("lxc.apparmor.profile", "unconfined".into()),
            ("lxc.seccomp.profile", SECCOMP.into()),
            ("lxc.autodev", "1".into()),
            ("lxc.tty.max", "0".into()),
            ("lxc.pty.max", "1024".into()),
            ("lxc.console.logfile", self.console_log.display().to_string()),
            ("lxc.console.size", "1MB".into()),
            ("lxc.cgroup.dir.monitor", format!("{}/monitor", self.cgroup)),
            ("lxc.cgroup.dir.monitor.pivot", format!("{}/pivot", self.cgroup)),
            ("lxc.cgroup.dir.container", format!("{}/limit/payload", self.cgroup)),
        ]
    }

    fn port(&self) -> Vec<(&'static str, String)> {
        vec![
            ("lxc.net.0.type", "veth".into()),
            ("lxc.net.0.link", self.bridge.into()),
            ("lxc.net.0.name", "eth0".into()),
            ("lxc.net.0.flags", "up".into()),
            ("lxc.net.0.veth.pair", self.port.into()),
            ("lxc.net.0.hwaddr", self.mac.into()),
            ("lxc.net.0.ipv4.address", format!("{}/{}", self.ip, self.prefix)),
            ("lxc.net.0.ipv4.gateway", self.gateway.to_string()),
        ]
    }
}

/// A legal host name made of a VM's name: letters, digits and inner hyphens, 63 at most.
pub fn host_name(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let text: String = name.chars().map(legal).take(63).collect();
    let text = text.trim_matches('-');
    if text.is_empty() { "desktop".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("testdata/guest.lxc");

    #[test]
    fn the_configuration_is_this_text() {
        let container = Container {
            host_name: "alice-1",
            uid_base: 1_000_000,
            base: Path::new("/run/roost/views/12/base"),
            layer: Path::new("/run/roost/views/12/layer"),
            home: Some(Path::new("/run/roost/views/12/home")),
            socket_dir: Path::new("/run/roost/views/12/sock"),
            mount_point: Path::new("/run/roost/rootfs"),
            console_log: Path::new("/run/roost/guests/12/console.log"),
            cgroup: "guests/qvd-12",
            port: "vg12",
            bridge: "qvdnet",
            mac: "54:52:00:03:0f:32",
            ip: Ipv4Addr::new(10, 3, 15, 50),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 3, 15, 1),
            init: None,
        };
        assert_eq!(container.render(), GOLDEN);
        let without_home = Container { home: None, ..container.clone() };
        assert!(!without_home.render().contains(" home "));
        let init = OwnInit { program: "/usr/lib/roost/noded".into(), words: "probe-guest 10.3.15.1".into() };
        let text = Container { init: Some(&init), ..container }.render();
        assert!(text.contains("lxc.init.cmd = /sbin/init probe-guest 10.3.15.1\n"), "{text}");
        assert!(text.contains("= /usr/lib/roost/noded sbin/init none bind,create=file 0 0\n"), "{text}");
    }

    #[track_caller]
    fn check_name(name: &str, expect: &str) {
        assert_eq!(host_name(name), expect);
    }

    #[test]
    fn any_name_gives_a_legal_host_name() {
        check_name("Alice's PC", "alice-s-pc");
        check_name("x\nlxc.hook.start = /bin/sh", "x-lxc-hook-start----bin-sh");
        check_name("日本", "desktop");
        check_name(&"a".repeat(100), &"a".repeat(63));
    }
}
