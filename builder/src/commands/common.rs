//! Options that several commands have.

use crate::report::{Report, Style};

/// How progress is told.
#[derive(Debug, clap::Args)]
pub struct Telling {
    /// Events as JSON, one a line.
    #[arg(long)]
    json: bool,
}

impl Telling {
    /// Where to tell it.
    pub fn report(&self) -> Report {
        Report::new(Style::choose(self.json))
    }
}

/// Where packages come from.
#[derive(Debug, clap::Args)]
pub struct Fetching {
    /// Debian mirror, such as http://HOST/debian; default: that of this host's apt.
    #[arg(long, env = "ROOST_MIRROR", value_name = "URL")]
    pub mirror: Option<String>,
}
