//! Answers for browsers, with the headers that keep a page to itself.

use super::fault::Fault;
use crate::answer::Status;
use std::{borrow::Cow, fmt::Write as _};

/// What a page may do: nothing but talk to this node. noVNC draws pictures from `data:` and `blob:`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// On every answer.
const ALWAYS: &str = "Strict-Transport-Security: max-age=31536000\r\n\
X-Content-Type-Options: nosniff\r\n\
X-Frame-Options: DENY\r\n\
Referrer-Policy: no-referrer\r\n\
Cross-Origin-Opener-Policy: same-origin\r\n\
Cross-Origin-Resource-Policy: same-origin\r\n\
Permissions-Policy: camera=(), geolocation=(), microphone=()\r\n";

/// An answer for a browser.
#[derive(Clone, Debug)]
pub struct Page {
    status: Status,
    headers: String,
    body: Cow<'static, [u8]>,
    /// The connection ends after it.
    pub close: bool,
}

impl Page {
    /// One without a body.
    pub fn new(status: Status) -> Self {
        Self { status, headers: String::new(), body: Cow::Borrowed(&[]), close: false }
    }

    /// With one header more. Values are ours, or checked by who gives them.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let _infallible = write!(self.headers, "{name}: {value}\r\n");
        self
    }

    /// With a body.
    pub fn body(self, body: Cow<'static, [u8]>) -> Self {
        Self { body, ..self }
    }

    /// JSON, never kept by the browser.
    pub fn json(status: Status, value: &serde_json::Value) -> Self {
        let page = Self::new(status).header("Content-Type", "application/json").header("Cache-Control", "no-store");
        page.body(Cow::Owned(value.to_string().into_bytes()))
    }

    /// The same, and the connection ends after it.
    pub fn and_close(self) -> Self {
        Self { close: true, ..self }
    }

    /// Its status.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Its body.
    pub fn payload(&self) -> &[u8] {
        &self.body
    }

    /// Head with the empty line. `length` is the body's, which may come another way.
    pub fn head(&self, length: u64) -> String {
        let (status, headers) = (self.status.line(), &self.headers);
        let close = if self.close { "Connection: close\r\n" } else { "" };
        let empty = matches!(self.status, Status::NoContent | Status::NotModified);
        let length = if empty { String::new() } else { format!("Content-Length: {length}\r\n") };
        format!("HTTP/1.1 {status}\r\n{ALWAYS}Content-Security-Policy: {POLICY}\r\n{headers}{close}{length}\r\n")
    }

    /// All of it.
    pub fn bytes(&self, head_only: bool) -> Vec<u8> {
        let head = self.head(self.body.len() as u64).into_bytes();
        if head_only { head } else { [&head[..], &self.body].concat() }
    }
}

impl From<Fault> for Page {
    fn from(fault: Fault) -> Self {
        let page = Self::json(fault.status(), &fault.json());
        match fault.wait() {
            Some(seconds) => page.header("Retry-After", &seconds.to_string()),
            None => page,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_keeps_the_page_to_itself() {
        let head = Page::new(Status::NoContent).header("X", "y").and_close().head(0);
        for line in ["HTTP/1.1 204 No Content", "frame-ancestors 'none'", "nosniff", "no-referrer", "max-age=", "X: y"]
        {
            assert!(head.contains(line), "{head}");
        }
        assert!(head.contains("Connection: close") && !head.contains("Content-Length") && head.ends_with("\r\n\r\n"));
        assert!(!POLICY.contains("unsafe"));
    }
}
