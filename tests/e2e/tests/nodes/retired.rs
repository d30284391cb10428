//! A key that nothing needs any more leaves no trace.

use std::path::Path;

use anyhow::{Result, ensure};
use keyward_core::ids::KeyId;
use keyward_core::names;
use keyward_test_cluster::{ENCRYPTION_CONFIG, Node, Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse};

use crate::{PATIENCE, three};

#[tokio::test(flavor = "multi_thread")]
async fn a_kek_that_nothing_needs_can_be_destroyed() -> Result<()> {
    let mut cluster = InUse::start(three(), 200, 40).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;
    let b = Encryption::Transit("b");
    cluster.change(b, 2, PATIENCE).await?;
    key_1_is_retired(&cluster).await?;
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(1));
    let secrets = cluster.keyward.secrets();
    for node in cluster.keyward.cluster.nodes() {
        wait_until(&format!("no trace of key 1 on {}", node.name()), PATIENCE, async || {
            let traces = traces(node, 1)?;
            Ok(Seen::when(traces.is_empty(), traces.join(", ")))
        })
        .await?;
    }

    // The KEK is destroyed: neither running nor starting API servers need it.
    cluster.keyward.bao.delete_key("", "transit", "a").await?;
    let away = cluster.away();
    for index in 0..3 {
        let node = cluster.keyward.cluster.node(index)?;
        away.leave(node.name());
        node.restart_apiserver().await?;
        cluster.keyward.cluster.wait_ready(index).await?;
        away.back(node.name());
    }
    cluster.settled(b, 2, PATIENCE).await?;
    // A new operator does not create the key again.
    cluster.keyward.crash_operator().await?;
    let earlier = cluster.said.so_far();
    cluster.change(Encryption::Transit("c"), 3, PATIENCE).await?;
    ensure!(secrets.get_opt(&name).await?.is_none(), "key 1 exists again");
    ensure!(!cluster.said.heard_since(earlier, &["kms:1"]), "{}", cluster.said.since(earlier));
    let (read, written) = cluster.finish().await?;
    println!("no failures: {read:?}, {written:?}");
    Ok(())
}

/// Waits until key 1, a KMS key, has left every configuration, and its key secret is deleted.
pub(crate) async fn key_1_is_retired(cluster: &InUse) -> Result<()> {
    let name = names::key_secret(names::KUBE_APISERVER, KeyId(1));
    wait_until("key 1 to be retired", PATIENCE, async || {
        let status = cluster.keyward.status().await?;
        let gone = cluster.keyward.secrets().get_opt(&name).await?.is_none();
        let left = status.newest_lists().flatten().all(|one| one != "kms:1");
        Ok(Seen::when(gone && left && status.is_idle() && status.has_converged(), status.summary()))
    })
    .await
}

/// What a node still has of a key: its socket in the configuration, files, pods.
fn traces(node: &Node, key: u64) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let config = std::fs::read_to_string(node.path(ENCRYPTION_CONFIG))?;
    if config.contains(&names::endpoint(KeyId(key))) {
        found.push("the configuration names its socket".to_owned());
    }
    let named = format!("kms-{key}");
    let is_of_key = |name: &str| {
        let rest = name.strip_prefix("keyward-").unwrap_or(name).strip_prefix(named.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.']))
    };
    for folder in [
        "/etc/kubernetes/manifests",
        "/etc/kubernetes/keyward/plugins",
        "/var/lib/keyward/instances",
        "/var/run/kmsplugin",
    ] {
        found.extend(names_in(&node.path(folder))?.into_iter().filter(|name| is_of_key(name)));
    }
    found.extend(node.pods()?.into_iter().map(|pod| pod.name).filter(|name| is_of_key(name)));
    Ok(found)
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect()
}
