//! Deleted revisions (objects: missing-revision), and a spec that is overwritten during its rollout
//! (objects: abandoned).

use anyhow::{Context as _, Result, ensure};
use keyward_core::ids::{Mode, Revision};
use keyward_core::names;
use keyward_test_cluster::{Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse, Install, Status};

use crate::PATIENCE;

const AESCBC: Encryption = Encryption::Local(Mode::Aescbc);
const AESGCM: Encryption = Encryption::Local(Mode::Aesgcm);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_revision_is_created_again_and_its_rollout_continues() -> Result<()> {
    let cluster = InUse::start(Install::default(), 200, 40).await?;
    let keyward = &cluster.keyward;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // The revision that every API server has loaded: it must get the same bytes.
    let lost = newest(&keyward.status().await?)?;
    lose_and_wait(&cluster, lost).await.context("converged")?;
    cluster.settled(Encryption::Transit("a"), 1, PATIENCE).await?;

    // The target, which no node has yet, because no agent runs.
    keyward.stop_agents().await?;
    keyward.apply(&AESCBC.spec(keyward)).await?;
    let target = newest(&rolling(&cluster, "aescbc:2").await?)?;
    ensure!(target > lost, "{target} is not newer than {lost}");
    lose_and_wait(&cluster, target).await.context("target")?;
    keyward.start_agents()?;
    cluster.settled(AESCBC, 2, PATIENCE).await?;
    cluster.finish().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_can_be_overwritten_at_any_moment_of_a_rollout() -> Result<()> {
    let cluster = InUse::start(Install::default(), 200, 40).await?;
    let keyward = &cluster.keyward;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // Key 2 was never the write key of any revision: it is abandoned, and its number is not used again.
    keyward.stop_agents().await?;
    keyward.apply(&AESCBC.spec(keyward)).await?;
    rolling(&cluster, "aescbc:2").await?;
    let earlier = cluster.said.so_far();
    let to = Encryption::Transit("b");
    keyward.apply(&to.spec(keyward)).await?;
    keyward
        .wait("key 2 to be abandoned", PATIENCE, |status| {
            status.key(2).is_some_and(|key| key.role == "abandoned")
        })
        .await?;
    keyward.start_agents()?;
    let status = cluster.settled(to, 3, PATIENCE).await?;
    ensure!(status.newest_lists().flatten().all(|one| one != "aescbc:2"), "{}", status.summary());
    // The reason compares with key 1, because key 2 was never the write key.
    cluster.must_have_said(earlier, &["key 3", "kms-provider-changed"])?;

    // Key 4 was published as the write key: its transition must be completed, and the status shows that the
    // new request waits.
    keyward.apply(&AESGCM.spec(keyward)).await?;
    let writes = |status: &Status| status.newest_lists().all(|list| list[0] == "aesgcm:4");
    keyward.wait("key 4 to be the write key", PATIENCE, writes).await?;
    let earlier = cluster.said.so_far();
    keyward.apply(&AESCBC.spec(keyward)).await?;
    cluster.settled(AESCBC, 5, PATIENCE).await?;
    let waits = "a new key (encryption-mode-changed) waits until key 4 is migrated";
    cluster.must_have_said(earlier, &["Progressing True", waits])?;
    cluster.finish().await.map(drop)
}

/// Waits until the newest revision has this provider and is not rolled out yet.
async fn rolling(cluster: &InUse, provider: &str) -> Result<Status> {
    let has = |status: &Status| status.newest_lists().any(|list| list.iter().any(|one| one == provider));
    let what = format!("a revision with {provider}");
    cluster.keyward.wait(&what, PATIENCE, |status| has(status) && !status.has_converged()).await
}

fn newest(status: &Status) -> Result<Revision> {
    let all = status.0.status.iter().flat_map(|status| &status.revisions);
    all.last().map(|revision| revision.n).context("a revision")
}

/// Deletes a revision, and waits until it exists again with the same number and content.
async fn lose_and_wait(cluster: &InUse, revision: Revision) -> Result<()> {
    let name = names::revision_secret(revision);
    let secrets = cluster.keyward.secrets();
    let before = secrets.get(&name).await?;
    cluster.keyward.lose(&name).await?;
    wait_until(&format!("Secret {name} to be created again"), PATIENCE, async || {
        let Some(found) = secrets.get_opt(&name).await? else {
            return Ok(Seen::NotYet(cluster.keyward.status().await?.summary()));
        };
        ensure!(found.metadata.uid != before.metadata.uid, "it was not deleted");
        let same = found.data == before.data && found.immutable == Some(true);
        // Only whether it is the same: the content is secret.
        Ok(Seen::Yes(same))
    })
    .await
    .and_then(|same| {
        ensure!(same, "{name} has other content than before");
        Ok(())
    })?;
    cluster
        .keyward
        .wait("the end of the problem", PATIENCE, |status| status.problems().is_empty())
        .await
        .map(drop)
}
