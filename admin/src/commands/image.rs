//! `qa image`: versions of the node's image.

use super::{Command, keys, list};
use crate::{args::SyntaxError, output, table::Table, upload::upload};
use model::api::{NewNodeImage, NodeImageRow};
use std::{path::Path, process::ExitCode};

pub const COMMANDS: &[Command] = &[
    Command {
        object: "image",
        name: "add",
        usage: "path=FILE",
        doc: "Uploads an update set, such as node.set of 'roost build node'. Nodes move to it by 'qa host update'.",
        verb: None,
        read: |invocation| {
            let path = keys(invocation, &["path"])?.required("path")?;
            Ok(Box::new(move |session| {
                let upload = upload(session, Path::new(&path))?;
                let image: NodeImageRow = session.client.post("/images", &[], &NewNodeImage { upload })?;
                output::say(&format!("Image added with id {}: {} {}\n", image.id, image.name, image.version));
                Ok(ExitCode::SUCCESS)
            }))
        },
    },
    list!("image", "list", "/images", list, "Lists versions of the node's image, and how many nodes run them."),
    Command {
        object: "image",
        name: "del",
        usage: "id=N",
        doc: "Deletes a version that no node is to run.",
        verb: None,
        read: |invocation| {
            let id: u32 = keys(invocation, &["id"])?.parsed("id", "a number")?.ok_or(SyntaxError::MissingKey("id"))?;
            Ok(Box::new(move |session| {
                session.client.delete::<()>(&format!("/images/{id}"), &[])?;
                output::say("Image deleted\n");
                Ok(ExitCode::SUCCESS)
            }))
        },
    },
];

fn list(rows: Vec<NodeImageRow>) -> Vec<Table> {
    let mut table = Table::new(&["Id", "Name", "Version", "Level", "MB", "Signatures", "Running", "Wanted"]);
    for row in rows {
        let megabytes = format!("{:.1}", row.bytes as f64 / 1e6);
        let (signatures, running, wanted) =
            (row.signatures.to_string(), row.running.to_string(), row.wanted.to_string());
        table.row(vec![row.id.to_string(), row.name, row.version, row.level, megabytes, signatures, running, wanted]);
    }
    vec![table]
}
