//! The probe guest's init as a program of its own, for `noded`'s tests: on a node `noded` itself is it.

use std::process::ExitCode;

#[path = "../src/bin/noded/guests/probe/inside.rs"]
mod inside;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.as_slice() {
        [word, gateway] if word == inside::WORD => inside::run(gateway),
        _ => ExitCode::from(2),
    }
}
