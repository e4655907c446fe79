//! Links, addresses and routes, by rtnetlink. The only place that knows its types.

use futures_util::{StreamExt, TryStreamExt};
use model::seed::Cidr;
use rtnetlink::{
    Handle, LinkBridge, LinkBridgePort, LinkUnspec, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
    },
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};
use tokio::sync::{Mutex, watch};

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No netlink socket.
    #[error("Cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// A request failed.
    #[error("Cannot {action} {link}")]
    Request {
        /// What was to be done.
        action: &'static str,
        /// To what.
        link: String,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// No such link.
    #[error("There is no network link {0}")]
    Missing(String),
}

/// A link as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// A cable with a living other end.
    pub carrier: bool,
    /// Number of the bridge that it is a port of.
    pub bridge: Option<u32>,
}

/// The kernel's network configuration.
#[derive(Clone, Debug)]
pub struct Links {
    handle: Handle,
    changes: watch::Receiver<u64>,
    /// The kernel answers EBUSY to a second listing on a socket while the first is under way.
    listing: Arc<Mutex<()>>,
}

impl Links {
    /// Opens the socket; its task is spawned here.
    pub fn open() -> Result<Self, LinkError> {
        let (connection, handle, mut messages) =
            new_multicast_connection(&[MulticastGroup::Link]).map_err(LinkError::Open)?;
        tokio::spawn(connection);
        let (change, changes) = watch::channel(0);
        // Which link changed does not matter: whoever waits looks again at those it cares for.
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                change.send_modify(|n| *n += 1)
            }
        });
        Ok(Self { handle, changes, listing: Arc::default() })
    }

    /// Counts the changes of links; await one with `changed()`.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// All Ethernet links.
    pub async fn all(&self) -> Result<Vec<Link>, LinkError> {
        let _alone = self.listing.lock().await;
        let found = self.handle.link().get().execute().try_collect::<Vec<_>>().await;
        let found = found.map_err(failed("list", "the links"))?;
        Ok(found.iter().filter_map(to_link).collect())
    }

    /// The link of this name.
    pub async fn named(&self, name: &str) -> Result<Link, LinkError> {
        self.all().await?.into_iter().find(|l| l.name == name).ok_or_else(|| LinkError::Missing(name.to_owned()))
    }

    /// Sets a link up.
    pub async fn up(&self, link: &Link) -> Result<(), LinkError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.handle.link().set(message).execute().await.map_err(failed("set up", &link.name))
    }

    /// The bridge of this name, made with this MAC address unless it is there, and up. A bridge without an
    /// address of its own would change it with every port, and guests would lose their gateway.
    pub async fn bridge(&self, name: &str, mac: [u8; 6]) -> Result<Link, LinkError> {
        if self.named(name).await.is_err() {
            let message = LinkBridge::new(name).address(mac.to_vec()).forward_delay(0).build();
            self.handle.link().add(message).execute().await.map_err(failed("make the bridge", name))?;
        }
        let bridge = self.named(name).await?;
        self.up(&bridge).await?;
        Ok(bridge)
    }

    /// Lets a port of a bridge exchange frames with the node alone, not with other isolated ports.
    pub async fn isolate(&self, port: &Link) -> Result<(), LinkError> {
        let message = LinkBridgePort::new(port.index).isolated(true).build();
        self.handle.link().set_port(message).execute().await.map_err(failed("isolate the port", &port.name))
    }

    /// Gives a link this IPv4 address and no other.
    pub async fn only_address(&self, link: &Link, wanted: Cidr) -> Result<(), LinkError> {
        // First the old ones: were the wanted one added beside an old one of its network, the kernel would take it
        // away with that.
        self.drop_addresses(link, Some(wanted)).await?;
        let add = self.handle.address().add(link.index, IpAddr::V4(wanted.address), wanted.prefix);
        add.replace().execute().await.map_err(failed("give an address to", &link.name))
    }

    /// Takes all IPv4 addresses but one from a link.
    pub async fn drop_addresses(&self, link: &Link, keep: Option<Cidr>) -> Result<(), LinkError> {
        for message in self.addresses(link).await? {
            if Some(to_cidr(&message)) != keep.map(Some) {
                let gone = self.handle.address().del(message).execute().await;
                gone.map_err(failed("take an address from", &link.name))?;
            }
        }
        Ok(())
    }

    async fn addresses(&self, link: &Link) -> Result<Vec<AddressMessage>, LinkError> {
        let _alone = self.listing.lock().await;
        let found = self.handle.address().get().set_link_index_filter(link.index).execute();
        let found: Vec<_> = found.try_collect().await.map_err(failed("list the addresses of", &link.name))?;
        Ok(found.into_iter().filter(|m| m.header.family == AddressFamily::Inet).collect())
    }

    /// The default route goes by this gateway on this link.
    pub async fn default_route(&self, link: &Link, gateway: Ipv4Addr) -> Result<(), LinkError> {
        // Some clouds name a gateway outside of the address's own network.
        let route =
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(link.index).onlink().build();
        let add = self.handle.route().add(route).replace();
        add.execute().await.map_err(failed("set the default route by", &link.name))
    }
}

fn failed(action: &'static str, link: &str) -> impl FnOnce(rtnetlink::Error) -> LinkError {
    let link = link.to_owned();
    move |source| LinkError::Request { action, link, source }
}

fn to_link(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    if header.link_layer_type != LinkLayerType::Ether {
        return None;
    }
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mac: [0; 6],
        carrier: header.flags.contains(LinkFlags::LowerUp),
        bridge: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok()?,
            LinkAttribute::Controller(index) => link.bridge = Some(*index).filter(|i| *i != 0),
            _ => {}
        }
    }
    Some(link).filter(|l| !l.name.is_empty())
}

fn to_cidr(message: &AddressMessage) -> Option<Cidr> {
    message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(IpAddr::V4(address)) => {
            Some(Cidr { address: *address, prefix: message.header.prefix_len })
        }
        _ => None,
    })
}
