//! A real Lease allows one writer at a time.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use keyward_core::names;
use keyward_operator::lease::{Authority, Elector};
use keyward_test_cluster::{Cluster, Seen, wait_until};
use kube::api::Api;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::setup::{self, PATIENCE};

const DURATION: Duration = Duration::from_secs(3);

struct Candidate {
    authority: Authority,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn candidate(cluster: &Cluster, name: &str) -> Result<Candidate> {
    let (elector, authority) = Elector::new(setup::operator(cluster).await?, name.to_owned(), DURATION);
    let stop = CancellationToken::new();
    let task = tokio::spawn(elector.run(stop.clone()));
    Ok(Candidate { authority, stop, task })
}

async fn wait_leader(candidate: &Candidate, what: &str) -> Result<Instant> {
    wait_until(what, PATIENCE, async || {
        Ok(if candidate.authority.holds() {
            Seen::Yes(Instant::now())
        } else {
            Seen::NotYet("not the leader".into())
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_leads_and_the_next_one_follows_after_a_crash_or_a_release() -> Result<()> {
    let (cluster, admin) = setup::cluster(false).await?;
    let first = candidate(&cluster, "first").await?;
    wait_leader(&first, "the first to lead").await?;
    let second = candidate(&cluster, "second").await?;

    // The first is killed and does not release the Lease. No other one writes while the first is allowed to.
    let leases = Api::<Lease>::namespaced(admin.clone(), names::NAMESPACE);
    wait_until("some renewals", PATIENCE, async || {
        assert!(first.authority.holds() && !second.authority.holds(), "exactly one leads");
        let spec = leases.get(names::LEASE).await?.spec.context("a spec")?;
        let renewed = spec.renew_time.map(|time| time.0) > spec.acquire_time.map(|time| time.0);
        Ok(Seen::when(renewed, "not renewed"))
    })
    .await?;
    first.task.abort();
    wait_until("the second to lead", PATIENCE, async || {
        assert!(!(first.authority.holds() && second.authority.holds()), "two writers");
        Ok(Seen::when(second.authority.holds(), "not yet"))
    })
    .await?;

    // The second stops and releases the Lease, so that the next one does not wait until the Lease expires.
    let third = candidate(&cluster, "third").await?;
    second.stop.cancel();
    second.task.await?;
    assert!(!second.authority.holds());
    let released = Instant::now();
    let taken = wait_leader(&third, "the third to lead").await?;
    assert!(taken - released < DURATION, "a released Lease is free at once");
    let spec = leases.get(names::LEASE).await?.spec.context("a spec")?;
    assert_eq!(spec.holder_identity.as_deref(), Some("third"));
    assert_eq!(spec.lease_transitions, Some(3));

    // Another holder is written into the Lease: the third notices that, and does not take the Lease again.
    let mut lost = third.authority.clone();
    let patch = serde_json::json!({"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}});
    leases.patch(names::LEASE, &Default::default(), &kube::api::Patch::Merge(patch)).await?;
    tokio::time::timeout(PATIENCE, lost.lost()).await.context("the loss is not noticed")?;
    third.stop.cancel();
    third.task.await?;
    let spec = leases.get(names::LEASE).await?.spec.context("a spec")?;
    assert_eq!(spec.holder_identity.as_deref(), Some("somebody"), "another holder's Lease is not released");
    Ok(())
}
