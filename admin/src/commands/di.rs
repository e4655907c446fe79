//! `qa di`: disk images.

use super::{Command, Session, delete, keys, list};
use crate::{
    args::SyntaxError,
    output,
    table::Table,
    upload::{progress, upload},
};
use anyhow::bail;
use model::{
    OsfId,
    api::{DiRow, Done, Import, ImportState, NewDi, Tag},
};
use std::{path::Path, process::ExitCode, time::Duration};

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
