//! Why a version did not hold, by the last words of the boots in which it was tried.

use super::record::Attempt;
use model::boot::BootEnd;
use node_init::boots::Entry;

/// Of all boots that are recorded, oldest first; none: nothing is known of any try.
pub fn of(boots: &[Entry], attempt: &Attempt) -> Option<String> {
    let ordered = BootEnd::Reboot(model::init::update_to(&attempt.version));
    let since = boots.iter().rposition(|boot| boot.end() == ordered).map(|at| at + 1);
    // The words of an early panic may not say which root it was; nothing else was booted since.
    let tried = |(at, boot): &(usize, &Entry)| {
        boot.about.root == attempt.root || (boot.about.root.is_empty() && since.is_some_and(|since| *at >= since))
    };
    let tries: Vec<&Entry> = boots.iter().enumerate().filter(tried).map(|(_, boot)| boot).rev().collect();
    let ends = tries.iter().map(|boot| boot.end());
    // What says most: a panic, then a hang, then what PID 1 complained of. Of equals the newest.
    let strength = |end: &BootEnd| match end {
        BootEnd::Panic(_) => 0,
        BootEnd::Hang(_) => 1,
        BootEnd::GaveUp(_) => 2,
        _ => 3,
    };
    match ends.filter(BootEnd::is_crash).min_by_key(strength)? {
        BootEnd::Cut => {
            let line = tries.iter().find_map(|boot| boot.last_line())?;
            Some(format!("it ended before it was good, and its log ends with: {}", line.trim()))
        }
        end => Some(format!("it ended before it was good: {}", end.why())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_init::boots::{About, Boots, End, How, Hung, Panic, ring};

    struct Tries {
        boots: Boots,
        _dir: tempfile::TempDir,
    }

    impl Tries {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("dir");
            let tries = Self { boots: Boots::at(dir.path()), _dir: dir };
            let end = End { how: How::Reboot, why: model::init::update_to("2"), at_ms: 1 };
            tries.boot("good").note_end(&end).expect("noted");
            tries
        }

        fn boot(&self, root: &str) -> Entry {
            self.boots.begin(About { boot: "b".to_owned(), root: root.to_owned(), ..About::default() }).expect("begins")
        }

        fn says(&self, expect: Option<&str>) {
            let attempt = Attempt { version: "2".to_owned(), root: "bad".to_owned(), store_reached: true };
            assert_eq!(of(&self.boots.all(), &attempt).as_deref(), expect);
        }
    }

    fn panic(reason: &str) -> Panic {
        Panic { reason: reason.to_owned(), ..Panic::default() }
    }

    #[test]
    fn the_strongest_word_of_any_try_counts_and_other_versions_words_do_not() {
        let tries = Tries::new();
        tries.says(None);
        let cut = tries.boot("bad");
        tries.says(None);
        let mut log = ring::Ring::begin(cut.dir(), ring::SIZES).expect("begins");
        log.write("     3.000 noded: x\n     4.000 noded: last\n").expect("writes");
        tries.says(Some("it ended before it was good, and its log ends with: 4.000 noded: last"));
        tries.boot("bad").note_hung(Some(Hung { since_ms: 9000 })).expect("noted");
        tries.says(Some("it ended before it was good: PID 1 turned no more after 9 s"));
        tries.boot("bad").note_panic(&panic("kernel panic: Attempted to kill init!")).expect("noted");
        tries.boot("good").note_panic(&panic("another")).expect("noted");
        tries.says(Some("it ended before it was good: kernel panic: Attempted to kill init!"));
    }

    #[test]
    fn an_early_panic_without_a_name_was_of_the_version_that_was_being_tried() {
        let tries = Tries::new();
        tries.boot("").note_panic(&panic("kernel panic: dm-verity device corrupted")).expect("noted");
        tries.says(Some("it ended before it was good: kernel panic: dm-verity device corrupted"));
    }
}
