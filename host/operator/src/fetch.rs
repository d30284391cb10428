//! Reads live everything that one decision is made from: watches only start a reconcile pass (decision 0017).
//!
//! An object that cannot be read is named in [`Objects::unreadable`], and nothing is decided from its absence
//! (invariant: unknown-is-not-absent). Secret values go from here into [`Objects`] and [`ReferencedObject`]s, and
//! nowhere else.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use kube_core::Resource;

use keyward_core::SecretBytes;
use keyward_core::api::{ClusterEncryption, ClusterEncryptionSpec, EncryptionMigration, EncryptionNode};
use keyward_core::ids::GroupResource;
use keyward_core::names;
use keyward_core::platform::kubernetes::{self, DEFAULT_RESOURCES};
use keyward_core::platform::{Expiry, ObjectRef, Objects, ReferencedObject, Serving, Unreadable};
use keyward_core::provider::ReferenceKind;

use crate::cluster::{CallError, Category, Cluster, Meta, Pager, Scope, Step};
use crate::error::Error;
use crate::expiry;
use crate::migrator::discovery;
use crate::rights::{self, Account};

/// How names of Keyward's own Secrets begin; other Secrets in the namespace are the admin's, and are read only if a
/// configuration refers to them.
const OURS: [&str; 4] =
    ["encryption-key-", "encryption-config-", "encryption-preflight", "encryption-foreign-"];
/// How many of Keyward's own Secrets can be undecodable before the whole list counts as unreadable: while the KMS does
/// not answer, each costs seconds.
const FEW: usize = 8;

pub(crate) use keyward_core::names::CONTROL_PLANE;
pub(crate) const IDENTITY_LEASES: &str = "apiserver.kubernetes.io/identity=kube-apiserver";
pub(crate) const KUBE_SYSTEM: &str = "kube-system";

/// Everything but referenced objects, which are read once the evaluations name them. Without an account no permissions
/// are checked.
pub(crate) async fn objects(cluster: &Cluster, account: Option<Account>) -> Result<Objects, Error> {
    let (cluster_encryption, encryption_nodes, migrations, secrets, nodes, leases) = tokio::join!(
        cluster.get::<ClusterEncryption>(None, names::CLUSTER),
        cluster.list::<EncryptionNode>(None, None),
        cluster.list::<EncryptionMigration>(None, None),
        secrets(cluster),
        nodes(cluster, Selector::Label(CONTROL_PLANE)),
        cluster.list::<Lease>(Some(KUBE_SYSTEM), Some(IDENTITY_LEASES)),
    );
    let mut unreadable = Vec::new();
    let (secrets, failed) = secrets;
    unreadable.extend(failed);
    let cluster_encryption = served::<ClusterEncryption, _>(cluster_encryption)?;
    let serving = match &cluster_encryption {
        Some(found) => serving(cluster, &found.spec, &secrets, account).await,
        None => BTreeMap::new(),
    };
    let encryption_nodes = served::<EncryptionNode, _>(encryption_nodes)?;
    let nodes = match nodes {
        Ok(nodes) => with_unlabelled(cluster, nodes, &encryption_nodes).await,
        Err(error) => Err(error),
    };
    Ok(Objects {
        cluster_encryption,
        serving,
        encryption_nodes,
        migrations: served::<EncryptionMigration, _>(migrations)?,
        secrets,
        nodes: noted(nodes, "control-plane nodes", &mut unreadable),
        leases: noted(leases, "identity Leases of API servers in kube-system", &mut unreadable),
        unreadable,
    })
}

/// Whether the resources that a spec adds can be encrypted. Secrets and ConfigMaps are always served.
pub(crate) async fn serving(
    cluster: &Cluster,
    spec: &ClusterEncryptionSpec,
    secrets: &[Secret],
    account: Option<Account>,
) -> BTreeMap<GroupResource, Serving> {
    let asked = kubernetes::added(spec, secrets).into_iter().map(|resource| async move {
        let is_default = DEFAULT_RESOURCES.contains(&resource.to_string().as_str());
        let served = if is_default { Serving::Itself } else { discovery::serving(cluster, &resource).await };
        let serving = match (served, account) {
            (Serving::Itself, Some(account)) => rights::of(cluster, account, &resource).await,
            (served, _) => served,
        };
        (resource, serving)
    });
    futures::future::join_all(asked).await.into_iter().collect()
}

/// Referenced objects as they were read, and when they expire.
#[derive(Default)]
pub struct References {
    pub(crate) objects: BTreeMap<ObjectRef, ReferencedObject>,
    pub(crate) expiries: BTreeMap<ObjectRef, Vec<Expiry>>,
}

/// Reads referenced objects, each with its own request.
pub(crate) async fn references(
    cluster: &Cluster,
    objects: impl IntoIterator<Item = ObjectRef>,
) -> References {
    let read = objects.into_iter().map(|object| async move {
        let found = referenced(cluster, &object).await;
        (object, found)
    });
    let mut references = References::default();
    for (object, found) in futures::future::join_all(read).await {
        let data = match found {
            Ok(Some((data, annotations))) => {
                let expiries = expiry::of(&data, expiry::annotation(annotations.as_ref()));
                references.expiries.insert(object.clone(), expiries);
                Ok(Some(data))
            }
            Ok(None) => Ok(None),
            Err(error) => Err(error.to_string()),
        };
        references.objects.insert(object, data);
    }
    references
}

/// Data and annotations.
type Found = (BTreeMap<String, SecretBytes>, Option<BTreeMap<String, String>>);

async fn referenced(cluster: &Cluster, object: &ObjectRef) -> Result<Option<Found>, CallError> {
    let namespace = Some(names::NAMESPACE);
    Ok(match object.kind {
        ReferenceKind::Secret => cluster.get::<Secret>(namespace, &object.name).await?.map(|mut secret| {
            let annotations = secret.metadata.annotations.take();
            (secret_data(secret), annotations)
        }),
        ReferenceKind::ConfigMap => {
            cluster.get::<ConfigMap>(namespace, &object.name).await?.map(|mut map| {
                let annotations = map.metadata.annotations.take();
                (config_map_data(map), annotations)
            })
        }
    })
}

/// Makes the error name the remedy if the API server does not serve the kind.
fn served<K: Resource<DynamicType = ()>, T>(result: Result<T, CallError>) -> Result<T, Error> {
    result.map_err(|error| match error.category() {
        Category::NotServed => Error::CrdsMissing(format!("{} of {}", K::plural(&()), K::api_version(&()))),
        _ => Error::Call(error),
    })
}

fn noted<T>(result: Result<Vec<T>, CallError>, what: &str, unreadable: &mut Vec<Unreadable>) -> Vec<T> {
    result.unwrap_or_else(|error| {
        unreadable.push(Unreadable { what: what.to_owned(), why: error.to_string() });
        Vec::new()
    })
}

/// Keyward's own Secrets. One that cannot be decrypted is named, and the list continues behind it.
pub(crate) async fn secrets(cluster: &Cluster) -> (Vec<Secret>, Vec<Unreadable>) {
    let path = Secret::url_path(&(), Some(names::NAMESPACE));
    let mut pager: Pager<Secret> = Pager::of(path, "secrets in keyward-system", Scope::Namespace);
    let (mut found, mut unreadable) = (Vec::new(), Vec::new());
    let whole = |why: String| vec![Unreadable { what: "secrets in keyward-system".to_owned(), why }];
    loop {
        match pager.next(cluster).await {
            Ok(Step::Page(page)) => found.extend(page.items.into_iter().filter(is_ours)),
            Ok(Step::Undecodable(bad)) => {
                let name = bad.name.rsplit('/').next().unwrap_or_default();
                if OURS.iter().any(|prefix| name.starts_with(prefix)) {
                    unreadable.push(Unreadable {
                        what: format!("secret {}", bad.name),
                        why: bad.error.cause.to_string(),
                    });
                }
                if unreadable.len() > FEW {
                    return (Vec::new(), whole(bad.error.cause.to_string()));
                }
            }
            Ok(Step::End) => return (found, unreadable),
            Err(error) => return (Vec::new(), whole(error.to_string())),
        }
    }
}

fn is_ours(secret: &Secret) -> bool {
    secret.metadata.name.as_ref().is_some_and(|name| OURS.iter().any(|prefix| name.starts_with(prefix)))
}

/// Control-plane Nodes, and Nodes of an EncryptionNode without the control-plane label: without the label a Node still
/// exists.
async fn with_unlabelled(
    cluster: &Cluster,
    mut labelled: Vec<Node>,
    encryption_nodes: &[EncryptionNode],
) -> Result<Vec<Node>, CallError> {
    let is_known = |name: &&str| labelled.iter().any(|node| node.metadata.name.as_deref() == Some(*name));
    let names = encryption_nodes.iter().filter_map(|node| node.metadata.name.as_deref());
    let asked = names.filter(|name| !is_known(name)).map(|name| nodes(cluster, Selector::Name(name)));
    let found = futures::future::try_join_all(asked).await?;
    labelled.extend(found.into_iter().flatten());
    Ok(labelled)
}

enum Selector<'a> {
    Label(&'a str),
    Name(&'a str),
}

/// Nodes, metadata only.
async fn nodes(cluster: &Cluster, selector: Selector<'_>) -> Result<Vec<Node>, CallError> {
    let path = Node::url_path(&(), None);
    let pager: Pager<Meta> = Pager::of(path, "nodes", Scope::Cluster).metadata_only();
    let mut pager = match selector {
        Selector::Label(label) => pager.labels(Some(label)),
        Selector::Name(name) => pager.named(name),
    };
    let mut all = Vec::new();
    loop {
        match pager.next(cluster).await? {
            Step::Page(page) => all.extend(page.items),
            Step::Undecodable(bad) => return Err(bad.error),
            Step::End => break,
        }
    }
    Ok(all.into_iter().map(|node| Node { metadata: node.metadata, ..Default::default() }).collect())
}

fn secret_data(secret: Secret) -> BTreeMap<String, SecretBytes> {
    secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, SecretBytes::new(value.0))).collect()
}

fn config_map_data(map: ConfigMap) -> BTreeMap<String, SecretBytes> {
    let text = map.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
    let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
    text.chain(binary).map(|(key, value)| (key, SecretBytes::new(value))).collect()
}
