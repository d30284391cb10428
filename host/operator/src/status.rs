//! The aggregate status: the decision, merged into the previous status. Pure; a reconcile pass writes it once, and
//! only if something changed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keyward_core::api::{
    ClusterEncryptionStatus, Condition, ConditionStatus, PauseStatus, PluginSummary, ReencryptStatus, Since,
};
use keyward_core::outcome::Outcome;

use crate::ages::whole_seconds;
use crate::cluster::cut;
use crate::error::Error;

/// The condition that names the current wait.
const PROGRESSING: &str = "Progressing";
/// The condition that everything is as this generation of the spec asks, on every node (invariant: ready-is-true).
pub(crate) const READY: &str = "Ready";
/// The condition about the operator's own writes; core decides the others.
pub(crate) const WRITER_DEGRADED: &str = "EncryptionWriterDegraded";
/// The longest message that a condition carries.
const LONGEST_MESSAGE: usize = 8192;

/// What a pass knows in addition to its decision.
pub(crate) struct Pass<'a> {
    /// The generation of the spec that it read: every condition that it sets is about this generation.
    pub(crate) generation: i64,
    /// The write that failed.
    pub(crate) failure: Option<&'a Error>,
    /// When the wait that the decision names ends.
    pub(crate) until: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// The status after a decision. A condition that the decision does not set is kept, with its generation.
pub(crate) fn merged(
    before: &ClusterEncryptionStatus,
    outcome: &Outcome,
    since: Vec<Since>,
    pass: &Pass<'_>,
) -> ClusterEncryptionStatus {
    let (generation, now) = (pass.generation, pass.now);
    let decided = outcome.conditions.iter().cloned().chain([writer_condition(pass.failure)]);
    let decided = decided.map(|condition| timed(condition, outcome, pass.until));
    let view = &outcome.view;
    let mut conditions = conditions(&before.conditions, decided, generation, now);
    doubt(&mut conditions, &before.conditions, generation, now);
    ClusterEncryptionStatus {
        observed_generation: generation,
        conditions,
        highest_key_id: before.highest_key_id,
        highest_revision: before.highest_revision,
        converged_revision: view.converged_revision,
        revisions: view.revisions.clone(),
        keys: view.keys.clone(),
        encrypted_resources: view.encrypted.clone().unwrap_or_else(|| before.encrypted_resources.clone()),
        migrations: view.migrations.clone(),
        plugins: plugins(&before.plugins, &view.plugins, now),
        forget: view.forget.clone(),
        paused: paused(before.paused.as_ref(), view.paused.as_ref(), now),
        reencrypt: match &view.reencrypted {
            Some(token) => ReencryptStatus { token: Some(token.clone()) },
            None => before.reencrypt.clone(),
        },
        since,
    }
}

/// The status after a pass without a decision: `Ready` is Unknown, since nobody checked it. Everything else is kept.
pub(crate) fn undecided(
    before: &ClusterEncryptionStatus,
    why: &str,
    generation: i64,
    now: Timestamp,
) -> ClusterEncryptionStatus {
    let unknown = Condition::new(READY, ConditionStatus::Unknown, "Undecided", why);
    let conditions = conditions(&before.conditions, [unknown].into_iter(), generation, now);
    ClusterEncryptionStatus { conditions, ..before.clone() }
}

/// Adds the time at which the wait ends that the condition names.
fn timed(mut condition: Condition, outcome: &Outcome, until: Option<Timestamp>) -> Condition {
    let waits = outcome.waiting.as_ref().is_some_and(|waiting| waiting.reason == condition.reason);
    if let Some(until) = until.filter(|_| waits && [PROGRESSING, READY].contains(&condition.type_.as_str())) {
        condition.message = format!("{}; this wait ends at {}", condition.message, whole_seconds(until));
    }
    condition
}

/// `Ready` cannot be True beside a degraded condition, also if that one is about the writes or is kept from a pass
/// before.
fn doubt(conditions: &mut [Condition], before: &[Condition], generation: i64, now: Timestamp) {
    let trouble = conditions.iter().find(|c| c.type_.ends_with("Degraded") && c.is_trouble()).cloned();
    let ready = conditions.iter_mut().find(|c| c.type_ == READY && c.status == ConditionStatus::True);
    if let (Some(ready), Some(trouble)) = (ready, trouble) {
        let doubted = Condition::new(READY, ConditionStatus::False, trouble.reason, trouble.message);
        let mut doubted = self::conditions(before, [doubted].into_iter(), generation, now);
        doubted.retain(|condition| condition.type_ == READY);
        if let Some(doubted) = doubted.pop() {
            *ready = doubted;
        }
    }
}

/// Sets since when each plugin has its status. The time is kept if another operator recorded it already.
fn plugins(before: &[PluginSummary], decided: &[PluginSummary], now: Timestamp) -> Vec<PluginSummary> {
    let mut plugins = decided.to_vec();
    for plugin in &mut plugins {
        let same = |known: &&PluginSummary| {
            known.node == plugin.node && known.key_id == plugin.key_id && known.status == plugin.status
        };
        let kept = before.iter().find(same).and_then(|known| known.since.clone());
        plugin.since = Some(kept.unwrap_or_else(|| whole_seconds(now).to_string()));
    }
    plugins
}

/// Sets since when it is paused. The time is kept if the reason changes.
fn paused(
    before: Option<&PauseStatus>,
    decided: Option<&PauseStatus>,
    now: Timestamp,
) -> Option<PauseStatus> {
    let kept = before.and_then(|known| known.since.clone());
    let since = Some(kept.unwrap_or_else(|| whole_seconds(now).to_string()));
    decided.map(|pause| PauseStatus { since, ..pause.clone() })
}

/// A write conflict is not a failure: the next pass decides again.
fn writer_condition(failure: Option<&Error>) -> Condition {
    match failure.filter(|error| !error.is_conflict()) {
        None => Condition::new(WRITER_DEGRADED, ConditionStatus::False, "AsExpected", ""),
        Some(error) => {
            let reason = error.category();
            let reason: String = reason
                .split('_')
                .filter_map(|word| {
                    let (first, rest) = word.split_at_checked(1)?;
                    Some(first.to_uppercase() + rest)
                })
                .collect();
            Condition::new(WRITER_DEGRADED, ConditionStatus::True, reason, error.to_string())
        }
    }
}

fn conditions(
    before: &[Condition],
    decided: impl Iterator<Item = Condition>,
    generation: i64,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all: BTreeMap<String, Condition> =
        before.iter().map(|condition| (condition.type_.clone(), condition.clone())).collect();
    for mut condition in decided {
        // The time is when this wait began: another reason is another wait.
        let same = |known: &&Condition| {
            known.status == condition.status
                && (![PROGRESSING, READY].contains(&condition.type_.as_str())
                    || known.reason == condition.reason)
        };
        let kept =
            all.get(&condition.type_).filter(same).and_then(|known| known.last_transition_time.clone());
        condition.last_transition_time = Some(kept.unwrap_or_else(|| whole_seconds(now).to_string()));
        condition.observed_generation = Some(generation);
        condition.message.truncate(cut(&condition.message, LONGEST_MESSAGE).len());
        all.insert(condition.type_.clone(), condition);
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use keyward_core::ids::KeyId;
    use keyward_core::outcome::StatusView;

    use super::*;

    fn outcome(status: ConditionStatus) -> Outcome {
        Outcome {
            conditions: vec![Condition::new("Encrypted", status, "Reason", "message")],
            ..Default::default()
        }
    }

    fn after(before: &ClusterEncryptionStatus, outcome: &Outcome, second: i64) -> ClusterEncryptionStatus {
        let now = Timestamp::from_second(second).unwrap();
        merged(before, outcome, vec![], &Pass { generation: 3, failure: None, until: None, now })
    }

    #[test]
    fn progressing_has_the_time_at_which_its_wait_began() {
        let waits = |reason: &str| Outcome {
            conditions: vec![Condition::new(PROGRESSING, ConditionStatus::True, reason, "message")],
            ..Default::default()
        };
        let first = after(&ClusterEncryptionStatus::default(), &waits("Migrating"), 10);
        let second = after(&first, &waits("Migrating"), 20);
        let third = after(&second, &waits("HistoryNotCompacted"), 30);
        let time = |status: &ClusterEncryptionStatus| {
            let mut found = status.conditions.iter().filter(|found| found.type_ == PROGRESSING);
            found.next().and_then(|found| found.last_transition_time.clone()).unwrap()
        };
        let times = [&first, &second, &third].map(time);
        assert_eq!(times, ["1970-01-01T00:00:10Z", "1970-01-01T00:00:10Z", "1970-01-01T00:00:30Z"]);
    }

    fn ready(status: &ClusterEncryptionStatus) -> &Condition {
        status.conditions.iter().find(|condition| condition.type_ == READY).unwrap()
    }

    fn ready_outcome() -> Outcome {
        Outcome {
            conditions: vec![Condition::new(READY, ConditionStatus::True, "AsRequested", "all of it")],
            ..Default::default()
        }
    }

    #[test]
    fn ready_has_the_generation_that_was_read() {
        let first = after(&ClusterEncryptionStatus::default(), &ready_outcome(), 10);
        assert_eq!(
            (ready(&first).status, ready(&first).observed_generation),
            (ConditionStatus::True, Some(3))
        );
        assert_eq!(first.observed_generation, 3);
    }

    #[test]
    fn ready_is_unknown_after_a_pass_without_a_decision_and_the_rest_is_kept() {
        let mut before = after(&ClusterEncryptionStatus::default(), &ready_outcome(), 10);
        before.conditions.push(Condition::new("Encrypted", ConditionStatus::True, "EncryptionCompleted", ""));
        let unknown = undecided(&before, "secrets cannot be listed", 4, Timestamp::from_second(20).unwrap());
        let condition = ready(&unknown);
        assert_eq!((condition.status, condition.observed_generation), (ConditionStatus::Unknown, Some(4)));
        assert_eq!(condition.message, "secrets cannot be listed");
        assert_eq!(unknown.observed_generation, 3, "the other conditions have that generation");
        assert!(
            unknown.conditions.iter().any(|c| c.type_ == "Encrypted" && c.status == ConditionStatus::True)
        );
    }

    #[test]
    fn ready_is_false_beside_a_degraded_condition_of_a_pass_before() {
        let trouble = "EncryptionMigrationControllerDegraded";
        let mut before = ClusterEncryptionStatus::default();
        before.conditions.push(Condition::new(trouble, ConditionStatus::True, "Error", "one object failed"));
        let first = after(&before, &ready_outcome(), 10);
        assert_eq!(
            (ready(&first).status, ready(&first).message.as_str()),
            (ConditionStatus::False, "one object failed")
        );
        let second = after(&first, &ready_outcome(), 20);
        assert_eq!(ready(&first), ready(&second), "the transition time is kept");
    }

    #[test]
    fn wait_is_reported_with_its_end() {
        let waits = Outcome {
            conditions: [PROGRESSING, READY]
                .map(|type_| Condition::new(type_, ConditionStatus::False, "WritesInFlight", "writes"))
                .into(),
            waiting: Some(keyward_core::outcome::Waiting {
                reason: "WritesInFlight".into(),
                message: "writes".into(),
            }),
            ..Default::default()
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let pass = Pass { generation: 1, failure: None, until: Some(at(70)), now: at(10) };
        let status = merged(&ClusterEncryptionStatus::default(), &waits, vec![], &pass);
        assert_eq!(ready(&status).message, "writes; this wait ends at 1970-01-01T00:01:10Z");
        assert_eq!(status.conditions[1].message, "writes; this wait ends at 1970-01-01T00:01:10Z");
    }

    #[test]
    fn transition_time_moves_with_the_status_alone() {
        let first = after(&ClusterEncryptionStatus::default(), &outcome(ConditionStatus::False), 10);
        let mut same = outcome(ConditionStatus::False);
        same.conditions[0].message = "other".to_owned();
        let second = after(&first, &same, 20);
        let time = |status: &ClusterEncryptionStatus| status.conditions[0].last_transition_time.clone();
        assert_eq!(time(&first), time(&second));
        let third = after(&second, &outcome(ConditionStatus::True), 30);
        assert_eq!(time(&third).as_deref(), Some("1970-01-01T00:00:30Z"));
    }

    #[test]
    fn plugin_has_the_time_since_which_it_has_its_status() {
        let plugin = |status: &str, detail: &str| Outcome {
            view: StatusView {
                plugins: vec![PluginSummary {
                    node: "node-1".into(),
                    key_id: KeyId(1),
                    status: status.into(),
                    remote_key_id: None,
                    since: None,
                    detail: detail.into(),
                    remedy: String::new(),
                }],
                ..Default::default()
            },
            ..Default::default()
        };
        let since = |status: &ClusterEncryptionStatus| status.plugins[0].since.clone().unwrap();
        let first = after(&ClusterEncryptionStatus::default(), &plugin("Error", "refused"), 10);
        let second = after(&first, &plugin("Error", "sealed"), 20);
        let third = after(&second, &plugin("Healthy", ""), 30);
        assert_eq!([&first, &second, &third].map(since).map(|at| at[17..19].to_owned()), ["10", "10", "30"]);
    }

    #[test]
    fn pause_keeps_its_beginning_when_its_reason_changes() {
        let pause = |reason: &str| Outcome {
            view: StatusView {
                paused: Some(PauseStatus { reason: reason.into(), ..Default::default() }),
                ..Default::default()
            },
            ..Default::default()
        };
        let first = after(&ClusterEncryptionStatus::default(), &pause("KMS away"), 10);
        let second = after(&first, &pause("KMS away, ticket 7"), 20);
        let since = |status: &ClusterEncryptionStatus| status.paused.clone().and_then(|paused| paused.since);
        assert_eq!(since(&second).as_deref(), Some("1970-01-01T00:00:10Z"));
        assert_eq!(since(&after(&second, &Outcome::default(), 30)), None);
        let later = after(&after(&second, &Outcome::default(), 30), &pause("again"), 40);
        assert_eq!(since(&later).as_deref(), Some("1970-01-01T00:00:40Z"));
    }

    #[test]
    fn condition_that_was_not_decided_is_kept() {
        let first = after(&ClusterEncryptionStatus::default(), &outcome(ConditionStatus::True), 10);
        let second = after(&first, &Outcome::default(), 20);
        assert_eq!(first.conditions, second.conditions);
    }

    #[test]
    fn equal_decisions_give_equal_statuses_and_high_water_marks_are_kept() {
        let before = ClusterEncryptionStatus { highest_key_id: KeyId(7), ..Default::default() };
        let first = after(&before, &outcome(ConditionStatus::True), 10);
        assert_eq!(first, after(&first, &outcome(ConditionStatus::True), 99));
        assert_eq!(first.highest_key_id, KeyId(7));
    }

    #[test]
    fn failed_write_degrades_and_a_write_conflict_does_not() {
        let call = |code: u16| {
            Error::Call(crate::cluster::CallError {
                verb: "create",
                object: "secrets a/b".into(),
                cause: crate::cluster::Cause::Refused(Box::new(crate::cluster::Refusal {
                    code,
                    reason: "R".into(),
                    ..Default::default()
                })),
            })
        };
        assert_eq!(writer_condition(Some(&call(409))).status, ConditionStatus::False);
        let degraded = writer_condition(Some(&call(403)));
        assert_eq!((degraded.status, degraded.reason.as_str()), (ConditionStatus::True, "Forbidden"));
    }
}
