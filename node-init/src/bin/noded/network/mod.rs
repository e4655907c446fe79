//! The node's network: the way out, the guests' bridge, the packet filter, and files for dnsmasq.
//!
//! Two tasks. [`uplink`] owns the link to the world. The one here owns the bridge, the filter and the
//! guests' ports; its handle is [`Network`]. Guests need only the bridge, so they run while the uplink is away.

mod dhcp;
mod link;
mod nft;
mod services;
#[cfg(test)]
mod tests;
mod uplink;

pub use uplink::{Uplink, Wanted};

use crate::{files, init::Init, paths::Paths, report::chain};
use link::{LinkError, Links};
use model::{VmId, init::Service, key::Config, paths};
use services::{GuestNet, Port};
use std::{collections::BTreeMap, io, net::Ipv4Addr, sync::Arc};
use tokio::sync::{mpsc, oneshot, watch};

/// Why the network cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The network's task is gone: the daemon ends.
    #[error("The network task has ended")]
    Gone,
    /// A link or address was refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The packet filter was refused; the old one stands.
    #[error("Cannot load the packet filter")]
    Filter(#[source] Arc<sys::Error>),
    /// A file could not be written.
    #[error("Cannot write {0}")]
    File(&'static str, #[source] io::Error),
    /// A name or address that no guest can have.
    #[error("'{0}' is not a {1}")]
    Malformed(String, &'static str),
}

/// Handle to the network task.
#[derive(Clone, Debug)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    uplink: watch::Receiver<Option<Uplink>>,
    status: watch::Receiver<Result<(), String>>,
    bridge: watch::Receiver<Result<(), String>>,
}

#[derive(Debug)]
enum Command {
    Admit(VmId, Port, oneshot::Sender<Result<(), NetworkError>>),
    Expel(VmId, oneshot::Sender<Result<(), NetworkError>>),
    Configure(Box<Config>),
}

impl Network {
    /// Brings the network up and keeps it so.
    pub fn start(paths: &Paths, wanted: Wanted, config: &Config, init: Init) -> Result<Self, NetworkError> {
        let links = Links::open()?;
        services::prepare(paths).map_err(|e| NetworkError::File("the directories of ports and leases", e))?;
        let (commands, commanded) = mpsc::channel(64);
        let (uplink_tx, uplink) = watch::channel(None);
        let (status_tx, status) = watch::channel(Err("The network is being set up".to_owned()));
        let (bridge_tx, bridge) = watch::channel(Err("The guests' bridge is being set up".to_owned()));
        let task =
            uplink::Task { links: links.clone(), wanted, paths: paths.clone(), uplink: uplink_tx, status: status_tx };
        tokio::spawn(task.run());
        let guests = Guests {
            links,
            paths: paths.clone(),
            net: GuestNet::of(config),
            ports: services::kept_ports(paths).into_iter().collect(),
            uplink: uplink.clone(),
            status: bridge_tx,
            init,
        };
        tokio::spawn(guests.run(commanded));
        Ok(Self { commands, uplink, status, bridge })
    }

    /// A network that somebody else configures (tests, a daemon started by hand): ports are neither made nor filtered.
    pub fn by_hand(uplink: Uplink) -> Self {
        let (commands, mut commanded) = mpsc::channel(64);
        let (uplink, up) = watch::channel(Some(uplink));
        let (good, status) = watch::channel(Ok(()));
        tokio::spawn(async move {
            while let Some(command) = commanded.recv().await {
                match command {
                    // Whoever asked may have given up.
                    Command::Admit(_, _, done) | Command::Expel(_, done) => drop(done.send(Ok(()))),
                    Command::Configure(_) => {}
                }
            }
            drop((uplink, good));
        });
        Self { commands, uplink: up, status: status.clone(), bridge: status }
    }

    /// Lets a guest's port carry traffic of this MAC and IP and no other, and gives the guest its DHCP
    /// lease. Call it before the port exists; asking again with the same values is harmless. The port
    /// is set isolated by this task when it appears on the bridge.
    pub async fn admit(&self, vm: VmId, port: &str, mac: &str, ip: Ipv4Addr) -> Result<(), NetworkError> {
        let malformed = |text: &str, what| NetworkError::Malformed(text.to_owned(), what);
        let link = Some(port).filter(|name| is_link_name(name)).ok_or_else(|| malformed(port, "link name"))?.to_owned();
        let mac = parse_mac(mac).ok_or_else(|| malformed(mac, "MAC address"))?;
        self.ask(|done| Command::Admit(vm, Port { link, mac, ip }, done)).await
    }

    /// Takes back what [`Self::admit`] gave. Harmless for a guest that has nothing.
    pub async fn expel(&self, vm: VmId) -> Result<(), NetworkError> {
        self.ask(|done| Command::Expel(vm, done)).await
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), NetworkError>>) -> Command,
    ) -> Result<(), NetworkError> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.map_err(|_| NetworkError::Gone)?;
        answer.await.map_err(|_| NetworkError::Gone)?
    }

    /// New configuration.
    pub async fn configure(&self, config: Config) {
        // With the task gone the daemon ends anyway.
        self.commands.send(Command::Configure(Box::new(config))).await.ok();
    }

    /// The uplink, none while there is none.
    pub fn uplink(&self) -> watch::Receiver<Option<Uplink>> {
        self.uplink.clone()
    }

    /// Whether the node reaches the world.
    pub fn status(&self) -> watch::Receiver<Result<(), String>> {
        self.status.clone()
    }

    /// Whether guests have their bridge and its filter.
    pub fn bridge(&self) -> watch::Receiver<Result<(), String>> {
        self.bridge.clone()
    }
}

/// The task of bridge, filter and ports.
struct Guests {
    links: Links,
    paths: Paths,
    net: GuestNet,
    ports: BTreeMap<VmId, Port>,
    uplink: watch::Receiver<Option<Uplink>>,
    status: watch::Sender<Result<(), String>>,
    init: Init,
}

impl Guests {
    async fn run(mut self, mut commanded: mpsc::Receiver<Command>) {
        let mut changes = self.links.changes();
        self.set_up().await;
        loop {
            // Cancel-safe: receives take nothing unless they complete, and each branch's work is in its body.
            tokio::select! {
                command = commanded.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                Ok(()) = changes.changed() => self.isolate_ports().await,
                // The filter names the uplink's network.
                Ok(()) = self.uplink.changed() => drop(self.filter().await.inspect_err(complain)),
            }
        }
    }

    async fn set_up(&mut self) {
        let result = self.try_set_up().await;
        if let Err(error) = &result {
            complain(error);
        }
        let status = result.map_err(|e| format!("The guests' network is not up: {}", chain(&e)));
        self.status.send_modify(|old| *old = status);
    }

    async fn try_set_up(&mut self) -> Result<(), NetworkError> {
        let net = &self.net;
        let conf = net.dnsmasq_conf(&self.paths);
        // The filter first: a port that is up already (a restart) is never without one.
        self.filter().await?;
        let bridge = self.links.bridge(&net.bridge, net.mac).await?;
        self.links.only_address(&bridge, net.gateway).await?;
        sysctl("net/ipv4/ip_forward", "1")?;
        // Guests have no IPv6: the filter drops it.
        sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", net.bridge), "1").or_else(|_| no_ipv6())?;
        let path = self.paths.at(paths::DNSMASQ_CONF);
        files::replace(&path, conf.as_bytes(), 0o644).map_err(|e| NetworkError::File("dnsmasq's configuration", e))?;
        self.init.start_service(Service::Dnsmasq);
        self.isolate_ports().await;
        tracing::info!(bridge = %self.net.bridge, address = %self.net.gateway, "The guests' network is up");
        Ok(())
    }

    async fn filter(&self) -> Result<(), NetworkError> {
        let near = self.uplink.borrow().as_ref().map(|u| u.address);
        let rules = nft::ruleset(&self.net, near, self.ports.values());
        nft::load(rules).await.map_err(|e| NetworkError::Filter(Arc::new(e)))
    }

    async fn obey(&mut self, command: Command) {
        match command {
            // Whoever asked may have given up; the next admission or expulsion sets it right.
            Command::Admit(vm, port, done) => drop(done.send(self.admit(vm, port).await)),
            Command::Expel(vm, done) => drop(done.send(self.expel(vm).await)),
            Command::Configure(config) => {
                let net = GuestNet::of(&config);
                let broken = self.status.borrow().is_err();
                if net != self.net || broken {
                    self.net = net;
                    self.set_up().await;
                }
            }
        }
    }

    async fn admit(&mut self, vm: VmId, port: Port) -> Result<(), NetworkError> {
        if self.ports.get(&vm) == Some(&port) {
            return Ok(());
        }
        services::keep_port(&self.paths, vm, &port).map_err(|e| NetworkError::File("a guest's lease", e))?;
        self.ports.insert(vm, port);
        self.filter().await
    }

    async fn expel(&mut self, vm: VmId) -> Result<(), NetworkError> {
        if self.ports.remove(&vm).is_none() {
            return Ok(());
        }
        services::drop_port(&self.paths, vm).map_err(|e| NetworkError::File("a guest's lease", e))?;
        self.filter().await
    }

    /// The filter keeps guests apart; isolation does so a second time, in the bridge itself.
    async fn isolate_ports(&self) {
        let all = match self.links.all().await {
            Ok(all) => all,
            Err(error) => return complain(&error.into()),
        };
        let ours = |l: &&link::Link| l.bridge.is_some() && self.ports.values().any(|p| p.link == l.name);
        for port in all.iter().filter(ours) {
            if let Err(error) = self.links.isolate(port).await {
                // The port may have gone in between, with its guest.
                tracing::debug!(error = %chain(&error), "Cannot isolate a port");
            }
        }
    }
}

fn complain(error: &NetworkError) {
    tracing::error!(error = %chain(error), "The guests' network failed");
}

fn sysctl(name: &str, value: &str) -> Result<(), NetworkError> {
    std::fs::write(format!("/proc/sys/{name}"), value).map_err(|e| NetworkError::File("a kernel setting", e))
}

/// A kernel without IPv6 has nothing to switch off.
fn no_ipv6() -> Result<(), NetworkError> {
    if std::path::Path::new("/proc/sys/net/ipv6").exists() {
        return Err(NetworkError::File("a kernel setting", io::ErrorKind::NotFound.into()));
    }
    Ok(())
}

/// Whether the kernel would take it as a link's name, and every configuration file too.
fn is_link_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=15).contains(&name.len()) && name.bytes().all(plain) && !matches!(name, "." | "..")
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let parts: Vec<u8> = text
        .split(':')
        .map(|p| Some(p).filter(|p| p.len() == 2).and_then(|p| u8::from_str_radix(p, 16).ok()))
        .collect::<Option<_>>()?;
    parts.try_into().ok()
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}
