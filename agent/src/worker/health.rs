//! What the checks of one task have shown, and when the next is due. Pure.

use heddle_model::{Timestamp, health::HealthCheck};
use std::time::Duration;

/// What one check came to: nothing, or what was wrong.
pub type Outcome = Result<(), String>;

/// Each but the first with what was wrong, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Healthy,
    /// It has failed, and may yet be well.
    Failing(String),
    Unhealthy(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    check: HealthCheck,
    /// Failures of checks that began before that do not count. None: one has succeeded.
    counts_from: Option<Timestamp>,
    /// In a row.
    failures: u32,
    due: Timestamp,
    /// When the check that is under way began.
    begun: Option<Timestamp>,
}

impl Health {
    /// Of a task whose program was started at that time. Docker makes no check in the first interval: here there are some, so that a
    /// task is found to be well sooner, but they do not count either.
    pub fn new(check: &HealthCheck, started: Timestamp) -> Self {
        let grace = check.start_period.max(check.interval);
        Self { check: check.clone(), counts_from: Some(started.plus(grace)), failures: 0, due: started, begun: None }
    }

    /// Of a task that was found to be well already.
    pub fn known(check: &HealthCheck, now: Timestamp) -> Self {
        Self { check: check.clone(), counts_from: None, failures: 0, due: now, begun: None }
    }

    /// True: a check begins now. There is one at a time.
    pub fn begins(&mut self, now: Timestamp) -> bool {
        let begins = self.begun.is_none() && now >= self.due;
        if begins {
            self.begun = Some(now);
        }
        begins
    }

    /// What the check that is under way makes of the task; None: nothing new.
    pub fn ended(&mut self, outcome: Outcome, now: Timestamp) -> Option<Verdict> {
        let begun = self.begun.take()?;
        let Err(why) = outcome else {
            let news = self.counts_from.take().is_some();
            self.failures = 0;
            self.due = now.plus(self.check.interval);
            return news.then_some(Verdict::Healthy);
        };
        if self.counts_from.is_some_and(|from| begun < from) {
            self.due = now.plus(self.pace());
            return Some(Verdict::Failing(why));
        }
        self.failures += 1;
        self.due = now.plus(self.check.interval);
        if self.failures < self.check.retries {
            return Some(Verdict::Failing(why));
        }
        let checks = if self.failures == 1 { "check" } else { "checks" };
        Some(Verdict::Unhealthy(format!("unhealthy: {} {checks} failed: {why}", self.failures)))
    }

    /// Between checks that do not count.
    fn pace(&self) -> Duration {
        self.check.start_interval.min(self.check.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heddle_model::health::Probe;

    const HEALTHY: Option<Verdict> = Some(Verdict::Healthy);

    /// Every 10 s, in the start period every 2 s; three may fail.
    fn check(start_period: u64) -> HealthCheck {
        HealthCheck {
            interval: Duration::from_secs(10),
            start_period: Duration::from_secs(start_period),
            start_interval: Duration::from_secs(2),
            ..HealthCheck::new(Probe::Command("true".into()))
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp(seconds * 1000)
    }

    fn failed() -> Outcome {
        Err("no".into())
    }

    fn unhealthy(failures: u32) -> Option<Verdict> {
        Some(Verdict::Unhealthy(format!("unhealthy: {failures} checks failed: no")))
    }

    /// Checks that take no time, each as soon as it is due, until one settles it: when each was, and the verdict.
    fn follow(health: &mut Health, from: u64, outcome: impl Fn(u64) -> Outcome) -> (Vec<u64>, Option<Verdict>) {
        let mut times = Vec::new();
        for second in from..1000 {
            if health.begins(at(second)) {
                times.push(second);
                match health.ended(outcome(second), at(second)) {
                    None | Some(Verdict::Failing(_)) => {}
                    verdict => return (times, verdict),
                }
            }
        }
        (times, None)
    }

    #[test]
    fn failures_count_after_the_first_interval_or_the_start_period() {
        let mut health = Health::new(&check(0), at(0));
        assert_eq!(follow(&mut health, 0, |_| failed()), (vec![0, 2, 4, 6, 8, 10, 20, 30], unhealthy(3)));
        let mut health = Health::new(&check(15), at(0));
        assert_eq!(
            follow(&mut health, 0, |_| failed()),
            (vec![0, 2, 4, 6, 8, 10, 12, 14, 16, 26, 36], unhealthy(3)),
            "a longer start period"
        );
    }

    #[test]
    fn a_success_ends_the_start_period_and_begins_the_count_anew() {
        let mut health = Health::new(&check(100), at(0));
        assert_eq!(follow(&mut health, 0, |s| if s < 4 { failed() } else { Ok(()) }), (vec![0, 2, 4], HEALTHY));
        assert_eq!(
            follow(&mut health, 5, |s| if s == 34 { Ok(()) } else { failed() }),
            (vec![14, 24, 34, 44, 54, 64], unhealthy(3)),
            "two failures are forgotten"
        );
    }

    #[test]
    fn one_that_was_well_is_not_found_to_be_well_again_and_has_no_start_period() {
        let mut health = Health::known(&check(100), at(7));
        assert_eq!(follow(&mut health, 0, |_| failed()), (vec![7, 17, 27], unhealthy(3)));
        let mut health = Health::known(&check(100), at(7));
        assert_eq!(follow(&mut health, 980, |_| Ok(())).1, None);
    }

    #[test]
    fn a_check_that_began_in_the_start_period_does_not_count_and_nothing_runs_beside_it() {
        let mut health = Health::new(&HealthCheck { retries: 1, ..check(0) }, at(0));
        assert!(health.begins(at(9)) && !health.begins(at(60)));
        assert_eq!(health.ended(failed(), at(60)), Some(Verdict::Failing("no".into())));
        assert!(!health.begins(at(61)) && health.begins(at(62)));
        let why = "unhealthy: 1 check failed: no".to_owned();
        assert_eq!(health.ended(failed(), at(62)), Some(Verdict::Unhealthy(why)));
        assert_eq!(health.ended(failed(), at(63)), None, "none is under way");
    }
}
