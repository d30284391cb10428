//! Key secrets that are deleted (CONTRACT 2.5 and 2.6; DESIGN.md, Decisions 4).

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
async fn no_deleted_key_secret_takes_its_provider_along() -> Result<()> {
    let operator_args = SLOW_MIGRATION.map(str::to_owned).to_vec();
    let install = Install { operator_args, ..Install::default() };
    let mut cluster = InUse::start_with_history(install, 300, 40).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // The old key's, in the middle of a migration: what is still stored under it stays readable, and follows.
    let to = Encryption::Transit("b");
    cluster.keyward.apply(&to.spec(&cluster.keyward)).await?;
    migrating(&cluster, 2).await?;
    cluster.keyward.lose(&name(1)).await?;
    let stored = cluster.keyward.cluster.etcd().count_by_prefix("secrets").await?;
    let under_1 = stored.get(&Encryption::Transit("a").prefix(1, "secrets"));
    ensure!(under_1.is_some_and(|count| *count > 20), "it was the middle: {stored:?}");
    cluster.settled(to, 2, PATIENCE).await?;

    // The write key's: a new key for the same KEK takes over, and the status says why.
    let earlier = cluster.said.so_far();
    cluster.keyward.lose(&name(2)).await?;
    cluster.settled(to, 3, PATIENCE).await?;
    cluster.must_have_said(earlier, &["key 3", "encryption-config-key-2-not-backed-by-secret"])?;
    cluster.must_have_said(earlier, &["Encrypted False EncryptionInProgress", "is being encrypted"])?;

    // All of them at once, of a KMS and local.
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

/// Waits until Secrets are being rewritten under this key.
async fn migrating(cluster: &InUse, key: u64) -> Result<()> {
    let migrations = Api::<EncryptionMigration>::all(cluster.keyward.client.clone());
    wait_until("a migration under way", PATIENCE, async || {
        let all = migrations.list(&ListParams::default()).await?;
        let ours = all.iter().find(|one| one.spec.resource == "secrets" && one.spec.key_id == KeyId(key));
        Ok(Seen::when(ours.is_some(), cluster.keyward.last_words()))
    })
    .await
}
