//! `roost tools`: the programs for other machines, static and stripped.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use super::common::Telling;
use crate::cache::{self, Cache};
use crate::elf;
use crate::programs::{self, Level};
use crate::report::megabytes;

/// Programs that run elsewhere than in an image of ours.
const TOOLS: [&str; 4] = ["store", "qa", "router", "vma"];

/// Build the programs for other machines (store, qa, router, vma): static, for any Linux on x86-64.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder for the programs.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How much to spend on size.
    #[arg(long, value_enum, default_value = "release")]
    level: Level,
    #[command(flatten)]
    telling: Telling,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let report = args.telling.report();
    let built = programs::build(&TOOLS, args.level, &crate::source_dir()?, &Cache::of_user(), &report)?;
    for (name, bytes) in built.iter() {
        check_static(name, bytes)?;
        let file = args.out.join(name);
        cache::write_whole(&file, bytes)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))
            .with_context(|| format!("Cannot make {} executable", file.display()))?;
        report.note(&format!("{:<8} {:>10}  {}", name, megabytes(bytes.len() as u64), file.display()));
    }
    Ok(())
}

/// A program for any Linux needs nothing of the machine that it runs on.
fn check_static(name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let needs = elf::needs(bytes).with_context(|| format!("Cannot read the program {name}"))?;
    if needs == elf::Needs::default() { Ok(()) } else { bail!("The program {name} is not static: it needs {needs:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_program_that_needs_nothing_passes() {
        let this = std::fs::read("/proc/self/exe").expect("the running test");
        check_static("this", &this).expect("tests are static as the programs are");
        let dynamic = elf::tests::made(Some("/lib64/ld.so"), &["libc.so.6"], None);
        let error = check_static("x", &dynamic).expect_err("it is not").to_string();
        assert!(error.starts_with("The program x is not static") && error.contains("libc.so.6"), "{error}");
    }
}
