//! OpenShift: one operand a component, revisions rolled out by OpenShift's own controllers, observed by pods.
//!
//! Pure, as all of [`platform`](super): the objects of CONTRACT section 1 → [`Snapshot`]. Where this platform stores
//! nothing (high-water marks, nodes' targets, revisions of our own) nothing is decided to be stored.

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

/// One API server whose resources are encrypted together (CONTRACT 1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component {
    /// Also its target namespace.
    pub name: &'static str,
    /// What of it is encrypted, whatever the spec says.
    pub resources: &'static [&'static str],
    /// The kind of its operator's CR `cluster`.
    pub operator: &'static str,
    /// Where in that CR the encryption status is.
    pub status: &'static str,
    /// Where in the CR's overrides its own begin.
    overrides: &'static str,
    /// What says on which nodes it runs.
    nodes: NodesFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodesFrom {
    /// The static pod operator's `status.nodeStatuses`.
    NodeStatuses,
    /// The node selector of Deployment `apiserver`.
    Deployment,
}

/// CONTRACT 1.1.
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
    /// The component of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        COMPONENTS.iter().find(|component| component.name == name)
    }

    /// Whether it encrypts this resource.
    pub fn encrypts(&self, resource: &str) -> bool {
        self.resources.contains(&resource)
    }

    /// Whether there is anything of it among these objects.
    pub fn is_in(&self, objects: &Objects) -> bool {
        let in_target = |namespace: &Option<String>| namespace.as_deref() == Some(self.name);
        objects.operators.contains_key(self.operator)
            || objects.pods.iter().any(|pod| in_target(&pod.metadata.namespace))
            || objects.secrets.iter().any(|secret| in_target(&secret.metadata.namespace))
            || keys::of(&objects.secrets, names::MANAGED_NAMESPACE, self.name).next().is_some()
    }
}

/// The kind of an operator's CR by `apiVersion/kind`, where it is one of [`COMPONENTS`]'.
pub fn operator_kind(full: &str) -> Option<&'static str> {
    let kind = full.strip_prefix("operator.openshift.io/v1/")?;
    COMPONENTS.iter().map(|component| component.operator).find(|operator| *operator == kind)
}

/// All that the decisions of all components look at, as read.
#[derive(Clone, Default)]
pub struct Objects {
    /// `APIServer/cluster` (`config.openshift.io/v1`).
    pub api_server: Option<Value>,
    /// The operators' CRs `cluster` (`operator.openshift.io/v1`), by kind.
    pub operators: BTreeMap<String, Value>,
    /// Those of `openshift-config-managed` and of the target namespaces.
    pub secrets: Vec<Secret>,
    /// Those of the target namespaces.
    pub pods: Vec<Pod>,
    /// All, with their labels.
    pub nodes: Vec<Node>,
    /// Those named `apiserver` in the target namespaces.
    pub deployments: Vec<Deployment>,
    /// `StorageVersionMigration`s (`migration.k8s.io/v1alpha1`).
    pub migrations: Vec<Value>,
    /// What could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// Counts alone: Secrets print their data.
impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects")
            .field("secrets", &self.secrets.len())
            .field("pods", &self.pods.len())
            .field("unreadable", &self.unreadable)
            .finish_non_exhaustive()
    }
}

/// What is still wanted before [`snapshot`] can be made; ask until it wants nothing.
pub fn needed(objects: &Objects, component: &Component, results: &Results) -> Needed {
    let (keys, _) = keys::decode(keys::of(&objects.secrets, names::MANAGED_NAMESPACE, component.name));
    let servers = operator::servers(objects, component);
    let failures = servers.hosts.values().filter_map(ServerView::status).flat_map(needed::unwell);
    needed::needed(operator::wanted(objects, component).kms.as_ref(), &keys, None, failures, results)
}

/// What a snapshot holds on this platform alone.
#[derive(Clone, Debug)]
pub struct OpenShift {
    /// What the operand's pods say.
    pub pods: PodsVerdict,
    /// The Secret `encryption-config-{component}`: the desired configuration as it was last written.
    pub managed: Option<ManagedConfig>,
    /// `status.encryptionStatus.preflight`.
    pub preflight: PreflightStatus,
    /// Health reports of nodes that host no API server of this component: by node, which keys they speak of.
    pub orphans: BTreeMap<String, BTreeSet<KeyId>>,
}

/// The desired configuration as stored.
#[derive(Clone, Debug)]
pub struct ManagedConfig {
    /// `Ok(None)` where the Secret has no configuration in it.
    pub content: Result<Option<RevisionContent>, FormatError>,
    /// As read.
    pub resource_version: String,
}

/// CONTRACT 3.10.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PreflightStatus {
    /// `observedConfigHash`: what is asked for.
    pub observed: Option<String>,
    /// The answer, which may be about an earlier hash.
    pub result: Option<PreflightVerdict>,
}

/// The answer of a preflight pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightVerdict {
    /// `Succeeded`, not `Failed`.
    pub succeeded: bool,
    /// What it is about.
    pub config_hash: String,
    /// What the candidate calls its KEK.
    pub remote_key_id: Option<RemoteKeyId>,
}

impl PreflightStatus {
    /// The answer about this configuration.
    pub fn answer(&self, hash: &str) -> Option<&PreflightVerdict> {
        self.result.as_ref().filter(|result| result.config_hash == hash)
    }
}

/// The snapshot of one component. `None` where there is no `APIServer/cluster`.
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
        unbelieved_keys: numbers.beyond().into_iter().map(KeyId).collect(),
        recorded_key: KeyId(numbers.highest),
        highest_revision,
        unbelieved_revisions: BTreeSet::new(),
        excess: numbers.excess,
        recorded_revision: highest_revision,
        retry_key: None,
        told_revisions: Vec::new(),
        told_keys: Vec::new(),
        told_forget: Vec::new(),
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

/// No mark is stored on this platform; every object that names a number counts. A health report is not such an object,
/// since any container of an API server's pod may write one: it counts as a mark of its node.
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
            remedy: "Remove that report from the operator's status, and see which plugin wrote it",
        })
        .collect();
    numbers::count(named.map(|id| id.0), marks)
}

/// The nodes that must host a good pod (CONTRACT 2.2), sorted.
fn expected_nodes(objects: &Objects, component: &Component) -> BTreeSet<String> {
    match component.nodes {
        NodesFrom::NodeStatuses => operator::node_statuses(objects, component),
        NodesFrom::Deployment => {
            // A Deployment that is missing runs nowhere.
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
