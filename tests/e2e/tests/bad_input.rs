//! Bad input gets an error that names the mistake, nothing is lost, and Keyward continues once the mistake is
//! fixed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::time::Duration;

use anyhow::{Context as _, Result};
use keyward_test_cluster::{AppRole, Policy, Seen, State, wait_until};
use keyward_test_e2e::{IMAGE, Install, Keyward, vault_spec};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

/// A candidate whose plugin exited is started again after a minute.
const PATIENCE: Duration = Duration::from_mins(3);
/// An AppRole that nothing else logs in with: if it is locked out, only this test is affected, and notices
/// it.
const MISTAKEN: &str = "mistaken";
const KEYS: [&str; 3] = ["transit/keys/a", "transit/keys/b", "transit/keys/nosuchkey"];

/// Each case begins without a key. No key is created before the mistake is fixed.
#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_is_named_and_fixing_it_is_enough() -> Result<()> {
    let mut keyward = Keyward::start(Install::default()).await?;
    let config = keyward.cluster.node(0)?.path("/etc/kubernetes/encryption/config.json");
    let original = std::fs::read(&config)?;
    let good = vault_spec(&keyward, "a", &IMAGE(1));

    // A violation names the field, already on apply: the CRD contains the provider module's rules.
    let mut spec = good.clone();
    spec["kms"]["vault"]["vaultAddress"] = json!("https://vault.example.com/v1");
    let refused = keyward.apply(&spec).await.expect_err("a violation is refused").to_string();
    for part in ["spec.encryption.kms.vault.vaultAddress", "must not contain a path"] {
        assert!(refused.contains(part), "{refused}");
    }

    // A missing Secret, and a Secret without a required key.
    let secrets = keyward.secrets();
    secrets.delete("vault-approle", &DeleteParams::default()).await?;
    keyward
        .apply_and_wait_degraded(&good, &["secret vault-approle", "not found"], PATIENCE)
        .await
        .context("missing secret")?;
    keyward.set_credentials(&keyward.role).await?;
    let without = json!([{"op": "remove", "path": "/data/secret-id"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(without)?);
    secrets.patch("vault-approle", &PatchParams::default(), &patch).await?;
    keyward
        .apply_and_wait_degraded(
            &good,
            &["secret vault-approle", "missing required key \"secret-id\""],
            PATIENCE,
        )
        .await?;

    // A line break in a credential, and a CA bundle without a certificate: named before any login, also by
    // `plan`.
    keyward.set_credentials(&keyward.role).await?;
    let broken = json!({"stringData": {"secret-id": "5e1c2a3b-hunter2\r\n"}});
    secrets.patch("vault-approle", &PatchParams::default(), &Patch::Merge(&broken)).await?;
    let parts = ["secret vault-approle", "key \"secret-id\" ends with a line break (CRLF)"];
    let status = keyward.apply_and_wait_degraded(&good, &parts, PATIENCE).await.context("a line break")?;
    assert!(!serde_json::to_string(&status.0)?.contains("hunter2"), "a secret byte in {}", status.summary());
    keyward.set_ca_bundle("# no certificate").await?;
    let vault = "spec.encryption.kms.vault";
    let wrong = [
        (
            format!("{vault}.authentication.appRole.secret.name"),
            "key \"secret-id\" ends with a line break (CRLF)",
        ),
        (format!("{vault}.tls.caBundle.name"), "key \"ca-bundle.crt\" contains no PEM certificate"),
    ];
    let violations = violations(&keyward, &good).await?;
    for (violation, (field, part)) in violations.iter().zip(&wrong) {
        let message = violation["message"].as_str().unwrap_or_default();
        assert!(violation["field"] == **field && message.contains(part), "{violations:?}");
    }
    assert_eq!(violations.len(), wrong.len(), "{violations:?}");
    assert!(keyward.plugins()?.is_empty(), "no plugin is started with bad input");
    keyward.set_ca_bundle(keyward.bao.ca_pem()).await?;

    // A wrong secret-id: tried once, and not repeatedly until the KMS locks the role out.
    let refused = keyward.bao.policy_and_approle("", MISTAKEN, &KEYS).await?;
    keyward.bao.revoke_secret_id("", MISTAKEN, &refused.secret_id).await?;
    keyward.set_credentials(&refused).await?;
    let parts = [
        "preflight of key 1",
        "node node-1",
        "refuses the AppRole's role id or secret id",
        "Secret vault-approle",
    ];
    keyward.apply_and_wait_degraded(&good, &parts, PATIENCE).await.context("wrong secret-id")?;
    let [candidate] = keyward.plugins()?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    let container = &candidate.containers[0];
    assert!(matches!(container.state, State::Terminated(_)) && container.restarts == 0, "{candidate:?}");

    // The name of a key that does not exist, with a role that would be allowed to use it.
    keyward.bao.set_policy("", "keyward", &KEYS, Policy::FULL).await?;
    let unknown = vault_spec(&keyward, "nosuchkey", &IMAGE(1));
    keyward.apply(&unknown).await?;
    keyward.set_credentials(&keyward.role).await?;
    let parts =
        ["preflight of key 1", "node node-1", "transit/keys/nosuchkey does not exist", "vaultKeyPath"];
    keyward.apply_and_wait_degraded(&unknown, &parts, PATIENCE).await.context("wrong key name")?;

    // A sealed KMS.
    keyward.bao.seal().await?;
    let parts = ["preflight of key 1", "node node-1", "is sealed", "unseal Vault"];
    keyward.apply_and_wait_degraded(&good, &parts, PATIENCE).await.context("sealed")?;

    assert_eq!(std::fs::read(&config)?, original, "nothing changed on the node");
    let keys = keyward.secrets().list(&Default::default()).await?;
    let made: Vec<_> = keys
        .iter()
        .filter_map(|s| s.metadata.name.as_deref())
        .filter(|n| n.starts_with("encryption-key"))
        .collect();
    assert!(made.is_empty(), "no key is created: {made:?}");

    // Fixed: Keyward continues.
    keyward.bao.unseal().await?;
    keyward.wait_settled(1, PATIENCE).await?;

    // With a key in use: a missing Secret changes nothing.
    let used = std::fs::read(&config)?;
    keyward.secrets().delete("vault-approle", &DeleteParams::default()).await?;
    keyward
        .apply_and_wait_degraded(&good, &["secret vault-approle", "not found"], PATIENCE)
        .await
        .context("deleted in use")?;
    assert_eq!(std::fs::read(&config)?, used);

    // The refused role has not been locked out: it can log in as soon as its secret-id is valid.
    let [before] = keyward.plugins()?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    let secret_id = keyward.bao.new_secret_id("", MISTAKEN).await?;
    keyward.set_credentials(&AppRole { secret_id, ..refused }).await?;
    keyward.wait("the end of the problem", PATIENCE, |status| status.problems().is_empty()).await?;
    wait_until("the plugin with the other role's login to be the only one", PATIENCE, async || {
        let now = keyward.plugins()?;
        let replaced = now.len() == 1 && now[0].uid != before.uid && now[0].is_running();
        Ok(Seen::when(replaced, format!("{now:?}")))
    })
    .await?;
    keyward.wait_settled(1, PATIENCE).await?;
    drop(keyward.operator.take());
    Ok(())
}

/// The violations that `keyward plan -f` reports.
async fn violations(keyward: &Keyward, encryption: &Value) -> Result<Vec<Value>> {
    let file = keyward.cluster.folder().join("planned.json");
    std::fs::write(&file, keyward.object(encryption).to_string())?;
    let (file, modules) = (file.to_string_lossy(), keyward.cluster.tools().modules());
    let arguments = ["plan", "-o", "json", "-f", &file, "--providers", &modules.to_string_lossy()];
    let answer = keyward.command(&arguments).await?;
    anyhow::ensure!(answer.status.code() == Some(1) && !answer.stdout.contains("hunter2"), "{answer:?}");
    let plan: Value = serde_json::from_str(&answer.stdout).context("the plan")?;
    Ok(plan["violations"].as_array().context("violations")?.clone())
}
