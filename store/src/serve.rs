//! A store at work: both listeners and the housekeeper, from binding to drain.
//!
//! Tasks: `api` (administrators), `sync` (nodes), `housekeeper` (marks nodes lost, drops old uploads).
//! They end when told to stop; connections get a moment to finish.

use crate::{
    api,
    db::Clock,
    error::{Error, Result, chain},
    pki::Names,
    site::{FirstStart, Site},
    store::Store,
    sync,
};
use model::Digest;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, interval_at},
};
use tracing::{error, info, warn};

/// How often lost nodes are looked for, and nodes that may be updated now.
const LOST_EVERY: Duration = Duration::from_secs(5);
/// How often old uploads are looked for, and how old they get.
const UPLOADS_EVERY: Duration = Duration::from_secs(600);
const UPLOAD_AGE_MS: u64 = 24 * 3600 * 1000;

/// How a store is to be served.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its things are.
    pub site: Site,
    /// Address for administrators.
    pub listen: SocketAddr,
    /// Address for nodes.
    pub node_listen: SocketAddr,
    /// Further names in its certificate.
    pub names: Names,
}

/// A store that serves.
pub struct Serving {
    /// What it shares.
    pub store: Arc<Store>,
    /// What a first start made.
    pub first: Option<FirstStart>,
    /// Where administrators reach it.
    pub url: String,
    /// Where it listens for administrators.
    pub listen: SocketAddr,
    /// Where it listens for nodes.
    pub node_listen: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    _lock: std::fs::File,
}

/// Binds both ports before anything is made, so that a taken port leaves nothing behind; then opens the
/// site and serves.
pub async fn start(options: Options, clock: Clock) -> Result<Serving> {
    let (admins, nodes) = (bind(options.listen).await?, bind(options.node_listen).await?);
    let local = |listener: &TcpListener| {
        listener.local_addr().map_err(|source| Error::Io {
            action: "look at the address of",
            path: "a listener".into(),
            source,
        })
    };
    let (listen, node_listen) = (local(&admins)?, local(&nodes)?);
    let url = url(listen);
    let mut names = options.names;
    names.ips.extend([listen.ip(), node_listen.ip()].into_iter().filter(|ip| !ip.is_unspecified()));
    let opened = options.site.open(&url, &names, clock)?;
    let store = Store::new(opened.db, opened.pki, opened.images, node_listen.port());
    let (admin_tls, node_tls) = (api::tls(&store)?, sync::tls(&store)?);
    let (stop, stopping) = watch::channel(false);
    let tasks = vec![
        tokio::spawn(api::serve(store.clone(), admins, admin_tls, stopping.clone())),
        tokio::spawn(sync::serve(store.clone(), nodes, node_tls, stopping.clone())),
        tokio::spawn(keep_house(store.clone(), stopping)),
    ];
    info!(%listen, %node_listen, ca = %store.pki.ca_sha256(), "Store serves");
    Ok(Serving { store, first: opened.first, url, listen, node_listen, stop, tasks, _lock: opened.lock })
}

impl Serving {
    /// SHA-256 of the cluster CA's certificate.
    pub fn ca_sha256(&self) -> Digest {
        self.store.pki.ca_sha256()
    }

    /// Stops listening, lets requests finish, ends the rest.
    pub async fn stop(self) {
        self.store.imports.stop();
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                error!(%error, "A part of the store ended badly");
            }
        }
        info!("Store stopped");
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| Error::Io {
        action: "listen on",
        path: address.to_string().into(),
        source,
    })
}

/// Where `qa` on this machine reaches the store.
fn url(listen: SocketAddr) -> String {
    let ip = if listen.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { listen.ip() };
    format!("https://{}", SocketAddr::new(ip, listen.port()))
}

async fn keep_house(store: Arc<Store>, mut stop: watch::Receiver<bool>) {
    let mut lost = interval(LOST_EVERY);
    let mut uploads = interval_at(Instant::now() + LOST_EVERY, UPLOADS_EVERY);
    lost.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: ticks and the stop only wait.
        let done = tokio::select! {
            _ = lost.tick() => match mark_lost(&store).await {
                Ok(()) => step_rollouts(&store).await,
                failed => failed,
            },
            _ = uploads.tick() => drop_uploads(&store).await,
            () = crate::listen::stopped(&mut stop) => return,
        };
        if let Err(error) = done {
            error!(error = %chain(&error), "Housekeeping failed");
        }
    }
}

async fn mark_lost(store: &Store) -> Result<()> {
    let since = store.up_since_ms;
    let lost = store.db.write_quietly(move |tx| tx.mark_lost(since)).await?;
    for node in &lost {
        warn!(node = node.name, host = %node.id, "Node lost: its desktops are unavailable until it is back");
    }
    if !lost.is_empty() {
        store.db.wake();
    }
    Ok(())
}

async fn step_rollouts(store: &Store) -> Result<()> {
    if store.db.write_quietly(|tx| tx.rollouts_step()).await? {
        store.db.wake();
    }
    Ok(())
}

/// Uploads that nobody went on with for a day, and files that belong to none.
async fn drop_uploads(store: &Store) -> Result<()> {
    let known = store.db.read(|tx| tx.uploads(UPLOAD_AGE_MS)).await?;
    let old = known.iter().filter(|(id, old)| *old && !store.imports.at_work(id)).map(|(id, _)| id.clone());
    for id in old.collect::<Vec<_>>() {
        info!(upload = id, "Upload dropped: a day without a byte");
        store.images.remove_upload(&id)?;
        store.db.write_quietly(move |tx| tx.upload_del(&id)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_listens_everywhere_is_reached_by_loopback() {
        assert_eq!(url("0.0.0.0:3000".parse().expect("an address")), "https://127.0.0.1:3000");
        assert_eq!(url("192.0.2.1:3000".parse().expect("an address")), "https://192.0.2.1:3000");
        assert_eq!(url("[2001:db8::1]:3000".parse().expect("an address")), "https://[2001:db8::1]:3000");
    }
}
