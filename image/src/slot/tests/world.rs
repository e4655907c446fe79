//! Nodes of all kinds, a boot loader that counts, and power that fails: what never happens, whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::Index;

use super::super::*;
use super::{Release, check_left, disk_with, esp, files, install_on, release, slots, verifies};
use crate::device::recorder::{Memory, Recorder};

/// How a version fares once its root is verified.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// It becomes Ready.
    Works,
    /// It panics, or hangs until the watchdog bites, or never becomes Ready and is reset.
    Fails,
}

#[derive(Clone, Debug)]
enum Act {
    /// The next version is published and installed.
    Install(Kind),
    Bless,
    RollBack,
    Retry,
    Forget,
    /// An orderly reboot; or the machine is reset.
    Reboot,
    /// The running version works no longer: it is reset, and every boot of it fails.
    Breaks,
}

/// Where power fails while something is written: after which sector, and which of the last ones arrive.
type Cut = Option<(Index, u64)>;

struct World {
    disk: Memory,
    releases: Vec<Release>,
    kinds: BTreeMap<String, Kind>,
    running: Release,
    blessed: BTreeSet<String>,
    /// Boots since the version was last installed, tried again or blessed.
    boots: BTreeMap<String, u32>,
}

impl World {
    fn new() -> Self {
        let first = release("1");
        Self {
            disk: disk_with(&first),
            kinds: BTreeMap::from([("1".into(), Kind::Works)]),
            blessed: BTreeSet::from(["1".to_owned()]),
            running: first.clone(),
            releases: vec![first],
            boots: BTreeMap::new(),
        }
    }

    fn version(&self) -> String {
        self.running.new.version.clone()
    }

    /// Does something to the disk; when power fails meanwhile the node boots afterwards. Whether it came to its end.
    fn doing(&mut self, cut: &Cut, work: impl FnOnce(&mut Recorder) -> Result<(), SlotError>) -> bool {
        let mut recorder = Recorder::new(self.disk.clone());
        work(&mut recorder).unwrap();
        let Some((at, arrived)) = cut else {
            self.disk = recorder.now;
            return true;
        };
        let at = at.index(recorder.writes() + 1);
        self.disk = recorder.cut(at, |back| back >= 64 || arrived >> back & 1 == 1);
        self.check();
        self.boot();
        false
    }

    fn act(&mut self, act: &Act, cut: &Cut) {
        let now = slots(&self.disk, &self.running);
        match act {
            Act::Install(kind) => self.install(*kind, cut),
            Act::Bless => self.mark(bless(&now), cut),
            Act::RollBack => self.mark(roll_back(&now).ok(), cut),
            Act::Retry => self.mark(retry(&now).ok(), cut),
            Act::Forget => self.mark(forget(&now), cut),
            Act::Reboot => self.boot(),
            Act::Breaks if self.has_fallback(&now) => {
                self.kinds.insert(self.version(), Kind::Fails);
                self.boot();
            }
            Act::Breaks => {}
        }
        self.check();
    }

    /// Nothing helps a node whose only good version breaks.
    fn has_fallback(&self, now: &Slots) -> bool {
        let works = |slot: &Slot| slot.version().is_some_and(|version| self.kinds.get(version) == Some(&Kind::Works));
        now.running_and_idle().is_some_and(|(running, idle)| {
            matches!(running.state(), State::Armed(_)) && idle.is_blessed() && works(idle)
        })
    }

    fn mark(&mut self, plan: Option<Plan>, cut: &Cut) {
        let Some(plan) = plan else { return };
        let (blesses, retries) = {
            let now = slots(&self.disk, &self.running);
            (bless(&now).as_ref() == Some(&plan), retry(&now).as_ref() == Ok(&plan))
        };
        if blesses {
            // The node was found good before anything is written.
            self.blessed.insert(self.version());
            self.boots.clear();
        }
        if retries {
            self.boots.clear();
        }
        self.doing(cut, |disk| apply_marks(&plan, disk));
    }

    fn install(&mut self, kind: Kind, cut: &Cut) {
        let new = release(&(self.releases.len() + 1).to_string());
        let (now, running) = (slots(&self.disk, &self.running), self.running.clone());
        match install(&new.new, &now, None) {
            Ok(_) => {}
            Err(Refusal::OnTrial { .. } | Refusal::NoEntry { .. }) => return,
            Err(refusal) => panic!("{refusal}, with {:?}", files(&self.disk)),
        }
        self.kinds.insert(new.new.version.clone(), kind);
        self.releases.push(new.clone());
        self.boots.clear();
        self.doing(cut, |disk| install_on(disk, &new, &running));
    }

    /// Power on: the boot loader and the nodes, until one of them stays up.
    fn boot(&mut self) {
        for _ in 0..20 {
            if self.boot_once() {
                return;
            }
        }
        panic!("it reboots for ever: {:?}", files(&self.disk));
    }

    fn boot_once(&mut self) -> bool {
        let found = Slots::read(&mut self.disk.clone(), None).unwrap();
        let (side, held) = found.next_boot().expect("there is something to boot");
        let (counted, version) = (held.name.counted().to_string(), held.name.version().to_owned());
        if counted != held.file {
            esp(&mut self.disk).rename(&held.path(), &counted).unwrap();
        }
        let boots = self.boots.entry(version.clone()).or_default();
        *boots += 1;
        let limit = if self.blessed.contains(&version) { entry::ARMED_TRIES } else { entry::TRIAL_TRIES };
        let counted = held.name.mark() != Mark::Good;
        assert!(!counted || *boots <= limit, "version {version} is booted for the {boots}th time");
        if self.kinds[&version] == Kind::Fails || !verifies(&self.disk, found.slot(side), &held.identity.verity) {
            return false;
        }
        let is_it = |release: &&Release| release.new.verity == held.identity.verity;
        self.running = self.releases.iter().find(is_it).expect("it was published").clone();
        true
    }

    /// The firmware's own renaming is not whole: power that fails in it may lose the entry that was counted.
    fn boot_cut_in_firmware(&mut self) {
        let found = Slots::read(&mut self.disk.clone(), None).unwrap();
        let Some((_, held)) = found.next_boot() else { return };
        if held.name.tries().is_some() {
            esp(&mut self.disk).remove(&held.path()).unwrap();
        }
        self.check();
        self.boot();
    }

    fn check(&self) {
        let blessed: Vec<_> = self.releases.iter().filter(|r| self.blessed.contains(&r.new.version)).collect();
        check_left(&self.disk, &blessed);
    }
}

#[test]
fn a_new_version_that_fails_has_three_tries_and_the_next_one_its_own() {
    let mut world = World::new();
    world.act(&Act::Install(Kind::Fails), &None);
    world.act(&Act::Reboot, &None);
    assert_eq!((world.version().as_str(), world.boots["2"]), ("1", 3));
    assert_eq!(files(&world.disk), ["node_1.efi", "node_2+0-3.efi"]);
    world.act(&Act::Reboot, &None);
    assert_eq!((world.version().as_str(), world.boots["2"]), ("1", 3));
    world.act(&Act::Install(Kind::Works), &None);
    world.act(&Act::Reboot, &None);
    assert_eq!(world.version(), "3");
}

#[test]
fn a_blessed_version_that_breaks_later_is_given_up_for_the_one_before() {
    let mut world = World::new();
    for act in [Act::Install(Kind::Works), Act::Reboot, Act::Bless, Act::Reboot, Act::Bless, Act::Breaks] {
        world.act(&act, &None);
    }
    assert_eq!((world.version().as_str(), world.boots["2"]), ("1", 5));
    assert_eq!(files(&world.disk), ["node_1.efi", "node_2+0-5.efi"]);
}

fn acts() -> impl Strategy<Value = Vec<(Act, Cut, bool)>> {
    let act = prop_oneof![
        4 => prop_oneof![Just(Kind::Works), Just(Kind::Fails)].prop_map(Act::Install),
        4 => Just(Act::Bless),
        1 => Just(Act::RollBack),
        1 => Just(Act::Retry),
        1 => Just(Act::Forget),
        4 => Just(Act::Reboot),
        1 => Just(Act::Breaks),
    ];
    let cut = prop::option::weighted(0.3, (any::<Index>(), any::<u64>()));
    prop::collection::vec((act, cut, prop::bool::weighted(0.1)), 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn whatever_happens_a_blessed_version_boots_and_no_failed_one_comes_back(acts in acts()) {
        let mut world = World::new();
        for (act, cut, firmware) in &acts {
            world.act(act, cut);
            if *firmware {
                world.boot_cut_in_firmware();
            }
        }
    }
}
