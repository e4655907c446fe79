//! The clock, before chrony takes over: never earlier than what is known to be past, then one step by
//! SNTP if a server answers within [`PATIENCE`]. Certificates cannot be judged with a clock at 1970.

use crate::report::chain;
use sntpc::{NtpContext, NtpUdpSocket, StdTimestampGen};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::UdpSocket, time::timeout};

/// What a boot waits for a time server at most.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// Now, Unix milliseconds.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// The date, UTC.
pub fn today() -> String {
    let now =
        jiff::Timestamp::from_millisecond(now_ms().try_into().unwrap_or(i64::MAX)).unwrap_or(jiff::Timestamp::MAX);
    now.strftime("%Y-%m-%d").to_string()
}

/// Modification time of this program: the image's build time, before which it cannot run.
pub fn built_ms() -> u64 {
    let time = std::fs::metadata("/proc/self/exe").and_then(|m| m.modified());
    time.ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_millis() as u64)
}

/// Sets the clock forward when it is before any of `known`. Backward, never.
pub fn at_least(known: &[u64]) {
    let (now, floor) = (now_ms(), known.iter().copied().max().unwrap_or(0));
    if now < floor {
        tracing::warn!(now_ms = now, floor_ms = floor, "The clock is behind what is known to be past; set forward");
        set(Duration::from_millis(floor));
    }
}

/// Steps the clock by the first server that answers in time.
pub async fn step_by(servers: &[SocketAddr]) {
    let Ok(Ok(offset)) = timeout(PATIENCE, first_offset(servers)).await else {
        if !servers.is_empty() {
            tracing::warn!("No time server answered in time; the clock stays as it is");
        }
        return;
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let magnitude = Duration::from_micros(offset.unsigned_abs());
    let right = if offset < 0 { now.saturating_sub(magnitude) } else { now + magnitude };
    tracing::info!(offset_us = offset, "Stepped the clock");
    set(right);
}

/// Offset in microseconds, of whichever server answers first.
async fn first_offset(servers: &[SocketAddr]) -> Result<i64, sntpc::Error> {
    let mut asked = tokio::task::JoinSet::new();
    servers.iter().for_each(|server| drop(asked.spawn(offset(*server))));
    let mut last = sntpc::Error::Network;
    while let Some(answer) = asked.join_next().await {
        match answer {
            Ok(Ok(offset)) => return Ok(offset),
            Ok(Err(e)) => last = e,
            Err(_) => {}
        }
    }
    Err(last)
}

async fn offset(server: SocketAddr) -> Result<i64, sntpc::Error> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.map_err(|_| sntpc::Error::Network)?;
    let context = NtpContext::new(StdTimestampGen::default());
    sntpc::get_time(server, &Udp(socket), context).await.map(|time| time.offset())
}

struct Udp(UdpSocket);

impl NtpUdpSocket for Udp {
    async fn send_to(&self, buf: &[u8], addr: SocketAddr) -> sntpc::Result<usize> {
        self.0.send_to(buf, addr).await.map_err(|_| sntpc::Error::Network)
    }
    async fn recv_from(&self, buf: &mut [u8]) -> sntpc::Result<(usize, SocketAddr)> {
        self.0.recv_from(buf).await.map_err(|_| sntpc::Error::Network)
    }
}

fn set(time: Duration) {
    let spec = nix::sys::time::TimeSpec::from_duration(time);
    if let Err(error) = nix::time::clock_settime(nix::time::ClockId::CLOCK_REALTIME, spec) {
        tracing::error!(error = %chain(&error), "Cannot set the clock");
    }
}

/// The addresses of time servers given as names or addresses; what cannot be resolved at once is left out.
pub async fn resolve(servers: &[String]) -> Vec<SocketAddr> {
    let mut found = vec![];
    for server in servers {
        let lookup = timeout(PATIENCE, tokio::net::lookup_host((server.as_str(), 123))).await;
        found.extend(lookup.into_iter().flatten().flatten().take(2));
    }
    found
}

/// Configuration of chronyd for these servers. No listening port, no command port.
pub fn chrony_conf(servers: &[String], state: &std::path::Path, run: &std::path::Path) -> String {
    let mut conf = String::from("# Written by noded.\n");
    for server in servers {
        conf += &format!("server {server} iburst\n");
    }
    let (state, run) = (state.display(), run.display());
    conf + &format!(
        "makestep 0.5 3\nrtcsync\nport 0\ncmdport 0\nbindcmdaddress /\ndriftfile {state}/chrony.drift\npidfile {run}/chronyd.pid\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time server of the simplest kind: a second ahead of us.
    async fn server() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        let address = socket.local_addr().expect("has an address");
        tokio::spawn(async move {
            let mut packet = [0; 48];
            while let Ok((48, peer)) = socket.recv_from(&mut packet).await {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
                let seconds = (now.as_secs() + 2_208_988_800 + 1) as u32;
                let fraction = ((u64::from(now.subsec_nanos()) << 32) / 1_000_000_000) as u32;
                let stamp = [seconds.to_be_bytes(), fraction.to_be_bytes()].concat();
                let asked: Vec<u8> = packet[40..48].to_vec();
                let mut answer = vec![0x24, 2, 6, 0xe9];
                answer.extend([0; 12]);
                answer.extend([&stamp[..], &asked, &stamp, &stamp].concat());
                socket.send_to(&answer, peer).await.expect("answers");
            }
        });
        address
    }

    #[tokio::test]
    async fn the_offset_is_that_of_a_server_that_answers() {
        let dead = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
        let servers = [dead.local_addr().expect("address"), server().await];
        let offset = first_offset(&servers).await.expect("answers");
        assert!((900_000..1_100_000).contains(&offset), "{offset} us");
    }

    #[test]
    fn the_build_time_lies_in_the_past() {
        assert!(built_ms() > 0 && built_ms() <= now_ms());
    }

    #[test]
    fn chrony_opens_no_port() {
        let conf = chrony_conf(&["192.0.2.1".into()], "/state".as_ref(), "/run/roost".as_ref());
        for line in ["server 192.0.2.1 iburst", "port 0", "cmdport 0", "driftfile /state/chrony.drift"] {
            assert!(conf.lines().any(|l| l == line), "{conf}");
        }
    }
}
