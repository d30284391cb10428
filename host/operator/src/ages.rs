//! How long facts have had their values (OBJECTS.md, "Time"): measured by this process's monotonic clock from when it
//! saw them, never from a time that somebody wrote. After a restart, or when another operator takes over, waits begin
//! anew: what stands in `status.since[]` is for dumps and people. Only of reports it counts too. They stand there once
//! their agents are silent, and a restart makes nobody heard.

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
    /// For deciding. `None`: since before this term, and for longer than anybody is waited for.
    since: Option<Instant>,
    /// For people.
    at: Timestamp,
}

impl Ages {
    /// Those that a term begins with, from the `status.since[]` that the last one left: reports that were silent then are
    /// silent until they change.
    pub fn resumed(since: &[Since], wall: Timestamp) -> Self {
        let silent = since.iter().filter(|told| told.fact.starts_with(REPORT_FACTS));
        let facts = silent.map(|told| {
            let at = told.at.parse().unwrap_or(wall);
            (told.fact.clone(), Seen { value: told.value.clone(), since: None, at })
        });
        Self { facts: facts.collect() }
    }

    /// Takes over the facts of a decision: those that are new, or have another value, begin now; those that are not
    /// there any more are forgotten.
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

    /// What the next decision is given.
    pub fn at(&self, now: Instant) -> BTreeMap<String, Age> {
        self.facts
            .iter()
            .map(|(fact, seen)| {
                let elapsed = seen.since.map_or(Duration::MAX, |since| now.saturating_duration_since(since));
                (fact.clone(), Age { value: seen.value.clone(), elapsed })
            })
            .collect()
    }

    /// A pass that saw nothing. What is true only as long as each pass sees it begins again: that an agent is silent, that a
    /// key fails, that the cluster stays converged during a verification. An agent that was silent before this term still
    /// was not heard.
    pub fn blind(&mut self) {
        let is_broken =
            |fact: &str| [REPORT_FACTS, FORGET_FACTS, VERIFYING_FACTS].iter().any(|of| fact.starts_with(of));
        self.facts.retain(|fact, seen| seen.since.is_none() || !is_broken(fact));
    }

    /// There is no object to decide for: what comes next is another one's beginning.
    pub fn clear(&mut self) {
        self.facts.clear();
    }

    /// Requests to forget keys: they have to fail for as long again.
    pub fn forget_requests_again(&mut self) {
        self.facts.retain(|fact, _| !fact.starts_with(FORGET_FACTS));
    }

    /// When this fact took its value, for people.
    pub fn began(&self, fact: &str) -> Option<Timestamp> {
        self.facts.get(fact).map(|seen| seen.at)
    }

    /// `status.since[]`, without those that are not worth a write.
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

/// Statuses carry whole seconds.
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
    fn age_grows_while_the_value_stays_and_begins_anew_when_it_changes() {
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
    fn wall_clock_that_jumps_does_not_change_an_age() {
        let (mut ages, begin) = (Ages::default(), Instant::now());
        ages.observe(&facts("3"), begin, Timestamp::UNIX_EPOCH);
        ages.observe(&facts("3"), begin, Timestamp::from_second(4_000_000_000).unwrap());
        assert_eq!(ages.at(begin)["converged"].elapsed, Duration::ZERO);
        assert_eq!(ages.since(&BTreeSet::new())[0].at, "1970-01-01T00:00:00Z");
    }

    #[test]
    fn silence_counts_only_while_somebody_listens() {
        let report = format!("{REPORT_FACTS}node-1/1");
        let facts = BTreeMap::from([(report.clone(), "d@t".to_owned()), ("converged".into(), "3".into())]);
        let (mut ages, begin, second) = (Ages::default(), Instant::now(), Duration::from_secs(1));
        ages.observe(&facts, begin, Timestamp::UNIX_EPOCH);
        ages.blind();
        ages.observe(&facts, begin + second, Timestamp::UNIX_EPOCH);
        let at = ages.at(begin + 2 * second);
        assert_eq!((at[&report].elapsed, at["converged"].elapsed), (second, 2 * second));
        let told = ages.since(&BTreeSet::from([report]));
        assert_eq!(told.iter().map(|since| since.fact.as_str()).collect::<Vec<_>>(), ["converged"]);
    }

    #[test]
    fn who_was_silent_before_this_term_is_until_something_new_is_heard() {
        let (report, at) = (format!("{REPORT_FACTS}node-1/1"), "2026-01-01T00:00:00Z");
        let since = |fact: &str, value: &str| Since { fact: fact.into(), value: value.into(), at: at.into() };
        let told = [since(&report, "d@t"), since("converged", "3")];
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut ages = Ages::resumed(&told, Timestamp::UNIX_EPOCH);
        // The first look of the term may fail.
        ages.blind();
        let facts =
            |told: &str| BTreeMap::from([(report.clone(), told.into()), ("converged".into(), "3".into())]);
        for _ in 0..2 {
            assert_eq!(ages.at(begin)[&report], Age { value: "d@t".into(), elapsed: Duration::MAX });
            ages.observe(&facts("d@t"), begin, Timestamp::UNIX_EPOCH);
        }
        assert_eq!(ages.at(begin + second)["converged"].elapsed, second, "others begin anew");
        let report_told = ages.since(&BTreeSet::new()).into_iter().find(|told| told.fact == report);
        assert_eq!(report_told.unwrap().at, at);
        ages.observe(&facts("d@u"), begin, Timestamp::UNIX_EPOCH);
        assert_eq!(ages.at(begin + second)[&report].elapsed, second);
    }

    #[test]
    fn dump_tells_ages_up_to_its_own_now() {
        let since = |at: &str| Since { fact: "f".into(), value: "v".into(), at: at.into() };
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let age = |at| keyward_core::platform::ages(&[since(at)], now)["f"].elapsed;
        assert_eq!(age("2026-01-01T00:00:00Z"), Duration::from_mins(1));
        assert_eq!(age("2026-01-01T00:02:00Z"), Duration::ZERO, "a time to come is just seen");
        assert_eq!(age("yesterday"), Duration::ZERO);
    }
}
