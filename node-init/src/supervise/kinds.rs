//! The services of a node.

use super::service::{Again, Kind};
use model::init::Service;
use model::paths;
use sys::spawn::Command;

/// The router's user and group.
const ROUTER_ID: u32 = 900;

/// The node daemon. It is never given up: without it the node is of no use to anybody.
pub static NODED: Kind = Kind {
    name: "noded",
    word: None,
    command: || {
        let mut c = Command::new("/usr/lib/roost/noded");
        c.oom_score(-900).open_files(65_536);
        c
    },
    give_up_after: None,
    again: Again::GoOn,
};

/// Modules for devices that are there.
pub static DEVICES: Kind = Kind {
    name: "devices",
    word: None,
    command: || {
        let mut c = Command::new(crate::SELF);
        c.arg("devices").oom_score(-500);
        c
    },
    give_up_after: None,
    again: Again::AfterEnd,
};

/// The shell of a debug image. Its terminal is the serial line, which getty makes its own.
pub static SHELL: Kind = Kind {
    name: "shell",
    word: None,
    command: || {
        let mut c = Command::new("/usr/bin/busybox");
        c.args(["getty", "-L", "-n", "-l", "/usr/bin/sh", "115200", "ttyS0", "vt100"]);
        c
    },
    give_up_after: None,
    again: Again::GoOn,
};

/// Those that `noded` asks for, when it has written their configuration.
pub static ON_REQUEST: [Kind; 3] = [
    Kind {
        name: "router",
        word: Some(Service::Router),
        command: || {
            let mut c = Command::new("/usr/lib/roost/router");
            c.user(ROUTER_ID, ROUTER_ID, &[]).drop_capabilities().oom_score(-500).open_files(65_536);
            c
        },
        give_up_after: Some(30),
        // It takes its configuration from noded by itself, and a restart would end all sessions.
        again: Again::GoOn,
    },
    Kind {
        name: "dnsmasq",
        word: Some(Service::Dnsmasq),
        command: || {
            let mut c = Command::new("/usr/sbin/dnsmasq");
            c.arg("--keep-in-foreground").arg(format!("--conf-file={}", paths::DNSMASQ_CONF)).oom_score(-500);
            c
        },
        give_up_after: Some(30),
        again: Again::Restart,
    },
    Kind {
        name: "chronyd",
        word: Some(Service::Chrony),
        command: || {
            let mut c = Command::new("/usr/sbin/chronyd");
            // -d: in the foreground, logging to standard error.
            c.args(["-d", "-f", paths::CHRONY_CONF]).oom_score(-500);
            c
        },
        give_up_after: Some(30),
        again: Again::Restart,
    },
];
