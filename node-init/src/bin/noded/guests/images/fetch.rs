//! One image over one HTTP connection, into a file that a later attempt can go on from.

use super::ImageError;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use model::sync::{GuestImage, STORE_NAME};
use sha2::{Digest as _, Sha256};
use std::{io, path::Path, time::Duration};
use tokio::{
    fs::File,
    io::{AsyncRead, AsyncReadExt, AsyncSeekExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Without a byte for so long the connection counts as lost.
const STALL: Duration = Duration::from_secs(30);

/// Fetches the rest of `image` into `part`, which then holds the whole, verified and on the disk.
pub async fn fetch<S>(stream: S, image: &GuestImage, part: &Path) -> Result<(), ImageError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let disk = |source| ImageError::Disk { path: part.to_owned(), source };
    let mut file =
        File::options().create(true).truncate(false).read(true).write(true).open(part).await.map_err(disk)?;
    let (mut hash, mut have) = hash_of(&mut file).await.map_err(disk)?;
    if have > image.bytes {
        (hash, have) = (Sha256::new(), 0);
    }
    if have < image.bytes {
        let response = ask(stream, image, have).await?;
        if begins_at(&response, have, image)? == 0 {
            (hash, have) = (Sha256::new(), 0);
        }
        file.set_len(have).await.map_err(disk)?;
        file.seek(io::SeekFrom::Start(have)).await.map_err(disk)?;
        hash = receive(response, &mut file, hash, have, image, part).await?;
    }
    file.sync_all().await.map_err(disk)?;
    let found = model::Digest(hash.finalize().into());
    if found == image.digest { Ok(()) } else { Err(ImageError::Digest { expected: image.digest, found }) }
}

async fn hash_of(file: &mut File) -> io::Result<(Sha256, u64)> {
    let (mut hash, mut len, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            return Ok((hash, len));
        }
        hash.update(&buffer[..n]);
        len += n as u64;
    }
}

async fn ask<S>(stream: S, image: &GuestImage, from: u64) -> Result<Response<Incoming>, ImageError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(ImageError::Broken)?;
    // Ends with the response's last byte, or when the response is dropped; its error shows there too.
    tokio::spawn(connection);
    let mut request = Request::get(format!("/images/{}", image.digest)).header(header::HOST, STORE_NAME);
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| ImageError::Answer(e.to_string()))?;
    within(sender.send_request(request)).await?.map_err(ImageError::Broken)
}

/// Where the body begins: where asked, or at 0 from a server that knows no ranges.
fn begins_at(response: &Response<Incoming>, asked: u64, image: &GuestImage) -> Result<u64, ImageError> {
    match response.status() {
        StatusCode::OK => Ok(0),
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let starts = range.starts_with(&format!("bytes {asked}-"));
            starts.then_some(asked).ok_or_else(|| ImageError::Answer(format!("range '{range}' instead of {asked}-")))
        }
        StatusCode::NOT_FOUND => Err(ImageError::Unknown(image.digest)),
        other => Err(ImageError::Answer(format!("status {other}"))),
    }
}

async fn receive(
    response: Response<Incoming>,
    file: &mut File,
    mut hash: Sha256,
    mut have: u64,
    image: &GuestImage,
    part: &Path,
) -> Result<Sha256, ImageError> {
    let mut body = response.into_body();
    while let Some(frame) = within(body.frame()).await? {
        let Ok(data) = frame.map_err(ImageError::Broken)?.into_data() else { continue };
        have += data.len() as u64;
        if have > image.bytes {
            return Err(ImageError::Length { expected: image.bytes, found: have });
        }
        hash.update(&data);
        file.write_all(&data).await.map_err(|source| ImageError::Disk { path: part.to_owned(), source })?;
    }
    // A body that ends early with its length told is an error of the connection already.
    if have < image.bytes { Err(ImageError::Length { expected: image.bytes, found: have }) } else { Ok(hash) }
}

async fn within<T>(work: impl Future<Output = T>) -> Result<T, ImageError> {
    timeout(STALL, work).await.map_err(|_| ImageError::Stalled(STALL.as_secs()))
}
