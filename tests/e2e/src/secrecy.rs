//! No secret byte anywhere but in Secrets: looks for one in every log and in every object that is not a Secret.

use std::path::Path;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod};
use keyward_core::api::{ClusterEncryption, EncryptionMigration, EncryptionNode};
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Keyward;

/// Where the secret was seen, and in how many places it was looked for.
pub async fn sightings(keyward: &Keyward, secret: &str) -> Result<(Vec<String>, usize)> {
    let forms = [secret.to_owned(), BASE64_STANDARD.encode(secret)];
    let mut looked = 0;
    let mut seen = Vec::new();
    let mut look = |place: String, text: &str| {
        looked += 1;
        if forms.iter().any(|form| text.contains(form.as_str())) {
            seen.push(place);
        }
    };
    let client = &keyward.client;
    for (kind, text) in [
        ("ClusterEncryption", all::<ClusterEncryption>(client).await?),
        ("EncryptionNode", all::<EncryptionNode>(client).await?),
        ("EncryptionMigration", all::<EncryptionMigration>(client).await?),
        ("Event", all::<Event>(client).await?),
        ("Pod", all::<Pod>(client).await?),
        ("Node", all::<Node>(client).await?),
        ("ConfigMap", all::<ConfigMap>(client).await?),
    ] {
        look(format!("{kind} objects"), &text);
    }
    let mut logs = Vec::new();
    files(keyward.cluster.folder(), &mut logs)?;
    for node in keyward.cluster.nodes() {
        files(&node.path("/var/log/pods"), &mut logs)?;
        files(&node.path("/etc/kubernetes/manifests"), &mut logs)?;
    }
    logs.sort();
    logs.dedup();
    for path in logs {
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        look(path.display().to_string(), &String::from_utf8_lossy(&bytes));
    }
    Ok((seen, looked))
}

async fn all<K>(client: &Client) -> Result<String>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let list = Api::<K>::all(client.clone()).list(&ListParams::default()).await?;
    Ok(serde_json::to_string(&list.items)?)
}

/// Every log and manifest below a folder.
fn files(folder: &Path, found: &mut Vec<std::path::PathBuf>) -> Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let kind = path.symlink_metadata()?.file_type();
        if kind.is_dir() {
            files(&path, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|e| e == "log" || e == "yaml") {
            found.push(path);
        }
    }
    Ok(())
}
