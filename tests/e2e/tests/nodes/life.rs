//! The whole life of a KMS configuration.

use anyhow::{Context as _, Result, ensure};
use keyward_core::ids::Revision;
use keyward_test_cluster::pki::Authority;
use keyward_test_cluster::{AppRole, Seen, wait_until};
use keyward_test_e2e::{Encryption, Gap, IMAGE, InUse, vault_spec};

use crate::{PATIENCE, three};

const B: Encryption = Encryption::Transit("b");

#[tokio::test(flavor = "multi_thread")]
async fn a_kms_is_enabled_changed_in_every_way_and_disabled() -> Result<()> {
    let mut cluster = InUse::start(three(), 200, 40).await?;
    let gap = Gap::watch(&cluster.keyward.cluster, 2).await?;

    let earlier = cluster.said.so_far();
    let took = cluster.change(Encryption::Transit("a"), 1, PATIENCE).await.context("enabled")?;
    print_phases(&cluster, "enabled", took, earlier);

    let earlier = cluster.said.so_far();
    let took = cluster.change(B, 2, PATIENCE).await.context("another KEK")?;
    print_phases(&cluster, "another KEK", took, earlier);

    let mut step = Step::begin(&cluster).await?;
    cluster.keyward.apply(&vault_spec(&cluster.keyward, "b", &IMAGE(2))).await?;
    step.end(&cluster, "another image").await?;

    // The old secret-id is revoked once no plugin uses it.
    let role = cluster.keyward.role.clone();
    let secret_id = cluster.keyward.bao.new_secret_id("", "keyward").await?;
    cluster.keyward.role = AppRole { secret_id, ..role.clone() };
    step = Step::begin(&cluster).await?;
    cluster.keyward.set_credentials(&cluster.keyward.role).await?;
    step.end(&cluster, "another secret-id").await?;
    cluster.keyward.bao.revoke_secret_id("", "keyward", &role.secret_id).await?;
    only_one_plugin_runs(&cluster, 2).await?;

    // A change of the CA: both are trusted, then the server gets a certificate of the new one, then only the
    // new one is trusted.
    let old = cluster.keyward.bao.ca_pem().to_owned();
    let authority = Authority::new("the-next-ca")?;
    let new = authority.pem().to_owned();
    step = Step::begin(&cluster).await?;
    cluster.keyward.set_ca_bundle(&format!("{old}{new}")).await?;
    step.end(&cluster, "both CAs").await?;
    cluster.keyward.bao.serve_by(authority).await?;
    step = Step::begin(&cluster).await?;
    cluster.keyward.set_ca_bundle(&new).await?;
    step.end(&cluster, "the new CA").await?;
    only_one_plugin_runs(&cluster, 2).await?;

    let earlier = cluster.said.so_far();
    let took = cluster.change(Encryption::NONE, 3, PATIENCE).await.context("disabled")?;
    print_phases(&cluster, "disabled", took, earlier);

    let watched = gap.finish().await?;
    ensure!(watched.failures.is_empty(), "the plugin was unavailable: {:?}", watched.failures);
    ensure!(watched.served_by.len() >= 5, "too few plugin instances: {}", watched.instances());
    println!(
        "the socket of key 2 on three nodes: {} round trips, {} requests to /readyz, 0 failed, at most {} ms apart",
        watched.probes,
        watched.readyz_requests,
        watched.longest.as_millis()
    );
    let (read, written) = cluster.finish().await?;
    ensure!(read.through.len() == 3 && read.through.values().all(|gets| *gets > 100), "{read:?}");
    println!("no failures: {read:?}, {written:?}");
    Ok(())
}

/// A change in place under key 2.
struct Step {
    before: Revision,
    earlier: usize,
    began: std::time::Instant,
}

impl Step {
    async fn begin(cluster: &InUse) -> Result<Self> {
        let before = cluster.keyward.status().await?.newest_revision().context("no revision")?;
        Ok(Self { before, earlier: cluster.said.so_far(), began: std::time::Instant::now() })
    }

    async fn end(&self, cluster: &InUse, what: &'static str) -> Result<()> {
        cluster.replaced(self.before, 2, PATIENCE).await.context(what)?;
        let took = self.began.elapsed();
        cluster.settled(B, 2, PATIENCE).await.context(what)?;
        print_phases(cluster, what, took, self.earlier);
        Ok(())
    }
}

/// Prints the times of a change's phases.
fn print_phases(cluster: &InUse, what: &str, took: std::time::Duration, earlier: usize) {
    let phases: Vec<String> = cluster
        .said
        .phases(earlier)
        .into_iter()
        .map(|(reason, spent)| format!("{reason} {:.1} s", spent.as_secs_f64()))
        .collect();
    println!("{what}: {:.1} s ({})", took.as_secs_f64(), phases.join(", "));
}

/// Waits until the replaced plugins have stopped on every node.
async fn only_one_plugin_runs(cluster: &InUse, key: u64) -> Result<()> {
    let prefix = format!("keyward-kms-{key}-");
    for (index, node) in cluster.keyward.cluster.nodes().iter().enumerate() {
        wait_until(&format!("one plugin of key {key} on {}", node.name()), PATIENCE, async || {
            let mut pods = cluster.keyward.plugins_on(index)?;
            pods.retain(|pod| pod.name.starts_with(&prefix));
            Ok(Seen::when(pods.len() == 1 && pods[0].is_running(), format!("{pods:?}")))
        })
        .await?;
    }
    Ok(())
}
