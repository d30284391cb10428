//! A node that was removed from the cluster and boots again with its superseded configuration
//! (invariant: returning-node-does-not-write).

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
use crate::{AGENT_KUBECONFIG, PATIENCE, three};

const LINK_OF_KEY_1: &str = "/var/run/kmsplugin/kms-1/kms.sock";

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_node_never_serves_a_retired_key() -> Result<()> {
    let mut cluster = InUse::start(three(), 100, 20).await?;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // As on a cluster with a load balancer: the agent reads its target from another API server than the
    // node's own.
    let node = cluster.keyward.cluster.node(2)?;
    let name = node.name().to_owned();
    let elsewhere = cluster.keyward.cluster.kubeconfig(0, &User::Agent(name.clone()))?;
    std::fs::copy(elsewhere, node.path(AGENT_KUBECONFIG))?;
    let link = node.path(LINK_OF_KEY_1);
    ensure!(link.is_symlink(), "key 1 is not served");
    node.start_agent(&["--probe-interval", "2s", "--metrics-url", &node.api_url()])?;

    // The node leaves the cluster, and the key that it writes with is retired.
    let away = cluster.away();
    away.leave(&name);
    leave(&mut cluster, 2).await?;
    let b = Encryption::Transit("b");
    cluster.change(b, 2, PATIENCE).await?;
    key_1_is_retired(&cluster).await?;

    // The node boots again. Its kubelet registers it through another API server.
    cluster.keyward.cluster.start_node(2)?;
    let served_again = wait_for_link(link);
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
    wait_until("the returning node to serve", PATIENCE, async || {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        let ready = client.request_text(request).await;
        Ok(Seen::when(ready.is_ok(), format!("{:?}; {}", ready.err(), cluster.keyward.operator_log_tail())))
    })
    .await?;
    cluster.must_read_through(2).await?;
    away.back(&name);
    cluster.settled(b, 2, PATIENCE).await?;
    ensure!(!served_again.is_finished(), "key 1 was served again");
    served_again.abort();
    let (read, written) = cluster.finish().await?;
    println!("no failures: {read:?}, {written:?}");
    Ok(())
}

/// Ends as soon as the link exists, also if it exists only for a moment.
fn wait_for_link(link: PathBuf) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut next = tokio::time::interval(Duration::from_millis(10));
        while !link.is_symlink() {
            next.tick().await;
        }
    })
}
