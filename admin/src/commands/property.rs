//! `qa OBJECT propget|propset|propdel`: custom properties.

use super::{Command, Session};
use crate::{args::Keys as Pairs, output};
use anyhow::bail;
use model::api::{Done, Keys, PropertyRow};
use std::{collections::BTreeMap, process::ExitCode};

macro_rules! of {
    ($object:literal, $path:literal, $plural:literal) => {
        [
            Command {
                object: $object,
                name: "propget",
                usage: "[-f FILTER] [KEY ...]",
                doc: "Shows properties.",
                verb: None,
                read: |invocation| {
                    let keys = invocation.arguments.clone();
                    Ok(Box::new(move |session| get(session, $path, &keys)))
                },
            },
            Command {
                object: $object,
                name: "propset",
                usage: "[-f FILTER] KEY=VALUE ...",
                doc: "Sets properties.",
                verb: None,
                read: |invocation| {
                    let pairs = Pairs::any(&invocation.arguments)?;
                    Ok(Box::new(move |session| set(session, $path, $plural, pairs)))
                },
            },
            Command {
                object: $object,
                name: "propdel",
                usage: "[-f FILTER] [KEY ...]",
                doc: "Deletes properties; without keys, all of the objects that the filter means.",
                verb: Some("delete properties of"),
                read: |invocation| {
                    let keys = Keys { keys: invocation.arguments.clone() };
                    Ok(Box::new(move |session| {
                        let done: Done = session.client.post(concat!($path, "/del"), &session.query(), &keys)?;
                        Ok(output::done(&done, concat!("propdel in {} ", $plural, "."), session.quiet))
                    }))
                },
            },
        ]
    };
}

const HOST: [Command; 3] = of!("host", "/hosts/properties", "hosts");
const OSF: [Command; 3] = of!("osf", "/osfs/properties", "OSFs");
const DI: [Command; 3] = of!("di", "/dis/properties", "DIs");
const USER: [Command; 3] = of!("user", "/users/properties", "users");
const VM: [Command; 3] = of!("vm", "/vms/properties", "virtual machines");

pub const COMMANDS: &[Command] = {
    let ([h1, h2, h3], [o1, o2, o3], [d1, d2, d3]) = (HOST, OSF, DI);
    let ([u1, u2, u3], [v1, v2, v3]) = (USER, VM);
    &[h1, h2, h3, o1, o2, o3, d1, d2, d3, u1, u2, u3, v1, v2, v3]
};

fn get(session: &Session, path: &str, keys: &[String]) -> anyhow::Result<ExitCode> {
    let rows: Vec<PropertyRow> = session.client.get(path, &session.query())?;
    for row in rows.iter().filter(|r| keys.is_empty() || keys.contains(&r.key)) {
        output::say(&format!("{}\t{}={}\n", row.name, row.key, row.value));
    }
    Ok(ExitCode::SUCCESS)
}

fn set(session: &Session, path: &str, plural: &str, pairs: Vec<(String, String)>) -> anyhow::Result<ExitCode> {
    let pairs: BTreeMap<String, String> = pairs.into_iter().collect();
    let done: Done = session.client.put(path, &session.query(), &pairs)?;
    if done.matched == 0 {
        bail!("No properties were set (filter matched 0 {plural})");
    }
    Ok(output::done(&done, &format!("propset in {{}} {plural}."), session.quiet))
}
