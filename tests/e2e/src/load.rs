//! Objects to encrypt, and what they say through the API.

use std::collections::BTreeMap;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// How many requests are under way at once.
const AT_ONCE: usize = 32;
/// Where the load lives.
const NAMESPACE: &str = "load";

/// Each object's name and the hash of what it holds.
pub type Contents = BTreeMap<String, [u8; 32]>;

/// Secrets and ConfigMaps in a namespace of their own.
#[derive(Clone)]
pub struct Load {
    secrets: Api<Secret>,
    configmaps: Api<ConfigMap>,
}

impl Load {
    /// Creates so many of each.
    pub async fn create(client: &Client, secrets: usize, configmaps: usize) -> Result<Self> {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await?;
        let load = Self {
            secrets: Api::namespaced(client.clone(), NAMESPACE),
            configmaps: Api::namespaced(client.clone(), NAMESPACE),
        };
        let params = &PostParams::default();
        stream::iter(0..secrets)
            .map(|n| {
                let load = &load;
                async move {
                    let value = BASE64_STANDARD.encode(format!("content of secret {n}"));
                    let secret: Secret = serde_json::from_value(json!({
                        "metadata": {"name": format!("secret-{n:05}")}, "data": {"value": value},
                    }))?;
                    load.secrets.create(params, &secret).await?;
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        stream::iter(0..configmaps)
            .map(|n| {
                let load = &load;
                async move {
                    let configmap: ConfigMap = serde_json::from_value(json!({
                        "metadata": {"name": format!("configmap-{n:05}")}, "data": {"value": format!("{n}")},
                    }))?;
                    load.configmaps.create(params, &configmap).await?;
                    anyhow::Ok(())
                }
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(load)
    }

    /// What is in every object, as the API gives it.
    pub async fn contents(&self) -> Result<Contents> {
        let mut contents = Contents::new();
        for secret in self.secrets.list(&ListParams::default()).await? {
            let data = serde_json::to_vec(&secret.data)?;
            contents.insert(format!("secret/{}", secret.name_any()), Sha256::digest(data).into());
        }
        for configmap in self.configmaps.list(&ListParams::default()).await? {
            let data = serde_json::to_vec(&configmap.data)?;
            contents.insert(format!("configmap/{}", configmap.name_any()), Sha256::digest(data).into());
        }
        Ok(contents)
    }

    /// Gets one object, from etcd and not from the watch cache.
    pub(crate) async fn get(&self, name: &str) -> Result<()> {
        match name.split_once('/') {
            Some(("secret", name)) => self.secrets.get(name).await.map(drop)?,
            Some((_, name)) => self.configmaps.get(name).await.map(drop)?,
            None => {}
        }
        Ok(())
    }
}
