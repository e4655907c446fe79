//! DHCP messages, written and read. What a server sends is judged here and trusted afterwards.

use super::life::{Event, Lease, Offer};
use dhcproto::{
    Decodable, Decoder, Encodable, Encoder,
    v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode},
};
use model::seed::Cidr;
use std::{net::Ipv4Addr, time::Duration};

/// Who asks.
#[derive(Clone, Debug)]
pub struct Client {
    /// MAC address of the link.
    pub mac: [u8; 6],
    /// Host name told to the server; it shows up in its list of leases.
    pub name: String,
}

/// Shortest lease that is taken at its word: a shorter one would keep the network busy.
const LEASE_LEAST: u32 = 60;
/// What a lease without a length is taken for.
const LEASE_USUAL: u32 = 3600;

impl Client {
    /// Asks for offers.
    pub fn discover(&self, xid: u32) -> Vec<u8> {
        self.message(xid, MessageType::Discover, Ipv4Addr::UNSPECIFIED, &[])
    }

    /// Takes an offer.
    pub fn request(&self, xid: u32, offer: &Offer) -> Vec<u8> {
        let more = [DhcpOption::RequestedIpAddress(offer.address), DhcpOption::ServerIdentifier(offer.server)];
        self.message(xid, MessageType::Request, Ipv4Addr::UNSPECIFIED, &more)
    }

    /// Asks to prolong a lease of this address.
    pub fn prolong(&self, xid: u32, address: Ipv4Addr) -> Vec<u8> {
        self.message(xid, MessageType::Request, address, &[])
    }

    fn message(&self, xid: u32, kind: MessageType, own: Ipv4Addr, more: &[DhcpOption]) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(xid, own, none, none, none, &self.mac);
        if own.is_unspecified() {
            // An answer to an address that we do not have yet would not reach a UDP socket.
            message.set_flags(Flags::default().set_broadcast());
        }
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ClientIdentifier([&[1][..], &self.mac].concat()));
        options.insert(DhcpOption::Hostname(self.name.clone()));
        options.insert(DhcpOption::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::DomainNameServer,
            OptionCode::NtpServers,
            OptionCode::ClasslessStaticRoute,
            OptionCode::Renewal,
            OptionCode::Rebinding,
        ]));
        more.iter().for_each(|option| drop(options.insert(option.clone())));
        let mut bytes = vec![];
        // Writing to memory fails only for values that do not fit their field, and ours are fixed but for the name.
        match message.encode(&mut Encoder::new(&mut bytes)) {
            Ok(()) => bytes,
            Err(error) => unreachable!("a DHCP message of ours cannot be written: {error}"),
        }
    }

    /// What a packet means to us; none when it is for others, or cannot be used.
    pub fn read(&self, xid: u32, packet: &[u8]) -> Option<Event> {
        // Ethernet addresses alone; dhcproto panics on `chaddr()` when a packet claims more than 16 bytes.
        if packet.get(2) != Some(&6) {
            return None;
        }
        let message = Message::decode(&mut Decoder::new(&relevant(packet)?)).ok()?;
        let ours = message.opcode() == Opcode::BootReply && message.xid() == xid && message.chaddr() == self.mac;
        let server = match message.opts().get(OptionCode::ServerIdentifier)? {
            DhcpOption::ServerIdentifier(server) => *server,
            _ => return None,
        };
        match message.opts().msg_type().filter(|_| ours)? {
            MessageType::Offer => Some(Event::Offer(Offer { address: usable(message.yiaddr())?, server })),
            MessageType::Ack => lease(&message, server).map(Event::Ack),
            MessageType::Nak => Some(Event::Nak),
            _ => None,
        }
    }
}

/// Where the options begin: behind the fixed fields and the cookie (RFC 2131, 2132).
const OPTIONS: usize = 240;
/// The options that are read, by their codes.
const READ: [u8; 10] = [1, 3, 6, 42, 51, 53, 54, 58, 59, 121];
const PAD: u8 = 0;
const END: u8 = 255;

/// The packet without the options that nobody here reads: dhcproto 0.15 panics on some whose length is wrong
/// (those of bulk lease queries), and what is not needed need not be trusted.
fn relevant(packet: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut options) = packet.split_at_checked(OPTIONS)?;
    let mut kept = fixed.to_vec();
    loop {
        options = match options {
            [] | [END, ..] => break,
            [PAD, rest @ ..] => rest,
            [code, len, rest @ ..] => {
                let (value, rest) = rest.split_at_checked((*len).into())?;
                if READ.contains(code) {
                    kept.extend([*code, *len]);
                    kept.extend(value);
                }
                rest
            }
            [_] => return None,
        };
    }
    kept.push(END);
    Some(kept)
}

fn usable(address: Ipv4Addr) -> Option<Ipv4Addr> {
    let unusable =
        address.is_unspecified() || address.is_loopback() || address.is_multicast() || address.is_broadcast();
    (!unusable).then_some(address)
}

fn lease(message: &Message, server: Ipv4Addr) -> Option<Lease> {
    let address = usable(message.yiaddr())?;
    let options = message.opts();
    let mask = match options.get(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => Some(u32::from(*mask)),
        _ => None,
    };
    let prefix = match mask {
        Some(mask) if mask.leading_ones() + mask.trailing_zeros() == 32 && mask != 0 => mask.leading_ones() as u8,
        Some(_) => return None,
        None => natural_prefix(address),
    };
    let seconds = |code| match options.get(code) {
        Some(DhcpOption::AddressLeaseTime(s) | DhcpOption::Renewal(s) | DhcpOption::Rebinding(s)) => Some(*s),
        _ => None,
    };
    let length = seconds(OptionCode::AddressLeaseTime).unwrap_or(LEASE_USUAL).max(LEASE_LEAST);
    let rebind = seconds(OptionCode::Rebinding).filter(|t| *t < length && *t > 0).unwrap_or(length / 8 * 7);
    let renew = seconds(OptionCode::Renewal).filter(|t| *t < rebind && *t > 0).unwrap_or(length / 2).min(rebind);
    let list = |code| match options.get(code) {
        Some(DhcpOption::Router(l) | DhcpOption::DomainNameServer(l) | DhcpOption::NtpServers(l)) => l.clone(),
        _ => vec![],
    };
    Some(Lease {
        address: Cidr { address, prefix },
        gateway: gateway(message).or_else(|| list(OptionCode::Router).first().copied()).and_then(usable),
        dns: list(OptionCode::DomainNameServer),
        ntp: list(OptionCode::NtpServers),
        server,
        renew: Duration::from_secs(renew.into()),
        rebind: Duration::from_secs(rebind.into()),
        length: Duration::from_secs(length.into()),
    })
}

/// The default route among classless static routes, which outrank the router option (RFC 3442).
fn gateway(message: &Message) -> Option<Ipv4Addr> {
    match message.opts().get(OptionCode::ClasslessStaticRoute)? {
        DhcpOption::ClasslessStaticRoute(routes) => routes.iter().find(|(net, _)| net.prefix_len() == 0).map(|r| r.1),
        _ => None,
    }
}

fn natural_prefix(address: Ipv4Addr) -> u8 {
    match address.octets()[0] {
        0..128 => 8,
        128..192 => 16,
        _ => 24,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 1, 2, 3];

    fn client() -> Client {
        Client { mac: MAC, name: "node1".into() }
    }

    fn answer(kind: MessageType, change: impl Fn(&mut Message)) -> Vec<u8> {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new_with_id(7, none, Ipv4Addr::new(10, 0, 0, 5), none, none, &MAC);
        message.set_opcode(Opcode::BootReply);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        message.opts_mut().insert(DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 0, 0, 1)));
        message.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        change(&mut message);
        message.to_vec().expect("encodes")
    }

    fn ack(change: impl Fn(&mut Message)) -> Option<Lease> {
        match client().read(7, &answer(MessageType::Ack, change))? {
            Event::Ack(lease) => Some(lease),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_option_of_any_length_panics() {
        for (code, len) in (0..=255_u8).flat_map(|code| (0..8_u8).map(move |len| (code, len))) {
            let mut packet = answer(MessageType::Ack, |_| {});
            packet.pop();
            packet.extend([code, len]);
            packet.extend((0..len).map(|_| 1));
            packet.push(END);
            let _judged = client().read(7, &packet);
        }
    }

    #[test]
    fn an_ack_becomes_a_lease() {
        let lease = ack(|m| {
            m.opts_mut().insert(DhcpOption::Router(vec![Ipv4Addr::new(10, 0, 0, 2)]));
            m.opts_mut().insert(DhcpOption::DomainNameServer(vec![Ipv4Addr::new(10, 0, 0, 3)]));
            m.opts_mut().insert(DhcpOption::AddressLeaseTime(800));
        })
        .expect("a lease");
        assert_eq!(lease.address.to_string(), "10.0.0.5/24");
        assert_eq!((lease.gateway, lease.dns), (Some(Ipv4Addr::new(10, 0, 0, 2)), vec![Ipv4Addr::new(10, 0, 0, 3)]));
        assert_eq!([lease.renew, lease.rebind, lease.length].map(|d| d.as_secs()), [400, 700, 800]);
    }

    #[test]
    fn times_that_make_no_sense_are_replaced() {
        let lease = ack(|m| {
            m.opts_mut().insert(DhcpOption::AddressLeaseTime(1));
            m.opts_mut().insert(DhcpOption::Renewal(u32::MAX));
            m.opts_mut().insert(DhcpOption::Rebinding(0));
        })
        .expect("a lease");
        assert_eq!([lease.renew, lease.rebind, lease.length].map(|d| d.as_secs()), [30, 49, 60]);
    }

    #[test]
    fn what_is_not_for_us_or_makes_no_sense_is_ignored() {
        assert_eq!(client().read(8, &answer(MessageType::Nak, |_| {})), None);
        assert_eq!(Client { mac: [0; 6], ..client() }.read(7, &answer(MessageType::Nak, |_| {})), None);
        assert_eq!(client().read(7, &answer(MessageType::Nak, |_| {})), Some(Event::Nak));
        assert_eq!(client().read(7, &client().discover(7)), None);
        assert_eq!(ack(|m| drop(m.opts_mut().insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 0, 255, 0))))), None);
        let nobody = ack(|m| {
            m.set_yiaddr(Ipv4Addr::BROADCAST);
        });
        assert_eq!(nobody, None);
    }

    proptest! {
        #[test]
        fn any_packet_is_an_event_or_nothing_and_leases_are_sane(
            mut packet in prop::collection::vec(any::<u8>(), 0..400),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        ) {
            let _whatever = client().read(7, &packet);
            packet = answer(MessageType::Ack, |_| {});
            for (at, byte) in damage {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            if let Some(Event::Ack(lease)) = client().read(7, &packet) {
                prop_assert!(lease.renew <= lease.rebind && lease.rebind <= lease.length, "{lease:?}");
                prop_assert!(lease.renew >= Duration::from_secs(1) && lease.address.prefix >= 1, "{lease:?}");
            }
        }
    }
}
