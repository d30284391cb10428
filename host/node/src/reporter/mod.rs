//! The health reporter: a sidecar of an API server on OpenShift that asks every KMS plugin beside it how it is, and
//! publishes all the answers at once in the operator's CR (CONTRACT 3.8, 3.10).
//!
//! What lives here: the loop and its write; what an answer becomes in [`entry`]. It asks for Status and nothing else:
//! what goes deeper is the node agent's, which knows key checks. Unlike upstream's, what it writes always satisfies the
//! CRD (CONTRACT 5, defect 2), so that bad news arrive, and no plugin hides the others' reports.

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

/// What the command line decides.
#[derive(Clone, Debug)]
pub struct ReporterSettings {
    /// The plugins, each once.
    pub sockets: Vec<KmsSocket>,
    /// From the beginning of one round to the next; up to a tenth is added.
    pub interval: Duration,
    /// Limit of asking one plugin.
    pub read_timeout: Duration,
    /// Limit of the write.
    pub write_timeout: Duration,
    /// In whose name it is reported.
    pub node_name: String,
    /// Where to.
    pub component: &'static Component,
}

/// One node's reporter for one API server.
pub struct Reporter {
    settings: ReporterSettings,
    api: Api<DynamicObject>,
    resource: ApiResource,
    manager: String,
    /// What each plugin last called its KEK.
    known: BTreeMap<String, String>,
    /// What was said last of the write: it is said once.
    said: Option<String>,
}

/// Kinds of OpenShift's operators: `KubeAPIServer` is `kubeapiservers`.
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
    /// Nothing is asked yet.
    pub fn new(settings: ReporterSettings, client: Client) -> Self {
        let resource = resource(settings.component);
        Self {
            api: Api::all_with(client, &resource),
            resource,
            // One a node: each owns its own node's entries, and no other's.
            manager: format!("kms-health-reporter-{}", hex(&Sha256::digest(&settings.node_name))),
            known: BTreeMap::new(),
            said: None,
            settings,
        }
    }

    /// Rounds until it is told to stop. A round that could not be written is lost: the next one tells what is then.
    pub async fn run(mut self, stop: CancellationToken) {
        tracing::info!(
            node = self.settings.node_name,
            plugins = self.settings.sockets.len(),
            "reporting begins"
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
        let asked = self.settings.sockets.iter().map(|socket| async move {
            // Connecting and asking have a deadline each; together they are to have no more.
            let report = tokio::time::timeout(limit, probe(socket.path(), &spec)).await;
            (socket.key_id(), report.ok())
        });
        let mut entries = Vec::new();
        for (key_id, report) in join_all(asked).await {
            let known = self.known.get(key_id).map(String::as_str);
            let entry = entry::of(report.as_ref(), known, limit);
            if let Some(id) = &entry.learnt {
                self.known.insert(key_id.to_owned(), id.clone());
            }
            entries.push(entry.to_json(&self.settings.node_name, key_id));
        }
        let written = self.write(&entries).await;
        let news = written.err();
        if news != self.said {
            match &news {
                Some(error) => tracing::warn!("{error}"),
                None => tracing::info!("reports are written"),
            }
            self.said = news;
        }
    }

    /// All entries in one server-side apply: what is not among them any more is removed by it.
    async fn write(&self, entries: &[Value]) -> Result<(), String> {
        // From the inside out: the path is that of the component's encryption status.
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
                "{what} cannot be written: the API server has no such object. Reports have a place on OpenShift alone; elsewhere the node agent reports"
            )),
            Ok(Err(error)) => Err(format!("{what} cannot be written: {error}")),
            Err(_) => Err(format!("{what} was not written within {:?}", self.settings.write_timeout)),
        }
    }
}
