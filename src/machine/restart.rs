//! When a crashed service starts again: exponential backoff with full jitter, a reset after a long run, and an end
//! to a crash loop. Called by `service.rs` at each end of a run that its policy wants repeated.

use std::collections::VecDeque;
use std::time::Duration;

use super::event::Ending;
use super::time::Time;
use crate::config::Restart;

/// A service's crash history, as much of it as decisions need.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Crashes since the last run that lasted `reset_after`.
    streak: u32,
    /// Times of the crashes that `give_up` may still count; at most `give_up.after` of them.
    recent: VecDeque<Time>,
    last: Option<Ending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    After(Duration),
    GiveUp,
}

impl History {
    /// Records a crash at `now` of a run that lasted `ran_for`.
    pub fn crashed(
        &mut self,
        policy: &Restart,
        ran_for: Duration,
        ending: Ending,
        now: Time,
        rng: &mut fastrand::Rng,
    ) -> Decision {
        self.last = Some(ending);
        if ran_for >= policy.reset_after {
            self.streak = 0;
        }
        self.streak = self.streak.saturating_add(1);
        while self.recent.front().is_some_and(|&at| now.since(at) > policy.give_up.within) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if self.recent.len() >= policy.give_up.after as usize {
            return Decision::GiveUp;
        }
        // Full jitter: neighbours that crashed together do not come back together.
        Decision::After(self.ceiling(policy).mul_f64(rng.f64()))
    }

    /// How the latest crash ended.
    pub fn last_ending(&self) -> Option<Ending> {
        self.last
    }

    /// The longest that the delay may be now: doubled with each crash of the streak.
    pub fn ceiling(&self, policy: &Restart) -> Duration {
        match self.streak {
            0 => Duration::ZERO,
            streak => {
                let doublings = (streak - 1).min(31);
                policy.delay.saturating_mul(1 << doublings).min(policy.max_delay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{GiveUp, RestartWhen};

    const CRASH: Ending = Ending::Code(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn policy() -> Restart {
        Restart {
            when: RestartWhen::OnFailure,
            delay: SECOND,
            max_delay: 5 * SECOND,
            reset_after: 60 * SECOND,
            give_up: GiveUp { after: 4, within: 100 * SECOND },
        }
    }

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn the_delay_doubles_up_to_its_limit() {
        let policy = Restart { give_up: GiveUp { after: 100, within: SECOND }, ..policy() };
        let (mut history, mut rng) = (History::default(), fastrand::Rng::with_seed(1));
        let mut ceilings = Vec::new();
        for n in 0..40 {
            let Decision::After(delay) = history.crashed(&policy, SECOND, CRASH, at(n * 10), &mut rng) else {
                panic!("gave up");
            };
            assert!(delay <= history.ceiling(&policy));
            ceilings.push(history.ceiling(&policy).as_secs());
        }
        assert_eq!(ceilings[..5], [1, 2, 4, 5, 5]);
        assert_eq!(ceilings[39], 5);
    }

    #[test]
    fn a_long_run_makes_the_next_crash_the_first() {
        let (mut history, mut rng) = (History::default(), fastrand::Rng::with_seed(1));
        history.crashed(&policy(), SECOND, CRASH, at(1), &mut rng);
        history.crashed(&policy(), SECOND, CRASH, at(2), &mut rng);
        assert_eq!(history.ceiling(&policy()), 2 * SECOND);
        history.crashed(&policy(), 60 * SECOND, CRASH, at(70), &mut rng);
        assert_eq!(history.ceiling(&policy()), SECOND);
    }

    #[test]
    fn gives_up_only_when_the_crashes_are_close_together() {
        let (mut history, mut rng) = (History::default(), fastrand::Rng::with_seed(1));
        for n in 0..20 {
            let decision = history.crashed(&policy(), SECOND, CRASH, at(n * 51), &mut rng);
            assert_ne!(decision, Decision::GiveUp, "three at most are within 100 s");
        }
        let mut history = History::default();
        let decisions: Vec<_> =
            (0..4).map(|n| history.crashed(&policy(), SECOND, CRASH, at(n), &mut rng)).collect();
        assert!(decisions[..3].iter().all(|decision| *decision != Decision::GiveUp));
        assert_eq!(decisions[3], Decision::GiveUp);
    }
}
