//! How long facts have had their values (objects: time). An age is measured by this process's monotonic clock, from
//! when this process saw the value; a recorded time does not count. When the operator restarts, or another one
//! acquires the Lease, all ages begin at zero, and `status.since[]` is for dumps and people. The exception is a
//! report that `status.since[]` lists as silent: it stays silent, since a restart of the operator is not a report.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use keyward_core::api::Since;
use keyward_core::outcome::{FORGET_FACTS, REPORT_FACTS, VERIFYING_FACTS};
use keyward_core::platform::Age;

/// The facts of the last decision.
#[derive(Debug, Default)]
pub struct Ages {
    facts: BTreeMap<String, Seen>,
}

#[derive(Debug)]
struct Seen {
    value: String,
    /// For decisions. `None`: since before this term, and for longer than any wait.
    since: Option<Instant>,
    /// For people.
    at: Timestamp,
}

impl Ages {
    /// The ages at the beginning of a term, from the `status.since[]` of the last one: reports that were silent then
    /// are silent until they change.
    pub fn resumed(since: &[Since], wall: Timestamp) -> Self {
        let silent = since.iter().filter(|recorded| recorded.fact.starts_with(REPORT_FACTS));
        let facts = silent.map(|recorded| {
            let at = recorded.at.parse().unwrap_or(wall);
            (recorded.fact.clone(), Seen { value: recorded.value.clone(), since: None, at })
        });
        Self { facts: facts.collect() }
    }

    /// Records the facts of a decision: a fact that is new or has another value begins now; a fact that is gone is
    /// removed.
    pub fn observe(&mut self, facts: &BTreeMap<String, String>, now: Instant, wall: Timestamp) {
        self.facts.retain(|fact, seen| facts.get(fact) == Some(&seen.value));
        for (fact, value) in facts {
            self.facts.entry(fact.clone()).or_insert_with(|| Seen {
                value: value.clone(),
                since: Some(now),
                at: wall,
            });
        }
    }

    /// The ages for the next decision.
    pub fn at(&self, now: Instant) -> BTreeMap<String, Age> {
        self.facts
            .iter()
            .map(|(fact, seen)| {
                let elapsed = seen.since.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
                (fact.clone(), Age { value: seen.value.clone(), elapsed })
            })
            .collect()
    }

    /// The pass could not read the cluster. Facts that hold only if every pass observes them begin at zero: that a report
    /// is silent, that a key fails, that the cluster stays converged during a verification. A report that has been
    /// silent since before this term stays silent.
    pub fn read_failed(&mut self) {
        let is_interrupted = |fact: &str| {
            [REPORT_FACTS, FORGET_FACTS, VERIFYING_FACTS].iter().any(|prefix| fact.starts_with(prefix))
        };
        self.facts.retain(|fact, seen| seen.since.is_none() || !is_interrupted(fact));
    }

    /// There is no ClusterEncryption. Facts about a later one begin at zero.
    pub fn clear(&mut self) {
        self.facts.clear();
    }

    /// Restarts the ages of requests to forget keys: each key has to fail for the whole time again.
    pub fn restart_forget_requests(&mut self) {
        self.facts.retain(|fact, _| !fact.starts_with(FORGET_FACTS));
    }

    /// When this fact took its value, for people.
    pub fn began(&self, fact: &str) -> Option<Timestamp> {
        self.facts.get(fact).map(|seen| seen.at)
    }

    /// `status.since[]`, without the `unrecorded` facts, which are not worth a write.
    pub fn since(&self, unrecorded: &BTreeSet<String>) -> Vec<Since> {
        self.facts
            .iter()
            .filter(|(fact, _)| !unrecorded.contains(*fact))
            .map(|(fact, seen)| Since {
                fact: fact.clone(),
                value: seen.value.clone(),
                at: whole_seconds(seen.at).to_string(),
            })
            .collect()
    }
}

/// Statuses have whole seconds.
pub(crate) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("converged".to_owned(), value.to_owned())])
    }

    #[test]
    fn age_grows_while_the_value_stays_and_restarts_when_it_changes() {
        let (mut ages, begin, wall) = (Ages::default(), Instant::now(), Timestamp::UNIX_EPOCH);
        let second = Duration::from_secs(1);
        ages.observe(&facts("3"), begin, wall);
        ages.observe(&facts("3"), begin + second, wall);
        assert_eq!(ages.at(begin + 2 * second)["converged"].elapsed, 2 * second);
        ages.observe(&facts("4"), begin + 3 * second, wall);
        assert_eq!(ages.at(begin + 4 * second)["converged"].elapsed, second);
        ages.observe(&BTreeMap::new(), begin, wall);
        assert!(ages.at(begin).is_empty());
    }

    #[test]
    fn jump_of_the_wall_clock_does_not_change_an_age() {
        let (mut ages, begin) = (Ages::default(), Instant::now());
        ages.observe(&facts("3"), begin, Timestamp::UNIX_EPOCH);
        ages.observe(&facts("3"), begin, Timestamp::from_second(4_000_000_000).unwrap());
        assert_eq!(ages.at(begin)["converged"].elapsed, Duration::ZERO);
        assert_eq!(ages.since(&BTreeSet::new())[0].at, "1970-01-01T00:00:00Z");
    }

    #[test]
    fn report_is_silent_only_while_the_operator_can_read_it() {
        let report = format!("{REPORT_FACTS}node-1/1");
        let facts = BTreeMap::from([(report.clone(), "d@t".to_owned()), ("converged".into(), "3".into())]);
        let (mut ages, begin, second) = (Ages::default(), Instant::now(), Duration::from_secs(1));
        ages.observe(&facts, begin, Timestamp::UNIX_EPOCH);
        ages.read_failed();
        ages.observe(&facts, begin + second, Timestamp::UNIX_EPOCH);
        let at = ages.at(begin + 2 * second);
        assert_eq!((at[&report].elapsed, at["converged"].elapsed), (second, 2 * second));
        let recorded = ages.since(&BTreeSet::from([report]));
        assert_eq!(recorded.iter().map(|since| since.fact.as_str()).collect::<Vec<_>>(), ["converged"]);
    }

    #[test]
    fn report_that_was_silent_before_this_term_stays_silent_until_it_changes() {
        let (report, at) = (format!("{REPORT_FACTS}node-1/1"), "2026-01-01T00:00:00Z");
        let since = |fact: &str, value: &str| Since { fact: fact.into(), value: value.into(), at: at.into() };
        let recorded = [since(&report, "d@t"), since("converged", "3")];
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut ages = Ages::resumed(&recorded, Timestamp::UNIX_EPOCH);
        // The first read of the term may fail.
        ages.read_failed();
        let facts =
            |value: &str| BTreeMap::from([(report.clone(), value.into()), ("converged".into(), "3".into())]);
        for _ in 0..2 {
            assert_eq!(ages.at(begin)[&report], Age { value: "d@t".into(), elapsed: Duration::MAX });
            ages.observe(&facts("d@t"), begin, Timestamp::UNIX_EPOCH);
        }
        assert_eq!(ages.at(begin + second)["converged"].elapsed, second, "others begin at zero");
        let recorded = ages.since(&BTreeSet::new()).into_iter().find(|since| since.fact == report);
        assert_eq!(recorded.unwrap().at, at);
        ages.observe(&facts("d@u"), begin, Timestamp::UNIX_EPOCH);
        assert_eq!(ages.at(begin + second)[&report].elapsed, second);
    }

    #[test]
    fn ages_in_a_dump_end_at_the_time_of_the_dump() {
        let since = |at: &str| Since { fact: "f".into(), value: "v".into(), at: at.into() };
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let age = |at| keyward_core::platform::ages(&[since(at)], now)["f"].elapsed;
        assert_eq!(age("2026-01-01T00:00:00Z"), Duration::from_mins(1));
        assert_eq!(age("2026-01-01T00:02:00Z"), Duration::ZERO, "a time in the future counts as just seen");
        assert_eq!(age("yesterday"), Duration::ZERO);
    }
}
