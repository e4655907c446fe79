//! Files for browsers, packed into the program by `build.rs`.

use super::page::Page;
use crate::{answer::Status, head::Request};
use std::{borrow::Cow, io::Read};

/// A file whose address holds a hash of its bytes.
pub struct File {
    address: &'static str,
    kind: &'static str,
    gzip: &'static [u8],
}

/// A page in one language.
pub struct Document {
    name: &'static str,
    language: &'static str,
    tag: &'static str,
    gzip: &'static [u8],
}

#[allow(missing_docs, reason = "the generated file documents its items in part only")]
mod generated {
    use super::{Document as Page, File};
    include!(concat!(env!("OUT_DIR"), "/assets.rs"));
}

pub use generated::NOVNC;

/// The languages of the pages; the first is the one for everybody else.
pub const LANGUAGES: [&str; 2] = ["en", "es"];

/// A file, if there is one at this path.
pub fn file(request: &Request) -> Option<Page> {
    let at = generated::FILES.binary_search_by(|f| f.address.cmp(&request.path)).ok()?;
    let file = &generated::FILES[at];
    let page = packed(request, file.gzip, file.kind);
    Some(page.header("Cache-Control", "public, max-age=31536000, immutable").header("ETag", "\"1\""))
}

/// A page in the language that the request asks for.
pub fn page(request: &Request, name: &str) -> Page {
    let language = language(request);
    let found = generated::PAGES.iter().find(|p| p.name == name && p.language == language);
    let Some(found) = found else { return Page::new(Status::NotFound) };
    let tag = format!("\"{}\"", found.tag);
    if request.header("if-none-match") == Some(&tag) {
        return Page::new(Status::NotModified).header("ETag", &tag);
    }
    let page = packed(request, found.gzip, "text/html; charset=utf-8");
    let page = page.header("ETag", &tag).header("Cache-Control", "no-cache");
    page.header("Vary", "Accept-Language, Accept-Encoding, Cookie").header("Content-Language", found.language)
}

/// The language chosen with the switch, else the browser's first that we have.
pub fn language(request: &Request) -> &'static str {
    let known = |word: &str| LANGUAGES.into_iter().find(|l| word.eq_ignore_ascii_case(l));
    if let Some(chosen) = super::visit::cookie(request, super::visit::LANGUAGE).and_then(known) {
        return chosen;
    }
    let accepted = request.header("accept-language").unwrap_or("");
    let mut wishes: Vec<_> = accepted.split(',').filter_map(wish).collect();
    wishes.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    wishes.into_iter().find_map(|(word, _)| known(word)).unwrap_or(LANGUAGES[0])
}

/// `es-MX;q=0.8` is (`es`, 0.8).
fn wish(item: &str) -> Option<(&str, f32)> {
    let (tag, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |q| q.parse().ok())?;
    let word = tag.trim().split('-').next()?;
    (weight > 0.0).then_some((word, weight))
}

/// As it lies in the program, or unpacked for a client that cannot.
fn packed(request: &Request, gzip: &'static [u8], kind: &'static str) -> Page {
    let page = Page::new(Status::Ok).header("Content-Type", kind);
    let takes = |t: &str| request.has_token("accept-encoding", t);
    if takes("gzip") || takes("*") {
        return page.header("Content-Encoding", "gzip").body(Cow::Borrowed(gzip));
    }
    let mut bytes = Vec::new();
    // Bytes that this program packed itself.
    let _cannot_fail = flate2::read::GzDecoder::new(gzip).read_to_end(&mut bytes);
    page.body(Cow::Owned(bytes))
}

/// Compressed bytes of the own files and pages in one language, and of noVNC.
pub fn weight() -> (usize, usize) {
    let sum = |own: bool| -> usize {
        generated::FILES.iter().filter(|f| f.address.starts_with("/web/s/") == own).map(|f| f.gzip.len()).sum()
    };
    let pages: usize = generated::PAGES.iter().filter(|p| p.language == LANGUAGES[0]).map(|p| p.gzip.len()).sum();
    (sum(true) + pages, sum(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head;

    fn request(path: &str, headers: &str) -> Request {
        head::parse(format!("GET {path} HTTP/1.1\n{headers}\n").as_bytes()).expect("a request")
    }

    #[track_caller]
    fn speaks(headers: &str, expect: &str) {
        assert_eq!(language(&request("/", headers)), expect, "{headers}");
    }

    #[test]
    fn the_switch_wins_over_the_browser_and_english_is_for_everybody_else() {
        speaks("", "en");
        speaks("Accept-Language: fr, es-MX;q=0.8, en;q=0.7\n", "es");
        speaks("Accept-Language: fr-FR\n", "en");
        speaks("Accept-Language: es;q=0, en;q=0.1\n", "en");
        speaks("Accept-Language: en\nCookie: a=b; lang=es\n", "es");
        speaks("Accept-Language: es\nCookie: lang=xx\n", "es");
    }

    #[test]
    fn every_file_is_found_and_every_page_is_there_in_each_language() {
        for file in generated::FILES {
            assert!(super::file(&request(file.address, "")).is_some(), "{}", file.address);
        }
        for language in LANGUAGES {
            for name in ["index", "desktop"] {
                let page = page(&request("/", &format!("Accept-Language: {language}\n")), name);
                let text = String::from_utf8(page.payload().to_vec()).expect("text");
                assert!(text.contains(&format!("lang=\"{language}\"")) && !text.contains("{{"), "{text}");
            }
        }
        assert!(super::file(&request("/web/s/../x", "")).is_none());
    }

    #[test]
    fn the_own_files_stay_small() {
        let (own, novnc) = weight();
        assert!(own <= 40_000, "{own} bytes");
        assert!(own + novnc <= 200_000, "{own} + {novnc} bytes");
    }
}
