//! Objects that cannot be re-encrypted: an orphan, whose namespace is missing in etcd, and Secrets whose
//! update a webhook refuses. They stay readable under their key, and are named. After the remedy the change
//! completes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use keyward_core::api::{EncryptionMigration, EncryptionMigrationStatus, MigrationPhase};
use keyward_test_cluster::{Seen, User, Webhook, wait_until};
use keyward_test_e2e::{Audit, IMAGE, Install, Keyward, Load, SHORT_HISTORY, vault_spec};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(4);
const MIGRATION: &str = "encryption-migration-core-secrets";
const CODES: [(u16, &str); 5] =
    [(401, "Unauthorized"), (403, "Forbidden"), (404, "NotFound"), (409, "Conflict"), (500, "InternalError")];

fn secret(name: &str) -> Secret {
    serde_json::from_value(json!({"metadata": {"name": name}, "stringData": {"value": name}})).unwrap()
}

async fn migration(keyward: &Keyward) -> Result<(EncryptionMigration, EncryptionMigrationStatus)> {
    let migration = Api::<EncryptionMigration>::all(keyward.client.clone()).get(MIGRATION).await?;
    let status = migration.status.clone().unwrap_or_default();
    let current = Some(status.observed_generation) == migration.metadata.generation;
    Ok((migration, if current { status } else { EncryptionMigrationStatus::default() }))
}

async fn namespace(keyward: &Keyward, name: &str) -> Result<()> {
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    Api::all(keyward.client.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

/// The minor version of the API server.
async fn minor(keyward: &Keyward) -> Result<u32> {
    let version = keyward.client.apiserver_version().await?;
    let digits: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().with_context(|| format!("the API server's minor version {:?}", version.minor))
}

/// Waits until an update of this Secret is refused.
async fn is_refused(secrets: &Api<Secret>, name: &str) -> Result<()> {
    wait_until("the update to be refused", PATIENCE, async || {
        let patch = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
        let try_only = PatchParams { dry_run: true, ..Default::default() };
        Ok(Seen::when(secrets.patch(name, &try_only, &patch).await.is_err(), "not refused"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_cannot_be_updated_keep_their_key_and_are_named() -> Result<()> {
    let apiserver_args = vec![SHORT_HISTORY.to_owned()];
    let keyward = Keyward::start(Install { apiserver_args, ..Install::default() }).await?;
    let load = Load::create(&keyward.client, 40, 10).await?;
    let before = load.contents().await?;
    namespace(&keyward, "orphaned").await?;
    namespace(&keyward, "refused").await?;
    let secrets = |namespace: &str| Api::<Secret>::namespaced(keyward.client.clone(), namespace);
    secrets("orphaned").create(&PostParams::default(), &secret("orphan")).await?;
    let webhook = Webhook::start()?;
    let mut expected = vec!["orphaned/orphan".to_owned()];
    for (code, reason) in CODES {
        let name = format!("s-{code}");
        secrets("refused").create(&PostParams::default(), &secret(&name)).await?;
        expected.push(format!("refused/{name}"));
        webhook.refuse(&name, code, reason);
    }
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;

    keyward.cluster.apply(&webhook.configuration("refuses").to_string()).await?;
    is_refused(&secrets("refused"), "s-409").await?;
    keyward.cluster.etcd().delete("/registry/namespaces/orphaned").await?;
    // Since Kubernetes 1.37 a missing namespace does not stop an update.
    let orphan_migrates = minor(&keyward).await? >= 37;
    if orphan_migrates {
        wait_until("the namespace to be gone", PATIENCE, async || {
            let found = Api::<Namespace>::all(keyward.client.clone()).get_opt("orphaned").await?;
            Ok(Seen::when(found.is_none(), "it exists"))
        })
        .await?;
    } else {
        is_refused(&secrets("orphaned"), "orphan").await?;
    }
    let all = expected.clone();
    expected.retain(|name| !(orphan_migrates && name == "orphaned/orphan"));

    // Another KEK. All of them are found in the first run, and nothing else fails.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(1))).await?;
    let found = |status: &EncryptionMigrationStatus| {
        let found = |name: &String| status.failures.iter().any(|failure| failure.object == *name);
        expected.iter().all(found) && status.failures.len() == expected.len()
    };
    wait_until("all to be found in the first run", PATIENCE, async || {
        let (migration, status) = migration(&keyward).await?;
        let shown = migration.spec.key_id.0 == 2 && status.phase == MigrationPhase::Running && found(&status);
        Ok(Seen::when(shown, format!("{status:?}")))
    })
    .await?;
    let is_reported = |status: &keyward_test_e2e::Status| {
        let remedy = if orphan_migrates { "" } else { "recreate the namespace \"orphaned\"" };
        let parts = ["migration of secrets for key \"2\" failed", remedy];
        status.problems().iter().any(|problem| parts.iter().all(|part| problem.contains(part)))
    };
    keyward.wait("the condition to name them", PATIENCE, is_reported).await?;

    // A re-encryption is requested: no newer key is created, and the old provider stays, also through the
    // retries.
    let requested = keyward.command(&["reencrypt"]).await?;
    ensure!(requested.status.success(), "{requested:?}");
    wait_until("a retry that fails", PATIENCE, async || {
        let (migration, status) = migration(&keyward).await?;
        let failures = migration.spec.continues.map_or(0, |earlier| earlier.failures);
        let shown = failures >= 1 && status.phase == MigrationPhase::Failed && found(&status);
        Ok(Seen::when(shown, format!("{failures} {status:?}")))
    })
    .await?;
    let status = keyward.status().await?;
    ensure!(status.key(3).is_none(), "{}", status.summary());
    let reads_with_1 = status.newest_lists().all(|list| list.iter().any(|one| one == "kms:1"));
    ensure!(reads_with_1, "{:?}", status.newest_lists().collect::<Vec<_>>());
    let stored = keyward.cluster.etcd().count_by_prefix("secrets").await?;
    ensure!(stored["k8s:enc:kms:v2:1_secrets:"] == expected.len(), "{stored:?}");
    let orphan =
        keyward.cluster.etcd().value("/registry/secrets/orphaned/orphan").await?.context("the orphan")?;
    let writer = if orphan_migrates { "k8s:enc:kms:v2:2_secrets:" } else { "k8s:enc:kms:v2:1_secrets:" };
    ensure!(orphan.starts_with(writer.as_bytes()), "the orphan is not stored as {writer}…");

    // After a restart of the API server, everything can be read.
    keyward.cluster.node(0)?.restart_apiserver().await?;
    keyward.cluster.wait_ready(0).await?;
    ensure!(load.contents().await? == before, "an object has changed");
    for name in &all {
        let (namespace, name) = name.split_once('/').context("a name")?;
        let read = secrets(namespace).get(name).await?;
        ensure!(read.data.context("data")?["value"].0 == name.as_bytes(), "{name}");
    }

    // The remedy.
    webhook.admit_all();
    namespace(&keyward, "orphaned").await?;
    keyward.wait_settled(3, PATIENCE).await?;
    wait_until("keys 1 and 2 to leave", PATIENCE, async || {
        let status = keyward.status().await?;
        let only_3 = status.newest_lists().flatten().all(|one| one == "identity" || one == "kms:3");
        Ok(Seen::when(only_3, status.summary()))
    })
    .await?;
    let stored = keyward.cluster.etcd().count_by_prefix("secrets").await?;
    ensure!(stored.keys().all(|prefix| prefix == "k8s:enc:kms:v2:3_secrets:"), "{stored:?}");
    ensure!(load.contents().await? == before, "an object has changed");
    Ok(())
}

/// A policy that refuses one object.
const GUARD: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: guard}
spec:
  matchConstraints:
    resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [secrets], operations: [UPDATE]}]
  validations: [{expression: "request.name != 'secret-01234'", message: secret-01234 is guarded}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: guard}
spec: {policyName: guard, validationActions: [Deny]}
"#;

/// The operator's patches of Secrets of the load, from the API server's audit log.
fn patches(audit_log: &std::path::Path) -> Result<Vec<String>> {
    let mut patched = Vec::new();
    for line in std::fs::read_to_string(audit_log)?.split_inclusive('\n').filter(|line| line.ends_with('\n'))
    {
        let event: Value = serde_json::from_str(line)?;
        let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let is_ours = text("/user/username") == User::Operator.name() && text("/verb") == "patch";
        if is_ours && text("/objectRef/resource") == "secrets" && text("/objectRef/namespace") == "load" {
            patched.push(text("/objectRef/name").to_owned());
        }
    }
    Ok(patched)
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_patches_the_one_object_that_failed_among_2000() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let audit = Audit::below(folder.path())?;
    let apiserver_args = audit.arguments().into_iter().collect();
    let log = folder.path().join("audit.log");
    let keyward = Keyward::start(Install { apiserver_args, ..Install::default() }).await?;
    let load = Load::create(&keyward.client, 2000, 0).await?;
    let before = load.contents().await?;
    keyward.cluster.apply(GUARD).await?;
    let secrets = Api::<Secret>::namespaced(keyward.client.clone(), "load");
    is_refused(&secrets, "secret-01234").await?;

    keyward.apply(&json!({"type": "aescbc"})).await?;
    let failed = |attempts: u32| {
        let keyward = &keyward;
        wait_until("attempts that fail", PATIENCE, async move || {
            let (migration, status) = migration(keyward).await?;
            let failures = migration.spec.continues.map_or(0, |earlier| earlier.failures);
            let shown = failures >= attempts && status.phase == MigrationPhase::Failed;
            Ok(Seen::when(shown, format!("{failures} {status:?}")))
        })
    };
    failed(0).await?;
    let first = patches(&log)?;
    ensure!(first.len() >= 2000, "{}", first.len());
    failed(1).await?;
    let second = patches(&log)?.split_off(first.len());
    ensure!(second == ["secret-01234"], "the second attempt patched {second:?}");

    let api = Api::<k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding>::all(
        keyward.client.clone(),
    );
    api.delete("guard", &DeleteParams::default()).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    let all = patches(&log)?.split_off(first.len());
    ensure!(all.iter().all(|name| name == "secret-01234"), "{all:?}");
    ensure!(load.contents().await? == before, "an object has changed");
    Ok(())
}
