//! The admin API, over HTTPS with the cluster CA as the only trusted root.
//!
//! Whatever address the store is reached at, its certificate is checked against the one name that every
//! store process has ([`model::sync::STORE_NAME`]): requests go to that name, and the name resolves to
//! the configured address.

use anyhow::{Context, bail};
use model::api::{BASE, ErrorBody, QaConfig};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt::Debug, io::Read, net::ToSocketAddrs, sync::Arc, time::Duration};
use ureq::{
    Agent, RequestBuilder, SendBody,
    http::{Response, Uri},
    tls::{Certificate, RootCerts, TlsConfig},
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{DefaultConnector, NextTimeout},
    },
};

/// Parameters of a request.
pub type Query<'a> = &'a [(&'a str, &'a str)];

/// A connection to the admin API.
pub struct Client {
    agent: Agent,
    base: String,
    authorization: String,
}

impl Client {
    /// A client of the store that `config` names; nothing is sent yet.
    pub fn new(config: &QaConfig) -> anyhow::Result<Self> {
        let uri: Uri = config.url.parse().with_context(|| format!("'{}' is no address of a store", config.url))?;
        let (Some("https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            bail!("'{}' is no address of a store: expected https://HOST:3000", config.url);
        };
        let port = uri.port_u16().unwrap_or(3000);
        let ca = Certificate::from_pem(config.ca.as_bytes()).context("the CA certificate cannot be read")?;
        let tls = TlsConfig::builder().root_certs(RootCerts::Specific(Arc::new(vec![ca]))).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(10)))
            .user_agent(concat!("qa/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: Agent::with_parts(agent, DefaultConnector::default(), Fixed { host: host.to_owned(), port }),
            base: format!("https://{}:{port}{BASE}", model::sync::STORE_NAME),
            authorization: format!("Bearer {}", config.token),
        })
    }

    /// GETs a resource.
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> anyhow::Result<T> {
        read(self.with(self.agent.get(self.url(path)), query).call())
    }

    /// POSTs a JSON body.
    pub fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, query: Query<'_>, body: &B) -> anyhow::Result<T> {
        read(self.with(self.agent.post(self.url(path)), query).send_json(body))
    }

    /// PUTs a JSON body.
    pub fn put<B: Serialize, T: DeserializeOwned>(&self, path: &str, query: Query<'_>, body: &B) -> anyhow::Result<T> {
        read(self.with(self.agent.put(self.url(path)), query).send_json(body))
    }

    /// PATCHes with a JSON body.
    pub fn patch<B: Serialize, T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query<'_>,
        body: &B,
    ) -> anyhow::Result<T> {
        read(self.with(self.agent.patch(self.url(path)), query).send_json(body))
    }

    /// PUTs the bytes that `body` yields, which are `length` long.
    pub fn put_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        query: Query<'_>,
        length: u64,
        body: &mut dyn Read,
    ) -> anyhow::Result<T> {
        let request = self.with(self.agent.put(self.url(path)), query).header("Content-Length", length.to_string());
        read(request.send(SendBody::from_reader(body)))
    }

    /// DELETEs a resource.
    pub fn delete<T: DeserializeOwned>(&self, path: &str, query: Query<'_>) -> anyhow::Result<T> {
        read(self.with(self.agent.delete(self.url(path)), query).call())
    }

    fn with<K>(&self, request: RequestBuilder<K>, query: Query<'_>) -> RequestBuilder<K> {
        request.query_pairs(query.iter().copied()).header("Authorization", &self.authorization)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }
}

/// The body of a good answer, or the error text of another.
fn read<T: DeserializeOwned>(answer: Result<Response<ureq::Body>, ureq::Error>) -> anyhow::Result<T> {
    let mut answer = answer.context("cannot reach the store")?;
    let status = answer.status();
    let text =
        answer.body_mut().with_config().limit(64 << 20).read_to_string().context("the store's answer broke off")?;
    if status.is_success() {
        let text = if text.is_empty() { "null" } else { &text };
        return serde_json::from_str(text).with_context(|| format!("the store's answer is of another version: {text}"));
    }
    let error: Option<ErrorBody> = serde_json::from_str(&text).ok();
    match error {
        Some(body) => bail!("{}", body.error),
        None => bail!("the store answered {status}: {}", text.trim()),
    }
}

/// Resolves every name to the configured store.
#[derive(Debug)]
struct Fixed {
    host: String,
    port: u16,
}

impl Resolver for Fixed {
    fn resolve(&self, _: &Uri, _: &ureq::config::Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let mut found = self.empty();
        for address in (host, self.port).to_socket_addrs()?.take(16) {
            found.push(address);
        }
        if found.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(found) }
    }
}
