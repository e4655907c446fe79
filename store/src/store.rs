//! What all parts of a running store share.

use crate::{db::Db, hub::Hub, import::Imports, pki::Pki, repository::Repository, throttle::Throttle};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

/// A running store. Handlers and connections hold it by `Arc`.
pub struct Store {
    /// The cluster's model.
    pub db: Db,
    /// The cluster's keys.
    pub pki: Pki,
    /// The connected nodes.
    pub hub: Arc<Hub>,
    /// The image repository.
    pub images: Repository,
    /// Imports at work.
    pub imports: Imports,
    /// Held while a file and its row come or go together.
    pub publishing: tokio::sync::Mutex<()>,
    /// Uploads that a request is writing to.
    pub receiving: Mutex<HashSet<String>>,
    /// Failed logins of late.
    pub throttle: Mutex<Throttle>,
    /// When this process began to listen, Unix milliseconds.
    pub up_since_ms: u64,
    /// Port for nodes.
    pub node_port: u16,
}

impl Store {
    /// A store over an open database.
    pub fn new(db: Db, pki: Pki, images: Repository, node_port: u16) -> Arc<Self> {
        let up_since_ms = db.clock().now_ms();
        Arc::new(Self {
            db,
            pki,
            hub: Arc::default(),
            images,
            imports: Imports::default(),
            publishing: tokio::sync::Mutex::default(),
            receiving: Mutex::default(),
            throttle: Mutex::default(),
            up_since_ms,
            node_port,
        })
    }
}
