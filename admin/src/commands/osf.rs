//! `qa osf`: OS flavours.

use super::{Command, delete, keys, list};
use crate::{output, table::Table};
use model::api::{Added, NewOsf, OsfRow};
use std::process::ExitCode;

pub const COMMANDS: &[Command] = &[
    Command {
        object: "osf",
        name: "add",
        usage: "name=NAME [memory=256m] [use_overlay=1] [user_storage_size=2g]",
        doc: "Adds an OS flavour. Without user_storage_size, homes do not persist.",
        verb: None,
        read: |invocation| {
            let keys = keys(invocation, &["name", "memory", "use_overlay", "user_storage_size"])?;
            let body = NewOsf {
                name: keys.required("name")?,
                memory_mib: keys.mib("memory")?,
                use_overlay: keys.parsed::<u8>("use_overlay", "0 or 1")?.map(|v| v != 0),
                user_storage_mib: keys.mib("user_storage_size")?,
            };
            Ok(Box::new(move |session| {
                let added: Added = session.client.post("/osfs", &[], &body)?;
                output::say(&format!("OSF added with id {}\n", added.id));
                Ok(ExitCode::SUCCESS)
            }))
        },
    },
    list!("osf", "list", "/osfs", list, "Lists OS flavours."),
    delete!("osf", "/osfs", "{} OSFs deleted.", "Deletes OS flavours that no VM uses."),
];

fn list(rows: Vec<OsfRow>) -> Vec<Table> {
    let mut table = Table::new(&["Id", "Name", "RAM", "Overlay", "UserHD"]);
    for row in rows {
        let home = row.user_storage_mib.map(|m| m.to_string()).unwrap_or_default();
        table.row(vec![
            row.id.to_string(),
            row.name,
            row.memory_mib.to_string(),
            output::yes_no(row.use_overlay),
            home,
        ]);
    }
    vec![table]
}
