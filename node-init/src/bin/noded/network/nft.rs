//! The packet filter: one text for all of it, loaded in one transaction at each change.
//!
//! - A guest's port sends from the MAC and IP it was admitted with, and nothing but IPv4 and ARP.
//! - Guests reach neither each other nor the node, but for DHCP, DNS and ping.
//! - Guests reach the world through the node's address, but not the cluster's own ports nearby, nor link-local
//!   addresses (where clouds keep secrets). Nothing from outside reaches a guest.
//!
//! The bridge tables hold for every bridge: a node has one. Naming it (`meta ibrname`) would need one more kernel module.

use super::{
    mac_text,
    services::{GuestNet, Port},
};
use model::seed::Cidr;
use std::time::Duration;
use sys::spawn::{Command, run};

const NFT: &str = "/usr/sbin/nft";
const LIMIT: Duration = Duration::from_secs(20);

/// The rules for this network, these ports and this uplink.
pub fn ruleset<'a>(net: &GuestNet, uplink: Option<Cidr>, ports: impl Iterator<Item = &'a Port> + Clone) -> String {
    let bridge = &net.bridge;
    let macs = elements(ports.clone().map(|p| format!("\"{}\" . {}", p.link, mac_text(p.mac))));
    let addresses = elements(ports.map(|p| format!("\"{}\" . {} . {}", p.link, mac_text(p.mac), p.ip)));
    let gateway = net.gateway.address;
    let network = Cidr { address: (u32::from(gateway) & net.gateway.mask()).into(), prefix: net.gateway.prefix };
    let cluster = uplink.map_or_else(String::new, |u| {
        let near = Cidr { address: (u32::from(u.address) & u.mask()).into(), prefix: u.prefix };
        let ports = format!("3000, 3001, 8444, {}", net.router_port);
        format!("        iifname \"{bridge}\" ip daddr {near} tcp dport {{ {ports} }} reject with tcp reset\n")
    });
    // Adding an empty table first makes deleting it legal whether it was there or not.
    format!(
        r#"table bridge roost {{}}
delete table bridge roost
table inet roost {{}}
delete table inet roost
table bridge roost {{
    set macs {{
        type ifname . ether_addr
{macs}    }}
    set addresses {{
        type ifname . ether_addr . ipv4_addr
{addresses}    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname . ether saddr != @macs counter drop
        ether type arp iifname . arp saddr ether . arp saddr ip @addresses accept
        ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        udp sport 67 counter drop
        ether type ip iifname . ether saddr . ip saddr @addresses accept
        counter drop
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        counter drop
    }}
}}
table inet roost {{
    chain input {{
        type filter hook input priority 0; policy accept;
        iifname != "{bridge}" accept
        ct state established,related accept
        udp dport 67 accept
        ip daddr {gateway} udp dport 53 accept
        ip daddr {gateway} tcp dport 53 accept
        icmp type echo-request limit rate 50/second accept
        meta l4proto tcp reject with tcp reset
        counter drop
    }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname "{bridge}" oifname "{bridge}" counter drop
        iifname "{bridge}" ip daddr 169.254.0.0/16 counter drop
{cluster}        iifname "{bridge}" accept
        oifname "{bridge}" ct state established,related accept
        oifname "{bridge}" counter drop
    }}
    chain postrouting {{
        type nat hook postrouting priority 100; policy accept;
        oifname != "{bridge}" ip saddr {network} masquerade
    }}
}}
"#
    )
}

fn elements(of: impl Iterator<Item = String>) -> String {
    let list: Vec<String> = of.collect();
    if list.is_empty() { String::new() } else { format!("        elements = {{ {} }}\n", list.join(",\n            ")) }
}

/// Loads rules in one transaction: all of them, or an error and the old ones.
pub async fn load(rules: String) -> sys::Result<()> {
    let work = move || run(Command::new(NFT).args(["-f", "-"]), rules.as_bytes(), LIMIT)?.ok().map(drop);
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
