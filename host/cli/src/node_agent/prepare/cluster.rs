//! The part of `prepare` that reads and writes the cluster.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use keyward_core::api::ClusterEncryption;
use keyward_core::ids::Revision;
use keyward_core::names;
use keyward_node::kubeadm::{Examined, Flags, cluster_configuration};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

/// The name in messages.
pub(super) const NAME: &str = "ClusterConfiguration of ConfigMap kube-system/kubeadm-config";
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "kubeadm-config";
const KEY: &str = "ClusterConfiguration";
/// The writer in `managedFields`.
const FIELD_MANAGER: &str = "keyward-prepare";
const PATIENCE: Duration = Duration::from_secs(20);

/// The objects, as they were read.
pub(super) struct Cluster {
    client: kube::Client,
    resource_version: Option<String>,
    /// The current `ClusterConfiguration`.
    pub(super) text: String,
    /// What is missing in it, and what is wrong with it.
    pub(super) examined: Examined,
    /// `ClusterEncryption/cluster`, or `None` if it does not exist.
    pub(super) keyward: Option<ClusterEncryption>,
}

impl Cluster {
    pub(super) async fn read(kubeconfig: PathBuf) -> Result<Self> {
        let connection = keyward_operator::Connection { kubeconfig: Some(kubeconfig), ..Default::default() };
        let client = keyward_operator::connect(&connection).await?;
        let maps = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE);
        let found = within(maps.get_opt(CONFIG_MAP)).await?;
        let data = found.as_ref().and_then(|map| map.data.as_ref()?.get(KEY)).cloned();
        let (Some(map), Some(text)) = (found, data) else {
            bail!(
                "there is no {NAME}, so this is not a kubeadm cluster; to prepare the node alone, use --manifest-only"
            );
        };
        let clusters = Api::<ClusterEncryption>::all(client.clone());
        let keyward = within(async {
            match clusters.get(names::CLUSTER).await {
                Ok(found) => Ok(Some(found)),
                // The object or its kind does not exist.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await?;
        let examined = cluster_configuration::examine(&text);
        Ok(Self { client, resource_version: map.metadata.resource_version, text, examined, keyward })
    }

    /// The API server's flags in ClusterConfiguration. None if it cannot be parsed, which `examined` reports
    /// as a refusal.
    pub(super) fn flags(&self) -> Flags {
        cluster_configuration::flags(&self.text).unwrap_or_default()
    }

    /// The highest number of a revision that was ever created.
    pub(super) fn highest_revision(&self) -> Revision {
        let status = self.keyward.as_ref().and_then(|found| found.status.as_ref());
        status.map(|status| status.highest_revision).unwrap_or_default()
    }

    /// Replaces ClusterConfiguration, on condition that the ConfigMap is as it was read.
    pub(super) async fn write(&self, text: &str) -> Result<()> {
        let patch = json!({
            "metadata": {"resourceVersion": self.resource_version},
            "data": {KEY: text},
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), NAMESPACE);
        match maps.patch(CONFIG_MAP, &params, &Patch::Merge(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                bail!("{NAME} was changed meanwhile; run the command again")
            }
            Err(error) => Err(error).with_context(|| format!("writing {NAME}")),
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T> {
    let remedy = "the cluster does not answer; to prepare the node without it, use --manifest-only";
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.context(remedy),
        Err(_) => Err(anyhow!("no response within {PATIENCE:?}").context(remedy)),
    }
}
