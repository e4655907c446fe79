//! Packs the files for browsers into the program: pages in each language, style, scripts and noVNC, each
//! compressed once, under addresses that hold a hash of their bytes.
//!
//! noVNC is the npm package that `web/novnc.json` pins. `roost build` brings it into the cache; it is
//! taken from there, or from the file that `ROOST_NOVNC` names. Without it the program is built all the
//! same, and its page says what is missing.

use flate2::{Compression, GzBuilder, read::GzDecoder};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
};

type Outcome<T> = Result<T, Box<dyn Error>>;
/// Files by name, sorted, so that the same files give the same program.
type Files = BTreeMap<String, Vec<u8>>;
type Strings = BTreeMap<String, String>;

const LANGUAGES: [&str; 2] = ["en", "es"];
const PAGES: [&str; 2] = ["index", "desktop"];
const OWN: [&str; 6] = ["style.css", "app.js", "desktop.js", "channel.js", "files.js", "common.js"];

fn main() -> Outcome<()> {
    println!("cargo::rerun-if-changed=web");
    println!("cargo::rerun-if-env-changed=ROOST_NOVNC");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let strings: Vec<Strings> = LANGUAGES.iter().map(|l| strings(l)).collect::<Outcome<_>>()?;
    same_keys(&strings)?;
    let mut own: Files = OWN.iter().map(|name| Ok(((*name).to_owned(), web(name)?))).collect::<Outcome<_>>()?;
    own.insert("icon.svg".to_owned(), web("icon.svg")?);
    for (language, strings) in LANGUAGES.iter().zip(&strings) {
        own.insert(format!("strings.{language}.js"), script(strings)?);
    }
    let novnc = novnc()?;
    let (own_base, novnc_base) = (base("s", &own), novnc.as_ref().map(|files| base("n", files)));
    let mut code = String::new();
    writeln!(code, "/// Where noVNC is, when it is here.\npub const NOVNC: Option<&str> = {novnc_base:?};")?;
    pages(&out, &mut code, &strings, &own_base, novnc_base.as_deref().unwrap_or(""))?;
    writeln!(code, "/// All files, sorted by their address.\npub static FILES: &[File] = &[")?;
    let novnc = novnc.unwrap_or_default();
    let theirs = novnc.iter().map(|(name, bytes)| (format!("{}/{name}", novnc_base.as_deref().unwrap_or("")), bytes));
    let all: BTreeMap<_, _> =
        own.iter().map(|(name, bytes)| (format!("{own_base}/{name}"), bytes)).chain(theirs).collect();
    for (address, bytes) in all {
        let packed = pack(&out, bytes)?;
        writeln!(
            code,
            "File {{ address: {address:?}, kind: {:?}, gzip: include_bytes!({packed:?}) }},",
            kind(&address)
        )?;
    }
    writeln!(code, "];")?;
    fs::write(out.join("assets.rs"), code)?;
    Ok(())
}

fn web(name: &str) -> Outcome<Vec<u8>> {
    let path = Path::new("web").join(name);
    fs::read(&path).map_err(|e| format!("Cannot read {}: {e}", path.display()).into())
}

fn strings(language: &str) -> Outcome<Strings> {
    let name = format!("strings.{language}.json");
    serde_json::from_slice(&web(&name)?).map_err(|e| format!("{name} is no table of texts: {e}").into())
}

/// A text that lacks a translation stops the build.
fn same_keys(strings: &[Strings]) -> Outcome<()> {
    let [first, rest @ ..] = strings else { return Ok(()) };
    for other in rest {
        if let Some(key) =
            first.keys().find(|k| !other.contains_key(*k)).or(other.keys().find(|k| !first.contains_key(*k)))
        {
            return Err(format!("The text '{key}' is not there in every language of router/web").into());
        }
    }
    Ok(())
}

fn script(strings: &Strings) -> Outcome<Vec<u8>> {
    Ok(format!("export default {};\n", serde_json::to_string(strings)?).into_bytes())
}

fn base(folder: &str, files: &Files) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in files {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    }
    format!("/web/{folder}/{}", &hex(&hash.finalize())[..16])
}

/// Each page in each language: `{{name}}` is a text, `{{=own}}` and `{{=novnc}}` are addresses.
fn pages(out: &Path, code: &mut String, strings: &[Strings], own: &str, novnc: &str) -> Outcome<()> {
    writeln!(code, "/// The pages, by name and language.\npub static PAGES: &[Page] = &[")?;
    for page in PAGES {
        let template = String::from_utf8(web(&format!("{page}.html"))?)?;
        for (language, strings) in LANGUAGES.iter().zip(strings) {
            let html = fill(&template, &|name| match name {
                "=lang" => Some((*language).to_owned()),
                "=own" => Some(own.to_owned()),
                "=novnc" => Some(novnc.to_owned()),
                name => strings.get(name).map(|text| escape(text)),
            })?;
            let packed = pack(out, html.as_bytes())?;
            let tag = &hex(&Sha256::digest(&html))[..16];
            writeln!(
                code,
                "Page {{ name: {page:?}, language: {language:?}, tag: {tag:?}, gzip: include_bytes!({packed:?}) }},"
            )?;
        }
    }
    writeln!(code, "];")?;
    Ok(())
}

fn fill(template: &str, value: &dyn Fn(&str) -> Option<String>) -> Outcome<String> {
    let mut parts = template.split("{{");
    let mut html = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").ok_or("A '{{' of a page has no '}}'")?;
        html += &value(name).ok_or_else(|| format!("A page uses the text '{name}', which no language has"))?;
        html += rest;
    }
    Ok(html)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// Compresses into a file of the output folder and returns its path.
fn pack(out: &Path, bytes: &[u8]) -> Outcome<PathBuf> {
    let path = out.join(format!("{}.gz", &hex(&Sha256::digest(bytes))[..32]));
    // No time and no name in it: the same bytes give the same program.
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::best());
    gzip.write_all(bytes)?;
    fs::write(&path, gzip.finish()?)?;
    Ok(path)
}

fn kind(address: &str) -> &'static str {
    match address.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What the page uses of noVNC, with its licences; none when the package is not here.
fn novnc() -> Outcome<Option<Files>> {
    let pin: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&web("novnc.json")?)?;
    let sha256 = pin.get("sha256").and_then(|v| v.as_str()).ok_or("router/web/novnc.json names no sha256")?;
    let Some(path) = package(sha256) else { return Ok(None) };
    println!("cargo::rerun-if-changed={}", path.display());
    let Ok(bytes) = fs::read(&path) else { return Ok(None) };
    let found = hex(&Sha256::digest(&bytes));
    if found != sha256 {
        return Err(
            format!("{} has SHA-256 {found}, but router/web/novnc.json expects {sha256}", path.display()).into()
        );
    }
    let mut files = Files::new();
    for entry in tar::Archive::new(GzDecoder::new(&bytes[..])).entries()? {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().trim_start_matches("package/").to_owned();
        if wanted(&name) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content)?;
            files.insert(name, content);
        }
    }
    Ok(Some(files))
}

fn wanted(name: &str) -> bool {
    let code = name.starts_with("core/") || name.starts_with("vendor/");
    code && name.ends_with(".js") || name.contains("LICENSE") || name == "AUTHORS"
}

/// The pinned package: what `ROOST_NOVNC` names, else the builder's cache (`npm/SHA256.tgz`).
fn package(sha256: &str) -> Option<PathBuf> {
    if let Some(named) = env::var_os("ROOST_NOVNC") {
        return Some(PathBuf::from(named));
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")))?;
    let folder = cache.join("roost/npm");
    // The folder is watched, so that a package which comes later is taken; cargo takes a folder that is
    // not there for one that changes all the time.
    fs::create_dir_all(&folder).ok()?;
    println!("cargo::rerun-if-changed={}", folder.display());
    Some(folder.join(format!("{sha256}.tgz"))).filter(|p| p.is_file())
}
