//! The DHCP client: [`life`] decides, [`message`] speaks, and here packets and time pass.

mod life;
mod message;

pub use life::Lease;
pub use message::Client;

use life::{Effect, Event, State, begin, step};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket,
    sockopt::{BindToDevice, Broadcast, ReuseAddr},
};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::Ipv4Addr,
    os::fd::AsRawFd,
};
use tokio::{net::UdpSocket, time::Instant};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;

/// What happens to the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Configure the link so. Said again at each renewal.
    Lease(Lease),
    /// Take the address away.
    Lost,
}

/// A client on one link.
#[derive(Debug)]
pub struct Dhcp {
    client: Client,
    socket: UdpSocket,
    xid: u32,
    state: State,
    due: Instant,
    news: Vec<News>,
}

impl Dhcp {
    /// Begins on this link, which must be up.
    pub async fn begin(link: &str, client: Client) -> io::Result<Self> {
        let socket = socket_on(link)?;
        let xid = RandomState::new().build_hasher().finish() as u32;
        let (state, effects) = begin();
        let mut dhcp = Self { client, socket, xid, state, due: Instant::now(), news: vec![] };
        dhcp.perform(effects).await;
        Ok(dhcp)
    }

    /// The cable was plugged in again.
    pub async fn replugged(&mut self) {
        self.happen(Event::Replugged).await;
    }

    /// The next news. Cancel-safe: packets and time pass only when something is taken from them.
    pub async fn next(&mut self) -> News {
        loop {
            if !self.news.is_empty() {
                return self.news.remove(0);
            }
            let mut packet = [0; 1500];
            let event = tokio::select! {
                received = self.socket.recv(&mut packet) => match received {
                    Ok(len) => self.client.read(self.xid, &packet[..len]),
                    // Such as ENETDOWN: the timer goes on.
                    Err(error) => { tracing::debug!(%error, "DHCP socket"); tokio::time::sleep_until(self.due).await; None }
                },
                () = tokio::time::sleep_until(self.due) => Some(Event::Timer),
            };
            if let Some(event) = event {
                self.happen(event).await;
            }
        }
    }

    async fn happen(&mut self, event: Event) {
        if let Some((state, effects)) = step(&self.state, event) {
            self.state = state;
            self.perform(effects).await;
        }
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Discover => self.send(self.client.discover(self.xid), None).await,
                Effect::Request(offer) => self.send(self.client.request(self.xid, &offer), None).await,
                Effect::Prolong(lease, to) => {
                    self.send(self.client.prolong(self.xid, lease.address.address), to).await;
                }
                Effect::Apply(lease) => self.news.push(News::Lease(lease)),
                Effect::Drop => self.news.push(News::Lost),
                Effect::Wait(wait) => self.due = Instant::now() + wait,
            }
        }
    }

    async fn send(&self, packet: Vec<u8>, to: Option<Ipv4Addr>) {
        let to = (to.unwrap_or(Ipv4Addr::BROADCAST), SERVER_PORT);
        // A packet that cannot be sent is as good as lost: the timer sends the next.
        if let Err(error) = self.socket.send_to(&packet, to).await {
            tracing::debug!(%error, "Cannot send a DHCP packet");
        }
    }
}

/// A socket that hears and speaks on one link alone, whatever addresses there are.
fn socket_on(link: &str) -> io::Result<UdpSocket> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Inet, SockType::Datagram, flags, None)?;
    setsockopt(&fd, ReuseAddr, &true)?;
    setsockopt(&fd, Broadcast, &true)?;
    setsockopt(&fd, BindToDevice, &link.into())?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, CLIENT_PORT))?;
    UdpSocket::from_std(fd.into())
}
