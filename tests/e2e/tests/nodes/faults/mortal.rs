//! Agents that are killed after each step.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use keyward_core::api::EncryptionNode;
use keyward_core::formats::encryption_config::EncryptionConfiguration;
use keyward_test_cluster::{Binary, ENCRYPTION_CONFIG, Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse, Install, manifest_of};
use kube::api::Api;

use super::{SHORT_TIMEOUT, refused_by_the_second, replace};
use crate::cold::recover;
use crate::{PATIENCE, three};

/// Every kind of step.
const KINDS: [&str; 21] = [
    "ForgetConfiguration",
    "ForgetDrift",
    "ForgetRecovered",
    "ForgetRefusal",
    "ForgetRevision",
    "InstallConfiguration",
    "KeepKeyChecks",
    "KeepPreflight",
    "KeepRevision",
    "MakeFolder",
    "PutAside",
    "PutBack",
    "RecordDrift",
    "RecordHighWater",
    "RecordLoaded",
    "RemoveFiles",
    "RemoveLink",
    "RemovePod",
    "SwitchLink",
    "WriteFiles",
    "WritePod",
];

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_killed_after_each_step_reach_the_same_result() -> Result<()> {
    let wait = Duration::from_millis(50);
    let install = Install {
        agent: Binary::MortalAgent,
        restart_backoff: (wait, wait),
        kms_timeout: SHORT_TIMEOUT,
        ..three()
    };
    let cluster = InUse::start(install, 100, 20).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE * 2).await?;
    cluster.change(Encryption::Transit("b"), 2, PATIENCE * 2).await?;
    edited(&cluster).await?;
    recovered(&cluster).await?;
    refused(&cluster).await?;
    let mut kinds = BTreeSet::new();
    for node in cluster.keyward.cluster.nodes() {
        let log = node.logs("keyward-agent", "agent")?;
        let steps: Vec<&str> =
            log.lines().filter_map(|line| line.split_once(" done step=")).map(|(_, step)| step).collect();
        kinds.extend(steps.iter().filter_map(|step| step.split_whitespace().next()).map(str::to_owned));
        let steps = steps.len();
        let kills = node.pod("keyward-agent")?.map_or(0, |pod| pod.containers[0].restarts);
        println!("{}: {steps} steps, the agent was killed {kills} times", node.name());
        ensure!(steps > 20 && kills as usize >= steps - 1, "{}: {steps} steps, {kills} kills", node.name());
    }
    let missing: Vec<_> = KINDS.iter().filter(|kind| !kinds.contains(**kind)).collect();
    ensure!(missing.is_empty(), "no agent was killed after {missing:?}, only after {kinds:?}");
    cluster.finish().await.map(drop)
}

/// An admin edits the first node's configuration and a manifest there.
async fn edited(cluster: &InUse) -> Result<()> {
    let node = cluster.keyward.cluster.node(0)?;
    let manifest = manifest_of(node, 2)?;
    let good = std::fs::read_to_string(&manifest)?;
    replace(&manifest, format!("{good}# mine\n").as_bytes())?;
    wait_until("the manifest to be restored", PATIENCE, async || {
        let now = std::fs::read_to_string(&manifest)?;
        Ok(Seen::when(now == good, now))
    })
    .await?;

    let before = cluster.keyward.status().await?.newest_revision().context("no revision")?;
    let path = node.path(ENCRYPTION_CONFIG);
    let mut config = EncryptionConfiguration::decode(&std::fs::read(&path)?)?;
    for entry in &mut config.resources {
        entry.providers.reverse();
    }
    replace(&path, &serde_json::to_vec(&config)?)?;
    cluster.replaced(before, 2, PATIENCE * 2).await?;
    cluster.settled(Encryption::Transit("b"), 2, PATIENCE).await.map(drop)
}

/// `recover` sets a credential on one node, and then its Secret gets the same one.
async fn recovered(cluster: &InUse) -> Result<()> {
    let keyward = &cluster.keyward;
    let role = keyward.bao.policy_and_approle("", "another", &["transit/keys/a", "transit/keys/b"]).await?;
    recover(cluster, 0, 2, &role).await?;
    keyward.set_credentials(&role).await?;
    let nodes = Api::<EncryptionNode>::all(keyward.client.clone());
    wait_until("the node to use the Secret", PATIENCE * 2, async || {
        let status = nodes.get("node-1").await?.status.unwrap_or_default();
        let left = std::fs::read_dir(keyward.cluster.node(0)?.path("/var/lib/keyward/recovered"))?.count();
        let done = status.recovered.is_empty() && status.error.is_none() && left == 0;
        Ok(Seen::when(done, format!("{left} records, {status:?}")))
    })
    .await?;
    cluster.settled(Encryption::Transit("b"), 2, PATIENCE * 2).await.map(drop)
}

/// A revision that the second node's API server does not load.
async fn refused(cluster: &InUse) -> Result<()> {
    let keyward = &cluster.keyward;
    let a = Encryption::Transit("a");
    refused_by_the_second(keyward, a, 3).await?.resume().await?;
    cluster.settled(a, 3, PATIENCE * 2).await.map(drop)
}
