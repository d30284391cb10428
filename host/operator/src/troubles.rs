//! Logs and announces the beginning and the end of each problem once.
//!
//! The end of a problem is found from the conditions. A condition that a pass could not evaluate keeps its status, so
//! no problem counts as ended only because nothing could be read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keyward_core::api::{Condition, ConditionStatus};

use crate::cluster::cut;
use crate::events::Announcement;
use crate::status::READY;

/// How many bytes of the ended problem's message are repeated.
const REPEATED: usize = 400;

/// The conditions that reported problems when the status was last written.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// By type. `None` before the first write of a term.
    known: Option<BTreeMap<String, Condition>>,
    was_ready: bool,
}

impl Troubles {
    /// The problems that ended with this write of the status. `before` counts at the first write of a term: a problem
    /// that ended while no operator ran is announced, too.
    pub(crate) fn ended(&mut self, before: &[Condition], after: &[Condition]) -> Vec<Announcement> {
        let troubles = |all: &[Condition]| -> BTreeMap<String, Condition> {
            let troubles = all.iter().filter(|condition| condition.is_trouble());
            troubles.map(|condition| (condition.type_.clone(), condition.clone())).collect()
        };
        let now = troubles(after);
        let known = self.known.take().unwrap_or_else(|| troubles(before));
        let ended = known.iter().filter_map(|(type_, trouble)| {
            let over = after.iter().find(|condition| condition.type_ == *type_)?;
            (over.status == ConditionStatus::False).then(|| recovery(trouble, over))
        });
        let ended = ended.collect();
        self.known = Some(now);
        self.log_readiness(after);
        ended
    }

    fn log_readiness(&mut self, after: &[Condition]) {
        let Some(ready) = after.iter().find(|condition| condition.type_ == READY) else { return };
        let is_ready = ready.status == ConditionStatus::True;
        if is_ready && !self.was_ready {
            tracing::info!(generation = ready.observed_generation, "ready: {}", ready.message);
        }
        self.was_ready = is_ready;
    }
}

fn recovery(trouble: &Condition, over: &Condition) -> Announcement {
    let at = |condition: &Condition| condition.last_transition_time.as_ref()?.parse::<Timestamp>().ok();
    let lasted = match (at(trouble), at(over)) {
        (Some(from), Some(to)) => format!(" after {} s (since {from})", to.duration_since(from).as_secs()),
        _ => String::new(),
    };
    let means = match trouble.type_.as_str() {
        "KMSPluginsDegraded" => {
            " Every plugin in use is healthy. API servers accept writes again within about 10 seconds and need no restart."
        }
        _ => "",
    };
    Announcement {
        reason: format!("{}Resolved", trouble.reason),
        action: "Decide",
        note: format!("{} ended{lasted}.{means} It was: {}", trouble.type_, cut(&trouble.message, REPEATED)),
        warning: false,
    }
}

/// Failed passes: logged when the cause changes, and when a pass succeeds again.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    current: Option<(String, Instant)>,
    times: u32,
}

impl Failures {
    /// Whether this failure is new.
    pub(crate) fn is_new(&mut self, failure: &str, now: Instant) -> bool {
        self.times = self.times.saturating_add(1);
        let since = self.current.as_ref().map_or(now, |(_, since)| *since);
        let is_new = self.current.as_ref().is_none_or(|(known, _)| known != failure);
        self.current = Some((failure.to_owned(), since));
        is_new
    }

    /// A pass succeeded: how many failed before it, and for how long.
    pub(crate) fn over(&mut self, now: Instant) -> Option<(u32, Duration)> {
        let (_, since) = self.current.take()?;
        Some((std::mem::take(&mut self.times), now.saturating_duration_since(since)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(type_: &str, status: ConditionStatus, at: &str) -> Condition {
        let mut condition = Condition::new(type_, status, "PluginUnhealthy", "Writes fail. Cause: sealed.");
        condition.last_transition_time = Some(at.to_owned());
        condition
    }

    const KMS: &str = "KMSPluginsDegraded";
    const FROM: &str = "2026-01-01T00:00:00Z";
    const TO: &str = "2026-01-01T00:01:16Z";

    #[test]
    fn end_of_a_problem_is_announced_once_with_its_duration() {
        let (trouble, healthy) =
            ([condition(KMS, ConditionStatus::True, FROM)], [condition(KMS, ConditionStatus::False, TO)]);
        let mut troubles = Troubles::default();
        assert_eq!(troubles.ended(&[], &trouble), []);
        let ended = troubles.ended(&trouble, &healthy);
        let [over] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!((over.reason.as_str(), over.warning), ("PluginUnhealthyResolved", false));
        let begins = "KMSPluginsDegraded ended after 76 s (since 2026-01-01T00:00:00Z). Every plugin in use is healthy";
        assert!(over.note.starts_with(begins), "{}", over.note);
        assert!(over.note.ends_with("It was: Writes fail. Cause: sealed."), "{}", over.note);
        assert_eq!(troubles.ended(&healthy, &healthy), []);
    }

    #[test]
    fn problem_that_ended_while_no_operator_ran_is_announced() {
        let trouble = [condition(KMS, ConditionStatus::True, FROM)];
        let healthy = [condition(KMS, ConditionStatus::False, TO)];
        assert_eq!(Troubles::default().ended(&trouble, &healthy).len(), 1);
        assert_eq!(Troubles::default().ended(&healthy, &healthy), []);
    }

    #[test]
    fn problem_whose_condition_is_not_evaluated_has_not_ended() {
        let trouble = [condition(KMS, ConditionStatus::True, FROM)];
        let unknown = [condition(KMS, ConditionStatus::Unknown, TO)];
        assert_eq!(Troubles::default().ended(&trouble, &unknown), []);
        assert_eq!(Troubles::default().ended(&trouble, &[]), []);
    }

    #[test]
    fn repeated_failure_is_logged_once_and_its_end_with_the_number_of_failures() {
        let (mut failures, begin) = (Failures::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(failures.is_new("timeout", begin));
        assert!(!failures.is_new("timeout", begin + second));
        assert!(failures.is_new("refused", begin + 2 * second));
        assert_eq!(failures.over(begin + 3 * second), Some((3, 3 * second)));
        assert_eq!(failures.over(begin + 4 * second), None);
        assert!(failures.is_new("refused", begin + 5 * second));
    }
}
