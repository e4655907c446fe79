//! `connect_to_vm`: from the request to a session.

use crate::{
    answer::{self, Answer, Status},
    conn::{Conn, Left},
    drain::Guard,
    head::Request,
    progress::{Progress, Step},
    query::Query,
    random,
    router::Router,
    seek::{Client, Denied, NoSession, Seeking, Session, Wanted},
};
use model::{
    VmId,
    local::SessionKind,
    sync::{LoggedIn, Refusal},
};
use std::{net::IpAddr, time::Instant};
use tokio::io::{AsyncRead, AsyncWrite};

/// Reads the request, with QVD's order of checks.
pub fn wanted(request: &Request) -> Result<Wanted, Answer> {
    if !request.has_token("connection", "upgrade") || !request.has_token("upgrade", "QVD/1.0") {
        return Err(Answer::plain(Status::UpgradeRequired));
    }
    let query = Query::parse(&request.query);
    if query.get("id").is_none() && query.get("file_name").is_none() {
        return Err(missing_id());
    }
    let params = query.session_params().map_err(|e| Answer::text(Status::Forbidden, e.to_string()))?;
    Ok(Wanted { vm: vm_id(&query)?, kind: SessionKind::Nx, params })
}

/// The VM that a query names.
pub fn vm_id(query: &Query) -> Result<VmId, Answer> {
    let id = query.get("id").ok_or_else(missing_id)?;
    if !id.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Answer::text(Status::Unprocessable, "parameter id must be a whole number"));
    }
    // More digits than an id can have name a VM that does not exist.
    id.parse().map_err(|_| Refusal::NoVm.into())
}

fn missing_id() -> Answer {
    Answer::text(Status::Unprocessable, "parameter id is missing")
}

/// A reason in QVD's words.
fn not_available(reason: impl std::fmt::Display) -> Answer {
    let text = format!("The requested virtual machine is not available: {reason}, retry later");
    Answer::text(Status::Unavailable, text)
}

impl From<Denied> for Answer {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Refused(refusal) if Status::from(&refusal) != Status::Unavailable => refusal.into(),
            other => not_available(other),
        }
    }
}

/// A QVD client on its way to a session.
pub struct Connecting<'a, S> {
    conn: &'a mut Conn<S>,
    progress: Progress,
    began: Instant,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client for Connecting<'_, S> {
    fn say(&mut self, step: Step) {
        self.progress.say(step);
    }

    async fn tell_when_due(&mut self) -> Result<(), Left> {
        match self.progress.due(self.began.elapsed()) {
            Some(bytes) => self.conn.send(bytes.as_bytes()).await.map_err(|_| Left),
            None => Ok(()),
        }
    }

    async fn tell_now(&mut self) -> Result<(), Left> {
        match self.progress.now() {
            Some(bytes) => self.conn.send(bytes.as_bytes()).await.map_err(|_| Left),
            None => Ok(()),
        }
    }

    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Left> {
        self.conn.attend(work).await
    }
}

/// Gets the VM, waits until it runs, opens the session, and answers 101.
pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    router: &Router,
    guard: &Guard,
    conn: &mut Conn<S>,
    (who, mut wanted): (LoggedIn, Wanted),
    address: IpAddr,
) -> Result<Session, NoSession> {
    let key = random::slave_key().map_err(Denied::ours)?;
    wanted.params.push(("qvd.slave.key".to_owned(), key.clone()));
    let client = Connecting { conn, progress: Progress::default(), began: Instant::now() };
    let mut seeking = Seeking { router, guard, who, address, client };
    let session = seeking.seek(wanted).await?;
    let Connecting { conn, mut progress, .. } = seeking.client;
    progress.say(Step::Established);
    let last = progress.rest() + &answer::switching(&key);
    conn.send(last.as_bytes()).await.map_err(|_| Left)?;
    Ok(session)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;

    const UPGRADE: &str = "Connection: Upgrade\nUpgrade: QVD/1.0\n";

    #[track_caller]
    fn check(query: &str, headers: &str, expect: Result<u32, (&str, &str)>) {
        let head = format!("GET /qvd/connect_to_vm?{query} HTTP/1.1\n{headers}\n");
        let got = wanted(&head::parse(head.as_bytes()).expect("a request")).map(|w| w.vm.0);
        match (got, expect) {
            (Ok(vm), Ok(expected)) => assert_eq!(vm, expected),
            (Err(answer), Err((code, body))) => {
                assert!(answer.status().line().starts_with(code), "{answer:?}");
                assert!(answer.body().contains(body), "{answer:?}");
            }
            (got, _) => panic!("{got:?}"),
        }
    }

    #[test]
    fn requests_are_checked_in_qvds_order() {
        check("id=7&qvd.client.os=linux&custom.x=1", UPGRADE, Ok(7));
        check("id=7&file_name=a", "upgrade: qvd/1.0\nCONNECTION: keep-alive, upgrade\n", Ok(7));
        check("bad=1", "", Err(("426", "QVD/1.0")));
        check("bad=1", "Connection: Upgrade\nUpgrade: websocket\n", Err(("426", "")));
        check("bad=1", UPGRADE, Err(("422", "parameter id is missing")));
        check("id=7&bad=1&qvd.vm.user.name=root", UPGRADE, Err(("403", "Invalid parameters bad, qvd.vm.user.name")));
        check("file_name=a", UPGRADE, Err(("422", "parameter id is missing")));
        check("id=seven", UPGRADE, Err(("422", "whole number")));
        check("id=99999999999999", UPGRADE, Err(("404", "does not exist")));
    }
}
