//! The life of an operator: probes, CRDs that are installed later, standby, a clean stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::Role;
use keyward_core::api::{ClusterEncryption, EncryptionNode};
use keyward_core::names;
use keyward_core::provider::{
    Descriptor, Diagnosis, Evaluation, EvaluationRequest, Evaluator, Failure, ProviderError,
};
use keyward_operator::{Error, Operator, Settings};
use keyward_test_cluster::{Cluster, Seen, wait_until};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::setup::{self, PATIENCE};

/// A complete line of the metrics, because the help text of this metric also begins with a 1.
const LEADS: &str = "\nkeyward_operator_lease_held 1\n";
const STANDS_BY: &str = "\nkeyward_operator_lease_held 0\n";

/// An evaluator without provider modules; its `evaluate` panics.
struct NoProviders;

impl Evaluator for NoProviders {
    fn descriptors(&self) -> Vec<Descriptor> {
        Vec::new()
    }

    fn degraded(&self) -> Vec<ProviderError> {
        Vec::new()
    }

    #[allow(clippy::panic)] // the test needs the panic
    fn evaluate(&self, _: &EvaluationRequest) -> Result<Evaluation, ProviderError> {
        panic!("a panic in the host must not stop the operator")
    }

    fn diagnose(&self, _: &EvaluationRequest, _: &Failure) -> Result<Option<Diagnosis>, ProviderError> {
        Ok(None)
    }
}

struct Running {
    address: std::net::SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

async fn start(cluster: &Cluster, identity: &str) -> Result<Running> {
    let settings = Settings {
        listen: "127.0.0.1:0".parse()?,
        identity: identity.to_owned(),
        lease_duration: Duration::from_secs(4),
        ..Settings::default()
    };
    let client = setup::operator_client(cluster).await?;
    let operator = Operator::bind(client, Arc::new(NoProviders), settings).await?;
    let (address, stop) = (operator.address(), CancellationToken::new());
    let task = tokio::spawn(operator.run(stop.clone()));
    Ok(Running { address, stop, task })
}

impl Running {
    /// The status line and body of a response.
    async fn get(&self, path: &str) -> Result<String> {
        let mut connection = tokio::net::TcpStream::connect(self.address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        connection.read_to_string(&mut response).await?;
        Ok(response)
    }

    async fn answers(&self, path: &str, parts: &[&str]) -> Result<String> {
        wait_until(&format!("{path} to contain {parts:?}"), PATIENCE, async || {
            let response = self.get(path).await?;
            let all = parts.iter().all(|part| response.contains(part));
            Ok(if all { Seen::Yes(response) } else { Seen::NotYet(response) })
        })
        .await
    }
}

/// A Node without the label of control-plane nodes is reported as not labelled, and as gone only after it is
/// deleted.
async fn unlabelled(admin: &kube::Client) -> Result<()> {
    const NAME: &str = "elsewhere";
    let metadata = || ObjectMeta { name: Some(NAME.to_owned()), ..Default::default() };
    let nodes = Api::<Node>::all(admin.clone());
    nodes.create(&PostParams::default(), &Node { metadata: metadata(), ..Default::default() }).await?;
    let agents = Api::<EncryptionNode>::all(admin.clone());
    agents.create(&PostParams::default(), &EncryptionNode::new(NAME, Default::default())).await?;
    let events = Api::<Event>::all(admin.clone());
    let event_note = async |reason: &str| -> Result<Option<String>> {
        let all = events.list(&Default::default()).await?;
        let of_node = all.items.into_iter().filter(|event| event.reason.as_deref() == Some(reason));
        Ok(of_node.filter_map(|event| event.note).find(|note| note.contains(NAME)))
    };
    let until = async |reason: &str| {
        wait_until(&format!("an Event {reason}"), PATIENCE, async || {
            Ok(event_note(reason).await?.map_or_else(|| Seen::NotYet("none".to_owned()), Seen::Yes))
        })
        .await
    };
    let note = until("NodeNotLabelled").await?;
    assert!(note.ends_with("kubectl label node elsewhere node-role.kubernetes.io/control-plane="), "{note}");
    assert_eq!(event_note("NodeGone").await?, None);
    nodes.delete(NAME, &Default::default()).await?;
    // Any change starts a reconcile pass: the operator does not watch Nodes without the label.
    let touched = Patch::Merge(serde_json::json!({"metadata": {"annotations": {"touched": "true"}}}));
    agents.patch(NAME, &PatchParams::default(), &touched).await?;
    let note = until("NodeGone").await?;
    assert!(note.contains("kubectl delete encryptionnode elsewhere"), "{note}");
    agents.delete(NAME, &Default::default()).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_waits_for_its_crds_decides_and_stops_cleanly() -> Result<()> {
    let (cluster, admin) = setup::cluster(false).await?;
    let first = start(&cluster, "first").await?;
    first.answers("/livez", &["200 OK"]).await?;
    first.answers("/readyz", &["503", "keyward crds | kubectl apply"]).await?;

    // An API server with older CRDs would prune fields: the operator reports that, and writes no status.
    setup::older_crds(&admin, "conditions").await?;
    let clusters = Api::<ClusterEncryption>::all(admin.clone());
    let mut object = ClusterEncryption::new(names::CLUSTER, Default::default());
    object.spec.encryption.type_ = Some("identity".to_owned());
    clusters.create(&PostParams::default(), &object).await?;
    first
        .answers("/metrics", &["keyward_operator_reconcile_duration_seconds_count{result=\"invalid\"}"])
        .await?;
    assert!(clusters.get(names::CLUSTER).await?.status.is_none());

    // Once the CRDs are installed, the operator continues.
    setup::crds(&admin).await?;
    first.answers("/readyz", &["200 OK"]).await?;
    let shown = [LEADS, "keyward_operator_reconcile_duration_seconds_count{result=\"ok\"}"];
    first.answers("/metrics", &shown).await?;
    let decided = wait_until("a status", PATIENCE, async || {
        let found = clusters.get(names::CLUSTER).await?;
        let current = found.status.as_ref().map(|status| status.observed_generation);
        let seen = current == found.metadata.generation;
        Ok(if seen { Seen::Yes(found) } else { Seen::NotYet(format!("{:?}", found.status)) })
    })
    .await?;
    let conditions = decided.status.unwrap_or_default().conditions;
    let times = conditions.iter().all(|condition| condition.last_transition_time.is_some());
    assert!(!conditions.is_empty() && times, "{conditions:?}");
    let role = Api::<Role>::namespaced(admin.clone(), names::NAMESPACE).get("keyward-node-agent").await?;
    let readable = role.rules.unwrap_or_default().swap_remove(0).resource_names.unwrap_or_default();
    assert_eq!(readable, [names::PREFLIGHT_SECRET]);

    unlabelled(&admin).await?;

    // A panic in a call of a provider module is counted, and the operator keeps running.
    let encryption = serde_json::json!({"type": "KMS", "kms": {"type": "Vault", "vault": {}}});
    // Without a resourceVersion, because the operator may write the status at the same time.
    let patch = Patch::Merge(serde_json::json!({"spec": {"encryption": encryption}}));
    clusters.patch(names::CLUSTER, &PatchParams::default(), &patch).await?;
    first.answers("/metrics", &["keyward_operator_panics_total{where=\"provider\"}"]).await?;
    first.answers("/readyz", &["200 OK"]).await?;

    // A second operator is on standby, and leads as soon as the first has stopped.
    let second = start(&cluster, "second").await?;
    second.answers("/readyz", &["200 OK"]).await?;
    second.answers("/metrics", &[STANDS_BY]).await?;
    first.stop.cancel();
    tokio::time::timeout(PATIENCE, first.task).await.context("it does not stop")???;
    second.answers("/metrics", &[LEADS]).await?;
    let leases = Api::<Lease>::namespaced(admin.clone(), names::NAMESPACE);
    let holder = leases.get(names::LEASE).await?.spec.and_then(|spec| spec.holder_identity);
    assert_eq!(holder.as_deref(), Some("second"));
    second.stop.cancel();
    second.task.await??;
    Ok(())
}
