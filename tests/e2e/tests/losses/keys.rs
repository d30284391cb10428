//! Deleted key secrets (decision 0004).

use anyhow::{Result, ensure};
use keyward_core::api::EncryptionMigration;
use keyward_core::ids::{KeyId, Mode};
use keyward_core::names;
use keyward_test_cluster::{Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse, Install};
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::{PATIENCE, SLOW_MIGRATION};

fn name(key: u64) -> String {
    names::key_secret(names::KUBE_APISERVER, KeyId(key))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_stays_when_its_key_secret_is_deleted() -> Result<()> {
    let operator_args = SLOW_MIGRATION.map(str::to_owned).to_vec();
    let install = Install { operator_args, ..Install::default() };
    let mut cluster = InUse::start_with_history(install, 300, 40).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // The old key's secret, in the middle of a migration: objects under it stay readable, and are migrated.
    let to = Encryption::Transit("b");
    cluster.keyward.apply(&to.spec(&cluster.keyward)).await?;
    migrating(&cluster, 2).await?;
    cluster.keyward.lose(&name(1)).await?;
    let stored = cluster.keyward.cluster.etcd().count_by_prefix("secrets").await?;
    let under_1 = stored.get(&Encryption::Transit("a").prefix(1, "secrets"));
    ensure!(under_1.is_some_and(|count| *count > 20), "it was not the middle of the migration: {stored:?}");
    cluster.settled(to, 2, PATIENCE).await?;

    // The write key's secret: a new key for the same KEK replaces the key, and the status shows why.
    let earlier = cluster.said.so_far();
    cluster.keyward.lose(&name(2)).await?;
    cluster.settled(to, 3, PATIENCE).await?;
    cluster.must_have_said(earlier, &["key 3", "encryption-config-key-2-not-backed-by-secret"])?;
    cluster.must_have_said(earlier, &["Encrypted False EncryptionInProgress", "is being encrypted"])?;

    // All key secrets at once, of KMS keys and local keys.
    let to = Encryption::Local(Mode::Aescbc);
    cluster.change(to, 4, PATIENCE).await?;
    let secrets = cluster.keyward.secrets().list(&ListParams::default()).await?;
    let keys: Vec<String> = secrets.iter().map(ResourceExt::name_any).filter(|n| is_key(n)).collect();
    ensure!(keys.contains(&name(4)) && keys.len() >= 2, "{keys:?}");
    drop(cluster.keyward.operator.take());
    for key in &keys {
        cluster.keyward.lose(key).await?;
    }
    let earlier = cluster.said.so_far();
    cluster.keyward.start_operator()?;
    cluster.settled(to, 5, PATIENCE).await?;
    cluster.must_have_said(earlier, &["key 5", "encryption-config-key-4-not-backed-by-secret"])?;
    cluster.finish().await.map(drop)
}

fn is_key(name: &str) -> bool {
    name.starts_with(&names::key_secret(names::KUBE_APISERVER, KeyId(0)).replace("-0", "-"))
}

/// Waits until the migration of Secrets to this key exists.
async fn migrating(cluster: &InUse, key: u64) -> Result<()> {
    let migrations = Api::<EncryptionMigration>::all(cluster.keyward.client.clone());
    wait_until("a migration", PATIENCE, async || {
        let all = migrations.list(&ListParams::default()).await?;
        let ours = all.iter().find(|one| one.spec.resource == "secrets" && one.spec.key_id == KeyId(key));
        Ok(Seen::when(ours.is_some(), cluster.keyward.operator_log_tail()))
    })
    .await
}
