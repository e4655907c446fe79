//! A node without a certificate asks for one.

use super::{Wire, first_word, refuse, send};
use crate::{
    db::{JoinOutcome, Node},
    error::{Result, chain},
    pki,
    secret::token_sha256,
    store::Store,
};
use model::{
    seed::HostName,
    sync::{JoinRequest, Joined, PROTO, ToNode, ToStore},
};
use std::net::SocketAddr;
use tracing::{error, info};

pub(super) async fn serve(store: &Store, wire: &mut Wire, peer: SocketAddr) {
    let request = match first_word(wire, peer).await {
        Some(ToStore::Join(request)) => request,
        Some(_) => return refuse(wire, peer, "A node without a certificate may only join").await,
        None => return,
    };
    match decide(store, &request).await {
        Ok((JoinOutcome::Accepted(node), Some(joined))) => {
            info!(node = node.name, host = %node.id, %peer, "Node joined");
            send(wire, ToNode::Joined(joined)).await;
        }
        Ok((JoinOutcome::Pending(node), _)) => {
            info!(node = node.name, host = %node.id, %peer, "Node waits for 'qa host approve'");
            send(wire, ToNode::JoinPending).await;
        }
        Ok((JoinOutcome::Refused(reason), _)) => refuse(wire, peer, &reason).await,
        Ok((JoinOutcome::Accepted(_), None)) => unreachable!("an accepted node has its certificate"),
        Err(error) => {
            error!(%peer, error = %chain(&error), "Cannot decide about a node");
            refuse(wire, peer, "The store cannot decide now: see its log, and try again").await;
        }
    }
}

/// The request's public key is the node's identity; everything else it says is a wish.
async fn decide(store: &Store, request: &JoinRequest) -> Result<(JoinOutcome, Option<Joined>)> {
    let refused = |reason: String| Ok((JoinOutcome::Refused(reason), None));
    if request.proto != PROTO {
        return refused(format!(
            "The node speaks version {} of node sync, the store {PROTO}: update the older",
            request.proto
        ));
    }
    if let Err(reason) = request.name.parse::<HostName>() {
        return refused(reason);
    }
    let key = match pki::request_key_sha256(&request.csr) {
        Ok(key) => key.to_string(),
        Err(error) => return refused(error.to_string()),
    };
    let token = request.token.as_deref().map(token_sha256);
    let wish = request.clone();
    let outcome = store.db.write(move |tx| {
        let outcome = tx.join(token.as_deref(), &key, &wish)?;
        let (what, object) = match &outcome {
            JoinOutcome::Accepted(node) => ("host.joined", format!("host {}", node.id)),
            // It asks every few seconds; the listing shows it.
            JoinOutcome::Pending(_) => return Ok(outcome),
            JoinOutcome::Refused(_) => ("host.refused", wish.address.to_string()),
        };
        let detail = if let JoinOutcome::Refused(reason) = &outcome { reason } else { &wish.name };
        tx.event("store", what, &object, detail)?;
        Ok(outcome)
    });
    let outcome = outcome.await?;
    let joined = match &outcome {
        JoinOutcome::Accepted(node) => Some(certify(store, node, &request.csr)?),
        _ => None,
    };
    Ok((outcome, joined))
}

fn certify(store: &Store, node: &Node, csr: &[u8]) -> Result<Joined> {
    let issued = store.pki.node_certificate(node.id, &node.name, csr)?;
    Ok(Joined { host: node.id, name: node.name.clone(), certificate: issued.certificate, ca: store.pki.ca().to_vec() })
}
