//! The metrics of `/metrics`. Labels are bounded: kinds of actions, categories of errors, types of loaded providers,
//! configured resources, condition types.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use keyward_core::api::{ConditionStatus, EncryptionMigrationStatus, MigrationPhase};
use keyward_core::outcome::Outcome;
use keyward_core::provider::{Evaluation, ProviderError};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAction {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByProvider {
    r#type: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPlace {
    r#where: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResource {
    resource: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPhase {
    resource: String,
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    resource: String,
    outcome: &'static str,
}

/// Data keys that the spec and the keys refer to: bounded by what an admin wrote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReference {
    kind: String,
    name: String,
    key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCondition {
    r#type: String,
    status: &'static str,
}

/// No label: a family of one metric, which can be absent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Alone;

impl EncodeLabelSet for Alone {
    fn encode(&self, _: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        Ok(())
    }
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: Durations<ByResult>,
    actions: Family<ByAction, Counter>,
    evaluations: Durations<ByProvider>,
    panics: Family<ByPlace, Counter>,
    watch_errors: Family<ByResource, Counter>,
    lease_held: Gauge,
    migration_objects: Family<ByOutcome, Counter>,
    migration_done: Family<ByResource, Gauge<u64, AtomicU64>>,
    migration_total: Family<ByResource, Gauge<u64, AtomicU64>>,
    migration_rate: Family<ByResource, Gauge<u64, AtomicU64>>,
    migration_phase: Family<ByPhase, Gauge>,
    condition: Family<ByCondition, Gauge>,
    expires: Family<ByReference, Gauge<f64, AtomicU64>>,
    write_key: Family<Alone, Gauge<u64, AtomicU64>>,
    converged: Family<Alone, Gauge>,
    registry: Arc<Registry>,
}

fn milliseconds_to_a_minute() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

fn microseconds_to_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.000_01, 4.0, 10))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("keyward");
        let r = &mut registry;
        let reconciles: Durations<ByResult> = Family::new_with_constructor(milliseconds_to_a_minute);
        let evaluations: Durations<ByProvider> = Family::new_with_constructor(microseconds_to_seconds);
        r.register_with_unit(
            "operator_reconcile_duration",
            "Duration of reconcile passes, with reads and writes, by result",
            Unit::Seconds,
            reconciles.clone(),
        );
        r.register_with_unit(
            "provider_evaluation_duration",
            "Duration of evaluations of a configuration by a provider module",
            Unit::Seconds,
            evaluations.clone(),
        );
        macro_rules! registered {
            ($name:literal, $help:literal) => {{
                let metric = Default::default();
                r.register($name, $help, Clone::clone(&metric));
                metric
            }};
        }
        Self {
            reconciles,
            evaluations,
            actions: registered!("operator_actions", "Writes that the operator decided, by kind and result"),
            panics: registered!("operator_panics", "Internal errors that were caught, by place"),
            watch_errors: registered!("operator_watch_errors", "Broken watches that were restarted"),
            lease_held: registered!("operator_lease_held", "1 if this operator is the leader"),
            migration_objects: registered!(
                "migration_objects",
                "Objects processed by migrations, by outcome"
            ),
            migration_done: registered!(
                "migration_done_objects",
                "Objects processed in the current migration"
            ),
            migration_total: registered!(
                "migration_known_objects",
                "Objects to process in total, as far as known"
            ),
            migration_rate: registered!("migration_rate_objects_per_second", "Objects processed per second"),
            migration_phase: registered!("migration_phase", "1 for the current phase of a migration"),
            condition: registered!("condition", "1 for the current status of a condition"),
            expires: registered!(
                "credential_expiry_days",
                "Days until the first certificate or credential of a referenced object expires; negative after that"
            ),
            write_key: registered!("write_key_id", "keyID of the write key; 0 for none"),
            converged: registered!("converged", "1 while every API server has loaded the same revision"),
            registry: Arc::new(registry),
        }
    }
}

impl Metrics {
    /// The text that Prometheus scrapes.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn reconciled(&self, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&ByResult { result }).observe(took.as_secs_f64());
    }

    pub(crate) fn acted(&self, kind: &'static str, result: &'static str) {
        self.actions.get_or_create(&ByAction { kind, result }).inc();
    }

    pub(crate) fn evaluated(&self, result: &Result<Evaluation, ProviderError>, took: Duration) {
        // If no module of the type is loaded, the type is any text of an admin, and not a bounded label.
        let (provider, result) = match result {
            Ok(evaluation) => (evaluation.provider_type.clone(), "ok"),
            Err(ProviderError::NotLoaded { .. }) => ("unknown".to_owned(), "not_loaded"),
            Err(ProviderError::Degraded { .. }) => ("unknown".to_owned(), "degraded"),
            Err(ProviderError::Invalid { .. }) => ("unknown".to_owned(), "invalid"),
            Err(ProviderError::Failed { provider_type, .. }) => (provider_type.clone(), "failed"),
        };
        self.evaluations.get_or_create(&ByProvider { r#type: provider, result }).observe(took.as_secs_f64());
    }

    pub(crate) fn panicked(&self, place: &'static str) {
        self.panics.get_or_create(&ByPlace { r#where: place }).inc();
    }

    pub(crate) fn watch_failed(&self, resource: &str) {
        self.watch_errors.get_or_create(&ByResource { resource: resource.to_owned() }).inc();
    }

    pub(crate) fn leads(&self, leads: bool) {
        self.lease_held.set(i64::from(leads));
    }

    /// The term ended: from now on another operator reports decisions and migrations.
    pub(crate) fn end_term(&self) {
        self.condition.clear();
        self.expires.clear();
        self.write_key.clear();
        self.converged.clear();
        self.migration_done.clear();
        self.migration_total.clear();
        self.migration_rate.clear();
        self.migration_phase.clear();
    }

    pub(crate) fn migrated(&self, resource: &str, outcome: &'static str) {
        self.migration_objects.get_or_create(&ByOutcome { resource: resource.to_owned(), outcome }).inc();
    }

    pub(crate) fn migration(&self, resource: &str, status: &EncryptionMigrationStatus) {
        let label = ByResource { resource: resource.to_owned() };
        self.migration_done.get_or_create(&label).set(status.done);
        self.migration_total.get_or_create(&label).set(status.total);
        self.migration_rate.get_or_create(&label).set(status.rate);
        for (phase, name) in [
            (MigrationPhase::Pending, "Pending"),
            (MigrationPhase::Running, "Running"),
            (MigrationPhase::Succeeded, "Succeeded"),
            (MigrationPhase::Failed, "Failed"),
        ] {
            let label = ByPhase { resource: resource.to_owned(), phase: name };
            self.migration_phase.get_or_create(&label).set(i64::from(status.phase == phase));
        }
    }

    pub(crate) fn decided(&self, outcome: &Outcome) {
        self.converged.get_or_create(&Alone).set(i64::from(outcome.converged));
        let write = outcome.view.keys.iter().find(|key| key.role == "write");
        self.write_key.get_or_create(&Alone).set(write.map_or(0, |key| key.key_id.0));
        // Drops data keys that are not referenced any more.
        self.expires.clear();
        for expires in &outcome.view.expiries {
            let label = ByReference {
                kind: expires.kind.clone(),
                name: expires.name.clone(),
                key: expires.key.clone().unwrap_or_default(),
            };
            // Days with one decimal.
            let tenths = i32::try_from(expires.seconds_left / 8640).unwrap_or(i32::MAX);
            self.expires.get_or_create(&label).set(f64::from(tenths) / 10.0);
        }
        for condition in &outcome.conditions {
            for (status, name) in [
                (ConditionStatus::True, "True"),
                (ConditionStatus::False, "False"),
                (ConditionStatus::Unknown, "Unknown"),
            ] {
                let label = ByCondition { r#type: condition.type_.clone(), status: name };
                self.condition.get_or_create(&label).set(i64::from(condition.status == status));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use keyward_core::api::Condition;
    use keyward_core::outcome::{Expires, StatusView};

    use super::*;

    #[test]
    fn metrics_show_what_was_observed_with_bounded_labels() {
        let metrics = Metrics::default();
        metrics.acted("CreateKey", "conflict");
        metrics.reconciled("ok", Duration::from_millis(3));
        let invented =
            ProviderError::NotLoaded { provider_type: "x\"} 1".into(), loaded: vec![], refused: vec![] };
        metrics.evaluated(&Err(invented), Duration::from_micros(20));
        metrics.decided(&Outcome {
            converged: true,
            conditions: vec![Condition::new("Encrypted", ConditionStatus::True, "", "")],
            view: StatusView {
                expiries: vec![Expires {
                    kind: "configmap".into(),
                    name: "ca".into(),
                    key: Some("bundle".into()),
                    at: jiff::Timestamp::UNIX_EPOCH,
                    seconds_left: -86_400 * 3 / 2,
                }],
                ..Default::default()
            },
            ..Default::default()
        });
        let text = metrics.encode().unwrap();
        for expected in [
            "keyward_operator_actions_total{kind=\"CreateKey\",result=\"conflict\"} 1",
            "keyward_operator_reconcile_duration_seconds_count{result=\"ok\"} 1",
            "keyward_provider_evaluation_duration_seconds_count{type=\"unknown\",result=\"not_loaded\"} 1",
            "keyward_condition{type=\"Encrypted\",status=\"True\"} 1",
            "keyward_condition{type=\"Encrypted\",status=\"False\"} 0",
            "keyward_converged{} 1",
            "keyward_credential_expiry_days{kind=\"configmap\",name=\"ca\",key=\"bundle\"} -1.5",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn former_leader_reports_no_decisions_and_migrations() {
        let metrics = Metrics::default();
        let outcome = Outcome {
            converged: true,
            conditions: vec![Condition::new("Encrypted", ConditionStatus::True, "", "")],
            ..Default::default()
        };
        for _ in 0..2 {
            metrics.decided(&outcome);
            metrics.migration("secrets", &EncryptionMigrationStatus { done: 7, ..Default::default() });
            metrics.migrated("secrets", "rewritten");
            let expected = [
                "keyward_condition{",
                "keyward_write_key_id{} 0",
                "keyward_migration_done_objects{resource=\"secrets\"} 7",
            ];
            let gauges = |text: &str| {
                text.lines().filter(|line| expected.iter().any(|part| line.contains(part))).count()
            };
            assert_eq!(gauges(&metrics.encode().unwrap()), 5);
            metrics.end_term();
            let text = metrics.encode().unwrap();
            let families = [
                "condition",
                "write_key_id",
                "converged",
                "migration_done",
                "migration_known",
                "migration_rate",
                "migration_phase",
            ];
            for family in families {
                let samples =
                    text.lines().filter(|line| line.starts_with(&format!("keyward_{family}"))).count();
                assert_eq!(samples, 0, "{family} is in\n{text}");
            }
            assert!(text.contains("keyward_migration_objects_total"), "counters of its own work stay");
        }
    }
}
