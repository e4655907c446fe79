//! qa, the admin command line: `qa [options] <object> <command> [arguments]`.
//!
//! Exit status: 0 when the command was carried out (also when it matched nothing, or was declined at the
//! prompt), 1 for a command line that cannot be read and for everything that failed.

mod args;
mod client;
mod commands;
mod config;
mod output;
mod table;
mod upload;

use args::Invocation;
use std::process::ExitCode;

fn main() -> ExitCode {
    let invocation = match args::parse(std::env::args().skip(1)) {
        Ok(invocation) => invocation,
        Err(e) => return output::syntax_error(&e, None, false),
    };
    let quiet = invocation.quiet;
    match run(invocation) {
        Ok(code) => code,
        Err(e) => {
            if !quiet {
                output::complain(&format!("Error: {e:#}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(invocation: Invocation) -> anyhow::Result<ExitCode> {
    if invocation.version {
        output::say(concat!("qa ", env!("CARGO_PKG_VERSION"), "\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let Some(command) = commands::find(invocation.object.as_deref(), invocation.command.as_deref()) else {
        output::say(&commands::overview(invocation.object.as_deref(), invocation.command.as_deref()));
        return Ok(if invocation.help { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    if invocation.help {
        output::say(&command.help());
        return Ok(ExitCode::SUCCESS);
    }
    let prepared = match command.prepare(&invocation) {
        Ok(prepared) => prepared,
        Err(e) => return Ok(output::syntax_error(&e, Some(&command.help()), invocation.quiet)),
    };
    if command.asks() && !invocation.force && invocation.filter.is_none() && !output::confirm(&command.question()) {
        return Ok(ExitCode::SUCCESS);
    }
    let client = client::Client::new(&config::find(invocation.config.as_deref())?)?;
    let session =
        commands::Session { client, filter: invocation.filter.clone(), quiet: invocation.quiet, json: invocation.json };
    prepared(&session)
}
