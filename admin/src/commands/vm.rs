//! `qa vm`: virtual machines.

use super::{Command, delete, keys, list, on_many};
use crate::{args::SyntaxError, output, table::Table};
use model::{
    OsfId, UserId,
    api::{Added, BlockVm, Done, EditVm, NewVm, VmCounters, VmRow},
    state::VmState,
};
use std::process::ExitCode;

pub const COMMANDS: &[Command] = &[
    Command {
        object: "vm",
        name: "add",
        usage: "name=NAME user=LOGIN|user_id=N osf=NAME|osf_id=N [ip=ADDRESS] [di_tag=default] [bulk=N]",
        doc: "Adds a virtual machine, or with bulk=N so many, named NAME-0 and on.",
        verb: None,
        read: |invocation| {
            let keys = keys(invocation, &["name", "user", "user_id", "osf", "osf_id", "ip", "di_tag", "bulk"])?;
            let body = NewVm {
                name: keys.required("name")?,
                user: keys.text("user"),
                user_id: keys.parsed::<UserId>("user_id", "a number")?,
                osf: keys.text("osf"),
                osf_id: keys.parsed::<OsfId>("osf_id", "a number")?,
                ip: keys.parsed("ip", "an IPv4 address")?,
                di_tag: keys.text("di_tag"),
                bulk: keys.parsed("bulk", "a number")?,
            };
            if body.user.is_some() == body.user_id.is_some() {
                return Err(SyntaxError::ExactlyOne("user=, user_id="));
            }
            if body.osf.is_some() == body.osf_id.is_some() {
                return Err(SyntaxError::ExactlyOne("osf=, osf_id="));
            }
            Ok(Box::new(move |session| {
                let added: Added = session.client.post("/vms", &[], &body)?;
                for id in added.id..added.id + added.count {
                    output::say(&format!("VM added with id {id}\n"));
                }
                Ok(ExitCode::SUCCESS)
            }))
        },
    },
    list!("vm", "list", "/vms", list, "Lists virtual machines."),
    list!("vm", "counters", "/vms/counters", counters, "Lists how often virtual machines were started."),
    Command {
        object: "vm",
        name: "edit",
        usage: "-f FILTER [name=NAME] [user=LOGIN] [ip=ADDRESS] [di_tag=TAG] [blocked=0|1]",
        doc: "Changes virtual machines.",
        verb: Some("edit"),
        read: |invocation| {
            let keys = keys(invocation, &["name", "user", "ip", "di_tag", "blocked"])?;
            let body = EditVm {
                name: keys.text("name"),
                user: keys.text("user"),
                ip: keys.parsed("ip", "an IPv4 address")?,
                di_tag: keys.text("di_tag"),
                blocked: keys.parsed::<u8>("blocked", "0 or 1")?.map(|v| v != 0),
            };
            Ok(Box::new(move |session| {
                let done: Done = session.client.patch("/vms", &session.query(), &body)?;
                Ok(output::done(&done, "Edited {} VMs.", session.quiet))
            }))
        },
    },
    on_many!("vm", "start", "/vms/start", "Started {} VMs.", "Starts stopped virtual machines."),
    on_many!("vm", "stop", "/vms/stop", "Stopped {} VMs.", "Shuts virtual machines down in order."),
    Command {
        object: "vm",
        name: "block",
        usage: "[-f FILTER] [note=TEXT]",
        doc: "Blocked virtual machines take no logins (maintenance), and their sessions end. The user reads the note.",
        verb: Some("block"),
        read: |invocation| {
            let body = BlockVm { note: keys(invocation, &["note"])?.text("note") };
            Ok(Box::new(move |session| {
                let done: Done = session.client.post("/vms/block", &session.query(), &body)?;
                Ok(output::done(&done, "Blocked {} VMs.", session.quiet))
            }))
        },
    },
    on_many!(
        "vm",
        "unblock",
        "/vms/unblock",
        "Unblocked {} VMs.",
        "Undoes block, also one that a failed start has set."
    ),
    on_many!(
        "vm",
        "disconnect_user",
        "/vms/disconnect_user",
        "Disconnected {} users.",
        "Ends the sessions of virtual machines; their desktops stay."
    ),
    on_many!(
        "vm",
        "release",
        "/vms/release",
        "Released {} VMs.",
        "Lets virtual machines of a node that will not come back start elsewhere. Make sure that the node is off: what it still runs would run twice."
    ),
    delete!("vm", "/vms", "{} VMs deleted.", "Deletes stopped virtual machines."),
];

fn list(rows: Vec<VmRow>) -> Vec<Table> {
    let mut table = Table::new(&[
        "Id",
        "Name",
        "User",
        "RealUser",
        "Ip",
        "OSF",
        "DI_Tag",
        "DI",
        "Running DI",
        "Host",
        "State",
        "L7R",
        "UserState",
        "Blocked",
        "Expire soft",
        "Expire hard",
        "Remarks",
    ]);
    for row in rows {
        let (state, remarks) = (state(&row), remarks(&row));
        table.row(vec![
            row.id.to_string(),
            row.name,
            row.user,
            row.real_user.unwrap_or_default(),
            row.ip.to_string(),
            row.osf,
            row.di_tag,
            row.di.unwrap_or_default(),
            row.running_di.unwrap_or_default(),
            row.host.unwrap_or_default(),
            state,
            row.l7r.unwrap_or_default(),
            row.user_state.to_string(),
            output::yes_no(row.blocked),
            row.expire_soft.unwrap_or_default(),
            row.expire_hard.unwrap_or_default(),
            remarks,
        ]);
    }
    vec![table]
}

fn state(row: &VmRow) -> String {
    if row.unavailable { "unavailable".to_owned() } else { row.state.to_string() }
}

/// Why it is blocked or failed, else the step it is in.
fn remarks(row: &VmRow) -> String {
    if let Some(note) = &row.block_note {
        return note.clone();
    }
    let reason = row.failed.as_ref().or(row.blocked_reason.as_ref());
    let phase = || if row.state == VmState::Running { String::new() } else { row.phase.clone() };
    reason.map_or_else(phase, |r| format!("failed: {r}"))
}

fn counters(rows: Vec<VmCounters>) -> Vec<Table> {
    let count = |of: fn(&VmCounters) -> bool| rows.iter().filter(|r| of(r)).count().to_string();
    let mut summary = Table::new(&["Virtual machines", "Running", "Blocked"]);
    summary.row(vec![rows.len().to_string(), count(|r| r.state == VmState::Running), count(|r| r.blocked)]);
    let mut table = Table::new(&["Id", "Name", "Run attempts", "Run OK"]);
    for row in &rows {
        table.row(vec![row.id.to_string(), row.name.clone(), row.run_attempts.to_string(), row.run_ok.to_string()]);
    }
    vec![summary, table]
}
