//! Several nodes on one machine are separate enough for API servers and plugins.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails at the first error")]

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use common::write_secret;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use keyward_test_cluster::{Cluster, ENCRYPTION_CONFIG, REVISION_0, Seen, User, wait_until};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

const SOON: Duration = Duration::from_mins(1);

/// The hostnames in the identity Leases of the API servers.
async fn identities(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let leases: Api<Lease> = Api::namespaced(cluster.client(0).await?, "kube-system");
    let ours = ListParams::default().labels("apiserver.kubernetes.io/identity=kube-apiserver");
    let hostname = |lease: Lease| lease.labels().get("kubernetes.io/hostname").cloned().unwrap_or_default();
    Ok(leases.list(&ours).await?.items.into_iter().map(hostname).collect())
}

async fn wait_for_identities(cluster: &Cluster, expected: &[&str]) -> Result<()> {
    wait_until("the identity leases", SOON, async || {
        let seen = identities(cluster).await?;
        Ok(Seen::when(seen.iter().eq(expected), format!("{seen:?}")))
    })
    .await
}

#[tokio::test]
async fn nodes_share_only_their_storage() -> Result<()> {
    let mut cluster = Cluster::builder().nodes(2).request_timeout(Duration::from_secs(5)).start().await?;
    wait_for_identities(&cluster, &["node-1", "node-2"]).await?;

    // Both API servers use the same etcd.
    write_secret(&cluster.client(0).await?, "shared", "x").await?;
    let there: Api<Secret> = Api::namespaced(cluster.client(1).await?, "default");
    assert_eq!(there.get("shared").await?.name_any(), "shared");

    // The same path on each node is another file.
    for (index, name) in [(0, "node-1"), (1, "node-2")] {
        let node = cluster.node(index)?;
        std::fs::write(node.path("/var/run/kmsplugin/whose"), name)?;
        let read = node.exec(&["sh", "-c", "hostname; cat /var/run/kmsplugin/whose"]).await?;
        assert_eq!(String::from_utf8_lossy(&read.stdout), format!("{name}\n{name}"));
        assert_eq!(std::fs::read_to_string(node.path(ENCRYPTION_CONFIG))?, REVISION_0);
    }

    users_have_their_names_and_groups(&cluster).await?;
    manifests_are_applied(&cluster).await?;

    // A power failure stops one API server; meanwhile a third node joins; then the first one boots again.
    cluster.crash_node(0)?;
    assert!(cluster.client(0).await?.apiserver_version().await.is_err());
    assert!(cluster.client(1).await?.apiserver_version().await.is_ok());
    cluster.add_node().await?;
    cluster.start_node(0)?;
    cluster.wait_ready(0).await?;
    assert!(!cluster.node(0)?.path("/var/run/kmsplugin/whose").exists(), "a reboot empties /var/run");
    wait_for_identities(&cluster, &["node-1", "node-2", "node-3"]).await?;
    wait_until("three registered nodes", SOON, async || {
        let nodes = Api::<Node>::all(cluster.client(0).await?)
            .list_metadata(&ListParams::default())
            .await?
            .items
            .len();
        Ok(Seen::when(nodes == 3, format!("{nodes}")))
    })
    .await
}

async fn users_have_their_names_and_groups(cluster: &Cluster) -> Result<()> {
    use k8s_openapi::api::authentication::v1::SelfSubjectReview;
    let other = User::Other { name: "alice".into(), groups: vec!["devs".into()] };
    for (user, name, group) in [
        (User::Admin, "admin", "system:masters"),
        (
            User::Operator,
            "system:serviceaccount:keyward-system:keyward-operator",
            "system:serviceaccounts:keyward-system",
        ),
        (User::Agent("node-2".into()), "keyward:node:node-2", "keyward:nodes"),
        (other, "alice", "devs"),
    ] {
        let reviews: Api<SelfSubjectReview> = Api::all(cluster.client_as(1, &user).await?);
        let review = reviews.create(&kube::api::PostParams::default(), &SelfSubjectReview::default()).await?;
        let info = review.status.and_then(|status| status.user_info).unwrap_or_default();
        assert_eq!(info.username.as_deref(), Some(name));
        assert!(info.groups.iter().flatten().any(|one| one == group), "{name}: {:?}", info.groups);
    }
    // Without a role, the operator is not allowed to read Secrets.
    let secrets: Api<Secret> = Api::namespaced(cluster.client_as(1, &User::Operator).await?, "default");
    assert!(secrets.get("shared").await.is_err());
    Ok(())
}

async fn manifests_are_applied(cluster: &Cluster) -> Result<()> {
    let manifests = |word: &str| {
        format!(
            "# comment\n---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: applied}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: a, namespace: applied}}\ndata: {{word: {word}}}\n"
        )
    };
    let there: Api<ConfigMap> = Api::namespaced(cluster.client(1).await?, "applied");
    for word in ["one", "two"] {
        cluster.apply(&manifests(word)).await?;
        assert_eq!(there.get("a").await?.data.unwrap()["word"], word);
    }
    assert!(cluster.apply("apiVersion: v1\nkind: Nonsense\nmetadata: {name: a}").await.is_err());
    let error = cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}").await;
    assert!(format!("{:#}", error.unwrap_err()).contains("a Namespace has no namespace"));
    Ok(())
}
