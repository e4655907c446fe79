//! A virtual network that machines of the lab share: a learning switch, and a gateway to this host.
//!
//! Each machine has one cable to the switch. The gateway is a QEMU without a machine: it answers at
//! [`HOST_IN_MACHINE`] for this host and forwards a port of loopback to each node's router. QEMU's user
//! network takes every packet that it sees for its own, whatever the address on the frame, so it must not
//! hang on a hub with the nodes: a switch shows it only its own frames.

use super::{Lab, LabError, Process, file, free_port, store::HOST_IN_MACHINE};
use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Shutdown},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

/// Of the first node; the next ones follow.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 21);
/// QEMU's user network resolves names here.
const RESOLVER: &str = "10.0.2.3";
/// Longest frame that a cable carries; machines on a cable without offloads send at most 1,514 bytes.
const LONGEST_FRAME: usize = 64 << 10;

/// A network with its machines.
#[derive(Debug)]
pub struct Lan {
    plugs: Vec<Plug>,
    _switch: Switch,
    _gateway: Process,
}

/// One machine's end of a cable.
#[derive(Clone, Debug)]
pub(super) struct Plug {
    name: String,
    mac: String,
    address: Ipv4Addr,
    cable: Cable,
    /// Port on 127.0.0.1 that leads to the machine's router.
    pub(super) router_port: u16,
}

/// Two sockets: what one end sends, the other receives, a frame a datagram.
#[derive(Clone, Debug)]
struct Cable {
    machine: PathBuf,
    switch: PathBuf,
}

impl Cable {
    fn new(dir: &Path, name: &str) -> Self {
        Self { machine: dir.join(format!("{name}.machine")), switch: dir.join(format!("{name}.switch")) }
    }

    /// QEMU's network back-end for it.
    fn netdev(&self, id: &str) -> String {
        let (local, remote) = (self.machine.display(), self.switch.display());
        format!("dgram,id={id},local.type=unix,local.path={local},remote.type=unix,remote.path={remote}")
    }
}

impl Lan {
    pub(super) fn start(lab: &Lab, names: &[&str]) -> Result<Self, LabError> {
        let dir = lab.path("lan");
        file("make", &dir, std::fs::create_dir_all)?;
        let plugs = (0u8..).zip(names).map(|(nth, name)| Plug::new(&dir, nth, name)).collect::<Result<Vec<_>, _>>()?;
        let uplink = Cable::new(&dir, "gateway");
        let switch = Switch::start(plugs.iter().map(|p| &p.cable).chain([&uplink]))?;
        let gateway = start_gateway(lab, &uplink, &plugs)?;
        Ok(Self { plugs, _switch: switch, _gateway: gateway })
    }

    /// `seed` with the machine's fixed address on this network.
    pub fn seed(&self, name: &str, seed: &str) -> Result<String, LabError> {
        let address = self.plug(name)?.address;
        Ok(format!(
            "{seed}\n[network]\naddress = \"{address}/24\"\ngateway = \"{HOST_IN_MACHINE}\"\ndns = [\"{RESOLVER}\"]\n"
        ))
    }

    pub(super) fn plug(&self, name: &str) -> Result<&Plug, LabError> {
        let known = || self.plugs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        self.plugs.iter().find(|p| p.name == name).ok_or_else(|| LabError::Answer {
            peer: "the network".to_owned(),
            found: name.to_owned(),
            expected: format!("one of its machines: {}", known()),
        })
    }
}

impl Plug {
    fn new(dir: &Path, nth: u8, name: &str) -> Result<Self, LabError> {
        Ok(Self {
            name: name.to_owned(),
            mac: format!("52:54:00:00:02:{nth:02x}"),
            address: Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + u32::from(nth)),
            cable: Cable::new(dir, name),
            router_port: free_port()?,
        })
    }

    /// QEMU's arguments for the card.
    pub(super) fn args(&self) -> [(&'static str, String); 2] {
        let card = format!("virtio-net-pci,netdev=net,mac={},romfile=", self.mac);
        [("-netdev", self.cable.netdev("net")), ("-device", card)]
    }
}

/// A QEMU that emulates no machine and only carries frames between the switch and this host.
fn start_gateway(lab: &Lab, uplink: &Cable, plugs: &[Plug]) -> Result<Process, LabError> {
    let forwards: String =
        plugs.iter().map(|p| format!(",hostfwd=tcp:127.0.0.1:{}-{}:8443", p.router_port, p.address)).collect();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", "none", "-nodefaults", "-display", "none", "-name", "gateway"]);
    command.args(["-netdev", &format!("user,id=host{forwards}"), "-netdev", &uplink.netdev("switch")]);
    for (id, end) in [("a", "host"), ("b", "switch")] {
        command.args(["-netdev", &format!("hubport,id={id},hubid=0,netdev={end}")]);
    }
    Process::start("qemu-system-x86_64", lab.path("gateway.log"), &mut command)
}

/// Passes frames on by the addresses that it has seen; a full receiver loses frames, as on a real switch.
#[derive(Debug)]
struct Switch {
    sockets: Vec<Arc<UnixDatagram>>,
    threads: Vec<JoinHandle<()>>,
}

/// Which port each station is behind.
#[derive(Debug, Default)]
struct Seen(HashMap<[u8; 6], usize>);

impl Seen {
    /// Learns who sent `frame` and says where it goes: one port, or all (None). Nothing when it is no frame.
    fn route(&mut self, from: usize, frame: &[u8]) -> Option<Option<usize>> {
        let to: [u8; 6] = frame.get(..6)?.try_into().ok()?;
        let sender: [u8; 6] = frame.get(6..12)?.try_into().ok()?;
        self.0.insert(sender, from);
        Some(self.0.get(&to).copied())
    }
}

impl Switch {
    fn start<'a>(cables: impl Iterator<Item = &'a Cable>) -> Result<Self, LabError> {
        let cables: Vec<&Cable> = cables.collect();
        let bind = |c: &&Cable| {
            if c.switch.exists() {
                file("remove", &c.switch, std::fs::remove_file)?;
            }
            file("listen at", &c.switch, |p| UnixDatagram::bind(p).map(Arc::new))
        };
        let sockets = cables.iter().map(bind).collect::<Result<Vec<_>, _>>()?;
        let machines: Arc<[PathBuf]> = cables.iter().map(|c| c.machine.clone()).collect();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let spawn = |(from, socket): (usize, &Arc<UnixDatagram>)| {
            let (sockets, machines, seen) = (sockets.clone(), Arc::clone(&machines), Arc::clone(&seen));
            let socket = Arc::clone(socket);
            let pass = move || pass(from, &socket, &sockets, &machines, &seen);
            std::thread::Builder::new().name(format!("switch-{from}")).spawn(pass)
        };
        let threads = sockets.iter().enumerate().map(spawn).collect::<io::Result<Vec<_>>>();
        let threads = threads.map_err(|source| LabError::Spawn { program: "the switch".to_owned(), source })?;
        Ok(Self { sockets, threads })
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // Ends the thread that reads it; one that has ended already is as good.
            let _ended = socket.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Passes on what comes from one port, until its socket is shut.
fn pass(from: usize, socket: &UnixDatagram, sockets: &[Arc<UnixDatagram>], machines: &[PathBuf], seen: &Mutex<Seen>) {
    let mut frame = vec![0; LONGEST_FRAME];
    while let Ok(len @ 1..) = socket.recv(&mut frame) {
        let frame = &frame[..len];
        let Some(route) = seen.lock().unwrap_or_else(|e| e.into_inner()).route(from, frame) else { continue };
        for to in (0..machines.len()).filter(|to| *to != from && route.is_none_or(|r| r == *to)) {
            // Nobody there, or its queue is full: the frame is lost.
            let _lost = sockets[to].send_to(frame, &machines[to]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn frame(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
        [&to[..], &from[..], b"\x08\x00payload"].concat()
    }

    #[test]
    fn a_frame_goes_where_its_station_was_last_seen() {
        let mut seen = Seen::default();
        assert_eq!(seen.route(0, &frame(B, A)), Some(None), "unknown: to all");
        assert_eq!(seen.route(1, &frame(A, B)), Some(Some(0)));
        assert_eq!(seen.route(0, &frame(B, A)), Some(Some(1)));
        assert_eq!(seen.route(2, &frame([0xff; 6], B)), Some(None), "broadcast");
        assert_eq!(seen.route(0, &frame(B, A)), Some(Some(2)), "it moved");
        assert_eq!(seen.route(0, b"short"), None);
    }
}
