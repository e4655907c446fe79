//! Guests for real: LXC, loop device, overlayfs, idmapped views and cgroups of this machine, in mount and
//! network namespaces of the test's own; the guest's init is `examples/guest_init.rs`.
//!
//! Without root or LXC nothing of this can run, and the test says so. Limits are tested on a node, since
//! a developer's machine may have no controllers in its cgroup 2 tree.

mod probe;

use super::*;
use crate::network::Uplink;
use image::{
    squashfs::{self, Options},
    tree::{Content, Entry, Tree},
};
use model::{DiId, Digest, HostId, UserId, key, local::SessionKind, state::Want, sync::GuestImage};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    net::Ipv4Addr,
    os::unix::net::UnixStream as StdStream,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};
use sys::mount::{MsFlags, make_private, mount};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    runtime::Runtime,
};

const INSIDE: &str = "ROOST_TEST_NAMESPACE";
/// Far from any real one: the cgroup tree is the machine's.
const VM: VmId = VmId(900_001);
const UID_BASE: u32 = 1_900_000_000;
const BRIDGE: &str = "roost-test";

#[test]
fn guests_live_stop_fail_and_outlive_the_daemon() {
    if !nix::unistd::getuid().is_root() || !Path::new(lxc::LXC_START).exists() {
        eprintln!("skipped: needs root and LXC");
        return;
    }
    let test = "guests::tests::inside_namespaces";
    #[expect(clippy::disallowed_methods, reason = "a test is no PID 1, and std waits for it")]
    let status = std::process::Command::new("unshare")
        .args(["--mount", "--net"])
        .arg(std::env::current_exe().expect("has a path"))
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "see above");
}

#[test]
#[ignore = "run by its neighbour, in namespaces of its own"]
fn inside_namespaces() {
    if std::env::var_os(INSIDE).is_none() {
        return;
    }
    let filter = tracing_subscriber::EnvFilter::new("info");
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().init();
    let machine = Machine::new();
    let runtime = machine.daemon();
    let (guests, mut session) = runtime.block_on(machine.a_guest_starts_and_takes_a_session());
    runtime.block_on(machine.its_files_are_where_they_should_be(&mut session));
    killed(runtime, guests);

    let runtime = machine.daemon();
    runtime.block_on(async {
        let guests = machine.it_is_found_again(&mut session).await;
        machine.it_stops_and_leaves_nothing(&guests).await;
        machine.its_home_stays_and_its_changes_go(&guests).await;
        machine.a_guest_that_dies_is_told_and_not_started_again(&guests).await;
        machine.an_image_without_init_fails_with_lxcs_words(&guests).await;
        machine.a_mute_agent_fails_the_start(&guests).await;
        machine.a_node_that_goes_down_stops_its_guests(&guests).await;
        drop(guests);
        machine.a_version_on_trial_says_why_no_guest_starts_and_is_proven_once_one_does().await;
        machine.a_desktop_starts_beside_the_probe_and_nobody_takes_that_for_a_vm().await;
    });
    killed(runtime, ());

    let runtime = machine.daemon();
    let guests = runtime.block_on(machine.a_probe_is_under_way());
    killed(runtime, guests);
    machine.daemon().block_on(machine.the_next_daemon_removes_what_was_left());
}

/// As by kill -9: nothing is given the chance to clean up, and nothing of it is left when this returns. What it had
/// locked is free then, as after the end of a process.
fn killed<T>(runtime: Runtime, held: T) {
    drop(held);
    runtime.shutdown_timeout(Duration::from_secs(60));
}

/// A machine of the test's own: directories, bridge, images.
struct Machine {
    dir: tempfile::TempDir,
    paths: Paths,
    good: GuestImage,
    empty: GuestImage,
    mute: GuestImage,
    program: PathBuf,
    generation: AtomicU64,
}

impl Machine {
    fn new() -> Self {
        namespaces();
        // Under /run: the temporary directory of the machine may be closed to others, and a guest's root
        // must be able to search the way to its views.
        mount("tmpfs", "/run", "tmpfs", MsFlags::empty(), "mode=755").expect("mounts");
        let dir = tempfile::Builder::new().permissions(permissions(0o755)).tempdir().expect("temp dir");
        let paths = Paths { state: dir.path().join("state"), run: "/run/roost".into() };
        let images = paths.at(model::paths::IMAGES);
        fs::create_dir_all(&images).expect("makes");
        let init = fs::read(example("guest_init")).expect("the example is built with the tests");
        let good = image(&images, 1, Some(&init), None);
        let mute = image(&images, 2, Some(&init), Some("etc/mute"));
        let empty = image(&images, 3, None, None);
        // Under /run as well, or the guest could not find its init.
        let program = PathBuf::from("/run/probe_init");
        fs::copy(example("probe_init"), &program).expect("the example is built with the tests");
        Self { dir, paths, good, empty, mute, program, generation: AtomicU64::new(0) }
    }

    fn daemon(&self) -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
    }

    fn start(&self) -> Guests {
        self.start_on(false)
    }

    fn start_on(&self, trial: bool) -> Guests {
        let address = "10.99.0.1/24".parse().expect("an address");
        let uplink = Uplink { link: "none".into(), mac: String::new(), address, dns: vec![], ntp: vec![] };
        Guests::start(Deps {
            paths: self.paths.clone(),
            network: Network::by_hand(uplink),
            store: "127.0.0.1:1".parse().expect("an address"),
            member: watch::channel(None).1,
            key: Arc::new(NodeKey::load_or_make(&self.paths).expect("a key")),
            trial: watch::channel(Some(trial)).1,
            program: self.program.clone(),
        })
    }

    /// This machine's configuration, with these keys set otherwise.
    fn config(&self, changed: &[(&str, &str)]) -> Config {
        let own = [(key::BRIDGE.name, BRIDGE), (key::GATEWAY.name, "10.99.0.1"), (key::AGENT_PING.name, "0.2")];
        let all = own.iter().chain(changed).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config(all.collect())
    }

    /// Wants the guest so, in a new generation.
    fn want(&self, guests: &Guests, want: Want, image: &GuestImage) -> u64 {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let spec = GuestSpec {
            vm: VM,
            name: "Test Desktop".into(),
            login: "alice".into(),
            want,
            generation,
            image: image.clone(),
            memory_mib: 128,
            mac: "54:52:00:63:00:0a".into(),
            ip: Ipv4Addr::new(10, 99, 0, 10),
            uid_base: UID_BASE,
            home_mib: Some(16),
            epoch: 5,
            properties: vec![],
        };
        let patience = if *image == self.mute { "1" } else { "60" };
        guests.want(vec![spec], self.config(&[(key::AGENT_START_TIMEOUT.name, patience)]));
        generation
    }

    async fn reaches(&self, guests: &Guests, generation: u64, state: VmState) -> GuestReport {
        let mut reports = guests.reports();
        let there = |reports: &Reports| {
            reports.get(&VM).is_some_and(|r| {
                r.generation == generation && (r.state == state || r.failed.is_some() && r.state == VmState::Stopped)
            })
        };
        let reports = timeout(Duration::from_secs(60), reports.wait_for(there)).await.expect("in time");
        let report = reports.expect("guests live")[&VM].clone();
        assert_eq!(report.state, state, "{report:?}");
        report
    }

    async fn session(&self, guests: &Guests) -> Talk {
        let grant =
            Grant { user: UserId(1), vm: VM, host: HostId(1), expires: 0, login: "alice".into(), params: vec![] };
        let signed = model::grant::SignedGrant { body: vec![], signature: vec![] };
        let open = Open { grant: signed, kind: SessionKind::Nx, params: vec![], session: 1 };
        let (fd, _) = guests.open(&grant, open).await.expect("opens");
        Talk(StdStream::from(fd))
    }

    async fn a_guest_starts_and_takes_a_session(&self) -> (Guests, Talk) {
        let guests = self.start();
        let generation = self.want(&guests, Want::Run, &self.good);
        let report = self.reaches(&guests, generation, VmState::Running).await;
        assert_eq!((report.epoch, report.di, report.failed), (5, Some(self.good.di), None));
        eprintln!("start to agent: {} ms", report.start_ms.expect("measured"));
        let mut session = self.session(&guests).await;
        assert_eq!(
            session.ask("read /proc/self/uid_map").await.split_whitespace().collect::<Vec<_>>(),
            ["0", "1900000000", "65536"]
        );
        (guests, session)
    }

    async fn its_files_are_where_they_should_be(&self, session: &mut Talk) {
        for command in ["write /etc/changed x", "replace /usr/share", "write /home/kept mine", "write /run/x y"] {
            assert_eq!(session.ask(command).await, "ok", "{command}");
        }
        let refused = session.ask("write /run/roost/planted x").await;
        assert!(refused.contains("Read-only"), "{refused}");
        assert_eq!(session.ask("read /etc/hostname-is-not-there").await, "No such file or directory (os error 2)");
        assert_eq!(session.ask("read /proc/sys/kernel/hostname").await, "test-desktop\n");
        assert_eq!(session.ask("read /etc/hostname").await, "test-desktop\n");
        assert_eq!(session.ask("read /etc/resolv.conf").await, "nameserver 10.99.0.1\n");
        // On disk all ids are the guest's own.
        let home = self.paths.at(model::paths::HOMES).join(VM.to_string()).join("kept");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(home).expect("is there")), 0);
    }

    async fn it_is_found_again(&self, session: &mut Talk) -> Guests {
        let guests = self.start();
        let report = self.reaches(&guests, 1, VmState::Running).await;
        assert_eq!(report.failed, None);
        assert_eq!(session.ask("read /home/kept").await, "mine", "the session has lived on");
        // The agent comes back by itself, and takes new sessions.
        let connected = async {
            loop {
                let agent = lock(&guests.agents).get(&VM).cloned();
                if let Some(agent) = agent {
                    return agent.seen().wait_for(|seen| seen.connected).await.map(drop);
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), connected).await.expect("in time").expect("lives");
        assert_eq!(self.session(&guests).await.ask("read /home/kept").await, "mine");
        guests
    }

    async fn it_stops_and_leaves_nothing(&self, guests: &Guests) {
        let generation = self.want(guests, Want::Stop, &self.good);
        let report = self.reaches(guests, generation, VmState::Stopped).await;
        assert_eq!(report.failed, None);
        self.leaves_nothing();
    }

    #[track_caller]
    fn leaves_nothing(&self) {
        let mounts = sys::mount::mounts().expect("reads");
        let left: Vec<_> = mounts.iter().filter(|m| m.target.starts_with("/run/roost")).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(!Path::new("/sys/fs/cgroup").join(lxc::Lxc::cgroup_name(VM)).exists());
        assert!(nix::net::if_::if_nametoindex(lxc::port(VM).as_str()).is_err());
    }

    async fn its_home_stays_and_its_changes_go(&self, guests: &Guests) {
        let generation = self.want(guests, Want::Run, &self.good);
        self.reaches(guests, generation, VmState::Running).await;
        let mut session = self.session(guests).await;
        assert_eq!(session.ask("read /home/kept").await, "mine");
        assert!(session.ask("read /etc/changed").await.contains("No such file"));
        assert_eq!(session.ask("read /usr/share/file").await, "of the image");
    }

    async fn a_guest_that_dies_is_told_and_not_started_again(&self, guests: &Guests) {
        let generation = guests.reports().borrow()[&VM].generation;
        let group = sys::cgroup::Cgroup::at(Path::new("/sys/fs/cgroup").join(lxc::Lxc::cgroup_name(VM)));
        group.kill().expect("kills");
        let report = self.reaches(guests, generation, VmState::Stopped).await;
        let failed = report.failed.expect("says why");
        assert!(failed.starts_with("The guest ended by itself"), "{failed}");
        self.leaves_nothing();
    }

    async fn an_image_without_init_fails_with_lxcs_words(&self, guests: &Guests) {
        let generation = self.want(guests, Want::Run, &self.empty);
        let report = self.reaches(guests, generation, VmState::Stopped).await;
        let failed = report.failed.expect("says why");
        eprintln!("an image without init: {failed}");
        assert!(failed.contains("/sbin/init"), "{failed}");
        self.leaves_nothing();
    }

    async fn a_mute_agent_fails_the_start(&self, guests: &Guests) {
        let generation = self.want(guests, Want::Run, &self.mute);
        let report = self.reaches(guests, generation, VmState::Stopped).await;
        let failed = report.failed.expect("says why");
        assert!(
            failed.contains("said nothing for 1 s") && failed.ends_with("(last on its console: and mute)"),
            "{failed}"
        );
        self.leaves_nothing();
    }

    async fn a_node_that_goes_down_stops_its_guests(&self, guests: &Guests) {
        let generation = self.want(guests, Want::Run, &self.good);
        self.reaches(guests, generation, VmState::Running).await;
        guests.shutdown(Duration::from_secs(30)).await;
        assert_eq!(guests.reports().borrow()[&VM].state, VmState::Stopped);
        self.leaves_nothing();
        assert!(self.dir.path().exists());
    }
}

/// A session with `guest_init`.
struct Talk(StdStream);

impl Talk {
    async fn ask(&mut self, line: &str) -> String {
        let mut stream = UnixStream::from_std(self.0.try_clone().expect("clones")).expect("is a socket");
        stream.write_all(format!("{line}\n").as_bytes()).await.expect("writes");
        let mut answer = Vec::new();
        loop {
            match stream.read_u8().await.expect("reads") {
                0 => return String::from_utf8(answer).expect("text"),
                byte => answer.push(byte),
            }
        }
    }
}

/// Mounts of this process alone: its network's /sys, and a cgroup tree as a node has it.
fn namespaces() {
    make_private("/").expect("own mounts");
    mount("sysfs", "/sys", "sysfs", MsFlags::empty(), "").expect("sysfs of this network namespace");
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MsFlags::empty(), "").expect("cgroup 2");
    for words in [
        &["link", "add", BRIDGE, "type", "bridge"][..],
        &["address", "add", "10.99.0.1/24", "dev", BRIDGE],
        &["link", "set", BRIDGE, "up"],
    ] {
        let mut command = sys::spawn::Command::new("/usr/sbin/ip");
        command.args(words.iter().copied());
        sys::spawn::run(&mut command, b"", Duration::from_secs(10)).and_then(|o| o.ok()).expect("a bridge");
    }
}

fn image(dir: &Path, di: u32, init: Option<&[u8]>, extra: Option<&str>) -> GuestImage {
    let mut tree = Tree::new();
    let mut add = |path: &str, entry| drop(tree.insert_with_parents(path, entry).expect("fits"));
    for path in ["dev", "proc", "sys", "run", "home", "etc", "sbin", "tmp", "usr/share"] {
        add(path, Entry::dir(0o755));
    }
    add("usr/share/file", Entry::file(0o644, content("of the image")));
    if let Some(init) = init {
        add("sbin/init", Entry::file(0o755, content(init)));
    }
    if let Some(path) = extra {
        add(path, Entry::file(0o644, content("x")));
    }
    let file = dir.join("new");
    squashfs::write_tree(fs::File::create(&file).expect("creates"), &tree, Options::default()).expect("writes");
    let bytes = fs::read(&file).expect("reads");
    let digest = Digest(Sha256::digest(&bytes).into());
    fs::rename(file, dir.join(format!("{digest}.squashfs"))).expect("renames");
    GuestImage { di: DiId(di), digest, bytes: bytes.len() as u64 }
}

fn content(bytes: impl AsRef<[u8]>) -> Content {
    Content::from(bytes.as_ref().to_vec())
}

fn permissions(mode: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// Examples lie beside the tests' directory.
fn example(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("has a path");
    exe.parent().and_then(Path::parent).expect("in target/deps").join("examples").join(name)
}
