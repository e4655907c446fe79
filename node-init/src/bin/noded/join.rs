//! Joining: the node shows its request and the seed's token to the store that the seed pins, and gets
//! its certificate, or waits for an administrator's `qa host approve`.
//!
//! ```text
//! no membership --Join--> Joined        kept on STATE, never asked again
//!                  |----> JoinPending   key fingerprint on the console; asked again with growing waits
//!                  `----> Refused       reason on the console; asked again, slowly
//! ```

use crate::{
    backoff::Backoff,
    dial::{self, DialError},
    identity::{IdentityError, Member, NodeKey},
    init::Init,
    paths::Paths,
    report::chain,
    tls::{self, WrongCa},
    wire::WireError,
};
use model::{
    Digest,
    seed::StoreSeed,
    sync::{ALPN, JoinRequest, Joined, ToNode, ToStore},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// How long the store may take to answer; a transaction of its database is in it.
const ANSWER: Duration = Duration::from_secs(20);

/// Why a join did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server belongs to another cluster, or the seed is wrong.
    #[error("The server at the store's address is not of this cluster")]
    WrongCa(#[from] WrongCa),
    /// TLS cannot be set up.
    #[error("Cannot prepare TLS")]
    Tls(#[from] rustls::Error),
    /// The connection broke.
    #[error("Cannot ask the store to join")]
    Wire(#[from] WireError),
    /// The store did not answer.
    #[error("The store did not answer within {} s", ANSWER.as_secs())]
    Silent,
    /// The store says no.
    #[error("The store refuses this node: {0}")]
    Refused(String),
    /// The store answered with the certificate of another CA than the node's, or for another key.
    #[error("The store's answer does not fit: {0}")]
    Misfit(&'static str),
    /// The store answered something else.
    #[error("The store answered out of turn")]
    OutOfTurn,
    /// The membership cannot be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// The store's answer that is no refusal.
pub enum Answer {
    /// The node is in.
    Joined(Joined),
    /// An administrator must approve it.
    Pending,
}

/// Asks once.
pub async fn ask(seed: &StoreSeed, ca: Digest, key: &NodeKey, request: JoinRequest) -> Result<Answer, JoinError> {
    let (config, pin) = tls::pinned(ca, ALPN)?;
    let mut wire = match dial::dial(&seed.address, config).await {
        Ok(wire) => wire,
        Err(e) => return Err(pin.mismatch().map_or(JoinError::Dial(e), JoinError::WrongCa)),
    };
    wire.send(&ToStore::Join(request)).await?;
    match timeout(ANSWER, wire.recv()).await.map_err(|_| JoinError::Silent)?? {
        ToNode::Joined(joined) => fitting(joined, ca, key).map(Answer::Joined),
        ToNode::JoinPending => Ok(Answer::Pending),
        ToNode::Refused(reason) => Err(JoinError::Refused(reason)),
        _ => Err(JoinError::OutOfTurn),
    }
}

/// A membership that this node can use: of its cluster and for this node's key.
fn fitting(joined: Joined, ca: Digest, key: &NodeKey) -> Result<Joined, JoinError> {
    if crate::identity::fingerprint(&joined.ca) != ca {
        return Err(JoinError::Misfit("its CA is not that of this node's cluster"));
    }
    let member = Member {
        host: joined.host,
        name: joined.name.clone(),
        certificate: joined.certificate.clone().into(),
        ca: joined.ca.clone().into(),
    };
    // Building the TLS side compares certificate and key.
    match tls::client(&member, key, ALPN) {
        Ok(_) => Ok(joined),
        Err(_) => Err(JoinError::Misfit("the certificate is not for this node's key")),
    }
}

/// Asks until the node is in the cluster of this CA.
pub async fn until_joined(
    paths: &Paths,
    seed: &StoreSeed,
    ca: Digest,
    key: &NodeKey,
    init: &Init,
    request: impl Fn() -> Result<JoinRequest, IdentityError>,
) -> Arc<Member> {
    let mut said = String::new();
    let mut quick = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
    let mut slow = Backoff::new(Duration::from_secs(10), Duration::from_secs(120));
    loop {
        let answer = match request() {
            Ok(request) => ask(seed, ca, key, request).await,
            Err(e) => Err(e.into()),
        };
        let kept = match answer {
            Ok(Answer::Joined(joined)) => Member::keep(paths, joined).map_err(JoinError::from),
            Ok(Answer::Pending) => {
                say_once(init, &mut said, pending(key));
                sleep(quick.next()).await;
                continue;
            }
            Err(e) => Err(e),
        };
        match kept {
            Ok(member) => return member,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "Cannot join the cluster yet");
                say_once(init, &mut said, on_console(&error, seed));
                sleep(if is_transient(&error) { quick.next() } else { slow.next() }).await;
            }
        }
    }
}

fn is_transient(error: &JoinError) -> bool {
    matches!(error, JoinError::Dial(_) | JoinError::Wire(_) | JoinError::Silent)
}

fn pending(key: &NodeKey) -> String {
    format!("This node waits for approval. Its key: sha256:{}. Compare, then run: qa host approve", key.fingerprint())
}

fn on_console(error: &JoinError, seed: &StoreSeed) -> String {
    let advice = match error {
        JoinError::WrongCa(_) => "Correct the seed's store.ca, or its store.address.",
        JoinError::Refused(_) => "Put a fresh token into the seed, or remove it and approve the node.",
        JoinError::Dial(_) | JoinError::Wire(_) | JoinError::Silent => "The node keeps trying.",
        _ => "See the log.",
    };
    format!("Cannot join the cluster at {}: {}. {advice}", seed.address, chain(error))
}

/// The console gets each news once, not once a try.
fn say_once(init: &Init, said: &mut String, text: String) {
    if *said != text {
        init.console(&text);
        *said = text;
    }
}
