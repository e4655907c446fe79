//! Which nodes of a rollout may go down for their update now. Pure: the database says how things are, this says what
//! follows.
//!
//! A node's turn comes when its set is staged, it runs, the hours are right, and fewer nodes than allowed are away. A
//! node counts as away for as long as it does not run, and from its turn on until the new version is blessed. The first
//! node that goes back ends the rollout: no other node gets its turn, and what is not under way is taken back.

use model::{
    HostId,
    state::UpdateStep,
    update::{Update, Versions},
};

/// A node of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// It runs and was heard of lately.
    pub up: bool,
    /// It has its turn.
    pub going: bool,
    /// How far it is.
    pub standing: Standing,
}

/// How far a node is with an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not got what it needs.
    Behind,
    /// Its set is staged: it can go at once.
    Staged,
    /// It has begun: users are waited for, the slot is written, or it boots the new version on trial.
    UnderWay,
    /// It runs the version, blessed.
    Done,
    /// It was tried, and did not hold.
    Refused(String),
}

impl Standing {
    /// What a node's words mean for an update to `version`.
    pub fn of(versions: Option<&Versions>, version: &str) -> Self {
        let Some(versions) = versions else { return Self::Behind };
        if versions.running == version {
            return if versions.trial { Self::UnderWay } else { Self::Done };
        }
        if let Some(refused) = versions.refused.iter().find(|refused| refused.version == version) {
            return Self::Refused(refused.reason.clone());
        }
        match versions.update.as_ref().filter(|progress| progress.version == version) {
            Some(progress) => match progress.step {
                UpdateStep::Fetching | UpdateStep::Failed => Self::Behind,
                UpdateStep::Staged => Self::Staged,
                UpdateStep::Draining | UpdateStep::Writing | UpdateStep::Armed => Self::UnderWay,
                UpdateStep::Refused => Self::Refused(progress.detail.clone()),
            },
            None => Self::Behind,
        }
    }
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Nodes whose turn comes.
    pub go: Vec<HostId>,
    /// Nodes whose turn is over, or taken back before they began.
    pub stay: Vec<HostId>,
    /// The rollout ends here, and why.
    pub halt: Option<String>,
}

/// Decides. `open`: the hours are right; `halted`: the rollout has ended already.
pub fn decide(members: &[Member], max_unavailable: u32, open: bool, halted: bool) -> Decision {
    let mut decision = Decision::default();
    if !halted {
        decision.halt = members.iter().find_map(|m| match &m.standing {
            Standing::Refused(reason) => Some(format!("{} refused it: {reason}", m.name)),
            _ => None,
        });
    }
    let proceed = open && !halted && decision.halt.is_none();
    let over = |m: &&Member| match m.standing {
        Standing::Done | Standing::Refused(_) => true,
        Standing::Behind | Standing::Staged => !proceed,
        Standing::UnderWay => false,
    };
    decision.stay = members.iter().filter(|m| m.going).filter(over).map(|m| m.host).collect();
    if proceed {
        let away = members.iter().filter(|m| !m.up || (m.going && !over(m))).count();
        let free = usize::try_from(max_unavailable).unwrap_or(usize::MAX).saturating_sub(away);
        let ready = members.iter().filter(|m| m.up && !m.going && m.standing == Standing::Staged);
        decision.go = ready.take(free).map(|m| m.host).collect();
    }
    decision
}

/// What a node is told: nothing of a rollout that has ended, unless it is in the middle of it.
pub fn told(update: Update, halted: bool, standing: &Standing) -> Option<Update> {
    let keep = !halted || *standing == Standing::UnderWay;
    keep.then_some(update)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::update::{Progress, Refused};
    use proptest::prelude::*;

    fn member(id: u32, up: bool, going: bool, standing: Standing) -> Member {
        Member { host: HostId(id), name: format!("n{id}"), up, going, standing }
    }

    fn ids(ids: &[u32]) -> Vec<HostId> {
        ids.iter().copied().map(HostId).collect()
    }

    #[test]
    fn one_goes_after_the_other_and_the_next_when_the_first_is_done() {
        use Standing::{Done, Staged, UnderWay};
        let fresh = [member(1, true, false, Staged), member(2, true, false, Staged)];
        assert_eq!(decide(&fresh, 1, true, false).go, ids(&[1]));
        assert_eq!(decide(&fresh, 2, true, false).go, ids(&[1, 2]));
        assert_eq!(decide(&fresh, 1, false, false), Decision::default(), "outside its hours");
        let one_boots = [member(1, false, true, UnderWay), member(2, true, false, Staged)];
        assert_eq!(decide(&one_boots, 1, true, false), Decision::default());
        let one_done = [member(1, true, true, Done), member(2, true, false, Staged)];
        let decision = decide(&one_done, 1, true, false);
        assert_eq!((decision.go, decision.stay), (ids(&[2]), ids(&[1])));
    }

    #[test]
    fn a_node_that_is_down_for_any_reason_counts() {
        let members = [member(1, false, false, Standing::Behind), member(2, true, false, Standing::Staged)];
        assert_eq!(decide(&members, 1, true, false), Decision::default());
        assert_eq!(decide(&members, 2, true, false).go, ids(&[2]));
    }

    #[test]
    fn the_first_that_goes_back_ends_it() {
        let back = Standing::Refused("no store".to_owned());
        let members = [
            member(1, true, true, back),
            member(2, true, true, Standing::Staged),
            member(3, true, false, Standing::Staged),
        ];
        let decision = decide(&members, 3, true, false);
        assert_eq!(decision.halt.as_deref(), Some("n1 refused it: no store"));
        assert_eq!((decision.go, decision.stay), (vec![], ids(&[1, 2])));
        assert_eq!(decide(&members, 3, true, true).halt, None, "it is told once");
    }

    #[test]
    fn a_turn_that_was_not_used_ends_with_the_hours() {
        let members = [member(1, true, true, Standing::Staged), member(2, true, true, Standing::UnderWay)];
        assert_eq!(decide(&members, 2, false, false).stay, ids(&[1]));
    }

    #[track_caller]
    fn standing(versions: &Versions, expect: &Standing) {
        assert_eq!(Standing::of(Some(versions), "2"), *expect);
    }

    #[test]
    fn a_nodes_words_say_how_far_it_is() {
        let at = |step| Versions {
            running: "1".to_owned(),
            update: Some(Progress { version: "2".to_owned(), step, detail: "why".to_owned() }),
            ..Versions::default()
        };
        assert_eq!(Standing::of(None, "2"), Standing::Behind);
        standing(&Versions { running: "2".to_owned(), ..Versions::default() }, &Standing::Done);
        standing(&Versions { running: "2".to_owned(), trial: true, ..Versions::default() }, &Standing::UnderWay);
        standing(&at(UpdateStep::Fetching), &Standing::Behind);
        standing(&at(UpdateStep::Staged), &Standing::Staged);
        standing(&at(UpdateStep::Armed), &Standing::UnderWay);
        standing(&at(UpdateStep::Refused), &Standing::Refused("why".to_owned()));
        let refused = vec![Refused { version: "2".to_owned(), reason: "panic".to_owned() }];
        standing(&Versions { refused, ..at(UpdateStep::Staged) }, &Standing::Refused("panic".to_owned()));
        assert_eq!(Standing::of(Some(&at(UpdateStep::Staged)), "3"), Standing::Behind, "staged is another version");
    }

    fn any_member() -> impl Strategy<Value = (bool, bool, Standing)> {
        let standing = prop_oneof![
            Just(Standing::Behind),
            Just(Standing::Staged),
            Just(Standing::UnderWay),
            Just(Standing::Done),
            Just(Standing::Refused("x".to_owned())),
        ];
        (any::<bool>(), any::<bool>(), standing)
    }

    proptest! {
        #[test]
        fn never_more_are_sent_away_than_allowed(
            of in proptest::collection::vec(any_member(), 0..8), max in 0u32..5, open: bool, halted: bool,
        ) {
            let members: Vec<Member> =
                of.into_iter().zip(1..).map(|((up, going, standing), id)| member(id, up, going, standing)).collect();
            let decision = decide(&members, max, open, halted);
            let away = |m: &&Member| !m.up || (m.going && !decision.stay.contains(&m.host));
            let before = members.iter().filter(away).count();
            if !decision.go.is_empty() {
                prop_assert!(open && !halted && decision.halt.is_none());
                prop_assert!(before + decision.go.len() <= max as usize);
            }
            for m in &members {
                prop_assert!(!decision.go.contains(&m.host) || (m.up && m.standing == Standing::Staged));
                prop_assert!(!decision.stay.contains(&m.host) || (m.going && m.standing != Standing::UnderWay));
            }
        }
    }
}
