//! What performs a guest's effects: storage, LXC, network, images. No decisions.

use super::{
    agent::{Agent, Manners},
    images::Images,
    lxc::{self, Limits, Lxc, LxcError, Monitor},
    lxc_config::{Container, OwnInit, host_name},
};
use crate::{
    files,
    network::{Network, NetworkError},
    paths::Paths,
    report::chain,
};
use model::{VmId, key, key::Config, paths, sync::GuestSpec};
use overlays::{Guest, Limit, Places, Storage, Views};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};
use sys::cgroup::Cgroup;

/// Why an effect failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Storage.
    #[error("Cannot prepare the guest's storage")]
    Storage(#[source] overlays::Error),
    /// Storage, at the end.
    #[error("Cannot release the guest's storage")]
    Release(#[source] overlays::Error),
    /// Network.
    #[error("Cannot admit the guest to the network")]
    Network(#[from] NetworkError),
    /// LXC and cgroups.
    #[error(transparent)]
    Lxc(#[from] LxcError),
    /// The agent's socket.
    #[error("Cannot listen for the guest's agent at {path}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A step was skipped or its thread died.
    #[error("The node daemon lost track of the guest's storage")]
    Lost,
}

/// The means of this node. One for all guests.
pub struct Engine {
    /// Where files are.
    pub paths: Paths,
    /// Ports.
    pub network: Network,
    /// Images.
    pub images: Images,
    storage: Arc<Storage>,
    lxc: Lxc,
}

impl Engine {
    /// Takes hold of the node's means; the error says in words what is missing.
    pub fn open(paths: &Paths, network: Network, images: impl FnOnce(PathBuf) -> Images) -> Result<Self, String> {
        missing()?;
        let places = Places {
            images: paths.at(paths::IMAGES),
            guests: paths.at(paths::GUESTS),
            homes: paths.at(paths::HOMES),
            mounted: paths.run.join("images"),
            views: paths.at(paths::RUN_VIEWS),
        };
        let storage = Storage::open(places).map_err(|e| chain(&e).to_string())?;
        let lxc = Lxc::open(paths, &Cgroup::root()).map_err(|e| chain(&e).to_string())?;
        let images = images(storage.places().images.clone());
        Ok(Self { paths: paths.clone(), network, images, storage: Arc::new(storage), lxc })
    }

    /// Cgroups and logs of guests.
    pub fn lxc(&self) -> &Lxc {
        &self.lxc
    }

    /// Mounts what the guest needs.
    pub async fn prepare(&self, spec: &GuestSpec, config: &Config, persistent: bool) -> Result<Views, EngineError> {
        let (storage, spec, shown) = (self.storage.clone(), spec.clone(), self.socket_dir(spec.vm));
        let files = identity_files(&spec, config);
        self.sweep();
        let views = blocking(move || {
            files::make_dir(&shown, 0o755).map_err(|source| EngineError::Socket { path: shown.clone(), source })?;
            let guest = Guest {
                vm: spec.vm,
                uid_base: spec.uid_base,
                image: spec.image.digest,
                persistent,
                home_mib: spec.home_mib,
                files: &files,
                shown: &shown,
            };
            storage.prepare(&guest).map_err(EngineError::Storage)
        });
        let views = views.await?;
        if matches!(views.home, Some((_, Limit::Unsupported))) {
            tracing::warn!("STATE has no project quotas: a home is not limited");
        }
        Ok(views)
    }

    /// Listens for the agent of a guest.
    pub fn listen(&self, spec: &GuestSpec, config: &Config) -> Result<Agent, EngineError> {
        let path = self.socket_dir(spec.vm).join(name_of(paths::GUEST_SOCKET));
        let manners = Manners { ping: config.get(&key::AGENT_PING), open: config.get(&key::X_START_TIMEOUT) };
        Agent::listen(&path, spec.uid_base, manners).map_err(|source| EngineError::Socket { path, source })
    }

    /// Starts LXC; with an init of the node's, if there is one.
    pub async fn launch(
        &self,
        spec: &GuestSpec,
        config: &Config,
        views: Views,
        init: Option<&OwnInit>,
    ) -> Result<Monitor, EngineError> {
        let (vm, port, name) = (spec.vm, lxc::port(spec.vm), host_name(&spec.name));
        let (mount_point, console_log) = (self.lxc.mount_point(), self.lxc.dir(vm).join("console.log"));
        let (cgroup, bridge) = (Lxc::cgroup_name(vm), config.get(&key::BRIDGE));
        let text = Container {
            host_name: &name,
            uid_base: spec.uid_base,
            base: &views.base,
            layer: &views.layer,
            home: views.home.as_ref().map(|(path, _)| path.as_path()),
            socket_dir: &views.shown,
            mount_point: &mount_point,
            console_log: &console_log,
            cgroup: &cgroup,
            port: &port,
            bridge: &bridge,
            mac: &spec.mac,
            ip: spec.ip,
            prefix: config.get(&key::NETMASK).0,
            gateway: config.get(&key::GATEWAY),
            init,
        }
        .render();
        let (lxc, limits) = (self.lxc.clone(), limits(spec, config));
        blocking(move || Ok(lxc.launch(vm, &text, limits)?)).await
    }

    /// Removes everything of a guest but its home, its kept layer and its record.
    pub async fn clean_up(&self, vm: VmId, keep_layer: bool) -> Result<(), EngineError> {
        let (lxc, storage, dir) = (self.lxc.clone(), self.storage.clone(), self.socket_dir(vm));
        blocking(move || {
            lxc.clean(vm)?;
            storage.release(vm, keep_layer).map_err(EngineError::Release)?;
            // It may never have been made.
            fs::remove_dir_all(&dir).ok();
            Ok(())
        })
        .await?;
        self.network.expel(vm).await?;
        self.sweep();
        Ok(())
    }

    /// Holds what a guest found running uses.
    pub fn adopt(&self, spec: &GuestSpec) -> Result<(), EngineError> {
        self.storage.adopt(spec.vm, spec.image.digest).map_err(EngineError::Storage)
    }

    fn socket_dir(&self, vm: VmId) -> PathBuf {
        self.lxc.dir(vm).join("sock")
    }

    /// Removes layers thrown away, in a thread with time.
    fn sweep(&self) {
        let storage = self.storage.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = storage.sweep() {
                tracing::warn!(error = %chain(&error), "Cannot remove writable layers that were thrown away");
            }
        });
    }
}

/// What tells a guest who and where it is, whatever its image says. Guests have fixed addresses, so no
/// DHCP client in them would write the resolver's.
fn identity_files(spec: &GuestSpec, config: &Config) -> [(&'static str, String); 3] {
    let name = host_name(&spec.name);
    let own = config.get(&key::DNS_SERVER);
    let resolver = if own.is_empty() { config.get(&key::GATEWAY).to_string() } else { own };
    let domain = Some(config.get(&key::DOMAIN)).filter(|d| !d.is_empty()).map(|d| format!("search {d}\n"));
    [
        ("etc/hostname", format!("{name}\n")),
        ("etc/hosts", format!("127.0.0.1 localhost\n127.0.1.1 {name}\n::1 localhost ip6-localhost ip6-loopback\n")),
        ("etc/resolv.conf", format!("{}nameserver {resolver}\n", domain.unwrap_or_default())),
    ]
}

/// What a guest may use, by its specification and the cluster's configuration.
pub fn limits(spec: &GuestSpec, config: &Config) -> Limits {
    Limits { memory_mib: spec.memory_mib, cpus: config.get(&key::VM_CPUS), pids: config.get(&key::VM_PIDS) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(EngineError::Lost))
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What guests need of the node's root and kernel.
fn missing() -> Result<(), String> {
    for file in [lxc::LXC_START, super::lxc_config::SECCOMP, "/dev/loop-control"] {
        if !Path::new(file).exists() {
            return Err(format!("{file} is missing"));
        }
    }
    for kind in ["overlay", "squashfs"] {
        sys::mount::know(kind).map_err(|e| format!("The kernel has no file system {kind}: {e}"))?;
    }
    Ok(())
}
