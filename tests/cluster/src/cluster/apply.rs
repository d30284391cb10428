//! Applies manifests, as an admin does with `kubectl apply --server-side`.

use anyhow::{Context, Result, ensure};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Client, ResourceExt};

use super::Cluster;

/// The field manager of the objects that an admin applies.
const MANAGER: &str = "admin";

impl Cluster {
    /// Applies all documents of a YAML text, one after another, as the admin. A document whose kind an
    /// earlier document defines fails until the API server serves that kind.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let client = self.client(0).await?;
        // JSON first: a document that contains only comments is null.
        let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(yaml).context("manifests")?;
        let objects = documents.into_iter().filter(|document| !document.is_null());
        for object in objects {
            let object: DynamicObject =
                serde_json::from_value(object).context("a document is not a Kubernetes object")?;
            let name = object.name_any();
            apply(&client, &object).await.with_context(|| format!("applying {name}"))?;
        }
        Ok(())
    }
}

async fn apply(client: &Client, object: &DynamicObject) -> Result<()> {
    let types = object.types.as_ref().context("apiVersion and kind are missing")?;
    let (resource, capabilities) = pinned_kind(client, &GroupVersionKind::try_from(types)?).await?;
    let api: Api<DynamicObject> = match (capabilities.scope, object.namespace()) {
        (Scope::Cluster, None) => Api::all_with(client.clone(), &resource),
        (Scope::Namespaced, namespace) => {
            let namespace = namespace.unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
        (Scope::Cluster, Some(_)) => anyhow::bail!("a {} has no namespace", types.kind),
    };
    let name = object.name_any();
    ensure!(!name.is_empty(), "metadata.name is missing");
    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await?;
    Ok(())
}
