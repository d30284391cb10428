//! An emergency edit on a node while Keyward is paused, and the end of the pause
//! (invariant: pause-withholds-everything).

use anyhow::{Context as _, Result, ensure};
use keyward_core::api::{EncryptionNode, NodePause};
use keyward_core::ids::ConfigHash;
use keyward_test_cluster::{ENCRYPTION_CONFIG, Seen, wait_until};
use keyward_test_e2e::{IMAGE, Install, Keyward, Load, evidence, vault_spec};
use kube::api::Api;
use serde_json::Value;

use crate::PATIENCE;

const PAUSED: &str = "/etc/kubernetes/keyward/paused";

#[tokio::test(flavor = "multi_thread")]
async fn an_emergency_edit_stays_while_paused_and_is_replaced_after_resume() -> Result<()> {
    let mut keyward = Keyward::start(Install { durable_kms: true, ..Install::default() }).await?;
    let load = Load::create(&keyward.client, 40, 10).await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    let settled = keyward.wait_settled(1, PATIENCE).await?;
    let before = load.contents().await?;

    let paused = keyward.command(&["pause", "--reason", "the KMS is dead", "--by", "ada"]).await?;
    ensure!(paused.status.success(), "{paused:?}");
    keyward
        .wait("the pause to be reported", PATIENCE, |status| status.summary_of("Paused").contains("ada"))
        .await?;
    keyward.bao.stop();
    let file = keyward.cluster.node(0)?.path(PAUSED);
    std::fs::create_dir_all(file.parent().context("a folder")?)?;
    std::fs::write(&file, "the KMS is dead, ticket 7\n")?;
    let seen = agent(&keyward, |pause| pause.is_some()).await?.context("a pause")?;
    ensure!(seen.reason == "the KMS is dead, ticket 7" && seen.since.is_some(), "{seen:?}");

    // Without the failed provider the API server accepts writes again, in plain text.
    let path = keyward.cluster.node(0)?.path(ENCRYPTION_CONFIG);
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    for entry in config["resources"].as_array_mut().context("resources")? {
        let providers = entry["providers"].as_array_mut().context("providers")?;
        providers.retain(|provider| provider.get("identity").is_some());
    }
    let edited = serde_json::to_vec(&config)?;
    let beside = path.with_extension("new");
    std::fs::write(&beside, &edited)?;
    std::fs::rename(&beside, &path)?;
    loads(&keyward, &edited).await?;
    let emergency = Load::empty(&keyward.client, "emergency").await?;
    emergency.add("secret/written", "in the emergency").await?;
    ensure!(std::fs::read(&path)? == edited, "the edit was replaced while paused");
    let status = keyward.command(&["status"]).await?;
    println!("{}", status.stdout);
    ensure!(status.stdout.contains("paused: by ada since "), "{status:?}");
    ensure!(status.stdout.contains("paused: the agent of node node-1 since "), "{status:?}");

    // The KMS is back, so the agent could install the revision again. It lists that and does nothing.
    keyward.bao.start_again().await?;
    let withheld = agent(&keyward, |pause| pause.is_some_and(|pause| !pause.withheld.is_empty())).await?;
    println!("withheld by the agent: {withheld:?}");
    // First only the agent's pause ends: it replaces the edit by the revision. The operator is still paused.
    ensure!(std::fs::read(&path)? == edited, "the edit was replaced while paused");
    std::fs::remove_file(&file)?;
    agent(&keyward, |pause| pause.is_none()).await?;
    wait_until("the revision to replace the edit", PATIENCE, async || {
        let ours = std::fs::read(&path)? != edited;
        Ok(Seen::when(ours, keyward.status().await?.summary()))
    })
    .await?;
    keyward.cluster.wait_ready(0).await?;
    let status = keyward
        .wait("the withheld re-encryption", PATIENCE, |status| {
            let paused = status.0.status.as_ref().and_then(|status| status.paused.as_ref());
            paused.is_some_and(|paused| paused.withheld.iter().any(|one| one.contains("under key 1 again")))
        })
        .await?;
    ensure!(status.newest_revision() == settled.newest_revision(), "a revision was made while paused");
    let resumed = keyward.command(&["resume"]).await?;
    println!("{}", resumed.stdout);
    ensure!(
        resumed.stdout.contains("after resume the operator first writes:")
            && resumed.stdout.contains("under key 1 again"),
        "{resumed:?}"
    );

    // Objects in plain text are re-encrypted, because the edit may have been loaded.
    keyward
        .wait("a revision after the edit", PATIENCE, |status| {
            status.newest_revision() > settled.newest_revision() && status.has_converged()
        })
        .await?;
    keyward.wait_settled(1, PATIENCE).await?;
    let stored = keyward.cluster.etcd().count_by_prefix("secrets").await?;
    ensure!(stored.keys().all(|prefix| prefix.starts_with("k8s:enc:kms:v2:1_")), "{stored:?}");
    evidence(&keyward.cluster, &load, &before)
        .await?
        .expect(|resource| format!("k8s:enc:kms:v2:1_{resource}:"))
}

/// Waits until the agent reports such a pause.
async fn agent(keyward: &Keyward, is: impl Fn(Option<&NodePause>) -> bool) -> Result<Option<NodePause>> {
    let nodes = Api::<EncryptionNode>::all(keyward.client.clone());
    wait_until("the agent's report of a pause", PATIENCE, async || {
        let status = nodes.get("node-1").await?.status.unwrap_or_default();
        Ok(if is(status.paused.as_ref()) {
            Seen::Yes(status.paused)
        } else {
            Seen::NotYet(format!("{status:?}"))
        })
    })
    .await
}

/// Waits until the API server has loaded these bytes.
async fn loads(keyward: &Keyward, bytes: &[u8]) -> Result<()> {
    let hash = ConfigHash::of(bytes).0;
    wait_until("the edited file to be loaded", PATIENCE, async || {
        let loaded = keyward.cluster.loaded_hash(0).await?;
        Ok(Seen::when(loaded.as_ref() == Some(&hash), format!("{loaded:?}")))
    })
    .await
}
