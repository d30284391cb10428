//! A cluster with CRDs, namespace and roles, without a running Keyward.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use keyward_core::api::{ClusterEncryption, EncryptionMigration, EncryptionNode};
use keyward_core::names;
use keyward_test_cluster::{Cluster, ENCRYPTION_CONFIG, Seen, User, wait_until};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, CustomResourceExt as _, ResourceExt as _};
use sha2::Digest as _;

pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// One API server, `keyward-system`, the roles of deploy/rbac; and the CRDs, unless a test is about their
/// absence.
pub(crate) async fn cluster(with_crds: bool) -> Result<(Cluster, Client)> {
    // A failed test shows the operator's log.
    let _ = tracing_subscriber::fmt().with_test_writer().with_ansi(false).try_init();
    let cluster = Cluster::builder().request_timeout(Duration::from_secs(5)).start().await?;
    let admin = cluster.client(0).await?;
    namespace(&admin, names::NAMESPACE).await?;
    if with_crds {
        crds(&admin).await?;
    }
    for file in keyward_test_e2e::RIGHTS {
        cluster.apply(&keyward_test_e2e::shipped(&cluster, file)?).await?;
    }
    Ok((cluster, admin))
}

/// Installs the CRDs and waits until they are served.
pub(crate) async fn crds(admin: &Client) -> Result<()> {
    install(admin, [ClusterEncryption::crd(), EncryptionNode::crd(), EncryptionMigration::crd()]).await
}

/// The CRDs of a version that did not have this field of `ClusterEncryption`'s status.
pub(crate) async fn older_crds(admin: &Client, without: &str) -> Result<()> {
    let mut crd = ClusterEncryption::crd();
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut());
        let status = schema.and_then(|schema| schema.properties.as_mut()?.get_mut("status"));
        let fields = status.and_then(|status| status.properties.as_mut());
        anyhow::ensure!(fields.is_some_and(|fields| fields.remove(without).is_some()), "no {without}");
    }
    install(admin, [crd, EncryptionNode::crd(), EncryptionMigration::crd()]).await
}

async fn install(admin: &Client, crds: [CustomResourceDefinition; 3]) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(admin.clone());
    for crd in crds {
        api.patch(&crd.name_any(), &PatchParams::apply("admin").force(), &Patch::Apply(&crd)).await?;
    }
    wait_until("the CRDs to be served", PATIENCE, async || {
        Api::<ClusterEncryption>::all(admin.clone()).list(&Default::default()).await?;
        Api::<EncryptionNode>::all(admin.clone()).list(&Default::default()).await?;
        Api::<EncryptionMigration>::all(admin.clone()).list(&Default::default()).await?;
        Ok(Seen::Yes(()))
    })
    .await
}

pub(crate) async fn namespace(admin: &Client, name: &str) -> Result<()> {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
    let namespace = Namespace { metadata, ..Default::default() };
    Api::all(admin.clone()).create(&PostParams::default(), &namespace).await?;
    Ok(())
}

/// The operator's client: its own user, and only its own retries.
pub(crate) async fn operator(cluster: &Cluster) -> Result<keyward_operator::Cluster> {
    Ok(keyward_operator::Cluster::new(operator_client(cluster).await?, Duration::from_secs(10)))
}

pub(crate) async fn operator_client(cluster: &Cluster) -> Result<Client> {
    let kubeconfig = Some(cluster.kubeconfig(0, &User::Operator)?);
    Ok(keyward_operator::connect(&keyward_operator::Connection { kubeconfig, ..Default::default() }).await?)
}

/// Creates this number of Secrets in a namespace: `s-0000`, `s-0001`, …
pub(crate) async fn secrets(admin: &Client, namespace: &str, count: usize) -> Result<()> {
    let api = Api::<Secret>::namespaced(admin.clone(), namespace);
    futures::stream::iter(0..count)
        .map(|n| {
            let api = api.clone();
            async move {
                let metadata = ObjectMeta { name: Some(format!("s-{n:04}")), ..Default::default() };
                let string_data = Some(BTreeMap::from([("value".to_owned(), format!("value-{n}"))]));
                let secret = Secret { metadata, string_data, ..Default::default() };
                api.create(&PostParams::default(), &secret).await
            }
        })
        .buffer_unordered(16)
        .try_for_each(async |_| Ok(()))
        .await?;
    Ok(())
}

/// Installs a configuration in which the first of these AES-CBC keys writes Secrets and the others read, and
/// waits until the API server has loaded it. A key's bytes are derived from its number.
pub(crate) async fn write_under(cluster: &Cluster, keys: &[u8]) -> Result<()> {
    use base64::Engine as _;
    let provider = |number: &u8| {
        let secret = base64::prelude::BASE64_STANDARD.encode([*number; 32]);
        serde_json::json!({"aescbc": {"keys": [{"name": number.to_string(), "secret": secret}]}})
    };
    let mut providers: Vec<_> = keys.iter().map(provider).collect();
    providers.push(serde_json::json!({"identity": {}}));
    let config = serde_json::json!({
        "kind": "EncryptionConfiguration", "apiVersion": "apiserver.config.k8s.io/v1",
        "resources": [{"resources": ["secrets"], "providers": providers}],
    });
    let bytes = serde_json::to_vec(&config)?;
    let path = cluster.node(0)?.path(ENCRYPTION_CONFIG);
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, &bytes)?;
    std::fs::rename(&fresh, &path)?;
    let digest: String = sha2::Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    wait_until("the API server to load it", PATIENCE, async || {
        let loaded = cluster.loaded_hash(0).await?;
        Ok(Seen::when(loaded.as_deref() == Some(&format!("sha256:{digest}")), format!("{loaded:?}")))
    })
    .await
}
