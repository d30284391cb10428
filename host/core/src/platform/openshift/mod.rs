//! OpenShift: several components, and revisions that OpenShift's operators roll out and that are observed from pods.
//!
//! Pure, like all of [`platform`](super): it builds the [`Snapshot`] from the objects of docs/reference/openshift.md.
//! This platform does not store high-water marks, targets of nodes and Keyward's own revisions, so no decision writes
//! them.

mod config;
mod deployer;
mod migrations;
mod operator;

pub use deployer::{PodsVerdict, verdict};

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use serde_json::Value;

use super::numbers::{self, Mark, Numbers};
use super::{Given, Needed, Results, Unreadable, keys, named, needed};
use crate::formats::FormatError;
use crate::formats::key_secret::KeySecret;
use crate::formats::revision::RevisionContent;
use crate::ids::{KeyId, RemoteKeyId, Revision};
use crate::names;
use crate::snapshot::{Platform, ServerView, Snapshot, StoredRevision};

/// One API server whose resources are encrypted together (openshift: components).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Name of the component, and of its namespace.
    pub name: &'static str,
    /// The resources that are encrypted. The spec does not change them.
    pub resources: &'static [&'static str],
    /// Kind of the CR `cluster` of its operator.
    pub operator: &'static str,
    /// Path of the encryption status in that CR.
    pub status: &'static str,
    /// Path of its overrides in that CR (openshift: overrides).
    overrides: &'static str,
    /// Source of the nodes on which it runs.
    nodes: NodesFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodesFrom {
    /// The static pod operator's `status.nodeStatuses`.
    NodeStatuses,
    /// The node selector of Deployment `apiserver`.
    Deployment,
}

/// The components (openshift: components).
pub const COMPONENTS: [Component; 3] = [
    Component {
        name: "openshift-kube-apiserver",
        resources: &["configmaps", "secrets"],
        operator: "KubeAPIServer",
        status: "/status/encryptionStatus",
        overrides: "/spec/unsupportedConfigOverrides",
        nodes: NodesFrom::NodeStatuses,
    },
    Component {
        name: "openshift-apiserver",
        resources: &["routes.route.openshift.io"],
        operator: "OpenShiftAPIServer",
        status: "/status/encryptionStatus",
        overrides: "/spec/unsupportedConfigOverrides",
        nodes: NodesFrom::Deployment,
    },
    Component {
        name: "openshift-oauth-apiserver",
        resources: &["oauthaccesstokens.oauth.openshift.io", "oauthauthorizetokens.oauth.openshift.io"],
        operator: "Authentication",
        status: "/status/oauthAPIServer/encryptionStatus",
        overrides: "/spec/unsupportedConfigOverrides/oauthAPIServer",
        nodes: NodesFrom::Deployment,
    },
];

impl Component {
    /// The component with this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        COMPONENTS.iter().find(|component| component.name == name)
    }

    /// Whether the component encrypts this resource.
    pub fn encrypts(&self, resource: &str) -> bool {
        self.resources.contains(&resource)
    }

    /// Whether any of these objects belongs to the component.
    pub fn is_in(&self, objects: &Objects) -> bool {
        let in_target = |namespace: &Option<String>| namespace.as_deref() == Some(self.name);
        objects.operators.contains_key(self.operator)
            || objects.pods.iter().any(|pod| in_target(&pod.metadata.namespace))
            || objects.secrets.iter().any(|secret| in_target(&secret.metadata.namespace))
            || keys::of(&objects.secrets, names::MANAGED_NAMESPACE, self.name).next().is_some()
    }
}

/// The kind of an operator's CR, by `apiVersion/kind`; `None` if it belongs to no component.
pub fn operator_kind(full: &str) -> Option<&'static str> {
    let kind = full.strip_prefix("operator.openshift.io/v1/")?;
    COMPONENTS.iter().map(|component| component.operator).find(|operator| *operator == kind)
}

/// The objects that the decisions for all components depend on, as read.
#[derive(Clone, Default)]
pub struct Objects {
    /// `APIServer/cluster` (`config.openshift.io/v1`).
    pub api_server: Option<Value>,
    /// The operators' CRs `cluster` (`operator.openshift.io/v1`), by kind.
    pub operators: BTreeMap<String, Value>,
    /// Secrets of `openshift-config-managed` and of the namespaces of the components.
    pub secrets: Vec<Secret>,
    /// Pods of the namespaces of the components.
    pub pods: Vec<Pod>,
    /// All Nodes, with their labels.
    pub nodes: Vec<Node>,
    /// Deployments `apiserver` in the namespaces of the components.
    pub deployments: Vec<Deployment>,
    /// `StorageVersionMigration`s (`migration.k8s.io/v1alpha1`).
    pub migrations: Vec<Value>,
    /// Reads that failed.
    pub unreadable: Vec<Unreadable>,
}

/// Only counts, because a Secret prints its data.
impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects")
            .field("secrets", &self.secrets.len())
            .field("pods", &self.pods.len())
            .field("unreadable", &self.unreadable)
            .finish_non_exhaustive()
    }
}

/// The results that are missing before [`snapshot`] can be built. The caller repeats this until nothing is missing.
pub fn needed(objects: &Objects, component: &Component, results: &Results) -> Needed {
    let (keys, _) = keys::decode(keys::of(&objects.secrets, names::MANAGED_NAMESPACE, component.name));
    let servers = operator::servers(objects, component);
    let failures = servers.hosts.values().filter_map(ServerView::status).flat_map(needed::reported_failures);
    needed::needed(operator::wanted(objects, component).kms.as_ref(), &keys, None, failures, results)
}

/// The part of a snapshot that only this platform has.
#[derive(Clone, Debug)]
pub struct OpenShift {
    /// The state of the pods of the component.
    pub pods: PodsVerdict,
    /// The Secret `encryption-config-{component}`: the desired configuration that was written last.
    pub managed: Option<ManagedConfig>,
    /// `status.encryptionStatus.preflight`.
    pub preflight: PreflightStatus,
    /// Health reports of nodes that host no API server of this component: the reported keys, by node.
    pub orphans: BTreeMap<String, BTreeSet<KeyId>>,
}

/// The desired configuration as stored.
#[derive(Clone, Debug)]
pub struct ManagedConfig {
    /// The configuration; `Ok(None)` if the Secret contains none.
    pub content: Result<Option<RevisionContent>, FormatError>,
    /// The resourceVersion as read.
    pub resource_version: String,
}

/// `preflight` of the encryption status (openshift: encryption-status).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreflightStatus {
    /// `observedConfigHash`: the hash for which a preflight is requested.
    pub observed: Option<String>,
    /// The result, which may be about an earlier hash.
    pub result: Option<PreflightVerdict>,
}

/// The result of a preflight pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightVerdict {
    /// Whether the status is `Succeeded`.
    pub succeeded: bool,
    /// The hash that the result is about.
    pub config_hash: String,
    /// The remote key id that the candidate reports.
    pub remote_key_id: Option<RemoteKeyId>,
}

impl PreflightStatus {
    /// The result for this configuration.
    pub fn answer(&self, hash: &str) -> Option<&PreflightVerdict> {
        self.result.as_ref().filter(|result| result.config_hash == hash)
    }
}

/// The snapshot of one component. `None` if there is no `APIServer/cluster`.
pub fn snapshot(
    objects: &Objects,
    component: &Component,
    results: &Results,
    given: Given,
) -> Option<Snapshot> {
    let api_server = objects.api_server.as_ref()?;
    let (keys, undecodable) =
        keys::decode(keys::of(&objects.secrets, names::MANAGED_NAMESPACE, component.name));
    let revisions = config::revisions(objects, component);
    let managed = config::managed(objects, component);
    let pods = deployer::of(objects, component);
    let (migrations, failed_for) = migrations::of(objects, component, &keys, given.now);

    let servers = operator::servers(objects, component);
    let numbers = count(objects, component, &keys, &undecodable, &revisions, managed.as_ref());
    let running = if let PodsVerdict::Converged { revision } = pods { revision } else { Revision(0) };
    let highest_revision = revisions.keys().copied().chain([running]).max().unwrap_or_default();
    let mut ages = given.ages;
    ages.extend(failed_for);

    Some(Snapshot {
        component: component.name.to_owned(),
        namespace: names::MANAGED_NAMESPACE.to_owned(),
        referenced_namespace: names::CONFIG_NAMESPACE.to_owned(),
        generation: api_server.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
        wanted: operator::wanted(objects, component),
        keys,
        undecodable,
        revisions,
        highest_key: KeyId(numbers.highest),
        named_key: KeyId(numbers.named),
        excess_keys: numbers.beyond().into_iter().map(KeyId).collect(),
        recorded_key: KeyId(numbers.highest),
        highest_revision,
        excess_revisions: BTreeSet::new(),
        excess: numbers.excess,
        recorded_revision: highest_revision,
        retry_key: None,
        recorded_revisions: Vec::new(),
        recorded_keys: Vec::new(),
        recorded_forget: Vec::new(),
        last_converged: running,
        servers: servers.hosts,
        candidate: None,
        candidate_version: None,
        migrations,
        compacted: BTreeSet::new(),
        history_trouble: BTreeMap::new(),
        leases: BTreeMap::new(),
        evaluations: results.evaluations.clone(),
        objects: results.objects.clone(),
        expiries: results.expiries.clone(),
        diagnoses: results.diagnoses.clone(),
        unreadable: objects.unreadable.clone(),
        now: given.now,
        ages,
        fresh: given.fresh,
        platform: Platform::OpenShift(Box::new(OpenShift {
            pods,
            managed,
            preflight: operator::preflight(objects, component),
            orphans: servers.orphans,
        })),
    })
}

/// Counts the numbers of keys. This platform stores no mark; every object that names a number counts. A health report
/// counts only as a mark of its node, because any container of an API server's pod can write one.
fn count(
    objects: &Objects,
    component: &Component,
    keys: &[KeySecret],
    undecodable: &BTreeMap<String, FormatError>,
    revisions: &BTreeMap<Revision, StoredRevision>,
    managed: Option<&ManagedConfig>,
) -> Numbers {
    let written = managed.and_then(|managed| managed.content.as_ref().ok()?.as_ref());
    let named = keys
        .iter()
        .map(|key| key.id)
        .chain(undecodable.keys().filter_map(|name| KeyId::from_name(name)))
        .chain(named::of_contents(revisions.values()))
        .chain(written.map(named::of_content).unwrap_or_default())
        .chain(config::undecodable(objects, component))
        .chain(migrations::write_keys(objects, component));
    let reports = operator::reports(objects, component);
    let marks: Vec<Mark<'_>> = reports
        .iter()
        .map(|report| Mark {
            node: Some(&report.node),
            field: "encryptionStatus.healthReports[].keyID",
            number: report.plugin.key_id.0,
            remedy: "Remove that report from the operator's status, and find out which plugin wrote it",
        })
        .collect();
    numbers::count(named.map(|id| id.0), marks)
}

/// The nodes that must host a ready pod, sorted (openshift: expected-nodes).
fn expected_nodes(objects: &Objects, component: &Component) -> BTreeSet<String> {
    match component.nodes {
        NodesFrom::NodeStatuses => operator::node_statuses(objects, component),
        NodesFrom::Deployment => {
            // A missing Deployment runs on no node.
            let deployment = objects.deployments.iter().find(|deployment| {
                deployment.metadata.namespace.as_deref() == Some(component.name)
                    && deployment.metadata.name.as_deref() == Some("apiserver")
            });
            let Some(deployment) = deployment else { return BTreeSet::new() };
            let selector = deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.template.spec.as_ref()?.node_selector.clone())
                .unwrap_or_default();
            let matches = |node: &&Node| {
                let labels = node.metadata.labels.as_ref();
                selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
            };
            objects.nodes.iter().filter(matches).filter_map(|node| node.metadata.name.clone()).collect()
        }
    }
}
