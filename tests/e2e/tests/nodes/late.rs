//! A node that was given up, and boots again with the configuration that it had.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use keyward_test_cluster::{Seen, User, wait_until};
use keyward_test_e2e::{Encryption, InUse};
use kube::api::{Api, PostParams};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::members::leave;
use crate::retired::key_1_is_retired;
use crate::{AGENT_S_KUBECONFIG, PATIENCE, three};

const LINK_OF_KEY_1: &str = "/var/run/kmsplugin/kms-1/kms.sock";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_late_never_serves_what_was_withdrawn() -> Result<()> {
    let mut cluster = InUse::start(three(), 100, 20).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // As on a cluster with a load balancer: what is in force is asked of another API server than the node's own.
    let node = cluster.keyward.cluster.node(2)?;
    let name = node.name().to_owned();
    let elsewhere = cluster.keyward.cluster.kubeconfig(0, &User::Agent(name.clone()))?;
    std::fs::copy(elsewhere, node.path(AGENT_S_KUBECONFIG))?;
    let link = node.path(LINK_OF_KEY_1);
    ensure!(link.is_symlink(), "key 1 is not served");
    node.start_agent(&["--probe-interval", "2s", "--metrics-url", &node.api_url()])?;

    // It is given up, and the key that it writes with is retired.
    let away = cluster.away();
    away.leave(&name);
    leave(&mut cluster, 2).await?;
    let b = Encryption::Transit("b");
    cluster.change(b, 2, PATIENCE).await?;
    key_1_is_retired(&cluster).await?;

    // Somebody switches it on again. Its kubelet registers it through the others.
    cluster.keyward.cluster.start_node(2)?;
    let served_again = seen_from_now_on(link);
    let nodes = Api::<Node>::all(cluster.keyward.client.clone());
    let node = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"node-role.kubernetes.io/control-plane": ""}},
    }))?;
    match nodes.create(&PostParams::default(), &node).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        created => drop(created.context("registering the node")?),
    }
    let client = cluster.keyward.cluster.client(2).await?;
    wait_until("the node that comes back to serve", PATIENCE, async || {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let ready = client.request_text(request).await;
        Ok(Seen::when(ready.is_ok(), format!("{:?}; {}", ready.err(), cluster.keyward.last_words())))
    })
    .await?;
    cluster.must_read_through(2).await?;
    away.back(&name);
    cluster.settled(b, 2, PATIENCE).await?;
    ensure!(!served_again.is_finished(), "key 1 was served again");
    served_again.abort();
    let (read, written) = cluster.finish().await?;
    println!("none of these failed: {read:?}, {written:?}");
    Ok(())
}

/// Ends as soon as there is such a link, however short it lives.
fn seen_from_now_on(link: PathBuf) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut next = tokio::time::interval(Duration::from_millis(10));
        while !link.is_symlink() {
            next.tick().await;
        }
    })
}
