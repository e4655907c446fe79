//! The guest agent: readiness, user, session, hooks.
//!
//! One program, several names: `vma` is the agent; as `init` it is the first process of a small guest and
//! runs the agent; as `nxdialog` it is what nxagent asks when its window is closed.

mod agent;
mod bridge;
mod dialog;
mod environment;
mod error;
mod files;
mod init;
mod leftover;
mod link;
mod log;
mod machine;
mod nxlog;
mod options;
mod params;
mod proc;
mod session;
mod splice;
mod tcp;
mod user;

use anyhow::{Context, bail};
use session::Paths;
use std::{ffi::OsString, path::Path, process::ExitCode};

const USAGE: &str = "Usage: vma [--socket PATH] [--run DIR] [--nxagent PATH] [--xvnc PATH] [--desktop PATH]
           [--display N] [--as-self] [--home DIR]
       vma init
       vma nxdialog --dialog KIND --parent PID ...";

fn main() -> ExitCode {
    log::init();
    match dispatch() {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "Failed");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> anyhow::Result<ExitCode> {
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let name = if args.is_empty() { OsString::new() } else { args.remove(0) };
    let name = Path::new(&name).file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let verb = args.first().and_then(|arg| arg.to_str()).unwrap_or_default();
    match (name.as_str(), verb) {
        ("nxdialog", _) => Ok(dialog::main(&args)),
        (_, "nxdialog") => Ok(dialog::main(&args[1..])),
        (_, "bridge") => bridge::main(&args[1..]),
        (_, "files") => files::main(),
        (_, "run-as") => proc::run_as(&args[1..]),
        ("init", _) | (_, "init") => init::main(),
        _ => agent(&args),
    }
}

fn agent(args: &[OsString]) -> anyhow::Result<ExitCode> {
    let settings = settings(args)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), socket = %settings.socket.display(), "Agent starts");
    agent::run(settings).context("The agent cannot run")?;
    Ok(ExitCode::SUCCESS)
}

fn settings(args: &[OsString]) -> anyhow::Result<agent::Settings> {
    let mut settings = agent::Settings {
        socket: "/run/roost/vma.sock".into(),
        paths: Paths {
            run: "/run/vma".into(),
            nxagent: "/usr/bin/nxagent".into(),
            bridge: bridge::Programs { xvnc: "/usr/bin/Xvnc".into(), nxproxy: "/usr/bin/nxproxy".into() },
            desktop: "/usr/lib/roost/session".into(),
            display: 100,
        },
        as_self: false,
        home: None,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg:?} needs a value\n{USAGE}"));
        match arg.to_str() {
            Some("--socket") => settings.socket = value()?.into(),
            Some("--run") => settings.paths.run = value()?.into(),
            Some("--nxagent") => settings.paths.nxagent = value()?.into(),
            Some("--xvnc") => settings.paths.bridge.xvnc = value()?.into(),
            Some("--desktop") => settings.paths.desktop = value()?.into(),
            Some("--display") => settings.paths.display = display(value()?)?,
            Some("--home") => settings.home = Some(value()?.into()),
            Some("--as-self") => settings.as_self = true,
            _ => bail!("Unknown argument {arg:?}\n{USAGE}"),
        }
    }
    Ok(settings)
}

/// The session's port is 4000 more, so the number has a limit.
fn display(value: &OsString) -> anyhow::Result<u16> {
    let number = value.to_str().and_then(|text| text.parse().ok()).filter(|number| *number < 2000);
    number.with_context(|| format!("--display is {value:?}, expected a number from 0 to 1999"))
}
