//! Query strings, and the parameters that a client may give for its session.

use std::collections::BTreeMap;

/// A query string: names with decoded values; a repeated name keeps its last value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(BTreeMap<String, String>);

/// A parameter that no client may give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Invalid parameters {}", .0.join(", "))]
pub struct Forbidden(pub Vec<String>);

impl Query {
    /// Splits at `&`, then at the first `=`; `+` is a blank, `%XX` a byte. Never fails: what is no
    /// escape stands for itself.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|p| !p.is_empty());
        Self(pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (decode(k), decode(v))).collect())
    }

    /// The value of a name; one without a value counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The parameters for the session: those that start with `qvd.client.` or `custom.`. Besides them
    /// only `id` and `file_name` may be there.
    pub fn session_params(&self) -> Result<Vec<(String, String)>, Forbidden> {
        let others = || self.0.iter().filter(|(name, _)| !matches!(name.as_str(), "id" | "file_name"));
        let bad: Vec<String> = others().filter(|(n, v)| !is_session_param(n, v)).map(|(n, _)| printable(n)).collect();
        if bad.is_empty() { Ok(others().map(|(n, v)| (n.clone(), v.clone())).collect()) } else { Err(Forbidden(bad)) }
    }
}

/// Control characters would let a value pass for two lines in a file or an environment of the guest.
fn is_session_param(name: &str, value: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (name.starts_with("qvd.client.") || name.starts_with("custom."))
        && name.bytes().all(legal)
        && !value.chars().any(char::is_control)
}

/// A name as an answer may repeat it.
fn printable(name: &str) -> String {
    name.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape = (*byte == b'%').then(|| bytes.get(at + 1..at + 3).and_then(hex_byte)).flatten();
        out.push(escape.unwrap_or(if *byte == b'+' { b' ' } else { *byte }));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex_byte(pair: &[u8]) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16);
    Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(text: &str, name: &str, expect: Option<&str>) {
        assert_eq!(Query::parse(text).get(name), expect);
    }

    #[test]
    fn values_are_decoded_and_the_last_one_wins() {
        check("id=7&x=pc%2F105+a", "x", Some("pc/105 a"));
        check("id=7&id=8", "id", Some("8"));
        check("a=b=c", "a", Some("b=c"));
        check("a=%zz%4", "a", Some("%zz%4"));
        check("&&id", "id", None);
        check("a=%C3%A9%ff", "a", Some("é\u{fffd}"));
    }

    #[test]
    fn only_session_parameters_pass() {
        let query = Query::parse("id=1&file_name=x&qvd.client.os=linux&custom.a=&qvd.client.link=adsl");
        let names: Vec<_> = query.session_params().expect("legal").into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["custom.a", "qvd.client.link", "qvd.client.os"]);
        let refused = Query::parse("id=1&qvd.vm.user.name=root&x=1").session_params().expect_err("refused");
        assert_eq!(refused.to_string(), "Invalid parameters qvd.vm.user.name, x");
        assert!(Query::parse("custom.a=%0a").session_params().is_err(), "a line break");
        assert!(Query::parse("custom.%00=1").session_params().is_err(), "an odd name");
    }

    proptest! {
        #[test]
        fn any_text_is_a_query(text in "\\PC*") {
            let query = Query::parse(&text);
            let _ = query.session_params();
        }
    }
}
