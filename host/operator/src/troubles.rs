//! What an operator logs and announces when trouble begins and when it ends: each once.
//!
//! That a trouble is over is found from the conditions: one that a pass could not judge keeps its status, so that nothing is
//! called over only because nothing could be seen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keyward_core::api::{Condition, ConditionStatus};

use crate::cluster::cut;
use crate::events::Announcement;
use crate::status::READY;

/// So much of the trouble that is over is repeated.
const REPEATED: usize = 400;

/// Which conditions reported trouble when the status was last written.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    /// By type. `None` before the first write of a term.
    known: Option<BTreeMap<String, Condition>>,
    was_ready: bool,
}

impl Troubles {
    /// The troubles that are over with this write of the status. `before` counts at the first of a term: what ended while no
    /// operator ran is announced too.
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
            " Every plugin in use is healthy; API servers accept writes again within about 10 seconds, and need no restart."
        }
        _ => "",
    };
    Announcement {
        reason: format!("{}Resolved", trouble.reason),
        action: "Decide",
        note: format!(
            "{} is over{lasted}.{means} It was: {}",
            trouble.type_,
            cut(&trouble.message, REPEATED)
        ),
        warning: false,
    }
}

/// Passes that fail: logged when the cause changes, and when they work again.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    current: Option<(String, Instant)>,
    times: u32,
}

impl Failures {
    /// Whether this failure is news.
    pub(crate) fn is_news(&mut self, failure: &str, now: Instant) -> bool {
        self.times = self.times.saturating_add(1);
        let since = self.current.as_ref().map_or(now, |(_, since)| *since);
        let is_news = self.current.as_ref().is_none_or(|(known, _)| known != failure);
        self.current = Some((failure.to_owned(), since));
        is_news
    }

    /// A pass worked: how many had failed before it, and for how long.
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
    fn a_recovery_is_announced_once_with_how_long_it_lasted() {
        let (trouble, well) =
            ([condition(KMS, ConditionStatus::True, FROM)], [condition(KMS, ConditionStatus::False, TO)]);
        let mut troubles = Troubles::default();
        assert_eq!(troubles.ended(&[], &trouble), []);
        let ended = troubles.ended(&trouble, &well);
        let [over] = ended.as_slice() else { panic!("{ended:?}") };
        assert_eq!((over.reason.as_str(), over.warning), ("PluginUnhealthyResolved", false));
        let begins = "KMSPluginsDegraded is over after 76 s (since 2026-01-01T00:00:00Z). Every plugin in use is healthy";
        assert!(over.note.starts_with(begins), "{}", over.note);
        assert!(over.note.ends_with("It was: Writes fail. Cause: sealed."), "{}", over.note);
        assert_eq!(troubles.ended(&well, &well), []);
    }

    #[test]
    fn what_ended_while_no_operator_ran_is_announced_too() {
        let trouble = [condition(KMS, ConditionStatus::True, FROM)];
        let well = [condition(KMS, ConditionStatus::False, TO)];
        assert_eq!(Troubles::default().ended(&trouble, &well).len(), 1);
        assert_eq!(Troubles::default().ended(&well, &well), []);
    }

    #[test]
    fn what_is_not_judged_is_not_over() {
        let trouble = [condition(KMS, ConditionStatus::True, FROM)];
        let unknown = [condition(KMS, ConditionStatus::Unknown, TO)];
        assert_eq!(Troubles::default().ended(&trouble, &unknown), []);
        assert_eq!(Troubles::default().ended(&trouble, &[]), []);
    }

    #[test]
    fn a_failure_that_repeats_is_logged_once_and_its_end_with_all_of_them() {
        let (mut failures, begin) = (Failures::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert!(failures.is_news("timeout", begin));
        assert!(!failures.is_news("timeout", begin + second));
        assert!(failures.is_news("refused", begin + 2 * second));
        assert_eq!(failures.over(begin + 3 * second), Some((3, 3 * second)));
        assert_eq!(failures.over(begin + 4 * second), None);
        assert!(failures.is_news("refused", begin + 5 * second));
    }
}
