//! The whole store on loopback: real sockets, real TLS, a real database in a scratch folder.

mod http;
mod imports;
mod node;
mod rest;
mod sync;
mod updates;

use crate::{
    db::Clock,
    pki::Names,
    serve::{self, Options, Serving},
    site::Site,
};
use model::api::QaConfig;
use std::net::SocketAddr;

/// A store that serves, and its administrator.
struct World {
    serving: Option<Serving>,
    dir: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        Self { serving: Some(serve(&dir).await), dir }
    }

    fn serving(&self) -> &Serving {
        self.serving.as_ref().expect("it serves")
    }

    fn store(&self) -> &crate::store::Store {
        &self.serving().store
    }

    /// Stops the store and starts it again on the same files.
    async fn restart(&mut self) {
        self.serving.take().expect("it serves").stop().await;
        self.serving = Some(serve(&self.dir).await);
    }

    fn qa(&self) -> QaConfig {
        let text = std::fs::read_to_string(self.dir.path().join("qa.toml")).expect("there");
        toml::from_str(&text).expect("parses")
    }

    fn join_token(&self) -> String {
        self.serving().first.as_ref().expect("a first start").join.0.clone()
    }
}

async fn serve(dir: &tempfile::TempDir) -> Serving {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let site = Site::of(&format!("sqlite:{}", dir.path().join("store.db").display()), None).expect("a site");
    let options = Options { site, listen: any, node_listen: any, names: Names::default() };
    serve::start(options, Clock::System).await.expect("serves")
}

#[tokio::test]
async fn a_taken_port_leaves_nothing_behind() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = taken.local_addr().expect("an address");
    let dir = tempfile::tempdir().expect("a folder");
    let site = Site::of(&format!("sqlite:{}", dir.path().join("deep/store.db").display()), None).expect("a site");
    let options = Options { site, listen: address, node_listen: address, names: Names::default() };
    let error = serve::start(options, Clock::System).await.err().expect("refused");
    assert_eq!(error.to_string(), format!("Cannot listen on {address}"));
    assert!(!dir.path().join("deep").exists());
}
