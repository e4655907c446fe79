//! The probe guest for real: a version on trial starts it before it is trusted, and nothing of it stays.

use super::*;
use crate::guests::probe::VM as PROBE;
use sys::cgroup::Cgroup;

impl Machine {
    /// Without a bridge nothing can start, however well all is installed; with it the next attempt succeeds.
    pub async fn a_version_on_trial_says_why_no_guest_starts_and_is_proven_once_one_does(&self) {
        let guests = self.start_on(true);
        guests.want(vec![], self.config(&[(key::BRIDGE.name, "no-such-bridge")]));
        let reason = self.unproven(&guests).await;
        eprintln!("without a bridge: {reason}");
        assert!(reason.starts_with("A guest cannot be started: LXC could not start the guest: "), "{reason}");
        assert!(reason.contains("no-such-bridge"), "{reason}");

        guests.want(vec![], self.config(&[(key::GATEWAY.name, "10.99.0.77")]));
        let reason = self.unproven(&guests).await;
        eprintln!("without a gateway: {reason}");
        assert!(reason.contains("does not answer at 10.99.0.77"), "{reason}");

        guests.want(vec![], self.config(&[]));
        self.proven(&guests).await;
        self.nothing_of_the_probe_stays();
    }

    /// A desktop that the ledger asks for starts at the same time, and neither minds the other.
    pub async fn a_desktop_starts_beside_the_probe_and_nobody_takes_that_for_a_vm(&self) {
        let guests = self.start_on(true);
        let generation = self.want(&guests, Want::Run, &self.good);
        self.proven(&guests).await;
        self.nothing_of_the_probe_stays();
        self.reaches(&guests, generation, VmState::Running).await;
        assert_eq!(guests.reports().borrow().keys().collect::<Vec<_>>(), [&VM]);
        assert_eq!(self.session(&guests).await.ask("read /etc/hostname").await, "test-desktop\n");
        guests.shutdown(Duration::from_secs(30)).await;
        self.leaves_nothing();
    }

    /// Waits for the moment at which a daemon that dies leaves most.
    pub async fn a_probe_is_under_way(&self) -> Guests {
        let guests = self.start_on(true);
        guests.want(vec![], self.config(&[(key::GATEWAY.name, "10.99.0.77")]));
        let group = Cgroup::at(Path::new("/sys/fs/cgroup").join(lxc::Lxc::cgroup_name(PROBE)).join("limit/payload"));
        let runs = async {
            while group.processes().unwrap_or_default().is_empty() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), runs).await.expect("in time");
        guests
    }

    pub async fn the_next_daemon_removes_what_was_left(&self) {
        let guests = self.start();
        let mut able = guests.able();
        timeout(Duration::from_secs(30), able.wait_for(Result::is_ok)).await.expect("in time").expect("lives");
        self.nothing_of_the_probe_stays();
        assert_eq!(*guests.reports().borrow(), Reports::new());
    }

    /// The next reason why it is not proven that is about a guest.
    async fn unproven(&self, guests: &Guests) -> String {
        let mut proven = guests.proven();
        proven.mark_unchanged();
        let failed = async {
            loop {
                proven.changed().await.expect("lives");
                match proven.borrow_and_update().clone() {
                    Err(reason) if reason.starts_with("A guest cannot be started") => return reason,
                    other => eprintln!("so far: {other:?}"),
                }
            }
        };
        timeout(Duration::from_secs(60), failed).await.expect("in time")
    }

    async fn proven(&self, guests: &Guests) {
        let mut proven = guests.proven();
        let done = timeout(Duration::from_secs(60), proven.wait_for(Result::is_ok)).await.map(drop);
        assert!(done.is_ok(), "{:?}", guests.proven().borrow().clone());
    }

    #[track_caller]
    fn nothing_of_the_probe_stays(&self) {
        let name = PROBE.to_string();
        for left in [
            Path::new("/sys/fs/cgroup").join(lxc::Lxc::cgroup_name(PROBE)),
            self.paths.at(model::paths::RUN_GUESTS).join(&name),
            self.paths.at(model::paths::RUN_VIEWS).join(&name),
            self.paths.at(model::paths::GUESTS).join(&name),
            self.paths.at(model::paths::HOMES).join(&name),
        ] {
            assert!(!left.exists(), "{} is left", left.display());
        }
        assert!(nix::net::if_::if_nametoindex(lxc::port(PROBE).as_str()).is_err());
        let images = fs::read_dir(self.paths.at(model::paths::IMAGES)).expect("lists").count();
        assert_eq!(images, 3, "the images of the tests, and no other");
    }
}
