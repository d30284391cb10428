//! Faults of the KMS, and between it and the plugins.

use anyhow::{Context as _, Result};
use keyward_test_cluster::Policy;
use keyward_test_cluster::pki::Authority;
use keyward_test_e2e::Install;

use super::{A, B, FULL_PROBE, Faulty, PROBE};
use crate::three;

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_of_the_kms_is_reported_and_no_read_fails() -> Result<()> {
    let mut faulty = Faulty::start(Install { durable_kms: true, ..three() }).await?;
    sealed_and_stopped(&mut faulty).await?;
    permissions(&faulty).await?;
    keys(&faulty).await?;
    credentials(&mut faulty).await?;
    faulty.finish().await
}

async fn sealed_and_stopped(faulty: &mut Faulty) -> Result<()> {
    faulty.cluster.keyward.bao.seal().await?;
    faulty.detected("Vault sealed", PROBE, &["key 2", "node-3", "sealed"]).await?;
    faulty.cluster.keyward.bao.unseal().await?;
    faulty.healed("Vault sealed").await?;

    faulty.cluster.keyward.bao.stop();
    faulty.detected("Vault stopped", PROBE, &["key 1", "node-2", "connection refused"]).await?;
    faulty.cluster.keyward.bao.start_again().await?;
    faulty.healed("Vault stopped").await
}

async fn permissions(faulty: &Faulty) -> Result<()> {
    // A starting API server must encrypt with an old key too, or it cannot read values under it
    // (kubernetes: reads-need-encrypt).
    faulty.set_policies(Policy { encrypt: false, ..Policy::FULL }, Policy::FULL).await?;
    let parts = ["plugin of key 1", "node-1", "transit/encrypt/a"];
    faulty.detected("an old key without encrypt", FULL_PROBE, &parts).await?;
    faulty.set_policies(Policy::FULL, Policy::FULL).await?;
    faulty.healed("an old key without encrypt").await?;

    faulty.set_policies(Policy::FULL, Policy { decrypt: false, ..Policy::FULL }).await?;
    let parts = ["plugin of key 2", "node-1", "transit/decrypt/b"];
    faulty.detected("the write key without decrypt", FULL_PROBE, &parts).await?;
    faulty.set_policies(Policy::FULL, Policy::FULL).await?;
    faulty.healed("the write key without decrypt").await
}

async fn keys(faulty: &Faulty) -> Result<()> {
    let bao = &faulty.cluster.keyward.bao;
    let backup = bao.backup_key("", "transit", "b").await?;
    bao.delete_key("", "transit", "b").await?;
    faulty.detected("the key deleted", PROBE, &["plugin of key 2", "transit/keys/b"]).await?;

    bao.create_key("", "transit", "b").await?;
    faulty.detected("another key under the same name", FULL_PROBE, &["plugin of key 2", "key-check"]).await?;
    bao.delete_key("", "transit", "b").await?;
    bao.restore_key("", "transit", "b", &backup).await?;
    faulty.healed("another key under the same name").await
}

async fn credentials(faulty: &mut Faulty) -> Result<()> {
    let bao = &faulty.cluster.keyward.bao;
    bao.revoke_secret_id("", "keyward", &faulty.cluster.keyward.role.secret_id).await?;
    bao.revoke_tokens("").await?;
    let parts =
        ["plugin of key 2", "node-2", "login-refused", "put a valid role-id and secret-id into Secret"];
    faulty.detected("the credentials revoked", PROBE, &parts).await?;
    // The refused logins of the plugins have locked the role out by now: another role with the same policy.
    faulty.cluster.keyward.role = bao.policy_and_approle("", "another", &[A, B]).await?;
    faulty.cluster.keyward.set_credentials(&faulty.cluster.keyward.role).await?;
    faulty.healed("the credentials revoked").await?;

    // A wrong CA bundle is not rolled out: the good one stays in use.
    let wrong = Authority::new("another-ca")?;
    faulty.cluster.keyward.set_ca_bundle(wrong.pem()).await.context("the wrong bundle")?;
    // Long before the candidate's plugin exits: its log contains the cause.
    faulty.detected("a wrong CA", PROBE, &["preflight of key", "node-1", "tls-unknown-ca"]).await?;
    let right = faulty.cluster.keyward.bao.ca_pem().to_owned();
    faulty.cluster.keyward.set_ca_bundle(&right).await?;
    faulty.healed("a wrong CA").await
}
