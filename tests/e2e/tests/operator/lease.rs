//! One writer at a time, by a real Lease.

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

async fn holds(candidate: &Candidate, what: &str) -> Result<Instant> {
    wait_until(what, PATIENCE, async || {
        Ok(if candidate.authority.holds() { Seen::Yes(Instant::now()) } else { Seen::NotYet("not".into()) })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writes_and_the_next_takes_over_when_the_first_is_gone_or_gives_up() -> Result<()> {
    let (cluster, admin) = setup::cluster(false).await?;
    let first = candidate(&cluster, "first").await?;
    holds(&first, "the first to be the writer").await?;
    let second = candidate(&cluster, "second").await?;

    // Killed: nothing is released. Until it may not write any more, nobody else does.
    let leases = Api::<Lease>::namespaced(admin.clone(), names::NAMESPACE);
    wait_until("some renewals", PATIENCE, async || {
        assert!(first.authority.holds() && !second.authority.holds(), "never two, never none");
        let spec = leases.get(names::LEASE).await?.spec.context("a spec")?;
        let renewed = spec.renew_time.map(|time| time.0) > spec.acquire_time.map(|time| time.0);
        Ok(Seen::when(renewed, "not renewed"))
    })
    .await?;
    first.task.abort();
    wait_until("the second to take over", PATIENCE, async || {
        assert!(!(first.authority.holds() && second.authority.holds()), "two writers");
        Ok(Seen::when(second.authority.holds(), "not yet"))
    })
    .await?;

    // Asked to stop: released, so that the next need not wait for the Lease to run out.
    let third = candidate(&cluster, "third").await?;
    second.stop.cancel();
    second.task.await?;
    assert!(!second.authority.holds());
    let released = Instant::now();
    let taken = holds(&third, "the third to take over").await?;
    assert!(taken - released < DURATION, "a released Lease is free at once");
    let spec = leases.get(names::LEASE).await?.spec.context("a spec")?;
    assert_eq!(spec.holder_identity.as_deref(), Some("third"));
    assert_eq!(spec.lease_transitions, Some(3));

    // Taken away by force: it sees that, and does not take it back.
    let mut lost = third.authority.clone();
    let patch = serde_json::json!({"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}});
    leases.patch(names::LEASE, &Default::default(), &kube::api::Patch::Merge(patch)).await?;
    tokio::time::timeout(PATIENCE, lost.lost()).await.context("the loss is not seen")?;
    third.stop.cancel();
    third.task.await?;
    let spec = leases.get(names::LEASE).await?.spec.context("a spec")?;
    assert_eq!(spec.holder_identity.as_deref(), Some("somebody"), "what is another's is not released");
    Ok(())
}
