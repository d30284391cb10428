//! The aggregate status: what was decided, merged into what stood there. Pure; the reconcile writes it, once, and only
//! when something changed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use keyward_core::api::{
    ClusterEncryptionStatus, Condition, ConditionStatus, PauseStatus, PluginSummary, ReencryptStatus, Since,
};
use keyward_core::outcome::Outcome;

use crate::ages::whole_seconds;
use crate::cluster::cut;
use crate::error::Error;

/// Says what is waited for.
const PROGRESSING: &str = "Progressing";
/// Everything is as this generation of the spec asks, everywhere.
pub(crate) const READY: &str = "Ready";
/// The condition about the operator's own writing; the others are core's.
pub(crate) const WRITER_DEGRADED: &str = "EncryptionWriterDegraded";
/// The longest message that a condition carries.
const LONGEST_MESSAGE: usize = 8192;

/// What a pass knows beside its decision.
pub(crate) struct Pass<'a> {
    /// The generation of the spec that it read: every condition that it sets is about that one.
    pub(crate) generation: i64,
    /// What could not be written.
    pub(crate) failure: Option<&'a Error>,
    /// When the wait that the decision names ends.
    pub(crate) until: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

/// The status after a decision. A condition whose type the decision does not name keeps what it had, its generation too.
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

/// The status after a pass that could not decide anything: what was found before is not known to hold. Everything else is
/// left as it is.
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

/// With the time at which the wait that it names ends.
fn timed(mut condition: Condition, outcome: &Outcome, until: Option<Timestamp>) -> Condition {
    let waits = outcome.waiting.as_ref().is_some_and(|waiting| waiting.reason == condition.reason);
    if let Some(until) = until.filter(|_| waits && [PROGRESSING, READY].contains(&condition.type_.as_str())) {
        condition.message = format!("{}; until {}", condition.message, whole_seconds(until));
    }
    condition
}

/// `Ready` cannot be True beside trouble, also where it is the writer's, or of a pass before.
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

/// Since when each plugin is as it is. Kept where another operator has told it already.
fn plugins(before: &[PluginSummary], decided: &[PluginSummary], now: Timestamp) -> Vec<PluginSummary> {
    let mut plugins = decided.to_vec();
    for plugin in &mut plugins {
        let same = |stood: &&PluginSummary| {
            stood.node == plugin.node && stood.key_id == plugin.key_id && stood.status == plugin.status
        };
        let kept = before.iter().find(same).and_then(|stood| stood.since.clone());
        plugin.since = Some(kept.unwrap_or_else(|| whole_seconds(now).to_string()));
    }
    plugins
}

/// Since when it is paused, whoever explains it in other words meanwhile.
fn paused(
    before: Option<&PauseStatus>,
    decided: Option<&PauseStatus>,
    now: Timestamp,
) -> Option<PauseStatus> {
    let kept = before.and_then(|stood| stood.since.clone());
    let since = Some(kept.unwrap_or_else(|| whole_seconds(now).to_string()));
    decided.map(|pause| PauseStatus { since, ..pause.clone() })
}

/// A lost precondition is how two writers take turns, and no failure.
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
        // Since when it waits for this: another reason is another wait.
        let same = |stood: &&Condition| {
            stood.status == condition.status
                && (![PROGRESSING, READY].contains(&condition.type_.as_str())
                    || stood.reason == condition.reason)
        };
        let kept =
            all.get(&condition.type_).filter(same).and_then(|stood| stood.last_transition_time.clone());
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
    fn progressing_tells_since_when_it_waits_for_what_it_says() {
        let waits = |reason: &str| Outcome {
            conditions: vec![Condition::new(PROGRESSING, ConditionStatus::True, reason, "message")],
            ..Default::default()
        };
        let first = after(&ClusterEncryptionStatus::default(), &waits("Migrating"), 10);
        let second = after(&first, &waits("Migrating"), 20);
        let third = after(&second, &waits("HistoryNotCompacted"), 30);
        let time = |status: &ClusterEncryptionStatus| {
            let mut told = status.conditions.iter().filter(|told| told.type_ == PROGRESSING);
            told.next().and_then(|told| told.last_transition_time.clone()).unwrap()
        };
        let times = [&first, &second, &third].map(time);
        assert_eq!(times, ["1970-01-01T00:00:10Z", "1970-01-01T00:00:10Z", "1970-01-01T00:00:30Z"]);
    }

    fn ready(status: &ClusterEncryptionStatus) -> &Condition {
        status.conditions.iter().find(|condition| condition.type_ == READY).unwrap()
    }

    fn says_ready() -> Outcome {
        Outcome {
            conditions: vec![Condition::new(READY, ConditionStatus::True, "AsRequested", "all of it")],
            ..Default::default()
        }
    }

    #[test]
    fn ready_is_of_the_generation_that_was_read() {
        let first = after(&ClusterEncryptionStatus::default(), &says_ready(), 10);
        assert_eq!(
            (ready(&first).status, ready(&first).observed_generation),
            (ConditionStatus::True, Some(3))
        );
        assert_eq!(first.observed_generation, 3);
    }

    #[test]
    fn ready_is_unknown_after_a_pass_that_decided_nothing_and_the_rest_stays() {
        let mut before = after(&ClusterEncryptionStatus::default(), &says_ready(), 10);
        before.conditions.push(Condition::new("Encrypted", ConditionStatus::True, "EncryptionCompleted", ""));
        let unknown = undecided(&before, "secrets cannot be listed", 4, Timestamp::from_second(20).unwrap());
        let said = ready(&unknown);
        assert_eq!((said.status, said.observed_generation), (ConditionStatus::Unknown, Some(4)));
        assert_eq!(said.message, "secrets cannot be listed");
        assert_eq!(unknown.observed_generation, 3, "the other conditions are of that one");
        assert!(
            unknown.conditions.iter().any(|c| c.type_ == "Encrypted" && c.status == ConditionStatus::True)
        );
    }

    #[test]
    fn ready_is_false_beside_trouble_of_a_pass_before() {
        let trouble = "EncryptionMigrationControllerDegraded";
        let mut before = ClusterEncryptionStatus::default();
        before.conditions.push(Condition::new(trouble, ConditionStatus::True, "Error", "one object failed"));
        let first = after(&before, &says_ready(), 10);
        assert_eq!(
            (ready(&first).status, ready(&first).message.as_str()),
            (ConditionStatus::False, "one object failed")
        );
        let second = after(&first, &says_ready(), 20);
        assert_eq!(ready(&first), ready(&second), "since when stays");
    }

    #[test]
    fn a_wait_is_reported_with_its_end() {
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
        assert_eq!(ready(&status).message, "writes; until 1970-01-01T00:01:10Z");
        assert_eq!(status.conditions[1].message, "writes; until 1970-01-01T00:01:10Z");
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
    fn a_plugin_tells_since_when_it_is_as_it_is() {
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
    fn a_pause_keeps_its_beginning_while_its_reason_is_reworded() {
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
    fn condition_that_was_not_decided_keeps_what_it_had() {
        let first = after(&ClusterEncryptionStatus::default(), &outcome(ConditionStatus::True), 10);
        let second = after(&first, &Outcome::default(), 20);
        assert_eq!(first.conditions, second.conditions);
    }

    #[test]
    fn equal_decisions_give_equal_statuses_and_marks_stay() {
        let before = ClusterEncryptionStatus { highest_key_id: KeyId(7), ..Default::default() };
        let first = after(&before, &outcome(ConditionStatus::True), 10);
        assert_eq!(first, after(&first, &outcome(ConditionStatus::True), 99));
        assert_eq!(first.highest_key_id, KeyId(7));
    }

    #[test]
    fn failed_write_degrades_and_a_lost_precondition_does_not() {
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
