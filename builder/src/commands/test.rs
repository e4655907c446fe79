//! `roost test`: every suite, with the minutes of each.

use anyhow::{Context, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// Run the suites: format, lint, unit, build, scenarios.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also every seed, cut and matrix: hours instead of minutes.
    #[arg(long)]
    full: bool,
    /// Only these suites.
    #[arg(value_name = "SUITE")]
    only: Vec<String>,
}

/// One suite: its name and the commands that it runs, in order.
struct Suite {
    name: &'static str,
    what: &'static str,
    commands: Vec<Vec<String>>,
}

/// How a suite went.
struct Outcome {
    name: &'static str,
    took: Duration,
    error: Option<String>,
}

/// Runs the suites in order; a later one runs even when an earlier one failed.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let source = crate::source_dir()?;
    let chosen = choose(suites(args.full)?, &args.only)?;
    let outcomes: Vec<Outcome> = chosen.into_iter().map(|s| run_suite(&source, s)).collect();
    report(&outcomes)
}

fn suites(full: bool) -> anyhow::Result<Vec<Suite>> {
    let roost = std::env::current_exe().context("Cannot find the running program")?.display().to_string();
    let cargo = |line: &str| words(&format!("cargo {line}"));
    let mut scenarios = cargo("test --locked --no-fail-fast -p qemu-tests -- --test-threads=1");
    if full {
        scenarios.push("--include-ignored".to_owned());
    }
    let suite = |name, what, commands| Suite { name, what, commands };
    Ok(vec![
        suite("format", "the sources are formatted", vec![cargo("fmt --all --check")]),
        suite(
            "lint",
            "clippy has nothing to say",
            vec![cargo("clippy --locked --workspace --all-targets --quiet -- -D warnings")],
        ),
        suite(
            "unit",
            "tests beside the code, properties, conformance, formats",
            vec![cargo("test --locked --no-fail-fast --workspace --exclude qemu-tests")],
        ),
        suite(
            "build",
            "the images are built from their lock files",
            vec![
                vec![roost.clone(), "build".to_owned(), "node".to_owned()],
                vec![roost.clone(), "build".to_owned(), "demo-desktop".to_owned()],
            ],
        ),
        suite("scenarios", "the real image, booted", vec![scenarios]),
    ])
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn choose(suites: Vec<Suite>, only: &[String]) -> anyhow::Result<Vec<Suite>> {
    if let Some(unknown) = only.iter().find(|o| !suites.iter().any(|s| s.name == o.as_str())) {
        let names: Vec<&str> = suites.iter().map(|s| s.name).collect();
        bail!("'{unknown}' is no suite: expected one of {}", names.join(", "));
    }
    Ok(suites.into_iter().filter(|s| only.is_empty() || only.iter().any(|o| o == s.name)).collect())
}

fn run_suite(source: &Path, suite: Suite) -> Outcome {
    eprintln!("\n== {}: {}", suite.name, suite.what);
    let began = Instant::now();
    let error = suite.commands.iter().find_map(|c| run_command(source, c).err()).map(|e| format!("{e:#}"));
    Outcome { name: suite.name, took: began.elapsed(), error }
}

fn run_command(source: &Path, command: &[String]) -> anyhow::Result<()> {
    let line = command.join(" ");
    let status = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(source)
        .status()
        .with_context(|| format!("Cannot run '{line}'"))?;
    if status.success() { Ok(()) } else { bail!("'{line}' ended with {status}") }
}

fn report(outcomes: &[Outcome]) -> anyhow::Result<()> {
    println!("\n{:<12} {:>8}  result", "suite", "minutes");
    for o in outcomes {
        let minutes = o.took.as_secs_f64() / 60.0;
        println!("{:<12} {minutes:>8.1}  {}", o.name, o.error.as_deref().unwrap_or("passed"));
    }
    let failed = outcomes.iter().filter(|o| o.error.is_some()).count();
    println!("suites: {} passed, {failed} failed", outcomes.len() - failed);
    if failed == 0 { Ok(()) } else { bail!("{failed} of {} suites failed", outcomes.len()) }
}

/// Where the scenarios find the images that the build suite made.
pub fn images_dir(source: &Path) -> PathBuf {
    source.join("out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_suite_is_refused_with_the_names() {
        let err = choose(suites(false).expect("suites"), &["units".to_owned()]).err().expect("refused");
        assert_eq!(err.to_string(), "'units' is no suite: expected one of format, lint, unit, build, scenarios");
    }

    #[test]
    fn chosen_suites_keep_their_order() {
        let only = ["build".to_owned(), "format".to_owned()];
        let chosen = choose(suites(false).expect("suites"), &only).expect("known");
        assert_eq!(chosen.iter().map(|s| s.name).collect::<Vec<_>>(), ["format", "build"]);
    }
}
