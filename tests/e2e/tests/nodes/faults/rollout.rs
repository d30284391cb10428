//! A rollout that fails on the second of three nodes stops there, and the other nodes keep their revisions. A
//! machine is replaced by another one with the same name.

use anyhow::{Context as _, Result, ensure};
use keyward_core::api::EncryptionNode;
use keyward_core::ids::Revision;
use keyward_test_cluster::ENCRYPTION_CONFIG;
use keyward_test_e2e::{Encryption, InUse, Install, empty, fill, give, wipe};
use kube::api::Api;
use tokio::time::Instant;

use super::{SHORT_TIMEOUT, refused_by_the_second};
use crate::{PATIENCE, three};

const CONFIGURATIONS: &str = "/etc/kubernetes/encryption";

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_that_fails_on_the_second_node_does_not_reach_the_third() -> Result<()> {
    let mut cluster =
        InUse::start_with_history(Install { kms_timeout: SHORT_TIMEOUT, ..three() }, 100, 20).await?;
    give(&cluster.keyward.cluster, "join").await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;
    refused(&cluster).await?;
    full(&cluster).await?;
    replaced(&mut cluster).await?;
    let (read, written) = cluster.finish().await?;
    println!("no failures: {read:?}, {written:?}");
    Ok(())
}

/// The folder of the second node's configuration is full.
async fn full(cluster: &InUse) -> Result<()> {
    let keyward = &cluster.keyward;
    let third = Third::of(cluster).await?;
    let node = keyward.cluster.node(1)?;
    fill(node, CONFIGURATIONS).await?;
    let a = Encryption::Transit("a");
    keyward.apply(&a.spec(keyward)).await?;
    let status = keyward
        .wait("the status to report it", PATIENCE, |status| {
            let full = |problem: &String| problem.contains("node-2") && problem.contains("No space left");
            status.problems().iter().any(full)
        })
        .await?;
    println!("full: {}", status.summary());
    third.is_untouched(cluster).await?;
    empty(node, CONFIGURATIONS).await?;
    cluster.settled(a, 3, PATIENCE).await.map(drop)
}

/// The second node's plugin of the new key hangs once the configuration there names it: its API server does
/// not load the configuration.
async fn refused(cluster: &InUse) -> Result<()> {
    let keyward = &cluster.keyward;
    let node = keyward.cluster.node(1)?;
    let third = Third::of(cluster).await?;
    let loaded = keyward.cluster.loaded_hash(1).await?;
    let good = std::fs::read(node.path(ENCRYPTION_CONFIG))?;
    let b = Encryption::Transit("b");
    let began = Instant::now();
    let hung = refused_by_the_second(keyward, b, 2).await?;
    let status = keyward
        .wait("the status to report it", PATIENCE, |status| {
            let refused =
                |problem: &String| problem.contains("node-2") && problem.contains("ConfigurationRefused");
            status.problems().iter().any(refused)
        })
        .await?;
    println!("refused {:.1} s after the request: {}", began.elapsed().as_secs_f64(), status.summary());
    ensure!(std::fs::read(node.path(ENCRYPTION_CONFIG))? == good, "the file is not the previous one");
    ensure!(
        keyward.cluster.loaded_hash(1).await? == loaded,
        "the API server has loaded another configuration"
    );
    third.is_untouched(cluster).await?;
    hung.resume().await?;
    cluster.settled(b, 2, PATIENCE).await?;
    println!("rolled out {:.1} s after the request", began.elapsed().as_secs_f64());
    Ok(())
}

/// The third machine is lost with its disk. Another machine with the same name replaces it.
async fn replaced(cluster: &mut InUse) -> Result<()> {
    let away = cluster.away();
    away.leave("node-3");
    cluster.keyward.cluster.node(2)?.hold_apiserver()?;
    cluster.keyward.cluster.crash_node(2)?;
    wipe(cluster.keyward.cluster.node(2)?)?;
    // A change that is requested meanwhile waits for node-3.
    let b = Encryption::Transit("b");
    cluster.keyward.apply(&b.spec(&cluster.keyward)).await?;
    let began = Instant::now();
    cluster.keyward.cluster.node(2)?.stop_agent()?;
    cluster.keyward.cluster.start_node(2)?;
    let answer = cluster.keyward.join(2).await?;
    println!("{}\n{}", answer.stdout, answer.stderr);
    ensure!(answer.status.success(), "{answer:?}");
    let node = cluster.keyward.cluster.node(2)?;
    node.release_apiserver()?;
    node.start_agent(&["--probe-interval", "2s"])?;
    cluster.keyward.cluster.wait_ready(2).await?;
    cluster.must_read_through(2).await?;
    println!("another machine serves as node-3 after {:.1} s", began.elapsed().as_secs_f64());
    away.back("node-3");
    cluster.settled(b, 4, PATIENCE).await.map(drop)
}

/// The third node's target and configuration file.
struct Third {
    target: Revision,
    file: Vec<u8>,
}

impl Third {
    async fn of(cluster: &InUse) -> Result<Self> {
        let nodes = Api::<EncryptionNode>::all(cluster.keyward.client.clone());
        let target = nodes.get("node-3").await?.spec.revision;
        let node = cluster.keyward.cluster.node(2)?;
        let file = std::fs::read(node.path(ENCRYPTION_CONFIG)).context("node-3's configuration")?;
        Ok(Self { target, file })
    }

    async fn is_untouched(&self, cluster: &InUse) -> Result<()> {
        let now = Self::of(cluster).await?;
        ensure!(now.target == self.target, "node-3 got revision {} after {}", now.target, self.target);
        ensure!(now.file == self.file, "the configuration of node-3 has changed");
        Ok(())
    }
}
