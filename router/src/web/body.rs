//! Bodies of requests.

use super::{Visit, fault::Fault};
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

/// Longest JSON of a request.
const MAX_JSON: u64 = 16 * 1024;
/// A JSON body must be there within this time.
const LIMIT: Duration = Duration::from_secs(20);

impl<S: AsyncRead + AsyncWrite + Unpin> Visit<'_, S> {
    /// Length of the body. Browsers always say it.
    pub fn length(&self) -> Result<u64, Fault> {
        if self.request.header("transfer-encoding").is_some() {
            return Err(Fault::Malformed);
        }
        let length = self.request.header("content-length").unwrap_or("0").trim();
        if length.bytes().all(|b| b.is_ascii_digit()) {
            length.parse().map_err(|_| Fault::Malformed)
        } else {
            Err(Fault::Malformed)
        }
    }

    /// The body as JSON.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Fault> {
        let length = self.length()?;
        let json = self.request.header("content-type").is_some_and(|t| t.starts_with("application/json"));
        if length > MAX_JSON || !json {
            return Err(Fault::Malformed);
        }
        let mut body = zeroize::Zeroizing::new(Vec::with_capacity(length as usize));
        let read = async {
            while (body.len() as u64) < length {
                let piece = self.conn.piece(length - body.len() as u64).await?;
                if piece.is_empty() {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                body.extend_from_slice(&piece);
            }
            Ok::<_, std::io::Error>(())
        };
        timeout(LIMIT, read).await.map_err(|_| Fault::Malformed)?.map_err(|_| Fault::Malformed)?;
        serde_json::from_slice(&body).map_err(|_| Fault::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conn::Conn, drain::Drain, head, router::Router};
    use tokio::{io::AsyncWriteExt, time::Instant};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_cut_off_however_steady_the_drip() {
        let (router, (_drain, guard)) = (Router::for_tests(), Drain::new());
        let (mut client, server) = tokio::io::duplex(4096);
        let mut conn = Conn::new(server);
        let head = "POST /web/login HTTP/1.1\nContent-Type: application/json\nContent-Length: 1000\n\n";
        let request = head::parse(head.as_bytes()).expect("a request");
        let address = [127, 0, 0, 1].into();
        let mut visit = Visit { router: &router, guard: &guard, conn: &mut conn, address, request: &request };
        let drip = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                client.write_all(b" ").await.expect("taken");
            }
        };
        let began = Instant::now();
        let read: Result<serde_json::Value, _> = tokio::select! {
            read = visit.json() => read,
            () = drip => unreachable!("it drips for ever"),
        };
        assert_eq!(read, Err(Fault::Malformed));
        assert_eq!(began.elapsed(), LIMIT);
    }
}
