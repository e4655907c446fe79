//! Hands what the store wants to those who do it.

use crate::{board::Board, guests::Guests, network::Network};
use std::sync::Arc;

/// Runs for ever: each change of the desired state, the ledger's first.
pub async fn run(board: Arc<Board>, guests: Guests, network: Network) {
    let mut desired = board.desired.subscribe();
    loop {
        let now = desired.borrow_and_update().clone();
        if let Some(now) = now {
            network.configure(now.config.clone()).await;
            guests.want(now.guests.clone(), now.config.clone());
        }
        if desired.changed().await.is_err() {
            return;
        }
    }
}
