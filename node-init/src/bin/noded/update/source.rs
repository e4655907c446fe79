//! Pieces of a set, from the store: one HTTP/1.1 connection for all of them, over the same mutual TLS as node sync.

use super::UpdateError;
use crate::{
    dial,
    identity::{Member, NodeKey},
    tls,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use model::{Digest, seed::StoreAddress, sync::STORE_NAME};
use std::{ops::Range, sync::Arc, time::Duration};
use tokio::{sync::watch, time::timeout};

/// Without a byte for so long the connection counts as lost.
const STALL: Duration = Duration::from_secs(30);

/// Whom to ask.
#[derive(Clone)]
pub struct Store {
    /// The store's node listener.
    pub address: StoreAddress,
    /// This node's membership.
    pub member: watch::Receiver<Option<Arc<Member>>>,
    /// This node's key.
    pub key: Arc<NodeKey>,
}

/// A set on the store, open for reading.
pub struct Source {
    sender: SendRequest<Empty<Bytes>>,
    path: String,
    /// Bytes that came over the wire.
    pub fetched: u64,
}

impl Source {
    /// Connects.
    pub async fn open(store: &Store, set: &Digest) -> Result<Self, UpdateError> {
        let member = store.member.borrow().clone().ok_or(UpdateError::NotJoined)?;
        let config = tls::client(&member, &store.key, b"http/1.1")?;
        let stream = dial::connect(&store.address, config).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(UpdateError::Broken)?;
        // Ends with the sender; its error shows in the requests.
        tokio::spawn(connection);
        Ok(Self { sender, path: format!("/sets/{set}"), fetched: 0 })
    }

    /// Exactly these bytes.
    pub async fn get(&mut self, range: Range<u64>) -> Result<Vec<u8>, UpdateError> {
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let request = Request::get(&self.path)
            .header(header::HOST, STORE_NAME)
            .header(header::RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
            .body(Empty::new())
            .map_err(|e| UpdateError::Answer(e.to_string()))?;
        within(self.sender.ready()).await?.map_err(UpdateError::Broken)?;
        let response = within(self.sender.send_request(request)).await?.map_err(UpdateError::Broken)?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::NOT_FOUND => return Err(UpdateError::Gone),
            other => return Err(UpdateError::Answer(format!("status {other} to a request for a piece"))),
        }
        let mut body = response.into_body();
        let mut bytes = Vec::with_capacity(wanted);
        while let Some(frame) = within(body.frame()).await? {
            let Ok(data) = frame.map_err(UpdateError::Broken)?.into_data() else { continue };
            if bytes.len() + data.len() > wanted {
                return Err(UpdateError::Answer("more bytes than were asked for".to_owned()));
            }
            bytes.extend_from_slice(&data);
        }
        if bytes.len() < wanted {
            return Err(UpdateError::Answer(format!("{} bytes, asked for were {wanted}", bytes.len())));
        }
        self.fetched += bytes.len() as u64;
        Ok(bytes)
    }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, UpdateError> {
    timeout(STALL, work).await.map_err(|_| UpdateError::Stalled(STALL.as_secs()))
}
