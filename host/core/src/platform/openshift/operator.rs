//! What is wanted, and what is told: `APIServer/cluster` and the operators' CRs (CONTRACT 1.1, 3.1, 3.10).

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

/// `APIServer/cluster` in the shape of a spec of ours. What has another type than OpenShift's API allows is left out:
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

/// What the admin wants of this component.
pub(super) fn wanted(objects: &Objects, component: &Component) -> Wanted {
    let overrides = |pointer: &str| text(objects, component, &format!("{}{pointer}", component.overrides));
    let mut spec = spec(objects);
    spec.resources = Some(component.resources.iter().map(|name| (*name).to_owned()).collect());
    spec.plugins.timeout = overrides("/encryption/kms/timeout");
    spec.reencrypt = overrides("/encryption/reason");
    let wanted = kubernetes::read(&spec);
    // Where the admin wrote it here.
    let field =
        format!("{}/encryption/kms/timeout", component.overrides).trim_start_matches('/').replace('/', ".");
    let mistakes =
        wanted.mistakes.iter().map(|mistake| mistake.replace("spec.plugins.timeout", &field)).collect();
    Wanted {
        // A pod that is gone has no write under way: a converged revision is one that no older process serves beside.
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

/// The `managementState` where it is not `Managed` (CONTRACT 3).
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

/// What hosts the API server's pods, with what is reported of the plugins there.
pub(super) struct Servers {
    /// By node. One of which nothing is reported has no plugins: nothing was observed there yet.
    pub(super) hosts: BTreeMap<String, ServerView>,
    /// Reports of other nodes, which have left: by node, which keys they speak of.
    pub(super) orphans: BTreeMap<String, BTreeSet<KeyId>>,
}

/// The health reports. One that names no key of this platform's is about none.
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
        // Which bytes run is not reported here: the pod's revision stands for it.
        digest: PluginDigest(String::new()),
        ready: status == HealthStatus::Healthy,
        health: PluginHealth {
            status,
            remote_key_id: RemoteKeyId(field("remoteKeyID").unwrap_or_else(|| "unknown".to_owned())),
            last_checked_time: field("lastCheckedTime").unwrap_or_default(),
            // All that a reporter asks for is Status, and all that it reports is the message.
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

/// The nodes that host the API server, with their reports. Where no host is known, every report counts: whose node has left
/// is not known then.
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
