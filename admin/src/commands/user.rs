//! `qa user`: people.

use super::{Command, delete, keys, list};
use crate::{args::SyntaxError, output, table::Table};
use anyhow::{Context, bail};
use model::{
    api::{Added, Done, Login, NewUser, Totp, UserRow},
    sync::Secret,
};
use std::{
    io::{BufRead, IsTerminal},
    process::ExitCode,
};

pub const COMMANDS: &[Command] = &[
    Command {
        object: "user",
        name: "add",
        usage: "login=LOGIN [password=PASSWORD]",
        doc: "Adds a user. Without password= it is asked for, or read from standard input: it then shows in no process list.",
        verb: None,
        read: |invocation| {
            let keys = keys(invocation, &["login", "password"])?;
            let (login, password) = (keys.required("login")?, keys.text("password"));
            Ok(Box::new(move |session| {
                let password = password.map_or_else(ask, |p| Ok(Secret(p)))?;
                let added: Added = session.client.post("/users", &[], &NewUser { login, password })?;
                output::say(&format!("User added with id {}\n", added.id));
                Ok(ExitCode::SUCCESS)
            }))
        },
    },
    Command {
        object: "user",
        name: "passwd",
        usage: "user=LOGIN",
        doc: "Sets a user's password: asked for twice, or read from standard input.",
        verb: None,
        read: |invocation| {
            let keys = keys(invocation, &["user", "login"])?;
            let login = keys.text("user").or(keys.text("login")).ok_or(SyntaxError::MissingKey("user"))?;
            Ok(Box::new(move |session| {
                let done: Done = session.client.post("/users/passwd", &[], &NewUser { login, password: ask()? })?;
                Ok(output::done(&done, "Password of {} user changed.", session.quiet))
            }))
        },
    },
    Command {
        object: "user",
        name: "totp",
        usage: "user=LOGIN",
        doc: "Gives a user one-time codes and prints the otpauth:// address for the authenticator, this once. From now on each login needs a code; QVD's clients take it behind the password.",
        verb: None,
        read: |invocation| {
            let login = keys(invocation, &["user"])?.required("user")?;
            Ok(Box::new(move |session| {
                let totp: Totp = session.client.post("/users/totp", &[], &Login { login })?;
                output::say(&format!("{}\n", totp.uri.0));
                Ok(ExitCode::SUCCESS)
            }))
        },
    },
    Command {
        object: "user",
        name: "totp_del",
        usage: "user=LOGIN",
        doc: "Takes a user's one-time codes away: the password is enough again.",
        verb: None,
        read: |invocation| {
            let login = keys(invocation, &["user"])?.required("user")?;
            Ok(Box::new(move |session| {
                let done: Done = session.client.post("/users/totp/del", &[], &Login { login })?;
                Ok(output::done(&done, "One-time codes of {} user taken away.", session.quiet))
            }))
        },
    },
    list!("user", "list", "/users", list, "Lists users."),
    delete!("user", "/users", "{} users deleted.", "Deletes users who own no VMs."),
];

fn list(rows: Vec<UserRow>) -> Vec<Table> {
    let mut table = Table::new(&["Id", "Login"]);
    for row in rows {
        table.row(vec![row.id.to_string(), row.login]);
    }
    vec![table]
}

/// A password: typed twice without echo, or the first line of standard input.
fn ask() -> anyhow::Result<Secret> {
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
        return Ok(Secret(line.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let first = rpassword::prompt_password("New password: ").context("cannot read the password")?;
    let again = rpassword::prompt_password("Confirm password: ").context("cannot read the password")?;
    if first != again {
        bail!("Entered passwords don't match");
    }
    Ok(Secret(first))
}
