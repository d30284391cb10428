//! The cluster's part of a node's preparation.

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

/// For people.
pub(super) const NAME: &str = "ClusterConfiguration of ConfigMap kube-system/kubeadm-config";
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "kubeadm-config";
const KEY: &str = "ClusterConfiguration";
/// Who writes, in `managedFields`.
const FIELD_MANAGER: &str = "keyward-prepare";
const PATIENCE: Duration = Duration::from_secs(20);

/// As read.
pub(super) struct Cluster {
    client: kube::Client,
    resource_version: Option<String>,
    /// `ClusterConfiguration` as it is.
    pub(super) text: String,
    /// What it lacks and what is wrong with it.
    pub(super) examined: Examined,
    /// `ClusterEncryption`; `None` before there is one.
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
            bail!("there is no {NAME}: not a kubeadm cluster; --manifest-only prepares the node alone");
        };
        let clusters = Api::<ClusterEncryption>::all(client.clone());
        let keyward = within(async {
            match clusters.get(names::CLUSTER).await {
                Ok(found) => Ok(Some(found)),
                // Not there, or its kind is not.
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await?;
        let examined = cluster_configuration::examine(&text);
        Ok(Self { client, resource_version: map.metadata.resource_version, text, examined, keyward })
    }

    /// The API server's flags in ClusterConfiguration; none where it is not understood, which is a refusal already.
    pub(super) fn flags(&self) -> Flags {
        cluster_configuration::flags(&self.text).unwrap_or_default()
    }

    /// The newest revision that was ever made.
    pub(super) fn highest_revision(&self) -> Revision {
        let status = self.keyward.as_ref().and_then(|found| found.status.as_ref());
        status.map(|status| status.highest_revision).unwrap_or_default()
    }

    /// On the version that was read.
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
    let remedy = "the cluster does not answer; --manifest-only leaves it out";
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer.context(remedy),
        Err(_) => Err(anyhow!("no answer within {PATIENCE:?}").context(remedy)),
    }
}
