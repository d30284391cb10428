//! The spec in `APIServer/cluster` (openshift: encryption-mode), and the overrides and the status in the operators' CRs
//! (openshift: overrides, openshift: encryption-status).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::{Component, Objects, PreflightStatus, PreflightVerdict, expected_nodes};
use crate::api::{
    ClusterEncryptionSpec, EncryptionNodeSpec, EncryptionNodeStatus, EncryptionSpec, HealthStatus,
    NodePlugin, PluginHealth,
};
use crate::ids::{KeyId, PluginDigest, RemoteKeyId};
use crate::platform::kubernetes;
use crate::provider::Failure;
use crate::snapshot::{AgentView, ServerView, Wanted};

/// `APIServer/cluster` as a spec of Keyward. A field of a type that OpenShift's API does not allow is ignored, because
/// the API server does not store it.
pub(super) fn spec(objects: &Objects) -> ClusterEncryptionSpec {
    let encryption = objects.api_server.as_ref().and_then(|object| object.pointer("/spec/encryption"));
    let field = |name: &str| encryption.and_then(|encryption| encryption.get(name));
    ClusterEncryptionSpec {
        encryption: EncryptionSpec {
            type_: field("type").and_then(Value::as_str).map(ToOwned::to_owned),
            kms: field("kms").filter(|kms| kms.is_object()).cloned(),
        },
        ..Default::default()
    }
}

/// The request of the admin for this component.
pub(super) fn wanted(objects: &Objects, component: &Component) -> Wanted {
    let overrides = |pointer: &str| text(objects, component, &format!("{}{pointer}", component.overrides));
    let mut spec = spec(objects);
    spec.resources = Some(component.resources.iter().map(|name| (*name).to_owned()).collect());
    spec.plugins.timeout = overrides("/encryption/kms/timeout");
    spec.reencrypt = overrides("/encryption/reason");
    let wanted = kubernetes::read(&spec);
    // The path of the field on this platform.
    let field =
        format!("{}/encryption/kms/timeout", component.overrides).trim_start_matches('/').replace('/', ".");
    let mistakes =
        wanted.mistakes.iter().map(|mistake| mistake.replace("spec.plugins.timeout", &field)).collect();
    Wanted {
        // Pods that are gone have no write in flight: when a revision has converged, no older process serves.
        request_timeout: Duration::ZERO,
        mistakes,
        ..wanted
    }
}

fn cr<'o>(objects: &'o Objects, component: &Component) -> Option<&'o Value> {
    objects.operators.get(component.operator)
}

fn text(objects: &Objects, component: &Component, pointer: &str) -> Option<String> {
    cr(objects, component)?.pointer(pointer)?.as_str().map(ToOwned::to_owned)
}

/// The `managementState` if it is not `Managed` (openshift: controllers-run-when-managed).
pub(super) fn unmanaged(objects: &Objects, component: &Component) -> Option<String> {
    text(objects, component, "/spec/managementState").filter(|state| !state.is_empty() && state != "Managed")
}

/// `status.nodeStatuses[].nodeName`.
pub(super) fn node_statuses(objects: &Objects, component: &Component) -> BTreeSet<String> {
    let statuses = cr(objects, component).and_then(|cr| cr.pointer("/status/nodeStatuses")?.as_array());
    let name = |status: &Value| status.get("nodeName")?.as_str().map(ToOwned::to_owned);
    statuses.into_iter().flatten().filter_map(name).collect()
}

/// `preflight` of the encryption status.
pub(super) fn preflight(objects: &Objects, component: &Component) -> PreflightStatus {
    let field = |path: &str| text(objects, component, &format!("{}/preflight/{path}", component.status));
    let result = field("result/status").zip(field("result/configHash")).map(|(status, config_hash)| {
        PreflightVerdict {
            succeeded: status == "Succeeded",
            config_hash,
            remote_key_id: field("result/remoteKeyID").map(RemoteKeyId),
        }
    });
    PreflightStatus { observed: field("observedConfigHash"), result }
}

/// One health report.
pub(super) struct Report {
    pub(super) node: String,
    pub(super) plugin: NodePlugin,
}

/// The nodes that host the API server, with the health reports of their plugins.
pub(super) struct Servers {
    /// The hosts, by node. A host without reports has no plugins: nothing was observed there yet.
    pub(super) hosts: BTreeMap<String, ServerView>,
    /// Reports of other nodes, which have left: the reported keys, by node.
    pub(super) orphans: BTreeMap<String, BTreeSet<KeyId>>,
}

/// The health reports. A report whose `keyID` is not a number is ignored.
pub(super) fn reports(objects: &Objects, component: &Component) -> Vec<Report> {
    let path = format!("{}/healthReports", component.status);
    let reports = cr(objects, component).and_then(|cr| cr.pointer(&path)?.as_array());
    reports.into_iter().flatten().filter_map(report).collect()
}

fn report(report: &Value) -> Option<Report> {
    let field = |name: &str| report.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let key_id = field("keyID")?.parse().ok()?;
    let status = match field("status").as_deref() {
        Some("Healthy") => HealthStatus::Healthy,
        Some("Unhealthy") => HealthStatus::Unhealthy,
        _ => HealthStatus::Error,
    };
    let plugin = NodePlugin {
        key_id,
        // The report does not contain the digest. The revision of the pod identifies the data of the plugin.
        digest: PluginDigest(String::new()),
        ready: status == HealthStatus::Healthy,
        health: PluginHealth {
            status,
            remote_key_id: RemoteKeyId(field("remoteKeyID").unwrap_or_else(|| "unknown".to_owned())),
            last_checked_time: field("lastCheckedTime").unwrap_or_default(),
            // A reporter calls only Status, and reports only the message.
            failure: field("detail").filter(|_| status != HealthStatus::Healthy).map(|message| Failure {
                phase: "status".to_owned(),
                message,
                ..Default::default()
            }),
            detail: field("detail"),
        },
        repairs: 0,
    };
    Some(Report { node: field("nodeName")?, plugin })
}

/// The nodes that host the API server, with their reports. If no host is known, every report counts, because it is not
/// known which nodes have left.
pub(super) fn servers(objects: &Objects, component: &Component) -> Servers {
    let expected = expected_nodes(objects, component);
    let server = |name: &str| ServerView {
        name: name.to_owned(),
        is_node: true,
        lacks_label: false,
        has_lease: false,
        agent: Some(AgentView {
            spec: EncryptionNodeSpec::default(),
            status: Some(EncryptionNodeStatus::default()),
            resource_version: String::new(),
        }),
    };
    let mut hosts: BTreeMap<String, ServerView> =
        expected.iter().map(|name| (name.clone(), server(name))).collect();
    let mut orphans: BTreeMap<String, BTreeSet<KeyId>> = BTreeMap::new();
    for Report { node, plugin } in reports(objects, component) {
        if !expected.is_empty() && !expected.contains(&node) {
            orphans.entry(node).or_default().insert(plugin.key_id);
            continue;
        }
        let host = hosts.entry(node.clone()).or_insert_with(|| server(&node));
        if let Some(status) = host.agent.as_mut().and_then(|agent| agent.status.as_mut()) {
            status.plugins.push(plugin);
        }
    }
    Servers { hosts, orphans }
}
