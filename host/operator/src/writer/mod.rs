//! Carries out the actions of a decision: one at a time, in order, each with its precondition. The writer stops at
//! the first failure, and the next reconcile pass decides again from what is true then (decision 0017).
//!
//! [`plan`] turns an action into a write without any I/O; this file sends it. The response to a write has metadata
//! only.

mod plan;

use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use tokio_util::sync::CancellationToken;

use keyward_core::api::ClusterEncryption;
use keyward_core::ids::GroupResource;
use keyward_core::names;
use keyward_core::outcome::Action;
use keyward_core::platform::Objects;

use crate::cluster::{CallError, Category, Cluster, Meta, Pager, Scope, Step};
use crate::error::{ActionError, Error};
use crate::lease::Authority;
use crate::metrics::Metrics;
use plan::Write;

const NAMESPACE: Option<&str> = Some(names::NAMESPACE);

/// The result of the actions.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// How many were carried out, from the first on.
    pub(crate) count: usize,
    /// Why the next one was not.
    pub(crate) failure: Option<Error>,
}

/// The writer of one operand.
pub(crate) struct Writer<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) authority: &'a Authority,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) metrics: &'a Metrics,
    /// As read.
    pub(crate) objects: &'a Objects,
}

impl Writer<'_> {
    /// Carries out the actions. `cluster_encryption` follows what they write to its status.
    pub(crate) async fn apply(
        &self,
        actions: &[Action],
        cluster_encryption: &mut ClusterEncryption,
    ) -> Applied {
        for (count, action) in actions.iter().enumerate() {
            let kind = action.kind();
            let result = if self.authority.holds() && !self.stop.is_cancelled() {
                let done = self.carry_out(action, cluster_encryption).await;
                done.map_err(|source| Error::Action { action: kind, source })
            } else {
                Err(Error::NotWriter)
            };
            self.metrics.acted(kind, result.as_ref().map_err(Error::category).err().unwrap_or("ok"));
            match result {
                Ok(()) => tracing::info!(action = kind, "done: {}", action.describe()),
                Err(failure) if action.is_optional() && self.authority.holds() => {
                    tracing::warn!(
                        action = kind,
                        "failed, and continuing, because this write is allowed to fail: {failure}"
                    );
                }
                Err(failure) => return Applied { count, failure: Some(failure) },
            }
        }
        Applied { count: actions.len(), failure: None }
    }

    async fn carry_out(
        &self,
        action: &Action,
        cluster_encryption: &mut ClusterEncryption,
    ) -> Result<(), ActionError> {
        let cluster = self.cluster;
        match plan::write(action, self.objects)? {
            Write::HighWater { key_id, revision } => {
                let mut raised = cluster_encryption.clone();
                let status = raised.status.get_or_insert_default();
                // Never lowered: a number names one key for ever (invariant: one-number-one-kek).
                status.highest_key_id = status.highest_key_id.max(key_id);
                status.highest_revision = status.highest_revision.max(revision);
                let written = cluster.replace_status(&raised).await?;
                raised.metadata.resource_version = written.metadata.resource_version;
                *cluster_encryption = raised;
            }
            Write::CreateSecret(secret) => cluster.create(NAMESPACE, &*secret).await.map(drop)?,
            Write::ReplaceSecret(secret) => cluster.replace(NAMESPACE, &*secret).await.map(drop)?,
            Write::DeleteSecret { name, resource_version, finalizers } => {
                self.delete_secret(&name, resource_version, finalizers).await?;
            }
            Write::CreateNode(node) => cluster.create(None, &*node).await.map(drop)?,
            Write::ReplaceNode(node) => cluster.replace(None, &*node).await.map(drop)?,
            Write::Reencrypt(resources) => {
                for resource in &resources {
                    self.reencrypt(resource).await?;
                }
            }
            Write::CreateMigration(migration) => cluster.create(None, &*migration).await.map(drop)?,
            Write::ReplaceMigration(migration) => cluster.replace(None, &*migration).await.map(drop)?,
        }
        Ok(())
    }

    /// Re-encrypts every object of this resource in Keyward's namespace by patches that change nothing: the API
    /// server reads each from etcd, and stores it again under its write key. The first failure ends it, so no later
    /// step relies on a part.
    async fn reencrypt(&self, resource: &GroupResource) -> Result<(), CallError> {
        let name = resource.to_string();
        let collection = format!("/api/v1/namespaces/{}/{name}", names::NAMESPACE);
        let mut pager: Pager<Meta> = Pager::of(collection.clone(), &name, Scope::Namespace).metadata_only();
        loop {
            match pager.next(self.cluster).await? {
                Step::Page(page) => {
                    for object in page.items {
                        self.cluster.touch(&collection, &name, &object.metadata).await?;
                    }
                }
                Step::Undecodable(bad) => return Err(bad.error),
                Step::End => return Ok(()),
            }
        }
    }

    /// Removes Keyward's finalizer, then deletes, both on the version that was read. A Secret that is already being
    /// deleted is gone with its last finalizer.
    async fn delete_secret(
        &self,
        name: &str,
        mut resource_version: String,
        finalizers: Option<Vec<String>>,
    ) -> Result<(), CallError> {
        if let Some(left) = finalizers {
            let written: Meta =
                self.cluster.set_finalizers::<Secret>(NAMESPACE, name, &resource_version, &left).await?;
            resource_version = written.metadata.resource_version.unwrap_or_default();
        }
        self.delete::<Secret>(NAMESPACE, name, &resource_version).await
    }

    /// An object that is already gone counts as deleted.
    async fn delete<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        resource_version: &str,
    ) -> Result<(), CallError>
    where
        K: Resource<DynamicType = ()>,
    {
        match self.cluster.delete::<K>(namespace, name, resource_version).await {
            Err(error) if error.category() == Category::NotFound => Ok(()),
            result => result,
        }
    }
}
