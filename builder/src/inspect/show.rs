//! An inspection as text for people.

use std::fmt;

use super::Inspection;
use crate::report::megabytes;

/// Packages shown; the manifest has all.
const PACKAGES: usize = 15;

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}", self.kind, megabytes(self.bytes))?;
        for part in &self.partitions {
            let size = megabytes(part.bytes);
            writeln!(f, "  {} {:<16} {size:>10}  from {:>11}  {}", part.number, part.name, part.start, part.guid)?;
        }
        for (title, files) in [("ESP", &self.esp), ("seed", &self.seed), ("UKI sections", &self.sections)] {
            list(f, title, files)?;
        }
        for (title, value) in [("kernel", &self.kernel), ("command line", &self.cmdline), ("verity", &self.verity)] {
            if let Some(value) = value {
                writeln!(f, "{title}: {value}")?;
            }
        }
        if self.cmdline.is_some() {
            let cluster = self.cluster.as_ref().map_or_else(|| "any".to_owned(), |ca| format!("{ca} alone"));
            writeln!(f, "cluster: {cluster}")?;
        }
        self.slots.iter().try_for_each(|slot| writeln!(f, "slot {slot}"))?;
        self.show_packages(f)?;
        self.show_executables(f)?;
        self.checked.iter().try_for_each(|what| writeln!(f, "ok         {what}"))?;
        self.unchecked.iter().try_for_each(|what| writeln!(f, "unchecked  {what}"))
    }
}

impl Inspection {
    fn show_executables(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.executables.is_empty() {
            return Ok(());
        }
        let among = match self.interpreters.as_slice() {
            [] => "no shell or interpreter among them".to_owned(),
            found => format!("SHELLS OR INTERPRETERS AMONG THEM: {}", found.join(" ")),
        };
        writeln!(f, "executables: {}, {among}", self.executables.len())?;
        self.executables.iter().try_for_each(|path| writeln!(f, "  {path}"))
    }

    fn show_packages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.packages.is_empty() {
            return Ok(());
        }
        let all: u64 = self.packages.iter().map(|package| package.2).sum();
        writeln!(f, "packages: {}, {} unpacked", self.packages.len(), megabytes(all))?;
        for (name, version, bytes) in self.packages.iter().take(PACKAGES) {
            writeln!(f, "  {:>10}  {name} {version}", megabytes(*bytes))?;
        }
        match self.packages.get(PACKAGES..) {
            Some(rest) if !rest.is_empty() => {
                let bytes = rest.iter().map(|package| package.2).sum();
                writeln!(f, "  {:>10}  in {} more", megabytes(bytes), rest.len())
            }
            _ => Ok(()),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, files: &[(String, u64)]) -> fmt::Result {
    if files.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}:")?;
    files.iter().try_for_each(|(name, bytes)| writeln!(f, "  {:>10}  {name}", megabytes(*bytes)))
}
