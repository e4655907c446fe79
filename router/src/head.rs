//! Request heads in QVD's dialect of HTTP/1.1.
//!
//! Written here and not taken from hyper, because the dialect is the product: genuine clients send bare
//! LF and no Host, expect continuation lines and several blanks in the request line to work, want 1xx
//! answers before the last one (which hyper's server cannot send), and count TLS records (`docs/SPECIFICATION.md`,
//! protocol). Pages for browsers can share the connection: [`crate::conn::Conn::into_parts`] gives the stream
//! with all bytes not consumed yet, to be replayed to any other server.
//!
//! [`Scanner`] finds the end of a head byte by byte, so a head is parsed once however many pieces it
//! arrives in; [`parse`] then reads the whole.

/// The longest head, in bytes, with blank lines before it.
pub const MAX_HEAD: usize = 16 * 1024;
/// Most header lines in one head.
pub const MAX_HEADERS: usize = 100;

/// Why bytes are not a request of this dialect. The connection cannot go on after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// A line that is neither request line nor header (400).
    #[error("The request is malformed")]
    Malformed,
    /// Well-formed but not HTTP/1.1 (505).
    #[error("The request is not HTTP/1.1")]
    Version,
    /// Longer than [`MAX_HEAD`] or more lines than [`MAX_HEADERS`] (431).
    #[error("The request's head is longer than {MAX_HEAD} bytes or has more than {MAX_HEADERS} headers")]
    TooLarge,
}

/// One request, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The URL up to the first `?`, not decoded.
    pub path: String,
    /// What follows the first `?`.
    pub query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// The first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Whether a comma-separated header holds `token`, whatever its case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        let named = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.flat_map(|(_, v)| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// Whether a body follows, which this dialect never reads: the connection ends after the answer.
    pub fn has_body(&self) -> bool {
        let length = self.header("content-length").is_some_and(|v| v.trim() != "0");
        length || self.header("transfer-encoding").is_some()
    }
}

/// Finds where a head ends, over any number of pieces.
#[derive(Clone, Debug, Default)]
pub struct Scanner {
    position: usize,
    line: Line,
    started: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    #[default]
    Empty,
    OnlyCr,
    Text,
}

impl Scanner {
    /// The length of the head at the start of `bytes`, once its last line is there. `bytes` must begin
    /// with all that earlier calls saw.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, HeadError> {
        while let Some(byte) = bytes.get(self.position) {
            if self.position == MAX_HEAD {
                return Err(HeadError::TooLarge);
            }
            self.position += 1;
            if self.line_ended(*byte) {
                return Ok(Some(self.position));
            }
        }
        Ok(None)
    }

    /// Whether this byte ends the head: an empty line that is not before the request line.
    fn line_ended(&mut self, byte: u8) -> bool {
        match (byte, self.line) {
            (b'\n', Line::Text) => (self.started, self.line) = (true, Line::Empty),
            (b'\n', _) if self.started => return true,
            (b'\n', _) => self.line = Line::Empty,
            (b'\r', Line::Empty) => self.line = Line::OnlyCr,
            _ => self.line = Line::Text,
        }
        false
    }
}

/// Reads a head that [`Scanner::end`] delimited.
pub fn parse(head: &[u8]) -> Result<Request, HeadError> {
    let mut lines = head.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l)).filter(|l| !l.is_empty());
    let mut request = request_line(lines.next().ok_or(HeadError::Malformed)?)?;
    for line in lines {
        header_line(&mut request.headers, line)?;
    }
    Ok(request)
}

fn request_line(line: &[u8]) -> Result<Request, HeadError> {
    let line = text(line)?;
    let mut words = line.split([' ', '\t']).filter(|w| !w.is_empty());
    let (Some(method), Some(url), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(HeadError::Malformed);
    };
    if !is_token(method) || !is_version(version) {
        return Err(HeadError::Malformed);
    }
    if version != "HTTP/1.1" {
        return Err(HeadError::Version);
    }
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    Ok(Request { method: method.to_owned(), path: path.to_owned(), query: query.to_owned(), headers: Vec::new() })
}

fn header_line(headers: &mut Vec<(String, String)>, line: &[u8]) -> Result<(), HeadError> {
    let line = text(line)?;
    if line.starts_with([' ', '\t']) {
        let (_, value) = headers.last_mut().ok_or(HeadError::Malformed)?;
        value.push(' ');
        value.push_str(line.trim());
        return Ok(());
    }
    let (name, value) = line.split_once(':').ok_or(HeadError::Malformed)?;
    if !is_token(name) {
        return Err(HeadError::Malformed);
    }
    if headers.len() == MAX_HEADERS {
        return Err(HeadError::TooLarge);
    }
    headers.push((name.to_owned(), value.trim().to_owned()));
    Ok(())
}

/// Text of a line: no control characters (a stray CR hides a second line from some readers); bytes
/// that are no UTF-8 are replaced.
fn text(line: &[u8]) -> Result<String, HeadError> {
    if line.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
        return Err(HeadError::Malformed);
    }
    Ok(String::from_utf8_lossy(line).into_owned())
}

fn is_token(word: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !word.is_empty() && word.bytes().all(legal)
}

fn is_version(word: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    word.strip_prefix("HTTP/").and_then(|v| v.split_once('.')).is_some_and(|(a, b)| digits(a) && digits(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `bytes` in pieces of `step`; what is left behind the head comes with the request.
    fn feed(bytes: &[u8], step: usize) -> Result<Option<(Request, usize)>, HeadError> {
        let mut scanner = Scanner::default();
        for end in (step..bytes.len()).step_by(step).chain([bytes.len()]) {
            if let Some(len) = scanner.end(&bytes[..end])? {
                return parse(&bytes[..len]).map(|r| Some((r, len)));
            }
        }
        Ok(None)
    }

    #[track_caller]
    fn check(head: &str, expect: Result<(&str, &str, &str), HeadError>) {
        let got = feed(head.as_bytes(), head.len().max(1)).map(|r| r.expect("complete").0);
        match expect {
            Err(e) => assert_eq!(got, Err(e)),
            Ok((method, path, query)) => {
                let got = got.expect("a request");
                assert_eq!((got.method.as_str(), got.path.as_str(), got.query.as_str()), (method, path, query));
            }
        }
    }

    #[test]
    fn the_dialect_takes_lf_blank_lines_and_blanks_and_needs_no_host() {
        check("GET / HTTP/1.1\r\n\r\n", Ok(("GET", "/", "")));
        check("GET /a?b=c?d HTTP/1.1\n\n", Ok(("GET", "/a", "b=c?d")));
        check("\r\n\n\r\nGET \t /a   HTTP/1.1\nX: y\r\n\n", Ok(("GET", "/a", "")));
    }

    #[test]
    fn other_versions_and_malformed_lines_are_told_apart() {
        for version in ["HTTP/1.0", "HTTP/2.0", "HTTP/11.1", "HTTP/0.9"] {
            check(&format!("GET / {version}\n\n"), Err(HeadError::Version));
        }
        for line in ["GET /", "GET", "GET / HTTP/1.1 x", "G@T / HTTP/1.1", "GET / HTTP/1", "GET / FTP/1.1", "\0"] {
            check(&format!("{line}\n\n"), Err(HeadError::Malformed));
        }
        for header in ["no colon", ": v", "a b: v", "a : v", "a: \u{7f}", "a: b\rc", " first: x"] {
            check(&format!("GET / HTTP/1.1\n{header}\n\n"), Err(HeadError::Malformed));
        }
    }

    #[test]
    fn names_match_in_any_case_and_continued_lines_are_joined() {
        let head = b"GET / HTTP/1.1\nUPGRADE:  QVD/1.0 \nconnection: keep-alive,\n  upGrade\nA: 1\nA: 2\n\n";
        let (request, len) = feed(head, head.len()).expect("legal").expect("complete");
        assert_eq!(len, head.len());
        assert_eq!(request.header("upgrade"), Some("QVD/1.0"));
        assert_eq!(request.header("connection"), Some("keep-alive, upGrade"));
        assert!(request.has_token("Connection", "Upgrade") && !request.has_token("Connection", "up"));
        assert_eq!((request.header("a"), request.header("b")), (Some("1"), None));
    }

    #[test]
    fn a_head_may_be_as_long_as_the_limit_and_not_longer() {
        let head = |len: usize| {
            let start = "GET / HTTP/1.1\r\nX: ";
            format!("{start}{}\r\n\r\n", "a".repeat(len - start.len() - 4)).into_bytes()
        };
        assert!(feed(&head(MAX_HEAD), 1000).expect("fits").is_some());
        assert_eq!(feed(&head(MAX_HEAD + 1), 1000), Err(HeadError::TooLarge));
        let many = format!("GET / HTTP/1.1\n{}\n", "a: b\n".repeat(MAX_HEADERS + 1));
        check(&many, Err(HeadError::TooLarge));
    }

    fn bytes_like_heads() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"GET / HTTP/1.1".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\n".to_vec()),
            Just(b"\r".to_vec()),
            Just(b"Name: value".to_vec()),
            Just(b" ".to_vec()),
            prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(piece, 0..30).prop_map(|v| v.concat())
    }

    proptest! {
        #[test]
        fn any_bytes_split_anywhere_give_the_same_result(bytes in bytes_like_heads(), step in 1usize..40) {
            let whole = feed(&bytes, bytes.len().max(1));
            prop_assert_eq!(feed(&bytes, step), whole.clone());
            prop_assert_eq!(feed(&bytes, 1), whole);
        }
    }
}
