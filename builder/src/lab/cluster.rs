//! A cluster of one node with one desktop: what the demo shows and most scenarios begin with.

use super::{Boot, Client, Firmware, Lab, LabError, Machine, Store, file};
use serde_json::Value;
use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

/// Login of the demo's user.
pub const USER: &str = "demo";
/// Name of the demo's desktop, OS flavour apart.
pub const VM: &str = "demo-desktop";
/// How long an emulated machine may take from power-on to Ready.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// How long an emulated desktop may take from start to the agent's first word.
pub const START_LIMIT: Duration = Duration::from_secs(120);

/// The images of a build.
#[derive(Clone, Debug)]
pub struct Images {
    /// Raw disk image of the node.
    pub node: PathBuf,
    /// Guest image.
    pub guest: PathBuf,
}

impl Images {
    /// Those that `roost build` wrote to `dir`.
    pub fn in_dir(dir: &Path) -> Self {
        Self { node: dir.join("node.raw"), guest: dir.join("demo-desktop.tar.zst") }
    }
}

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its scratch folder and programs.
    pub lab: Lab,
    /// Its store.
    pub store: Store,
    /// Its node.
    pub node: Machine,
    /// The demo user's password, made for this cluster.
    pub password: String,
    /// Id of the demo's VM.
    pub vm: u32,
    /// From power-on until the store saw the node running.
    pub power_on_to_ready: Duration,
    /// As what it boots, its seed apart.
    boot: Boot,
}

impl Cluster {
    /// Starts store and node, and adds OS flavour, image, user and VM while the node boots. `step` hears what is done.
    pub fn start(lab: Lab, images: &Images, firmware: Firmware, step: &mut dyn FnMut(&str)) -> Result<Self, LabError> {
        Self::start_on(lab, images, Boot::new(&images.node).firmware(firmware), step)
    }

    fn start_on(lab: Lab, images: &Images, boot: Boot, step: &mut dyn FnMut(&str)) -> Result<Self, LabError> {
        let store = lab.store()?;
        step("the store runs");
        let seed = store.seed("node1")?;
        let node = lab.boot(boot.clone().seed(seed))?;
        step("the node's power is on");
        let Desktop { vm, password } = Desktop::add(&store, images, step)?;
        let mut cluster = Self { lab, store, node, password, vm, power_on_to_ready: Duration::ZERO, boot };
        cluster.wait_ready()?;
        cluster.power_on_to_ready = cluster.node.started().elapsed();
        step("the node is Ready");
        Ok(cluster)
    }

    /// The same, with a lab of this name and nobody listening.
    pub fn quietly(name: &str, images: &Images) -> Result<Self, LabError> {
        Self::start(Lab::new(name)?, images, Firmware::Direct, &mut |_| {})
    }

    /// The same, with a node that takes faults: see [`Machine::chaos`].
    pub fn with_faults(name: &str, images: &Images) -> Result<Self, LabError> {
        let boot = Boot::new(&images.node).firmware(Firmware::Direct).chaos();
        Self::start_on(Lab::new(name)?, images, boot, &mut |_| {})
    }

    /// Waits until the store sees the node running; returns its row.
    pub fn wait_ready(&mut self) -> Result<Value, LabError> {
        self.store.wait_ready(&mut self.node)
    }

    /// Starts the VM and waits until it runs; returns its row.
    pub fn start_vm(&self) -> Result<Value, LabError> {
        self.store.qa(&["-q", "vm", "start", "-f", &format!("name={VM}")])?;
        self.store.wait_running(VM, START_LIMIT)
    }

    /// Stops the VM and waits until it has.
    pub fn stop_vm(&self) -> Result<Value, LabError> {
        let filter = format!("name={VM}");
        self.store.qa(&["-q", "vm", "stop", "-f", &filter])?;
        self.store.wait_for("VM stopped", "vm", &filter, START_LIMIT, |row| row["state"] == "stopped")
    }

    /// The demo's user at the node's router.
    pub fn client(&self) -> Result<Client, LabError> {
        Client::new(self.node.router_port(), USER, &self.password)
    }

    /// Address of the node's pages.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}/", self.node.router_port())
    }

    /// Boots the node again on its disk, after it went off.
    pub fn boot_again(&mut self) -> Result<(), LabError> {
        // It has an identity by now: a seed without token says where the store is.
        let seed = self.store.seed("node1")?;
        self.node = self.lab.boot(self.boot.clone().seed(seed))?;
        self.wait_ready().map(drop)
    }
}

/// The demo's desktop and its user.
#[derive(Clone, Debug)]
pub struct Desktop {
    /// Id of the VM, whose name is [`VM`].
    pub vm: u32,
    /// Password of [`USER`], made for this store.
    pub password: String,
}

impl Desktop {
    /// Adds what a desktop needs, as an administrator does: OS flavour, image, user and VM.
    pub fn add(store: &Store, images: &Images, step: &mut dyn FnMut(&str)) -> Result<Self, LabError> {
        let password = password()?;
        store.qa(&["osf", "add", "name=demo", "memory=768m", "user_storage_size=1g"])?;
        let path = format!("path={}", images.guest.display());
        let said = store.qa(&["di", "add", &path, "osf=demo"])?;
        step("the disk image is in the store");
        let di = last_number(&said)?;
        store.qa(&["di", "tag", &format!("di_id={di}"), "tag=default"])?;
        store.qa_with_input(&["user", "add", &format!("login={USER}")], &password)?;
        let said = store.qa(&["vm", "add", &format!("name={VM}"), &format!("user={USER}"), "osf=demo"])?;
        step("user and desktop are added");
        Ok(Self { vm: last_number(&said)?, password })
    }
}

/// The id in `... added with id N`.
fn last_number(said: &str) -> Result<u32, LabError> {
    said.split_whitespace().last().and_then(|n| n.parse().ok()).ok_or_else(|| LabError::Answer {
        peer: "qa".to_owned(),
        found: said.trim().to_owned(),
        expected: "an id".to_owned(),
    })
}

/// Ten letters and digits from the system's random source, none easily taken for another.
fn password() -> Result<String, LabError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 10];
    file("read", Path::new("/dev/urandom"), |p| std::fs::File::open(p)?.read_exact(&mut bytes))?;
    Ok(bytes.iter().map(|b| LETTERS[usize::from(b % 32)] as char).collect())
}
