//! A cluster that starts after a shutdown of all nodes, and one whose credentials are revoked: both without
//! an operator.

use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result, ensure};
use keyward_test_cluster::{AppRole, Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse};
use tokio::time::Instant;

use crate::{AGENT_KUBECONFIG, PATIENCE, three};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_without_its_operator_and_an_admin_recovers_its_credentials() -> Result<()> {
    let mut cluster = InUse::start_with_history(three(), 100, 20).await?;
    let a = Encryption::Transit("a");
    cluster.change(a, 1, PATIENCE).await?;
    let away = cluster.away();
    let names: Vec<String> =
        cluster.keyward.cluster.nodes().iter().map(|node| node.name().to_owned()).collect();

    // All nodes are shut down. When they boot again, the KMS is available and the operator does not run.
    for node in &names {
        away.leave(node);
    }
    drop(cluster.keyward.operator.take());
    for index in 0..3 {
        cluster.keyward.cluster.stop_node(index)?;
    }
    // One agent has no usable kubeconfig, as after an interrupted renewal. It needs no API to start the
    // installed plugins.
    let kubeconfig = cluster.keyward.cluster.node(1)?.path(AGENT_KUBECONFIG);
    let good = std::fs::read(&kubeconfig)?;
    std::fs::write(&kubeconfig, good.get(..good.len() / 3).unwrap_or_default())?;
    let began = Instant::now();
    for index in 0..3 {
        cluster.keyward.cluster.start_node(index)?;
    }
    for index in 0..3 {
        cluster.keyward.cluster.wait_ready(index).await?;
        cluster.must_read_through(index).await?;
    }
    println!("three nodes without an operator: all ready after {:.1} s", began.elapsed().as_secs_f64());
    std::fs::write(&kubeconfig, good)?;
    for node in &names {
        away.back(node);
    }

    // The secret-id and all tokens are revoked, and no API server can read a Secret any more.
    for node in &names {
        away.leave(node);
    }
    let role = cluster.keyward.role.clone();
    cluster.keyward.bao.revoke_secret_id("", "keyward", &role.secret_id).await?;
    cluster.keyward.bao.revoke_tokens("").await?;
    for node in cluster.keyward.cluster.nodes() {
        node.restart_apiserver().await?;
    }
    for index in 0..3 {
        let client = cluster.keyward.cluster.client(index).await?;
        wait_until("an API server that is not ready", PATIENCE, async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let response = client.request_text(request).await;
            let unready = matches!(&response, Err(kube::Error::Api(status)) if status.code == 500);
            Ok(Seen::when(unready, format!("{response:?}")))
        })
        .await?;
        ensure!(
            cluster.must_read_through(index).await.is_err(),
            "objects that cannot be decrypted were read"
        );
    }
    // The refused logins of the plugins have locked the role out: another role with the same policy.
    let role =
        cluster.keyward.bao.policy_and_approle("", "another", &["transit/keys/a", "transit/keys/b"]).await?;
    let began = Instant::now();
    for index in 0..3 {
        let each = Instant::now();
        recover(&cluster, index, 1, &role).await?;
        cluster.keyward.cluster.wait_ready(index).await?;
        println!("node-{}: recovered in {:.1} s", index + 1, each.elapsed().as_secs_f64());
    }
    println!("`recover` on three nodes: {:.1} s", began.elapsed().as_secs_f64());
    for index in 0..3 {
        cluster.must_read_through(index).await?;
    }
    for node in &names {
        away.back(node);
    }

    // The operator starts again, the Secret gets the same credential, and further changes work.
    cluster.keyward.start_operator()?;
    cluster.keyward.set_credentials(&role).await?;
    cluster.settled(a, 1, PATIENCE).await?;
    cluster.change(Encryption::Transit("b"), 2, PATIENCE).await?;
    let (read, written) = cluster.finish().await?;
    println!("no failures through running API servers: {read:?}, {written:?}");
    Ok(())
}

/// Runs `recover` on a node, as an admin who is logged in there.
pub(crate) async fn recover(cluster: &InUse, index: usize, key: u64, role: &AppRole) -> Result<()> {
    let node = cluster.keyward.cluster.node(index)?;
    let mut files = Vec::new();
    for (name, value) in [("role-id", role.role_id.as_str()), ("secret-id", role.secret_id.reveal())] {
        let path = format!("/etc/kubernetes/{name}.new");
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(node.path(&path))?;
        std::io::Write::write_all(&mut file, value.as_bytes())?;
        files.push(format!("{name}={path}"));
    }
    let key = key.to_string();
    let mut command = vec!["node-agent", "recover", "--key", &key];
    for file in &files {
        command.extend(["--file", file]);
    }
    let answer = cluster.keyward.command_on(index, &command).await?;
    ensure!(answer.status.success(), "{answer:?}");
    ensure!(!format!("{answer:?}").contains(role.secret_id.reveal()), "the credential was printed");
    for file in files {
        let (_, path) = file.split_once('=').context("a path")?;
        std::fs::remove_file(node.path(path))?;
    }
    Ok(())
}
