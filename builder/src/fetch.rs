//! Fetching the packages that the cache lacks: in parallel, resumable, each byte checked.
//!
//! A package is stored as `debs/SHA256.deb`, so a cached package needs no network and no trust in where
//! it came from. While it arrives it is `debs/SHA256.part`, locked by the fetching process; what is
//! there already is kept and the rest asked for by `Range`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::Digest;
use sha2::Digest as _;

use crate::cache::{self, Cache};
use crate::error::{Error, Result, at};
use crate::lock::Package;
use crate::mirror::Mirror;
use crate::report::{Report, Step, megabytes};

/// Downloads at the same time. A mirror's first byte is slow, its stream is fast.
const PARALLEL: usize = 6;

/// What a fetch that did not fail came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// All packages are in the cache.
    All,
    /// The mirror does not have these any more.
    Gone(Vec<Package>),
}

/// Where a package is (or will be) in the cache.
pub fn deb_path(cache: &Cache, package: &Package) -> Result<PathBuf> {
    Ok(cache.folder("debs")?.join(format!("{}.deb", package.sha256)))
}

/// Brings all packages into the cache. The mirror is looked up only when something is missing, so a
/// complete cache works without one.
pub fn fetch(
    packages: &[Package],
    mirror: impl FnOnce() -> Result<Mirror>,
    cache: &Cache,
    report: &Report,
) -> Result<Fetched> {
    let mut missing = Vec::new();
    for package in packages {
        if !deb_path(cache, package)?.is_file() {
            missing.push(package.clone());
        }
    }
    if missing.is_empty() {
        return Ok(Fetched::All);
    }
    // Large ones first, so that the last download to end is a short one.
    missing.sort_by_key(|p| std::cmp::Reverse(p.size));
    let total = missing.iter().map(|p| p.size).sum();
    let step = report.step("fetch", Some(total));
    let run = Run { mirror: &mirror()?, cache, step: &step, agent: agent() };
    let outcome = run.all(&missing);
    let result = judge(outcome, missing.len(), run.mirror)?;
    match &result {
        Fetched::All => step.end(&format!("{} packages, {}", missing.len(), megabytes(total))),
        Fetched::Gone(gone) => {
            step.end(&format!("{} of {} packages are gone from the mirror", gone.len(), missing.len()))
        }
    }
    Ok(result)
}

/// Why one package could not be had.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("The mirror does not have it (404)")]
    Gone,
    #[error("The mirror answered {0}")]
    Status(u16),
    #[error("Cannot talk to the mirror")]
    Http(#[from] Box<ureq::Error>),
    #[error("The connection broke")]
    Stream(#[source] std::io::Error),
    #[error(transparent)]
    Ours(#[from] Error),
}

struct Run<'a> {
    mirror: &'a Mirror,
    cache: &'a Cache,
    step: &'a Step<'a>,
    agent: ureq::Agent,
}

impl Run<'_> {
    /// Fetches every package and returns those that failed.
    fn all(&self, missing: &[Package]) -> Vec<(Package, Failure)> {
        let queue = Mutex::new(missing.iter().collect::<VecDeque<_>>());
        let failures = Mutex::new(Vec::new());
        let next = || queue.lock().unwrap_or_else(|e| e.into_inner()).pop_front();
        std::thread::scope(|scope| {
            for _ in 0..PARALLEL.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(package) = next() {
                        if let Err(failure) = self.persist(package) {
                            failures.lock().unwrap_or_else(|e| e.into_inner()).push((package.clone(), failure));
                        }
                    }
                });
            }
        });
        failures.into_inner().unwrap_or_else(|e| e.into_inner())
    }

    /// Tries a second time when a connection broke: what arrived is kept, so nothing is lost by it.
    fn persist(&self, package: &Package) -> std::result::Result<(), Failure> {
        match self.one(package) {
            Err(Failure::Stream(_) | Failure::Http(_)) => self.one(package),
            other => other,
        }
    }

    fn one(&self, package: &Package) -> std::result::Result<(), Failure> {
        let target = deb_path(self.cache, package)?;
        self.step.detail(&package.name);
        let part = target.with_extension("part");
        let mut file = open_part(&part, package)?;
        if target.is_file() {
            // Another build fetched it while this one waited for the lock.
            return Ok(());
        }
        let mut hash = sha2::Sha256::new();
        let mut have = std::io::copy(&mut file, &mut Hashing(&mut hash)).map_err(at("read", &part))?;
        if have < package.size {
            self.rest(package, &part, &mut file, &mut hash, &mut have)?;
        }
        let found = Digest(hash.finalize().into());
        if found != package.sha256 {
            // Whatever is wrong with these bytes, no more of them is wanted.
            file.set_len(0).map_err(at("truncate", &part))?;
            return Err(Error::BadPackage {
                package: package.to_string(),
                found: found.to_string(),
                expected: package.sha256.to_string(),
                advice: "the bytes were dropped; try again, or another mirror",
            }
            .into());
        }
        file.sync_all().map_err(at("write", &part))?;
        std::fs::rename(&part, &target).map_err(at("rename to", &target))?;
        Ok(())
    }

    fn rest(
        &self,
        package: &Package,
        part: &Path,
        file: &mut File,
        hash: &mut sha2::Sha256,
        have: &mut u64,
    ) -> std::result::Result<(), Failure> {
        let url = url_of(self.mirror, package);
        let mut request = self.agent.get(&url);
        if *have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let response = request.call().map_err(|e| Failure::Http(Box::new(e)))?;
        match response.status().as_u16() {
            206 => self.step.advance(*have),
            200 => {
                file.set_len(0).map_err(at("truncate", part))?;
                file.seek(SeekFrom::Start(0)).map_err(at("write", part))?;
                *hash = sha2::Sha256::new();
                *have = 0;
            }
            404 | 410 => return Err(Failure::Gone),
            other => return Err(Failure::Status(other)),
        }
        // A mirror that sends more than the lock says is cut off here and fails the check.
        let mut body = response.into_body().into_reader().take(package.size + 1 - *have);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let n = body.read(&mut buffer).map_err(Failure::Stream)?;
            if n == 0 {
                return Ok(());
            }
            hash.update(&buffer[..n]);
            file.write_all(&buffer[..n]).map_err(at("write", part))?;
            self.step.advance(n as u64);
        }
    }
}

struct Hashing<'a>(&'a mut sha2::Sha256);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Opens the partial file and waits until no other build writes to it. One that holds more bytes than
/// the package has is started afresh.
fn open_part(part: &Path, package: &Package) -> Result<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).open(part).map_err(at("open", part))?;
    cache::lock(&file, part)?;
    if file.metadata().map_err(at("read", part))?.len() > package.size {
        file.set_len(0).map_err(at("truncate", part))?;
    }
    Ok(file)
}

fn url_of(mirror: &Mirror, package: &Package) -> String {
    // '+' is legal in a path, but some mirrors read it as a space.
    format!("{}/{}", mirror.base(package.archive), package.path.replace('+', "%2b"))
}

/// A client that trusts the certificate authorities of this host, since an inner mirror may have its own.
pub(crate) fn agent() -> ureq::Agent {
    let mut tls = ureq::tls::TlsConfig::builder();
    let roots = host_roots();
    if !roots.is_empty() {
        tls = tls.root_certs(ureq::tls::RootCerts::Specific(Arc::new(roots)));
    }
    ureq::Agent::config_builder()
        .tls_config(tls.build())
        .http_status_as_error(false)
        .max_idle_connections_per_host(PARALLEL)
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .user_agent("roost")
        .build()
        .new_agent()
}

fn host_roots() -> Vec<ureq::tls::Certificate<'static>> {
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let usual = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
    let bundle = named.into_iter().chain(usual.map(PathBuf::from)).find_map(|p| std::fs::read(p).ok());
    ureq::tls::parse_pem(&bundle.unwrap_or_default())
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect()
}

/// Gone packages are an answer, unless something else failed too: then that is the error.
fn judge(failures: Vec<(Package, Failure)>, total: usize, mirror: &Mirror) -> Result<Fetched> {
    let failed = failures.len();
    let bytes = failures.iter().map(|(p, _)| p.size).sum();
    let (gone, mut real): (Vec<_>, Vec<_>) = failures.into_iter().partition(|(_, f)| matches!(f, Failure::Gone));
    // A wrong byte or a full disk says more than the broken connections around it.
    real.sort_by_key(|(p, f)| (!matches!(f, Failure::Ours(_)), p.name.clone()));
    match real.into_iter().next() {
        None if gone.is_empty() => Ok(Fetched::All),
        None => Ok(Fetched::Gone(gone.into_iter().map(|(p, _)| p).collect())),
        Some((_, Failure::Ours(error))) => Err(error),
        Some((package, failure)) => Err(Error::Fetch {
            failed,
            total,
            bytes,
            url: url_of(mirror, &package),
            package: package.to_string(),
            source: Box::new(failure),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;

    use super::*;
    use crate::lock::Archive;
    use crate::report::Style;

    /// A mirror with one file at any path; understands Range. Ends after `requests` connections.
    fn mirror_with(body: Vec<u8>, status: u16, requests: usize) -> (Mirror, std::thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let served = std::thread::spawn(move || {
            listener.incoming().take(requests).map(|stream| answer(stream.expect("a client"), &body, status)).collect()
        });
        (Mirror::from_url(&url).expect("an address"), served)
    }

    fn answer(mut stream: std::net::TcpStream, body: &[u8], status: u16) -> String {
        let head: Vec<String> =
            BufReader::new(&stream).lines().map_while(|l| l.ok().filter(|l| !l.is_empty())).collect();
        let range = head.iter().find_map(|l| l.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let from: usize = range.and_then(|r| r.trim_end_matches('-').parse().ok()).unwrap_or(0);
        let status = if from > 0 && status == 200 { 206 } else { status };
        let rest = &body[from..];
        let _ = write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
        let _ = stream.write_all(rest);
        head.join("\n")
    }

    fn package(body: &[u8]) -> Package {
        Package {
            name: "aa".into(),
            version: "1+b".into(),
            arch: "all".into(),
            archive: Archive::Debian,
            path: "pool/aa_1+b.deb".into(),
            size: body.len() as u64,
            sha256: Digest(sha2::Sha256::digest(body).into()),
        }
    }

    fn run(package: &Package, mirror: &Mirror, folder: &Path) -> Result<Fetched> {
        let report = Report::new(Style::Silent);
        fetch(std::slice::from_ref(package), || Ok(mirror.clone()), &Cache::at(folder), &report)
    }

    #[test]
    fn a_package_is_fetched_once_and_then_needs_no_mirror() {
        let folder = tempfile::tempdir().expect("a folder");
        let body = b"some bytes of a package".to_vec();
        let package = package(&body);
        let (mirror, served) = mirror_with(body, 200, 1);
        assert_eq!(run(&package, &mirror, folder.path()).expect("fetched"), Fetched::All);
        assert!(served.join().expect("the mirror").concat().starts_with("GET /debian/pool/aa_1%2bb.deb HTTP/1.1"));
        let nowhere = || Err(Error::NoMirror { looked: "nowhere".into() });
        let cache = Cache::at(folder.path());
        let report = Report::new(Style::Silent);
        assert_eq!(fetch(&[package], nowhere, &cache, &report).expect("cached"), Fetched::All);
    }

    #[test]
    fn a_broken_download_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let body: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let package = package(&body);
        let target = deb_path(&Cache::at(folder.path()), &package).expect("a path");
        std::fs::write(target.with_extension("part"), &body[..1234]).expect("a partial file");
        let (mirror, served) = mirror_with(body.clone(), 200, 1);
        assert_eq!(run(&package, &mirror, folder.path()).expect("fetched"), Fetched::All);
        assert!(served.join().expect("the mirror").concat().to_ascii_lowercase().contains("range: bytes=1234-"));
        assert_eq!(std::fs::read(target).expect("the package"), body);
    }

    #[test]
    fn a_bad_byte_is_an_error_that_names_the_package_and_is_not_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut body = b"some bytes of a package".to_vec();
        let package = package(&body);
        body[3] ^= 1;
        let (mirror, _served) = mirror_with(body, 200, 1);
        let error = run(&package, &mirror, folder.path()).expect_err("a bad byte").to_string();
        assert!(error.starts_with("Package aa 1+b: SHA-256 is "), "{error}");
        let target = deb_path(&Cache::at(folder.path()), &package).expect("a path");
        assert!(!target.exists());
        assert_eq!(std::fs::metadata(target.with_extension("part")).expect("the rest").len(), 0);
    }

    #[test]
    fn a_version_that_the_mirror_dropped_is_told_apart_from_a_mirror_that_fails() {
        let folder = tempfile::tempdir().expect("a folder");
        let package = package(b"x");
        let (mirror, _served) = mirror_with(Vec::new(), 404, 1);
        let gone = run(&package, &mirror, folder.path()).expect("an answer");
        assert_eq!(gone, Fetched::Gone(vec![package.clone()]));
        let (mirror, _served) = mirror_with(Vec::new(), 503, 1);
        let error = run(&package, &mirror, folder.path()).expect_err("no answer");
        assert!(matches!(error, Error::Fetch { failed: 1, total: 1, bytes: 1, .. }), "{error}");
    }

    #[test]
    fn a_mirror_that_is_down_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let mirror = Mirror::from_url(&format!("http://{port}")).expect("an address");
        let error = run(&package(b"x"), &mirror, folder.path()).expect_err("nobody there").to_string();
        assert!(error.contains(&port.to_string()) && error.contains("aa 1+b"), "{error}");
    }
}
