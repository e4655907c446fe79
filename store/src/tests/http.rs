//! A small HTTPS client.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use model::api::{BASE, ErrorBody, QaConfig};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::{Serialize, de::DeserializeOwned};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// TLS that trusts one CA.
pub fn roots(ca: &CertificateDer<'static>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).expect("a CA");
    roots
}

/// One request on one connection.
pub async fn request(stream: TlsStream<TcpStream>, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    let connection = tokio::spawn(connection);
    let (parts, body) = sender.send_request(request).await.expect("an answer").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    drop(sender);
    // Only the answer counts; how the connection ends is the server's affair.
    drop(connection.await);
    Response::from_parts(parts, body)
}

/// An administrator.
pub struct Admin {
    qa: QaConfig,
}

impl Admin {
    pub fn new(qa: QaConfig) -> Self {
        Self { qa }
    }

    pub fn with_token(&self, token: &str) -> Self {
        Self { qa: QaConfig { token: token.to_owned(), ..self.qa.clone() } }
    }

    pub async fn connect(&self) -> TlsStream<TcpStream> {
        let ca = CertificateDer::from_pem_slice(self.qa.ca.as_bytes()).expect("a CA");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots(&ca))
            .with_no_client_auth();
        let address = self.qa.url.strip_prefix("https://").expect("https");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let tcp = TcpStream::connect(address).await.expect("connects");
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("TLS")
    }

    pub async fn raw(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Response<Bytes> {
        let request_of = Request::builder()
            .method(method)
            .uri(format!("{BASE}{path}"))
            .header(header::HOST, "store")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.qa.token))
            .body(Full::new(body.into()))
            .expect("a request");
        request(self.connect().await, request_of).await
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> T {
        let answer = self.raw(method, path, body).await;
        assert!(answer.status().is_success(), "{path}: {} {:?}", answer.status(), answer.body());
        serde_json::from_slice(answer.body()).unwrap_or_else(|e| panic!("{path}: {e}: {:?}", answer.body()))
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> T {
        self.send(Method::GET, path, Vec::new()).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        self.send(Method::POST, path, serde_json::to_vec(body).expect("JSON")).await
    }

    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        self.send(Method::PUT, path, serde_json::to_vec(body).expect("JSON")).await
    }

    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> T {
        self.send(Method::PATCH, path, serde_json::to_vec(body).expect("JSON")).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> T {
        self.send(Method::DELETE, path, Vec::new()).await
    }

    /// Status and error of a request that must be refused.
    pub async fn refused(&self, method: Method, path: &str, body: &str) -> (StatusCode, String) {
        let answer = self.raw(method, path, body.to_owned()).await;
        assert!(!answer.status().is_success(), "{path}: {}", answer.status());
        let error: ErrorBody = serde_json::from_slice(answer.body()).expect("an error");
        (answer.status(), error.error)
    }
}
