//! The admin API (`model::api` has its words): HTTPS, JSON, bearer tokens.
//!
//! `routes.rs` is the list of everything there is; it makes the OpenAPI document and a test checks the
//! router against it. Handlers parse, call the database once, and answer; each failure becomes an
//! `ErrorBody` in one place, [`Failure`].

mod clusterwide;
mod hosts;
mod images;
mod many;
mod node_images;
mod openapi;
pub(crate) mod routes;
mod users;
mod vms;

pub use clusterwide::{JOIN_TTL_S, make_token};

use crate::{
    error::{Error, Result, chain},
    listen, secret,
    store::Store,
};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header, request::Parts};
use hyper_util::service::TowerToHyperService;
use model::{
    api::{BASE, ErrorBody, MAX_BODY},
    filter::{Filter, Object},
};
use rustls::{crypto::ring, server::ServerConfig};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use tokio_rustls::TlsAcceptor;
use tracing::{error, warn};

/// Requests at work have so long to end when the store stops.
const GRACE: Duration = Duration::from_secs(10);
/// A request's head must come within this, also between two requests of a connection.
const HEAD: Duration = Duration::from_secs(60);

type Shared = State<Arc<Store>>;

/// TLS as administrators see it.
pub fn tls(store: &Store) -> Result<Arc<ServerConfig>> {
    let (chain, key) = store.pki.server()?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::pki("set up TLS"))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(Error::pki("use the store's certificate"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves administrators until `stop`.
pub async fn serve(store: Arc<Store>, listener: TcpListener, tls: Arc<ServerConfig>, stop: watch::Receiver<bool>) {
    let (router, ending) = (router(store), stop.clone());
    let work =
        move |stream, peer| listen::http1(TowerToHyperService::new(router.clone()), stream, peer, HEAD, ending.clone());
    listen::serve(listener, TlsAcceptor::from(tls), stop, GRACE, work).await;
}

/// Everything under [`BASE`].
pub fn router(store: Arc<Store>) -> Router {
    let guarded = Router::new()
        .merge(clusterwide::router())
        .merge(hosts::router())
        .merge(images::router())
        .merge(node_images::router())
        .merge(users::router())
        .merge(vms::router())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        // Uploads are as long as they say, and are streamed to disk.
        .merge(images::uploads())
        .route_layer(middleware::from_fn_with_state(store.clone(), authenticate));
    let open = Router::new().route("/openapi.json", get(openapi::document));
    Router::new()
        .nest(BASE, guarded.merge(open))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(store)
}

async fn unknown(request: Request) -> Response {
    let text = format!("There is no {}: {BASE}/openapi.json lists what there is", request.uri().path());
    failure(StatusCode::NOT_FOUND, text)
}

async fn wrong_method(request: Request) -> Response {
    let text = format!("{} does not take {}: see {BASE}/openapi.json", request.uri().path(), request.method());
    failure(StatusCode::METHOD_NOT_ALLOWED, text)
}

/// Who makes a request: the note of the token shown.
#[derive(Clone, Debug)]
struct Actor(String);

async fn authenticate(State(store): Shared, mut request: Request, next: Next) -> Response {
    let Some(token) = bearer(request.headers()).map(secret::token_sha256) else {
        return unauthorised("There is no bearer token in the request");
    };
    match store.db.read(move |tx| tx.admin(&token)).await {
        Ok(Some(note)) => {
            request.extensions_mut().insert(Actor(note));
            next.run(request).await
        }
        Ok(None) => {
            warn!(path = request.uri().path(), "A request showed an unknown or expired token");
            unauthorised("The token is unknown here, or has expired")
        }
        Err(error) => Failure(error).into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn unauthorised(text: &str) -> Response {
    let mut response = failure(StatusCode::UNAUTHORIZED, text.to_owned());
    response.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
    response
}

/// An error on its way out: one status and one body for each.
struct Failure(Error);

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self.0 {
            Error::NotFound { .. } => StatusCode::NOT_FOUND,
            Error::Invalid(_) | Error::Key(_) | Error::Filter(_) | Error::Import { .. } | Error::Set { .. } => {
                StatusCode::BAD_REQUEST
            }
            Error::Taken { .. } | Error::Refused(_) | Error::Offset { .. } => StatusCode::CONFLICT,
            Error::Closed => StatusCode::SERVICE_UNAVAILABLE,
            Error::Db { .. } | Error::Io { .. } | Error::Pki { .. } | Error::Password(_) => {
                error!(error = %chain(&self.0), "A request failed");
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        failure(status, chain(&self.0))
    }
}

fn failure(status: StatusCode, error: String) -> Response {
    (status, Json(ErrorBody { error })).into_response()
}

/// An answer, or a [`Failure`].
type Answer<T> = std::result::Result<T, Failure>;

/// A JSON body; whatever is wrong with it is told as any other error.
struct Body<T>(T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> std::result::Result<Self, Response> {
        let bytes = axum::body::Bytes::from_request(request, state).await.map_err(|rejection| {
            let text = format!("The body cannot be read: {}", rejection.body_text());
            failure(rejection.status(), text)
        })?;
        // No body at all is the JSON null: what some requests may leave out.
        let bytes = if bytes.is_empty() { axum::body::Bytes::from_static(b"null") } else { bytes };
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            Failure(Error::Invalid(format!("The body is not the JSON that this needs: {error}"))).into_response()
        })
    }
}

/// The query, each parameter once.
struct Params(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> std::result::Result<Self, Response> {
        match axum::extract::Query::<Vec<(String, String)>>::from_request_parts(parts, state).await {
            Ok(query) => Ok(Self(query.0.into_iter().collect())),
            Err(rejection) => Err(failure(StatusCode::BAD_REQUEST, rejection.body_text())),
        }
    }
}

impl Params {
    /// The value of the only parameter there may be.
    fn only(mut self, name: &str) -> Result<Option<String>> {
        let value = self.0.remove(name);
        match self.0.keys().next() {
            None => Ok(value),
            Some(other) => Err(Error::Invalid(format!("Unknown parameter '{other}': expected {name}"))),
        }
    }

    fn filter(self, object: Object) -> Result<Filter> {
        Ok(object.filter(&self.only("filter")?.unwrap_or_default())?)
    }

    fn number(self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.only(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| Error::Invalid(format!("{name} is '{text}': expected a whole number")))
    }
}
