//! `qa di`: disk images.

use super::{Command, Session, delete, keys, list};
use crate::{args::SyntaxError, output, table::Table};
use anyhow::{Context, bail};
use model::{
    OsfId,
    api::{DiRow, Done, Import, ImportState, NewDi, NewUpload, Tag, Upload},
};
use std::{
    fs::File,
    io::{self, IsTerminal, Read, Seek, SeekFrom},
    path::Path,
    process::ExitCode,
    time::Duration,
};

macro_rules! tag {
    ($name:literal, $said:literal, $doc:literal) => {
        Command {
            object: "di",
            name: $name,
            usage: "di_id=N tag=TAG",
            doc: $doc,
            verb: None,
            read: |invocation| {
                let keys = keys(invocation, &["di_id", "tag"])?;
                let di: u32 = keys.parsed("di_id", "a number")?.ok_or(SyntaxError::MissingKey("di_id"))?;
                let tag = Tag { tag: keys.required("tag")? };
                Ok(Box::new(move |session| {
                    let done: Done = session.client.post(&format!("/dis/{di}/{}", $name), &[], &tag)?;
                    Ok(output::done(&done, $said, session.quiet))
                }))
            },
        }
    };
}
pub const COMMANDS: &[Command] = &[
    Command {
        object: "di",
        name: "add",
        usage: "path=FILE osf=NAME|osf_id=N [version=VERSION]",
        doc: "Uploads a tar (gz, xz, zst) or squashfs file; the store converts and publishes it. Tag head moves to it.",
        verb: None,
        read: |invocation| {
            let keys = keys(invocation, &["path", "osf", "osf_id", "version"])?;
            let path = keys.required("path")?;
            let (osf, osf_id) = (keys.text("osf"), keys.parsed::<OsfId>("osf_id", "a number")?);
            if osf.is_some() == osf_id.is_some() {
                return Err(SyntaxError::ExactlyOne("osf=, osf_id="));
            }
            let version = keys.text("version");
            Ok(Box::new(move |session| {
                let upload = upload(session, Path::new(&path))?;
                import(session, &NewDi { upload, osf, osf_id, version })
            }))
        },
    },
    tag!("tag", "DI tagged", "Sets a tag: it moves here from another DI of the OS flavour."),
    tag!("untag", "DI untagged", "Takes a tag away."),
    list!("di", "list", "/dis", list, "Lists disk images."),
    delete!("di", "/dis", "{} DIs deleted.", "Deletes disk images that no VM runs."),
];

fn list(rows: Vec<DiRow>) -> Vec<Table> {
    let mut table = Table::new(&["Id", "OSF", "Version", "Path", "Tags"]);
    for row in rows {
        table.row(vec![row.id.to_string(), row.osf, row.version, row.path, row.tags.join(", ")]);
    }
    vec![table]
}

/// One request carries this much: small enough to be sent again after a break.
const PART: u64 = 16 << 20;

/// Uploads a file in parts and returns the upload's id. A part that breaks off is sent again.
fn upload(session: &Session, path: &Path) -> anyhow::Result<String> {
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

/// Asks the store to convert an upload, and waits for it.
fn import(session: &Session, new: &NewDi) -> anyhow::Result<ExitCode> {
    let mut import: Import = session.client.post("/dis", &[], new)?;
    while import.state == ImportState::Running {
        progress(session, "Converting", import.done_bytes, import.total_bytes);
        std::thread::sleep(Duration::from_millis(200));
        import = session.client.get(&format!("/imports/{}", import.id), &[])?;
    }
    let Some(di) = import.di else {
        bail!("{}", import.error.as_deref().unwrap_or("the store gave no reason"));
    };
    if import.dropped_devices > 0 && !session.quiet {
        output::complain(&format!("{} device nodes were left out", import.dropped_devices));
    }
    output::say(&format!("DI added with id {di}\n"));
    Ok(ExitCode::SUCCESS)
}

/// A line that is written over, on a terminal only.
fn progress(session: &Session, what: &str, done: u64, all: u64) {
    use io::Write;
    let mut err = io::stderr();
    if session.quiet || !err.is_terminal() {
        return;
    }
    let end = if done >= all { "\n" } else { "" };
    // Nobody is left to be told when the terminal is gone.
    let _gone = write!(err, "\r{what}: {} of {} MB{end}", done / 1_000_000, all / 1_000_000);
}
