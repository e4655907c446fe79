//! Boots of this node, told to the store: each that is over once, then the one that runs, after each Hello.
//!
//! One is told at a time, and the next when the store has it: what a broken link has not brought is told over the next
//! one. What the store has is noted on STATE.

use crate::report::chain;
use model::boot::BootReport;
use node_init::boots::{Boots, Entry};
use std::collections::BTreeSet;

/// What one link has told.
#[derive(Debug)]
pub struct Teller {
    boots: Boots,
    /// Id of the boot that runs.
    running: String,
    told: BTreeSet<String>,
}

impl Teller {
    /// Of the records of this node.
    pub fn new(boots: Boots, running: String) -> Self {
        Self { boots, running, told: BTreeSet::new() }
    }

    /// The oldest that the store has not, if any.
    pub async fn next(&self) -> Option<BootReport> {
        let (boots, running, told) = (self.boots.clone(), self.running.clone(), self.told.clone());
        // Reading a log waits for the disk, which must not hold up the runtime.
        let next = tokio::task::spawn_blocking(move || {
            let all = boots.all();
            let untold = |e: &&Entry| !told.contains(&e.about.boot) && (e.about.boot == running || !e.is_told());
            all.iter().find(untold).map(|e| e.report(e.about.boot == running))
        });
        next.await.ok().flatten()
    }

    /// The store has this one.
    pub async fn kept(&mut self, boot: String) {
        if boot != self.running {
            let (boots, boot) = (self.boots.clone(), boot.clone());
            let noted = tokio::task::spawn_blocking(move || {
                boots.all().iter().filter(|e| e.about.boot == boot).try_for_each(Entry::note_told)
            });
            if let Ok(Err(error)) = noted.await {
                tracing::warn!(error = %chain(&error), "Cannot note that the store has a boot: it is told again");
            }
        }
        self.told.insert(boot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::boot::BootEnd;
    use node_init::boots::About;

    async fn all(teller: &mut Teller) -> Vec<(String, BootEnd)> {
        let mut told = vec![];
        while let Some(report) = teller.next().await {
            told.push((report.boot.clone(), report.end));
            teller.kept(report.boot).await;
        }
        told
    }

    #[tokio::test]
    async fn each_boot_is_told_once_and_the_one_that_runs_over_each_link() {
        let dir = tempfile::tempdir().expect("dir");
        let boots = Boots::at(dir.path());
        for boot in ["a", "b", "c"] {
            boots.begin(About { boot: boot.to_owned(), ..About::default() }).expect("begins");
        }
        let link = || Teller::new(boots.clone(), "c".to_owned());
        let first = link();
        assert_eq!(first.next().await.map(|r| r.boot).as_deref(), Some("a"));
        drop(first);
        let (cut, runs) = (|boot: &str| (boot.to_owned(), BootEnd::Cut), ("c".to_owned(), BootEnd::Running));
        assert_eq!(
            all(&mut link()).await,
            [cut("a"), cut("b"), runs.clone()],
            "the link broke before the store had it"
        );
        assert_eq!(all(&mut link()).await, [runs]);
    }
}
