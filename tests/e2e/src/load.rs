//! Objects to encrypt, and their content, read through the API.

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

/// How many requests run at the same time.
const AT_ONCE: usize = 32;
/// The namespace of the load.
const NAMESPACE: &str = "load";

/// The hash of an object's content.
pub type Content = [u8; 32];
/// Each object's name (`secret/…`, `configmap/…`) and its content.
pub type Contents = BTreeMap<String, Content>;

/// Secrets and ConfigMaps in a namespace of their own.
#[derive(Clone)]
pub struct Load {
    secrets: Api<Secret>,
    configmaps: Api<ConfigMap>,
}

impl Load {
    /// Creates these numbers of Secrets and ConfigMaps.
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

    /// The objects of [`create`](Self::create), through the API server of this client.
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

    /// The content of every object, read through the API.
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

    /// The content of one object, from etcd and not from the watch cache.
    pub(crate) async fn get(&self, name: &str) -> Result<Content> {
        match Kind::of(name)? {
            (Kind::Secret, name) => hash(&self.secrets.get(name).await?.data),
            (Kind::ConfigMap, name) => hash(&self.configmaps.get(name).await?.data),
        }
    }

    /// Creates an object with this value. Returns its expected content.
    pub async fn add(&self, name: &str, value: &str) -> Result<Content> {
        let (kind, of) = Kind::of(name)?;
        let object = json!({"metadata": {"name": of}, "data": {"value": kind.written(value)}});
        let params = PostParams::default();
        match kind {
            Kind::Secret => drop(self.secrets.create(&params, &serde_json::from_value(object)?).await?),
            Kind::ConfigMap => drop(self.configmaps.create(&params, &serde_json::from_value(object)?).await?),
        }
        kind.content(value)
    }

    /// The content of an object of this name that has only this value.
    pub(crate) fn content(name: &str, value: &str) -> Result<Content> {
        Kind::of(name)?.0.content(value)
    }

    /// Writes another value into an object, without a precondition. Returns its expected content.
    pub(crate) async fn change(&self, name: &str, value: &str) -> Result<Content> {
        let (kind, of) = Kind::of(name)?;
        let (params, patch) =
            (PatchParams::default(), Patch::Merge(json!({"data": {"value": kind.written(value)}})));
        match kind {
            Kind::Secret => drop(self.secrets.patch(of, &params, &patch).await?),
            Kind::ConfigMap => drop(self.configmaps.patch(of, &params, &patch).await?),
        }
        kind.content(value)
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
            _ => anyhow::bail!("{name} is not an object of a load"),
        }
    }

    /// A value in the object's JSON.
    fn written(self, value: &str) -> Value {
        match self {
            Self::Secret => json!(BASE64_STANDARD.encode(value)),
            Self::ConfigMap => json!(value),
        }
    }

    /// The content of an object that has only this value.
    fn content(self, value: &str) -> Result<Content> {
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
