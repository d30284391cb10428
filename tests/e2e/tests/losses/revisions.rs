//! Revisions that are deleted, and a spec that is overwritten before its rollout is through (OBJECTS.md, "Beginnings and
//! ends").

use anyhow::{Context as _, Result, ensure};
use keyward_core::ids::{Mode, Revision};
use keyward_core::names;
use keyward_test_cluster::{Seen, wait_until};
use keyward_test_e2e::{Encryption, InUse, Install, Status};

use crate::PATIENCE;

const AESCBC: Encryption = Encryption::Local(Mode::Aescbc);
const AESGCM: Encryption = Encryption::Local(Mode::Aesgcm);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_revision_is_made_anew_and_a_rollout_goes_on() -> Result<()> {
    let cluster = InUse::start(Install::default(), 200, 40).await?;
    let keyward = &cluster.keyward;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // The one that every API server has loaded: the same bytes, or the API servers would be on something else.
    let lost = newest(&keyward.status().await?)?;
    lose_and_get_back(&cluster, lost).await.context("converged")?;
    cluster.settled(Encryption::Transit("a"), 1, PATIENCE).await?;

    // The target, which no node has taken yet: no agent runs.
    keyward.stop_agents().await?;
    keyward.apply(&AESCBC.spec(keyward)).await?;
    let target = newest(&rolling(&cluster, "aescbc:2").await?)?;
    ensure!(target > lost, "{target} comes after {lost}");
    lose_and_get_back(&cluster, target).await.context("target")?;
    keyward.start_agents()?;
    cluster.settled(AESCBC, 2, PATIENCE).await?;
    cluster.finish().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_may_be_overwritten_at_any_moment_of_a_rollout() -> Result<()> {
    let cluster = InUse::start(Install::default(), 200, 40).await?;
    let keyward = &cluster.keyward;
    cluster.change(Encryption::Transit("a"), 1, PATIENCE).await?;

    // Key 2 was never the write key of any revision: it is given up, and its number with it.
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
    // By what is in force, which key 2 never was.
    cluster.must_have_said(earlier, &["key 3", "kms-provider-changed"])?;

    // Key 4 was published as the write key: it must be finished, and the status says that what is asked for now waits.
    keyward.apply(&AESGCM.spec(keyward)).await?;
    let writes = |status: &Status| status.newest_lists().all(|list| list[0] == "aesgcm:4");
    keyward.wait("key 4 to be the write key", PATIENCE, writes).await?;
    let earlier = cluster.said.so_far();
    keyward.apply(&AESCBC.spec(keyward)).await?;
    cluster.settled(AESCBC, 5, PATIENCE).await?;
    let said = "a new key (encryption-mode-changed) waits until key 4 has finished its transition";
    cluster.must_have_said(earlier, &["Progressing True", said])?;
    cluster.finish().await.map(drop)
}

/// Waits until a revision that has this provider is to be rolled out.
async fn rolling(cluster: &InUse, provider: &str) -> Result<Status> {
    let has = |status: &Status| status.newest_lists().any(|list| list.iter().any(|one| one == provider));
    let what = format!("a revision with {provider}");
    cluster.keyward.wait(&what, PATIENCE, |status| has(status) && !status.has_converged()).await
}

fn newest(status: &Status) -> Result<Revision> {
    let all = status.0.status.iter().flat_map(|status| &status.revisions);
    all.last().map(|revision| revision.n).context("a revision")
}

/// Deletes a revision, and waits until there is one of its number again that says the same.
async fn lose_and_get_back(cluster: &InUse, revision: Revision) -> Result<()> {
    let name = names::revision_secret(revision);
    let secrets = cluster.keyward.secrets();
    let before = secrets.get(&name).await?;
    cluster.keyward.lose(&name).await?;
    wait_until(&format!("Secret {name} to be made anew"), PATIENCE, async || {
        let Some(found) = secrets.get_opt(&name).await? else {
            return Ok(Seen::NotYet(cluster.keyward.status().await?.summary()));
        };
        ensure!(found.metadata.uid != before.metadata.uid, "it was never gone");
        let same = found.data == before.data && found.immutable == Some(true);
        // Not what it holds: that is secret.
        Ok(Seen::Yes(same))
    })
    .await
    .and_then(|same| {
        ensure!(same, "{name} says something else than before");
        Ok(())
    })?;
    cluster.keyward.wait("no trouble", PATIENCE, |status| status.troubles().is_empty()).await.map(drop)
}
