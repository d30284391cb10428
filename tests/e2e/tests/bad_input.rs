//! Bad input gets an error that names what is wrong, nothing is lost, and it goes on by itself when that is mended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::time::Duration;

use anyhow::{Context as _, Result};
use keyward_test_cluster::AppRole;
use keyward_test_e2e::{IMAGE, Install, Keyward, vault_spec};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(2);

/// Each case begins without a key, and ends without one until it is mended.
#[ignore = "does not pass yet: after unsealing, the candidate's login stays refused; see docs/acceptance.md, 5b"]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_mending_it_is_enough() -> Result<()> {
    let mut keyward = Keyward::start(Install::default()).await?;
    let config = keyward.cluster.node(0)?.path("/etc/kubernetes/encryption/config.json");
    let as_it_was = std::fs::read(&config)?;
    let good = vault_spec(&keyward, "a", &IMAGE(1));

    // A violation names the field, already when it is applied: the CRD carries the provider's rules.
    let mut spec = good.clone();
    spec["kms"]["vault"]["vaultAddress"] = json!("https://vault.example.com/v1");
    let refused = keyward.apply(&spec).await.expect_err("a violation is refused").to_string();
    for part in ["spec.encryption.kms.vault.vaultAddress", "must not contain a path"] {
        assert!(refused.contains(part), "{refused}");
    }

    // A missing Secret, and a missing key in it.
    let secrets = keyward.secrets();
    secrets.delete("vault-approle", &DeleteParams::default()).await?;
    trouble(&keyward, &good, &["secret vault-approle", "not found"]).await.context("missing secret")?;
    keyward.set_credentials(&keyward.role).await?;
    let without = json!([{"op": "remove", "path": "/data/secret-id"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(without)?);
    secrets.patch("vault-approle", &PatchParams::default(), &patch).await?;
    trouble(&keyward, &good, &["secret vault-approle", "missing required key \"secret-id\""]).await?;

    // A wrong secret-id, a wrong key name, a KMS that is down: the preflight says so.
    let wrong = keyward.bao.new_secret_id("", "keyward").await?;
    keyward.bao.revoke_secret_id("", "keyward", &wrong).await?;
    let role = AppRole { role_id: keyward.role.role_id.clone(), secret_id: wrong };
    keyward.set_credentials(&role).await?;
    trouble(&keyward, &good, &["preflight of key 1", "node node-1"]).await.context("wrong secret-id")?;
    keyward.set_credentials(&keyward.role).await?;
    let unknown = vault_spec(&keyward, "nosuchkey", &IMAGE(1));
    trouble(&keyward, &unknown, &["preflight of key 1", "node node-1"]).await.context("wrong key name")?;
    keyward.bao.seal().await?;
    trouble(&keyward, &good, &["preflight of key 1", "sealed"]).await.context("sealed")?;

    assert_eq!(std::fs::read(&config)?, as_it_was, "nothing changed on the node");
    let keys = keyward.secrets().list(&Default::default()).await?;
    let made: Vec<_> = keys
        .iter()
        .filter_map(|s| s.metadata.name.as_deref())
        .filter(|n| n.starts_with("encryption-key"))
        .collect();
    assert!(made.is_empty(), "no key is made: {made:?}");

    // Mended: it goes on by itself.
    keyward.bao.unseal().await?;
    keyward.wait_settled(1, PATIENCE).await?;

    // With a key in use: a broken reference overwrites nothing, and reads go on.
    let used = std::fs::read(&config)?;
    keyward.secrets().delete("vault-approle", &DeleteParams::default()).await?;
    trouble(&keyward, &good, &["secret vault-approle", "not found"]).await.context("deleted in use")?;
    assert_eq!(std::fs::read(&config)?, used);
    keyward.set_credentials(&keyward.role).await?;
    keyward.wait("the trouble to be over", PATIENCE, |status| status.troubles().is_empty()).await?;
    drop(keyward.operator.take());
    Ok(())
}

/// Applies a spec and waits until a Degraded condition says all of this.
async fn trouble(keyward: &Keyward, spec: &serde_json::Value, says: &[&str]) -> Result<()> {
    keyward.apply(spec).await?;
    let what = format!("trouble that says {says:?}");
    keyward
        .wait(&what, PATIENCE, |status| {
            status.troubles().iter().any(|trouble| says.iter().all(|part| trouble.contains(part)))
        })
        .await
        .map(drop)
}
