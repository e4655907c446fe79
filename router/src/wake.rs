//! Decides, from what the store tells of a VM that should run, whether a session may begin.

use model::{
    state::{VmState, Want},
    sync::VmNow,
};

/// What to do about a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs: open the session.
    Running,
    /// It will, or may.
    Wait,
    /// It will not, and why.
    Failed(String),
}

/// What was seen of a VM since it was asked for.
#[derive(Clone, Debug)]
pub struct Waking {
    earlier_failure: Option<String>,
    started: bool,
}

impl Waking {
    /// The VM as it was when it was acquired. A failure told then is that of an earlier start.
    pub fn new(first: &VmNow) -> Self {
        Self { earlier_failure: first.failed.clone(), started: false }
    }

    /// What the VM's state means now.
    pub fn judge(&mut self, now: &VmNow) -> Verdict {
        match (now.state, now.want) {
            (VmState::Running, _) => Verdict::Running,
            (VmState::Starting, _) => {
                self.started = true;
                Verdict::Wait
            }
            (VmState::Stopping | VmState::Zombie, _) => Verdict::Wait,
            (VmState::Debugging, _) => Verdict::Failed("its agent does not answer, and it was left so".to_owned()),
            (VmState::Stopped, want) => self.judge_stopped(want, now.failed.as_ref()),
        }
    }

    fn judge_stopped(&self, want: Want, failed: Option<&String>) -> Verdict {
        let news = failed.filter(|f| self.started || Some(*f) != self.earlier_failure.as_ref());
        match (news, want) {
            (Some(reason), _) => Verdict::Failed(reason.clone()),
            (None, Want::Stop) => Verdict::Failed("it was stopped".to_owned()),
            (None, Want::Run) => Verdict::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(state: VmState, want: Want, failed: Option<&str>) -> VmNow {
        VmNow { state, want, phase: String::new(), failed: failed.map(str::to_owned) }
    }

    /// Judges a sequence of sights, the first of them at the time of asking.
    #[track_caller]
    fn check(sights: &[(VmState, Want, Option<&str>)], expect: Verdict) {
        let sights: Vec<_> = sights.iter().map(|(s, w, f)| now(*s, *w, *f)).collect();
        let mut waking = Waking::new(&sights[0]);
        let last = sights.iter().map(|s| waking.judge(s)).last().expect("not empty");
        assert_eq!(last, expect);
    }

    #[test]
    fn a_vm_is_waited_for_until_it_runs_or_cannot() {
        use VmState::*;
        use Want::*;
        let failed = |reason: &str| Verdict::Failed(reason.to_owned());
        check(&[(Running, Run, None)], Verdict::Running);
        check(&[(Stopped, Run, None)], Verdict::Wait);
        check(&[(Stopping, Run, None), (Stopped, Run, None)], Verdict::Wait);
        check(&[(Stopped, Run, None), (Starting, Run, None), (Running, Run, None)], Verdict::Running);
        check(&[(Stopped, Run, None), (Starting, Run, None), (Stopped, Run, Some("no image"))], failed("no image"));
        check(&[(Starting, Run, None), (Stopped, Stop, None)], failed("it was stopped"));
        check(&[(Debugging, Run, None)], failed("its agent does not answer, and it was left so"));
    }

    #[test]
    fn a_failure_of_an_earlier_start_is_not_that_of_this_one() {
        use VmState::*;
        use Want::*;
        let old = Some("old");
        check(&[(Stopped, Run, old), (Stopped, Run, old)], Verdict::Wait);
        check(&[(Stopped, Run, old), (Starting, Run, None), (Stopped, Run, old)], Verdict::Failed("old".to_owned()));
        check(&[(Stopped, Run, old), (Stopped, Run, Some("new"))], Verdict::Failed("new".to_owned()));
    }
}
