//! Bad input gets an error that names what is wrong, nothing is lost, and it goes on by itself when that is mended.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::time::Duration;

use anyhow::{Context as _, Result};
use keyward_test_cluster::{AppRole, Policy, Seen, State, wait_until};
use keyward_test_e2e::{IMAGE, Install, Keyward, vault_spec};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

/// A candidate that ended is started again after a minute.
const PATIENCE: Duration = Duration::from_mins(3);
/// An AppRole that nothing else logs in with: were it locked out, that would be seen, and disturb nobody.
const MISTAKEN: &str = "mistaken";
const KEYS: [&str; 3] = ["transit/keys/a", "transit/keys/b", "transit/keys/nosuchkey"];

/// Each case begins without a key, and ends without one until it is mended.
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
    keyward
        .trouble(&good, &["secret vault-approle", "not found"], PATIENCE)
        .await
        .context("missing secret")?;
    keyward.set_credentials(&keyward.role).await?;
    let without = json!([{"op": "remove", "path": "/data/secret-id"}]);
    let patch = Patch::Json::<()>(serde_json::from_value(without)?);
    secrets.patch("vault-approle", &PatchParams::default(), &patch).await?;
    keyward.trouble(&good, &["secret vault-approle", "missing required key \"secret-id\""], PATIENCE).await?;

    // A line break in a credential, and a CA bundle without a certificate: named before anything logs in, also by `plan`.
    keyward.set_credentials(&keyward.role).await?;
    let broken = json!({"stringData": {"secret-id": "5e1c2a3b-hunter2\r\n"}});
    secrets.patch("vault-approle", &PatchParams::default(), &Patch::Merge(&broken)).await?;
    let said = ["secret vault-approle", "key \"secret-id\" ends with a line break (CRLF)"];
    let status = keyward.trouble(&good, &said, PATIENCE).await.context("a line break")?;
    assert!(!serde_json::to_string(&status.0)?.contains("hunter2"), "a secret byte in {}", status.summary());
    keyward.set_ca_bundle("# no certificate").await?;
    let vault = "spec.encryption.kms.vault";
    let wrong = [
        (
            format!("{vault}.authentication.appRole.secret.name"),
            "key \"secret-id\" ends with a line break (CRLF)",
        ),
        (format!("{vault}.tls.caBundle.name"), "key \"ca-bundle.crt\" holds no PEM certificate"),
    ];
    let violations = violations(&keyward, &good).await?;
    for (violation, (field, says)) in violations.iter().zip(&wrong) {
        let message = violation["message"].as_str().unwrap_or_default();
        assert!(violation["field"] == **field && message.contains(says), "{violations:?}");
    }
    assert_eq!(violations.len(), wrong.len(), "{violations:?}");
    assert!(keyward.plugins()?.is_empty(), "no plugin is started with what is wrong");
    keyward.set_ca_bundle(keyward.bao.ca_pem()).await?;

    // A wrong secret-id: tried once, and not again and again until the KMS locks the role out.
    let refused = keyward.bao.policy_and_approle("", MISTAKEN, &KEYS).await?;
    keyward.bao.revoke_secret_id("", MISTAKEN, &refused.secret_id).await?;
    keyward.set_credentials(&refused).await?;
    let said = [
        "preflight of key 1",
        "node node-1",
        "refuses the AppRole's role id or secret id",
        "Secret vault-approle",
    ];
    keyward.trouble(&good, &said, PATIENCE).await.context("wrong secret-id")?;
    let [candidate] = keyward.plugins()?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    let container = &candidate.containers[0];
    assert!(matches!(container.state, State::Terminated(_)) && container.restarts == 0, "{candidate:?}");

    // The name of a key that is not there, by a role that may use it if it were.
    keyward.bao.set_policy("", "keyward", &KEYS, Policy::FULL).await?;
    let unknown = vault_spec(&keyward, "nosuchkey", &IMAGE(1));
    keyward.apply(&unknown).await?;
    keyward.set_credentials(&keyward.role).await?;
    let said = ["preflight of key 1", "node node-1", "transit/keys/nosuchkey does not exist", "vaultKeyPath"];
    keyward.trouble(&unknown, &said, PATIENCE).await.context("wrong key name")?;

    // A KMS that is down.
    keyward.bao.seal().await?;
    let said = ["preflight of key 1", "node node-1", "is sealed", "unseal Vault"];
    keyward.trouble(&good, &said, PATIENCE).await.context("sealed")?;

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
    keyward
        .trouble(&good, &["secret vault-approle", "not found"], PATIENCE)
        .await
        .context("deleted in use")?;
    assert_eq!(std::fs::read(&config)?, used);

    // The role that was refused before has not been locked out: it may log in as soon as its secret-id is good.
    let [before] = keyward.plugins()?.try_into().map_err(|all| anyhow::anyhow!("{all:?}"))?;
    let secret_id = keyward.bao.new_secret_id("", MISTAKEN).await?;
    keyward.set_credentials(&AppRole { secret_id, ..refused }).await?;
    keyward.wait("the trouble to be over", PATIENCE, |status| status.troubles().is_empty()).await?;
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

/// What `keyward plan -f` refuses.
async fn violations(keyward: &Keyward, encryption: &Value) -> Result<Vec<Value>> {
    let file = keyward.cluster.folder().join("planned.json");
    std::fs::write(&file, keyward.object(encryption).to_string())?;
    let (file, modules) = (file.to_string_lossy(), keyward.cluster.tools().modules());
    let arguments = ["plan", "-o", "json", "-f", &file, "--providers", &modules.to_string_lossy()];
    let told = keyward.command(&arguments).await?;
    anyhow::ensure!(told.status.code() == Some(1) && !told.said.contains("hunter2"), "{told:?}");
    let plan: Value = serde_json::from_str(&told.said).context("the plan")?;
    Ok(plan["violations"].as_array().context("violations")?.clone())
}
