//! The main job from beginning to end: smaller than the demo, with the same evidence.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a test fails at the first error
#![allow(clippy::needless_pass_by_value, clippy::default_trait_access)]

use std::time::Duration;

use anyhow::Result;
use keyward_test_e2e::{
    Gap, IMAGE, Install, Keyward, Load, Reader, Search, Transcript, evidence, plan, vault_spec,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread")]
async fn no_read_fails_from_plain_text_to_vault_and_back() -> Result<()> {
    let keyward = Keyward::start(Install::default()).await?;
    let load = Load::create(&keyward.client, 200, 40).await?;
    let before = load.contents().await?;
    evidence(&keyward.cluster, &load, &before).await?.expect(|_| "plain".to_owned())?;
    let transcript = Transcript::default();
    transcript.keep_in(keyward.cluster.folder())?;
    let mut search = Search::begin(&keyward, &keyward.role.secret_id, &transcript).await?;
    let reader = Reader::start(&keyward.cluster, before.clone(), Duration::from_millis(5)).await?;
    let gap = Gap::watch(&keyward.cluster, 1).await?;

    plan(&keyward, &vault_spec(&keyward, "a", &IMAGE(1)), &transcript).await?;
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(1))).await?;
    keyward.wait_settled(1, PATIENCE).await?;
    let found = evidence(&keyward.cluster, &load, &before).await?;
    found.expect(|resource| format!("k8s:enc:kms:v2:1_{resource}:"))?;

    // Another image: a change in place with the same key and another plugin process; a plugin always answers.
    let of_key_1 = || -> Result<Vec<String>> {
        let pods = keyward.cluster.node(0)?.pods()?;
        Ok(pods.into_iter().map(|pod| pod.name).filter(|name| name.starts_with("keyward-kms-1-")).collect())
    };
    let old = of_key_1()?;
    let earlier = gap.so_far();
    keyward.apply(&vault_spec(&keyward, "a", &IMAGE(2))).await?;
    let status = keyward.wait_settled(1, PATIENCE).await?;
    assert!(status.key(2).is_none(), "no new key: {}", status.summary());
    let new = of_key_1()?;
    assert_ne!(old, new, "the plugin was replaced");
    let replacing = gap.so_far().since(&earlier);
    assert!(replacing.failures.is_empty(), "the plugin was unavailable: {:?}", replacing.failures);
    let [(from, _), (to, _)] = replacing.served_by.as_slice() else {
        panic!("the socket did not lead to exactly two plugins: {replacing:?}");
    };
    assert!(old.iter().any(|pod| pod.contains(from.as_str())), "{from} of {old:?}");
    assert!(new.iter().any(|pod| pod.contains(to.as_str())), "{to} of {new:?}");
    assert!(replacing.probes > 20, "too few calls: {replacing:?}");

    // Another Transit key: key 2, and both plugins run.
    keyward.apply(&vault_spec(&keyward, "b", &IMAGE(2))).await?;
    keyward.wait_settled(2, PATIENCE).await?;
    let found = evidence(&keyward.cluster, &load, &before).await?;
    found.expect(|resource| format!("k8s:enc:kms:v2:2_{resource}:"))?;
    let pods = keyward.cluster.node(0)?.pods()?;
    for prefix in ["keyward-kms-1-", "keyward-kms-2-"] {
        assert!(pods.iter().any(|pod| pod.name.starts_with(prefix)), "no pod {prefix}…: {pods:?}");
    }

    // While the plugins run, because the files that they are started with are removed with them.
    search.run().await?;

    keyward.apply(&json!({"type": "identity"})).await?;
    let status = keyward.wait_settled(3, PATIENCE).await?;
    assert_eq!(status.condition("Encrypted").map(|c| c.reason.as_str()), Some("DecryptionCompleted"));
    evidence(&keyward.cluster, &load, &before).await?.expect(|_| "plain".to_owned())?;

    let report = reader.finish().await?;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(report.gets > 100, "too few reads: {report:?}");

    let watched = gap.finish().await?;
    assert!(watched.failures.is_empty(), "the plugin was unavailable: {:?}", watched.failures);
    assert!(watched.probes > 500 && watched.readyz_requests > 100, "too few calls: {watched:?}");
    println!("{watched:?}");

    search.run().await?;
    println!("search for the secret-id {search}");
    search.verdict()
}
