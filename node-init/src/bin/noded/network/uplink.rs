//! The uplink: which link, which address, which resolvers. One task owns it.
//!
//! The first physical link with a carrier is taken, by DHCP or with the seed's fixed address. Carriers are waited for
//! by netlink events. Where several links have a carrier, each gets [`TRIAL`] to give a lease.

use super::{
    dhcp::{Client, Dhcp, Lease, News},
    link::{Link, LinkError, Links},
    services,
};
use crate::{paths::Paths, report::chain};
use model::seed::{Cidr, NetworkSeed};
use std::{io, net::Ipv4Addr, path::Path, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

/// How long one of several candidates may take to its first lease.
const TRIAL: Duration = Duration::from_secs(10);
/// Pause after an error that no event ends.
const PAUSE: Duration = Duration::from_secs(2);

/// The node's way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Name of the link.
    pub link: String,
    /// Its MAC address, `xx:xx:xx:xx:xx:xx`.
    pub mac: String,
    /// The node's address.
    pub address: Cidr,
    /// Resolvers.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers that DHCP names.
    pub ntp: Vec<Ipv4Addr>,
}

/// How the uplink is to be configured.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The seed's fixed address; none is DHCP.
    pub fixed: Option<NetworkSeed>,
    /// This link and no other (tests).
    pub link: Option<String>,
    /// Host name for the DHCP server.
    pub name: String,
}

/// Why there is no uplink yet.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The kernel refuses.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No DHCP socket.
    #[error("Cannot open a DHCP socket on {link}")]
    Socket {
        /// On which link.
        link: String,
        /// Why.
        source: io::Error,
    },
    /// A file about it cannot be written.
    #[error("Cannot write resolv.conf")]
    Resolv(#[source] io::Error),
}

/// The task and what it publishes.
pub struct Task {
    /// The kernel's network.
    pub links: Links,
    /// What is wanted.
    pub wanted: Wanted,
    /// Where resolv.conf goes.
    pub paths: Paths,
    /// The uplink, none while there is none.
    pub uplink: watch::Sender<Option<Uplink>>,
    /// Why there is none, for administrators.
    pub status: watch::Sender<Result<(), String>>,
}

impl Task {
    /// Runs for ever.
    pub async fn run(self) {
        let mut changes = self.links.changes();
        loop {
            let Err(error) = self.serve(&mut changes).await else { continue };
            self.lost(format!("The network is not up: {}", chain(&error)));
            tracing::error!(error = %chain(&error), "The uplink failed");
            sleep(PAUSE).await;
        }
    }

    /// One choice of a link; returns to choose again.
    async fn serve(&self, changes: &mut watch::Receiver<u64>) -> Result<(), UplinkError> {
        // What changes from here on is seen by the wait below.
        changes.mark_unchanged();
        let candidates = self.candidates().await?;
        if candidates.is_empty() {
            self.lost("No network card has a link".to_owned());
            change(changes).await;
            return Ok(());
        }
        let alone = candidates.len() == 1;
        for link in candidates {
            match &self.wanted.fixed {
                Some(fixed) => return self.fixed(&link, fixed).await,
                None => self.leased(&link, alone, changes).await?,
            }
        }
        Ok(())
    }

    /// Links with a carrier, all candidates having been set up.
    async fn candidates(&self) -> Result<Vec<Link>, UplinkError> {
        let may = |link: &Link| match &self.wanted.link {
            Some(name) => link.name == *name,
            None => link.bridge.is_none() && Path::new("/sys/class/net").join(&link.name).join("device").exists(),
        };
        let all: Vec<Link> = self.links.all().await?.into_iter().filter(may).collect();
        for link in all.iter().filter(|l| !l.carrier) {
            self.links.up(link).await?;
        }
        Ok(all.into_iter().filter(|l| l.carrier).collect())
    }

    async fn fixed(&self, link: &Link, fixed: &NetworkSeed) -> Result<(), UplinkError> {
        self.configure(link, fixed.address, Some(fixed.gateway), fixed.dns.clone(), vec![]).await?;
        // A cable pulled out keeps its address: nothing is gained by taking it away.
        std::future::pending().await
    }

    /// Holds a lease on this link. Returns when another should be tried.
    async fn leased(&self, link: &Link, alone: bool, changes: &mut watch::Receiver<u64>) -> Result<(), UplinkError> {
        let client = Client { mac: link.mac, name: self.wanted.name.clone() };
        let socket = |source| UplinkError::Socket { link: link.name.clone(), source };
        let mut dhcp = Dhcp::begin(&link.name, client).await.map_err(socket)?;
        self.lost(format!("No DHCP server has answered on {} yet", link.name));
        let (mut carrier, mut trial) = (true, Some(Instant::now() + TRIAL).filter(|_| !alone));
        loop {
            // Cancel-safe: both lose nothing when dropped.
            let news = tokio::select! {
                news = dhcp.next() => news,
                Ok(()) = changes.changed() => {
                    let has = self.links.named(&link.name).await?.carrier;
                    if has && !carrier {
                        dhcp.replugged().await;
                    }
                    carrier = has;
                    // Without a lease, any other link that comes up deserves a try.
                    if !has && self.uplink.borrow().is_none() { return Ok(()) }
                    continue;
                }
                () = at(trial) => return Ok(()),
            };
            match news {
                News::Lease(lease) => {
                    trial = None;
                    self.hold(link, lease).await?;
                }
                News::Lost => {
                    self.links.drop_addresses(link, None).await?;
                    self.lost(format!("The DHCP lease on {} ended", link.name));
                }
            }
        }
    }

    async fn hold(&self, link: &Link, lease: Lease) -> Result<(), UplinkError> {
        self.configure(link, lease.address, lease.gateway, lease.dns, lease.ntp).await
    }

    async fn configure(
        &self,
        link: &Link,
        address: Cidr,
        gateway: Option<Ipv4Addr>,
        dns: Vec<Ipv4Addr>,
        ntp: Vec<Ipv4Addr>,
    ) -> Result<(), UplinkError> {
        self.links.only_address(link, address).await?;
        if let Some(gateway) = gateway {
            self.links.default_route(link, gateway).await?;
        }
        services::write_resolv_conf(&self.paths, &dns).map_err(UplinkError::Resolv)?;
        let uplink = Uplink { link: link.name.clone(), mac: super::mac_text(link.mac), address, dns, ntp };
        let changed = self.uplink.send_if_modified(|old| old.replace(uplink.clone()).as_ref() != Some(&uplink));
        if changed {
            tracing::info!(link = %link.name, address = %address, "The uplink is configured");
        }
        self.status.send_if_modified(|status| std::mem::replace(status, Ok(())).is_err());
        Ok(())
    }

    fn lost(&self, reason: String) {
        self.uplink.send_if_modified(|uplink| uplink.take().is_some());
        self.status.send_if_modified(|status| {
            *status != Err(reason.clone()) && {
                *status = Err(reason);
                true
            }
        });
    }
}

/// Waits for a change; the pause bounds what a lost event costs.
async fn change(changes: &mut watch::Receiver<u64>) {
    let soon = Instant::now() + PAUSE;
    // An error means that netlink is gone: the pause remains.
    if let Ok(Err(_)) = timeout_at(soon, changes.changed()).await {
        sleep(PAUSE).await;
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
