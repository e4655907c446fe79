//! `GET /images/<sha256>` and `GET /sets/<sha256>` for nodes: published disk images and update sets, any piece of them.

use crate::{db::Node, listen, store::Store};
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use model::Digest;
use std::{convert::Infallible, io, net::SocketAddr, ops::Range, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    net::TcpStream,
    sync::watch,
};
use tokio_rustls::server::TlsStream;
use tokio_util::io::ReaderStream;
use tracing::warn;

/// Read from disk at a time.
const CHUNK: usize = 256 << 10;
/// A request's head must come within this.
const HEAD: Duration = Duration::from_secs(30);

type Body = BoxBody<Bytes, io::Error>;

pub(super) async fn serve(
    store: Arc<Store>,
    stream: TlsStream<TcpStream>,
    peer: SocketAddr,
    node: Option<Node>,
    stop: watch::Receiver<bool>,
) {
    let known = node.is_some();
    let service = service_fn(move |request: Request<Incoming>| {
        let store = store.clone();
        async move { Ok::<_, Infallible>(if known { answer(&store, &request).await } else { plain(StatusCode::FORBIDDEN) }) }
    });
    listen::http1(service, stream, peer, HEAD, stop).await;
}

async fn answer(store: &Store, request: &Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED);
    }
    let Some((path, digest)) = file_of(store, request.uri().path()) else { return plain(StatusCode::NOT_FOUND) };
    let mut file = match File::open(&path).await {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return plain(StatusCode::NOT_FOUND),
        Err(error) => {
            warn!(image = %digest, %error, "Cannot open an image");
            return plain(StatusCode::INTERNAL_SERVER_ERROR);
        }
    };
    let Ok(bytes) = file.metadata().await.map(|m| m.len()) else { return plain(StatusCode::INTERNAL_SERVER_ERROR) };
    let range = request.headers().get(header::RANGE).and_then(|value| parse_range(value.to_str().ok()?, bytes));
    let (status, range) = match range {
        None => (StatusCode::OK, 0..bytes),
        Some(Some(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(None) => {
            return with(plain(StatusCode::RANGE_NOT_SATISFIABLE), header::CONTENT_RANGE, format!("bytes */{bytes}"));
        }
    };
    if file.seek(io::SeekFrom::Start(range.start)).await.is_err() {
        return plain(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let body = if request.method() == Method::HEAD { empty() } else { piece(file, range.end - range.start) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response = with(response, header::ACCEPT_RANGES, "bytes".to_owned());
    response = with(response, header::CONTENT_LENGTH, (range.end - range.start).to_string());
    response = with(response, header::ETAG, format!("\"{digest}\""));
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{bytes}", range.start, range.end - 1);
        response = with(response, header::CONTENT_RANGE, text);
    }
    response
}

fn file_of(store: &Store, path: &str) -> Option<(PathBuf, Digest)> {
    let (kind, name) = path.strip_prefix('/')?.split_once('/')?;
    let digest = name.parse().ok()?;
    match kind {
        "images" => Some((store.images.image(&digest), digest)),
        "sets" => Some((store.images.set(&digest), digest)),
        _ => None,
    }
}

/// `bytes=A-B` or `bytes=A-`: the piece of `len` bytes, or `Some(None)` when it lies outside. Anything
/// else (several ranges, ranges from the end) is as good as no range, which the standard allows.
fn parse_range(text: &str, len: u64) -> Option<Option<Range<u64>>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: u64 = first.parse().ok()?;
    let end = match last {
        "" => len,
        last => last.parse::<u64>().ok()?.checked_add(1)?.min(len),
    };
    Some((first < end).then_some(first..end))
}

fn piece(file: File, len: u64) -> Body {
    let stream = ReaderStream::with_capacity(file.take(len), CHUNK);
    BodyExt::boxed(StreamBody::new(stream.map_ok(Frame::data)))
}

fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    response
}

fn with(mut response: Response<Body>, name: header::HeaderName, value: String) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&value) {
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<Option<Range<u64>>>) {
        assert_eq!(parse_range(text, 100), expect, "{text}");
    }

    #[test]
    fn a_download_goes_on_from_any_byte() {
        check("bytes=0-", Some(Some(0..100)));
        check("bytes=99-", Some(Some(99..100)));
        check("bytes=10-19", Some(Some(10..20)));
        check("bytes=10-1000", Some(Some(10..100)));
        check("bytes=100-", Some(None));
        check("bytes=20-10", Some(None));
        check("bytes=-5", None);
        check("bytes=0-1,5-6", None);
        check("bytes=0-18446744073709551615", None);
        check("lines=0-", None);
    }
}
