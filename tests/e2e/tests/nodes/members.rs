//! Nodes that join and leave in each phase of a change from one KEK to another.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use keyward_core::api::EncryptionNode;
use keyward_test_e2e::{Encryption, InUse, Phase, give};
use kube::api::{Api, DeleteParams};

use crate::{PATIENCE, three};

/// The phases in the order of the test, which mixes early and late ones. `KEYWARD_TEST_PHASES=N`: only the
/// first N.
const PHASES: [Phase; 8] = [
    Phase::ReadKey,
    Phase::Migrating,
    Phase::Candidate,
    Phase::WriteKey,
    Phase::Requested,
    Phase::WritesInFlight,
    Phase::KeySecret,
    Phase::Migrated,
];

#[tokio::test(flavor = "multi_thread")]
async fn in_each_phase_a_node_joins_and_one_leaves() -> Result<()> {
    let most = std::env::var("KEYWARD_TEST_PHASES").ok().and_then(|most| most.parse().ok());
    let mut cluster = InUse::start(three(), 200, 40).await?;
    give(&cluster.keyward.cluster, "join").await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;
    for ((at, phase), key) in PHASES.into_iter().enumerate().take(most.unwrap_or(PHASES.len())).zip(2..) {
        let to = Encryption::Transit(if key % 2 == 0 { "b" } else { "a" });
        cluster.keyward.apply(&to.spec(&cluster.keyward)).await?;
        cluster.reached(key, phase, PATIENCE).await.with_context(|| format!("key {key}"))?;
        let reached = Phase::of(&cluster.keyward, key).await?;
        // The node that joined in the previous phase leaves in this one.
        if at > 0 {
            leave(&mut cluster, 2 + at).await.with_context(|| format!("leaving, {phase:?}"))?;
        }
        join(&mut cluster, 3 + at).await.with_context(|| format!("joining, {phase:?}"))?;
        let joined = Phase::of(&cluster.keyward, key).await?;
        cluster.settled(to, key, PATIENCE).await.with_context(|| format!("{phase:?}"))?;
        cluster.must_read_through(3 + at).await.with_context(|| format!("{phase:?}"))?;
        println!(
            "{phase:?}: node-{} joined ({reached:?} to {joined:?}); everything is stored under key {key}",
            4 + at
        );
    }
    let (read, written) = cluster.finish().await?;
    println!("no failures: {read:?}, {written:?}");
    Ok(())
}

/// A control-plane node joins: the admin prepares it before its API server starts for the first time.
async fn join(cluster: &mut InUse, index: usize) -> Result<()> {
    cluster.keyward.cluster.add_bare_node()?;
    let answer = cluster.keyward.join(index).await?;
    ensure!(answer.status.success(), "{answer:?}");
    let node = cluster.keyward.cluster.node(index)?;
    node.release_apiserver()?;
    node.start_agent(&["--probe-interval", "2s"])?;
    cluster.keyward.cluster.wait_ready(index).await
}

/// A control-plane node leaves: the admin shuts it down and deletes its objects.
pub(crate) async fn leave(cluster: &mut InUse, index: usize) -> Result<()> {
    let name = cluster.keyward.cluster.node(index)?.name().to_owned();
    let nodes = Api::<EncryptionNode>::all(cluster.keyward.client.clone());
    let lease = nodes.get(&name).await?.status.and_then(|status| status.api_server_id).context("no Lease")?;
    cluster.keyward.cluster.stop_node(index)?;
    Api::<Node>::all(cluster.keyward.client.clone()).delete(&name, &DeleteParams::default()).await?;
    nodes.delete(&name, &DeleteParams::default()).await?;
    let leases = Api::<Lease>::namespaced(cluster.keyward.client.clone(), "kube-system");
    match leases.delete(&lease, &DeleteParams::default()).await {
        // An API server that stops cleanly deletes its Lease.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => Ok(deleted.map(drop)?),
    }
}
