//! Objects to encrypt, and what they say through the API.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// How many requests are under way at once.
const AT_ONCE: usize = 32;
/// Where the load lives.
const NAMESPACE: &str = "load";

/// What an object holds, as a hash.
pub type Content = [u8; 32];
/// Each object's name (`secret/…`, `configmap/…`) and what it holds.
pub type Contents = BTreeMap<String, Content>;

/// Secrets and ConfigMaps in a namespace of their own.
#[derive(Clone)]
pub struct Load {
    secrets: Api<Secret>,
    configmaps: Api<ConfigMap>,
}

impl Load {
    /// Creates so many of each.
    pub async fn create(client: &Client, secrets: usize, configmaps: usize) -> Result<Self> {
        let load = &Self::empty(client, NAMESPACE).await?;
        let secrets =
            (0..secrets).map(|n| (format!("secret/secret-{n:05}"), format!("content of secret {n}")));
        let configmaps = (0..configmaps).map(|n| (format!("configmap/configmap-{n:05}"), n.to_string()));
        stream::iter(secrets.chain(configmaps))
            .map(|(name, value)| async move { load.add(&name, &value).await.map(drop) })
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(load.clone())
    }

    /// A new namespace with nothing in it.
    pub async fn empty(client: &Client, namespace: &str) -> Result<Self> {
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        Api::all(client.clone()).create(&PostParams::default(), &object).await?;
        Ok(Self::within(client, namespace))
    }

    /// What [`create`](Self::create) made, through the API server that this client asks.
    #[must_use]
    pub fn through(client: &Client) -> Self {
        Self::within(client, NAMESPACE)
    }

    pub(crate) fn within(client: &Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), namespace),
            configmaps: Api::namespaced(client.clone(), namespace),
        }
    }

    /// What is in every object, as the API gives it.
    pub async fn contents(&self) -> Result<Contents> {
        let mut contents = Contents::new();
        for secret in self.secrets.list(&ListParams::default()).await? {
            contents.insert(format!("secret/{}", secret.name_any()), hash(&secret.data)?);
        }
        for configmap in self.configmaps.list(&ListParams::default()).await? {
            contents.insert(format!("configmap/{}", configmap.name_any()), hash(&configmap.data)?);
        }
        Ok(contents)
    }

    /// What is in one object, from etcd and not from the watch cache.
    pub(crate) async fn get(&self, name: &str) -> Result<Content> {
        match Kind::of(name)? {
            (Kind::Secret, name) => hash(&self.secrets.get(name).await?.data),
            (Kind::ConfigMap, name) => hash(&self.configmaps.get(name).await?.data),
        }
    }

    /// Makes an object that holds this value. Gives what it is to hold from now on.
    pub async fn add(&self, name: &str, value: &str) -> Result<Content> {
        let (kind, of) = Kind::of(name)?;
        let object = json!({"metadata": {"name": of}, "data": {"value": kind.written(value)}});
        let params = PostParams::default();
        match kind {
            Kind::Secret => drop(self.secrets.create(&params, &serde_json::from_value(object)?).await?),
            Kind::ConfigMap => drop(self.configmaps.create(&params, &serde_json::from_value(object)?).await?),
        }
        kind.holding(value)
    }

    /// What an object of this name holds that has this value and nothing else.
    pub(crate) fn holding(name: &str, value: &str) -> Result<Content> {
        Kind::of(name)?.0.holding(value)
    }

    /// Writes another value into an object, whatever version it has. Gives what it is to hold from now on.
    pub(crate) async fn change(&self, name: &str, value: &str) -> Result<Content> {
        let (kind, of) = Kind::of(name)?;
        let (params, patch) =
            (PatchParams::default(), Patch::Merge(json!({"data": {"value": kind.written(value)}})));
        match kind {
            Kind::Secret => drop(self.secrets.patch(of, &params, &patch).await?),
            Kind::ConfigMap => drop(self.configmaps.patch(of, &params, &patch).await?),
        }
        kind.holding(value)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Secret,
    ConfigMap,
}

impl Kind {
    /// The kind and the bare name of an object in [`Contents`].
    fn of(name: &str) -> Result<(Self, &str)> {
        match name.split_once('/') {
            Some(("secret", name)) => Ok((Self::Secret, name)),
            Some(("configmap", name)) => Ok((Self::ConfigMap, name)),
            _ => anyhow::bail!("{name} is no object of a load"),
        }
    }

    /// A value as it stands in the object's JSON.
    fn written(self, value: &str) -> Value {
        match self {
            Self::Secret => json!(BASE64_STANDARD.encode(value)),
            Self::ConfigMap => json!(value),
        }
    }

    /// What an object holds that has this value and nothing else.
    fn holding(self, value: &str) -> Result<Content> {
        let key = "value".to_owned();
        match self {
            Self::Secret => hash(&Some(BTreeMap::from([(key, ByteString(value.into()))]))),
            Self::ConfigMap => hash(&Some(BTreeMap::from([(key, value)]))),
        }
    }
}

fn hash(data: &impl Serialize) -> Result<Content> {
    Ok(Sha256::digest(serde_json::to_vec(data).context("an object's data as JSON")?).into())
}
