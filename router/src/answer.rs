//! Answers in QVD's dialect.
//!
//! Head and body are separate ([`Answer::head`], [`Answer::body`]), since they must travel in two TLS
//! records: the C client waits for one more read after the head of an error.

use model::sync::{Refusal, VmEntry};
use std::fmt::Write as _;

/// A final status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 200
    Ok,
    /// 204
    NoContent,
    /// 206
    Partial,
    /// 302
    Found,
    /// 304
    NotModified,
    /// 400
    BadRequest,
    /// 401
    Unauthorized,
    /// 403
    Forbidden,
    /// 404
    NotFound,
    /// 408
    Timeout,
    /// 409
    Conflict,
    /// 413
    TooLarge,
    /// 422
    Unprocessable,
    /// 426
    UpgradeRequired,
    /// 429
    TooMany,
    /// 431
    HeadTooLarge,
    /// 500
    Internal,
    /// 503
    Unavailable,
    /// 505
    Version,
    /// 507
    NoRoom,
}

impl Status {
    /// Code and reason phrase.
    pub fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::NoContent => "204 No Content",
            Self::Partial => "206 Partial Content",
            Self::Found => "302 Found",
            Self::NotModified => "304 Not Modified",
            Self::BadRequest => "400 Bad Request",
            Self::Unauthorized => "401 Unauthorized",
            Self::Forbidden => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::Timeout => "408 Request Timeout",
            Self::Conflict => "409 Conflict",
            Self::TooLarge => "413 Content Too Large",
            Self::Unprocessable => "422 Unprocessable Entity",
            Self::UpgradeRequired => "426 Upgrade Required",
            Self::TooMany => "429 Too Many Requests",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Internal => "500 Internal Server Error",
            Self::Unavailable => "503 Service Unavailable",
            Self::Version => "505 HTTP Version Not Supported",
            Self::NoRoom => "507 Insufficient Storage",
        }
    }

    /// What a person reads when there is nothing more precise to say.
    fn explanation(self) -> &'static str {
        match self {
            Self::Ok | Self::NoContent | Self::Partial | Self::NotModified => "The request succeeded.",
            Self::Found => "What was asked for is elsewhere.",
            Self::Conflict => "This is not possible now.",
            Self::TooLarge => "The request is too large.",
            Self::TooMany => "Too many requests came.",
            Self::NoRoom => "There is no room left.",
            Self::BadRequest => "The request is malformed.",
            Self::Unauthorized => "A valid login and password are needed.",
            Self::Forbidden => "This is not allowed.",
            Self::NotFound => "There is nothing at this address.",
            Self::Timeout => "The request did not arrive in time.",
            Self::Unprocessable => "The request lacks something.",
            Self::UpgradeRequired => "This address is for QVD clients: the request must ask for an upgrade to QVD/1.0.",
            Self::HeadTooLarge => "The request's head is too large.",
            Self::Internal => "The server failed; the fault was logged.",
            Self::Unavailable => "The service is not available now.",
            Self::Version => "Only HTTP/1.1 is spoken here.",
        }
    }

    fn extra_header(self) -> &'static str {
        match self {
            Self::Unauthorized => "WWW-Authenticate: Basic realm=\"QVD\"\r\n",
            Self::UpgradeRequired => "Upgrade: QVD/1.0\r\n",
            _ => "",
        }
    }
}

/// A final answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: Status,
    content_type: &'static str,
    body: String,
    /// The connection ends after this answer.
    pub close: bool,
}

impl Answer {
    /// Plain text.
    pub fn text(status: Status, body: impl Into<String>) -> Self {
        Self { status, content_type: "text/plain", body: body.into(), close: false }
    }

    /// A status that speaks for itself.
    pub fn plain(status: Status) -> Self {
        Self::text(status, format!("{}\r\n\r\n{}\r\n", status.line(), status.explanation()))
    }

    /// The user's VMs. Ids and flags are integers: a JSON boolean crashes the C client.
    pub fn vms(vms: &[VmEntry]) -> Self {
        let array: Vec<_> = vms
            .iter()
            .map(|v| {
                let (id, blocked) = (v.vm.0, u8::from(v.blocked));
                serde_json::json!({ "id": id, "state": v.state.as_str(), "name": v.name, "blocked": blocked })
            })
            .collect();
        let body = format!("{}\n", ascii(&format!("{:#}", serde_json::Value::Array(array))));
        Self { status: Status::Ok, content_type: "application/json", body, close: false }
    }

    /// The same, and the connection ends after it.
    pub fn and_close(self) -> Self {
        Self { close: true, ..self }
    }

    /// Its status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Status line and headers, with the empty line.
    pub fn head(&self) -> String {
        let (status, extra, kind, length) =
            (self.status.line(), self.status.extra_header(), self.content_type, self.body.len());
        let close = if self.close { "Connection: close\r\n" } else { "" };
        format!("HTTP/1.1 {status}\r\n{extra}{close}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n")
    }

    /// The body; never empty, so that a client which waits for it gets it.
    pub fn body(&self) -> &str {
        &self.body
    }
}

impl From<&Refusal> for Status {
    fn from(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::BadLogin | Refusal::TooMany(_) | Refusal::CodeNeeded | Refusal::BadCode => Self::Unauthorized,
            Refusal::NoVm => Self::NotFound,
            Refusal::Blocked | Refusal::NotYours => Self::Forbidden,
            Refusal::NoHost | Refusal::Held | Refusal::State(_) | Refusal::StoreAway | Refusal::Other(_) => {
                Self::Unavailable
            }
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::text(Status::from(&refusal), refusal.to_string())
    }
}

/// One progress message, a whole 1xx head.
pub fn progress(text: &str) -> String {
    format!("HTTP/1.1 102 Processing\r\nX-QVD-VM-Info: {text}\r\n\r\n")
}

/// The last head of a connection that becomes a session.
pub fn switching(slave_key: &str) -> String {
    format!("HTTP/1.1 101 Switching Protocols\r\nX-QVD-Slave-Key: {slave_key}\r\n\r\n")
}

/// JSON with all but ASCII escaped: clients of different ages read it with different encodings.
fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _infallible = write!(out, "\\u{unit:04x}");
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{VmId, state::VmState};

    #[test]
    fn the_list_is_pretty_ascii_json_with_integers() {
        let vm = VmEntry { vm: VmId(7), name: "dé🙂".to_owned(), state: VmState::Running, blocked: true };
        let answer = Answer::vms(&[vm]);
        assert_eq!(
            answer.body(),
            "[\n  {\n    \"blocked\": 1,\n    \"id\": 7,\n    \"name\": \"d\\u00e9\\ud83d\\ude42\",\n    \"state\": \"running\"\n  }\n]\n"
        );
        assert_eq!(Answer::vms(&[]).body(), "[]\n");
    }

    #[test]
    fn a_head_names_the_realm_the_length_and_the_end() {
        let answer = Answer::text(Status::Unauthorized, "no").and_close();
        assert_eq!(
            answer.head(),
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"QVD\"\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n"
        );
        assert!(Answer::plain(Status::NotFound).body().starts_with("404 Not Found"));
    }

    #[test]
    fn each_refusal_has_its_status() {
        use Refusal::*;
        for (refusal, code) in [
            (BadLogin, "401"),
            (TooMany(3), "401"),
            (CodeNeeded, "401"),
            (BadCode, "401"),
            (NoVm, "404"),
            (Blocked, "403"),
            (NotYours, "403"),
            (NoHost, "503"),
            (Held, "503"),
            (State(VmState::Zombie), "503"),
            (StoreAway, "503"),
            (Other("x".to_owned()), "503"),
        ] {
            assert!(Status::from(&refusal).line().starts_with(code), "{refusal}");
        }
    }
}
