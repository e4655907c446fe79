//! Who a request comes from.

use crate::{
    answer::{Answer, Status},
    head::Request,
    known::Tag,
    router::Router,
};
use base64::{Engine, engine::general_purpose::GeneralPurpose, engine::general_purpose::GeneralPurposeConfig};
use model::{
    key,
    sync::{Call, LoggedIn, Refusal, Reply, Secret},
};
use std::{net::IpAddr, time::Duration};
use zeroize::Zeroizing;

/// The store must answer a login within this time; directories behind it may be slow.
const LOGIN_LIMIT: Duration = Duration::from_secs(20);

/// Login and password as a client sent them.
pub struct Credentials {
    /// Not empty, without a colon.
    pub login: String,
    /// May hold colons.
    pub password: Zeroizing<String>,
}

/// Reads `Authorization: Basic`. None is any other scheme, or none at all.
pub fn credentials(request: &Request) -> Option<Credentials> {
    let (scheme, value) = request.header("authorization")?.split_once([' ', '\t'])?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let bytes = Zeroizing::new(BASE64.decode(value.trim()).ok()?);
    let text = Zeroizing::new(text(&bytes));
    let (login, password) = text.split_once(':')?;
    let credentials = Credentials { login: login.to_owned(), password: Zeroizing::new(password.to_owned()) };
    (!login.is_empty()).then_some(credentials)
}

/// Clients differ in whether they pad.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
);

/// UTF-8, or Latin-1 as older clients send it.
fn text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.iter().map(|b| char::from(*b)).collect(), str::to_owned)
}

/// The last login that succeeded on a connection.
#[derive(Default)]
pub struct Remembered(Option<(String, Tag, LoggedIn)>);

impl Remembered {
    /// Whether anybody logged in.
    pub fn is_known(&self) -> bool {
        self.0.is_some()
    }
}

/// Finds out who asks: from the connection's memory, from the store, or, while that is away, from what
/// the router remembers of earlier logins.
pub async fn authenticate(
    router: &Router,
    remembered: &mut Remembered,
    request: &Request,
    client: IpAddr,
) -> Result<LoggedIn, Answer> {
    let Credentials { login, password } = credentials(request).ok_or_else(|| Answer::plain(Status::Unauthorized))?;
    if let Some((known, tag, who)) = &remembered.0
        && *known == login
        && router.known.matches(tag, &login, &password)
    {
        return Ok(who.clone());
    }
    router.counters.auth_attempts.count();
    let who = log_in(router, &login, &password, client).await?;
    router.counters.auth_ok.count();
    let tag = router.known.tag(&login, &password);
    remembered.0 = Some((login, tag, who.clone()));
    Ok(who)
}

async fn log_in(router: &Router, login: &str, password: &str, client: IpAddr) -> Result<LoggedIn, Answer> {
    if let Some(who) = router.known.again(login, password, client) {
        return Ok(who);
    }
    match ask_store(router, login, password, client).await {
        Ok(who) => Ok(who),
        Err(Refusal::StoreAway) => router.known.verify(login, password).ok_or_else(|| Refusal::StoreAway.into()),
        Err(Refusal::BadLogin) => {
            router.known.forget(login, password);
            tracing::info!(login, %client, "A login was refused");
            Err(Answer::plain(Status::Unauthorized))
        }
        Err(refusal) => {
            tracing::info!(login, %client, %refusal, "A login was refused");
            Err(refusal.into())
        }
    }
}

async fn ask_store(router: &Router, login: &str, password: &str, client: IpAddr) -> Result<LoggedIn, Refusal> {
    let secret = Secret(password.to_owned());
    let call = Call::Login { login: login.to_owned(), password: secret, client: client.to_string() };
    let ttl = router.config().get(&key::GRANT_TTL);
    match router.noded.call(call, LOGIN_LIMIT).await {
        Reply::LoggedIn(who) => {
            router.known.learn(login, password, &who, ttl);
            Ok(who)
        }
        Reply::LoggedInByCode(who) => {
            router.known.learn_code(login, Some(password), client, &who, ttl);
            Ok(who)
        }
        Reply::Refused(refusal) => Err(refusal),
        other => Err(unexpected(&other)),
    }
}

/// An answer to another question: a fault of ours or of a peer of another version.
pub fn unexpected(reply: &Reply) -> Refusal {
    tracing::error!(?reply, "The store's answer does not fit the question");
    Refusal::Other("The store's answer was not understood".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;

    #[track_caller]
    fn check(header: &str, expect: Option<(&str, &str)>) {
        let request = head::parse(format!("GET / HTTP/1.1\n{header}\n\n").as_bytes()).expect("a request");
        let got = credentials(&request);
        assert_eq!(got.as_ref().map(|c| (c.login.as_str(), c.password.as_str())), expect);
    }

    #[test]
    fn basic_credentials_are_read_as_clients_send_them() {
        check("Authorization: Basic YW5uOnB3", Some(("ann", "pw")));
        check("authorization: bAsIc  YW5uOnA6dw==", Some(("ann", "p:w")));
        check("Authorization: Basic YW5uOnA6dw", Some(("ann", "p:w")));
        check("Authorization: Basic YW5uOg==", Some(("ann", "")));
        check("Authorization: Basic YW7pOnDp", Some(("ané", "pé")));
        check("Authorization: Basic OnB3", None);
        check("Authorization: Basic !!!", None);
        check("Authorization: Bearer YW5uOnB3", None);
        check("X: y", None);
    }
}
