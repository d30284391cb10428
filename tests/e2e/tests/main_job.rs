//! The main job, end to end: smaller than the demo, with the same evidence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test stops at its first surprise
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::time::Duration;

use anyhow::Result;
use keyward_test_e2e::{IMAGE, Install, Keyward, Load, Reader, evidence, sightings, vault_spec};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn from_plain_to_vault_and_back_no_read_fails() -> Result<()> {
    let keyward = Keyward::start(Install::default()).await?;
    let load = Load::create(&keyward.client, 200, 40).await?;
    let before = load.contents().await?;
    evidence(&keyward.cluster, &load, &before).await?.expect(|_| "plain".to_owned())?;
    let reader = Reader::start(load.clone(), before.clone(), Duration::from_millis(5));

    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    let found = evidence(&keyward.cluster, &load, &before).await?;
    found.expect(|resource| format!("k8s:enc:kms:v2:1_{resource}:"))?;

    // Another image: in place, the same key, another plugin process.
    let of_key_1 = || -> Result<Vec<String>> {
        let pods = keyward.cluster.node(0)?.pods()?;
        Ok(pods.into_iter().map(|pod| pod.name).filter(|name| name.starts_with("keyward-kms-1-")).collect())
    };
    let old = of_key_1()?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(2))).await?;
    let status = keyward.wait_settled(1, PATIENCE).await?;
    assert!(status.key(2).is_none(), "no new key: {}", status.summary());
    let new = of_key_1()?;
    assert_ne!(old, new, "the plugin was replaced");

    // Another Transit key: key 2, and both plugins run.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(2))).await?;
    keyward.wait_settled(2, PATIENCE).await?;
    let found = evidence(&keyward.cluster, &load, &before).await?;
    found.expect(|resource| format!("k8s:enc:kms:v2:2_{resource}:"))?;
    let pods = keyward.cluster.node(0)?.pods()?;
    for prefix in ["keyward-kms-1-", "keyward-kms-2-"] {
        assert!(pods.iter().any(|pod| pod.name.starts_with(prefix)), "{prefix} runs: {pods:?}");
    }

    keyward.apply(&json!({"type": "identity"})).await?;
    let status = keyward.wait_settled(3, PATIENCE).await?;
    assert_eq!(status.condition("Encrypted").map(|c| c.reason.as_str()), Some("DecryptionCompleted"));
    evidence(&keyward.cluster, &load, &before).await?.expect(|_| "plain".to_owned())?;

    let report = reader.finish().await?;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(report.gets > 100, "the reader did read: {report:?}");

    let (seen, looked) = sightings(&keyward, keyward.role.secret_id.reveal()).await?;
    assert!(seen.is_empty() && looked > 10, "the secret-id stands in {seen:?}, of {looked} places");
    Ok(())
}
