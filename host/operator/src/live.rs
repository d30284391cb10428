//! The live cluster as one decision sees it, for `keyward plan -f` and `keyward status`: reads, never writes.

use std::sync::Arc;

use jiff::Timestamp;
use keyward_core::api::{ClusterEncryption, ClusterEncryptionSpec};
use keyward_core::names;
use keyward_core::outcome::Outcome;
use keyward_core::platform::{Given, Objects, Results, kubernetes};
use keyward_core::provider::Evaluator;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::metrics::Metrics;
use crate::{ages, fetch, reconcile, results};

/// What one decision is made from.
#[derive(Clone, Debug)]
pub struct Live {
    /// As read, with the wished-for spec in place of the stored one.
    pub objects: Objects,
    /// What modules say, and what is referred to.
    pub results: Results,
}

/// Reads the cluster, and puts `wish` in place of the stored spec.
pub async fn look(
    cluster: &Cluster,
    evaluator: &Arc<dyn Evaluator>,
    wish: Option<ClusterEncryptionSpec>,
) -> Result<Live, Error> {
    let mut objects = fetch::objects(cluster).await?;
    if let Some(spec) = wish {
        match objects.cluster_encryption.as_mut() {
            Some(stored) if stored.spec == spec => {}
            Some(stored) => {
                stored.spec = spec;
                // As the API server will count.
                let generation = stored.metadata.generation.unwrap_or_default();
                stored.metadata.generation = Some(generation.saturating_add(1));
            }
            None => {
                let mut made = ClusterEncryption::new(names::CLUSTER, spec);
                made.metadata.generation = Some(1);
                objects.cluster_encryption = Some(made);
            }
        }
    }
    let results = results::resolve(cluster, evaluator, &objects, &Metrics::default()).await?;
    Ok(Live { objects, results })
}

impl Live {
    /// What the operator would decide at `now`; ages are those that `status.since[]` tells. `None` where there is no
    /// `ClusterEncryption/cluster`.
    pub fn decide(&self, now: Timestamp) -> Result<Option<Outcome>, Error> {
        let since = self.objects.cluster_encryption.as_ref().and_then(|found| found.status.as_ref());
        let ages = ages::from_since(since.map_or(&[][..], |status| &status.since), now);
        let given = Given { now, ages, fresh: reconcile::fresh()? };
        Ok(kubernetes::snapshot(&self.objects, &self.results, given)
            .map(|snapshot| keyward_core::reconcile(&snapshot)))
    }
}
