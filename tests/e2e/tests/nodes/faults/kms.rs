//! At the KMS, and between it and the plugins.

use anyhow::{Context as _, Result};
use keyward_test_cluster::Policy;
use keyward_test_cluster::pki::Authority;
use keyward_test_e2e::Install;

use super::{A, B, FULL_PROBE, Faulty, PROBE};
use crate::three;

#[tokio::test(flavor = "multi_thread")]
async fn what_befalls_the_kms_is_told_and_ends_no_read() -> Result<()> {
    let mut faulty = Faulty::start(Install { durable_kms: true, ..three() }).await?;
    sealed_and_gone(&mut faulty).await?;
    rights(&faulty).await?;
    keys(&faulty).await?;
    credentials(&mut faulty).await?;
    faulty.finish().await
}

async fn sealed_and_gone(faulty: &mut Faulty) -> Result<()> {
    faulty.cluster.keyward.bao.seal().await?;
    faulty.detected("Vault sealed", PROBE, &["key 2", "node-3", "sealed"]).await?;
    faulty.cluster.keyward.bao.unseal().await?;
    faulty.healed("Vault sealed").await?;

    faulty.cluster.keyward.bao.stop();
    faulty.detected("Vault gone", PROBE, &["key 1", "node-2", "connection refused"]).await?;
    faulty.cluster.keyward.bao.start_again().await?;
    faulty.healed("Vault gone").await
}

async fn rights(faulty: &Faulty) -> Result<()> {
    // An API server that starts needs it to encrypt, or it reads nothing of what is under that key.
    faulty.rights(Policy { encrypt: false, ..Policy::FULL }, Policy::FULL).await?;
    let said = ["plugin of key 1", "node-1", "transit/encrypt/a"];
    faulty.detected("an old key without encrypt", FULL_PROBE, &said).await?;
    faulty.rights(Policy::FULL, Policy::FULL).await?;
    faulty.healed("an old key without encrypt").await?;

    faulty.rights(Policy::FULL, Policy { decrypt: false, ..Policy::FULL }).await?;
    let said = ["plugin of key 2", "node-1", "transit/decrypt/b"];
    faulty.detected("the write key without decrypt", FULL_PROBE, &said).await?;
    faulty.rights(Policy::FULL, Policy::FULL).await?;
    faulty.healed("the write key without decrypt").await
}

async fn keys(faulty: &Faulty) -> Result<()> {
    let bao = &faulty.cluster.keyward.bao;
    let backup = bao.backup_key("", "transit", "b").await?;
    bao.delete_key("", "transit", "b").await?;
    faulty.detected("the key deleted", PROBE, &["plugin of key 2", "transit/keys/b"]).await?;

    bao.create_key("", "transit", "b").await?;
    faulty.detected("the key made anew", FULL_PROBE, &["plugin of key 2", "key-check"]).await?;
    bao.delete_key("", "transit", "b").await?;
    bao.restore_key("", "transit", "b", &backup).await?;
    faulty.healed("the key made anew").await
}

async fn credentials(faulty: &mut Faulty) -> Result<()> {
    let bao = &faulty.cluster.keyward.bao;
    bao.revoke_secret_id("", "keyward", &faulty.cluster.keyward.role.secret_id).await?;
    bao.revoke_tokens("").await?;
    let said =
        ["plugin of key 2", "node-2", "login-refused", "put a valid role-id and secret-id into Secret"];
    faulty.detected("the credentials revoked", PROBE, &said).await?;
    // The plugins that were refused have locked the role out by now: another one with the same rights.
    faulty.cluster.keyward.role = bao.policy_and_approle("", "another", &[A, B]).await?;
    faulty.cluster.keyward.set_credentials(&faulty.cluster.keyward.role).await?;
    faulty.healed("the credentials revoked").await?;

    // A bundle that is wrong goes nowhere: the good one stays in force.
    let wrong = Authority::new("another-ca")?;
    faulty.cluster.keyward.set_ca_bundle(wrong.pem()).await.context("the wrong bundle")?;
    // Long before the candidate gives up: its log says what it is up against.
    faulty.detected("a wrong CA", PROBE, &["preflight of key", "node-1", "tls-unknown-ca"]).await?;
    let right = faulty.cluster.keyward.bao.ca_pem().to_owned();
    faulty.cluster.keyward.set_ca_bundle(&right).await?;
    faulty.healed("a wrong CA").await
}
