//! `qa host`: nodes.

use super::{Command, Session, delete, keys, list, on_many};
use crate::{
    args::SyntaxError,
    output,
    table::{Table, clean},
};
use model::init::Timeline;
use model::{
    api::{
        Added, BootLog, BootRow, Cluster, Done, HostCounters, HostRecovery, HostRow, NewHost, NewToken, Token,
        TokenKind, UpdateHosts,
    },
    seed,
    update::Versions,
};
use std::process::ExitCode;

pub const COMMANDS: &[Command] = &[
    Command {
        object: "host",
        name: "add",
        usage: "name=NAME address=ADDRESS",
        doc: "Registers a node before it joins.",
        verb: None,
        read: |invocation| {
            let keys = keys(invocation, &["name", "address"])?;
            let body = NewHost { name: keys.required("name")?, address: keys.required("address")? };
            Ok(Box::new(move |session| {
                let added: Added = session.client.post("/hosts", &[], &body)?;
                output::say(&format!("Host added with id {}\n", added.id));
                Ok(ExitCode::SUCCESS)
            }))
        },
    },
    list!("host", "list", "/hosts", list, "Lists nodes; HKD is the time since the node's last word."),
    Command {
        object: "host",
        name: "log",
        usage: "[-f FILTER] [boot=N]",
        doc: "Lists the last boots of nodes and how each ended; with boot=N, an id of that list, shows the last words of one: \
              of the kernel if it panicked, and of the node's log.",
        verb: None,
        read: |invocation| {
            let boot: Option<u32> = keys(invocation, &["boot"])?.parsed("boot", "the id of a boot")?;
            Ok(Box::new(move |session| match boot {
                Some(boot) => last_words(session, boot),
                None => session.list("/hosts/boots", boots),
            }))
        },
    },
    list!("host", "counters", "/hosts/counters", counters, "Lists what nodes' routers have counted."),
    Command {
        object: "host",
        name: "seed",
        usage: "store=HOST[:PORT] [name=NAME] [token=no] [encryption=tpm]",
        doc: "Prints a seed for a new node: the store's address, the CA's fingerprint, a one-use token. encryption=tpm has \
              the node's STATE made encrypted, its key sealed by the machine's TPM 2.0.",
        verb: None,
        read: |invocation| {
            let keys = keys(invocation, &["store", "name", "token", "encryption"])?;
            let (store, name) = (keys.required("store")?, keys.parsed("name", "a host name")?);
            let token = keys.text("token").as_deref() != Some("no");
            let encryption: Option<seed::Encryption> = keys.parsed("encryption", "none or tpm")?;
            let state = encryption.map(|encryption| seed::StateSeed { encryption, recovery_key: None });
            Ok(Box::new(move |session| print_seed(session, &store, Own { name, state }, token)))
        },
    },
    Command {
        object: "host",
        name: "timeline",
        usage: "id=N",
        doc: "Shows how long each phase of a node's last boot took, in milliseconds after kernel start.",
        verb: None,
        read: |invocation| {
            let id: u32 = keys(invocation, &["id"])?.parsed("id", "a number")?.ok_or(SyntaxError::MissingKey("id"))?;
            Ok(Box::new(move |session| timeline(session, id)))
        },
    },
    Command {
        object: "host",
        name: "update",
        usage: "image=VERSION|none [window=HH:MM-HH:MM] [max_unavailable=N] [drain=SECONDS]",
        doc: "Moves nodes to a version of 'qa image list', one after the other: each fetches it at once, and goes down for \
              it in its turn, inside the window (UTC), when its users have left or drain= is over. The first node that \
              goes back to its old version halts the rest. image=none calls off what has not begun.",
        verb: Some("update"),
        read: |invocation| {
            let keys = keys(invocation, &["image", "window", "max_unavailable", "drain"])?;
            let wish = UpdateHosts {
                image: Some(keys.required("image")?).filter(|image| image != "none"),
                window: keys.text("window"),
                max_unavailable: keys.parsed("max_unavailable", "a number")?,
                drain_s: keys.parsed("drain", "a number of seconds")?,
            };
            Ok(Box::new(move |session| {
                let done: Done = session.client.post("/hosts/update", &session.query(), &wish)?;
                let said = if wish.image.is_some() { "{} hosts to be updated." } else { "{} hosts stay as they are." };
                Ok(output::done(&done, said, session.quiet))
            }))
        },
    },
    Command {
        object: "host",
        name: "recovery",
        usage: "[-f FILTER]",
        doc: "Prints the recovery keys of nodes' encrypted STATE: one opens it for a boot when put into the node's seed as \
              state.recovery-key. Each key that is shown is an event in the log.",
        verb: Some("print the recovery keys of"),
        read: |invocation| {
            super::nothing(invocation)?;
            Ok(Box::new(|session| {
                let keys: Vec<HostRecovery> = session.client.post("/hosts/recovery", &session.query(), &())?;
                session.show(keys, recovery)
            }))
        },
    },
    on_many!("host", "block", "/hosts/block", "{} hosts blocked.", "Blocked nodes take no new guests and no logins."),
    on_many!("host", "unblock", "/hosts/unblock", "{} hosts unblocked.", "Undoes block."),
    on_many!(
        "host",
        "approve",
        "/hosts/approve",
        "{} hosts approved.",
        "Lets waiting nodes join: compare the key's fingerprint with the node's console first."
    ),
    delete!(
        "host",
        "/hosts",
        "{} hosts deleted.",
        "Deletes nodes that hold no VMs; their certificates are good no more."
    ),
];

fn list(rows: Vec<HostRow>) -> Vec<Table> {
    let mut table = Table::new(&[
        "Id",
        "Name",
        "Address",
        "HKD",
        "Usable RAM",
        "Usable CPU",
        "VMs assigned",
        "Blocked",
        "State",
        "Version",
        "Remarks",
    ]);
    for row in &rows {
        table.row(vec![
            row.id.to_string(),
            row.name.clone(),
            row.address.clone(),
            row.seen_s.map(output::clock).unwrap_or_default(),
            format!("{:.0}", row.usable_ram_mib),
            format!("{:.0}", row.usable_cpu),
            row.vms.to_string(),
            output::yes_no(row.blocked),
            row.state.to_string(),
            row.versions.as_ref().map_or(&row.version, |v| &v.running).clone(),
            remarks(row),
        ]);
    }
    vec![table]
}

/// What an administrator should know or do about a node.
fn remarks(row: &HostRow) -> String {
    match (&row.key_sha256, row.approved) {
        (Some(key), false) => format!("waits for approval, key {key}"),
        _ => {
            let reason = Some(row.reason.clone()).filter(|reason| !reason.is_empty());
            reason
                .into_iter()
                .chain(row.versions.iter().flat_map(of_versions))
                .chain(of_update(row))
                .chain(row.hardening.iter().filter(|h| !h.missing.is_empty()).map(ToString::to_string))
                .collect::<Vec<_>>()
                .join("; ")
        }
    }
}

/// What a node says of its versions besides the one that runs.
fn of_versions(versions: &Versions) -> Vec<String> {
    let trial = versions.trial.then(|| "on trial".to_owned());
    let update = versions.update.iter().map(|update| {
        let detail = if update.detail.is_empty() { String::new() } else { format!(" ({})", update.detail) };
        format!("{} {}{detail}", update.step, update.version)
    });
    let refused = versions.refused.iter().map(|refused| format!("refused {}: {}", refused.version, refused.reason));
    trial.into_iter().chain(update).chain(refused).collect()
}

/// Why the update that the node is part of does not go on.
fn of_update(row: &HostRow) -> Option<String> {
    let update = row.update.as_ref()?;
    update.halted.as_ref().map(|why| format!("update to {} halted: {why}", update.version))
}

fn boots(rows: Vec<BootRow>) -> Vec<Table> {
    let mut table = Table::new(&["Id", "Host", "Began", "Version", "Lasted", "End", "Why"]);
    for row in rows {
        // The node tells of the one that runs when it begins.
        let lasted = if row.end == "running" { String::new() } else { output::clock(row.lasted_s) };
        table.row(vec![row.id.to_string(), row.host, row.began, row.version, lasted, row.end, row.why]);
    }
    vec![table]
}

/// Texts come from a node's kernel and programs: no control character of theirs reaches the terminal.
fn last_words(session: &Session, id: u32) -> anyhow::Result<ExitCode> {
    if session.filter.is_some() {
        let of_hosts: Vec<BootRow> = session.client.get("/hosts/boots", &session.query())?;
        anyhow::ensure!(of_hosts.iter().any(|row| row.id == id), "None of these hosts has a boot {id}");
    }
    let found: BootLog = session.client.get(&format!("/hosts/boots/{id}"), &[])?;
    if session.json {
        output::say(&format!("{}\n", serde_json::to_string_pretty(&found)?));
        return Ok(ExitCode::SUCCESS);
    }
    let BootLog { boot, panic, log } = found;
    output::say(&boots(vec![boot])[0].render(session.quiet));
    for (title, text) in [("The kernel's last words", panic), ("The node's log", log)] {
        if !text.is_empty() {
            let head = if session.quiet { String::new() } else { format!("\n{title}:\n") };
            let lines: String = text.lines().map(|line| format!("{}\n", clean(line))).collect();
            output::say(&format!("{head}{lines}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn counters(rows: Vec<HostCounters>) -> Vec<Table> {
    let mut table = Table::new(&[
        "Id",
        "Name",
        "HTTP Requests",
        "Auth attempts",
        "Auth OK",
        "NX attempts",
        "NX OK",
        "Short sessions",
    ]);
    for r in &rows {
        let counts = [r.http_requests, r.auth_attempts, r.auth_ok, r.nx_attempts, r.nx_ok, r.short_sessions];
        table.row([r.id.to_string(), r.name.clone()].into_iter().chain(counts.iter().map(u64::to_string)).collect());
    }
    vec![table]
}

fn recovery(rows: Vec<HostRecovery>) -> Vec<Table> {
    let mut table = Table::new(&["Id", "Name", "Volume", "Recovery key"]);
    for row in &rows {
        table.row(vec![row.id.to_string(), row.name.clone(), row.volume.clone(), row.key.text().to_owned()]);
    }
    vec![table]
}

fn timeline(session: &Session, id: u32) -> anyhow::Result<ExitCode> {
    let timeline: Timeline = session.client.get(&format!("/hosts/{id}/timeline"), &[])?;
    if session.json {
        output::say(&format!("{}\n", serde_json::to_string_pretty(&timeline)?));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new(&["Phase", "Began", "Took"]);
    for phase in timeline.phases {
        let took = phase.took_ms.map(|t| t.to_string()).unwrap_or_default();
        table.row(vec![phase.name, phase.began_ms.to_string(), took]);
    }
    table.row(vec!["ready".to_owned(), timeline.ready_ms.map(|t| t.to_string()).unwrap_or_default(), String::new()]);
    output::say(&table.render(session.quiet));
    if let Some(hardening) = timeline.hardening {
        output::say(&format!("{hardening}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a seed says of the node itself.
struct Own {
    name: Option<seed::HostName>,
    state: Option<seed::StateSeed>,
}

fn print_seed(session: &Session, store: &str, own: Own, token: bool) -> anyhow::Result<ExitCode> {
    let Own { name, state } = own;
    let cluster: Cluster = session.client.get("/cluster", &[])?;
    let address = store.parse().or_else(|_| format!("{store}:{}", cluster.node_port).parse());
    let note = name.as_ref().map(|n| format!("seed of {n}")).unwrap_or_default();
    let token = match token {
        true => {
            let body = NewToken { kind: TokenKind::Join, ttl_s: None, note };
            let made: Token = session.client.post("/tokens", &[], &body)?;
            Some(made.token.0)
        }
        false => None,
    };
    let seed = seed::Seed {
        store: seed::StoreSeed { address: address.map_err(anyhow::Error::msg)?, ca: Some(cluster.ca_sha256), token },
        node: name.map(|name| seed::NodeSeed { name }),
        network: None,
        state,
    };
    output::say(&toml::to_string(&seed)?);
    Ok(ExitCode::SUCCESS)
}
