//! The network in namespaces of its own: a world with a DHCP server, a node, and guests on its bridge.
//!
//! Needs root. The test runs its own program again inside `unshare --net --mount`, so the host's network is not touched.

use super::{Network, Uplink, Wanted, dhcp, link::Links};
use crate::{init::Init, paths::Paths};
use model::{VmId, init::ToInit, key::Config, paths};
use std::{net::Ipv4Addr, path::Path, time::Duration};
use sys::spawn::{Command, Stdio, run};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

const LIMIT: Duration = Duration::from_secs(20);
const INSIDE: &str = "ROOST_TEST_NAMESPACE";

/// Runs a command line; whether it succeeded, and what it said.
fn sh(line: &str) -> (bool, String) {
    let mut words = line.split_whitespace();
    let program = words.next().expect("a program");
    let program = ["/usr/sbin", "/usr/bin"].map(|dir| Path::new(dir).join(program)).into_iter().find(|p| p.exists());
    let mut command = Command::new(program.unwrap_or_else(|| panic!("not installed: {line}")));
    command.args(words).stdout(Stdio::Pipe).stderr(Stdio::Pipe);
    let output = run(&mut command, b"", LIMIT).expect("runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.exit.success(), text)
}

#[track_caller]
fn ok(line: &str) -> String {
    let (good, said) = sh(line);
    assert!(good, "{line}: {said}");
    said
}

/// Runs one ignored test of this program, by its name, behind these words.
fn again(prefix: &str, test: &str) -> (bool, String) {
    let exe = std::env::current_exe().expect("has a path");
    sh(&format!(
        "{prefix} env {INSIDE}=1 {} --exact network::tests::{test} --ignored --nocapture --test-threads=1",
        exe.display()
    ))
}

#[test]
fn a_node_gets_its_network_and_guests_get_theirs() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("needs root to make namespaces: skipped");
        return;
    }
    let (good, said) = again("unshare --net --mount", "inside_a_namespace");
    assert!(good && said.contains("1 passed"), "{said}");
}

/// Ends a daemon with the test. A parent-death signal would not: dnsmasq changes its credentials, which clears it.
struct Ended(sys::spawn::Child);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.kill().expect("is killed");
        self.0.wait().expect("ends");
    }
}

/// The world: `srv` with a DHCP server; guests `g1` and `g2`.
fn world(dir: &Path) -> Ended {
    ok("mount --make-rprivate /");
    ok("mount -t tmpfs none /run");
    ok("ip link set lo up");
    for ns in ["srv", "g1", "g2"] {
        ok(&format!("ip netns add {ns}"));
    }
    ok("ip link add up0 type veth peer name up1 netns srv");
    ok("ip -n srv address add 10.99.0.1/24 dev up1");
    ok("ip -n srv link set up1 up");
    let lease = dir.join("leases");
    let mut server = Command::new("/usr/sbin/ip");
    server.args(
        format!(
            "netns exec srv dnsmasq -k -C /dev/null --user=root -x {0}.pid -l {0} -p 0 -i up1 -z --no-ping \
             --dhcp-range=10.99.0.50,10.99.0.99,255.255.255.0,120 --dhcp-option=option:router,10.99.0.1 \
             --dhcp-option=option:dns-server,10.99.0.1 --dhcp-option=option:ntp-server,10.99.0.2",
            lease.display()
        )
        .split_whitespace()
        .map(str::to_owned),
    );
    Ended(server.spawn().expect("dnsmasq starts"))
}

/// Plugs a guest into the bridge.
fn plug(ns: &str, port: &str, mac: &str) {
    ok(&format!("ip link add {port} type veth peer name eth0 netns {ns}"));
    ok(&format!("ip -n {ns} link set eth0 address {mac} up"));
    ok(&format!("ip link set {port} master qvdnet up"));
}

/// Whether a TCP connection from a namespace gets through, is refused at once, or is swallowed.
fn connect(ns: &str, to: &str, port: u16) -> &'static str {
    let (good, said) = sh(&format!("ip netns exec {ns} timeout 2 bash -c true<>/dev/tcp/{to}/{port}"));
    match good {
        true => "open",
        false if said.contains("refused") => "refused",
        false => "swallowed",
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let wait = async {
        while !done() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("not within {LIMIT:?}: {what}"));
}

async fn up(mut uplink: watch::Receiver<Option<Uplink>>) -> Uplink {
    let found = timeout(LIMIT, uplink.wait_for(Option::is_some)).await.expect("in time").expect("lives");
    found.clone().expect("is some")
}

#[tokio::test]
#[ignore = "run by a_node_gets_its_network_and_guests_get_theirs"]
async fn inside_a_namespace() {
    assert!(std::env::var_os(INSIDE).is_some(), "would change this machine's network");
    crate::log_to_stderr();
    let dir = tempfile::tempdir().expect("temp dir");
    let _server = world(dir.path());
    let paths = Paths { state: dir.path().join("state"), run: dir.path().join("run") };
    crate::files::make_dir(&paths.run, 0o755).expect("run");
    let (init, _heard) = Init::start(None).expect("init");
    init.say(ToInit::Alive);
    let wanted = Wanted { fixed: None, link: Some("up0".into()), name: "node1".into() };
    let network = Network::start(&paths, wanted, &Config::default(), init.clone()).expect("starts");

    let uplink = up(network.uplink()).await;
    assert!(uplink.address.to_string().starts_with("10.99.0.") && uplink.address.prefix == 24, "{uplink:?}");
    assert_eq!(uplink.ntp, [Ipv4Addr::new(10, 99, 0, 2)]);
    assert!(ok("ip route").contains("default via 10.99.0.1 dev up0"));
    let resolv = std::fs::read_to_string(paths.run.join("resolv.conf")).expect("is written");
    assert_eq!(resolv, "nameserver 10.99.0.1\n");
    timeout(LIMIT, network.bridge().wait_for(Result::is_ok)).await.expect("in time").expect("lives");
    assert!(ok("ip -4 address show qvdnet").contains("10.3.15.1/24"));

    guests(&network).await;
    leases(&paths).await;
    restart(&paths, network, init).await;
}

const MACS: [&str; 2] = ["54:52:00:03:0f:32", "54:52:00:03:0f:33"];

/// Two guests: who reaches whom.
async fn guests(network: &Network) {
    let ips = [Ipv4Addr::new(10, 3, 15, 50), Ipv4Addr::new(10, 3, 15, 51)];
    for (n, (mac, ip)) in MACS.iter().zip(ips).enumerate() {
        let (ns, port) = (format!("g{}", n + 1), format!("vm{}", n + 1));
        network.admit(VmId(n as u32 + 1), &port, mac, ip).await.expect("admits");
        plug(&ns, &port, mac);
        ok(&format!("ip -n {ns} address add {ip}/24 dev eth0"));
        ok(&format!("ip -n {ns} route add default via 10.3.15.1"));
    }
    until("ports are isolated", || ok("bridge -d link show dev vm1").contains("isolated on")).await;
    // With no listener anywhere, "refused" by the far side is a connection that got through.
    assert_eq!(connect("g1", "10.99.0.1", 80), "refused", "the world, by NAT");
    assert_eq!(connect("g1", "10.3.15.1", 53), "refused", "the node's resolver");
    let _listener = std::net::TcpListener::bind("0.0.0.0:8443").expect("binds");
    assert_eq!(connect("g1", "10.3.15.1", 8443), "refused", "the node's router");
    assert_eq!(connect("g1", "10.3.15.51", 80), "swallowed", "another guest");
    ok("ip -n srv route add 10.3.15.0/24 dev up1");
    assert_eq!(connect("srv", "10.3.15.50", 80), "swallowed", "a guest, from outside");

    ok("ip -n g1 address flush dev eth0");
    ok("ip -n g1 address add 10.3.15.60/24 dev eth0");
    ok("ip -n g1 route replace default via 10.3.15.1");
    assert_eq!(connect("g1", "10.3.15.1", 53), "swallowed", "with an address of its own choice");
    ok("ip -n g1 address flush dev eth0");
}

/// A guest by DHCP, under the packet filter, from dnsmasq with our configuration.
async fn leases(paths: &Paths) {
    let conf = paths.at(paths::DNSMASQ_CONF);
    // The test's machine may lack the image's user.
    let own = std::fs::read_to_string(&conf).expect("is written").replace("=dnsmasq\n", "=root\n");
    let test_conf = paths.run.join("test.conf");
    std::fs::write(&test_conf, own).expect("writes");
    let mut dnsmasq = Command::new("/usr/sbin/dnsmasq");
    dnsmasq.args(["-C".into(), test_conf.into_os_string()]);
    let dnsmasq = Ended(dnsmasq.stderr(Stdio::Inherit).spawn().expect("starts"));
    let (good, said) = again("ip netns exec g1", "a_guest_asks_for_a_lease");
    assert!(good && said.contains("lease 10.3.15.50/24 router Some(10.3.15.1) dns [10.3.15.1]"), "{said}");
    drop(dnsmasq);
}

#[tokio::test]
#[ignore = "run by a_node_gets_its_network_and_guests_get_theirs"]
async fn a_guest_asks_for_a_lease() {
    assert!(std::env::var_os(INSIDE).is_some(), "would ask on this machine's network");
    let link = Links::open().expect("netlink").named("eth0").await.expect("is there");
    let client = dhcp::Client { mac: link.mac, name: "guest".into() };
    let mut dhcp = dhcp::Dhcp::begin("eth0", client).await.expect("begins");
    match timeout(LIMIT, dhcp.next()).await.expect("in time") {
        dhcp::News::Lease(l) => println!("lease {} router {:?} dns {:?}", l.address, l.gateway, l.dns),
        dhcp::News::Lost => panic!("nothing to lose"),
    }
}

/// A daemon killed and started again: ports stay admitted without anybody asking.
async fn restart(paths: &Paths, network: Network, init: Init) {
    drop(network);
    ok("ip -n g2 address replace 10.3.15.51/24 dev eth0");
    assert_eq!(connect("g2", "10.99.0.1", 80), "refused", "before");
    ok("nft flush ruleset");
    let wanted = Wanted { fixed: None, link: Some("up0".into()), name: "node1".into() };
    let again = Network::start(paths, wanted, &Config::default(), init).expect("starts again");
    timeout(LIMIT, again.bridge().wait_for(Result::is_ok)).await.expect("in time").expect("lives");
    up(again.uplink()).await;
    until("the filter is back", || ok("nft list ruleset").contains("54:52:00:03:0f:33")).await;
    assert_eq!(connect("g2", "10.99.0.1", 80), "refused", "after");
    again.expel(VmId(2)).await.expect("expels");
    assert_eq!(connect("g2", "10.99.0.1", 80), "swallowed", "expelled");
    assert!(!paths.at(paths::DHCP_HOSTS).join("2").exists());
}
