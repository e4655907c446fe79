//! `qa config`: configuration of the cluster.

use super::{Command, Session};
use crate::{args::Keys as Pairs, output};
use anyhow::{Context, bail};
use model::{
    api::{ConfigEntry, Done, Keys, Ssl},
    sync::Secret,
};
use std::{collections::BTreeMap, process::ExitCode};

pub const COMMANDS: &[Command] = &[
    Command {
        object: "config",
        name: "get",
        usage: "[KEY ...]",
        doc: "Shows configuration: the value set, else the default. Without keys, all but internal.*.",
        verb: None,
        read: |invocation| {
            let keys = invocation.arguments.clone();
            Ok(Box::new(move |session| get(session, &keys)))
        },
    },
    Command {
        object: "config",
        name: "set",
        usage: "KEY=VALUE ...",
        doc: "Sets configuration; nodes follow at once.",
        verb: None,
        read: |invocation| {
            let pairs = Pairs::any(&invocation.arguments)?;
            Ok(Box::new(move |session| set(session, pairs)))
        },
    },
    Command {
        object: "config",
        name: "del",
        usage: "[KEY ...]",
        doc: "Goes back to the defaults. Without keys, all of them.",
        verb: Some("delete"),
        read: |invocation| {
            let keys = Keys { keys: invocation.arguments.clone() };
            Ok(Box::new(move |session| {
                let done: Done = session.client.post("/config/del", &[], &keys)?;
                Ok(output::done(&done, "{} config entries deleted.", session.quiet))
            }))
        },
    },
    Command {
        object: "config",
        name: "ssl",
        usage: "key=FILE cert=FILE [ca=FILE] [crl=FILE]",
        doc: "Sets the certificate that routers show to clients (PEM files).",
        verb: None,
        read: |invocation| {
            let keys = Pairs::new(&invocation.arguments, &["key", "cert", "ca", "crl"])?;
            let (key, cert) = (keys.required("key")?, keys.required("cert")?);
            let (ca, crl) = (keys.text("ca"), keys.text("crl"));
            Ok(Box::new(move |session| ssl(session, &key, &cert, ca.as_deref(), crl.as_deref())))
        },
    },
];

fn get(session: &Session, keys: &[String]) -> anyhow::Result<ExitCode> {
    let query: &[(&str, &str)] = if keys.is_empty() { &[] } else { &[("all", "1")] };
    let entries: Vec<ConfigEntry> = session.client.get("/config", query)?;
    if let Some(unknown) = keys.iter().find(|k| !entries.iter().any(|e| e.key == **k)) {
        let near = model::suggest::nearest(unknown, entries.iter().map(|e| e.key.as_str()));
        bail!(
            "unknown configuration key '{unknown}'{}",
            near.map(|n| format!(": did you mean '{n}'?")).unwrap_or_default()
        );
    }
    for entry in entries.iter().filter(|e| keys.is_empty() || keys.contains(&e.key)) {
        output::say(&format!("{}={}\n", entry.key, entry.value));
    }
    Ok(ExitCode::SUCCESS)
}

fn set(session: &Session, pairs: Vec<(String, String)>) -> anyhow::Result<ExitCode> {
    if let Some((key, _)) = pairs.iter().find(|(k, _)| k.starts_with("l7r.ssl.")) {
        bail!("{key} is set by 'qa config ssl'");
    }
    let pairs: BTreeMap<String, String> = pairs.into_iter().collect();
    let _done: Done = session.client.put("/config", &[], &pairs)?;
    Ok(ExitCode::SUCCESS)
}

fn ssl(session: &Session, key: &str, cert: &str, ca: Option<&str>, crl: Option<&str>) -> anyhow::Result<ExitCode> {
    let read = |what: &str, file: &str| {
        std::fs::read_to_string(file).with_context(|| format!("{file}: Unable to read {what} file"))
    };
    let body = Ssl {
        cert: read("cert", cert)?,
        key: Secret(read("key", key)?),
        ca: ca.map(|f| read("ca", f)).transpose()?,
        crl: crl.map(|f| read("crl", f)).transpose()?,
    };
    session.client.put::<_, ()>("/config/ssl", &[], &body)?;
    if !session.quiet {
        output::say("SSL certificate, private key, ca and crl set.\n");
    }
    Ok(ExitCode::SUCCESS)
}
