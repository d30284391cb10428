//! The health reporter: a sidecar of an API server on OpenShift. It calls Status of every KMS plugin beside
//! that API server, and writes all reports at once to the operator resource (openshift: health-reporter,
//! openshift: encryption-status).
//!
//! In this module: the loop and the write. [`entry`] converts an answer to a report. The reporter calls
//! Status only. Full probes are the node agent's, which has the key checks. Unlike OpenShift's reporter, its
//! reports always satisfy the CRD (openshift: reports-are-always-valid), so an unhealthy plugin is reported
//! and does not hide the reports of the others.

mod entry;
mod socket;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use keyward_core::ids::hex;
use keyward_core::platform::openshift::Component;
use keyward_kms::{ProbeSpec, probe};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use socket::{KmsSocket, NotASocket};

use crate::watch::jittered;

/// The settings of a reporter, which its command line chooses.
#[derive(Clone, Debug)]
pub struct ReporterSettings {
    /// The plugins, each once.
    pub sockets: Vec<KmsSocket>,
    /// From the start of one round to the next. Up to a tenth is added.
    pub interval: Duration,
    /// Limit of the Status call of one plugin, with connecting.
    pub read_timeout: Duration,
    /// Limit of the write.
    pub write_timeout: Duration,
    /// The node in the reports.
    pub node_name: String,
    /// The API server whose operator resource gets the reports.
    pub component: &'static Component,
}

/// One node's reporter for one API server.
pub struct Reporter {
    settings: ReporterSettings,
    api: Api<DynamicObject>,
    resource: ApiResource,
    manager: String,
    /// The last remote key id of each plugin.
    known: BTreeMap<String, String>,
    /// The error that the last write logged. Each error is logged once.
    logged: Option<String>,
}

/// The resource of an OpenShift operator. The plural of `KubeAPIServer` is `kubeapiservers`.
fn resource(component: &Component) -> ApiResource {
    let (group, version, kind) = ("operator.openshift.io", "v1", component.operator);
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: format!("{}s", kind.to_lowercase()),
    }
}

impl Reporter {
    /// It makes no call.
    pub fn new(settings: ReporterSettings, client: Client) -> Self {
        let resource = resource(settings.component);
        Self {
            api: Api::all_with(client, &resource),
            resource,
            // One for each node: each manager owns only the reports of its node.
            manager: format!("kms-health-reporter-{}", hex(&Sha256::digest(&settings.node_name))),
            known: BTreeMap::new(),
            logged: None,
            settings,
        }
    }

    /// Runs rounds until `stop` is cancelled. A failed write is not repeated: the next round reports the
    /// current state.
    pub async fn run(mut self, stop: CancellationToken) {
        tracing::info!(
            node = self.settings.node_name,
            plugins = self.settings.sockets.len(),
            "health reporter started"
        );
        loop {
            let next = Instant::now() + jittered(self.settings.interval);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.round() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn round(&mut self) {
        let limit = self.settings.read_timeout;
        let spec = ProbeSpec {
            call_timeout: limit,
            status_timeout: None,
            round_trip: false,
            key_check: None,
            make_key_check: false,
        };
        let probes = self.settings.sockets.iter().map(|socket| async move {
            // Connecting and Status have a deadline each. This one limits both together.
            let report = tokio::time::timeout(limit, probe(socket.path(), &spec)).await;
            (socket.key_id(), report.ok())
        });
        let mut entries = Vec::new();
        for (key_id, report) in join_all(probes).await {
            let known = self.known.get(key_id).map(String::as_str);
            let entry = entry::of(report.as_ref(), known, limit);
            if let Some(id) = &entry.answered {
                self.known.insert(key_id.to_owned(), id.clone());
            }
            entries.push(entry.to_json(&self.settings.node_name, key_id));
        }
        let written = self.write(&entries).await;
        let error = written.err();
        if error != self.logged {
            match &error {
                Some(error) => tracing::warn!("{error}"),
                None => tracing::info!("health reports are written again"),
            }
            self.logged = error;
        }
    }

    /// Writes all reports in one server-side apply, which also removes earlier reports that are not among
    /// them.
    async fn write(&self, entries: &[Value]) -> Result<(), String> {
        // Nests the object from the inside out, along the path of the component's encryption status.
        let fields = self.settings.component.status.split('/').filter(|field| !field.is_empty()).rev();
        let status = fields.fold(json!({"healthReports": entries}), |inner, field| json!({field: inner}));
        let mut object = json!({
            "apiVersion": self.resource.api_version, "kind": self.resource.kind,
            "metadata": {"name": keyward_core::names::CLUSTER},
        });
        if let (Some(object), Some(status)) = (object.as_object_mut(), status.as_object()) {
            object.extend(status.clone());
        }
        let params = PatchParams::apply(&self.manager).force();
        let patch = Patch::Apply(&object);
        let what = format!("the status of {} {}", self.resource.kind, keyward_core::names::CLUSTER);
        let call = self.api.patch_status(keyward_core::names::CLUSTER, &params, &patch);
        match tokio::time::timeout(self.settings.write_timeout, call).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Err(format!(
                "{what} cannot be written: the API server has no such object. Health reports are stored on OpenShift only; on other platforms the node agent reports"
            )),
            Ok(Err(error)) => Err(format!("{what} cannot be written: {error}")),
            Err(_) => Err(format!("{what} was not written within {:?}", self.settings.write_timeout)),
        }
    }
}
