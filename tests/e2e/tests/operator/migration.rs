//! The migration engine on real objects; the results are read from etcd itself.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyward_core::api::{
    EncryptionMigration, EncryptionMigrationSpec, EncryptionMigrationStatus, MigrationPhase,
};
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_operator::Metrics;
use keyward_operator::migrator::{Engine, MigrationSettings};
use keyward_test_cluster::{Cluster, Seen, Webhook, wait_until};
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::setup::{self, PATIENCE};

const NAME: &str = "encryption-migration-core-secrets";

/// A policy that refuses one object.
const GUARD: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: guard}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [secrets], operations: [UPDATE]}]
  validations: [{expression: "request.name != 's-0020'", message: s-0020 is guarded}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: guard}
spec: {policyName: guard, validationActions: [Deny]}
"#;

/// An engine that runs until it is stopped.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
    metrics: Metrics,
}

impl Running {
    async fn start(cluster: &Cluster, concurrency: usize) -> Result<Self> {
        Self::start_with(cluster, concurrency, Duration::from_secs(2)).await
    }

    async fn start_with(cluster: &Cluster, concurrency: usize, patience: Duration) -> Result<Self> {
        let settings = MigrationSettings {
            concurrency,
            report: Duration::from_millis(50),
            resync: Duration::from_millis(200),
            patience,
        };
        let metrics = Metrics::default();
        let engine = Engine::new(setup::operator(cluster).await?, settings, metrics.clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(Arc::new(Notify::new()), stop.clone()));
        Ok(Self { stop, task, metrics })
    }

    async fn stop(self) -> Result<()> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(20), self.task)
            .await
            .context("the engine does not stop")??;
        Ok(())
    }
}

/// Requests a migration of Secrets to a key.
async fn request(admin: &Client, key: u64) -> Result<()> {
    let spec = EncryptionMigrationSpec {
        operand: names::KUBE_APISERVER.to_owned(),
        resource: "secrets".to_owned(),
        key_id: KeyId(key),
        key_secret_uid: format!("uid-{key}"),
        ..Default::default()
    };
    let api = Api::<EncryptionMigration>::all(admin.clone());
    match api.get_opt(NAME).await? {
        None => drop(api.create(&PostParams::default(), &EncryptionMigration::new(NAME, spec)).await?),
        Some(_) => {
            let patch = Patch::Merge(json!({"spec": spec}));
            api.patch(NAME, &PatchParams::default(), &patch).await?;
        }
    }
    Ok(())
}

/// Waits until the status is about the current request and meets this condition.
async fn shows(
    admin: &Client,
    what: &str,
    condition: impl Fn(&EncryptionMigrationStatus) -> bool,
) -> Result<EncryptionMigrationStatus> {
    let api = Api::<EncryptionMigration>::all(admin.clone());
    wait_until(what, PATIENCE, async || {
        let migration = api.get(NAME).await?;
        let status = migration.status.unwrap_or_default();
        let current = Some(status.observed_generation) == migration.metadata.generation;
        Ok(if current && condition(&status) {
            Seen::Yes(status)
        } else {
            Seen::NotYet(format!("{status:?}"))
        })
    })
    .await
}

async fn all_under(cluster: &Cluster, prefix: &str) -> Result<()> {
    let counts = cluster.etcd().count_by_prefix("secrets").await?;
    ensure!(counts.keys().all(|found| found == prefix), "not all under {prefix}: {counts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_object_is_rewritten_across_a_restart_and_an_expired_list() -> Result<()> {
    const EACH: usize = 700;
    let (cluster, admin) = setup::cluster(true).await?;
    for namespace in ["n1", "n2"] {
        setup::namespace(&admin, namespace).await?;
        setup::secrets(&admin, namespace, EACH).await?;
    }
    setup::write_under(&cluster, &[1]).await?;
    request(&admin, 1).await?;

    // One object at a time, so that the engine can be stopped in the middle.
    let engine = Running::start(&cluster, 1).await?;
    shows(&admin, "some progress", |status| status.done >= 100).await?;
    engine.stop().await?;
    let stopped = shows(&admin, "the cursor", |status| status.cursor.is_some()).await?;
    assert_eq!(stopped.phase, MigrationPhase::Running);
    let (done, cursor) = (stopped.done, stopped.cursor.unwrap_or_default());
    ensure!(done < 2 * EACH as u64, "the migration ended before the engine was stopped");
    assert_eq!(cursor, format!("n1/s-{:04}", done - 1), "done and cursor are about the same object");
    let before = cluster.etcd().count_by_prefix("secrets").await?;
    assert!(before["k8s:enc:aescbc:v1:1:"] as u64 >= done && before.contains_key("plain"), "{before:?}");

    // It continues behind the cursor. Meanwhile the listed versions are compacted.
    let engine = Running::start(&cluster, 16).await?;
    shows(&admin, "more progress", |status| status.done > done).await?;
    cluster.etcd().compact().await?;
    let ended = shows(&admin, "the end", |status| status.phase != MigrationPhase::Running).await?;
    assert_eq!(ended.phase, MigrationPhase::Succeeded, "{ended:?}");
    assert_eq!((ended.done, ended.total), (2 * EACH as u64, 2 * EACH as u64), "none twice, none left out");
    assert_eq!((ended.cursor, ended.failures), (None, vec![]));
    all_under(&cluster, "k8s:enc:aescbc:v1:1:").await?;
    let rewritten = engine.metrics.encode()?;
    let expected = format!(
        "migration_objects_total{{resource=\"secrets\",outcome=\"rewritten\"}} {}",
        2 * EACH as u64 - done
    );
    assert!(rewritten.contains(&expected), "{expected} is not in\n{rewritten}");

    // Another key: another generation of the same migration, from the beginning.
    setup::write_under(&cluster, &[2, 1]).await?;
    request(&admin, 2).await?;
    let again = shows(&admin, "the next end", |status| status.phase == MigrationPhase::Succeeded).await?;
    assert_eq!(again.done, 2 * EACH as u64);
    all_under(&cluster, "k8s:enc:aescbc:v1:2:").await?;
    engine.stop().await?;

    // Killed after the last object was reported, and before the end was: no object is behind the cursor.
    request(&admin, 3).await?;
    let api = Api::<EncryptionMigration>::all(admin.clone());
    let mut migration = api.get(NAME).await?;
    migration.status = Some(EncryptionMigrationStatus {
        observed_generation: migration.metadata.generation.context("a generation")?,
        phase: MigrationPhase::Running,
        done: 2 * EACH as u64,
        cursor: Some(format!("n2/s-{:04}", EACH - 1)),
        ..Default::default()
    });
    api.replace_status(NAME, &PostParams::default(), &migration).await?;
    let engine = Running::start(&cluster, 16).await?;
    shows(&admin, "an end with nothing left", |status| status.phase == MigrationPhase::Succeeded).await?;
    engine.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_cannot_be_rewritten_are_named_and_all_others_are_rewritten() -> Result<()> {
    let (cluster, admin) = setup::cluster(true).await?;
    setup::namespace(&admin, "n1").await?;
    setup::secrets(&admin, "n1", 40).await?;
    let secrets = Api::<Secret>::namespaced(admin.clone(), "n1");

    // Key 9 is lost, and three objects are stored under it.
    setup::write_under(&cluster, &[9]).await?;
    for lost in ["s-0007", "s-0008", "s-0030"] {
        let patch = Patch::Merge(json!({"stringData": {"value": "lost"}}));
        secrets.patch(lost, &PatchParams::default(), &patch).await?;
    }
    setup::write_under(&cluster, &[1]).await?;
    // The API server's cache still has them. After a restart, every list that contains one of them fails
    // (kubernetes: one-unreadable-object-fails-the-list).
    cluster.node(0)?.restart_apiserver().await?;
    wait_until("the API server to serve again", PATIENCE, async || {
        setup::namespace(&admin, "n2").await?;
        Ok(Seen::Yes(()))
    })
    .await?;
    cluster.apply(GUARD).await?;
    wait_until("the policy to be in force", PATIENCE, async || {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        let try_only = PatchParams { dry_run: true, ..Default::default() };
        let refused = secrets.patch("s-0020", &try_only, &patch).await.is_err();
        Ok(Seen::when(refused, "not refused"))
    })
    .await?;

    request(&admin, 1).await?;
    let engine = Running::start(&cluster, 16).await?;
    let ended = shows(&admin, "the end", |status| status.finished_at.is_some()).await?;
    assert_eq!(ended.phase, MigrationPhase::Failed);
    let failed = |object: &str| {
        let failure = ended.failures.iter().find(|failure| failure.object == object);
        failure.map(|failure| failure.message.clone()).with_context(|| format!("{object} in {ended:?}"))
    };
    for lost in ["n1/s-0007", "n1/s-0008", "n1/s-0030"] {
        let message = failed(lost)?;
        assert!(message.contains("no matching"), "{lost}: {message}");
    }
    assert!(failed("n1/s-0020")?.contains("s-0020 is guarded"), "the policy's message");
    assert_eq!(ended.failures.len(), 4, "{ended:?}");
    let counts = cluster.etcd().count_by_prefix("secrets").await?;
    assert_eq!(counts["plain"], 1, "the guarded one");
    assert_eq!(counts["k8s:enc:aescbc:v1:9:"], 3, "the lost ones");
    assert_eq!(counts["k8s:enc:aescbc:v1:1:"], 36, "{counts:?}");
    engine.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_permission_ends_a_migration_with_the_servers_message() -> Result<()> {
    let (cluster, admin) = setup::cluster(true).await?;
    setup::secrets(&admin, "default", 30).await?;
    setup::write_under(&cluster, &[1]).await?;
    // The operator lacks only the permission to rewrite Secrets.
    let api = Api::<ClusterRole>::all(admin.clone());
    let mut operator = api.get("keyward-operator").await?;
    let granted = operator.rules.as_mut().context("rules")?;
    let before = granted.len();
    granted.retain(|rule| rule.resources.iter().flatten().all(|resource| resource != "secrets"));
    assert_eq!(granted.len() + 1, before);
    api.replace("keyward-operator", &PostParams::default(), &operator).await?;
    request(&admin, 1).await?;
    let engine = Running::start(&cluster, 4).await?;
    let ended = shows(&admin, "the end", |status| status.finished_at.is_some()).await?;
    assert_eq!(ended.phase, MigrationPhase::Failed);
    let message = &ended.refused.context("a reason")?;
    assert!(message.contains("is not allowed to get, list, patch secrets"), "{message}");
    engine.stop().await
}

/// The codes of the webhook's refusals; for some of them, the API server itself would report a missing or
/// changed object.
const REFUSALS: [(u16, &str); 7] = [
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "NotFound"),
    (409, "Conflict"),
    (410, "Gone"),
    (429, "TooManyRequests"),
    (500, "InternalError"),
];

/// Starts a webhook that the API server calls for each update of a Secret; it refuses `s-CODE` with that
/// code.
async fn refusing(cluster: &Cluster, admin: &Client) -> Result<Webhook> {
    let webhook = Webhook::start()?;
    let secrets = Api::<Secret>::namespaced(admin.clone(), "n1");
    for (code, reason) in REFUSALS {
        let name = format!("s-{code}");
        let secret = json!({"metadata": {"name": name}, "stringData": {"value": "refused"}});
        secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        webhook.refuse(&name, code, reason);
    }
    cluster.apply(&webhook.configuration("refuses").to_string()).await?;
    wait_until("the webhook to be called", PATIENCE, async || {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        let try_only = PatchParams { dry_run: true, ..Default::default() };
        let refused = secrets.patch("s-403", &try_only, &patch).await.is_err();
        Ok(Seen::when(refused, "not refused"))
    })
    .await?;
    Ok(webhook)
}

#[tokio::test(flavor = "multi_thread")]
async fn object_whose_update_is_refused_counts_as_failed_with_every_code() -> Result<()> {
    let (cluster, admin) = setup::cluster(true).await?;
    for namespace in ["n1", "orphaned"] {
        setup::namespace(&admin, namespace).await?;
        setup::secrets(&admin, namespace, 3).await?;
    }
    let webhook = refusing(&cluster, &admin).await?;
    cluster.etcd().delete("/registry/namespaces/orphaned").await?;
    setup::write_under(&cluster, &[1]).await?;
    request(&admin, 1).await?;
    let engine = Running::start(&cluster, 4).await?;
    let ended = shows(&admin, "the end", |status| status.finished_at.is_some()).await?;
    assert_eq!(ended.phase, MigrationPhase::Failed, "{ended:?}");
    assert_eq!((ended.failed, ended.failures.len(), ended.listed), (10, 10, true), "{ended:?}");
    assert_eq!(ended.end_version, None);
    let message = |object: &str| {
        let failure = ended.failures.iter().find(|failure| failure.object == object);
        failure.map(|failure| failure.message.clone()).with_context(|| format!("{object} in {ended:?}"))
    };
    for (code, _) in REFUSALS {
        let found = message(&format!("n1/s-{code}"))?;
        assert!(found.contains(&format!("refused with {code}")), "the webhook's message: {found}");
    }
    let found = message("orphaned/s-0000")?;
    assert!(found.contains("recreate the namespace \"orphaned\", or delete the object"), "{found}");
    let counts = cluster.etcd().count_by_prefix("secrets").await?;
    assert_eq!((counts["plain"], counts["k8s:enc:aescbc:v1:1:"]), (10, 3), "{counts:?}");

    // The remedy, and another attempt for the failed objects. Rewritten objects are not patched again.
    webhook.admit_all();
    let secrets = Api::<Secret>::namespaced(admin.clone(), "orphaned");
    secrets.delete("s-0000", &Default::default()).await?;
    setup::namespace(&admin, "orphaned").await?;
    let before = engine.metrics.encode()?;
    let objects: Vec<String> = ended.failures.iter().map(|failure| failure.object.clone()).collect();
    next(&admin, json!({"startVersion": ended.start_version, "objects": objects, "failures": 1})).await?;
    let ended = shows(&admin, "the end of the retry", |status| status.finished_at.is_some()).await?;
    assert_eq!(ended.phase, MigrationPhase::Succeeded, "{ended:?}");
    assert_eq!((ended.done, ended.total), (10, 10));
    all_under(&cluster, "k8s:enc:aescbc:v1:1:").await?;
    let rewritten = |text: &str| {
        let label = "migration_objects_total{resource=\"secrets\",outcome=\"rewritten\"} ";
        text.lines().find_map(|line| line.split_once(label)?.1.parse::<u64>().ok()).unwrap_or_default()
    };
    assert_eq!(rewritten(&engine.metrics.encode()?) - rewritten(&before), 9, "one was deleted");

    // A verification: every object is newer than the start, so none is patched, and the end stays the same.
    let end = ended.end_version.clone();
    assert!(end.is_some());
    next(&admin, json!({"startVersion": ended.start_version, "endVersion": end})).await?;
    let verified = shows(&admin, "the verification", |status| status.finished_at.is_some()).await?;
    assert_eq!((verified.phase, &verified.end_version), (MigrationPhase::Succeeded, &end), "{verified:?}");

    // A verification with an object under an older key: it is found, and the verification fails.
    webhook.refuse("s-0001", 409, "Conflict");
    setup::write_under(&cluster, &[2, 1]).await?;
    let later = cluster.etcd().values("/registry/secrets/").await?.revision.to_string();
    next(&admin, json!({"startVersion": later, "endVersion": end})).await?;
    let verified = shows(&admin, "the next verification", |status| status.finished_at.is_some()).await?;
    assert_eq!(verified.phase, MigrationPhase::Failed);
    assert!(verified.failures.iter().any(|failure| failure.object == "n1/s-0001"), "{verified:?}");
    engine.stop().await
}

/// Another attempt of the request.
async fn next(admin: &Client, continues: serde_json::Value) -> Result<()> {
    let api = Api::<EncryptionMigration>::all(admin.clone());
    let mut migration = api.get(NAME).await?;
    migration.spec.attempt += 1;
    migration.spec.continues = Some(serde_json::from_value(continues)?);
    api.replace(NAME, &PostParams::default(), &migration).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn short_outage_of_a_webhook_pauses_the_run_and_fails_nothing() -> Result<()> {
    let (cluster, admin) = setup::cluster(true).await?;
    setup::namespace(&admin, "n1").await?;
    setup::secrets(&admin, "n1", 400).await?;
    let webhook = Webhook::start()?;
    // It refuses all of them, like a webhook that is down.
    for n in 0..400 {
        webhook.refuse(&format!("s-{n:04}"), 500, "InternalError");
    }
    cluster.apply(&webhook.configuration("down").to_string()).await?;
    setup::write_under(&cluster, &[1]).await?;
    let secrets = Api::<Secret>::namespaced(admin.clone(), "n1");
    wait_until("the webhook to be called", PATIENCE, async || {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        let try_only = PatchParams { dry_run: true, ..Default::default() };
        Ok(Seen::when(secrets.patch("s-0399", &try_only, &patch).await.is_err(), "not refused"))
    })
    .await?;
    request(&admin, 1).await?;
    let engine = Running::start_with(&cluster, 4, Duration::from_mins(1)).await?;
    let paused = shows(&admin, "a pause", |status| status.waiting.is_some()).await?;
    let waiting = paused.waiting.context("a wait")?;
    assert!(waiting.message.contains("refused with 500") && !waiting.since.is_empty(), "{waiting:?}");
    assert!(paused.failed < 100, "{} objects were tried while all failed", paused.failed);
    webhook.admit_all();
    let ended = shows(&admin, "the end", |status| status.finished_at.is_some()).await?;
    assert_eq!((ended.phase, ended.failed, ended.done), (MigrationPhase::Succeeded, 0, 400), "{ended:?}");
    assert_eq!(ended.waiting, None);
    all_under(&cluster, "k8s:enc:aescbc:v1:1:").await?;
    engine.stop().await
}

/// A custom resource with one object.
const WIDGETS: &str = r"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
    - name: v1
      served: true
      storage: true
      schema: {openAPIV3Schema: {type: object}}
";
const WIDGET: &str = "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: one}\n";

#[tokio::test(flavor = "multi_thread")]
async fn custom_resource_counts_as_deleted_only_with_its_definition() -> Result<()> {
    let (cluster, admin) = setup::cluster(true).await?;
    let crds = Api::<CustomResourceDefinition>::all(admin.clone());
    cluster.apply(WIDGETS).await?;
    wait_until("a widget to be stored", PATIENCE, async || {
        let applied = cluster.apply(WIDGET).await;
        Ok(Seen::when(applied.is_ok(), format!("{applied:?}")))
    })
    .await?;
    let stored = async || {
        let found = cluster.etcd().values("/registry/example.com/widgets/").await?;
        anyhow::Ok(found.values.len())
    };
    ensure!(stored().await? == 1, "the widget is not at this path in etcd");

    // No version is served: discovery does not name it, and its object stays.
    cluster.apply(&WIDGETS.replace("served: true", "served: false")).await?;
    wait_until("the widgets not to be served", PATIENCE, async || {
        let applied = cluster.apply(WIDGET).await;
        Ok(Seen::when(applied.is_err(), "they are served".to_owned()))
    })
    .await?;
    let decrypt = EncryptionMigrationSpec {
        operand: names::KUBE_APISERVER.to_owned(),
        resource: "widgets.example.com".to_owned(),
        key_id: KeyId(0),
        ..Default::default()
    };
    let migrations = Api::<EncryptionMigration>::all(admin.clone());
    migrations.create(&PostParams::default(), &EncryptionMigration::new(NAME, decrypt)).await?;
    let engine = Running::start(&cluster, 4).await?;
    let ended = shows(&admin, "the end", |status| status.finished_at.is_some()).await?;
    assert_eq!((ended.phase, &ended.end_version), (MigrationPhase::Failed, &None), "{ended:?}");
    let reason = ended.refused.context("a reason")?;
    assert!(
        reason.contains("set served: true for a version") && reason.contains("do not delete"),
        "{reason}"
    );
    assert_eq!(stored().await?, 1);

    // Without the permission to read definitions, their absence is not proven either.
    let api = Api::<ClusterRole>::all(admin.clone());
    let granted = api.get("keyward-operator").await?;
    let mut fewer = granted.clone();
    let rules = fewer.rules.as_mut().context("rules")?;
    rules.retain(|rule| rule.resources.iter().flatten().all(|name| name != "customresourcedefinitions"));
    api.replace("keyward-operator", &PostParams::default(), &fewer).await?;
    let reason = wait_until("the missing permission to be named", PATIENCE, async || {
        next(&admin, json!({})).await?;
        let ended = shows(&admin, "the end", |status| status.finished_at.is_some()).await?;
        ensure!(ended.phase == MigrationPhase::Failed, "{ended:?}");
        let reason = ended.refused.unwrap_or_default();
        Ok(if reason.contains("is not allowed to get") { Seen::Yes(reason) } else { Seen::NotYet(reason) })
    })
    .await?;
    assert!(reason.contains("customresourcedefinitions.apiextensions.k8s.io"), "{reason}");
    cluster.apply(&keyward_test_e2e::shipped(&cluster, "rbac/operator.yaml")?).await?;

    // The definition is deleted, and its object with it.
    crds.delete("widgets.example.com", &Default::default()).await?;
    wait_until("the definition to be gone", PATIENCE, async || {
        Ok(Seen::when(crds.get_opt("widgets.example.com").await?.is_none(), "it exists".to_owned()))
    })
    .await?;
    assert_eq!(stored().await?, 0);
    wait_until("the decryption to succeed", PATIENCE, async || {
        next(&admin, json!({})).await?;
        let ended = shows(&admin, "the end", |status| status.finished_at.is_some()).await?;
        Ok(Seen::when(ended.phase == MigrationPhase::Succeeded, format!("{ended:?}")))
    })
    .await?;
    engine.stop().await
}
