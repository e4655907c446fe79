//! The clock's servers: one step at boot, then chrony, started again when the servers change.

use crate::{
    board::Board,
    clock, files,
    init::Init,
    network::{Network, Uplink},
    paths::Paths,
    report::chain,
};
use model::{
    init::Service,
    key::{Config, NTP_SERVERS},
    paths,
};
use std::sync::Arc;

/// Steps the clock once, then keeps chrony's configuration in a task of its own.
pub async fn start(board: &Arc<Board>, network: &Network, paths: &Paths, init: &Init) {
    let servers = servers(&board.config(), network.uplink().borrow().as_ref());
    init.phase("clock", async { clock::step_by(&clock::resolve(&servers).await).await }).await;
    tokio::spawn(keep(board.clone(), network.clone(), paths.clone(), init.clone()));
}

async fn keep(board: Arc<Board>, network: Network, paths: Paths, init: Init) {
    let (mut desired, mut uplink) = (board.desired.subscribe(), network.uplink());
    let mut written = vec![];
    loop {
        let config = desired.borrow_and_update().as_ref().map(|d| d.config.clone()).unwrap_or_default();
        let now = servers(&config, uplink.borrow_and_update().as_ref());
        // An uplink that is away for a moment takes no server away.
        if now != written && !now.is_empty() {
            let conf = clock::chrony_conf(&now, &paths.state, &paths.run);
            match files::replace(&paths.at(paths::CHRONY_CONF), conf.as_bytes(), 0o644) {
                Ok(()) => init.start_service(Service::Chrony),
                Err(error) => tracing::error!(error = %chain(&error), "Cannot write chrony's configuration"),
            }
            written = now;
        }
        // Cancel-safe: what changed is read again above.
        let alive = tokio::select! {
            r = desired.changed() => r.is_ok(),
            r = uplink.changed() => r.is_ok(),
        };
        if !alive {
            return;
        }
    }
}

/// The configured servers, else those that DHCP names. What could break a configuration file is left out.
fn servers(config: &Config, uplink: Option<&Uplink>) -> Vec<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':');
    let configured = config.get(&NTP_SERVERS);
    let named: Vec<String> = configured.split(',').map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect();
    if named.is_empty() {
        return uplink.map(|u| u.ntp.iter().map(ToString::to_string).collect()).unwrap_or_default();
    }
    named.into_iter().filter(|s| s.bytes().all(plain)).collect()
}
