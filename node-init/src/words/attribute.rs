//! Which boot a panic was the end of.
//!
//! The words of an early panic name their boot, since that was said a moment before. Those of a late one do not, but then
//! the boot has a record on STATE: it is the newest one, without an orderly end. A boot that panicked before it reached
//! STATE gets a record of its own.

use super::pstore::Crash;
use node_init::boots::{About, Boots, Entry, seconds};
use std::io;

/// Puts each panic into the record of its boot. `version_of` tells which version has a root, by its hash in hexadecimal.
pub fn keep(boots: &Boots, crashes: Vec<Crash>, version_of: impl Fn(&str) -> Option<String>) -> io::Result<()> {
    for crash in crashes {
        let known = boots.all();
        match place(&known, &crash) {
            Place::Known => {}
            Place::Of(entry) => entry.note_panic(&crash.panic)?,
            Place::New => boots.begin(about(&crash, &version_of))?.note_panic(&crash.panic)?,
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq)]
enum Place<'a> {
    /// It was kept already: a power cut came before it was erased.
    Known,
    /// This boot's.
    Of(&'a Entry),
    /// A boot's that has no record.
    New,
}

fn place<'a>(known: &'a [Entry], crash: &Crash) -> Place<'a> {
    let kept = |entry: &Entry| {
        entry.panic().is_some_and(|had| had.records.iter().any(|record| crash.panic.records.contains(record)))
    };
    if known.iter().any(kept) {
        return Place::Known;
    }
    if let Some(boot) = &crash.boot {
        return known.iter().find(|entry| entry.about.boot == *boot).map_or(Place::New, Place::Of);
    }
    match known.last() {
        Some(last) if !last.ended_in_order() && last.panic().is_none() => Place::Of(last),
        _ => Place::New,
    }
}

fn about(crash: &Crash, version_of: impl Fn(&str) -> Option<String>) -> About {
    let root = crash.root.clone().unwrap_or_default();
    let version = version_of(&root);
    let lasted_ms = seconds(&crash.panic.text).unwrap_or(0) * 1000;
    let unknown = || format!("panic-{}", crash.panic.records.first().map_or("", String::as_str));
    About {
        boot: crash.boot.clone().unwrap_or_else(unknown),
        root,
        version: version.unwrap_or_default(),
        began_ms: (crash.at_s * 1000).saturating_sub(lasted_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_init::boots::{End, How, Panic};

    struct Shelf {
        boots: Boots,
        _dir: tempfile::TempDir,
    }

    fn shelf(names: &[&str]) -> Shelf {
        let dir = tempfile::tempdir().expect("dir");
        let boots = Boots::at(dir.path());
        for name in names {
            boots.begin(About { boot: (*name).to_owned(), ..About::default() }).expect("begins");
        }
        Shelf { boots, _dir: dir }
    }

    fn crash(record: &str, boot: Option<&str>) -> Crash {
        let text = "<0>[    3.5] Kernel panic - not syncing: x\n".to_owned();
        let panic = Panic { records: vec![record.to_owned()], reason: format!("why {record}"), text };
        Crash { panic, boot: boot.map(str::to_owned), root: Some("77".to_owned()), at_s: 1000 }
    }

    impl Shelf {
        fn keep(&self, crashes: &[Crash]) {
            let version_of = |root: &str| (root == "77").then(|| "2.0".to_owned());
            keep(&self.boots, crashes.to_vec(), version_of).expect("kept");
        }

        /// Each boot, its version and its panic.
        fn all(&self) -> Vec<(String, String, String)> {
            let panic = |e: &Entry| e.panic().map(|p| p.reason).unwrap_or_default();
            self.boots.all().iter().map(|e| (e.about.boot.clone(), e.about.version.clone(), panic(e))).collect()
        }
    }

    fn row(boot: &str, version: &str, panic: &str) -> (String, String, String) {
        (boot.to_owned(), version.to_owned(), panic.to_owned())
    }

    #[test]
    fn a_panic_goes_to_the_boot_that_it_names_or_to_the_newest_that_did_not_end_in_order() {
        let shelf = shelf(&["a", "b"]);
        shelf.keep(&[crash("1", None), crash("2", Some("c")), crash("3", Some("a"))]);
        assert_eq!(shelf.all(), [row("a", "", "why 3"), row("b", "", "why 1"), row("c", "2.0", "why 2")]);
        assert_eq!(shelf.boots.all()[2].about.began_ms, 997_000);
    }

    #[test]
    fn a_panic_after_an_orderly_end_was_of_a_boot_that_never_reached_state() {
        let shelf = shelf(&["a"]);
        let end = End { how: How::Reboot, why: "an update".to_owned(), at_ms: 1 };
        shelf.boots.all()[0].note_end(&end).expect("noted");
        shelf.keep(&[crash("1", None), crash("2", None)]);
        assert_eq!(shelf.all(), [row("a", "", ""), row("panic-1", "2.0", "why 1"), row("panic-2", "2.0", "why 2")]);
    }

    #[test]
    fn what_was_kept_and_could_not_be_erased_is_not_kept_again() {
        let shelf = shelf(&["a"]);
        shelf.keep(&[crash("1", None)]);
        shelf.boots.begin(About { boot: "b".to_owned(), ..About::default() }).expect("begins");
        shelf.keep(&[crash("1", None)]);
        assert_eq!(shelf.all(), [row("a", "", "why 1"), row("b", "", "")]);
    }
}
