//! Reads from a request who sends it and whether our own page does.

use super::{
    Web,
    fault::Fault,
    logins::{self, Token, Visitor},
};
use crate::{head::Request, router::Router};
use std::time::Instant;

/// The cookie of a login. The prefix makes browsers refuse one from elsewhere.
pub const LOGIN: &str = "__Host-roost";
/// The cookie of the chosen language.
pub const LANGUAGE: &str = "lang";

/// The value of a cookie.
pub fn cookie<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    let pairs = request.header("cookie")?.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(n, _)| *n == name).map(|(_, value)| value)
}

/// The login cookie.
pub fn token(request: &Request) -> Option<Token> {
    logins::unhex(cookie(request, LOGIN)?)
}

/// Who is logged in. A request with `poll` in its query does not count as use.
pub fn visitor(router: &Router, request: &Request) -> Result<Visitor, Fault> {
    let token = token(request).ok_or(Fault::NoLogin)?;
    let used = !request.query.split('&').any(|p| p == "poll");
    let limits = Web::limits(router);
    router.web.logins().visitor(&token, limits, used, Instant::now()).ok_or(Fault::NoLogin)
}

/// Refuses a request that another site's page makes the browser send.
pub fn same_origin(request: &Request) -> Result<(), Fault> {
    let host = request.header("host").ok_or(Fault::Forged)?;
    let origin = request.header("origin").and_then(|o| o.strip_prefix("https://")).ok_or(Fault::Forged)?;
    let site = request.header("sec-fetch-site");
    let same = origin.eq_ignore_ascii_case(host) && site.is_none_or(|s| s == "same-origin");
    if same { Ok(()) } else { Err(Fault::Forged) }
}

/// Who sends a request that changes something, from our own page.
pub fn changer(router: &Router, request: &Request) -> Result<Visitor, Fault> {
    same_origin(request)?;
    let visitor = visitor(router, request)?;
    let token = request.header("x-roost-token").unwrap_or("");
    if router.web.logins().csrf_is(&visitor.id, token) { Ok(visitor) } else { Err(Fault::Forged) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;

    fn request(headers: &str) -> Request {
        head::parse(format!("POST / HTTP/1.1\n{headers}\n").as_bytes()).expect("a request")
    }

    #[track_caller]
    fn check(headers: &str, ours: bool) {
        assert_eq!(same_origin(&request(headers)).is_ok(), ours, "{headers}");
    }

    #[test]
    fn only_a_page_of_this_very_address_may_change_anything() {
        check("Host: node:8443\nOrigin: https://node:8443\n", true);
        check("Host: node:8443\nOrigin: https://NODE:8443\nSec-Fetch-Site: same-origin\n", true);
        check("Host: node:8443\nOrigin: https://node:8443\nSec-Fetch-Site: cross-site\n", false);
        check("Host: node:8443\nOrigin: https://node\n", false);
        check("Host: node:8443\nOrigin: http://node:8443\n", false);
        check("Host: node:8443\nOrigin: null\n", false);
        check("Host: node:8443\n", false);
        check("Origin: https://node:8443\n", false);
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let request = request("Cookie: a=1; __Host-roost=abc; lang=es\n");
        assert_eq!(cookie(&request, LOGIN), Some("abc"));
        assert_eq!(cookie(&request, LANGUAGE), Some("es"));
        assert_eq!(cookie(&request, "b"), None);
        assert_eq!(token(&request), None, "too short");
    }
}
