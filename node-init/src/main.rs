//! PID 1 of a node: in the initrd it finds and checks the root, on the root it brings the machine up and then keeps
//! the services alive until the machine goes down. It never exits.
//!
//! The same program has three more, small roles: the kernel calls it instead of `modprobe`, PID 1 runs it to load
//! modules for devices as they appear, and anybody may ask for its version.

mod boot;
mod console;
mod devices;
mod fail;
mod kmsg;
mod supervise;
mod tpm;
mod variant;
mod watchdog;
mod words;

use std::process::ExitCode;

/// Where the program lies on the root.
const SELF: &str = "/usr/lib/roost/node-init";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match Role::of(std::process::id(), &args) {
        Role::Initrd => fail::never_return(boot::initrd),
        Role::Init => fail::never_return(boot::boot),
        Role::Devices => devices::serve(),
        Role::Modprobe(names) => devices::modprobe(&names),
        Role::Version => {
            println!("node-init {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Role::Unknown => {
            eprintln!("node-init: expected to be PID 1, or one of: devices, -q -- MODULE, --version");
            ExitCode::from(2)
        }
    }
}

#[derive(Debug, PartialEq)]
enum Role<'a> {
    Initrd,
    Init,
    Devices,
    Modprobe(Vec<&'a str>),
    Version,
    Unknown,
}

impl<'a> Role<'a> {
    fn of(pid: u32, args: &[&'a str]) -> Self {
        match (pid, args) {
            (1, ["/init", ..]) => Self::Initrd,
            (1, _) => Self::Init,
            (_, [_, "devices"]) => Self::Devices,
            (_, [_, "--version"]) => Self::Version,
            // The kernel's own call: `modprobe -q -- NAME`.
            (_, [_, "-q", "--", names @ ..]) if !names.is_empty() => Self::Modprobe(names.to_vec()),
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Role;

    #[track_caller]
    fn check(pid: u32, args: &[&str], expect: Role<'_>) {
        assert_eq!(Role::of(pid, args), expect);
    }

    #[test]
    fn the_role_follows_from_pid_and_arguments() {
        check(1, &["/init"], Role::Initrd);
        check(1, &["/init", "splash"], Role::Initrd);
        check(1, &["/usr/lib/roost/node-init"], Role::Init);
        check(70, &["/init", "-q", "--", "fs-squashfs"], Role::Modprobe(vec!["fs-squashfs"]));
        check(70, &["node-init", "-q", "--"], Role::Unknown);
        check(70, &["node-init", "devices"], Role::Devices);
        check(70, &["node-init"], Role::Unknown);
    }
}
