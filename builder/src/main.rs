//! The roost program: from a recipe to a bootable image, and the lab that boots it.

use std::process::ExitCode;

use builder::commands::{build, demo, diff, inspect, keys, lock, sign, test, tools, verify};
use clap::Parser;

/// Build, inspect and try Roost images.
#[derive(Debug, Parser)]
#[command(name = "roost", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Lock(lock::Args),
    Build(build::Args),
    Inspect(inspect::Args),
    Keys(keys::Args),
    Sign(sign::Args),
    Tools(tools::Args),
    Diff(diff::Args),
    Verify(verify::Args),
    Demo(demo::Args),
    Test(test::Args),
}

fn main() -> ExitCode {
    // Fails only when somebody else was first, and then there is a provider as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Lock(args) => lock::run(args),
        Command::Build(args) => build::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Keys(args) => keys::run(args),
        Command::Sign(args) => sign::run(args),
        Command::Tools(args) => tools::run(args),
        Command::Diff(args) => diff::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Test(args) => test::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Every cause on its own line; no message repeats its cause.
            eprintln!("roost: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}
