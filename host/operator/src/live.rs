//! Reads the live cluster as one decision sees it, for `keyward plan -f` and `keyward status`. Never writes.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use keyward_core::api::{ClusterEncryption, ClusterEncryptionSpec};
use keyward_core::ids::GroupResource;
use keyward_core::names;
use keyward_core::platform::{self, Given, Objects, Results, Unreadable, kubernetes};
use keyward_core::provider::Evaluator;
use keyward_core::snapshot::Snapshot;

use crate::cluster::{Cluster, Meta, Pager, Step};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::migrator::discovery;
use crate::migrator::verdict::Start;
use crate::rights::Account;
use crate::{fetch, reconcile, results};

/// Everything that one decision is made from.
#[derive(Clone)]
pub struct Live {
    /// As read, with the given spec in place of the stored one.
    pub objects: Objects,
    /// Evaluations of the provider modules, and referenced objects.
    pub results: Results,
}

/// Reads the cluster, and puts `spec`, if given, in place of the stored spec.
pub async fn look(
    cluster: &Cluster,
    evaluator: &Arc<dyn Evaluator>,
    spec: Option<ClusterEncryptionSpec>,
) -> Result<Live, Error> {
    let mut objects = fetch::objects(cluster, None).await?;
    if let Some(spec) = spec {
        objects.serving = fetch::serving(cluster, &spec, &objects.secrets, Some(Account::Operator)).await;
        match objects.cluster_encryption.as_mut() {
            Some(stored) if stored.spec == spec => {}
            Some(stored) => {
                stored.spec = spec;
                // As the API server will count it.
                let generation = stored.metadata.generation.unwrap_or_default();
                stored.metadata.generation = Some(generation.saturating_add(1));
            }
            None => {
                let mut created = ClusterEncryption::new(names::CLUSTER, spec);
                created.metadata.generation = Some(1);
                objects.cluster_encryption = Some(created);
            }
        }
    }
    let read = fetch::References::default();
    let results = results::resolve(cluster, evaluator, &objects, read, &Metrics::default()).await?;
    Ok(Live { objects, results })
}

impl Live {
    /// The snapshot from which the operator would decide at `now` ([`keyward_core::reconcile`] decides), with the ages
    /// from `status.since[]`. `None` if there is no `ClusterEncryption/cluster`.
    pub fn snapshot(&self, now: Timestamp) -> Result<Option<Snapshot>, Error> {
        let since = self.objects.cluster_encryption.as_ref().and_then(|found| found.status.as_ref());
        let ages = platform::ages(since.map_or(&[][..], |status| &status.since), now);
        let given = Given { now, ages, fresh: reconcile::fresh()? };
        Ok(kubernetes::snapshot(&self.objects, &self.results, given))
    }
}

/// Keyward's own Secrets, and those that cannot be read.
pub async fn own_secrets(cluster: &Cluster) -> (Vec<Secret>, Vec<Unreadable>) {
    fetch::secrets(cluster).await
}

/// How many objects of a resource are stored: one page of metadata, and the API server's count of the rest.
/// `None` if the resource is not served.
pub async fn count(cluster: &Cluster, resource: &GroupResource) -> Result<Option<u64>, Error> {
    let Some(served) = discovery::find(cluster, resource).await? else { return Ok(None) };
    let mut pager =
        Pager::<Meta>::of(served.everything(), &resource.to_string(), served.scope()).metadata_only();
    let mut seen = 0_u64;
    loop {
        match pager.next(cluster).await? {
            Step::Page(page) => {
                let here = u64::try_from(page.items.len()).unwrap_or(u64::MAX);
                return Ok(Some(seen.saturating_add(here).saturating_add(page.remaining)));
            }
            // An object that cannot be decoded is stored, too.
            Step::Undecodable(_) => seen = seen.saturating_add(1),
            Step::End => return Ok(Some(seen)),
        }
    }
}

/// How many objects of a resource were last written up to this resourceVersion of the collection. An object that
/// cannot be decoded counts, since its version is not known. `None` if the resource is not served.
pub async fn count_up_to(
    cluster: &Cluster,
    resource: &GroupResource,
    version: &str,
) -> Result<Option<u64>, Error> {
    let Some(served) = discovery::find(cluster, resource).await? else { return Ok(None) };
    let start = Start::of(Some(version));
    let mut pager =
        Pager::<Meta>::of(served.everything(), &resource.to_string(), served.scope()).metadata_only();
    let mut older = 0_usize;
    loop {
        match pager.next(cluster).await? {
            Step::Page(page) => {
                let here = page.items.iter().filter(|item| !start.is_before(&item.metadata)).count();
                older = older.saturating_add(here);
            }
            Step::Undecodable(_) => older = older.saturating_add(1),
            Step::End => return Ok(Some(u64::try_from(older).unwrap_or(u64::MAX))),
        }
    }
}
