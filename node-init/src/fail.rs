//! Dead ends: what broke, what to do, and then a reboot, which boot counting can turn into a roll-back.

use crate::boot::on_trial;
use crate::console::Console;
use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use sys::power::{End, end, sync_within};

/// Seconds that the page can be read.
const COUNTDOWN_S: u64 = 10;
/// The same in a trial: a version that does not hold shows it three times, and keeps its node away for as long.
const COUNTDOWN_ON_TRIAL_S: u64 = 3;
/// Until the disk has told whether this is one.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the boot cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// The phase that failed.
    pub phase: &'static str,
    /// What was found, with all causes.
    pub what: String,
    /// What an operator can do about it.
    pub advice: &'static str,
}

/// An error with all its causes on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        text.push_str(": ");
        text.push_str(&e.to_string());
        cause = e.source();
    }
    text
}

/// Runs what never ends; whatever ends it, a fault included, is shown, and then the machine reboots.
pub fn never_return(work: fn() -> Result<Infallible, Failure>) -> ! {
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(never)) => match never {},
        Ok(Err(failure)) => failure,
        Err(fault) => Failure { phase: "node-init", what: describe(&*fault), advice: FAULT },
    };
    give_up(&failure)
}

const FAULT: &str = "This is a fault in node-init. Report it with the lines above.";

/// What a panic said.
pub fn describe(fault: &(dyn Any + Send)) -> String {
    let text = fault.downcast_ref::<&str>().copied().or_else(|| fault.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a fault without words").to_owned()
}

/// Shows the failure page, waits until it can have been read, and reboots.
pub fn give_up(failure: &Failure) -> ! {
    tracing::error!(phase = failure.phase, error = %failure.what, "Cannot boot");
    let console = Console::open();
    page(failure).iter().for_each(|line| console.line(line));
    let countdown = if on_trial(PATIENCE) { COUNTDOWN_ON_TRIAL_S } else { COUNTDOWN_S };
    for left in (1..=countdown).rev() {
        console.line(&format!("  Reboot in {left} s"));
        std::thread::sleep(Duration::from_secs(1));
    }
    sync_within(Duration::from_secs(5));
    loop {
        // It returns only when refused, which never happens to PID 1; the watchdog is what is left then.
        let refused = end(End::Reboot);
        console.line(&chain(&refused));
        std::thread::sleep(Duration::from_secs(10));
    }
}

fn page(failure: &Failure) -> Vec<String> {
    let rule = "-".repeat(72);
    vec![
        String::new(),
        rule.clone(),
        format!("  THIS NODE CANNOT START: phase '{}' failed.", failure.phase),
        String::new(),
        format!("  What:  {}", failure.what),
        format!("  Do:    {}", failure.advice),
        rule,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_and_what_to_do() {
        let failure = Failure { phase: "state", what: "no space".to_owned(), advice: "Use a larger disk." };
        let text = page(&failure).join("\n");
        assert!(text.contains("phase 'state' failed") && text.contains("What:  no space"), "{text}");
        assert!(text.contains("Do:    Use a larger disk."), "{text}");
    }

    #[test]
    fn causes_are_told_in_order() {
        let io = std::io::Error::from_raw_os_error(2);
        let e = sys::Error::Kernel { action: "open", object: "/x".to_owned(), source: io };
        assert!(chain(&e).starts_with("Cannot open /x: No such file"), "{}", chain(&e));
    }
}
