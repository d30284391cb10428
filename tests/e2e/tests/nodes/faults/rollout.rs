//! A rollout that fails on the second of three nodes: it stops there, and what the others have stays; and a machine that is
//! replaced by another of its name.

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
async fn what_fails_on_the_second_node_reaches_no_third() -> Result<()> {
    let mut cluster =
        InUse::start_with_history(Install { kms_timeout: SHORT_TIMEOUT, ..three() }, 100, 20).await?;
    give(&cluster.keyward.cluster, "join").await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;
    refused(&cluster).await?;
    full(&cluster).await?;
    replaced(&mut cluster).await?;
    let (read, written) = cluster.finish().await?;
    println!("none of these failed: {read:?}, {written:?}");
    Ok(())
}

/// No byte is left where the second node's configuration is.
async fn full(cluster: &InUse) -> Result<()> {
    let keyward = &cluster.keyward;
    let third = Third::of(cluster).await?;
    let node = keyward.cluster.node(1)?;
    fill(node, CONFIGURATIONS).await?;
    let a = Encryption::Transit("a");
    keyward.apply(&a.spec(keyward)).await?;
    let status = keyward
        .wait("the status to say so", PATIENCE, |status| {
            status.troubles().iter().any(|told| told.contains("node-2") && told.contains("No space left"))
        })
        .await?;
    println!("full: {}", status.summary());
    third.is_untouched(cluster).await?;
    empty(node, CONFIGURATIONS).await?;
    cluster.settled(a, 3, PATIENCE).await.map(drop)
}

/// The second node's plugin of the new key hangs once the configuration there names it: its API server does not load that.
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
        .wait("the status to say so", PATIENCE, |status| {
            let says = |told: &String| told.contains("node-2") && told.contains("ConfigurationRefused");
            status.troubles().iter().any(says)
        })
        .await?;
    println!("refused {:.1} s after it was asked for: {}", began.elapsed().as_secs_f64(), status.summary());
    ensure!(std::fs::read(node.path(ENCRYPTION_CONFIG))? == good, "what was loaded is not in the file again");
    ensure!(keyward.cluster.loaded_hash(1).await? == loaded, "it was loaded after all");
    third.is_untouched(cluster).await?;
    hung.go_on().await?;
    cluster.settled(b, 2, PATIENCE).await?;
    println!("all have it {:.1} s after it was asked for", began.elapsed().as_secs_f64());
    Ok(())
}

/// The third machine dies with its disk. Another one takes its name and its place.
async fn replaced(cluster: &mut InUse) -> Result<()> {
    let away = cluster.away();
    away.leave("node-3");
    cluster.keyward.cluster.node(2)?.hold_apiserver()?;
    cluster.keyward.cluster.crash_node(2)?;
    wipe(cluster.keyward.cluster.node(2)?)?;
    // What is asked for meanwhile waits for whoever is node-3.
    let b = Encryption::Transit("b");
    cluster.keyward.apply(&b.spec(&cluster.keyward)).await?;
    let began = Instant::now();
    cluster.keyward.cluster.node(2)?.stop_agent()?;
    cluster.keyward.cluster.start_node(2)?;
    let answer = cluster.keyward.join(2).await?;
    println!("{}\n{}", answer.said, answer.complained);
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

/// What the third node was told, and what is in its file.
struct Third {
    told: Revision,
    file: Vec<u8>,
}

impl Third {
    async fn of(cluster: &InUse) -> Result<Self> {
        let nodes = Api::<EncryptionNode>::all(cluster.keyward.client.clone());
        let told = nodes.get("node-3").await?.spec.revision;
        let node = cluster.keyward.cluster.node(2)?;
        let file = std::fs::read(node.path(ENCRYPTION_CONFIG)).context("node-3's configuration")?;
        Ok(Self { told, file })
    }

    async fn is_untouched(&self, cluster: &InUse) -> Result<()> {
        let now = Self::of(cluster).await?;
        ensure!(now.told == self.told, "node-3 was told revision {} after {}", now.told, self.told);
        ensure!(now.file == self.file, "the configuration of node-3 is another one");
        Ok(())
    }
}
