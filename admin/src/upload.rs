//! Files on their way to the store.

use crate::commands::Session;
use anyhow::Context;
use model::api::{NewUpload, Upload};
use std::{
    fs::File,
    io::{self, IsTerminal, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

/// One request carries this much: small enough to be sent again after a break.
const PART: u64 = 16 << 20;

/// Uploads a file in parts and returns the upload's id. A part that breaks off is sent again.
pub fn upload(session: &Session, path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = file.metadata().with_context(|| format!("cannot read {}", path.display()))?.len();
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut upload: Upload = session.client.post("/uploads", &[], &NewUpload { name, bytes, sha256: None })?;
    let at = format!("/uploads/{}", upload.id);
    let mut failures = 0;
    while upload.received < bytes {
        match send_part(session, &mut file, &at, &upload) {
            Ok(next) => (upload, failures) = (next, 0),
            Err(e) if failures < 3 => {
                failures += 1;
                std::thread::sleep(Duration::from_secs(failures));
                upload = session.client.get(&at, &[]).map_err(|_| e)?;
            }
            Err(e) => return Err(e.context(format!("upload broke off at byte {} of {bytes}", upload.received))),
        }
        progress(session, "Uploading", upload.received, bytes);
    }
    Ok(upload.id)
}

fn send_part(session: &Session, file: &mut File, at: &str, upload: &Upload) -> anyhow::Result<Upload> {
    let length = PART.min(upload.bytes - upload.received);
    file.seek(SeekFrom::Start(upload.received)).context("cannot read the file to upload")?;
    let offset = upload.received.to_string();
    session.client.put_bytes(at, &[("offset", &offset)], length, &mut file.take(length))
}

/// A line that is written over, on a terminal only.
pub fn progress(session: &Session, what: &str, done: u64, all: u64) {
    use io::Write;
    let mut err = io::stderr();
    if session.quiet || !err.is_terminal() {
        return;
    }
    let end = if done >= all { "\n" } else { "" };
    // Nobody is left to be told when the terminal is gone.
    let _gone = write!(err, "\r{what}: {} of {} MB{end}", done / 1_000_000, all / 1_000_000);
}
