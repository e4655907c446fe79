//! Files between the browser and the home of the desktop's user.
//!
//! | request | the agent is asked to |
//! |---|---|
//! | `GET /web/files/list?id=VM&folder=F` | List |
//! | `GET /web/files/get?id=VM&file=F` (with `Range: bytes=N-`) | Get |
//! | `GET /web/files/have?id=VM&upload=HEX` | Have |
//! | `PUT /web/files/put?id=VM&upload=HEX&folder=F&name=N&offset=O&total=T` | Put; the body is bytes O to the end |
//!
//! Each is one connection of kind `Files` to the guest, opened with the grant of the desktop that this
//! login has open; without one there are no files. Bytes pass in pieces, never as a whole. They end
//! when the login does.

use super::{
    Next, Page, Visit,
    desktop::Desk,
    fault::Fault,
    logins::{self, Visitor},
    visit,
};
use crate::{
    answer::Status,
    query::Query,
    random,
    session::{self, Guest},
};
use model::{
    VmId, key,
    local::{Open, OpenError, SessionKind},
};
use serde_json::json;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use vma_proto::{
    Decoder, MAX_FRAME,
    files::{self, FromFiles, ToFiles, Why},
};

/// One who sends or takes nothing for this long is cut off.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of a download read at once.
const PIECE: usize = 64 * 1024;

/// A connection to the agent, with what came behind its last frame.
struct Agent {
    guest: Guest,
    rest: Vec<u8>,
}

fn failed(error: impl std::fmt::Display) -> Fault {
    Fault::FileFailed(error.to_string())
}

impl From<OpenError> for Fault {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Busy(_) => Self::FilesBusy,
            OpenError::NotRunning(_) | OpenError::Grant(_) => Self::NoSession,
            other => Self::FileFailed(other.to_string()),
        }
    }
}

fn refused(why: Why, reason: &str) -> Fault {
    tracing::debug!(?why, reason, "A file was refused");
    match why {
        Why::NotFound => Fault::NoFile,
        Why::Forbidden => Fault::FileForbidden,
        Why::BadName => Fault::BadName,
        Why::Offset => Fault::Offset,
        Why::NoRoom => Fault::HomeFull,
        Why::Busy => Fault::FilesBusy,
        Why::Failed => Fault::FileFailed(reason.to_owned()),
    }
}

impl Agent {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let write = async {
            match &mut self.guest {
                Guest::Here(guest) => guest.write_all(bytes).await,
                Guest::There(guest) => {
                    guest.write_all(bytes).await?;
                    guest.flush().await
                }
            }
        };
        timeout(SILENCE, write).await.map_err(failed)?.map_err(failed)
    }

    /// Bytes that came; none at the end.
    async fn read(&mut self) -> Result<Vec<u8>, Fault> {
        if !self.rest.is_empty() {
            return Ok(std::mem::take(&mut self.rest));
        }
        let mut bytes = vec![0; PIECE];
        let read = async {
            match &mut self.guest {
                Guest::Here(guest) => guest.read(&mut bytes).await,
                Guest::There(guest) => guest.read(&mut bytes).await,
            }
        };
        let length = timeout(SILENCE, read).await.map_err(failed)?.map_err(failed)?;
        bytes.truncate(length);
        Ok(bytes)
    }

    async fn ask(&mut self, request: &ToFiles) -> Result<(), Fault> {
        let mut buffer = [0; MAX_FRAME];
        let bytes = vma_proto::encode(request, &mut buffer).map_err(failed)?.to_vec();
        self.write(&bytes).await
    }

    /// The next frame; a refusal is a failure.
    async fn frame(&mut self, decoder: &mut Decoder) -> Result<FromFiles, Fault> {
        loop {
            let bytes = self.read().await?;
            if bytes.is_empty() {
                return Err(failed("the agent ended without an answer"));
            }
            let (used, frame) = decoder.push::<FromFiles>(&bytes);
            self.rest = bytes[used..].to_vec();
            match frame {
                Some(Ok(FromFiles::Refused { why, reason })) => return Err(refused(why, &reason)),
                Some(Ok(frame)) => return Ok(frame),
                Some(Err(error)) => return Err(failed(error)),
                None => {}
            }
        }
    }
}

/// A value of the query, as the agent's bounded text.
fn text<const N: usize>(query: &Query, name: &str) -> Result<heapless::String<N>, Fault> {
    heapless::String::try_from(query.get(name).unwrap_or("")).map_err(|_| Fault::BadName)
}

fn path(query: &Query, name: &str) -> Result<files::Path, Fault> {
    let path: files::Path = text(query, name)?;
    if files::legal(&path) { Ok(path) } else { Err(Fault::BadName) }
}

fn number(query: &Query, name: &str) -> Result<u64, Fault> {
    query.get(name).and_then(|n| n.parse().ok()).ok_or(Fault::Malformed)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Visit<'_, S> {
    /// `/web/files/…`.
    pub async fn files(&mut self, path: &str) -> Result<Next, Fault> {
        let verb = (self.request.method.as_str(), path.strip_prefix("/web/files/").unwrap_or(""));
        let visitor = match verb.0 {
            "GET" => visit::visitor(self.router, self.request)?,
            _ => visit::changer(self.router, self.request)?,
        };
        let query = Query::parse(&self.request.query);
        let vm = VmId(u32::try_from(number(&query, "id")?).map_err(|_| Fault::NoDesktop)?);
        let desk = self.router.web.desks.find(&visitor, vm).ok_or(Fault::NoSession)?;
        let over = visitor.over.clone();
        // Whatever is under way ends with the login; the connection is of no use then.
        tokio::select! {
            next = self.transfer(verb, &query, &desk, &visitor) => next,
            () = over.wait() => Ok(Next::Left),
        }
    }

    async fn transfer(
        &mut self,
        verb: (&str, &str),
        query: &Query,
        desk: &Desk,
        visitor: &Visitor,
    ) -> Result<Next, Fault> {
        match verb {
            ("GET", "list") => self.list(query, desk).await.map(Next::Page),
            ("GET", "get") => self.get(query, desk, visitor).await,
            ("GET", "have") => self.have(query, desk).await.map(Next::Page),
            ("PUT", "put") => self.put(query, desk, visitor).await.map(Next::Page),
            _ => Err(Fault::NoAddress),
        }
    }

    /// Opens a connection and asks.
    async fn agent(&self, desk: &Desk, request: &ToFiles) -> Result<Agent, Fault> {
        let session = random::session_id().map_err(failed)?;
        let open = Open { grant: desk.grant.clone(), kind: SessionKind::Files, params: Vec::new(), session };
        let opened = session::try_open(self.router, desk.place, &open).await;
        let (guest, _) = opened.map_err(|e| match e {
            session::NotOpened::Refused(refused) => refused.into(),
            session::NotOpened::Transport(error) => failed(error),
        })?;
        let mut agent = Agent { guest, rest: Vec::new() };
        agent.ask(request).await?;
        Ok(agent)
    }

    async fn list(&self, query: &Query, desk: &Desk) -> Result<Page, Fault> {
        let mut agent = self.agent(desk, &ToFiles::List { folder: path(query, "folder")? }).await?;
        let (mut decoder, mut entries) = (Box::<Decoder>::default(), Vec::new());
        loop {
            match agent.frame(&mut decoder).await? {
                FromFiles::Entry { name, folder, size, modified } if entries.len() < files::MAX_ENTRIES => {
                    entries
                        .push(json!({ "name": name.as_str(), "folder": folder, "size": size, "modified": modified }));
                }
                FromFiles::End { more } => {
                    return Ok(Page::json(Status::Ok, &json!({ "entries": entries, "more": more })));
                }
                _ => return Err(failed("the agent's list is none")),
            }
        }
    }

    async fn have(&self, query: &Query, desk: &Desk) -> Result<Page, Fault> {
        let mut agent = self.agent(desk, &ToFiles::Have { id: upload_id(query)? }).await?;
        match agent.frame(&mut Box::<Decoder>::default()).await? {
            FromFiles::Ready { offset, .. } => Ok(Page::json(Status::Ok, &json!({ "have": offset }))),
            // The page did not hear the end of it.
            FromFiles::Done { name, size } => Ok(brought(&name, size)),
            _ => Err(failed("the agent's answer does not fit")),
        }
    }

    /// A download: the head goes out once the agent is ready, then bytes as they come.
    async fn get(&mut self, query: &Query, desk: &Desk, visitor: &Visitor) -> Result<Next, Fault> {
        if !self.router.config().get(&key::L7R_WEB_DOWNLOAD) {
            return Err(Fault::FileForbidden);
        }
        let file = path(query, "file")?;
        let offset = self.request.header("range").and_then(first_byte);
        let mut agent = self.agent(desk, &ToFiles::Get { file: file.clone(), offset: offset.unwrap_or(0) }).await?;
        let FromFiles::Ready { size, offset: from, .. } = agent.frame(&mut Box::<Decoder>::default()).await? else {
            return Err(failed("the agent's answer does not fit"));
        };
        let name = file.rsplit('/').next().unwrap_or("file");
        let left = size.checked_sub(from).ok_or(Fault::Offset)?;
        tracing::info!(user = %visitor.who.user, bytes = left, "A file is taken from a desktop");
        let head = download_head(name, offset.map(|_| from), size).head(left);
        Ok(match self.pass_down(&mut agent, head, left).await {
            Ok(()) => Next::Sent,
            Err(_) => Next::Left,
        })
    }

    async fn pass_down(&mut self, agent: &mut Agent, head: String, mut left: u64) -> Result<(), Fault> {
        self.conn.send(head.as_bytes()).await.map_err(failed)?;
        while left > 0 {
            let mut bytes = agent.read().await?;
            if bytes.is_empty() {
                // The head has promised more; only the end of the connection says that it went wrong.
                return Err(failed("the file ended early"));
            }
            bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            self.conn.send(&bytes).await.map_err(failed)?;
            left -= bytes.len() as u64;
        }
        Ok(())
    }

    async fn put(&mut self, query: &Query, desk: &Desk, visitor: &Visitor) -> Result<Page, Fault> {
        let limit = u64::from(self.router.config().get(&key::L7R_WEB_UPLOAD_MAX));
        let (offset, total, length) = (number(query, "offset")?, number(query, "total")?, self.length()?);
        if total > limit << 20 {
            return Err(Fault::TooLarge(limit));
        }
        if offset.checked_add(length) != Some(total) {
            return Err(Fault::Malformed);
        }
        let name: files::FileName = text(query, "name")?;
        if !files::legal_name(&name) {
            return Err(Fault::BadName);
        }
        let put = ToFiles::Put { id: upload_id(query)?, folder: path(query, "folder")?, name, offset, total };
        let mut agent = self.agent(desk, &put).await?;
        let mut decoder = Box::<Decoder>::default();
        match agent.frame(&mut decoder).await? {
            FromFiles::Ready { offset: from, .. } if from == offset => {}
            // It is whole already, and its bytes are of no use: with them unread the connection has to end.
            FromFiles::Done { name, size } => return Ok(brought(&name, size).and_close()),
            _ => return Err(Fault::Offset),
        }
        if self.request.has_token("expect", "100-continue") {
            self.conn.send(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(failed)?;
        }
        self.pass_up(&mut agent, length).await?;
        let FromFiles::Done { name, size } = agent.frame(&mut decoder).await? else {
            return Err(failed("the agent's answer does not fit"));
        };
        tracing::info!(user = %visitor.who.user, bytes = size, "A file was brought to a desktop");
        Ok(brought(&name, size))
    }

    async fn pass_up(&mut self, agent: &mut Agent, mut left: u64) -> Result<(), Fault> {
        while left > 0 {
            let piece = timeout(SILENCE, self.conn.piece(left)).await.map_err(failed)?.map_err(failed)?;
            if piece.is_empty() {
                return Err(failed(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
            agent.write(&piece).await?;
            left -= piece.len() as u64;
        }
        Ok(())
    }
}

/// The answer to an upload that is done.
fn brought(name: &str, size: u64) -> Page {
    Page::json(Status::Ok, &json!({ "name": name, "size": size, "have": size }))
}

fn upload_id(query: &Query) -> Result<files::UploadId, Fault> {
    query.get("upload").and_then(logins::unhex).ok_or(Fault::Malformed)
}

/// `bytes=N-`, the one form that is answered in part; any other is answered whole.
fn first_byte(range: &str) -> Option<u64> {
    range.trim().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

/// Always a file to be saved, never a page to be shown: what it holds is not ours.
fn download_head(name: &str, from: Option<u64>, size: u64) -> Page {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "._- ".contains(c) { c } else { '_' }).collect();
    let encoded: String = name.bytes().map(escaped).collect();
    let disposition = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    let page = match from {
        Some(from) if size > 0 => {
            Page::new(Status::Partial).header("Content-Range", &format!("bytes {from}-{}/{size}", size - 1))
        }
        _ => Page::new(Status::Ok),
    };
    page.header("Content-Type", "application/octet-stream")
        .header("Content-Disposition", &disposition)
        .header("Accept-Ranges", "bytes")
        .header("Cache-Control", "no-store")
}

fn escaped(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_header() {
        let head = download_head("a\"b\r\nX: y/é.txt", None, 5).head(5);
        assert!(
            head.contains("filename=\"a_b__X_ y__.txt\"; filename*=UTF-8''a%22b%0D%0AX%3A%20y%2F%C3%A9.txt\r\n"),
            "{head}"
        );
        let part = download_head("a", Some(2), 5).head(3);
        assert!(part.starts_with("HTTP/1.1 206") && part.contains("Content-Range: bytes 2-4/5"), "{part}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_and_a_download_that_stand_still_are_cut_off() {
        use crate::{conn::Conn, drain::Drain, head, router::Router};
        let (router, (_drain, guard)) = (Router::for_tests(), Drain::new());
        let (_client, server) = tokio::io::duplex(4096);
        let (ours, _agents) = tokio::net::UnixStream::pair().expect("a pair");
        let mut agent = Agent { guest: Guest::Here(ours), rest: Vec::new() };
        let mut conn = Conn::new(server);
        let request = head::parse(b"PUT /web/files/put HTTP/1.1\n\n").expect("a request");
        let address = [127, 0, 0, 1].into();
        let mut visit = Visit { router: &router, guard: &guard, conn: &mut conn, address, request: &request };
        let began = tokio::time::Instant::now();
        assert!(matches!(visit.pass_up(&mut agent, 10).await, Err(Fault::FileFailed(_))), "a silent client");
        assert_eq!(began.elapsed(), SILENCE);
        assert!(matches!(agent.read().await, Err(Fault::FileFailed(_))), "a silent agent");
        assert_eq!(began.elapsed(), SILENCE * 2);
    }

    #[test]
    fn only_an_open_range_is_a_part() {
        assert_eq!(first_byte("bytes=7-"), Some(7));
        for range in ["bytes=0-5", "bytes=-5", "bytes=1-,3-", "items=1-", "bytes=x-"] {
            assert_eq!(first_byte(range), None, "{range}");
        }
    }
}
