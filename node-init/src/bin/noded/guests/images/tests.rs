//! Transfers from a real HTTP server over real sockets.

use super::{ImageError, fetch::fetch};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use model::{DiId, sync::GuestImage};
use sha2::{Digest as _, Sha256};
use std::{convert::Infallible, path::PathBuf, sync::Arc};
use tokio::net::{UnixListener, UnixStream};

struct Repository {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    part: PathBuf,
    image: GuestImage,
    bytes: Arc<Vec<u8>>,
}

/// What the server does with its image.
#[derive(Clone, Copy, PartialEq)]
enum Serves {
    Ranges,
    Whole,
    WrongBytes,
    Nothing,
}

fn repository(serves: Serves) -> Repository {
    let dir = tempfile::tempdir().expect("temp dir");
    let (socket, part) = (dir.path().join("http"), dir.path().join("image.part"));
    let bytes: Arc<Vec<u8>> = Arc::new((0..300_000u32).map(|i| (i * 7 / 3) as u8).collect());
    let digest = model::Digest(Sha256::digest(&*bytes).into());
    let listener = UnixListener::bind(&socket).expect("listens");
    let served = bytes.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = served.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer(&request, &served, serves);
                async move { Ok::<_, Infallible>(answer) }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        }
    });
    let image = GuestImage { di: DiId(1), digest, bytes: bytes.len() as u64 };
    Repository { _dir: dir, socket, part, image, bytes }
}

fn answer(request: &Request<Incoming>, bytes: &[u8], serves: Serves) -> Response<Full<Bytes>> {
    let whole = |bytes: Vec<u8>| Response::new(Full::new(bytes.into()));
    let range = request.headers().get(header::RANGE).and_then(|v| v.to_str().ok());
    match (serves, range) {
        (Serves::Nothing, _) => {
            let mut response = whole(vec![]);
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
        (Serves::WrongBytes, _) => whole(bytes.iter().map(|b| b ^ 1).collect()),
        (Serves::Ranges, Some(range)) => {
            let from: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().expect("a range");
            let mut response = whole(bytes[from..].to_vec());
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            let content = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            response.headers_mut().insert(header::CONTENT_RANGE, content.parse().expect("a header"));
            response
        }
        (Serves::Ranges | Serves::Whole, _) => whole(bytes.to_vec()),
    }
}

impl Repository {
    async fn fetch(&self) -> Result<(), ImageError> {
        let stream = UnixStream::connect(&self.socket).await.expect("connects");
        fetch(stream, &self.image, &self.part).await
    }

    fn had(&self, bytes: &[u8]) {
        std::fs::write(&self.part, bytes).expect("writes");
    }

    #[track_caller]
    fn is_whole(&self) {
        assert!(std::fs::read(&self.part).expect("reads") == *self.bytes, "the file is not the image");
    }
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let repository = repository(Serves::Ranges);
    repository.had(&repository.bytes[..100_000]);
    repository.fetch().await.expect("fetches the rest");
    repository.is_whole();
    repository.fetch().await.expect("nothing is left to fetch");
}

#[tokio::test]
async fn a_server_without_ranges_sends_it_anew() {
    let repository = repository(Serves::Whole);
    repository.had(&repository.bytes[..100_000]);
    repository.fetch().await.expect("fetches all");
    repository.is_whole();
}

#[tokio::test]
async fn bytes_of_another_image_are_refused() {
    let wrong = repository(Serves::WrongBytes);
    let error = wrong.fetch().await.expect_err("refused");
    assert!(matches!(error, ImageError::Digest { expected, .. } if expected == wrong.image.digest), "{error}");

    let resumed = repository(Serves::Ranges);
    resumed.had(&[0; 50_000]);
    assert!(matches!(resumed.fetch().await, Err(ImageError::Digest { .. })));
}

#[tokio::test]
async fn an_image_that_the_store_lacks_is_named() {
    let repository = repository(Serves::Nothing);
    let error = repository.fetch().await.expect_err("refused");
    assert!(error.to_string().contains(&repository.image.digest.to_string()), "{error}");
}
